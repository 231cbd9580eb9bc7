"""Hidden states -> statistics of their vocabulary distributions, tiled over the vocabulary: logits are never stored.

For each row h of ``hidden`` the logits are l = softcap(scale·(h @ W + b)) and p = softmax(l). Rényi entropies of any orders, the
log normaliser, the surprisal and rank of a target and the top tokens all come from one pass over tiles of the vocabulary: each
tile's product lands in a reused buffer (``products.py``), its sums are taken relative to its own maximum, and the sums of all
tiles are combined in float64 (``tiles.py``). Memory beyond the results is under 64 MB, whatever the number of rows.

This is the inner loop of every lens: definitions as in ``entropies.py``, errors below 2e-5 nats in float32.

Refused: NaN and infinities in the hidden states or logits (-inf in the bias masks a token and is legal), shapes that do not
fit, unknown precisions, forced compilation without a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice
from tl_entropy.functional.compiling import compiled_tile_sums, compiler_available
from tl_entropy.functional.products import TileProducts
from tl_entropy.functional.tiles import MASKED, check_orders, combine, tile_sums

Precision = Literal["float32", "bfloat16"]

# Four buffers of this many float32 numbers; small enough to stay near the processor, wide enough for a fast product.
_TILE, _WIDTH = 2**19, 1024
# Compiling takes some 15 s and then saves about 0.5 ns a logit on two threads: below this many logits it does not pay.
_WORTH_COMPILING = 2**35


@dataclass(frozen=True, eq=False)
class VocabularyStatistics:
    """What `vocabulary_statistics` finds: one row for each hidden state, in nats, float64, on the device of the input.

    Attributes:
        entropies: [rows, n_orders], Rényi entropies in the sequence of the orders asked for.
        log_normalizer: [rows], log Σ exp(l).
        surprisal: [rows], -log p(target); NaN where there is no target; None without targets.
        rank: [rows] int64, how many logits exceed the target's (0 is the argmax); -1 where there is no target.
        top_log_probs: [rows, top_k], falling; None without top_k.
        top_tokens: [rows, top_k] int64, their tokens.
        compiled: whether the sums ran as compiled code.
        precision: of the product, "float32" ("float64" for float64 hidden states) or "bfloat16".
    """

    entropies: Tensor
    log_normalizer: Tensor
    surprisal: Tensor | None
    rank: Tensor | None
    top_log_probs: Tensor | None
    top_tokens: Tensor | None
    compiled: bool
    precision: str


def vocabulary_statistics(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    orders: float | Sequence[float] = (1.0,),
    targets: Tensor | None = None,
    top_k: int = 0,
    precision: Precision = "float32",
    compiled: bool | None = None,
) -> VocabularyStatistics:
    """Return what each hidden state predicts and how sure it is: statistics of softmax(softcap(scale·(hidden @ W + b))).

    Args:
        hidden: [rows, d_model], after the final norm. float64 stays float64; anything else is worked in float32.
        unembedding: W, [d_model, d_vocab], of any floating-point dtype and either memory layout.
        bias: b, [d_vocab]; -inf masks a token.
        scale: multiplies the logits (Granite, Cohere).
        softcap: c in l -> c·tanh(l / c) (Gemma 2).
        orders: Rényi orders from 0 to infinity.
        targets: [rows] int64, the token whose surprisal and rank are wanted; negative for none.
        top_k: how many of the likeliest tokens to return.
        precision: "float32", or "bfloat16" for rounded factors with float32 sums: up to twice as fast where the processor has
            bfloat16 units. The factors' rounding then shows: errors of up to 0.05 nats.
        compiled: True has torch.compile fuse the sums, False does not, None decides by the size of the job.

    Returns:
        `VocabularyStatistics`. Not differentiable.

    Raises:
        NonFiniteError: NaN or infinities in ``hidden``, NaN or +inf in the logits; the rows are named.
        InputError: shapes that do not fit, targets or top_k beyond the vocabulary, a bias that masks everything, an unknown
            precision, compiled=True without a compiler.
        InputTypeError: tensors that are not floating-point, targets that are not int64.

    Source: entropies as in A. Rényi, 1961; the lens: nostalgebraist, interpreting GPT: the logit lens, 2020.

    >>> found = vocabulary_statistics(torch.zeros(1, 4), torch.ones(4, 16), orders=(0.5, 1, 2), targets=torch.tensor([3]))
    >>> found.entropies.exp(), found.surprisal.exp(), found.rank
    (tensor([[16.0000, 16.0000, 16.0000]], dtype=torch.float64), tensor([16.0000], dtype=torch.float64), tensor([0]))
    """
    order_list = check_orders(orders)
    check_choice("precision", precision, ("float32", "bfloat16"))
    _check_tensors(hidden, unembedding, bias, targets)
    rows, (d_model, d_vocab) = len(hidden), unembedding.shape
    if not 0 <= top_k <= d_vocab:
        raise InputError(f"top_k must be between 0 and the {d_vocab} tokens of the vocabulary; got {top_k}")
    if not math.isfinite(scale) or (softcap is not None and not 0 < softcap < math.inf):
        raise InputError(f"scale must be finite and softcap None or above 0; got {scale} and {softcap}")
    if compiled and not compiler_available(hidden.device):
        raise InputError("compiled=True needs a C++ compiler and Python's headers (on a GPU: Triton); none found: use compiled=False")
    if compiled is None:
        compiled = rows * d_vocab >= _WORTH_COMPILING and compiler_available(hidden.device)

    reader = _Reader(unembedding, bias, scale, softcap, order_list, top_k, precision, compiled, hidden, targets is not None)
    blocks = []
    with torch.no_grad(), _full_precision(hidden.device):
        for start in range(0, max(rows, 1), reader.rows):
            own = slice(start, start + reader.rows)
            blocks.append(reader.read(hidden[own], None if targets is None else targets[own], start))
    entropies, normalizer, surprisal, rank, top_log_probs, top_tokens = (
        None if parts[0] is None else torch.cat(parts) for parts in zip(*blocks, strict=True)
    )
    return VocabularyStatistics(
        entropies=entropies,
        log_normalizer=normalizer,
        surprisal=surprisal,
        rank=rank,
        top_log_probs=top_log_probs,
        top_tokens=top_tokens,
        compiled=compiled,
        precision=precision if precision == "bfloat16" else str(reader.dtype).removeprefix("torch."),
    )


class _Reader:
    """Buffers for one block of rows, and the pass over the vocabulary that uses them."""

    def __init__(
        self,
        unembedding: Tensor,
        bias: Tensor | None,
        scale: float,
        softcap: float | None,
        orders: tuple[float, ...],
        top_k: int,
        precision: Precision,
        compiled: bool,
        hidden: Tensor,
        ranked: bool,
    ) -> None:
        self.dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self._d_vocab = unembedding.shape[1]
        self._width = min(self._d_vocab, _WIDTH)
        n_blocks = math.ceil(len(hidden) * self._width / _TILE)
        self.rows = max(1, math.ceil(len(hidden) / max(1, n_blocks)))
        self._orders = orders
        self._top_k = top_k
        self._products = TileProducts(
            unembedding.detach(),
            None if bias is None else bias.detach(),
            scale=scale,
            softcap=softcap,
            dtype=self.dtype,
            reduced=precision == "bfloat16",
            rows=self.rows,
            width=self._width,
        )
        self._compiled = compiled_tile_sums(orders, ranked) if compiled else None
        self._scratch = hidden.new_empty(0 if compiled else 3, self.rows * self._width, dtype=self.dtype)

    def read(self, hidden: Tensor, targets: Tensor | None, first: int) -> tuple[Tensor | None, ...]:
        """Return the fields of `VocabularyStatistics` for these rows, which begin with number ``first``."""
        _refuse_rows(~hidden.isfinite().all(-1), first, "hidden must be finite")
        self._products.begin(hidden)
        target_logits = has_target = None
        if targets is not None:
            has_target = targets >= 0
            target_logits = self._products.at(targets.clamp(min=0)).masked_fill(~has_target, math.inf)
        top = _Top(hidden, self._top_k, self.dtype) if self._top_k else None

        tiles = []
        for start in range(0, self._d_vocab, self._width):
            stop = min(start + self._width, self._d_vocab)
            logits = self._products.tile(start, stop)
            if targets is not None:
                # One number for each logit: two products of the same factors may differ in the last digit, and a target
                # that is the argmax would be beaten by itself.
                here = ((targets >= start) & (targets < stop)).nonzero()[:, 0]
                logits[here, targets[here] - start] = target_logits[here]
            sums = self._sums(logits, target_logits)
            tiles.append(sums)
            if top is not None:
                top.update(logits, sums[0], start)

        # Apple's devices have no float64.
        sums = torch.stack(tiles).to("cpu" if hidden.device.type == "mps" else hidden.device, torch.float64)
        entropies, normalizer = combine(sums, self._orders)
        _refuse_rows(~(normalizer.isfinite() & entropies.isfinite().all(-1)), first, "logits must hold neither NaN nor +inf")
        ...

    def _sums(self, logits: Tensor, threshold: Tensor | None) -> Tensor:
        if self._compiled is not None:
            return self._compiled(logits, threshold)
        z, e, work = (buffer[: logits.numel()].view(logits.shape) for buffer in self._scratch)
        return tile_sums(logits, self._orders, threshold, (z, e, work))
