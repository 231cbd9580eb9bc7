"""A training as its monitor saw it: the mean entropy of each site, of the output, and the loss, against the step.

Depth is the colour, from dark at the first layer to light at the last; the output is black, and so is the loss, dashed, with
its band hatched. An output that is as certain as it should be lies on the loss, up to one thing: its entropy is a mean over all
positions, and counts each document's last, whose prediction no token of the document follows and so no loss is of.

Several trainings share a figure where they have the same sites: a dash for each, and losses in grey.

Refused: anything but histories of an ``EntropyMonitor``, fewer than two steps, sites that are not in them or differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.depth import depth_lines, draw_course
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import (
    DASHES,
    MARKERS,
    NORMAL_95,
    Limits,
    Width,
    canvas,
    evenly,
    from_zero,
    quantity,
)
from tl_entropy.results.models.monitor import EntropyHistory
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady

MOST_NAMED = 7
"""Sites in the legend, the output aside; of more, these are spread evenly over depth, and they alone have markers."""


@steady
def monitor(
    history: EntropyHistory | Mapping[str, EntropyHistory],
    *,
    sites: Places | None = None,
    loss: bool = True,
    log: bool = False,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean entropy against the step of the training, one line for each site, and the loss.

    Bands are ±1.96 standard errors over documents. The same documents are read at all steps, so that a line's steps differ less
    by chance than its bands suggest.

    Args:
        history: of an ``EntropyMonitor``; or a mapping from names to several, of the same sites and unit.
        sites: short names to draw, or single places, as in ``select``; None is all. The output is the last resid_post.
        loss: draw the loss, which is in the same unit; left out where no step has one (documents of single tokens).
        log: a logarithmic axis of steps, linear between 0 and 1.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on, with room for the legend above; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: fewer than two steps, a name that is not among the sites; of several histories, none, different sites or
            units, or sites of several kinds, which would need the dash as well.
        InputTypeError: no history.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.models.monitor import EntropyMonitor
    >>> watch = EntropyMonitor(tle.demo_model(), tle.demo_texts(1)[0][:500], sites="embed")
    >>> found = [watch(step) for step in range(2)]
    >>> [text.get_text() for text in monitor(watch.history).get_legend().get_texts()]
    ['embed', 'output', 'loss']
    """
    by_name = dict(history) if isinstance(history, Mapping) else {"": history}
    if not by_name:
        raise InputError("history is empty; give at least one history of an EntropyMonitor")
    for name, one in by_name.items():
        called = f"history[{name!r}]" if isinstance(history, Mapping) else "history"
        if not isinstance(one, EntropyHistory):
            raise InputTypeError(f"{called} must be that of an EntropyMonitor; got {kind_of(one)}")
        if len(one.steps) < 2:
            raise InputError(f"{called}: a course needs two steps or more; got {len(one.steps)}")
    first, *others = by_name.values()
    if any((other.sites, other.unit) != (first.sites, first.unit) for other in others):
        raise InputError(
            "history: several must have the same sites and unit; draw each alone, or bring them to one with to('bits')"
        )
    lines = depth_lines(enumerate(first.sites), sites)
    if others and len(lines) > 1:
        raise InputError(f"sites: a dash is a history here; choose one kind of {', '.join(lines)}")
    loss = loss and any(bool(one.loss.isfinite().any()) for one in by_name.values())
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for number, one in enumerate(by_name.values()):
            _draw(axes, one, lines, loss, dash=DASHES[number % len(DASHES)] if others else None, named=number == 0)
        if log:
            axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.margins(x=0.03)  # for the marks at both ends
        axes.set_xlabel("Training step")
        axes.set_ylabel(quantity([1.0], first.unit).replace("Entropy", "Entropy, loss" if loss else "Entropy"))
        from_zero(axes)
        axes.spines[["top", "right"]].set_visible(False)
        handles = axes.get_legend_handles_labels()[0]
        if others:
            for number, name in enumerate(by_name):
                handles.append(Line2D([], [], color="0.2", linestyle=DASHES[number % len(DASHES)], label=str(name)))
        add_legend(axes, own=ax is None, handles=handles)
    return axes


def _draw(axes: Axes, history: EntropyHistory, lines: Mapping[str, Any], loss: bool, *, dash: Any, named: bool) -> None:
    """The lines of one history, all with one ``dash`` where it is one of several; with entries in the legend if ``named``."""
    steps, output = history.steps.numpy(), len(history.sites) - 1
    inner = sorted(
        (depth, place, k)
        for k, (p, d) in enumerate(lines.values())
        for place, depth in zip(p, d, strict=True)
        if place != output
    )
    shown = evenly(len(inner), MOST_NAMED)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(1, len(inner))))
    dashes = [one for one in DASHES if one != "--"]  # which is the loss

    def draw(value: Any, se: Any, label: str, **style: Any) -> None:
        errors = None if se is None else se.numpy()
        draw_course(axes, steps, value.numpy(), errors, style={"marker": "", **style}, label=label if named else f"_{label}")

    for i, (_, place, k) in enumerate(inner):
        label, marker = (str(history.sites[place]), MARKERS[shown.index(i)]) if i in shown else ("_", "")
        style = {"color": colours[i], "linestyle": dash or dashes[k % len(dashes)], "marker": marker}
        draw(history.entropy[:, place], history.entropy_se[:, place], label, **style)
    if any(output in places for places, _ in lines.values()):
        draw(history.output, history.entropy_se[:, -1], "output", color="black", linestyle=dash or "-")
        axes.lines[-1].set_linewidth(2.5)
    if loss:
        draw(history.loss, None, "loss", color="0.55" if dash else "black", linestyle=dash or "--")
        low, high = (history.loss + sign * NORMAL_95 * history.loss_se for sign in (-1, 1))
        if bool(low.isfinite().any()):  # hatched, as in grey it would pass for that of the output
            axes.fill_between(steps, low, high, facecolor="none", edgecolor="0.5", hatch="/////", linewidth=0)
