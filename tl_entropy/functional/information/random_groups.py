"""Random groups of rows, their means, and what these say of how alike rows are (``functional/information/chance.py``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import dot, logs, positive_logs

FLOOR = 0.001
"""λ: how much of the mean of all rows is mixed into a mean that predicts, so that nothing is held to be impossible."""

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_SIZES_OF_C = (2, 3, 4, 6, 8, 16, 32, 64)
_FAINT = 1e-30  # as good as nothing, and has a logarithm
_SINGLE = 0.01  # nats of the ceiling, above which divergences from p̄ stand out from the rounding of single precision
_BEHIND = 64  # groups, at most, of each size that are left out
_LEAST_BEHIND = 1 / 32  # of the rows
_AT_ONCE = 2**19  # numbers of rows drawn, which stay in the cache with their groups


class Kinds:
    """How many groups of each size there are, of ``orders`` of ``each`` of ``k`` rows.

    Attributes:
        every: all groups.
        less: those without their last row, and ``rows_less`` [group] the rows of each.
        behind: where the sample is the ``whole``, and a label is ``largest``, above all others, what groups leave behind.
        number: of all these.
    """

    def __init__(self, k: int, orders: int, each: int, *, whole: bool, largest: float) -> None:
        sizes = [n for n in _SIZES if 1 < n <= k // 2]
        self.k, self.every = k, {n: orders * (each // n) for n in sizes}
        self.less = {n - 1: self.every[n] for n in sizes if n in _SIZES_OF_C}
        self.rows_less = torch.cat([torch.full((number,), n, device="cpu") for n, number in [*self.less.items(), (1, 0)]])
        above = whole and k > 2 and largest > max(sizes, default=1)
        few = {1: orders * each, **self.every, min(k // 2, each): orders} if above else {}
        # Labels of nearly all rows hold nothing by chance, whatever the factor.
        self.behind = {
            k - n: min(number, _BEHIND)
            for n, number in few.items() if k - n not in {1, *sizes} and n >= _LEAST_BEHIND * k
        }  # fmt: skip
        self.number = sum(sum(of.values()) for of in (self.every, self.less, self.behind))


class Moments(NamedTuple):
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


class Measured(NamedTuple):
    """What is known of all rows of each unit, and ``values`` [3, unit, group] of groups, in float64.

    These are of every group, of what is behind some, and of those without their last rows: the value, and two whose means are
    known. ``single`` [unit] says whether divergences from p̄ stand out from the rounding of the rows' dtype, which groups are in
    then.
    """

    ceiling: Tensor
    half_spread: Tensor
    values: Tensor
    single: Tensor


def measured(p: Tensor, entropies: Tensor | None, order: Tensor, kinds: Kinds) -> Measured:
    """Of units [unit, row, bin], some at a time: those whose groups stay in the cache."""
    units, _, bins = p.shape
    room: dict[tuple[torch.dtype, int], RandomGroups] = {}
    found: list[Measured] = []
    parts = min(units, -(-units * order.numel() * bins // _AT_ONCE))
    known = [None] * parts if entropies is None else entropies.tensor_split(parts)
    for some, own in zip(p.tensor_split(parts), known, strict=True):
        of = Moments.of(some, own)
        single = of.ceiling > _SINGLE
        if own is not None and not bool(single.all()):  # single precision would bury what is there
            exact = Moments.of(some[~single], None)
            of = Moments(*(one.index_put((~single,), more) for one, more in zip(of, exact, strict=True)))
            single = of.ceiling > _SINGLE
        values = of.mean.new_empty(3, len(some), kinds.number)
        for dtype, which in ((p.dtype, single), (torch.float64, ~single)):
            n = int(which.sum())
            if n:
                if (dtype, n) not in room:
                    room[dtype, n] = RandomGroups(n, order, bins, dtype, kinds)
                alike = (some, of) if n == len(some) else (some[which], Moments(*(one[which] for one in of)))
                values[:, which] = room[dtype, n].measured(*alike)
        found.append(Measured(of.ceiling, of.half_spread, values, single))
    ceilings, half_spreads, of_groups, singles = zip(*found, strict=True)
    return Measured(torch.cat(ceilings), torch.cat(half_spreads), torch.cat(of_groups, dim=1), torch.cat(singles))


class RandomGroups:
    """Room for rows drawn and for the means of their groups, which some units after others take.

    Groups are disjoint, made of two of half their size or of three rows, in each of several random orders of the rows.

    Attributes:
        rows: [unit, row, bin + 1] relative to p̄, which is the weight of each bin; KL(p_i ‖ p̄) is one bin more, of weight 0.
        every: [unit, group, bin + 1] means of all groups; less: of those without their last rows.
    """

    def __init__(self, units: int, order: Tensor, bins: int, dtype: torch.dtype, kinds: Kinds) -> None:
        self.kinds, self.order = kinds, order.flatten()
        orders, self.each = order.shape
        sizes = (order.numel(), sum(kinds.every.values()), sum(kinds.less.values()))
        self.rows, self.every, self.less = (torch.empty(units, n, bins + 1, dtype=dtype, device=order.device) for n in sizes)
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

    def measured(self, p: Tensor, of: Moments) -> Tensor:
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

    def _behind(self, of: Moments) -> Tensor:
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


def left_of(n: int, k: int) -> float:
    """How much of a variance is left in a mean of n of k rows."""
    return (1 / n - 1 / k) / (1 - 1 / k) if k > 1 else 1.0
