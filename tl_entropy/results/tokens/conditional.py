"""What each token adds to the entropy of all that came before it, by differences of whole sequences' losses.

H(t_N | t_<N) = H(t_0 .. t_N) - H(t_0 .. t_{N-1}), the chain rule (Shannon 1948), with the total loss of a model over a
sequence in the place of each H (``analyses/tokens/sequence_loss.py``). Where a model's losses look ahead, the difference may be
negative.

Refused: a mean of no tokens, and parts that are not in the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tl_entropy.functional.statistics import document_sums
from tl_entropy.results.base import Result
from tl_entropy.results.positions import token_means
from tl_entropy.results.printing import mean_over, over, plus_minus, title
from tl_entropy.results.tokens.rows import Column, TokenRows

_ABOUT = "what the token adds to the loss of the sequence that it ends"


@dataclass(frozen=True, eq=False, repr=False)
class ConditionalEntropy(TokenRows, Result):
    """What each token added to the loss of its sequence.

    Rows are ordered by document and position, and each is about its own token. A document's first token is there where a BOS
    precedes it.

    Attributes:
        entropy: [row] float64, loss of the sequence that ends with the token minus that of the same sequence without it, in
            ``unit``; at least 0 (up to rounding) where every loss depends on earlier tokens alone, else of any sign.
        method: "truncation" or "pad_shift", how the token was taken away.
        unit: "nats" or "bits".

    The other fields are those of ``TokenRows``.

    >>> import torch
    >>> from tl_entropy.results import Provenance
    >>> origin = Provenance("m", "0", "raw", "float32", "cpu")
    >>> rows = {"document": torch.tensor([0, 0]), "position": torch.tensor([0, 1]), "token": torch.tensor([5, 6])}
    >>> result = ConditionalEntropy(
    ...     entropy=torch.tensor([1.0, 2.0]).double(), span=torch.tensor([[0, 1], [1, 2]]), strings={5: "a", 6: "b"},
    ...     texts={0: "ab"}, provenance=origin, **rows)
    >>> result.totals()[["document", "tokens", "total"]].values.tolist()
    [[0.0, 2.0, 3.0]]
    """

    along = None

    entropy: Float[Tensor, "row"]
    method: str = "truncation"

    in_units = ("entropy",)

    def columns(self) -> dict[str, Column]:
        """The conditional entropy."""
        return {"conditional_entropy": Column(self.entropy, self.unit, _ABOUT)}

    def mean(self) -> tuple[float, float]:
        """Mean over tokens and its standard error over documents (NaN for a single one), in ``unit``.

        Raises:
            InputError: there are no tokens.
        """
        mean, error = token_means(self.entropy, self.document)
        return mean.item(), error.item()

    def totals(self) -> pd.DataFrame:
        """One line for each document: document, name, tokens, total and mean, in ``unit``.

        By truncation, and where every position of a document within one window was counted, the total is the loss of the whole
        document, less that of its BOS (or, without one, its first token) alone.
        """
        documents, sums, tokens = document_sums(self.entropy, self.document)
        return pd.DataFrame(
            {
                "document": documents.numpy(),
                "name": [self.names.get(document, "") for document in documents.tolist()],
                "tokens": tokens.long().numpy(),
                "total": sums.numpy(),
                "mean": (sums / tokens).numpy(),
            }
        )

    def _title(self) -> list[str]:
        shape = f"{over(self.n_tokens, len(self.documents))} by {self.method}"
        return [title(self, shape)]

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "token by token", {"mean": self.entropy.tolist()}

    def _table(self) -> pd.DataFrame | None:
        if not self.n_tokens:
            return None
        mean, error = self.mean()
        shown = {
            "mean": plus_minus([mean], [error])[0],
            "smallest": f"{self.entropy.min().item():.3f}",
            "largest": f"{self.entropy.max().item():.3f}",
            "below 0": f"{(self.entropy < 0).double().mean().item():.1%}",
        }
        return pd.DataFrame({self.unit: shown})

    def _notes(self) -> list[str]:
        return [f"{mean_over(len(self.documents))}; {_ABOUT}"]
