"""What results with values of single tokens have in common: each row speaks of one token of a text, and knows where it stands.

Here a row's ``token`` and ``position`` are those of the token *spoken of*, as the model predicted it from what came before, and
not of the token read. A token's span are the characters of the document's text that it stands for, by the tokenizer's offsets
(``functional/tokens/characters.py``): spans of all tokens cover the text, and tokens of one character that is several bytes
long share it. Where the text is not known, as for token ids that no text gives, spans are -1.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, SupportsInt

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results.base import Unit, fields_at
from tl_entropy.results.positions import Positions, by_document
from tl_entropy.results.provenance import Provenance


class Column(NamedTuple):
    """One quantity of every token.

    Attributes:
        values: [row]; NaN where there is no value.
        unit: "nats", "bits", ..., or "" for a number without a unit.
        about: one line on what it means, for people who look at a text.
    """

    values: Tensor
    unit: str
    about: str


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TokenRows(Positions):
    """Base of such results, beside ``Result``, with the fields that all of them have.

    Attributes:
        document: [row], number of the text in the input.
        position: [row], index of the token in its document, from 0, BOS not counted.
        token: [row], id of the token.
        span: [row, 2], characters [start, end) of the document's text; -1 where the text is not known.
        texts: text of each document that is known.
        lengths: number of tokens of each document read, whether they have a row or not.
        strings: text of every token id that occurs, decoded by itself.
        names: names of documents that have one (files).
        generated: [row], whether the model wrote the token; None where no text was generated.
        unit: "nats" or "bits".
        provenance: model, settings, corpus, versions.
    """

    document: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    token: Int[Tensor, "row"]
    span: Int[Tensor, "row 2"]
    strings: Mapping[int, str]
    provenance: Provenance
    texts: Mapping[int, str] = dataclasses.field(default_factory=dict)
    lengths: Mapping[int, int] = dataclasses.field(default_factory=dict)
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    generated: Bool[Tensor, "row"] | None = None
    unit: Unit = "nats"

    @abstractmethod
    def columns(self) -> dict[str, Column]:
        """Every quantity of the tokens, by name."""

    def _per_row(self) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        there = self.columns()
        return torch.stack([column.values.double() for column in there.values()], 1), {"quantity": list(there)}

    def select(
        self,
        *,
        documents: SupportsInt | Iterable[int] | None = None,
        positions: SupportsInt | slice | Iterable[int] | None = None,
    ) -> Self:
        """The part of the result of these documents and positions; negative ones from each document's end.

        Raises:
            InputError: something asked for is not in the result; the message lists what is.
        """
        changed: dict[str, Any] = fields_at(self, row=self.rows(documents, positions))
        kept = set(changed["document"].tolist())
        for name in ("texts", "lengths"):
            changed[name] = {document: value for document, value in getattr(self, name).items() if document in kept}
        return dataclasses.replace(self, **changed)

    def cut_off(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of the rows [row] of one document, which follow a token that has no row, and which one follows: [row] bool each."""
        position = self.position[rows]
        gap = position[1:] > position[:-1] + 1
        length = self.lengths.get(int(self.document[rows[0]]), math.inf)
        return torch.cat([position[:1] > 0, gap]), torch.cat([gap, position[-1:] + 1 < length])

    def to_pandas(self) -> pd.DataFrame:
        """One line for each token: document, position, start and end in the text, token, and every quantity."""
        frame = pd.DataFrame(
            {
                "document": self.document.numpy(),
                "position": self.position.numpy(),
                "start": self.span[:, 0].numpy(),
                "end": self.span[:, 1].numpy(),
                "token": pd.Series(self.tokens(), dtype=object),
            }
        )
        for name, column in self.columns().items():
            frame[name] = column.values.numpy()
        if self.generated is not None:
            frame["generated"] = self.generated.numpy()
        return frame

    def words(self, pattern: str = r"\w+") -> pd.DataFrame:
        """Which word each token is a part of, by the text: a line a row, with columns word, part (from 0) and parts.

        A word is a match of ``pattern``. A token with characters of no word, or of several, has the word "" and part -1; so
        have the tokens of a word of which some are not in the result.

        Raises:
            InputError: a document's text is not known, or a pattern that is no regular expression.
        """
        unknown = [document for document in self.documents if document not in self.texts]
        if unknown:
            raise InputError(f"words need the documents' texts, which are not known of {', '.join(map(str, unknown[:5]))}")
        if not isinstance(pattern, str):
            raise InputTypeError(f"pattern must be a regular expression in a str; got {pattern!r}")
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise InputError(f"pattern must be a regular expression; got {pattern!r}: {error}") from error
        found: list[tuple[str, int, int]] = [("", -1, 0)] * self.n_tokens
        places = by_document(self.document)
        for document in self.documents:
            text, rows = self.texts[document], torch.arange(self.n_tokens)[places[document]]
            members: dict[int, list[int]] = {}
            matches = [match.span() for match in compiled.finditer(text) if match.end() > match.start()]
            starts, ends = [start for start, _ in matches], [end for _, end in matches]
            for row, (start, end) in zip(rows.tolist(), self.span[rows].tolist(), strict=True):
                word = bisect_right(ends, start)
                if word < bisect_left(starts, end) and word + 1 >= bisect_left(starts, end):
                    members.setdefault(word, []).append(row)
            before, after = self.cut_off(rows)
            for word, parts in members.items():
                start, end = int(self.span[parts[0], 0]), int(self.span[parts[-1], 1])
                whole = start <= starts[word] and end >= ends[word] and parts[-1] - parts[0] == len(parts) - 1
                whole &= int(self.position[parts[-1]] - self.position[parts[0]]) == len(parts) - 1
                # A token that is not in the result may have a share in a character of several bytes.
                whole &= start < starts[word] or not bool(before[parts[0] - rows[0]]) or text[start].isascii()
                whole &= end > ends[word] or not bool(after[parts[-1] - rows[0]]) or text[end - 1].isascii()
                if whole:
                    for part, row in enumerate(parts):
                        found[row] = (text[starts[word] : ends[word]], part, len(parts))
        return pd.DataFrame(found, columns=["word", "part", "parts"])


def no_spans(rows: int) -> Tensor:
    """The spans of tokens whose text is not known."""
    return torch.full((rows, 2), -1, dtype=torch.long)
