r"""How alike random rows are, as a curve in their number: what labels that say nothing would show, and how that is corrected.

Of n rows drawn at random from K soft assignments p (``functional/information/soft.py``), with p̄ the mean of all,

    D(n) = H(p̄) - E[H(mean of n rows)]      what n random rows keep of the ceiling by chance; D(1) is the ceiling, D(K) = 0
    W(n) = E[H(mean of n rows)] - mean_i H(p_i)                                 their plug-in spread, too small
    X(n) = -E[1/n Σ_i p_i · log q_i] - mean_i H(p_i)                            their cross-fitted spread, too large

with q_i = (1 - λ) (mean of the n rows without row i) + λ p̄. The true spread of all rows is C = W(K) + ½ Σ_j Var(p_j)/p̄_j / K,
and the weight at which W and X average to it is (n - 1)/(2n - 1) c(n) with

    c(n) = (C - W(n)) / (X(n) - W(n)) · (2n - 1)/(n - 1),

which is near 1, since (n - 1)/(2n - 1) is right to first order in 1/n. ``functional/information/estimates.py`` uses both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

SAMPLE = 4096
"""Rows that the curves are measured on, at most."""

MIN_CEILING = 1e-6
"""Smallest ceiling (nats): below, all states are assigned alike, and rounding is all that differs."""

FLOOR = 0.001
"""λ: how much of the mean of all rows is mixed into a mean that predicts, so that nothing is held to be impossible."""

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_SIZES_OF_C = (2, 3, 4, 6, 8, 16, 32, 64)
_ROWS = 2048  # drawn for each size, where there are so many: what a label of n rows is corrected by, and its noise, go as 1/n
_SINGLE = 0.01  # nats of the ceiling, above which divergences from p̄ stand out from the rounding of single precision
_FEWEST = 128  # groups, unless there are fewer
_FEW = 24  # groups
_AT_ONCE = 2**21  # numbers


@dataclass(frozen=True, eq=False)
class ChanceCurve:
    """r(n) and c(n) of one unit.

    r is how much of the ceiling n random rows keep, as a factor on (1/n - 1/N) / (1 - 1/N): ``sizes`` [size] and ``factor``
    [size] are measured; between them r is linear in log n, beyond them in 1/n up to ``limit``. c is measured at ``c_sizes``, is
    linear in log n between them, and beyond them nears 1 like 1/n; without any size it is 1.
    """

    sizes: Tensor
    factor: Tensor
    limit: float
    c_sizes: Tensor
    c: Tensor

    def __call__(self, n: Tensor) -> Tensor:
        """The factor r of each number of rows ``n`` (any shape, at least 1), float64."""
        return _joined(n, self.sizes, self.factor, self.limit)

    def correction(self, n: Tensor) -> Tensor:
        """The factor c of each number of rows ``n`` (any shape, at least 2), float64."""
        return _joined(n, self.c_sizes, self.c, 1.0) if len(self.c_sizes) else torch.ones_like(n, dtype=torch.float64)


def chance_curves(sample: Tensor, *, seed: int = 0, whole: bool = False, p_log_p: Tensor | None = None) -> list[ChanceCurve]:
    """Measure r(n) and c(n) of every unit by drawing groups of n rows from ``sample`` [row, unit, bin], rows drawn at random.

    Every size up to half the sample, or 256, is tried on disjoint groups of rows in random order (seeded); the limit of r for
    large n is the quadratic term of the entropy, ½ Σ_j Var(p_j) / p̄_j.

    Where the sample is the ``whole``, sizes above half of it are measured for r, too, on what groups of rows leave behind.

    D(n) is taken as the mean of KL(mean of n rows ‖ p̄). That has the expectation of H(p̄) - H(mean of n rows), but not its
    noise, which is linear in the states' spread and would bury D, quadratic in it, where all states point nearly one way.
    X(n) is how means of n - 1 rows predict all other rows at once. Of two quantities the expectation over groups is known, so
    that they serve as control variates: the quadratic term of the divergence, and the mean of KL(p_i ‖ p̄). C - W(n) is D(n)
    and what the sample's own ceiling lacks. Means over groups are as noisy as some parts in a thousand, so that the divergences
    of single groups are in the sample's own dtype, where rows differ enough for it; all else is in float64.

    ``p_log_p`` [unit, row, bin] is what it says, where it is there already.
    """
    at_once = max(1, _AT_ONCE // (max(_ROWS, len(sample)) * sample.shape[2]))  # more would fall out of the cache
    parts = [slice(first, first + at_once) for first in range(0, sample.shape[1], at_once)]
    return [
        curve for some in parts for curve in _curves(sample[:, some], seed, whole, None if p_log_p is None else p_log_p[some])
    ]


def _curves(sample: Tensor, seed: int, whole: bool, p_log_p: Tensor | None) -> list[ChanceCurve]:
    k, units = sample.shape[:2]
    p = sample.transpose(0, 1).double()
    mean = p.mean(1, keepdim=True)
    log_mean, halves = logs(mean), 0.5 / mean.clamp_min(torch.finfo(torch.float64).tiny)
    own = _divergence(p, log_mean) if p_log_p is None else p_log_p.sum(-1, dtype=p.dtype) - _dot(p, log_mean)
    if p_log_p is not None and p_log_p.dtype != p.dtype and bool((own.mean(1) <= _SINGLE).any()):
        own = _divergence(p, log_mean)  # which is too small for single precision
    ceiling, half_spread = own.mean(1), _dot((p - mean).square_(), halves).mean(1)
    exact = mean, log_mean, halves
    if bool((ceiling > _SINGLE).all()):
        p, own, mean, log_mean, halves = (one.to(sample.dtype) for one in (p, own, *exact))
    draw = torch.Generator().manual_seed(seed)
    orders, each = min(256, -(-_ROWS // k)), min(k, _ROWS)
    order = torch.stack([torch.randperm(k, generator=draw, device="cpu")[:each] for _ in range(orders)]).to(p.device)
    sums = {1: torch.cat([p, own[..., None]], dim=-1)[:, order]}  # [unit, order, group, bin + 1]

    def controlled(values: Tensor, means: Tensor, own: Tensor, n: int) -> Tensor:
        """The mean of what was found of means of n rows, freed of the noise that it shares with what is known of these."""
        quadratic = _dot((means - mean).square_(), halves)
        return _controlled(values, (quadratic, own), (half_spread * _left(n, k), ceiling))

    lost, c = {1: ceiling}, {}
    for n in (n for n in _SIZES if 1 < n <= k // 2):
        half = n // 2 if n % 2 == 0 and n // 2 in sums else 1
        step = n // half
        sums[n] = reduce(torch.add, (sums[half][:, :, i : each // n * step : step] for i in range(step)))
        groups = max(_FEWEST, _ROWS // n)
        total = _first(sums[n], groups)
        means, own_means = total[..., :-1] / n, total[..., -1] / n
        lost[n] = controlled(_divergence(means, log_mean), means, own_means, n)
        if n not in _SIZES_OF_C:
            continue
        total = (total - _first(sums[1][:, :, n - 1 : each // n * n : n], groups)).div_(n - 1)
        means, own_means = total[..., :-1].clamp_min(0), total[..., -1]
        across = controlled(predicted(means, mean, n - 1, k), means, own_means, n - 1)
        c[n] = c_of(n, lost[n] + half_spread / (k - 1), across + lost[n])
    if whole and k > 1:
        sums[k // 2] = sums[1][:, :, : k // 2].double().sum(2, keepdim=True)
        mean, log_mean, halves = exact  # what few rows leave behind differs little from all
        every = torch.cat([mean, ceiling[:, None, None]], dim=-1)
        for n in [n for n in sums if k - n not in lost]:
            total = (k * every - _first(sums[n], 64)).div_(k - n)
            means = total[..., :-1].clamp_min(0)
            lost[k - n] = controlled(_divergence(means, log_mean), means, total[..., -1], k - n)
    sizes = sorted(lost)
    factors = torch.stack([lost[n] / ceiling / _left(n, k) for n in sizes]).cpu()
    cs = torch.stack(list(c.values())).cpu() if c else factors[:0]
    limits, known = (half_spread / ceiling).tolist(), (ceiling >= MIN_CEILING).tolist()
    return [
        ChanceCurve(_on_cpu(sizes), factors[:, unit], limits[unit], _on_cpu(list(c)), cs[:, unit])
        if known[unit] and k > 1
        # Nothing differs between rows, so that nothing is shared by chance either.
        else ChanceCurve(_on_cpu([1]), _on_cpu([1]), 1.0, _on_cpu([]), _on_cpu([]))
        for unit in range(units)
    ]


def predicted(means: Tensor, mean: Tensor, n: int, k: int) -> Tensor:
    """X(n + 1) - C of every group: the mean of p · log(p̄ / q) over the rows that are not in it, nats [..., group].

    Args:
        means: [..., group, bin] the means of groups of n rows, from which q follows.
        mean: [..., 1, bin] that of all rows, p̄.
        n: rows of a group.
        k: number of all rows.
    """
    gained = logs(mean) - logs(torch.lerp(means, mean, FLOOR))
    others: Tensor = k * _dot(gained, mean) - n * gained.mul_(means).sum(-1)
    return others / (k - n)


def c_of(n: int, lacking: Tensor, apart: Tensor) -> Tensor:
    """c(n) of C - W(n) and X(n) - W(n), both in nats; 1 where rows do not differ.

    >>> round(c_of(2, torch.tensor(0.115813184315), torch.tensor(0.368152227545)).item(), 6)
    0.943739
    """
    return torch.where(apart > 0, lacking / apart * (2 * n - 1) / (n - 1), 1.0)


def logs(p: Tensor) -> Tensor:
    """The logarithm, finite at 0, where it is only ever multiplied by 0."""
    safe = p.clamp_min(torch.finfo(p.dtype).tiny)
    return safe.log() if safe.requires_grad else safe.log_()


def _controlled(values: Tensor, controls: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """The mean of ``values`` [unit, group], freed of what noise they share with ``controls``, whose means are known [unit].

    Of few groups no slopes can be told: the first control is then taken to have slope 1, and the others 0.
    """
    values, controls = values.double(), [control.double() for control in controls]
    if values.shape[1] < _FEW:
        return (values - controls[0]).mean(1) + expected[0]
    found = values.mean(1)
    used: list[tuple[Tensor, Tensor, Tensor]] = []
    for control, known in zip(controls, expected, strict=True):
        mean = control.mean(1)
        centred, excess = control - mean[:, None], mean - known
        for other, its_excess, its_size in used:  # so that each has its own part of the noise
            slope = (other * centred).sum(1) / its_size
            centred, excess = centred - slope[:, None] * other, excess - slope * its_excess
        size = centred.square().sum(1) + 1e-12 * control.square().sum(1)  # slope 0 if only rounding varies
        used.append((centred, excess, size))
        found = found - (centred * values).sum(1) / size * excess
    return found


def _divergence(p: Tensor, log_mean: Tensor) -> Tensor:
    """KL(p ‖ p̄) over the last axis, nats."""
    return logs(p).mul_(p).sum(-1) - _dot(p, log_mean)


def _dot(rows: Tensor, vector: Tensor) -> Tensor:
    """[..., row, bin] and [..., 1, bin] to [..., row]."""
    return (rows @ vector.mT)[..., 0]


def _left(n: int, k: int) -> float:
    """How much of a variance is left in a mean of n of k rows."""
    return (1 / n - 1 / k) / (1 - 1 / k) if k > 1 else 1.0


def _first(groups: Tensor, number: int) -> Tensor:
    """The first ones of all orders: [unit, order, group, ...] to [unit, group, ...]."""
    return groups[:, : -(-number // groups.shape[2])].flatten(1, 2)[:, :number]


def _joined(n: Tensor, sizes: Tensor, values: Tensor, limit: float) -> Tensor:
    """A curve known at ``sizes``: linear in log n between them, tending to ``limit`` like 1/n beyond them."""
    n = n.double()
    sizes, values = sizes.to(n.device), values.to(n.device)
    known, place = sizes.log(), n.log()
    if len(known) > 1:
        right = torch.searchsorted(known, place).clamp(1, len(known) - 1)
        step = (place - known[right - 1]) / (known[right] - known[right - 1])
        inside = values[right - 1] + step * (values[right] - values[right - 1])
    else:
        inside = values[0].expand_as(n)
    last = sizes[-1]
    beyond = limit + (values[-1] - limit) * last / n
    return torch.where(n > last, beyond, inside)


def _on_cpu(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")
