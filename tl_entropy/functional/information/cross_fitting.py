r"""The spread of states within labels, without the bias of few rows: plug-in and cross-fitted spread, weighed.

For label x and fold of documents g, with n_xg rows, M_xg = Σ p_i their summed assignments, M_x and n_x sums over g, p̄ the mean
over all rows, and E the mean over the rows of x,

    W_x = H(M_x / n_x) - E[H(p)]                                   plug-in spread: too small, since entropy is concave
    q_xg = (1 - λ) (M_x - M_xg) / (n_x - n_xg) + λ p̄               the mean of x without fold g, λ = .001
    X_x = -1/n_x Σ_g M_xg · log q_xg - E[H(p)]                     cross-fitted spread: too large, a cross-entropy
    β_x = A / (A + B) · c(n_x),   A = 1/n_x,   B = Σ_g (n_xg/n_x) / (n_x - n_xg)
    S_x = W_x + β_x (X_x - W_x)                                    estimate of H(E[p]) - E[H(p)]

With rows independent given x and V = Σ_j Var(p_j)/E[p_j], W_x lacks V/2n and X_x exceeds by V B/2 to first order, which β_x
balances; c(n), measured on random groups of rows (``functional/information/chance.py``), takes care of higher orders. Fold g
never predicts itself, so that labels of documents or spans are no special case. A label that is in one fold only has no X: of
its spread nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from tl_entropy.functional.information.random_groups import FLOOR
from tl_entropy.functional.probabilities import dot, logs, positive_logs
from tl_entropy.functional.statistics import group_sums

_FAINT = 1e-30  # as good as nothing, and has a logarithm


@dataclass(frozen=True, eq=False)
class SoftSums:
    """Sums over groups of rows: the sufficient statistics of every value.

    Attributes:
        mass: [group, unit, bin] Σ p_i.
        own: [group, unit] Σ H(p_i), nats.
        count: [group] number of rows.
        label: [group] number of the group's label; -1 for a group that pools labels seen once.
        fold: [group] number of the group's fold of documents.
        first: no label is below this number: that of the first label, where these are the sums of some labels alone.
    """

    mass: Tensor
    own: Tensor
    count: Tensor
    label: Tensor
    fold: Tensor
    first: int = 0

    @property
    def numbers(self) -> int:
        """Numbers of the sums of a unit."""
        return self.mass[:, 0].numel()

    def of_units(self, units: slice) -> SoftSums:
        """Those of some units."""
        return SoftSums(self.mass[:, units], self.own[:, units], self.count, self.label, self.fold, self.first)


@dataclass(frozen=True, eq=False)
class SumsAsAsked:
    """``SoftSums`` that are put together for some units at a time, which then stay in the cache.

    Attributes:
        put_together: for a slice of the units [group, unit, bin + 1], with Σ H(p_i) as the last.
        numbers: of the sums of a unit.
        count, label, fold: as of ``SoftSums``.
    """

    put_together: Callable[[slice], Tensor]
    numbers: int
    count: Tensor
    label: Tensor
    fold: Tensor
    first: int = 0

    def of_units(self, units: slice) -> SoftSums:
        """Those of some units."""
        mass = self.put_together(units).transpose(0, 1)
        bins = mass[..., :-1].contiguous()  # of rows that lie apart sums take several times as long
        return SoftSums(bins.transpose(0, 1), mass[..., -1].mT, self.count, self.label, self.fold, self.first)


@dataclass(frozen=True, eq=False)
class Whole:
    """Sums over all rows by fold, whatever their labels; differentiable where the sums are.

    Attributes:
        by_fold: [unit, fold, bin] summed assignments.
        own: [unit, fold] Σ H(p_i), nats.
        counts: [fold] number of rows.
    """

    by_fold: Tensor
    own: Tensor
    counts: Tensor

    @classmethod
    def of(cls, sums: SoftSums, folds: int) -> Self:
        """Those of sums of all labels, in ``folds`` folds, empty ones included."""
        by_fold, own = (group_sums(of.transpose(0, 1), sums.fold, folds, dim=1) for of in (sums.mass, sums.own))
        return cls(by_fold, own, group_sums(sums.count, sums.fold, folds))

    @classmethod
    def of_folds(cls, summed: Tensor, counts: Tensor) -> Self:
        """Those of what each fold holds, [fold, unit, bin + 1] with Σ H(p_i) as the last, and of its rows [fold]."""
        return cls(summed[..., :-1].transpose(0, 1), summed[..., -1].mT, counts)

    @classmethod
    def joined(cls, parts: Sequence[Whole]) -> Self:
        """Those of the units of all parts."""
        return cls(torch.cat([part.by_fold for part in parts]), torch.cat([part.own for part in parts]), parts[0].counts)

    def of_units(self, units: slice) -> Whole:
        """Those of some units."""
        return Whole(self.by_fold[units], self.own[units], self.counts)

    @property
    def rows(self) -> Tensor:
        """Number of rows."""
        return self.counts.sum()

    @cached_property
    def mean(self) -> Tensor:
        """[unit, 1, bin] p̄, nowhere 0, so that a part of it gives everything a logarithm."""
        return normalised(self.by_fold.sum(1, keepdim=True)).clamp_min(_FAINT)

    @cached_property
    def log_mean(self) -> Tensor:
        """[unit, 1, bin] log p̄."""
        return positive_logs(self.mean)

    def ceilings(self) -> tuple[Tensor, Tensor]:
        """The ceiling W of all rows [unit], and S, which has no bias of few rows; NaN in one fold."""
        rows, present = self.rows, self.counts > 0
        ceiling = (-(self.by_fold * self.log_mean).sum((1, 2)) - self.own.sum(1)) / rows
        if int(present.sum()) < 2:
            return ceiling, torch.full_like(ceiling, torch.nan)
        mass, counts = self.by_fold[:, present], self.counts[present]
        left = normalised((self.by_fold.sum(1, keepdim=True) - mass).clamp_min(0))
        gap = (mass * (self.log_mean - positive_logs((1 - FLOOR) * left + FLOOR * self.mean))).sum((1, 2)) / rows
        return ceiling, ceiling + gap / (1 + (counts / (rows - counts)).sum())


@dataclass(frozen=True, eq=False)
class Groups:
    """What is known of groups of rows from their counts alone, the same for all units.

    Attributes:
        pairs: [pair] which groups are of one label and have rows; first those whose label is in two folds or more.
        label: [pair], from 0, which is the first label of the sums; fold: [pair]; count: [pair].
        sizes: [label] rows of each label.
        held: [label] number of folds that hold it.
        n_inside: number of pairs whose label is in two folds or more.
        weight: [label] A / (A + B); 0 for labels in one fold.
        singles: number of rows whose label was seen once.
    """

    pairs: Tensor
    label: Tensor
    fold: Tensor
    count: Tensor
    sizes: Tensor
    held: Tensor
    n_inside: int
    weight: Tensor
    singles: Tensor

    @classmethod
    def of(cls, count: Tensor, label: Tensor, fold: Tensor, first: int = 0) -> Self:
        """Of the numbers of rows, labels and folds [group] of ``SoftSums``, whose first label is ``first``."""
        pairs = ((label >= 0) & (count > 0)).nonzero()[:, 0]
        n_labels = max(0, int(label.max()) + 1 - first) if len(label) else 0
        held = torch.bincount(label[pairs] - first, minlength=n_labels)
        inside = held[label[pairs] - first] >= 2
        pairs, singles = torch.cat([pairs[inside], pairs[~inside]]), count[label < 0].sum()
        label, fold, count = label[pairs] - first, fold[pairs], count[pairs]
        sizes, inside = group_sums(count, label, n_labels), held[label] >= 2
        share = torch.where(inside, count / (sizes[label] - count).clamp_min(1), 0.0)
        weight = torch.where(held >= 2, 1 / (1 + group_sums(share, label, n_labels)), 0.0)
        return cls(pairs, label, fold, count, sizes, held, int(inside.sum()), weight, singles)

    @cached_property
    def in_order(self) -> bool:
        """Whether the pairs are the first groups, one after the other."""
        return torch.equal(self.pairs, torch.arange(len(self.pairs), device=self.pairs.device))

    def of_pairs(self, values: Tensor) -> Tensor:
        """[unit, pair, ...] what is there of all groups [group, unit, ...]."""
        if self.in_order:
            return values[: len(self.pairs)].transpose(0, 1)
        return values.transpose(0, 1).index_select(1, self.pairs)

    @property
    def label_inside(self) -> Tensor:
        """[pair inside] its label."""
        return self.label[: self.n_inside]

    @property
    def fold_inside(self) -> Tensor:
        """[pair inside] its fold."""
        return self.fold[: self.n_inside]

    @property
    def count_inside(self) -> Tensor:
        """[pair inside] its rows."""
        return self.count[: self.n_inside]

    @cached_property
    def classes(self) -> tuple[Tensor, Tensor]:
        """[class] classes of sizes of labels in two folds or more, round(2 log2 n), and [pair inside] which is its label's."""
        kinds, which = (2 * self.sizes[self.label_inside].log2()).round().long().unique(return_inverse=True)
        return kinds, which

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor, Tensor]:
        """[size] the sizes that labels have, [label] which of them each has, and [size] how many labels each is of."""
        sizes, which, number = self.sizes.unique(return_inverse=True, return_counts=True)
        return sizes, which, number


class Fit:
    """Cross-entropies of the groups of all units, in nats; differentiable where the sums are.

    Args:
        sums: of the groups.
        whole: sums over all rows.
        groups: the groups.
        c: [unit, size] c(n) of each of their distinct sizes.
        dtype: in which groups are predicted from others, where no gradient is asked for.

    Attributes:
        whole: sums over all rows.
        mass: [unit, pair, bin] M_xg; own: [unit, pair] Σ H(p_i).
        by_label: [unit, label, bin] M_x; label_means: [unit, label, bin] p̄_x.
        beta: [unit, label] β_x; 0 for labels in one fold.
    """

    def __init__(self, sums: SoftSums, whole: Whole, groups: Groups, c: Tensor, dtype: torch.dtype = torch.float64) -> None:
        self.whole, self.groups = whole, groups
        self.dtype = sums.mass.dtype if sums.mass.requires_grad else dtype
        self.mass = groups.of_pairs(sums.mass)
        self.by_label = group_sums(self.mass, groups.label, len(groups.sizes), dim=1)
        self.own = groups.of_pairs(sums.own)
        self.label_means = normalised(self.by_label)
        self.beta = groups.weight * c[:, groups.distinct[1]]

    @cached_property
    def log_label_means(self) -> Tensor:
        """[unit, label, bin] log p̄_x."""
        return logs(self.label_means)

    @cached_property
    def within(self) -> Tensor:
        """[unit, pair] n_xg times its part in W_x: -M_xg · log p̄_x - Σ H(p_i)."""
        return -dot(self.log_label_means.index_select(1, self.groups.label), self.mass) - self.own

    @cached_property
    def mass_inside(self) -> Tensor:
        """[unit, pair inside, bin] M_xg, in ``dtype``."""
        return self.mass[:, : self.groups.n_inside].to(self.dtype)

    @property
    def own_inside(self) -> Tensor:
        """[unit, pair inside] Σ H(p_i)."""
        return self.own[:, : self.groups.n_inside]

    @cached_property
    def others(self) -> Tensor:
        """[unit, pair inside, bin] M_x - M_xg, in ``dtype``."""
        of_label, mass = self.by_label.index_select(1, self.groups.label_inside), self.mass[:, : self.groups.n_inside]
        others = of_label - mass if mass.requires_grad else of_label.sub_(mass)
        return others.to(self.dtype).clamp_min_(_FAINT)

    @cached_property
    def across(self) -> Tensor:
        """[unit, pair inside] the same as within of X_x: -M_xg · log q_xg - Σ H(p_i)."""
        return self.predicted(FLOOR)

    @cached_property
    def spread(self) -> Tensor:
        """[unit, pair inside] the same of S_x."""
        within, beta = self.within[:, : self.groups.n_inside], self.beta[:, self.groups.label_inside]
        return within + beta * (self.across - within)

    @cached_property
    def predictors(self) -> Tensor:
        """[unit, pair inside, bin] the mean of x without the fold."""
        return normalised(self.others)

    @cached_property
    def change(self) -> Tensor:
        """[unit, pair inside, bin] p̄ less the predictors."""
        return self.whole.mean.to(self.dtype) - self.predictors

    def predicted(self, share: float | Tensor) -> Tensor:
        """[unit, pair inside] -M_xg · log q - Σ H(p_i), with ``share`` of p̄ mixed into the mean of x without the fold.

        Args:
            share: one, or [unit, pair inside, 1] in ``dtype``.
        """
        if isinstance(share, Tensor):
            q = torch.addcmul(self.predictors, self.change, share)
        else:
            q = torch.add(self.predictors, self.change, alpha=share)
        return -dot(positive_logs(q, spent=True), self.mass_inside).to(self.own) - self.own_inside


def normalised(mass: Tensor) -> Tensor:
    """``mass`` [..., bin] divided by its sum, which is not counted: so a rounding of the assignments cancels."""
    return mass / mass.sum(-1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)
