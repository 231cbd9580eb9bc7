"""What is measured of random groups of rows (``functional/information/chance.py``), as curves in the number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ChanceCurve:
    """r(n) and c(n) of one unit.

    r is how much of the ceiling n random rows keep, as a factor on (1/n - 1/N) / (1 - 1/N): ``sizes`` [size] and ``factor``
    [size] are measured; between them r is linear in log n, beyond them in 1/n up to ``limit``. c is measured at ``c_sizes``, is
    linear in log n between them, and beyond them nears 1 like 1/n; without any size it is 1. ``dtype`` is one in which
    divergences of the unit's states stand out from rounding.
    """

    sizes: Tensor
    factor: Tensor
    limit: float
    c_sizes: Tensor
    c: Tensor
    dtype: torch.dtype = torch.float64

    def __call__(self, n: Tensor) -> Tensor:
        """The factor r of each number of rows ``n`` (any shape, at least 1), float64."""
        return factors([self], n)[0]

    def correction(self, n: Tensor) -> Tensor:
        """The factor c of each number of rows ``n`` (any shape, at least 2), float64."""
        return corrections([self], n)[0]


def factors(curves: Sequence[ChanceCurve], n: Tensor) -> Tensor:
    """The factor r of each curve and number of rows ``n`` (any shape, at least 1) as [curve, ...], float64."""
    return _curves_at(n, [(curve.sizes, curve.factor, curve.limit) for curve in curves])


def corrections(curves: Sequence[ChanceCurve], n: Tensor) -> Tensor:
    """The factor c of each curve and number of rows ``n`` (any shape, at least 2) as [curve, ...], float64."""
    return _curves_at(n, [(curve.c_sizes, curve.c, 1.0) for curve in curves])


def _curves_at(n: Tensor, curves: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Curves known at sizes: linear in log n between these, tending to a limit like 1/n beyond them; 1 without any."""
    sizes = curves[0][0]
    if not all(of is sizes or torch.equal(of, sizes) for of, *_ in curves):
        return torch.cat([_curves_at(n, [curve]) for curve in curves])
    n = n.double()
    if not len(sizes):
        return torch.ones_like(n).expand(len(curves), *n.shape)
    sizes, values = sizes.to(n), torch.stack([of for _, of, _ in curves]).to(n)
    limits = values.new_tensor([limit for *_, limit in curves]).view(-1, *[1] * n.ndim)
    known, place, last = sizes.log(), n.log(), values[:, -1].view_as(limits)
    inside = last
    if len(known) > 1:
        right = torch.searchsorted(known, place).clamp(1, len(known) - 1)
        step = (place - known[right - 1]) / (known[right] - known[right - 1])
        inside = torch.lerp(values[:, right - 1], values[:, right], step)
    return torch.where(n > sizes[-1], limits + (last - limits) * sizes[-1] / n, inside)
