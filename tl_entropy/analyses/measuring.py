"""The way from texts to results that every analysis goes: one pass of the model, then every result with its origin.

``stream`` goes from texts to tokens, batches, hidden states and rows, in that order; ``measure`` adds the last step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tl_entropy.capture.corpus import Count
from tl_entropy.capture.options import CorpusOptions, described
from tl_entropy.capture.stream import StreamReport, stream
from tl_entropy.errors import NonFiniteError


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
        # Texts to tokens, to batches, to hidden states, to rows.
        report = stream(
            adapter, inputs, accumulators, positions=positions, batch_size=batch_size, max_new_tokens=max_new_tokens,
            count=count, progress=progress, **options,
        )  # fmt: skip
    except NonFiniteError as error:
        error.partial = [one.compute(settings=own) for one, own in zip(accumulators, settings, strict=True)]
        raise
    # Rows to results.
    origin = {"corpus": report.counts(), "interrupted": report.interrupted}
    results = [one.compute(settings=own, **origin) for one, own in zip(accumulators, settings, strict=True)]
    return [_with_generated(result, report) if max_new_tokens else result for result in results]


def _with_generated(result: Any, report: StreamReport) -> Any:
    """The result with what was generated, where it has single positions."""
    if not hasattr(result, "generated"):
        return result
    lengths = torch.tensor([report.prompt_lengths[document] for document in result.document.tolist()], dtype=torch.long)
    return replace(result, generated=result.position >= lengths)
