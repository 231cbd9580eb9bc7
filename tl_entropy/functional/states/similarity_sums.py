r"""Sums from which CKA of any pairs of representations follows, gathered batch by batch: exactly, or block by block.

``CrossSums`` keeps one matrix for each pair. With rows x and y extended to x̂ = (x, 1, |x|²), it is

              | Σ x yᵀ       Σ x    Σ x |y|²     |
    Σ x̂ ŷᵀ =  | Σ yᵀ         n      Σ |y|²       |
              | Σ |x|² yᵀ    Σ |x|² Σ |x|²|y|²   |

which holds all that the unbiased HSIC needs. A shift of x is linear in x̂: x + δ has |x|² + 2δ·x + |δ|² for its square, so that
sums taken around one origin become those around another exactly. Rows are added around the mean of the first batch, so that
states far from 0 lose no digits, and the sums are moved to the mean of all rows before they are used. The result is that of all
rows at once, whatever the batches. What is left of float64 is about 1e-16 · (distance / spread)⁴, with the distance of that
first mean from the last one in units of the spread of rows.

``BlockSums`` averages the HSIC of blocks of consecutive rows, and keeps one number for each pair (Nguyen et al. 2021).

Rows, or rows of a block, whose spread is within the rounding of the dtype in which they came do not vary, as in ``linear_cka``.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, check_int
from tl_entropy.functional.lens.entropies import check_floating
from tl_entropy.functional.states.rows import spread_floor, varies
from tl_entropy.functional.states.similarity import (
    MIN_ROWS,
    centred,
    cka_of,
    hsic_of_centred,
    hsic_table,
    ratio_scores,
    resolved,
    scores_of,
)
from tl_entropy.functional.statistics import jackknife_scores
from tl_entropy.state import Kept

Pair = tuple[Hashable, Hashable]

FOLDS = 20
"""Folds of blocks that are left out one by one, for standard errors."""


class CrossSums(Kept):
    """Exact sums of pairs of representations of the same rows.

    Args:
        pairs: which representations to compare, by any names. A pair and its reverse are kept once; each representation is
            paired with itself, too.

    Attributes:
        pairs: pairs of which a matrix is kept.
        rows: number of rows seen.

    >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 1.0], [1.0, 4.0], [2.0, 2.0]])
    >>> sums = CrossSums([("x", "y")])
    >>> for part in (x[:2], x[2:]):
    ...     sums.update({"x": part, "y": 3 * part + 1})
    >>> round(sums.cka(["x"], ["y"]).item(), 6)
    1.0
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        asked = list(pairs)
        self._place = {name: i for i, name in enumerate(dict.fromkeys(name for pair in asked for name in pair))}
        both = [*((name, name) for name in self._place), *asked]
        self.pairs = tuple(dict.fromkeys(self._in_order(a, b) for a, b in both))
        self._origin: dict[Hashable, Tensor] = {}
        self._sums: dict[Pair, Tensor] = {}
        self._floor = dict.fromkeys(self._place, 0.0)
        self.rows = 0

    def update(self, rows: Mapping[Hashable, Tensor]) -> None:
        """Add rows [row, d] of every representation: all or nothing.

        Raises:
            InputError: a representation is missing, has another number of rows, or another width than before.
            InputTypeError: no tensor of floats.
        """
        found = _checked(rows, self._place)
        if not len(found[0]):
            return
        _check_widths(self._place, found, list(self._origin.values()))
        device = _home(next(iter(self._sums.values())).device if self._sums else found[0].device)
        origin, extended = {}, {}
        for name, x in zip(self._place, found, strict=True):
            x = x.to(device).double()
            origin[name] = self._origin[name] if self._origin else x.mean(0)
            extended[name] = _extended(x - origin[name])
        sums = self._sums
        if not sums:
            sums = {(a, b): extended[a].new_zeros(extended[a].shape[1], extended[b].shape[1]) for a, b in self.pairs}
        # In place, since a second set of sums may not fit in memory; what could fail has been allocated by now.
        for (a, b), total in sums.items():
            total.addmm_(extended[a].T, extended[b])
        self._origin, self._sums = origin, sums
        self._floor = _larger(self._floor, [spread_floor(x.dtype) for x in found])
        self.rows += len(found[0])

    def merge(self, other: CrossSums) -> None:
        """Add what another has seen of other rows.

        Raises:
            InputError: its pairs, or the widths of their rows, are not the same.
        """
        if other.pairs != self.pairs:
            raise InputError("cannot merge: the pairs are not the same")
        if not other.rows:
            return
        _check_widths(self._place, list(other._origin.values()), list(self._origin.values()))
        if not self.rows:
            self._origin = dict(other._origin)
            self._sums = {pair: total.clone() for pair, total in other._sums.items()}
        else:
            by = {name: other._origin[name].to(x.device) - x for name, x in self._origin.items()}
            for (a, b), total in self._sums.items():
                total += _shifted(other._sums[a, b].to(total.device), by[a], by[b])
        self._floor = _larger(self._floor, other._floor.values())
        self.rows += other.rows

    def cka(self, rows: Sequence[Hashable], columns: Sequence[Hashable], *, debiased: bool = True) -> Tensor:
        """CKA of each of ``rows`` with each of ``columns`` [row, column], float64 on the CPU; NaN where too few rows were seen.

        As ``linear_cka`` of all rows seen at once.

        Raises:
            InputError: an unknown representation, or a pair that is not kept.
        """
        _check_names((*rows, *columns), self._place)
        kept = set(self.pairs)
        for a, b in itertools.product(rows, columns):
            if self._in_order(a, b) not in kept:
                raise InputError(f"the pair of {a} and {b} is not kept; name it in pairs before the first update")
        if self.rows < (MIN_ROWS if debiased else 2):
            return torch.full((len(rows), len(columns)), torch.nan, dtype=torch.float64)
        asked = {self._in_order(a, b) for a, b in [*itertools.product(rows, columns), *((n, n) for n in (*rows, *columns))]}
        hsic = {pair: self._hsic(*pair, debiased) for pair in asked}
        table = [[cka_of(hsic[self._in_order(a, b)], hsic[a, a], hsic[b, b]) for b in columns] for a in rows]
        return torch.stack([torch.stack(line) for line in table]).cpu()

    def scores(
        self, rows: Sequence[Hashable], columns: Sequence[Hashable], sample: Mapping[Hashable, Tensor], *, debiased: bool = True
    ) -> Tensor:
        """What some of the rows seen add to ``cka`` to first order [sampled, row, column], float64 on the CPU.

        Args:
            rows: as for ``cka``.
            columns: as for ``cka``.
            sample: the rows' states [sampled, d] of every representation.
            debiased: as for ``cka``.
        """
        if self.rows < (MIN_ROWS if debiased else 2):
            return torch.full((len(sample[rows[0]]), len(rows), len(columns)), torch.nan, dtype=torch.float64)
        scale = 1.0 if debiased else 1 / self.rows**2
        own = {name: self._scores(name, name, sample) for name in {*rows, *columns}}
        hsic = {name: self._hsic(name, name, debiased) * scale for name in own}

        def of(a: Hashable, b: Hashable) -> Tensor:
            found = self._hsic(*self._in_order(a, b), debiased) * scale
            return ratio_scores(self._scores(a, b, sample), own[a], own[b], found, hsic[a], hsic[b]).cpu()

        return torch.stack([torch.stack([of(a, b) for b in columns], dim=1) for a in rows], dim=1)

    def _scores(self, a: Hashable, b: Hashable, sample: Mapping[Hashable, Tensor]) -> Tensor:
        a, b = self._in_order(a, b)
        around_mean = self._around_mean(a, b)
        x, y = (sample[name].to(around_mean.device).double() - self._mean(name) for name in (a, b))
        return scores_of(x, y, around_mean[:-2, :-2] / self.rows, self.rows)

    def _mean(self, name: Hashable) -> Tensor:
        return self._origin[name] + self._sums[name, name][:-2, -2] / self.rows

    def _around_mean(self, a: Hashable, b: Hashable) -> Tensor:
        sums = self._sums[self._in_order(a, b)]
        return _shifted(sums, -sums[:-2, -2] / self.rows, -sums[-2, :-2] / self.rows)

    def _hsic(self, a: Hashable, b: Hashable, debiased: bool) -> Tensor:
        """The unbiased HSIC, or ‖XᵀY‖² of centred rows."""
        around_mean = self._around_mean(a, b)
        cross = around_mean[:-2, :-2].square().sum()
        if a == b and not varies(around_mean[-1, -2], self.rows, self._mean(a), self._floor[a]):
            return torch.zeros_like(cross)
        if not debiased:
            return cross
        hsic = hsic_of_centred(cross, around_mean[-1, -1], around_mean[-1, -2] * around_mean[-2, -1], self.rows)
        return resolved(hsic, cross, self.rows) if a == b else hsic

    def _in_order(self, a: Hashable, b: Hashable) -> Pair:
        return (a, b) if self._place[a] <= self._place[b] else (b, a)


class BlockSums(Kept):
    """HSIC of blocks of consecutive rows, averaged over blocks, for every pair of some representations.

    Rows short of a block wait for the next update, so that blocks are the same whatever the batches.

    Args:
        names: of the representations.
        block: rows of a block, at least 4.

    Attributes:
        rows: number of rows seen.

    >>> x = torch.arange(24.0).view(12, 2).sin()
    >>> sums = BlockSums(["x"], 5)
    >>> sums.update({"x": x})
    >>> round(sums.cka(["x"], ["x"]).item(), 6), sums.left_out
    (1.0, 2)
    """

    def __init__(self, names: Iterable[Hashable], block: int) -> None:
        self._place = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.block = check_int("block", block, MIN_ROWS)
        self._waiting: list[Tensor] = []
        self._sums = torch.zeros(FOLDS, len(self._place), len(self._place), dtype=torch.float64)
        self._counts = torch.zeros(FOLDS, dtype=torch.float64)  # rows of the blocks of each fold
        self.rows = 0

    @property
    def left_out(self) -> int:
        """Rows at the end that are too few for a block of their own."""
        waiting = len(self._waiting[0]) if self._waiting else 0
        return waiting if waiting < MIN_ROWS else 0

    def update(self, rows: Mapping[Hashable, Tensor]) -> None:
        """Add the next rows [row, d] of every representation: all or nothing.

        Raises:
            InputError: a representation is missing, has another number of rows, or another width than before.
            InputTypeError: no tensor of floats.
        """
        found = _checked(rows, self._place)
        _check_widths(self._place, found, self._waiting)
        waiting = self._waiting or [x[:0] for x in found]
        joined = [torch.cat([before.to(x.device), x]) for before, x in zip(waiting, found, strict=True)]
        whole = len(joined[0]) // self.block * self.block
        sums, counts = self._sums.clone(), self._counts.clone()
        for first in range(0, whole, self.block):
            fold = int(counts.sum()) // self.block % FOLDS
            sums[fold] += _weighted_hsic([x[first : first + self.block] for x in joined])
            counts[fold] += self.block
        self._waiting = [x[whole:].clone() for x in joined]  # a view would keep the whole batch
        self._sums, self._counts = sums, counts
        self.rows += len(found[0])

    def merge(self, other: BlockSums) -> None:
        """Add the blocks of another, and its waiting rows behind one's own.

        Raises:
            InputError: its representations, its block, or the widths of its rows are not the same.
        """
        if (other._place, other.block) != (self._place, self.block):
            raise InputError("cannot merge: the representations or the blocks are not the same")
        if other._waiting:
            self.update(dict(zip(self._place, other._waiting, strict=True)))
            self.rows += other.rows - len(other._waiting[0])
        by = int(self._counts.sum()) // self.block % FOLDS
        self._sums, self._counts = self._sums + other._sums.roll(by, 0), self._counts + other._counts.roll(by, 0)

    def cka(self, rows: Sequence[Hashable], columns: Sequence[Hashable]) -> Tensor:
        """CKA of each of ``rows`` with each of ``columns`` [row, column], float64: ratios of the averages over blocks.

        The last block may be smaller; fewer than 4 rows are left out. NaN where there is no block.

        Raises:
            InputError: an unknown representation.
        """
        return self._left_out(rows, columns)[0][0]

    def covariance(self, rows: Sequence[Hashable], columns: Sequence[Hashable]) -> Tensor:
        """Its covariance [row, row, column] if blocks are independent, by leaving them out in 20 folds; NaN of fewer than two.

        Raises:
            InputError: an unknown representation.
        """
        scores = jackknife_scores(*self._left_out(rows, columns))
        return torch.einsum("fic,fjc->ijc", scores, scores)

    def _left_out(self, rows: Sequence[Hashable], columns: Sequence[Hashable]) -> tuple[Tensor, Tensor]:
        """CKA of all blocks and without each fold of them [1 + fold, row, column], and the rows of each fold."""
        _check_names((*rows, *columns), self._place)
        sums, counts = self._sums, self._counts
        if self._waiting and len(self._waiting[0]) >= MIN_ROWS:
            fold = int(counts.sum()) // self.block % FOLDS
            sums, counts = sums.clone(), counts.clone()
            sums[fold] += _weighted_hsic(self._waiting)
            counts[fold] += len(self._waiting[0])
        whole = sums.sum(0)
        parts = torch.cat([whole[None], whole - sums])
        own = parts.diagonal(dim1=1, dim2=2)
        i, j = (torch.tensor([self._place[name] for name in names]) for names in (rows, columns))
        return cka_of(parts[:, i][:, :, j], own[:, i][:, :, None], own[:, j][:, None]), counts


def _weighted_hsic(block: Sequence[Tensor]) -> Tensor:
    """Unbiased HSIC of all pairs [representation, representation] in one block of rows, times their number; on the CPU."""
    device = _home(block[0].device)
    rows = [centred(x.to(device).double(), spread_floor(x.dtype)) for x in block]
    return len(block[0]) * hsic_table(rows, rows).cpu()


def _extended(x: Tensor) -> Tensor:
    """Rows x [row, d] as (x, 1, |x|²) [row, d + 2]."""
    return torch.cat([x, x.new_ones(len(x), 1), x.square().sum(1, keepdim=True)], 1)


def _shifted(sums: Tensor, by_x: Tensor, by_y: Tensor) -> Tensor:
    """Sums of x̂ ŷᵀ as those of rows x + ``by_x`` and y + ``by_y``."""
    for by in (by_x, by_y):  # one side, then the other
        x, one, square = sums[:-2], sums[-2:-1], sums[-1:]
        sums = torch.cat([x + by[:, None] * one, one, square + 2 * (by @ x) + by.square().sum() * one]).T
    return sums


def _checked(rows: Mapping[Hashable, Tensor], names: Iterable[Hashable]) -> list[Tensor]:
    found = [rows[name] for name in names if name in rows]
    for x in found:
        check_floating("rows", x)
    missing = [name for name in names if name not in rows]
    if missing or any(x.ndim != 2 or len(x) != len(found[0]) for x in found):
        raise InputError(
            f"rows must hold a matrix of the same number of rows for each of {', '.join(map(str, names))}; got "
            f"{ {str(name): list(x.shape) for name, x in rows.items()} }"
        )
    return found


def _check_widths(names: Iterable[Hashable], found: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Refuse rows [..., d] of another width than those before, if there are any."""
    for name, x, y in zip(names, found, before or found, strict=True):
        if x.shape[-1] != y.shape[-1]:
            raise InputError(f"rows: {name} must keep its width of {y.shape[-1]}; got {x.shape[-1]}")


def _check_names(asked: Iterable[Hashable], names: Iterable[Hashable]) -> None:
    for name in asked:
        check_choice("rows and columns", name, names)


def _larger(floors: Mapping[Hashable, float], others: Iterable[float]) -> dict[Hashable, float]:
    return {name: max(floor, other) for (name, floor), other in zip(floors.items(), others, strict=True)}


def _home(device: torch.device) -> torch.device:
    """Where sums in float64 can be taken: on the same device, if it has float64."""
    return torch.device("cpu") if device.type == "mps" else device
