"""One state a document at every site, its massive states dealt with first: what models of different tokens are compared by.

Tokens of two tokenizers can't be paired, but the documents they come from can, each as the mean of its states
(``analyses/states/pooled.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from tl_entropy.analyses.states.paired_states import Massive, PairedStates
from tl_entropy.analyses.states.pooled import PooledDocuments
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site


class Pooled(NamedTuple):
    """What a pass found.

    Attributes:
        states: site to [document, d_model], float64.
        documents: numbers of the documents that have a counted token.
        massive_tokens: tokens of which a state is massive.
        floor: ``spread_floor`` of the states, which their means don't show.
        provenance: of the model and the pass.
    """

    states: dict[Site, Tensor]
    documents: list[int]
    massive_tokens: int
    floor: float
    provenance: Provenance


class DocumentStates(StreamingMeasure[Pooled]):
    """Gathers the mean state of every document: an accumulator for ``stream``, whose ``compute`` gives a ``Pooled``.

    Args:
        adapter: of the model.
        sites: what to gather.
        massive: "keep", "drop" (leave out a token where a state of it at any of these sites is massive) or "normalise" (divide
            every state by its norm before the mean is taken).
        n_documents: how many documents are kept at most, as ``PooledDocuments`` says.
        seed: of the sample that they are.
    """

    gathered = ("_paired", "_pooled", "_massive_tokens")

    def __init__(
        self, adapter: Adapter, sites: Sequence[Site], massive: Massive, n_documents: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(adapter)
        self._massive = massive
        self._paired = PairedStates(adapter, sites=sites, against=sites, massive=massive)
        self._pooled = PooledDocuments(adapter, sites=sites, n_documents=n_documents, seed=seed)
        self.sites = self._pooled.sites
        self._massive_tokens = 0

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""
        found = 0
        if batch.n_rows:
            states, _, kept = self._paired.read(batch, activations)
            found = self._paired.massive_here
            if self._massive != "keep":
                counted = batch.counted.clone()
                counted[batch.counted] = kept
                batch, activations = replace(batch, counted=counted), {s: _spread(counted, x) for s, x in states.items()}
        self._pooled.update(batch, activations)
        self._massive_tokens += found

    def growth(self) -> tuple[int, str]:
        """Bytes of the documents' mean states, and what to do where they are too many."""
        return 0 if self._pooled.n_documents else self._pooled.nbytes, (
            "the mean state of every document is kept at every site: n_documents= keeps a random sample of them, rows='tokens' "
            "sums alone where models read the same tokens, and fewer sites= or layers= take less"
        )

    def _settings(self) -> dict[str, Any]:
        if self._pooled.n_documents is None:
            return {}
        return {"n_documents": self._pooled.n_documents, "sample_seed": self._pooled.seed}

    def _result(self, provenance: Provenance) -> Pooled:
        floor = max(self._pooled.floor, self._paired.floor)  # normalised states are wider than those that were read
        return Pooled(self._pooled.compute(), self._pooled.documents, self._massive_tokens, floor, provenance)


def _spread(counted: Tensor, rows: Tensor) -> Tensor:
    """Rows [row, d] back at the counted cells [batch, pos] that they are of; 0 elsewhere."""
    cells = rows.new_zeros(*counted.shape, rows.shape[1])
    cells[counted.to(rows.device)] = rows
    return cells
