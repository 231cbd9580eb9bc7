"""Edits at positions of documents: they know which token a cell holds, whatever the window, batch and padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.positions import at_positions, checked_positions, shown_positions


@dataclass(frozen=True, eq=False)
class AtPositions:
    """An edit at positions of documents: stands where an ``Intervention`` or a pair has ``function(activation, hook)``.

    In a pass over documents it is called with the cells meant, whatever the window, batch and padding. Nobody knows positions
    while a text is still being written, nor in a run of one's own, and there it raises InputError.

    Attributes:
        positions: an int, ints or a slice, negative from each document's end; None is every token of a document. The BOS is
            none of them.
        edit: ``edit(activation, hook, cells)``, called by position, with cells [batch, pos] bool on the activation's device;
            returns the new value, or None to keep the old.

    Raises:
        InputError, InputTypeError: see ``checked_positions``; or an edit that cannot be called.

    >>> last = AtPositions(-1, lambda activation, hook, cells: activation.masked_fill(cells[..., None], 0.0))
    >>> last.positions
    (-1,)
    """

    positions: Any
    edit: Callable[[Tensor, Any, Tensor], Tensor | None]

    def __post_init__(self) -> None:
        if not callable(self.edit):
            raise InputTypeError(f"edit must be a function(activation, hook, cells); got {type(self.edit).__name__}")
        object.__setattr__(self, "positions", checked_positions(self.positions))

    @property
    def __name__(self) -> str:
        """What a result's provenance calls it."""
        return f"{getattr(self.edit, '__name__', type(self.edit).__name__)} at {shown_positions(self.positions)}"

    def cells(self, batch: Batch) -> Tensor:
        """The cells [batch, pos] bool that the positions mean in a batch: neither BOS nor padding."""
        rows = zip(batch.position, batch.lengths, strict=True)
        return torch.stack([at_positions(self.positions, position, length) for position, length in rows])

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """Refuse to run without a batch of documents."""
        raise InputError(
            f"interventions: positions {shown_positions(self.positions)} are of documents, and nothing says here which column "
            "is which position; pass the intervention to a function of tl_entropy, as interventions=..."
        )


@dataclass(frozen=True, eq=False)
class Noting(AtPositions):
    """The same, which notes the length of every document that passes.

    Attributes:
        lengths: tokens of each document, by its number.
    """

    lengths: dict[int, int] = field(default_factory=dict)

    def cells(self, batch: Batch) -> Tensor:
        """Those of the edit; documents of the batch are noted."""
        self.lengths.update(zip(batch.document.tolist(), batch.lengths, strict=True))
        return super().cells(batch)


@dataclass(frozen=True, eq=False)
class AtOthers(AtPositions):
    """The same at other positions: in each document as many as are meant there, drawn at random among those that are not.

    Where fewer are left, it is these. What is drawn in a document depends on ``seed`` and the document's number alone.

    >>> other = AtOthers((0, 1), lambda activation, hook, cells: None, seed=3)
    >>> other.drawn(5, 0).tolist(), len(other.drawn(3, 0)), other.possible(5)
    ([2, 3], 1, 3)
    """

    seed: int = 0

    def drawn(self, length: int, document: int) -> Tensor:
        """The positions in a document of ``length`` tokens."""
        meant, others = self._parted(length)
        generator = torch.Generator(device="cpu").manual_seed(self.seed + 2**31 * document)
        order = torch.randperm(len(others), generator=generator)
        return others[order[:meant]].sort().values

    def possible(self, length: int) -> int:
        """How many different draws there are in a document of ``length`` tokens; 0 where nothing is left to draw."""
        meant, others = self._parted(length)
        return math.comb(len(others), min(meant, len(others))) if meant and len(others) else 0

    def _parted(self, length: int) -> tuple[int, Tensor]:
        """How many positions are meant in a document of ``length`` tokens, and the others."""
        meant = at_positions(self.positions, torch.arange(length), length)
        return int(meant.sum()), (~meant).nonzero()[:, 0]

    def cells(self, batch: Batch) -> Tensor:
        """The cells [batch, pos] bool that are drawn in a batch."""
        rows = zip(batch.position, batch.lengths, batch.document.tolist(), strict=True)
        return torch.stack([torch.isin(position, self.drawn(length, document)) for position, length, document in rows])
