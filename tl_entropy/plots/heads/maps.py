"""Maps of a model's heads: layers upward, heads to the right, the quantity as the colour.

A map only reads a result: soft information of heads (``SoftInformation``), or what they attend to and predict (``HeadEntropy``,
``HeadSummary``).

Refused: results without heads; a quantity, label set, site or order that is not there, or left open where there are several;
no value at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, InputTypeError, check_choice
from tl_entropy.plots.cells import EDGED, cell_size, ink, row_step, write
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.soft_values import axis_name, means, no_finding, reason, same_for_all
from tl_entropy.plots.style import Width, canvas, colour_bar, colour_limits, fit_label, number, only, set_title
from tl_entropy.results import HeadEntropy, HeadSummary, SoftInformation
from tl_entropy.results.information.soft import QUANTITIES
from tl_entropy.results.information.tables import UNSURE
from tl_entropy.torch_state import steady

HIGHEST = 8.0  # inches
MOST_WRITTEN = 12  # heads or layers of a map whose cells are written into


@dataclass(frozen=True)
class _Map:
    """Values [layer, head], what they are, why some may be missing, and which are ``unsure``."""

    values: np.ndarray
    layers: Sequence[int]
    heads: Sequence[int]
    name: str
    axis: str = "Head"
    title: str = ""
    reason: str = ""
    unsure: np.ndarray | None = None


@steady
def heads(
    result: SoftInformation | HeadEntropy | HeadSummary,
    *,
    of: str | None = None,
    order: float | None = None,
    label: str | None = None,
    site: str | None = None,
    annotate: bool | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""A quantity of every head, mean over tokens: layers upward, heads to the right.

    Colours begin at 0, unless the values would then take up less than a third of them, as those of frozen readouts, which are
    all near log d_vocab. An information below 0, which is chance, has the colour of 0, and is written as it is. A head without
    a value is hatched, and the title says why. An information or a share has a dot where the printed table would say *unsure*:
    its error, or what few positions a label leave open, is as large as the value. Several draws of anchors (seeds, n_bins) give
    their mean, unless the result was narrowed with ``select``.

    Args:
        result: what ``head_entropy`` or ``soft_information(..., heads=...)`` returned.
        of: what to show. Of ``head_entropy``: entropy (None), and of patterns normalized, bos_share, sink_share. Of
            ``soft_information``: information (None), share, entropy, efficiency, plug_in, null, ceiling, regularity,
            corrected_ceiling, lower, fold_jackknife, chance_adjusted.
        order: of ``head_entropy``, the Rényi order; None takes the only one.
        label: of ``soft_information``, the label set; None takes the only one, or any where H(Z) or the ceiling is the same
            for all.
        site: of ``soft_information``, "z" or "result"; None takes the only one.
        annotate: write the values into the cells; None does up to 12 layers of 12 heads.
        vmin: the value at the lower end of the colours.
        vmax: the value at the upper end of the colours; None is the largest. Give the same for maps that are compared.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; those of the colour bar are the last of their figure.

    Raises:
        InputError: a result without heads, a choice left open or that belongs to other results, something that is not there,
            or no value at all.
        InputTypeError: something that is no result of ``head_entropy`` or ``soft_information``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> texts = [text[:600] for text in tle.demo_texts(2)]
    >>> result = tle.soft_information(tle.demo_model(), texts, sites="z", layers=[0, 5], progress=False)
    >>> axes = tle.plots.heads(result, label="token")
    >>> [tick.get_text() for tick in axes.get_yticklabels()], axes.figure.axes[-1].get_ylabel()
    (['0', '5'], 'I(token;Z) (nats)')
    """
    if isinstance(result, HeadEntropy | HeadSummary):
        if label is not None or site is not None:
            raise InputError("label and site belong to results of soft_information; leave them out")
        shown = _of_entropies(result, "entropy" if of is None else of, order)
    elif isinstance(result, SoftInformation):
        if order is not None:
            raise InputError("order belongs to results of head_entropy; leave it out")
        shown = _of_information(result, "information" if of is None else of, label, site)
    else:
        raise InputTypeError(f"result must be what head_entropy or soft_information returned; got {kind_of(result)}")
    return _drawn(shown, annotate, vmin, vmax, width, ax)


def _of_entropies(result: HeadEntropy | HeadSummary, of: str, order: float | None) -> _Map:
    profile = result.mean_profile(of)  # type: ignore[arg-type]
    title = "Attention" if result.of == "pattern" else f"Head readouts, {result.norm} norm"
    if of in ("bos_share", "sink_share"):
        if order is not None:
            raise InputError(f"order: {of} has none; leave it out")
        # Without sinks their share is rounding, which is not to be drawn.
        values, name = profile["mean"].to_numpy().round(3), f"Share on {'BOS' if of == 'bos_share' else 'sinks'}"
    else:
        chosen = only("order", order, result.orders)
        check_choice("order", chosen, result.orders)
        values = profile[profile["order"] == chosen]["mean"].to_numpy()
        name = f"Entropy ({result.unit})" if of == "entropy" else "Entropy / log of keys"
        title += "" if chosen == 1 else f", order {number(chosen)}"
    values = values.reshape(len(result.layers), len(result.heads))
    uneven = bool(result.mean_profile()["mean"].isna().any())
    reasons = ["its layer has fewer heads"] * uneven + ["its queries see a single key"] * (of == "normalized" or not uneven)
    return _Map(values, result.layers, result.heads, name, title=title, reason=" or ".join(reasons))


def _of_information(result: SoftInformation, of: Any, label: str | None, site: str | None) -> _Map:
    check_choice("of", of, QUANTITIES)
    there = list(dict.fromkeys(s.name for s, head in zip(result.sites, result.heads, strict=True) if head >= 0))
    if not there:
        raise InputError("result holds no heads; measure them with soft_information(..., heads=True)")
    chosen = only("site", site, there)
    check_choice("site", chosen, there)
    alike = same_for_all(result, of, result.labels)
    label_set = result.labels[0] if alike and label is None else only("label", label, result.labels)
    check_choice("label", label_set, result.labels)
    part = result.select(sites=chosen, labels=label_set)
    layers, columns = sorted({s.layer for s in part.sites}), sorted(set(part.heads))
    values, dots = np.full((len(layers), len(columns)), np.nan), np.zeros((len(layers), len(columns)), dtype=bool)
    for place, head, value, dot in zip(
        part.sites, part.heads, means(part, of)[0][:, 0], no_finding(part, of)[:, 0], strict=True
    ):
        cell = layers.index(place.layer), columns.index(head)
        values[cell], dots[cell] = value, dot
    if np.isnan(values).all():
        raise InputError(f"of={of!r}: no value to draw; {reason(part)}")
    name = axis_name(of, part.unit, None if alike else label_set)
    axis = f"Head ({chosen})" if len(there) > 1 else "Head"
    return _Map(values, layers, columns, name, axis, reason=reason(part).partition(":")[0], unsure=dots)


def _drawn(shown: _Map, annotate: bool | None, vmin: float | None, vmax: float | None, width: Width, ax: Axes | None) -> Axes:
    values, layers, columns = shown.values, shown.layers, shown.heads
    high, low = float(np.nanmax(values)), float(np.nanmin(values))
    first, top = colour_limits(low, high, vmin, vmax)
    side = min(max(3.5 / len(columns), 0.12), 0.42)  # of a cell, inches
    size = max(3.4, 1.3 + side * len(columns)), 0.8 + min(min(max(side, 0.16), 0.34) * len(layers), HIGHEST)
    with canvas(ax, (size[0], max(size[1], 2.2)), width=width) as axes:
        mesh = axes.pcolormesh(values, cmap="viridis", vmin=first, vmax=top, edgecolors="white", linewidth=0.4)
        axes.patch.set(facecolor="0.92", edgecolor="0.6", hatch="////")  # shows where the mesh has no value
        ends = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((low < first, high > top), "neither")
        bar = colour_bar(axes, mesh, shown.name, extend=ends)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(shown.axis)
        axes.set_ylabel("Layer")
        without = f"hatched: no value, {shown.reason}" if np.isnan(values).any() else ""
        unsure = np.argwhere(shown.unsure) if shown.unsure is not None else np.empty((0, 2), dtype=int)
        dots = f"dots: {UNSURE}" if len(unsure) else ""
        set_title(axes, "; ".join(filter(None, (shown.title, dots, without))))
        wide, tall = cell_size(axes, len(columns), len(layers))
        if fit_label(bar, tall * len(layers)):
            wide, tall = cell_size(axes, len(columns), len(layers))
        if min(wide, tall) < EDGED:
            mesh.set_edgecolor("face")
        for axis, names, step in (
            (axes.xaxis, columns, int(np.ceil(18 / wide))),
            (axes.yaxis, layers, row_step(axes, len(layers))),
        ):
            axis.set_ticks([i + 0.5 for i in range(0, len(names), step)], [str(name) for name in names[::step]])
        written = annotate or (annotate is None and max(values.shape) <= MOST_WRITTEN)
        if written:
            write(axes, _written(values), mesh.to_rgba(values), (wide, tall))
        if len(unsure):
            rows, places = unsure.T
            off = 0.85 if written else 0.5  # in the corner, or in the middle
            colours = [ink(colour) for colour in mesh.to_rgba(values)[rows, places]]
            dot = min(0.3 * min(wide, tall), 3.0)  # points
            axes.scatter(places + off, rows + off, s=dot**2, c=colours, linewidths=0, label=UNSURE)
    return axes


def _written(values: np.ndarray) -> list[list[str]]:
    """Values as text, with two digits of the largest; nothing for NaN."""
    largest = float(np.nanmax(np.abs(values)))
    digits = min(max(2, 1 - int(np.floor(np.log10(largest)))), 4) if largest else 2
    return [["" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}" for value in row] for row in values]
