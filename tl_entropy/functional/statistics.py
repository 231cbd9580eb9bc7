"""Means over tokens, with errors that respect documents.

Tokens of one document are correlated, so the standard error of a mean over tokens is that of a ratio of document sums:

    m = Σ_d S_d / Σ_d n_d,    se² = D / (D - 1) · Σ_d (S_d - m n_d)² / (Σ_d n_d)²

with S_d the sum and n_d the number of tokens of document d (the linearised, or "cluster-robust", variance of a ratio
estimator; Cochran, Sampling Techniques, 3rd ed., section 6.4). It needs five sums only, so parts of a corpus can be merged.
"""

from __future__ import annotations

import heapq

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

FOLDS = 20
"""Folds of documents, for errors."""


def group_sums(values: Num[Tensor, "..."], group: Int[Tensor, "rows"], groups: int, dim: int = 0) -> Num[Tensor, "..."]:
    """Sums of ``values`` by the group of each row along ``dim``, in their dtype; differentiable. Groups are numbered from 0.

    >>> group_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 3).tolist()
    [2.0, 0.0, 5.0]
    """
    shape = [*values.shape[:dim], groups, *values.shape[dim + 1 :]]
    return torch.zeros(shape, dtype=values.dtype, device=values.device).index_add_(dim, group, values)


def document_sums(
    values: Float[Tensor, "rows ..."], documents: Int[Tensor, "rows"]
) -> tuple[Int[Tensor, "documents"], Float[Tensor, "documents ..."], Float[Tensor, "documents"]]:
    """Sums of ``values`` [rows, ...] and numbers of rows by document.

    Returns:
        The documents seen [documents], their float64 sums [documents, ...], and their counts [documents] (float64).

    >>> [part.tolist() for part in document_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([7, 7, 9]))]
    [[7, 9], [3.0, 4.0], [2.0, 1.0]]
    """
    seen, index = documents.unique(return_inverse=True)
    return seen, group_sums(values.double(), index, len(seen)), torch.bincount(index, minlength=len(seen)).double()


def clustered_mean(n: Tensor, s: Tensor, nn: Tensor, ns: Tensor, ss: Tensor, documents: int) -> tuple[Tensor, Tensor]:
    """Mean over tokens and its standard error over documents, from sums over documents.

    Args:
        n: Σ n_d, all tokens (a scalar, or of a shape that broadcasts against ``s``).
        s: Σ S_d [...].
        nn: Σ n_d².
        ns: Σ n_d S_d [...].
        ss: Σ S_d² [...].
        documents: D, the number of documents; with fewer than two the error is NaN.

    Returns:
        The mean [...] and its standard error [...], in the unit of the values; NaN where there is no token.

    >>> n, s = torch.tensor([2.0, 1.0]), torch.tensor([3.0, 4.0])
    >>> mean, error = clustered_mean(n.sum(), s.sum(), (n * n).sum(), (n * s).sum(), (s * s).sum(), 2)
    >>> round(mean.item(), 4), round(error.item(), 4)
    (2.3333, 1.1111)
    """
    mean = s / n
    if documents < 2:
        return mean, torch.full_like(mean, torch.nan)
    spread = (ss - 2 * mean * ns + mean * mean * nn).clamp_min(0)
    return mean, (spread * documents / (documents - 1)).sqrt() / n


def jackknife_error(values: Tensor, fold_rows: Tensor) -> Tensor:
    r"""Standard error of a value by the delete-a-group jackknife for groups of unequal size.

    With h_j = N / n_j and θ_(j) the value without group j, the pseudo-values are τ_j = h_j θ - (h_j - 1) θ_(j), their
    weighted mean is θ_J = Σ_j τ_j / h_j, and se² = (1 / g) Σ_j (τ_j - θ_J)² / (h_j - 1).

    Args:
        values: [1 + group, ...]; the value of the whole first, then with each group left out.
        fold_rows: [group], sizes of the groups; empty groups don't count.

    Returns:
        Standard error [...], in the unit of the values; NaN with fewer than two groups.

    Source: Busing, Meijer and van der Leeden (1999), Delete-m jackknife for unequal m, equations 3 to 5.

    >>> means = torch.tensor([2.0, 2.5, 2.0, 1.5], dtype=torch.float64)  # of 1, 2, 3; and without each
    >>> round(jackknife_error(means, torch.tensor([1.0, 1.0, 1.0])).item(), 6)
    0.57735
    """
    return jackknife_scores(values, fold_rows).square().sum(0).sqrt()


def jackknife_scores(values: Tensor, fold_rows: Tensor) -> Tensor:
    """[group, ...] what each group adds to the error of ``jackknife_error``: that is the root of the sum of their squares.

    So the covariance of two values from the same groups is the sum of the products of their scores. Empty groups add 0.
    """
    present = fold_rows > 0
    groups = int(present.sum())
    if groups < 2 or len(values) < 2:
        return values.new_full((max(1, len(fold_rows)), *values.shape[1:]), torch.nan)
    left_out = values[1:][present]
    h = (fold_rows.sum().to(values.dtype) / fold_rows[present]).reshape(-1, *[1] * (values.ndim - 1))
    pseudo = h * values[0] - (h - 1) * left_out
    centre = (pseudo / h).sum(0)
    scores = torch.zeros_like(values[1:])
    scores[present] = (pseudo - centre) / (groups * (h - 1)).sqrt()
    return scores


def sampled_error(scores: Float[Tensor, "rows ..."], documents: Int[Tensor, "rows"], population: int) -> Float[Tensor, "..."]:
    r"""Standard error of a mean over all tokens, from scores of a sample of them; tokens of one document go together.

    With n tokens sampled of N, f = n / N, the scores s_i less their mean, and S_d their sums by document,

        se² = D/(D-1) / N² · (Σ_i s_i² / f + (Σ_d S_d² - Σ_i s_i²) / f²),

    since both of a pair of tokens are sampled with the probability f². With all tokens it is that of document sums. What pairs
    add is known only roughly from few of them, and may come out below 0: se² is at least (1 - f) times that of tokens which
    know nothing of each other.

    Args:
        scores: [row, ...] what each sampled token adds to the mean.
        documents: [row] its document.
        population: N.

    Returns:
        [...]; NaN with fewer than two documents.

    >>> scores = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    >>> round(sampled_error(scores, torch.tensor([0, 0, 1, 1]), 4).item(), 6)  # two documents that differ by 2
    1.0
    """
    centred = scores.double() - scores.double().mean(0)
    seen, sums, _ = document_sums(centred, documents)
    if len(seen) < 2:
        return torch.full_like(centred[0], torch.nan)
    share, own = len(scores) / population, centred.square().sum(0)
    found = own / share + (sums.square().sum(0) - own) / share**2
    least = own * ((1 - share) / share)
    return (found.maximum(least) * len(seen) / (len(seen) - 1)).sqrt() / population


def sampled_covariance(
    scores: Float[Tensor, "rows items"], documents: Int[Tensor, "rows"], population: int
) -> Float[Tensor, "items items"]:
    """Covariance of means of several items, of which ``sampled_error`` has the root of the diagonal.

    >>> scores = torch.tensor([[1.0, -2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, 2.0]], dtype=torch.float64)
    >>> sampled_covariance(scores, torch.tensor([0, 0, 1, 1]), 4).tolist()
    [[1.0, -2.0], [-2.0, 4.0]]
    """
    centred = scores.double() - scores.double().mean(0)
    seen, sums, _ = document_sums(centred, documents)
    if len(seen) < 2:
        return scores.new_full((scores.shape[1], scores.shape[1]), torch.nan, dtype=torch.float64)
    share, own = len(scores) / population, centred.mT @ centred
    found, least = own / share + (sums.mT @ sums - own) / share**2, own * ((1 - share) / share)
    below = found.diagonal() < least.diagonal()  # of such an item pairs say nothing, its own or those with others
    found = torch.where(below[:, None] | below, least, found)
    return found * (len(seen) / (len(seen) - 1) / population**2)


def column_covariances(
    scores: Float[Tensor, "rows items columns"], documents: Int[Tensor, "rows"], population: int
) -> Float[Tensor, "items items columns"]:
    """``sampled_covariance`` of the items of each column."""
    return torch.stack([sampled_covariance(column, documents, population) for column in scores.unbind(-1)], dim=-1)


def difference_errors(covariance: Float[Tensor, "... items items"]) -> Float[Tensor, "... items items"]:
    """Standard errors of the difference of every two items, from the covariance of their estimates.

    >>> difference_errors(torch.tensor([[1.0, 0.5], [0.5, 1.0]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    own = covariance.diagonal(dim1=-2, dim2=-1)
    return (own[..., :, None] + own[..., None, :] - 2 * covariance).clamp_min(0).sqrt()


def fold_scores(scores: Float[Tensor, "rows ..."], documents: Int[Tensor, "rows"]) -> Float[Tensor, "folds ..."]:
    """What each of 20 folds of documents adds to the error of a mean, from what rows add to it: document d is in fold d mod 20.

    >>> fold_scores(torch.tensor([1.0, 3.0]), torch.tensor([0, 21]))[:3].tolist()
    [-1.0, 1.0, 0.0]
    """
    return group_sums(scores.double() - scores.double().mean(0), documents % FOLDS, FOLDS)


def paired_errors(
    errors: Float[Tensor, "items"],
    scores: Float[Tensor, "folds items"],
    others: Float[Tensor, "others"],
    other_scores: Float[Tensor, "folds others"],
) -> Float[Tensor, "items others"]:
    r"""Standard errors of the differences between values and others of the same documents, √(se² + se'² - 2 ρ se se').

    ρ is the correlation of what folds of documents add to the one and to the other, whatever the unit of that.

    >>> se, scores = torch.tensor([2.0]), torch.tensor([[1.0], [-1.0]])
    >>> round(paired_errors(se, scores, se, scores).item(), 2), paired_errors(se, scores, se, -scores).item()
    (0.0, 4.0)
    """
    own, its = (one / one.norm(dim=0).clamp_min(torch.finfo(one.dtype).tiny) for one in (scores, other_scores))
    both = errors[:, None] * others * (own.mT @ its)
    found: Tensor = (errors[:, None].square() + others.square() - 2 * both).clamp_min(0).sqrt()
    return found


def balanced_folds(sizes: Int[Tensor, "documents"], number: int) -> Int[Tensor, "documents"]:
    """Deal documents into at most ``number`` folds of about equal size: the largest left goes to the smallest fold.

    Documents of one size come in random order (seeded): dealt as they stand, documents of equal length whose classes take turns
    would make folds of one class each. Empty documents go to fold 0, never open one, and change nothing for the others.

    >>> balanced_folds(torch.tensor([5, 9, 4, 0, 2]), 2).tolist()
    [1, 0, 1, 0, 0]
    """
    filled = (sizes > 0).nonzero()[:, 0]
    shuffled = filled[torch.randperm(len(filled), generator=torch.Generator().manual_seed(0), device="cpu").to(sizes.device)]
    order = shuffled[sizes[shuffled].argsort(descending=True, stable=True)]
    loads = [(0, fold) for fold in range(min(number, len(order)))]  # a heap
    chosen = []
    for size in sizes[order].tolist():
        load, fold = loads[0]
        chosen.append(fold)
        heapq.heapreplace(loads, (load + size, fold))
    folds = torch.zeros_like(sizes)
    folds[order] = torch.tensor(chosen, dtype=folds.dtype, device=folds.device)
    return folds
