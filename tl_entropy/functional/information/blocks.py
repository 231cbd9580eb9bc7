r"""The estimates of ``functional/information/estimates.py``, label by label: blocks of labels, one after the other.

Once the sums over all rows are known (p̄, and what is needed of each fold), every value is a sum over labels. So where the sums
of all labels at once would be too much for memory, they may come in blocks, each with all groups of its labels. The lower
bound's mixtures are chosen for each class of label sizes, of all blocks together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from tl_entropy.functional.information.anchors import Sample, SampledLabels
from tl_entropy.functional.information.cross_fitting import Fit, Groups, SoftSums, SumsAsAsked, Whole
from tl_entropy.functional.information.curves import ChanceCurve, corrections, factors
from tl_entropy.functional.probabilities import dot, extensive, positive_logs
from tl_entropy.functional.statistics import group_sums

_AT_ONCE = 2**19  # numbers of the sums: fewer would stay in the cache, but make several threads wait for each other
_MIXTURES = (0.001, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)  # parts of p̄ tried for the lower bound
_CLASSES = 128  # of sizes of labels: 2 log2 of an int64 is below


@dataclass(frozen=True, eq=False)
class Estimates:
    """Values in nats; columns are [1 + fold + bin, unit] (without bins where there was no sample), others [unit].

    ``fold_rows`` [fold] counts the rows of each fold; ``rows`` are all, ``rows_inside`` those of labels in two folds or more.
    """

    information: Tensor
    entropy: Tensor
    plug_in: Tensor
    null: Tensor
    ceiling: Tensor
    corrected_ceiling: Tensor
    lower: Tensor
    fold_jackknife: Tensor
    fold_rows: Tensor
    rows: float
    rows_inside: float


@dataclass(frozen=True, eq=False)
class LabelEstimates:
    """What the states say about single labels, in nats, each [label, unit], and ``counts`` [label].

    Attributes:
        information: KL(p̄_x ‖ p̄), corrected: -p̄_x · log p̄ - mean H(p_i) - S_x; unbiased, so it may be below 0; NaN for labels
            in one fold. Weighted by the counts it averages to I + C - S where every label is in two folds or more.
        se: its standard error over the folds that hold the label.
        plug_in: KL(p̄_x ‖ p̄), never negative. Weighted by the counts, and with labels seen once, it averages to the plug-in I.
        entropy: H(Z given x), that of p̄_x.
        counts: number of rows of each label; 0 for those that were not seen, whose values mean nothing.
    """

    information: Tensor
    se: Tensor
    plug_in: Tensor
    entropy: Tensor
    counts: Tensor


class Blocks:
    """Estimates of labels that come in blocks: all groups of some labels at a time, each label once.

    Args:
        whole: sums over all rows, labels seen once included; the number of folds will do where one block has all rows.
        curves: a chance curve for each unit.
        sample: rows for errors over anchors; None leaves these out.
        keep_labels: keep the values of single labels, too; blocks then come in the order of labels.
    """

    def __init__(
        self, whole: Whole | int, curves: Sequence[ChanceCurve], sample: Sample | None = None, *, keep_labels: bool = False
    ) -> None:
        self._whole, self.curves, self.sample, self.keep_labels = whole, curves, sample, keep_labels
        self._sums: dict[str, Tensor] = {}
        self.rows_inside = torch.zeros(())  # [fold] rows in labels of two folds or more
        self._labels: list[list[Tensor]] = []

    @property
    def whole(self) -> Whole:
        """Sums over all rows, once they are known."""
        return cast("Whole", self._whole)

    def add(
        self, sums: SoftSums | SumsAsAsked, *, alone: bool = False, groups: Groups | None = None,
        frequent: SampledLabels | None = None,
    ) -> None:  # fmt: skip
        """Take in a block of labels, or of rows whose labels were seen once.

        Args:
            sums: of the block.
            alone: whether there is no other block.
            groups: what is known of them from their counts, where that is at hand.
            frequent: likewise, of their labels in the sample.
        """
        groups = groups or Groups.of(sums.count, sums.label, sums.fold, sums.first)
        if self.sample is not None and frequent is None:
            frequent = SampledLabels(self.sample.label, groups.held >= 2, sums.first)
        found: list[dict[str, Tensor]] = []
        single: list[tuple[Tensor, ...]] = []
        wholes: list[Whole] = []
        for part, fit in _fits(sums, groups, self._whole, self.curves):
            found.append(_of_units(fit, every=not alone))
            if self.sample is not None and frequent is not None:
                with torch.no_grad():
                    found[-1]["anchors"] = frequent.spreads(self.sample.drawn, part)
            if self.keep_labels:
                with torch.no_grad():
                    single.append(_of_labels(fit))
            wholes.append(fit.whole)
        if not isinstance(self._whole, Whole):
            self._whole = Whole.joined(wholes)
        values = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        values["null"] = _null_parts(groups, self.curves)
        self._sums = {name: self._sums[name] + value for name, value in values.items()} if self._sums else values
        self.rows_inside = self.rows_inside + group_sums(groups.count_inside, groups.fold_inside, len(self.whole.counts))
        if single:
            self._labels.append([torch.cat(one).mT for one in zip(*single, strict=True)] + [groups.sizes])

    def estimates(self) -> Estimates:
        """The estimates over all labels that came."""
        whole, counts, rows, sums = self.whole, self.whole.counts, self.whole.rows, self._sums
        rows_inside = self.rows_inside.sum()
        ceiling, corrected = whole.ceilings()
        cross = -(whole.by_fold * whole.log_mean).sum(-1)  # [unit, fold]
        within, spread = sums["within"], sums["spread"]
        entropy, conditional, left = cross.sum(1) / rows, within.sum(1) / rows, spread.sum(1) / rows_inside
        # What each fold adds to a mean over rows: its sum less its rows times the mean, by all rows.
        parts = {
            "entropy": (cross - counts * entropy[:, None]) / rows,
            "ceiling": (cross - whole.own - counts * ceiling[:, None]) / rows,
            "conditional": (within - counts * conditional[:, None]) / rows,
            "left": (spread - self.rows_inside * left[:, None]) / rows_inside,
        }
        present = int((counts > 0).sum())
        factor = math.sqrt(present / (present - 1)) if present > 1 else math.nan
        parts = {name: factor * one.detach() for name, one in parts.items()}
        if self.sample is not None:
            of_anchors = self._of_anchors(self.sample)
            parts = {name: torch.cat([parts[name], one], dim=1) for name, one in of_anchors.items()}

        def column(value: Tensor, one: Tensor) -> Tensor:
            return torch.cat([value[None], value - one.mT])

        spreads = column(ceiling, parts["ceiling"])
        with torch.no_grad():
            # Each class of sizes predicts with the mixture that is best for it.
            lower = (rows_inside * ceiling - sums["mixed"].amin(-1).sum(-1)) / rows
            by_fold, total = whole.by_fold[:, counts > 0], whole.by_fold.sum(1)
            jackknife = by_fold.shape[1] * extensive(total) - extensive(total[:, None] - by_fold).sum(1) - whole.own.sum(1)
        return Estimates(
            information=column(corrected - left, parts["ceiling"] - parts["left"]),
            entropy=column(entropy, parts["entropy"]),
            plug_in=column(ceiling - conditional, parts["ceiling"] - parts["conditional"]),
            # I₀ / C; of a single row 0, as its ceiling is.
            null=spreads * (sums["null"][:, 0] - sums["null"][:, 1] / rows) / (rows - 1).clamp_min(1),
            ceiling=spreads,
            corrected_ceiling=corrected,
            lower=lower if rows_inside > 0 else torch.full_like(lower, torch.nan),
            fold_jackknife=jackknife / rows - sums["jackknife"] / rows_inside,
            fold_rows=counts,
            rows=float(rows),
            rows_inside=float(rows_inside),
        )

    def label_estimates(self) -> LabelEstimates:
        """The values of every single label that came."""
        information, se, plug_in, own, sizes = map(torch.cat, zip(*self._labels, strict=True))
        return LabelEstimates(information, se, plug_in, own, sizes)

    @torch.no_grad()
    def _of_anchors(self, sample: Sample) -> dict[str, Tensor]:
        """[unit, replicate] what anchors add: how far each replicate's value is from their mean, as much as that counts."""
        entropy, own = sample.entropies()
        spreads = self._sums["anchors"]
        factor = torch.where(spreads[..., :1] > 0, spreads / spreads[..., :1], 1.0)  # by which the labels' spread changes
        rows_inside = self.rows_inside.sum()
        conditional, left = self._sums["within"].sum(1) / self.whole.rows, self._sums["spread"].sum(1) / rows_inside
        values = {
            "entropy": entropy, "ceiling": entropy - own, "conditional": conditional[:, None] * factor[:, 0],
            "left": left[:, None] * factor[:, 1],
        }  # fmt: skip
        without = {name: one[:, 1:] for name, one in values.items()}
        if self.whole.mean.shape[-1] == 2:  # one alone has no entropy, whichever it is: that says nothing
            return {name: torch.full_like(one, math.nan) for name, one in without.items()}
        return {name: (one - one.mean(1, keepdim=True)) * sample.drawn.scales for name, one in without.items()}


def _fits(
    sums: SoftSums | SumsAsAsked, groups: Groups, whole: Whole | int, curves: Sequence[ChanceCurve]
) -> Iterator[tuple[slice, Fit]]:
    """As many units at once as are worked on soonest, those of one precision."""
    at_once = max(1, _AT_ONCE // max(1, sums.numbers))
    c, first = corrections(curves, groups.distinct[0].clamp_min(2)), 0
    for dtype, alike in itertools.groupby(curve.dtype for curve in curves):
        units = len(list(alike))
        parts = -(-units // at_once)
        for i in range(parts):  # of about one size
            part = slice(first + i * units // parts, first + (i + 1) * units // parts)
            of = sums.of_units(part)
            of_all = whole.of_units(part) if isinstance(whole, Whole) else Whole.of(of, whole)
            yield part, Fit(of, of_all, groups, c[part], dtype)
        first += units


def _of_units(fit: Fit, *, every: bool) -> dict[str, Tensor]:
    """What the labels of a block add, each [unit, ...]; ``every`` mixture is tried, or the best that the block needs."""
    groups, n_folds = fit.groups, len(fit.whole.counts)
    found = {
        "within": group_sums(fit.within, groups.fold, n_folds, dim=1),
        "spread": group_sums(fit.spread, groups.fold_inside, n_folds, dim=1),
    }
    with torch.no_grad():
        found |= {"mixed": _mixed(fit, every=every), "jackknife": _fold_jackknife(fit)}
    return found


def _null_parts(groups: Groups, curves: Sequence[ChanceCurve]) -> Tensor:
    """[unit, 2] Σ r(n_x) and Σ n_x r(n_x), of which the null is made."""
    sizes, _, number = groups.distinct
    r = torch.where(sizes > 0, factors(curves, sizes.clamp_min(1)), 0.0)
    return r @ torch.stack([number, number * sizes], dim=1).to(r) + groups.singles


def _mixed(fit: Fit, *, every: bool) -> Tensor:
    """[unit, class of sizes, mixture] summed cross-entropies that the lower bound is made of; infinite where not tried.

    X_x(a) is convex in a, so that the best of the mixtures lies where its slope changes sign; slopes need no logarithm. Where
    other labels of a class come in another block, that cannot be told yet, and ``every`` mixture is tried.
    """
    groups, units = fit.groups, len(fit.mass)
    found = fit.mass.new_zeros(units, _CLASSES, len(_MIXTURES))
    if not groups.n_inside:
        return found
    kinds, size = groups.classes
    classes, mixtures = len(kinds), torch.tensor(_MIXTURES, dtype=fit.dtype, device=found.device)

    def of_class(values: Tensor) -> Tensor:
        return group_sums(values, size, classes, dim=1)  # [unit, class]

    if every:
        found[:, kinds] = torch.stack([of_class(fit.predicted(share)) for share in _MIXTURES], dim=-1)
        return found
    # The best is not nearly as exact as its value has to be.
    predictors, change, mass = (one.float() for one in (fit.predictors, fit.change, fit.mass_inside))
    weighed, steps = mass * change, mixtures.float()
    last = torch.ones(units, classes, dtype=torch.long, device=found.device)  # of two neighbours, the best of which is the best
    most = torch.full_like(last, len(mixtures) - 1)
    for _ in range((len(mixtures) - 2).bit_length()):
        middle = (last + most) // 2
        q = torch.addcmul(predictors, change, steps[middle][:, size, None])
        rises = of_class(torch.div(weighed, q, out=q).sum(-1)) <= 0
        last, most = torch.where(rises | (last == most), last, middle + 1), torch.where(rises, middle, most)
    tried = found.new_full((units, classes, len(mixtures)), torch.inf)
    for at in (last - 1, last):
        tried.scatter_(2, at[..., None], of_class(fit.predicted(mixtures[at][:, size, None]))[..., None])
    found[:, kinds] = tried
    return found


def _fold_jackknife(fit: Fit) -> Tensor:
    """Σ n_x S^J_x over labels in two folds or more."""
    groups = fit.groups
    held = torch.where(groups.held >= 2, groups.held, 0)
    labels = (held * (fit.by_label * fit.log_label_means).sum(-1)).sum(1)
    found: Tensor = dot(positive_logs(fit.predictors), fit.others).double().sum(1) - labels - fit.own_inside.sum(1)
    return found


def _of_labels(fit: Fit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each [unit, label]."""
    groups, whole, means, log_means = fit.groups, fit.whole, fit.label_means, fit.log_label_means
    n_labels, label, fold = len(groups.sizes), groups.label_inside, groups.fold_inside

    def of_label(values: Tensor) -> Tensor:
        return group_sums(values, label, n_labels, dim=1)

    entropy = -(means * log_means).sum(-1)
    plug_in = ((fit.by_label * (log_means - whole.log_mean)).sum(-1) / groups.sizes).clamp_min(0)
    gained = -(fit.mass[:, : groups.n_inside] * whole.log_mean).sum(-1) - fit.own_inside - fit.spread  # [unit, pair]
    own = of_label(gained) / groups.sizes
    known = groups.held >= 2
    mine = (gained - groups.count_inside * own[:, label]) / groups.sizes[label]
    # The mean of all rows moves, too: p̄ changes by `moved` with each fold, and -p̄_x · log p̄ by -(p̄_x / p̄) · moved.
    moved = (whole.by_fold - whole.counts[:, None] * whole.mean) / whole.rows
    ratio = means / whole.mean.clamp_min(torch.finfo(means.dtype).tiny)
    through = (ratio @ moved.mT)[:, label, fold]
    squares = of_label(mine.square() - 2 * mine * through) + ((ratio @ (moved.mT @ moved)) * ratio).sum(-1)
    se = (squares.clamp_min(0) * groups.held / (groups.held - 1).clamp_min(1)).sqrt()
    return torch.where(known, own, torch.nan), torch.where(known, se, torch.nan), plug_in, entropy
