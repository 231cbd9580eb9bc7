"""Soft assignments on their way to a folder that one process alone writes, and goes on with where it was ended.

Several processes write parts instead (``parts.py``).

Refused: folders that hold something else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tl_entropy.analyses.information.assignments import Assignments, file_of
from tl_entropy.analyses.information.places import BY_HEAD, Place
from tl_entropy.analyses.information.store import CODES, NUMBERS, ROWS, StoreWriter, begun, check_empty
from tl_entropy.analyses.information.sums import SoftAccumulator, planned_slots
from tl_entropy.analyses.saving import settings_of, split
from tl_entropy.analyses.sharing import Pass
from tl_entropy.batches import Batch
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import InputError
from tl_entropy.functional.information.coding import coded
from tl_entropy.labels import LabelPlan
from tl_entropy.results import SoftInformation
from tl_entropy.results.files import as_path, plain, unplain
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site
from tl_entropy.state import decoded, encoded
from tl_entropy.torch_state import Steady

NOTED_EVERY = 60.0
"""Seconds from one note of how far a pass is to the next."""


class AssignmentWriter(Steady):
    """Writes what a ``SoftAccumulator`` would add up, for ``stream``.

    ``compute`` ends the folder, and reduces it for the labels of the plan.

    Args:
        of: the accumulator; nothing is added up in it.
        folder: where to; where a pass that asked for the same was killed or ended there, ``read`` goes on from what it noted.
    """

    def __init__(self, of: SoftAccumulator, folder: str | Path) -> None:
        self.of, self.folder = of, as_path("folder", folder)
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
            self._writer = StoreWriter(self.folder, held_of(self.of.plan), found)

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

    @torch.no_grad()
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Write one batch; all or nothing."""
        of = self.of
        slots = planned_slots(of.plan, batch)
        if not batch.n_rows:
            return
        self._places = self._places or of.placed(activations)
        self._measured = measured_of(of, self._places)
        arrays, directed = codes_of(of, batch, activations, self._places)
        if self._writer is None:
            self._writer = StoreWriter(self.folder, held_of(of.plan))
        self._writer.append(arrays)
        self._dropped += ((~directed).nonzero()[:, 0] + self._rows).tolist()
        self._rows += batch.n_rows
        self.started |= bool((of.plan.ids[:, slots] >= 0).any(0)[directed].any())

    def merge(self, other: AssignmentWriter) -> None:
        """Refused: what one process has written into a folder of its own is whole; parts are put together (``parts.py``).

        Raises:
            InputError: always.
        """
        raise InputError("cannot merge: what one process writes is a folder of its own; keep='sums' can be merged")

    def compute(self, *, progress: bool = False, settings: Mapping[str, Any], **origin: Any) -> SoftInformation:
        """The result of what was written; ``settings`` and ``origin`` go into its provenance.

        Raises:
            InputError: no position with a label was seen.
        """
        of = self.of
        if self._writer is None or not self.started:
            raise InputError("nothing to compute: no position with a label was seen")
        origin["settings"] = {**of._settings(), **settings}
        contents = contents_of(of, self._measured, self._dropped, of.adapter.provenance(**origin))
        self._writer.finish(contents, ended=origin.get("interrupted", False))
        return Assignments(self.folder).reduced(of.plan, of.folds, keep_labels=of.keep_labels, progress=progress)


def disk_of(of: SoftAccumulator) -> int:
    """Bytes that a pass over all of a plan writes."""
    heads = sum(of.adapter.heads_of(site.layer) if site.name in BY_HEAD else 1 for site in of.measured)
    return disk_bytes(of.plan.counted, len(of.plan.tokens), heads * sum(bins for bins, _ in of.draws))


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


def codes_of(
    of: SoftAccumulator, batch: Batch, activations: Mapping[Site, Tensor], placed: Mapping[Site, list[Place]]
) -> tuple[dict[str, np.ndarray], Tensor]:
    """The rows of every file for a batch, and which have a direction at every place [row]; the codes of others are 0."""
    every = torch.ones(batch.n_rows, dtype=torch.bool)
    states = {site: of.states(batch, activations[site], site, every) for site in of.sites}
    lengths = {site: [place.lengths(states[site]) for place in placed[site]] for site in of.sites}
    directed = of.directed(batch, placed, lengths, every)
    arrays = {ROWS: torch.stack([batch.row_document, batch.row_position, batch.row_token], dim=1).numpy().astype(NUMBERS)}
    for site, places in placed.items():
        for place, length in zip(places, lengths[site], strict=True):
            for draw, p in zip(of.draws, place.assign(states[site], length), strict=True):
                codes = coded(p[..., :-1], batch.row_document, batch.row_position, len(arrays)).cpu()
                codes[~directed] = 0
                arrays[file_of(place.site, draw)] = codes.numpy().astype(CODES)
    return arrays, directed


def measured_of(of: SoftAccumulator, placed: Mapping[Site, list[Place]]) -> list[list[Any]]:
    """Of each measured site itself, its heads and its temperatures."""
    made = {place.site: place for places in placed.values() for place in places}
    return [[site, made[site].n_heads, made[site].temperatures] for site in of.measured]


def held_of(plan: LabelPlan) -> dict[str, np.ndarray]:
    """The slots of a plan, as a store keeps them."""
    held = {"starts": plan.starts, "tokens": plan.tokens, "usable": plan.usable.byte()}
    return {name: array.cpu().numpy() for name, array in held.items()}


def contents_of(
    of: SoftAccumulator, measured: list[Any], dropped: list[int], provenance: Provenance, *, texts: bool = True
) -> dict[str, Any]:
    """What a store holds beside its numbers; ``texts`` is whether those of all tokens are among it, which labels need."""
    ids = [i for i in of.plan.tokens.unique().tolist() if i >= 0] if texts else []
    return {
        "places": measured, "draws": of.draws, "dropped": dropped, "strings": of.adapter.strings(ids), "provenance": provenance,
    }  # fmt: skip
