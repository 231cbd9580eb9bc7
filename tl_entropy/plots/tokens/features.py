"""What features of spans are like: the middle half of each, of spans that are True and False where labels are given.

A figure only reads a result of ``span_features``; whether the two are told apart is asked by ``discriminate``.

Refused: features in several units in one figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import Limits, Width, canvas, evenly
from tl_entropy.results.tokens.features import SpanFeatures, truths
from tl_entropy.torch_state import steady

_COLOURS = {True: "#d1603d", False: "#31688e"}
_MARKERS = {True: "s", False: "o"}


@steady
def features(
    result: SpanFeatures,
    labels: Sequence[bool] | Any = None,
    *,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    """Median and middle half of the spans' values of every feature, in the order of the result.

    Args:
        result: of ``span_features``.
        labels: as ``discriminate`` takes them: one for each span; those that are True are drawn beside the others.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes. Spans without a value of a feature do not count for it.

    Raises:
        InputError: features in several units, none of which has a value, or labels of another number.
        InputTypeError: something that is no result of ``span_features``, or labels that are no truth values.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> found = tle.lens_entropy(tle.demo_model(), ["import os", "x = 1", "import re"], layers=[-1], progress=False)
    >>> tle.plots.features(tle.span_features(found), [False, True, False]).get_ylabel()
    'Value (nats)'
    """
    if not isinstance(result, SpanFeatures):
        raise InputTypeError(f"result must be one of span_features; got {kind_of(result)}")
    if len(set(result.units)) > 1:
        shown = ", ".join(unit or "no unit" for unit in dict.fromkeys(result.units))
        raise InputError(f"result has features in {shown}; choose those of one with result.select(...)")
    if not bool(result.values.isfinite().any()):
        raise InputError("result has no span with a finite value; nothing can be drawn")
    values = result.values.numpy()
    parts = {False: values} if labels is None else {}
    if labels is not None:
        given = truths(result, labels).numpy()
        parts = {truth: values[given == truth] for truth in (True, False) if (given == truth).any()}
    places = np.arange(len(result.features))
    with canvas(ax, (5.4, 3.4), width=width, ylim=ylim) as axes:
        for truth, part in parts.items():
            low, middle, high = (_quantile(part, share) for share in (0.25, 0.5, 0.75))
            shift = 0.0 if len(parts) == 1 else 0.18 if truth else -0.18
            colour, name = _COLOURS[truth], str(truth) if labels is not None else None
            axes.vlines(places + shift, low, high, color=colour, linewidth=1)
            axes.plot(places + shift, middle, _MARKERS[truth], color=colour, markersize=3.5, label=name)
        ticks = evenly(len(places), 6)
        axes.set_xticks(ticks, [str(i) for i in ticks])
        axes.set_xlabel("Feature, by number")
        axes.set_ylabel(f"Value ({result.units[0]})" if result.units[0] else "Value")
        axes.spines[["top", "right"]].set_visible(False)
        if labels is not None:
            add_legend(axes, own=ax is None)
    return axes


def _quantile(part: np.ndarray, share: float) -> np.ndarray:
    """[feature] of the spans that have a value; NaN where none has."""
    known = [column[~np.isnan(column)] for column in part.T]
    return np.array([np.quantile(column, share) if len(column) else np.nan for column in known])
