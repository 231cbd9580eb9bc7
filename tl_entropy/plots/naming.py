"""Names in figures: beside points, each where it covers least or not at all where it would cover another; and long ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.transforms import Bbox

LONGEST_NAME = 24  # characters
AWAY = 6.0  # distance of a name from its point, in points
AIR = 2.0  # around a name, in points
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def name_points(
    axes: Axes, names: Sequence[tuple[float, float, str, bool]], strokes: Iterable[np.ndarray], taken: Iterable[Artist] = ()
) -> None:
    """Write each name (x, y, text, whether it has to be there) beside its point, the first ones with the first choice.

    Args:
        axes: with everything else already on them.
        names: a name that does not have to be there is left out where there is no free place.
        strokes: lines [point, 2] in the units of the axes, which a name should not cover.
        taken: what a name may not cover, such as other texts and the legend.
    """
    axes.figure.figure.draw_without_rendering()  # settles the layout
    scale = axes.figure.dpi / 72
    ink = np.concatenate([_dots(axes.transData.transform(np.asarray(stroke, dtype=float)), 2 * scale) for stroke in strokes])
    covered, inside = [artist.get_window_extent() for artist in taken], axes.get_window_extent()
    for x, y, name, needed in names:
        text = axes.annotate(
            name, (x, y), textcoords="offset points", xytext=(0, 0), ha="center", va="center",
            fontsize=mpl.rcParams["legend.fontsize"], parse_math=False,
        )  # fmt: skip
        text.set_in_layout(False)
        box = text.get_window_extent()
        best, cost = (0.0, 0.0), np.inf
        for right, up in DIRECTIONS:
            reach = AWAY * (1 if 0 in (right, up) else 0.75)
            shift = np.array([right * (reach * scale + box.width / 2), up * (reach * scale + box.height / 2)])
            there = box.translated(*shift)
            clash = any(there.overlaps(other) for other in covered) or not _within(there, inside)
            dots = ((ink >= np.subtract(there.min, AIR * scale)) & (ink <= np.add(there.max, AIR * scale))).all(1).sum()
            if (now := 1e6 * clash + dots) < cost:
                best, cost = tuple(shift / scale), now
        if cost > 0 and not needed:
            text.remove()
            continue
        text.xyann = best
        covered.append(text.get_window_extent())


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that is too long without the maker or folders that it begins with, as far as it takes, else without its middle.

    >>> short_name("EleutherAI/pythia-70m"), short_name("EleutherAI/pythia-1.4b-deduped")
    ('EleutherAI/pythia-70m', 'pythia-1.4b-deduped')
    >>> short_name("gpt2, ablate mlp_out.0, window=64")
    'gpt2, ablat…, window=64'
    """
    while len(name) > longest and (front := re.match(r"[^\s/]*/+(?=.)", name)):
        name = name[front.end() :]
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def wrapped(text: str, room: float, size: float) -> str:
    r"""A text in as few lines of ``room`` points at this size as it takes, a word that is longer without its middle.

    >>> wrapped("a title of five words", 80, 10), wrapped("Entropy of order 2 (bits)", 110, 10)
    ('a title of five\nwords', 'Entropy of order 2\n(bits)')
    """
    if _wide(text, size) <= room:
        return text
    front, bracket, back = text.rpartition(" (")
    if bracket and _wide(front, size) <= room:
        return f"{front}\n({back}"
    lines: list[str] = []
    for word in text.split():
        if lines and _wide(f"{lines[-1]} {word}", size) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(short_name(word, max(8, int(len(word) * room / _wide(word, size)))))
    return "\n".join(lines)


def _wide(text: str, size: float) -> float:
    """Width of a line of text in points, in the font of texts."""
    wide: float = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]
    return wide


def halving(n: int) -> list[int]:
    """The order in which to name 0 to n - 1: both ends, then the middle, then the middles of what is left.

    >>> halving(6)
    [0, 5, 2, 1, 3, 4]
    """
    order, gaps = list(range(n))[:: max(n - 1, 1)], [(0, n - 1)]
    while gaps:
        low, high = gaps.pop(0)
        middle = (low + high) // 2
        if low < middle < high:
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return order


def _within(box: Bbox, frame: Bbox) -> bool:
    return bool(np.all(box.min >= frame.min) and np.all(box.max <= frame.max))


def _dots(points: np.ndarray, every: float) -> np.ndarray:
    """Points along a line on the screen, at most ``every`` apart."""
    steps = np.maximum(1, np.ceil(np.abs(np.diff(points, axis=0)).max(1, initial=0) / every)).astype(int)
    pieces = [np.linspace(a, b, n + 1) for a, b, n in zip(points[:-1], points[1:], steps, strict=True)]
    return np.concatenate([points, *pieces])
