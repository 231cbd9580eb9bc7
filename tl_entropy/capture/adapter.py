"""A TransformerLens model as a measurement sees it: what it does, what is proved of it, and where a number comes from.

Everything in the package asks the adapter, never the model. Passes are the runner's (``capture/runner.py``); proofs
(``capture/proofs``) are run once each, when they are first asked for; and nothing is given that a proof has refused:

- ``wrapped``: it gives the logits of the Hugging Face model that it wraps, asked before the first pass;
- ``readout``: the final norm, unembedding, soft cap and scale give the model's own log-probabilities;
- ``sight``: it looks back only, without which there is no readout, and neither a mask of ones, padding nor the other rows of a
  batch tell it anything;
- ``contributions``: what attention and MLPs write is what they add to the stream, or a constant factor of it;
- ``heads``: z is cut into the heads of its layer, which add up to what the attention adds;
- ``neurons``: what neurons write adds up to what the MLP adds;
- ``generate``: what is written greedily is the model's own most probable token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tl_entropy.capture import origin
from tl_entropy.capture.hooks import forward_is_replaced, hooks_of_others, hooks_on_everything, is_left, source_site
from tl_entropy.capture.places import StackName
from tl_entropy.capture.proofs.contributions import Contributions
from tl_entropy.capture.proofs.frozen_norm import FrozenNorm
from tl_entropy.capture.proofs.generation import Generated, cache_is_sound, proved_text
from tl_entropy.capture.proofs.heads import Heads
from tl_entropy.capture.proofs.neurons import Neurons
from tl_entropy.capture.proofs.readout import Readout, prove_readout
from tl_entropy.capture.proofs.short_pass import PARTS
from tl_entropy.capture.proofs.wrapped import wrapped_logits_proof
from tl_entropy.capture.record import ModelRecord
from tl_entropy.capture.runner import Runner
from tl_entropy.capture.sighted import Sighted
from tl_entropy.capture.views import View, reshaped, scaled
from tl_entropy.errors import ModelError, warn
from tl_entropy.results.provenance import PREDICTS_OWN, READS_AHEAD, Provenance
from tl_entropy.sites import UNEMBED, Site
from tl_entropy.torch_state import cached_property, this_call


class Adapter(Sighted):
    """A TransformerLens model, seen through the few things that a measurement needs.

    Args:
        model: a HookedTransformer or TransformerBridge.
        stack: of an encoder-decoder, the "decoder" (as for None) or the "encoder".
        check: whether the first pass asks if a TransformerBridge gives the logits of the Hugging Face model that it wraps, for
            which both read a short text (see ``wrapped_logits_proof``), and whether caches are asked if they are of their
            tokens and this model. False measures model and caches as they are.

    Raises:
        InputError: a stack that the model does not have.
        InputTypeError: the object lacks a part that every TransformerLens model has.
        ModelError: the model has no single stack of blocks; from the first pass on, its logits are not those of the Hugging
            Face model that it wraps, or adapters and hooks on modules of that one do not run.

    >>> import tl_entropy as tle
    >>> adapter = tle.Adapter(tle.demo_model())
    >>> adapter.n_layers, adapter.d_model, adapter.hook_of(tle.Site("resid_post", 3))
    (6, 192, 'blocks.3.hook_resid_post')
    """

    def __init__(self, model: Any, *, stack: StackName | None = None, check: bool = True) -> None:
        super().__init__(model, stack=stack)
        self.checks = check
        self._others: dict[str, None] = {}  # places where hooks of others ran

    def activations(self, tokens: Tensor, mask: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """One forward pass over ``tokens`` [batch, pos] with its attention mask; what came past each site.

        As ``Runner.activations``, and ``result`` is [batch, pos, head, d_model].

        Raises:
            InputError: token ids that the model does not have.
            ModelError: a hook exists but never fired; or ``result`` of a model whose heads ``head_weights`` refuses.
        """
        sources = tuple(dict.fromkeys(source_site(site) for site in sites))
        seen = self._viewed(super().activations(tokens, mask, sources))
        return {site: self.heads.from_source(site, seen[source_site(site)]) for site in sites}

    def cached_activations(self, cache: Any, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The same as ``activations``, out of an ActivationCache; InputError names what the cache lacks."""
        seen = self._viewed(super().cached_activations(cache, sites))
        return {site: self.heads.from_source(site, value) for site, value in seen.items()}

    def view(self, site: Site) -> View | None:
        """How what passes the hook of a site becomes what is measured there; None where that is the same.

        Raises:
            ModelError: z of a layer can't be cut into its heads, or what TransformerLens calls resid_mid is behind the MLP.
        """
        if site not in self._views:
            self._views[site] = self._view(site)
        return self._views[site]

    def _view(self, site: Site) -> View | None:
        if site.name == "z":
            raw, shape = self._short_pass("z", site.layer), self.heads.shape(site.layer)
            return None if raw is None or tuple(raw.shape[2:]) == shape else reshaped(shape)
        if site.name in PARTS:
            try:
                factor = self.contributions.factor(site)
            except ModelError:  # no part of what the block adds: a state like others, which lenses refuse
                return None
            return None if factor == 1 else scaled(factor)
        if site.name == "resid_mid" and self._short_pass.comes_behind("resid_mid", "mlp_out", site.layer):
            raise ModelError(
                f"what passes {self.hook_of(site)} on this model is passed behind the MLP, so it is not the state between "
                "attention and MLP; resid_pre and resid_post are what they say"
            )
        return None

    def _viewed(self, seen: dict[Site, Tensor]) -> dict[Site, Tensor]:
        views = {site: self.view(source_site(site)) for site in seen}
        return {site: value if (view := views[site]) is None else view.out(value) for site, value in seen.items()}

    @cached_property
    def _views(self) -> dict[Site, View | None]:
        return {}

    def generate(self, tokens: Tensor, max_new_tokens: int, *, temperature: float, seed: int) -> Generated:
        """Prompts of one length [batch, pos] with up to ``max_new_tokens`` more; see ``proved_text``.

        Raises:
            ModelError: the model reads what it would write, or writes what is not its own.
        """
        if self.reads_ahead:
            raise ModelError(
                "generation: this model declares that it reads ahead (cfg.reads_ahead), so it has no text of its own to write"
            )
        if self.sight.later > 1:
            cause = self._looks_ahead_by()
            raise ModelError(f"generation: this model looks ahead ({cause}), so it has no text of its own to write")
        longest = tokens.shape[1] + max_new_tokens  # cached keys stay turned as they were
        cached = longest <= self.stretched_beyond and self.generates_with_cache
        return proved_text(self, tokens, max_new_tokens, temperature=temperature, seed=seed, cached=cached)

    @cached_property
    def generates_with_cache(self) -> bool:
        """Whether the model's own cache of keys and values gives the states that a whole pass gives."""
        return cache_is_sound(self)

    @cached_property
    def contributions(self) -> Contributions:
        """What its attention and its MLPs add to the residual stream."""
        return Contributions(self._short_pass)

    @cached_property
    def heads(self) -> Heads:
        """Its attention heads: how many there are, and what they write into the residual stream."""
        return Heads(self._short_pass, self.contributions)

    @cached_property
    def neurons(self) -> Neurons:
        """The neurons of its MLPs: how many there are, and what they write into the residual stream."""
        return Neurons(self._short_pass, self.contributions)

    def width(self, site: Site) -> int:
        """Width of the vectors at a site without heads."""
        return self.neurons.number(site.layer) if site.name == "post" else self.d_model

    def heads_of(self, layer: int) -> int:
        """Number of attention heads of a layer; InputError where it has none."""
        return self.heads.shape(layer).heads

    def head_weights(self, layer: int) -> Tensor:
        """W_O [head, d_head, d_model] of a layer; see ``Heads.weights``."""
        return self.heads.weights(layer)

    @cached_property
    def readout(self) -> Readout:
        """The model's readout, proved by a short forward pass (run once).

        Raises:
            ModelError: it can't be reproduced, or the model looks ahead and does not declare it.
        """
        self.check_looks_back()
        states, logits = self._unmasked
        return prove_readout(self, self.last_site, (None if states is None else states[:1], logits))

    @cached_property
    def output(self) -> tuple[Site, Readout]:
        """Where the model's own predictions are read, and how: losses need no more.

        It is the last site, but for a model that does more to its last state than a norm does (the heads of BERT's kind, Gemma
        3n): no lens can read that one's sites, and its own predictions are read from what its unembedding is given.

        Raises:
            ModelError: they can't be read there, either, or the model looks ahead and does not declare it.
        """
        try:
            return self.last_site, self.readout
        except ModelError as refused:
            self.check_looks_back()
            site = Site(UNEMBED, self.last_site.layer)
            if self.hook_of(site) not in self.points:
                raise
            try:
                return site, prove_readout(self, site)
            except ModelError:
                raise refused from None

    def of_tokens(self, readout: Readout) -> Readout:
        """A readout of the rows of the unembedding that are tokens of the tokenizer, as ``token_ids`` lists them."""
        ids = self.token_ids
        return readout if ids is None or len(ids) == self.d_vocab else readout.of_tokens(ids)

    @cached_property
    def frozen_norm(self) -> FrozenNorm:
        """The final norm, linear once its scale is known; proved on random rows (ModelError where it is something else)."""
        return FrozenNorm.probe(self.readout.norm, self.readout.unembedding)

    @cached_property
    def wrapped(self) -> str | None:
        """How its logits compare with those of the Hugging Face model that it wraps; None where it wraps none."""
        if not self.checks:
            return "logits not compared with Hugging Face's own: check=False"
        return wrapped_logits_proof(Runner(self.model))

    @property
    def is_stale(self) -> bool:
        """Whether the model's weights, or the adapters that are on, have become others since it read them; seen once a call."""
        if "_weights" not in vars(self) or (self._current_in is not None and self._current_in is this_call()):
            return False
        stale = origin.fingerprint(self.model).hash != self.fingerprint
        self._current_in = None if stale else this_call()
        return stale

    def fresh(self) -> Adapter:
        """Another one of the same model, which has read no weights and proved nothing yet."""
        return Adapter(self.given, stack=self.stack.of, check=self.checks)

    def differentiable(self, tokens: Tensor, mask: Tensor, site: Site | str) -> tuple[Tensor, Tensor]:
        """As ``Runner.differentiable``; hooks of others on the way back are told, too."""
        self._tell_hooks(back=True)
        return super().differentiable(tokens, mask, site)

    def _before(self) -> None:
        self.wrapped, self._weights  # noqa: B018 (asked once, before the first pass)
        self._tell_hooks()

    def _tell_hooks(self, *, back: bool = False) -> None:
        """Note hooks of others, and warn of those that were left."""
        found = hooks_of_others(self.model, back=back)
        new = {name: module for name, module in found.items() if name not in self._others}
        everywhere = [name for name in hooks_on_everything(back=back) if name not in self._others]
        self._others |= dict.fromkeys([*new, *everywhere])
        left = [*(name for name, module in new.items() if is_left(self.model, module)), *everywhere]
        if left:
            warn(
                f"hooks that somebody has left on this model run in what is measured, and may change it: {', '.join(left)}. "
                "model.reset_hooks(including_permanent=True) takes hooks on hook points off"
                + "; a replaced forward is put back by del module.forward"
                * any(map(forward_is_replaced, new.values()))
            )

    def as_record(self) -> ModelRecord:
        """What is kept of the model in a state."""
        return ModelRecord.of(self)

    def provenance(self, **parts: Any) -> Provenance:
        """The model's part of a result's provenance, with the other parts given."""
        ran = [f"hooks of others ran at {name}" for name in self._others]
        ran += [f"sites are of its {self.stack.of}"] if self.stack.of == "encoder" else []
        ran += ["every row was read alone: those of a batch change each other's states"] if self.alone else []
        if math.isfinite(longest := self.stretched_beyond):
            ran += [f"rows beyond {longest:.0f} tokens, of stretched positions, shared a pass with rows of their length alone"]
        ran += [] if self.masked else ["no attention mask was handed on: one of ones changes what the model computes"]
        declared = [*([READS_AHEAD] if self.reads_ahead else []), *([PREDICTS_OWN] if self.predicts == "own" else [])]
        processing = origin.processing(self.model, value_biases=self.heads.value_biases)
        return Provenance(
            model=str(getattr(self.model.cfg, "model_name", "unnamed")),
            weights=self.fingerprint,
            processing=", ".join([processing, *declared]),
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device.type),
            state=origin.state(self.given, self._weights, *ran, self.wrapped),
            **parts,
        )
