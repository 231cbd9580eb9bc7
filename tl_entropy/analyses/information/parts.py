r"""Soft assignments that several processes write, or a run that goes on: each to files of its own, put together at the end.

What a process has written is a list of chunks: which file, from which row on, how many, and check sums. That list is its
state, and states are merged as those of sums are. So a chunk counts when a state names it, whatever else is in the files of a
process that was killed; a process that goes on writes new files. A chunk has neighbours alone, so that chunks in the order of
their first positions are all rows in order. Rounding depends on a number and its place (``functional/information/coding.py``):
what is there in the end is what one process writes.

Refused: folders that hold something else; processes that do not see one folder; disks without the room.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from tl_entropy.analyses.information.assignments import Assignments
from tl_entropy.analyses.information.part_files import PartsReader, PartWriter
from tl_entropy.analyses.information.places import Place
from tl_entropy.analyses.information.store import clear
from tl_entropy.analyses.information.sums import SoftAccumulator, planned_slots
from tl_entropy.analyses.information.writing import AssignmentWriter, codes_of, contents_of, disk_of, held_of, measured_of
from tl_entropy.analyses.sharing import once, sharing_here
from tl_entropy.batches import Batch
from tl_entropy.errors import InputError, check_choice
from tl_entropy.labels import LabelPlan
from tl_entropy.results import SoftInformation
from tl_entropy.results.files import as_path
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

Kept = Literal["sums", "assignments", "auto"]


class AssignmentParts(SoftAccumulator):
    """Writes what a ``SoftAccumulator`` adds up, where others write, too; its result reads all parts that are there.

    Args:
        model: as for ``SoftAccumulator``, as are ``plan`` and ``options``.
        plan: of the labels.
        folder: where to; that of all processes.
        options: the others.
    """

    kept: ClassVar[tuple[str, ...]] = ("_seen", "_chunks", "_sizes", "_measured")
    bound: ClassVar[tuple[str, ...]] = (*SoftAccumulator.bound, "_own", "_placed")

    def __init__(self, model: Any, plan: LabelPlan, *, folder: str, **options: Any) -> None:
        super().__init__(model, plan, **options)
        self.folder = folder
        self._chunks: list[dict[str, Any]] = []
        self._sizes: dict[str, int] = {}  # name of a file to the bytes of a row
        self._measured: list[list[Any]] = []
        self._lay_out_files()

    def _lay_out_files(self) -> None:
        self._own: PartWriter | None = None
        self._placed: dict[Site, list[Place]] = {}

    @classmethod
    def of(cls, sums: SoftAccumulator, folder: str | Path) -> Self:
        """As an accumulator of sums was asked for."""
        arguments, options = sums._given
        return cls(sums.adapter, *arguments, folder=str(folder), **options)

    @torch.no_grad()
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Write one batch; all or nothing."""
        slots = planned_slots(self.plan, batch, self.first_document)
        if not batch.n_rows:
            return
        self._placed = self._placed or self.placed(activations)
        arrays, directed = codes_of(self, batch, activations, self._placed)
        labelled = (self.plan.ids[:, slots] >= 0).any(0)
        seen = slots[labelled & directed]
        if bool(self._seen[seen].any()):
            raise InputError("inputs: these positions were counted before; every document goes into an accumulator once")
        jumps = (batch.row_document.diff() > 1).nonzero()[:, 0] + 1
        edges = [0, *jumps.tolist(), batch.n_rows]
        self._own = self._own or PartWriter(Path(self.folder))
        chunks = self._own.append(arrays, edges)
        for chunk, first in zip(chunks, edges[:-1], strict=True):
            chunk["dropped"] = (~directed[first : first + chunk["rows"]]).nonzero()[:, 0].tolist()
        self._chunks = [*self._chunks, *chunks]
        self._sizes = {name: array[0].nbytes for name, array in arrays.items()}
        self._measured = measured_of(self, self._placed)
        self._seen[seen] = True
        self._read += batch.n_rows
        self._dropped += int((labelled & ~directed).sum())

    def _state(self) -> dict[str, Any]:
        if self._own is not None:
            self._own.sync()  # for a state counts on it
        return super()._state()

    def _came(self) -> None:
        super()._came()
        if "_own" not in vars(self):
            self._lay_out_files()

    def _merge(self, other: Self, *, placed: bool) -> None:
        self._chunks = [*self._chunks, *other._chunks]
        self._sizes, self._measured = self._sizes or other._sizes, self._measured or other._measured
        self._seen = self._seen | other._seen

    def _result(self, provenance: Provenance, *, progress: bool = False) -> SoftInformation:
        found = Assignments.of_store(self._reader(provenance, texts=self.keep_labels))
        return found.reduced(self.plan, self.folds, keep_labels=self.keep_labels, progress=progress)

    def put_together(self, *, progress: bool, **origin: Any) -> SoftInformation:
        """Make one folder of what all processes have written, and give the result; ``origin`` goes into its provenance.

        Raises:
            InputError: no position with a label was seen.
            FileError, SaveError: parts that cannot be read, or a folder that cannot be written to.
        """
        if not self.started:
            raise InputError("nothing to compute: no position with a label was seen")
        ended = bool(origin.get("interrupted"))
        once("assignments", lambda: self._reader(self._provenance(origin), texts=True).put_together(ended=ended))
        found = Assignments(self.folder)
        return found.reduced(self.plan, self.folds, keep_labels=self.keep_labels, progress=progress)

    def _reader(self, provenance: Provenance, *, texts: bool) -> PartsReader:
        before, dropped = 0, []
        for chunk in sorted(self._chunks, key=lambda chunk: chunk["first"]):
            dropped += [before + row for row in chunk["dropped"]]
            before += chunk["rows"]
        contents = contents_of(self, self._measured, dropped, provenance, texts=texts)
        return PartsReader(Path(self.folder), self._chunks, self._sizes, held_of(self.plan), contents)


def kept_as(
    sums: SoftAccumulator, keep: Kept, folder: str | Path | None, *, whole: bool
) -> tuple[SoftAccumulator | AssignmentWriter, dict[str, Any]]:
    """What keeps assignments, as asked for or where they take fewer bytes than sums, and what the provenance says of that.

    Args:
        sums: what would keep sums.
        keep: as ``soft_information`` was asked.
        folder: likewise.
        whole: whether every process reads all there is, as of a cache.

    Raises:
        InputError: ``folder`` without something to keep there, or the other way round; a disk without the room.
    """
    check_choice("keep", keep, ("sums", "assignments", "auto"))
    if keep == "sums":
        if folder is not None:
            raise InputError("folder: sums are kept in memory; pass keep='assignments' or keep='auto' with it")
        return sums, {}
    if folder is None:
        raise InputError(f"keep={keep!r} needs a folder for the assignments; pass folder=")
    place = as_path("folder", folder)
    sizes = {"sums_bytes": sums.memory(), "assignments_bytes": disk_of(sums)}
    is_shared = sharing_here() is not None
    writer = None if is_shared else AssignmentWriter(sums, place)
    if keep == "auto" and sizes["sums_bytes"] <= sizes["assignments_bytes"]:
        return sums, {"keep": "sums", **sizes}
    kept = {"keep": "assignments", **(sizes if keep == "auto" else {})}
    if writer is not None:
        _check_room(place, sizes["assignments_bytes"])
        return writer, kept
    if whole:
        raise InputError("inputs: a cache is read by each process as a whole; write its assignments inside tl_entropy.alone()")

    def begun() -> None:
        clear(place)
        _check_room(place, sizes["assignments_bytes"])

    once("folder of assignments", begun)
    return AssignmentParts.of(sums, place), kept


def _check_room(folder: Path, needed: int) -> None:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"folder: assignments take {needed / 2**30:.1f} GiB, and the disk of {folder} has {free / 2**30:.1f}: use "
            "fewer sites, heads or seeds, smaller n_bins, or another disk"
        )
