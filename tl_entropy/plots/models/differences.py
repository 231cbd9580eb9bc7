"""What changed between two runs: mean differences against depth, and a map of one text, token by layer.

A figure only reads a ``Contrast``: after - before, so that what lies above 0 has grown.

Refused: a quantity, document or unit left open where there are several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_positive
from tl_entropy.plots.cells import MARKED_FROM, map_title, shown_part, token_map
from tl_entropy.plots.depth import depth_axis, depth_lines, draw_course
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import Limits, Width, canvas, line_styles, named, only
from tl_entropy.results import Contrast
from tl_entropy.results.models.contrast import run_names
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady


@steady
def contrast(
    results: Contrast | Sequence[Contrast] | Mapping[str, Contrast],
    *,
    quantity: str | None = None,
    sites: Places | None = None,
    band: Literal["se"] | None = "se",
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean change of a quantity against depth, one line for each contrast and site name, with a line at 0.

    Tick l of the x axis is the residual stream after block l; sites inside that block stand between l - 1 and l.

    Args:
        results: one contrast, several, or a mapping from names to contrasts; all in one unit.
        quantity: which of their quantities; None takes the only one.
        sites: short names to draw, or single places, as in ``select``; None is all.
        band: "se" shades ±1.96 standard errors of the paired differences over documents (nothing for a single document).
        labels: names of several contrasts in the legend; None takes the names of the runs after.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: contrasts in different units, a quantity or site that is not there or left open, or equal names.
        InputTypeError: something that is no contrast.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.results.models.contrast import contrast
    >>> plain = tle.lens_entropy(tle.demo_model(), "import os", progress=False)
    >>> tle.plots.contrast(contrast(plain, plain)).get_ylabel()
    'Change in entropy (nats)'
    """
    check_choice("band", band, ("se", None))
    if labels is None and not isinstance(results, Mapping):
        items = list(results) if isinstance(results, list | tuple) else [results]
        contrasts = [item for item in items if isinstance(item, Contrast)]
        if len(contrasts) == len(items):
            labels = run_names([origin for item in contrasts for origin in (item.before, item.after)])[1::2]
    by_name = named(results, (Contrast,), "contrast", labels)
    wanted = {name: only("quantity", quantity, result.quantities) for name, result in by_name.items()}
    axis = {_axis_name(by_name[name], of) for name, of in wanted.items()}
    if len(axis) > 1:
        raise InputError(
            f"results differ in quantity or unit: {', '.join(sorted(axis))}; choose a quantity, or bring them to one unit"
        )
    lines = []
    for name, result in by_name.items():
        frame = result.mean_profile(wanted[name])
        for site, (columns, depth) in depth_lines(enumerate(result.sites), sites).items():
            line = frame.iloc[columns]
            lines.append((name, site, depth, line["mean"].to_numpy(), line["se"].to_numpy()))
    styles = line_styles([(name, site) for name, site, *_ in lines])
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        axes.axhline(0, color="0.4", linewidth=1, zorder=1)
        for (_, _, depth, mean, se), (style, label) in zip(lines, styles, strict=True):
            draw_course(axes, depth, mean, se if band else None, style=style, label=label)
        depth_axis(axes, [depth for _, _, depth, *_ in lines])
        axes.set_ylabel(axis.pop(), parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            add_legend(axes, own=ax is None)
    return axes


@steady
def contrast_map(
    result: Contrast,
    *,
    quantity: str | None = None,
    document: int | None = None,
    sites: Places | None = None,
    start: int = 0,
    max_tokens: int = 40,
    vmax: float | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Change of a quantity in one text, token by token (to the right) and layer by layer (upward).

    White is no change, orange has grown and purple has fallen; cells that have fallen by a tenth of the largest change or more
    carry a minus, for prints in grey. Cells without a value are grey. Tokens are written as in ``heatmap``.

    Args:
        result: a contrast.
        quantity: which of its quantities; None takes the only one.
        document: number of the text; None takes the only one.
        sites: short names to show, or single places, as in ``select``; None is all.
        start: position of the first token shown.
        max_tokens: show at most this many tokens.
        vmax: the change at the end of the colours, both ways; None is the largest one. Give one to maps that are compared.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; those of the colour bar are the last of their figure.

    Raises:
        InputError: several documents or quantities and none chosen, one that is not there, or no value from ``start`` on.
        InputTypeError: something that is no contrast.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.results.models.contrast import contrast
    >>> plain = tle.lens_entropy(tle.demo_model(), "import os\n", progress=False)
    >>> [label.get_text() for label in tle.plots.contrast_map(contrast(plain, plain)).get_xticklabels()]
    ['import', '␣os', '↵']
    """
    if not isinstance(result, Contrast):
        raise InputTypeError(f"result must be a Contrast; got {kind_of(result)}")
    of = only("quantity", quantity, result.quantities)
    whole = result.select(documents=only("document", document, result.documents), quantities=of, sites=sites)
    part = shown_part(whole, start, max_tokens)
    values = part.values(of).T.numpy()  # [site, token]
    if np.isnan(values).all():
        raise InputError(f"quantity: {of} has no value at the positions shown")
    largest = max(float(np.nanmax(np.abs(values))), 1e-9) if vmax is None else check_positive("vmax", vmax)
    axes = token_map(
        ax, part, np.ma.masked_invalid(values), title=map_title(whole, part), label=_axis_name(part, of), xlabel="Token read",
        cells=[["−" if value <= -MARKED_FROM * largest else "" for value in row] for row in values],
        width=width, cmap="PuOr_r", vmin=-largest, vmax=largest,
    )  # fmt: skip
    axes.set_facecolor("0.8")
    return axes


def _axis_name(result: Contrast, quantity: str) -> str:
    unit = result.unit_of(quantity)
    return f"Change in {quantity.replace('_', ' ')}{f' ({unit})' if unit else ''}"
