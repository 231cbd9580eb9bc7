"""What ``layer_geometry`` keeps of a stream: of the texts that are being read, and sums over all tokens.

Of an open document (``Texts``) there is its Gram matrix (``TextGram``) and the end of its path (``TextPath``); both give a new
object for more rows, so that a batch is taken in as a whole or not at all. Of all tokens there is the scatter about their mean
(``Moments``), merged by the formulas of Chan, Golub and LeVeque (1983), which lose no digits where the mean is far from 0, and
the sum of their directions by fold of documents (``Directions``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.functional.lens.entropies import in_double
from tl_entropy.functional.states.geometry import ROUNDING, Normalise, directed_rows, mean_cosine, smaller_gram, turning_angles
from tl_entropy.functional.states.matrices import matrix_entropy
from tl_entropy.functional.states.rows import spread_floor, varies
from tl_entropy.functional.statistics import FOLDS, group_sums, jackknife_scores
from tl_entropy.sites import Site
from tl_entropy.state import Kept


@dataclass(frozen=True, eq=False)
class TextGram(Kept):
    """The rows of one text so far or, where there are more of them than d_model, their Gram matrix Xᵀ X.

    Rows that will be centred have to wait for their mean, and are kept whatever their number. ``floor`` is the ``spread_floor``
    of the least precise ones.
    """

    normalise: Normalise
    rows: tuple[Tensor, ...] = ()
    gram: Tensor | None = None
    tokens: int = 0
    floor: float = 0.0

    def extended(self, rows: Tensor) -> Self:
        """With the ``rows`` [token, d_model] that follow."""
        kept, tokens = (*self.rows, rows), self.tokens + len(rows)
        longer = replace(self, tokens=tokens, floor=max(self.floor, spread_floor(rows.dtype)))
        if self.normalise == "centred" or tokens <= rows.shape[1]:
            return replace(longer, rows=kept)
        directed = directed_rows(in_double(torch.cat(kept)), self.normalise, longer.floor)
        gram = directed.mT @ directed
        return replace(longer, rows=(), gram=gram if self.gram is None else self.gram + gram)

    def detached(self) -> Self:
        """With rows that no longer keep the batch in memory that they are part of."""
        return replace(self, rows=tuple(rows.clone() for rows in self.rows))

    @property
    def width(self) -> int:
        """d_model."""
        return (self.rows[0] if self.gram is None else self.gram).shape[1]

    @property
    def most(self) -> float:
        """The largest entropy of so many rows, nats; NaN where that is 0. One of centred rows follows from the others."""
        directions = min(self.tokens - (self.normalise == "centred"), self.width)
        return math.log(directions) if directions > 1 else math.nan

    def entropy(self, order: float) -> float:
        """The prompt entropy, nats; NaN where no row has a direction."""
        gram = self.gram
        if gram is None:
            gram = smaller_gram(directed_rows(in_double(torch.cat(self.rows)), self.normalise, self.floor))
        trace = gram.trace()
        return float(matrix_entropy(gram / trace, order)) if trace > 0 else math.nan


@dataclass(frozen=True, eq=False)
class TextPath(Kept):
    """The angles between successive steps of one text so far, and its last two states."""

    end: Tensor | None = None
    angles: float = 0.0
    count: int = 0

    def extended(self, rows: Tensor) -> Self:
        """With the ``rows`` [token, d_model] that follow."""
        path = in_double(rows) if self.end is None else torch.cat([self.end, in_double(rows)])
        angles = turning_angles(path, spread_floor(rows.dtype))
        known = angles[~angles.isnan()]
        return replace(
            self, end=path[-2:].clone(), angles=self.angles + float(known.sum()), count=self.count + len(known)
        )  # fmt: skip

    def curvature(self) -> float:
        """The mean angle, rad; NaN where there is none."""
        return self.angles / self.count if self.count else math.nan


@dataclass(frozen=True, eq=False)
class Text(Kept):
    """One open document: how many tokens of it came, and its Gram matrices and paths by site."""

    tokens: int
    grams: tuple[TextGram, ...]
    paths: tuple[TextPath, ...]


@dataclass(frozen=True, eq=False)
class TextBatch:
    """What one batch adds: the values [part, site] of documents that end in it, and what is known of those that go on."""

    finished: dict[int, Tensor]
    open: dict[int, Text]


class Texts(Kept):
    """The measures that every document has by itself, once all of it came.

    Args:
        parts: which of ``OF_DOCUMENTS``, in the order wanted.
        sites: where.
        order: of the entropies.
        normalise: of their rows.
    """

    def __init__(self, parts: Sequence[str], sites: Sequence[Site], *, order: float, normalise: Normalise) -> None:
        self.parts, self.sites, self.order = parts, sites, order
        self._entropy, self._curvature = any(part.endswith("prompt_entropy") for part in parts), "curvature" in parts
        self._new = Text(0, (TextGram(normalise),) * len(sites), (TextPath(),) * len(sites))
        self._finished: dict[int, bytes] = {}  # a tensor for each would take ten times the memory of its numbers
        self._open: dict[int, Text] = {}

    def state_dict(self) -> dict[str, Any]:
        """The values of every document, in one tensor; one that is half read has those of what came."""
        documents, values = self.known()
        finished, open_ = self._finished, self._open
        self._finished, self._open = {}, {}
        try:
            return {**super().state_dict(), "_finished": {"documents": documents, "values": values}}
        finally:
            self._finished, self._open = finished, open_

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state in place of what was seen here."""
        super().load_state_dict({name: value for name, value in state.items() if name != "_finished"})
        of = state["_finished"]
        self._finished = dict(zip(of["documents"], map(_packed, of["values"]), strict=True))

    def read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> TextBatch:
        """What ``add`` takes in; this changes nothing yet."""
        if not self.parts:
            return TextBatch({}, {})
        documents, counts = (part.tolist() for part in batch.row_document.cpu().unique_consecutive(return_counts=True))
        states = [batch.rows(activations[site]).cpu().split(counts) for site in self.sites]
        read = {document: self._extended(document, rows) for document, *rows in zip(documents, *states, strict=True)}
        ended = {int(document) for document in batch.document[batch.last]}
        finished = {document: self._values(text) for document, text in (self._open | read).items() if document in ended}
        kept = {document: self._detached(text) for document, text in read.items() if document not in ended}
        return TextBatch(finished, kept)

    def add(self, found: TextBatch) -> None:
        """Take in what ``read`` found."""
        self._finished |= {document: _packed(values) for document, values in found.finished.items()}
        self._open = {document: text for document, text in (self._open | found.open).items() if document not in found.finished}

    def merge(self, other: Texts, first_document: int) -> None:
        """Take in other documents, numbered from ``first_document``; those still open there are closed."""
        documents, values = other.known()
        self._finished |= {first_document + document: _packed(own) for document, own in zip(documents, values, strict=True)}

    def known(self) -> tuple[list[int], Tensor]:
        """Every document, and its values: [document, part, site], of open ones as far as they came."""
        found = self._finished | {document: _packed(self._values(text)) for document, text in self._open.items()}
        values = torch.from_numpy(np.frombuffer(b"".join(found.values()), dtype=np.float64).copy())
        return list(found), values.reshape(len(found), len(self.parts), len(self.sites))

    def _extended(self, document: int, states: Sequence[Tensor]) -> Text:
        """A document with the ``states`` [token, d_model] at every site that follow."""
        text = self._open.get(document, self._new)
        return Text(
            text.tokens + len(states[0]),
            tuple(gram.extended(x) for gram, x in zip(text.grams, states, strict=True)) if self._entropy else text.grams,
            tuple(path.extended(x) for path, x in zip(text.paths, states, strict=True)) if self._curvature else text.paths,
        )

    def _detached(self, text: Text) -> Text:
        return replace(text, grams=tuple(gram.detached() for gram in text.grams))

    def _values(self, text: Text) -> Tensor:
        found: dict[str, list[float]] = {}
        if self._entropy:
            found["prompt_entropy"] = [gram.entropy(self.order) for gram in text.grams]
            shares = zip(found["prompt_entropy"], text.grams, strict=True)
            found["normalized_prompt_entropy"] = [entropy / gram.most for entropy, gram in shares]
        if self._curvature:
            found["curvature"] = [path.curvature() for path in text.paths]
        return torch.tensor([found[part] for part in self.parts], dtype=torch.float64)


def _packed(values: Tensor) -> bytes:
    """Values in float64 as bytes."""
    packed: bytes = values.double().numpy().tobytes()
    return packed


@dataclass(eq=False)
class Moments(Kept):
    """Number, mean [d_model] and scatter about the mean [d_model, d_model] of rows; ``floor`` is their ``spread_floor``."""

    n: int
    mean: Tensor
    scatter: Tensor
    floor: float

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Those of ``rows`` [row, d_model]."""
        floor, rows = spread_floor(rows.dtype), in_double(rows)
        mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        return cls(len(rows), mean, centred.mT @ centred, floor)

    @property
    def vary(self) -> bool:
        """Whether the rows differ by more than rounding."""
        return varies(self.scatter.trace(), self.n, self.mean, max(self.floor, ROUNDING))

    def add(self, other: Moments) -> None:
        """Take in those of other rows."""
        n = self.n + other.n
        self.floor = max(self.floor, other.floor)
        if not other.n:
            return
        step = other.mean.to(self.mean.device) - self.mean
        self.scatter += other.scatter.to(self.scatter.device)
        self.scatter.addr_(step, step, alpha=self.n * other.n / n)
        self.mean += step * (other.n / n)
        self.n = n


class Directions(Kept):
    """Sums of the states' directions and how many there are, by fold of documents: what the mean cosine of all pairs needs."""

    def __init__(self, d_model: int) -> None:
        self.sums = torch.zeros(FOLDS, d_model, dtype=torch.float64)
        self.counts = torch.zeros(FOLDS, dtype=torch.float64)

    @staticmethod
    def of(rows: Tensor, fold: Tensor) -> tuple[Tensor, Tensor]:
        """The sums and counts of ``rows`` [row, d_model] of float64; those of length 0 are left out."""
        lengths = rows.norm(dim=1)
        there = lengths > 0
        units, fold = rows[there] / lengths[there, None], fold.to(rows.device)[there]
        return group_sums(units, fold, FOLDS).cpu(), torch.bincount(fold, minlength=FOLDS).double().cpu()

    def add(self, sums: Tensor, counts: Tensor, *, first_fold: int = 0) -> None:
        """Take in sums and counts of other documents, of which the first belongs to ``first_fold``."""
        self.sums += sums.roll(first_fold, 0)
        self.counts += counts.roll(first_fold, 0)

    def anisotropy(self) -> tuple[Tensor, Tensor]:
        """The mean cosine of all pairs, and what each fold adds to its error (delete-a-group jackknife over documents)."""
        total, n = self.sums.sum(0), self.counts.sum()
        left_out = mean_cosine(torch.cat([total[None], total - self.sums]), torch.cat([n[None], n - self.counts]))
        return left_out[0], jackknife_scores(left_out, self.counts)
