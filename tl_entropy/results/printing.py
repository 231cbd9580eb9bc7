"""How results print themselves, as text and in a notebook: a title, a table, and notes on what it shows."""

from __future__ import annotations

import html
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import pandas as pd

from tl_entropy.results.provenance import READS_AHEAD, Provenance, skipped_note
from tl_entropy.sites import Site
from tl_entropy.torch_state import Steady


class Printed(Steady, ABC):
    """Gives ``repr`` and the notebook's view to a class that says what its title, table and notes are."""

    printing: ClassVar[Mapping[str, Any]] = {}
    """Options of ``pandas.DataFrame.to_string`` and ``to_html`` alike."""

    @abstractmethod
    def _title(self) -> list[str]:
        """The first line, and others that belong to it."""

    @abstractmethod
    def _table(self) -> pd.DataFrame | None:
        """What is shown; None where nothing was counted."""

    @abstractmethod
    def _notes(self) -> list[str]:
        """Lines below the table."""

    def __repr__(self) -> str:
        table = self._table()
        shown = [] if table is None else [table.to_string(**self.printing), *self._notes(), *_origin_notes(self)]
        return "\n".join([*self._title(), *shown])

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        table = self._table()
        first, *others = map(html.escape, self._title())
        title = "<br>".join([f"<strong>{first}</strong>", *others])
        if table is None:
            return f"<div>{title}</div>"
        notes = "<br>".join(map(html.escape, [*self._notes(), *_origin_notes(self)]))
        return f"<div>{title}{table.to_html(**self.printing)}<small>{notes}</small></div>"


def _origin_notes(result: Any) -> list[str]:
    """What is to be said of a model that reads ahead, of rows of its unembedding that no token has, of documents left out."""
    origin = getattr(result, "provenance", None)
    settings = getattr(origin, "settings", {})
    notes, rows = [], settings.get("rows_without_token", 0)
    if READS_AHEAD in getattr(origin, "processing", ""):
        notes.append("the model reads ahead, as it declares: what is said of a token it may have seen")
    if rows and settings.get("vocabulary") == "tokenizer":
        notes.append(f"over the tokenizer's tokens: {rows} rows of the unembedding without a token are left out")
    elif rows:
        notes.append(
            f"{rows} rows of the unembedding have no token and count, as in the model's softmax; vocabulary='tokenizer' does "
            "not"
        )
    skipped = getattr(origin, "corpus", {}).get("skipped")
    return [*notes, skipped_note(skipped)] if skipped else notes


def title(result: Any, shape: str) -> str:
    """The line that says of what kind a result is, of what shape and unit, and of which model."""
    origin: Provenance = result.provenance
    stopped = ", interrupted" if origin.interrupted else ""
    return f"{type(result).__name__}: {shape}, {result.unit}; {origin.model}{stopped}"


def plus_minus(means: Iterable[float], errors: Iterable[float], *, sign: str = "") -> list[str]:
    """Means with their standard errors, where there are any; ``sign="+"`` shows that of positive means, too.

    >>> plus_minus([1.0, 2.0], [0.25, math.nan], sign="+")
    ['+1.000 ± 0.250', '+2.000']
    """
    pairs = zip(means, errors, strict=True)
    return [f"{mean:{sign}.3f} ± {error:.3f}" if math.isfinite(error) else f"{mean:{sign}.3f}" for mean, error in pairs]


def profile_table(profile: pd.DataFrame, across: Literal["order", "quantity"]) -> pd.DataFrame:
    """A mean profile as it is printed: sites down, orders or quantities across, blank where a site has no value."""
    place = [str(Site(name, layer)) for name, layer in zip(profile["site"], profile["layer"], strict=True)]
    shown = profile.assign(text=plus_minus(profile["mean"], profile["se"]), place=place)
    table = shown.pivot_table(index="place", columns=across, values="text", aggfunc="first", sort=False).fillna("")
    if across == "order":
        table.columns = [f"order {order:g}" for order in table.columns]
    table.index.name = table.columns.name = None
    return table
