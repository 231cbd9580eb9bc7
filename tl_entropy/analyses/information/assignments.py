r"""Soft assignments of every position kept on the disk: label sets that are asked for later need no pass of the model.

Sums by label (``analyses/information/sums.py``) take up to 8 (n_bins + 1) bytes for each pair of a label and a fold of
documents, of each label set at each place; assignments 2 n_bins bytes for each position at each place, whatever is asked of
them. Sums are the cheaper where labels are few or frequent, assignments where they are rare, or many, or not known yet. They
are kept in two bytes a number (``functional/information/coding.py``): values agree with those of sums within 1e-6 nats where
some thousand positions count. They are reduced label set by label set, in bounded memory
(``analyses/information/reduction.py``).

What is kept is every position counted, be it labelled or not, so that any label set can be asked for later. So states without
a direction are refused, or dropped, at every position counted. ``center=True`` is the mean over the positions that have a label
at the pass.

Refused: folders that hold something else, or were not written to their end; writing from several processes at once.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from tl_entropy.analyses.information.places import BY_HEAD, Place
from tl_entropy.analyses.information.reduction import Chunks, Rows, reduced
from tl_entropy.analyses.information.seen import Measured, Seen
from tl_entropy.analyses.information.store import CODES, NUMBERS, ROWS, StoreReader, StoreWriter, begun, check_empty
from tl_entropy.analyses.information.sums import SoftAccumulator, planned_slots
from tl_entropy.analyses.information.values import values_of
from tl_entropy.analyses.saving import settings_of, split
from tl_entropy.analyses.sharing import Pass, sharing_here
from tl_entropy.batches import Batch
from tl_entropy.capture.progress import Bar
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import FileError, InputError, InputTypeError, check_choice, check_int, counted
from tl_entropy.functional.information.coding import coded
from tl_entropy.labels import LabelPlan
from tl_entropy.labels.slots import Slots
from tl_entropy.results import SoftInformation
from tl_entropy.results.files import plain, unplain
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site
from tl_entropy.state import decoded, encoded
from tl_entropy.torch_state import Steady, steady

Kept = Literal["sums", "assignments", "auto"]

NOTED_EVERY = 60.0
"""Seconds from one note of how far a pass is to the next."""

BUDGET = 2**30
"""Bytes of sums that are held at a time."""


class Assignments(Steady):
    """Soft assignments of every position at every place of a model, in a folder; ``load_assignments`` reads one.

    Attributes:
        folder: where they are.
        sites: the sites measured.
        n_bins: number of anchors of each draw.
        seeds: seed of each draw of anchors.
        rows: number of positions.
        documents: number of documents of the inputs, empty ones included.
        provenance: of the pass that wrote them: model, settings, corpus.

    >>> import tl_entropy as tle
    >>> from tempfile import mkdtemp
    >>> where = mkdtemp()
    >>> options = {"sites": "resid_post", "layers": [0, 5], "n_bins": 10, "progress": False}
    >>> result = tle.soft_information(tle.demo_model(), ["import os, sys"] * 3, keep="assignments", folder=where, **options)
    >>> kept = tle.load_assignments(where)
    >>> kept.rows, kept.codes("resid_post.5", 10).shape  # position, head, bin
    (12, (12, 1, 10))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._store = StoreReader(self.folder)
        fields = self._store.fields
        try:
            self._places = [Measured(site, heads, temperatures) for site, heads, temperatures in fields["places"]]
            self._draws: tuple[tuple[int, int], ...] = fields["draws"]
            self.provenance: Provenance = fields["provenance"]
            self.rows: int = fields["rows"]
            self._starts, self._tokens = (torch.from_numpy(self._store.slots[name]) for name in ("starts", "tokens"))
            self._usable = torch.from_numpy(self._store.slots["usable"]).bool()
            where = [torch.from_numpy(part.copy()).long() for _, part in self._store.chunks(ROWS, NUMBERS, (3,))]
            document, position, token = torch.cat([torch.zeros(0, 3, dtype=torch.long), *where]).T
            self._slots = self._starts[document] + 1 + position
            if not torch.equal(self._tokens[self._slots].long(), token) or bool((self._slots.diff() <= 0).any()):
                raise ValueError("its rows are not those of its documents, in order")
            self._dropped = torch.zeros(self.rows, dtype=torch.bool)
            self._dropped[torch.tensor(fields["dropped"], dtype=torch.long)] = True
        except FileError:
            raise
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            raise FileError(f"folder: {folder} cannot be read as assignments ({type(error).__name__}: {error})") from error
        self.sites: tuple[Site, ...] = tuple(place.site for place in self._places)
        self.n_bins, self.seeds = (tuple(of) for of in zip(*self._draws, strict=True))
        self.documents = len(self._starts) - 1

    def __repr__(self) -> str:
        places = sum(place.heads for place in self._places)
        return (
            f"Assignments: {counted(self.rows, 'position', ',')} of {counted(self.documents, 'document', ',')} at "
            f"{counted(places, 'place')}, {counted(len(self._draws), 'draw')} of anchors, "
            f"of {self.provenance.model} in {self.folder}"
        )

    def codes(self, site: Site | str, n_bins: int, seed: int = 0) -> np.ndarray:
        """The numbers of a site as a memory map, [row, head, bin] uint16, rows in order; p = q³ / Σ q³.

        Raises:
            InputError: no such site, or draw of anchors.
        """
        asked = Site.parse(site, "site")
        place = next((one for one in self._places if one.site == asked), None)
        if place is None or (n_bins, seed) not in self._draws:
            raise InputError(f"site, n_bins, seed: {self.folder} has no {asked} with {n_bins} bins and seed {seed}")
        path = self.folder / _file(asked, (n_bins, seed))
        found: np.ndarray = np.memmap(path, CODES, "r", shape=(self.rows, place.heads, n_bins))
        return found

    def label_plan(self, labels: Any, *, valid: Literal["common", "own"] = "common") -> LabelPlan:
        """Label every position that is there; ``labels`` and ``valid`` as for ``soft_information``."""
        counted = torch.zeros(len(self._tokens), dtype=torch.bool)
        counted[self._slots] = True
        return LabelPlan.from_slots(Slots.of(self._starts, self._tokens, counted, self._usable), labels, valid=valid)

    def information(
        self,
        labels: Any = ("token", "next_token"),
        *,
        valid: Literal["common", "own"] = "common",
        folds: int = 20,
        keep_labels: bool = False,
        memory: int = BUDGET,
        progress: bool = True,
    ) -> SoftInformation:
        r"""H(Z) and I(X;Z) about label sets, as ``soft_information`` has them, without a pass of the model.

        Args:
            labels: as for ``soft_information``, of the same documents in the same order; or a ``label_plan`` of them, which
                labels of spans (``span_labels``) need, since texts are not kept.
            valid: "common" counts only positions where all labels are defined; "own" all that each label set has.
            folds: groups of documents, none of which predicts itself.
            keep_labels: also give the values of every single label that is seen twice or more.
            memory: bytes of sums that are held at a time; where all take more, files are read several times.
            progress: show progress.

        Returns:
            ``SoftInformation``, in nats; its provenance is that of the pass, with the settings asked for here.

        Raises:
            InputError: labels that are unknown or fit nothing, or a plan of other documents.
            FileError: a file that is damaged.
        """
        memory = check_int("memory", memory, 1)
        plan = labels if isinstance(labels, LabelPlan) else self.label_plan(labels, valid=valid)
        if not (torch.equal(plan.starts, self._starts) and torch.equal(plan.tokens, self._tokens)):
            raise InputError(
                "labels: the plan was made from other tokens than those that are kept; make it from the same inputs"
            )
        return self.reduced(plan, check_int("folds", folds, 1), keep_labels=keep_labels, memory=memory, progress=progress)

    def reduced(
        self, plan: LabelPlan, folds: int, *, keep_labels: bool, memory: int = BUDGET, progress: bool
    ) -> SoftInformation:
        """The same for a plan of these documents, of which more positions may be labelled than are there."""
        labelled = (plan.ids >= 0).any(0)
        slots = torch.zeros_like(labelled)
        slots[self._slots[~self._dropped]] = True
        dropped = int(labelled[self._slots[self._dropped]].sum())
        seen = Seen(plan, plan.tables(folds), slots & labelled, self.rows, dropped)
        if not bool(seen.slots.any()):
            raise InputError("nothing to compute: no position with a label is kept")
        rows, by_site = Rows.of(seen, self._slots), []
        with Bar(total=len(self._places), desc="statistics", unit="site", show=progress) as bar:
            for place in self._places:
                found = [
                    reduced(self._reader(place, draw), rows, (place.heads, draw[0]), memory, keep_labels=keep_labels)
                    for draw in self._draws
                ]
                by_site.append(values_of(found, seen.counted, rows.classes))
                bar.update()
        settings = {
            **self.provenance.settings, "folds": folds, "valid": plan.valid, "chance_sample": len(seen.sample),
        }  # fmt: skip
        origin = Provenance(**{**vars(self.provenance), "settings": settings})
        return seen.result(by_site, self._places, self._draws, origin, self._texts(plan) if keep_labels else None)

    def _reader(self, place: Measured, draw: tuple[int, int]) -> Chunks:
        return lambda: self._store.chunks(_file(place.site, draw), CODES, (place.heads, draw[0]))

    def _texts(self, plan: LabelPlan) -> tuple[tuple[str, ...], ...]:
        strings: Mapping[int, str] = self._store.fields["strings"]
        return tuple(tuple(plan.texts(label, strings)) for label in plan.names)


@steady
def load_assignments(folder: str | Path) -> Assignments:
    """The soft assignments that ``soft_information(..., keep="assignments", folder=folder)`` wrote.

    Raises:
        FileError: no such folder, one that was not written to its end, or one that is damaged.

    >>> import tl_entropy as tle
    >>> from tempfile import mkdtemp
    >>> texts, where = ["import os, sys"] * 3, mkdtemp()
    >>> options = {"layers": [0], "n_bins": 10, "progress": False}
    >>> result = tle.soft_information(tle.demo_model(), texts, keep="assignments", folder=where, **options)
    >>> kept = tle.load_assignments(where)
    >>> kept.information(labels=("trigram", "position"), progress=False).labels  # no pass of the model
    ('trigram', 'position')
    """
    return Assignments(folder)


class AssignmentWriter(Steady):
    """Writes what a ``SoftAccumulator`` would add up, for ``stream``.

    ``compute`` ends the folder, and reduces it for the labels of the plan.

    Args:
        of: the accumulator; nothing is added up in it.
        folder: where to; where a pass that asked for the same was killed or ended there, ``read`` goes on from what it noted.
    """

    def __init__(self, of: SoftAccumulator, folder: str | Path) -> None:
        if not isinstance(folder, str | Path):
            raise InputTypeError(f"folder must be a path; got {type(folder).__name__}")
        self.of, self.folder = of, Path(folder)
        check_empty(self.folder, may_go_on=True)
        self.sites, self.takes_non_finite = of.sites, of.takes_non_finite
        self._places: dict[Site, list[Place]] = {}  # of each captured; made when the first batch shows how wide it is
        self._measured: list[Any] = []  # of each measured site: itself, its heads, its temperatures
        self._writer: StoreWriter | None = None
        self._noted = time.monotonic()
        self._rows = 0
        self._dropped: list[int] = []
        self.started = False

    def read(self, one_pass: Pass) -> StreamReport:
        """Let ``one_pass`` read what is not there yet; the report of all that is there then.

        Raises:
            InputError: the folder holds assignments of a pass that was ended, and that asked for something else.
            Whatever else ends the pass.
        """
        asked = split([self.of.adapter.fingerprint, settings_of(self.of)])[0]
        found, before = begun(self.folder, asked), None
        if found is not None:
            noted, before = found["contents"], decoded(found["contents"]["report"])
            self._rows, self._dropped, self.started = found["rows"], noted["dropped"], noted["started"]
            self._measured = [list(place) for place in unplain(noted["places"])]
            self._writer = StoreWriter(self.folder, self._held(), found)

        def after(report: StreamReport) -> bool:
            if self._writer is not None and time.monotonic() - self._noted >= NOTED_EVERY:
                whole = report if before is None else before.together(report)
                noted = {"dropped": self._dropped, "started": self.started, "places": plain(self._measured)}
                self._writer.note(asked, {**noted, "report": encoded(whole)})
                self._noted = time.monotonic()
            return False

        first = 0 if before is None else before.held[-1][1]
        report = one_pass([cast("Any", self)], documents=range(first, sys.maxsize), after=after)
        report = report if before is None else before.together(report)
        if not report.interrupted:
            one_pass.conclude(report)
        return report

    def _held(self) -> dict[str, np.ndarray]:
        plan = self.of.plan
        held = {"starts": plan.starts, "tokens": plan.tokens, "usable": plan.usable.byte()}
        return {name: array.cpu().numpy() for name, array in held.items()}

    def disk(self) -> int:
        """Bytes that a pass over all of the plan writes."""
        of, plan = self.of, self.of.plan
        heads = sum(of.adapter.heads_of(site.layer) if site.name in BY_HEAD else 1 for site in of.measured)
        return disk_bytes(plan.counted, len(plan.tokens), heads * sum(bins for bins, _ in of.draws))

    @torch.no_grad()
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Write one batch; all or nothing."""
        of = self.of
        slots = planned_slots(of.plan, batch)
        if not batch.n_rows:
            return
        if not self._places:
            self._places = {site: of.placed(site, activations[site]) for site in of.sites}
            made = {place.site: place for placed in self._places.values() for place in placed}
            self._measured = [[site, made[site].n_heads, made[site].temperatures] for site in of.measured]
        every = torch.ones(batch.n_rows, dtype=torch.bool)
        states = {site: of.states(batch, activations[site], site, every) for site in of.sites}
        lengths = {site: [place.lengths(states[site]) for place in self._places[site]] for site in of.sites}
        directed = of.directed(batch, self._places, lengths, every)
        arrays = {ROWS: torch.stack([batch.row_document, batch.row_position, batch.row_token], dim=1).numpy()}
        for site, places in self._places.items():
            for place, length in zip(places, lengths[site], strict=True):
                for draw, p in zip(of.draws, place.assign(states[site], length), strict=True):
                    codes = coded(p[..., :-1], batch.row_document, batch.row_position, len(arrays)).cpu()
                    codes[~directed] = 0
                    arrays[_file(place.site, draw)] = codes.numpy().astype(CODES)
        if self._writer is None:
            self._writer = StoreWriter(self.folder, self._held())
        self._writer.append(arrays)
        self._dropped += ((~directed).nonzero()[:, 0] + self._rows).tolist()
        self._rows += batch.n_rows
        self.started |= bool((of.plan.ids[:, slots] >= 0).any(0)[directed].any())

    def merge(self, other: AssignmentWriter) -> None:
        """Refused: what is on the disk is not put together.

        Raises:
            InputError: always.
        """
        raise InputError("cannot merge: assignments are written by one process, in order; keep='sums' can be shared")

    def compute(self, *, progress: bool = False, settings: Mapping[str, Any], **origin: Any) -> SoftInformation:
        """The result of what was written; ``settings`` and ``origin`` go into its provenance.

        Raises:
            InputError: no position with a label was seen.
        """
        of = self.of
        if self._writer is None or not self.started:
            raise InputError("nothing to compute: no position with a label was seen")
        ids = [i for i in of.plan.tokens.unique().tolist() if i >= 0]
        self._writer.finish(
            {
                "places": self._measured, "draws": of.draws, "dropped": self._dropped, "strings": of.adapter.strings(ids),
                "provenance": of.adapter.provenance(settings={**of._settings(), **settings}, **origin),
            },
            ended=origin.get("interrupted", False),
        )  # fmt: skip
        return Assignments(self.folder).reduced(of.plan, of.folds, keep_labels=of.keep_labels, progress=progress)


def disk_bytes(positions: int, slots: int, numbers: int) -> int:
    """Bytes of a folder, but for its index and its log.

    Args:
        positions: that are counted.
        slots: positions of all documents, and one for the BOS of each.
        numbers: n_bins of every draw of anchors at every place.

    >>> disk_bytes(5_120_000, 5_130_000, 100) / 1e9  # one layer of five million tokens
    1.11109
    """
    return positions * (12 + 2 * numbers) + 5 * slots


def writer_for(
    accumulator: SoftAccumulator, keep: Kept, folder: str | Path | None
) -> tuple[AssignmentWriter | None, dict[str, Any]]:
    """What writes assignments, as asked for or where they take fewer bytes than sums, and what the provenance says of that.

    Raises:
        InputError: ``folder`` without something to keep there, or the other way round; a disk without the room.
    """
    check_choice("keep", keep, ("sums", "assignments", "auto"))
    if keep == "sums":
        if folder is not None:
            raise InputError("folder: sums are kept in memory; pass keep='assignments' or keep='auto' with it")
        return None, {}
    if folder is None:
        raise InputError(f"keep={keep!r} needs a folder for the assignments; pass folder=")
    writer = AssignmentWriter(accumulator, folder)
    sizes = {"sums_bytes": accumulator.memory(), "assignments_bytes": writer.disk()}
    if keep == "auto" and sizes["sums_bytes"] <= sizes["assignments_bytes"]:
        return None, {"keep": "sums", **sizes}
    if sharing_here() is not None:
        raise InputError(f"keep={keep!r}: assignments are written by one process; keep='sums' is shared among several")
    there = writer.folder.resolve()
    while not there.exists():
        there = there.parent
    needed, free = sizes["assignments_bytes"], shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"folder: assignments take {needed / 2**30:.1f} GiB, and the disk of {writer.folder} has {free / 2**30:.1f}: use "
            "fewer sites, heads or seeds, smaller n_bins, or another disk"
        )
    return writer, {"keep": "assignments", **(sizes if keep == "auto" else {})}


def _file(site: Site, draw: tuple[int, int]) -> str:
    """The name of a site's file for a number of bins and a seed."""
    return f"{site}.{draw[0]}-{draw[1]}"
