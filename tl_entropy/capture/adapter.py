"""A TransformerLens model as a measurement sees it: what it does, what is proved of it, and where a number comes from.

Everything in the package asks the adapter, never the model. Passes are the runner's (``capture/runner.py``); proofs
(``capture/proofs``) are run once each, when they are first asked for; and nothing is given that a proof has refused:

- ``readout``: the final norm, unembedding, soft cap and scale give the model's own log-probabilities;
- ``heads``: single heads add up to what the attention writes;
- ``generate``: what is written greedily is the model's own most probable token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from tl_entropy.capture import origin
from tl_entropy.capture.hooks import source_site
from tl_entropy.capture.proofs.frozen_norm import FrozenNorm
from tl_entropy.capture.proofs.generation import Generated, cache_is_sound, proved_text
from tl_entropy.capture.proofs.heads import Heads
from tl_entropy.capture.proofs.readout import Readout, prove_readout
from tl_entropy.capture.runner import Runner
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site


class Adapter(Runner):
    """A TransformerLens model, seen through the few things that a measurement needs.

    Args:
        model: a HookedTransformer or TransformerBridge.
        stack: of an encoder-decoder, the "decoder" (as for None) or the "encoder".

    Raises:
        InputError: a stack that the model does not have.
        InputTypeError: the object lacks a part that every TransformerLens model has.
        ModelError: the model has no single stack of blocks.
    """

    def activations(self, tokens: Tensor, mask: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """One forward pass over ``tokens`` [batch, pos] with its attention mask; what came past each site.

        As ``Runner.activations``, and ``result`` is [batch, pos, head, d_model].

        Raises:
            InputError: token ids that the model does not have.
            ModelError: a hook exists but never fired; or ``result`` of a model whose heads ``head_weights`` refuses.
        """
        sources = tuple(dict.fromkeys(source_site(site) for site in sites))
        seen = super().activations(tokens, mask, sources)
        return {site: self.heads.from_source(site, seen[source_site(site)]) for site in sites}

    def cached_activations(self, cache: Any, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The same as ``activations``, out of an ActivationCache; InputError names what the cache lacks."""
        found = super().cached_activations(cache, sites)
        return {site: self.heads.from_source(site, value) for site, value in found.items()}

    def generate(self, tokens: Tensor, max_new_tokens: int, *, temperature: float, seed: int) -> Generated:
        """Prompts of one length [batch, pos] with up to ``max_new_tokens`` more; see ``proved_text``."""
        return proved_text(self, tokens, max_new_tokens, temperature=temperature, seed=seed, cached=self.generates_with_cache)

    @cached_property
    def generates_with_cache(self) -> bool:
        """Whether the model's own cache of keys and values gives the states that a whole pass gives."""
        return cache_is_sound(self)

    @cached_property
    def heads(self) -> Heads:
        """Its attention heads, as contributions to the residual stream."""
        return Heads(self)

    def head_weights(self, layer: int) -> Tensor:
        """W_O [head, d_head, d_model] of a layer; see ``Heads.weights``."""
        return self.heads.weights(layer)

    @cached_property
    def readout(self) -> Readout:
        """The model's readout, proved by a short forward pass (run once); ModelError where it can't be reproduced."""
        return prove_readout(self)

    @cached_property
    def frozen_norm(self) -> FrozenNorm:
        """The final norm, linear once its scale is known; proved on random rows (ModelError where it is something else)."""
        return FrozenNorm.probe(self.readout.norm, self.readout.unembedding)

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the model's weights."""
        return origin.fingerprint(self.model)

    def provenance(self, **parts: Any) -> Provenance:
        """The model's part of a result's provenance, with the other parts given."""
        return Provenance(
            model=str(getattr(self.model.cfg, "model_name", "unnamed")),
            weights=self.fingerprint,
            processing=origin.processing(self.model, value_biases=self.heads.value_biases),
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device.type),
            **parts,
        )
