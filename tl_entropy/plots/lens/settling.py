"""By which layer tokens have settled, and which of them are late: a figure of the deep-thinking ratio.

Refused: results without a Jensen-Shannon divergence to the output, a threshold of another than a summary was measured with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from tl_entropy.errors import InputError
from tl_entropy.plots.depth import BEFORE_END
from tl_entropy.plots.lens.predictions import Divergence, Line, draw, finish
from tl_entropy.plots.style import NORMAL_95, Limits, Width, canvas, named
from tl_entropy.results import DivergenceSummary, LayerDivergence
from tl_entropy.results.base import Unit
from tl_entropy.results.lens.settling import deep_columns
from tl_entropy.torch_state import steady


@steady
def settling(
    results: Divergence | Sequence[Divergence] | Mapping[str, Divergence],
    *,
    threshold: float = 0.5,
    unit: Unit = "bits",
    running_minimum: bool = True,
    rho: float | None = 0.85,
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Share of tokens that have settled by each layer: whose distribution has come as near to the output as the threshold.

    What the curve still lacks at the dashed line is the deep-thinking ratio: tokens that settle at layer ⌈ρ·L⌉ or after it.

    Args:
        results: one result of ``layer_divergence`` with the metric jsd, several, or a mapping from names to results; a summary
            has to be measured with the same threshold.
        threshold: as in ``LayerDivergence.settled``.
        unit: that of ``threshold``, which the axis says.
        running_minimum: as in ``LayerDivergence.settled``.
        rho: the share of the depth from which on a token is deep; None draws no line. Results of several depths have several.
        labels: names of several results in the legend; None takes the names of their models.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; bands are ±1.96 standard errors over documents.

    Raises:
        InputError: as ``LayerDivergence.settled``; a summary with another threshold or none.
        InputTypeError: something that is no result of ``layer_divergence``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.layer_divergence(tle.demo_model(), "import os\n", metrics="jsd", progress=False)
    >>> tle.plots.settling(result).get_ylabel()
    'Share settled (JSD ≤ 0.5 bits)'
    """
    by_name = named(results, (LayerDivergence, DivergenceSummary), "layer_divergence", labels)
    lines, deep = [], set()
    for name, result in by_name.items():
        frame = _profile(result, threshold, unit, running_minimum)
        depth = np.array([row.layer - BEFORE_END[row.site] for row in frame.itertuples()])
        order = depth.argsort(kind="stable")
        lines.append(Line((name,), depth[order], frame["mean"].to_numpy()[order], NORMAL_95 * frame["se"].to_numpy()[order]))
        if rho is not None:
            deep.add(deep_columns(result.sites, rho, "rho")[0] - 1)
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        draw(axes, lines, log=False)
        for i, layer in enumerate(sorted(deep)):  # between the last layer that is not deep and the first that is
            named_once = f"deep from here on (ρ = {rho:g})" if i == 0 else None
            axes.axvline(layer - 0.5, color="0.4", linestyle=(0, (6, 4)), linewidth=1, label=named_once)
        axes.set_ylabel(f"Share settled (JSD ≤ {threshold:g} {unit})")
        finish(axes, share=True, log=False, legend=len(lines) > 1 or bool(deep), own=ax is None)
    return axes


def _profile(result: Divergence, threshold: float, unit: Unit, running_minimum: bool) -> pd.DataFrame:
    """Site, layer, mean and se of the share that has settled by each state of the residual stream."""
    if isinstance(result, LayerDivergence):
        return result.settled_profile(threshold, unit=unit, running_minimum=running_minimum)
    measured = tuple(result.provenance.settings.get("settled", ()))
    if measured != (threshold, unit) or not running_minimum:
        known = f"settled={measured}" if measured else "no threshold"
        raise InputError(
            f"threshold: this summary was measured with {known}, by the running minimum, and {threshold:g} {unit} is asked "
            "for; measure with that, or with keep='positions'"
        )
    return result.mean_profile("settled")
