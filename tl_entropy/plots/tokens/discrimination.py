"""How well features tell labels apart: the area of each with its error, beside that of the best of them for shuffled labels; or
how many of the spans kept are still True, by how many are kept.

A figure only reads a result of ``discriminate``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputTypeError, check_choice
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import DASHES, NORMAL_95, Limits, Width, canvas, evenly, from_zero
from tl_entropy.results.tokens.features import Discrimination
from tl_entropy.torch_state import steady

_BEST = 3
"""Features whose risk is drawn, those with the least area."""


@steady
def discrimination(
    result: Discrimination,
    *,
    of: Literal["auroc", "risk"] = "auroc",
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    """Area under the ROC curve of every feature, in the order of the result, with 95 % intervals over groups; or risks.

    Between the dashed lines lie the areas of the best feature in 95 % of shuffled labellings: what is inside tells nothing. The
    probe, where there is one, is a line of its own colour.

    With ``of="risk"``: the share of True among the spans that look least like it, by how many of them are kept, of the three
    features with the lowest mean risk and of the probe. The dashed line is the share among all, which chance has everywhere.
    Three that were chosen for their risk look better than they are; ``p_any`` of the result knows how many there were.

    Args:
        result: of ``discriminate``.
        of: "auroc" or "risk".
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: another ``of``.
        InputTypeError: something that is no result of ``discriminate``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> found = tle.lens_entropy(tle.demo_model(), ["import os", "x = 1", "import re", "y = 2"], layers=[-1], progress=False)
    >>> tested = tle.discriminate(tle.span_features(found), [False, True] * 2, probe=False, folds=2)
    >>> discrimination(tested).get_ylabel(), discrimination(tested, of="risk").get_ylabel()
    ('AUROC', 'Share of True among them')
    """
    if not isinstance(result, Discrimination):
        raise InputTypeError(f"result must be one of discriminate; got {kind_of(result)}")
    check_choice("of", of, ("auroc", "risk"))
    single = len(result.features) - (len(result.probe_null) > 0 or result.features[-1] == "probe")
    with canvas(ax, (5.4, 3.4), width=width, ylim=ylim) as axes:
        (_areas if of == "auroc" else _risks)(axes, result, single)
        axes.spines[["top", "right"]].set_visible(False)
        add_legend(axes, own=ax is None)
    return axes


def _areas(axes: Axes, result: Discrimination, single: int) -> None:
    areas, errors = result.auroc.numpy(), np.nan_to_num(result.se.numpy()) * NORMAL_95
    axes.errorbar(
        np.arange(single),
        areas[:single],
        errors[:single],
        fmt="o",
        markersize=3.5,
        color="#31688e",
        linewidth=1,
        label="feature",
    )
    edge = float(result.null.quantile(0.95))
    for sign in (-1, 1):
        axes.axhline(0.5 + sign * edge, color="0.4", linestyle="--", linewidth=1, label="best by chance" if sign > 0 else None)
    axes.axhline(0.5, color="0.4", linewidth=0.8)
    if single < len(areas):
        axes.axhline(areas[-1], color="#d1603d", linestyle="-.", linewidth=1.5, label="probe, held out")
    shown = evenly(single, 6)
    axes.set_xticks(shown, [str(i) for i in shown])
    axes.set_xlabel("Feature, by number")
    axes.set_ylabel("AUROC")


def _risks(axes: Axes, result: Discrimination, single: int) -> None:
    best = result.aurc[:single].argsort(stable=True)[:_BEST].tolist()
    for place, feature in enumerate(best):
        colour = ("#31688e", "#35b779", "#443983")[place]
        axes.plot(
            result.coverages,
            result.risk[feature].numpy(),
            color=colour,
            linestyle=DASHES[place],
            label=result.features[feature],
        )
    if single < len(result.features):
        axes.plot(
            result.coverages,
            result.risk[-1].numpy(),
            color="#d1603d",
            linestyle=DASHES[3],
            linewidth=1.5,
            label="probe, held out",
        )
    axes.axhline(result.spans[1] / result.spans[0], color="0.4", linestyle="--", linewidth=1, label="all spans")
    axes.set_xlim(0, 1)
    from_zero(axes)
    axes.set_xlabel("Share of spans kept")
    axes.set_ylabel("Share of True among them")
