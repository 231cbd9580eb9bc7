"""Windows of documents, as entropy-estimation models are trained and measured on them: drawn at random, or in order.

With the token that begins texts in front where the model has one, and padded on the right. What is drawn follows from
a seed and a step alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.errors import InputError, counted, warn
from tl_entropy.estimation.models import EstimationModel, losses_of

BY_CHANCE = 32
"""Tokens below which two documents may be the same by chance, as windows of coins are."""


@dataclass(frozen=True)
class Windows:
    """Windows of documents as a model reads them.

    Attributes:
        documents: token ids of each, without the token that begins texts.
        begin: that token; None for none.
        room: tokens of a window beside it.
    """

    documents: Sequence[Tensor]
    begin: int | None
    room: int

    @classmethod
    def of(cls, adapter: Adapter, texts: Any, argument: str) -> Windows:
        """Of texts, tokens, files or data sets, read once; or of windows read before, for another model of the same tokens."""
        try:
            documents = texts.documents if isinstance(texts, Windows) else _documents(adapter, texts)
        except InputError as error:
            raise InputError(f"{argument}: {error}") from error
        begin = adapter.begin if adapter.prepends_begin else None
        return cls(documents, begin, adapter.context - (begin is not None))

    @cached_property
    def _ends(self) -> list[int]:
        """Tokens up to the end of each document."""
        return list(accumulate(len(document) for document in self.documents))

    def drawn(self, batch_size: int, step: int, *, seed: int, short: float) -> tuple[Tensor, Tensor]:
        """Random windows [batch, pos] and their mask, a function of seed and step alone."""
        draw = random.Random(f"tl_entropy windows/{seed}/{step}")
        chosen = draw.choices(self.documents, cum_weights=self._ends, k=batch_size)
        rows = []
        for document in chosen:
            longest = draw.randint(max(1, self.room // 8), self.room) if draw.random() < short else self.room
            n = min(longest, len(document))
            start = draw.randint(0, len(document) - n)
            rows.append(document[start : start + n])
        return self.padded(rows)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All of the documents, cut into neighbouring windows, in batches: rows, mask, and the document of each row."""
        rows = [(i, part) for i, document in enumerate(self.documents) for part in document.split(self.room)]
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            yield *self.padded([row for _, row in some]), torch.tensor([i for i, _ in some])

    def digest(self) -> str:
        """SHA-256 over the documents' tokens."""
        found = hashlib.sha256()
        for document in self.documents:
            found.update(f"\n{len(document)}\n".encode() + document.long().numpy().tobytes())
        return found.hexdigest()

    def padded(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows [batch, pos], begun and padded on the right, and their mask."""
        front = [] if self.begin is None else [torch.tensor([self.begin])]
        whole = [torch.cat([*front, row]).long() for row in rows]
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in whole], batch_first=True)
        return pad_sequence(whole, batch_first=True), mask


def _documents(adapter: Adapter, texts: Any) -> list[Tensor]:
    return [window.body for window in read_corpus(adapter, texts, quiet=True, measured=False) if window.last]


@torch.no_grad()
def per_document(model: EstimationModel, windows: Windows, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Total loss in nats (float64), tokens predicted and windows of each document, of the model in evaluation mode."""
    training, n = model.training, len(windows.documents)
    nats, tokens, count = torch.zeros(n, dtype=torch.float64), torch.zeros(n).long(), torch.zeros(n).long()
    model.eval()
    try:
        for rows, mask, document in windows.in_order(batch_size):
            losses, real = losses_of(model(rows, attention_mask=mask), rows, mask, predicts=model.config.predicts)
            nats.index_add_(0, document, losses.double().sum(1).cpu())
            tokens.index_add_(0, document, real.sum(1).cpu())
            count.index_add_(0, document, torch.ones_like(document))
    finally:
        model.train(training)
    if not bool(tokens.any()):
        raise InputError("validation must hold a token that something comes before")
    return nats, tokens, count


def validated(model: EstimationModel, windows: Windows, batch_size: int) -> float:
    """The mean loss, nats a token, over all of the windows, of the model in evaluation mode."""
    nats, tokens, _ = per_document(model, windows, batch_size)
    return float(nats.sum() / tokens.sum())


def warn_of_shared(read: Windows, held_out: Windows) -> None:
    """Warn of documents that are trained on and held out: what they cost is no cost of an unknown text."""
    seen = {tuple(document.tolist()) for document in read.documents if len(document) >= BY_CHANCE}
    shared = sum(tuple(document.tolist()) in seen for document in held_out.documents)
    if shared:
        warn(
            f"validation: {shared} of its {counted(len(held_out.documents), 'document')} {'is' if shared == 1 else 'are'} "
            "among those that are trained on; the loss of these is no loss of unknown text"
        )
