"""How results print themselves, as text and in a notebook: a title, a table, and notes on what it shows.

In a terminal, text is as wide as that: tables go on below, column by column, and lines are broken between words; nothing is
left out. What is not a terminal (files, logs, ``str(result)`` in a program) has every line whole.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import pandas as pd

from tl_entropy.errors import counted
from tl_entropy.results.notebook import Along, page
from tl_entropy.results.provenance import PREDICTS_OWN, Provenance, reads_ahead, skipped_note
from tl_entropy.sites import Site
from tl_entropy.torch_state import Steady


class Printed(Steady, ABC):
    """Gives ``repr`` and the notebook's view to a class that says what its title, table and notes are."""

    printing: ClassVar[Mapping[str, Any]] = {}
    """Options of ``pandas.DataFrame.to_string``."""
    along: ClassVar[Along | None] = "rows"
    """Where the table's values follow each other, as those of sites do; None where nowhere."""

    @abstractmethod
    def _title(self) -> list[str]:
        """The first line, and others that belong to it."""

    @abstractmethod
    def _table(self) -> pd.DataFrame | None:
        """What is shown; None where nothing was counted."""

    @abstractmethod
    def _notes(self) -> list[str]:
        """Lines below the table."""

    def _along(self) -> Along | None:
        """The same of this one result."""
        return self.along

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        """Along what rows of the table have values of their own, and these, by row; where ``along`` is None."""
        return "", {}

    def _origins(self) -> list[Provenance]:
        """Where the numbers come from, of one model or two."""
        fields = [getattr(self, item.name) for item in dataclasses.fields(cast("Any", self))]
        return [value for value in fields if isinstance(value, Provenance)]

    def __repr__(self) -> str:
        table = self._table()
        width = _terminal_width()
        shown = [] if table is None else [table.to_string(**self.printing, line_width=width), *self._below()]
        titles = [_broken(line, width) for line in self._title()]
        return "\n".join([*titles, *shown[:1], *(_broken(line, width) for line in shown[1:])])

    def _repr_html_(self) -> str:
        """The same for notebooks, with spark lines."""
        table, along = self._table(), self._along()
        courses = self._courses() if table is not None and along is None else ("", {})
        return page(self._title(), table, self._below(), self._origins(), along, self.printing, courses)

    def _below(self) -> list[str]:
        return [*self._notes(), *_origin_notes(self)]


def _terminal_width() -> int | None:
    """Columns of the terminal that text goes to; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def _broken(line: str, width: int | None) -> str:
    """The line, broken between words where it is wider than the terminal."""
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _origin_notes(result: Any) -> list[str]:
    """What is to be said of a model that reads ahead, of rows of its unembedding that no token has, of documents left out."""
    origin = getattr(result, "provenance", None)
    settings = getattr(origin, "settings", {})
    notes, rows = [], settings.get("rows_without_token", 0)
    if origin is not None and reads_ahead(origin):
        notes.append(
            "the model reads ahead, as it declares: it has seen the tokens that it speaks of, so that what it says of one is "
            "no entropy of that token"
        )
    if PREDICTS_OWN in getattr(origin, "processing", ""):
        notes.append("the model's predictions at a position are of the token there")
    if rows and settings.get("vocabulary") == "tokenizer":
        notes.append(f"over the tokenizer's tokens, without {counted(rows, 'row')} of the unembedding that no token has")
    elif rows:
        notes.append(
            f"{counted(rows, 'row')} of the unembedding without a token included, as in the model's softmax; "
            "vocabulary='tokenizer' leaves such out"
        )
    skipped = getattr(origin, "corpus", {}).get("skipped")
    return [*notes, skipped_note(skipped)] if skipped else notes


def title(result: Any, shape: str) -> str:
    """The line that says of what kind a result is, of what shape and unit, and of which model."""
    origin: Provenance = result.provenance
    stopped = ", interrupted" if origin.interrupted else ""
    return f"{type(result).__name__}: {shape}, {result.unit}; {origin.model}{stopped}"


def over(tokens: int, documents: int, **axes: int) -> str:
    """What a result is over, in words; axes by their names in the singular.

    >>> over(1, 1, site=7, order=1)
    '1 token of 1 document x 7 sites x 1 order'
    """
    first = f"{counted(tokens, 'token')} of {counted(documents, 'document')}"
    return " x ".join([first, *(counted(n, name) for name, n in axes.items())])


def mean_over(documents: int, of: str = "tokens") -> str:
    """What the numbers of a table are, whose errors are over documents.

    >>> mean_over(2), mean_over(1, "words")
    ('mean over tokens ± standard error over documents', 'mean over words; one document, so no standard errors')
    """
    errors = "; one document, so no standard errors" if documents == 1 else " ± standard error over documents"
    return f"mean over {of}{errors}"


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
