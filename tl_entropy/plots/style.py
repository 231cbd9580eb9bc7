"""What all figures share: the canvas, which results and parts are drawn, the names of quantities, and how lines differ.

Colours are of viridis, which the colour-blind can read and whose lightness survives a grey print; lines differ in dash and
marker as well. Nothing is set globally: the sizes below hold only while a figure of its own is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, InputTypeError, check_choice

# At 4.8 inches printed in a column of 3.4, the labels are 8 points high and the legend 6.5.
NEW_FIGURE = {
    "axes.labelsize": 11, "axes.titlesize": 10, "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 9,
}  # fmt: skip
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = "osD^vPX*"
NORMAL_95 = 1.96
"""Standard errors to either side of a value that an error bar or band covers."""


@contextmanager
def canvas(ax: Axes | None, size: tuple[float, float], **rc: Any) -> Iterator[Axes]:
    """The axes given, as they are, or those of a new figure of ``size`` inches with text that is legible in print."""
    if ax is not None:
        yield ax
        return
    # Outside the context: the first figure of a process starts the backend, and what that sets has to stay.
    figure = plt.figure(figsize=size, layout="constrained")
    with mpl.rc_context(NEW_FIGURE | rc):
        yield figure.subplots()


def named(
    results: Any, kinds: tuple[type, ...], source: str, labels: Sequence[str] | None = None, *, asking: str = "labels"
) -> dict[str, Any]:
    """Every result of ``source`` under its name in the legend: a mapping's, that of ``labels``, or that of its model."""
    if isinstance(results, Mapping):
        if labels is not None:
            raise InputError("labels: the names in the mapping already label the results; leave labels out")
        labels, items = [str(name) for name in results], list(results.values())
    else:
        items = list(results) if isinstance(results, list | tuple) else [results]
    if not items:
        raise InputError(f"results is empty; give at least one result of {source}")
    for item in items:
        if not isinstance(item, kinds):
            raise InputTypeError(f"results must be one or several results of {source}; got {type(item).__name__}")
    names = [item.provenance.model for item in items] if labels is None else list(labels)
    if len(names) != len(items) or len(set(names)) < len(names):
        raise InputError(f"{asking} must be {len(items)} different names, one for each result; got {names}")
    return dict(zip(names, items, strict=True))


def subset(argument: str, asked: Any, present: Iterable[Any]) -> list[Any]:
    """What was asked for, one or several, or all there is; what is not there is refused."""
    there = list(present)
    wanted = there if asked is None else [asked] if isinstance(asked, str | int | float) else list(asked)
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
    return present[0] if asked is None else asked


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
