"""Rows of tokens predicted: which token each is of, where in its text it stands, how many bytes and characters it is.

A position that is counted reads a token and predicts the next one; its row here is about that next one. The pass that gathers
them therefore counts "predicted" tokens (``stream``), so that a BOS predicts a document's first token. Given a pass that counts
the tokens read, a row is about the token after each of them, and a document's first token has none.

Of a model whose predictions at a position are of the token there, a row is about that token.

Where it is asked whether words begin, the pass counts what is "around" tokens: a row without a token, behind a document's last
one, says whether a word begins there, and is left out of the result.

A document that came as token ids has the text that they decode to where the tokenizer splits that text into the same ids;
otherwise, and where nothing says where in the text its tokens are (``analyses/placing.py``), its text is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tl_entropy.analyses.placing import Placed, placed
from tl_entropy.analyses.rows import Rows
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.results.positions import by_document
from tl_entropy.results.tokens.rows import no_spans


class PredictedRows(Rows):
    """``Rows`` about the token after each position counted; those with none after them are left out.

    Args:
        adapter: of the model.
        empty: as for ``Rows``.
    """

    bound = ("_adapter", "_given", "_found")

    def __init__(self, adapter: Adapter, empty: Mapping[str, Tensor]) -> None:
        super().__init__(empty)
        self._adapter = adapter
        self._found: dict[int, Placed | None] = {}  # of each document, once it was looked for
        self._lengths: dict[int, int] = {}
        self._given: dict[int, str | Tensor] = {}  # the text or, where none came, the ids

    def places(self, batch: Batch) -> dict[str, Tensor]:
        """Where the tokens predicted are: document, position and token of each row."""
        position = batch.row_position + (self._adapter.predicts == "next")
        return {"document": batch.row_document, "position": position, "token": batch.row_target}

    def update(self, batch: Batch, values: Mapping[str, Tensor]) -> None:
        """Take in a batch: ``values`` [row, ...] by name, with a row for each position counted."""
        super().update(batch, values)
        documents = batch.document.tolist()
        self._lengths |= dict(zip(documents, batch.lengths, strict=True))
        came = zip(documents, batch.texts, batch.bodies, strict=True)
        self._given |= {document: body if text is None else text for document, text, body in came}

    def merge(self, other: Rows, *, placed: bool = False) -> None:
        """Take in another's rows; its documents are numbered on from this one's, unless both use numbers of one corpus."""
        first = 0 if placed else self._documents
        super().merge(other, placed=placed)
        if isinstance(other, PredictedRows):
            self._found |= {document + first: found for document, found in other._found.items()}
            self._lengths |= {document + first: length for document, length in other._lengths.items()}
            self._given |= {document + first: given for document, given in other._given.items()}

    def state_dict(self) -> dict[str, Any]:
        """The rows, and where in its text each token of a document is, in columns of all documents."""
        documents = sorted(self._given)
        places = [self._place(document) for document in documents]
        known = [place for place in places if place is not None]
        joined = {
            name: torch.cat([getattr(place, name) for place in known]) if known else torch.zeros(0)
            for name in ("tokens", "span", "n_bytes", "n_characters")
        }
        texts = [None if place is None else place.text for place in places]
        return {**super().state_dict(), "_places": {"documents": documents, "texts": texts, **joined}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state in place of what was seen here."""
        super().load_state_dict({name: value for name, value in state.items() if name != "_places"})
        of, first = state["_places"], 0
        self._found, self._given = {}, {}
        for document, text in zip(of["documents"], of["texts"], strict=True):
            here = slice(first, first + self._lengths[document])
            first = first if text is None else here.stop
            columns = [of[name][here].clone() for name in ("tokens", "span", "n_bytes", "n_characters")]
            self._found[document] = None if text is None else Placed(text, *columns)
            self._given[document] = text or ""

    def _place(self, document: int) -> Placed | None:
        """Where in its text each token of a document is; None where that is not known."""
        if document not in self._found:
            given = self._given[document]
            text = given if isinstance(given, str) else self._adapter.text(given.tolist())
            self._found[document] = None if text is None else placed(self._adapter, text, self._lengths[document])
        return self._found[document]

    def whole(self) -> dict[str, Any]:
        """All rows, by document and position, with ``span``, ``n_bytes``, ``n_characters``, ``texts`` and ``lengths``."""
        whole = super().whole()
        if "word_begin" in whole:
            whole["word_end"] = _after(whole)
        predicted = whole["token"] >= 0
        whole = {name: value[predicted] for name, value in whole.items()}
        rows = len(whole["token"])
        span, sizes = no_spans(rows), torch.full((2, rows), torch.nan, dtype=torch.float64)
        texts: dict[int, str] = {}
        places = by_document(whole["document"])
        for document in sorted(self._given):
            found = self._place(document)
            here = places.get(document, slice(0))
            position = whole["position"][here]
            if found is None or not torch.equal(found.tokens[position], whole["token"][here]):
                continue
            texts[document] = found.text
            span[here], sizes[0, here], sizes[1, here] = (
                part[position] for part in (found.span, found.n_bytes, found.n_characters)
            )
        sized = {"span": span, "n_bytes": sizes[0], "n_characters": sizes[1]}
        return {**whole, **sized, "texts": texts, "lengths": dict(self._lengths)}

    def pop(self, documents: Iterable[int]) -> dict[str, Any]:
        """The rows of these documents, as ``whole`` gives them, which are then forgotten here."""
        chosen = frozenset(documents)
        numbers = torch.tensor(sorted(chosen), dtype=torch.long)
        parts, lengths, given = self._parts, self._lengths, self._given

        def only(wanted: bool) -> None:
            self._parts = [_cells(part, torch.isin(part["document"], numbers) == wanted) for part in parts]
            self._lengths = {document: length for document, length in lengths.items() if (document in chosen) == wanted}
            self._given = {document: came for document, came in given.items() if (document in chosen) == wanted}

        only(True)
        whole, gone = self.whole(), self._parts
        only(False)
        self._found = {document: found for document, found in self._found.items() if document not in chosen}
        self._parts = [self._parts[0], *(part for part in self._parts[1:] if len(part["token"]))]
        self.names = {document: name for document, name in self.names.items() if document not in chosen}
        self.nbytes -= sum(value.nbytes for part in gone for value in part.values())
        return whole


def _after(whole: Mapping[str, Tensor]) -> Tensor:
    """What ``word_begin`` is of the token after each row's; NaN where that was not read."""
    after, document, position = (whole[name].roll(-1, 0) for name in ("word_begin", "document", "position"))
    next_to_it = (document == whole["document"]) & (position == whole["position"] + 1)
    return after.masked_fill(~next_to_it[:, None], torch.nan)


def _cells(part: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    return {name: value[chosen] for name, value in part.items()}
