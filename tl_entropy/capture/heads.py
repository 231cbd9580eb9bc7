"""Whether single heads are contributions to the residual stream, head h writing ``z_h @ W_O[h]``.

They are if they add up, with the output bias, to what the attention writes there: Σ_h z_h @ W_O[h] + b_O = attn_out (Elhage et
al. 2021, "A Mathematical Framework for Transformer Circuits"). A model where they don't is refused: where a norm follows the
attention (Gemma 2, OLMo 2), a head's share depends on all the other heads, and nothing in d_model is its output alone.
"""

from __future__ import annotations

import torch
from einops import einsum
from torch import Tensor

from tl_entropy.errors import ModelError

HEADS_REFUSED = "heads of this model are not contributions to the residual stream: {}. The site z can be measured instead"
"""The refusal, open for its reason."""

# Largest error allowed, relative to the output's size. A norm in between is off by about as much as the output itself; reduced
# precision rounds the output once or twice.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.05}


def prove_heads(weights: Tensor, bias: Tensor | None, z: Tensor, attn_out: Tensor, *, layer: int, n_heads: int) -> None:
    """Raise ModelError unless the heads of a layer add up to what its attention writes into the residual stream.

    Errors are relative to their cell's size, |attn_out| plus the root mean square over all cells: rounding grows with the cell,
    so that the rounding of a few large dimensions is not taken for an error.

    Args:
        weights: W_O [head, d_head, d_model].
        bias: b_O [d_model] or None.
        z: what the heads read [batch, pos, head, d_head].
        attn_out: what the attention writes [batch, pos, d_model].
        layer: for the message.
        n_heads: heads that the layer has.

    Raises:
        ModelError: they don't, or the shapes do not belong to that many heads.

    >>> z, W_O = torch.ones(1, 1, 2, 3), torch.ones(2, 3, 4)
    >>> prove_heads(W_O, None, z, torch.full((1, 1, 4), 6.0), layer=0, n_heads=2)
    >>> prove_heads(W_O, None, z, torch.full((1, 1, 4), 5.0), layer=0, n_heads=2)
    Traceback (most recent call last):
    tl_entropy.errors.ModelError: heads of this model are not contributions ...: at layer 0 ... (off by 0.1 ...
    """
    if weights.shape != (n_heads, z.shape[-1], attn_out.shape[-1]) or z.shape[2:-1] != (n_heads,):
        shapes = f"z {tuple(z.shape)} and W_O {tuple(weights.shape)} do not belong to {n_heads} heads"
        raise ModelError(HEADS_REFUSED.format(f"at layer {layer}, {shapes}"))
    double_z, double_weights, own = (x.to("cpu", torch.float64) for x in (z, weights, attn_out))
    rebuilt = einsum(double_z, double_weights, "batch pos head d_head, head d_head d_model -> batch pos d_model")
    if bias is not None:
        rebuilt = rebuilt + bias.to("cpu", torch.float64)
    size = own.abs() + own.square().mean().sqrt()
    error = float(((rebuilt - own).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
    if not error <= _TOLERANCE.get(attn_out.dtype, 0.05):
        reason = f"at layer {layer} their sum and b_O are not the attention's output (off by {error:.3g} of its size)"
        raise ModelError(HEADS_REFUSED.format(f"{reason}, since a norm (Gemma 2, OLMo 2) or another transform follows"))
