"""How similar layers are: to one other along depth, or every layer to every other as a matrix.

A figure only reads a result of ``layer_similarity``.

Refused: more than one matrix in a figure; several units in one figure; results without a value; matrix-based information of
different orders, or of samples of different sizes, with which it grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError
from tl_entropy.plots.cells import cell_size, row_step, write
from tl_entropy.plots.depth import depth_axis, depth_lines, draw_course, finish_courses
from tl_entropy.plots.style import (
    Limits,
    Width,
    canvas,
    colour_bar,
    colour_limits,
    fit_label,
    line_styles,
    named,
    number,
    set_title,
)
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady

LARGEST = 7.0  # inches of a matrix
MOST_OUTLINED = 16  # rows or columns of a matrix whose cells are told apart by lines
ROUNDING = 1e-6  # a value so far beyond the ends of the colours is at the end
MOST_WRITTEN = 8  # rows or columns of a matrix whose cells are written into


@steady
def similarity(
    results: LayerSimilarity | Sequence[LayerSimilarity] | Mapping[str, LayerSimilarity],
    *,
    quantity: str | None = None,
    labels: Sequence[str] | None = None,
    annotate: bool | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    ylim: Limits = None,
    width: Width = None,
    band: bool = True,
    ax: Axes | None = None,
) -> Axes:
    r"""Similarity of layers: to a single site against depth, one line for each result and site name; else as a matrix.

    Along depth, tick l of the x axis is the residual stream after block l. A matrix has the sites asked about upward and those
    they are compared with to the right, deep layers last. The colours of a CKA go from 0 to 1; values outside, which the
    debiased estimate may have, are written as they are, and the colour bar ends in a tip. Cells without a value are hatched.

    Args:
        results: one result of ``layer_similarity``; several, or a mapping from names to results, where each is against a
            single site.
        quantity: which of their quantities; None is the headline.
        labels: names of several results in the legend; None takes the names of their models. Of a matrix, what to call the
            model of the rows and that of the columns; a mapping's name of one is its title.
        annotate: write the values into the cells of a matrix; None does up to 8 rows and columns.
        vmin: of a matrix, the value at the low end of the colours; None is 0.
        vmax: the value at the high end; None is 1 of a CKA, else the highest.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        band: along depth, shade ±1.96 standard errors, where the result knows them.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; those of a matrix's colour bar are the last of their figure.

    Raises:
        InputError: a matrix among several results, a quantity that is not there, quantities of different units, no value at
            all, matrix-based information of different orders or numbers of rows, or names that are missing or equal.
        InputTypeError: something that is no result of ``layer_similarity``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.states.similarity import layer_similarity
    >>> from tl_entropy.plots.states.similarity import similarity
    >>> result = layer_similarity(tle.demo_model(), tle.demo_texts(1)[0][:600], progress=False)
    >>> similarity(result).get_ylabel()
    'CKA with output (debiased)'
    """
    alone = isinstance(results, LayerSimilarity) and len(results.columns) > 1
    by_name = named(results, (LayerSimilarity,), "layer_similarity", None if alone else labels)
    axis = {name: _axis_name(result, quantity) for name, result in by_name.items()}
    for name, result in by_name.items():
        if bool(result.value(quantity).isnan().all()):
            raise InputError(f"results: {name} has no value to draw (too few rows, or states that do not vary)")
    if any(len(result.columns) > 1 for result in by_name.values()):
        if len(by_name) > 1:
            raise InputError(
                "results: a figure shows one matrix; give one result, or results against a single site each, such as 'output'"
            )
        [(result, name)] = zip(by_name.values(), axis.values(), strict=True)
        if ylim is not None:
            raise InputError("ylim is of lines along depth, and this result is a matrix: leave it out, or take vmin and vmax")
        models = _models(result, labels if alone else None)
        axes = _matrix(result, quantity, name, models, annotate, (vmin, vmax), width, ax)
        if not alone:
            set_title(axes, next(iter(by_name)))
        return axes
    if vmin is not None or vmax is not None:
        raise InputError("vmin and vmax are of a matrix; these results are against a single site: leave them out, or take ylim")
    if annotate:
        raise InputError("annotate writes into the cells of a matrix; these results are against a single site, so leave it out")
    if len({_unit(result, quantity) for result in by_name.values()}) > 1:
        raise InputError("results are in different units; bring them to one with result.to('bits')")
    sampled = [result for result in by_name.values() if result.method != "cka"]
    matrices = [result for result in sampled if result.method == "matrix_renyi"]
    if len({_order(result) for result in matrices}) > 1:
        raise InputError("results are of different orders, and can't be compared; measure them at one order")
    if len({result.count for result in sampled}) > 1:
        counts = ", ".join(str(result.count) for result in sampled)
        raise InputError(
            f"results are of samples of different sizes ({counts}), with which their values change; measure them "
            "with the same n_samples, and enough text"
        )
    return _courses(by_name, quantity, axis, ylim, width, band, ax)


def _courses(
    by_name: Mapping[str, LayerSimilarity], quantity: str | None, axis: Mapping[str, str], ylim: Limits, width: Width,
    band: bool, ax: Axes | None,
) -> Axes:  # fmt: skip
    """Similarity to a single site against depth."""
    lines = [
        (
            (name, site, axis[name]),
            depth,
            result.value(quantity)[columns, 0].numpy(),
            result.error(quantity)[columns, 0].numpy() if band else None,
        )
        for name, result in by_name.items()
        for site, (columns, depth) in depth_lines(enumerate(result.rows), None).items()
    ]
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for (_, depth, values, se), (style, label) in zip(lines, line_styles([key for key, *_ in lines]), strict=True):
            draw_course(axes, depth, values, se, style=style, label=label)
        depth_axis(axes, [depth for _, depth, *_ in lines])
        names = set(axis.values())
        axes.set_ylabel(names.pop() if len(names) == 1 else "Similarity", parse_math=False)
        finish_courses(axes, [values for _, _, values, _ in lines], len(lines), own=ax is None)
    return axes


def _matrix(
    result: LayerSimilarity,
    quantity: str | None,
    name: str,
    models: Sequence[str],
    annotate: bool | None,
    limits: tuple[float | None, float | None],
    width: Width,
    ax: Axes | None,
) -> Axes:
    """Every row's similarity to every column, as colours."""
    values = result.value(quantity).numpy()
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    first, top = (default if end is None else end for end, default in zip(limits, (0.0, 1.0), strict=True))
    if limits[1] is None and result.method == "matrix_renyi":
        top = max(high, first + 1e-9)
    first, top = colour_limits(low, high, first, top)
    beyond = (low < first - ROUNDING, high > top + ROUNDING)
    ends = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    rows, columns = values.shape
    side = min(max(3.5 / max(rows, columns), 0.12), 0.42, LARGEST / max(rows, columns))  # of a cell, inches
    with canvas(ax, (max(3.4, 1.5 + side * columns), max(2.6, 0.8 + side * rows)), width=width) as axes:
        grid: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.4} if max(rows, columns) <= MOST_OUTLINED else {}
        mesh = axes.pcolormesh(values, cmap="viridis", vmin=first, vmax=top, **grid)
        axes.patch.set(facecolor="0.92", edgecolor="0.6", hatch="////")  # shows where the mesh has no value
        bar = colour_bar(axes, mesh, name, extend=ends)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"Layer of {models[1]}" if models else "Layer", parse_math=False)
        axes.set_ylabel(f"Layer of {models[0]}" if models else "Layer", parse_math=False)
        wide, tall = cell_size(axes, columns, rows)
        if fit_label(bar, tall * rows):
            wide, tall = cell_size(axes, columns, rows)
        axes.set_xticks(*_ticks(result.columns, int(np.ceil(18 / wide))))
        axes.set_yticks(*_ticks(result.rows, row_step(axes, rows)))
        for tick in axes.get_xticklabels():
            tick.set_rotation(90 if len(tick.get_text()) > 2 else 0)
        if annotate or (annotate is None and max(values.shape) <= MOST_WRITTEN):
            cells = [["" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}" for value in row] for row in values]
            write(axes, cells, mesh.to_rgba(values), (wide, tall))
    return axes


def _ticks(sites: Sequence[Site], step: int) -> tuple[list[float], list[str]]:
    """Every ``step``-th site: by its layer alone where all but the embedding have one name, such as resid_post."""
    if len({site.name for site in sites} - {"embed"}) > 1:
        return [i + 0.5 for i in range(0, len(sites), step)], [str(site) for site in sites[::step]]
    named = {i: "embed" if site.name == "embed" else str(site.layer) for i, site in enumerate(sites) if site.layer % step == 0}
    if sites[0].name == "embed":
        named = {0: "embed"} | {i: name for i, name in named.items() if i >= step}
    return [i + 0.5 for i in named], list(named.values())


def _models(result: LayerSimilarity, labels: Sequence[str] | None) -> Sequence[str]:
    """What to call the models of rows and columns; nothing where both are the same and no names are given."""
    if labels is not None:
        if isinstance(labels, str) or len(labels) != 2:
            raise InputError(f"labels of a matrix must be 2 names, of its rows and of its columns; got {labels!r}")
        return labels
    return [] if result.other is None else [result.provenance.model, result.other.model]


def _unit(result: LayerSimilarity, quantity: str | None) -> str:
    return result.units[result.quantities.index(quantity or result.quantities[0])]


def _order(result: LayerSimilarity) -> float | None:
    """The order of its entropies, where the result says so."""
    order = result.provenance.settings.get("order")
    return float(order) if isinstance(order, int | float) else None


def _axis_name(result: LayerSimilarity, quantity: str | None) -> str:
    """What an axis says: the quantity, its order, what it is with where that is one site, and its unit or estimate."""
    result.value(quantity)  # refuses one that is not there
    chosen = quantity or result.quantities[0]
    shown = {"cka": "CKA", "dime": "DiME"}.get(chosen, chosen[0].upper() + chosen[1:].replace("_", " "))
    order = _order(result) if result.method == "matrix_renyi" else None
    if order is not None:
        shown += f" of order {number(order)}"
    if len(result.columns) == 1 and chosen != "entropy":
        shown += f" with {'output' if result.against == 'output' else result.columns[0]}"
    settings: Mapping[str, Any] = result.provenance.settings
    unit = _unit(result, quantity)
    if chosen == "cka":
        unit = "debiased" if settings.get("debiased", True) else "biased"
    return f"{shown} ({unit})" if unit else shown
