r"""Entropy and mutual information from sums of soft assignments, with what makes the numbers mean something.

A state z has a soft assignment p over m bins (``functional/information/soft.py``). For labels x, with p̄_x the mean assignment
of the rows of x and p̄ that of all N rows (Conklin 2025, arXiv 2505.23960),

    H(Z) = -Σ_j p̄_j log p̄_j,    plug-in I(X;Z) = H(Z) - Σ_x (n_x / N) H(p̄_x) = Σ_x (n_x / N) KL(p̄_x ‖ p̄).

The plug-in value is far above 0 for labels that say nothing, since few rows of a label look less spread than they are. So the
information is the difference of two spreads that are corrected for that (``functional/information/cross_fitting.py``):

    I = S - Σ_{x in P} n_x S_x / Σ_{x in P} n_x,    S of all rows, S_x of those of x, P the labels in two folds or more.

It is 0 in expectation for labels that say nothing, of any sizes, where their rows are in different folds (above it where
few rows share few folds: docs/soft_information.md), and S for labels that tell all. Labels in one fold are left
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
F/(F-1) Σ_f u_f². It depends on the random anchors, too: with b the values for
anchors that are drawn anew from these, less their mean, the variance over draws is Σ b² / (B-1), of B of them
(``functional/information/anchors.py``). So every value comes as a column: the value, then the value less each √(F/(F-1)) u_f,
then less each b / √(B-1).
The variance of anything computed alike from every entry of columns is the sum of its squared distances from the first.

All of it is a sum over labels once the sums over all rows are known (``functional/information/blocks.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tl_entropy.functional.information.anchors import Sample
from tl_entropy.functional.information.blocks import Blocks, Estimates, LabelEstimates
from tl_entropy.functional.information.chance import MIN_CEILING
from tl_entropy.functional.information.cross_fitting import SoftSums, Whole
from tl_entropy.functional.information.curves import ChanceCurve
from tl_entropy.functional.probabilities import extensive
from tl_entropy.functional.statistics import group_sums

MIN_RESOLUTION = 0.01
"""Smallest (ceiling - null) / ceiling at which a value adjusted for chance is given."""

MIN_ROWS = 50
"""Fewest rows in labels of two folds or more from which information is given."""


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
    blocks = Blocks(Whole.of(sums, folds), curves, sample)
    blocks.add(sums, alone=True)
    return blocks.estimates()


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


@torch.no_grad()
def label_estimates(sums: SoftSums, curves: list[ChanceCurve], *, folds: int) -> LabelEstimates:
    """The values of every single label; arguments as for ``estimates``.

    The error takes the rows of x by fold, and what those of all folds change in p̄.
    """
    blocks = Blocks(Whole.of(sums, folds), curves, keep_labels=True)
    blocks.add(sums, alone=True)
    return blocks.label_estimates()


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
