"""Features of spans (``SpanFeatures``): one row a span of tokens, one column a quantity of the model there.

``discriminate`` asks how well they tell labels of spans apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, counted
from tl_entropy.results.base import Result, Unit, chosen_from, in_unit
from tl_entropy.results.printing import title
from tl_entropy.results.provenance import Provenance


@dataclass(frozen=True, eq=False, repr=False)
class SpanFeatures(Result):
    """Quantities of a result at spans of its tokens; ``span_features`` makes one.

    Attributes:
        values: [span, feature] float64; NaN where a span has no value.
        features: what the second axis means, such as "entropy attn_out.3, mean".
        units: of each feature; "" for a number without one.
        document: [span], number of the text in the input.
        start: [span], position of the span's first token.
        end: [span], one behind its last.
        tokens: [span], how many of them have a row in the result.
        unit: "nats" or "bits", of what is in one of them.
        provenance: model, settings, corpus, versions.

    >>> import tl_entropy as tle
    >>> modules = ("attn_out", "mlp_out", "resid_post")
    >>> found = tle.lens_entropy(tle.demo_model(), ["import os", "x"], sites=modules, progress=False)
    >>> tle.span_features(found).values.shape
    torch.Size([2, 18])
    """

    aligned = (("feature", "features", "units"),)
    along = None

    values: Float[Tensor, "span feature"]
    features: tuple[str, ...]
    units: tuple[str, ...]
    document: Int[Tensor, "span"]
    start: Int[Tensor, "span"]
    end: Int[Tensor, "span"]
    tokens: Int[Tensor, "span"]
    provenance: Provenance
    unit: Unit = "nats"

    def to(self, unit: Unit) -> SpanFeatures:
        """The same result in "nats" or "bits"; what is in neither stays."""
        factors, units = in_unit(self.units, unit)
        return dataclasses.replace(self, values=self.values * factors, units=units, unit=unit)

    def select(self, features: str | Iterable[str]) -> SpanFeatures:
        """The same of some features alone, by name, in the order of the result.

        Raises:
            InputError: a feature that is not here; the message lists those that are.
        """
        wanted = set(chosen_from("features", features, self.features))
        places = [i for i, name in enumerate(self.features) if name in wanted]
        names, units = (tuple(of[i] for i in places) for of in (self.features, self.units))
        return dataclasses.replace(self, values=self.values[:, places], features=names, units=units)

    def to_pandas(self) -> pd.DataFrame:
        """One line a span: document, start, end, tokens, and a column for each feature."""
        where = {name: getattr(self, name).numpy() for name in ("document", "start", "end", "tokens")}
        return pd.concat([pd.DataFrame(where), pd.DataFrame(self.values.numpy(), columns=list(self.features))], axis=1)

    def _title(self) -> list[str]:
        spans, documents = counted(len(self.document), "span"), counted(len(self.document.unique()), "document")
        return [title(self, f"{spans} of {documents} x {counted(len(self.features), 'feature')}")]

    def _table(self) -> pd.DataFrame | None:
        if not len(self.document):
            return None
        known = pd.DataFrame(self.values.numpy(), columns=list(self.features))
        shown = {"mean": known.mean(), "deviation": known.std(ddof=0), "spans": known.notna().sum()}
        return pd.DataFrame(shown).map(lambda number: f"{number:.3f}" if isinstance(number, float) else str(number))

    def _courses(self) -> tuple[str, dict[str, list[float]]]:
        return "span by span", dict(zip(self.features, self.values.T.tolist(), strict=True))

    def _notes(self) -> list[str]:
        return ["mean and standard deviation over spans that have a value"]


@dataclass(frozen=True, eq=False, repr=False)
class Discrimination(Result):
    """How well features tell spans that are True from those that are False, one by one and together.

    ``discriminate`` makes one.

    Attributes:
        auroc: [feature] float64, probability that a span that is True has the higher value, ties a half; 0.5 is chance, and
            below it a low value speaks for True.
        se: [feature], standard error over groups; NaN for a single one.
        oriented: [feature], the same where a single feature's direction was chosen on other groups; below 0.5 where what was
            chosen fails.
        aurc: [feature], mean over coverages of the share of True among the spans that the oriented feature holds the least.
        risk: [feature, coverage], that share at each coverage.
        p: [feature], share of shuffled labellings whose area is as far from 0.5; of the probe, as high.
        p_any: [feature], share of them where any feature's area is: adjusted for the number of tests. NaN for the probe.
        null: [shuffle], largest distance of any feature's area from 0.5 when labels are shuffled.
        probe_null: [refit], areas of the probe for shuffled labels.
        features: what the first axis means; "probe", a linear classifier of all features, is the last where there is one.
        coverages: what the second axis of ``risk`` means, shares of the spans.
        n_tests: how many features were looked at, the probe among them.
        spans: number of spans, those that are True, and those left out for want of a value.
        groups: number of groups, which are held out whole.
        provenance: of the features.

    >>> import torch
    >>> import tl_entropy as tle
    >>> texts = ["import os"] * 4 + ["x = 1"] * 4
    >>> features = tle.span_features(tle.lens_entropy(tle.demo_model(), texts, layers=[-1], progress=False))
    >>> found = tle.discriminate(features, [False] * 4 + [True] * 4, probe=False)
    >>> found.auroc[0].item() in (0.0, 1.0)
    True
    """

    aligned = (("feature", "features"), ("coverage", "coverages"))
    along = None

    auroc: Float[Tensor, "feature"]
    se: Float[Tensor, "feature"]
    oriented: Float[Tensor, "feature"]
    aurc: Float[Tensor, "feature"]
    risk: Float[Tensor, "feature coverage"]
    p: Float[Tensor, "feature"]
    p_any: Float[Tensor, "feature"]
    null: Float[Tensor, "shuffle"]
    probe_null: Float[Tensor, "refit"]
    features: tuple[str, ...]
    coverages: tuple[float, ...]
    n_tests: int
    spans: tuple[int, int, int]
    groups: int
    provenance: Provenance
    unit: Unit = "nats"

    def to_pandas(self) -> pd.DataFrame:
        """One line a feature: feature, auroc, se, oriented, aurc, p, p_any, spans, positive, groups."""
        names = ("auroc", "se", "oriented", "aurc", "p", "p_any")
        columns = {name: getattr(self, name).numpy() for name in names}
        counts = {"spans": self.spans[0], "positive": self.spans[1], "groups": self.groups}
        return pd.DataFrame({"feature": list(self.features), **columns}).assign(**counts)

    def _title(self) -> list[str]:
        total, positive, _ = self.spans
        shape = (
            f"{counted(len(self.features), 'feature')} of {counted(total, 'span')}, {positive} True, in {self.groups} groups"
        )
        return [f"Discrimination: {shape}; {self.provenance.model}"]

    def _table(self) -> pd.DataFrame | None:
        table = self.to_pandas().set_index("feature")[["auroc", "se", "oriented", "aurc", "p", "p_any"]]
        table.index.name = None
        return table.map(lambda number: "" if number != number else f"{number:.3f}")

    def _courses(self) -> tuple[str, dict[str, list[float]]]:
        return "risk by coverage", dict(zip(self.features, self.risk.tolist(), strict=True))

    def _notes(self) -> list[str]:
        left = f"; {self.spans[2]} without a value left out" if self.spans[2] else ""
        return [
            f"area ± standard error over groups; {counted(self.n_tests, 'test')} made: p_any is of the best of all{left}",
            f"share of True spans, which is the risk of all: {self.spans[1] / self.spans[0]:.3f}",
        ]


def truths(features: SpanFeatures, labels: Any) -> Tensor:
    """[span] bool: labels as a sequence or array of truth values, or as a mapping from (document, start, end) to them.

    Raises:
        InputError: labels of another number, or a mapping without some span.
        InputTypeError: labels that are no truth values.
    """
    if isinstance(labels, Mapping):
        keys = list(zip(features.document.tolist(), features.start.tolist(), features.end.tolist(), strict=True))
        missing = [key for key in keys if key not in labels]
        if missing:
            raise InputError(f"labels must have every span (document, start, end); it lacks {missing[0]}")
        labels = [labels[key] for key in keys]
    try:
        found = np.asarray(labels.tolist() if isinstance(labels, Tensor) else labels)
    except ValueError as error:  # lists of several lengths
        raise InputTypeError("labels must be truth values, or 0 and 1, one for each span; got lists in a list") from error
    if found.dtype != bool and not (found.dtype.kind in "iu" and set(np.unique(found)) <= {0, 1}):
        raise InputTypeError(f"labels must be truth values, or 0 and 1, one for each span; got {found.dtype}")
    if found.shape != (len(features.document),):
        raise InputError(f"labels must be one for each of {len(features.document)} spans; got the shape {list(found.shape)}")
    return torch.from_numpy(found.astype(bool))
