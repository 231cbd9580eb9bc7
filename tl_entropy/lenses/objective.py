r"""What a tuned lens is trained on: KL(output ‖ lens) of rows of residual stream, with its gradient in the rows.

The lens reads rows y as the model reads its last residual stream, l = cap(scale · (norm(y) @ W_U + b_U)) and q = softmax(l).
With p the model's own output, KL = Σ p (log p - log q), and its gradient in l is q - p; through cap and unembedding it is
written out here, through the norm PyTorch takes it. So at most a handful of tensors [rows, d_vocab] exist at once, and
``rows_at_once`` keeps each of them to ``CELLS`` numbers. All sums are in float32, or in float64 on models of float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.hooks import silent

CELLS = 2**22
"""Numbers in a tensor [rows, d_vocab] at most: 16 MB in float32."""

_IMPOSSIBLE = -1e30  # stands for a bias of -inf, so that 0·(log p - log q) is 0 and not NaN


class Objective:
    """KL to a model's output and its gradient, for rows at any site that a lens has translated."""

    def __init__(self, adapter: Adapter) -> None:
        readout = adapter.readout
        self._norm = adapter.model.ln_final
        self._model_dtype = readout.unembedding.dtype
        self.dtype = torch.promote_types(self._model_dtype, torch.float32)
        self.device = readout.unembedding.device
        self._unembedding = readout.unembedding.to(self.dtype)
        self._bias = None if readout.bias is None else (readout.bias.to(self.dtype) * readout.scale).clamp(min=_IMPOSSIBLE)
        self._scale, self._softcap = readout.scale, readout.softcap
        self.rows_at_once = max(1, CELLS // self._unembedding.shape[1])

    @torch.no_grad()
    def output(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The model's own p and log p, each [rows, d_vocab], of rows of the last residual stream."""
        with silent(self._norm):
            log_p = self._logits(self._normed(rows)).log_softmax(-1)
        return log_p.exp(), log_p

    def loss(self, rows: Tensor, output: tuple[Tensor, Tensor], *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """KL [rows] in nats of rows that a lens has translated, and its gradient [rows, d_model] if asked for."""
        p, log_p = output
        with torch.set_grad_enabled(gradient), silent(self._norm):
            rows = rows.detach().requires_grad_(gradient)
            normed = self._normed(rows)
        with torch.no_grad():
            logits = self._logits(normed)
            slope = None if self._softcap is None else 1 - (logits / self._softcap).square_()
            log_q = logits.log_softmax(-1)
            kl = (log_p - log_q).mul_(p).sum(-1)
            if not gradient:
                return kl, None
            upstream = log_q.exp_().sub_(p)
            if slope is not None:
                upstream.mul_(slope)
            upstream = upstream @ self._unembedding.T * self._scale
        [found] = torch.autograd.grad(normed, rows, upstream)
        return kl, found

    def _normed(self, rows: Tensor) -> Tensor:
        normed: Tensor = self._norm(rows[None].to(self._model_dtype))[0]
        return normed.to(self.dtype)

    def _logits(self, normed: Tensor) -> Tensor:
        logits = (normed.detach() * self._scale) @ self._unembedding
        if self._bias is not None:
            logits += self._bias
        if self._softcap is not None:
            logits = logits.div_(self._softcap).tanh_().mul_(self._softcap)
        return logits
