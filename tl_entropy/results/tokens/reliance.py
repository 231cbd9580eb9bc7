"""How much each token's prediction relies on a part of the model or on another token: ``TokenReliance``.

A prediction relies on something as far as it changes without it. That is not how uncertain the prediction is, nor how much
information the part holds: a token that anyone can predict may rely on one head alone, and one that nobody can predict on
none.

Means are over tokens, with standard errors over documents (``functional/statistics.py``).

Refused: a choice of metric or source that is not in the result or was left open, a matrix of what has no token for its source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, SupportsInt

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.tokens.losses import min_max
from tl_entropy.results.base import Result, Unit, chosen_from, in_unit
from tl_entropy.results.positions import token_means
from tl_entropy.results.printing import mean_over, over
from tl_entropy.results.tokens.rows import Column, TokenRows

_MOST_SHOWN = 12  # sources in the printed table
_ABOUT = {
    "l1": "sum over the vocabulary of how far each logit moved",
    "l2": "length of the change of all logits",
    "maximum": "how far the logit moved that moved most",
    "cosine": "1 - cosine between the logits with and without it",
    "kl": "nats or bits lost by predicting without it, by the model's own prediction",
    "reverse_kl": "the same with the two predictions exchanged",
    "jsd": "Jensen-Shannon divergence of the predictions with and without it",
    "fisher_rao": "angle between the predictions with and without it",
    "total_variation": "largest change of any event's probability",
    "loss": "how much more the token cost without it; below 0 it cost less",
    "entropy": "how much more uncertain the model was without it; below 0 less",
    "gradient": "gradient times activation: to first order, the value less that with the activation at 0",
}
_CHANGES = {"loss": "change of loss", "entropy": "change of entropy"}  # which by their metric's name are the values themselves


@dataclass(frozen=True, eq=False, repr=False)
class TokenReliance(TokenRows, Result):
    """How much every token's prediction changes without each source, by one or several metrics.

    Rows are the tokens predicted, ordered by document and position: a row says how the prediction *of* its token changes. A
    source is a part of the model, or with ``over="tokens"`` another token of the same document, named by its position.

    Attributes:
        values: [row, source, metric] float64, in ``units``; NaN where a source is a token that cannot change the row's:
            one that does not come before it or, where sources are masked from attention, the one right before it, which still
            sees itself.
        sources: their names.
        metrics: their names: l1, l2, maximum, cosine, kl, reverse_kl, jsd, fisher_rao, total_variation, loss, entropy; or
            gradient.
        units: the unit of each metric: "nats", "bits", "rad" or "".
        over: what the sources are, "parts" (each an intervention) or "tokens".
        unit: "nats" or "bits", for metrics that have a unit.

    The other fields are those of ``TokenRows``.

    >>> import tl_entropy as tle
    >>> edit = tle.ablate("mlp_out.5")
    >>> result = tle.token_reliance(tle.demo_model(), "import os, sys", edit, metrics=("kl",), progress=False)
    >>> result.metrics
    ('kl',)
    """

    along = None  # sources in any order

    aligned = (("metric", "metrics", "units"), ("source", "sources"))

    values: Float[Tensor, "row source metric"]
    sources: tuple[str, ...]
    metrics: tuple[str, ...]
    units: tuple[str, ...]
    over: Literal["parts", "tokens"]

    def to(self, unit: Unit) -> Self:
        """The same result in "nats" or "bits"; metrics in neither stay."""
        factors, units = in_unit(self.units, unit)
        return dataclasses.replace(self, values=self.values * factors, units=units, unit=unit)

    def select(
        self,
        *,
        documents: SupportsInt | Iterable[int] | None = None,
        positions: SupportsInt | slice | Iterable[int] | None = None,
        sources: str | SupportsInt | Iterable[str | SupportsInt] | None = None,
        metrics: str | Iterable[str] | None = None,
    ) -> Self:
        """The part of the result of these documents and positions (of the tokens predicted), sources and metrics.

        Raises:
            InputError: something asked for is not in the result (the message lists what is), or asked for twice, or nothing is.
        """
        part = super().select(documents=documents, positions=positions)
        if sources is not None:
            chosen = _names("sources", sources, self.sources)
            columns = [self.sources.index(source) for source in chosen]
            part = dataclasses.replace(part, values=part.values[:, columns], sources=tuple(chosen))
        if metrics is not None:
            chosen = _names("metrics", metrics, self.metrics)
            columns = [self.metrics.index(metric) for metric in chosen]
            units = tuple(self.units[i] for i in columns)
            part = dataclasses.replace(part, values=part.values[:, :, columns], metrics=tuple(chosen), units=units)
        return part

    def value(self, metric: str | None = None, source: str | SupportsInt | None = None) -> Float[Tensor, "row ..."]:
        """One metric [row, source], or with a source [row].

        Args:
            metric: its name; None is the first.
            source: its name, or a token's position; None is all.

        Raises:
            InputError: it is not in this result.
        """
        [name] = self.metrics[:1] if metric is None else chosen_from("metric", str(metric), self.metrics)
        values = self.values[:, :, self.metrics.index(name)]
        if source is None:
            return values
        [chosen] = chosen_from("source", _name(source), self.sources)
        return values[:, self.sources.index(chosen)]

    def normalized(self, metric: str | None = None) -> Float[Tensor, "row source"]:
        """One metric on a scale of its own for each document and source: 0 at its lowest token here, 1 at its highest.

        Tokens without a value are at 0, and so are all where every token has the same. The scale is that of the tokens in this
        result: selecting others changes it.
        """
        values = self.value(metric)
        scaled = torch.zeros_like(values)
        for document in self.documents:
            here = self.document == document
            part = values[here].T
            scaled[here] = min_max(part, part.isfinite()).T
        return scaled

    def columns(self) -> dict[str, Column]:
        """Every metric of every source, named "metric, source"; by the metric alone where there is one source.

        "loss" and "entropy" are "change of loss" and "change of entropy" here: other results have columns of the bare names.
        """
        several = len(self.sources) > 1
        return {
            _CHANGES.get(metric, metric) + (f", {self._called(source)}" if several else ""): Column(
                self.values[:, i, j],
                self.units[j],
                f"{'from' if metric == 'gradient' else 'without'} {self._called(source)}: {_ABOUT[metric]}",
            )
            for i, source in enumerate(self.sources)
            for j, metric in enumerate(self.metrics)
        }

    def mean_profile(self) -> pd.DataFrame:
        """Means over the tokens that have a value: source, metric, unit, mean, se (over documents; NaN for one), tokens.

        Raises:
            InputError: this result holds no token.
        """
        lines: list[tuple[Any, ...]] = []
        for i, source in enumerate(self.sources):
            for j, (metric, unit) in enumerate(zip(self.metrics, self.units, strict=True)):
                values = self.values[:, i, j]
                there = ~values.isnan()
                mean = error = math.nan
                if there.any() or not self.n_tokens:
                    mean, error = (number.item() for number in token_means(values[there], self.document[there]))
                lines.append((source, metric, unit, mean, error, int(there.sum())))
        return pd.DataFrame(lines, columns=["source", "metric", "unit", "mean", "se", "tokens"])

    def matrix(self, metric: str | None = None, document: int | None = None) -> pd.DataFrame:
        """One metric of one document, by positions: a line for each source with a value, a column for each token predicted.

        NaN where the source cannot change the token predicted; see ``values``.

        Args:
            metric: its name; None is the first.
            document: its number; None takes the only one.

        Raises:
            InputError: sources are no tokens, or a metric or document that is not there or was left open.
        """
        if self.over != "tokens":
            raise InputError("matrix needs tokens as sources, as of token_reliance(..., 'tokens') and gradient_reliance")
        if document is None and len(self.documents) != 1:
            raise InputError(f"document: choose one of the {len(self.documents)} in this result ({_few(self.documents)})")
        chosen = self.documents[0] if document is None else chosen_from("document", document, self.documents)[0]
        here = self.document == chosen
        values = self.value(metric)[here].T
        there = values.isfinite().any(-1)
        index = [int(source) for source, kept in zip(self.sources, there.tolist(), strict=True) if kept]
        table = pd.DataFrame(values[there].numpy(), index=index, columns=self.position[here].tolist())
        return table.rename_axis(index="source", columns="position")

    def to_pandas(self) -> pd.DataFrame:
        """The long form: document, position, start, end, token, source, metric, unit, value; a line for every value."""
        rows, sources, metrics = self.values.shape
        each = sources * metrics
        frame = pd.DataFrame(
            {
                "document": self.document.repeat_interleave(each).numpy(),
                "position": self.position.repeat_interleave(each).numpy(),
                "start": self.span[:, 0].repeat_interleave(each).numpy(),
                "end": self.span[:, 1].repeat_interleave(each).numpy(),
                "token": pd.Series([token for token in self.tokens() for _ in range(each)], dtype=object),
                "source": pd.Series([source for source in self.sources for _ in range(metrics)] * rows, dtype=object),
                "metric": pd.Series(list(self.metrics) * (rows * sources), dtype=object),
                "unit": pd.Series(list(self.units) * (rows * sources), dtype=object),
                "value": self.values.flatten().numpy(),
            }
        )
        if self.generated is not None:
            frame["generated"] = self.generated.repeat_interleave(each).numpy()
        return frame[frame["value"].notna()].reset_index(drop=True)

    def _called(self, source: str) -> str:
        return f"token {source}" if self.over == "tokens" else source

    def _title(self) -> list[str]:
        n, stopped = len(self.sources), ", interrupted" if self.provenance.interrupted else ""
        kind = "token as source" if self.over == "tokens" else "source"
        what = kind if n == 1 else kind.replace("token", "tokens") + "s"
        shape = f"{n} {what}, {over(self.n_tokens, len(self.documents))}"
        return [f"TokenReliance: {shape}; {self.provenance.model}{stopped}"]

    def _shown(self) -> pd.DataFrame:
        """The profile of the sources in the table: all, or those with the largest means of the first metric."""
        profile = self.mean_profile()
        first = profile[profile["metric"] == self.metrics[0]]
        chosen = first.loc[first["mean"].abs().nlargest(_MOST_SHOWN).index, "source"]
        return profile[profile["source"].isin(chosen)] if len(first) > _MOST_SHOWN else profile

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        of_sources = zip(map(self._called, self.sources), self.values[:, :, 0].T.tolist(), strict=True)
        return f"{self.metrics[0]}, token by token", dict(of_sources)

    def _table(self) -> pd.DataFrame | None:
        if not self.n_tokens or not self.sources:
            return None
        shown = self._shown()
        metrics = [f"{name} ({unit})" if unit else name for name, unit in zip(self.metrics, self.units, strict=True)]
        lines = [_written(part) for _, part in shown.groupby("metric", sort=False)]
        index = [self._called(source) for source in shown["source"].unique()]
        return pd.DataFrame(dict(zip(metrics, lines, strict=True)), index=index)

    def _notes(self) -> list[str]:
        counted = "the tokens that the source can change" if self.over == "tokens" else "tokens"
        notes = [mean_over(len(self.documents), counted), "reliance is not entropy, nor an estimate of it"]
        if len(self.sources) > _MOST_SHOWN:
            notes.insert(0, f"{_MOST_SHOWN} of {len(self.sources)} sources: those with the largest mean {self.metrics[0]}")
        return notes


def _name(one: Any) -> str:
    """A source's name, also where it is given as a token's position."""
    return str(one.tolist() if isinstance(one, np.ndarray | Tensor) else one)


def _names(argument: str, asked: Any, present: tuple[str, ...]) -> list[str]:
    """One or several names, each once and each one of those ``present``."""
    plain = asked.tolist() if isinstance(asked, np.ndarray | Tensor) else asked
    several = list(plain) if isinstance(plain, Iterable) and not isinstance(plain, str) else [plain]
    names = chosen_from(argument, map(_name, several), present)
    if len(set(names)) < len(names):
        raise InputError(f"{argument} must be one or several, each once; got {', '.join(names)}")
    return names


def _written(profile: pd.DataFrame) -> list[str]:
    """Means of one metric with their errors, in as many digits as the largest of them needs: an L1 norm is thousands."""
    largest = float(profile["mean"].abs().max())
    digits = min(max(3 - math.floor(math.log10(largest)), 0), 9) if 0 < largest < math.inf else 3
    pairs = zip(profile["mean"], profile["se"], strict=True)
    return [f"{m:.{digits}f}" + (f" ± {e:.{digits}f}" if math.isfinite(e) else "") for m, e in pairs]


def _few(items: tuple[int, ...]) -> str:
    return ", ".join(map(str, items[:20])) + (", ..." if len(items) > 20 else "")
