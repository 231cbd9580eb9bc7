"""One pass over a corpus: every batch goes through the model once, and its activations to every accumulator.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> means = tle.LensAccumulator(model, sites=("embed", "resid_post"), keep="summary")
    >>> report = tle.stream(model, ["import os", "def f(x):"], [means], progress=False)
    >>> report.documents, means.compute().tokens == report.tokens
    (2, True)

Activations live for one batch. Where memory runs out, the batch is cut in two and tried again, for the accumulators that
have not had it yet, and later batches are kept as small. Ctrl-C ends the pass: what was gathered so far stays, and the report
says that it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from tl_entropy.accumulators import Accumulator
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import cached_batch, split_cache
from tl_entropy.capture.corpus import Count, read_corpus
from tl_entropy.capture.edits import Edits
from tl_entropy.capture.feeding import Feeder, Watch, check_finite, whole_batches
from tl_entropy.capture.generate import Continuations, check_sampling
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.options import CorpusOptions, WindowOptions, check_options
from tl_entropy.capture.progress import TokenBar
from tl_entropy.capture.report import CorpusReport, StreamReport
from tl_entropy.errors import InputError, check_int, counted, warn
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady, yours

After = Callable[[StreamReport], bool | None]
"""What is called between documents, with the report so far; the pass ends there if it returns True."""


@steady
def stream(
    model: Any,
    inputs: Any,
    accumulators: Sequence[Accumulator],
    *,
    positions: int | slice | Sequence[int] | None = None,
    batch_size: int | None = None,
    max_new_tokens: int = 0,
    count: Count = "read",
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> StreamReport:
    """Run ``inputs`` through ``model`` once and hand every batch to all ``accumulators``.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: a text; a list of texts; a path to a text file or to a folder of them; a tensor of tokens [pos] or
            [batch, pos], alone or as ``(tokens, mask)``; a tokenizer's output with ``input_ids`` and ``attention_mask``;
            a Hugging Face dataset, map-style or streaming; an iterable of any of these; or ``(cache, tokens)`` or
            ``(cache, tokens, mask)`` with an ActivationCache, which is read instead of running the model.
        accumulators: any number of objects with ``sites``, ``update``, ``merge`` and ``compute``.
        positions: which positions of each document to count: an index, a slice or indices, negative from its end.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        max_new_tokens: tokens to generate after each text (its prompt), before the one pass over both.
        count: whether ``positions`` and the rule for special tokens speak of the tokens "read" or of those "predicted"; for the
            latter, the position before each of them is handed on, the BOS before a document's first. "around" is "predicted"
            with the position of each document's last token beside it, which is no token of the report.
        progress: show a progress bar with tokens per second.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Returns:
        What was read.

    Raises:
        InputError: nothing to measure, an argument out of range, an intervention that this model or pass does not allow, or an
            accumulator of another model, or of this one before its weights were changed.
        InputTypeError: an argument of another kind.
        ModelError: a hook exists but never fires, or a proof of what is measured fails.
        NonFiniteError: a NaN or infinity in an activation; accumulators keep what came before.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> lens, heads = tle.LensAccumulator(model), tle.HeadAccumulator(model)
    >>> report = tle.stream(model, ["import os", "import sys"], [lens, heads], progress=False)  # one pass for both
    >>> lens.compute().n_tokens == heads.compute().n_tokens
    True
    """
    check_options(stream, options, CorpusOptions)
    return read_part(
        model, inputs, accumulators, positions=positions, batch_size=batch_size, max_new_tokens=max_new_tokens, count=count,
        progress=progress, **options,
    )  # fmt: skip


def read_part(
    model: Any,
    inputs: Any,
    accumulators: Sequence[Accumulator],
    *,
    positions: Any = None,
    batch_size: int | None = None,
    max_new_tokens: int = 0,
    count: Count = "read",
    progress: bool = True,
    part: bool = False,
    after: After | None = None,
    **options: Unpack[CorpusOptions],
) -> StreamReport:
    """As ``stream``, of a part of ``inputs`` (``documents``), others reading the rest.

    Args:
        model: as for ``stream``, and so are those that are not named here.
        inputs: the whole.
        accumulators: what is fed.
        positions: which to count.
        batch_size: windows a batch.
        max_new_tokens: tokens to generate.
        count: what positions speak of.
        progress: show a bar.
        part: whether there may be nothing to measure in it; then nobody is warned of what is left out, either.
        after: called with the report so far whenever no document is half read; the pass ends where it says so.
        options: those of ``tle.CorpusOptions``.
    """
    temperature, seed = check_sampling(options.pop("temperature", 0.0), options.pop("seed", 0))
    adapter = adapter_of(model)
    sites = tuple(sorted({site for a in accumulators for site in a.sites}, key=lambda site: site.depth))
    if not sites:
        raise InputError("accumulators: at least one accumulator with at least one site is needed")
    max_new_tokens = check_int("max_new_tokens", max_new_tokens, 0)
    _check_model(accumulators, adapter)
    edits = Edits(adapter, options.pop("interventions", None), sites)
    cache, inputs = split_cache(inputs)
    _check_possible(accumulators, edits, cached=cache is not None, generates=max_new_tokens > 0)
    if cache is not None and options.get("documents") is not None:
        raise InputError("documents: a cache is read whole; leave it out, or pass the tokens themselves")
    windows = cast("WindowOptions", options)

    # Texts to tokens, cut into windows.
    plain = not max_new_tokens
    given = corpus = read_corpus(
        adapter, inputs, positions=positions if plain else None, count=count, measured=plain, part=part, quiet=part, **windows
    )  # fmt: skip
    notes = [a.begins(given.part) for a in accumulators if hasattr(a, "begins")]
    continuations = None
    if max_new_tokens:
        continuations = Continuations(
            corpus, adapter, max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size
        )
        windows["documents"] = None  # which have been chosen by now
        corpus = read_corpus(adapter, continuations, positions=positions, count=count, quiet=True, part=part, **windows)
    if after is not None:
        given.mark()
        corpus.mark()
    if batch_size is not None:
        batch_size = check_int("batch_size", batch_size, 1)
    if cache is None:
        padded: Iterable[Batch] = adapter.batches(corpus, batch_size)
    else:
        whole, kept, shown = cached_batch(cache, inputs, corpus, adapter, sites)
        padded = [whole]

    def take_in(batch: Batch, waiting: list[Accumulator]) -> None:
        # A batch to its hidden states.
        if cache is None:
            needed = tuple(site for site in sites if any(site in a.sites for a in waiting))
            with torch.inference_mode(False):  # gradients may go through edits, and need what these keep
                edits.begin(batch)
            hidden: Mapping[Site, Tensor] = adapter.activations(batch.tokens, batch.attention_mask, needed)
            edits.check_fired()
        else:
            hidden = kept
        if not all(getattr(a, "takes_non_finite", False) for a in waiting):
            check_finite(batch, hidden)
        # Hidden states to rows: what each accumulator picks, reads and adds up.
        while waiting:
            with yours():
                waiting[0].update(batch, hidden)
            waiting.pop(0)

    feeder, watch, read = Feeder(splits=cache is None), Watch(accumulators, given.n_documents), 0
    started, interrupted, tokens, seen = time.perf_counter(), False, 0, 0

    def noted(before: int, given_then: CorpusReport, read_then: CorpusReport) -> StreamReport:
        """What was read of the documents with numbers below ``before``, which accumulators get to know."""
        report = StreamReport(
            given=given_then, read=read_then, tokens=tokens, held=given.part.intervals(before), placed=not given.part.all,
            seconds=time.perf_counter() - started, interrupted=interrupted,
            prompt_lengths={d: n for d, n in continuations.prompt_lengths.items() if d < before} if continuations else {},
            uncached=continuations.uncached if continuations else 0, unpadded=cache is None and not adapter.pads_to,
            glimpse=given.glimpse, trusted=cache is not None and not shown,
        )  # fmt: skip
        for note in notes:
            note(report)
        return report

    def whole_so_far(batch: Batch) -> StreamReport:
        last = int(batch.document[-1])
        given_then = given.until(last)
        return noted(last + 1, given_then, given_then if plain else corpus.until(last))

    bar = TokenBar(given.n_documents, show=progress)
    with bar, adapter.edited(edits.hooks):
        try:
            for batch in padded:
                with whole_batches():
                    feeder.feed(batch, list(accumulators), take_in)
                    tokens += batch.n_rows - (int((batch.row_target < 0).sum()) if count == "around" else 0)
                    seen = int(batch.document[-1]) + 1
                read += int(batch.last.sum())
                watch.look(read)
                bar.take(batch)
                if after is not None and bool(batch.last[-1]):
                    so_far = whole_so_far(batch)
                    if after(so_far):
                        return so_far
        except KeyboardInterrupt:
            interrupted = True
            warn(f"interrupted after {counted(tokens, 'token')}; results cover what was read until then")
        except BaseException:
            noted(seen, given.report, corpus.report)
            raise
    edits.warn_of_unmeant()
    return noted(seen if interrupted else given.report.walked, given.report, corpus.report)


def _check_model(accumulators: Sequence[Accumulator], adapter: Adapter) -> None:
    """Raise InputError for an accumulator whose own model, by which it reads what it is handed, is not the one that is run."""
    for one in accumulators:
        own, kind = getattr(one, "adapter", None), type(one).__name__
        if not isinstance(own, Adapter) or own is adapter:
            continue
        if own.stack.of != adapter.stack.of:
            raise InputError(
                f"accumulators: {kind} reads states of the model's {own.stack.of}, and this pass runs for those of its "
                f"{adapter.stack.of}; pass its .adapter in the model's place"
            )
        if own.fingerprint != adapter.fingerprint:
            raise InputError(
                f"accumulators: {kind} is of other weights than those of the model that is run, by their hash: of another "
                "model, or of this one before it was trained, edited or cast, or an adapter switched; make another for each "
                "state of a model"
            )


def _check_possible(accumulators: Sequence[Accumulator], edits: Edits, *, cached: bool, generates: bool) -> None:
    """Raise InputError for what cannot be done on a cache, or while text is generated."""
    if generates and edits.positioned:
        raise InputError(
            f"max_new_tokens: {edits.positioned[0]!r} is at positions of whole documents, which a text that is still being "
            "written is not; generate first, and measure the text with the intervention"
        )
    if cached and any(getattr(a, "runs_model", False) for a in accumulators):
        raise InputError("inputs: nothing runs on a cache; pass the texts or tokens themselves")
    if cached and edits.hooks:
        raise InputError("interventions: nothing runs on a cache; pass the tokens themselves, or a cache of the edited model")
    if cached and generates:
        raise InputError("max_new_tokens: nothing can be generated from a cache; pass the texts or tokens themselves")
