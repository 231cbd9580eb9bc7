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
from contextlib import contextmanager

import torch
from torch import Tensor

from tl_entropy.functional.tiles import MASKED

# A maximum up to here above the reference is rounded by at most 2^-8 nats.
_LATE = 2.0


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
        self._reduced = reduced
        self._factor_dtype = torch.bfloat16 if reduced else dtype
        self._logits = unembedding.new_empty(rows * width, dtype=dtype)
        self._rounded = unembedding.new_empty(rows * width if reduced else 0, dtype=torch.bfloat16)
        converted = unembedding.dtype != self._factor_dtype
        self._columns = unembedding.new_empty(len(unembedding) * width if converted else 0, dtype=self._factor_dtype)

    def begin(self, hidden: Tensor) -> None:
        """Turn to a new block of rows, ``hidden`` [rows, d_model]."""
        self._hidden = (hidden.to(self.dtype) * self._scale).to(self._factor_dtype)
        self._reference = self._hidden.new_zeros(len(hidden), 1)
        self._first = True

    def tile(self, start: int, stop: int) -> Tensor:
        """Return the logits [rows, stop - start] of these tokens; the next call writes over them."""
        shape = len(self._hidden), stop - start
        logits = self._logits[: shape[0] * shape[1]].view(shape)
        columns = self._tile_columns(start, stop)
        if self._reduced:
            self._rounded_product(columns, logits)
        else:
            torch.mm(self._hidden, columns, out=logits)
        return self._finish(logits, None if self._bias is None else self._bias[start:stop])

    def at(self, tokens: Tensor) -> Tensor:
        """Return each row's logit of its own token, ``tokens`` [rows].

        The product has the shape and the memory layout of a tile's, so that its sums are made in the same sequence and tokens
        with equal columns have equal logits, here and in the tiles.
        """
        rows = len(tokens)
        shape = rows, self._width
        padded = torch.cat([tokens, tokens.new_zeros(self._width - rows)])
        if self._columns_lie_together:
            columns = self._unembedding.t().index_select(0, padded).t()
        else:
            columns = self._unembedding.index_select(1, padded)
        columns = columns.to(self._factor_dtype).to(self.dtype)
        products = torch.mm(self._hidden.to(self.dtype), columns, out=self._logits[: shape[0] * shape[1]].view(shape))
        own = products[:, :rows].diagonal().clone()
        return self._finish(own, None if self._bias is None else self._bias[tokens])

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
            reference = self._reference[late] + gain[late]
            again = torch.addmm(-reference, self._hidden[late], columns)
            logits[late] = again.to(logits.dtype).add_(reference)
            self._reference[late] = reference

    def _finish(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            logits = logits.add_(bias)
        if self._softcap is not None:
            logits = logits.div_(self._softcap).tanh_().mul_(self._softcap)
        return logits


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast and the global setting for float32 products from rounding what is computed here; restore them after."""
    switches = [backend.matmul for backend in (torch.backends.cuda, torch.backends.mkldnn) if hasattr(backend, "matmul")]
    if all(hasattr(switch, "fp32_precision") for switch in switches):
        # The one global setting must not even be read by who has set these, its successors.
        before = [switch.fp32_precision for switch in switches]
        for switch in switches:
            switch.fp32_precision = "ieee"
        try:
            with torch.autocast(device.type, enabled=False):
                yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.fp32_precision = value
        return
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(setting)
