r"""Entropy and mutual information from sums of soft assignments, with what makes the numbers mean something.

A state z has a soft assignment p over m bins (``functional/information/soft.py``). For labels x, with p̄_x the mean assignment
of the rows of x and p̄ that of all N rows (Conklin 2025, arXiv 2505.23960),

    H(Z) = -Σ_j p̄_j log p̄_j,    plug-in I(X;Z) = H(Z) - Σ_x (n_x / N) H(p̄_x) = Σ_x (n_x / N) KL(p̄_x ‖ p̄).

The plug-in value is far above 0 for labels that say nothing, since few rows of a label look less spread than they are. So the
information is the difference of two spreads that are corrected for that (``functional/information/cross_fitting.py``):

    I = S - Σ_{x in P} n_x S_x / Σ_{x in P} n_x,    S of all rows, S_x of those of x, P the labels in two folds or more.

It is 0 in expectation for labels that say nothing, of any sizes, and S for labels that tell all. Labels in one fold are left
out: they are taken to say as much as the others. Beside it stand

    ceiling   C  = H(Z) - mean_i H(p_i)                  of the plug-in value: reached when every label is seen once
    corrected ceiling S                                  of the information
    null      I₀ = mean of the plug-in I over all permutations of the labels
    adjusted  C (I - I₀) / (C - I₀)                      the information of 0.5.0: low where labels are rare and informative
    lower     1/N Σ_{x in P} n_x (C - min_a X_x(a))      a bound on I in expectation (Barber and Agakov 2003), X_x(a) the
                                                         cross-fitted spread with a part a of p̄ in what predicts
    fold jackknife S^J - mean_P S^J_x                    S^J_x = [G_x E(M_x) - Σ_g E(M_x - M_xg)] / n_x - mean H(p_i), with
                                                         E(M) = n H(M / n) and G_x folds; what few rows a label leave open
                                                         is its distance from I

The null needs no permutation. Under one, the rows of x are n_x rows drawn at random without replacement, so that
I₀ = Σ_x (n_x / N) D(n_x) exactly, with D the curve of ``functional/information/chance.py``.

**Errors.** A value is a sum over folds of documents, to first order: θ ≈ Σ_f u_f + constant, and its variance over documents is
F/(F-1) Σ_f u_f². It depends on the random anchors, too, which is θ ≈ Σ_j a_j + constant with the infinitesimal jackknife over
anchors, a_j = mean_i p_ij (s_ij - Σ_k p_ik s_ik), s_i = log(p̄_x / p̄) for I and log(p_i / p̄) for C, and m/(m-1) Σ_j a_j² its
variance. So every value comes as a column: the value, then the value less each √(F/(F-1)) u_f, then less each √(m/(m-1)) a_j.
The variance of anything computed alike from every entry of columns is the sum of its squared distances from the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tl_entropy.functional.information.chance import MIN_CEILING, ChanceCurve, logs
from tl_entropy.functional.information.cross_fitting import Fit, Groups, SoftSums
from tl_entropy.functional.probabilities import extensive
from tl_entropy.functional.statistics import group_sums

MIN_RESOLUTION = 0.01
"""Smallest (ceiling - null) / ceiling at which a value adjusted for chance is given."""

MIN_ROWS = 50
"""Fewest rows in labels of two folds or more from which information is given."""

_AT_ONCE = 2**20  # numbers of the sums
_MIXTURES = (0.001, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)  # parts of p̄ tried for the lower bound


@dataclass(frozen=True, eq=False)
class SampledRows:
    """Rows drawn at random, on which errors over anchors are measured: ``rows`` [row, unit, bin] soft assignments."""

    rows: Tensor

    @cached_property
    def p(self) -> Tensor:
        """[unit, row, bin] the same, float64."""
        return self.rows.transpose(0, 1).double().contiguous()

    @cached_property
    def p_log_p(self) -> Tensor:
        """[unit, row, bin] p log p."""
        return logs(self.p).mul_(self.p)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn at random with their labels.

    Attributes:
        drawn: the rows, which all label sets share.
        label: [row] number of the row's label; -1 for one seen once, -2 for none.
    """

    drawn: SampledRows
    label: Tensor


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


def estimates(sums: SoftSums, curves: list[ChanceCurve], *, folds: int, sample: Sample | None = None) -> Estimates:
    """H(Z), I(X;Z) and all that stands beside it, with what each fold of documents and each anchor contributes to its error.

    Args:
        sums: by label and fold, on one device, float64.
        curves: a chance curve for each unit.
        folds: number of folds; with fewer than two that have rows there is no information, and no error over documents.
        sample: rows for errors over anchors; None leaves these out.

    Returns:
        The estimates. The information is NaN where no label is in two folds; see ``reason_for_nan``.
    """
    groups = Groups.of(sums, folds)
    found = [_of_units(fit, curves[part], sample, part) for part, fit in _fits(sums, groups, curves)]
    values = {name: torch.cat([one[name] for one in found], dim=-1) for name in found[0]}
    return Estimates(**values, fold_rows=groups.fold_rows, rows=float(groups.rows), rows_inside=float(groups.rows_inside.sum()))


def _fits(sums: SoftSums, groups: Groups, curves: Sequence[ChanceCurve]) -> Iterator[tuple[slice, Fit]]:
    """As many units at once as stay in the cache."""
    at_once = max(1, _AT_ONCE // max(1, sums.mass[:, 0].numel()))
    for first in range(0, len(curves), at_once):
        part = slice(first, first + at_once)
        yield part, Fit(sums.of_units(part), groups, curves[part])


def _of_units(fit: Fit, curves: Sequence[ChanceCurve], sample: Sample | None, part: slice) -> dict[str, Tensor]:
    groups, rows = fit.groups, fit.groups.rows
    counts, n_folds, inside = groups.fold_rows, len(groups.fold_rows), groups.inside
    rows_inside = groups.rows_inside.sum()
    ceiling, corrected = fit.whole()
    cross = -(fit.by_fold * fit.log_mean).sum(-1)  # [unit, fold]
    within = group_sums(fit.within.mT, groups.fold, n_folds).mT
    spread = group_sums(fit.spread.mT, groups.fold[inside], n_folds).mT
    entropy, conditional, left = cross.sum(1) / rows, within.sum(1) / rows, spread.sum(1) / rows_inside
    # What each fold adds to a mean over rows: its sum less its rows times the mean, by all rows.
    parts = {
        "entropy": (cross - counts * entropy[:, None]) / rows,
        "ceiling": (cross - fit.own_by_fold - counts * ceiling[:, None]) / rows,
        "conditional": (within - counts * conditional[:, None]) / rows,
        "left": (spread - groups.rows_inside * left[:, None]) / rows_inside,
    }
    present = int((counts > 0).sum())
    factor = math.sqrt(present / (present - 1)) if present > 1 else math.nan
    parts = {name: factor * one.detach() for name, one in parts.items()}
    if sample is not None:
        parts = {name: torch.cat([parts[name], one], dim=1) for name, one in _of_anchors(fit, sample, part).items()}

    def column(value: Tensor, one: Tensor) -> Tensor:
        return torch.cat([value[None], value - one.mT])

    spreads = column(ceiling, parts["ceiling"])
    with torch.no_grad():
        lower, jackknife = _lower(fit, ceiling), _fold_jackknife(fit)
    return {
        "information": column(corrected - left, parts["ceiling"] - parts["left"]),
        "entropy": column(entropy, parts["entropy"]),
        "plug_in": column(ceiling - conditional, parts["ceiling"] - parts["conditional"]),
        "null": spreads * torch.stack([_null_share(groups, curve) for curve in curves]),
        "ceiling": spreads,
        "corrected_ceiling": corrected,
        "lower": lower,
        "fold_jackknife": jackknife,
    }


@torch.no_grad()
def _of_anchors(fit: Fit, sample: Sample, part: slice) -> dict[str, Tensor]:
    """[unit, bin] what each anchor adds, times √(m/(m-1)), from the rows of the sample that have a label."""
    p, p_log_p, label = sample.drawn.p[part], sample.drawn.p_log_p[part], sample.label
    labelled = label >= -1
    if not bool(labelled.all()):
        p, p_log_p, label = p[:, labelled], p_log_p[:, labelled], label[labelled]
    factor, rows = math.sqrt(p.shape[2] / (p.shape[2] - 1)), len(label)

    def influence(of_anchors: Tensor, of_rows: Tensor) -> Tensor:
        """From Σ_i p_ij s_ij [unit, subset, bin] and Σ_j p_ij s_ij [unit, subset, row], each of several subsets of rows."""
        return factor * (of_anchors - of_rows @ p)

    mean = fit.log_mean
    entropy = influence(-mean * p.sum(1, keepdim=True), -(mean @ p.mT))[:, 0] / rows
    own = influence(p_log_p.sum(1, keepdim=True), p_log_p.sum(-1)[:, None])[:, 0] / rows
    # A label seen once says all that its state can.
    repeated, held = label >= 0, torch.zeros(rows, dtype=torch.bool, device=label.device)
    held[repeated] = fit.groups.held[label[repeated]] >= 2
    if bool(repeated.any()):
        weighed = fit.log_label_means[:, label.clamp_min(0)].mul_(p).neg_().add_(p_log_p)
        subsets = torch.stack([repeated, held]).to(p.dtype)
        within = influence(subsets @ weighed, subsets * weighed.sum(-1)[:, None])
    else:
        within = p.new_zeros(len(p), 2, p.shape[2])
    return {"entropy": entropy, "ceiling": own + entropy, "conditional": within[:, 0] / rows, "left": within[:, 1] / held.sum()}


def _null_share(groups: Groups, curve: ChanceCurve) -> Tensor:
    """I₀ / C."""
    r = torch.where(groups.sizes > 0, curve(groups.sizes.clamp_min(1)), 0.0)
    rows, singles = groups.rows, groups.singles
    total, weighed = r.sum() + singles, (groups.sizes * r).sum() + singles
    return (total - weighed / rows) / (rows - 1).clamp_min(1)  # of a single row 0, as its ceiling is


def _lower(fit: Fit, ceiling: Tensor) -> Tensor:
    """The lower bound, with the mixture that predicts best chosen for each class of label sizes.

    X_x(a) is convex in a, so that the best of the mixtures lies where its slope changes sign; slopes need no logarithm.
    """
    groups = fit.groups
    if not bool(groups.inside.any()):
        return torch.full_like(ceiling, torch.nan)
    size = (2 * groups.sizes[groups.label_inside].log2()).round().long().unique(return_inverse=True)[1]
    classes, mixtures = int(size.max()) + 1, fit.mean.new_tensor(_MIXTURES)

    def of_class(values: Tensor) -> Tensor:
        return group_sums(values.mT, size, classes).mT  # [unit, class]

    change = fit.mean - fit.predictors
    weighed = fit.mass_inside * change
    first = torch.zeros(len(ceiling), classes, dtype=torch.long, device=ceiling.device)
    last = torch.full_like(first, len(mixtures))
    for _ in range(len(mixtures).bit_length()):
        middle = (first + last) // 2
        share = mixtures[middle.clamp_max(len(mixtures) - 1)][:, size, None]
        q = torch.addcmul(fit.predictors, change, share).clamp_min_(torch.finfo(change.dtype).tiny)
        rises = of_class((weighed / q).sum(-1)) <= 0
        first, last = torch.where(rises | (first == last), first, middle + 1), torch.where(rises, middle, last)
    around = [mixtures[at.clamp(0, len(mixtures) - 1)][:, size, None] for at in (first - 1, first)]
    spread = torch.minimum(*(of_class(fit.predicted(share)) for share in around))
    return (groups.rows_inside.sum() * ceiling - spread.sum(1)) / groups.rows


def _fold_jackknife(fit: Fit) -> Tensor:
    """S^J of all rows less the mean of S^J_x over labels in two folds or more."""
    groups, by_fold = fit.groups, fit.by_fold[:, fit.groups.fold_rows > 0]
    held, total = groups.held >= 2, by_fold.sum(1)
    whole = by_fold.shape[1] * extensive(total) - extensive(total[:, None] - by_fold).sum(1) - fit.own_by_fold.sum(1)
    labels = (groups.held[held] * extensive(fit.by_label[:, held])).sum(1)
    labels = labels - extensive(fit.others).sum(1) - fit.own_inside.sum(1)
    found: Tensor = whole / groups.rows - labels / groups.rows_inside.sum()
    return found


def error(columns: Tensor) -> Tensor:
    """Standard error of what was computed alike from columns of ``Estimates``, over the first axis; NaN without entries.

    >>> round(error(torch.tensor([2.0, 2.3, 1.6])).item(), 6)
    0.5
    """
    if len(columns) < 2:
        return torch.full_like(columns[0], torch.nan)
    return (columns[1:] - columns[:1]).square().sum(0).sqrt()


def chance_adjusted(plug_in: Tensor, null: Tensor, ceiling: Tensor) -> Tensor:
    """Information corrected for chance, ceiling (plug_in - null) / (ceiling - null), in the unit given.

    It is NaN where the labels can't be told from chance, which is where (ceiling - null) / ceiling is below
    ``MIN_RESOLUTION``: nearly all labels are then seen once, and any states whatever would reach nearly the ceiling.

    >>> chance_adjusted(torch.tensor(1.5), torch.tensor(1.0), torch.tensor(2.0)).item()
    1.0
    """
    resolved = (ceiling > MIN_CEILING) & (ceiling - null >= MIN_RESOLUTION * ceiling)
    return torch.where(resolved, ceiling * (plug_in - null) / torch.where(resolved, ceiling - null, 1.0), math.nan)


def reason_for_nan(ceiling: float, rows_inside: float, folds: int) -> str:
    """Why information is NaN; empty where it can be given.

    Args:
        ceiling: in nats.
        rows_inside: number of rows whose label is in two folds or more.
        folds: number of folds with rows.
    """
    if ceiling <= MIN_CEILING:
        return "the ceiling is 0: all states are assigned alike"
    if folds < 2:
        return "one fold of documents: a label can't be told from its document; give several documents, or split a long one"
    if rows_inside < MIN_ROWS:
        return f"labels too rare: {rows_inside:.0f} rows have a label that two folds of documents hold, {MIN_ROWS} are needed"
    return ""


@dataclass(frozen=True, eq=False)
class LabelEstimates:
    """What the states say about single labels, in nats, each [label, unit], and ``counts`` [label].

    Attributes:
        information: KL(p̄_x ‖ p̄), corrected: -p̄_x · log p̄ - mean H(p_i) - S_x; unbiased, so it may be below 0; NaN for labels
            in one fold. Weighted by the counts it averages to I + C - S over labels in two folds or more.
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


@torch.no_grad()
def label_estimates(sums: SoftSums, curves: list[ChanceCurve], *, folds: int) -> LabelEstimates:
    """The values of every single label; arguments as for ``estimates``.

    The error takes the rows of x by fold, and what those of all folds change in p̄.
    """
    groups = Groups.of(sums, folds)
    found = [_of_labels(fit) for _, fit in _fits(sums, groups, curves)]
    information, se, plug_in, own = (torch.cat(values).mT for values in zip(*found, strict=True))
    return LabelEstimates(information, se, plug_in, own, groups.sizes)


def _of_labels(fit: Fit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each [unit, label]."""
    groups, means, log_means = fit.groups, fit.label_means, fit.log_label_means
    n_labels, label, fold = len(groups.sizes), groups.label_inside, groups.fold[groups.inside]

    def of_label(values: Tensor) -> Tensor:
        return group_sums(values.mT, label, n_labels).mT

    entropy = -(means * log_means).sum(-1)
    plug_in = ((fit.by_label * (log_means - fit.log_mean)).sum(-1) / groups.sizes).clamp_min(0)
    gained = -(fit.mass_inside * fit.log_mean).sum(-1) - fit.own_inside - fit.spread  # [unit, pair]
    own = of_label(gained) / groups.sizes
    known = groups.held >= 2
    mine = (gained - groups.count[groups.inside] * own[:, label]) / groups.sizes[label]
    # The mean of all rows moves, too: p̄ changes by `moved` with each fold, and -p̄_x · log p̄ by -(p̄_x / p̄) · moved.
    moved = (fit.by_fold - groups.fold_rows[:, None] * fit.mean) / groups.rows
    ratio = means / fit.mean.clamp_min(torch.finfo(means.dtype).tiny)
    through = (ratio @ moved.mT)[:, label, fold]
    squares = of_label(mine.square() - 2 * mine * through) + ((ratio @ (moved.mT @ moved)) * ratio).sum(-1)
    se = (squares.clamp_min(0) * groups.held / (groups.held - 1).clamp_min(1)).sqrt()
    return torch.where(known, own, torch.nan), torch.where(known, se, torch.nan), plug_in, entropy


def delete_one(assignments: Tensor, label: Tensor) -> Tensor:
    """The jackknife estimate of I(X;Z) in nats that leaves out one row at a time: N I - (N - 1) mean of the I without a row.

    Args:
        assignments: [row, bin].
        label: [row], dense numbers from 0.
    """
    n = len(label)
    mass = assignments.double()
    by_label = group_sums(mass, label, int(label.max()) + 1)
    whole = extensive(by_label)
    plug_in = (extensive(mass.sum(0)) - whole.sum()) / n
    changes = extensive(by_label[label] - mass) - whole[label]
    without = (extensive(mass.sum(0) - mass) - whole.sum() - changes) / (n - 1)
    return n * plug_in - (n - 1) * without.mean()
