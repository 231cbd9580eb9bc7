"""Mergeable sums: the state behind every statistic that is gathered batch by batch.

An accumulator has ``sites`` (what it wants to see), ``update(batch, activations)``, ``merge(other)`` and ``compute()``.
Its state is sums in float64, so that any split of a corpus over batches, shards or processes merges to the same whole; those of
this package give it away and take it back as plain tensors and values (``state_dict``, ``load_state_dict``, ``state.py``).
``update`` commits at its very end: an update that raises has changed nothing, and can be tried again with less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.errors import InputError
from tl_entropy.functional.statistics import document_sums
from tl_entropy.sites import Site
from tl_entropy.state import Kept


class Accumulator(Protocol):
    """What ``stream`` feeds."""

    @property
    def sites(self) -> Sequence[Site]:
        """What it wants to see."""

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""

    def merge(self, other: Self) -> None:
        """Take in all that another accumulator of the same settings has seen."""

    def compute(self) -> Any:
        """The result of what was seen so far; the accumulator can go on."""


class ByNumber(Kept):
    """What is kept by document, so that ``merge(other, placed=...)`` has to know whether both use the numbers of one corpus.

    Where they do not, each has numbered its own from 0, and the other's documents are numbered on from these.
    """


class DocumentMeans(Kept):
    """Sums over tokens and over documents of a value of shape [...], for a mean with a standard error over documents.

    A document may come in several batches, one after the other; its sums are kept apart until its last part is in.

    >>> means = DocumentMeans((1,))
    >>> means.update(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]), closed=[0])
    >>> means.update(torch.tensor([[6.0]]), torch.tensor([1]), closed=[1])
    >>> means.documents, means.sums()[:2].flatten().tolist()
    (2, [3.0, 9.0])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.documents = 0
        self._closed = torch.zeros((5, *shape), dtype=torch.float64)
        self._open: dict[int, tuple[Tensor, float]] = {}

    def update(self, values: Tensor, documents: Tensor, closed: Sequence[int]) -> None:
        """Add ``values`` [rows, ...] of the documents ``documents`` [rows]; ``closed`` ones get no more rows after this."""
        seen, sums, counts = document_sums(values.cpu(), documents.cpu())
        for i, document in enumerate(seen.tolist()):
            before, n = self._open.get(document, (torch.zeros_like(sums[i]), 0.0))
            self._open[document] = before + sums[i], n + counts[i].item()
        for document in closed:
            if document in self._open:
                self._closed += self._sums_of(*self._open.pop(document))
                self.documents += 1

    def merge(self, other: DocumentMeans) -> None:
        """Add what another has seen of other documents."""
        whole = other.sums()
        self._closed += whole
        self.documents += other.documents + len(other._open)

    def sums(self) -> Tensor:
        """[5, ...]: Σ n_d, Σ S_d, Σ n_d², Σ n_d S_d, Σ S_d² over documents, open ones included."""
        return self._closed + sum((self._sums_of(s, n) for s, n in self._open.values()), torch.zeros_like(self._closed))

    @property
    def tokens(self) -> int:
        """Number of rows taken in."""
        return int(self.sums()[0].amax())

    @property
    def seen_documents(self) -> int:
        """Number of documents, open ones included."""
        return self.documents + len(self._open)

    @staticmethod
    def _sums_of(s: Tensor, n: float) -> Tensor:
        """What a document adds that has the sum ``s`` over ``n`` rows."""
        one = torch.ones_like(s)
        return torch.stack((n * one, s, n * n * one, n * s, s * s))


class DocumentProducts(DocumentMeans):
    """The same of several quantities [..., quantity] with all their products, for ratios of sums and their errors.

    With a = (1, n_d, S_d1, S_d2, ...) of document d, ``sums`` is Σ_d a aᵀ, [..., 2 + quantity, 2 + quantity].

    >>> products = DocumentProducts((2,))
    >>> products.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1]), closed=[0, 1])
    >>> products.sums().tolist()
    [[2.0, 2.0, 4.0, 6.0], [2.0, 2.0, 4.0, 6.0], [4.0, 4.0, 10.0, 14.0], [6.0, 6.0, 14.0, 20.0]]
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        *before, quantities = shape
        self._closed = torch.zeros(*before, quantities + 2, quantities + 2, dtype=torch.float64)

    @property
    def tokens(self) -> int:
        """Number of rows taken in."""
        return int(self.sums()[..., 0, 1].amax())

    @staticmethod
    def _sums_of(s: Tensor, n: float) -> Tensor:
        a = torch.cat([torch.ones_like(s[..., :1]), torch.full_like(s[..., :1], n), s], -1)
        return a[..., :, None] * a[..., None, :]


class Histogram(Kept):
    """Counts of values of shape [...] in equal bins over [0, high]; values a rounding error outside go to the outer bins.

    >>> histogram = Histogram((1,), high=1.0, bins=4)
    >>> histogram.update(torch.tensor([[0.1], [0.3], [1.0]]))
    >>> histogram.counts.tolist()
    [[1, 1, 0, 1]]
    """

    def __init__(self, shape: Sequence[int], *, high: float, bins: int) -> None:
        if bins < 1 or not high > 0:
            raise InputError(f"a histogram needs at least one bin and a positive range; got {bins} bins up to {high}")
        self.high = high
        self.counts = torch.zeros((*shape, bins), dtype=torch.int64)

    def update(self, values: Tensor) -> None:
        """Count ``values`` [rows, ...]."""
        bins = self.counts.shape[-1]
        place = (values.cpu().double() * (bins / self.high)).long().clamp(0, bins - 1)
        cells = self.counts[..., 0].numel()
        flat = place.flatten(1) + bins * torch.arange(cells)
        self.counts += torch.bincount(flat.flatten(), minlength=cells * bins).view_as(self.counts)

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        if other.counts.shape != self.counts.shape or other.high != self.high:
            raise InputError("only histograms with the same bins can be merged")
        self.counts += other.counts
