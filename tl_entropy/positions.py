"""Positions of documents: what may name them, and which tokens they mean.

A position is the index of a token in its document, from 0, the BOS not counted; a negative one is from the document's end. So
it means the same token in any window, batch and padding. One that a document does not have means nothing in it.

Refused: bools and masks, floats, and an empty sequence.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, SupportsInt

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError

Positions = SupportsInt | Iterable[int] | slice | None


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
    plain: Any = positions.tolist() if isinstance(positions, (Tensor, np.ndarray)) else positions
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
