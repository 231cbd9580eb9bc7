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

import difflib
import inspect
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tl_entropy.accumulators import Accumulator
from tl_entropy.batches import Batch, batches
from tl_entropy.capture.adapter import Adapter, hook_name
from tl_entropy.capture.corpus import Corpus, Count
from tl_entropy.capture.edits import Edits
from tl_entropy.capture.generate import AT_ONCE, Continuations, check_sampling
from tl_entropy.capture.interventions import Interventions, intervention_names
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_int
from tl_entropy.sites import Site

MAX_TOKENS = 4096
"""Cells of a batch (windows times longest) where no batch size is given."""


class WindowOptions(TypedDict, total=False):
    """How texts become windows; every function that reads ``inputs`` takes these.

    ``window``: tokens of a window, the begin token included (the model's context); ``stride``: new tokens from one window of
    a long text to the next (all of them: no overlap), so that every later token has at least window - stride tokens before
    it; ``prepend_bos``: begin windows with the tokenizer's begin token (as TransformerLens does for this model);
    ``include_special``: count special tokens, too (no); ``text_column``: column of a dataset that holds the text ("text").
    """

    window: int | None
    stride: int | None
    prepend_bos: bool | None
    include_special: bool
    text_column: str


class CorpusOptions(WindowOptions, total=False):
    """The same, for functions that can generate and intervene.

    ``temperature``: 0 (greedy) or more. ``seed``: of the sampling. Prompts of one length among ``batch_size`` (16 where none is
    given) that follow each other are sampled together, with random numbers of their own, drawn from ``seed`` and the number of
    the first of them; so a sampled text depends on ``batch_size``, which the provenance then holds. Greedy text needs neither.

    ``interventions``: edits of the model's insides while it is measured, and while it generates: one or several of
    ``ablate_heads(...)``, ``ablate(...)``, ``steer(...)``, ``occlude(...)``, ``mask_attention(...)`` (these two not while
    text is generated), or pairs of a hook's name and a ``function(activation, hook)``. Of
    hooks of one's own (see ``Intervention``): they see columns of a window, BOS included, and while generating the new token
    alone; what one at ``hook_resid_mid`` of a TransformerBridge changes reaches the MLP and not the stream; two are told apart
    in results by their function's name, or by an ``Intervention``'s. Heads ablated to 0 are another thing where TransformerLens
    has folded the value biases: to compare models or processings, ablate to ``head_means``.
    """

    temperature: float
    seed: int
    interventions: Interventions | None


@dataclass(frozen=True)
class StreamReport:
    """What one pass read.

    Attributes:
        documents: texts or rows read to their end.
        tokens: positions counted.
        bytes: UTF-8 bytes of the texts read; None where tokens were given, or generated.
        characters: characters of the texts read, likewise.
        empty: number of texts without a token, which were skipped.
        cut: number of texts longer than a window.
        window: tokens of a window.
        stride: new tokens from window to window; None for as many as fit.
        seconds: time of the pass.
        interrupted: whether Ctrl-C ended it.
        prompt_lengths: document to tokens of its prompt, where texts were generated.
        ids: whether a document, or a prompt, was given as token ids, which may be other texts to another model.
    """

    documents: int
    tokens: int
    bytes: int | None
    characters: int | None
    empty: int
    cut: int
    window: int
    stride: int | None
    seconds: float
    interrupted: bool
    prompt_lengths: Mapping[int, int]
    ids: bool

    def counts(self) -> dict[str, Any]:
        """The counts, for a result's provenance."""
        names = ("documents", "tokens", "bytes", "characters", "empty", "cut", "window", "stride", "ids")
        return {name: getattr(self, name) for name in names}


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
            latter, the position before each of them is handed on, the BOS before a document's first.
        progress: show a progress bar with tokens per second.
        options: see ``CorpusOptions``.

    Returns:
        What was read.

    Raises:
        InputError: nothing to measure, an argument out of range, or an intervention that this model or pass does not allow.
        InputTypeError: an argument of another kind.
        ModelError: a hook exists but never fires.
        NonFiniteError: a NaN or infinity in an activation; accumulators keep what came before.
    """
    check_options(stream, options, CorpusOptions)
    temperature, seed = check_sampling(options.pop("temperature", 0.0), options.pop("seed", 0))
    adapter = model if isinstance(model, Adapter) else Adapter(model)
    sites = tuple(sorted({site for a in accumulators for site in a.sites}, key=lambda site: site.depth))
    if not sites:
        raise InputError("accumulators: at least one accumulator with at least one site is needed")
    max_new_tokens = check_int("max_new_tokens", max_new_tokens, 0)
    edits = Edits(adapter, options.pop("interventions", None), sites)
    if max_new_tokens and edits.positioned:
        raise InputError(
            f"max_new_tokens: {edits.positioned[0]!r} is at positions of whole documents, which a text that is still being "
            "written is not; generate first, and measure the text with the intervention"
        )
    windows = cast("WindowOptions", options)
    cache, inputs = split_cache(inputs)
    if cache is not None and any(getattr(a, "runs_model", False) for a in accumulators):
        raise InputError("inputs: nothing runs on a cache; pass the texts or tokens themselves")
    if cache is not None and edits.hooks:
        raise InputError("interventions: nothing runs on a cache; pass the tokens themselves, or a cache of the edited model")
    given = corpus = read_corpus(adapter, inputs, positions=None if max_new_tokens else positions, count=count, **windows)
    continuations = None
    if max_new_tokens:
        if cache is not None:
            raise InputError("max_new_tokens: nothing can be generated from a cache; pass the texts or tokens themselves")
        continuations = Continuations(
            corpus, adapter, max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size
        )
        corpus = read_corpus(adapter, continuations, positions=positions, count=count, **windows)
    work: Iterable[tuple[Batch, Mapping[Site, Tensor] | None]]
    if cache is None:
        work = ((b, None) for b in batches(corpus, batch_size=batch_size, max_tokens=MAX_TOKENS, pad_id=adapter.pad_id))
    else:
        work = [_cached_batch(cache, inputs, corpus, adapter, sites)]

    feeder = _Feeder(adapter, sites, edits)
    started, interrupted, tokens = time.perf_counter(), False, 0
    bar = tqdm(total=given.n_documents, unit="doc", desc="tl_entropy", disable=not progress, dynamic_ncols=True)
    with bar, adapter.edited(edits.hooks):
        try:
            for batch, activations in work:
                with _whole_batches():
                    feeder.feed(batch, activations, list(accumulators))
                    tokens += batch.n_rows
                bar.update(int(batch.last.sum()))
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - started):,.0f} tok/s", refresh=False)
        except KeyboardInterrupt:
            interrupted = True
            warnings.warn(f"interrupted after {tokens} tokens; results cover what was read until then", stacklevel=3)
    edits.warn_of_unmeant()
    report = corpus.report
    return StreamReport(
        documents=report.documents,
        tokens=tokens,
        bytes=report.bytes,
        characters=report.characters,
        empty=report.n_empty,
        cut=report.cut,
        window=report.window,
        stride=report.stride,
        seconds=time.perf_counter() - started,
        interrupted=interrupted,
        prompt_lengths=continuations.prompt_lengths if continuations else {},
        ids=given.report.bytes is None,
    )


def read_corpus(
    adapter: Adapter, inputs: Any, *, positions: Any = None, count: Count = "read", **options: Unpack[WindowOptions]
) -> Corpus:
    """The windows of ``inputs`` (no cache) as ``stream`` reads them for this model."""
    if options.get("prepend_bos") is None:
        options["prepend_bos"] = adapter.prepends_begin
    return Corpus(inputs, adapter, positions=positions, count=count, **options)  # type: ignore[arg-type]


def described(options: Mapping[str, Any], *, batch_size: int | None = None) -> dict[str, Any]:
    """The options that are set, as plain values for a result's provenance: interventions by their names.

    ``batch_size`` is among them where text is sampled, which depends on it.

    >>> described({"temperature": 1, "seed": 3, "window": None}, batch_size=8)
    {'temperature': 1.0, 'seed': 3, 'batch_size': 8}
    """
    sampling = {name: options[name] for name in ("temperature", "seed") if name in options}
    temperature, seed = check_sampling(**sampling)
    known = {**options, **{name: {"temperature": temperature, "seed": seed}[name] for name in sampling}}
    plain = {name: value for name, value in known.items() if value is not None}
    if temperature > 0:
        plain["batch_size"] = batch_size or AT_ONCE
    if "interventions" in plain:
        plain["interventions"] = intervention_names(plain["interventions"])
    return plain


def check_options(function: Callable[..., Any], options: Mapping[str, Any], known: type) -> None:
    """Raise InputTypeError for an option that ``function`` does not have: neither a keyword of its own nor one of ``known``.

    >>> check_options(stream, {"strid": 8}, WindowOptions)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tl_entropy.errors.InputTypeError: 'strid' is not an option (did you mean 'stride'?); choose from batch_size, ..., window
    """
    own = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    names = sorted({*own, *known.__annotations__})
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputTypeError(f"{name!r} is not an option{hint}; choose from {', '.join(names)}")


@contextmanager
def _whole_batches() -> Iterator[None]:
    """Ctrl-C waits until every accumulator has had the batch, so that none holds half of one; a second Ctrl-C doesn't wait."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: Any) -> None:
        if held:
            raise KeyboardInterrupt
        held.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


class _Feeder:
    """Brings batches to accumulators, and learns how many cells fit in memory."""

    def __init__(self, adapter: Adapter, sites: Sequence[Site], edits: Edits) -> None:
        self._adapter, self._sites, self._edits = adapter, sites, edits
        self._room: float = float("inf")  # cells of the largest batch that may fit

    def feed(self, batch: Batch, activations: Mapping[Site, Tensor] | None, waiting: list[Accumulator]) -> None:
        """One batch to all in ``waiting``; where memory runs out, its halves to those that have not had it."""
        cells = batch.tokens.numel()
        if activations is not None or len(batch) == 1 or cells <= self._room:
            if self._fits(batch, activations, waiting):
                return
            # Outside the handler, so that the failed attempt's tensors, which its traceback held, are free by now.
            self._room = cells / 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        for half in batch.split():
            self.feed(half, None, list(waiting))

    def _fits(self, batch: Batch, activations: Mapping[Site, Tensor] | None, waiting: list[Accumulator]) -> bool:
        """Whether memory was enough; each accumulator that had the batch leaves ``waiting``."""
        cached = activations is not None
        try:
            if activations is None:
                needed = tuple(site for site in self._sites if any(site in a.sites for a in waiting))
                with torch.inference_mode(False):  # gradients may go through edits, and need what these keep
                    self._edits.begin(batch)
                activations = self._adapter.activations(batch.tokens, batch.attention_mask, needed)
                self._edits.check_fired()
            if not all(getattr(a, "takes_non_finite", False) for a in waiting):
                _check_finite(batch, activations)
            while waiting:
                waiting[0].update(batch, activations)
                waiting.pop(0)
        except RuntimeError as error:
            if cached or len(batch) == 1 or not _out_of_memory(error):
                raise
            return False
        return True


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)


def _check_finite(batch: Batch, activations: Mapping[Site, Tensor]) -> None:
    """Raise NonFiniteError at the first NaN or infinity in a counted cell."""
    for site, activation in activations.items():
        if site.name == "pattern" or bool(activation.isfinite().all()):
            continue
        rows = batch.rows(activation)
        bad = (~rows.flatten(1).isfinite()).any(1).nonzero()
        if len(bad):
            raise NonFiniteError(
                f"{hook_name(site)} has a NaN or an infinity at {row_place(batch, int(bad[0]))} (and {len(bad) - 1} more of "
                "this batch); check the weights and the dtype"
            )


def row_place(batch: Batch, row: int) -> str:
    """Where a row is, for a message: the document, and the position in it or the begin token."""
    document, position = int(batch.row_document[row]), int(batch.row_position[row])
    return f"document {document}, {f'position {position}' if position >= 0 else 'the begin token'}"


def split_cache(inputs: Any) -> tuple[Any, Any]:
    """(cache, rest) where the input is an ActivationCache with its tokens; (None, inputs) otherwise."""
    if hasattr(inputs, "cache_dict"):
        raise InputTypeError("inputs: an ActivationCache needs its tokens: pass (cache, tokens), or (cache, tokens, mask)")
    if not (isinstance(inputs, tuple) and inputs and hasattr(inputs[0], "cache_dict")):
        return None, inputs
    if len(inputs) not in (2, 3) or not isinstance(inputs[1], Tensor):
        raise InputTypeError("inputs: an ActivationCache comes as (cache, tokens), or as (cache, tokens, mask)")
    cache, tokens, *mask = inputs
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    return cache, (tokens, mask[0]) if mask else tokens


def _cached_batch(
    cache: Any, inputs: Tensor | tuple[Tensor, Tensor], corpus: Corpus, adapter: Adapter, sites: Sequence[Site]
) -> tuple[Batch, Mapping[Site, Tensor]]:
    """The cache's own layout as one batch: real cells are described by the corpus, padding stays where it is."""
    tokens, mask = inputs if isinstance(inputs, tuple) else (inputs, torch.ones_like(inputs))
    mask = (mask[None] if mask.ndim == 1 else mask).bool()
    activations = adapter.cached_activations(cache, sites)
    for site, activation in activations.items():
        where = tuple(activation.shape[:2]) if site.name != "pattern" else (activation.shape[0], activation.shape[2])
        if where != tuple(tokens.shape):
            raise InputError(f"inputs: the cache's {hook_name(site)} is {where}, its tokens are {tuple(tokens.shape)}")
    [batch] = batches(corpus, batch_size=len(tokens), max_tokens=1, pad_id=adapter.pad_id)
    if len(batch) != len(tokens):
        raise InputError(f"inputs: {len(tokens) - len(batch)} rows of the cache's tokens are empty or longer than the window")

    def spread(values: Tensor, filler: int) -> Tensor:
        whole = torch.full(tokens.shape, filler, dtype=values.dtype)
        whole[mask.cpu()] = values[batch.attention_mask]
        return whole

    spread_out = replace(
        batch,
        tokens=tokens.cpu(),
        attention_mask=mask.cpu(),
        counted=spread(batch.counted, 0),
        position=spread(batch.position, -1),
        target=spread(batch.target, -1),
    )
    return spread_out, activations
