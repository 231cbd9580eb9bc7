"""Entropies of single heads: at every position (``HeadEntropy``), or as sums over a corpus (``HeadSummary``).

What the entropy is of, the distribution of a head's attention over the keys or the prediction that its output alone would make,
is the result's ``of``; both are printed with the choices that they depend on.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, SupportsFloat, SupportsInt, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, check_choice
from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.results.base import PER_NAT, Result, Unit, fields_at, places_of
from tl_entropy.results.positions import Positions, token_means
from tl_entropy.results.printing import Printed, over, title
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, layers_at

Of = Literal["pattern", "readout"]
Norm = Literal["frozen", "recomputed"]
Quantity = Literal["entropy", "normalized", "bos_share", "sink_share"]
QUANTITIES = ("entropy", "normalized", "bos_share", "sink_share")
"""What there is a mean of; all but the entropy belong to attention patterns, and have no unit."""


class _HeadTable(Printed):
    """What both results print, and their long table."""

    along = "columns"  # head by head

    of: Of
    norm: Norm | None
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    orders: tuple[float, ...]
    unit: Unit
    provenance: Provenance

    printing = MappingProxyType(
        {"float_format": "{:.3f}".format, "max_rows": 32, "max_cols": 32}  # layers and heads
    )

    def _title(self) -> list[str]:
        tokens, documents = self._counts()
        what = "attention patterns" if self.of == "pattern" else f"head readouts, {self.norm} norm"
        axes = {"layer": len(self.layers), "head": len(self.heads), "order": len(self.orders)}
        return [title(self, f"{what}, {over(tokens, documents, **axes)}")]

    def _table(self) -> pd.DataFrame | None:
        if not self._counts()[0]:
            return None
        profile = self.mean_profile()
        first = profile[profile["order"] == self.orders[0]]
        table = first.pivot_table(index="layer", columns="head", values="mean", sort=False)
        table.index = pd.Index([f"layer {layer}" for layer in table.index])
        table.columns = pd.Index([f"head {head}" for head in table.columns])
        return table

    def _notes(self) -> list[str]:
        return [f"mean over tokens, order {self.orders[0]:g}; with standard errors: mean_profile()"]

    def _profile(self, mean: Tensor, se: Tensor, orders: Sequence[float], tokens: int, documents: int) -> pd.DataFrame:
        """One line for each layer, head and order, from means and errors [layer, head, order]."""
        lines = [
            {
                "layer": layer, "head": head, "order": order, "mean": mean[i, j, k].item(), "se": se[i, j, k].item(),
                "tokens": tokens, "documents": documents,
            }
            for i, layer in enumerate(self.layers)
            for j, head in enumerate(self.heads)
            for k, order in enumerate(orders)
        ]  # fmt: skip
        return pd.DataFrame(lines)

    def _check_quantity(self, of: str) -> None:
        check_choice("of", of, QUANTITIES)
        if self.of != "pattern" and of != "entropy":
            raise InputError(f"of: {of} belongs to attention patterns, and this result is of head readouts")

    @abstractmethod
    def _counts(self) -> tuple[int, int]:
        """Tokens and documents."""

    @abstractmethod
    def mean_profile(self, of: Quantity = "entropy") -> pd.DataFrame:
        """Means over tokens; see the subclasses."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadEntropy(_HeadTable, Positions, Result):
    """Entropy of every head at every position read, of every order.

    Rows are the positions counted, ordered by document and position. With ``of="pattern"`` a position is that of the query,
    and the distribution is the head's attention over the keys that the query sees, BOS among them; it is renormalised over
    these, so that attention sinks which are no key (gpt-oss) don't enter. With ``of="readout"`` the distribution is over the
    next token. Where layers have different numbers of heads, those that a layer does not have are NaN.

    Attributes:
        entropy: [row, layer, head, order], in ``unit``, from 0 to log of the number of keys, or log d_vocab.
        document: [row], number of the text in the input.
        position: [row], index of the token in its document, without BOS.
        token: [row], id of the token read.
        layers: what the second axis means.
        heads: what the third axis means.
        orders: what the fourth axis means.
        of: "pattern" or "readout".
        norm: of readouts, "frozen" or "recomputed"; None for patterns.
        strings: text of every token id that occurs.
        provenance: model, settings, corpus, versions.
        names: names of documents that have one (files).
        visible: [row, layer], number of keys that the query sees: real, not later, within the layer's window. Patterns only.
        bos_share: [row, layer, head], attention weight on the document's BOS, 0 to 1; NaN where the query sees none.
        sink_share: [row, layer, head], attention weight on no key at all, 1 - Σ over keys: what attention sinks take, and 0 up
            to rounding (2e-3 in bfloat16) in models without them. Patterns only.
        generated: [row], whether the token read was generated by the model.
        unit: "nats" or "bits".

    >>> import tl_entropy as tle
    >>> result = tle.head_entropy(tle.demo_model(), "import os, sys", progress=False)
    >>> tuple(result.entropy.shape), result.of  # position, layer, head, order
    ((4, 6, 6, 1), 'pattern')
    """

    entropy: Float[Tensor, "row layer head order"]
    document: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    token: Int[Tensor, "row"]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    orders: tuple[float, ...]
    of: Of
    norm: Norm | None
    strings: Mapping[int, str]
    provenance: Provenance
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    visible: Int[Tensor, "row layer"] | None = None
    bos_share: Float[Tensor, "row layer head"] | None = None
    sink_share: Float[Tensor, "row layer head"] | None = None
    generated: Bool[Tensor, "row"] | None = None
    unit: Unit = "nats"

    in_units = ("entropy",)

    @property
    def normalized(self) -> Float[Tensor, "row layer head order"]:
        """Entropy as a share of its largest value, the log of the number of visible keys: from 0 to 1, without a unit.

        A query that sees one key has an entropy of 0 whatever the head does; its share is NaN, and no mean counts it.

        Raises:
            InputError: the result is of readouts.
        """
        return normalized(self.entropy / PER_NAT[self.unit], self._visible())

    def mean_profile(self, of: Quantity = "entropy") -> pd.DataFrame:
        """Mean over tokens for each head, with its standard error over documents (NaN for a single one).

        Every token counts the same, however long its document. Tokens without a value are left out: for "normalized" those that
        see a single key, for "bos_share" those that see no BOS.

        Args:
            of: "entropy", and for patterns "normalized", "bos_share" or "sink_share".

        Returns:
            One line for each layer, head and order (NaN for shares, which have none): layer, head, order, mean, se, tokens,
            documents.

        Raises:
            InputError: a quantity that the result does not hold, or no token that has it.
        """
        self._check_quantity(of)
        values: Tensor = getattr(self, of)
        orders = self.orders if values.ndim == 4 else (math.nan,)
        known = valued(values)
        mean, se = token_means(values[known].reshape(-1, *values.shape[1:3], len(orders)), self.document[known])
        return self._profile(mean, se, orders, int(known.sum()), len(self.document[known].unique()))

    def _per_row(self) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        return self.entropy, {"layer": self.layers, "head": self.heads, "order": self.orders}

    def select(
        self,
        *,
        layers: Layers | None = None,
        heads: SupportsInt | Iterable[int] | None = None,
        orders: SupportsFloat | Iterable[float] | None = None,
        documents: SupportsInt | Iterable[int] | None = None,
        positions: SupportsInt | slice | Iterable[int] | None = None,
    ) -> HeadEntropy:
        """The part of the result at the given layers, heads, orders, documents and positions.

        Layers are numbers, from 0 or negative from the last one here, or a slice.
        Negative positions count from the end of each document, as far as it is in the result.

        Raises:
            InputError: something asked for is not in the result; the message lists what is.
        """
        blocks = None if layers is None else layers_at(layers, self.layers, "this result")
        kept = {
            name: places_of(f"{name}s", asked, getattr(self, f"{name}s"))
            for name, asked in (("layer", blocks), ("head", heads), ("order", orders))
        }
        changed: dict[str, Any] = fields_at(self, row=self.rows(documents, positions), **kept)
        changed |= {f"{name}s": tuple(getattr(self, f"{name}s")[i] for i in places) for name, places in kept.items()}
        return dataclasses.replace(self, **changed)

    def to_pandas(self) -> pd.DataFrame:
        """The long form: document, position, token, layer, head, order, entropy, and for patterns the other quantities."""
        row, layer, head, order = np.indices(self.entropy.shape).reshape(4, -1)
        frame = pd.DataFrame(
            {
                **self.row_columns(row),
                "layer": torch.tensor(self.layers, dtype=torch.long).numpy()[layer],
                "head": torch.tensor(self.heads, dtype=torch.long).numpy()[head],
                "order": torch.tensor(self.orders, dtype=torch.float64).numpy()[order],
                "entropy": self.entropy.flatten().numpy(),
            }
        )
        if self.visible is not None:
            frame["normalized"] = self.normalized.flatten().numpy()
            frame["visible"] = self.visible.numpy()[row, layer]
        for name in ("bos_share", "sink_share"):
            value = getattr(self, name)
            if value is not None:
                frame[name] = value.numpy()[row, layer, head]
        if self.generated is not None:
            frame["generated"] = self.generated.numpy()[row]
        return frame

    def _visible(self) -> Tensor:
        self._check_quantity("normalized")
        return cast(Tensor, self.visible)

    def _counts(self) -> tuple[int, int]:
        return self.n_tokens, len(self.documents)


@dataclass(frozen=True, eq=False, repr=False)
class HeadSummary(_HeadTable, Result):
    """The same means as ``HeadEntropy``, from sums over a corpus of any size.

    Sums are in nats and shares, and have six parts: the number of documents, and Σ n_d, Σ S_d, Σ n_d², Σ n_d S_d, Σ S_d² over
    documents d with n_d tokens that have a value and S_d the sum of these.

    Attributes:
        layers: what the second axis means.
        heads: what the third axis means.
        orders: what the fourth axis means.
        of: "pattern" or "readout".
        norm: of readouts, "frozen" or "recomputed"; None for patterns.
        entropy_sums: [6, layer, head, order] float64.
        normalized_sums: [6, layer, head, order] float64, over tokens that see two keys or more. Patterns only.
        bos_share_sums: [6, layer, head] float64, over tokens that see a BOS. Patterns only.
        sink_share_sums: [6, layer, head] float64. Patterns only.
        unit: the unit of what the methods return.
        provenance: model, settings, corpus, versions.

    >>> import tl_entropy as tle
    >>> summary = tle.head_entropy(tle.demo_model(), "import os", keep="summary", progress=False)
    >>> summary.tokens, summary.documents
    (2, 1)
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    orders: tuple[float, ...]
    of: Of
    norm: Norm | None
    entropy_sums: Float[Tensor, "6 layer head order"]
    provenance: Provenance
    normalized_sums: Float[Tensor, "6 layer head order"] | None = None
    bos_share_sums: Float[Tensor, "6 layer head"] | None = None
    sink_share_sums: Float[Tensor, "6 layer head"] | None = None
    unit: Unit = "nats"

    @property
    def tokens(self) -> int:
        """Number of positions counted."""
        return self._counts()[0]

    @property
    def documents(self) -> int:
        """Number of documents counted."""
        return self._counts()[1]

    def mean_profile(self, of: Quantity = "entropy") -> pd.DataFrame:
        """As ``HeadEntropy.mean_profile``: layer, head, order, mean, se, tokens, documents."""
        self._check_quantity(of)
        sums: Tensor = getattr(self, f"{of}_sums")
        orders = self.orders if sums.ndim == 4 else (math.nan,)
        documents, n, s, nn, ns, ss = sums.reshape(6, *sums.shape[1:3], len(orders))
        if not n.any():
            raise InputError("this result holds no position to take a mean of")
        seen = int(documents.max())
        mean, se = clustered_mean(n, s, nn, ns, ss, seen)
        factor = PER_NAT[self.unit] if of == "entropy" else 1.0
        return self._profile(mean * factor, se * factor, orders, int(n.max()), seen)

    def to_pandas(self) -> pd.DataFrame:
        """The mean profile of the entropy."""
        return self.mean_profile()

    def _counts(self) -> tuple[int, int]:
        documents, tokens = self.entropy_sums[:2].flatten(1).amax(1).tolist()
        return int(tokens), int(documents)


def normalized(entropy: Tensor, visible: Tensor) -> Tensor:
    """Entropies [row, layer, head, order] in nats over the log of ``visible`` [row, layer]; NaN where that is 0.

    >>> normalized(torch.tensor([0.0, math.log(2)])[:, None, None, None], torch.tensor([[1], [4]])).flatten().tolist()
    [nan, 0.5]
    """
    most = visible.to(entropy.dtype).log()[:, :, None, None]
    return entropy / most.masked_fill(most == 0, math.nan)


def valued(values: Tensor) -> Tensor:
    """Which rows [row] of ``values`` [row, ...] hold a number."""
    return ~values.isnan().flatten(1).all(1)
