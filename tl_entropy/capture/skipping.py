"""Rows of an input that cannot be used: with ``on_error="skip"`` they are left out, counted, and listed with their reasons.

A row is left out where it alone is to blame: it holds no text or tokens, none are left after the tokenizer, UTF-8 cannot hold
it, its file cannot be read, its tokenizer raises, or the model has no such ids. It keeps its number, so that a result numbers
documents as the input does.

Never left out: an exception of the input's own iterator, an error of the model, and what is wrong with all rows alike (a model
without a tokenizer, a data set without the text's column, rows that look padded and have no mask).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tl_entropy.state import Kept

OnError = Literal["raise", "skip"]

_LISTED = 20
_LONGEST = 200
"""Characters of a reason at most."""


@dataclass(slots=True)
class Skipped(Kept):
    """What was left out in one pass.

    Attributes:
        count: how many rows.
        first: of the first 20: the number, the name of a file or the place in the input, and the reason.

    >>> skipped = Skipped()
    >>> skipped.add(3, "inputs[3]", "inputs[3] must be a str; got int")
    >>> skipped.told()
    {'count': 1, 'first': ((3, 'inputs[3]', 'inputs[3] must be a str; got int'),)}
    """

    count: int = 0
    first: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, number: int, where: str, reason: str) -> None:
        """Count a row, and list it among the first."""
        self.count += 1
        if len(self.first) < _LISTED:
            shown = reason if len(reason) <= _LONGEST else reason[: _LONGEST - 3] + "..."
            self.first.append((number, where, shown))

    def together(self, other: Skipped) -> Skipped:
        """Both, of different documents of one input."""
        return Skipped(self.count + other.count, sorted([*self.first, *other.first])[:_LISTED])

    def told(self) -> dict[str, Any]:
        """Both, as a result's provenance says it under ``corpus["skipped"]``; empty where nothing was left out."""
        return {"count": self.count, "first": tuple(self.first)} if self.count else {}
