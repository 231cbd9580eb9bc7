"""The logits of one vocabulary tile after another, in buffers that are written over and over.

A product [rows, d_model] x [d_model, d_vocab] that returns all logits spends a third of its time on fresh memory, and on a
large vocabulary does not fit at all. Here each tile of the vocabulary lands in the same few megabytes.

In reduced precision both factors are rounded to bfloat16 and multiplied with float32 sums, but PyTorch rounds what it returns
to bfloat16 as well: a logit of 100 would be off by 0.25. So each row's largest product so far is subtracted inside the product,
before that rounding, and added again after it in float32. What is rounded is then z = l - max, and since it weighs e^z, an
error of 2^-9·|z| is nothing: e^z·|z|·2^-9 stays below 0.0008. Rows whose maximum moves by more than `_LATE` in a tile are done
again, relative to the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_number
from tl_entropy.functional.lens.tiles import MASKED

# A maximum up to here above the reference is rounded by at most 2^-8 nats.
_LATE = 2.0
# Below MASKED, so that a token in the last tile that was seen before ranks behind every other, masked ones included.
_SEEN = -3.3e38


class TileProducts:
    """Logits softcap(scale·(hidden @ unembedding + bias)) of one tile at a time, -inf in the bias standing as `MASKED`."""

    def __init__(
        self,
        unembedding: Tensor,
        bias: Tensor | None,
        *,
        scale: float,
        softcap: float | None,
        dtype: torch.dtype,
        reduced: bool,
        rows: int,
        width: int,
    ) -> None:
        self._unembedding = unembedding
        self._bias = None if bias is None else (bias.to(dtype) * scale).clamp(min=MASKED)
        self._scale = scale
        self._width = width
        self._columns_lie_together = unembedding.stride(0) == 1
        self._softcap = softcap
        self.dtype = dtype
        self.device = unembedding.device
        self.n_tiles = -(-unembedding.shape[1] // width)
        self._reduced = reduced
        self._factor_dtype = torch.bfloat16 if reduced else dtype
        self._logits = unembedding.new_empty(rows * width, dtype=dtype)
        self._rounded = unembedding.new_empty(rows * width if reduced else 0, dtype=torch.bfloat16)
        converted = unembedding.dtype != self._factor_dtype
        self._columns = unembedding.new_empty(len(unembedding) * width if converted else 0, dtype=self._factor_dtype)

    def begin(self, hidden: Tensor) -> None:
        """Turn to a new block of rows, ``hidden`` [..., d_model]."""
        self._shape = hidden.shape[:-1]
        self._hidden = (hidden.to(self.dtype) * self._scale).to(self._factor_dtype).flatten(0, -2)
        self._reference = self._hidden.new_zeros(len(self._hidden), 1)
        self._first = True

    def tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield each tile's first token, how many of its tokens were seen before, and its logits [..., width].

        The next tile is written over them. The last tile is as wide as the others: it begins inside the one before, and what
        was seen there is put out.
        """
        d_vocab = self._unembedding.shape[1]
        for begin in range(0, d_vocab, self._width):
            start = min(begin, d_vocab - self._width)
            logits = self._tile(start)
            logits[:, : begin - start] = _SEEN
            yield start, begin - start, logits.view(*self._shape, self._width)

    def at(self, tokens: Tensor) -> Tensor:
        """Return each row's logits of its own ``tokens`` [..., n_tokens].

        The products have the shape and the memory layout of a tile's, so that their sums are made in the same sequence and
        tokens with equal columns have equal logits, here and in the tiles.
        """
        distinct, place = tokens.unique(return_inverse=True)
        own = torch.zeros(tokens.shape, dtype=self.dtype, device=tokens.device)
        for first in range(0, len(distinct), self._width):
            some = distinct[first : first + self._width]
            padded = torch.cat([some, some.new_zeros(self._width - len(some))])
            if self._columns_lie_together:
                columns = self._unembedding.t().index_select(0, padded).t()
            else:
                columns = self._unembedding.index_select(1, padded)
            columns = columns.to(self._factor_dtype).to(self.dtype)
            products = torch.mm(self._hidden.to(self.dtype), columns, out=self._tile_logits())
            here = (place >= first) & (place < first + len(some))
            found = products.view(*self._shape, self._width).gather(-1, (place - first).clamp(0, len(some) - 1))
            own = torch.where(here, found, own)
        return self._finish(own, None if self._bias is None else self._bias[tokens])

    def _tile_logits(self) -> Tensor:
        return self._logits[: len(self._hidden) * self._width].view(-1, self._width)

    def _tile(self, start: int) -> Tensor:
        stop = start + self._width
        logits, columns = self._tile_logits(), self._tile_columns(start, stop)
        if self._reduced:
            self._rounded_product(columns, logits)
        else:
            torch.mm(self._hidden, columns, out=logits)
        return self._finish(logits, None if self._bias is None else self._bias[start:stop])

    def _tile_columns(self, start: int, stop: int) -> Tensor:
        columns = self._unembedding[:, start:stop]
        if columns.dtype == self._factor_dtype:
            return columns
        buffer = self._columns[: columns.numel()]
        if self._columns_lie_together:  # keep the layout: converting and transposing at once is slow
            return buffer.view(columns.shape[1], columns.shape[0]).copy_(columns.t()).t()
        return buffer.view(columns.shape).copy_(columns)

    def _rounded_product(self, columns: Tensor, logits: Tensor) -> None:
        rounded = self._rounded[: logits.numel()].view(logits.shape)
        torch.addmm(-self._reference, self._hidden, columns, out=rounded)
        logits.copy_(rounded).add_(self._reference)
        gain = rounded.amax(-1, keepdim=True)
        late = (gain[:, 0] > _LATE).nonzero()[:, 0]
        if self._first:
            late = torch.arange(len(logits), device=logits.device)
            self._first = False
        if len(late):
            self._reference[late] += gain[late]
            # As many rows as a power of two: the library keeps half a megabyte for each number of rows that it has seen.
            rows = torch.cat([late, late.new_zeros((1 << (len(late) - 1).bit_length()) - len(late))])
            again = torch.addmm(-self._reference[rows], self._hidden[rows], columns)[: len(late)]
            logits[late] = again.to(logits.dtype).add_(self._reference[late])

    def _finish(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            logits = logits.add_(bias)
        if self._softcap is not None:
            logits = logits.div_(self._softcap).tanh_().mul_(self._softcap)
        return logits


def checked_scale(scale: Any, softcap: Any) -> tuple[float, float | None]:
    """Both as floats that float32 holds; an InputError or InputTypeError where they are none, or ``softcap`` is not above 0."""
    largest = torch.finfo(torch.float32).max
    factor = check_number("scale", scale, -largest, largest)
    if softcap is None:
        return factor, None
    if not 0 < (cap := check_number("softcap", softcap)) <= largest:
        raise InputError(f"softcap must be None or above 0, and at most {largest:g}; got {softcap!r}")
    return factor, cap


def check_factors(hidden: Tensor, unembedding: Tensor, bias: Tensor | None, hidden_axes: tuple[str, ...]) -> None:
    """Refuse what is no floating-point ``hidden`` of these axes, unembedding [d_model, d_vocab] and bias [d_vocab]."""
    expected = {"hidden": (hidden, len(hidden_axes)), "unembedding": (unembedding, 2), "bias": (bias, 1)}
    for name, (tensor, n_axes) in expected.items():
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise InputTypeError(
                f"{name} must be a floating-point tensor; got {getattr(tensor, 'dtype', type(tensor).__name__)}"
            )
        if tensor.dim() != n_axes:
            raise InputError(f"{name} must have {n_axes} axes; got the shape {list(tensor.shape)}: flatten or transpose it")
    d_model, d_vocab = unembedding.shape
    if hidden.shape[-1] != d_model or d_vocab == 0:
        raise InputError(
            f"hidden [{', '.join(hidden_axes)}] and unembedding [d_model, d_vocab] must share d_model; "
            f"got {list(hidden.shape)} and {list(unembedding.shape)}: transpose the unembedding if it is [d_vocab, d_model]"
        )
    if bias is not None:
        if len(bias) != d_vocab:
            raise InputError(f"bias must be [{d_vocab}], one number for each token; got {list(bias.shape)}")
        if not bias.amax().isfinite():
            raise InputError("bias must be finite or -inf and leave some token possible; it holds NaN or +inf, or is all -inf")
