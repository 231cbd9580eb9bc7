"""Hidden states -> statistics of their vocabulary distributions, tiled over the vocabulary: logits are never stored.

For each row h of ``hidden`` the logits are l = softcap(scale·(h @ W + b)) and p = softmax(l). Rényi entropies of any orders, a
log normaliser, the surprisal and rank of a target and the top tokens all come from one pass over tiles of the vocabulary: each
tile's product lands in a reused buffer (``products.py``), its sums are taken relative to its own maximum, and the sums of all
tiles are combined in float64 (``tiles.py``). Memory beyond the results is under 64 MB, whatever the number of rows.

This is the inner loop of every lens: definitions as in ``entropies.py``, errors below 2e-5 nats in float32.

Refused: NaN and infinities in the hidden states or logits (-inf in the bias masks a token and is legal), shapes that do not
fit, unknown precisions, forced compilation without a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice
from tl_entropy.functional.compiling import compiled_tile_sums, compiler_available
from tl_entropy.functional.products import TileProducts, full_precision
from tl_entropy.functional.tiles import MASKED, check_orders, combine, tile_sums

__all__ = ["VocabularyStatistics", "compiler_available", "vocabulary_statistics"]

Precision = Literal["float32", "bfloat16"]
TileSums = Callable[[Tensor, Tensor | None], Tensor]

# Four buffers of this many numbers: small enough to stay near the processor, wide enough for a fast product. The width is a
# multiple of 48 because matrix kernels take that many columns at once, and sum columns at a ragged edge in another sequence.
_WIDTH = 960
_TILE = _WIDTH * _WIDTH
# Below MASKED, so that a token in the last tile that was seen before ranks behind every other, masked ones included.
_SEEN = -3.3e38
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
            bfloat16 units. The factors' rounding then shows: for logits with standard deviations of 1 to 12, entropies were
            within 0.03 nats (root mean square 0.008) and everything else within 0.055; near ties may change their ranks.
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
    rows, d_vocab = len(hidden), unembedding.shape[1]
    if not 0 <= top_k <= d_vocab:
        raise InputError(f"top_k must be between 0 and the {d_vocab} tokens of the vocabulary; got {top_k}")
    if not math.isfinite(scale) or (softcap is not None and not 0 < softcap < math.inf):
        raise InputError(f"scale must be finite and softcap None or above 0; got {scale} and {softcap}")
    if compiled and not compiler_available(hidden.device):
        raise InputError(
            "compiled=True needs a C++ compiler and Python's headers (on a GPU: Triton); none found: use compiled=False"
        )
    if compiled is None:
        compiled = rows * d_vocab >= _WORTH_COMPILING and compiler_available(hidden.device)

    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    width = min(d_vocab, _WIDTH)
    block = max(1, math.ceil(rows / max(1, math.ceil(rows * width / _TILE))))
    products = TileProducts(
        unembedding.detach(),
        None if bias is None else bias.detach(),
        scale=scale,
        softcap=softcap,
        dtype=dtype,
        reduced=precision == "bfloat16",
        rows=block,
        width=width,
    )
    sums = (
        compiled_tile_sums(order_list, targets is not None)
        if compiled
        else _sums_in_buffers(order_list, hidden.new_empty(3, block * width, dtype=dtype))
    )
    name = "float64" if dtype == torch.float64 and precision == "float32" else precision
    reader = _Reader(products, sums, order_list, top_k, d_vocab, width, compiled, name)
    with torch.no_grad(), full_precision(hidden.device):
        return _join(
            [
                reader.read(hidden[first : first + block], None if targets is None else targets[first : first + block], first)
                for first in range(0, max(rows, 1), block)
            ]
        )


def _join(blocks: list[VocabularyStatistics]) -> VocabularyStatistics:
    joined: dict[str, Any] = {}
    for field in fields(VocabularyStatistics):
        parts = [getattr(block, field.name) for block in blocks]
        if isinstance(parts[0], Tensor):
            joined[field.name] = torch.cat(parts)
    return replace(blocks[0], **joined)


def _sums_in_buffers(orders: tuple[float, ...], buffers: Tensor) -> TileSums:
    def sums(logits: Tensor, threshold: Tensor | None) -> Tensor:
        z, e, work = (buffer[: logits.numel()].view(logits.shape) for buffer in buffers)
        return tile_sums(logits, orders, threshold, (z, e, work))

    return sums


@dataclass(frozen=True)
class _Reader:
    """One pass over the vocabulary for one block of rows."""

    products: TileProducts
    sums: TileSums
    orders: tuple[float, ...]
    top_k: int
    d_vocab: int
    width: int
    compiled: bool
    precision: str

    def read(self, hidden: Tensor, targets: Tensor | None, first: int) -> VocabularyStatistics:
        """Return the statistics of these rows, the first of which has the number ``first``."""
        _refuse_rows(~hidden.isfinite().all(-1), first, "hidden must be finite; it holds NaN or infinities")
        self.products.begin(hidden)
        present = None if targets is None else targets >= 0
        target_logits = None
        if targets is not None and self.width < self.d_vocab:
            target_logits = self.products.at(targets.clamp(min=0))
        top = _Top(hidden, self.top_k, self.products.dtype) if self.top_k else None

        tiles = []
        for begin in range(0, self.d_vocab, self.width):
            # The last tile is as wide as the others: it begins inside the one before, and what was seen there is put out.
            start = min(begin, self.d_vocab - self.width)
            logits = self.products.tile(start, start + self.width)
            logits[:, : begin - start] = _SEEN
            threshold = None
            if targets is not None and present is not None:
                if target_logits is None:
                    target_logits = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
                else:  # one number for each logit: two products of the same factors may differ in the last digit
                    here = ((targets >= begin) & (targets < start + self.width)).nonzero()[:, 0]
                    logits[here, targets[here] - start] = target_logits[here]
                threshold = target_logits.masked_fill(~present, math.inf)
            tiles.append(self.sums(logits, threshold))
            if top is not None:
                top.update(logits, tiles[-1][0], start)

        # Apple's devices have no float64.
        device = torch.device("cpu") if hidden.device.type == "mps" else hidden.device
        tile_rows = torch.stack(tiles).to(device, torch.float64)
        entropies, normalizer = combine(tile_rows, self.orders)
        unreadable = ~(normalizer.isfinite() & entropies.isfinite().all(-1))
        _refuse_rows(unreadable, first, "hidden @ unembedding + bias must hold neither NaN nor +inf; it does")
        surprisal = rank = top_log_probs = top_tokens = None
        if target_logits is not None and present is not None:
            missing = ~present.to(device)
            surprisal = (normalizer - _unmasked(target_logits.to(device, torch.float64))).masked_fill(missing, math.nan)
            rank = tile_rows[:, -1].sum(0).long().masked_fill(missing, -1)
        if top is not None:
            top_log_probs = _unmasked(top.logits.to(device, torch.float64)) - normalizer[:, None]
            top_tokens = top.tokens.to(device)
        return VocabularyStatistics(
            entropies, normalizer, surprisal, rank, top_log_probs, top_tokens, self.compiled, self.precision
        )


class _Top:
    """The largest logits of each row so far."""

    def __init__(self, hidden: Tensor, k: int, dtype: torch.dtype) -> None:
        self.logits = hidden.new_full((len(hidden), k), -math.inf, dtype=dtype)
        self.tokens = hidden.new_zeros((len(hidden), k), dtype=torch.int64)

    def update(self, logits: Tensor, maximum: Tensor, start: int) -> None:
        """Take in a tile [rows, width] of the tokens from ``start``; rows whose maximum is too small are not looked at."""
        k = self.logits.shape[1]
        better = (maximum > self.logits[:, -1]).nonzero()[:, 0]
        values, indices = logits[better].topk(min(k, logits.shape[1]))
        values = torch.cat([self.logits[better], values], -1)
        tokens = torch.cat([self.tokens[better], indices + start], -1)
        values, ranking = values.topk(k)
        self.logits[better] = values
        self.tokens[better] = tokens.gather(1, ranking)


def _unmasked(logits: Tensor) -> Tensor:
    return logits.masked_fill(logits <= MASKED / 2, -math.inf)


def _refuse_rows(bad: Tensor, first: int, message: str) -> None:
    if bad.any():
        rows = (bad.nonzero()[:, 0] + first).tolist()
        shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more near them" if len(rows) > 8 else "")
        raise NonFiniteError(f"{message} in row {shown}: look where they come from")


def _check_tensors(hidden: Tensor, unembedding: Tensor, bias: Tensor | None, targets: Tensor | None) -> None:
    for name, tensor, n_axes in (("hidden", hidden, 2), ("unembedding", unembedding, 2), ("bias", bias, 1)):
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise InputTypeError(
                f"{name} must be a floating-point tensor; got {getattr(tensor, 'dtype', type(tensor).__name__)}"
            )
        if tensor.dim() != n_axes:
            raise InputError(f"{name} must have {n_axes} axes; got the shape {list(tensor.shape)}: flatten or transpose it")
    d_model, d_vocab = unembedding.shape
    if hidden.shape[1] != d_model or d_vocab == 0:
        raise InputError(
            f"hidden [rows, d_model] and unembedding [d_model, d_vocab] must share d_model; "
            f"got {list(hidden.shape)} and {list(unembedding.shape)}: transpose the unembedding if it is [d_vocab, d_model]"
        )
    if bias is not None:
        if len(bias) != d_vocab:
            raise InputError(f"bias must be [{d_vocab}], one number for each token; got {list(bias.shape)}")
        if not bias.amax().isfinite():
            raise InputError("bias must be finite or -inf and leave some token possible; it holds NaN or +inf, or is all -inf")
    if targets is not None:
        if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
            raise InputTypeError(f"targets must be an int64 tensor; got {getattr(targets, 'dtype', type(targets).__name__)}")
        if targets.shape != hidden.shape[:1]:
            raise InputError(f"targets must be [{len(hidden)}], one token for each row; got {list(targets.shape)}")
        if len(targets) and targets.amax() >= d_vocab:
            raise InputError(f"targets must be below the vocabulary's {d_vocab} tokens; got {int(targets.amax())}")
