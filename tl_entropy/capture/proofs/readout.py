"""How a model's logits follow from its last residual stream, and how far a model may be from that.

A lens is the model's own only if final norm, unembedding, soft cap and a constant scale give the model's own logits. The scale
is measured, since what a configuration says of it is not always what the model does. All arithmetic is in float64 on the CPU.
Refused: a model whose logits can't be reproduced, as it has some other transform on its output; a NaN in its output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_entropy.capture.hooks import attribute, hook_name, silent
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError, NonFiniteError

# Largest difference allowed between rebuilt log-probabilities and the model's own. A readout that misses a scale, a cap or a
# projection is off by far more; reduced precision rounds the model's own logits to about 2^-8 of their size.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}


@dataclass(frozen=True)
class Readout:
    """How the model turns its last residual stream into logits: ``cap(scale * (ln_final(x) @ W_U + b_U))``.

    Attributes:
        norm: rows [rows, d_model] to normed rows, in the model's dtype; other people's hooks stay silent.
        unembedding: [d_model, d_vocab].
        bias: [d_vocab] or None.
        scale: constant factor on the logits, measured.
        softcap: c in c·tanh(logits / c), or None.
        error: largest difference (nats) between rebuilt and own log-probabilities on the calibration pass.
    """

    norm: Callable[[Tensor], Tensor]
    unembedding: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    error: float


def prove_readout(runner: Runner) -> Readout:
    """The readout of a model, proved by a short forward pass.

    Raises:
        ModelError: the model's own log-probabilities can't be reproduced from its last residual stream.
    """
    model, last = runner.model, runner.last_site
    unembedding: Tensor = model.W_U.detach()
    bias = attribute(model, "b_U")
    bias = None if bias is None or not bool(bias.any()) else bias.detach()
    cap = float(getattr(model.cfg, "output_logits_soft_cap", None) or 0.0)
    with runner.proving():
        x, own = runner.state_and_logits(runner.short_row(), last)
        own = own.flatten(0, -2)
        if x is None:
            raise ModelError(f"the hook {hook_name(last)} never fired, so the residual stream can't be read")
        if x.shape[-1] != unembedding.shape[0] or own.shape[-1] != unembedding.shape[1]:
            raise ModelError(
                f"the residual stream {tuple(x.shape)} does not fit the unembedding {tuple(unembedding.shape)}: the model "
                "projects between the two, and its logits can't be reproduced"
            )
        with torch.no_grad():
            rows = model.ln_final(x).flatten(0, -2)
    scale, error = proved_scale(rows, unembedding, bias, own, cap)

    @torch.no_grad()
    def norm(x: Tensor) -> Tensor:
        with runner.turns.held(), silent(model.ln_final):
            normed: Tensor = model.ln_final(x[None].to(unembedding.dtype))[0]
        return normed

    return Readout(norm, unembedding, bias, scale, cap if cap > 0 else None, error)


def proved_scale(rows: Tensor, unembedding: Tensor, bias: Tensor | None, own: Tensor, cap: float) -> tuple[float, float]:
    """The factor s with which ``cap(s * (rows @ unembedding + bias))`` gives a model's own logits, and how well it does.

    Args:
        rows: normed residual stream [rows, d_model].
        unembedding: [d_model, d_vocab].
        bias: [d_vocab] or None.
        own: the model's logits [rows, d_vocab].
        cap: c in c·tanh(logits / c); 0 or less for none.

    Returns:
        The factor, and the largest difference between rebuilt and own log-probabilities, in nats.

    Raises:
        ModelError: no factor gives the model's log-probabilities.
        NonFiniteError: a NaN or an infinity in the residual stream, or a NaN or +inf in the logits.

    >>> rows = torch.tensor([[1.0, 0.0], [0.5, -2.0]])
    >>> proved_scale(rows, torch.eye(2), None, 0.125 * rows, 0.0)
    (0.125, 0.0)
    """
    own = own.to("cpu", torch.float64)
    if not bool(rows.isfinite().all()) or not bool((own < math.inf).all()):  # which no NaN is, either
        raise NonFiniteError(
            "the model's last residual stream or its logits hold a NaN or an infinity on a short pass; check the weights and "
            "the dtype"
        )
    raw = _affine(rows, unembedding, bias)
    scale = _measured_scale(raw, own, cap, slack=4e-3 if unembedding.dtype.itemsize < 4 else 1e-5)
    rebuilt = _capped(raw * scale, cap)
    error = float((rebuilt.log_softmax(-1) - own.log_softmax(-1)).abs().max())
    if not error <= _TOLERANCE.get(unembedding.dtype, 0.3):
        raise ModelError(
            f"this model's own logits can't be reproduced from its last residual stream by ln_final, the unembedding"
            f"{', its soft cap' if cap > 0 else ''} and a scale (off by {error:.3g} nats), so a lens on it would not be "
            "the model's; it has some other transform on its output"
        )
    return scale, error


def _affine(rows: Tensor, unembedding: Tensor, bias: Tensor | None) -> Tensor:
    """``rows @ unembedding + bias`` in float64 on the CPU, tile by tile so that no second copy of the matrix is made."""
    rows = rows.to("cpu", torch.float64)
    raw = torch.cat([rows @ tile.to("cpu", torch.float64) for tile in unembedding.split(4096, dim=1)], dim=1)
    return raw if bias is None else raw + bias.to("cpu", torch.float64)


def _capped(logits: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def _measured_scale(raw: Tensor, own: Tensor, cap: float, *, slack: float) -> float:
    """Least-squares factor from raw to the model's (uncapped) logits, over what the cap leaves invertible.

    Rows are centred first, since some models shift all logits of a position. A factor within ``slack`` of a power of two
    (1, or the 1/8 and 1/16 of Granite and Cohere) is that power: the rest is the rounding of the model's own logits.
    """
    if cap > 0:
        open_cells = own.abs() < 0.9 * cap
        target = torch.where(open_cells, cap * torch.atanh((own / cap).clamp(-0.9, 0.9)), 0.0)
        source = torch.where(open_cells, raw, 0.0)
    else:
        target, source = own - own.mean(-1, keepdim=True), raw - raw.mean(-1, keepdim=True)
    power = float((source * source).sum())
    scale = float((source * target).sum()) / power if power > 0 else 1.0
    nearest = 2.0 ** round(math.log2(scale)) if scale > 0 else scale
    return nearest if scale > 0 and abs(scale / nearest - 1) < slack else scale
