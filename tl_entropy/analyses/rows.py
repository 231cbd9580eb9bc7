"""What every analysis of single positions does alike: gather rows, put them in the order of the input, run the one pass.

A *row* is a counted position of a batch. ``Rows`` keeps what was found at each; ``measure``, or ``measure_all`` for several
measurements of one model, runs the pass and fills in where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.capture.corpus import Count
from tl_entropy.capture.stream import CorpusOptions, StreamReport, described, stream
from tl_entropy.errors import NonFiniteError


class Rows:
    """Tensors with one row for each position read, gathered batch by batch.

    Args:
        empty: name to a tensor of no rows, whose other axes and dtype are those of the rows to come.

    Attributes:
        names: names of documents that have one (files).
    """

    def __init__(self, empty: Mapping[str, Tensor]) -> None:
        ids = torch.zeros(0, dtype=torch.long)
        self._parts = [{**empty, "document": ids, "position": ids, "token": ids}]
        self._documents = 0  # one more than the highest number seen
        self.names: dict[int, str] = {}

    def places(self, batch: Batch) -> dict[str, Tensor]:
        """What each row is about: a document, a position in it and the token there."""
        return {"document": batch.row_document, "position": batch.row_position, "token": batch.row_token}

    def update(self, batch: Batch, values: Mapping[str, Tensor]) -> None:
        """Take in a batch: ``values`` [row, ...] by name."""
        found = {**values, **self.places(batch)}
        self._parts.append({name: value.to("cpu", self._parts[0][name].dtype) for name, value in found.items()})
        self.names |= {int(d): name for d, name in zip(batch.document, batch.names, strict=True) if name is not None}
        self._documents = max(self._documents, int(batch.document.max()) + 1)

    def merge(self, other: Rows) -> None:
        """Take in another's rows, its documents numbered on from this one's, since every pass numbers its own from 0."""
        first = self._documents
        self._parts += [{**part, "document": part["document"] + first} for part in other._parts]
        self.names |= {document + first: name for document, name in other.names.items()}
        self._documents += other._documents

    def whole(self) -> dict[str, Any]:
        """All rows, by document and position."""
        whole = {key: torch.cat([part[key] for part in self._parts]) for key in self._parts[0]}
        order = torch.argsort(whole["position"], stable=True)
        order = order[torch.argsort(whole["document"][order], stable=True)]
        return {key: value[order] for key, value in whole.items()}


def closed(batch: Batch) -> list[int]:
    """The documents that end in this batch."""
    return [int(document) for document in batch.document[batch.last]]


def measure(
    accumulator: Any,
    inputs: Any,
    *,
    settings: Mapping[str, Any],
    positions: Any,
    max_new_tokens: int,
    batch_size: int | None,
    progress: bool,
    options: CorpusOptions,
    count: Count = "read",
) -> Any:
    """The result of one pass over ``inputs``, with its provenance and, where text was generated, what of it was.

    Raises:
        NonFiniteError: as ``stream``; its ``partial`` holds the result of what came before.
    """
    try:
        [result] = measure_all(
            [accumulator], inputs, settings=[settings], positions=positions, max_new_tokens=max_new_tokens,
            batch_size=batch_size, progress=progress, options=options, count=count,
        )  # fmt: skip
    except NonFiniteError as error:
        [error.partial] = error.partial
        raise
    return result


def measure_all(
    accumulators: Sequence[Any],
    inputs: Any,
    *,
    settings: Sequence[Mapping[str, Any]],
    positions: Any,
    max_new_tokens: int,
    batch_size: int | None,
    progress: bool,
    options: CorpusOptions,
    count: Count = "read",
) -> list[Any]:
    """The results of several accumulators of one model from one pass, each as ``measure`` gives it with its ``settings``.

    Raises:
        NonFiniteError: as ``stream``; its ``partial`` lists the results of what came before.
    """
    adapter = accumulators[0].adapter
    common = {
        "positions": repr(positions), "max_new_tokens": max_new_tokens, "prepend_bos": adapter.prepends_begin,
        **described(options, batch_size=batch_size),
    }  # fmt: skip
    settings = [{**own, **common} for own in settings]
    try:
        report = stream(
            adapter, inputs, accumulators, positions=positions, batch_size=batch_size, max_new_tokens=max_new_tokens,
            count=count, progress=progress, **options,
        )  # fmt: skip
    except NonFiniteError as error:
        error.partial = [one.compute(settings=own) for one, own in zip(accumulators, settings, strict=True)]
        raise
    origin = {"corpus": report.counts(), "interrupted": report.interrupted}
    results = [one.compute(settings=own, **origin) for one, own in zip(accumulators, settings, strict=True)]
    return [_with_generated(result, report) if max_new_tokens else result for result in results]


def _with_generated(result: Any, report: StreamReport) -> Any:
    """The result with what was generated, where it has single positions."""
    if not hasattr(result, "generated"):
        return result
    lengths = torch.tensor([report.prompt_lengths[document] for document in result.document.tolist()], dtype=torch.long)
    return replace(result, generated=result.position >= lengths)
