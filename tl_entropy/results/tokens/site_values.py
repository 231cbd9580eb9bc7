"""Quantities of the prediction of every token, read at every site: how confident it is, how far from word frequencies.

A row is one token predicted, as in ``TokenRows``, and its values say of the distribution at each site, from which the token
came, how it is: ``Confidence`` of ``confidence``, ``UnigramDistance`` of ``unigram_distance``; ``SiteMeans`` holds sums alone.

Means are over tokens, with standard errors over documents (``functional/statistics.py``).

Refused: quantities, sites and spans that are not in a result.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, SupportsInt

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_int
from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.results.base import Result, Unit, chosen_from, fields_at, in_unit
from tl_entropy.results.positions import site_columns, token_means
from tl_entropy.results.printing import mean_over, over, profile_table, title
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.rows import Column, TokenRows
from tl_entropy.sites import Layers, Places, Site

CONFIDENCE = {
    "self_certainty": ("nats", "how far the prediction is from the uniform law: KL(U ‖ p)"),
    "margin": ("", "probability of the most probable token, less that of the next"),
    "top_k_confidence": ("nats", "-mean log-probability of the most probable tokens: high where one has all of it"),
    "top_k_mass": ("", "probability of the most probable tokens together"),
    "z": ("", "how much less the token cost than expected, in standard deviations"),
    "kurtosis": ("", "excess kurtosis of the logits over the vocabulary: how far few tokens stand out, whatever the scale"),
}
"""Quantities of ``confidence``: their unit and what they mean."""

UNIGRAM = {
    "unigram_kl": ("nats", "how far the prediction is from the tokens' frequencies: KL(p ‖ f)"),
    "frequency_rank": ("", "how many other tokens are at least as frequent as the most probable one"),
}
"""Quantities of ``unigram_distance``, likewise."""

_ABOUT = {**CONFIDENCE, **UNIGRAM}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SiteValues(TokenRows):
    """What such results have in common; the other fields are those of ``TokenRows``.

    Attributes:
        values: [row, site, quantity], in ``units``.
        sites: what the second axis means.
        measured: names of the quantities, what the third axis means.
        units: the unit of each: "nats", "bits" or "".
    """

    values: Float[Tensor, "row site quantity"]
    sites: tuple[Site, ...]
    measured: tuple[str, ...]
    units: tuple[str, ...]

    def to(self, unit: Unit) -> Self:
        """The same result in "nats" or "bits"; quantities in neither stay."""
        factors, units = in_unit(self.units, unit)
        return dataclasses.replace(self, values=self.values * factors.to(self.values.dtype), units=units, unit=unit)

    def quantities(self) -> dict[str, Tensor]:
        """Every quantity by name: [row, site] each, in its unit."""
        return {name: self.values[:, :, i] for i, name in enumerate(self.measured)}

    def columns(self) -> dict[str, Column]:
        """Every quantity of every site, named "margin at resid_post.3"; by the quantity alone where there is one site."""
        several = len(self.sites) > 1
        return {
            f"{name} at {site}" if several else name: Column(self.values[:, i, j], unit, _ABOUT[name][1])
            for i, site in enumerate(self.sites)
            for j, (name, unit) in enumerate(zip(self.measured, self.units, strict=True))
        }

    def _per_row(self) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        return self.values, {"site": list(map(str, self.sites)), "quantity": self.measured}

    def select(
        self,
        *,
        documents: SupportsInt | Iterable[int] | None = None,
        positions: SupportsInt | slice | Iterable[int] | None = None,
        sites: Places | None = None,
        layers: Layers | None = None,
        quantities: str | Iterable[str] | None = None,
    ) -> Self:
        """The part of the result of these documents, positions (of the tokens predicted), sites, layers and quantities.

        Raises:
            InputError: something asked for is not in the result; the message lists what is.
        """
        part = super().select(documents=documents, positions=positions)
        columns = site_columns(self.sites, sites, layers)
        asked = self.measured if quantities is None else chosen_from("quantities", quantities, self.measured)
        kept = [i for i, name in enumerate(self.measured) if name in asked]
        chosen: dict[str, Any] = fields_at(part, site=columns, quantity=kept)
        chosen |= {"sites": tuple(self.sites[i] for i in columns)}
        chosen |= {name: tuple(getattr(self, name)[i] for i in kept) for name in ("measured", "units")}
        return dataclasses.replace(part, **chosen)

    def mean_profile(self, quantities: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Means over tokens at each site, with standard errors over documents (NaN for one).

        Returns:
            One line for each quantity and site: site, layer, quantity, unit, mean, se, tokens, documents.

        Raises:
            InputError: a quantity that is not there, or no rows.
        """
        mean, se = token_means(self.values, self.document)
        return _profile(self, quantities, mean, se, self.n_tokens, len(self.documents))

    def deviation(self, quantity: str) -> Tensor:
        """Standard deviation over tokens of one quantity at each site, float64 in its unit."""
        [name] = chosen_from("quantity", quantity, self.measured)
        return self.values[:, :, self.measured.index(name)].double().std(0, correction=0)

    def of_spans(self, spans: str | Iterable[Sequence[int]] | None = None, *, window: int | None = None) -> pd.DataFrame:
        r"""Means over words, answers or any other spans, a line for each: what a span of tokens is like as a whole.

        Args:
            spans: a regular expression whose matches are the spans (``r"\w+"`` for words); or [document, start, end] of each,
                in characters; None is each document as a whole. A token belongs to every span with a character of its own.
            window: the lowest mean over so many tokens one after the other in a span is wanted as well (of all of a
                shorter span), such as the least confident part of an answer.

        Returns:
            document, start, end, text, tokens, and a column of means for each of ``columns()``; with ``window`` one of lowest
            means for each, "lowest ...", too. A span given that has no token here is NaN; a match without one is left out.

        Raises:
            InputError: a text that is not known, no regular expression, an empty span, one of a document that is not there.
        """
        if window is not None:
            window = check_int("window", window, 1)
        columns = self.columns()
        values = torch.stack([column.values.double() for column in columns.values()], 1)
        lines: list[dict[str, Any]] = []
        for document, start, end in self._spans(spans):
            here = self.document == document
            if spans is not None:
                here &= (self.span[:, 0] < end) & (self.span[:, 1] > start)
            part = values[here]
            if not len(part) and (spans is None or isinstance(spans, str)):
                continue
            text = self.texts[document][start:end] if document in self.texts else ""
            line = {"document": document, "start": start, "end": end, "text": text, "tokens": len(part)}
            line |= dict(zip(columns, part.mean(0).tolist(), strict=True))
            if window is not None:
                part = part if len(part) else values.new_full((1, len(columns)), torch.nan)
                lowest = part.unfold(0, min(window, len(part)), 1).mean(-1).amin(0).tolist()
                line |= dict(zip((f"lowest {name}" for name in columns), lowest, strict=True))
            lines.append(line)
        return pd.DataFrame(lines)

    def _spans(self, spans: Any) -> list[tuple[int, int, int]]:
        if spans is None:
            ends = {document: len(self.texts[document]) if document in self.texts else -1 for document in self.documents}
            return [(document, min(0, end), end) for document, end in ends.items()]
        unknown = [document for document in self.documents if document not in self.texts]
        if unknown:
            raise InputError(f"spans need the documents' texts, which are not known of {', '.join(map(str, unknown[:5]))}")
        if isinstance(spans, str):
            try:
                pattern = re.compile(spans)
            except re.error as error:
                raise InputError(f"spans must be a regular expression; got {spans!r}: {error}") from error
            return [
                (document, *found.span())
                for document in self.documents
                for found in pattern.finditer(self.texts[document])
                if found.end() > found.start()
            ]
        try:
            given = [(int(document), int(start), int(end)) for document, start, end in spans]
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"spans must be a regular expression, or (document, start, end) of each span; got {spans!r}"
            ) from error
        chosen_from("spans", [document for document, _, _ in given], self.documents)
        for document, start, end in given:
            if not 0 <= start < end:
                raise InputError(
                    f"spans must have 0 <= start < end, characters of the text; got {start} and {end} of document {document}"
                )
        return given

    def to_pandas(self) -> pd.DataFrame:
        """The long form: document, position, start, end, token, site, layer, and a column for every quantity."""
        row, site = np.indices(self.values.shape[:2]).reshape(2, -1)
        frame = pd.DataFrame(
            {
                **self.row_columns(row),
                "site": pd.Series([place.name for place in self.sites], dtype=object).to_numpy()[site],
                "layer": torch.tensor([place.layer for place in self.sites]).numpy()[site],
                **{name: value.flatten().numpy() for name, value in self.quantities().items()},
            }
        )
        for place, (name, column) in enumerate((("start", 0), ("end", 1)), 2):
            frame.insert(place, name, self.span[:, column].numpy()[row])
        if self.generated is not None:
            frame["generated"] = self.generated.numpy()[row]
        return frame

    def _title(self) -> list[str]:
        return [title(self, over(self.n_tokens, len(self.documents), site=len(self.sites)))]

    def _table(self) -> pd.DataFrame | None:
        return profile_table(self.mean_profile(), "quantity") if self.n_tokens else None

    def _notes(self) -> list[str]:
        return [mean_over(len(self.documents))]


@dataclass(frozen=True, eq=False, repr=False)
class Confidence(SiteValues, Result):
    """How confident the prediction of every token is, at every site; of ``confidence``.

    With p the distribution from which the token came, read at a site, and p_1 ≥ p_2 ≥ ... its probabilities in order:

    | quantity | definition | unit, range |
    |---|---|---|
    | self_certainty | KL(U ‖ p) = -mean log p - log d_vocab | ``unit``, from 0 |
    | margin | p_1 - p_2 | 0 to 1 |
    | top_k_confidence | -mean log p_i over the k most probable tokens | ``unit``, from log k |
    | top_k_mass | Σ p_i over them | 0 to 1 |
    | z | (log p(token) - E log p) / √Var log p | standard deviations; 0 where all have the same log p |
    | kurtosis | mean (l - l̄)⁴ / (mean (l - l̄)²)² - 3, over the vocabulary's logits l | from -2; NaN where they are the same |

    >>> import tl_entropy as tle
    >>> result = tle.confidence(tle.demo_model(), "import os, sys", progress=False)
    >>> result.measured, tuple(result.values.shape)  # token, site, quantity
    (('self_certainty', 'margin', 'top_k_confidence', 'top_k_mass', 'z', 'kurtosis'), (4, 1, 6))
    """

    aligned = (("quantity", "measured", "units"),)


@dataclass(frozen=True, eq=False, repr=False)
class UnigramDistance(SiteValues, Result):
    """How far the prediction at every site is from the tokens' frequencies, whatever the text; of ``unigram_distance``.

    With p the distribution from which a token came, read at a site, and f the frequencies:

    | quantity | definition | unit, range |
    |---|---|---|
    | unigram_kl | KL(p ‖ f) | ``unit``, from 0 |
    | frequency_rank | number of other tokens with a frequency at least that of the most probable token | 0 to d_vocab - 1 |

    >>> import tl_entropy as tle
    >>> result = tle.unigram_distance(tle.demo_model(), ["import os, sys"], progress=False)
    >>> result.measured, bool((result.values >= 0).all())
    (('unigram_kl', 'frequency_rank'), True)
    """

    aligned = (("quantity", "measured", "units"),)


@dataclass(frozen=True, eq=False, repr=False)
class SiteMeans(Result):
    """The same means as of a ``Confidence`` or ``UnigramDistance``, from sums over a corpus of any size.

    Attributes:
        sites: what the second axis of ``sums`` means.
        measured: names of the quantities, what the third axis means.
        units: the unit of each.
        tokens: number of tokens counted.
        documents: number of documents counted.
        sums: [5, site, quantity] float64, in ``units``: Σ n_d, Σ S_d, Σ n_d², Σ n_d S_d, Σ S_d² over documents d.
        unit: "nats" or "bits".
        provenance: model, settings, corpus, versions.

    >>> import tl_entropy as tle
    >>> means = tle.confidence(tle.demo_model(), "import os", keep="summary", progress=False)
    >>> means.tokens, means.documents
    (2, 1)
    """

    aligned = (("quantity", "measured", "units"),)

    sites: tuple[Site, ...]
    measured: tuple[str, ...]
    units: tuple[str, ...]
    tokens: int
    documents: int
    sums: Float[Tensor, "5 site quantity"]
    provenance: Provenance
    unit: Unit = "nats"

    def to(self, unit: Unit) -> Self:
        """The same result in "nats" or "bits"; quantities in neither stay."""
        factors, units = in_unit(self.units, unit)
        powers = torch.tensor([0, 1, 0, 1, 2])[:, None, None]
        return dataclasses.replace(self, sums=self.sums * factors**powers, units=units, unit=unit)

    def mean_profile(self, quantities: str | Iterable[str] | None = None) -> pd.DataFrame:
        """As that of a ``Confidence``: site, layer, quantity, unit, mean, se, tokens, documents."""
        if not self.tokens:
            raise InputError("this result holds no token to take a mean of")
        n, s, nn, ns, ss = self.sums
        mean, se = clustered_mean(n, s, nn, ns, ss, self.documents)
        return _profile(self, quantities, mean, se, self.tokens, self.documents)

    def to_pandas(self) -> pd.DataFrame:
        """The mean profile of all quantities."""
        return self.mean_profile()

    def _title(self) -> list[str]:
        return [title(self, over(self.tokens, self.documents, site=len(self.sites)))]

    def _table(self) -> pd.DataFrame | None:
        return profile_table(self.mean_profile(), "quantity") if self.tokens else None

    def _notes(self) -> list[str]:
        return [mean_over(self.documents)]


def _profile(
    result: SiteValues | SiteMeans, quantities: Any, mean: Tensor, se: Tensor, tokens: int, documents: int
) -> pd.DataFrame:
    asked = result.measured if quantities is None else chosen_from("quantities", quantities, result.measured)
    lines = [
        {
            "site": site.name, "layer": site.layer, "quantity": name, "unit": unit, "mean": mean[i, j].item(),
            "se": se[i, j].item(), "tokens": tokens, "documents": documents,
        }
        for j, (name, unit) in enumerate(zip(result.measured, result.units, strict=True)) if name in asked
        for i, site in enumerate(result.sites)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def units_of(measured: Sequence[str]) -> tuple[str, ...]:
    """The units in which quantities are measured.

    >>> units_of(("self_certainty", "margin"))
    ('nats', '')
    """
    return tuple(_ABOUT[name][0] for name in measured)
