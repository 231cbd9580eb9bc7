"""A text to read with a value behind every token: a web page that stands alone.

The page shows the whole text of each document, in order, each token on the colour of its value. It switches between all
quantities of the result, and tells of the token that is pointed at, tapped or moved to with the arrow keys: its place, all its
values, and what was most probable there. It needs no network and no server; without scripts it still shows the first quantity.

    colours     by ``token_parts.scale``: one scale for all documents, and for one quantity of several results
    ranks       are counted from 0, the most probable token, on a scale of log(1 + rank)
    NaN         has no colour; infinite values and those beyond vmin and vmax have the colour of the scale's end

Refused: results without tokens, of different tokens, or with one quantity in two units.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsInt

import torch

from tl_entropy.errors import InputError, InputTypeError, check_choice, counted, printable
from tl_entropy.plots.cells import visible
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.tokens.page_parts import Quantity, page_markup
from tl_entropy.plots.tokens.parts import scale, shown, ticks
from tl_entropy.results.files import as_path, write_text
from tl_entropy.results.tokens.rows import TokenRows
from tl_entropy.torch_state import steady

_LONGEST_TOKEN = 60  # characters, in the panel
_FRAME = (430, 720)  # pixels, the least and the greatest height in a notebook


@dataclass(frozen=True, repr=False)
class TokenPage:
    """A page of tokens, for a browser or a notebook.

    Attributes:
        html: the whole page.
        n_tokens: tokens on it.

    >>> import tl_entropy as tle
    >>> page = tle.plots.tokens(tle.token_surprisal(tle.demo_model(), "import os", progress=False))
    >>> page.n_tokens, page.html[:15].lower()
    (2, '<!doctype html>')
    """

    html: str
    n_tokens: int

    def save(self, path: str | Path) -> Path:
        """Write the page to a file and return its path; folders on the way are made, and an old file stays until then."""
        return write_text(as_path("path", path), self.html)

    def __repr__(self) -> str:
        size = f"{len(self.html.encode()) / 1000:,.0f} kB"
        return f"TokenPage: {counted(self.n_tokens, 'token')}, {size}; a notebook shows it, .save('page.html') writes it"

    def _repr_html_(self) -> str:
        """A frame of its own, so that a notebook's styles and the page's leave each other alone."""
        least, most = _FRAME
        height = min(most, least + 2 * self.n_tokens)
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="Text, token by token" '
            f'style="width:100%;height:{height}px;border:1px solid #8884;border-radius:6px"></iframe>'
        )


@steady
def tokens(
    result: TokenRows | Mapping[str, TokenRows],
    *,
    of: str | None = None,
    documents: SupportsInt | Iterable[int] | None = None,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    title: str | None = None,
) -> TokenPage:
    """Show a text with the values of its tokens, as a page that a notebook displays and ``.save("page.html")`` writes.

    Args:
        result: a result with values of single tokens (``token_surprisal`` and others), or a mapping from names to several of
            the same tokens, such as ``{"gpt2": a, "gpt2-xl": b}``; quantities are then called "gpt2: surprisal" and so on.
        of: the quantity shown at first; None is the first of the result. "page.html#entropy" opens the page on another one.
        documents: numbers of the documents to show; None is all.
        cmap: colour map of matplotlib for quantities that are never negative; its end that is nearest to the page's colour,
            light or dark, stands for low values. Quantities of both signs go from blue to orange.
        vmin: low end of the scale of the quantity shown at first; None is 0, or as far below 0 as ``vmax`` is above.
        vmax: high end of that scale; None is the greatest finite value of the documents shown.
        title: heading of the page; None is the name of the model.

    Returns:
        The page.

    Raises:
        InputError: no tokens, results of different tokens or units, a quantity or document that is not there, ends of the scale
            that make no scale, an unknown colour map.
        InputTypeError: something that is no such result.

    >>> import tl_entropy as tle
    >>> tokens(tle.token_surprisal(tle.demo_model(), "import os", progress=False))
    TokenPage: ... tokens, ... kB; a notebook shows it, .save('page.html') writes it
    """
    results = _results(result, documents)
    first = next(iter(results.values()))
    quantities, opening = _quantities(results, of, vmin, vmax)
    data = {
        **_vocabulary(results),
        "results": list(results),
        "position": first.position.tolist(),
        "generated": "" if first.generated is None else "".join("01"[written] for written in first.generated.tolist()),
        "quantities": [
            {
                "name": quantity.name,
                "key": quantity.key,
                "source": quantity.source,
                "unit": quantity.unit,
                "scale": quantity.label(),
                "about": quantity.about,
                "kind": quantity.kind,
                "ticks": [[round(place, 4), label] for place, label in ticks(quantity.norm, quantity.values)],
                "values": [_short(value) for value in quantity.values.tolist()],
                "levels": quantity.levels(),
            }
            for quantity in quantities
        ],
    }
    return TokenPage(printable(page_markup(results, quantities, opening, data, title, cmap)), first.n_tokens)


def _results(result: Any, documents: Any) -> dict[str, TokenRows]:
    """The results by name, of the documents asked for; they speak of the same tokens."""
    given = dict(result) if isinstance(result, Mapping) else {"": result}
    if not given:
        raise InputError("result is an empty mapping; give at least one result with values of single tokens")
    for value in given.values():
        if not isinstance(value, TokenRows):
            raise InputTypeError(
                "result must have values of single tokens, as token_surprisal returns them, or be a mapping from names to such "
                f"results; got {kind_of(value)}"
            )
    chosen = {str(name): value if documents is None else value.select(documents=documents) for name, value in given.items()}
    name, first = next(iter(chosen.items()))
    if not first.n_tokens:
        raise InputError("result holds no token to show")
    for other, value in chosen.items():
        for field in ("document", "position", "token", "span"):
            if not torch.equal(getattr(first, field), getattr(value, field)):
                raise InputError(
                    f"result: {name!r} and {other!r} are not of the same tokens (they differ in {field}); show each on its own "
                    "page, or bring the values of one to the other's tokens with tle.align_tokens"
                )
    return chosen


def _quantities(
    results: Mapping[str, TokenRows], of: str | None, vmin: float | None, vmax: float | None
) -> tuple[list[Quantity], int]:
    """All quantities of the results, and which is shown at first; the same one has the same scale in every result."""
    found = [
        (f"{name}: {key}" if name else key, key, column, source)
        for source, (name, result) in enumerate(results.items())
        for key, column in result.columns().items()
    ]
    names = [name for name, *_ in found]
    if of is not None:
        check_choice("of", of, names)
    first = 0 if of is None else names.index(of)
    asked = found[first][1]
    norms = {}
    for key in dict.fromkeys(key for _, key, *_ in found):
        same = [column for _, other, column, _ in found if other == key]
        if len({column.unit for column in same}) > 1:
            units = " and in ".join(column.unit or "no unit" for column in same)
            raise InputError(f"result: {key} is in {units}; bring the results to one unit with .to('bits')")
        values = torch.cat([column.values.double() for column in same]).numpy()
        norms[key] = scale(key, values, *((vmin, vmax) if key == asked else ()))
    quantities = [
        Quantity(name, key, column.values.double().numpy(), column.unit, column.about, norms[key], source)
        for name, key, column, source in found
    ]
    return quantities, first


def _has_top(result: Any) -> bool:
    top = getattr(result, "top_tokens", None)
    return top is not None and bool(top.shape[1])


def _vocabulary(results: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that occur, each once, and by their numbers in that list those of the rows and the most probable ones."""
    first = next(iter(results.values()))
    with_top = [result for result in results.values() if _has_top(result)]
    ids = torch.cat([first.token, *(result.top_tokens.flatten() for result in with_top)]).unique()
    strings = {token: text for result in results.values() for token, text in result.strings.items()}
    tops: list[dict[str, Any] | None] = []
    for result in results.values():
        if not _has_top(result):
            tops.append(None)
            continue
        probable = result.top_log_probs.double().exp().flatten().tolist()
        tops.append(
            {
                "k": result.top_tokens.shape[1],
                "token": torch.searchsorted(ids, result.top_tokens.flatten()).tolist(),
                "p": [float(f"{p:.3g}") for p in probable],
            }
        )
    return {
        "ids": ids.tolist(),
        "strings": [visible(strings[token], _LONGEST_TOKEN) for token in ids.tolist()],
        "token": torch.searchsorted(ids, first.token).tolist(),
        "tops": tops,
    }


def _short(value: float) -> float | str | None:
    """A value as JSON, which knows neither NaN nor infinity, with as many digits as are shown."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return shown(value)
    return round(value) if abs(value) >= 1000 or value == round(value) else float(f"{value:.4g}")
