"""One pass over a corpus by whoever is at work in a folder: units claimed, read, and kept in one state a worker.

The documents of a pass are cut into units of neighbours. A worker claims a unit, reads what nobody holds of it, and keeps all
that it has read in one state file, which says which documents are in it. The file is replaced by a rename, at a unit's end and
every few minutes within one, always between two documents; so at any moment what is on the disk is a whole number of
documents, and a batch holds the same documents whether the pass was stopped before it or not (of text that is sampled, a whole
number of the groups that are sampled together). When all documents are held, whoever finds that adds the states up.

States that hold the same document cannot be added. It happens where a process slept while its claims were given away; the
state with fewer documents is then dropped and its documents are read again. So it is with a state that cannot be read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tl_entropy.analyses.saving import SCHEMA, read, write
from tl_entropy.analyses.sharing import Pass
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.capture.parts import Intervals
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import Elsewhere, FileError, warn
from tl_entropy.runs import states
from tl_entropy.runs.ends import Ends, Stopped
from tl_entropy.runs.folder import RunFolder, create, file_name
from tl_entropy.runs.workers import Worker
from tl_entropy.state import decoded, encoded

Value = TypeVar("Value")

MADE = "once-"
ENOUGH = "enough.json"
"""The file that says that a pass need not read more."""
DOCUMENTS = "documents.json"
"""The file that says how many documents a pass has, which are fewer than the run's where an analysis leaves some out."""


@dataclass
class FolderSharing:
    """A sharing of passes through a run's folder (``analyses/sharing.py``), of one analysis of one model.

    Attributes:
        folder: the run's.
        place: where the work of this analysis is (``RunFolder.work``).
        result: where its result will be; once it is there, nothing is left to do.
        worker: who reads.
        unit_documents: documents of a unit.
        save_every: seconds from one save within a unit to the next.
        ends: what ends a pass before its documents do.
        told: called with what was read in a pass so far.
        unchanged: called with documents that were read, before what was seen of them is saved; raises where one is not what it
            was when the run was begun or gone on with.
        same_tokens: called with a unit that was read as a whole, and a hash of its documents' tokens (``CorpusReport.bodies``);
            raises where these are not those that were read before.
        is_enough: whether what these accumulators hold is enough, so that no further unit is begun; None asks nobody.
    """

    folder: RunFolder
    place: Path
    result: Path
    worker: Worker
    unit_documents: int
    save_every: float
    ends: Ends
    told: Callable[[StreamReport], None]
    unchanged: Callable[[Sequence[range]], None]
    same_tokens: Callable[[range, int], None]
    is_enough: Callable[[Sequence[StreamingMeasure[Any]]], bool] | None = None
    passes: int = 0

    def once(self, name: str, make: Callable[[], Value]) -> Value:
        """What ``make`` gives, made by one process and kept in a file, which the others read, and those that go on.

        Raises:
            Elsewhere: another process is making it.
        """
        path = made_once(self.place, name)
        found = self._made(path)
        if not found:
            if not self.worker.claim(path.with_suffix(".json")):
                raise Elsewhere(f"another process makes the {name}")
            found = self._made(path)  # somebody may have made it between the look and the claim
        if not found:
            found = [make()]
            self.unchanged([range(sys.maxsize)])
            write(path, {"schema": SCHEMA, "value": encoded(found[0])})
        value: Value = found[0]
        return value

    def parts(self, name: str, make: Callable[[int, int], Value]) -> list[Value]:
        """All of them: whoever finds that all documents are held works alone, while the others go on with something else."""
        return [make(0, 1)]

    def _made(self, path: Path) -> list[Any]:
        """What a file holds, as the one item of a list; none where it is not there, or cannot be read, which is then told."""
        found = self.guarded(path, lambda: [decoded(read(path)["value"])]) if path.exists() else None
        return found or []

    def guarded(self, path: Path, reading: Callable[[], Value]) -> Value | None:
        """What is read of a file; None where it is not there or cannot be read, which is then put aside and told."""
        try:
            return reading()
        except FileError as error:
            if not path.exists():
                return None
            if "upgrade" in str(error):
                raise
            aside = self.folder.put_aside(path)
            warn(f"{path.name} in {path.parent} cannot be read and is now {aside}; its documents are read again ({error})")
            return None

    def read(self, accumulators: Sequence[StreamingMeasure[Any]], one_pass: Pass) -> StreamReport:
        """Read units until none is free; then the report of all, or ``Elsewhere`` where others are still at it.

        Raises:
            Elsewhere: others hold the units that are left.
            Stopped: the process was asked to end.
        """
        shared = _SharedPass(self, accumulators, one_pass, self.place / f"pass-{self.passes}")
        self.passes += 1
        return shared.read()


class _SharedPass:
    def __init__(self, of: FolderSharing, accumulators: Sequence[StreamingMeasure[Any]], one_pass: Pass, place: Path) -> None:
        self.of, self.accumulators, self.one_pass, self.place = of, accumulators, one_pass, place
        self.empty = [one.state_dict() for one in accumulators]
        self.units: list[range] = []
        self.own: Path | None = None  # the file of this worker's state, once there is one
        self.saved = time.monotonic()

    def read(self) -> StreamReport:
        self.place.mkdir(parents=True, exist_ok=True)
        documents = self.one_pass.documents or ()
        create(self.place / DOCUMENTS, {"documents": max((stop for _, stop in documents), default=0)})
        units = self.units = list(cut(documents, self.of.unit_documents))
        self._resume()
        while True:
            while not (enough := self._is_enough()) and (left := self._next(units)) is not None:
                self._take(left)
            if not enough and (others := self._left(units)):
                raise Elsewhere(f"{others} documents are with other processes")
            self.of.worker.claim(self.of.place / "result.json")  # for others to see that somebody is at it
            report = self._together()
            # A state may turn out to be damaged as it is read, or a folder show less than it did a moment ago.
            if enough or not _left(units, report.held):
                return report
            self._forget()
            self._resume()

    def _resume(self) -> None:
        """Go on with the state that this worker's number has, where there is one."""
        path = self.place / states.name_of(self.of.worker.number)
        if path.exists():
            self._guarded(path, lambda: states.load(path, self.accumulators))
            self.own = path if path.exists() else None

    def _held(self) -> dict[Path, Intervals]:
        """The documents that each state holds, none of them twice; what is damaged or doubled is done away with."""
        found: dict[Path, Intervals] = {}
        for path in sorted(self.place.glob(states.PATTERN)):
            held = self._guarded(path, lambda path=path: states.held(path))  # type: ignore[misc]
            if held:
                found[path] = held
        taken: dict[Path, Intervals] = {}
        for path in sorted(found, key=lambda path: (-_count(found[path]), path.name)):
            if any(_overlap(found[path], other) for other in taken.values()):
                path.unlink(missing_ok=True)  # another state has some of its documents; the others are read again
            else:
                taken[path] = found[path]
        if self.own is not None and self.own not in taken:  # it was given away while this process slept
            self._forget()
        return taken

    def _guarded(self, path: Path, reading: Callable[[], Any]) -> Any:
        """What is read of a state; of one that is put aside, this process forgets what it holds itself."""
        there = path.exists()
        found = self.of.guarded(path, reading)
        if found is None and there and path == self.own and not path.exists():
            self._forget()
        return found

    def _forget(self) -> None:
        """Begin anew, with nothing held."""
        for one, state in zip(self.accumulators, self.empty, strict=True):
            one.load_state_dict(state)
        self.own = None

    def _next(self, units: Sequence[range]) -> Sequence[range] | None:
        """What is to be read of the first unit that is free and not held as a whole; None where there is none."""
        self._check_open()
        held = [interval for intervals in self._held().values() for interval in intervals]
        for number, unit in enumerate(units):
            left = without(unit, held)
            if left and self.of.worker.claim(self.place / f"unit-{number}.json"):
                # Somebody may have read it between the look and the claim.
                held = [interval for intervals in self._held().values() for interval in intervals]
                if left := without(unit, held):
                    return left
        return None

    def _take(self, documents: Sequence[range]) -> None:
        """Read documents, and save between them."""
        ends = self.of.ends

        together = self.one_pass.together

        def after(report: StreamReport) -> bool:
            self.of.told(report)
            if report.held and report.held[-1][1] % together:  # in the middle of what is sampled together
                return False
            if not ends.asked and time.monotonic() - self.saved >= self.of.save_every:
                self.of.unchanged(documents)
                self._save()
            return bool(ends.asked)

        ends.reading = True
        try:
            report = self.one_pass(self.accumulators, documents=documents, after=after)
        finally:
            ends.reading = False
        if report.interrupted:  # in the middle of a document: what was saved before is all that is held
            raise KeyboardInterrupt
        self.of.unchanged(documents)
        if not ends.asked and documents[0] in self.units:  # not a part of one
            self.of.same_tokens(documents[0], report.given.bodies)
        self._save()
        if ends.asked:
            raise Stopped(ends.asked)

    def _save(self) -> None:
        """Replace this worker's state, unless its number was given to another in the meantime."""
        self._check_open()
        worker = self.of.worker
        if not worker.holds_number():
            worker.take_number()
            self._forget()
            self._resume()
        elif self.own is not None and not self.own.exists():
            self._forget()
        else:
            self.own = self.place / states.name_of(worker.number)
            states.save(self.own, self.accumulators)
        self.saved = time.monotonic()

    def _check_open(self) -> None:
        """Raise Elsewhere where the result is there, whose states are cleared away."""
        if self.of.result.exists():
            raise Elsewhere("another process has the result")

    def _left(self, units: Sequence[range]) -> int:
        return _left(units, [interval for intervals in self._held().values() for interval in intervals])

    def _is_enough(self) -> bool:
        """Whether all states together are enough; this worker goes on with its own where they are not."""
        if self.of.is_enough is None:
            return False
        mark = self.place / ENOUGH
        if not mark.exists():
            self._add_up()
            if self.accumulators[0].report is not None and self.of.is_enough(self.accumulators):
                create(mark, {"worker": self.of.worker.number})
            else:
                self._forget()
                self._resume()
        return mark.exists()

    def _together(self) -> StreamReport:
        """Leave in the accumulators what all states hold; the report of it."""
        self._add_up()
        self._check_open()  # else what was added up may have been cleared away meanwhile
        report = self.accumulators[0].report
        if report is None:
            raise FileError(f"folder: the states in {self.place} are gone; run the same command again")
        self.one_pass.conclude(report)
        return report

    def _add_up(self) -> None:
        """Leave in the accumulators what all states hold, in the order of the workers' numbers."""
        self._forget()
        for path in sorted(self._held(), key=states.number_of):
            self._guarded(path, lambda path=path: states.add(path, self.accumulators))  # type: ignore[misc]


def made_once(place: Path, name: str) -> Path:
    """The file of what is made once for all processes; a claim with another ending says who makes it."""
    return place / f"{MADE}{file_name(name)}.safetensors"


def cut(documents: Intervals, size: int) -> Iterator[range]:
    """Units: so many documents each, by their numbers, the last of an interval with what is left.

    >>> list(cut(((0, 5), (8, 9)), 2))
    [range(0, 2), range(2, 4), range(4, 5), range(8, 9)]
    """
    for first, stop in documents:
        for start in range(first, stop, size):
            yield range(start, min(start + size, stop))


def without(unit: range, held: Sequence[tuple[int, int]]) -> list[range]:
    """What is left of a unit without the intervals held.

    >>> without(range(0, 10), [(2, 4), (8, 20)])
    [range(0, 2), range(4, 8)]
    """
    left = [unit]
    for first, stop in held:
        left = [
            part
            for one in left
            for part in (range(one.start, min(one.stop, first)), range(max(one.start, stop), one.stop))
            if len(part)
        ]
    return left


def _left(units: Sequence[range], held: Sequence[tuple[int, int]]) -> int:
    """How many documents of the units are not held."""
    return sum(len(part) for unit in units for part in without(unit, held))


def _count(intervals: Intervals) -> int:
    return sum(stop - first for first, stop in intervals)


def _overlap(mine: Intervals, theirs: Intervals) -> bool:
    return any(first < end and begin < stop for first, stop in mine for begin, end in theirs)


def claims(place: Path) -> Mapping[int, Path]:
    """The claims of units in the folder of a pass, by the units' numbers."""
    return {int(path.stem.removeprefix("unit-")): path for path in place.glob("unit-*.json")}
