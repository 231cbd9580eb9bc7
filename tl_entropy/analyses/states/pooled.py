"""One vector a document at every site: the mean of its states over the tokens counted.

Mean pooling is what turns a model's states into an embedding of a text where nothing is trained for it; the measures of whole
documents (dataset entropy, LiDAR, InfoNCE, clusters) are about these vectors.

Sums are in float64, and a document may come in any number of windows and batches. Documents without a counted token are left
out. Where only so many documents are kept, they are a random sample, the same for any batches: those with the lowest of the
random-looking numbers that follow from the seed and the document's number (``analyses/states/sampling.py``). One that is not
among the lowest when its first window comes, or is driven out later, never comes back, since the bar only sinks.

Refused: sites with a head axis.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_entropy.accumulators import ByNumber
from tl_entropy.analyses.merging import check_alike, check_same
from tl_entropy.analyses.states.sampling import priorities
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.given import adapter_of, of_stack
from tl_entropy.errors import InputError, check_int
from tl_entropy.functional.lens.entropies import in_double
from tl_entropy.functional.states.geometry import ROUNDING
from tl_entropy.functional.states.rows import spread_floor, varies
from tl_entropy.functional.statistics import document_sums
from tl_entropy.sites import HEAD_SITES, INNER_SITES, Layers, Site


class PooledBatch(NamedTuple):
    """What one batch adds: ``sums`` [document, site, d_model] of the states of its documents, ``counts`` tokens in each, and
    the ``floor`` of the states' dtype.
    """

    documents: list[int]
    sums: Tensor
    counts: list[float]
    next_document: int
    floor: float


class PooledDocuments(ByNumber):
    """Gathers the mean state of every document at every site: an accumulator for ``stream``.

    Args:
        model: a HookedTransformer or TransformerBridge.
        sites: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, of all layers, or single ones, such as resid_post.3.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        n_documents: how many documents are kept at most, drawn at random; None keeps all.
        seed: of that sample.

    Attributes:
        seen: how many documents with a counted token have come.
        floor: ``spread_floor`` of the least precise states seen: what their means, in float64, don't show.

    Raises:
        InputError: a site that the model does not have, or one with a head axis.
        InputTypeError: no TransformerLens model, or arguments of another kind.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> pooled = PooledDocuments(model, sites="resid_post", layers=[-1])
    >>> report = tle.stream(model, ["import os", "def f(x):"], [pooled], progress=False)
    >>> [means] = pooled.compute().values()
    >>> pooled.documents, len(means), means.dtype
    ([0, 1], 2, torch.float64)
    """

    def __init__(
        self,
        model: Any,
        *,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        n_documents: int | None = None,
        seed: int = 0,
    ) -> None:
        model, sites = of_stack(model, sites)
        self.adapter = adapter_of(model)
        self.sites = vector_sites(self.adapter, sites, layers)
        self._width = self.adapter.d_model
        self.n_documents = None if n_documents is None else check_int("n_documents", n_documents, 4)
        self.seed = check_int("seed", seed, 0, 2**63 - 1)
        self.seen = 0
        self._last = -1  # the document that came last, of which more may come
        self._heap: list[tuple[int, int]] = []  # of documents that are a sample: the priority, negated, and the number
        self._sums: dict[int, tuple[Tensor, float]] = {}  # of each document Σ states [site, d_model], and how many
        self._next = 0  # one more than the highest number of a document seen
        self.floor = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the sums kept, one of every site for each document."""
        return len(self._sums) * len(self.sites) * self._width * 8

    @property
    def documents(self) -> list[int]:
        """Numbers of the documents that have a counted token, in the order of the rows of ``compute``."""
        return sorted(self._sums)

    @property
    def tokens(self) -> list[int]:
        """Number of counted tokens of each of ``documents``."""
        return [int(self._sums[document][1]) for document in self.documents]

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch."""
        self.add(self.read(batch, activations))

    def read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> PooledBatch:
        """The sums over one batch, which ``add`` takes in; this changes nothing yet."""
        documents, sums, counts = batch.row_document.cpu(), [], torch.zeros(0)
        for site in self.sites:
            _, of_site, counts = document_sums(in_double(batch.rows(activations[site])).cpu(), documents)
            sums.append(of_site)
        floor = max(spread_floor(activations[site].dtype) for site in self.sites)
        return PooledBatch(
            documents.unique().tolist(), torch.stack(sums, 1), counts.tolist(), int(batch.document.max()) + 1, floor
        )  # fmt: skip

    def add(self, found: PooledBatch) -> None:
        """Take in what ``read`` found."""
        for document, s, n in zip(found.documents, found.sums, found.counts, strict=True):
            before = self._sums.get(document)
            self.seen += before is None and document != self._last  # one that was driven out may go on
            self._last = document
            if before is None and self.n_documents is not None:
                priority = int(priorities(self.seed, torch.tensor([document]), torch.tensor([0])))
                heapq.heappush(self._heap, (-priority, document))
            self._sums[document] = (s.clone(), n) if before is None else (before[0] + s, before[1] + n)
            self._drive_out()
        self._next = max(self._next, found.next_document)
        self.floor = max(self.floor, found.floor)

    def merge(self, other: PooledDocuments, *, placed: bool = False) -> None:
        """Take in what another has seen of other documents, numbered on from this one's unless both use those of one corpus.

        Raises:
            InputError: the sites or the models differ.
        """
        mine, theirs = ({"model": part.adapter.fingerprint, "sites": part.sites} for part in (self, other))
        check_alike(mine, theirs)
        check_same(self, other, ("n_documents", "seed"))
        first = 0 if placed else self._next
        self.seen += other.seen
        self._last = first + other._last
        self._heap += [(priority, document + first) for priority, document in other._heap]
        heapq.heapify(self._heap)
        self._sums |= {document + first: value for document, value in other._sums.items()}
        self._next = max(self._next, first + other._next)
        self.floor = max(self.floor, other.floor)
        self._drive_out()

    def state_dict(self) -> dict[str, Any]:
        """What was seen, the sums of all documents in one tensor."""
        sums = torch.stack([s for s, _ in self._sums.values()]) if self._sums else torch.zeros(0)
        counts = [[document, n] for document, (_, n) in self._sums.items()]
        return {**super().state_dict(), "_sums": {"sums": sums, "counts": counts}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state in place of what was seen here."""
        super().load_state_dict({name: value for name, value in state.items() if name != "_sums"})
        kept, counts = state["_sums"]["sums"].clone(), state["_sums"]["counts"]
        self._sums = {document: (s, n) for (document, n), s in zip(counts, kept, strict=True)}

    def _drive_out(self) -> None:
        """Keep no more than the sample: those of the lowest priorities."""
        while self.n_documents is not None and len(self._sums) > self.n_documents:
            _, document = heapq.heappop(self._heap)
            del self._sums[document]

    def compute(self) -> dict[Site, Tensor]:
        """The mean states of every document seen so far: site to [document, d_model] float64, in the order of ``documents``."""
        means = [s / n for s, n in (self._sums[document] for document in self.documents)]
        if not means:
            return {site: torch.zeros(0, self._width, dtype=torch.float64) for site in self.sites}
        return dict(zip(self.sites, torch.stack(means, 1), strict=True))


def means_vary(means: Tensor, floor: float) -> bool:
    """Whether mean states [document, d_model] differ by more than ``floor``, the share of their length that is rounding.

    >>> means_vary(torch.ones(3, 2), 0.0), means_vary(torch.eye(2), 0.0)
    (False, True)
    """
    centre = means.mean(0)
    return varies((means - centre).square().sum(), len(means), centre, max(floor, ROUNDING))


def vector_sites(adapter: Adapter, sites: Any, layers: Layers | None) -> tuple[Site, ...]:
    """Short names to sites of this model that hold one vector a token.

    Raises:
        InputError: a site that the model does not have, or one with a head axis.
    """
    found = adapter.sites(sites, layers)
    inner = next((site for site in found if site.name in INNER_SITES), None)
    if inner is not None:
        holds = "has a head axis" if inner.name in HEAD_SITES else "is as wide as the MLP has neurons"
        raise InputError(
            f"sites: {inner} {holds}, and one vector a token of the residual stream's width is needed; choose from embed, "
            "resid_pre, resid_mid, resid_post, attn_out, mlp_out"
        )
    return found
