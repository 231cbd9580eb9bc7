"""Whether single heads are contributions to the residual stream, head h writing ``z_h @ W_O[h]``.

They are if they add up, with the output bias, to what the attention writes there: Σ_h z_h @ W_O[h] + b_O = attn_out (Elhage et
al. 2021, "A Mathematical Framework for Transformer Circuits"). A model where they don't is refused: where a norm follows the
attention (Gemma 2, OLMo 2), a head's share depends on all the other heads, and nothing in d_model is its output alone.
"""

from __future__ import annotations

from functools import cached_property

import torch
from einops import einsum
from torch import Tensor

from tl_entropy.capture.hooks import attribute, hook_name
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import InputError, ModelError
from tl_entropy.sites import Site

HEADS_REFUSED = "heads of this model are not contributions to the residual stream: {}. The site z can be measured instead"
"""The refusal, open for its reason."""

# Largest error allowed, relative to the output's size. A norm in between is off by about as much as the output itself; reduced
# precision rounds the output once or twice.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.05}


class Heads:
    """A model's attention heads, as contributions to the residual stream; proved on a short pass, run once."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def weights(self, layer: int) -> Tensor:
        """W_O [head, d_head, d_model]: head h writes ``z_h @ W_O[h]`` into the residual stream, and the layer adds b_O once.

        Where the model scales what its blocks add (Granite), W_O comes scaled. float64 on models of float64, else float32.

        Raises:
            InputError: the layer does not exist, or has no attention heads.
            ModelError: heads of this model are not contributions to the residual stream: on a short forward pass (run once)
                they do not add up, with b_O, to the attention's output.
        """
        if layer not in self._proved_layers:
            raise InputError(f"layer {layer} has no attention heads; layers with heads: {sorted(self._proved_layers)}")
        return self._output(layer)[0]

    def from_source(self, site: Site, value: Tensor) -> Tensor:
        """A site's activation, from that of its source: heads' results are computed, everything else is as captured."""
        if site.name != "result":
            return value
        weights = self.weights(site.layer).to(value.device)
        return einsum(value.to(weights.dtype), weights, "... head d_head, head d_head d_model -> ... head d_model")

    @cached_property
    def value_biases(self) -> bool:
        """Whether z holds value biases b_V: some models have none, and TransformerLens may have folded them into b_O.

        Then what a head writes, and what the model does with z at zero, is not the same as before folding.
        """
        found = (attribute(self._runner.attention(i), "b_V") for i in range(self._runner.n_layers))
        return any(isinstance(bias, Tensor) and bool(bias.any()) for bias in found)

    @cached_property
    def _proved_layers(self) -> frozenset[int]:
        """The layers that have heads; proved to be contributions to the residual stream, every one of them."""
        runner = self._runner
        layers = [i for i in range(runner.n_layers) if hook_name(Site("z", i)) in runner.model.hook_dict]
        ids = runner.short_row()
        try:
            with runner.proving():
                seen = runner.activations(ids, torch.ones_like(ids), runner.sites(("z", "attn_out"), layers))
        except (InputError, ModelError) as error:
            raise ModelError(HEADS_REFUSED.format(f"what its attention writes there can't be seen ({error})")) from error
        for i in layers:
            prove_heads(*self._output(i), seen[Site("z", i)], seen[Site("attn_out", i)], layer=i, n_heads=runner.n_heads)
        return frozenset(layers)

    def _output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """W_O and b_O of a layer (None without one), times the factor on what its block adds, if it has one."""
        block = self._runner.model.blocks[layer]
        factor = float(getattr(block, "residual_contribution_scale", 1.0))
        weights, bias = attribute(block.attn, "W_O"), attribute(block.attn, "b_O")
        if weights is None:
            raise ModelError(HEADS_REFUSED.format(f"W_O of layer {layer} can't be read"))
        dtype = torch.promote_types(weights.dtype, torch.float32)
        return weights.detach().to(dtype) * factor, None if bias is None else bias.detach().to(dtype) * factor


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
