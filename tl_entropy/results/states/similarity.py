"""How alike the representations at any two sites are: a table of sites against sites, of one model or of two."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import InputError, counted
from tl_entropy.functional.statistics import difference_errors, paired_errors
from tl_entropy.results.base import Result, Unit, chosen_from, in_unit
from tl_entropy.results.notebook import Along
from tl_entropy.results.printing import plus_minus
from tl_entropy.results.provenance import Provenance, check_paired
from tl_entropy.sites import Site

Method = Literal["cka", "matrix_renyi", "neighbours"]


@dataclass(frozen=True, eq=False, repr=False)
class LayerSimilarity(Result):
    """Similarities between the states at sites (rows) and at the sites that they are compared with (columns).

    | method | quantity | meaning | unit, range |
    |---|---|---|---|
    | cka | cka | linear CKA; 1 for states alike up to rotation, scale and shift | -1 to 1 debiased, 0 to 1 biased |
    | matrix_renyi | dime | matrix-based information less that of shuffled states | ``unit``, about 0 for independent states |
    | matrix_renyi | mutual_information | S(A) + S(B) - S(A, B); large for independent states, too | ``unit`` |
    | matrix_renyi | entropy | S(A), of the row's site | ``unit``, 0 to log samples |
    | matrix_renyi | joint_entropy | S(A, B) | ``unit``, 0 to log samples |
    | matrix_renyi | permuted_joint_entropy | S(A, B) of shuffled states, mean over shufflings | ``unit`` |
    | matrix_renyi | deviation | standard deviation of that over shufflings | ``unit`` |
    | neighbours | neighbour_overlap | share of a state's k nearest that are so in the other, too | k / (count - 1) to 1 |
    | neighbours | imbalance | 2 / count · rank in the column's of the nearest in the row's | 2 / count to about 1 |
    | neighbours | imbalance_back | the same from the column to the row | 2 / count to about 1 |

    Attributes:
        method: "cka", "matrix_renyi" or "neighbours".
        rows: sites asked about.
        columns: sites they are compared with; of the other model, where there is one.
        quantities: what the first axis of ``values`` means; the first is the headline.
        units: the unit of each quantity: "nats", "bits" or "".
        values: [quantity, row, column]; NaN where there is no value.
        against: "output" (the last residual stream), "all", or the names of the columns.
        over: "tokens", or "documents" (each one the mean of its states).
        count: tokens or documents used.
        documents: documents that they come from.
        massive: what became of massive states: "keep", "drop" (their tokens are left out), "normalise" (every state is divided
            by its norm).
        massive_tokens: tokens of which a compared state is massive.
        provenance: model, settings, corpus, versions.
        other: where the columns come from, if from another model.
        unit: "nats" or "bits", for quantities that have a unit.
        errors: [quantity, row, column] standard errors over documents (over blocks of tokens, where CKA is of such; of DiME
            over permutations, too); None, or NaN, where none is known: of matrix-based information below order 1, of shuffled
            states, of a single document, and in earlier files.
        covariance: [quantity, row, row, column] of the values of two rows at one column, over the same documents, of which
            ``errors`` are the roots of the diagonal; NaN where these are, and None in earlier files.
        scores: [quantity, fold, row, column] what each of 20 folds of documents adds to the error, in a unit of its own; None,
            or NaN, where that is not known.

    >>> import tl_entropy as tle
    >>> result = tle.layer_similarity(tle.demo_model(), ["import os, sys"] * 4, progress=False)
    >>> round(float(result.values[0, -1]), 3)  # the output with itself
    1.0
    """

    aligned = (("quantity", "quantities", "units"),)

    method: Method
    rows: tuple[Site, ...]
    columns: tuple[Site, ...]
    quantities: tuple[str, ...]
    units: tuple[str, ...]
    values: Float[Tensor, "quantity row column"]
    against: str
    over: Literal["tokens", "documents"]
    count: int
    documents: int
    massive: str
    massive_tokens: int
    provenance: Provenance
    other: Provenance | None = None
    unit: Unit = "nats"
    errors: Float[Tensor, "quantity row column"] | None = None
    covariance: Float[Tensor, "quantity row row column"] | None = None
    scores: Float[Tensor, "quantity fold row column"] | None = None

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; quantities in neither stay."""
        factors, units = in_unit(self.units, unit)
        scale = factors[:, None, None]
        errors = None if self.errors is None else self.errors * scale
        paired = None if self.covariance is None else self.covariance * scale[..., None].square()
        return dataclasses.replace(
            self, values=self.values * scale, errors=errors, covariance=paired, units=units, unit=unit
        )  # fmt: skip

    def value(self, quantity: str | None = None) -> Float[Tensor, "row column"]:
        """One quantity [row, column]; None is the headline.

        Raises:
            InputError: it is not in this result.
        """
        return self.values[self._of(quantity)]

    def error(self, quantity: str | None = None) -> Float[Tensor, "row column"]:
        """Its standard error [row, column]; NaN where none is known.

        Raises:
            InputError: it is not in this result.
        """
        found = torch.full_like(self.values, torch.nan) if self.errors is None else self.errors
        return found[self._of(quantity)]

    def difference_error(self, quantity: str | None = None) -> Float[Tensor, "row row column"]:
        """Standard error of the difference between every two rows, at each column; NaN where none is known.

        Both are of the same documents, so that what these add to both falls out of it: it is often far below that of either
        value. ``value()[i] - value()[j]`` is the difference itself.

        Raises:
            InputError: it is not in this result, or the file is an earlier one that holds no covariance.
        """
        if self.covariance is None:
            raise InputError("this result is of an earlier version, which kept no covariance of rows; measure again to have it")
        return difference_errors(self.covariance[self._of(quantity)].movedim(-1, 0)).movedim(0, -1)

    def paired_error(self, other: LayerSimilarity, quantity: str | None = None) -> Float[Tensor, "row column row column"]:
        """Standard error of the difference between every value here and every one of another result of the same documents.

        Of another model, or the same one with an intervention: [row, column, other's row, other's column]. What the documents
        add to both falls out, as far as folds of documents say (``functional/statistics.py``).

        Raises:
            InputError: it is not in both, they are of other documents or in other units, or one knows nothing of folds: CKA
                of blocks, and earlier files.
            InputTypeError: ``other`` is another kind of result.

        >>> import tl_entropy as tle
        >>> result = tle.layer_similarity(tle.demo_model(), ["import os, sys", "def f(x):"] * 4, progress=False)
        >>> bool(result.paired_error(result)[0, 0, 0, 0] < 1e-6)
        True
        """
        check_paired(self, other, self.unit)
        mine, theirs = self._of(quantity), other._of(quantity)
        found = paired_errors(
            self.error(quantity).flatten(), cast("Tensor", self.scores)[mine].flatten(1), other.error(quantity).flatten(),
            cast("Tensor", other.scores)[theirs].flatten(1),
        )  # fmt: skip
        return found.view(*self.values.shape[1:], *other.values.shape[1:])

    def _of(self, quantity: str | None) -> int:
        [name] = self.quantities[:1] if quantity is None else chosen_from("quantity", quantity, self.quantities)
        return self.quantities.index(name)

    def to_pandas(self) -> pd.DataFrame:
        """The long form: row_site, row_layer, column_site, column_layer, quantity, unit, value, se."""
        errors = [self.error(quantity) for quantity in self.quantities]
        return pd.DataFrame(
            {
                "row_site": row.name, "row_layer": row.layer, "column_site": column.name, "column_layer": column.layer,
                "quantity": quantity, "unit": unit, "value": self.values[q, i, j].item(), "se": errors[q][i, j].item(),
            }
            for q, (quantity, unit) in enumerate(zip(self.quantities, self.units, strict=True))
            for i, row in enumerate(self.rows)
            for j, column in enumerate(self.columns)
        )  # fmt: skip

    def _along(self) -> Along | None:
        return "columns" if len(self.columns) > 1 else "rows"

    def _title(self) -> list[str]:
        sites = f"{len(self.rows)} x {counted(len(self.columns), 'site')}, against {self.against}"
        of = "" if self.over == "documents" else f" of {counted(self.documents, 'document')}"
        stopped = ", interrupted" if self.provenance.interrupted else ""
        models = self.provenance.model if self.other is None else f"{self.provenance.model} against {self.other.model}"
        return [f"LayerSimilarity: {self._name()}, {sites}; {self.count} {self.over}{of}; {models}{stopped}"]

    def _table(self) -> pd.DataFrame:
        index = [str(site) for site in self.rows]
        if len(self.columns) > 1:
            table: Any = self.value().numpy()
            return pd.DataFrame(table, index=index, columns=[str(site) for site in self.columns]).round(3)
        names = [f"{name} ({unit})" if unit else name for name, unit in zip(self.quantities, self.units, strict=True)]
        table = pd.DataFrame(self.values[:, :, 0].T.numpy(), index=index, columns=names).round(3)
        if not bool(self.error().isnan().all()):
            table[names[0]] = plus_minus(self.value()[:, 0].tolist(), self.error()[:, 0].tolist())
        return table

    def _notes(self) -> list[str]:
        """What the numbers are, and what became of massive states."""
        known = not bool(self.error().isnan().all())
        headline = f"{self.quantities[0]} ({self.units[0]})" if self.units[0] else self.quantities[0]
        shown = [f"{headline}: rows of {self.provenance.model}, columns of {(self.other or self.provenance).model}"]
        notes = shown if len(self.columns) > 1 else []
        if known:
            blocks = self.provenance.settings.get("estimator") == "minibatch"
            where = "± standard error" if len(self.columns) == 1 else "standard errors in to_pandas():"
            notes.append(f"{where} over {'blocks of tokens' if blocks else counted(self.documents, 'document')}")
        settings = self.provenance.settings
        if self.method == "matrix_renyi":
            notes.append("dime: joint entropy of shuffled states less that of the states; about 0 where they are independent")
        elif self.method == "neighbours":
            notes.append("imbalance: 2 / count where the row's nearest state is the column's, about 1 for independent states")
        elif settings.get("debiased", True):
            notes.append("debiased: about 0 for independent states, 1 for states alike up to rotation, scale and shift")
        else:
            notes.append("biased: near 1 for independent states, too, where tokens are few beside d_model")
        if settings.get("estimator") == "minibatch":
            left_out = settings.get("left_out_rows", 0)
            notes.append(
                f"within blocks of {settings.get('block')} rows in the order of the corpus"
                + (f"; left out: {counted(left_out, 'row')}, too few for a block" if left_out else "")
            )
        if bool(self.values.isnan().any()):
            notes.append(self._without_value())
        treated = {"keep": "kept", "drop": "left out", "normalise": "kept; every state is divided by its norm"}[self.massive]
        if self.massive_tokens or self.massive != "keep":
            notes.append(f"{counted(self.massive_tokens, 'token')} with massive states, {treated}")
        return notes

    def _without_value(self) -> str:
        """Why there are NaN, and the sites that they come from where these can be told."""
        why = {"matrix_renyi": "more than half of the states are equal"}.get(self.method, "states that do not vary")
        nan = self.values.isnan()
        rows = [i for i in range(len(self.rows)) if not bool(nan[:, i].all())]
        named = [site for i, site in enumerate(self.rows) if i not in rows] if rows else []
        named += [site for j, site in enumerate(self.columns) if rows and bool(nan[0, rows, j].all())]
        return f"NaN: too few rows, or {why}" + (f", at {', '.join(map(str, dict.fromkeys(named)))}" if named else "")

    def _name(self) -> str:
        if self.method == "cka":
            return "debiased CKA" if self.provenance.settings.get("debiased", True) else "biased CKA"
        if self.method == "neighbours":
            return f"{self.provenance.settings.get('k')} nearest neighbours"
        order = self.provenance.settings.get("order")
        return "matrix-based Rényi information" + (f" of order {order:g}" if isinstance(order, int | float) else "")
