"""Quantities of predictions against depth: how confident each layer is, and how far from the frequencies of tokens.

A figure only reads a result of ``confidence`` or ``unigram_distance``; several results share one figure.

Refused: two units in one figure, quantities that a result does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes

from tl_entropy.errors import InputError, check_choice
from tl_entropy.plots.depth import depth_axis, depth_lines, draw_course, finish_courses
from tl_entropy.plots.style import NORMAL_95, Limits, Width, canvas, line_styles, named
from tl_entropy.results.base import chosen_from
from tl_entropy.results.tokens.site_values import Confidence, SiteMeans, UnigramDistance
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady

_AXES = {
    "self_certainty": "Self-certainty",
    "margin": "Margin of the top token",
    "top_k_confidence": "Confidence of the top k",
    "top_k_mass": "Probability of the top k",
    "z": "Log-probability above the mean (deviations)",
    "kurtosis": "Excess kurtosis of the logits",
    "unigram_kl": "KL(layer ‖ token frequencies)",
    "frequency_rank": "Frequency rank of the top token",
}

Values = Confidence | UnigramDistance | SiteMeans


@steady
def by_layer(
    results: Values | Sequence[Values] | Mapping[str, Values],
    *,
    quantity: str | None = None,
    sites: Places | None = None,
    band: Literal["se"] | None = "se",
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean of one quantity of the predictions against depth, one line for each result and site name.

    Tick l of the x axis is the residual stream after block l; sites inside that block stand between l - 1 and l.

    Args:
        results: one result of ``confidence`` or ``unigram_distance``, several, or a mapping from names to results.
        quantity: what to draw; None is the first of the (first) result.
        sites: short names to draw, or single places, as in ``select``; None is all.
        band: "se" shades ±1.96 standard errors over documents (nothing for a single document); None shades nothing.
        labels: names of several results in the legend; None takes the names of their models.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: results in different units or without tokens, a quantity or site that is not there, names that are missing
            or equal.
        InputTypeError: something that is no result of these functions.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.confidence(tle.demo_model(), "import os\n", sites="resid_post", progress=False)
    >>> tle.plots.by_layer(result).get_ylabel()
    'Self-certainty (nats)'
    """
    check_choice("band", band, ("se", None))
    by_name = named(results, (Confidence, UnigramDistance, SiteMeans), "confidence or unigram_distance", labels)
    first = next(iter(by_name.values()))
    quantity = first.measured[0] if quantity is None else quantity
    lines = []
    for name, result in by_name.items():
        [shown] = chosen_from("quantity", quantity, result.measured)
        frame = result.mean_profile(shown)
        for site, (columns, depth) in depth_lines(enumerate(result.sites), sites).items():
            part = frame.iloc[columns]
            lines.append(((name, site), depth, part["mean"].to_numpy(), part["se"].to_numpy(), frame["unit"].iloc[0]))
    if len({unit for *_, unit in lines}) > 1:
        raise InputError("results are in nats and in bits; bring them to one unit with result.to('bits')")
    unit = lines[0][-1]
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        styles = line_styles([key for key, *_ in lines])
        for (_, depth, mean, se, _), (style, label) in zip(lines, styles, strict=True):
            draw_course(axes, depth, mean, None if band is None else se, style=style, label=label, errors=NORMAL_95)
        depth_axis(axes, [depth for _, depth, *_ in lines])
        axes.set_ylabel(_AXES[quantity] + (f" ({unit})" if unit else ""))
        finish_courses(axes, [mean for _, _, mean, *_ in lines], len(lines), own=ax is None)
    return axes
