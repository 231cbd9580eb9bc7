"""Conditional entropy of single tokens, by differences of whole sequences' losses.

The chain rule (Shannon 1948) gives a token's entropy, given all before it, from the entropies of two sequences,

    H(t_N | t_0 .. t_{N-1}) = H(t_0 .. t_N) - H(t_0 .. t_{N-1}),

and a model's total loss over a sequence, a sum and never a mean, stands in for each. In a causal model all losses but the last
cancel, and the difference is the token's own loss. Where every loss may depend on the whole sequence, as when an encoder reads
it all and hands a decoder a memory, no single loss is the cost of its token, and only the difference charges one token at a
time. A memory of fixed size costs both sequences the same, and cancels, too. Two ways to take the token away:

    truncation   the sequence ends one token earlier, and is one token shorter
    pad_shift    for a model of one fixed context: every sequence is filled up to the window with masked padding on the left, so
                 that the shorter one is moved by one cell and has one pad more

Both sequences begin at the same token, so both sums charge the same tokens but for the last. That includes the first token
where a BOS predicts it: to drop it from one of the sums, as happens where the shifted targets begin with the pad, is wrong by
its whole loss. Without a BOS it is predicted in neither; a model that gives back tokens that it has read (``cfg.predicts`` is
"own") is charged for it, and its shorter sequence is then empty, of total 0.

A document longer than the window is read with the window that ends at each token: its start moves on by one token at a time, a
BOS stays in front, and a token is given what is in its window.

The difference is an entropy only as far as the total loss is a code length. A memory that was made from the sequence leaks what
it is asked for, and differences of such losses may have little to do with the entropy of a token. They may be negative.

Refused: windows in which nothing is predicted; losses of another shape than the tokens, or not finite; for ``pad_shift``, a
model whose positions do not follow its attention mask; a loss that changes with the padding of its batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from tl_entropy.analyses.sharing import parts, same_inputs
from tl_entropy.analyses.streaming import row_fields
from tl_entropy.analyses.tokens.model_loss import ModelLoss
from tl_entropy.analyses.tokens.rows import PredictedRows
from tl_entropy.batches import Batch, Window, batches
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import Corpus, read_corpus
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.progress import Bar
from tl_entropy.capture.sighted import MAX_TOKENS
from tl_entropy.capture.skipping import OnError
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError, check_choice, counted, keeping, warn
from tl_entropy.results.tokens.conditional import ConditionalEntropy
from tl_entropy.torch_state import steady

Method = Literal["truncation", "pad_shift"]
SequenceLoss = Callable[[Tensor, Tensor], Tensor]
"""Tokens [batch, pos] and their mask [batch, pos] to losses [batch, pos] in nats, each at the token that it is the loss of."""


@steady
def conditional_entropy(
    model: Any,
    inputs: Any,
    *,
    method: Method = "truncation",
    loss: SequenceLoss | None = None,
    window: int | None = None,
    positions: int | slice | Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    prepend_bos: bool | None = None,
    include_special: bool = False,
    text_column: str = "text",
    on_error: OnError = "raise",
) -> ConditionalEntropy:
    """What each token adds to the loss of its sequence: H(t_0 .. t_N) - H(t_0 .. t_{N-1}).

    On a causal model this is the token's own surprisal, found the long way. It is meant for a ``loss`` that isn't causal, such
    as that of a decoder with a memory of the whole sequence. There it need not be an entropy, and may be negative: a memory
    that was made from the sequence leaks what it is asked for.

    It costs a forward pass for each token and document, and two for each token behind the first window. With ``pad_shift`` each
    of them is as long as the window.

    Args:
        model: a HookedTransformer or TransformerBridge; with a ``loss``, only its tokenizer, token ids and context are used.
        inputs: texts, tokens, files or data sets; see ``stream``.
        method: "truncation", or "pad_shift" for a model that was trained on one fixed context with padding on the left.
        loss: a function of tokens [batch, pos] (long, on the CPU) and their mask [batch, pos] (bool, False at padding, which is
            on the right by truncation and on the left by shift) that gives the losses [batch, pos] in nats, each at the token
            that it is the loss of, and 0 at a token that isn't predicted. What it gives at padding is not read. It is called
            without gradients. None is the model's own loss.
        window: tokens of a window, BOS included; None is the model's context.
        positions: positions of each document to count; None is all. Padding, BOS and special tokens never count.
        batch_size: sequences a batch; None takes as many as fit in 4096 tokens. With 1, truncation pads nothing.
        progress: show a progress bar over tokens.
        prepend_bos: begin texts with the tokenizer's begin token; None is as TransformerLens does for this model. Rows of
            tokens are taken as they are, and have one where they begin with its id.
        include_special: count special tokens, too.
        text_column: column of a data set that holds the texts.
        on_error: "raise", or "skip" to leave out documents that cannot be used; see ``CorpusOptions``.

    Returns:
        ``ConditionalEntropy``, one row a token, in nats. Sums are in float64, but their losses come as precise as the model is:
        in float32 each is off by some 1e-6, which grows with the root of the window (2e-5 at 256 tokens). Ctrl-C ends it with
        the tokens measured so far.

    Raises:
        InputError, InputTypeError: an argument, an item of the input, or what ``loss`` gives is of the wrong kind or shape.
        ModelError: the model's own logits can't be reproduced; padding on the left changes the model's losses, or padding on
            the right those of ``loss``.
        NonFiniteError: a loss is NaN or infinite; its ``partial`` holds the result so far.

    Source: Shannon, A mathematical theory of communication, 1948, section 6; the first token is charged in both sequences.

    >>> import tl_entropy as tle
    >>> def half_the_length(tokens, mask):  # total n² / 2, so that token n adds n - 1/2
    ...     return mask * mask.sum(1, keepdim=True) / 2
    >>> model, ids = tle.demo_model(), torch.tensor([5, 6, 7, 8])
    >>> conditional_entropy(model, ids, loss=half_the_length, progress=False).entropy.tolist()
    [1.5, 2.5, 3.5]
    """
    adapter = adapter_of(model)
    check_choice("method", method, ("truncation", "pad_shift"))
    if loss is not None and not callable(loss):
        raise InputTypeError(f"loss must be a function of tokens and mask, or None; got {type(loss).__name__}")
    if split_cache(inputs)[0] is not None:
        raise InputError("inputs: nothing runs on a cache; pass the texts or tokens themselves")
    corpus = read_corpus(
        adapter, inputs, positions=positions, count="predicted", window=window, prepend_bos=prepend_bos,
        include_special=include_special, text_column=text_column, on_error=on_error,
    )  # fmt: skip
    width = corpus.report.window
    if width < 2 and adapter.predicts == "next":
        raise InputError(f"window must be at least 2, for a token and one that predicts it; got {width}")
    settings: dict[str, Any] = {
        "method": method, "window": width, "positions": repr(positions), "include_special": include_special,
        "prepend_bos": adapter.prepends_begin if prepend_bos is None else prepend_bos,
    }  # fmt: skip
    losses = ModelLoss(adapter, begun=bool(settings["prepend_bos"])) if loss is None else loss
    if isinstance(losses, ModelLoss) and method == "pad_shift":
        _prove_left_padding(losses, width)
    measurement = _Measurement(adapter, corpus, losses, width if method == "pad_shift" else None)
    bar = Bar(total=0, unit="tok", desc="tl_entropy", show=progress)

    def dealt(rank: int, size: int) -> _Part:
        measurement.dealt = range(rank, sys.maxsize, size)
        with bar, torch.no_grad():
            return measurement.run(batch_size, bar)

    def partial(error: BaseException) -> ConditionalEntropy | None:
        return measurement.result(method, settings, interrupted=True) if measurement.tokens else None

    with keeping(partial):
        interrupted = measurement.together(parts("conditional entropy", dealt))
    if interrupted:
        warn(f"interrupted after {counted(measurement.tokens, 'token')}; the result covers these")
    return measurement.result(method, settings, interrupted=interrupted)


class _Part(TypedDict):
    """What one of several processes has measured: its documents' values, a hash of all documents, and whether it was ended."""

    values: dict[int, list[float]]
    inputs: str
    interrupted: bool


class _Measurement:
    """The totals of one sequence after the other; each row is a total minus the one before it.

    Args:
        width: tokens of every sequence, padding on the left included; None leaves sequences as long as they are.

    Attributes:
        dealt: the documents that are measured here, by their numbers; all are read.
    """

    def __init__(self, adapter: Adapter, corpus: Corpus, loss: SequenceLoss, width: int | None) -> None:
        self._adapter, self._corpus, self._loss, self._width = adapter, corpus, loss, width
        # The model's own losses are known to follow the mask; a function that comes from outside shows it once.
        self._padding_shown = isinstance(loss, ModelLoss)
        self.dealt = range(sys.maxsize)
        self._documents: list[Window] = []
        self._values: defaultdict[int, list[float]] = defaultdict(list)

    @property
    def tokens(self) -> int:
        """Number of tokens measured."""
        return sum(map(len, self._values.values()))

    def run(self, batch_size: int | None, bar: Any) -> _Part:
        """Measure the documents dealt; what was measured before an error stays, and Ctrl-C ends it."""
        interrupted = False
        try:
            self._run(batch_size, bar)
        except KeyboardInterrupt:
            interrupted = True
        seen = hashlib.sha256()
        for document in self._documents:
            seen.update(f"{document.document} {document.tokens.tolist()}".encode())
        return {"values": dict(self._values), "inputs": seen.hexdigest(), "interrupted": interrupted}

    def together(self, hands: Sequence[_Part]) -> bool:
        """Take in what each process has measured; whether one was ended.

        Raises:
            InputError: they have other documents, or have them in another order.
        """
        interrupted = any(hand["interrupted"] for hand in hands)
        if not interrupted:  # else not all have come to the end
            same_inputs([hand["inputs"] for hand in hands])
        for hand in hands:
            self._values.update(hand["values"])
        return interrupted

    def _run(self, batch_size: int | None, bar: Any) -> None:
        if batch_size is None and self._width is not None:
            batch_size = max(1, MAX_TOKENS // self._width)
        before = torch.zeros(1, dtype=torch.float64)
        adapter = self._adapter
        for batch in adapter.batches(self._sequences(bar), batch_size):
            totals = self._totals(batch)
            differences = totals.diff(prepend=before)
            before = totals[-1:]
            ends = batch.counted.any(1)
            differences = torch.where(ends & (batch.attention_mask.sum(1) == 1), totals, differences)  # nothing is shorter
            for document, value in zip(batch.document[ends].tolist(), differences[ends].tolist(), strict=True):
                self._values[document].append(value)
            bar.update(int(ends.sum()))

    def result(self, method: Method, settings: dict[str, Any], **origin: Any) -> ConditionalEntropy:
        """What was measured so far."""
        rows = PredictedRows(self._adapter, {"entropy": torch.zeros(0, dtype=torch.float64)})
        for document in self._documents:
            values = torch.tensor(self._values[document.document], dtype=torch.float64)
            counted = document.counted & (document.counted.cumsum(0) <= len(values))
            for batch in batches([dataclasses.replace(document, counted=counted)], batch_size=1, max_tokens=1):
                rows.update(batch, {"entropy": values})
        fields = row_fields(rows, self._adapter)
        del fields["n_bytes"], fields["n_characters"]
        report = self._corpus.report
        counts = {
            "documents": report.documents, "tokens": self.tokens, "bytes": report.bytes, "characters": report.characters,
            "empty": report.n_empty, "cut": report.cut, "window": report.window, "stride": 1, "ids": report.bytes is None,
            **({"skipped": skipped} if (skipped := report.skipped.told()) else {}),
        }  # fmt: skip
        provenance = self._adapter.provenance(corpus=counts, **origin)
        if isinstance(self._loss, ModelLoss):
            changed: dict[str, Any] = {"settings": {**settings, "loss": "own", **self._loss.reading.settings()}}
        else:
            name = getattr(self._loss, "__name__", type(self._loss).__name__)
            changed = dict.fromkeys(("weights", "processing", "dtype", "device"), "unknown")
            changed |= {"model": f"{name} on tokens of {provenance.model}", "settings": {**settings, "loss": name}}
        return ConditionalEntropy(method=method, provenance=dataclasses.replace(provenance, **changed), **fields)

    def _sequences(self, bar: Any) -> Iterator[Window]:
        """Every sequence that is needed, each with the row that it ends in, if any, at its last cell."""
        for document in _whole_documents(self._corpus):
            self._documents.append(document)
            if document.document in self.dealt:
                bar.total = (bar.total or 0) + int(document.counted.sum())
                yield from _sequences(document, self._corpus.report.window, ahead=self._adapter.predicts == "next")

    def _totals(self, batch: Batch) -> Tensor:
        """Total loss [sequence] of each sequence of a batch, in float64."""
        tokens, mask, position = batch.tokens, batch.attention_mask, batch.position
        if self._width is not None:
            tokens, mask, position = left_padded(batch, self._width, self._adapter.pad_id)
        losses = self._checked(tokens, mask)
        bad = mask & ~losses.isfinite()
        if bad.any():
            sequence, cell = bad.nonzero()[0].tolist()
            raise NonFiniteError(
                f"the losses of a sequence must be finite; that of document {int(batch.document[sequence])}, position "
                f"{int(position[sequence, cell])} is {losses[sequence, cell].item()}; check the weights and the dtype"
            )
        if self._width is None and not self._padding_shown and not bool(mask.all()):
            self._show_padding(tokens, mask, losses)
        return losses.masked_fill(~mask, 0).sum(1)

    def _checked(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The losses of tokens that the function may not change for us, in float64 on the CPU."""
        losses = self._loss(tokens.clone(), mask.clone())
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            came = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
            raise InputTypeError(f"loss must give a floating-point tensor [batch, pos]; got {came}")
        if losses.shape != tokens.shape:
            raise InputError(
                f"loss must give one loss for each token, {list(tokens.shape)}, and 0 where nothing predicts it; got the shape "
                f"{list(losses.shape)}: do not reduce, and put a 0 in front of losses of the tokens from the second on"
            )
        return losses.detach().to("cpu").double()

    def _show_padding(self, tokens: Tensor, mask: Tensor, losses: Tensor) -> None:
        """Refuse a loss that isn't the same for a sequence alone as padded in a batch; shown on one, padded by about half."""
        lengths = mask.sum(1)
        chosen = int((lengths - mask.shape[1] / 2).abs().argmin())
        row, length = slice(chosen, chosen + 1), int(lengths[chosen])
        alone = self._checked(tokens[row, :length], mask[row, :length])
        _refuse_difference(
            alone, losses[row, :length], self._adapter,
            "loss gives a sequence other losses alone than in a padded batch (by {:.3g} nats): it must not read what is "
            "masked, nor be random; or pass batch_size=1, which pads nothing",
        )  # fmt: skip
        self._padding_shown = True


def left_padded(batch: Batch, width: int, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and positions [sequence, width] of a batch, filled up on the left; positions are -1 there."""
    mask = torch.arange(width) >= width - batch.attention_mask.sum(1, keepdim=True)
    tokens, position = torch.full(mask.shape, pad_id), torch.full(mask.shape, -1)
    tokens[mask], position[mask] = batch.tokens[batch.attention_mask], batch.position[batch.attention_mask]
    return tokens, mask, position


def _whole_documents(corpus: Corpus) -> Iterator[Window]:
    """The documents of a corpus whose windows do not overlap, each as one window of any length."""
    parts: list[Window] = []
    for window in corpus:
        parts.append(window)
        if window.last:
            kept = [part.position >= (0 if later else -1) for later, part in enumerate(parts)]
            cells: dict[str, Any] = {
                name: torch.cat([getattr(part, name)[keep] for part, keep in zip(parts, kept, strict=True)])
                for name in ("tokens", "counted", "position", "target")
            }
            yield dataclasses.replace(window, **cells)
            parts = []


def _sequences(document: Window, width: int, *, ahead: bool) -> Iterator[Window]:
    """The two sequences of every token counted, or of that ``ahead`` of it, unless the shorter one has just been, or is empty.

    Each is a window of at most ``width`` tokens. In the longer one the last cell is counted, whose token the row is of. All
    call themselves their document's last, since batches without a row or an end are left out.
    """
    bos = int(document.position[0] < 0)
    body = torch.arange(bos, len(document))
    before: tuple[int, int] | None = None
    for position in (document.counted.nonzero()[:, 0] + ahead - bos).tolist():
        start = max(0, position + 1 - (width - bos))
        for stop in (position, position + 1):
            if (start, stop) == before or bos + stop == start:
                continue
            cells = torch.cat([torch.arange(bos), body[start:stop]])
            counted = torch.zeros(len(cells), dtype=torch.bool)
            counted[-1] = stop > position
            parts: dict[str, Any] = {name: getattr(document, name)[cells] for name in ("tokens", "position", "target")}
            yield dataclasses.replace(document, counted=counted, last=True, **parts)
            before = (start, stop)


def _prove_left_padding(losses: ModelLoss, width: int) -> None:
    """Refuse a model whose losses on a short row change when it is padded on the left."""
    pads = min(3, width - 2)
    row = torch.linspace(0, losses.adapter.d_vocab - 1, min(12, width - pads)).long()[None]
    real = torch.ones_like(row, dtype=torch.bool)
    padded = torch.nn.functional.pad(row, (pads, 0), value=losses.adapter.pad_id)
    _refuse_difference(
        losses(row, real), losses(padded, torch.nn.functional.pad(real, (pads, 0)))[:, pads:], losses.adapter,
        "this model's losses change by {:.3g} nats when its input is padded on the left, although the mask says so: its "
        "positions do not follow the mask; use method='truncation'",
    )  # fmt: skip


def _refuse_difference(one: Tensor, other: Tensor, adapter: Adapter, message: str) -> None:
    """Raise ModelError where losses that must be the same differ by more than rounding does."""
    tolerance = 1e-3 if adapter.dtype.itemsize >= 4 else 0.3
    difference = float((one - other).abs().max())
    if not difference <= tolerance:
        raise ModelError(message.format(difference))
