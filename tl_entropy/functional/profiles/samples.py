"""What measures of samples share: their checks, equal bins, and the sums behind Wasserstein-1 and Jensen-Shannon.

A sample is a set of values, on the last axis. Values are numbered by bins exactly as numpy.histogram does for the same edges in
float64: a bin holds its lower edge, the last bin its upper edge too. Edges are low + k·(high - low) / n_bins with the last one
set to high, so that only the edges between decide, and a sorted sample is binned by looking them up in it.

Refused: NaN and infinity, integers, samples that are empty, shapes that do not broadcast, values outside of given limits.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_int
from tl_entropy.functional.lens.entropies import check_floating, in_double

Limits = tuple[float | Tensor, float | Tensor]

# Added on both sides of pooled values, so that equal values still span a range and none is on the outermost edges.
_MARGIN = 1e-6


def check_values(name: str, values: Tensor, *, axis: str = "value", least: int = 1) -> Tensor:
    """Return ``values`` [..., axis] in float64, or refuse them: the last axis must hold at least ``least``, all finite."""
    check_floating(name, values)
    if values.dim() == 0 or values.shape[-1] < least:
        raise InputError(f"{name} must hold at least {least} {axis}(s) on its last axis; got the shape {list(values.shape)}")
    finite = values.isfinite()
    if not finite.all():
        place = (~finite).nonzero()[0].tolist()
        raise NonFiniteError(
            f"{name} must be finite; got {values[tuple(place)].item()} at {place}: leave such tokens out, or look where they "
            "come from"
        )
    return in_double(values.detach())


def leading_shape(a: Tensor, b: Tensor, names: str = "a and b") -> torch.Size:
    """Return the shape that the leading axes of ``a`` and ``b`` broadcast to, or refuse them."""
    try:
        shape: torch.Size = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    except RuntimeError:
        raise InputError(
            f"{names} must have leading axes that broadcast; got {list(a.shape[:-1])} and {list(b.shape[:-1])}: unsqueeze or "
            "transpose one"
        ) from None
    return shape


def pooled_limits(least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outer edges of bins for samples whose least and largest pooled values are these: 1e-6 beyond them."""
    return least - _MARGIN, most + _MARGIN


def inner_edges(low: Tensor, high: Tensor, n_bins: int) -> Tensor:
    """Return the edges [..., n_bins - 1] between equal bins from ``low`` to ``high`` [...], rounded as by numpy.linspace."""
    step = (high - low) / n_bins
    return torch.arange(1, n_bins, dtype=torch.float64, device=low.device) * step.unsqueeze(-1) + low.unsqueeze(-1)


def histogram_inputs(a: Tensor, b: Tensor, n_bins: int, limits: Limits | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return both samples [..., n] and [..., m] in float64, expanded to one leading shape, and the edges between their bins."""
    a, b, n_bins = check_values("a", a), check_values("b", b), check_int("n_bins", n_bins, 1)
    lead = leading_shape(a, b)
    least, most = a.amin(-1).minimum(b.amin(-1)), a.amax(-1).maximum(b.amax(-1))
    low, high = pooled_limits(least, most) if limits is None else _check_limits(limits, least, most)
    edges = inner_edges(low, high, n_bins).expand(*lead, n_bins - 1).contiguous()
    return a.expand(*lead, -1), b.expand(*lead, -1), edges


def _check_limits(limits: Limits, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    if not (isinstance(limits, tuple | list) and len(limits) == 2 and all(isinstance(x, Real | Tensor) for x in limits)):
        raise InputTypeError(f"limits must be a pair (low, high) of floats or tensors; got {limits!r}")
    low, high = (torch.as_tensor(limit, dtype=torch.float64, device=least.device) for limit in limits)
    try:
        low, high = low.expand(least.shape), high.expand(least.shape)
    except RuntimeError:
        raise InputError(
            f"limits must broadcast to the leading axes {list(least.shape)} of the samples; got the shapes {list(low.shape)} "
            f"and {list(high.shape)}"
        ) from None
    if not ((low < high) & (high - low < math.inf)).all():
        raise InputError("limits must be finite, with low below high: bins between them have a width")
    outside = (least < low) | (most > high)
    if outside.any():
        place = tuple(outside.nonzero()[0].tolist())
        raise InputError(
            f"limits must hold all values; got values from {least[place].item():g} to {most[place].item():g} for limits from "
            f"{low[place].item():g} to {high[place].item():g}: widen them"
        )
    return low, high


def bin_numbers(values: Tensor, edges: Tensor) -> Tensor:
    """Return the bin [..., n] of each value, from 0; ``edges`` [..., n_bins - 1] are those between the bins."""
    return torch.searchsorted(edges, values.contiguous(), right=True)


def bin_counts(bins: Tensor, n_bins: int) -> Tensor:
    """Return how many values [..., n_bins] each bin has (int64), from their ``bin_numbers`` [..., n]."""
    counts = bins.new_zeros(*bins.shape[:-1], n_bins)
    return counts.scatter_add_(-1, bins, torch.ones_like(bins))


def jsd_terms(p: Tensor, q: Tensor) -> Tensor:
    """Return each outcome's part of the Jensen-Shannon divergence in nats: ½·(p·log(2p / (p + q)) + q·log(2q / (p + q))).

    As ½·(p·log p + q·log q) - s·log s with s = (p + q) / 2: exactly 0 for p = q, and 0·log 0 is 0.

    >>> jsd_terms(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])).tolist()
    [0.0, 0.0]
    """
    s = (p + q) / 2
    return (torch.xlogy(p, p) + torch.xlogy(q, q)) / 2 - torch.xlogy(s, s)


def sorted_distance(a: Tensor, b: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Return the Wasserstein-1 distance [...] of sorted samples [..., n] and [..., m]: ∫ |Q_a(u) - Q_b(u)| du.

    Both quantile functions are constant between the levels {i / n} and {j / m}, which are counted in whole units of 1 / (n·m).
    With ``sizes`` [...] only so many values of ``b`` count, and what fills it up behind them does not.

    >>> sorted_distance(torch.tensor([0.0]), torch.tensor([1.0, 3.0])).item()
    2.0
    """
    n, m = a.shape[-1], b.shape[-1]
    if sizes is None:
        sizes = torch.tensor(m, device=a.device)
    if n == m and bool((sizes == m).all()):
        return (a - b).abs().mean(-1)
    lead, sizes = leading_shape(a, b), sizes.unsqueeze(-1)
    ours, theirs = (torch.arange(1, number + 1, device=a.device) for number in (n, m))
    levels = torch.cat([ours * sizes, (theirs * n).minimum(n * sizes)], -1).sort(-1).values
    widths = levels.diff(dim=-1, prepend=torch.zeros_like(levels[..., :1])) / (n * sizes).double()
    a = a.expand(*lead, n).gather(-1, ((levels - 1) // sizes).expand(*lead, -1))
    b = b.expand(*lead, m).gather(-1, ((levels - 1) // n).expand(*lead, -1))
    return ((a - b).abs() * widths).sum(-1)
