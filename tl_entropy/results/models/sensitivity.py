"""What edits at each site cost: the change of the mean loss, with errors of pairs over documents (``Sensitivity``)."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.results.base import Result, Unit, places_of
from tl_entropy.results.printing import over, plus_minus, title
from tl_entropy.results.provenance import Provenance


@dataclass(frozen=True, eq=False, repr=False)
class Sensitivity(Result):
    """How much the mean loss changes with each edit at each site. ``tle.sensitivity`` makes one.

    With c_d the change of a document's summed loss and n_d its tokens, a change is Σ c_d / Σ n_d, in ``unit`` a token, and its
    error that of this ratio over documents: of pairs, so that what a document costs anyway is no part of it.

    Attributes:
        changes: [edit, site, document] float64, Σ over a document's tokens of the loss with an edit less that without; NaN
            where the measurement was stopped before.
        loss: [document] float64, Σ over its tokens of the loss without an edit.
        tokens: [document], how many are predicted.
        edits: what each edit is called.
        sites: where each was made, sites or names of hooks or parameters.
        provenance: model, settings (``weights``: whether matrices were edited and not activations), corpus, versions.
        unit: "nats" or "bits".

    >>> import torch
    >>> from tl_entropy.results import Provenance
    >>> origin = Provenance("tiny", "abc", "raw", "float32", "cpu")
    >>> changes = torch.tensor([[[2.0, 0.0]], [[4.0, 8.0]]]).double()
    >>> tokens = torch.tensor([1, 3])
    >>> found = Sensitivity(changes, torch.ones(2).double(), tokens, ("int8", "int4"), ("resid_post.0",), origin)
    >>> found.value("int8").tolist(), found.value().tolist()
    ([0.5], [[0.5], [3.0]])
    """

    changes: Float[Tensor, "edit site document"]
    loss: Float[Tensor, "document"]
    tokens: Int[Tensor, "document"]
    edits: tuple[str, ...]
    sites: tuple[str, ...]
    provenance: Provenance
    unit: Unit = "nats"

    in_units = ("changes", "loss")

    @property
    def n_tokens(self) -> int:
        """How many tokens are predicted."""
        return int(self.tokens.sum())

    def value(self, edit: str | None = None) -> Tensor:
        """Changes of the mean loss [edit, site], or [site] of one edit, in ``unit`` a token; above 0 is worse.

        Raises:
            InputError: an edit that is not there.
        """
        return self._of(edit, 0)

    def error(self, edit: str | None = None) -> Tensor:
        """Their standard errors over documents, of pairs; NaN for a single document."""
        return self._of(edit, 1)

    def mean_loss(self) -> tuple[float, float]:
        """The mean loss without an edit, and its standard error, in ``unit`` a token."""
        mean, se = _ratio(self.loss, self.tokens)
        return float(mean), float(se)

    def to_pandas(self) -> pd.DataFrame:
        """One line an edit and site: edit, site, change, se, loss (with the edit), documents, tokens, unit."""
        frame = pd.DataFrame([(edit, site) for edit in self.edits for site in self.sites], columns=["edit", "site"])
        changes, errors = self.value().flatten().numpy(), self.error().flatten().numpy()
        frame = frame.assign(change=changes, se=errors, loss=self.mean_loss()[0] + changes)
        return frame.assign(documents=len(self.tokens), tokens=self.n_tokens, unit=self.unit)

    def _of(self, edit: str | None, which: int) -> Tensor:
        found = _ratio(self.changes, self.tokens)[which]
        return found if edit is None else found[places_of("edit", edit, self.edits)[0]]

    def _title(self) -> list[str]:
        documents = len(self.tokens)
        what = "matrices" if self.provenance.settings.get("weights") else "activations"
        mean, se = self.mean_loss()
        [loss] = plus_minus([mean], [se])
        shape = over(self.n_tokens, documents, edit=len(self.edits), site=len(self.sites))
        return [title(self, shape), f"change of the mean loss, {loss} without an edit, by edits of {what}"]

    def _table(self) -> pd.DataFrame | None:
        values, errors = self.value(), self.error()
        columns = {
            edit: plus_minus(value.tolist(), error.tolist(), sign="+")
            for edit, value, error in zip(self.edits, values, errors, strict=True)
        }
        return pd.DataFrame(columns, index=list(self.sites))

    def _notes(self) -> list[str]:
        errors = "± standard errors of pairs over documents" if len(self.tokens) > 1 else "one document, so no standard errors"
        return [f"{self.unit} a token, {errors}; above 0 is worse"]


def _ratio(sums: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Σ sums / Σ tokens over documents, the last axis, and its standard error."""
    n = tokens.double()
    return clustered_mean(
        n.sum(), sums.sum(-1), (n * n).sum(), (sums * n).sum(-1), (sums * sums).sum(-1), documents=len(tokens)
    )
