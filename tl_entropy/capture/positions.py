"""Positions of documents: what may name them, which tokens they mean, and edits that are made at them.

A position is the index of a token in its document, from 0, the BOS not counted; a negative one is from the document's end. So
it means the same token in any window, batch and padding. One that a document does not have means nothing in it.

Refused: bools and masks, floats, and an empty sequence.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError

Positions = int | Iterable[int] | slice | None


def checked_positions(positions: Positions) -> slice | tuple[int, ...] | None:
    """Check ``positions``, and make one position a sequence of one.

    Raises:
        InputError: an empty sequence.
        InputTypeError: neither None, an int, ints nor a slice of ints.

    >>> checked_positions(-1), checked_positions([4, 2])
    ((-1,), (4, 2))
    """
    if positions is None:
        return None
    plain = positions.tolist() if isinstance(positions, (Tensor, np.ndarray)) else positions
    some = plain if isinstance(plain, (Iterable, slice)) else (plain,)
    try:
        if isinstance(some, slice):
            some.indices(1)
            return some
        chosen = list(some)
        if any(isinstance(position, bool) for position in chosen):
            raise TypeError("a bool is no position, nor is a mask")
        indices = tuple(map(operator.index, chosen))
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"positions must be None, an int, some ints or a slice; got {positions!r}: {error}") from error
    if not indices:
        raise InputError("positions must name at least one position; got none; pass None for all")
    return indices


def at_positions(positions: slice | tuple[int, ...] | None, position: Tensor, length: int) -> Tensor:
    """Which cells [...] bool the checked ``positions`` mean, in a document of ``length`` tokens.

    Args:
        positions: what ``checked_positions`` returned; None is all.
        position: [...], each cell's position in the document; negative where it has none (BOS, padding), which nothing means.
        length: tokens of the document, the BOS not counted.

    >>> at_positions((0, -1, 7), torch.tensor([-1, 0, 1, 2]), 3).tolist()
    [False, True, False, True]
    """
    if positions is None:
        return position >= 0
    if isinstance(positions, slice):
        meant = range(*positions.indices(length))
        meant = meant if meant.step > 0 else meant[::-1]
        return (position >= meant.start) & (position < meant.stop) & ((position - meant.start) % meant.step == 0)
    inside = [index % length for index in positions if -length <= index < length]
    return torch.isin(position, torch.tensor(inside, dtype=torch.long, device=position.device))


def shown_positions(positions: slice | tuple[int, ...] | None) -> str:
    """Checked positions as a reader writes them.

    >>> shown_positions((4, -1)), shown_positions(slice(-3, None)), shown_positions(slice(0, 9, 2)), shown_positions(None)
    ('4, -1', '-3:', '0:9:2', 'all positions')
    """
    if positions is None:
        return "all positions"
    if isinstance(positions, slice):
        ends = ["" if end is None else str(operator.index(end)) for end in (positions.start, positions.stop)]
        return ":".join(ends if positions.step is None else [*ends, str(operator.index(positions.step))])
    return ", ".join(map(str, positions))


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

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """Refuse to run without a batch of documents."""
        raise InputError(
            f"interventions: positions {shown_positions(self.positions)} are of documents, and nothing says here which column "
            "is which position; pass the intervention to a function of tl_entropy, as interventions=..."
        )
