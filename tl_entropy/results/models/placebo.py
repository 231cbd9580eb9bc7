"""An intervention beside matched ones that mean nothing: how unusual its effect is (``Placebo``).

An effect is what a measure changes by. With e_0 that of the real edit and e_1 to e_n those of placebos, the rank is how many
placebos have an effect at least as large, in absolute value, and p = (1 + rank) / (1 + n): the share of all n + 1 edits that do
as much, if the real one were drawn like the others. Errors are over documents, where the measure gives a value for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import InputError, counted
from tl_entropy.results.base import PER_NAT, Result, Unit
from tl_entropy.results.printing import plus_minus, title
from tl_entropy.results.provenance import Provenance

_ROWS = ("real ± standard error over documents", "placebos, mean", "placebos, standard deviation")


@dataclass(frozen=True, eq=False, repr=False)
class Placebo(Result):
    """The effect of an intervention, and those of matched placebos. ``tle.placebo`` makes one.

    Attributes:
        effects: [edit, document] float64, what each edit changes of the measure, the real one first; one column where the
            measure is one number.
        edits: what each edit is called.
        seed: of the draws.
        provenance: model, settings, versions.
        unit: of the effects: "nats", "bits", or "" for measures that have neither.

    >>> from tl_entropy.results import Provenance
    >>> origin = Provenance("tiny", "abc", "raw", "float32", "cpu")
    >>> found = Placebo(torch.tensor([[-3.0], [1.0], [2.0], [-1.0]]).double(), ("real", "a", "b", "c"), 0, origin)
    >>> found.effect, found.rank, found.p_value
    (-3.0, 0, 0.25)
    """

    effects: Float[Tensor, "edit document"]
    edits: tuple[str, ...]
    seed: int
    provenance: Provenance
    unit: str = "nats"

    in_units = ("effects",)
    along = None  # one edit and many
    aligned = (("edit", "edits"),)

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``.

        Raises:
            InputError: the measure is in neither.
        """
        if self.unit not in PER_NAT:
            raise InputError(f"unit: this measure is in neither nats nor bits, and cannot be brought to {unit}")
        return super().to(unit)

    @property
    def effect(self) -> float:
        """What the real edit changes the measure by, the mean over documents."""
        return float(self.effects[0].mean())

    @property
    def se(self) -> float:
        """Its standard error over documents; NaN for a single value."""
        return float(_errors(self.effects)[0])

    @property
    def placebos(self) -> Tensor:
        """[placebo] what each placebo changes the measure by."""
        return self.effects[1:].mean(1)

    @property
    def rank(self) -> int:
        """How many placebos have an effect at least as large as the real one's, in absolute value; 0 is the largest of all."""
        return int((self.placebos.abs() >= abs(self.effect)).sum())

    @property
    def p_value(self) -> float:
        """(1 + rank) / (1 + n), the share of all edits that do as much; never below 1 / (1 + n)."""
        return (1 + self.rank) / len(self.edits)

    @property
    def z(self) -> float:
        """The real effect less the placebos' mean, over their standard deviation; NaN of a single placebo."""
        return float((self.effect - self.placebos.mean()) / self.placebos.std())

    def to_pandas(self) -> pd.DataFrame:
        """One line an edit: edit, kind ("real" or "placebo"), effect, se (over documents), documents, unit."""
        kinds = ["real", *["placebo"] * (len(self.edits) - 1)]
        means, errors = self.effects.mean(1).tolist(), _errors(self.effects).tolist()
        columns = {"edit": self.edits, "kind": kinds, "effect": means, "se": errors}
        return pd.DataFrame(columns).assign(documents=self.effects.shape[1], unit=self.unit)

    def _title(self) -> list[str]:
        n, columns = len(self.edits) - 1, self.effects.shape[1]
        shape = f"{counted(n, 'placebo')} x {counted(columns, 'document')}"
        return [title(self, shape), f"{self.edits[0]}: as large or larger are {self.rank} of {n}, p = {self.p_value:.3g}"]

    def _table(self) -> pd.DataFrame | None:
        placebos = self.placebos
        spread = float(placebos.std()) if len(placebos) > 1 else math.nan
        values = [*plus_minus([self.effect], [self.se]), f"{float(placebos.mean()):.3f}", f"{spread:.3f}"]
        return pd.DataFrame({"effect": values}, index=list(_ROWS))

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        placebos = self.effects[1:]
        rows = (self.effects[0], placebos.mean(0), placebos.std(0) if len(placebos) > 1 else placebos[0] * math.nan)
        return "document by document", {name: row.tolist() for name, row in zip(_ROWS, rows, strict=True)}

    def _notes(self) -> list[str]:
        largest = float(self.placebos.abs().max())
        return [f"largest placebo {largest:.3f}, without regard to its sign"]


def _errors(effects: Tensor) -> Any:
    return effects.std(1) / effects.shape[1] ** 0.5 if effects.shape[1] > 1 else torch.full_like(effects[:, 0], torch.nan)
