"""Layer dynamics: entropy against velocity, layer by layer, and what each layer of several models does, side by side.

A figure only reads results of ``layer_dynamics``.

Refused: results in different units or of different orders of entropy; quantities that a result does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import FancyArrowPatch

from tl_entropy.errors import InputError, InputTypeError, check_choice
from tl_entropy.plots.depth import EMBED
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.lens.predictions import divergence_name
from tl_entropy.plots.naming import halving, name_points, short_name
from tl_entropy.plots.style import (
    Limits,
    Width,
    canvas,
    colour_bar,
    error_bars,
    from_zero,
    line_styles,
    named,
    quantity as entropy_name,
    set_title,
    sized,
)  # fmt: skip
from tl_entropy.results.profiles.dynamics import FAMILIES, Family, LayerDynamics
from tl_entropy.torch_state import steady

ARROW = 12.0  # size of an arrow's head, points
SHORTEST_STEP = 16.0  # that gets an arrow's head, points
MOST_NAMES = 24  # of layers, shared by all paths
NARROW = 5.0  # inches: panels of a narrower figure stand below each other
MOST_EDGED = 24  # cells of a row: of more, white edges would take too much

_CURVE_NAMES = {
    "velocity": "Velocity: Wasserstein-1 of entropies",
    "fisher_rao_velocity": "Velocity: angle between entropy curves",
    "distance_to_output": "Distance to output of entropy curves",
    "jsd_to_output": "JSD to output of entropy histograms",
}


@steady
def velocity(
    results: LayerDynamics | Sequence[LayerDynamics] | Mapping[str, LayerDynamics],
    *,
    quantity: str | None = None,
    family: Family | None = None,
    errors: bool = True,
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean entropy against velocity, a path through the layers of each result; arrows point from a layer to the next.

    A point says how uncertain the prediction is at a layer, and how far it has moved from the layer before. The first site has
    no layer before it, and is no point.

    Args:
        results: one result, several, or a mapping from names to results.
        quantity: the velocity on the x axis; None is ``main_velocity`` of the results.
        family: "curve" or "vocabulary"; None is "vocabulary" where that has the quantity, else "curve".
        errors: draw ±1.96 standard errors over documents both ways (nothing for a single document).
        labels: names of several results in the legend; None takes the names of their models.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: results without entropies or without the velocity, or in which it has no value anywhere, that differ in the
            quantity, unit or order, or names that are missing or equal.
        InputTypeError: something that is no result of ``layer_dynamics``, or no name.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.profiles.dynamics import layer_dynamics
    >>> found = layer_dynamics(tle.lens_entropy(tle.demo_model(), "import os\n", progress=False))
    >>> axes = velocity(found)
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('Velocity: Wasserstein-1 of entropies (nats)', 'Entropy (nats)')
    """
    by_name = named(results, (LayerDynamics,), "layer_dynamics", labels)
    for name, result in by_name.items():
        if "curve" not in result.families:
            raise InputError(f"results: {name} holds no entropies; give layer_dynamics what lens_entropy returned as well")
    if not isinstance(quantity, str | None):
        raise InputTypeError(f"quantity must be the name of a velocity, or None; got {quantity!r}")
    chosen = {result.main_velocity(family) if quantity is None else (quantity, family) for result in by_name.values()}
    if len(chosen) > 1:
        raise InputError(f"results differ in their velocities ({', '.join(sorted(name for name, _ in chosen))}); choose one")
    ((of, its),) = chosen
    if not of.endswith("velocity"):
        raise InputError(f"quantity must be a velocity, such as 'velocity' or 'kl_velocity'; got {of!r}")
    xlabel, ylabel = (_shared_label(by_name, name, from_) for name, from_ in ((of, its), ("entropy", "curve")))
    if not any(result.value(of, its).isfinite().any() for result in by_name.values()):
        raise InputError(
            f"quantity: {of} has no value at any site, as where all entropies are 0; choose another, such as 'velocity'"
        )
    with canvas(ax, (4.8, 3.8), width=width, ylim=ylim) as axes:
        paths = []
        for (name, result), (style, _) in zip(by_name.items(), line_styles([(name,) for name in by_name]), strict=True):
            at, se = (
                np.stack([get(of, its).numpy(), get("entropy", "curve").numpy()], axis=1)[1:]
                for get in (result.value, result.error)
            )
            axes.plot(*at.T, **style, markersize=4.5, linewidth=1.0, label=name, zorder=3)
            paths.append((result, at, se, style["color"]))
        strokes = [at[np.isfinite(at).all(1)] for _, at, *_ in paths]
        if errors:
            strokes += [stroke for _, at, se, _ in paths for stroke in error_bars(axes, at, se)]
        axes.set_xlabel(xlabel, parse_math=False)
        axes.set_ylabel(ylabel, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.08)  # for the names of what lies farthest out
        from_zero(axes, "xy")
        if len(paths) > 1:
            add_legend(axes, own=ax is None)
        axes.figure.figure.draw_without_rendering()  # settles the layout, and with it how long steps are on the page
        for _, at, _, colour in paths:
            _arrows(axes, at, colour)
        legend = axes.get_legend()
        name_points(axes, _names(paths), strokes, [legend] if legend else [])
    return axes


@steady
def importance(
    results: LayerDynamics | Sequence[LayerDynamics] | Mapping[str, LayerDynamics],
    *,
    family: Family | None = None,
    labels: Sequence[str] | None = None,
    width: Width = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
) -> list[Axes]:
    r"""What each layer does, as maps: a panel for entropy, velocity, distance to the output and JSD to it, a row a result.

    Depth runs to the right over the whole model, so that models of different depth stand below each other; every site is a
    cell of its own, of the width that it has in its model, and nothing is interpolated. Colours of a panel begin at 0. What
    has no value, such as the velocity of the first site, is hatched.

    Args:
        results: one result, several, or a mapping from names to results.
        family: "curve": velocity, distance_to_output and jsd_to_output. "vocabulary": velocity and distance by Fisher-Rao, or
            by the first metric that all results have, and jsd_to_output. None is "vocabulary" where all results have it, else
            "curve". Panels for what not all results hold are left out.
        labels: names of the rows; None takes the names of the models.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        axes: axes to draw on, one for each panel; None makes a figure.

    Returns:
        The axes of the panels; those of the colour bars are behind them in their figure.

    Raises:
        InputError: no quantity that all results have, results that differ in unit or order, the wrong number of axes, or names
            that are missing or equal.
        InputTypeError: something that is no result of ``layer_dynamics``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.profiles.dynamics import layer_dynamics
    >>> found = layer_dynamics(tle.lens_entropy(tle.demo_model(), "import os\n", progress=False))
    >>> [axes.get_title() for axes in importance(found)][:2]
    ['Entropy', 'Velocity: Wasserstein-1 of entropies']
    """
    if family is not None:
        check_choice("family", family, FAMILIES)
    by_name = named(results, (LayerDynamics,), "layer_dynamics", labels)
    panels = _panels(list(by_name.values()), family)
    names = [_shared_label(by_name, *panel) for panel in panels]
    with _grid(axes, len(panels), list(map(short_name, by_name)), width) as (grid, own):
        for number, (panel, name) in enumerate(zip(panels, names, strict=True)):
            _draw_panel(grid[number], by_name, panel, name)
            place = grid[number].get_subplotspec() if own else None
            beside = place is not None and not place.is_first_col()
            if beside:
                grid[number].set_yticklabels([])
            if place is None or place.is_last_row() or (beside and number == len(panels) - 2):
                grid[number].set_xlabel("Layer" if _same_sites(by_name) else "Relative depth")
        grid[0].figure.figure.draw_without_rendering()  # settles the layout, and with it how wide cells are
        for panel_axes in grid:
            if _same_sites(by_name):
                panel_axes.set_xticks(*_site_ticks(panel_axes, next(iter(by_name.values()))))
            else:
                panel_axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
    return grid


def _draw_panel(axes: Axes, by_name: Mapping[str, LayerDynamics], panel: tuple[str, Family], name: str) -> None:
    rows = [result.value(*panel).numpy() for result in by_name.values()]
    top = max(float(np.fmax.reduce(np.concatenate(rows), initial=0.0)), 1e-9)  # fmax passes over what has no value
    for number, row in enumerate(rows):
        edges = np.linspace(0, 1, len(row) + 1)
        axes.pcolormesh(
            edges, [number, number + 1], np.ma.masked_invalid(row)[None], cmap="viridis", vmin=0, vmax=top, linewidth=0.4,
            edgecolors="white" if len(row) <= MOST_EDGED else "face",
        )  # fmt: skip
    axes.hlines(range(1, len(rows)), 0, 1, color="white", linewidth=1.0)
    axes.patch.set(facecolor="0.92", edgecolor="0.6", hatch="////")  # shows where the meshes have no value
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows), 0)
    axes.set_yticks(np.arange(len(rows)) + 0.5, list(map(short_name, by_name)), parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title, _, unit = name.rpartition(" (") if name.endswith(")") else (name, "", "")
    set_title(axes, title)
    colour_bar(axes, ScalarMappable(Normalize(0, top), "viridis"), unit.removesuffix(")"), aspect=12)


def _panels(results: Sequence[LayerDynamics], family: Family | None) -> list[tuple[str, Family]]:
    """Which quantities of which families are drawn."""
    shared = [
        pair for pair in zip(results[0].quantities, results[0].families, strict=True)
        if all(pair in zip(other.quantities, other.families, strict=True) for other in results)
    ]  # fmt: skip
    there = {its for _, its in shared}
    chosen = family or ("vocabulary" if "vocabulary" in there else "curve")
    if chosen not in there:
        raise InputError(
            f"family: not all results have a quantity of {chosen!r}; give layer_dynamics the same kinds of results"
        )
    if chosen == "curve":
        return [(name, "curve") for name in ("entropy", "velocity", "distance_to_output", "jsd_to_output")]
    metrics = [_metric(name) for name, its in shared if its == "vocabulary"]
    metric = "fisher_rao" if "fisher_rao" in metrics else metrics[0]
    wanted: list[tuple[str, Family]] = [("entropy", "curve")]
    wanted += [(name, "vocabulary") for name in (f"{metric}_velocity", f"{metric}_to_output", "jsd_to_output")]
    return [pair for pair in dict.fromkeys(wanted) if pair in shared]


def _shared_label(by_name: Mapping[str, LayerDynamics], of: str, family: Family | None) -> str:
    """What an axis says of a quantity, with its unit; refused where results differ in it."""
    found = {_label(result, of, family) for result in by_name.values()}
    if len(found) > 1:
        raise InputError(
            f"results differ in quantity, order or unit: {', '.join(sorted(found))}; choose a family, or bring them to one unit"
        )
    return found.pop()


def _label(result: LayerDynamics, of: str, family: Family | None) -> str:
    unit = result.unit_of(of, family)
    if of == "entropy" and result.order is not None:
        return entropy_name([result.order], unit)
    if family == "curve" or (of, "vocabulary") not in zip(result.quantities, result.families, strict=True):
        return f"{_CURVE_NAMES[of]} ({unit})"
    moves = of.endswith("_velocity")
    name = divergence_name(_metric(of), result.unit, "previous" if moves else "output")
    return f"Velocity: {name}" if moves else name[0].upper() + name[1:]


def _metric(of: str) -> str:
    return of.removesuffix("_velocity").removesuffix("_to_output")


def _arrows(axes: Axes, at: np.ndarray, colour: Any) -> None:
    """A head in the middle of every step of a path [point, (x, y)] that is long enough on the page."""
    on_page = axes.transData.transform(at) * 72 / axes.figure.dpi
    long = np.hypot(*np.diff(on_page, axis=0).T) > SHORTEST_STEP
    for start, end in zip(at[:-1][long], at[1:][long], strict=True):
        head: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": ARROW, "shrinkA": 0, "shrinkB": 0}
        axes.add_patch(FancyArrowPatch(start, (start + end) / 2 + 0.05 * (end - start), color=colour, linewidth=0, **head))


def _names(paths: Sequence[tuple[LayerDynamics, np.ndarray, Any, Any]]) -> list[tuple[float, float, str, bool]]:
    """The layers' names: the first and the last of each path come first, then those between, halving the gaps.

    Only where there is a single path do its ends have to be named: those of several may lie on each other.
    """
    found = []
    for result, at, *_ in paths:
        sites = result.sites[1:]
        alike = len({site.name for site in sites}) == 1
        for turn, i in enumerate(halving(len(sites))[: MOST_NAMES // len(paths)]):
            layer = f"layer {sites[i].layer}" if turn < 2 else str(sites[i].layer)
            found.append((turn >= 2, (*at[i].tolist(), layer if alike else str(sites[i]), turn < 2 and len(paths) == 1)))
    return [name for _, name in sorted(found, key=lambda pair: pair[0]) if math.isfinite(name[0])]


def _same_sites(by_name: Mapping[str, LayerDynamics]) -> bool:
    return len({result.sites for result in by_name.values()}) == 1


def _site_ticks(axes: Axes, result: LayerDynamics) -> tuple[list[float], list[str]]:
    """The middles of cells, named by their layers; where a layer has several, those like the last site are named."""
    sites = result.sites
    named_sites = [i for i, site in enumerate(sites) if site.name == sites[-1].name]
    cell = axes.get_window_extent().width * 72 / axes.figure.dpi / len(sites)
    cell /= float(axes.xaxis.get_major_ticks(1)[0].label1.get_fontsize())  # its width, in sizes of the font
    step = max(math.ceil((len(named_sites) + 1) / 12), math.ceil(1.5 * len(named_sites) / len(sites) / cell))
    ticks = {i: str(sites[i].layer) for i in named_sites if sites[i].layer % step == 0}
    if sites[0].name == "embed":
        ticks = {0: "embed"} | {i: text for i, text in ticks.items() if i * cell >= EMBED + 0.6}
    return [(i + 0.5) / len(sites) for i in ticks], list(ticks.values())


@contextmanager
def _grid(axes: Any, panels: int, rows: Sequence[str], width: Width) -> Iterator[tuple[list[Axes], bool]]:
    """The axes given, as they are, or those of a new figure, two panels side by side; and whether they are new."""
    if axes is not None:
        sized(axes, (1, 1), width)
        given = list(np.asarray(axes, dtype=object).flat)
        if len(given) != panels:
            raise InputError(f"axes: there are {panels} panels to draw, and {len(given)} axes; give one for each")
        yield given, False
        return
    names = 0.08 * max(map(len, rows))  # inches
    across = min(panels, 2)
    (inches, _), sizes = sized(axes, (3.5 * across + names, 1.0), width)
    across = across if inches > NARROW else 1
    down = math.ceil(panels / across)
    size = inches, down * (0.9 + 0.36 * len(rows)) + 0.2
    figure = plt.figure(figsize=size, layout="constrained")
    with mpl.rc_context(sizes):
        grid = list(np.atleast_1d(figure.subplots(down, across)).flat)
        for unused in grid[panels:]:
            unused.remove()
        yield grid[:panels], True
