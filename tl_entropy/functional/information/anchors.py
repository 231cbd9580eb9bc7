r"""What random anchors add to the error of a value: values with anchors drawn anew from those that are there.

The bootstrap over anchors (Efron 1979): m of the m anchors are drawn with replacement, so that anchor j counts w_j times. A row
is then assigned w_j p_ij / D_i with D_i = Σ_k w_k p_ik, so that no states are needed, and copies of an anchor are one bin that
has w_j times its share of what is uniform. With E the mean over the rows of the sample, and g_j = E[p_ij / D_i],

    H(Z) = -Σ_j w_j g_j log g_j,    H(p_i) = log D_i - Σ_j w_j p_ij log p_ij / D_i

By what factor the spread W_x = H(p̄_x) - E_x[H(p_i)] of labels changes is taken from the labels that have most rows there: the
information changes with the ceiling and with that factor of what is left, which needs no fold. Replicates are
balanced, so that all anchors are drawn equally often, and the same at every place, so that differences are of the same anchors.

The slope by an anchor's weight (the infinitesimal jackknife) is a third to a half of the spread over seeds: an anchor that has
half of a row changes it twice as much by going as the slope says. Leaving anchors out one by one counts twice what they do in
pairs (Efron and Stein 1981). docs/soft_information.md has how near the bootstrap comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from tl_entropy.functional.probabilities import logs
from tl_entropy.functional.statistics import group_sums

LABELS = 64
"""Labels that their spreads are measured on, at most."""

_AT_ONCE = 2**17  # numbers, which stay in the cache
_ROUNDING = 8  # times the rounding of the largest entropy: a spread that is no larger is none

REPLICATES = 50
"""Draws of anchors, at most: the error of a standard error from so many is a tenth of it."""


def replicates(n_bins: int) -> Tensor:
    """[1 + replicate, bin] how often each anchor counts: once, and in each replicate as often as it was drawn.

    >>> drawn = replicates(5)[1:]
    >>> drawn.sum(0).tolist(), drawn.sum(1).tolist()
    ([5.0, 5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0, 5.0])
    """
    number = min(n_bins, REPLICATES)
    order = torch.randperm(number * n_bins, generator=torch.Generator().manual_seed(0), device="cpu") % n_bins
    drawn = torch.zeros(number, n_bins).scatter_add_(1, order.view(number, n_bins), torch.ones(number, n_bins))
    return torch.cat([torch.ones(1, n_bins), drawn])


@dataclass(frozen=True, eq=False)
class SampledRows:
    """Rows drawn at random, on which errors over anchors are measured: ``rows`` [row, unit, bin] soft assignments.

    Those errors are rough, so that they are measured in the dtype of the rows.
    """

    rows: Tensor

    @cached_property
    def p(self) -> Tensor:
        """[unit, row, bin] the same."""
        return self.rows.transpose(0, 1).contiguous()

    @cached_property
    def p_log_p(self) -> Tensor:
        """[unit, row, bin] p log p."""
        return logs(self.p).mul_(self.p)

    @cached_property
    def weights(self) -> Tensor:
        """[1 + replicate, bin] how often each anchor counts."""
        return replicates(self.p.shape[2]).to(self.p)

    @cached_property
    def inverses(self) -> Tensor:
        """[unit, row, 1 + replicate] 1 / D, of rows that no drawn anchor has any of, one that means stay finite with."""
        return (self.p @ self.weights.mT).clamp_min_(1e-30).reciprocal_()

    @cached_property
    def entropies(self) -> Tensor:
        """[unit, row, 1 + replicate] those of single rows, nats."""
        found = logs(self.inverses).addcmul_(self.p_log_p @ self.weights.mT, self.inverses).neg_()
        return found.clamp_(0, math.log(self.p.shape[2]))

    @cached_property
    def total(self) -> Tensor:
        """[unit, 1 + replicate] the sum of all rows' entropies."""
        return self.entropies.sum(1)

    @cached_property
    def sums(self) -> Tensor:
        """[unit, 1 + replicate, bin] Σ p / D."""
        return self.inverses.mT @ self.p

    def of_means(self, means: Tensor) -> Tensor:
        """[..., 1 + replicate] entropies of means [..., 1 + replicate, bin] of p / D, nats.

        Not of sums: n log n would have to be taken from those, next to which a spread is as small as its rounding.
        """
        found: Tensor = logs(means).mul_(means).mul_(self.weights).sum(-1)
        return -found


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn at random with their labels.

    Attributes:
        drawn: the rows, which all label sets share.
        label: [row] number of the row's label; -1 for one seen once, -2 for none.
    """

    drawn: SampledRows
    label: Tensor

    @cached_property
    def frequent(self) -> Tensor:
        """[label] the labels that spreads are measured on: those with most of the rows, and two or more."""
        label, count = self.label[self.label >= 0].unique(return_counts=True)
        label, count = label[count >= 2], count[count >= 2]
        chosen: Tensor = label[count.argsort(descending=True, stable=True)[:LABELS]].sort().values
        return chosen

    def entropies(self) -> tuple[Tensor, Tensor]:
        """H(Z), and the mean entropy of single rows, [unit, 1 + replicate] both, of the rows that have a label."""
        drawn, without = self.drawn, (self.label < -1).nonzero()[:, 0]
        n = len(self.label) - len(without)
        sums, own = drawn.sums, drawn.total
        if len(without):
            sums = (sums - drawn.inverses[:, without].mT @ drawn.p[:, without]).clamp_min_(0)
            own = own - drawn.entropies[:, without].sum(1)
        return drawn.of_means(sums / n).double(), own.double() / n


class SampledLabels:
    """The rows of a sample whose label is one of the frequent ones in some block.

    Args:
        sample: the sample.
        held: [label] whether two folds hold it, of the block's labels.
        first: number of the first of them.
    """

    def __init__(self, sample: Sample, held: Tensor, first: int) -> None:
        label = sample.frequent - first
        label = label[(label >= 0) & (label < len(held))]
        chosen = torch.isin(sample.label - first, label).nonzero()[:, 0]
        place = torch.searchsorted(label, sample.label[chosen] - first)
        count = torch.bincount(place, minlength=len(label))
        order = place.argsort(stable=True)
        self.drawn, self.held, self.count = sample.drawn, held[label], count
        self.rows, self.place = chosen[order], place[order]  # label after label

    def spreads(self, units: slice) -> Tensor:
        """[unit, 2, 1 + replicate] Σ n_x W_x, of all labels here and of those in two folds."""
        drawn, n_labels = self.drawn, len(self.count)
        of = (drawn.p, drawn.inverses, drawn.entropies)
        p, inverses, own = (one[units].index_select(1, self.rows) for one in of)
        share = 1 / self.count[self.place].to(p)[:, None]  # of each row in the mean of its label
        spreads = -group_sums(own.mul_(share).transpose(0, 1), self.place, n_labels)  # [label, unit, 1 + replicate]
        inverses.mul_(share)
        of_labels = list(zip(inverses.split(self.count.tolist(), 1), p.split(self.count.tolist(), 1), strict=True))
        at_once = max(1, _AT_ONCE // (len(p) * p.shape[2] * inverses.shape[2]))
        for first in range(0, n_labels, at_once):
            some = of_labels[first : first + at_once]
            means = p.new_empty(len(some), len(p), inverses.shape[2], p.shape[2])
            for mean, (weights, rows) in zip(means, some, strict=True):
                torch.bmm(weights.mT, rows, out=mean)
            spreads[first : first + at_once] += drawn.of_means(means)
        spreads = hardshrink(spreads, _ROUNDING * torch.finfo(p.dtype).eps * math.log(p.shape[2]))  # of rows that are alike
        subsets = torch.stack([torch.ones_like(self.held), self.held]).double() * self.count
        return (subsets @ spreads.double().transpose(0, 1)).contiguous()
