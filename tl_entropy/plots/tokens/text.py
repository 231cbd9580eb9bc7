"""A text with a coloured box behind every token, for print.

The text is set in lines of monospaced type, 8 points high; a line ends before a space, so that tokens stay whole, and a break
of line in the text is marked ↵ in its token's box. Everything is drawn in points on axes without a frame, the colour bar below
the text. Scale and colours are those of the page (``token_parts``), on white: low values are pale, and the lightness of a
quantity that is never negative survives a grey print.

Matplotlib sets no emoji, and neither every script nor right to left: a character that none of its fonts has is drawn as □, and
tokens stand from left to right. Fonts are those of ``rcParams["font.monospace"]`` and ``rcParams["font.sans-serif"]``, in that
order. ``plots.tokens`` shows every text as it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import FuncNorm, ListedColormap, TwoSlopeNorm
from matplotlib.font_manager import FontProperties, findfont, get_font

from tl_entropy.errors import InputError, InputTypeError, check_choice
from tl_entropy.plots.cells import ink, map_title, shown_part
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.naming import wrapped
from tl_entropy.plots.style import Width, canvas, only, sized
from tl_entropy.plots.tokens.parts import OUTSIDE, colours, places, scale, text_pieces, ticks
from tl_entropy.results.tokens.rows import TokenRows
from tl_entropy.torch_state import steady

FONT = 8.0  # points
LINE = 13.0
_BOX = 11.0
_BAR = 30.0  # for the colour bar: a gap, the bar, its numbers
_TAB = "    "

Cell = tuple[int, str]
"""A character, and the row of its token."""


@steady
def token_text(
    result: TokenRows,
    *,
    of: str | None = None,
    document: int | None = None,
    start: int = 0,
    max_tokens: int = 200,
    width: Width = None,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a part of one document as text, with the value of a quantity as the colour behind each token.

    Args:
        result: a result with values of single tokens (``token_surprisal`` and others).
        of: the quantity; None is the first of the result. Ranks are counted from 0, on a scale of log(1 + rank).
        document: number of the text; None takes the only one.
        start: the first position to draw.
        max_tokens: how many tokens to draw at most.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches; None is 6.8.
        cmap: colour map of matplotlib, for quantities that are never negative; its lightest end stands for low values.
            Quantities of both signs go from blue to orange.
        vmin: low end of the scale; None is 0, or as far below 0 as ``vmax`` is above.
        vmax: high end of the scale; None is the greatest finite value drawn.
        ax: axes to draw on, which have to be high enough; None makes a figure.

    Returns:
        The axes, with data coordinates in points from their upper left corner.

    Raises:
        InputError: a quantity, document or position that is not there, several documents and none chosen, ends of the scale
            that make no scale, a width for axes that have one, or too little room.
        InputTypeError: something that is no such result, or a width or an end that is no number.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.token_surprisal(tle.demo_model(), "import os", progress=False)
    >>> [text.get_text() for text in token_text(result, max_tokens=2).texts]
    ['import', 'os', 'surprisal (nats)']
    """
    if not isinstance(result, TokenRows):
        raise InputTypeError(
            f"result must have values of single tokens, as token_surprisal returns them; got {kind_of(result)}"
        )
    (inches, _), _ = sized(ax, (6.8, 3.0), width)
    whole = result.select(documents=only("document", document, result.documents))
    part = shown_part(whole, start, max_tokens)
    quantities = part.columns()
    of = next(iter(quantities)) if of is None else of
    check_choice("of", of, quantities)
    values = quantities[of].values.double().numpy()
    norm = scale(of, values, vmin, vmax)
    map_ = ListedColormap(colours(cmap, 256, both_signs=isinstance(norm, TwoSlopeNorm)))
    with canvas(ax, (inches, 3.0)) as axes:
        axes.set_axis_off()
        axes.set_title(wrapped(map_title(whole, part), 72 * inches, 9), parse_math=False, loc="left", fontsize=9)
        wide, high = _room(axes)
        lines = _lines(_cells(whole, part), wide)
        needed = LINE * len(lines) + _BAR
        if ax is None:
            figure: Any = axes.figure
            figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + (needed - high) / 72)
            high = _room(axes)[1]
        elif needed > high:
            raise InputError(
                f"ax: the text needs {needed / 72:.2f} inches of height at this width, the axes have {high / 72:.2f}; draw "
                "fewer tokens (max_tokens) or make the axes higher"
            )
        axes.set(xlim=(0, wide), ylim=(-high, 0))
        place = places(norm, values)
        _draw(axes, lines, map_(np.nan_to_num(place)), np.isnan(place))
        unit = ", ".join(filter(None, [quantities[of].unit, "logarithmic" if isinstance(norm, FuncNorm) else ""]))
        _bar(axes, LINE * len(lines), wide, map_, ticks(norm, values), f"{of} ({unit})" if unit else of)
    return axes


def _room(axes: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, once the layout of the figure is settled."""
    axes.figure.figure.draw_without_rendering()  # the whole figure, where the axes are in a part of it
    box, points = axes.get_window_extent(), 72 / axes.figure.dpi
    return box.width * points, box.height * points


def _cells(whole: TokenRows, part: TokenRows) -> Iterator[Cell]:
    """The characters to set, those of the tokens and those between them; a line feed ends a line."""
    pieces = text_pieces(part, part.documents[0])
    first = int(part.position[0])
    # Plain text before the first row is a first token that nothing predicts; anything else was not asked for.
    if pieces[0][0] == OUTSIDE and (first > 1 or first > int(whole.position[0])):
        del pieces[0]
    for row, piece in pieces[:-1] if pieces[-1][0] == OUTSIDE else pieces:
        plain = "".join(map(_plain, piece.replace("\r\n", "\n"))) or "·"
        yield from ((row, c) for c in ("◌" if unicodedata.combining(plain[0]) else "") + plain)


def _plain(c: str) -> str:
    """A character as these fonts can show it."""
    category = unicodedata.category(c)
    if c == "\n":
        return "↵\n"
    if c == "\t":
        return _TAB
    if category in ("Cc", "Cs", "Zl", "Zp"):
        return c.encode("unicode_escape").decode()
    if category == "Cf":  # joins or turns what is beside it
        return ""
    if _advance(c) is not None:
        return c
    return " " if category == "Zs" else "" if category == "Mn" else "□"


def _lines(cells: Iterator[Cell], wide: float) -> list[list[Cell]]:
    """The characters line by line: words with the spaces before them, and longer ones than a line broken anywhere."""
    lines: list[list[Cell]] = [[]]
    used = 0.0
    for word in _words(cells):
        widths = [_advance(c) or 0.0 for _, c in word]
        if used and used + sum(widths) > wide:
            lines.append([])
            used = 0.0
        for cell, width in zip(word, widths, strict=True):
            if used + width > wide:
                lines.append([])
                used = 0.0
            if cell[1] == "\n":
                lines.append([])
                used = 0.0
            else:
                lines[-1].append(cell)
                used += width
    return lines if lines[-1] else lines[:-1]


def _words(cells: Iterator[Cell]) -> Iterator[list[Cell]]:
    word: list[Cell] = []
    for cell in cells:
        if word and (word[-1][1] == "\n" or (cell[1] == " " and word[-1][1] != " ")):
            yield word
            word = []
        word.append(cell)
    yield word


def _draw(axes: Axes, lines: Sequence[Sequence[Cell]], rgba: np.ndarray, missing: np.ndarray) -> None:
    """Every run of characters of one token on its box."""
    boxes, fills, families = [], [], [name for name, _ in _fonts(_names())]
    for i, line in enumerate(lines):
        baseline, x = -LINE * i - 0.5 * (LINE + 0.68 * FONT), 0.0
        bottom = -LINE * (i + 0.5) - 0.5 * _BOX
        for row, run in groupby(line, key=lambda cell: cell[0]):
            text = "".join(c for _, c in run)
            width = sum(_advance(c) or 0.0 for c in text)
            plain = row == OUTSIDE or missing[row]
            if not plain:
                boxes.append([(x, bottom), (x + width, bottom), (x + width, bottom + _BOX), (x, bottom + _BOX)])
                fills.append(rgba[row])
            words = text.lstrip(" ")
            indent = (len(text) - len(words)) * (_advance(" ") or 0.0)
            if words:
                axes.text(
                    x + indent, baseline, words, fontsize=FONT, family=families, va="baseline", parse_math=False,
                    color="black" if plain else ink(rgba[row]),
                )  # fmt: skip
            x += width
    axes.add_collection(PolyCollection(boxes, facecolors=fills, edgecolors="white", linewidths=0.6))


def _bar(axes: Axes, below: float, wide: float, map_: ListedColormap, numbers: list[tuple[float, str]], label: str) -> None:
    """The colour bar below the text, its numbers under it and its label to its right."""
    width, height, gap = 0.45 * wide, 8.0, 8.0
    bar = axes.inset_axes((1.0, -below - gap - height, width, height), transform=axes.transData)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=map_, aspect="auto", extent=(0, 1, 0, 1))
    bar.set_xticks([place for place, _ in numbers], [text for _, text in numbers], fontsize=7.5)
    bar.set_yticks([])
    bar.tick_params(length=2, pad=1.5)
    bar.spines[:].set_linewidth(0.5)
    ends = bar.get_xticklabels()
    ends[0].set_horizontalalignment("left")
    ends[-1].set_horizontalalignment("right")
    axes.text(width + 8, -below - gap - height / 2, label, fontsize=FONT, va="center_baseline", parse_math=False)


def _names() -> tuple[str, ...]:
    """Font families to look in, in this order."""
    return *mpl.rcParams["font.monospace"], *mpl.rcParams["font.sans-serif"]


def _advance(c: str) -> float | None:
    """How far a character takes the pen, in points; None where no font has it."""
    return 0.0 if c == "\n" else _measured(c, _names())


@cache
def _measured(c: str, names: tuple[str, ...]) -> float | None:
    for _, path in _fonts(names):
        font = get_font(path)
        if font.get_char_index(ord(c)):
            font.set_size(FONT, 72)
            return 0.0 if unicodedata.combining(c) else float(font.load_char(ord(c)).linearHoriAdvance) / 65536
    return None


@cache
def _fonts(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Name and file of each of these families that is installed."""
    found = []
    for name in dict.fromkeys(names):
        try:
            found.append((name, findfont(FontProperties(family=name), fallback_to_default=False)))
        except ValueError:
            continue
    return tuple(found)
