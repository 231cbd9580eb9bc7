"""What is measured of a model in the course of its training, or against any other number that several results differ in.

A figure only reads results of one kind: lens entropies, divergences, entropies of heads, geometry of states, soft information.
Of many places some are named, evenly from the first to the last, and all are coloured by depth.

Refused: results that were not measured at the same places, or in different units; a label set or an order left open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, InputTypeError, check_choice, counted
from tl_entropy.plots.depth import depth_lines
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.lens.predictions import divergence_name, is_rank
from tl_entropy.plots.soft_values import ALIKE, axis_name, means, reason, results_by_name
from tl_entropy.plots.states.geometry import axis_name as geometry_name
from tl_entropy.plots.style import (
    NORMAL_95,
    Limits,
    Width,
    canvas,
    evenly,
    from_zero,
    line_styles,
    number,
    only,
    quantity,
)
from tl_entropy.results import (
    DivergenceSummary,
    HeadEntropy,
    HeadSummary,
    LayerDivergence,
    LayerGeometry,
    LensEntropy,
    LensSummary,
    SoftInformation,
)
from tl_entropy.results.information.soft import QUANTITIES
from tl_entropy.sites import Places, Site
from tl_entropy.torch_state import steady

MOST_NAMED = 8
"""Lines in the legend; of more, these are spread evenly, and they alone have markers."""

Measured = (
    LensEntropy
    | LensSummary
    | LayerDivergence
    | DivergenceSummary
    | HeadEntropy
    | HeadSummary
    | LayerGeometry
    | SoftInformation
)


class _Drawn(NamedTuple):
    """What is drawn of one result: the name of each line, its value and standard error, and what the axis says."""

    names: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray
    axis: str


@steady
def course(
    results: Mapping[float, Measured],
    *,
    of: str | None = None,
    label: str | None = None,
    order: float | None = None,
    sites: Places | None = None,
    band: Literal["se"] | None = "se",
    xlabel: str = "Training step",
    log: bool = True,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""A quantity against the step of the training, one line for each site or head.

    Args:
        results: a mapping from steps to results, all of one kind and of the same places: of ``lens_entropy``,
            ``layer_divergence``, ``head_entropy``, ``layer_geometry`` or ``soft_information`` (whose heads are not drawn).
        of: what to draw; None is the first of these. Of lens entropies: entropy, surprisal. Of divergences: their metrics,
            agreement, decided, and whatever else ``mean_profile`` knows. Of heads: entropy, and of patterns normalized,
            bos_share, sink_share. Of geometry: its measures. Of soft information: information, share, entropy, efficiency,
            plug_in, null, ceiling, regularity, corrected_ceiling, lower, fold_jackknife, chance_adjusted.
        label: of soft information, the label set; None takes the only one. H(Z) is that of the positions that have the label.
        order: of entropies, the Rényi order; None takes the only one.
        sites: short names to draw, or single places, as in ``select``; None is all.
        band: "se" shades ±1.96 standard errors over documents (of soft information over anchors, too); None shades nothing.
        xlabel: what the keys of ``results`` are.
        log: a logarithmic axis, linear between 0 and 1.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: fewer than two results, different kinds, places, units or estimators, a choice left open or that belongs to
            other results, or no value at all.
        InputTypeError: no mapping from numbers to such results.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), "import os\n", layers=[0], progress=False)
    >>> axes = tle.plots.course({0: result, 10: result})
    >>> axes.get_ylabel(), [text.get_text() for text in axes.get_legend().get_texts()]
    ('Entropy (nats)', ['embed', 'resid_post.0'])
    """
    check_choice("band", band, ("se", None))
    if of is not None and not isinstance(of, str):
        raise InputTypeError(f"of must be the name of a quantity; got {type(of).__name__}")
    if not isinstance(results, Mapping) or not all(isinstance(step, Real) for step in results):
        raise InputTypeError("results must be a mapping from numbers, such as training steps, to results")
    if len(results) < 2:
        raise InputError(f"results: a course needs two steps or more; got {len(results)}")
    steps = sorted(results)
    by_step = [results[step] for step in steps]
    first = by_step[0]
    reader = next((read for kinds, read in _READERS if all(isinstance(result, kinds) for result in by_step)), None)
    if reader is None:
        found = ", ".join(sorted({type(result).__name__ for result in by_step}))
        raise InputTypeError(
            "results must all be of one kind, of lens_entropy, layer_divergence, head_entropy, layer_geometry or "
            f"soft_information; got {found}"
        )
    if isinstance(first, SoftInformation):
        results_by_name(dict(zip(map(str, steps), by_step, strict=True)), of or "information")  # type: ignore[arg-type]
    elif label is not None:
        raise InputError("label belongs to results of soft_information; leave it out")
    if order is not None and not isinstance(first, LensEntropy | LensSummary | HeadEntropy | HeadSummary):
        raise InputError("order belongs to results of lens_entropy and head_entropy; leave it out")
    if isinstance(first, HeadEntropy | HeadSummary) and sites is not None:
        raise InputError("sites: heads have none; leave it out, and choose heads with result.select(layers=..., heads=...)")
    read = [reader(result, of, label, order, sites) for result in by_step]
    for part in read:
        if (part.names, part.axis) != (read[0].names, read[0].axis):
            raise InputError(
                f"results must all have the same places, quantity and unit; step {steps[0]:g} has {_shown(read[0])}, another "
                f"{_shown(part)}; select(...) narrows them, and to('bits') brings them to one unit"
            )
    values, errors = np.stack([part.values for part in read]), np.stack([part.errors for part in read])  # [step, place]
    if np.isnan(values).all():
        why = f"; {reason(first)}" if isinstance(first, SoftInformation) else ""
        raise InputError(f"of={of!r}: no value to draw{why}")
    names = read[0].names
    named = set(evenly(len(names), MOST_NAMED))
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for i, (style, name) in enumerate(line_styles([(name,) for name in names])):
            style = style if i in named else {**style, "marker": ""}
            if band and np.isfinite(errors[:, i]).any():
                half = NORMAL_95 * errors[:, i]
                axes.fill_between(steps, values[:, i] - half, values[:, i] + half, color=style["color"], alpha=0.2, linewidth=0)
            name, thick = (name, 1.5) if i in named else ("_", 0.8)
            axes.plot(steps, values[:, i], **style, label=name, markersize=3.5, linewidth=thick)
        if log:
            axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.margins(x=0.03)  # for the marks at both ends
        axes.set_xlabel(xlabel)
        axes.set_ylabel(read[0].axis, parse_math=False)
        from_zero(axes)
        axes.spines[["top", "right"]].set_visible(False)
        add_legend(axes, own=ax is None)
    return axes


def _of_sites(sites: Any, places: Iterable[tuple[int, Site]]) -> list[tuple[int, Site]]:
    """Of (place, site), those of the names asked for, in order of depth."""
    there = list(places)
    by_place = dict(there)
    chosen = [place for rows, _ in depth_lines(there, sites).values() for place in rows]
    return [(place, by_place[place]) for place in sorted(chosen, key=lambda place: (by_place[place].depth, place))]


def _lens(result: LensEntropy | LensSummary, of: str | None, label: Any, order: Any, sites: Any) -> _Drawn:
    check_choice("of", of, (None, "entropy", "surprisal"))
    if of == "surprisal":
        if isinstance(result, LensSummary):
            raise InputError("of: a summary holds no surprisal; measure with keep='positions', or layer_divergence")
        if order is not None:
            raise InputError("order: a surprisal has none; leave it out")
        frame, axis = result.mean_profile("surprisal"), f"Surprisal of the next token ({result.unit})"
    else:
        chosen = only("order", order, result.orders)
        check_choice("order", chosen, result.orders)
        frame = result.mean_profile()
        frame, axis = frame[frame["order"] == chosen], quantity([chosen], result.unit)
    return _from_frame(frame.set_index(["site", "layer"]), _of_sites(sites, enumerate(result.sites)), axis)


def _divergence(result: LayerDivergence | DivergenceSummary, of: str | None, label: Any, order: Any, sites: Any) -> _Drawn:
    of = result.metrics[0] if of is None else of
    frame = result.mean_profile(of).set_index(["site", "layer"])
    frame["mean"] += is_rank(of)
    there = [(i, site) for i, site in enumerate(result.sites) if tuple(site) in frame.index]
    name = divergence_name(of, result.unit, result.against)
    return _from_frame(frame, _of_sites(sites, there), name[0].upper() + name[1:])


def _heads(result: HeadEntropy | HeadSummary, of: str | None, label: Any, order: Any, sites: Any) -> _Drawn:
    of = "entropy" if of is None else of
    frame = result.mean_profile(of)  # type: ignore[arg-type]
    if of in ("bos_share", "sink_share"):
        axis = f"Share on {'BOS' if of == 'bos_share' else 'sinks'}"
    else:
        chosen = only("order", order, result.orders)
        check_choice("order", chosen, result.orders)
        frame = frame[frame["order"] == chosen]
        axis = f"Entropy ({result.unit})" if of == "entropy" else "Entropy / log of keys"
        axis += "" if chosen == 1 else f", order {number(chosen)}"
    names = tuple(f"head {layer}.{head}" for layer, head in zip(frame["layer"], frame["head"], strict=True))
    return _Drawn(names, frame["mean"].to_numpy(), frame["se"].to_numpy(), axis)


def _geometry(result: LayerGeometry, of: str | None, label: Any, order: Any, sites: Any) -> _Drawn:
    measure: Any = result.measures[0] if of is None else of
    rows = _of_sites(sites, enumerate(result.sites))
    value, error = (part.numpy()[[i for i, _ in rows]] for part in (result.value(measure), result.error(measure)))
    return _Drawn(tuple(str(site) for _, site in rows), value, error, geometry_name(result, measure))


def _soft(result: SoftInformation, of: Any, label: str | None, order: Any, sites: Any) -> _Drawn:
    of = "information" if of is None else of
    check_choice("of", of, QUANTITIES)
    label = only("label", label, result.labels)
    check_choice("label", label, result.labels)
    stream = [(i, site) for i, (site, head) in enumerate(zip(result.sites, result.heads, strict=True)) if head < 0]
    rows = _of_sites(sites, stream)
    value, error = (part[[i for i, _ in rows], 0] for part in means(result.select(labels=label), of))
    axis = axis_name(of, result.unit, label if of not in ALIKE else None)
    return _Drawn(tuple(str(site) for _, site in rows), value, error, axis)


def _from_frame(frame: Any, rows: list[tuple[int, Site]], axis: str) -> _Drawn:
    line = frame.loc[[tuple(site) for _, site in rows]]
    return _Drawn(tuple(str(site) for _, site in rows), line["mean"].to_numpy(), line["se"].to_numpy(), axis)


def _shown(part: _Drawn) -> str:
    some = ", ".join(part.names[:3]) + (", ..." if len(part.names) > 3 else "")
    return f"{part.axis} at {counted(len(part.names), 'place')} ({some})"


_READERS: tuple[tuple[Any, Callable[..., _Drawn]], ...] = (
    ((LensEntropy, LensSummary), _lens),
    ((LayerDivergence, DivergenceSummary), _divergence),
    ((HeadEntropy, HeadSummary), _heads),
    (LayerGeometry, _geometry),
    (SoftInformation, _soft),
)
