"""How many neurons the MLP of a layer has, and whether they are contributions to the residual stream.

With a the activations behind the nonlinearity (and the gate, where there is one), neuron n writes ``a_n @ W_out[n]``. Neurons
are contributions to the stream if these add up, with the output bias, to what the MLP adds there, up to a constant factor
(``proofs/contributions.py``): f · (Σ_n a_n @ W_out[n] + b_out). A model where they don't is refused: where a norm follows the
MLP (Gemma 2, OLMo 2), a neuron's share depends on all the others, and nothing in d_model is its output alone.

Mixtures of experts have no site ``post`` (``places.py``), since TransformerLens shows no activations of their neurons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.capture.condition import unusual
from tl_entropy.capture.hooks import attribute
from tl_entropy.capture.linear import linear_map
from tl_entropy.capture.proofs.contributions import Contributions, why_not
from tl_entropy.capture.proofs.short_pass import ShortPass
from tl_entropy.errors import InputError, ModelError
from tl_entropy.sites import Site

REFUSED = "neurons of layer {} are not contributions to the residual stream: {}. The site post can be measured and ablated"
"""The refusal, open for its layer and reason."""

_OUTPUTS = ("out", "dense_out")
"""What TransformerLens calls the last linear layer of an MLP; the second where other blocks hold experts."""


class Neurons:
    """A model's neurons, by a short pass, run once."""

    def __init__(self, seen: ShortPass, contributions: Contributions) -> None:
        self._seen, self._contributions, self._runner = seen, contributions, seen.runner
        self._weights: dict[int, Tensor] = {}

    def number(self, layer: int) -> int:
        """Number of neurons of a layer.

        Raises:
            InputError: it has none that are shown.
        """
        return int(self._activations(layer).shape[-1])

    def weights(self, layer: int) -> Tensor:
        """W_out [neuron, d_model]: neuron n writes ``a_n @ W_out[n]`` into the residual stream, and the layer adds b_out once.

        Where the model scales what its MLP adds (Granite), W_out comes scaled. float64 on models of float64, else float32.

        Raises:
            InputError: the layer has no neurons that are shown.
            ModelError: on a short forward pass (run once) they do not add up, with b_out, to what the MLP adds to the stream.
        """
        if layer not in self._weights:
            self._weights[layer] = self._proved(layer)
        return self._weights[layer]

    def _proved(self, layer: int) -> Tensor:
        post = self._activations(layer)
        mlp = attribute(self._runner.block(layer), "mlp")
        weights, bias = attribute(mlp, "W_out"), attribute(mlp, "b_out")
        project = next((found for name in _OUTPUTS if isinstance(found := attribute(mlp, name), torch.nn.Module)), None)
        if project is not None:
            with self._runner.turns.held():
                weights, bias = linear_map(
                    project, post.shape[-1], weights, bias, dtype=self._runner.dtype, device=self._runner.device
                )
        if not isinstance(weights, Tensor) or weights.ndim != 2 or len(weights) != post.shape[-1]:
            raise ModelError(REFUSED.format(layer, "W_out can't be read"))
        exact = torch.promote_types(weights.dtype, torch.float32)
        double = [x.detach().to("cpu", torch.float64) for x in (post, weights)]
        whole = double[0] @ double[1]
        whole = (whole if bias is None else whole + bias.detach().to(whole)).to(post.dtype)
        try:
            factor = self._contributions.share(Site("mlp_out", layer), whole)
        except ModelError as error:
            told = why_not(error, "post @ W_out", layer, "W_out", unusual(project, "down_proj"))
            raise ModelError(REFUSED.format(layer, told)) from error
        return weights.detach().to(exact) * factor

    def _activations(self, layer: int) -> Tensor:
        """Those of the short pass, [batch, pos, neuron]."""
        self._runner.sites(Site("post", layer))  # refuses what is not there
        post = self._seen("post", layer)
        if post is None or post.ndim != 3:
            raise InputError(f"neurons: the activations of layer {layer} are not shown: {self._hook(layer)} never fires")
        return post

    def _hook(self, layer: int) -> str:
        return self._runner.hook_of(Site("post", layer))
