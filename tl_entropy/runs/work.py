"""How far one analysis of one model is, from its files alone: which documents are held, which claimed, and what is free.

What is not there yet holds nothing. Damaged files hold nothing either, as they will be found to be when somebody goes on with
the work; nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tl_entropy.capture.parts import Intervals
from tl_entropy.errors import FileError
from tl_entropy.runs import states
from tl_entropy.runs.folder import RunFolder, read_json
from tl_entropy.runs.sharing import DOCUMENTS, ENOUGH, MADE, claims, cut, without
from tl_entropy.runs.workers import Worker


@dataclass(frozen=True)
class Work:
    """The work of one analysis of one model.

    Attributes:
        folder: the run's.
        stem: the model's folder.
        analysis: its name.
        documents: how many there are.
        unit_documents: documents of a unit.
    """

    folder: RunFolder
    stem: str
    analysis: str
    documents: int
    unit_documents: int

    @property
    def place(self) -> Path:
        """The folder of the latest pass."""
        whole = self.folder.work(self.stem, self.analysis)
        passes = [path for path in whole.glob("pass-*") if path.name.removeprefix("pass-").isdecimal()]
        return max(passes, key=lambda path: int(path.name.removeprefix("pass-")), default=whole / "pass-0")

    def units(self) -> list[range]:
        """All units of the latest pass, in order."""
        told = read_json(self.place / DOCUMENTS) or {}
        return list(cut(((0, int(told.get("documents", self.documents))),), self.unit_documents))

    def held(self) -> dict[Path, Intervals]:
        """The documents in each state that can be read."""
        return dict(self._held())

    def done(self) -> list[bool]:
        """Of each unit, whether all its documents are held."""
        held = [interval for intervals in self.held().values() for interval in intervals]
        return [not without(unit, held) for unit in self.units()]

    def is_free(self, worker: Worker) -> bool:
        """Whether there is something that this worker may begin: a unit, or the result where nobody is at it."""
        whole = self.folder.work(self.stem, self.analysis)
        made = [path for path in whole.glob(f"{MADE}*.json") if not path.with_suffix(".safetensors").exists()]
        if not all(map(worker.is_free, made)):  # another makes what all of them need
            return False
        place, done = self.place, self.done()
        if (place / ENOUGH).exists() or all(done):
            return worker.is_free(whole / "result.json")
        claimed = claims(place)
        return any(not whole and (i not in claimed or worker.is_free(claimed[i])) for i, whole in enumerate(done))

    def _held(self) -> Iterator[tuple[Path, Intervals]]:
        for path in sorted(self.place.glob(states.PATTERN)):
            try:
                yield path, states.held(path)
            except FileError:
                continue
