r"""Ridge regression from sums: where the training of a translator starts.

Of all y = x + A x + b, the one that minimises Σ w·‖t - y‖² + ridge·Σ_j v_j·‖A_j‖² over rows x with targets t, where A_j is A's
column j and v_j the (weighted) variance of x_j: what does not pay is left as it is, whatever the units of each dimension.
Rows weigh w = 1 / ‖t‖², since the final norm takes sizes away and a few huge rows would outvote all others. The sums are those
of the normal equations with a constant appended to x, less the first rows' mean, so that little is lost where means are large.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-2
"""Share of a dimension's own variance; the error of the fit to n rows is of the order of d_model / n."""


class Regression:
    """Sums over rows of one site, and the translator that they give.

    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(500, 2, generator=draw)
    >>> fit = Regression()
    >>> fit.update(x, x + 2 * x.flip(1) + 3)
    >>> weights, biases = fit.solve()
    >>> weights.round(decimals=1).abs().tolist(), biases.round(decimals=1).tolist()
    ([[0.0, 2.0], [2.0, 0.0]], [3.0, 3.0])
    """

    def __init__(self) -> None:
        self._shift: Tensor | None = None

    def update(self, rows: Tensor, targets: Tensor) -> None:
        """Add ``rows`` [rows, d_model] and what each should become, ``targets`` [rows, d_model]."""
        if self._shift is None:
            self._shift = rows.mean(0)
            width = rows.shape[1]
            self._inner, self._outer = rows.new_zeros(width + 1, width + 1), rows.new_zeros(width, width + 1)
        x = torch.cat([rows - self._shift, rows.new_ones(len(rows), 1)], 1)
        sizes = targets.square().sum(1, keepdim=True)
        weights = torch.where(sizes > 0, 1 / sizes, 0.0)
        self._inner += x.T @ (weights * x)
        self._outer += (weights * (targets - rows)).T @ x

    def solve(self) -> tuple[Tensor, Tensor]:
        """A [d_model, d_model] and b [d_model] of the rows seen, on the CPU in float64."""
        inner, outer, shift = (value.cpu().double() for value in (self._inner, self._outer, self._shift) if value is not None)
        variance = (inner.diagonal() - inner[-1].square() / inner[-1, -1]).clamp(min=0)  # 0 for the constant, which is free
        # All but the first are for dimensions that never move; where none does, what is seen is the rounding of their mean.
        rounding = inner[-1, -1] * (8 * torch.finfo(self._inner.dtype).eps * shift).square()
        penalty = RIDGE * variance + 1e-9 * variance.mean() + torch.finfo(torch.float64).tiny
        penalty[:-1] += rounding
        penalty[-1] = 0
        found = torch.linalg.solve(inner + penalty.diag(), outer.T).T
        return found[:, :-1], found[:, -1] - found[:, :-1] @ shift
