"""What results with values of single tokens have in common: each row speaks of one token of a text, and knows where it stands.

Here a row's ``token`` and ``position`` are those of the token *spoken of*, as the model predicted it from what came before, and
not of the token read. A token's span are the characters of the document's text that it stands for, by the tokenizer's offsets
(``functional/characters.py``): spans of all tokens cover the text, and tokens of one character that is several bytes long share
it. Where the text is not known, as for token ids that no text gives, spans are -1.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, SupportsInt

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_entropy.results.base import Provenance
from tl_entropy.results.positions import Positions


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


class TokenRows(Positions):
    """Base of such results, beside ``Result``; a subclass declares these fields as its own.

    Attributes:
        document: [row], number of the text in the input.
        position: [row], index of the token in its document, from 0, BOS not counted.
        token: [row], id of the token.
        span: [row, 2], characters [start, end) of the document's text; -1 where the text is not known.
        texts: text of each document that is known.
        strings: text of every token id that occurs, decoded by itself.
        names: names of documents that have one (files).
        generated: [row], whether the model wrote the token; None where no text was generated.
        provenance: model, settings, corpus, versions.
    """

    per_row: ClassVar[tuple[str, ...]] = ("document", "position", "token", "span", "generated")
    """Names of the fields with one entry for each row; a subclass adds its own."""

    span: Int[Tensor, "row 2"]
    texts: Mapping[int, str]
    generated: Bool[Tensor, "row"] | None
    provenance: Provenance

    @abstractmethod
    def columns(self) -> dict[str, Column]:
        """Every quantity of the tokens, by name."""

    def select(
        self,
        *,
        documents: SupportsInt | Iterable[int] | None = None,
        positions: SupportsInt | slice | Iterable[int] | None = None,
    ) -> Self:
        """The part of the result of these documents and positions; a slice may count from the end of each document.

        Raises:
            InputError: something asked for is not in the result; the message lists what is.
        """
        rows = self.rows(documents, positions)
        changed: dict[str, Any] = {}
        for name in self.per_row:
            value = getattr(self, name)
            changed[name] = None if value is None else value[rows]
        kept = set(changed["document"].tolist())
        changed["texts"] = {document: text for document, text in self.texts.items() if document in kept}
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]

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


def no_spans(rows: int) -> Tensor:
    """The spans of tokens whose text is not known."""
    return torch.full((rows, 2), -1, dtype=torch.long)
