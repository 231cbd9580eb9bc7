"""Values of one result on the tokens of another (``AlignedValues``), and the line through two of them (``TokenCorrelation``).

With x and y two quantities of the same N tokens, the line y = intercept + slope·x has the least Σ (y - intercept - slope·x)²
over the tokens, and R² is the share of the variance of y that it takes away, the square of Pearson's r.

What such numbers cannot say is which of two models is right. Both x and y carry noise of their own, and that in x draws the
slope towards 0, that in any of them R² (errors in variables; Fuller, Measurement error models, 1987): a perfect estimate has a
low slope and R² against a poor one. The line of x against y is another one. Nor does a high R² say that two quantities are
the same: the surprisals of any two models agree in that rare and long tokens cost much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.results.base import Result, Unit, in_unit
from tl_entropy.results.positions import Positions, token_means
from tl_entropy.results.printing import mean_over, over, plus_minus, title
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.rows import Column, TokenRows

How = Literal["sum", "mean"]


@dataclass(frozen=True, eq=False, repr=False)
class AlignedValues(TokenRows, Result):
    """Quantities of one result (the source) on the tokens of another (the target), of the same texts.

    Attributes:
        values: [row, quantity], a row for each of the target's; NaN where the source has no value for all that the token stands
            for, as for a first token that no BOS precedes there.
        quantities: what the second axis means.
        units: of each quantity.
        abouts: of each quantity, one line on what it means.
        how: how values went from token to token: "sum" or "mean" over characters; None where the tokens are the same, so that
            nothing had to be spread.
        unit: that of the quantities in nats or bits.
        provenance: of the source.
        target: provenance of the result whose tokens these are.

    The other fields are those of ``TokenRows``, of the target.

    >>> import tl_entropy as tle
    >>> surprisal = tle.token_surprisal(tle.demo_model(), "import os, sys", progress=False)
    >>> aligned = tle.align_tokens(surprisal, surprisal)
    >>> aligned.quantities, len(aligned.token)
    (('surprisal',), 4)
    """

    along = None  # quantities in units of their own

    aligned = (("quantity", "quantities", "units", "abouts"),)

    values: Float[Tensor, "row quantity"]
    quantities: tuple[str, ...]
    units: tuple[str, ...]
    abouts: tuple[str, ...]
    how: How | None
    target: Provenance

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; what is in neither stays."""
        factors, units = in_unit(self.units, unit)
        return dataclasses.replace(self, values=self.values * factors, units=units, unit=unit)

    def columns(self) -> dict[str, Column]:
        """Every quantity that was asked for, by name."""
        model = self.provenance.model
        return {
            name: Column(values, unit, f"{about} ({model}, on the tokens of {self.target.model})")
            for name, values, unit, about in zip(self.quantities, self.values.T, self.units, self.abouts, strict=True)
        }

    def _title(self) -> list[str]:
        tokens = "the same tokens as" if self.how is None else "on the tokens of"
        whose = f"{tokens} {self.target.model}"
        return [title(self, over(self.n_tokens, len(self.documents))), whose]

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "token by token", dict(zip(self.quantities, self.values.T.tolist(), strict=True))

    def _table(self) -> pd.DataFrame | None:
        there = ~self.values.isnan()
        lines = []
        for values, known in zip(self.values.T, there.T, strict=True):
            mean, error = token_means(values[known], self.document[known]) if known.any() else (torch.tensor(torch.nan),) * 2
            lines.append((int(known.sum()), *plus_minus([mean.item()], [error.item()])))
        index = [f"{name} ({unit})" if unit else name for name, unit in zip(self.quantities, self.units, strict=True)]
        return pd.DataFrame(lines, columns=["tokens", "mean"], index=index) if self.n_tokens else None

    def _notes(self) -> list[str]:
        notes = [mean_over(len(self.documents), "tokens that have a value")]
        return notes if self.how is None else [*notes, f"from token to token through their characters, how={self.how!r}"]


@dataclass(frozen=True, eq=False, repr=False)
class TokenCorrelation(Positions, Result):
    """Two quantities of the same tokens, and the least-squares line of the one, y, against the other, x.

    Attributes:
        x: [row], in the unit ``units[0]``.
        y: [row], in the unit ``units[1]``.
        quantities: names of x and y.
        units: of x and y.
        slope: of the line; 0 where x says nothing of y.
        intercept: y where x is 0, in the unit of y.
        pearson: Pearson's r between x and y, -1 to 1.
        spearman: Spearman's rho, r between their ranks (ties share the mean of theirs), -1 to 1.
        slope_error: standard error of the slope over documents; NaN for a single one, like those that follow.
        intercept_error: that of the intercept.
        pearson_error: that of r, by the jackknife over folds of documents.
        left_out: number of tokens without a value of x or of y; they are not among the rows.
        on: whose tokens the rows are, those of "x" or of "y".
        how: how the other's values came to these tokens; see ``AlignedValues``.
        unit: of what is in nats or bits.
        provenance: of y.
        x_provenance: of x.

    The other fields say which token a row is of, as in ``TokenRows``.

    >>> import tl_entropy as tle
    >>> surprisal = tle.token_surprisal(tle.demo_model(), "import os, sys", progress=False)
    >>> same = tle.token_correlation(surprisal, surprisal)
    >>> round(float(same.slope), 6), round(float(same.intercept), 6)
    (1.0, 0.0)
    """

    along = None  # quantities in units of their own

    x: Float[Tensor, "row"]
    y: Float[Tensor, "row"]
    quantities: tuple[str, str]
    units: tuple[str, str]
    slope: float
    intercept: float
    pearson: float
    spearman: float
    slope_error: float
    intercept_error: float
    pearson_error: float
    left_out: int
    on: Literal["x", "y"]
    how: How | None
    document: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    token: Int[Tensor, "row"]
    strings: Mapping[int, str]
    provenance: Provenance
    x_provenance: Provenance
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    unit: Unit = "nats"

    @property
    def r_squared(self) -> float:
        """R² = r², the share of the variance of y that the line takes away, 0 to 1."""
        return self.pearson**2

    @property
    def models(self) -> tuple[str, str]:
        """Names of the models of x and y."""
        return self.x_provenance.model, self.provenance.model

    @property
    def slope_unit(self) -> str:
        """The unit of the slope: none where x and y have the same."""
        x, y = self.units
        return "" if x == y else f"{y or 1}/{x}" if x else y

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; what is in neither stays."""
        factors, units = in_unit(self.units, unit)
        of_x, of_y = factors.tolist()
        unit_x, unit_y = units
        return dataclasses.replace(
            self,
            x=self.x * of_x,
            y=self.y * of_y,
            units=(unit_x, unit_y),
            slope=self.slope * (of_y / of_x),
            slope_error=self.slope_error * (of_y / of_x),
            intercept=self.intercept * of_y,
            intercept_error=self.intercept_error * of_y,
            unit=unit,
        )

    def _per_row(self) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        return torch.stack([self.x, self.y], 1), {"quantity": ("x", "y")}

    def summary(self) -> pd.DataFrame:
        """The numbers of the line: quantity, unit, value, se (over documents; NaN for a single one, for R² and for rho)."""
        lines = [
            ("slope", self.slope_unit, self.slope, self.slope_error),
            ("intercept", self.units[1], self.intercept, self.intercept_error),
            ("R²", "", self.r_squared, torch.nan),
            ("Pearson r", "", self.pearson, self.pearson_error),
            ("Spearman rho", "", self.spearman, torch.nan),
        ]
        return pd.DataFrame(lines, columns=["quantity", "unit", "value", "se"])

    def to_pandas(self) -> pd.DataFrame:
        """The pairs, one line for each token: document, position, token, x, y."""
        return pd.DataFrame(
            {
                "document": self.document.numpy(),
                "position": self.position.numpy(),
                "token": pd.Series(self.tokens(), dtype=object),
                "x": self.x.numpy(),
                "y": self.y.numpy(),
            }
        )

    def _title(self) -> list[str]:
        line = title(self, over(self.n_tokens, len(self.documents)))
        shown = [f"{name} of {model}" for name, model in zip(self.quantities, self.models, strict=True)]
        return [line, f"y, {shown[1]}, against x, {shown[0]}"]

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "y as x rises", {"slope": self.y[self.x.argsort(stable=True)].tolist()}

    def _table(self) -> pd.DataFrame:
        # Slopes between quantities in different units are of any size, so these are digits that count, not decimals.
        frame = self.summary()
        text = [f"{v:.4g}" if pd.isna(e) else f"{v:.4g} ± {e:.2g}" for v, e in zip(frame["value"], frame["se"], strict=True)]
        return pd.DataFrame(
            {"": text}, index=[f"{q} ({u})" if u else q for q, u in zip(frame["quantity"], frame["unit"], strict=True)]
        )

    def _notes(self) -> list[str]:
        notes = ["± standard error over documents" if len(self.documents) > 1 else "one document, so no standard errors"]
        if self.how is not None:
            mover = "x" if self.on == "y" else "y"
            notes.append(f"{mover} came to the tokens of {self.on} through their characters, how={self.how!r}")
        return [*notes, f"left out, without a value of x or y: {self.left_out}"] if self.left_out else notes
