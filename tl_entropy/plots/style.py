"""What all figures share: the canvas, which results and parts are drawn, the names of quantities, and how lines differ.

Colours are of viridis, which the colour-blind can read and whose lightness survives a grey print; lines differ in dash and
marker as well. Nothing is set globally: the sizes below hold only while a figure of its own is drawn.

An axis begins at 0 where what is drawn then takes up a third of it or more, and near what is drawn where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_number, listed, printable
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.naming import wrapped

# At 4.8 inches printed in a column of 3.4, the labels are 8 points high and the legend 6.5.
NEW_FIGURE: dict[str, float] = {
    "axes.labelsize": 11, "axes.titlesize": 10, "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 9,
}  # fmt: skip
# The same at the size at which it is printed.
PRINTED: dict[str, float] = {
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
}
WIDTHS = {"column": 3.4, "page": 7.0}
"""Inches of one column of a two-column paper, and of both."""
Width = Literal["column", "page"] | float | None
Limits = tuple[float | None, float | None] | None

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = "osD^vPX*"
NORMAL_95 = 1.96
"""Standard errors to either side of a value that an error bar or band covers."""


_BAND = 2 / 3  # of an axis from 0 that may be empty below what is drawn
_ROOM = 0.03  # of an axis, below a mark at 0


@contextmanager
def canvas(
    ax: Axes | None,
    size: tuple[float, float],
    *,
    width: Width = None,
    ylim: Limits = None,
    rc: Mapping[str, float] | None = None,
) -> Iterator[Axes]:
    """The axes given, or those of a new figure of ``size`` inches with text that is legible in print; in the end with ``ylim``.

    A new figure of another ``width`` ("column", "page" or inches) is for print at that size, with smaller text; a narrower one
    is as much less high.

    Raises:
        InputError: a width for axes that are given, a width or ends of an axis that can be none.
    """
    ends = _checked_limits(ylim)
    check_axes(ax)
    size, sizes = sized(ax, size, width)
    if ax is None:
        # Outside the context: the first figure of a process starts the backend, and what that sets has to stay.
        figure = plt.figure(figsize=size, layout="constrained")
        with mpl.rc_context(sizes | {name: min(value, sizes.get(name, value)) for name, value in (rc or {}).items()}):
            ax = figure.subplots()
            yield ax
    else:
        yield ax
    if ends is not None:
        ax.set_ylim(*ends)


def check_axes(ax: Any) -> None:
    """Raise InputTypeError for what is neither None nor matplotlib's axes."""
    if ax is not None and not isinstance(ax, Axes):
        raise InputTypeError(f"ax must be matplotlib's axes or None; got {type(ax).__name__}")


def sized(ax: Any, size: tuple[float, float], width: Width) -> tuple[tuple[float, float], dict[str, float]]:
    """Width and height of a new figure in inches, and the sizes of its text, as ``canvas`` says; ``ax`` has to be None then."""
    if width is None:
        return size, NEW_FIGURE
    if ax is not None:
        raise InputError("width is that of a new figure; leave it out for axes that are given")
    if isinstance(width, str):
        check_choice("width", width, WIDTHS)
        inches = WIDTHS[width]
    else:
        inches = check_number("width (in inches, or 'column' or 'page')", width, 1, 100)
    return (inches, size[1] * min(1.0, inches / size[0])), PRINTED


def _checked_limits(ylim: Any) -> Limits:
    """Two ends of an axis, low and high, either of which may be None; None for none."""
    if ylim is None:
        return None
    if not isinstance(ylim, Sequence) or isinstance(ylim, str) or len(ylim) != 2:
        raise InputTypeError(f"ylim must be two ends of the axis, such as (0, 8), either of which may be None; got {ylim!r}")
    low, high = (None if end is None else check_number("ylim", end) for end in ylim)
    if low is not None and high is not None and not low < high:
        raise InputError(f"ylim must rise from its low end to its high one; got {ylim!r}")
    return low, high


def colour_limits(low: float, high: float, vmin: float | None, vmax: float | None) -> tuple[float, float]:
    """Ends of a scale of colours for values from ``low`` to ``high``: those given, or as axes have them.

    Raises:
        InputError: ends that make no scale.
        InputTypeError: an end that is no number.

    >>> colour_limits(1.0, 7.0, None, None), colour_limits(6.0, 7.3, None, None), colour_limits(1.0, 7.0, None, 5)
    ((0.0, 7.0), (6.0, 7.3), (0.0, 5.0))
    """
    first, last = (None if end is None else check_number(name, end) for name, end in (("vmin", vmin), ("vmax", vmax)))
    if first is None:
        first = 0.0 if low <= _BAND * high or (last is not None and last <= low) else low
    if last is None:
        last = high if high > first else first + 1e-9
    if not first < last:
        raise InputError(f"vmin must be less than vmax; the colours would go from {first:g} to {last:g}")
    return first, last


def from_zero(axes: Axes, which: str = "y") -> None:
    """Let axes ("x", "y" or "xy") begin at 0, with room for a mark there, unless that leaves most of it empty.

    They go on following what is drawn on them later.
    """
    axes.autoscale_view(scalex="x" in which, scaley="y" in which)
    for name in which:
        low, high = getattr(axes.dataLim, f"interval{name}")
        if 0 <= low <= _BAND * high:
            start = -_ROOM * high if low < _ROOM * high else 0.0
            axes.set_xlim(left=start, auto=None) if name == "x" else axes.set_ylim(bottom=start, auto=None)


def colour_bar(axes: Axes, mesh: Any, label: str, *, aspect: float = 20, extend: str = "neither") -> Colorbar:
    """A bar of the colours of ``mesh`` beside axes."""
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=aspect, extend=extend)
    bar.outline.set_visible(False)
    bar.set_label(label, parse_math=False)
    return bar


def fit_label(bar: Colorbar, high: float) -> bool:
    """Set the label of a bar that is ``high`` points in as many lines as it takes; whether these are more than one."""
    label = bar.ax.yaxis.label
    label.set_text(wrapped(label.get_text(), high + 0.8 * float(label.get_fontsize()), float(label.get_fontsize())))
    return "\n" in label.get_text()


def error_bars(axes: Axes, at: np.ndarray, se: np.ndarray) -> list[np.ndarray]:
    """±1.96 standard errors both ways around points [point, (x, y)], where there are any; returns them as lines."""
    known = np.isfinite(se).all(1)
    if not known.any():
        return []
    half, (x, y) = NORMAL_95 * se[known], at[known].T
    axes.errorbar(x, y, half[:, 1], half[:, 0], fmt="none", ecolor="0.6", elinewidth=0.9, zorder=1.5)
    both = np.stack([at[known] - half, at[known] + half])  # [end, point, (x, y)]
    across = [np.stack([both[:, i, 0], [y[i]] * 2], axis=1) for i in range(len(x))]
    return across + [np.stack([[x[i]] * 2, both[:, i, 1]], axis=1) for i in range(len(x))]


def set_title(axes: Axes, title: str) -> None:
    """A title in as many lines as the width of the axes takes."""
    wide = axes.get_window_extent().width * 72 / axes.figure.dpi
    axes.set_title(wrapped(title, 1.1 * wide, float(axes.title.get_fontsize())), parse_math=False)


def named(
    results: Any, kinds: tuple[type, ...], source: str, labels: Sequence[str] | None = None, *, asking: str = "labels"
) -> dict[str, Any]:
    """Every result of ``source`` under its name in the legend: a mapping's, that of ``labels``, or that of its model."""
    labels = None if labels is None else listed("labels", labels, "names")
    if isinstance(results, Mapping):
        if labels is not None:
            raise InputError("labels: the names in the mapping already label the results; leave labels out")
        labels, items = [printable(str(name)) for name in results], list(results.values())
    else:
        items = list(results) if isinstance(results, list | tuple) else [results]
    if not items:
        raise InputError(f"results is empty; give at least one result of {source}")
    for item in items:
        if not isinstance(item, kinds):
            raise InputTypeError(f"results must be one or several results of {source}; got {kind_of(item)}")
    names = [item.provenance.model for item in items] if labels is None else [printable(str(label)) for label in labels]
    if len(names) != len(items) or len(set(names)) < len(names):
        raise InputError(f"{asking} must be {len(items)} different names, one for each result; got {names}")
    return dict(zip(names, items, strict=True))


def subset(argument: str, asked: Any, present: Iterable[Any]) -> list[Any]:
    """What was asked for, one or several, or all there is; what is not there is refused."""
    there = list(present)
    asked = asked.tolist() if hasattr(asked, "tolist") else asked  # of NumPy and torch
    wanted = there if asked is None else [asked] if isinstance(asked, str | int | float) else listed(argument, asked, "names")
    if not wanted:
        raise InputError(f"{argument} is empty; choose from {', '.join(map(str, there))}")
    for item in wanted:
        check_choice(argument, item, there)
    return wanted


def only(argument: str, asked: Any, present: Sequence[Any]) -> Any:
    """What was asked for (not looked up here), or the only one there is."""
    if asked is None and len(present) != 1:
        shown = ", ".join(map(str, present[:20])) + (", ..." if len(present) > 20 else "")
        raise InputError(f"{argument}: choose one of the {len(present)} in this result ({shown})")
    if asked is None:
        return present[0]
    return asked.tolist() if hasattr(asked, "tolist") else asked


def quantity(orders: Iterable[float], unit: str) -> str:
    """The label of an axis that shows entropies.

    >>> quantity([1.0], "nats"), quantity([2.0], "bits")
    ('Entropy (nats)', 'Rényi entropy of order 2 (bits)')
    """
    shown = list(orders)
    if len(shown) > 1:
        return f"Rényi entropy ({unit})"
    return f"Entropy ({unit})" if shown[0] == 1 else f"Rényi entropy of order {number(shown[0])} ({unit})"


def number(order: float) -> str:
    """A Rényi order as text."""
    return "∞" if math.isinf(order) else f"{order:g}"


def evenly(n: int, most: int) -> list[int]:
    """At most so many of 0 to n - 1, both ends among them.

    >>> evenly(3, 7), evenly(31, 4)
    ([0, 1, 2], [0, 10, 20, 30])
    """
    return list(range(n)) if n <= most else np.linspace(0, n - 1, most).round().astype(int).tolist()


def line_styles(keys: Sequence[tuple[str, ...]]) -> list[tuple[dict[str, Any], str]]:
    """A style for every line, and a label that tells it from the others.

    A line's key names what it shows, part by part; the label holds the parts that differ between lines. The first of these
    chooses the colour, the second the dash, the third the marker; where fewer parts differ, the first chooses what is left.
    """
    values = [list(dict.fromkeys(part)) for part in zip(*keys, strict=True)]
    differing = [i for i, part in enumerate(values) if len(part) > 1] or [0]
    by_colour, by_dash, by_marker = (differing[i] if i < len(differing) else differing[0] for i in range(3))
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(values[by_colour])))
    found = []
    for key in keys:
        colour, dash, marker = (values[i].index(key[i]) for i in (by_colour, by_dash, by_marker))
        style = {"color": colours[colour], "linestyle": DASHES[dash % len(DASHES)], "marker": MARKERS[marker % len(MARKERS)]}
        found.append((style, ", ".join(key[i] for i in differing)))
    return found
