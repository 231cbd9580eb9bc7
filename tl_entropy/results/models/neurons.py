r"""What neurons do to the entropy and the loss of the output, and by which way (``NeuronEffects``).

Of every neuron: four numbers of its weights, and what changes where its activation is set to its mean. Effects are sums over
tokens with their products over documents, so that means, and shares that are ratios of sums, have errors over documents:

    m = Σ_d A_d / Σ_d B_d,    se² = D / (D - 1) · Σ_d (A_d - m B_d)² / (Σ_d B_d)²,

with B_d the number of tokens for a mean, and the sum of total effects for a share.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, counted
from tl_entropy.results.base import PER_NAT, Result, Unit
from tl_entropy.results.printing import plus_minus, title
from tl_entropy.results.provenance import Provenance

WEIGHTS = ("norm", "logit_var", "null_share", "unigram_cosine")
"""What is known of a neuron by its weights."""

CHANGES = (
    "entropy", "loss", "unigram_kl", "direct_entropy", "direct_loss", "off_unigram_entropy", "off_unigram_loss",
)  # fmt: skip
"""Effects: of the whole ablation, of what goes straight to the logits, of what is not along the unigram direction."""

SIZES = tuple(f"abs_{name}" for name in CHANGES if name != "unigram_kl")
"""Effects without their signs, token by token."""

BASELINE = ("entropy", "loss", "unigram_kl")
"""What the effects are changes of."""


@dataclass(frozen=True, eq=False, repr=False)
class NeuronEffects(Result):
    """What the output loses without a neuron, by which way, and what its weights say of that. ``tle.neurons`` makes one.

    Attributes:
        neurons: [neuron, 2] int64, layer and number of those ablated.
        roles: of each: "entropy" and "frequency" (candidates by their weights), "given", or "placebo".
        activations: [neuron] the mean activation that is put in.
        products: [neuron, 2 + effect, 2 + effect] float64, Σ_d a_d a_dᵀ over documents, a_d = (1, tokens, sums of effects).
        baseline: [5, 3] float64, Σ n, Σ S, Σ n², Σ n S, Σ S² over documents of the entropy, the loss and the distance from the
            token frequencies with nothing ablated.
        screened: [all, 2] int64, layer and number of all neurons of the layers.
        weights: [all, 4] float64: norm, logit_var, null_share, unigram_cosine.
        null_directions: how many of the smallest singular directions of the unembedding are its null space here.
        provenance: model, settings, corpus, versions.
        unit: "nats" or "bits".

    >>> import tl_entropy as tle
    >>> found = tle.neurons(tle.demo_model(), ["import os", "x = 1"], candidates=1, placebos=1, progress=False)
    >>> found.roles, found.documents
    (('entropy', 'frequency', 'placebo'), 2)
    """

    neurons: Int[Tensor, "neuron 2"]
    roles: tuple[str, ...]
    activations: Float[Tensor, "neuron"]
    products: Float[Tensor, "neuron sum sum"]
    baseline: Float[Tensor, "5 3"]
    screened: Int[Tensor, "all 2"]
    weights: Float[Tensor, "all 4"]
    null_directions: int
    provenance: Provenance
    unit: Unit = "nats"

    aligned = (("neuron", "roles"),)
    along = None

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``."""
        check_choice("unit", unit, PER_NAT)
        factor = PER_NAT[unit] / PER_NAT[self.unit]
        each = torch.tensor([1.0, 1.0] + [factor] * (self.products.shape[-1] - 2), dtype=torch.float64)
        powers = factor ** torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
        products, baseline = self.products * each[:, None] * each, self.baseline * powers[:, None]
        return dataclasses.replace(self, products=products, baseline=baseline, unit=unit)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return int(self.products[0, 0, 0])

    @property
    def tokens(self) -> int:
        """Number of tokens predicted."""
        return int(self.products[0, 0, 1])

    @property
    def names(self) -> tuple[str, ...]:
        """Layer and number of each neuron ablated, such as "11.584"."""
        return tuple(f"{layer}.{neuron}" for layer, neuron in self.neurons.tolist())

    def effect(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean over tokens of an effect of every neuron [neuron], and its standard error over documents.

        Args:
            name: "entropy", "loss", "unigram_kl" (the whole ablation), "direct_entropy", "direct_loss" (straight to the logits,
                with the final norm's scale as it was), "off_unigram_entropy", "off_unigram_loss" (the whole, but with the
                logits' part along the unigram direction as it was); with "abs_" before it, without signs.

        >>> import tl_entropy as tle
        >>> found = tle.neurons(tle.demo_model(), ["import os", "x = 1"], candidates=1, placebos=1, progress=False)
        >>> size, signed = found.effect("abs_loss")[0], found.effect("loss")[0]
        >>> bool((size >= signed.abs()).all())
        True
        """
        check_choice("name", name, (*CHANGES, *SIZES))
        return self._ratio(_column(name), 1)

    def mediated(self, of: str = "loss", by: str = "norm") -> tuple[Tensor, Tensor]:
        """Share of a neuron's effect on ``of`` that goes another way, 1 - mean |rest| / mean |total|, and its standard error.

        Args:
            of: "loss" or "entropy".
            by: "norm": not straight to the logits but through the final norm's scale (and later layers, where there are any);
                "unigram": along the direction of the token frequencies.

        Returns:
            [neuron] each; up to 1, below 0 where the rest does more than the whole; NaN where the whole does nothing.
        """
        check_choice("of", of, ("loss", "entropy"))
        check_choice("by", by, ("norm", "unigram"))
        rest = f"abs_{'direct' if by == 'norm' else 'off_unigram'}_{of}"
        share, error = self._ratio(_column(rest), _column(f"abs_{of}"))
        return 1 - share, error

    def p_values(self, of: str = "entropy") -> Tensor:
        """[neuron] share of a neuron and the placebos of its layer whose effect on ``of`` is at least as large as its own.

        (1 + rank) / (1 + n), without regard to signs; NaN for placebos and in layers without any. "entropy", "loss" and
        "unigram_kl" are means over tokens, in which changes of either sign cancel; "abs_entropy" and "abs_loss" are means of
        what changes at each token, whichever way.
        """
        check_choice("of", of, ("loss", "entropy", "unigram_kl", "abs_entropy", "abs_loss"))
        size = self.effect(of)[0].abs()
        placebo = torch.tensor([role == "placebo" for role in self.roles])
        found = torch.full_like(size, math.nan)
        for i in (~placebo).nonzero()[:, 0].tolist():
            others = size[placebo & (self.neurons[:, 0] == self.neurons[i, 0])]
            if len(others):
                found[i] = (1 + (others >= size[i]).sum()) / (1 + len(others))
        return found

    def screening(self) -> pd.DataFrame:
        """All neurons of the layers by their weights: layer, neuron, norm, logit_var, null_share, unigram_cosine."""
        columns = dict(zip(WEIGHTS, self.weights.T.numpy(), strict=True))
        return pd.DataFrame({"layer": self.screened[:, 0].numpy(), "neuron": self.screened[:, 1].numpy(), **columns})

    def baselines(self) -> pd.DataFrame:
        """With nothing ablated: quantity, mean, se, unit."""
        n, s, nn, ns, ss = self.baseline
        mean = s / n
        spread = (ss - 2 * mean * ns + mean * mean * nn).clamp_min(0) * self._correction
        return pd.DataFrame({"quantity": BASELINE, "mean": mean, "se": spread.sqrt() / n, "unit": self.unit})

    def to_pandas(self) -> pd.DataFrame:
        """One line a neuron ablated: layer, neuron, role, its weights, activation, then each effect with its error (``_se``),
        norm_share_loss, norm_share_entropy, unigram_share_loss, unigram_share_entropy with theirs, p_entropy, p_loss,
        tokens, documents, unit.
        """  # fmt: skip
        place = {tuple(pair): i for i, pair in enumerate(self.screened.tolist())}
        rows = self.weights[[place[tuple(pair)] for pair in self.neurons.tolist()]]
        columns: dict[str, object] = {
            "layer": self.neurons[:, 0].numpy(), "neuron": self.neurons[:, 1].numpy(), "role": self.roles,
            **dict(zip(WEIGHTS, rows.T.numpy(), strict=True)), "activation": self.activations.numpy(),
        }  # fmt: skip
        for name in (*CHANGES, *SIZES):
            columns[name], columns[f"{name}_se"] = (x.numpy() for x in self.effect(name))
        for by in ("norm", "unigram"):
            for of in ("loss", "entropy"):
                name = f"{by}_share_{of}"
                columns[name], columns[f"{name}_se"] = (x.numpy() for x in self.mediated(of, by))
        columns |= {f"p_{of}": self.p_values(of).numpy() for of in ("entropy", "loss")}
        return pd.DataFrame(columns).assign(tokens=self.tokens, documents=self.documents, unit=self.unit)

    @property
    def _correction(self) -> float:
        d = self.documents
        return d / (d - 1) if d > 1 else math.nan

    def _ratio(self, top: int, bottom: int) -> tuple[Tensor, Tensor]:
        """Σ_d A_d / Σ_d B_d of two columns of the products, and its standard error over documents."""
        p = self.products
        total = p[:, 0, bottom]
        ratio = p[:, 0, top] / total
        spread = p[:, top, top] - 2 * ratio * p[:, top, bottom] + ratio.square() * p[:, bottom, bottom]
        return ratio, (spread.clamp_min(0) * self._correction).sqrt() / total

    def _title(self) -> list[str]:
        shape = f"{counted(len(self.roles), 'neuron')} x {counted(self.documents, 'document')}"
        return [title(self, shape), f"{counted(self.tokens, 'token')}; what changes with a neuron at its mean, in {self.unit}"]

    def _table(self) -> pd.DataFrame | None:
        if not self.tokens:
            return None
        frame = self.to_pandas()
        columns: dict[str, object] = {"role": self.roles, "null share": [f"{x:.2f}" for x in frame["null_share"]]}
        columns["unigram cos"] = [f"{x:.2f}" for x in frame["unigram_cosine"]]
        for name in ("entropy", "direct_entropy", "loss"):
            columns[name.replace("_", " ")] = plus_minus(frame[name].tolist(), frame[f"{name}_se"].tolist())
        columns["by norm"] = [f"{x:.2f}" for x in frame["norm_share_loss"]]
        columns["by unigram"] = [f"{x:.2f}" for x in frame["unigram_share_loss"]]
        columns["p"] = ["" if math.isnan(x) else f"{x:.2g}" for x in frame["p_entropy"]]
        return pd.DataFrame(columns, index=list(self.names))

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        values = torch.stack([self.effect(name)[0] for name in ("entropy", "direct_entropy", "off_unigram_entropy")], 1)
        return "entropy: whole, direct, off unigram", dict(zip(self.names, values.tolist(), strict=True))

    def _notes(self) -> list[str]:
        errors = "± standard error over documents" if self.documents > 1 else "one document, so no standard errors"
        return [
            f"{errors}; null share: of the norm, in the {self.null_directions} smallest singular "
            "directions of the unembedding; by norm, by unigram: share of |change of loss| that goes that way; p: among the "
            "placebos of its layer, by |change of entropy|"
        ]

    def __post_init__(self) -> None:
        if not len(self.neurons):
            raise InputError("neurons: none were ablated")


def _column(name: str) -> int:
    return 2 + (*CHANGES, *SIZES).index(name)
