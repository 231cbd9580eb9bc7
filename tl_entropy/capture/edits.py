"""Interventions made ready for one model and one pass: which hook points they edit, and whether that can have an effect.

Every refusal says which intervention it means. Before the model runs: a hook, layer, head or width that the model does not
have; an intervention all of whose hooks lie behind the last site measured (where some do, these are left out); an edit of the
final norm or the unembedding, through which sites are read as the unedited model does. After the first batch: a hook that
exists but never fired. While it runs: an edit at positions of documents before ``begin`` has said which documents these are.
After the pass, a warning: an edit at positions that no document had.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.attention import scores_hook
from tl_entropy.capture.hooks import attribute, source_site
from tl_entropy.capture.interventions import SUBLAYERS, Edit, HookName, Interventions, as_interventions
from tl_entropy.capture.positions import AtPositions
from tl_entropy.errors import InputError, ModelError, warn
from tl_entropy.sites import SITE_NAMES, Site, layers_at


class Edits:
    """Interventions resolved for one model and the sites of one pass, and checked.

    A pass calls ``begin`` with every batch before the model runs on it, ``check_fired`` after, and ``warn_of_unmeant`` at its
    end.

    Attributes:
        hooks: names of hook points and what ``Adapter.edited`` is to add there, in the order given.
        positioned: names of the interventions that edit positions of documents, and need ``begin``.

    Raises:
        InputError, InputTypeError: see the module.
    """

    def __init__(self, adapter: Adapter, given: Interventions | None, sites: Sequence[Site]) -> None:
        self.hooks: list[tuple[str, Edit]] = []
        self._last = max((source_site(site) for site in sites), key=lambda site: site.depth)
        self._unfired: dict[int, str] = {}
        self._at: dict[AtPositions, str] = {}
        self._cells: dict[AtPositions, Tensor] = {}
        self._meant: dict[AtPositions, bool] = {}
        self.positioned: tuple[str, ...] = ()
        interventions = as_interventions(given, adapter.n_layers)
        if not interventions:
            return
        self._at = {edit: one.name for one in interventions for _, edit in one.hooks if isinstance(edit, AtPositions)}
        self.positioned = tuple(dict.fromkeys(self._at.values()))
        points = adapter.points
        depths, places = _depths(adapter, points), _viewed_places(adapter, points)
        readers = tuple(f"{part}." for part in (adapter.stack.norm, "project_out", "unembed"))
        reading = {id(point) for name, point in points.items() if name.startswith(readers)}
        for intervention in interventions:
            if intervention.check is not None:
                intervention.check(adapter)
            behind, before = [], len(self.hooks)
            for asked, function in intervention.hooks:
                names = _matching(
                    asked if callable(asked) else _hook_at(asked, adapter, points, intervention.name), points, intervention.name
                )
                closed = [name for name in names if id(points[name]) in reading]
                if closed:
                    raise InputError(
                        f"interventions: {intervention.name!r} edits {closed[0]}; sites are read through the model's own final "
                        "norm and unembedding, without hooks, so it would have no effect on what is measured"
                    )
                reached = [name for name in names if depths(name) <= self._last.depth]
                if not reached:
                    behind.append(names[0])
                    continue
                edit = self._tracked(function, len(self._unfired), f"{intervention.name!r} at {reached[0]}")
                self.hooks += [(name, _through(places.get(id(points[name])), edit, adapter)) for name in reached]
            if len(self.hooks) == before:
                raise InputError(
                    f"interventions: {intervention.name!r} edits {', '.join(behind)}, behind the last site measured "
                    f"({self._last}), so it has no effect on any; measure later sites, too, or leave it out"
                )

    def begin(self, batch: Batch) -> None:
        """Edits at positions are of this batch's documents from now on."""
        self._cells = {edit: edit.cells(batch) for edit in self._at}
        self._meant = {edit: self._meant.get(edit, False) or bool(cells.any()) for edit, cells in self._cells.items()}

    def check_fired(self) -> None:
        """Raise ModelError for an edit that has not fired yet, after a pass up to the last site."""
        if self._unfired:
            raise ModelError(
                f"interventions: {', '.join(self._unfired.values())} never fired before the last site measured ({self._last}) "
                "had come. The model computes that later, or not at all: hook_result needs model.set_use_attn_result(True), "
                "attention patterns need attn_implementation='eager'"
            )

    def warn_of_unmeant(self) -> None:
        """Warn of edits at positions that no document of the batches so far had: they changed nothing."""
        for name in dict.fromkeys(self._at[edit] for edit, meant in self._meant.items() if not meant):
            warn(
                f"interventions: {name!r} edited nothing, as no document read has such a position; positions count from 0, and "
                "the BOS has none"
            )

    def _tracked(self, function: Edit, number: int, label: str) -> Edit:
        self._unfired[number] = label

        def edit(activation: Tensor, hook: Any) -> Tensor:
            self._unfired.pop(number, None)
            if not isinstance(activation, Tensor):
                raise InputError(f"interventions: {label} gets a {type(activation).__name__}, no tensor; edit another hook")
            own = activation.clone()  # the same memory may be what passed an earlier site
            if isinstance(function, AtPositions) and function in self._cells:
                new = function.edit(own, hook, self._cells[function].to(activation.device))
            else:
                new = function(own, hook)
            if new is None:
                return own
            like = (activation.shape, activation.dtype, activation.device)
            if not isinstance(new, Tensor) or (new.shape, new.dtype, new.device) != like:
                came = f"{list(new.shape)}, {new.dtype} on {new.device}" if isinstance(new, Tensor) else type(new).__name__
                expected = f"{list(activation.shape)}, {activation.dtype} on {activation.device}"
                raise InputError(f"interventions: {label} must return a tensor {expected}, or None; got {came}")
            return new

        return edit


def _through(site: Site | None, edit: Edit, adapter: Adapter) -> Edit:
    """An edit at a site's hook, given what is measured there."""
    view = None if site is None else adapter.view(site)
    if view is None:
        return edit

    def through(raw: Tensor, hook: Any) -> Tensor:
        measured = view.out(raw)
        new = edit(measured, hook)
        return view.back(measured if new is None else new, raw)

    return through


def _viewed_places(adapter: Adapter, points: Mapping[str, Any]) -> dict[int, Site]:
    """The sites that may be measured otherwise than TransformerLens gives them, by the identity of their hook points."""
    sites = (Site(name, layer) for layer in range(adapter.n_layers) for name in ("z", *SUBLAYERS))
    return {id(points[name]): site for site in sites if (name := adapter.hook_of(site, points)) in points}


def _depths(adapter: Adapter, points: Mapping[str, Any]) -> Callable[[str], tuple[int, int]]:
    """A function that says of a hook name how deep it is, at least, in the order of ``Site.depth``."""
    known: dict[int, tuple[int, int]] = {}  # several names may stand for one hook point
    layers = range(adapter.n_layers)
    for site in (Site("embed", -1), *(Site(name, layer) for layer in layers for name in SITE_NAMES[1:])):
        if (name := adapter.hook_of(site, points)) in points:
            known.setdefault(id(points[name]), site.depth)
    for layer in layers:  # scores are what the pattern is made of, and no later
        if (name := adapter.stack.hook(scores_hook(layer), points)) in points:
            known.setdefault(id(points[name]), Site("pattern", layer).depth)

    def depth(name: str) -> tuple[int, int]:
        block = re.match(rf"{adapter.stack.blocks}\.(\d+)\.", name)
        return known.get(id(points[name]), (int(block[1]) if block else -1, -1))

    return depth


def _hook_at(asked: str, adapter: Adapter, points: Mapping[str, Any], label: str) -> str:
    """The hook that is meant by its name, in which a negative layer counts from the last, or by that of a site."""
    name, there = adapter.stack.hook(asked, points), range(adapter.n_layers)
    if name.startswith("encoder.blocks.") and hasattr(adapter.model, "encoder_blocks"):
        name = name.replace(".", "_", 1)
    if name in points:
        return name
    try:
        if asked.partition(".")[0] in SITE_NAMES:
            return adapter.hook_of(Site.parse(asked).at(there), points)
        if in_block := re.match(r"((?:encoder\.)?\w*blocks)\.(-?\d+)(?=\.)", name):
            blocks = reduce(attribute, in_block[1].split("."), adapter.model)
            [layer] = layers_at(int(in_block[2]), there if blocks is None else range(len(blocks)))
            return adapter.stack.hook(f"{in_block[1]}.{layer}{name[in_block.end() :]}", points)
    except InputError as error:
        raise InputError(f"interventions: {label!r} edits {asked}: {error}") from error
    return name


def _matching(asked: HookName, points: Mapping[str, Any], label: str) -> list[str]:
    """The hooks meant, each point once."""
    if isinstance(asked, str):
        if asked not in points:
            near = difflib.get_close_matches(asked, points, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"interventions: {label!r} edits {asked}, a hook that this model does not have{hint}")
        return [asked]
    found = {id(points[name]): name for name in reversed(list(points)) if asked(name)}
    if not found:
        raise InputError(f"interventions: {label!r} means no hook of this model; see model.hook_dict")
    return list(reversed(found.values()))
