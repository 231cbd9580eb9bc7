"""Legends: among the lines where they are small and hide none, else above; long ones share their entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from tl_entropy.plots.naming import short_name

MOST_INSIDE = 4
"""Entries of a legend that stands among the lines."""
MOST_ONE_BY_ONE = 8
"""Lines of which each has an entry of its own where they show all of several results."""
LONGEST_PART = 28  # characters of a part of a long entry


def add_legend(axes: Axes, *, own: bool, inside: bool = True, handles: Sequence[Any] | None = None, **options: Any) -> Legend:
    """A legend among the lines, if ``inside``, where it is small and hides none; else above: an ``own`` figure grows for it."""
    handles = _shared_entries(*axes.get_legend_handles_labels()) if handles is None else handles
    given = {} if handles is None else {"handles": handles}
    options = {"frameon": False, "handlelength": 3, "title_fontsize": mpl.rcParams["legend.fontsize"], **options}

    def drawn(**more: Any) -> Legend:
        legend = axes.legend(**given, **options, **more)
        for text in legend.get_texts():
            text.set_parse_math(False)
            text.set_text(short_entry(text.get_text()))
        return legend

    legend = drawn()
    figure: Any = axes.figure.figure
    box, frame = _size(legend), axes.get_window_extent()
    entries = len(legend.get_texts())
    small = entries <= MOST_INSIDE and box[0] <= 0.6 * frame.width and box[1] <= 0.5 * frame.height
    if inside and small and not _hides(legend, axes):
        return legend
    across = max(1, min(entries, int(frame.width / box[0])))
    down = math.ceil(entries / across)
    # Above the axes' title, where they have one.
    title = axes.get_title()
    raised = 1.0 + (1.6 * float(axes.title.get_fontsize()) * figure.dpi / 72 / frame.height if title else 0.0)
    legend = drawn(loc="lower center", bbox_to_anchor=(0.5, raised), ncols=math.ceil(entries / down))
    if own:
        figure.set_figheight(figure.get_figheight() + _size(legend)[1] / figure.dpi)
    return legend


def _shared_entries(lines: Sequence[Any], labels: Sequence[str]) -> list[Line2D] | None:
    """Of many lines that cross results with what is shown of them: an entry for each colour, and one for each dash.

    None where they are few, or no such grid.
    """
    if len(lines) <= MOST_ONE_BY_ONE or not all(isinstance(line, Line2D) for line in lines):
        return None
    pairs = [label.rpartition(", ")[::2] for label in labels]
    grid = dict(zip(pairs, lines, strict=True))
    results, shown = (dict.fromkeys(part) for part in zip(*pairs, strict=True))
    if len(grid) < len(lines) or len(lines) < len(results) * len(shown) or min(len(results), len(shown)) < 2:
        return None
    first = {result: grid[result, next(iter(shown))] for result in results}
    dashes = {name: grid[next(iter(results)), name].get_linestyle() for name in shown}
    own = {pair: (str(line.get_color()), line.get_marker(), line.get_linestyle()) for pair, line in grid.items()}
    crossed = {(a, b): (str(first[a].get_color()), first[a].get_marker(), dashes[b]) for a in results for b in shown}
    if own != crossed or len(set(dashes.values())) < len(shown):
        return None
    entries = [
        Line2D([], [], color=line.get_color(), marker=line.get_marker(), markersize=line.get_markersize(), label=result)
        for result, line in first.items()
    ]
    return entries + [Line2D([], [], color="0.3", linestyle=dash, label=name) for name, dash in dashes.items()]


def _hides(legend: Legend, axes: Axes) -> bool:
    """Whether a line, an error bar among them, runs through the place that was found for a legend."""
    place = legend.get_window_extent()
    paths = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    for bars in axes.collections:
        if isinstance(bars, LineCollection):
            paths += [path.transformed(bars.get_transform()) for path in bars.get_paths()]
    return any(path.intersects_bbox(place, filled=False) for path in paths)


def short_entry(text: str) -> str:
    """What a legend says, its parts shortened where they are long."""
    return ", ".join(short_name(part, LONGEST_PART) for part in text.split(", "))


def _size(legend: Legend) -> tuple[float, float]:
    """Width and height of a legend in pixels."""
    box = legend.get_window_extent()
    return box.width, box.height
