"""Soft entropy and mutual information in the course of training, or against any other number that several results differ in.

Refused: results that were not measured at the same places, or in different units; a label set left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, InputTypeError, check_choice
from tl_entropy.plots.depth import depth_lines
from tl_entropy.plots.soft_values import ALIKE, axis_name, means, reason, results_by_name
from tl_entropy.plots.style import NORMAL_95, canvas, line_styles, only
from tl_entropy.results import SoftInformation
from tl_entropy.results.information.soft import QUANTITIES, Quantity
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady


@steady
def course(
    results: Mapping[float, SoftInformation],
    *,
    of: Quantity = "information",
    label: str | None = None,
    sites: Places | None = None,
    band: Literal["se"] | None = "se",
    xlabel: str = "Training step",
    log: bool = True,
    ax: Axes | None = None,
) -> Axes:
    r"""A quantity of soft information against the step of the training, one line for each site.

    Args:
        results: a mapping from steps to results, all of the same places. Heads are not drawn.
        of: what to draw: information, share, entropy, efficiency, plug_in, null, ceiling, regularity, corrected_ceiling, lower,
            fold_jackknife, chance_adjusted.
        label: the label set; None takes the only one. H(Z) is that of the positions that have the label.
        sites: short names to draw, or single places, as in ``select``; None is all.
        band: "se" shades ±1.96 standard errors over documents and anchors; None shades nothing.
        xlabel: what the keys of ``results`` are.
        log: a logarithmic axis, linear between 0 and 1.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: fewer than two results, different places, units or estimators, a label set left open, or no value at all.
        InputTypeError: no mapping from numbers to results of ``soft_information``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> texts = [text[:600] for text in tle.demo_texts(2)]
    >>> result = tle.soft_information(tle.demo_model(), texts, labels="token", layers=[0], progress=False)
    >>> [text.get_text() for text in tle.plots.course({0: result, 10: result}).get_legend().get_texts()]
    ['embed', 'resid_post.0']
    """
    check_choice("of", of, QUANTITIES)
    check_choice("band", band, ("se", None))
    if not isinstance(results, Mapping) or not all(isinstance(step, Real) for step in results):
        raise InputTypeError("results must be a mapping from numbers, such as training steps, to results")
    if len(results) < 2:
        raise InputError(f"results: a course needs two steps or more; got {len(results)}")
    steps = sorted(results)
    by_step = list(results_by_name({str(step): results[step] for step in steps}, of).values())
    first = by_step[0]
    label = only("label", label, first.labels)
    if any((r.sites, r.heads) != (first.sites, first.heads) or label not in r.labels for r in by_step):
        raise InputError(
            f"results must all have the same sites and heads, and the label set {label!r}; select(...) narrows them"
        )
    stream = [(i, site) for i, (site, head) in enumerate(zip(first.sites, first.heads, strict=True)) if head < 0]
    places = sorted((first.sites[i].depth, i) for rows, _ in depth_lines(stream, sites).values() for i in rows)
    found = [means(result.select(labels=label), of) for result in by_step]
    values, errors = (np.stack([pair[k][:, 0] for pair in found]) for k in (0, 1))  # [step, place]
    if np.isnan(values).all():
        raise InputError(f"of={of!r}: no value to draw; {reason(first)}")
    styles = line_styles([(str(first.sites[i]),) for _, i in places])
    with canvas(ax, (4.8, 3.4)) as axes:
        for (_, i), (style, name) in zip(places, styles, strict=True):
            if band and np.isfinite(errors[:, i]).any():
                half = NORMAL_95 * errors[:, i]
                axes.fill_between(steps, values[:, i] - half, values[:, i] + half, color=style["color"], alpha=0.2, linewidth=0)
            axes.plot(steps, values[:, i], **style, label=name, markersize=3.5, linewidth=1.5)
        if log:
            axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set_xlim(steps[0], steps[-1])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(axis_name(of, first.unit, label if of not in ALIKE else None), parse_math=False)
        axes.autoscale_view(scalex=False)
        if axes.dataLim.y0 >= 0:
            axes.set_ylim(bottom=0, auto=None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, handlelength=3)
    return axes
