"""The page of tokens as markup, and how hostile text stays text.

The page asks nothing of the network, and its policy lets no script run but its own, known by its hash. Tokens are markup
from the start, so that the text and one quantity are there without a script, too; what the script adds comes from JSON and goes
into the page as text, never as markup. Marks of line breaks and of tokens without a character of their own are drawn by the
styles: what is selected and copied is the text itself.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import FuncNorm, Normalize, TwoSlopeNorm

from tl_entropy.plots.cells import ink
from tl_entropy.plots.tokens.page_style import DARK, LIGHT, SCRIPT, STYLES
from tl_entropy.plots.tokens.parts import OUTSIDE, PAGE, colours, places, shown, text_pieces
from tl_entropy.results.base import PER_NAT
from tl_entropy.results.tokens.rows import TokenRows

LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz012345678"
"""A name for each colour of a scale; an odd number of them, since one is that of 0 between both signs."""

NO_LEVEL = "."

_MARKS = {"\n": "↵", "\r": "\\r", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def json_text(value: Any) -> str:
    r"""A value as JSON that can stand inside a script element: nothing in it is markup.

    >>> print(json_text({"token": "</script>"}))
    {"token":"\u003c/script\u003e"}
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def text_markup(piece: str) -> str:
    r"""A piece of text as markup whose text is the piece, with marks where something would not be seen.

    >>> text_markup("<b>\n")
    '&lt;b&gt;<b data-m="↵"></b>\n'
    """
    found = []
    for c in piece:
        found.append(f'<b data-m="{_MARKS[c]}"></b>' if c in _MARKS else "")
        # A page cannot hold the first two; of the third, reading a page would make a line feed.
        found.append("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else "&#13;" if c == "\r" else html.escape(c))
    return ("" if any(map(_has_width, piece)) else '<b data-m="·"></b>') + "".join(found)


def _has_width(c: str) -> bool:
    # A joiner that is a token of its own still has to join what is beside it.
    return c == "\u200d" or unicodedata.category(c) != "Cf"


def styles(cmap: str) -> str:
    """The style sheet, with a rule for every colour of both kinds of scale on light and dark pages."""
    return f"{STYLES}{_colour_rules(cmap, dark=False)}@media (prefers-color-scheme:dark){{{_colour_rules(cmap, dark=True)}}}"


def _colour_rules(cmap: str, *, dark: bool) -> str:
    rules = []
    for kind, both_signs in (("s", False), ("d", True)):
        scale = colours(cmap, len(LEVELS), both_signs=both_signs, dark=dark)
        codes = ["#" + "".join(f"{round(255 * c):02x}" for c in colour) for colour in scale]
        inks = [{"black": "#000", "white": "#fff"}[ink(colour)] for colour in np.round(255 * scale) / 255]
        rules += [f".{kind}{name}{{background:{code};color:{i}}}" for name, code, i in zip(LEVELS, codes, inks, strict=True)]
        rules.append(f".bar.{kind}{{background:linear-gradient(to right,{','.join(codes)})}}")
    page = "".join(f"{round(255 * c):02x}" for c in PAGE[dark])
    return f":root{{--page:#{page};{DARK if dark else LIGHT}}}" + "\n".join(rules) + "\n"


def policy(script: str) -> str:
    """What a page may do: its own styles, this script of its own, nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Quantity:
    """One quantity on the page, and where its colours come from."""

    name: str
    key: str  # its name in its result
    values: np.ndarray
    unit: str
    about: str
    norm: Normalize
    source: int  # number of the result that it is of

    @property
    def kind(self) -> str:
        """Which colours, the first letter of their names."""
        return "d" if isinstance(self.norm, TwoSlopeNorm) else "s"

    def levels(self) -> str:
        """The name of the colour of every token, as one string."""
        place = places(self.norm, self.values)
        nearest = np.round(np.nan_to_num(place) * (len(LEVELS) - 1)).astype(int)
        names = np.where(np.isnan(place), NO_LEVEL, np.array(list(LEVELS))[nearest])
        return "".join(names.tolist())

    def label(self) -> str:
        """What its scale is in."""
        return ", ".join(filter(None, [self.unit, "logarithmic scale" if isinstance(self.norm, FuncNorm) else ""]))


def page_markup(
    results: Mapping[str, TokenRows],
    quantities: list[Quantity],
    shown_first: int,
    data: Mapping[str, Any],
    title: str | None,
    cmap: str,
) -> str:
    """The whole page; ``data`` is for its script."""
    first, opening, drawn = next(iter(results.values())), quantities[shown_first], data["quantities"][shown_first]
    model = ", ".join(dict.fromkeys(result.provenance.model for result in results.values()))
    names = {number: ": ".join(filter(None, [f"Document {number}", first.names.get(number)])) for number in first.documents}
    headings = names if len(names) > 1 or any(first.names.get(number) for number in names) else {}
    heading = html.escape(model if title is None else str(title))
    marks = "".join(f'<span style="left:{100 * place:g}%">{label}</span>' for place, label in drawn["ticks"])
    facts = _facts(first, quantities, None if title is None else model)
    sections = "".join(
        _section(first, number, headings.get(number), opening, drawn["levels"], data["generated"]) for number in names
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(SCRIPT)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{styles(cmap)}</style>
</head>
<body>
<header><h1>{heading}</h1><p class="meta">{html.escape(facts)}</p></header>
<div class="page">
<div class="side">
<div class="tools">
<fieldset><legend>Show</legend>{_radios(list(results), quantities, shown_first)}</fieldset>
{_picker(names) if len(names) > 1 else ""}
<div class="quantity"><span>{html.escape(opening.name)}</span><span class="unit">{html.escape(opening.label())}</span></div>
<div class="bar {opening.kind}"></div><div class="ticks">{marks}</div>
<p class="about">{html.escape(opening.about)}</p>
</div>
<aside class="panel" id="panel" aria-label="The token pointed at"><p class="hint">Point at a token, or tap it.</p></aside>
</div>
<main>{sections}</main>
</div>
<script type="application/json" id="data">{json_text(data)}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _facts(first: TokenRows, quantities: list[Quantity], model: str | None) -> str:
    """What is on the page, in a line."""
    documents = len(first.documents)
    facts = [model, f"{first.n_tokens:,} token{'s' * (first.n_tokens != 1)}"]
    facts += [f"{documents:,} documents" if documents > 1 else None]
    facts += [" and ".join(dict.fromkeys(q.unit for q in quantities if q.unit in PER_NAT))]
    facts += ["underlined: written by the model" if first.generated is not None and first.generated.any() else None]
    return " · ".join(filter(None, facts))


def _radios(sources: list[str], quantities: list[Quantity], shown_first: int) -> str:
    """A button for every quantity, in a group for each result."""
    groups = []
    for source, name in enumerate(sources):
        buttons = [
            f'<label><input type="radio" name="quantity" value="{i}" aria-label="{html.escape(quantity.name)}"'
            f"{' checked' * (i == shown_first)}><span>{html.escape(quantity.key)}</span></label>"
            for i, quantity in enumerate(quantities)
            if quantity.source == source
        ]
        groups.append((f"<p>{html.escape(name)}</p>" if name else "") + f"<div>{''.join(buttons)}</div>")
    return "".join(groups)


def _picker(names: Mapping[int, str]) -> str:
    options = "".join(f'<option value="document-{number}">{html.escape(name)}</option>' for number, name in names.items())
    options = f'<option value="">all {len(names)}</option>{options}'
    return f'<p class="pick"><label for="document">Document</label><select id="document">{options}</select></p>'


def _section(first: TokenRows, document: int, heading: str | None, quantity: Quantity, levels: str, generated: str) -> str:
    """One document: its heading, and every token as an element that has its colour."""
    found, values = [], quantity.values.tolist()
    for row, piece in text_pieces(first, document):
        if row == OUTSIDE:
            found.append(text_markup(piece))
            continue
        look = "t g" if generated[row : row + 1] == "1" else "t"
        look += "" if levels[row] == NO_LEVEL else f" {quantity.kind}{levels[row]}"
        value = f"{shown(values[row])} {quantity.unit}".rstrip()
        found.append(f'<span class="{look}" title="{html.escape(value)}">{text_markup(piece)}</span>')
    name, count = html.escape(heading or ""), int((first.document == document).sum())
    title = f'<h2 data-name="{name}">{name} <small>{count:,} token{"s" * (count != 1)}</small></h2>' if name else ""
    label = f"Text of document {document}, token by token"
    text = f'<div class="text" dir="auto" role="group" aria-label="{label}">{"".join(found)}</div>'
    return f'<section class="doc" id="document-{document}">{title}{text}</section>\n'
