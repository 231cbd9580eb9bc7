"""The information plane: what states say about the tokens read, against what they say about the tokens to come.

Complexity I(X;Z) is on the x axis, expressivity I(Y;Z) on the y axis; their ratio is the optimality (Conklin 2025, arXiv
2505.23960), so that the diagonal is optimality 1. Neither can exceed the ceiling, which is of the states alone.

Refused: leaving open which label sets are meant; results that differ in their places, where paths lead from one to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D

from tl_entropy.errors import InputError, check_choice
from tl_entropy.plots.depth import depth_lines, depth_ticks
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.naming import halving, name_points
from tl_entropy.plots.soft_values import axis_name, bound, means, no_finding, reason, results_by_name
from tl_entropy.plots.style import Width, canvas, colour_bar, error_bars, line_styles
from tl_entropy.results import SoftInformation
from tl_entropy.results.information.tables import UNSURE
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady

DEPTHS = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.85, 256)))
NEAR = 1.4  # a ceiling up to so many times the largest value is brought into view

DIAGONAL_SPOTS = np.array([0.6, 0.7, 0.5, 0.4, 0.3, 0.8, 0.2])  # where the diagonal may be named, in parts of it


@dataclass(frozen=True)
class _Path:
    """Points joined by a line: one entry of each array a point. ``layer`` is -1 at the embedding; ``step`` numbers results."""

    source: str
    site: str
    layer: np.ndarray
    depth: np.ndarray
    step: np.ndarray
    at: np.ndarray  # [point, (x, y)]
    se: np.ndarray  # [point, (x, y)]
    ceiling: np.ndarray  # [point, (x, y)]
    unsure: np.ndarray  # [point, (x, y)]

    def __getitem__(self, rows: Any) -> _Path:
        return _Path(self.source, self.site, *(getattr(self, name)[rows] for name in _ARRAYS))


_ARRAYS = ("layer", "depth", "step", "at", "se", "ceiling", "unsure")


@steady
def information_plane(
    results: SoftInformation | Sequence[SoftInformation] | Mapping[str, SoftInformation],
    *,
    input: str | None = None,
    output: str | None = None,
    of: Literal["information", "share", "plug_in", "chance_adjusted"] = "information",
    sites: Places | None = "resid_post",
    path: Literal["layers", "results"] = "layers",
    annotate: bool = True,
    errors: bool = True,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Expressivity I(Y;Z) against complexity I(X;Z), layer by layer, or result by result (checkpoints, in their order).

    Points are coloured by depth. The solid diagonal is optimality 1, where states say as much about what comes as about what
    was read. Dashed lines are the largest ceilings of the layers drawn, which no label set exceeds; they may lie outside of
    the view, which follows the points. Points without a value are left out. Of information and shares, a point has a ring where
    the printed table says *unsure* of either value. Several draws of anchors (seeds, n_bins) give their mean, unless the result
    was narrowed with ``select``. Heads are not drawn.

    Args:
        results: one result, several, or a mapping from names to results.
        input: the label set X; None takes the only one of the tokens up to a position.
        output: the label set Y; None takes the only one of the tokens after it.
        of: "information" is cross-fitted; "share" is that as a share of its ceiling; "plug_in" has the bias of few rows, and
            for rare labels nears the diagonal whatever the states are; "chance_adjusted" is the information of 0.5.0.
        sites: short names to draw, one path each, with the embedding as the beginning of the residual stream where it is
            asked for; None is all that are not heads.
        path: "layers" joins the layers of each result; "results" joins the results at each layer. Names of the mapping that
            are numbers are taken for steps of a training.
        annotate: name the first layer, the last, and those between that find a place.
        errors: draw ±1.96 standard errors over documents and anchors both ways (nothing for a single document).
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; where several paths or no names are drawn, a colour bar of the layers is the last of their figure.

    Raises:
        InputError: label sets left open or not there, sites that are not there, results in different units, of different
            estimators, of equal names or (where paths lead through them) different sites, or no value at all.
        InputTypeError: something that is no result of ``soft_information``.

    Source: Conklin (2025), arXiv 2505.23960; deviating from it, values are cross-fitted.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> texts = [text[:600] for text in tle.demo_texts(2)]
    >>> result = tle.soft_information(tle.demo_model(), texts, layers=[0, 5], progress=False)
    >>> axes = tle.plots.information_plane(result)
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('Complexity I(token;Z) (nats)', 'Expressivity I(next_token;Z) (nats)')
    """
    check_choice("of", of, ("information", "share", "plug_in", "chance_adjusted"))
    check_choice("path", path, ("layers", "results"))
    by_name = results_by_name(results, of)
    chosen = {(r.label_on("input", input), r.label_on("output", output)) for r in by_name.values()}
    if len(chosen) > 1:
        shown = "; ".join(" and ".join(pair) for pair in sorted(chosen))
        raise InputError(f"input, output: the only label sets differ between results ({shown}); name those that all have")
    (labels,) = chosen
    paths = [p for i, (name, r) in enumerate(by_name.items()) for p in _paths(name, i, r, labels, of, sites)]
    if path == "results":
        paths = _across(paths, list(by_name))
    paths = [p[np.isfinite(p.at).all(1)] for p in paths]
    if not any(len(p.at) for p in paths):
        why = dict.fromkeys(reason(r.select(labels=labels)) for r in by_name.values())
        raise InputError(f"of={of!r}: no layer has both values; {'; '.join(why)}")
    depths = np.concatenate([p.depth for p in paths])
    ticks, tick_names = depth_ticks([depths])
    low, high = np.floor(depths.min()), np.ceil(depths.max())
    shade = ScalarMappable(Normalize(low, max(high, low + 1)), DEPTHS)
    with canvas(ax, (4.8, 3.8), width=width) as axes:
        if path == "layers":
            _draw_layers(axes, paths, shade, own=ax is None)
        else:
            paths = [p for p in paths if len(p.at)]
            steps = isinstance(results, Mapping) and all(isinstance(key, Real) for key in results)
            _draw_results(axes, paths, shade, [f"step {name}" if steps else name for name in by_name], own=ax is None)
        strokes = [p.at for p in paths]
        if errors:
            strokes += [stroke for p in paths for stroke in error_bars(axes, p.at, p.se)]
        unit = next(iter(by_name.values())).unit
        complexity, expressivity = (
            axis_name(of, unit, label).replace("Plug-in", "plug-in").replace("Chance", "chance") for label in labels
        )
        axes.set_xlabel(f"Complexity {complexity}", parse_math=False)
        axes.set_ylabel(f"Expressivity {expressivity}", parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        if len(paths) > 1 or not annotate:
            colour_bar(axes, shade, "Layer", aspect=25).set_ticks(ticks, labels=tick_names)
        bounds = np.ones(2) if of == "share" else np.concatenate([p.ceiling for p in paths]).max(0)
        strokes += _bounds(axes, bounds, np.concatenate(strokes))
        if annotate:
            legend = axes.get_legend()
            name_points(axes, _names(paths, path), strokes, [*axes.texts, *([legend] if legend else [])])
    return axes


def _paths(
    name: str, number: int, result: SoftInformation, pair: tuple[str, str], of: Any, sites: Places | None
) -> list[_Path]:
    """The layers of one result, one path for each site name."""
    places = [(i, site) for i, (site, head) in enumerate(zip(result.sites, result.heads, strict=True)) if head < 0]
    if not places:
        raise InputError(f"results: {name} holds nothing but heads, which are not drawn here; see plots.heads(result)")
    arrays = (*means(result, of), means(result, bound(result, of))[0], no_finding(result, of))
    found = []
    for site, (rows, depth) in depth_lines(places, sites).items():
        parts = (array[rows][:, [result.labels.index(label) for label in pair]] for array in arrays)
        layer = np.array([result.sites[row].layer for row in rows])
        found.append(_Path(name, site, layer, depth, np.full(len(rows), number), *parts))
    return found


def _across(paths: Sequence[_Path], names: Sequence[str]) -> list[_Path]:
    """Paths of layers turned into paths through the results, one for each place."""
    if len(names) < 2:
        raise InputError("path='results' joins several results; give at least two, in their order")
    places: dict[tuple[str, float], list[_Path]] = {}
    for p in paths:
        for i, depth in enumerate(p.depth.tolist()):
            places.setdefault((p.site, depth), []).append(p[[i]])
    lacking = [f"{site} at {depth:g}" for (site, depth), points in places.items() if len(points) != len(names)]
    if lacking:
        raise InputError(f"results: not all have {', '.join(lacking)}; bring them to the same sites with result.select(...)")
    return [
        _Path("", site, *(np.concatenate([getattr(point, name) for point in points]) for name in _ARRAYS))
        for (site, _), points in places.items()
    ]


def _draw_layers(axes: Axes, paths: Sequence[_Path], shade: ScalarMappable, *, own: bool) -> None:
    """Paths that differ in dash and marker, with points coloured by depth."""
    for p, (style, label) in zip(paths, line_styles([(p.source, p.site) for p in paths]), strict=True):
        line: dict[str, Any] = {"linestyle": style["linestyle"], "marker": style["marker"], "markerfacecolor": "0.8"}
        label = label if len(p.at) else f"{label} (no value)"
        axes.plot(*p.at.T, **line, color="0.45", markersize=6, linewidth=1, zorder=2, label=label)
        points: dict[str, Any] = {"marker": style["marker"], "s": 36, "edgecolors": "0.2", "linewidths": 0.6}
        axes.scatter(p.at[:, 0], p.at[:, 1], c=shade.to_rgba(p.depth), **points, zorder=3)
    ring = _rings(axes, paths)
    if len(paths) > 1:
        add_legend(axes, own=own)
    elif ring:
        add_legend(axes, own=own, handles=ring)


def _rings(axes: Axes, paths: Sequence[_Path]) -> list[Line2D]:
    """A ring around each point of which either value is no finding; one line, or none."""
    unsure = np.concatenate([p.at[p.unsure.any(1)] for p in paths])
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 10, "markerfacecolor": "none"}
    return axes.plot(*unsure.T, **style, markeredgecolor="0.2", markeredgewidth=0.8, label=UNSURE) if len(unsure) else []


def _draw_results(axes: Axes, paths: Sequence[_Path], shade: ScalarMappable, results: Sequence[str], *, own: bool) -> None:
    """Paths coloured by depth, with the first and the last result marked."""
    marks = _marks(len(results))
    dashes = {}
    for p, (style, _) in zip(paths, line_styles([(p.site,) for p in paths]), strict=True):
        colour = shade.to_rgba(p.depth)[0]
        dashes[p.site] = style["linestyle"]
        axes.plot(*p.at.T, color=colour, linestyle=style["linestyle"], linewidth=1.2, zorder=2)
        for steps, filled, mark in marks:
            at = p.at[np.isin(p.step, steps)]
            axes.plot(*at.T, **mark, color=colour, markerfacecolor=colour if filled else "white", linestyle="", zorder=3)
    handles = [Line2D([], [], color="0.3", linestyle=dash, label=site) for site, dash in dashes.items() if len(dashes) > 1]
    for steps, filled, mark in marks:
        name = results[steps[0]] if len(steps) == 1 else f"{len(steps)} between"
        face = "0.3" if filled else "white"
        handles.append(Line2D([], [], **mark, color="0.3", markerfacecolor=face, linestyle="", label=name))
    handles += _rings(axes, paths)
    add_legend(axes, own=own, handles=handles, handlelength=3 if len(dashes) > 1 else 1.5)


def _marks(count: int) -> list[tuple[list[int], bool, dict[str, Any]]]:
    """How results are marked (which, filled, how): the first, those between, the last."""
    between = list(range(1, count - 1))
    marks: list[tuple[list[int], bool, dict[str, Any]]] = [
        ([0], False, {"marker": "o", "markersize": 6.0}),
        (between, True, {"marker": "o", "markersize": 3.0}),
        ([count - 1], True, {"marker": "D", "markersize": 5.5}),
    ]
    return [mark for mark in marks if mark[0]]


def _bounds(axes: Axes, ceilings: np.ndarray, points: np.ndarray) -> list[np.ndarray]:
    """The diagonal, named away from ``points``, and the ceilings (x, y), of which the view, from 0 on, takes in near ones."""
    reach = np.asarray(axes.dataLim.max)
    axes.update_datalim([np.where(ceilings <= NEAR * reach, ceilings, reach)])
    axes.axline((0, 0), slope=1, color="0.4", linewidth=0.9, zorder=1)
    axes.autoscale_view()
    low = axes.dataLim.min
    if low[0] >= 0:
        axes.set_xlim(left=0, auto=None)  # without switching off the scaling to what is drawn on these axes later
    if low[1] >= 0:
        axes.set_ylim(bottom=0, auto=None)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    end = min(right, top)
    # The first spot that is far enough from all points, in parts of the axes, or else the farthest.
    away = {spot: np.hypot(*((points - spot) / (right - left, top - bottom)).T).min() for spot in end * DIAGONAL_SPOTS}
    spot = max(away, key=lambda spot: min(away[spot], 0.2))
    axes.text(
        spot, spot, "optimality 1", rotation=45, rotation_mode="anchor", transform_rotates_text=True, ha="center",
        va="bottom", color="0.3", fontsize=mpl.rcParams["legend.fontsize"], clip_on=True,
    )  # fmt: skip
    strokes = [np.array([[0, 0], [end, end]])]
    for value, upright, along in (
        (ceilings[0], True, axes.get_xaxis_transform()),
        (ceilings[1], False, axes.get_yaxis_transform()),
    ):
        ends = ([value, value], [0, 1]) if upright else ([0, 1], [value, value])
        # An artist, not a line of the plot: a bound outside of the view is not to widen it.
        axes.add_artist(Line2D(*ends, transform=along, color="0.4", linewidth=0.8, linestyle=(0, (6, 4)), zorder=1))
        x, y = (value, 0.02) if upright else (0.02, value)
        text = axes.text(
            x, y, "ceiling", transform=along, rotation=90 if upright else 0, ha="right" if upright else "left",
            va="bottom", color="0.3", fontsize=mpl.rcParams["legend.fontsize"], clip_on=True,
        )  # fmt: skip
        text.set_in_layout(False)
        strokes.append(np.array([[value, bottom], [value, top]] if upright else [[left, value], [right, value]]))
    return strokes


def _names(paths: Sequence[_Path], path: str) -> list[tuple[float, float, str, bool]]:
    """The layers' names beside their points: the first and the last come first, then those between, halving the gaps."""
    if path == "results":  # each path is one layer, named at its end
        ends = [(*p.at[-1], p.layer[-1]) for p in sorted(paths, key=lambda p: p.depth[0])]
        ordered = [(*ends[row], i < 2) for i, row in enumerate(halving(len(ends)))]
    else:
        ordered = [(*p.at[row], p.layer[row], i < 2) for p in paths for i, row in enumerate(halving(len(p.at)))]
    ordered.sort(key=lambda name: not name[3])
    # Ends of many paths of layers lie on each other: then they don't have to be there.
    alone = path == "results" or len(paths) <= 2
    return [(x, y, "embed" if n < 0 else f"layer {n}" if end else str(n), end and alone) for x, y, n, end in ordered]
