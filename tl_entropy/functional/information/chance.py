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
from typing import NamedTuple, Self

import torch
from torch import Tensor

from tl_entropy.functional.information.curves import ChanceCurve
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
_AT_ONCE = 2**19  # numbers of rows drawn, which stay in the cache with their groups


def chance_curves(
    sample: Tensor, *, seed: int = 0, whole: bool = False, entropies: Tensor | None = None, largest: float = math.inf
) -> list[ChanceCurve]:
    """Measure r(n) and c(n) of every unit by drawing groups of n rows from ``sample`` [row, unit, bin], rows drawn at random.

    Every size up to half the sample, or 256, is tried on disjoint groups of rows in random order (seeded); the limit of r for
    large n is the quadratic term of the entropy, ½ Σ_j Var(p_j) / p̄_j.

    Where the sample is the ``whole``, sizes above half of it are measured for r, too, on what groups of rows leave behind, if
    ``largest``, that of a label, is above all others.

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
    kinds = _Kinds(k, orders, each, whole and largest > max((n for n in _SIZES if n <= k // 2), default=1))
    found = _measured(sample.transpose(0, 1), entropies, order, kinds)
    ceiling, half_spread = found.ceiling, found.half_spread

    kinds_of = {(kind, n): number for kind in ("every", "behind", "less") for n, number in getattr(kinds, kind).items()}
    lost, c = {1: ceiling}, {}
    if kinds_of:
        left = torch.tensor([_left(n, k) for _, n in kinds_of], dtype=ceiling.dtype, device=ceiling.device)
        expected = torch.stack([half_spread[:, None] * left, ceiling[:, None].expand(-1, len(left))])
        means = _controlled(found.values, expected, _members(list(kinds_of.values())).to(left)).T
        for (kind, n), mean in zip(kinds_of, means, strict=True):
            if kind != "less":
                lost[n] = mean
            else:
                c[n + 1] = c_of(n + 1, lost[n + 1] + half_spread / (k - 1), mean + lost[n + 1])
    sizes = sorted(lost)
    factors = torch.stack([lost[n] / ceiling / _left(n, k) for n in sizes]).cpu()
    cs = torch.stack(list(c.values())).cpu() if c else factors[:0]
    limits, differ = (half_spread / ceiling).tolist(), (ceiling >= MIN_CEILING).tolist()
    dtypes = [sample.dtype if single else torch.float64 for single in found.single.tolist()]
    at, at_c = _on_cpu(sizes), _on_cpu(list(c))
    return [
        ChanceCurve(at, factors[:, unit], limits[unit], at_c, cs[:, unit], dtypes[unit])
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
        self.number = sum(sum(of.values()) for of in (self.every, self.less, self.behind))


class _Moments(NamedTuple):
    """Of some units: p̄ [unit, bin], KL(p_i ‖ p̄) [unit, row], its mean [unit], ½ Σ_j Var(p_j)/p̄_j [unit]; float64."""

    mean: Tensor
    own: Tensor
    ceiling: Tensor
    half_spread: Tensor

    @classmethod
    def of(cls, rows: Tensor, entropies: Tensor | None) -> Self:
        """Those of rows [unit, row, bin], in their dtype where their entropies are there already, else in float64."""
        rows = rows.double() if entropies is None else rows
        mean = rows.mean(1)
        across = torch.bmm(logs(mean)[:, None], rows.mT)[:, 0]
        own = (dot(logs(rows), rows) if entropies is None else -entropies) - across
        half_spread = (rows.square().mean(1) / mean.clamp_min(torch.finfo(mean.dtype).tiny) - mean).sum(1) / 2
        return cls(mean.double(), own.double(), own.mean(1, dtype=torch.float64), half_spread.double())


class _Measured(NamedTuple):
    """What is known of all rows of each unit, and ``values`` [3, unit, group] of groups, in float64.

    These are of every group, of what is behind some, and of those without their last rows: the value, and two whose means are
    known. ``single`` [unit] says whether divergences from p̄ stand out from the rounding of the rows' dtype, which groups are in
    then.
    """

    ceiling: Tensor
    half_spread: Tensor
    values: Tensor
    single: Tensor


def _measured(p: Tensor, entropies: Tensor | None, order: Tensor, kinds: _Kinds) -> _Measured:
    """Of units [unit, row, bin], some at a time: those whose groups stay in the cache."""
    units, _, bins = p.shape
    room: dict[tuple[torch.dtype, int], _Groups] = {}
    found: list[_Measured] = []
    parts = -(-units * order.numel() * bins // _AT_ONCE)
    for some, own in zip(p.tensor_split(parts), [None] * parts if entropies is None else entropies.tensor_split(parts), strict=True):
        if not len(some):
            continue
        of = _Moments.of(some, own)
        single = of.ceiling > _SINGLE
        if own is not None and not bool(single.all()):  # single precision would bury what is there
            exact = _Moments.of(some[~single], None)
            of = _Moments(*(one.index_put((~single,), more) for one, more in zip(of, exact, strict=True)))
            single = of.ceiling > _SINGLE
        values = of.mean.new_empty(3, len(some), kinds.number)
        for dtype, which in ((p.dtype, single), (torch.float64, ~single)):
            n = int(which.sum())
            if n:
                if (dtype, n) not in room:
                    room[dtype, n] = _Groups(n, order, bins, dtype, kinds)
                alike = (some, of) if n == len(some) else (some[which], _Moments(*(one[which] for one in of)))
                values[:, which] = room[dtype, n].measured(*alike)
        found.append(_Measured(of.ceiling, of.half_spread, values, single))
    ceiling, half_spread, _, single = (torch.cat([one[i] for one in found]) for i in (0, 1, 0, 3))
    return _Measured(ceiling, half_spread, torch.cat([one.values for one in found], dim=1), single)


class _Groups:
    """Room for rows drawn and for the means of their groups, which some units after others take.

    Groups are disjoint, made of two of half their size or of three rows, in each of several random orders of the rows.

    Attributes:
        rows: [unit, row, bin + 1] relative to p̄, which is the weight of each bin; KL(p_i ‖ p̄) is one bin more, of weight 0.
        every: [unit, group, bin + 1] means of all groups; less: of those without their last rows.
    """

    def __init__(self, units: int, order: Tensor, bins: int, dtype: torch.dtype, kinds: _Kinds) -> None:
        self.kinds, self.order = kinds, order.flatten()
        orders, self.each = order.shape
        sizes = (order.numel(), sum(kinds.every.values()), sum(kinds.less.values()))
        self.rows, self.every, self.less = (
            torch.empty(units, n, bins + 1, dtype=dtype, device=order.device) for n in sizes
        )
        of_size = self._by_size(self.every, kinds.every)
        means = {n: one.unflatten(1, (orders, -1)) for n, one in {1: self.rows, **of_size}.items()}
        without = {n: one.unflatten(1, (orders, -1)) for n, one in self._by_size(self.less, kinds.less).items()}
        self._steps: list[tuple[Tensor, Tensor, float, Tensor]] = []  # between two means lies the third
        for n in kinds.every:
            step = 2 if n % 2 == 0 else n
            part, end = n // step, self.each // n * step
            first, *more, last = (means[part][:, :, i:end:step] for i in range(step))
            for i, one in enumerate(more, start=2):
                first, before = torch.empty_like(first, memory_format=torch.contiguous_format), first
                self._steps.append((before, one, 1 / i, first))
            self._steps.append((first, last, part / n, means[n]))
            if n - 1 in without:
                rest = without[part - 1][:, :, 1:end:2] if part > 1 else first
                self._steps.append((first, rest, (part - 1) / (n - 1), without[n - 1]))
        half = min(kinds.k // 2, self.each)
        few = {half: self.rows.unflatten(1, (orders, -1))[:, :, :half], **of_size, 1: self.rows}
        self._few = [few[kinds.k - n][:, :some] for n, some in kinds.behind.items()]
        number = torch.tensor(list(kinds.behind.values()), dtype=torch.long, device="cpu")
        left = torch.tensor(list(kinds.behind), dtype=torch.float64, device="cpu")
        self._left = left.repeat_interleave(number)[:, None].to(order.device)  # rows behind each group
        self._rows_less = kinds.rows_less.to(self.less)

    @staticmethod
    def _by_size(means: Tensor, number: Mapping[int, int]) -> dict[int, Tensor]:
        return dict(zip(number, means.split(list(number.values()), dim=1), strict=True)) if number else {}

    def measured(self, p: Tensor, of: _Moments) -> Tensor:
        """[3, unit, group] what groups of rows [unit, row, bin] are worth."""
        rows, weight = self.rows, torch.nn.functional.pad(of.mean, (0, 1))
        inverse = of.mean.clamp_min(_FAINT).reciprocal().to(rows)
        torch.mul(p.index_select(1, self.order), inverse[:, None], out=rows[..., :-1])
        rows[..., -1] = of.own[:, self.order]
        rows.clamp_min_(_FAINT)
        for first, second, share, into in self._steps:
            torch.lerp(first, second, share, out=into)
        means = [(self.every, None), (self._behind(of), None), (self.less, self._rows_less)]
        return torch.cat([self._valued(weight.to(of_groups), of_groups, rows).double() for of_groups, rows in means], dim=2)

    def _behind(self, of: _Moments) -> Tensor:
        """Means of what groups leave behind, where the sample is the whole; float64."""
        if not self._few:
            return of.mean.new_empty(len(of.mean), 0, of.mean.shape[1] + 1)
        k, n = self.kinds.k, self._left
        total = k * torch.cat([torch.ones_like(of.mean), of.ceiling[:, None]], dim=1)
        few = torch.cat([one if one.ndim == 3 else one.double().mean(2) for one in self._few], dim=1)
        return (total[:, None] - (k - n) * few).div_(n).clamp_min_(_FAINT)

    def _valued(self, weight: Tensor, groups: Tensor, rows: Tensor | None) -> Tensor:
        """[3, unit, group]; of groups of so many ``rows`` how they predict the others."""
        if rows is None:
            value = _weighed(weight, positive_logs(groups).mul_(groups))
        else:
            value = predicted(groups, weight, rows, self.kinds.k)
        return torch.stack([value, _weighed(weight, (groups - 1).square_()) / 2, groups[..., -1]])


def _weighed(weight: Tensor, values: Tensor) -> Tensor:
    """Σ_j weight_j values_j of ``weight`` [unit, bin] and values [unit, group, bin]."""
    return torch.bmm(weight[:, None], values.mT)[:, 0]


def _members(number: Sequence[int]) -> Tensor:
    """[group, size] 1 where a group is of a size, of which there are so many."""
    at = torch.arange(len(number), device="cpu")
    return (at.repeat_interleave(torch.tensor(number, device="cpu"))[:, None] == at).double()


def predicted(means: Tensor, mean: Tensor, n: int | Tensor, k: int) -> Tensor:
    """X(n + 1) - C of every group: the mean of p · log(p̄ / q) over the rows that are not in it, nats [unit, group].

    Args:
        means: [unit, group, bin] the means of groups of n rows, from which q follows, divided by p̄.
        mean: [unit, bin] that of all rows, p̄.
        n: rows of a group, one number or [group].
        k: number of all rows.
    """
    log_q = positive_logs(means + FLOOR / (1 - FLOOR), spent=True)  # less log p̄, and log(1 - λ), the same everywhere
    of_all = k * _weighed(mean, log_q)
    return (n * _weighed(mean, log_q.mul_(means)) - of_all) / (k - n) - math.log1p(-FLOOR)


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
    centred, first, second = found - mean @ member.T
    products = torch.stack([centred * first, centred * second, first * first, first * second, second * second])
    v1, v2, s1, s12, s2 = products @ member
    floor = 1e-12 * (torch.stack([s1, s2]) + number * mean[1:].square())  # slope 0 if only rounding varies
    shared = s12 / (s1 + floor[0])  # what the second has of the first, which is taken from it
    own = s2 - shared * (2 * s12 - shared * s1) + floor[1]
    of_second = (v2 - shared * v1) / own * (excess[1] - shared * excess[0])
    return value - torch.where(number < _FEW, excess[0], v1 / (s1 + floor[0]) * excess[0] + of_second)


def _left(n: int, k: int) -> float:
    """How much of a variance is left in a mean of n of k rows."""
    return (1 / n - 1 / k) / (1 - 1 / k) if k > 1 else 1.0


def _on_cpu(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")
