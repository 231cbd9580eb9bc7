"""A training as its monitor saw it: the mean entropy of each site, of the output, and the loss, against the step.

Depth is the colour, from dark at the first layer to light at the last; the output is black, and so is the loss, dashed, with
its band hatched. An output that is as certain as it should be lies on the loss, up to one thing: its entropy is a mean over all
positions, and counts each document's last, whose prediction no token of the document follows and so no loss is of.

Refused: anything but the history of an ``EntropyMonitor``, fewer than two steps, and sites that are not in it.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.depth import depth_lines, draw_course
from tl_entropy.plots.style import DASHES, MARKERS, NORMAL_95, canvas, quantity
from tl_entropy.results.models.monitor import EntropyHistory
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady

MOST_NAMED = 7
"""Sites in the legend, the output aside; of more, these are spread evenly over depth, and they alone have markers."""


@steady
def monitor(
    history: EntropyHistory,
    *,
    sites: Places | None = None,
    loss: bool = True,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean entropy against the step of the training, one line for each site, and the loss.

    Bands are ±1.96 standard errors over documents. The same documents are read at all steps, so that a line's steps differ less
    by chance than its bands suggest.

    Args:
        history: of an ``EntropyMonitor``.
        sites: short names to draw, or single places, as in ``select``; None is all. The output is the last resid_post.
        loss: draw the loss, which is in the same unit; left out where no step has one (documents of single tokens).
        log: a logarithmic axis of steps, linear between 0 and 1.
        ax: axes to draw on, with room for the legend on their right; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: fewer than two steps, or a name that is not among the sites.
        InputTypeError: no history.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.models.monitor import EntropyMonitor
    >>> watch = EntropyMonitor(tle.demo_model(), tle.demo_texts(1)[0][:500], sites="embed")
    >>> found = [watch(step) for step in range(2)]
    >>> [text.get_text() for text in monitor(watch.history).get_legend().get_texts()]
    ['embed', 'output', 'loss']
    """
    if not isinstance(history, EntropyHistory):
        raise InputTypeError(f"history must be that of an EntropyMonitor; got {type(history).__name__}")
    if len(history.steps) < 2:
        raise InputError(f"history: a course needs two steps or more; got {len(history.steps)}")
    steps, unit = history.steps.numpy(), history.unit
    loss = loss and bool(history.loss.isfinite().any())
    lines = depth_lines(enumerate(history.sites), sites)
    output = len(history.sites) - 1
    inner = sorted(
        (depth, place, k)
        for k, (p, d) in enumerate(lines.values())
        for place, depth in zip(p, d, strict=True)
        if place != output
    )
    named = np.linspace(0, len(inner) - 1, MOST_NAMED).round().astype(int).tolist()
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(1, len(inner))))
    dashes = [dash for dash in DASHES if dash != "--"]  # which is the loss

    with canvas(ax, (4.8, 3.4)) as axes:

        def draw(value: Any, se: Any, label: str, **style: Any) -> None:
            errors = None if se is None else se.numpy()
            draw_course(axes, steps, value.numpy(), errors, style={"marker": "", **style}, label=label)

        for i, (_, place, k) in enumerate(inner):
            label, marker = (str(history.sites[place]), MARKERS[named.index(i)]) if i in named else ("_", "")
            style = {"color": colours[i], "linestyle": dashes[k % len(dashes)], "marker": marker}
            draw(history.entropy[:, place], history.entropy_se[:, place], label, **style)
        if any(output in places for places, _ in lines.values()):
            draw(history.output, history.entropy_se[:, -1], "output", color="black", linestyle="-")
            axes.lines[-1].set_linewidth(2.5)
        if loss:
            draw(history.loss, None, "loss", color="black", linestyle="--")
            low, high = (history.loss + sign * NORMAL_95 * history.loss_se for sign in (-1, 1))
            if bool(low.isfinite().any()):  # hatched, as in grey it would pass for that of the output
                axes.fill_between(steps, low, high, facecolor="none", edgecolor="0.5", hatch="/////", linewidth=0)
        if log:
            axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set_xlim(steps[0], steps[-1])
        axes.set_xlabel("Training step")
        axes.set_ylabel(quantity([1.0], unit).replace("Entropy", "Entropy, loss") if loss else quantity([1.0], unit))
        axes.autoscale_view(scalex=False)
        axes.set_ylim(bottom=0, auto=None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, handlelength=3, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes
