"""A map of tokens, layer by layer, and the text in it: whitespace made visible, room for everything, ink that stands out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from tl_entropy.errors import InputError, check_int, counted
from tl_entropy.plots.style import Width, canvas, colour_bar, fit_label, set_title
from tl_entropy.sites import Site

CELL_FONT = 7.0  # points
LONGEST_LABEL = 16  # characters
EDGED = 7.0  # points: of smaller cells, white edges would take too much
SIGNED = 4.5  # points: smaller cells of a map with signs carry none
MARKED_FROM = 0.1  # of the largest value of a map with signs; cells that are less far below 0 carry no minus
LINE = 1.35  # height of a line of text, in font sizes


def visible(token: str, longest: int) -> str:
    r"""A token as one line of at most ``longest`` characters, with its whitespace made visible.

    Bytes that are a part of a character, ``<0xE6><0x97>``, are written between brackets.

    >>> visible("\n        return", 16), visible(" supercalifragilistic", 8), visible("<0xE6><0x97>", 8)
    ('↵␣×8return', '␣superc…', '⟨E697⟩')
    """
    shown = token.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "→").replace(" ", "␣")
    shown = re.sub(r"([↵→␣])\1{3,}", lambda run: f"{run[1]}×{len(run[0])}", shown)
    shown = re.sub(r"(<0x[0-9A-F]{2}>)+", lambda run: f"⟨{re.sub('<0x|>', '', run[0])}⟩", shown)
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
    level = max(3.4, 1.5 + max(text, 0.17) * len(read)), max(2.8, margin + min(0.24 * n_rows, 8))
    upright = 1.5 + 0.19 * len(read), margin + text * n_rows
    return upright if text * len(read) > 6 and max(upright) < max(level) else level


def row_step(axes: Axes, n_rows: int) -> int:
    """How many rows a label needs for its height."""
    room = axes.get_window_extent().height / axes.figure.dpi
    return math.ceil(n_rows * 0.17 / room)


def cell_size(axes: Axes, columns: int, rows: int) -> tuple[float, float]:
    """Width and height of a cell in points, once the layout of the figure is settled."""
    figure = axes.figure.figure  # the whole figure, where the axes are in a part of it
    engine = figure.get_layout_engine()
    if engine is None:
        figure.draw_without_rendering()
    else:
        engine.execute(figure)
        axes.apply_aspect()
    box, points = axes.get_window_extent(), 72 / axes.figure.dpi
    return box.width * points / columns, box.height * points / rows


def write(axes: Axes, cells: Sequence[Sequence[str]], colours: np.ndarray, size: tuple[float, float]) -> None:
    """Write a text into each cell [row, column] of ``size`` points, along whichever side lets it be larger."""
    width, (wide, high) = widest(cells) / CELL_FONT, size
    level, upright = min(wide / width, high / LINE), min(high / width, wide / LINE)
    signs = max(len(text) for row in cells for text in row) < 2  # which mean something else when turned
    font, rotation = (level, 0) if signs or level >= min(upright, CELL_FONT) else (upright, 90)
    for i, row in enumerate(cells):
        for j, text in enumerate(row):
            axes.text(
                j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=min(font, CELL_FONT), rotation=rotation,
                color=ink(colours[i, j]), parse_math=False,
            )  # fmt: skip


def shown_part(whole: Any, start: int, max_tokens: int) -> Any:
    """Of a result of one document, the part from position ``start`` on, ``max_tokens`` at most.

    Raises:
        InputError: no token from ``start`` on, or a number out of range.
    """
    start = check_int("start", start, 0)
    max_tokens = check_int("max_tokens", max_tokens, 1)
    positions = whole.position[whole.position >= start][:max_tokens].tolist()
    if not positions:
        raise InputError(f"start={start} lies behind the last position counted in this document, {int(whole.position[-1])}")
    return whole.select(positions=positions)


def map_title(whole: Any, part: Any) -> str:
    """The document's name where it has one, and which part of it is shown where that is not all."""
    name: str = whole.names.get(int(part.document[0]), "")
    if part.n_tokens == whole.n_tokens:
        return name
    first, last = part.position[[0, -1]].tolist()
    return f"{name or 'Text'}: {part.n_tokens} of {counted(whole.n_tokens, 'token')}, positions {first} to {last}"


def token_map(
    ax: Axes | None,
    part: Any,
    values: np.ndarray,
    *,
    title: str,
    label: str,
    xlabel: str,
    cells: Sequence[Sequence[str]] | None = None,
    width: Width = None,
    **colours: Any,
) -> Axes:
    """Draw ``values`` [site, token] of ``part``, a result of one document, as colours, with a bar that is named ``label``.

    ``cells`` [site, token] are texts to write into the cells; ``colours`` (``cmap``, ``vmin``, ``vmax``) go to the mesh.
    """
    read = [visible(token, LONGEST_LABEL) for token in part.tokens()]
    wide, high = map_size(len(part.sites), read, cells)
    with canvas(ax, (wide, high + 0.2 * xlabel.count("\n")), width=width, rc={"xtick.labelsize": 8}) as axes:
        mesh = axes.pcolormesh(values, edgecolors="white", linewidth=0.4, **colours)
        bar = colour_bar(axes, mesh, label)
        axes.set_xticks(np.arange(len(read)) + 0.5, read, rotation=90, parse_math=False)
        rows = range(0, len(part.sites), row_step(axes, len(part.sites)))
        axes.set_yticks([row + 0.5 for row in rows], [_row_label(part.sites, row) for row in rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("Layer")
        set_title(axes, title)
        size = cell_size(axes, len(read), len(part.sites))
        if fit_label(bar, size[1] * len(part.sites)):
            size = cell_size(axes, len(read), len(part.sites))
        for tick in axes.get_xticklabels():
            tick.set_fontsize(min(tick.get_fontsize(), size[0] / LINE))
        if min(size) < EDGED:
            mesh.set_edgecolor("face")
        if cells is not None:
            write(axes, cells, mesh.to_rgba(values), size)
    return axes


def _row_label(sites: Sequence[Site], row: int) -> str:
    names = {site.name for site in sites} - {"embed"}
    return str(sites[row]) if len(names) > 1 or sites[row].name == "embed" else str(sites[row].layer)
