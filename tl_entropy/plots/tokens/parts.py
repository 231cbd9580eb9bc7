"""What the page and the figure of a text share: the text in pieces, scales of quantities, and colours to read text on.

A quantity that is never negative is drawn from 0 to its largest finite value, one of both signs from -m to m around 0; a rank
grows by powers, so that its scale is that of log(1 + rank). Low values have nearly the colour of the page and high ones stand
out from it, on light pages and on dark ones: the end of the colour map that is nearest to the page is the low one. Text is
black or white, whichever stands out more, which is at least 4.5 to 1 on any colour (WCAG 2.1).

Refused: ends of a scale that are no numbers or the wrong way round; colour maps that matplotlib does not know.
"""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.colors import FuncNorm, Normalize, TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from tl_entropy.errors import InputError, check_number
from tl_entropy.plots.lens.predictions import is_rank
from tl_entropy.results.tokens.rows import TokenRows

PAGE = {False: (1.0, 1.0, 1.0), True: (0.078, 0.090, 0.110)}
"""The page's own colour; True is the dark one."""

_ENDS = {False: ((0.08, 0.33, 0.65), (0.72, 0.30, 0.00)), True: ((0.42, 0.73, 1.00), (1.00, 0.66, 0.30))}
"""Blue and orange, for the ends of both signs."""

OUTSIDE = -1
"""In place of a row: text between the tokens of a result."""


def text_pieces(result: TokenRows, document: int) -> list[tuple[int, str]]:
    """The text of a document as (row, piece) in its order; joined, the pieces are the text.

    A character that several tokens share is in the piece of the first, and those of the others may be empty. Text between the
    tokens is of the row ``OUTSIDE``. Where the text is not known, the pieces are the tokens decoded by themselves, with "…"
    where positions are left out.
    """
    rows = (result.document == document).nonzero()[:, 0].tolist()
    spans = result.span[rows].tolist()
    found: list[tuple[int, str]] = []
    if document not in result.texts or any(start < 0 for start, _ in spans):
        positions, ids, next_ = result.position[rows].tolist(), result.token[rows].tolist(), None
        for row, position, token in zip(rows, positions, (result.strings[i] for i in ids), strict=True):
            found += [(OUTSIDE, " … ")] if next_ is not None and position != next_ else []
            found.append((row, token))
            next_ = position + 1
        return found
    text, shown = result.texts[document], 0
    for row, (start, end) in zip(rows, spans, strict=True):
        found += [(OUTSIDE, text[shown:start])] if start > shown else []
        found.append((row, text[max(start, shown) : end]))
        shown = max(shown, end)
    return [*found, (OUTSIDE, text[shown:])] if shown < len(text) else found


def scale(name: str, values: np.ndarray, vmin: float | None = None, vmax: float | None = None) -> Normalize:
    """Where values of a quantity lie from 0 to 1: linear, logarithmic (``FuncNorm``) or around 0 (``TwoSlopeNorm``).

    >>> type(scale("excess", np.array([-2.0, 1.0]))).__name__, scale("surprisal", np.array([1.0, 4.0, np.inf])).vmax
    ('TwoSlopeNorm', 4.0)
    """
    low, high = (None if end is None else check_number(argument, end) for argument, end in (("vmin", vmin), ("vmax", vmax)))
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if least < 0:
        widest = max(-least, most)
        low = -(widest if high is None or high <= 0 else high) if low is None else low
        high = (widest if low >= 0 else -low) if high is None else high
    low = 0.0 if low is None else low
    high = (most if most > low else low + 1.0) if high is None else high
    if not low < high:
        raise InputError(f"vmin must be less than vmax; the scale of {name} would go from {low:g} to {high:g}")
    if is_rank(name) and low >= 0:
        return FuncNorm((np.log1p, np.expm1), low, high)
    return TwoSlopeNorm(0.0, low, high) if low < 0 < high else Normalize(low, high)


def places(norm: Normalize, values: np.ndarray) -> np.ndarray:
    """Where on the scale the values are, from 0 to 1; what lies beyond is at its end, and NaN stays NaN."""
    return np.clip(np.ma.filled(np.ma.asarray(norm(values), dtype=float), np.nan), 0.0, 1.0)


def ticks(norm: Normalize, values: np.ndarray) -> list[tuple[float, str]]:
    """(place, label) of the numbers on a scale: its ends, and some round ones that keep off them."""
    low, high = float(norm.vmin), float(norm.vmax)  # type: ignore[arg-type]
    if isinstance(norm, FuncNorm):
        inner = [10.0**power for power in range(12)]
    else:
        inner = [*map(float, MaxNLocator(4).tick_values(low, high)), *([0.0] if low < 0 < high else [])]
    found = [(0.0, ("≤" if (values < low).any() else "") + shown(low, 3))]
    for value in sorted({round(value, 12) for value in inner if low < value < high}):
        place = float(places(norm, np.array([value]))[0])
        if max(found[-1][0] + 0.2, 0.22) < place < 0.78:
            found.append((place, shown(value, 3)))
    return [*found, (1.0, ("≥" if (values > high).any() else "") + shown(high, 3))]


def shown(value: float, digits: int = 4) -> str:
    """A number as people read it, as does the page's script; whole ones are not rounded.

    >>> [shown(x) for x in (3.14159, 50256.0, -0.5, 1.234e-6, math.nan, math.inf)]
    ['3.142', '50,256', '−0.5', '1.23e−6', '–', '∞']
    """
    size = abs(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        text = "∞"
    elif size >= 1000 or size == round(size):
        text = f"{size:,.0f}"
    elif size >= 1e-4:
        text = f"{size:.{digits}g}"
    else:
        mantissa, exponent = f"{size:.2e}".split("e")
        text = f"{mantissa}e−{-int(exponent)}"
    return f"−{text}" if value < 0 else text


def colours(cmap: str, n: int, *, both_signs: bool, dark: bool = False) -> np.ndarray:
    """Colours [n, 3] of a scale from its low to its high end, on a light or a dark page."""
    place, page = np.linspace(0, 1, n)[:, None], np.array(PAGE[dark])
    if both_signs:
        below, above = np.array(_ENDS[dark])
        return np.asarray(page + np.abs(2 * place - 1) * (np.where(place < 0.5, below, above) - page))
    if not isinstance(cmap, str) or cmap not in mpl.colormaps:
        raise InputError(f"cmap must be the name of a colour map of matplotlib, such as 'viridis' or 'magma'; got {cmap!r}")
    map_: np.ndarray = mpl.colormaps[cmap](place[:, 0])[:, :3]
    brightness = map_[[0, -1]] @ [0.2126, 0.7152, 0.0722]
    if (brightness[0] < brightness[1]) != dark:
        map_ = map_[::-1]
    return np.asarray(page + np.clip(0.1 + 2.3 * place, 0, 1) * (map_ - page))
