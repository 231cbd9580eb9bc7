r"""Who is near whom: how alike two clouds of rows are, or a cloud and labels, by their nearest neighbours.

    neighbour overlap       mean_i |N_A(i) ∩ N_B(i)| / k: the share of i's k nearest in A that are so in B, too
    information imbalance   Δ(A → B) = 2/n · mean_i rank_B(nearest of i in A): 0 where A tells B's neighbours, 1 where not

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

from tl_entropy.errors import InputError, check_int
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
        near = others_distances(states).argsort(dim=1, stable=True)
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

    def imbalance(self, rank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """[row] 2/n times the mean of ``rank`` [row, row], the place elsewhere, of the k nearest here, and what each row adds.

        That is its own mean rank; in every other row's, whether it is among those counted, or half where it is as far; and as a
        neighbour of others its rank there, in place of that of the next ones.
        """
        n, rank = len(self.near), rank.to(self.near.device)
        near = self.near[:, :k]
        both = rank.gather(1, self.near[:, : min(k + max(k, 5), n - 1)]).double()
        found, next_ones = both[:, :k], both[:, k:]
        own = found.mean(1)
        before = [((rank < of[:, None]).double() + (rank <= of[:, None])).sum(0) / 2 for of in found.mT]
        itself = torch.bincount(near.flatten(), minlength=n).double() / 2
        counted = torch.stack(before).mean(0) + itself / k
        gained = found - next_ones.mean(1, keepdim=True) if next_ones.shape[1] else torch.zeros_like(found)
        as_neighbour = torch.zeros_like(own).index_add(0, near.flatten(), gained.flatten() / k)
        return 2 / n * own, 2 / n * (own + counted + as_neighbour)

    def of_labels(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """[row] 2/n times the mean rank here of the others of its label, or of all where there are none, and what each adds."""
        n = len(label)
        alike = (label[:, None] == label).fill_diagonal_(False)
        alike = alike | ~alike.any(1, keepdim=True) & ~torch.eye(n, dtype=torch.bool, device=alike.device)
        count = alike.sum(1, keepdim=True).double()
        own = (alike * self.rank).sum(1) / count[:, 0]
        in_order = alike.gather(1, self.near).double()
        behind = torch.zeros_like(in_order).scatter_(
            1, self.near, in_order.flip(1).cumsum(1).flip(1)
        )  # of its label, from there on
        counted = (behind / count).fill_diagonal_(0).sum(0)
        gained = (self.rank - own[:, None]) / (count - 1).clamp_min(1) * (alike & (count > 1))
        return 2 / n * own, 2 / n * (own + counted + gained.sum(0))


def label_ranks(label: Tensor) -> Tensor:
    """[row, row] the place of each among the others where those of one label are near and all else is far, in the mean of ties.

    >>> label_ranks(torch.tensor([0, 0, 0, 1]))[0].tolist()  # two of its label; itself counts as last
    [4.0, 1.5, 1.5, 3.0]
    """
    alike = (label[:, None] == label).fill_diagonal_(False)
    count, n = alike.sum(1, keepdim=True).double(), len(label)
    return torch.where(alike, (count + 1) / 2, (n + count) / 2).fill_diagonal_(n)


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
    near = _neighbours(x, k).near[:, :k]
    label = _numbers(y, len(near)).to(near.device)
    kept = (label[near] == label[:, None]).double().mean(1)
    return _mean(kept, kept, documents)


@steady
def information_imbalance(
    x: Tensor | Sequence[Any], y: Tensor | Sequence[Any], *, k: int = 1, documents: Any = None
) -> NeighbourMean:
    r"""How little the distances in one representation tell about those in another, or about labels: Δ(x → y).

    Δ(x → y) = 2/n · mean of the rank in y, from 1, of each row's k nearest in x. That of y to x is another number: one of the
    two may know all that the other does, and more. By labels, rows of one label are equally near, and all others equally far:
    equal ones share the mean of their places, and the nearest of a row are all others of its label, or all rows where it has
    the only one.

    Args:
        x: [row, d1]; or labels, one for each row (a sequence, or a tensor [row]).
        y: [row, d2] the same rows elsewhere; or labels.
        k: neighbours, from 1 below the number of rows; not of labels.
        documents: [row] which rows belong together.

    Returns:
        ``NeighbourMean``, from (k + 1) / n where neighbours are the same, to about 1 where they have nothing in common. To
        labels at least (rows of the label) / n.

    Raises:
        InputError: not [row, d], other numbers of rows, k out of range, or labels on both sides.
        InputTypeError, NonFiniteError: ``x`` or ``y`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Glielmo, Zeni, Cheng, Csányi and Laio (2022), Ranking the information content of distance measures, equation 3.

    >>> x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    >>> round(information_imbalance(x, x[:, :1]).value, 1), round(information_imbalance(x[:, :1], x).value, 1)
    (0.1, 0.6)
    >>> half = (x[:, 0] > 0.5).tolist()  # which the plane tells, and of which it tells more
    >>> round(information_imbalance(x, half).value, 1), round(information_imbalance(half, x).value, 1)
    (0.5, 0.7)
    """
    states = [isinstance(side, Tensor) and side.ndim == 2 for side in (x, y)]
    if all(states):
        mine, theirs = _of_both(x, y, k)
        return _mean(*mine.imbalance(theirs.rank, k), documents)
    if states[0]:
        mine = _neighbours(x, k)
        return _mean(*mine.imbalance(label_ranks(_numbers(y, len(mine.near))), k), documents)
    if not states[1]:
        raise InputError("x and y: labels belong on one side; the other must be states [row, d]")
    if check_int("k", k, 1) != 1:
        raise InputError(f"k is of states: the nearest of a row by its label are all others that have it; got {k}")
    theirs = _neighbours(y, 1, name="y")
    return _mean(*theirs.of_labels(_numbers(x, len(theirs.near), others=True).to(theirs.near.device)), documents)


def others_distances(states: Tensor) -> Tensor:
    """Squared distances [row, row] to all others; a row is infinitely far from itself."""
    return squared_distances(states).fill_diagonal_(math.inf)


def _neighbours(x: Any, k: int, *, name: str = "x") -> Neighbours:
    found = Neighbours.of(checked_rows(x, name=name, least=2))
    check_int("k", k, 1, len(found.near) - 1)
    return found


def _numbers(labels: Any, rows: int, *, others: bool = False) -> Tensor:
    """[row] labels as numbers from 0."""
    given = label_list(labels)
    _check_as_many(*((len(given), rows) if others else (rows, len(given))))
    number = {label: i for i, label in enumerate(dict.fromkeys(given))}
    return torch.tensor([number[one] for one in given])


def _of_both(x: Any, y: Any, k: int) -> tuple[Neighbours, Neighbours]:
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
