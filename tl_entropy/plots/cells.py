"""Text in the cells of a map: tokens made visible, sized to fit, in ink that stands out."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

CELL_FONT = 7.0  # points
CHARACTER = 0.65  # width of a character, in font sizes


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


def text_width(cells: Sequence[Sequence[str]]) -> float:
    """Width of the longest text with a little air, in font sizes."""
    return CHARACTER * max(len(text) for row in cells for text in row) + 0.6


def write(axes: Axes, cells: Sequence[Sequence[str]], colours: np.ndarray) -> None:
    """Write a text into each cell, along whichever side lets it be larger."""
    axes.figure.draw_without_rendering()  # settles the layout, and with it the size of a cell
    box = axes.get_window_extent()
    points = 72 / axes.figure.dpi
    wide, high = box.width * points / len(cells[0]), box.height * points / len(cells)
    width = text_width(cells)
    level, upright = min(wide / width, high / 1.3), min(high / width, wide / 1.3)
    size, rotation = (level, 0) if level >= min(upright, CELL_FONT) else (upright, 90)
    for i, row in enumerate(cells):
        for j, text in enumerate(row):
            axes.text(
                j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=min(size, CELL_FONT), rotation=rotation,
                color=ink(colours[i, j]), parse_math=False,
            )  # fmt: skip
