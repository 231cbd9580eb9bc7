"""The geometry of the states at every site: how many directions they fill, how they bend, how well they tell texts apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.statistics import difference_errors, paired_errors
from tl_entropy.results.base import PER_NAT, Result, Unit, chosen_from
from tl_entropy.results.printing import over, profile_table, title
from tl_entropy.results.provenance import Provenance, check_paired
from tl_entropy.sites import Site

Measure = Literal[
    "prompt_entropy", "normalized_prompt_entropy", "dataset_entropy", "effective_rank", "curvature", "anisotropy", "two_nn",
    "lidar", "info_nce",
]  # fmt: skip

MEASURES: dict[Measure, str] = {
    "prompt_entropy": "prompt entropy",
    "normalized_prompt_entropy": "prompt entropy / maximum",
    "dataset_entropy": "dataset entropy",
    "effective_rank": "effective rank",
    "curvature": "curvature",
    "anisotropy": "anisotropy (mean cosine)",
    "two_nn": "intrinsic dimension (TwoNN)",
    "lidar": "LiDAR (effective rank)",
    "info_nce": "InfoNCE bound",
}
"""All measures, and what each is called in figures."""

OF_DOCUMENTS = ("prompt_entropy", "normalized_prompt_entropy", "curvature")
"""Measures that every document has by itself, and of which the value is a mean over documents."""

OF_GRAM = ("prompt_entropy", "normalized_prompt_entropy", "dataset_entropy")
"""Measures that depend on the Rényi order, and on how rows are normalised."""

_IN_UNIT = frozenset({"prompt_entropy", "dataset_entropy", "info_nce"})


def unit_of(measure: str, unit: Unit) -> str:
    """The unit of a measure: ``unit``, "rad", or nothing for shares, cosines and numbers of directions.

    >>> unit_of("prompt_entropy", "bits"), unit_of("curvature", "bits"), unit_of("lidar", "bits")
    ('bits', 'rad', '')
    """
    return unit if measure in _IN_UNIT else "rad" if measure == "curvature" else ""


@dataclass(frozen=True, eq=False, repr=False)
class LayerGeometry(Result):
    """Measures of the states at every site, over a corpus.

    | measure | what it is of | unit, range |
    |---|---|---|
    | prompt_entropy | the tokens of each document, mean over documents | ``unit``, 0 to log min(token - 1, d_model) |
    | normalized_prompt_entropy | the same divided by log min(token - 1, d_model), mean over documents | 0 to 1 |
    | dataset_entropy | the mean states of all documents | ``unit``, 0 to log min(document - 1, d_model) |
    | effective_rank | the covariance of all tokens | 1 to d_model |
    | curvature | the path through the tokens of each document, mean over documents | rad, 0 to π |
    | anisotropy | all pairs of tokens | -1 to 1 |
    | two_nn | a sample of tokens | a dimension, above 0 |
    | lidar | the mean states of documents with labels | 1 to label - 1 |
    | info_nce | the mean states of documents with labels | ``unit``, up to log label |

    The maxima of the first three are those of centred rows, of which one follows from the others; where rows aren't centred
    (``normalise`` of the settings is "length" or None) they are log min(token, d_model) and log min(document, d_model).

    Attributes:
        sites: what the second axis means, in order of depth.
        measures: what the first axis means.
        values: [measure, site]; NaN where there is none, and the notes say why.
        errors: [measure, site] standard errors over documents, of lidar and info_nce over labels; NaN where none is known:
            of dataset_entropy for fewer than 4 documents (3 where not centred), of order 0 for more than 200, of lidar and
            info_nce for fewer than three labels, and for a single document. Those of effective_rank, of dataset_entropy for
            more than 200 documents, and of lidar and info_nce are linear: too small where tokens or documents are few beside
            d_model, and that of lidar up to twice too large where labels are.
        by_document: [document, part, site] the values of each document, the parts being those of ``measures`` that every
            document has by itself; NaN where a document has none.
        document: [document] number of each document in the input.
        tokens: number of positions counted.
        documents: number of documents with a position that is counted.
        order: Rényi order of prompt_entropy and dataset_entropy.
        provenance: model, settings, corpus, versions.
        notes: what was left out, and why a value is NaN.
        unit: "nats" or "bits".
        covariance: [measure, site, site] of the values of two sites over the same documents, of which ``errors`` are the roots
            of the diagonal; None in earlier files.
        scores: [measure, fold, site] what each of 20 folds of documents adds to the error, in a unit of its own; NaN where that
            is not known, None in earlier files.

    >>> import tl_entropy as tle
    >>> result = tle.layer_geometry(tle.demo_model(), "import os, sys", measures="curvature", progress=False)
    >>> tuple(result.values.shape)  # measure, site
    (1, 7)
    """

    sites: tuple[Site, ...]
    measures: tuple[str, ...]
    values: Float[Tensor, "measure site"]
    errors: Float[Tensor, "measure site"]
    by_document: Float[Tensor, "document part site"]
    document: Int[Tensor, "document"]
    tokens: int
    documents: int
    order: float
    provenance: Provenance
    notes: tuple[str, ...] = ()
    unit: Unit = "nats"
    covariance: Float[Tensor, "measure site site"] | None = None
    scores: Float[Tensor, "measure fold site"] | None = None

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each of ``measures``: "nats", "bits", "rad" or ""."""
        return tuple(unit_of(measure, self.unit) for measure in self.measures)

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; measures in neither stay."""
        changed = super().to(unit)
        factor = PER_NAT[unit] / PER_NAT[self.unit]
        factors, of_parts = (
            torch.tensor([factor if name in _IN_UNIT else 1.0 for name in names], dtype=torch.float64)[:, None]
            for names in (self.measures, self._parts)
        )
        paired = None if self.covariance is None else self.covariance * factors[..., None].square()
        return dataclasses.replace(
            changed, values=self.values * factors, errors=self.errors * factors, by_document=self.by_document * of_parts,
            covariance=paired,
        )  # fmt: skip

    @property
    def rows(self) -> str:
        """What became of the rows of prompt and dataset entropy: "centred rows", "rows of length 1" or "rows as they are"."""
        normalise = self.provenance.settings.get("normalise", "centred")
        return {"centred": "centred rows", "length": "rows of length 1"}.get(str(normalise), "rows as they are")

    def value(self, measure: Measure) -> Float[Tensor, "site"]:
        """One measure at every site [site], in its unit.

        Raises:
            InputError: it was not measured.
        """
        return self.values[self._row(measure)]

    def error(self, measure: Measure) -> Float[Tensor, "site"]:
        """Its standard error over documents [site]; NaN where none is known.

        Raises:
            InputError: it was not measured.
        """
        return self.errors[self._row(measure)]

    def difference_error(self, measure: Measure) -> Float[Tensor, "site site"]:
        """Standard error over documents of the difference between every two sites [site, site]; NaN where none is known.

        Both sites are of the same documents, so that what these add to both falls out of it: it is often far below
        that of either value.

        Raises:
            InputError: it was not measured, or the file is an earlier one that holds no covariance.
        """
        if self.covariance is None:
            raise InputError(
                "this result is of an earlier version, which kept no covariance of sites; measure again to have it"
            )
        return difference_errors(self.covariance[self._row(measure)])

    def paired_error(self, other: LayerGeometry, measure: Measure) -> Float[Tensor, "site other"]:
        """Standard error of the difference between every site here and every site of another result of the same documents.

        Of another model, or the same one with an intervention: what the documents add to both falls out, as far as folds of
        documents say (``functional/statistics.py``). ``value(measure)[i] - other.value(measure)[j]`` is the difference itself.

        Raises:
            InputError: it was not measured in both, they are of other documents or in other units, or a file is an earlier one.
            InputTypeError: ``other`` is another kind of result.

        >>> import tl_entropy as tle
        >>> model, texts = tle.demo_model(), ["import os, sys", "def f(x):", "x = [1, 2]"]
        >>> one = tle.layer_geometry(model, texts, measures="curvature", progress=False)
        >>> bool((one.paired_error(one, "curvature").diagonal() < 1e-6).all())
        True
        """
        check_paired(self, other, self.unit)
        mine, theirs = self._row(measure), other._row(measure)
        return paired_errors(
            self.errors[mine], cast("Tensor", self.scores)[mine], other.errors[theirs], cast("Tensor", other.scores)[theirs]
        )

    def document_values(self, measure: Measure) -> Float[Tensor, "document site"]:
        """A measure that every document has by itself [document, site]; row i is that of document ``document[i]``.

        Raises:
            InputError: it was not measured, or is one of the corpus alone.
        """
        return self.by_document[:, self._parts.index(chosen_from("measure", measure, self._parts)[0])]

    def mean_profile(self, measures: str | Iterable[str] | None = None) -> pd.DataFrame:
        """One line for each measure and site: site, layer, measure, unit, mean, se.

        For measures of the corpus, ``mean`` is their value.

        Raises:
            InputError: a measure that is not there.
        """
        wanted = self.measures if measures is None else chosen_from("measures", measures, self.measures)
        lines: list[dict[str, Any]] = [
            {
                "site": site.name, "layer": site.layer, "measure": measure, "unit": unit_of(measure, self.unit),
                "mean": self.values[self._row(measure), i].item(), "se": self.errors[self._row(measure), i].item(),
            }
            for measure in wanted
            for i, site in enumerate(self.sites)
        ]  # fmt: skip
        return pd.DataFrame(lines)

    def to_pandas(self) -> pd.DataFrame:
        """The mean profile."""
        return self.mean_profile()

    @property
    def _parts(self) -> tuple[str, ...]:
        return tuple(measure for measure in self.measures if measure in OF_DOCUMENTS)

    def _row(self, measure: str) -> int:
        return self.measures.index(chosen_from("measure", measure, self.measures)[0])

    def _title(self) -> list[str]:
        gram = f", order {self.order:g}, {self.rows}" if {*self.measures} & {*OF_GRAM} else ""
        return [title(self, over(self.tokens, self.documents, site=len(self.sites)) + gram)]

    def _table(self) -> pd.DataFrame | None:
        if not self.tokens:
            return None
        profile = self.mean_profile()
        names = [
            f"{measure} ({unit})" if unit else measure
            for measure, unit in zip(profile["measure"], profile["unit"], strict=True)
        ]
        return profile_table(profile.assign(quantity=names), "quantity")

    def _notes(self) -> list[str]:
        means = ", ".join(self._parts)
        about = [f"{means}: mean over documents, each counting the same"] if means else []
        return [*about, "± standard error over documents, where one is known", *self.notes]
