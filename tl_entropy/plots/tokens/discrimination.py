"""How well features tell labels apart: the area of each with its error, beside that of the best of them for shuffled labels.

A figure only reads a result of ``discriminate``.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputTypeError
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.style import NORMAL_95, Limits, Width, add_legend, canvas, evenly
from tl_entropy.results.tokens.features import Discrimination
from tl_entropy.torch_state import steady


@steady
def discrimination(result: Discrimination, *, ylim: Limits = None, width: Width = None, ax: Axes | None = None) -> Axes:
    """Area under the ROC curve of every feature, in the order of the result, with 95 % intervals over groups.

    Between the dashed lines lie the areas of the best feature in 95 % of shuffled labellings: what is inside tells nothing. The
    probe, where there is one, is a line of its own colour.

    Args:
        result: of ``discriminate``.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputTypeError: something that is no result of ``discriminate``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> found = tle.lens_entropy(tle.demo_model(), ["import os", "x = 1", "import re", "y = 2"], layers=[-1], progress=False)
    >>> axes = discrimination(tle.discriminate(tle.span_features(found), [False, True] * 2, probe=False, folds=2))
    >>> axes.get_ylabel()
    'AUROC'
    """
    if not isinstance(result, Discrimination):
        raise InputTypeError(f"result must be one of discriminate; got {kind_of(result)}")
    single = len(result.features) - (len(result.probe_null) > 0 or result.features[-1] == "probe")
    areas, errors = result.auroc.numpy(), np.nan_to_num(result.se.numpy()) * NORMAL_95
    with canvas(ax, (5.4, 3.4), width=width, ylim=ylim) as axes:
        places = np.arange(single)
        axes.errorbar(
            places, areas[:single], errors[:single], fmt="o", markersize=3.5, color="#31688e", linewidth=1, label="feature"
        )
        edge = float(result.null.quantile(0.95))
        for sign in (-1, 1):
            axes.axhline(
                0.5 + sign * edge, color="0.4", linestyle="--", linewidth=1, label="best by chance" if sign > 0 else None
            )
        axes.axhline(0.5, color="0.4", linewidth=0.8)
        if single < len(areas):
            axes.axhline(areas[-1], color="#d1603d", linestyle="-.", linewidth=1.5, label="probe, held out")
        shown = evenly(single, 6)
        axes.set_xticks(shown, [str(i) for i in shown])
        axes.set_xlabel("Feature, by number")
        axes.set_ylabel("AUROC")
        axes.spines[["top", "right"]].set_visible(False)
        add_legend(axes, own=ax is None)
    return axes
