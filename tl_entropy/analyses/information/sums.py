"""The sums behind ``soft_information``: soft assignments by label and fold, at every site, head and draw of anchors at once.

Assignments (``analyses/information/places.py``) are added up in float64 as each batch comes.

The sums need, in bytes,

    8 · Σ_places Σ_draws (n_bins + 1) · Σ_labels rows  +  4 · Σ_places Σ_draws n_bins · 4096,

where the rows of a label set are its pairs of a label seen twice or more and a fold of documents in which it occurs, one for
each fold, and one for what has no label; the second part is the sample on which chance, and errors over anchors, are measured
(8 instead of 4 for float64 models). Nothing else is kept of a position.

Refused: tokens that the label plan was not made from; states without a direction, unless they are to be dropped; merging sums
of different plans or settings, or of the same positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.analyses.information.places import BY_HEAD, Place, captured_for
from tl_entropy.analyses.information.values import COLUMNS, Counted, site_values
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.batches import Batch
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int
from tl_entropy.functional.information.chance import SAMPLE
from tl_entropy.functional.information.soft import Invalid
from tl_entropy.functional.information.temperature import Calibration
from tl_entropy.functional.statistics import group_sums
from tl_entropy.labels import LabelPlan
from tl_entropy.results import SoftInformation
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, Site

Heads = bool | Literal["z", "result"]

NAMED = 20
"""Labels in one fold of documents that are named, at most."""


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
    gathered = ("_count", "_documents", "_read", "_dropped")

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
        super().__init__(model)
        if not isinstance(plan, LabelPlan):
            raise InputTypeError(f"plan must be a LabelPlan, as label_plan(...) gives; got {type(plan).__name__}")
        check_choice("heads", heads, (False, True, "z", "result"))
        check_choice("invalid", invalid, ("error", "drop"))
        check_choice("calibration", calibration, ("exact", "leading_order"))
        self.folds, self.first_document = check_int("folds", folds, 1), check_int("first_document", first_document, 0)
        self.plan, self.invalid, self.keep_labels, self.calibration = plan, invalid, keep_labels, calibration
        asked = [sites] if isinstance(sites, str) else list(sites)
        asked += {False: [], True: ["z", "result"], "z": ["z"], "result": ["result"]}[heads]
        self.measured = self.adapter.sites(asked, layers)
        if any(site.name == "pattern" for site in self.measured):
            raise InputError(
                "sites: pattern holds no states but attention weights; choose from embed, resid_post, z, result, ..."
            )
        self.sites = tuple(dict.fromkeys(captured_for(site) for site in self.measured))  # a head's output comes from its z
        self.centers = _checked_centers(centers, self.sites)
        bins = _several("n_bins", n_bins, 2)
        seeds = _several("seed", seed, 0)
        self.draws = tuple(itertools.product(bins, seeds))
        self.takes_non_finite = invalid == "drop"
        self._tables = plan.tables(self.folds)
        self._sample_place = _sample_places(plan)
        self._places: list[Place] = []  # made when the first batch shows how wide each site is
        # [site][draw][label]: [row + 1, head, bin + 1], the last row for what has no label, the last bin being Σ H(p_i)
        self._mass: list[list[list[Tensor]]] = []
        self._samples: list[list[Tensor]] = []  # [site][draw]: [SAMPLE, head, bin]
        self._count = [torch.zeros(table.n_rows, dtype=torch.float64) for table in self._tables]
        self._sampled = torch.zeros(min(SAMPLE, int((self._sample_place >= 0).sum())), dtype=torch.bool)
        self._documents = torch.zeros(plan.n_documents, dtype=torch.bool)  # those seen
        self._read = self._dropped = 0

    @property
    def started(self) -> bool:
        """Whether a position with a label was seen."""
        return any(bool(count.sum() > 0) for count in self._count)

    def memory(self) -> int:
        """Bytes of the sums, all of which are there from the first batch on."""
        heads = sum(self.adapter.heads_of(site.layer) if site.name in BY_HEAD else 1 for site in self.measured)
        rows = sum(table.n_rows + 1 for table in self._tables)
        sample = (8 if self.adapter.dtype == torch.float64 else 4) * len(self._sampled)
        return heads * sum((bins + 1) * 8 * rows + bins * sample for bins, _ in self.draws)

    @torch.no_grad()
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""
        slots = planned_slots(self.plan, batch, self.first_document)
        if not batch.n_rows:
            return
        rows = torch.stack([table.rows[slots].long() for table in self._tables])  # [label, row]
        kept = (rows >= 0).any(0)
        if not self._places:
            self._prepare(activations)
        states = {site: self._states(batch, activations[site], site, kept) for site in self.sites}
        lengths = [place.lengths(states[captured_for(place.site)]) for place in self._places]
        directed = self._directed(batch, lengths, kept)
        if not bool(directed.all()):
            states = {site: value[directed.to(value.device)] for site, value in states.items()}
            lengths = [length[directed.to(length.device)] for length in lengths]
            kept[kept.clone()] = directed
        assigned = [p.assign(states[captured_for(p.site)], n) for p, n in zip(self._places, lengths, strict=True)]
        sampled = self._sample_place[slots[kept]].long()
        here = sampled >= 0
        if bool(self._sampled[sampled[here]].any()):
            raise InputError("inputs: these positions were counted before; every document goes into an accumulator once")
        for sample, assignments in zip(_flat(self._samples), _flat(assigned), strict=True):  # counts once it is marked, below
            sample[sampled[here]] = assignments[here, :, :-1].to(sample)
        unlabelled = torch.tensor([[table.n_rows] for table in self._tables])
        rows = torch.where(rows >= 0, rows, unlabelled)[:, kept]
        pairs = [pair for draws, tables in zip(assigned, self._mass, strict=True) for pair in zip(draws, tables, strict=True)]
        most: dict[torch.device, int] = {}
        for assignments, tables in pairs:
            most[tables[0].device] = max(most.get(tables[0].device, 0), assignments.numel())
        rooms = {d: (torch.empty(size, dtype=torch.float64, device=d), rows.to(d)) for d, size in most.items()}
        counts = [torch.bincount(row, minlength=table.n_rows + 1)[:-1] for row, table in zip(rows, self._tables, strict=True)]
        # From here on no memory is asked for and nothing can fail: an update that raised before has changed nothing.
        for assignments, tables in pairs:
            room, places = rooms[tables[0].device]
            doubles = room[: assignments.numel()].view(assignments.shape).copy_(assignments)
            for table, place in zip(tables, places, strict=True):
                table.index_add_(0, place, doubles)
        for count, more in zip(self._count, counts, strict=True):
            count += more
        self._sampled[sampled[here]] = True
        self._documents[batch.row_document[kept] + self.first_document] = True
        self._read += batch.n_rows
        self._dropped += int((~directed).sum())

    def merge(self, other: SoftAccumulator) -> None:
        """Take in what another accumulator has seen of other documents of the same plan.

        Raises:
            InputError: plans or settings differ, or both have seen the same positions.
        """
        super().merge(other)
        if other._places and not self._places:
            self._places = other._places
            self._mass = [[[table.clone() for table in tables] for tables in draws] for draws in other._mass]
            self._samples = [[sample.clone() for sample in draws] for draws in other._samples]
        elif other._places:
            for mine, theirs in zip(_flat(self._mass), _flat(other._mass), strict=True):
                mine += theirs.to(mine.device)
            for mine, theirs in zip(_flat(self._samples), _flat(other._samples), strict=True):
                mine[other._sampled] = theirs[other._sampled].to(mine.device)
        self._sampled |= other._sampled

    def _check_alike(self, other: SoftAccumulator) -> None:
        super()._check_alike(other)
        if not _same_plan(self.plan, other.plan):
            raise InputError("cannot merge: the label plans differ; make one plan of the whole corpus for all parts")
        if self.centers.keys() != other.centers.keys() or not all(
            torch.equal(mean.cpu(), other.centers[site].cpu()) for site, mean in self.centers.items()
        ):
            raise InputError("cannot merge: centers differ; give all parts the means of the whole corpus")
        if bool((self._sampled & other._sampled).any()):
            raise InputError("cannot merge: both parts have seen the same positions; each must be read once")

    def compute(self, *, progress: bool = False, **origin: Any) -> SoftInformation:
        """The result of what was seen so far; ``origin`` goes into its provenance.

        Raises:
            InputError: no position with a label was seen yet.
        """
        if not self.started:
            raise InputError("nothing to compute: no position with a label was seen")
        return self._result(self._provenance(origin), progress=progress)

    def _settings(self) -> dict[str, Any]:
        return {
            "calibration": self.calibration, "folds": self.folds, "invalid": self.invalid, "valid": self.plan.valid,
            "centered": bool(self.centers), "estimator": "cross_fitted",
            "chance_sample": int(self._sampled.sum()), "n_bins": tuple(dict.fromkeys(bins for bins, _ in self.draws)),
            "seed": tuple(dict.fromkeys(seed for _, seed in self.draws)), "sites": tuple(map(str, self.measured)),
        }  # fmt: skip

    def _result(self, provenance: Provenance, *, progress: bool = False) -> SoftInformation:
        n_folds = int(max(table.row_fold.max() for table in self._tables)) + 1
        counted = [self._counted(label) for label in range(len(self.plan.names))]
        whole = int((self.plan.ids >= 0).any(0).sum()) <= SAMPLE  # so that the sample has every position
        by_site = []
        with Bar(total=len(self._places), desc="statistics", unit="site", show=progress) as bar:
            for masses, samples in zip(self._mass, self._samples, strict=True):
                seen = [sample[self._sampled.to(sample.device)] for sample in samples]
                by_site.append(site_values(masses, seen, counted, folds=n_folds, whole=whole, keep_labels=self.keep_labels))
                bar.update()
        values: dict[str, Any] = {
            name: torch.cat([v[name] for v in by_site], dim=1 if name in COLUMNS else 0) for name in by_site[0]
        }
        heads = [(p, h if p.site.name in BY_HEAD else -1) for p in self._places for h in range(p.n_heads)]
        folds = torch.stack([group_sums(c.count, c.table.row_fold, n_folds) for c in counted], dim=1)
        held = [_held(c) for c in counted]
        sizes = [self._sizes(label) for label in range(len(self.plan.names))]
        tokens = folds.sum(0)
        inside = [s[: len(h)][h >= 2].sum() for s, h in zip(sizes, held, strict=True)]
        return SoftInformation(
            **values, sites=tuple(p.site for p, _ in heads), heads=tuple(h for _, h in heads), labels=self.plan.names,
            sides=self.plan.sides, n_bins=tuple(b for b, _ in self.draws), seeds=tuple(s for _, s in self.draws),
            temperatures=torch.tensor([p.temperatures for p, _ in heads], dtype=torch.float64), fold_tokens=folds,
            tokens=tokens.long(), coverage=tokens / self._read, classes=torch.stack([(s > 0).sum() for s in sizes]),
            singletons=torch.stack([(s == 1).sum() / (s > 0).sum() for s in sizes]).double(),
            in_two_folds=torch.stack(inside).double() / tokens,
            one_fold=tuple(self._one_fold(i, *of) for i, of in enumerate(zip(sizes, held, strict=True))) if n_folds > 1 else (),
            documents=int(self._documents.sum()), dropped=self._dropped, label_texts=self._texts() if self.keep_labels else (),
            label_counts=torch.cat(sizes) if self.keep_labels else None, provenance=provenance,
        )  # fmt: skip

    def _counted(self, label: int) -> Counted:
        """What was counted of a label set, and the labels of the positions in the sample."""
        table = self._tables[label]
        slots = torch.empty(len(self._sampled), dtype=torch.long)
        used = (self._sample_place >= 0).nonzero()[:, 0]
        slots[self._sample_place[used].long()] = used
        rows = table.rows[slots[self._sampled]].long()
        labels = torch.where(rows >= 0, table.row_class[rows.clamp_min(0)], -2)
        return Counted(table, self._count[label], labels, len(self.plan.sizes(label)))

    def _one_fold(self, label: int, sizes: Tensor, held: Tensor) -> tuple[str, ...]:
        """Names of the labels that are in one fold alone, of a set that is not of n-grams."""
        if self.plan.orders[label]:
            return ()
        alone = ((held == 1) & (sizes[: len(held)] > 1)).nonzero()[:, 0]
        names = self.plan.texts(label, {})
        return tuple(names[i] for i in alone[sizes[alone].argsort(descending=True, stable=True)][:NAMED].tolist())

    def _prepare(self, activations: Mapping[Site, Tensor]) -> None:
        """Anchors and empty sums, for states as wide as these; all or none, where memory is short."""
        places, masses, samples = [], [], []
        for site in self.measured:
            activation = activations[captured_for(site)]
            center = self.centers.get(captured_for(site))
            if center is not None and center.shape != activation.shape[2:]:
                raise InputError(
                    f"center: the mean of {captured_for(site)} must have shape {list(activation.shape[2:])}; "
                    f"got {list(center.shape)}"
                )
            place = Place.like(activation, site, self.adapter, self.draws, self.calibration)
            device = activation.device if activation.device.type != "mps" else "cpu"  # which has no float64

            def empty(rows: int, bins: int, dtype: torch.dtype, heads: int = place.n_heads, on: Any = device) -> Tensor:
                return torch.zeros(rows, heads, bins, dtype=dtype, device=on)

            masses.append([[empty(t.n_rows + 1, b + 1, torch.float64) for t in self._tables] for b, _ in self.draws])
            samples.append([empty(len(self._sampled), b, place.directions.dtype) for b, _ in self.draws])
            places.append(place)
        self._places, self._mass, self._samples = places, masses, samples

    def _states(self, batch: Batch, activation: Tensor, site: Site, kept: Tensor) -> Tensor:
        """The rows with a label, [row, head, d] or [row, 1, d], centred, in float32 or float64."""
        rows = batch.rows(activation)
        rows = rows if bool(kept.all()) else rows[kept.to(rows.device)]
        rows = rows if rows.dtype == torch.float64 else rows.float()
        rows = rows - self.centers[site].to(rows) if site in self.centers else rows
        return rows if rows.ndim == 3 else rows[:, None]

    def _directed(self, batch: Batch, lengths: Sequence[Tensor], kept: Tensor) -> Tensor:
        """Which rows have a direction at every place [row]; where they must, an error names the first that has none."""
        good = torch.ones(int(kept.sum()), dtype=torch.bool)
        for place, length in zip(self._places, lengths, strict=True):
            fine = ((length > 0) & length.isfinite()).flatten(1).all(1).cpu()
            if self.invalid == "error" and not bool(fine.all()):
                first = kept.nonzero()[:, 0][~fine][0]
                raise InputError(
                    f"{hook_name(place.site)} is zero or not finite, and so has no direction, at document "
                    f"{int(batch.row_document[first])}, "
                    f"position {int(batch.row_position[first])} (and {int((~fine).sum()) - 1} more of this batch); pass "
                    "invalid='drop' to leave such positions out"
                )
            good &= fine
        return good

    def _sizes(self, label: int) -> Tensor:
        """How often each class of a set was seen [class]; where reading was stopped, of those seen once any will do."""
        table, count, planned = self._tables[label], self._count[label], self.plan.sizes(label)
        repeated = table.row_class >= 0
        sizes = group_sums(count[repeated], table.row_class[repeated], len(planned)).long()
        sizes[(planned == 1).nonzero()[: int(count[~repeated].sum()), 0]] = 1
        return sizes

    def _texts(self) -> tuple[tuple[str, ...], ...]:
        """The text of every label of every set."""
        strings = self.adapter.strings([i for i in self.plan.tokens.unique().tolist() if i >= 0])
        return tuple(tuple(self.plan.texts(label, strings)) for label in self.plan.names)


def _held(counted: Counted) -> Tensor:
    """[class] in how many folds each label was seen, of those seen twice or more in the plan."""
    row_class = counted.table.row_class[(counted.table.row_class >= 0) & (counted.count > 0)]
    return torch.bincount(row_class, minlength=int(counted.table.row_class.max()) + 1)


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


def _checked_centers(centers: Mapping[Site | str, Tensor] | None, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Given means, of which there is one for each site captured, under the site or its text."""
    if centers is None:
        return {}
    expected = "center must be True, False or a mapping from Site to tensor"
    if not isinstance(centers, Mapping):
        raise InputTypeError(f"{expected}; got {type(centers).__name__}")
    for key, mean in centers.items():
        if not isinstance(mean, Tensor):
            raise InputTypeError(f"{expected}; got {type(mean).__name__} for {key}")
    by_place = {Site.parse(key, "center"): mean for key, mean in centers.items()}
    found = {site: by_place[site] for site in sites if site in by_place}
    missing = [site for site in sites if site not in found]
    if missing:
        raise InputError(
            f"center must have the mean state of every site captured; it lacks {', '.join(map(str, missing))}: give it keys "
            f"such as {missing[0]!r} or '{missing[0]}'; got {', '.join(map(repr, centers)) or 'none'}"
        )
    return found


def _same_plan(one: LabelPlan, other: LabelPlan) -> bool:
    return one is other or (
        (one.names, one.sides, one.valid, one.counted) == (other.names, other.sides, other.valid, other.counted)
        and all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("starts", "tokens", "ids"))
    )


def _sample_places(plan: LabelPlan) -> Tensor:
    """For each slot its place in the sample that chance is measured on, or -1 [slot]; drawn from all slots with a label."""
    used = (plan.ids >= 0).any(0).nonzero()[:, 0]
    chosen = used[torch.randperm(len(used), generator=torch.Generator().manual_seed(0))[:SAMPLE]]
    places = torch.full((plan.ids.shape[1],), -1, dtype=torch.int32)
    places[chosen] = torch.arange(len(chosen), dtype=torch.int32)
    return places


def _several(argument: str, values: int | Sequence[int], low: int) -> tuple[int, ...]:
    given = tuple(check_int(argument, value, low) for value in (values if isinstance(values, Iterable) else [values]))
    if not given or len(set(given)) < len(given):
        raise InputError(f"{argument} must be one or more different whole numbers; got {values!r}")
    return given


def _flat(nested: Sequence[Any]) -> Iterator[Tensor]:
    for item in nested:
        if isinstance(item, Tensor):
            yield item
        else:
            yield from _flat(item)
