"""What a model's own text costs it beside given text, step by step behind the same prompts: ``EntropyCalibration``.

A model is calibrated in entropy where its own text costs it, on average, what given text does. Own text that costs more, and
ever more from step to step, is a generation that drifts into nonsense.

Means are over documents at each step, and over all tokens in the whole, with standard errors over documents; of differences
they are those of pairs, behind one prompt each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, counted
from tl_entropy.results.base import Result, Unit
from tl_entropy.results.positions import token_means
from tl_entropy.results.printing import mean_over, plus_minus, title
from tl_entropy.results.provenance import Provenance

QUANTITIES = ("own", "entropy", "given", "calibration", "calibration_by_entropy")
"""Of each step: costs of own text, entropies along it, costs of given text, own - given, and entropy - given."""


@dataclass(frozen=True, eq=False, repr=False)
class EntropyCalibration(Result):
    """Surprisals of a model's own text and of given text, behind the same prompts.

    Attributes:
        own: [document, step], surprisal of the token that the model wrote, in ``unit``; NaN behind the text's end.
        entropy: [document, step], entropy of the distribution from which it was drawn, in ``unit``: the mean of what ``own`` is
            at temperature 1, with less spread.
        given: [document, step], surprisal of the document's own token, in ``unit``; NaN behind its end.
        document: [document], their numbers in the input.
        prompt_tokens: how many tokens each prompt has.
        provenance: model, settings, corpus, versions.
        unit: "nats" or "bits".

    >>> import tl_entropy as tle
    >>> result = tle.entropy_calibration(tle.demo_model(), tle.demo_texts(2), prompt_tokens=8, steps=4, progress=False)
    >>> tuple(result.own.shape), result.unit  # document, step
    ((2, 4), 'nats')
    """

    along = None  # quantities of several kinds
    in_units = ("own", "entropy", "given")

    own: Float[Tensor, "document step"]
    entropy: Float[Tensor, "document step"]
    given: Float[Tensor, "document step"]
    document: Int[Tensor, "document"]
    prompt_tokens: int
    provenance: Provenance
    unit: Unit = "nats"

    def quantities(self) -> dict[str, Tensor]:
        """Every quantity by name: [document, step] each, in ``unit``; NaN where a text has ended."""
        differences = {"calibration": self.own - self.given, "calibration_by_entropy": self.entropy - self.given}
        return {"own": self.own, "entropy": self.entropy, "given": self.given, **differences}

    def mean_profile(self) -> pd.DataFrame:
        """Means over documents at each step: step (from 1), quantity, unit, mean, se (NaN for one document), documents."""
        lines = []
        for name, values in self.quantities().items():
            for step, column in enumerate(values.unbind(1), 1):
                known = ~column.isnan()
                if known.any():
                    mean, se = token_means(column[known], self.document[known])
                    numbers = (self.unit, mean.item(), se.item(), int(known.sum()))
                    lines.append((step, name, *numbers))
        return pd.DataFrame(lines, columns=["step", "quantity", "unit", "mean", "se", "documents"])

    def means(self) -> pd.DataFrame:
        """Means over the tokens of all steps: quantity, unit, mean, se (over documents; NaN for one), tokens, documents.

        Raises:
            InputError: no document.
        """
        lines = []
        for name, values in self.quantities().items():
            known = ~values.isnan()
            document = self.document[:, None].expand_as(values)[known]
            if not len(document):
                raise InputError(f"this result holds no step to take a mean of {name} of")
            mean, se = token_means(values[known], document)
            lines.append((name, self.unit, mean.item(), se.item(), len(document), len(document.unique())))
        return pd.DataFrame(lines, columns=["quantity", "unit", "mean", "se", "tokens", "documents"])

    def to_pandas(self) -> pd.DataFrame:
        """The long form: document, step (from 1), own, entropy, given; NaN where a text has ended."""
        documents, steps = self.own.shape
        return pd.DataFrame(
            {
                "document": self.document.repeat_interleave(steps).numpy(),
                "step": torch.arange(1, steps + 1).repeat(documents).numpy(),
                **{name: getattr(self, name).flatten().numpy() for name in self.in_units},
            }
        )

    @property
    def tokens(self) -> int:
        """Number of tokens that the model wrote."""
        return int((~self.own.isnan()).sum())

    def _title(self) -> list[str]:
        documents, steps = self.own.shape
        shape = f"{counted(documents, 'document')} x {counted(steps, 'step')} behind {counted(self.prompt_tokens, 'token')}"
        return [title(self, shape)]

    def _table(self) -> pd.DataFrame | None:
        means = self.means()
        return pd.DataFrame({self.unit: plus_minus(means["mean"], means["se"])}, index=means["quantity"].tolist())

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "step by step", {
            name: part["mean"].tolist() for name, part in self.mean_profile().groupby("quantity", sort=False)
        }

    def _notes(self) -> list[str]:
        return [f"{mean_over(len(self.own))}; calibration: own - given, of pairs"]
