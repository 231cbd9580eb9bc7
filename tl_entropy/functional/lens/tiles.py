"""Sums over one tile of logits, and how the sums of all tiles become entropies.

With m a tile's maximum, z = l - m and e = exp(z), a tile keeps m, s = Σ e and, for each order a, one more sum:

| order | sum |
|---|---|
| 1 | Σ e·z |
| within 0.5 of 1 | Σ e·expm1((a - 1)·z) |
| 0 | count of logits above -inf |
| infinity | none: -max log p = log s |
| any other | Σ e^a |

Each tile is relative to its own maximum, so nothing is rescaled while tiles stream by: `combine` shifts them to the overall
maximum M in float64, where δ = m - M and S = Σ_t e^δ·s. Then

    H_1 = log S - Σ_t e^δ·(Σ e·z + δ·s) / S
    H_a = log S + log1p(G) / (1 - a),   G = Σ_t e^δ·(e^((a-1)δ)·Σ e·expm1((a-1)z) + expm1((a-1)δ)·s) / S    (near 1)
    H_a = (log Σ_t e^(aδ)·Σ e^a - a·log S) / (1 - a)                                                         (elsewhere)

The second line is the power sum with its leading term taken out by algebra, not by a Taylor series: it is exact for every a,
and a relative rounding ε of a tile's sums stays of the order of ε·H, however near to 1 the order is. In the third line it
becomes ε·(1 + a)/|1 - a|, at most 5·ε at the border.

Tokens are equally probable where their logits are equal, bit for bit, as they were computed. A rank counts all the others that
are at least as probable, so only a token that is the most probable alone has rank 0.

A masked logit (-inf) enters as `MASKED`, so that 0·log 0 is 0 and not NaN. A NaN or +inf comes out as NaN: callers refuse it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import natural_exp

MASKED = -3.0e38
"""What stands for -inf: finite in float32, and so low that exp(MASKED - m) is 0 beside any real logit."""

# Below it e^(a·z) with a > 0.5 is under 2e-22, nothing beside s >= 1, while both factors of e·expm1((a-1)·z) are finite.
_NEGLIGIBLE = -100.0
# The same for whole tiles in float64: e^δ is 1e-304 there, and e^(0.5·δ) 1e-152.
_NEGLIGIBLE_TILE = -700.0
# Beyond these, order·z leaves float32; the entropies are those of order 0 and infinity to the last digit.
_SMALLEST_ORDER, _LARGEST_ORDER = 1e-30, 1e30
# Orders for which products cost less than an exp; tuples of their own, since torch.compile takes numbers for unknown ones.
_HALVES = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5)
_WHOLES = (2.0, 3.0, 4.0, 5.0)
# On a processor, so many numbers for each thread pass all steps before the next ones do: they and three buffers like them, 2 MB
# in float32, stay in its cache, where most steps take a half to a third of their time.
_NEAR = 2**17

Scratch = tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]


def tile_sums(
    logits: Tensor,
    orders: tuple[float, ...],
    thresholds: Sequence[Tensor] = (),
    scratch: Scratch = (None, None, None),
    *,
    moments: bool = False,
    level: bool = False,
    shape: bool = False,
    subset: Tensor | None = None,
) -> Tensor:
    """Return the sums of one tile: its maximum, s, a sum for each order but infinity, and the count above each threshold.

    Args:
        logits: [..., width] in float32 or float64, without -inf (see `MASKED`); left as they are.
        orders: the orders of the entropies wanted.
        thresholds: [...] each, the logits whose ranks are counted: how many are at least as large, themselves included.
        scratch: three buffers like ``logits`` to work in, where the sums are made a few rows at a time; without them they are
            differentiable.
        moments: whether Σ e·z and Σ e·z² are wanted, too, before the counts.
        level: whether Σ z over the logits above -inf, and how many they are, are wanted, too, before the counts.
        shape: with ``level``, whether Σ c², Σ c³ and Σ c⁴ of them are, too, c being how far z is from its mean in the tile.
        subset: [width], 1 for each token of a subset and 0 for others: Σ e over it is wanted, too, before the moments.

    Returns:
        [sums, ...] in the dtype of the logits; counts are exact for widths below 2**24.
    """
    z_buffer, e_buffer, work = scratch
    wanted: dict[str, Any] = {"orders": orders, "moments": moments, "level": level, "shape": shape, "subset": subset}
    if z_buffer is None or e_buffer is None or work is None or logits.device.type != "cpu":
        return _sums(logits, thresholds, scratch, **wanted)
    near = max(1, _NEAR // logits.shape[-1]) * torch.get_num_threads()
    rows = logits.flatten(0, -2).split(near)
    buffers = [buffer.flatten(0, -2) for buffer in (z_buffer, e_buffer, work)]
    least = [threshold.flatten().split(near) for threshold in thresholds]
    sums = []
    for part, *thresholds_here in zip(rows, *least, strict=True):
        z, e, free = (buffer[: len(part)] for buffer in buffers)
        sums.append(_sums(part, thresholds_here, (z, e, free), **wanted))
    found: Tensor = torch.cat(sums, 1).unflatten(1, logits.shape[:-1])
    return found


def _sums(
    logits: Tensor,
    thresholds: Sequence[Tensor],
    scratch: Scratch,
    *,
    orders: tuple[float, ...],
    moments: bool,
    level: bool,
    shape: bool,
    subset: Tensor | None,
) -> Tensor:
    z_buffer, e_buffer, work = scratch
    maximum = logits.amax(-1)
    z = torch.sub(logits, maximum[..., None], out=z_buffer)
    root = natural_exp(z, 0.5, work)  # whatever the orders, so that no order's entropy depends on the others
    e = torch.mul(root, root, out=e_buffer)
    powers = _power_sums(root, 0.5, e, [order for order in _HALVES if order in orders], work)
    powers |= _power_sums(e, 1.0, e, [order for order in _WHOLES if order in orders], work)
    sums = [maximum, e.sum(-1)]
    for order in orders:
        if order in powers:
            sums.append(powers[order])
        elif order < _SMALLEST_ORDER:
            sums.append(torch.gt(logits, MASKED / 2, out=work).sum(-1, dtype=logits.dtype))
        elif order == 1:
            sums.append(torch.mul(e, z, out=work).sum(-1))
        elif abs(order - 1) < 0.5:
            growth = torch.clamp(z, min=_NEGLIGIBLE, out=work)
            growth = torch.expm1(torch.mul(growth, order - 1, out=work), out=work)
            sums.append(torch.mul(growth, e, out=work).sum(-1))
        elif order <= _LARGEST_ORDER:
            # From z, because for a small order e may have underflowed where e^order has not.
            sums.append(natural_exp(z, order, work).sum(-1))
    if subset is not None:
        sums.append(e @ subset)
    if moments:
        first = torch.mul(e, z, out=work)
        sums.append(first.sum(-1))
        sums.append(torch.mul(first, z, out=work).sum(-1))
    if level:
        possible = torch.gt(logits, MASKED / 2, out=work).to(logits.dtype)
        count = possible.sum(-1)
        sums += [torch.mul(z, possible, out=work).sum(-1), count]
        if shape:
            mean = sums[-2] / count.clamp(min=1)
            c = torch.sub(z, mean[..., None], out=z_buffer)
            c = torch.mul(c, logits > MASKED / 2, out=z_buffer)
            square = torch.mul(c, c, out=work)
            sums.append(square.sum(-1))
            sums.append(torch.mul(square, c, out=e_buffer).sum(-1))
            sums.append(torch.mul(square, square, out=e_buffer).sum(-1))
    sums.extend(torch.ge(logits, least[..., None], out=work).sum(-1, dtype=logits.dtype) for least in thresholds)
    return torch.stack(sums)


def _power_sums(power: Tensor, reached: float, e: Tensor, orders: list[float], work: Tensor | None) -> dict[float, Tensor]:
    """Return Σ e^order for rising ``orders``, all whole steps from ``power`` = e^reached."""
    sums = {}
    for order in orders:
        while reached < order:
            power, reached = torch.mul(power, e, out=work), reached + 1
        sums[order] = power.sum(-1)
    return sums


def combine(sums: Tensor, orders: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return the entropies [..., orders] and log normalisers [...], in nats, of ``sums`` [tiles, sums, ...] in float64."""
    maximum, total = sums[:, 0], sums[:, 1]
    overall = maximum.amax(0)
    distance = maximum - overall
    shift = distance.clamp(min=_NEGLIGIBLE_TILE)
    weight = shift.exp()
    s = (weight * total).sum(0)
    log_s = s.log()
    entropies = []
    rows = iter(sums[:, 2:].unbind(1))
    for order in orders:
        if order > _LARGEST_ORDER:
            entropy = log_s
        elif order < _SMALLEST_ORDER:
            entropy = next(rows).sum(0).log()
        elif order == 1:
            entropy = log_s - (weight * (next(rows) + shift * total)).sum(0) / s
        elif abs(order - 1) < 0.5:
            moved = (order - 1) * shift
            excess = (weight * (moved.exp() * next(rows) + moved.expm1() * total)).sum(0) / s
            entropy = log_s + excess.log1p() / (1 - order)
        else:
            power = ((order * distance).exp() * next(rows)).sum(0)
            entropy = (power.log() - order * log_s) / (1 - order)
        entropies.append(entropy.clamp(min=0.0))  # only rounding takes it below
    return torch.stack(entropies, -1), overall + log_s


def combine_moments(sums: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the varentropies [...] in nats² of ``sums`` as in `combine`, and Σ e·z and Σ e·z² [tiles, ...] of their tiles.

    It is E[z²] - E[z]², z being relative to the overall maximum: below 2e-5 nats² off where the sums are of float32.
    """
    maximum, total = sums[:, 0], sums[:, 1]
    shift = (maximum - maximum.amax(0)).clamp(min=_NEGLIGIBLE_TILE)
    weight = shift.exp()
    s = (weight * total).sum(0)
    mean = (weight * (first + shift * total)).sum(0) / s
    square = (weight * (second + 2 * shift * first + shift.square() * total)).sum(0) / s
    return (square - mean.square()).clamp(min=0.0)  # only rounding takes it below


def combine_level(sums: Tensor, log_normalizer: Tensor, level: Tensor, count: Tensor) -> Tensor:
    """Return KL(U ‖ p) [...] in nats of ``sums`` as in `combine`, U being uniform on the tokens that are possible at all.

    ``level`` and ``count`` [tiles, ...] are Σ z and the number of those tokens: KL(U ‖ p) = Z - mean l - log n.
    """
    maximum = sums[:, 0]
    overall = maximum.amax(0)
    n = count.sum(0)
    mean = (level + torch.where(count > 0, maximum - overall, 0.0) * count).sum(0) / n
    return (log_normalizer - overall - mean - n.log()).clamp(min=0.0)  # only rounding takes it below


def combine_kurtosis(sums: Tensor, own: Tensor) -> Tensor:
    """Return the excess kurtosis [...] of the possible logits, n Σ c⁴ / (Σ c²)² - 3; NaN where all are the same.

    ``own`` [tiles, 5, ...] are their Σ z and number, and Σ c², Σ c³ and Σ c⁴ about the means of tiles. These are moved to
    the mean of all: nothing cancels.
    """
    maximum, (level, count, second, third, fourth) = sums[:, 0], own.unbind(1)
    seen = count > 0
    mean = torch.where(seen, level / count.clamp(min=1) + maximum - maximum.amax(0), 0.0)
    n = count.sum(0)
    apart = torch.where(seen, mean - (mean * count).sum(0) / n, 0.0)
    square = (second + count * apart.square()).sum(0)
    fourth = (fourth + 4 * apart * third + 6 * apart.square() * second + count * apart**4).sum(0)
    kurtosis: Tensor = n * fourth / square.square() - 3
    return kurtosis


def combine_mass(sums: Tensor, part: Tensor) -> Tensor:
    """Return the log probability of a subset [...] of ``sums`` as in `combine`, and its own Σ e [tiles, ...] in their tiles."""
    maximum, total = sums[:, 0], sums[:, 1]
    weight = (maximum - maximum.amax(0)).exp()
    return ((weight * part).sum(0) / (weight * total).sum(0)).log().clamp(max=0.0)  # only rounding takes it above


class Top:
    """The largest logits of each row so far, equal ones by their tokens' ids; the rows of all sites in one sequence.

    ``tied`` [row] says where several tokens share the largest one.
    """

    def __init__(self, hidden: Tensor, k: int, dtype: torch.dtype) -> None:
        rows = math.prod(hidden.shape[:-1])
        self.logits = hidden.new_full((rows, k), -math.inf, dtype=dtype)
        self.tokens = hidden.new_zeros((rows, k), dtype=torch.int64)
        self.tied = hidden.new_zeros(rows, dtype=torch.bool)

    def update(self, logits: Tensor, maximum: Tensor, start: int) -> None:
        """Take in a tile [..., width] of the tokens from ``start``; rows whose maximum is too small are not looked at."""
        k, width, maximum = self.logits.shape[1], logits.shape[-1], maximum.flatten()
        self.tied |= maximum == self.logits[:, 0]
        better = (maximum > self.logits[:, -1]).nonzero()[:, 0]
        rows = logits.flatten(0, -2)[better]
        values, indices = rows.topk(min(k + 1, width))
        if width > k and len(cut := (values[:, k - 1] == values[:, k]).nonzero()[:, 0]):
            # Which of equal ones topk takes is not said. A sort of the whole row says, and few rows need it.
            values[cut], indices[cut] = (part[:, : k + 1] for part in rows[cut].sort(dim=-1, descending=True, stable=True))
        if width > 1:
            higher = maximum[better] > self.logits[better, 0]
            self.tied[better] = torch.where(higher, values[:, 0] == values[:, 1], self.tied[better])
        values = torch.cat([self.logits[better], values[:, :k]], -1)
        tokens = torch.cat([self.tokens[better], indices[:, :k] + start], -1)
        by_token = tokens.argsort(-1)
        values, ranking = values.gather(1, by_token).sort(dim=-1, descending=True, stable=True)
        self.logits[better] = values[:, :k]
        self.tokens[better] = tokens.gather(1, by_token.gather(1, ranking))[:, :k]


def in_double(values: Tensor) -> Tensor:
    """Return ``values`` in float64; on the processor where the device has none, as Apple's do not."""
    return values.to("cpu" if values.device.type == "mps" else values.device, torch.float64)
