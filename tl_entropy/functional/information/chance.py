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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import dot, logs, positive_logs

SAMPLE = 4096
"""Rows that the curves are measured on, at most."""

MIN_CEILING = 1e-6
"""Smallest ceiling (nats): below, all states are assigned alike, and rounding is all that differs."""

ROWS = 1024
"""Rows that the groups of each size are made of. Which ones are drawn moves information by a thousandth of a nat, since what a
label of n rows is corrected by, and its noise, go as 1/n."""

FLOOR = 0.001
"""λ: how much of the mean of all rows is mixed into a mean that predicts, so that nothing is held to be impossible."""

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_SIZES_OF_C = (2, 3, 4, 6, 8, 16, 32, 64)
_FAINT = 1e-30  # as good as nothing, and has a logarithm
_SINGLE = 0.01  # nats of the ceiling, above which divergences from p̄ stand out from the rounding of single precision
_FEW = 24  # groups
_BEHIND = 64  # groups, at most, of each size that are left out
_LEAST_BEHIND = 1 / 32  # of the rows
_AT_ONCE = 512  # groups, which stay in the cache


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


def chance_curves(sample: Tensor, *, seed: int = 0, whole: bool = False, entropies: Tensor | None = None) -> list[ChanceCurve]:
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

    ``entropies`` [unit, row] are those of the rows, where they are there already.
    """
    k, units, _ = sample.shape
    draw = torch.Generator().manual_seed(seed)
    orders = min(256, -(-ROWS // k))
    each = min(k, -(-ROWS // orders))
    order = torch.stack([torch.randperm(k, generator=draw, device="cpu")[:each] for _ in range(orders)]).to(sample.device)
    kinds = _Kinds(k, orders, each, whole)
    known = [None] * units if entropies is None else list(entropies)
    found = [_measured(p, own, order, kinds) for p, own in zip(sample.unbind(1), known, strict=True)]
    ceiling, half_spread = (torch.stack([getattr(one, name) for one in found]) for name in ("ceiling", "half_spread"))

    def controlled(kind: str, number: Mapping[int, int]) -> dict[int, Tensor]:
        """For each size [unit] the mean of a value of groups, freed of the noise that it shares with what is known of these."""
        if not number:
            return {}
        left = torch.tensor([_left(n, k) for n in number], dtype=ceiling.dtype, device=ceiling.device)
        expected = torch.stack([half_spread[:, None] * left, ceiling[:, None].expand(-1, len(left))])
        values = torch.stack([getattr(one, kind) for one in found], dim=1)
        return dict(zip(number, _controlled(values, expected, _members(number).to(left)).T, strict=True))

    lost, c = {1: ceiling, **controlled("every", kinds.every), **controlled("behind", kinds.behind)}, {}
    for n, across in controlled("less", kinds.less).items():
        c[n + 1] = c_of(n + 1, lost[n + 1] + half_spread / (k - 1), across + lost[n + 1])
    sizes = sorted(lost)
    factors = torch.stack([lost[n] / ceiling / _left(n, k) for n in sizes]).cpu()
    cs = torch.stack(list(c.values())).cpu() if c else factors[:0]
    limits, differ = (half_spread / ceiling).tolist(), (ceiling >= MIN_CEILING).tolist()
    at, at_c = _on_cpu(sizes), _on_cpu(list(c))
    return [
        ChanceCurve(at, factors[:, unit], limits[unit], at_c, cs[:, unit])
        if differ[unit] and k > 1
        # Nothing differs between rows, so that nothing is shared by chance either.
        else ChanceCurve(_on_cpu([1]), _on_cpu([1]), 1.0, _on_cpu([]), _on_cpu([]))
        for unit in range(units)
    ]


class _Kinds:
    """How many groups of each size there are, of ``orders`` of ``each`` of ``k`` rows.

    Attributes:
        every: all groups.
        less: those without their last row, and ``rows_less`` [group] the rows of each.
        behind: where the sample is the ``whole``, what groups leave behind.
    """

    def __init__(self, k: int, orders: int, each: int, whole: bool) -> None:
        sizes = [n for n in _SIZES if 1 < n <= k // 2]
        self.k, self.every = k, {n: orders * (each // n) for n in sizes}
        self.less = {n - 1: self.every[n] for n in sizes if n in _SIZES_OF_C}
        self.rows_less = torch.cat([torch.full((number,), n, device="cpu") for n, number in [*self.less.items(), (1, 0)]])
        few = {1: orders * each, **self.every, min(k // 2, each): orders} if whole and k > 2 else {}
        # Labels of nearly all rows hold nothing by chance, whatever the factor.
        self.behind = {
            k - n: min(number, _BEHIND)
            for n, number in few.items() if k - n not in {1, *sizes} and n >= _LEAST_BEHIND * k
        }  # fmt: skip


class _Measured(NamedTuple):
    """Of one unit: what is known of all rows, and [3, group] of groups the value and two whose means are known."""

    ceiling: Tensor
    half_spread: Tensor
    every: Tensor
    less: Tensor
    behind: Tensor


def _measured(p: Tensor, entropies: Tensor | None, order: Tensor, kinds: _Kinds) -> _Measured:
    """Of rows [row, bin]; one unit after the other, whose groups stay in the cache."""
    k = kinds.k
    mean, own, half_spread = _moments(p, entropies)
    ceiling = own.mean()
    # The rows drawn are relative to p̄, which is the weight of each bin; KL(p_i ‖ p̄) is one bin more, of weight 0.
    dtype = p.dtype if bool(ceiling > _SINGLE) else mean.dtype
    weight, single = torch.nn.functional.pad(mean, (0, 1)), order.flatten()
    rows = torch.empty(len(single), len(weight), dtype=dtype, device=p.device)
    torch.mul(p.index_select(0, single), mean.clamp_min(_FAINT).reciprocal().to(dtype), out=rows[:, :-1])
    rows[:, -1] = own[single]
    rows.clamp_min_(_FAINT)

    def valued(groups: Tensor, rows: Tensor | None = None) -> Tensor:
        of, found = weight.to(groups), groups.new_empty(3, len(groups))
        for first in range(0, len(groups), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            means = groups[part]
            found[0, part] = predicted(means, of, rows[part], k) if rows is not None else positive_logs(means).mul_(means) @ of
            found[1, part] = (means - 1).square_() @ of / 2
        found[2] = groups[:, -1]
        return found

    every, less = _grouped(rows.view(*order.shape, -1), kinds)
    behind = rows.new_empty(0, len(weight), dtype=mean.dtype)
    if kinds.behind:
        few = dict(zip(kinds.every, every.split(list(kinds.every.values())), strict=True))
        half = min(k // 2, order.shape[1])
        few = {1: rows, **few, half: rows.view(*order.shape, -1)[:, :half].double().mean(1)}
        total = k * torch.cat([torch.ones_like(mean), ceiling[None]])
        left = [(total - (k - n) * few[k - n][:number].double()) / n for n, number in kinds.behind.items()]
        behind = torch.cat(left).clamp_min_(_FAINT)
    return _Measured(ceiling, half_spread, valued(every), valued(less, kinds.rows_less.to(less)), valued(behind))


def _members(number: Mapping[int, int]) -> Tensor:
    """[group, size] 1 where a group is of a size."""
    at = torch.arange(len(number), device="cpu")
    return (at.repeat_interleave(torch.tensor(list(number.values()), device="cpu"))[:, None] == at).double()


def _grouped(rows: Tensor, kinds: _Kinds) -> tuple[Tensor, Tensor]:
    """Means [group, bin + 1] of disjoint groups of each size, of rows [order, row, bin + 1], and without their last rows.

    Groups are made of two of half their size, or of three rows.
    """
    orders, each, bins = rows.shape
    every, less = (rows.new_empty(sum(number.values()), bins) for number in (kinds.every, kinds.less))

    def by_size(means: Tensor, number: Mapping[int, int]) -> dict[int, Tensor]:
        parts = means.split(list(number.values())) if number else ()
        return {n: one.view(orders, -1, bins) for n, one in zip(number, parts, strict=True)}

    means, without = by_size(every, kinds.every), by_size(less, kinds.less)
    means[1] = rows
    for n in kinds.every:
        step = 2 if n % 2 == 0 else n
        part, end = n // step, each // n * step
        first, *more, last = (means[part][:, i:end:step] for i in range(step))
        for i, one in enumerate(more, start=2):
            first = torch.lerp(first, one, 1 / i)
        torch.lerp(first, last, part / n, out=means[n])
        if part == 1 and n - 1 in without:
            without[n - 1].copy_(first)
        elif n - 1 in without:
            torch.lerp(first, without[part - 1][:, 1:end:2], (part - 1) / (n - 1), out=without[n - 1])
    return every, less


def predicted(means: Tensor, mean: Tensor, n: int | Tensor, k: int) -> Tensor:
    """X(n + 1) - C of every group: the mean of p · log(p̄ / q) over the rows that are not in it, nats [group].

    Args:
        means: [group, bin] the means of groups of n rows, from which q follows, divided by p̄.
        mean: [bin] that of all rows, p̄.
        n: rows of a group, one number or [group].
        k: number of all rows.
    """
    log_q = positive_logs(means + FLOOR / (1 - FLOOR), spent=True)  # less log p̄, and log(1 - λ), the same everywhere
    of_all = k * (log_q @ mean)
    return (n * (log_q.mul_(means) @ mean) - of_all) / (k - n) - math.log1p(-FLOOR)


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


def _moments(p: Tensor, entropies: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows [row, bin] p̄ [bin], KL(p_i ‖ p̄) [row] and ½ Σ_j Var(p_j)/p̄_j, float64."""
    rows = p.double()
    mean = rows.mean(0)
    across = rows @ logs(mean)
    own = (dot(logs(rows), rows) if entropies is None else -entropies) - across
    if own.dtype != p.dtype and entropies is not None and bool(own.mean() <= _SINGLE):
        own = dot(logs(rows), rows) - across  # which is too small for single precision
    half_spread = (rows.square().mean(0) / mean.clamp_min(torch.finfo(mean.dtype).tiny) - mean).sum() / 2
    return mean, own, half_spread


def _left(n: int, k: int) -> float:
    """How much of a variance is left in a mean of n of k rows."""
    return (1 / n - 1 / k) / (1 - 1 / k) if k > 1 else 1.0


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
