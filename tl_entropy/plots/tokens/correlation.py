"""Two quantities of the same tokens against each other, with the least-squares line.

A figure only reads a result of ``token_correlation``. Neither slope nor R² says which of two models is right.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patheffects import Normal, Stroke

from tl_entropy.errors import InputTypeError, check_choice
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.naming import short_name
from tl_entropy.plots.style import Limits, Width, canvas, colour_bar
from tl_entropy.results.tokens.correlation import TokenCorrelation
from tl_entropy.torch_state import steady

MOST_POINTS = 5000
"""Tokens that are drawn as points; of more, hexagons show how many there are."""

_HEXAGONS = 45  # across


@steady
def token_correlation(
    result: TokenCorrelation,
    *,
    kind: Literal["auto", "scatter", "hexbin"] = "auto",
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Every token as a point, or how many there are in each hexagon, and the least-squares line through all of them.

    The line's slope and intercept with their standard errors over documents and R² stand above the axes. Where both are
    the same quantity, in one unit, a thin dotted line shows where they would be equal.

    Args:
        result: of ``token_correlation``.
        kind: "scatter" for points, "hexbin" for numbers of tokens by colour, on a logarithmic scale; "auto" is "hexbin" above
            5000 tokens.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: an unknown kind.
        InputTypeError: something that is no result of ``token_correlation``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.tokens.alignment import token_correlation as correlate
    >>> found = tle.token_surprisal(tle.demo_model(), "import os\n", progress=False)
    >>> axes = token_correlation(correlate(found, found, of=("entropy", "surprisal")))
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('Entropy (nats)', 'Surprisal (nats)')
    """
    if not isinstance(result, TokenCorrelation):
        raise InputTypeError(f"result must be one of token_correlation; got {kind_of(result)}")
    check_choice("kind", kind, ("auto", "scatter", "hexbin"))
    x, y = result.x.numpy(), result.y.numpy()
    if kind == "auto":
        kind = "hexbin" if len(x) > MOST_POINTS else "scatter"
    with canvas(ax, (4.8, 4.2), width=width, ylim=ylim) as axes:
        if kind == "hexbin":
            cells = axes.hexbin(x, y, gridsize=_HEXAGONS, mincnt=1, norm=LogNorm(), cmap="viridis_r", linewidths=0.1)
            colour_bar(axes, cells, "Tokens", aspect=25)
        else:
            size = float(np.clip(3000 / len(x), 4, 16))  # of many points, smaller ones
            axes.scatter(x, y, s=size, color="#31688e", alpha=0.4, linewidths=0)
        ends = np.array([x.min(), x.max()])
        [line] = axes.plot(
            ends, result.intercept + result.slope * ends, color="black", linewidth=1.6, label=_line(result), zorder=3
        )
        line.set_path_effects([Stroke(linewidth=3.2, foreground="white"), Normal()])  # apart from the darkest hexagons
        if result.units[0] == result.units[1] and result.quantities[0] == result.quantities[1]:
            axes.axline((0, 0), slope=1, color="black", linestyle=":", linewidth=0.8, label="y = x", zorder=2)
        axes.set_xlabel(_label(result, 0), parse_math=False)
        axes.set_ylabel(_label(result, 1), parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        # Above the axes, where it hides no token.
        above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": 2}
        for text in axes.legend(frameon=False, handlelength=1.4, columnspacing=1.2, **above).get_texts():
            text.set_parse_math(False)
    return axes


def _line(result: TokenCorrelation) -> str:
    """What the line says, on two lines of text."""
    slope = _with_error(result.slope, result.slope_error, result.slope_unit)
    intercept = _with_error(result.intercept, result.intercept_error, result.units[1])
    return f"slope {slope}, R² {result.r_squared:.2f}\nintercept {intercept}"


def _with_error(value: float, error: float, unit: str) -> str:
    """A number, to the digit that its error leaves, and its unit."""
    if not np.isfinite(error) or error <= 1e-6 * abs(value):  # none, or rounding
        return f"{value:.3g} {unit}".rstrip()
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f} {unit}".rstrip()


def _label(result: TokenCorrelation, axis: int) -> str:
    """The quantity of an axis, its model where there are two, and its unit."""
    name = re.sub(r"\b(kl|jsd)\b", lambda found: found[0].upper(), result.quantities[axis].replace("_", " "))
    shown = name[:1].upper() + name[1:]
    if result.models[0] != result.models[1]:
        shown += f" of {short_name(result.models[axis])}"
    return f"{shown} ({result.units[axis]})" if result.units[axis] else shown
