"""What soft information keeps of one site: of some positions all, of the others sums (``analyses/information/keeping.py``).

Of heads a position is kept as its state where that is narrower than its assignments, which are then made at the end; two sites
that are read from one, ``z`` and ``result``, keep it once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from tl_entropy.analyses.information.keeping import Layout, Shape
from tl_entropy.analyses.information.places import Place
from tl_entropy.labels import LabelTable
from tl_entropy.state import Kept
from tl_entropy.torch_state import Steady

AT_ONCE = 2**24
"""Numbers of what was kept of some heads that are there at once, of all workers."""

TOGETHER = (2**19, 2**22)
"""Numbers of what was kept of several places that are worked on as if they were one, since calls cost time, too: so many
where there are many workers, and at most."""

Masses = list[list[Callable[[slice], Tensor]]]
"""[draw][label set] for a slice of some heads every sum of theirs [row, head, bin + 1]."""


class Addition(NamedTuple):
    """``into.index_add_(0, place, values)`` for each of ``places`` [several, row]."""

    into: Tensor
    values: Tensor
    places: Tensor


class SiteSums(Steady, Kept):
    """Of one captured site, for all that is measured there.

    Args:
        places: how it is assigned, one or two.
        layout: which positions are kept.
        shape: how they are kept.
        device: where.

    Attributes:
        kept: [kept, head, d] in a list of its own, or for each place and draw [kept, head, bin + 1]; 0 where not yet seen.
        mass: for each place and draw [sum + 1, head, bin + 1], float64; the last sum is of what has no label.
    """

    bound = ("layout",)

    def __init__(self, places: Sequence[Place], layout: Layout, shape: Shape, device: torch.device) -> None:
        self.places, self.layout, self.shape = list(places), layout, shape
        summing = "cpu" if device.type == "mps" else device  # which has no float64
        heads, n_kept = places[0].n_heads, len(layout.slots)
        widths = [bins + 1 for place in places for bins, _ in place.draws]
        dtype = places[0].directions.dtype
        self.kept = [
            torch.zeros(n_kept, heads, width, dtype=dtype, device=device)
            for width in ([places[0].width] if shape.as_states else widths)
        ]
        self.mass = [torch.zeros(layout.n_sums + 1, heads, width, dtype=torch.float64, device=summing) for width in widths]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state in place of what was seen here."""
        super().load_state_dict(state)
        self.shape = Shape(*self.shape)

    def empty(self) -> Self:
        """One that has seen nothing."""
        return type(self)(self.places, self.layout, self.shape, self.kept[0].device)

    def additions(
        self, states: Tensor, lengths: Sequence[Tensor], at: Tensor, slots: Tensor, rows: Tensor
    ) -> Iterator[Addition]:
        """What a batch adds.

        Args:
            states: [state, head, d], of which others may be no rows.
            lengths: for each place [state, head, 1].
            at: [row] which of the states each row is.
            slots: [row].
            rows: [label set, row] the row of each in the tables; -1 for no label.
        """
        place = self.layout.place[slots].long()
        kept, summed = ((place >= 0).nonzero()[:, 0], (place < 0).nonzero()[:, 0])
        sums = torch.stack([number[row[summed]] for number, row in zip(self.layout.sums, rows, strict=True)])
        if self.shape.as_states:
            if len(kept):
                yield _addition(self.kept[0], rows_of(states, at[kept]), place[None, kept])
            if len(summed):
                lengths = [rows_of(one, at[summed]) for one in lengths]
                for values, mass in zip(self._assigned(rows_of(states, at[summed]), lengths), self.mass, strict=True):
                    yield _addition(mass, values, sums)
            return
        for values, into, mass in zip(self._assigned(states, lengths), self.kept, self.mass, strict=True):
            if len(kept):
                yield _addition(into, rows_of(values, at[kept]), place[None, kept])
            if len(summed):
                yield _addition(mass, rows_of(values, at[summed]), sums)

    def merge(self, other: Self) -> None:
        """Add what another has seen of other positions."""
        for mine, theirs in zip([*self.kept, *self.mass], [*other.kept, *other.mass], strict=True):
            mine += theirs.to(mine.device)

    def blocks(
        self, place: Place, tables: Sequence[tuple[LabelTable, Tensor]], seen: Tensor, sampled: int, workers: int
    ) -> Iterator[tuple[Masses, list[Tensor]]]:
        """Every sum of some heads of a place at a time, on the CPU.

        Args:
            place: one of the places.
            tables: of the label sets, and the order in which their rows are wanted.
            seen: [slot] which positions were seen.
            sampled: how many of the first of those kept, and seen, are the sample.
            workers: how many do the same at once.

        Yields:
            [draw][label set] for a slice of these heads their sums, and [draw] the sample [sampled, head, bin + 1].
        """
        first, there = self.places.index(place) * len(place.draws), seen[self.layout.slots]
        gathers = [self.layout.gather(table, order, label, there) for label, (table, order) in enumerate(tables)]
        step = max(1, AT_ONCE // (workers * max(1, self.numbers(place, seen))))
        for start in range(0, place.n_heads, step):
            heads, samples = slice(start, start + step), []
            masses: Masses = []
            for draw, kept in enumerate(self._of_heads(place, first, heads, there), start=first):
                mass = self.mass[draw][:, heads].cpu()
                masses.append([partial(gather.of, mass, kept) for gather in gathers])
                samples.append(kept[:sampled])
            yield masses, samples

    def numbers(self, place: Place, seen: Tensor) -> int:
        """How many numbers there are at once of what was kept of a head."""
        return int(seen[self.layout.slots].sum()) * sum(bins for bins, _ in place.draws)

    def _of_heads(self, place: Place, first: int, heads: slice, there: Tensor) -> list[Tensor]:
        """[draw] the assignments of the positions kept and seen, [seen, head, bin + 1], on the CPU."""
        if self.shape.as_states:
            states, some = rows_of(self.kept[0][:, heads], there.nonzero()[:, 0]), place.of_heads(heads)
            return [p.cpu() for p in some.assign(states, some.lengths(states))]
        return [rows_of(p[:, heads], there.nonzero()[:, 0]).cpu() for p in self.kept[first : first + len(place.draws)]]

    def _assigned(self, states: Tensor, lengths: Sequence[Tensor]) -> list[Tensor]:
        """For each place and draw [row, head, bin + 1]."""
        return [p for place, of in zip(self.places, lengths, strict=True) for p in place.assign(states, of)]


def together(
    places: Sequence[tuple[Place, SiteSums]], numbers: Sequence[int], workers: int
) -> list[list[tuple[Place, SiteSums]]]:
    """Places that follow each other together, fewer towards the end, so that no worker waits long for the others.

    Args:
        places: with their sums.
        numbers: of each place, how many there are of what was kept of it.
        workers: how many there are.
    """
    found: list[list[tuple[Place, SiteSums]]] = []
    left, room = sum(numbers), 0
    for place, number in zip(places, numbers, strict=True):
        if not found or number > room:
            found.append([])
            room = max(min(left // (2 * workers), AT_ONCE // workers, TOGETHER[1]), TOGETHER[0])
        found[-1].append(place)
        room, left = room - number, left - number
    return found


def joined(blocks: Sequence[tuple[Masses, list[Tensor]]]) -> tuple[Masses, list[Tensor]]:
    """What ``blocks`` yields of several places, as of one that has the heads of all."""
    heads = [samples[0].shape[1] for _, samples in blocks]
    ends = list(itertools.accumulate(heads))

    def one(masses: Sequence[Callable[[slice], Tensor]], some: slice) -> Tensor:
        found = [
            mass(slice(max(0, some.start - end + n), min(n, some.stop - end + n)))
            for mass, end, n in zip(masses, ends, heads, strict=True)
            if end - n < some.stop and some.start < end
        ]
        return torch.cat([of.transpose(0, 1) for of in found]).transpose(0, 1)

    by_draw = zip(*(masses for masses, _ in blocks), strict=True)
    all_masses: Masses = [[partial(one, of_set) for of_set in zip(*of_draw, strict=True)] for of_draw in by_draw]
    samples = zip(*(samples for _, samples in blocks), strict=True)
    return all_masses, [torch.cat([of.transpose(0, 1) for of in of_draw]).transpose(0, 1) for of_draw in samples]


def rows_of(values: Tensor, which: Tensor) -> Tensor:
    """Some rows, in rising order; all of them as they are."""
    return values if len(which) == len(values) else values.index_select(0, which.to(values.device))


def _addition(into: Tensor, values: Tensor, places: Tensor) -> Addition:
    return Addition(into, values.to(into.device), places.to(into.device))
