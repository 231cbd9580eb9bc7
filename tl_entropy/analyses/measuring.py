"""The way from texts to results that every analysis goes: one pass of the model, then every result with its origin.

``stream`` goes from texts to tokens, batches, hidden states and rows, in that order; ``measure`` adds the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NotRequired, TypedDict, Unpack

import torch

from tl_entropy.analyses.sharing import Pass, at_once, read
from tl_entropy.analyses.streaming import Found, StreamingMeasure
from tl_entropy.capture.corpus import Count
from tl_entropy.capture.options import CorpusOptions, described
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import NonFiniteError, ProcessError, TLEntropyError, keeping


class _Reading(TypedDict):
    """How a pass reads its inputs: what functions that measure hand on as they got it."""

    positions: Any
    max_new_tokens: int
    batch_size: int | None
    progress: bool
    options: CorpusOptions
    count: NotRequired[Count]


def measure(
    accumulator: StreamingMeasure[Found],
    inputs: Any,
    *,
    shown: Callable[[Found], Any] | None = None,
    **reading: Unpack[_Reading],
) -> Found:
    """The result of one pass over ``inputs``, with its provenance and, where text was generated, what of it was.

    Args:
        accumulator: what is measured.
        inputs: as for ``stream``.
        shown: what a user gets to see of the result of a part; None is the result itself.
        reading: how the inputs are read.

    Raises:
        Whatever ends the pass, as ``stream`` says; its ``partial`` holds the result of what came before, or the accumulator
            where all was read and its ``compute`` was ended.
    """
    result: Found
    [result] = _measured([accumulator], inputs, lambda found: found[0] if shown is None else shown(found[0]), **reading)
    return result


def measure_all(accumulators: Sequence[StreamingMeasure[Any]], inputs: Any, **reading: Unpack[_Reading]) -> list[Any]:
    """The results of several accumulators of one model from one pass, each as ``measure`` gives it.

    Raises:
        Whatever ends the pass, as ``stream`` says; its ``partial`` lists the results of what came before.
    """
    return _measured(accumulators, inputs, lambda results: results, **reading)


def _measured(
    accumulators: Sequence[StreamingMeasure[Any]],
    inputs: Any,
    shown: Callable[[list[Any]], Any],
    *,
    positions: Any,
    max_new_tokens: int,
    batch_size: int | None,
    progress: bool,
    options: CorpusOptions,
    count: Count = "read",
) -> list[Any]:
    adapter = accumulators[0].adapter
    settings = {
        "positions": repr(positions), "max_new_tokens": max_new_tokens, "prepend_bos": adapter.prepends_begin,
        **({} if adapter.has_tokenizer else {"special_ids": tuple(sorted(adapter.special_ids))}),
        **described(options, batch_size=batch_size, n_layers=adapter.n_layers),
    }  # fmt: skip
    one_pass = Pass(
        adapter, inputs, positions=positions, batch_size=batch_size, max_new_tokens=max_new_tokens, count=count,
        progress=progress, options=options,
    )  # fmt: skip

    def results(**origin: Any) -> list[Any]:
        return [one.compute(settings=settings, **origin) for one in accumulators]

    def partial(error: BaseException) -> Any:
        return shown(results(interrupted=True)) if one_pass.rows or isinstance(error, NonFiniteError) else None

    with keeping(partial):
        # Texts to tokens, to batches, to hidden states, to rows.
        report = read(accumulators, one_pass)
    # Rows to results.
    with computing(accumulators[0] if len(accumulators) == 1 else accumulators), at_once(not one_pass.whole):
        found = results(corpus=report.counts(), interrupted=report.interrupted)
    return [_with_generated(result, report) if max_new_tokens else result for result in found]


def computing(read: Any) -> AbstractContextManager[None]:
    """While sums become a result, what ends it and is no refusal, such as Ctrl-C, has what was read as its ``partial``.

    Args:
        read: the accumulator, or several.
    """

    def gathered(error: BaseException) -> Any:
        return None if isinstance(error, TLEntropyError) and not isinstance(error, ProcessError) else read

    return keeping(gathered, "what was read before this error is its attribute 'partial': compute() gives the result")


def _with_generated(result: Any, report: StreamReport) -> Any:
    """The result with what was generated, where it has single positions."""
    if not hasattr(result, "generated"):
        return result
    lengths = torch.tensor([report.prompt_lengths[document] for document in result.document.tolist()], dtype=torch.long)
    return replace(result, generated=result.position >= lengths)
