"""What ``head_entropy`` measures at the rows of one batch: of one layer's attention patterns, or of its heads' readouts.

Both work in float32 (float64 on models of float64), on some rows at a time, so that nothing large is held beside the
activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor

from tl_entropy.analyses.lens.reading import Reading
from tl_entropy.batches import Batch
from tl_entropy.capture.proofs.frozen_norm import FrozenNorm
from tl_entropy.errors import ModelError, NonFiniteError
from tl_entropy.functional.lens.readout import vocabulary_statistics
from tl_entropy.functional.lens.tiles import MASKED, combine, tile_sums

# Numbers in a working buffer.
_PATTERN, _VECTORS = 2**19, 2**22
# Attention weight on keys that a query cannot see from which on the mask, or the window, is not what the model used.
_STRAY = 1e-3
_COLUMNS = 4096  # of the unembedding that are multiplied at once


def pattern_values(batch: Batch, pattern: Tensor, visible: Tensor, orders: tuple[float, ...], hook: str) -> dict[str, Tensor]:
    """Entropies, visible keys and shares of a layer's attention at the counted queries of a batch, on the CPU.

    Args:
        batch: whose rows are the queries.
        pattern: [batch, head, query, key], weights.
        visible: [batch, query, key] bool, the keys that a query sees.
        orders: Rényi orders.
        hook: name of the pattern's hook, for messages.

    Returns:
        entropy [row, head, order] in nats, visible [row], bos_share [row, head], sink_share [row, head].

    Raises:
        ModelError: weight on keys that the query does not see.
        NonFiniteError: weights that are no distribution: not finite, below 0, or all 0.
    """
    if pattern.ndim != 4 or pattern[:, 0].shape != visible.shape:
        raise ModelError(
            f"{hook} is {list(pattern.shape)}, no weights [batch, head, query, key] of every query for every key of "
            f"{list(visible.shape)}; leave the layer out with layers=..."
        )
    dtype = torch.float64 if pattern.dtype == torch.float64 else torch.float32
    # The logarithm of 0 takes four times as long as others. The smallest normal number in its place is nothing in any sum of
    # powers from 1/2 on: its root is 1e-19.
    least = torch.finfo(dtype).tiny if min(orders) >= 0.5 else 0.0
    visible = visible.to(pattern.device)
    begins = (batch.attention_mask & (batch.position < 0)).to(pattern.device)
    parts: list[tuple[Tensor, ...]] = []
    for rows, window, query in _chunks(batch, pattern):
        weights = pattern[window, :, query].to(dtype)  # [row, head, key]
        seen = visible[window, query]
        everything = weights.sum(-1)
        weights = weights * seen[:, None]
        total = weights.sum(-1)
        _check_strays(everything - total, batch, rows, hook)
        sums = tile_sums(weights.clamp_min(least).log().clamp_min(MASKED), orders)
        entropy = combine(sums[None].cpu().double(), orders)[0]
        proper = (total > 0) & (weights.amin(-1) >= 0) & entropy.isfinite().all(-1).to(total.device)
        _check_distributions(proper, total, batch, rows, hook)
        begin = begins[window] & seen
        bos = (weights * begin[:, None]).sum(-1).masked_fill(~begin.any(1, keepdim=True), torch.nan)
        parts.append((entropy, seen.sum(-1).cpu(), bos.cpu(), 1 - total.cpu()))
    names = ("entropy", "visible", "bos_share", "sink_share")
    return {name: torch.cat(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}


def frozen_entropies(
    z: Tensor, weights: Tensor, scale: Tensor, frozen: FrozenNorm, reading: Reading, **options: Any
) -> Iterator[Tensor]:
    """Entropies [row, head, order] of softmax(cap(scale · (a head's share in the normed stream) @ W_U)), some rows at a time.

    Args:
        z: [row, head, d_head].
        weights: W_O [head, d_head, d_model].
        scale: [row], of the final norm at the whole last residual stream.
        frozen: the final norm.
        reading: through the model's readout.
        options: orders, compiled.
    """
    readout = reading.readout
    one = torch.ones(len(weights), device=weights.device)
    written = frozen(weights, one)  # the norm is linear, so it can be taken of what a head writes with each of its dimensions
    z = z.to(written.dtype) * scale.to(written.dtype)[:, None, None]
    if len(z) > 2 * z.shape[2]:
        # With more rows than dimensions of a head it pays to read the head's dimensions through the unembedding first.
        found = []
        for head in range(len(weights)):
            columns = [written[head] @ part.to(written.dtype) for part in readout.unembedding.split(_COLUMNS, dim=1)]
            own = {**reading.options(len(z)), "unembedding": torch.cat(columns, 1), "bias": None}
            found.append(_entropies(z[:, head].contiguous(), reading, own | options))
        yield torch.stack(found, 1)
        return
    for part in z.split(max(1, _VECTORS // written[:, 0].numel())):
        hidden = einsum(part, written, "row head d_head, head d_head d_model -> row head d_model")
        yield _read(hidden, reading, {"bias": None, **options})


def recomputed_entropies(z: Tensor, weights: Tensor, reading: Reading, **options: Any) -> Iterator[Tensor]:
    """Entropies [row, head, order] of the full readout of what each head writes, final norm and biases included."""
    readout = reading.readout
    for part in z.to(weights.dtype).split(max(1, _VECTORS // weights[:, 0].numel())):
        hidden = einsum(part, weights, "row head d_head, head d_head d_model -> row head d_model")
        normed = readout.norm(rearrange(hidden, "row head d_model -> (row head) d_model"))
        yield _read(rearrange(normed, "(row head) d_model -> row head d_model", head=len(weights)), reading, options)


def _read(hidden: Tensor, reading: Reading, options: dict[str, Any]) -> Tensor:
    """Entropies [row, head, order] of vectors [row, head, d_model] that the final norm has seen."""
    flat = rearrange(hidden, "row head d_model -> (row head) d_model")
    entropies = _entropies(flat, reading, reading.options(len(flat)) | options)
    return rearrange(entropies, "(row head) order -> row head order", head=hidden.shape[1])


def _entropies(rows: Tensor, reading: Reading, options: dict[str, Any]) -> Tensor:
    found = vocabulary_statistics(rows, **options)
    reading.ran_compiled |= found.compiled
    return found.entropies.cpu()


def _chunks(batch: Batch, pattern: Tensor) -> Iterator[tuple[range, Tensor, Tensor]]:
    """Some rows of the batch at a time: their numbers, windows and columns."""
    places = torch.meshgrid(*(torch.arange(n, device=pattern.device) for n in batch.tokens.shape), indexing="ij")
    window, query = (batch.rows(place) for place in places)
    step = max(1, _PATTERN // (pattern.shape[1] * pattern.shape[3]))
    for first in range(0, batch.n_rows, step):
        last = min(first + step, batch.n_rows)
        yield range(first, last), window[first:last], query[first:last]


def _check_strays(stray: Tensor, batch: Batch, rows: range, hook: str) -> None:
    if bool((stray > _STRAY).any()):
        row, head = (stray > _STRAY).nonzero()[0].tolist()
        raise ModelError(
            f"{hook}: head {head} puts {stray[row, head].item():.3g} of its attention on keys that the query at "
            f"{_place(batch, rows[row])} should not see: padding, later tokens, or tokens beyond the layer's window. A cache "
            "has to come with the mask that it was made with, and the model's configuration has to state its window"
        )


def _check_distributions(proper: Tensor, total: Tensor, batch: Batch, rows: range, hook: str) -> None:
    if not bool(proper.all()):
        row, head = (~proper).nonzero()[0].tolist()
        raise NonFiniteError(
            f"{hook}: the weights of head {head} at {_place(batch, rows[row])} are no distribution (they add up to "
            f"{total[row, head].item():.3g} over the keys); check weights, dtype and edits, or leave the layer or position out"
        )


def _place(batch: Batch, row: int) -> str:
    return f"document {int(batch.row_document[row])}, position {int(batch.row_position[row])}"
