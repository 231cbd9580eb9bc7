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

How they are written is in ``writing.py``.

Refused: folders that hold something else, or were not written to their end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from tl_entropy.analyses.information.reduction import Chunks, Rows, reduced
from tl_entropy.analyses.information.seen import Measured, Seen
from tl_entropy.analyses.information.store import CODES, NUMBERS, ROWS, StoreReader
from tl_entropy.analyses.information.values import values_of
from tl_entropy.analyses.sharing import dealt
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import FileError, InputError, check_int, counted
from tl_entropy.labels import LabelPlan
from tl_entropy.labels.slots import Slots
from tl_entropy.results import SoftInformation
from tl_entropy.results.files import to_read
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site
from tl_entropy.torch_state import Steady, steady

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
        self._of(StoreReader(to_read("folder", folder)))

    @classmethod
    def of_store(cls, store: StoreReader) -> Self:
        """What a store holds that may still be in parts."""
        found = cls.__new__(cls)
        found._of(store)
        return found

    def _of(self, store: StoreReader) -> None:
        self.folder, self._store = store.folder, store
        fields = store.fields
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
            raise FileError(f"folder: {self.folder} cannot be read as assignments ({type(error).__name__}: {error})") from error
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
        path = self.folder / file_of(asked, (n_bins, seed))
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
        rows = Rows.of(seen, self._slots)

        def of_places(mine: Sequence[Measured]) -> list[dict[str, Any]]:
            values = []
            with Bar(total=len(mine), desc="statistics", unit="site", show=progress) as bar:
                for place in mine:
                    found = [
                        reduced(self._reader(place, draw), rows, (place.heads, draw[0]), memory, keep_labels=keep_labels)
                        for draw in self._draws
                    ]
                    values.append(values_of(found, seen.counted))
                    bar.update()
            return values

        by_site = dealt("statistics", self._places, of_places)
        settings = {
            **self.provenance.settings, "folds": folds, "valid": plan.valid, "chance_sample": len(seen.sample),
        }  # fmt: skip
        origin = Provenance(**{**vars(self.provenance), "settings": settings})
        return seen.result(by_site, self._places, self._draws, origin, self._texts(plan) if keep_labels else None)

    def _reader(self, place: Measured, draw: tuple[int, int]) -> Chunks:
        return lambda: self._store.chunks(file_of(place.site, draw), CODES, (place.heads, draw[0]))

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


def file_of(site: Site, draw: tuple[int, int]) -> str:
    """The name of a site's file for a number of bins and a seed."""
    return f"{site}.{draw[0]}-{draw[1]}"
