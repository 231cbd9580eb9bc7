r"""What random anchors add to the error of a value: values without some of the anchors.

The delete-d jackknife (Shao and Wu 1989) over anchors: each of R replicates leaves out d of the m anchors, a third of them, so
that w_j is 0 or 1. A row is then assigned w_j p_ij / D_i with D_i = Σ_k w_k p_ik, so that no states are needed. With E the mean
over the rows of the sample, and g_j = E[p_ij / D_i],

    H(Z) = -Σ_j w_j g_j log g_j,    H(p_i) = log D_i - Σ_j w_j p_ij log p_ij / D_i

and a value θ has the variance 1/R Σ_r (m - d)/d (θ_r - mean θ)².

By what factor the spread W_x = H(p̄_x) - E_x[H(p_i)] of labels changes is taken from the labels that have most rows there: the
information changes with the ceiling and with that factor of what is left, which needs no fold. Each round of replicates leaves
out every anchor once, and all are the same at every place, so that differences are of the same anchors.

The slope by an anchor's weight (the infinitesimal jackknife) is a third to a half of the spread over seeds: an anchor that has
half of a row changes it twice as much by going as the slope says. Leaving anchors out one by one counts twice what they do in
pairs (Efron and Stein 1981). docs/soft_information.md has how near a third comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from tl_entropy.functional.probabilities import dot, positive_logs
from tl_entropy.functional.statistics import group_sums

LABELS = 128
"""Labels that their spreads are measured on, at most."""

ROWS = 2048
"""Rows that they are measured on, at most."""

_AT_ONCE = 2**18  # numbers, which stay in the cache
_FAINT = 1e-30  # as good as nothing, and has a logarithm
_NONE = 1e-20  # of a row that no anchor of a replicate has any of
_SIZES = torch.tensor(sorted(n for k in range(16) for n in (2**k, 3 * 2**k)))  # of labels worked on together
_ROUNDING = 8  # times the rounding of the largest entropy: a spread that is no larger is none

_ROUNDS, _PARTS = 6, 3  # of replicates, each of which leaves out one of the parts: 18 know an error to a sixth of it


def replicates(n_bins: int) -> Tensor:
    """[1 + replicate, bin] which anchors there are: all, and in each replicate those without a third, drawn at random.

    >>> kept = replicates(5)[1:]
    >>> kept.sum(0).tolist(), kept.sum(1).tolist()[:3]
    ([12.0, 12.0, 12.0, 12.0, 12.0], [3.0, 3.0, 4.0])
    """
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(n_bins, generator=generator, device="cpu") for _ in range(_ROUNDS)]
    left_out = [part for order in orders for part in order.tensor_split(_PARTS)]
    return torch.stack([torch.ones(n_bins), *(torch.ones(n_bins).index_fill_(0, part, 0) for part in left_out)])


@dataclass(frozen=True, eq=False)
class SampledRows:
    """Rows drawn at random, on the first of which errors over anchors are measured: ``rows`` [row, unit, bin] soft assignments.

    Those errors are rough, so that they are measured in the dtype of the rows.
    """

    rows: Tensor

    @cached_property
    def p(self) -> Tensor:
        """[unit, row, bin] the first of the rows, nowhere 0, so that everything has a logarithm."""
        return self.rows[:ROWS].transpose(0, 1).clamp_min(_FAINT).contiguous()

    @cached_property
    def weights(self) -> Tensor:
        """[1 + replicate, bin] which anchors there are."""
        return replicates(self.p.shape[2]).to(self.p)

    @cached_property
    def scales(self) -> Tensor:
        """[replicate] what a replicate's distance from the mean counts in a standard error: √((m - d) / (d R))."""
        kept = self.weights[1:].double().mean(1)
        return (kept / ((1 - kept) * len(kept))).sqrt()

    @property
    def inverses(self) -> Tensor:
        """[unit, row, 1 + replicate] 1 / D, of rows that no anchor there has any of, one that means stay finite with."""
        return self._measured[0]

    @property
    def entropies(self) -> Tensor:
        """[unit, row, 1 + replicate] those of single rows, nats."""
        return self._measured[1]

    @property
    def sums(self) -> Tensor:
        """[unit, 1 + replicate, bin] Σ p / D."""
        return self._measured[2]

    @cached_property
    def total(self) -> Tensor:
        """[unit, 1 + replicate] the sum of all rows' entropies."""
        return self.entropies.sum(1)

    @cached_property
    def _measured(self) -> tuple[Tensor, Tensor, Tensor]:
        """Some units at a time, which stay in the cache."""
        units, rows, bins = self.p.shape
        inverses = self.p.new_empty(units, rows, len(self.weights))
        entropies, sums = torch.empty_like(inverses), self.p.new_empty(units, len(self.weights), bins)
        parts = -(-self.p.numel() // _AT_ONCE)
        for p, inverse, own, total in zip(*(of.tensor_split(parts) for of in (self.p, inverses, entropies, sums)), strict=True):
            torch.matmul(p, self.weights.mT, out=inverse).clamp_min_(_NONE).reciprocal_()
            torch.matmul(positive_logs(p).mul_(p), self.weights.mT, out=own)
            torch.addcmul(positive_logs(inverse), own, inverse, out=own).neg_().clamp_(0, math.log(bins))
            torch.bmm(inverse.mT, p, out=total)
        return inverses, entropies, sums

    def of_means(self, means: Tensor) -> Tensor:
        """[..., 1 + replicate] entropies of means [..., 1 + replicate, bin] of p / D, nats.

        Not of sums: n log n would have to be taken from those, next to which a spread is as small as its rounding.
        """
        return -dot(positive_logs(means).mul_(self.weights), means)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn at random with their labels.

    Attributes:
        drawn: the rows, which all label sets share.
        label: [row] number of the row's label; -1 for one seen once, -2 for none.
    """

    drawn: SampledRows
    label: Tensor

    def entropies(self) -> tuple[Tensor, Tensor]:
        """H(Z), and the mean entropy of single rows, [unit, 1 + replicate] both, of the rows that have a label."""
        drawn, label = self.drawn, self.label[:ROWS]
        without = (label < -1).nonzero()[:, 0]
        n = len(label) - len(without)
        sums, own = drawn.sums, drawn.total
        if len(without):
            sums = (sums - drawn.inverses[:, without].mT @ drawn.p[:, without]).clamp_min_(_FAINT)
            own = own - drawn.entropies[:, without].sum(1)
        return drawn.of_means(sums / n).double(), own.double() / n


class SampledLabels:
    """The labels that spreads are measured on, of those of some block: which rows of a sample they have.

    Args:
        label: [row] number of each row's label, as of a ``Sample``.
        held: [label] whether two folds hold it, of the block's labels.
        first: number of the first of them.
    """

    def __init__(self, label: Tensor, held: Tensor, first: int = 0) -> None:
        label = label[:ROWS]
        frequent, count = label[label >= 0].unique(return_counts=True)
        frequent, count = frequent[count >= 2], count[count >= 2]
        frequent = frequent[count.argsort(descending=True, stable=True)[:LABELS]].sort().values - first
        frequent = frequent[(frequent >= 0) & (frequent < len(held))]
        chosen = torch.isin(label - first, frequent).nonzero()[:, 0]
        place = torch.searchsorted(frequent, label[chosen] - first)
        count = torch.bincount(place, minlength=len(frequent))
        by_size = count.argsort(stable=True)  # labels of one size one after the other
        self.held, self.count, self.n_rows = held[frequent[by_size]], count[by_size], len(label)
        rows = chosen[by_size.argsort()[place].argsort(stable=True)]  # label after label
        # Labels of about one size are filled up to one, with a row that has no share in them.
        sizes_tried = _SIZES.to(label.device)
        self.wide = sizes_tried[torch.searchsorted(sizes_tried, self.count)]
        of_label = torch.arange(len(self.count), device=label.device).repeat_interleave(self.count)
        skipped = (self.wide - self.count).cumsum(0) - (self.wide - self.count)
        at = torch.arange(len(rows), device=label.device) + skipped[of_label]
        self.rows = rows.new_zeros(int(self.wide.sum())).index_copy_(0, at, rows)
        self.share = self.rows.double().zero_().index_copy_(0, at, 1 / self.count.double()[of_label])
        sizes, number = self.wide.unique_consecutive(return_counts=True)
        self.sizes = list(zip(sizes.tolist(), number.tolist(), strict=True))
        self._layouts: dict[tuple[int, int], tuple[Any, ...]] = {}

    def spreads(self, drawn: SampledRows, units: slice) -> Tensor:
        """[unit, 2, 1 + replicate] Σ n_x W_x, of all labels here and of those in two folds."""
        of = (drawn.p[units], drawn.inverses[units], drawn.entropies[units])
        n_units, at_once = len(of[0]), max(1, _AT_ONCE // drawn.sums[0].numel())
        if (n_units, at_once) not in self._layouts:
            self._layouts[n_units, at_once] = (*self._layout(n_units), self._parts(n_units, at_once))
        rows, means_of, share, subsets, parts = self._layouts[n_units, at_once]
        share = share.to(of[0])
        p, inverses, own = (one.flatten(0, 1).index_select(0, rows) for one in of)
        room = p.new_empty(at_once, *drawn.sums[0].shape)
        split, found, end = [some * size for _, some, size in parts], [room[:0, :, 0]], 0
        for (first, some, size), weights, of_rows in zip(parts, inverses.mul_(share).split(split), p.split(split), strict=True):
            end = first + some
            torch.bmm(weights.view(some, size, -1).mT, of_rows.view(some, size, -1), out=room[first:end])
            if end == at_once:
                found.append(drawn.of_means(room))
        entropies = torch.cat([*found, drawn.of_means(room[: end % at_once])])
        spreads = entropies - group_sums(own.mul_(share), means_of, len(entropies))
        alike = _ROUNDING * torch.finfo(spreads.dtype).eps * math.log(p.shape[1])
        found_of: Tensor = subsets @ hardshrink(spreads, alike).double()
        return found_of.view(n_units, 2, -1)

    def _parts(self, n_units: int, at_once: int) -> list[tuple[int, int, int]]:
        """Labels of one size that fit in what is left of the room: the first's place there, how many, and of what size."""
        parts, first = [], 0
        for size, number in self.sizes:
            left = number * n_units
            while left:
                some = min(left, at_once - first)
                parts.append((first, some, size))
                left, first = left - some, (first + some) % at_once
        return parts

    def _layout(self, n_units: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where the labels of so many units stand, those of one size together, and of these a unit's.

        Returns:
            [row] the row among those of all units, [row] the number of the mean that it is in, [row, 1] its share of that, and
            [2 · unit, mean] how many rows each mean has of a unit: any, and of labels in two folds.
        """
        unit = torch.arange(n_units, device=self.rows.device)[:, None]
        labels = torch.arange(len(self.count), device=unit.device)
        runs = [number for _, number in self.sizes]
        of_size = [size * number for size, number in self.sizes]
        rows = torch.cat([self.rows[:0], *((unit * self.n_rows + one).flatten() for one in self.rows.split(of_size))])
        share = torch.cat([self.share[:0], *(one.expand(n_units, -1).flatten() for one in self.share.split(of_size))])
        of_label = torch.cat([labels[:0], *(one.expand(n_units, -1).flatten() for one in labels.split(runs))])
        of_unit = torch.cat([labels[:0], *(unit.expand(-1, number).flatten() for number in runs)])
        count = self.count[of_label]
        means_of = torch.arange(len(count), device=unit.device).repeat_interleave(self.wide[of_label])
        subsets = (of_unit == unit)[:, None] * torch.stack([count, count * self.held[of_label]])
        return rows, means_of, share[:, None], subsets.flatten(0, 1).double()
