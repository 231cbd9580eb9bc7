"""Soft assignments on the disk to the values of label sets, in bounded memory.

The labels of each set come in blocks, each with all pairs of a label and a fold of its labels. As many blocks as fit into a
given number of bytes are added up in one reading of a file, in order; the first reading has the sums of all rows by fold and
the sample, too. Then each block goes to the estimates (``functional/information/blocks.py``), and the next ones are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tl_entropy.analyses.information.seen import Seen
from tl_entropy.functional.information.anchors import Sample, SampledRows
from tl_entropy.functional.information.blocks import Blocks
from tl_entropy.functional.information.chance import chance_curves
from tl_entropy.functional.information.coding import decoded
from tl_entropy.functional.information.cross_fitting import SoftSums, Whole
from tl_entropy.functional.probabilities import entropy
from tl_entropy.functional.statistics import group_sums

Chunks = Callable[[], Iterable[tuple[int, np.ndarray]]]
"""Reads a file anew: first row and [row, head, bin] codes of some rows at a time."""

_BLOCK = 2**19  # numbers of a block, on which statistics take some twenty times 8 bytes
_DECODED = 2**17  # numbers that are decoded at once, which stay in the cache


class _Part(NamedTuple):
    """Rows [start, stop) of the table of a label set, those of a block; labels begin at ``first``."""

    label_set: int
    start: int
    stop: int
    first: int


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a store beside a label plan.

    Attributes:
        seen: which positions of the plan are there.
        table_rows: [label set] int32 [row]: the row of the label set's table, -1 for none, or of a state that was dropped.
        folds: [label set] int32 [row]: the fold of documents; -1 likewise.
        sample: [row] int32: the place in the sample, -1 for none.
        common: whether all label sets have the same rows.
    """

    seen: Seen
    table_rows: Sequence[Tensor]
    folds: Sequence[Tensor]
    sample: Tensor
    common: bool

    @classmethod
    def of(cls, seen: Seen, slots: Tensor) -> Rows:
        """Of rows whose slots in the plan are ``slots`` [row], rising; those not seen have no label."""
        here, found, folds = seen.slots[slots], [], []
        for table in seen.tables:
            row = torch.where(here, table.rows[slots], -1)
            found.append(row)
            folds.append(torch.where(row >= 0, table.row_fold.int()[row.clamp_min(0)], -1))
        sample = torch.full_like(found[0], -1)
        sample[torch.searchsorted(slots, seen.sample)] = torch.arange(len(seen.sample), dtype=torch.int32)
        common = all(torch.equal(fold >= 0, folds[0] >= 0) for fold in folds)
        return cls(seen, found, folds, sample, common)


def reduced(chunks: Chunks, rows: Rows, shape: tuple[int, int], budget: int, *, keep_labels: bool) -> list[Blocks]:
    """The estimates of every label set from one file of assignments.

    Args:
        chunks: reads it.
        rows: what its rows are.
        shape: heads and bins.
        budget: bytes of the sums at a time.
        keep_labels: keep the values of single labels, too.
    """
    seen = rows.seen
    heads, bins = shape
    wide = heads * (bins + 1)
    parts = [list(_parts(number, one.row_label, _BLOCK // wide)) for number, one in enumerate(seen.counted)]
    found: list[Blocks] = []
    for turn in _turns([part for of_set in parts for part in of_set], budget // (8 * wide)):
        starts = np.cumsum([0, *(part.stop - part.start for part in turn)]).tolist()
        mass = torch.zeros(starts[-1] + 1, heads, bins + 1, dtype=torch.float64)  # the last is what is not of this turn
        totals, drawn = _add_up(chunks, rows, _ranges(turn), mass, first=not found)
        if not found:
            sample = SampledRows(drawn)
            curves = chance_curves(drawn, whole=seen.whole, entropies=entropy(drawn).T)
            for total, one in zip(totals, seen.counted, strict=True):
                counts = group_sums(one.count, one.table.row_fold, seen.n_folds)
                found.append(
                    Blocks(Whole.of_folds(total, counts), curves, Sample(sample, one.sample_label), keep_labels=keep_labels)
                )
        for part, start in zip(turn, starts, strict=False):
            one, here = seen.counted[part.label_set], slice(part.start, part.stop)
            sums = mass[start : start + part.stop - part.start]
            found[part.label_set].add(
                SoftSums(
                    sums[..., :-1], sums[..., -1], one.count[here], one.row_label[here], one.table.row_fold[here], part.first
                ),
                alone=len(parts[part.label_set]) == 1,
            )  # fmt: skip
    return found


def _add_up(
    chunks: Chunks, rows: Rows, ranges: Sequence[tuple[int, int, int, int]], mass: Tensor, *, first: bool
) -> tuple[list[Tensor], Tensor]:
    """Add every row to its sums of this turn; at ``first`` also [fold, head, bin + 1] of each label set, and the sample."""
    seen, heads, bins = rows.seen, mass.shape[1], mass.shape[2] - 1
    sets = len(seen.tables) if first else 0
    different = min(sets, 1) if rows.common else sets
    totals = [torch.zeros(seen.n_folds, heads, bins + 1, dtype=torch.float64) for _ in range(different)]
    drawn = torch.zeros(heads, len(seen.sample) if first else 0, bins).transpose(0, 1)
    step = max(1, _DECODED // (heads * bins))
    for begin, codes in chunks():
        for start in range(0, len(codes), step):
            some = codes[start : start + step]
            at = slice(begin + start, begin + start + len(some))
            places = [rows.table_rows[number][at] for number, *_ in ranges]
            inside = [(place >= one[1]) & (place < one[2]) for place, one in zip(places, ranges, strict=True)]
            folds = [rows.folds[number][at] for number in range(len(totals))]
            wanted = torch.stack([*inside, *(fold >= 0 for fold in folds)]).any(0)
            if not bool(wanted.any()):
                continue
            p = decoded(torch.from_numpy(some.astype(np.int32))[wanted])
            for place, here, (_, _, _, offset) in zip(places, inside, ranges, strict=True):
                mass.index_add_(0, torch.where(here, place + offset, len(mass) - 1)[wanted], p)
            for total, fold in zip(totals, folds, strict=True):
                labelled = fold[wanted] >= 0
                total.index_add_(0, fold[wanted][labelled], p[labelled])
            if first:
                sampled = rows.sample[at][wanted]
                drawn[sampled[sampled >= 0].long()] = p[sampled >= 0, :, :-1].float()
    return totals * sets if rows.common else totals, drawn


def _ranges(turn: Sequence[_Part]) -> list[tuple[int, int, int, int]]:
    """Label set, first and last row of its table, and what is added to a row for its place among all of a turn."""
    ranges: list[tuple[int, int, int, int]] = []
    end = 0
    for part in turn:
        if ranges and ranges[-1][0] == part.label_set:
            number, start, _, offset = ranges[-1]
            ranges[-1] = (number, start, part.stop, offset)
        else:
            ranges.append((part.label_set, part.start, part.stop, end - part.start))
        end += part.stop - part.start
    return ranges


def _parts(label_set: int, labels: Tensor, most: int) -> Iterator[_Part]:
    """Blocks of at most so many rows, but of one label at least; pooled rows are in the last."""
    repeated = int((labels >= 0).sum())
    start = 0
    while True:
        stop = min(start + max(1, most), repeated)
        if stop < repeated:  # a label's rows stay together
            own = labels[:repeated]
            stop = int(torch.searchsorted(own, int(own[stop])))
            if stop <= start:
                stop = int(torch.searchsorted(own, int(own[start]), right=True))
        first = int(labels[start]) if start < repeated else 0
        if stop >= repeated:
            yield _Part(label_set, start, len(labels), first)
            return
        yield _Part(label_set, start, stop, first)
        start = stop


def _turns(parts: Sequence[_Part], most: int) -> Iterator[list[_Part]]:
    """As many blocks at a time as have so many rows together, one at least."""
    turn: list[_Part] = []
    for part in parts:
        if turn and sum(p.stop - p.start for p in turn) + part.stop - part.start > most:
            yield turn
            turn = []
        turn.append(part)
    yield turn
