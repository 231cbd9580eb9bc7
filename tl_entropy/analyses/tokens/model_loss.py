"""The losses of a model's own output, token by token, as a function of tokens and their mask."""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.analyses.lens.reading import Reading
from tl_entropy.capture.adapter import Adapter
from tl_entropy.functional.lens.readout import vocabulary_statistics


class ModelLoss:
    """The model's own losses, through the tiled readout: a ``SequenceLoss`` with 0 at tokens that nothing predicts, NaN where
    the last residual stream isn't finite.

    Args:
        adapter: of the model. One whose predictions are of the token itself is charged for the first token, too.
        begun: whether sequences begin with a token that is none of their text; it costs nothing.
    """

    def __init__(self, adapter: Adapter, *, begun: bool = True) -> None:
        self.adapter, self._begun, self._own = adapter, begun, adapter.predicts == "own"
        self._last = adapter.output[0]
        self.reading = Reading(adapter, (self._last,), lens=None, precision="float32", compiled=None)

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Losses [batch, pos] of tokens [batch, pos] with their mask [batch, pos], in float64 on the CPU."""
        losses, ahead = torch.zeros(tokens.shape, dtype=torch.float64), 0 if self._own else 1
        predicted = mask[:, : tokens.shape[1] - ahead] & mask[:, ahead:]
        if self._own and self._begun:
            predicted = predicted & (mask.cumsum(1) > 1)
        if not predicted.any():
            return losses
        hidden = self.adapter.activations(tokens, mask, (self._last,))[self._last][:, : predicted.shape[1]]
        rows = self.reading.normed(self._last, hidden[predicted.to(hidden.device)])
        finite = rows.isfinite().all(1)
        found = vocabulary_statistics(
            rows.masked_fill(~finite[:, None], 0), targets=tokens[:, ahead:][predicted].to(rows.device),
            compiled=self.reading.compiles(len(rows)), **self.reading.options(len(rows)),
        )  # fmt: skip
        self.reading.ran_compiled |= found.compiled
        if found.surprisal is not None:
            losses[:, ahead:][predicted] = found.surprisal.masked_fill(~finite, torch.nan).cpu()
        return losses
