"""The course of a training: lens entropy at every site and the loss, step by step, on the same held-out texts.

Each step has means over all tokens, with standard errors over documents (see ``LensSummary``). The documents are the same at
all steps, so that two steps differ by less than their errors suggest.

Refused: joining histories of other sites, units, settings, models, or counts of what was read, or whose steps do not rise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, counted, listed
from tl_entropy.results.base import Result, Unit
from tl_entropy.results.printing import mean_over, over, plus_minus, title
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

MOST_SHOWN = 6
"""Steps in a printed table: the first, the last, and some between."""


@dataclass(frozen=True, eq=False, repr=False)
class EntropyHistory(Result):
    """Mean lens entropy of every site, and the model's loss, at each step of a training that was measured.

    Attributes:
        steps: [step], rising.
        entropy: [step, site] float64, mean Shannon entropy over tokens, in ``unit``, from 0 to log d_vocab.
        entropy_se: [step, site], its standard error over documents; NaN for a single document.
        loss: [step] float64, mean surprisal of the documents' next tokens, in ``unit`` a token. A document's first token, which
            no token of the document precedes, is in no loss; NaN where every document has but one.
        loss_se: [step], its standard error over documents.
        sites: what the second axis means, in order of depth; the last is the model's last resid_post, that is, its output.
        tokens: number of positions that each entropy is a mean over.
        loss_tokens: number of tokens that each loss is a mean over.
        documents: number of documents.
        provenance: model, settings, corpus, versions; the weights are those of the last step.
        unit: "nats" or "bits".

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> monitor = tle.EntropyMonitor(model, "import os")
    >>> for step in (0, 10):
    ...     found = monitor(step)
    >>> monitor.history.steps.tolist()
    [0, 10]
    """

    along = "columns"  # step by step

    steps: Int[Tensor, "step"]
    entropy: Float[Tensor, "step site"]
    entropy_se: Float[Tensor, "step site"]
    loss: Float[Tensor, "step"]
    loss_se: Float[Tensor, "step"]
    sites: tuple[Site, ...]
    tokens: int
    loss_tokens: int
    documents: int
    provenance: Provenance
    unit: Unit = "nats"

    in_units = ("entropy", "entropy_se", "loss", "loss_se")

    @property
    def output(self) -> Float[Tensor, "step"]:
        """Mean entropy of the model's own output [step], in ``unit``."""
        return self.entropy[:, -1]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One history of several, each going on where the one before ended: of a training that was taken up again.

        Raises:
            InputError: no history, steps that do not rise, or parts that differ in sites, unit, settings, the model's name, or
                how much was read.
            InputTypeError: something else than histories.
        """
        whole: list[Self] = listed("parts", parts, "histories")
        if not whole:
            raise InputError("parts is empty; give at least one history")
        for part in whole:
            if not isinstance(part, cls):
                raise InputTypeError(f"parts must be histories of an EntropyMonitor; got {type(part).__name__}")
            digests = all("digest" in one.provenance.corpus for one in (whole[0], part))  # files before 0.6 have none
            for name, mine, theirs in zip(_ALIKE, _identity(whole[0], digests), _identity(part, digests), strict=True):
                if mine != theirs:
                    raise InputError(
                        f"parts must be of one training: {name} is {_shown(mine)} at step {int(whole[0].steps[0])} and "
                        f"{_shown(theirs)} at step {int(part.steps[0])}"
                    )
        steps = torch.cat([part.steps for part in whole])
        if falls := (steps.diff() <= 0).nonzero().flatten().tolist():
            raise InputError(f"steps must rise strictly; step {int(steps[falls[0]])} is followed by {int(steps[falls[0] + 1])}")
        together: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in whole]) for name in cls.in_units}
        return dataclasses.replace(whole[-1], steps=steps, **together)

    def to_pandas(self) -> pd.DataFrame:
        """The long form, one line for each step and site: step, site, layer, entropy, se; and loss, loss_se of the step."""
        n_steps, n_sites = self.entropy.shape
        return pd.DataFrame(
            {
                "step": np.repeat(self.steps.numpy(), n_sites),
                "site": [site.name for site in self.sites] * n_steps,
                "layer": [site.layer for site in self.sites] * n_steps,
                "entropy": self.entropy.flatten().numpy(),
                "se": self.entropy_se.flatten().numpy(),
                "loss": np.repeat(self.loss.numpy(), n_sites),
                "loss_se": np.repeat(self.loss_se.numpy(), n_sites),
            }
        )

    def _title(self) -> list[str]:
        axes = f"{counted(len(self.steps), 'step')} x {counted(len(self.sites), 'site')}"
        return [title(self, f"{axes}, {over(self.tokens, self.documents)}")]

    def _table(self) -> pd.DataFrame:
        shown = np.unique(np.linspace(0, len(self.steps) - 1, MOST_SHOWN).round().astype(int))
        values = torch.cat([self.entropy, self.loss[:, None]], 1)
        errors = torch.cat([self.entropy_se, self.loss_se[:, None]], 1)
        columns = {f"step {int(self.steps[i])}": plus_minus(values[i].tolist(), errors[i].tolist()) for i in shown}
        return pd.DataFrame(columns, index=[*map(str, self.sites), "loss"])

    def _notes(self) -> list[str]:
        left = len(self.steps) - MOST_SHOWN
        notes = [f"{mean_over(self.documents)}; {self.sites[-1]} is the output"]
        return [*notes, f"{counted(left, 'more step')} between"] if left > 0 else notes


_ALIKE = ("sites", "unit", "tokens", "loss_tokens", "documents", "corpus", "model", "settings")


def _identity(history: EntropyHistory, digests: bool) -> tuple[object, ...]:
    """What the parts of one history share, in the order of ``_ALIKE``; what is found out on the way may change."""
    origin = history.provenance
    varying = ("compiled", "readout_error", "readout_scale")
    settings = {name: value for name, value in origin.settings.items() if name not in varying}
    return (
        history.sites, history.unit, history.tokens, history.loss_tokens, history.documents, 
        {name: value for name, value in origin.corpus.items() if digests or name != "digest"},
        origin.model, settings,
    )  # fmt: skip


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
