r"""What the measures of states share: which rows and numbers they take, how far rows are apart, and what counts as variation.

States come in the precision of a model. Rows that a model means to be equal then differ in their last digits, by some 1e-7 of
their length in float32, and a measure that knows no scale of its own would take that for structure. ``spread_floor`` says what
a dtype cannot tell from nothing: 4 ε of the length of the rows, with ε the distance from 1 to the next number of that dtype.

Refused: what is no finite matrix of floats, and numbers that are none.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens.entropies import check_floating, in_double

# Squared distances below this share of the rows' own squares are rounding: two equal rows differ by some 1e-15 of them.
_EQUAL = 1e-13


def spread_floor(dtype: torch.dtype) -> float:
    """The share of the rows' length below which rows of this dtype don't vary: 4 ε.

    >>> spread_floor(torch.float32) == 2**-21, spread_floor(torch.bfloat16) == 2**-5
    (True, True)
    """
    return 4 * torch.finfo(dtype).eps


def varies(scatter: Tensor, n: int, mean: Tensor, floor: float) -> bool:
    """Whether rows vary, from sums over them: their spread is above ``floor`` times their length, both as root mean squares.

    Args:
        scatter: [], Σ |x - mean|².
        n: number of rows.
        mean: [d_model], of the rows.
        floor: ``spread_floor`` of the dtype in which the rows came, or more.

    >>> varies(torch.tensor(1e-12), 1, torch.ones(1), 1e-5), varies(torch.tensor(1e-8), 1, torch.ones(1), 1e-5)
    (False, True)
    """
    spread = float(scatter) / n if n else 0.0
    return spread > floor**2 * (float(mean.square().sum()) + spread)


def checked_rows(x: Any, *, name: str = "x", least: int = 1) -> Tensor:
    """``x`` in float64 and without its gradient, where it is a finite matrix of at least so many rows."""
    check_floating(name, x)
    if x.ndim != 2 or x.shape[0] < least or not x.shape[1]:
        raise InputError(f"{name} must be [row, d_model] with at least {least} row{'s' * (least > 1)}; got {list(x.shape)}")
    states = in_double(x.detach())
    bad = (~states.isfinite()).any(1).nonzero()
    if len(bad):
        raise NonFiniteError(
            f"{name} has a NaN or an infinity in row {int(bad[0])} (and {len(bad) - 1} more): look where it comes from"
        )
    return states


def check_real(name: str, value: object) -> float:
    """``value`` as a float, where it is a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(f"{name} must be a number; got {value!r}")
    return float(value)


def squared_distances(x: Tensor, floor: float = 0.0) -> Tensor:
    """Squared distances [row, row] of rows of float64: symmetric, exactly 0 between rows that are equal up to rounding.

    Args:
        x: [row, d_model].
        floor: rows nearer than this share of the longer one's length are equal, too; see ``spread_floor``.
    """
    centred = from_median(x)  # the products below lose all digits far from 0
    products = centred @ centred.mT
    norms = products.diagonal()
    sums = norms[:, None] + norms
    squares = sums - (products + products.mT)
    lengths = x.norm(dim=1)
    least = torch.maximum(_EQUAL * sums, (floor * torch.maximum(lengths[:, None], lengths)).square())
    return squares.where(squares > least, 0.0)


def from_median(x: Tensor) -> Tensor:
    """Rows [row, d_model] less the median of each component, which no single row can move far from the others."""
    return x - x.median(0).values


def document_numbers(documents: Any, rows: int) -> Tensor:
    """[row] which document each row is of, on the CPU, from what a user gave as ``documents``."""
    try:
        given = torch.as_tensor(documents).cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of what is no tensor
        raise InputTypeError(f"documents must be whole numbers; got {type(documents).__name__} ({error})") from error
    if given.is_floating_point() or given.is_complex():
        raise InputTypeError(f"documents must be whole numbers; got {given.dtype}")
    if tuple(given.shape) != (rows,):
        raise InputError(f"documents must be one whole number for each of the {rows} rows; got shape {list(given.shape)}")
    return given
