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
from typing import NamedTuple, Self

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import logs

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
_AT_ONCE = 2**20  # numbers


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
    k, units, bins = sample.shape
    at_once = max(1, _AT_ONCE // (max(2 * _ROWS, k) * bins))  # more would fall out of the cache
    found: list[ChanceCurve] = []
    for first in range(0, units, at_once):
        part = slice(first, first + at_once)
        found += _curves(sample[:, part], seed, whole, None if p_log_p is None else p_log_p[part])
    return found


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
    rows = torch.cat([p, own[..., None]], dim=-1).index_select(1, order.flatten())
    sums = {1: rows.unflatten(1, order.shape)}  # [unit, order, group, bin + 1]
    sizes = [n for n in _SIZES if 1 < n <= k // 2]
    for n in sizes:
        half = n // 2 if n % 2 == 0 and n // 2 in sums else 1
        step = n // half
        sums[n] = reduce(torch.add, (sums[half][:, :, i : each // n * step : step] for i in range(step)))

    def averaged(groups: Sequence[Tensor], n: Sequence[int]) -> tuple[Tensor, Tensor, _Groups]:
        """The means of groups of all sizes [unit, group, bin], those of ``own`` [unit, group], and which is of which size."""
        of = _Groups.of(n, groups)
        rows = of.rows.to(groups[0])
        of_p = torch.cat([one[..., :-1] for one in groups], dim=1).div_(rows[:, None])
        return of_p, torch.cat([one[..., -1] for one in groups], dim=1) / rows, of

    def controlled(values: Tensor, means: Tensor, own: Tensor, of: _Groups) -> Tensor:
        """[size, unit] the mean of what was found of means, freed of the noise that it shares with what is known of these."""
        quadratic = _dot((means - mean).square_(), halves)
        left = torch.tensor([_left(n, k) for n in of.sizes], dtype=ceiling.dtype, device=ceiling.device)
        expected = torch.stack([half_spread[:, None] * left, ceiling[:, None].expand(-1, len(left))])
        return _controlled(torch.stack([values, quadratic, own]), expected, of.member).T

    lost, c = {1: ceiling}, {}
    if sizes:
        of_c = [n for n in sizes if n in _SIZES_OF_C]
        ordered = of_c + [n for n in sizes if n not in _SIZES_OF_C]
        drawn = {n: _first(sums[n], max(_FEWEST, _ROWS // n)) for n in ordered}
        means, own, of = averaged(list(drawn.values()), ordered)
        lost |= dict(zip(ordered, controlled(_divergence(means, log_mean), means, own, of), strict=True))
        less = [drawn[n] - _first(sums[1][:, :, n - 1 : each // n * n : n], drawn[n].shape[1]) for n in of_c]
        means, own, of = averaged(less, [n - 1 for n in of_c])
        means.clamp_min_(0)
        across = controlled(predicted(means, mean, of.rows, k), means, own, of)
        c = {n: c_of(n, lost[n] + half_spread / (k - 1), x + lost[n]) for n, x in zip(of_c, across, strict=True)}
    if whole and k > 2:
        sums[k // 2] = sums[1][:, :, : k // 2].double().sum(2, keepdim=True)
        mean, log_mean, halves = exact  # what few rows leave behind differs little from all
        every = k * torch.cat([mean, ceiling[:, None, None]], dim=-1)
        behind = [n for n in sums if k - n not in lost]
        means, own, of = averaged([every - _first(sums[n], 64) for n in behind], [k - n for n in behind])
        means.clamp_min_(0)
        lost |= dict(zip(of.sizes, controlled(_divergence(means, log_mean), means, own, of), strict=True))
    sizes = sorted(lost)
    factors = torch.stack([lost[n] / ceiling / _left(n, k) for n in sizes]).cpu()
    cs = torch.stack(list(c.values())).cpu() if c else factors[:0]
    limits, known = (half_spread / ceiling).tolist(), (ceiling >= MIN_CEILING).tolist()
    at, at_c = _on_cpu(sizes), _on_cpu(list(c))
    return [
        ChanceCurve(at, factors[:, unit], limits[unit], at_c, cs[:, unit])
        if known[unit] and k > 1
        # Nothing differs between rows, so that nothing is shared by chance either.
        else ChanceCurve(_on_cpu([1]), _on_cpu([1]), 1.0, _on_cpu([]), _on_cpu([]))
        for unit in range(units)
    ]


class _Groups(NamedTuple):
    """Groups of rows of several sizes, those of one size one after the other.

    Attributes:
        sizes: numbers of rows.
        member: [group, size] 1 where a group is of a size.
    """

    sizes: Sequence[int]
    member: Tensor

    @classmethod
    def of(cls, sizes: Sequence[int], groups: Sequence[Tensor]) -> Self:
        """For groups [unit, group, bin + 1] of each size."""
        number = torch.tensor([one.shape[1] for one in groups], device=groups[0].device)
        at = torch.arange(len(sizes), device=number.device)
        return cls(sizes, (at.repeat_interleave(number)[:, None] == at).double())

    @property
    def rows(self) -> Tensor:
        """[group] its number of rows."""
        return self.member @ torch.tensor(self.sizes, dtype=self.member.dtype, device=self.member.device)


def predicted(means: Tensor, mean: Tensor, n: int | Tensor, k: int) -> Tensor:
    """X(n + 1) - C of every group: the mean of p · log(p̄ / q) over the rows that are not in it, nats [..., group].

    Args:
        means: [..., group, bin] the means of groups of n rows, from which q follows.
        mean: [..., 1, bin] that of all rows, p̄.
        n: rows of a group, one number or [group].
        k: number of all rows.
    """
    gained = logs(torch.lerp(means, mean, FLOOR), spent=True)
    torch.sub(logs(mean), gained, out=gained)
    others: Tensor = k * _dot(gained, mean) - n * gained.mul_(means).sum(-1)
    return others / (k - n)


def c_of(n: int, lacking: Tensor, apart: Tensor) -> Tensor:
    """c(n) of C - W(n) and X(n) - W(n), both in nats; 1 where rows do not differ.

    >>> round(c_of(2, torch.tensor(0.115813184315), torch.tensor(0.368152227545)).item(), 6)
    0.943739
    """
    return torch.where(apart > 0, lacking / apart * (2 * n - 1) / (n - 1), 1.0)


def _controlled(found: Tensor, expected: Tensor, member: Tensor) -> Tensor:
    """[unit, size] the mean of values, freed of what noise they share with two controls, whose means are known.

    Of few groups no slopes can be told: the first control is then taken to have slope 1, and the other 0.

    Args:
        found: [3, unit, group] the values and the controls.
        expected: [2, unit, size] what the controls are in the mean.
        member: [group, size] 1 where a group is of a size.
    """
    found, number = found.double(), member.sum(0)
    mean = found @ member / number
    value, excess = mean[0], mean[1:] - expected
    centred = found - mean @ member.T
    v1, v2, s1, s12, s2 = (centred[[0, 0, 1, 1, 2]] * centred[[1, 2, 1, 2, 2]]) @ member
    floor = 1e-12 * (torch.stack([s1, s2]) + number * mean[1:].square())  # slope 0 if only rounding varies
    shared = s12 / (s1 + floor[0])  # what the second has of the first, which is taken from it
    own = s2 - shared * (2 * s12 - shared * s1) + floor[1]
    of_second = (v2 - shared * v1) / own * (excess[1] - shared * excess[0])
    return value - torch.where(number < _FEW, excess[0], v1 / (s1 + floor[0]) * excess[0] + of_second)


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


def _curves_at(n: Tensor, curves: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Curves known at sizes: linear in log n between these, tending to a limit like 1/n beyond them; 1 without any."""
    sizes = curves[0][0]
    if not all(torch.equal(of, sizes) for of, *_ in curves):
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


def _on_cpu(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")
