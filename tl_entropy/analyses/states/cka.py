"""CKA between the states of layers over a whole corpus, in one pass: exactly, or from blocks of tokens.

The debiased linear CKA (``functional/states/similarity.py``) of all tokens read follows from sums that are added batch by
batch, one matrix [d_model + 2, d_model + 2] for each pair of sites and for each site
(``functional/states/similarity_sums.py``): the number is that of all states at once, however they are cut up. Where that takes
too much memory, the mini-batch estimator of Nguyen, Raghu and Kornblith (2021, arXiv 2010.15327) keeps one number for each
pair: the unbiased HSIC of blocks of tokens, averaged.

Standard errors of the exact one are linear, from what each of 2000 random tokens adds to it, tokens of one document together
(``functional/statistics.py``); those of the other leave out blocks in folds.

A block of consecutive tokens comes from few documents. The mini-batch estimator so says how similar two sites are within such
blocks, and what tells one document from another hardly enters; the exact one has no such limit.

Refused: sums of more than 8 GiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tl_entropy.analyses.states.paired_states import Against, Massive, PairedMeasure
from tl_entropy.analyses.states.sampling import TokenSample
from tl_entropy.errors import InputError, check_choice, check_int
from tl_entropy.functional.states.similarity import MIN_ROWS
from tl_entropy.functional.states.similarity_sums import BlockSums, CrossSums
from tl_entropy.functional.statistics import column_covariances, fold_scores
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Layers, Site

Estimator = Literal["exact", "minibatch"]

BLOCK = 512
"""Rows of a block of the mini-batch estimator, where nothing else is asked for."""

SAMPLE = 2000
"""Tokens whose states are kept, at most, for standard errors."""

LARGEST = 8 * 2**30
"""Bytes of sums from which on they are refused."""


class CKAAccumulator(PairedMeasure):
    """Gathers what CKA needs, batch by batch; ``compute`` gives a ``LayerSimilarity``.

    Args:
        model: a HookedTransformer or TransformerBridge.
        other: another model of the same tokens, whose sites are the columns; None is the same model.
        sites: short names of sites, or sites.
        layers: blocks: numbers, from 0 or negative from the last, or a slice; None is all.
        against: what the columns are: "output", "all", or sites; see ``PairedStates``.
        debiased: from the unbiased HSIC. The biased form is for "exact" only.
        estimator: "exact", or "minibatch" for blocks of ``block`` tokens in the order of the corpus. The last block may be
            smaller; fewer than 4 tokens at the end are left out, and the result says so.
        massive: what becomes of massive states: "keep", "drop" or "normalise"; see ``PairedStates``.
        block: tokens of a block, for "minibatch".

    Raises:
        InputError: an argument that doesn't fit, or sums of more than 8 GiB.
        InputTypeError: an argument of another kind.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> cka = tle.CKAAccumulator(model)
    >>> report = tle.stream(model, ["import os, sys"] * 4, [cka], progress=False)
    >>> round(float(cka.compute().values[0, -1]), 3)  # the output with itself
    1.0
    """

    alike = ("debiased", "estimator", "block")
    gathered = ("paired", "_sums", "_massive_tokens")
    kept = ("_sample", "_first", "_next", "_documents", "_latest")

    def __init__(
        self,
        model: Any,
        *,
        other: Any = None,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        against: Against = "output",
        debiased: bool = True,
        estimator: Estimator = "exact",
        massive: Massive = "keep",
        block: int = BLOCK,
    ) -> None:
        super().__init__(model, other=other, sites=sites, layers=layers, against=against, massive=massive)
        check_estimator(estimator, debiased)
        if estimator == "exact" and block != BLOCK:
            raise InputError(f"block belongs to estimator='minibatch'; got {block} with 'exact', which has no blocks")
        self.debiased, self.estimator = debiased, estimator
        self.block = check_int("block", block, MIN_ROWS)
        self._rows = [(0, site) for site in self.paired.rows]
        self._columns = [(1 if self.paired.other else 0, site) for site in self.paired.columns]
        self._sums: Any = (
            CrossSums((a, b) for a in self._rows for b in self._columns)
            if estimator == "exact"
            else BlockSums([*self._rows, *self._columns], self.block)
        )
        if self.memory() > LARGEST:
            lighter = (
                "fewer layers, or a smaller block" if estimator == "minibatch" else "fewer layers, or estimator='minibatch'"
            )
            raise InputError(
                f"the sums of {len(self._rows)} x {len(self._columns)} sites would take {self.memory() / 2**30:.1f} GiB, more "
                f"than {LARGEST / 2**30:.0f}; use against='output', fewer layers, or {lighter}"
            )
        self._sample = TokenSample(SAMPLE, 0)  # errors are measured on it
        self._first = self._next = 0  # what is added to numbers of documents, and one more than the highest that came of it
        self._documents = 0
        self._latest: tuple[int, int] | None = None  # the document and the position of the last row

    @property
    def in_order(self) -> str:
        """Blocks are cut out of the corpus in its order."""
        cut = "estimator='minibatch' cuts blocks of rows in the order of the corpus; estimator='exact' has none"
        return cut if self.estimator == "minibatch" else ""

    def memory(self) -> int:
        """Bytes that the sums take, or one block's states and kernel matrices."""
        widths: list[int] = [adapter.d_model for adapter in (self.adapter, self.paired.other or self.adapter)]
        if self.estimator == "minibatch":
            return sum(8 * self.block * (widths[side] + self.block) for side, _ in {*self._rows, *self._columns})
        sums: int = sum(8 * (widths[a[0]] + 2) * (widths[b[0]] + 2) for a, b in self._sums.pairs)
        return sums + sum(4 * SAMPLE * widths[side] for side, _ in {*self._rows, *self._columns})

    def _merge(self, other: Self, *, placed: bool) -> None:
        """Blocks of the mini-batch estimator stay as each has cut them; rows short of a block go together."""
        first = 0 if placed else self._next
        self._sample.merge(other._sample, first_document=first)
        self._next = max(self._next, first + other._next)
        self._documents += other._documents

    def _add(self, documents: Tensor, positions: Tensor, states: Mapping[Any, Tensor]) -> None:
        numbers = documents.unique_consecutive().tolist()
        begins = (numbers[0], int(positions[0])) if numbers else None
        placed = self.report is not None and self.report.placed
        # Another stream, numbered from 0; not another part of one corpus.
        again = not placed and begins is not None and self._latest is not None and begins <= self._latest
        first = self._next if again else self._first
        if self.estimator == "exact" and numbers:
            names = dict.fromkeys([*self._rows, *self._columns])
            self._sample.update(documents.cpu() + first, positions, {name: states[name] for name in names})
        self._sums.update(states)
        self._first = first
        goes_on = begins is not None and self._latest is not None and not again and begins[0] == self._latest[0]
        self._documents += len(numbers) - goes_on
        self._next = max([self._next, *(first + number + 1 for number in numbers)])
        self._latest = (numbers[-1], int(positions[-1])) if numbers else self._latest

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"debiased": self.debiased, "estimator": self.estimator}
        if self.estimator == "minibatch":
            settings |= {"block": self.block, "left_out_rows": self._sums.left_out}
        return {**settings, "method": "cka", **super()._settings()}

    def _result(self, provenance: Provenance) -> LayerSimilarity:
        """NaN where too little was seen, and of sites where all states are alike up to rounding."""
        left_out, folds = 0, None
        if self.estimator == "minibatch":
            left_out = self._sums.left_out
            values, paired = (found(self._rows, self._columns) for found in (self._sums.cka, self._sums.covariance))
        else:
            values = self._sums.cka(self._rows, self._columns, debiased=self.debiased)
            paired = torch.full((len(values), *values.shape), torch.nan, dtype=torch.float64)
            sample = self._sample.whole()
            if sample:
                scores = self._sums.scores(self._rows, self._columns, sample, debiased=self.debiased)
                paired = column_covariances(scores, self._sample.documents, self._sums.rows)
                folds = fold_scores(scores, self._sample.documents)[None]
        return self._similarity(
            provenance, method="cka", quantities=("cka",), units=("",), count=self._sums.rows - left_out, values=values[None],
            covariance=paired[None], documents=self._documents, scores=folds,
        )  # fmt: skip


def check_estimator(estimator: str, debiased: bool) -> None:
    """Raise InputError unless these are an estimator of CKA, and one that there is."""
    check_choice("debiased", debiased, (True, False))
    check_choice("estimator", estimator, ("exact", "minibatch"))
    if estimator == "minibatch" and not debiased:
        raise InputError("debiased=False is for estimator='exact': averages over blocks do not mend a bias of each block")
