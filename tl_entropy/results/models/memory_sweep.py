r"""What a memory costs and what it saves: models with memories of several sizes, on several grids (``MemorySweep``).

Of a memory of n numbers of b bits for each of w windows, in which T tokens are predicted, a code of the text needs

    L + L_o,    L_o = n · b · ln 2 · w / T    nats a token,

with L the loss of the decoder that is told the numbers **as they are on the grid**. Every such sum is an upper bound on the
entropy rate of the source, up to its error; the least of them is the estimate. A loss of numbers that are on no grid is no part
of any code, whatever is charged for them.

Errors are over documents (``functional/statistics.py``), of L alone: the price is the same in any text of as many tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import check_number, counted
from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.results.base import PER_NAT, Result
from tl_entropy.results.printing import plus_minus, title
from tl_entropy.results.provenance import Provenance


class Cell(NamedTuple):
    """One size of a memory, and what it costs.

    Attributes:
        value: L + L_o in the result's unit a token.
        se: its standard error over documents; NaN for one.
        numbers: n, 0 for the causal model.
        bits: b of each; 0 for the causal model.
    """

    value: float
    se: float
    numbers: int
    bits: int


@dataclass(frozen=True, eq=False, repr=False)
class MemorySweep(Result):
    """Losses of a causal model and of models with memories of several sizes, on the same texts. ``memory_sweep`` makes one.

    Attributes:
        nats: [cell, document] float64, total loss of each document, in ``unit``, with the memory on its grid.
        numbers: [cell], n; 0 for the causal model.
        bits: [cell], b; 0 for the causal model.
        tokens: [document], tokens predicted.
        windows: [document], each with a memory of its own.
        n_bytes: [document], UTF-8 bytes of these tokens; NaN where they are not known.
        tokens_seen: [cell], tokens that were trained on.
        seconds: [cell], of the training.
        provenance: of the model that was trained last; its settings are those of the sweep.
        unit: "nats" or "bits".

    >>> import torch
    >>> from tl_entropy.results import Provenance
    >>> origin, one = Provenance("tiny", "abc", "raw", "float32", "cpu"), torch.ones(1).long()
    >>> found = MemorySweep(torch.tensor([[8.0], [1.0]]).double(), torch.tensor([0, 4]), torch.tensor([0, 2]), 16 * one, one,
    ...                     16.0 * one.double(), torch.tensor([9, 9]), torch.zeros(2).double(), origin)
    >>> found.estimate().numbers, round(found.estimate().value, 3), found.at_zero()
    (4, 0.409, None)
    """

    nats: Float[Tensor, "cell document"]
    numbers: Int[Tensor, "cell"]
    bits: Int[Tensor, "cell"]
    tokens: Int[Tensor, "document"]
    windows: Int[Tensor, "document"]
    n_bytes: Float[Tensor, "document"]
    tokens_seen: Int[Tensor, "cell"]
    seconds: Float[Tensor, "cell"]
    provenance: Provenance
    unit: str = "nats"

    in_units = ("nats",)
    along = None

    @property
    def loss(self) -> Tensor:
        """[cell] L, in ``unit`` a token, without what the memory costs."""
        return self.nats.sum(1) / self.tokens.sum()

    @property
    def price(self) -> Tensor:
        """[cell] L_o, what the memory costs, in ``unit`` a token."""
        rate = float(self.windows.sum()) / float(self.tokens.sum()) * math.log(2) * PER_NAT[self.unit]
        return (self.numbers * self.bits).double() * rate

    @property
    def charged(self) -> Tensor:
        """[cell] L + L_o, in ``unit`` a token: a code length."""
        return self.loss + self.price

    @property
    def se(self) -> Tensor:
        """[cell] standard error of L over documents; NaN for one document."""
        n, s = self.tokens.double(), self.nats
        found = clustered_mean(n.sum(), s.sum(1), (n * n).sum(), (n * s).sum(1), s.square().sum(1), len(n))
        return found[1]

    def estimate(self) -> Cell:
        """The least L + L_o of all, an upper bound on the entropy rate of the source, and where it is."""
        return self._cell(int(self.charged.argmin()))

    def at_zero(self, tolerance: float = 0.05) -> Cell | None:
        """The cheapest memory with which L reaches 0, of those that do; None where it is not reached.

        Args:
            tolerance: L in ``unit`` a token that counts as 0.
        """
        tolerance = check_number("tolerance", tolerance, 0)
        reached = (self.loss <= tolerance).nonzero()[:, 0]
        return self._cell(int(reached[self.price[reached].argmin()])) if len(reached) else None

    def _cell(self, i: int) -> Cell:
        return Cell(float(self.charged[i]), float(self.se[i]), int(self.numbers[i]), int(self.bits[i]))

    def to_pandas(self) -> pd.DataFrame:
        """One line a cell: numbers, bits, loss (L), price (L_o), charged (L + L_o), se, bits_per_byte, tokens_seen, seconds."""
        charged, size = self.charged, float(self.n_bytes.sum())
        per_byte = charged * float(self.tokens.sum()) / size / math.log(2) / PER_NAT[self.unit]
        columns = {
            "numbers": self.numbers, "bits": self.bits, "loss": self.loss, "price": self.price, "charged": charged,
            "se": self.se, "bits_per_byte": per_byte, "tokens_seen": self.tokens_seen, "seconds": self.seconds,
        }  # fmt: skip
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})

    def _title(self) -> list[str]:
        n, documents = int(self.tokens.sum()), len(self.tokens)
        shape = f"{counted(n, 'token')} of {counted(documents, 'document')} x {counted(len(self.bits), 'cell')}"
        return [title(self, shape)]

    def _table(self) -> pd.DataFrame | None:
        frame = self.to_pandas()
        shown = frame[["loss", "price"]].round(3).assign(charged=plus_minus(frame["charged"], frame["se"]))
        return shown.set_axis(self._names())

    def _names(self) -> list[str]:
        sizes = zip(self.numbers.tolist(), self.bits.tolist(), strict=True)
        return [f"{n} x {counted(b, 'bit')}" if n else "causal" for n, b in sizes]

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "loss, document by document", dict(zip(self._names(), (self.nats / self.tokens).tolist(), strict=True))

    def _notes(self) -> list[str]:
        best, zero = self.estimate(), self.at_zero()
        where = f"{counted(best.numbers, 'number')} of {counted(best.bits, 'bit')}" if best.numbers else "no memory"
        reached = "not reached" if zero is None else f"{zero.value:.3f} with {zero.numbers} of {counted(zero.bits, 'bit')}"
        return [
            f"losses with the memory on its grid; least charged: {best.value:.3f} {self.unit} a token with {where}",
            f"cheapest memory with a loss of 0: {reached}",
        ]
