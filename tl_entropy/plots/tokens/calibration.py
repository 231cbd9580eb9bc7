"""Entropy calibration against the step of the generation: what own text costs a model, beside given text.

Refused: anything but results of ``entropy_calibration``, two units in one figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tl_entropy.errors import InputError, check_choice
from tl_entropy.plots.depth import draw_course, finish_courses
from tl_entropy.plots.style import NORMAL_95, Limits, Width, canvas, line_styles, named
from tl_entropy.results.tokens.calibration import EntropyCalibration
from tl_entropy.torch_state import steady

_SHOWN = {"own": "its own text", "given": "given text", "calibration": "own - given"}


@steady
def calibration(
    results: EntropyCalibration | Sequence[EntropyCalibration] | Mapping[str, EntropyCalibration],
    *,
    difference: bool = False,
    band: Literal["se"] | None = "se",
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Surprisal of a model's own text and of given text at every step, or their difference.

    Args:
        results: one result of ``entropy_calibration``, several, or a mapping from names to results.
        difference: draw own - given, whose bands are of pairs, in place of both.
        band: "se" shades ±1.96 standard errors over documents (nothing for a single document); None shades nothing.
        labels: names of several results in the legend; None takes the names of their models.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: results in different units, names that are missing or equal.
        InputTypeError: something that is no result of ``entropy_calibration``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.entropy_calibration(tle.demo_model(), tle.demo_texts(2), prompt_tokens=8, steps=4, progress=False)
    >>> [text.get_text() for text in tle.plots.calibration(result).get_legend().get_texts()]
    ['its own text', 'given text']
    """
    check_choice("band", band, ("se", None))
    by_name = named(results, (EntropyCalibration,), "entropy_calibration", labels)
    units = {result.unit for result in by_name.values()}
    if len(units) > 1:
        raise InputError("results are in nats and in bits; bring them to one unit with result.to('bits')")
    lines = []
    for name, result in by_name.items():
        profile = result.mean_profile()
        for quantity in ("calibration",) if difference else ("own", "given"):
            part = profile[profile["quantity"] == quantity]
            lines.append(((name, _SHOWN[quantity]), *(part[column].to_numpy() for column in ("step", "mean", "se"))))
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for (_, step, mean, se), (style, label) in zip(lines, line_styles([key for key, *_ in lines]), strict=True):
            draw_course(axes, step, mean, None if band is None else np.asarray(se), style=style, label=label, errors=NORMAL_95)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Step of the generation")
        axes.set_ylabel(f"{'Own less given surprisal' if difference else 'Surprisal'} ({units.pop()})")
        finish_courses(axes, [mean for _, _, mean, _ in lines], len(lines), own=ax is None)
    return axes
