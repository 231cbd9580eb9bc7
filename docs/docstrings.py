"""Docstrings as Sphinx reads them. Ours are written for editors: with Markdown's tables, and |x| for a magnitude."""

from __future__ import annotations

import re

LITERAL = re.compile(r"(``.*?``)")


def for_sphinx(lines: list[str]) -> list[str]:
    """A docstring's lines with tables as ``list-table`` and bars escaped; examples and literal blocks are left alone.

    >>> for_sphinx(["| a | b |", "|---|---|", "| 1 | 2 |"])[1:3]
    ['.. list-table::', '   :header-rows: 1']
    """
    found: list[str] = []
    kept, rows = "", []
    for line in [*lines, ""]:
        bare = line.strip()
        if bare.startswith("|") and bare.endswith("|") and len(bare) > 1 and not kept:
            rows.append(line)
            continue
        if rows:
            found += _table(rows)
            rows = []
        if not bare:
            kept = kept if kept == "literal" else ""
        elif bare.startswith(">>>"):
            kept = "example"
        elif kept == "literal" and not line.startswith("    "):
            kept = ""
        found.append(line if kept else _escaped(line))
        if bare.endswith("::") and not kept:
            kept = "literal"
    return found


def _escaped(line: str) -> str:
    parts = LITERAL.split(line)
    return "".join(
        part if part.startswith("``") else re.sub(r"(?<=[a-z])_(?![\w`])", r"\\_", part.replace("|", "\\|")) for part in parts
    )


def _table(rows: list[str]) -> list[str]:
    indent = rows[0][: len(rows[0]) - len(rows[0].lstrip())]
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows if set(row.strip()) - set("|-: ")]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in cells:
        lines += [f"   {'* -' if i == 0 else '  -'} {_escaped(cell)}" for i, cell in enumerate(row)]
    return [f"{indent}{line}".rstrip() for line in ["", *lines, ""]]
