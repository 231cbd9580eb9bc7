"""How many attention heads a layer has, and whether they are contributions to the residual stream.

A layer has as many heads as its attention pattern; without a pattern, as W_O. What TransformerLens gives as ``z`` is cut into
that many, whatever it was cut into before: by the width of what is rotated (multi-head latent attention), or by the number of
heads that other layers have. Where that does not come out even, or pattern and W_O disagree, z is refused.

Head h writes ``z_h @ W_O[h]``. Heads are contributions to the stream if these add up, with the output bias, to what attention
adds there, up to a constant factor (``proofs/contributions.py``): f · (Σ_h z_h @ W_O[h] + b_O) (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits"). A model where they don't is refused: where a norm follows the attention
(Gemma 2, OLMo 2), a head's share depends on all the other heads, and nothing in d_model is its output alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor

from tl_entropy.capture.condition import unusual
from tl_entropy.capture.hooks import attribute
from tl_entropy.capture.linear import linear_map
from tl_entropy.capture.proofs.contributions import Contributions, why_not
from tl_entropy.capture.proofs.short_pass import ShortPass
from tl_entropy.errors import InputError, ModelError
from tl_entropy.sites import Site
from tl_entropy.torch_state import cached_property

HEADS_REFUSED = "heads of this model are not contributions to the residual stream: {}. The site z can be measured instead"
"""The refusal, open for its reason."""


class Shape(NamedTuple):
    """Number of heads of a layer, and the width of each; 0 where no z shows it."""

    heads: int
    d_head: int


class Heads:
    """A model's attention heads: how z is cut into them, and what they write; by a short pass, run once."""

    def __init__(self, seen: ShortPass, contributions: Contributions) -> None:
        self._seen, self._contributions = seen, contributions
        self._runner = seen.runner
        self._shapes: dict[int, Shape] = {}

    def shape(self, layer: int) -> Shape:
        """Number and width of the heads of a layer.

        Raises:
            InputError: it has none.
            ModelError: z of the layer can't be cut into them.
        """
        if layer not in self._shapes:
            self._shapes[layer] = self._shape(layer)
        return self._shapes[layer]

    def cut(self, layer: int, z: Tensor) -> Tensor:
        """A layer's z as [batch, pos, head, d_head]."""
        return z.reshape(*z.shape[:2], *self.shape(layer))

    def weights(self, layer: int) -> Tensor:
        """W_O [head, d_head, d_model]: head h writes ``z_h @ W_O[h]`` into the residual stream, and the layer adds b_O once.

        Where the model scales what its attention adds (Granite, Falcon H1), W_O comes scaled. float64 on models of float64,
        else float32.

        Raises:
            InputError: the layer does not exist, or has no attention heads.
            ModelError: heads of this model are not contributions to the residual stream: on a short forward pass (run once)
                they do not add up, with b_O, to what the attention adds to it.
        """
        if layer not in self._factors:
            raise InputError(f"layer {layer} has no attention heads; layers with heads: {sorted(self._factors)}")
        return self._output(layer)[0] * self._factors[layer]

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
        return any(bias is not None and bool(bias.any()) for bias in map(self._value_bias, range(self._runner.n_layers)))

    def _value_bias(self, layer: int) -> Tensor | None:
        attention = self._runner.attention(layer)
        bias, project = attribute(attention, "b_V"), attribute(attention, "v")
        if not isinstance(bias, Tensor) or bias.device.type != "meta":
            return bias if isinstance(bias, Tensor) else None
        return self._map(project, self._runner.d_model)[1] if isinstance(project, torch.nn.Module) else None

    @cached_property
    def _factors(self) -> dict[int, float]:
        """Of each layer that has heads, the factor on what they write; proved, every one of them."""
        found = {}
        for layer in self._runner.layers_with("z"):
            z = self._seen("z", layer)
            if z is None:
                raise ModelError(HEADS_REFUSED.format(f"the hook {self._runner.hook_of(Site('z', layer))} never fired"))
            weights, bias = self._output(layer)
            try:
                found[layer] = self._contributions.share(Site("attn_out", layer), written(self.cut(layer, z), weights, bias))
            except ModelError as error:
                cause = unusual(attribute(self._runner.attention(layer), "o"), "o_proj")
                raise ModelError(HEADS_REFUSED.format(why_not(error, "z @ W_O", layer, "W_O", cause))) from error
        return found

    def _shape(self, layer: int) -> Shape:
        pattern, z, weights = self._seen("pattern", layer), self._seen("z", layer), self._own_weights(layer)
        if pattern is None and z is None:
            having = [i for i in range(self._runner.n_layers) if not (self._seen("z", i) is self._seen("pattern", i) is None)]
            raise InputError(
                f"heads: layer {layer} of this model has no attention heads; "
                + (f"layers that have some: {', '.join(map(str, having))}" if having else "nor has any other")
            )
        known = [pattern.shape[1]] if pattern is not None and pattern.ndim == 4 else []
        known += [] if weights is None else [weights.shape[0]]
        n = known[0] if known else 0
        width = 0 if z is None else z.shape[2:].numel()
        shape = Shape(n, width // n if n else 0)
        fits = weights is None or z is None or tuple(weights.shape[:2]) == shape
        if not n or width % n or len(set(known)) > 1 or not fits:
            came = f"z {tuple(z.shape)}" if z is not None else "no z"
            came += "" if weights is None else f" and W_O {tuple(weights.shape)}"
            raise ModelError(f"heads: at layer {layer}, {came} do not belong to {n or 'any known number of'} heads")
        return shape

    def _own_weights(self, layer: int) -> Tensor | None:
        weights = attribute(self._runner.attention(layer), "W_O")
        return weights.detach() if isinstance(weights, Tensor) and weights.ndim == 3 else None

    def _output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """W_O and b_O of a layer (None without one), as its module has them, where it is a module (``linear_map``)."""
        shape, attention, weights = self.shape(layer), self._runner.attention(layer), self._own_weights(layer)
        bias, project = attribute(attention, "b_O"), attribute(attention, "o")
        if isinstance(project, torch.nn.Module):
            flat = None if weights is None else weights.flatten(0, 1)
            found, bias = self._map(project, shape.heads * shape.d_head, flat, bias)
            weights = found.unflatten(0, shape)
        if weights is None:
            raise ModelError(HEADS_REFUSED.format(f"W_O of layer {layer} can't be read"))
        exact = torch.promote_types(weights.dtype, torch.float32)
        return weights.to(exact), None if bias is None else bias.detach().to(exact)

    def _map(self, module: torch.nn.Module, d_in: int, *told: Tensor | None) -> tuple[Tensor, Tensor | None]:
        with self._runner.turns.held():
            return linear_map(module, d_in, *told, dtype=self._runner.dtype, device=self._runner.device)


def written(z: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """What heads write together: Σ_h z_h @ W_O[h] + b_O, [batch, pos, d_model] in float64 on the CPU, rounded as z is.

    >>> written(torch.ones(1, 1, 2, 3), torch.ones(2, 3, 4), None)
    tensor([[[6., 6., 6., 6.]]])
    """
    double_z, double_weights = (x.to("cpu", torch.float64) for x in (z, weights))
    whole = einsum(double_z, double_weights, "batch pos head d_head, head d_head d_model -> batch pos d_model")
    return (whole if bias is None else whole + bias.to(whole)).to(z.dtype)
