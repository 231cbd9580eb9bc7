"""The plane of a lens's predictions: how unsure they are, against what the next token costs them, layer by layer.

Entropy is what a prediction costs on average if its own probabilities are right, surprisal what the text's next token does
cost. So a layer whose surprisal is above its entropy is surer than it may be, one on which both fall has learnt something of
the next token, and one whose entropy alone changes has changed its mind about nothing but itself.

Both are means over the same tokens, those that have a next one. Refused: results without surprisal, two units or orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from tl_entropy.errors import InputError, check_choice
from tl_entropy.plots.depth import depth_lines, depth_ticks
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.naming import halving, name_points
from tl_entropy.plots.plane import DEPTHS
from tl_entropy.plots.style import (
    Limits,
    Width,
    canvas,
    colour_bar,
    error_bars,
    from_zero,
    line_styles,
    named,
    only,
    quantity,
)
from tl_entropy.results import LensEntropy
from tl_entropy.results.positions import token_means
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady


@steady
def lens_plane(
    results: LensEntropy | Sequence[LensEntropy] | Mapping[str, LensEntropy],
    *,
    order: float | None = None,
    sites: Places | None = None,
    errors: bool = True,
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean surprisal of the next token against mean lens entropy, a path through the layers of each result and site name.

    Points are coloured by depth. Of one path its ends are named, and the layers between that find a place.

    Args:
        results: what ``lens_entropy(..., surprisal=True)`` returned, one or several, or a mapping from names to results.
        order: Rényi order of the entropies; None takes the only one, or 1.
        sites: short names to draw, or single places, as in ``select``; None is all.
        errors: draw ±1.96 standard errors over documents both ways (nothing for a single document).
        labels: names of several results in the legend; None takes the names of their models.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; where several paths are drawn, a colour bar of the layers is the last of their figure.

    Raises:
        InputError: results without surprisal or without a token that has a next one, in different units, an order that is not
            there or left open, names that are missing or equal.
        InputTypeError: something that is no ``LensEntropy``, such as a summary.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), "import os\n", surprisal=True, progress=False)
    >>> axes = tle.plots.lens_plane(result)
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('Entropy (nats)', 'Surprisal of the next token (nats)')
    """
    by_name = named(results, (LensEntropy,), "lens_entropy of every position", labels)
    if len({result.unit for result in by_name.values()}) > 1:
        raise InputError("results are in nats and in bits; bring them to one unit with result.to('bits')")
    unit = next(iter(by_name.values())).unit
    chosen = {_order(result, order) for result in by_name.values()}
    if len(chosen) > 1:
        raise InputError("order: the results are of different orders; choose one that all have")
    paths = [path for name, result in by_name.items() for path in _paths(name, result, next(iter(chosen)), sites)]
    depths = np.concatenate([depth for _, depth, *_ in paths])
    shade = ScalarMappable(Normalize(np.floor(depths.min()), max(np.ceil(depths.max()), np.floor(depths.min()) + 1)), DEPTHS)
    with canvas(ax, (4.8, 3.8), width=width, ylim=ylim) as axes:
        strokes = []
        for (_, depth, at, se), (style, label) in zip(paths, line_styles([key for key, *_ in paths]), strict=True):
            line: dict[str, Any] = {"linestyle": style["linestyle"], "marker": style["marker"], "markerfacecolor": "0.8"}
            axes.plot(*at.T, **line, color="0.45", markersize=6, linewidth=1, zorder=2, label=label)
            points: dict[str, Any] = {"marker": style["marker"], "s": 36, "edgecolors": "0.2", "linewidths": 0.6}
            axes.scatter(at[:, 0], at[:, 1], c=shade.to_rgba(depth), **points, zorder=3)
            strokes += [at, *(error_bars(axes, at, se) if errors else [])]
        axes.set_xlabel(quantity(chosen, unit))
        axes.set_ylabel(f"Surprisal of the next token ({unit})")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.08)  # for the names of what lies farthest out
        from_zero(axes, "xy")
        if len(paths) > 1:
            ticks, names = depth_ticks([depths])
            colour_bar(axes, shade, "Layer", aspect=25).set_ticks(ticks, labels=names)
            add_legend(axes, own=ax is None)
        else:
            [(_, depth, at, _)] = paths
            name_points(axes, _names(depth, at), strokes)
    return axes


def _order(result: LensEntropy, order: float | None) -> float:
    default = 1.0 if order is None and 1.0 in result.orders else order
    chosen = only("order", default, result.orders)
    check_choice("order", chosen, result.orders)
    return float(chosen)


def _paths(name: str, result: LensEntropy, order: float, sites: Any) -> Any:
    """Of each site name (key, depth [point], places [point, (x, y)], their standard errors) over tokens with a next one."""
    if result.surprisal is None:
        raise InputError(f"results: {name} holds no surprisal; ask for it with lens_entropy(..., surprisal=True)")
    known = ~result.surprisal.isnan().any(1)
    if not bool(known.any()):
        raise InputError(f"results: {name} holds no token with a next one, whose surprisal could be drawn")
    (x, x_se), (y, y_se) = (
        token_means(values[known], result.document[known])
        for values in (result.entropy[:, :, result.orders.index(order)], result.surprisal)
    )
    at, se = np.stack([x.numpy(), y.numpy()], 1), np.stack([x_se.numpy(), y_se.numpy()], 1)
    for site, (columns, depth) in depth_lines(enumerate(result.sites), sites).items():
        yield (name, site), depth, at[columns], se[columns]


def _names(depth: np.ndarray, at: np.ndarray) -> list[tuple[float, float, str, bool]]:
    """The layers' names beside their points: the ends first, which have to be there, then those between."""
    found = []
    for turn, i in enumerate(halving(len(at))):
        layer = f"{depth[i]:g}" if turn >= 2 else f"layer {depth[i]:g}"
        found.append((*at[i].tolist(), "embed" if depth[i] < 0 else layer, turn < 2))
    return found
