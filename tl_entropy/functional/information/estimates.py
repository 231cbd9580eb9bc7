r"""Entropy and mutual information from sums of soft assignments, with what makes the numbers mean something.

A state z has a soft assignment p over m bins (``functional/information/soft.py``). For labels x, with p̄_x the mean assignment
of the rows of x and p̄ that of all N rows (Conklin 2025, arXiv 2505.23960),

    H(Z) = -Σ_j p̄_j log p̄_j,    I(X;Z) = H(Z) - Σ_x (n_x / N) H(p̄_x) = Σ_x (n_x / N) KL(p̄_x ‖ p̄).

That plug-in value has a ceiling, since an assignment is itself spread out, and it is far above 0 for labels that say nothing:

    ceiling   C  = H(Z) - mean_i H(p_i)                  reached when every label is seen once
    null      I₀ = mean of I over all permutations of the labels
    adjusted  C (I - I₀) / (C - I₀)                      0 in expectation for labels that say nothing, C for ones that tell all

The null needs no permutation. Under one, the rows of x are n_x rows drawn at random without replacement, so that

    I₀ = Σ_x (n_x / N) D(n_x),    D(n) = H(Z) - E[H(mean of n rows drawn at random)],

exactly; D(1) = C and D(N) = 0. D is a curve of the states alone, the same for every set of labels. ``chance_curve`` measures it
on a sample of rows, as r(n) = D(n) / C · (1 - 1/N) / (1/n - 1/N), which is 1 at n = 1 and rises smoothly to a limit.

Inside a label that says something, states lie closer together than random rows do, and share less by chance. The correction
takes them to share in proportion, (C - I) / C of the whole, with the same r(n): so it is right at both ends, and between
them low where labels are both rare and informative. Standard errors don't include that.

Sums come by group of rows, a group being the rows of one label in one fold of documents. All values are computed for the
whole and again with each fold left out, which gives every number built on them a standard error (the delete-a-group
jackknife; Busing, Meijer and van der Leeden 1999), correlations within documents included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import entropy, extensive
from tl_entropy.functional.statistics import group_sums

SAMPLE = 4096
"""Rows that the chance curve is measured on, at most."""

MIN_RESOLUTION = 0.01
"""Smallest (ceiling - null) / ceiling at which an adjusted value is given."""

MIN_CEILING = 1e-6
"""Smallest ceiling (nats): below, all states are assigned alike, and rounding is all that differs."""

_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True, eq=False)
class SoftSums:
    """Sums over groups of rows: the sufficient statistics of every value in this file.

    Attributes:
        mass: [group, unit, bin] Σ p_i.
        own: [group, unit] Σ H(p_i), nats.
        count: [group] number of rows.
        label: [group] number of the group's label; -1 for a group that pools labels seen once.
        fold: [group] number of the group's fold of documents.
    """

    mass: Tensor
    own: Tensor
    count: Tensor
    label: Tensor
    fold: Tensor


@dataclass(frozen=True, eq=False)
class Estimates:
    """Entropy and information in nats, each [1 + fold, unit]: of the whole first, then with each fold left out.

    ``fold_rows`` [fold] counts the rows of each fold; ``rows`` are all.
    """

    entropy: Tensor
    plug_in: Tensor
    null: Tensor
    ceiling: Tensor
    fold_rows: Tensor
    rows: float


@dataclass(frozen=True, eq=False)
class ChanceCurve:
    """r(n) of one unit: how much of the ceiling n random rows keep, as a factor on (1/n - 1/N) / (1 - 1/N).

    ``sizes`` [size] and ``factor`` [size] are measured; between them r is linear in log n, beyond them in 1/n up to ``limit``.
    """

    sizes: Tensor
    factor: Tensor
    limit: float

    def __call__(self, n: Tensor) -> Tensor:
        """The factor r of each number of rows ``n`` (any shape, at least 1), float64."""
        n = n.double()
        sizes, factor = self.sizes.to(n.device), self.factor.to(n.device)
        known, place = sizes.log(), n.log()
        right = torch.searchsorted(known, place).clamp(1, len(known) - 1) if len(known) > 1 else torch.ones_like(n).long()
        if len(known) > 1:
            step = (place - known[right - 1]) / (known[right] - known[right - 1])
            inside = factor[right - 1] + step * (factor[right] - factor[right - 1])
        else:
            inside = factor[0].expand_as(n)
        last = sizes[-1]
        beyond = self.limit + (factor[-1] - self.limit) * last / n
        return torch.where(n > last, beyond, inside)


def chance_curve(sample: Tensor, *, seed: int = 0, whole: bool = False) -> ChanceCurve:
    """Measure r(n) by drawing groups of n rows from ``sample`` [row, bin], rows of soft assignments drawn at random.

    Every size up to half the sample, or 256, is tried on disjoint groups of rows in several random orders (seeded); the limit
    for large n is the quadratic term of the entropy, ½ Σ_j Var(p_j) / p̄_j.

    Where the sample is the ``whole``, sizes above half of it are measured, too, on what groups of rows leave behind.

    D(n) is taken as the mean of KL(mean of n rows ‖ p̄). That has the expectation of H(p̄) - H(mean of n rows), but not its
    noise, which is linear in the states' spread and would bury D, quadratic in it, where all states point nearly one way.
    The quadratic term of the divergence, whose expectation is known, serves as a control variate.
    """
    k, bins = sample.shape
    sample = sample.double()
    mean = sample.mean(0)
    safe = mean.clamp_min(torch.finfo(torch.float64).tiny)
    half_spread = 0.5 * float((sample.var(0, correction=0) / safe).sum())
    own = float(entropy(mean) - entropy(sample).mean())
    if k < 2 or own < MIN_CEILING:  # nothing differs between rows, so that nothing is shared by chance either
        return ChanceCurve(_on_cpu([1]), _on_cpu([1]), 1.0)
    orders = min(256, max(2, 2 * SAMPLE // k))
    draw = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(k, generator=draw, device="cpu") for _ in range(orders)]).to(sample.device)
    shuffled = sample[order]
    sizes = [n for n in _SIZES if n == 1 or n <= k // 2]
    if whole:
        sizes = sorted({*sizes, max(k // 2, 1), *(k - n for n in sizes)} - {0})
    factors = [1.0]
    for n in sizes[1:]:
        size = min(n, k - n)
        groups = shuffled[:, : k // size * size].reshape(-1, size, bins).mean(1)
        groups = groups if size == n else ((k * mean - size * groups) / n).clamp_min(0)
        divergence = -(groups @ safe.log()) - entropy(groups)
        quadratic = 0.5 * (groups - mean).square() @ safe.reciprocal()
        left = (1 / n - 1 / k) / (1 - 1 / k)  # of a variance, in a mean of n of the k rows
        centred = quadratic - quadratic.mean()
        slope = float((centred @ divergence) / (centred @ centred + 1e-12 * quadratic @ quadratic))  # 0 if only rounding varies
        lost = float(divergence.mean()) - slope * (float(quadratic.mean()) - half_spread * left)
        factors.append(lost / own / left)
    return ChanceCurve(_on_cpu(sizes), _on_cpu(factors), half_spread / own)


def estimates(sums: SoftSums, curves: list[ChanceCurve], *, folds: int) -> Estimates:
    """H(Z), plug-in I(X;Z), its null and its ceiling, of the whole and with each fold left out.

    Args:
        sums: by label and fold, on one device, float64.
        curves: a chance curve for each unit.
        folds: number of folds; with fewer than two nothing is left out.

    Returns:
        The estimates; NaN where no row is left.
    """
    pairs = sums.label >= 0
    label, fold = sums.label[pairs], sums.fold[pairs]
    n_labels = int(label.max()) + 1 if len(label) else 0
    sizes = group_sums(sums.count[pairs], label, n_labels)  # [label]
    left = sizes[label] - sums.count[pairs]  # [pair] rows of the label outside the fold
    singles = group_sums(sums.count[~pairs], sums.fold[~pairs], folds)  # [fold]
    rows = _whole_and_parts(group_sums(sums.count, sums.fold, folds))
    found = []
    for unit, curve in enumerate(curves):
        mass, own = sums.mass[:, unit], sums.own[:, unit]
        by_label = group_sums(mass[pairs], label, n_labels)
        # Extensive entropies n H(p̄) add up over labels, so that leaving out a fold changes those of its labels only.
        whole = extensive(by_label)
        without = extensive(by_label[label] - mass[pairs]) - whole[label]
        alone = group_sums(own[~pairs], sums.fold[~pairs], folds)
        changes = group_sums(without, fold, folds) - alone
        conditional = _with_parts(whole.sum() + alone.sum(), changes)
        entropies = extensive(_whole_and_parts(group_sums(mass, sums.fold, folds))) / rows
        ceiling = entropies - _whole_and_parts(group_sums(own, sums.fold, folds)) / rows
        r, r_left = (torch.where(n > 0, curve(n.clamp_min(1)), 0.0) for n in (sizes, left))
        total = r.sum() + singles.sum(), (sizes * r).sum() + singles.sum()
        change = group_sums(r_left - r[label], fold, folds), group_sums(left * r_left - (sizes * r)[label], fold, folds)
        s0, s1 = (_with_parts(t, c - singles) for t, c in zip(total, change, strict=True))
        null = ceiling * (s0 - s1 / rows) / (rows - 1).clamp_min(1)  # of a single row 0, as its ceiling is
        found.append((entropies, entropies - conditional / rows, null, ceiling))
    entropies, plug_in, null, ceiling = (torch.stack(values, dim=1) for values in zip(*found, strict=True))
    return Estimates(entropies, plug_in, null, ceiling, group_sums(sums.count, sums.fold, folds), float(rows[0]))


def chance_adjusted(plug_in: Tensor, null: Tensor, ceiling: Tensor) -> Tensor:
    """Information corrected for chance, ceiling (plug_in - null) / (ceiling - null), in the unit given.

    It is NaN where the labels can't be told from chance, which is where (ceiling - null) / ceiling is below
    ``MIN_RESOLUTION``: nearly all labels are then seen once, and any states whatever would reach nearly the ceiling.

    >>> chance_adjusted(torch.tensor(1.5), torch.tensor(1.0), torch.tensor(2.0)).item()
    1.0
    """
    resolved = (ceiling > MIN_CEILING) & (ceiling - null >= MIN_RESOLUTION * ceiling)
    return torch.where(resolved, ceiling * (plug_in - null) / torch.where(resolved, ceiling - null, 1.0), math.nan)


def label_information(sums: SoftSums) -> tuple[Tensor, Tensor]:
    """KL(p̄_x ‖ p̄) of every label x [label, unit] in nats, never negative, and the number of rows of each [label].

    Weighted by the rows, and with the pooled groups of labels seen once, it averages to the plug-in I(X;Z) exactly.
    """
    pairs = sums.label >= 0
    n_labels = int(sums.label.max()) + 1 if len(sums.label) else 0
    sizes = group_sums(sums.count[pairs], sums.label[pairs], n_labels)
    by_label = group_sums(sums.mass[pairs], sums.label[pairs], n_labels)
    share, mean = (mass / mass.sum(-1, keepdim=True) for mass in (by_label, sums.mass.sum(0)))
    gain = (torch.xlogy(by_label, share) - torch.xlogy(by_label, mean)).sum(-1)
    return gain.clamp_min(0) / sizes[:, None], sizes


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


def _on_cpu(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _with_parts(whole: Tensor, changes: Tensor) -> Tensor:
    """[1 + fold, ...]: the whole, and what it is without each fold; the whole alone where there is one fold."""
    return torch.cat([whole[None], whole + changes]) if len(changes) > 1 else whole[None]


def _whole_and_parts(by_fold: Tensor) -> Tensor:
    """The same for sums that are never negative."""
    return _with_parts(by_fold.sum(0), -by_fold).clamp_min(0)
