"""Who stays near whom from layer to layer: overlap of neighbours, and information imbalance, over a sample of tokens.

For every two sites, the distances between the same tokens' states are compared (``functional/states/neighbours.py``): which
share of a state's k nearest is so at the other site, too (Doimo et al. 2020, arXiv 2007.03506), and how far down the list of
the other site its nearest one is, from each to the other (Glielmo et al. 2022): a site may tell the neighbours of another that
does not tell its own.

Distances are of rows with rows, so a corpus enters by a random sample of its tokens (``analyses/states/sampling.py``), the same
for every site. Values depend on the sample's size, with which neighbours come nearer: compare those of equal sizes only. Errors
are over the documents of the sample, with covariances between sites and what folds of documents add, so that differences
between layers and between models have theirs, too.

NaN where all states of a site are equal up to rounding. Of states that repeat, such as those of tokens in the embedding, the
first in the corpus counts as nearer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.analyses.sharing import dealt
from tl_entropy.analyses.states.paired_states import Against, Massive, PairedMeasure, nothing
from tl_entropy.analyses.states.sampling import TokenSample
from tl_entropy.errors import InputError, check_int
from tl_entropy.functional.states.neighbours import Neighbours
from tl_entropy.functional.states.rows import checked_rows, spread_floor, squared_distances
from tl_entropy.functional.statistics import column_covariances, fold_scores
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Layers, Site

QUANTITIES = ("neighbour_overlap", "imbalance", "imbalance_back")
"""What a ``LayerSimilarity`` of this method holds; the first is its headline."""


def neighbour_similarities(
    x: Sequence[Tensor], y: Sequence[Tensor], *, k: int, documents: Tensor | None = None
) -> dict[str, Tensor]:
    """Overlap and imbalances between each set of states of ``x`` and each of ``y``.

    Args:
        x: sets of states [row, d], of the same items row by row; each may have its own d.
        y: sets of states of the same items.
        k: neighbours that the overlap is of, below the number of rows.
        documents: [row] which rows belong together; None takes every row for independent of the others.

    Returns:
        ``values`` [quantity, len(x), len(y)], their ``covariance`` [quantity, len(x), len(x), len(y)] over documents, and what
        folds of these add to their errors, ``scores`` [quantity, 20, len(x), len(y)].

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> neighbour_similarities([x], [x.exp()], k=1)["values"].flatten()
    tensor([1.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    n = len(x[0])
    if k >= n:
        raise InputError(f"k must be below the number of rows compared, which is {n}; got {k}")
    rows = [_neighbours(one) for one in x]
    columns = rows if y is x else [_neighbours(one) for one in y]
    found = torch.full((2, n, len(QUANTITIES), len(rows), len(columns)), torch.nan, dtype=torch.float64)
    pairs = [(i, j) for i, one in enumerate(rows) for j, other in enumerate(columns) if one is not None and other is not None]

    def of_pairs(mine: Sequence[tuple[int, int]]) -> list[Tensor]:
        several = ((rows[i], columns[j]) for i, j in mine)
        return [_of_pair(one, other, k) for one, other in several if one is not None and other is not None]

    for (i, j), values in zip(pairs, dealt("pairs of sites", pairs, of_pairs), strict=True):
        found[:, :, :, i, j] = values
    values, scores = found
    group = torch.arange(n) if documents is None else documents
    return {
        "values": values.mean(0),
        "covariance": torch.stack([column_covariances(one, group, n) for one in scores.unbind(1)]),
        "scores": fold_scores(scores, group).movedim(1, 0),
    }


def _neighbours(states: Tensor) -> Neighbours | None:
    rows = checked_rows(states)
    return Neighbours.of(rows) if bool(squared_distances(rows, spread_floor(states.dtype)).any()) else None


def _of_pair(one: Neighbours, other: Neighbours, k: int) -> Tensor:
    """[value and score, row, quantity] of two sites."""
    of = one.overlap(other, k), one.imbalance(other.rank), other.imbalance(one.rank)
    return torch.stack([torch.stack(both) for both in zip(*of, strict=True)]).mT.cpu()


class NeighbourAccumulator(PairedMeasure):
    """Gathers a sample of tokens with their states at every site, and compares who is near whom there.

    Args:
        model: a HookedTransformer or TransformerBridge.
        other: another model of the same tokens, whose sites are the columns; None is the same model.
        sites: short names of sites, or sites.
        layers: blocks: numbers, from 0 or negative from the last, or a slice; None is all.
        against: what the columns are: "output", "all", or sites; see ``PairedStates``.
        massive: what becomes of massive states: "keep", "drop" or "normalise"; see ``PairedStates``.
        k: neighbours that the overlap is of. The imbalance is of the nearest one.
        n_samples: tokens in the sample; all there are, if fewer. Time and memory grow as its square.
        seed: of the sample.
        first_document: number, in the whole corpus, of the first document that this accumulator will see. Parts that are
            merged must number their documents differently.

    Raises:
        InputError, InputTypeError: an argument that doesn't fit.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> near = tle.NeighbourAccumulator(model, k=3)
    >>> report = tle.stream(model, ["import os, sys"] * 4, [near], progress=False)
    >>> round(float(near.compute().values[0, -1]), 3)  # the output with itself
    1.0
    """

    alike = ("k",)
    gathered = ("paired", "sample", "_massive_tokens")

    def __init__(
        self,
        model: Any,
        *,
        other: Any = None,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        against: Against = "output",
        massive: Massive = "keep",
        k: int = 10,
        n_samples: int = 1000,
        seed: int = 0,
        first_document: int = 0,
    ) -> None:
        super().__init__(model, other=other, sites=sites, layers=layers, against=against, massive=massive)
        self.k = check_int("k", k, 1)
        self.sample = TokenSample(check_int("n_samples", n_samples, self.k + 1), seed, first_document=first_document)

    def _add(self, documents: Tensor, positions: Tensor, states: Mapping[Any, Tensor]) -> None:
        self.sample.update(documents, positions, states)

    def _settings(self) -> dict[str, Any]:
        return {
            "k": self.k, "n_samples": self.sample.size, "seed": self.sample.seed, "method": "neighbours", **super()._settings(),
        }  # fmt: skip

    def _result(self, provenance: Provenance) -> LayerSimilarity:
        """NaN where no more than k tokens were seen, and of sites where all sampled states are equal."""
        documents, paired = self.sample.documents, self.paired
        shape = (len(paired.rows), len(paired.columns))
        found = nothing(len(QUANTITIES), *shape)
        if len(documents) > self.k:
            states, side = self.sample.whole(), 1 if paired.other else 0
            x = [states[0, site] for site in paired.rows]
            y = x if not side and paired.rows == paired.columns else [states[side, site] for site in paired.columns]
            found = neighbour_similarities(x, y, k=self.k, documents=documents)
        return self._similarity(
            provenance, method="neighbours", quantities=QUANTITIES, units=("",) * len(QUANTITIES), count=len(documents),
            documents=len(documents.unique()), **found,
        )  # fmt: skip
