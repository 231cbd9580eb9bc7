"""Rows: what was found at each counted position of the batches, gathered and put in the order of the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tl_entropy.accumulators import ByNumber
from tl_entropy.batches import Batch


class Rows(ByNumber):
    """Tensors with one row for each position read, gathered batch by batch.

    Args:
        empty: name to a tensor of no rows, whose other axes and dtype are those of the rows to come.

    Attributes:
        names: names of documents that have one (files).
        nbytes: bytes of all rows.
    """

    def __init__(self, empty: Mapping[str, Tensor]) -> None:
        ids = torch.zeros(0, dtype=torch.long)
        self._parts = [{**empty, "document": ids, "position": ids, "token": ids}]
        self._documents = 0  # one more than the highest number seen
        self.names: dict[int, str] = {}
        self.nbytes = 0

    def places(self, batch: Batch) -> dict[str, Tensor]:
        """What each row is about: a document, a position in it and the token there."""
        return {"document": batch.row_document, "position": batch.row_position, "token": batch.row_token}

    def update(self, batch: Batch, values: Mapping[str, Tensor]) -> None:
        """Take in a batch: ``values`` [row, ...] by name."""
        found = {**values, **self.places(batch)}
        part = {name: value.to("cpu", self._parts[0][name].dtype) for name, value in found.items()}
        self._parts.append(part)
        self.nbytes += _size(part)
        self.names |= {int(d): name for d, name in zip(batch.document, batch.names, strict=True) if name is not None}
        self._documents = max(self._documents, int(batch.document.max()) + 1)

    def merge(self, other: Rows, *, placed: bool = False) -> None:
        """Take in another's rows; its documents are numbered on from this one's, unless both use numbers of one corpus."""
        first = 0 if placed else self._documents
        self._parts += [{**part, "document": part["document"] + first} for part in other._parts]
        self.names |= {document + first: name for document, name in other.names.items()}
        self._documents = max(self._documents, first + other._documents)
        self.nbytes += other.nbytes

    def state_dict(self) -> dict[str, Any]:
        """The rows, each column in one piece."""
        self._parts = [{name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}]
        return super().state_dict()

    @property
    def of_tokens(self) -> list[str]:
        """Names of the columns that hold token ids."""
        return [name for name in ("token", "output_token", "top_tokens") if name in self._parts[0]]

    def ids(self) -> Tensor:
        """Token ids that the rows hold, some of them several times."""
        ids = torch.cat([part[name].flatten() for part in self._parts for name in self.of_tokens])
        return ids[ids >= 0]

    def whole(self) -> dict[str, Any]:
        """All rows, by document and position."""
        whole = {key: torch.cat([part[key] for part in self._parts]) for key in self._parts[0]}
        order = torch.argsort(whole["position"], stable=True)
        order = order[torch.argsort(whole["document"][order], stable=True)]
        return {key: value[order] for key, value in whole.items()}


def _size(part: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in part.values())


def closed(batch: Batch) -> list[int]:
    """The documents that end in this batch."""
    return [int(document) for document in batch.document[batch.last]]
