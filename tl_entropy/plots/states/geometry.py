"""A measure of the states' geometry along depth, of one model or of several.

A figure only reads a result of ``layer_geometry``. Refused: two units in one figure, or two orders or kinds of rows; measures
that a result does not hold, or of which it has no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from tl_entropy.errors import InputError
from tl_entropy.plots.depth import depth_axis, depth_lines, draw_course, finish_courses
from tl_entropy.plots.style import Limits, Width, canvas, line_styles, named, number
from tl_entropy.results.states.geometry import MEASURES, OF_GRAM, LayerGeometry, Measure, unit_of
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady


@steady
def geometry(
    results: LayerGeometry | Sequence[LayerGeometry] | Mapping[str, LayerGeometry],
    *,
    measure: Measure = "prompt_entropy",
    labels: Sequence[str] | None = None,
    sites: Places | None = None,
    band: bool = True,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""One measure against depth, one line for each result and site name.

    Tick l of the x axis is the residual stream after block l; sites inside that block stand between l - 1 and l. The line of
    the residual stream begins at ``embed``. The y axis begins at 0, below it where a value does,
    and near the values where most of it would be empty.

    Args:
        results: one result of ``layer_geometry``, several, or a mapping from names to results.
        measure: what to draw.
        labels: names of several results in the legend; None takes the names of their models.
        sites: short names to draw, or single places, as in ``select``; None is all.
        band: shade ±1.96 standard errors over documents, where the result knows them.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: results in different units, or of different orders or rows for prompt and dataset entropy, a measure or
            site that is not there or has no value, names that are missing or equal.
        InputTypeError: something that is no result of ``layer_geometry``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.states.geometry import layer_geometry
    >>> result = layer_geometry(tle.demo_model(), "import os\n", measures="curvature", progress=False)
    >>> geometry(result, measure="curvature").get_ylabel()
    'Curvature (rad)'
    """
    by_name = named(results, (LayerGeometry,), "layer_geometry", labels)
    for name, result in by_name.items():
        if bool(result.value(measure).isnan().all()):
            raise InputError(f"results: {name} has no {measure} to draw; its notes say why: {'; '.join(result.notes)}")
    names = {axis_name(result, measure) for result in by_name.values()}
    if len(names) > 1:
        raise InputError(
            f"results show different things ({', '.join(sorted(names))}); bring them to one unit with result.to('bits'), and "
            "measure them at one order and with one normalise"
        )
    lines = [
        ((name, site), depth, result.value(measure)[columns].numpy(), result.error(measure)[columns].numpy())
        for name, result in by_name.items()
        for site, (columns, depth) in depth_lines(enumerate(result.sites), sites).items()
    ]
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for (_, depth, value, se), (style, label) in zip(lines, line_styles([key for key, *_ in lines]), strict=True):
            draw_course(axes, depth, value, se if band else None, style=style, label=label)
        depth_axis(axes, [depth for _, depth, *_ in lines])
        axes.set_ylabel(names.pop(), parse_math=False)
        finish_courses(axes, [value for _, _, value, _ in lines], len(lines), own=ax is None)
    return axes


def axis_name(result: LayerGeometry, measure: Measure) -> str:
    """What the axis says: the measure and unit, and of entropies the order, if not 1, and the rows, if not centred."""
    shown, unit = MEASURES[measure], unit_of(measure, result.unit)
    order = f" of order {number(result.order)}" if measure in OF_GRAM and result.order != 1 else ""
    rows = result.rows if measure in OF_GRAM and result.rows != "centred rows" else ""
    after = ", ".join(part for part in (rows, unit) if part)
    return f"{shown[0].upper()}{shown[1:]}{order}{f' ({after})' if after else ''}"
