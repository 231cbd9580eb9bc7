"""Depth as an axis: which places form a line through the model, how deep each is, where the ticks are, and lines over it.

Depth is counted in blocks: l is the residual stream after block l, and sites inside that block lie between l - 1 and l.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import NORMAL_95, from_zero
from tl_entropy.results.positions import site_columns
from tl_entropy.sites import Site

# How far before the end of its block a site stands, in blocks; resid_pre is the end of the block before.
BEFORE_END = {
    "embed": 0.0, "resid_pre": 1.0, "attn_out": 0.75, "resid_mid": 0.5, "post": 0.375, "mlp_out": 0.25, "resid_post": 0.0
}  # fmt: skip
EMBED = 1.75  # half the width of its name, in sizes of the font


def depth_lines(places: Iterable[tuple[int, Site]], asked: Any) -> dict[str, tuple[list[int], np.ndarray]]:
    """For each name of the sites asked for (see ``site_columns``) its places, in order of depth, and their depths.

    The residual stream begins at the embedding, which stands alone where nothing else of the stream is asked for.

    >>> depth_lines(enumerate([Site("embed", -1), Site("resid_mid", 0)]), None)
    {'resid_mid': ([0, 1], array([-1. , -0.5]))}
    """
    there = list(places)
    there = [there[i] for i in site_columns([site for _, site in there], asked, None)]
    names = {site.name for _, site in there}
    stream = next((name for name in ("resid_post", "resid_mid", "resid_pre") if name in names), "embed")
    found: dict[str, list[tuple[float, int]]] = {}
    for place, site in there:
        line = found.setdefault(stream if site.name == "embed" else site.name, [])
        line.append((site.layer - BEFORE_END[site.name], place))
    ordered = {name: sorted(line) for name, line in found.items()}
    return {name: ([place for _, place in line], np.array([depth for depth, _ in line])) for name, line in ordered.items()}


def draw_course(
    axes: Axes,
    depth: np.ndarray,
    value: np.ndarray,
    se: np.ndarray | None,
    *,
    style: Mapping[str, Any],
    label: str,
    errors: float = NORMAL_95,
) -> None:
    """A line over depth with at most 16 markers, in a band of ± ``errors`` times ``se`` where that has any."""
    if se is not None and np.isfinite(se).any():
        half = errors * se
        axes.fill_between(depth, value - half, value + half, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(depth, value, **style, label=label, markersize=4.5, linewidth=1.5, markevery=max(1, len(depth) // 16))


def finish_courses(axes: Axes, values: Iterable[np.ndarray], lines: int, *, own: bool) -> None:
    """The value axis, with a line at 0 where a value is below it, and a legend of several lines."""
    if min(np.nanmin(value, initial=0.0) for value in values) < 0:
        axes.axhline(0, color="0.4", linewidth=1, zorder=1)
    from_zero(axes)
    axes.spines[["top", "right"]].set_visible(False)
    if lines > 1:
        add_legend(axes, own=own)


def depth_axis(axes: Axes, depths: Sequence[np.ndarray]) -> None:
    """Depth as the x axis: ticks at the ends of blocks, as many as have room, and short ones at sites inside blocks."""
    first, last = min(depth.min() for depth in depths), max(depth.max() for depth in depths)
    room = axes.get_window_extent().width * 72 / axes.figure.dpi / max(1.1 * (last - first), 1)  # of a layer, in points
    axes.set_xticks(*depth_ticks(depths, room / axes.xaxis.get_major_ticks(1)[0].label1.get_fontsize()))
    inside = sorted({place for depth in depths for place in depth.tolist() if place != round(place)})
    axes.set_xticks(inside if room > 8 else [], minor=True)
    axes.set_xlabel("Layer (between: sub-layers)" if inside else "Layer")


def depth_ticks(depths: Sequence[np.ndarray], room: float = math.inf) -> tuple[list[int], list[str]]:
    """A tick at the end of every block, or of every k-th where they would collide, and one at the embedding.

    ``room`` is what a layer has of the axis, in sizes of the font.
    """
    first = math.floor(min(depth.min() for depth in depths))
    last = math.ceil(max(depth.max() for depth in depths))
    wide = 0.35 * len(str(last)) + 0.25  # half a number and air, in sizes of the font
    step = max(1, math.ceil((last + 1 - max(first, 0)) / 12), math.ceil(2 * wide / room))
    blocks = [layer for layer in range(0, last + 1, step) if layer >= first and (step == 1 or first >= 0 or layer > 0)]
    if first >= 0:
        return blocks, [str(layer) for layer in blocks]
    free = [layer for layer in blocks if (layer + 1) * room >= EMBED + wide]
    return [-1, *free], ["embed", *map(str, free)]
