"""What a result shows in a notebook: a title, what was measured, a compact table with a line a row, and all numbers.

A table whose rows follow each other (sites, depths) is shown as one row for each of its columns, with a spark line over the
places and the values at its ends and extremes; the table itself stands below, folded where it is long. A table whose columns
follow each other (heads, steps) has the spark lines as its first column, and so has one whose rows have a course of their own
(what tokens cost, as they are read; a model's layers). Lines are drawn of the numbers as they are printed,
each on its own scale from its smallest to its largest: they show a shape, and the numbers beside them its size. A gap is
where there is no number.

It is HTML and SVG without scripts, colours or anything from elsewhere: text and lines have the colour of the page around, so
that dark pages are as readable as light ones.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from tl_entropy.errors import counted
from tl_entropy.results.provenance import Provenance

Along = Literal["rows", "columns"]
"""Where values follow each other: down the rows of a table, or across its columns."""

FOLDED = 12
"""Rows of a table that is shown unfolded."""

_WIDTH, _HEIGHT, _MARGIN = 120, 18, 2.5
_POINTS = 60  # of a line
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*(e[+-]?\d+)?)(?![\w.])", re.IGNORECASE)
_PLACE = re.compile(r"(?P<name>[a-z][a-z_]*)(\.\d+)?(?P<rest>(,| ).*)?")
_STREAM = re.compile(r"embed|resid_\w+")
_FOUND = re.compile(r"readout_|compiled")  # settings that are found out on the way
_LISTED = 3
"""Items of a setting that are listed; of more, the ends."""


def number(cell: Any) -> float:
    """The number that a cell begins with; NaN where it begins with none, or with one that is not finite.

    >>> number("0.449 ± 0.361"), number("+1.5e-07"), number("resid_post.0 (45%)")
    (0.449, 1.5e-07, nan)
    """
    if isinstance(cell, str):
        found = _NUMBER.match(cell.strip())
        return float(found[0]) if found else math.nan
    return float(cell) if isinstance(cell, int | float) and math.isfinite(cell) else math.nan


def spark(values: Sequence[float], told: str = "") -> str:
    """A line over these values as an SVG of a word's size, with a dot at the last; "" where no value is finite.

    Values that are not finite are gaps; one alone is a dot, and equal ones are a level line.

    Args:
        values: in their order; the line goes from their smallest to their largest.
        told: what it shows, for readers who hear the page; the number of values, if not given.

    >>> spark([1.0, 1.0]).count("<polyline"), spark([1.0, float("nan"), 2.0, 3.0]).count("<circle"), spark([])
    (1, 2, '')
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    across, down = (_WIDTH - 2 * _MARGIN) / max(len(values) - 1, 1), _HEIGHT - 2 * _MARGIN
    pieces: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if math.isfinite(value):
            # Halves, since the difference of two doubles may be none.
            share = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
            pieces[-1].append(f"{_MARGIN + i * across:.1f},{_MARGIN + (1 - share) * down:.1f}")
        elif pieces[-1]:
            pieces.append([])
    pieces = [piece for piece in pieces if piece]
    lines = [
        f'<polyline points="{" ".join(piece)}" fill="none" stroke="currentColor" stroke-width="1.3" stroke-linejoin="round"/>'
        for piece in pieces
        if len(piece) > 1
    ]
    dots = list(dict.fromkeys([*(piece[0] for piece in pieces if len(piece) == 1), pieces[-1][-1]]))
    circles = ['<circle cx="{}" cy="{}" r="1.9" fill="currentColor"/>'.format(*dot.split(",")) for dot in dots]
    label = html.escape(told or counted(len(finite), "value"), quote=True)
    frame = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {frame} style="vertical-align:middle">{"".join([*lines, *circles])}</svg>'


def page(
    titles: Sequence[str],
    table: pd.DataFrame | None,
    notes: Sequence[str],
    origins: Iterable[Provenance],
    along: Along | None,
    options: Mapping[str, Any],
    courses: tuple[str, Mapping[str, Sequence[float]]] = ("", {}),
) -> str:
    """The whole view, of what ``Printed`` says of itself; where there is no table, the title alone."""
    first, *others = map(html.escape, titles)
    title = "<br>".join([f"<strong>{first}</strong>", *others])
    if table is None:
        return f"<div>{title}</div>"
    parts = [title, *(f"<br><small>{html.escape(measured(origin))}</small>" for origin in origins)]
    if along == "rows":
        parts.append(_compact(table))
    if along == "columns":
        rows = zip(map(str, table.index), table.to_numpy().tolist(), strict=True)
        courses = f"{table.columns[0]} to {table.columns[-1]}", {name: [number(cell) for cell in row] for name, row in rows}
    parts.append(_folded(_written(table, options, *courses), len(table)))
    parts.append(f"<small>{'<br>'.join(map(html.escape, notes))}</small>")
    return f"<div>{''.join(parts)}</div>"


def measured(origin: Provenance) -> str:
    """One line of what a result was measured on: model, documents, tokens, settings.

    >>> of = {"orders": (1.0, 2.0), "seed": None}
    >>> origin = Provenance("gpt2", "", "", "float32", "cpu", of, {"documents": 2, "tokens": 9})
    >>> measured(origin)
    'measured: gpt2 (float32, cpu); 2 documents, 9 tokens; orders 1.0, 2.0'
    """
    found = {noun: origin.corpus.get(f"{noun}s") for noun in ("document", "token")}
    read = [counted(n, noun, ",") for noun, n in found.items() if isinstance(n, int)]
    settings = [
        f"{name} {_setting(value)}"
        for name, value in origin.settings.items()
        if value not in (None, "None", "", ()) and not _FOUND.match(name)
    ]
    parts = [f"{origin.model} ({origin.dtype}, {origin.device})", ", ".join(read), "; ".join(settings)]
    return "measured: " + "; ".join(part for part in parts if part)


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        shown = list(map(str, value))
        return ", ".join(shown) if len(shown) <= _LISTED else f"{shown[0]}, ..., {shown[-1]} ({len(shown)})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _runs(table: pd.DataFrame) -> dict[str, list[int]]:
    """Which rows follow each other, by what they are to be called: the residual stream, and each other site by itself."""
    found: dict[str, list[int]] = {}
    for i, label in enumerate(map(str, table.index)):
        part = _PLACE.fullmatch(label)
        name = "" if part is None else "residual stream" if _STREAM.fullmatch(part["name"]) else part["name"]
        found.setdefault(name + ("" if part is None else part["rest"] or ""), []).append(i)
    return found


def _compact(table: pd.DataFrame) -> str:
    """A row for each column of ``table`` and each run of its rows: the line, and the values at ends and extremes."""
    runs = _runs(table)
    rows = []
    for j in range(table.shape[1]):
        name = table.columns[j]
        column = " · ".join(filter(None, map(str, name))) if isinstance(name, tuple) else str(name)
        for run, places in runs.items():
            cells = [(str(table.index[i]), str(table.iloc[i, j]), number(table.iloc[i, j])) for i in places]
            there = [cell for cell in cells if math.isfinite(cell[2])]
            if len(there) < 2:
                continue
            ends = [there[0], there[-1], min(there, key=_value), max(there, key=_value)]
            called = f"{column}, {run}" if len(runs) > 1 else column
            line = spark([value for *_, value in cells], f"{called}, {there[0][0]} to {there[-1][0]}")
            shown = (f"{html.escape(text)} <small>{html.escape(place)}</small>" for place, text, _ in ends)
            rows.append(
                f"<tr><th>{html.escape(called)}</th><td>{line}</td>{''.join(f'<td>{cell}</td>' for cell in shown)}</tr>"
            )
    if not rows:
        return ""
    heads = "".join(f"<th>{name}</th>" for name in ("", "first to last", "first", "last", "smallest", "largest"))
    return _wide(f'<table class="dataframe"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>')


def _value(cell: tuple[str, str, float]) -> float:
    return cell[2]


def _written(table: pd.DataFrame, options: Mapping[str, Any], along: str, courses: Mapping[str, Sequence[float]]) -> str:
    """The whole table, with a spark line for each row that has a course, by its name or that before its unit."""
    form = options.get("float_format", "{:.6g}".format)
    shown = table.map(lambda cell: html.escape(form(cell) if isinstance(cell, float) else str(cell)))
    shown.index = shown.index.map(lambda name: html.escape(str(name)))
    if shown.columns.nlevels == 1:
        shown.columns = shown.columns.map(lambda name: html.escape(str(name)))
    if courses:
        names = [name if name in courses else name.partition(" (")[0] for name in map(str, table.index)]
        drawn = [spark(_shortened(courses.get(name, ())), f"{name}, {along}") for name in names]
        shown.insert(0, html.escape(along), drawn)
    return str(shown.to_html(escape=False, border=0))


def _shortened(values: Sequence[float]) -> Sequence[float]:
    """As many values as a line has room for: means of equally many that follow each other, of those that are finite.

    >>> _shortened([1.0, 3.0, math.nan, 5.0] * (_POINTS // 2))[:2]
    [2.0, 5.0]
    """
    each = math.ceil(len(values) / _POINTS)
    if each < 2:
        return values
    pieces = [[value for value in values[i : i + each] if math.isfinite(value)] for i in range(0, len(values), each)]
    return [sum(piece) / len(piece) if piece else math.nan for piece in pieces]


def _folded(table: str, rows: int) -> str:
    return _wide(table) if rows <= FOLDED else f"<details><summary>all {rows} rows</summary>{_wide(table)}</details>"


def _wide(table: str) -> str:
    """A table that scrolls where it is wider than the page."""
    return f'<div style="overflow-x:auto;white-space:nowrap">{table}</div>'
