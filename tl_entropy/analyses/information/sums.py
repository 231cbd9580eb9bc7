"""The sums behind ``soft_information``: soft assignments by label and fold, at every site, head and draw of anchors at once.

Assignments (``analyses/information/places.py``) are added up in float64 as each batch comes; positions of labels and folds with
few of them are kept as they are, once for all label sets (``analyses/information/keeping.py``), and so are up to 4096 drawn at
random, on which chance and errors over anchors are measured. That takes less than, in bytes,

    8 · Σ_places Σ_draws (n_bins + 1) · Σ_labels rows  +  4 · Σ_places Σ_draws (n_bins + 1) · 4096,

where the rows of a label set are its pairs of a label seen twice or more and a fold of documents in which it occurs, and one
for each fold (8 instead of 4 for float64 models); in text it takes a half, and of heads a third. Beside that, which positions
were seen is known, a byte for each.

Refused: tokens that the label plan was not made from; states without a direction, unless they are to be dropped; merging sums
of different plans or settings, or of the same positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from tl_entropy.analyses.information.centers import checked_centers
from tl_entropy.analyses.information.keeping import Layout, Shape
from tl_entropy.analyses.information.places import BY_HEAD, Place, anchors, captured_for
from tl_entropy.analyses.information.seen import Measured, Seen, sample_of
from tl_entropy.analyses.information.site_sums import SiteSums, joined, rows_of, together
from tl_entropy.analyses.information.values import apart, site_values
from tl_entropy.analyses.sharing import dealt
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.analyses.workers import one_thread_each
from tl_entropy.batches import Batch
from tl_entropy.capture.given import of_stack
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, is_iterable
from tl_entropy.functional.information.soft import Invalid
from tl_entropy.functional.information.temperature import Calibration
from tl_entropy.labels import LabelPlan
from tl_entropy.results import SoftInformation
from tl_entropy.results.files import digest
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, Site

Heads = bool | Literal["z", "result"]

_MOST = 0.75  # of a batch: where so many of its positions have a label, assigning the others costs less than copying these


class SoftAccumulator(StreamingMeasure[SoftInformation]):
    """Sums of soft assignments by label, fold, site, head and draw; arguments as for ``soft_information``.

    ``compute`` gives a ``SoftInformation`` of what was seen so far. Accumulators of parts of a corpus merge exactly, where they
    share one plan of the whole; ``first_document`` is then the number of the part's first document in it.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> texts = ["import os, sys"] * 3
    >>> plan = tle.label_plan(model, texts, labels=("token",))
    >>> soft = tle.SoftAccumulator(model, plan, layers=[0], n_bins=10)
    >>> report = tle.stream(model, texts, [soft], progress=False)
    >>> soft.compute().labels
    ('token',)
    """

    alike = ("measured", "draws", "calibration", "invalid", "folds")
    gathered = ("_read", "_dropped")
    kept: ClassVar[tuple[str, ...]] = ("_sites", "_seen")
    bound: ClassVar[tuple[str, ...]] = ("_tables", "_sample", "_layouts")

    def __init__(
        self,
        model: Any,
        plan: LabelPlan,
        *,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        heads: Heads = False,
        n_bins: int | Sequence[int] = 100,
        seed: int | Sequence[int] = 0,
        calibration: Calibration = "exact",
        centers: Mapping[Site | str, Tensor] | None = None,
        invalid: Invalid = "error",
        folds: int = 20,
        keep_labels: bool = False,
        first_document: int = 0,
    ) -> None:
        model, sites = of_stack(model, sites)
        super().__init__(model)
        if not isinstance(plan, LabelPlan):
            raise InputTypeError(f"plan must be a LabelPlan, as label_plan(...) gives; got {type(plan).__name__}")
        check_choice("heads", heads, (False, True, "z", "result"))
        check_choice("invalid", invalid, ("error", "drop"))
        check_choice("calibration", calibration, ("exact", "leading_order"))
        self.folds, self.first_document = check_int("folds", folds, 1), check_int("first_document", first_document, 0)
        self.plan, self.invalid, self.keep_labels, self.calibration = plan, invalid, keep_labels, calibration
        asked = [sites] if isinstance(sites, str | Site) or not is_iterable(sites) else list(sites)
        asked += {False: [], True: ["z", "result"], "z": ["z"], "result": ["result"]}[heads]
        self.measured = self.adapter.sites(asked, layers)
        if any(site.name == "pattern" for site in self.measured):
            raise InputError(
                "sites: pattern holds no states but attention weights; choose from embed, resid_post, z, result, ..."
            )
        self.sites = tuple(dict.fromkeys(captured_for(site) for site in self.measured))  # a head's output comes from its z
        self.centers = checked_centers(centers, self.sites)
        bins = _several("n_bins", n_bins, 2)
        seeds = _several("seed", seed, 0)
        self.draws = tuple(itertools.product(bins, seeds))
        self.takes_non_finite = invalid == "drop"
        self._lay_out()
        self._sites: dict[Site, SiteSums] = {}  # of each captured; made when the first batch shows how wide it is
        self._seen = torch.zeros(plan.ids.shape[1], dtype=torch.bool)  # [slot]
        self._read = self._dropped = 0
        self._moves = False  # whether sums came from elsewhere, and are not yet where the activations are

    def _lay_out(self) -> None:
        self._tables = self.plan.tables(self.folds)
        self._sample = sample_of(self.plan)
        self._layouts: dict[float, Layout] = {}

    @property
    def started(self) -> bool:
        """Whether a position with a label was seen."""
        return bool(self._seen.any())

    def memory(self) -> int:
        """Bytes of the sums and of what is kept, all of which is there from the first batch on."""
        total, number = 0, 8 if self.adapter.dtype == torch.float64 else 4
        for site in self.sites:
            heads, width = self.adapter.heads.shape(site.layer) if site.name in BY_HEAD else (1, self.adapter.width(site))
            shape, layout = self._kept_as(site, width, number)
            total += heads * (len(layout.slots) * shape.kept + (layout.n_sums + 1) * shape.summed)
        return total

    def _came(self) -> None:
        """Sums from a state find their layout, which follows from the plan."""
        if "_tables" not in vars(self):
            self._lay_out()
        for sums in self._sites.values():
            sums.layout = self._layout(sums.shape)
        self._moves = bool(self._sites)

    def _told_apart(self) -> dict[str, Any]:
        plan, centers = self.plan, {str(site): mean.detach().cpu().contiguous() for site, mean in self.centers.items()}
        of_plan = {name: getattr(plan, name).cpu().contiguous() for name in ("starts", "tokens", "ids")}
        return {"plan": digest(repr((plan.names, plan.sides, plan.valid)), of_plan), "centers": digest("", centers)}

    def _ids(self) -> Tensor:
        return self.plan.tokens[self.plan.tokens >= 0].long() if self.keep_labels else super()._ids()

    @torch.no_grad()
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""
        slots = planned_slots(self.plan, batch, self.first_document)
        if not batch.n_rows:
            return
        rows = torch.stack([table.rows[slots].long() for table in self._tables])  # [label, row]
        labelled = (rows >= 0).any(0)
        if not self._sites or self._moves:
            before = self._sites
            self._prepare(activations)
            for site, sums in before.items():
                self._sites[site].merge(sums)
            self._moves = False
        at, states = self._standing(batch, activations, labelled)
        placed = {site: sums.places for site, sums in self._sites.items()}
        lengths = {site: [place.lengths(states[site]) for place in placed[site]] for site in self.sites}
        of_rows = {site: [rows_of(one, at) for one in found] for site, found in lengths.items()}
        directed = self.directed(batch, placed, of_rows, labelled)
        if not bool(directed.all()):
            at, labelled[labelled.clone()] = at[directed], directed
        slots, rows = slots[labelled], rows[:, labelled]
        if bool(self._seen[slots].any()):
            raise InputError("inputs: these positions were counted before; every document goes into an accumulator once")
        additions = [
            addition
            for site, sums in self._sites.items()
            for addition in sums.additions(states[site], lengths[site], at, slots, rows)
        ]
        most: dict[torch.device, int] = {}
        for into, values, _ in additions:
            if into.dtype != values.dtype:
                most[into.device] = max(most.get(into.device, 0), values.numel())
        rooms = {device: torch.empty(size, dtype=torch.float64, device=device) for device, size in most.items()}
        # From here on no memory is asked for and nothing can fail: an update that raised before has changed nothing.
        for into, values, places in additions:
            if into.dtype != values.dtype:
                values = rooms[into.device][: values.numel()].view(values.shape).copy_(values)
            for place in places:
                into.index_add_(0, place, values)
        self._seen[slots] = True
        self._read += batch.n_rows
        self._dropped += int((~directed).sum())

    def _merge(self, other: Self, *, placed: bool) -> None:
        """Documents have the numbers of the plan."""
        for site, sums in other._sites.items():
            if site not in self._sites:
                self._sites[site] = sums.empty()
            self._sites[site].merge(sums)
        self._seen = self._seen | other._seen

    def _check_alike(self, other: SoftAccumulator) -> None:
        super()._check_alike(other)
        if not _same_plan(self.plan, other.plan):
            raise InputError("cannot merge: the label plans differ; make one plan of the whole corpus for all parts")
        if self.centers.keys() != other.centers.keys() or not all(
            torch.equal(mean.cpu(), other.centers[site].cpu()) for site, mean in self.centers.items()
        ):
            raise InputError("cannot merge: centers differ; give all parts the means of the whole corpus")
        if bool((self._seen & other._seen).any()):
            raise InputError("cannot merge: both parts have seen the same positions; each must be read once")

    def compute(self, *, progress: bool = False, **origin: Any) -> SoftInformation:
        """The result of what was seen so far.

        Args:
            progress: show a bar over sites.
            origin: goes into its provenance.

        Raises:
            InputError: no position with a label was seen yet.
        """
        if not self.started:
            raise InputError("nothing to compute: no position with a label was seen")
        return self._result(self._provenance(origin), progress=progress)

    def _settings(self) -> dict[str, Any]:
        return {
            "calibration": self.calibration, "chance_sample": int(self._seen[self._sample].sum()), "folds": self.folds,
            "invalid": self.invalid, "valid": self.plan.valid, "centered": bool(self.centers), "estimator": "cross_fitted",
            "n_bins": tuple(dict.fromkeys(bins for bins, _ in self.draws)),
            "seed": tuple(dict.fromkeys(seed for _, seed in self.draws)), "sites": tuple(map(str, self.measured)),
        }  # fmt: skip

    def _result(self, provenance: Provenance, *, progress: bool = False) -> SoftInformation:
        seen = Seen(self.plan, self._tables, self._seen, self._read, self._dropped)
        by_site = {place.site: (place, sums) for sums in self._sites.values() for place in sums.places}
        places = [by_site[site] for site in self.measured]
        options: dict[str, Any] = {"folds": seen.n_folds, "whole": seen.whole, "keep_labels": self.keep_labels}
        workers, tables = torch.get_num_threads(), [(one.table, one.order) for one in seen.counted]

        def of_places(some: Sequence[tuple[Place, SiteSums]]) -> list[list[dict[str, Any]]]:
            every = (sums.blocks(place, tables, self._seen, len(seen.sample), workers) for place, sums in some)
            blocks = itertools.chain.from_iterable(every)
            if len(some) == 1:
                return [[site_values(masses, samples, seen.counted, **options) for masses, samples in blocks]]
            masses, samples = joined(list(blocks))
            values = site_values(masses, samples, seen.counted, **options)
            return [[of_place] for of_place in apart(values, [place.n_heads for place, _ in some])]

        def of_all(mine: Sequence[tuple[Place, SiteSums]]) -> list[list[dict[str, Any]]]:
            numbers = [place.n_heads * sums.numbers(place, self._seen) for place, sums in mine]
            found: list[list[dict[str, Any]]] = []
            with (
                one_thread_each() as pool,
                Bar(total=len(mine), desc="statistics", unit="site", show=progress) as bar,
            ):
                for values in pool.map(of_places, together(mine, numbers, workers)):
                    found += values
                    bar.update(len(values))
            return found

        by_place: list[list[dict[str, Any]]] = dealt("statistics", places, of_all)
        values = list(itertools.chain.from_iterable(by_place))
        measured = [Measured(place.site, place.n_heads, place.temperatures) for place, _ in places]
        return seen.result(values, measured, self.draws, provenance, self._texts() if self.keep_labels else None)

    def _prepare(self, activations: Mapping[Site, Tensor]) -> None:
        """Anchors and empty sums, for states as wide as these; all or none, where memory is short."""
        sums = {}
        for site, places in self.placed(activations).items():
            activation = activations[site]
            shape, layout = self._kept_as(site, activation.shape[-1], places[0].directions.element_size())
            sums[site] = SiteSums(places, layout, shape, activation.device)
        self._sites = sums

    def placed(self, activations: Mapping[Site, Tensor]) -> dict[Site, list[Place]]:
        """How each captured site is assigned, for activations as wide as these."""
        for site, center in self.centers.items():
            if site in self.sites and center.shape != (shape := activations[site].shape[2:]):
                raise InputError(f"center: the mean of {site} must have shape {list(shape)}; got {list(center.shape)}")
        drawn = cache(partial(anchors, draws=self.draws))  # once for all sites of one width
        found: dict[Site, list[Place]] = {site: [] for site in self.sites}
        for measured in self.measured:
            site = captured_for(measured)
            found[site].append(Place.like(activations[site], measured, self.adapter, self.draws, self.calibration, drawn))
        return found

    def _kept_as(self, site: Site, width: int, number: int) -> tuple[Shape, Layout]:
        """How a site is kept whose states are so wide, in numbers of so many bytes."""
        times = sum(captured_for(measured) == site for measured in self.measured)
        shape = Shape.of(width, [bins for bins, _ in self.draws] * times, number)
        return shape, self._layout(shape)

    def _layout(self, shape: Shape) -> Layout:
        cost = shape.kept / shape.summed
        if cost not in self._layouts:
            self._layouts[cost] = Layout.of(self._tables, self._sample, cost)
        return self._layouts[cost]

    def states(self, batch: Batch, activation: Tensor, site: Site, kept: Tensor) -> Tensor:
        """The rows with a label, [row, head, d] or [row, 1, d], centred, in float32 or float64."""
        rows = rows_of(activation.flatten(0, 1), batch.cells[kept])
        rows = rows if rows.dtype == torch.float64 else rows.float()
        rows = rows - self.centers[site].to(rows) if site in self.centers else rows
        return rows if rows.ndim == 3 else rows[:, None]

    def _standing(
        self, batch: Batch, activations: Mapping[Site, Tensor], labelled: Tensor
    ) -> tuple[Tensor, dict[Site, Tensor]]:
        """States [state, head, d] of every site, and which of them have a label: all of a batch, to copy none, or these."""
        cells = batch.cells[labelled]
        wide = all(of.dtype in (torch.float32, torch.float64) for of in activations.values())
        if wide and not self.centers and len(cells) >= _MOST * batch.tokens.numel():
            flat = {site: activations[site].flatten(0, 1) for site in self.sites}
            return cells, {site: of if of.ndim == 3 else of[:, None] for site, of in flat.items()}
        states = {site: self.states(batch, activations[site], site, labelled) for site in self.sites}
        return torch.arange(len(cells)), states

    def directed(
        self, batch: Batch, places: Mapping[Site, Sequence[Place]], lengths: Mapping[Site, Sequence[Tensor]], kept: Tensor
    ) -> Tensor:
        """Which rows have a direction at every place [row]; where they must, an error names the first that has none."""
        good = torch.ones(int(kept.sum()), dtype=torch.bool)
        at = {place.site: length for site, of in lengths.items() for place, length in zip(places[site], of, strict=True)}
        for site in self.measured:
            length = at[site]
            fine = ((length > 0) & length.isfinite()).flatten(1).all(1).cpu()
            if self.invalid == "error" and not bool(fine.all()):
                first = kept.nonzero()[:, 0][~fine][0]
                raise InputError(
                    f"{hook_name(site)} is zero or not finite, and so has no direction, at document "
                    f"{int(batch.row_document[first])}, "
                    f"position {int(batch.row_position[first])} (and {int((~fine).sum()) - 1} more of this batch); pass "
                    "invalid='drop' to leave such positions out"
                )
            good &= fine
        return good

    def _texts(self) -> tuple[tuple[str, ...], ...]:
        """The text of every label of every set."""
        strings = self.adapter.strings([i for i in self.plan.tokens.unique().tolist() if i >= 0])
        return tuple(tuple(self.plan.texts(label, strings)) for label in self.plan.names)


def planned_slots(plan: LabelPlan, batch: Batch, first_document: int = 0) -> Tensor:
    """The plan's slot [row] of each row of a batch.

    Raises:
        InputError: the plan was made from other tokens than a document has that begins here, or than a row is of.
    """
    begins = (batch.position == 0).any(1).nonzero()[:, 0].tolist()
    slots = plan.slots(batch.row_document + first_document, batch.row_position)
    plan.check_bodies((batch.document[begins] + first_document).tolist(), (batch.bodies[i] for i in begins))
    if not torch.equal(plan.tokens[slots].long(), batch.row_token):
        raise InputError("labels: the plan was made from other tokens than those that are read; make it from the same inputs")
    return slots


def _same_plan(one: LabelPlan, other: LabelPlan) -> bool:
    return one is other or (
        (one.names, one.sides, one.valid, one.counted) == (other.names, other.sides, other.valid, other.counted)
        and all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("starts", "tokens", "ids"))
    )


def _several(argument: str, values: int | Sequence[int], low: int) -> tuple[int, ...]:
    plain: Any = values.tolist() if hasattr(values, "tolist") else values
    given = tuple(check_int(argument, value, low) for value in (plain if is_iterable(plain) else [plain]))
    if not given or len(set(given)) < len(given):
        raise InputError(f"{argument} must be one or more different whole numbers; got {values!r}")
    return given
