r"""Who is near whom: what the nearest neighbours of rows say about their dimension, and how alike two clouds of them are.

    neighbour overlap       mean_i |N_A(i) ∩ N_B(i)| / k: the share of i's k nearest in A that are so in B, too
    information imbalance   Δ(A → B) = 2/n · mean_i rank_B(nearest of i in A): 0 where A tells B's neighbours, 1 where not
    gride                   the intrinsic dimension d at several scales, from μ_i = r_i(2k) / r_i(k)

None of them knows a scale or a basis, so that widths need not be equal. All distances are Euclidean, in float64; of rows
equally far the first counts as nearer. Each is a mean over rows, or follows from one, so that it has a standard error: rows of
one document go together where ``documents`` are given, and are independent where not. It is to first order, and counts twice
what rows do in pairs: of two clouds that are nearly the same it comes out up to half too large.

Refused: too few rows, rows of two clouds that are not equally many, NaN and infinities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_int, listed, warn
from tl_entropy.functional.states.geometry import different_places
from tl_entropy.functional.states.rows import checked_rows, document_numbers, squared_distances
from tl_entropy.functional.states.views import label_list
from tl_entropy.functional.statistics import sampled_error
from tl_entropy.torch_state import steady


@dataclass(frozen=True, eq=False)
class NeighbourMean:
    """A mean over rows.

    Attributes:
        value: the mean.
        se: its standard error over documents, or over rows; NaN with fewer than two.
        by_row: [row] float64.

    >>> import torch
    >>> from tl_entropy.functional import neighbour_overlap
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> neighbour_overlap(x, x)
    NeighbourMean(value=1.0, se=0.0)
    """

    value: float
    se: float
    by_row: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Gride:
    """An intrinsic dimension at several scales.

    Attributes:
        scales: [scale] k: of the neighbours k and 2k.
        dimension: [scale] float64.
        se: [scale] its standard error: of the likelihood, or over documents.
        distance: [scale] mean distance of the neighbours k and 2k, in the unit of the rows: how far the scale is.
        rows: number of different rows.

    >>> import torch
    >>> from tl_entropy.functional import gride
    >>> plane = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 8).triu()
    >>> found = gride(plane)
    >>> type(found).__name__, found.scales[:3], found.dimension[2].round().item()
    ('Gride', (1, 2, 4), 2.0)
    """

    scales: tuple[int, ...]
    dimension: Tensor
    se: Tensor
    distance: Tensor
    rows: int


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Who is near whom among the rows of one cloud, for pairing with others of the same rows.

    Attributes:
        near: [row, row] the others by their distance, nearest first; each row itself is last.
        rank: [row, row] the place of each in that order, from 1.
    """

    near: Tensor
    rank: Tensor

    @classmethod
    def of(cls, states: Tensor) -> Self:
        """Those of rows [row, d] of float64."""
        near = _others(states).argsort(dim=1, stable=True)
        places = torch.arange(1, len(near) + 1, device=near.device).expand_as(near)
        return cls(near, torch.empty_like(near).scatter_(1, near, places))

    def overlap(self, other: Neighbours, k: int) -> tuple[Tensor, Tensor]:
        """[row] the share of the k nearest that are so in the other, and what each row adds to its mean.

        That is its own share, and as a neighbour of others, that it is one in both, in place of the next ones. Where the next
        one is the same in both, nothing is lost without the row.
        """
        theirs = other.rank.to(self.near.device)
        mine, there = self.rank <= k, theirs <= k
        both = (mine & there).double()
        kept = both.sum(1) / k
        same_next = self.near[:, k] == other.near[:, k].to(self.near.device)
        by_others = (both * ~same_next[:, None]).sum(0)
        for of, rank, elsewhere in ((mine, self.rank, there), (there, theirs, mine)):
            after = (rank > k) & (rank <= 2 * k)
            next_ones = (after & elsewhere).sum(1) / after.sum(1).clamp_min(1)  # share of the next k that are near elsewhere
            by_others = by_others - (of * next_ones[:, None]).sum(0)
        return kept, kept + by_others / k

    def imbalance(self, other: Neighbours, k: int = 1) -> tuple[Tensor, Tensor]:
        """[row] 2/n times the mean rank in the other of the k nearest here, and what each row adds to its mean.

        That is its own mean rank; in every other row's, whether it is among those counted; and as a neighbour of others its
        rank there, in place of that of the next ones.
        """
        n, rank = len(self.near), other.rank.to(self.near.device)
        near = self.near[:, :k]
        both = rank.gather(1, self.near[:, : min(k + max(k, 5), n - 1)]).double()
        found, next_ones = both[:, :k], both[:, k:]
        own = found.mean(1)
        counted = torch.stack([(rank <= of[:, None]).sum(0) for of in found.mT]).double().mean(0)
        gained = found - next_ones.mean(1, keepdim=True) if next_ones.shape[1] else torch.zeros_like(found)
        as_neighbour = torch.zeros_like(own).index_add(0, near.flatten(), gained.flatten() / k)
        return 2 / n * own, 2 / n * (own + counted + as_neighbour)


@steady
def neighbour_overlap(x: Tensor, y: Tensor | Sequence[Any], *, k: int = 10, documents: Any = None) -> NeighbourMean:
    r"""How many of each row's k nearest neighbours it keeps from one representation to another, or that have its label.

    Args:
        x: [row, d1].
        y: [row, d2] the same rows elsewhere; or labels, one for each row (a sequence, or a tensor [row]).
        k: neighbours, from 1 below the number of rows.
        documents: [row] which rows belong together.

    Returns:
        ``NeighbourMean``, from 0 to 1; by chance k / (row - 1), or the share of other rows with the label.

    Raises:
        InputError: not [row, d], other numbers of rows, or k out of range.
        InputTypeError, NonFiniteError: ``x`` or ``y`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Doimo et al. (2020), Hierarchical nucleation in deep neural networks, arXiv 2007.03506, equation 1.

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> neighbour_overlap(x, x.exp(), k=1).value, neighbour_overlap(x, ["a", "a", "b", "b"], k=1).value
    (1.0, 0.75)
    """
    if isinstance(y, Tensor) and y.ndim == 2:
        mine, theirs = _of_both(x, y, k)
        return _mean(*mine.overlap(theirs, k), documents)
    near, labels = _neighbours(x, k).near[:, :k], label_list(y)
    _check_as_many(len(near), len(labels))
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    label = torch.tensor([number[one] for one in labels], device=near.device)
    kept = (label[near] == label[:, None]).double().mean(1)
    return _mean(kept, kept, documents)


@steady
def information_imbalance(x: Tensor, y: Tensor, *, k: int = 1, documents: Any = None) -> NeighbourMean:
    r"""How little the distances in one representation tell about those in another: Δ(x → y).

    Δ(x → y) = 2/n · mean of the rank in y, from 1, of each row's k nearest in x. That of y to x is another number: one of the
    two may know all that the other does, and more.

    Args:
        x: [row, d1].
        y: [row, d2] the same rows elsewhere.
        k: neighbours, from 1 below the number of rows.
        documents: [row] which rows belong together.

    Returns:
        ``NeighbourMean``, from (k + 1) / n where neighbours are the same, to about 1 where they have nothing in common.

    Raises:
        InputError: not [row, d], other numbers of rows, or k out of range.
        InputTypeError, NonFiniteError: ``x`` or ``y`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Glielmo, Zeni, Cheng, Csányi and Laio (2022), Ranking the information content of distance measures, equation 3.

    >>> x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    >>> round(information_imbalance(x, x[:, :1]).value, 1), round(information_imbalance(x[:, :1], x).value, 1)
    (0.1, 0.6)
    """
    mine, theirs = _of_both(x, y, k)
    return _mean(*mine.imbalance(theirs, k), documents)


@steady
def gride(x: Tensor, *, scales: Sequence[int] | None = None, documents: Any = None) -> Gride:
    r"""The intrinsic dimension of the cloud of rows at several scales, from the distances to neighbours k and 2k.

    With μ = r(2k) / r(k) and the density taken as constant out to 2k neighbours, d maximises the likelihood

        Π_i d (μ_i^d - 1)^(k-1) / (μ_i^((2k-1) d + 1) B(k, k)),

    which at k = 1 is TwoNN's, d = 1 / mean log μ. The error is that of the likelihood, 1 / √(its curvature), for independent
    rows; with ``documents`` scores are summed by document first.

    Args:
        x: [row, d_model]. Rows that repeat another are taken once, with a warning.
        scales: k of each; None takes 1, 2, 4, ... up to 32, as far as there are 2k neighbours.
        documents: [row] which rows belong together.

    Returns:
        ``Gride``.

    Raises:
        InputError: not [row, d_model], fewer than three different rows, scales that they do not allow, or neighbours that are
            all equally far.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Denti, Doimo, Laio and Mira (2022), The generalized ratios intrinsic dimension estimator, equation 7.

    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> gride(square).dimension.round().tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    places = different_places(x)
    if len(places) < len(x):
        warn(f"{len(x) - len(places)} of {len(x)} rows repeat others and were left out of gride")
    if len(places) < 3:
        raise InputError(f"x must have at least three different rows [row, d_model]; got {len(places)}")
    most = (len(places) - 1) // 2
    usual = [k for k in (1, 2, 4, 8, 16, 32) if k <= most]
    chosen = usual if scales is None else [check_int("scales", k, 1, most) for k in listed("scales", scales, "ints")]
    if not chosen:
        raise InputError("scales must hold one number or more")
    group = torch.arange(len(places)) if documents is None else document_numbers(documents, len(x))[places.cpu()]
    distance = _others(checked_rows(x)[places]).topk(2 * max(chosen), largest=False).values.sqrt().cpu()
    found, errors = [], []
    for k in chosen:
        logs = (distance[:, 2 * k - 1] / distance[:, k - 1]).log()
        if not bool(logs.any()):
            raise InputError(f"x: neighbours {k} and {2 * k} of all rows are equally far, which leaves the dimension open")
        d = _likeliest(logs, k)
        score, curvature = _scores(logs, d, k)
        found.append(d)
        likelihood = (len(logs) * curvature) ** -0.5
        errors.append(likelihood if documents is None else float(sampled_error(score / curvature, group, len(logs))))
    at = torch.stack([distance[:, [k - 1, 2 * k - 1]].mean() for k in chosen])
    of = {"dimension": torch.tensor(found, dtype=torch.float64), "se": torch.tensor(errors, dtype=torch.float64)}
    return Gride(scales=tuple(chosen), distance=at, rows=len(places), **of)


def _scores(logs: Tensor, d: float, k: int) -> tuple[Tensor, float]:
    """The likelihood's derivative by d [row], and its mean curvature, -∂²/∂d²; rows of μ = 1 count as at the limit."""
    safe = logs.clamp_min(1e-300)
    shrunk = -torch.expm1(-d * safe)  # 1 - μ^-d
    score = 1 / d + (k - 1) * safe / shrunk - (2 * k - 1) * safe
    curvature = 1 / d**2 + (k - 1) * (safe / shrunk).square() * (-d * safe).exp()
    return score, float(curvature.mean())


def _likeliest(logs: Tensor, k: int) -> float:
    """The d at which the mean score is 0; the score falls with d, so that halving finds it."""
    low, high = 0.0, 1 / float(logs.mean())
    while float(_scores(logs, high, k)[0].mean()) > 0:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if float(_scores(logs, middle, k)[0].mean()) > 0 else (low, middle)
    return high


def _others(states: Tensor) -> Tensor:
    """Squared distances [row, row] to all others; a row is infinitely far from itself."""
    return squared_distances(states).fill_diagonal_(math.inf)


def _neighbours(x: Tensor, k: int, *, name: str = "x") -> Neighbours:
    found = Neighbours.of(checked_rows(x, name=name, least=2))
    k = check_int("k", k, 1, len(found.near) - 1)
    return found


def _of_both(x: Tensor, y: Tensor, k: int) -> tuple[Neighbours, Neighbours]:
    mine, theirs = _neighbours(x, k), Neighbours.of(checked_rows(y, name="y"))
    _check_as_many(len(mine.near), len(theirs.near))
    return mine, theirs


def _check_as_many(rows: int, others: int) -> None:
    if rows != others:
        raise InputError(f"x and y must be of the same rows; got {rows} and {others}")


def _mean(by_row: Tensor, scores: Tensor, documents: Any) -> NeighbourMean:
    """The mean, and its error from what each row adds to it."""
    rows = by_row.cpu()
    group = torch.arange(len(rows)) if documents is None else document_numbers(documents, len(rows))
    return NeighbourMean(float(rows.mean()), float(sampled_error(scores.cpu(), group, len(rows))), rows)
