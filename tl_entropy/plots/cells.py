"""Text in a map of tokens: whitespace made visible, room for everything, ink that stands out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

CELL_FONT = 7.0  # points
LINE = 1.35  # height of a line of text, in font sizes


def visible(token: str, longest: int) -> str:
    r"""A token as one line of at most ``longest`` characters, with its whitespace made visible.

    >>> visible("\n        return", 16), visible(" supercalifragilistic", 8)
    ('↵␣×8return', '␣superc…')
    """
    shown = token.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "→").replace(" ", "␣")
    shown = re.sub(r"([↵→␣])\1{3,}", lambda run: f"{run[1]}×{len(run[0])}", shown)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def ink(colour: Sequence[float]) -> str:
    """Black or white, whichever stands out more on ``colour`` (WCAG 2.1, relative luminance)."""
    rgb = np.asarray(colour[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def widest(cells: Sequence[Sequence[str]]) -> float:
    """Width in points of the widest text at ``CELL_FONT``, with a little air to either side."""
    font = FontProperties(size=CELL_FONT)
    measure = TextToPath().get_text_width_height_descent
    return max(measure(text, font, ismath=False)[0] for text in {text for row in cells for text in row}) + 0.5 * CELL_FONT


def map_size(n_rows: int, read: Sequence[str], cells: Sequence[Sequence[str]] | None) -> tuple[float, float]:
    """Width and height in inches of a figure in which all text fits."""
    margin = 0.9 + 0.09 * max(map(len, read))  # title and x axis
    text = 0 if cells is None else widest(cells) / 72
    if cells is not None and text * len(read) > 6:  # then it has to stand upright
        return 1.5 + 0.19 * len(read), margin + text * n_rows
    return max(3.4, 1.5 + max(text, 0.17) * len(read)), margin + min(0.24 * n_rows, 8)


def row_step(axes: Axes, n_rows: int) -> int:
    """How many rows a label needs for its height."""
    room = axes.get_window_extent().height / axes.figure.dpi
    return math.ceil(n_rows * 0.17 / room)


def cell_size(axes: Axes, columns: int, rows: int) -> tuple[float, float]:
    """Width and height of a cell in points, once the layout of the figure is settled."""
    axes.figure.figure.draw_without_rendering()  # the whole figure, where the axes are in a part of it
    box, points = axes.get_window_extent(), 72 / axes.figure.dpi
    return box.width * points / columns, box.height * points / rows


def write(axes: Axes, cells: Sequence[Sequence[str]], colours: np.ndarray, size: tuple[float, float]) -> None:
    """Write a text into each cell [row, column] of ``size`` points, along whichever side lets it be larger."""
    width, (wide, high) = widest(cells) / CELL_FONT, size
    level, upright = min(wide / width, high / LINE), min(high / width, wide / LINE)
    font, rotation = (level, 0) if level >= min(upright, CELL_FONT) else (upright, 90)
    for i, row in enumerate(cells):
        for j, text in enumerate(row):
            axes.text(
                j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=min(font, CELL_FONT), rotation=rotation,
                color=ink(colours[i, j]), parse_math=False,
            )  # fmt: skip
