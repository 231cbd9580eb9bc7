"""The one place that knows TransformerLens.

A model is taken by its structure, never by its class: whatever has ``cfg``, ``blocks``, ``ln_final``, ``unembed``, ``W_U``
and ``hook_dict`` will do, which covers HookedTransformer (2.x, 3.x) and TransformerBridge (3.x, 4.x). The adapter

- maps sites to hook names and runs the model for their activations, stopping the pass once the last of them has come;
- reads the model's unembedding, and proves on a short pass that ``ln_final``, ``W_U``, ``b_U``, a soft cap and a measured
  scale give the model's own log-probabilities; a model where they don't is refused;
- splits the attention's output into single heads (``result``), and proves on a short pass that they add up to it;
- leaves the model as it was: training flags, gradients, and the hooks of others.

Hooks are added at a level of their own on the hook points asked for, so that removing them touches nobody else's.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from einops import einsum
from torch import Tensor, nn

from tl_entropy.capture.frozen_norm import FrozenNorm
from tl_entropy.capture.heads import HEADS_REFUSED, prove_heads
from tl_entropy.capture.readout_proof import Readout, proved_scale
from tl_entropy.capture.vocabulary import Vocabulary
from tl_entropy.errors import InputError, InputTypeError, ModelError
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import HEAD_SITES, Site, expand_sites

_NEEDED = ("cfg", "blocks", "ln_final", "unembed", "W_U", "hook_dict")
_LEVEL = 7_300_000  # of hooks that capture: TransformerLens's own contexts count up from 1
_edit_levels = itertools.count(_LEVEL + 1)  # of hooks that edit: every ``edited`` removes its own, whichever adapter's


class _AllSeen(Exception):
    """Raised inside the last hook needed, to end a forward pass whose rest nobody reads."""


class Adapter(Vocabulary):
    """A TransformerLens model, seen through the few things that a measurement needs.

    Raises:
        InputTypeError: the object lacks a part that every TransformerLens model has.
    """

    def __init__(self, model: Any) -> None:
        missing = [name for name in _NEEDED if _attribute(model, name) is None]
        if missing:
            raise InputTypeError(
                f"model must be a TransformerLens model (HookedTransformer or TransformerBridge); {type(model).__name__} "
                f"lacks {', '.join(missing)}. Models without a final norm and unembedding of their own cannot be read"
            )
        self.model = model
        self.n_layers = len(model.blocks)

    @property
    def last_site(self) -> Site:
        """The last block's ``resid_post``, from which the model's own output is read."""
        return Site("resid_post", self.n_layers - 1)

    @property
    def n_heads(self) -> int:
        """Number of attention heads in a layer."""
        return int(self.model.cfg.n_heads)

    # --- running the model -----------------------------------------------------------------------------------------------

    def sites(self, names: Any, layers: Sequence[int] | None = None) -> tuple[Site, ...]:
        """Short names to sites of this model; InputError for a site that it does not have."""
        sites = expand_sites(names, self.n_layers, layers)
        for site in sites:
            name = hook_name(source_site(site))
            if name not in self.model.hook_dict:
                reason = " (its attention and MLP run in parallel)" if site.name == "resid_mid" else ""
                raise InputError(f"sites: this model has no {site.name} at layer {site.layer}{reason}: no hook {name}")
        return sites

    def activations(self, tokens: Tensor, mask: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """One forward pass over ``tokens`` [batch, pos] with its attention mask; what came past each site.

        Vectors of the residual stream are [batch, pos, d_model], ``z`` is [batch, pos, head, d_head], ``result`` is
        [batch, pos, head, d_model], ``pattern`` is [batch, head, query, key]. The pass ends as soon as the last site has been
        seen.

        Raises:
            InputError: token ids that the model does not have.
            ModelError: a hook exists but never fired; or ``result`` of a model whose heads ``head_weights`` refuses.
        """
        self._check_ids(tokens)
        sources = {source_site(site) for site in sites}
        seen: dict[Site, Tensor] = {}

        def keep(site: Site) -> Callable[..., None]:
            def look(activation: Tensor, hook: Any) -> None:
                seen[site] = activation.detach()
                if len(seen) == len(sources):
                    raise _AllSeen

            return look

        device = self.model.W_U.device
        with self._as_found(), self._hooked({site: keep(site) for site in sources}), suppress(_AllSeen):
            self.model(tokens.to(device), attention_mask=mask.to(device, torch.long))
        silent = [hook_name(site) for site in sorted(sources - set(seen), key=lambda site: site.depth)]
        if silent:
            raise ModelError(
                f"the hooks {', '.join(silent)} exist but never fired in a forward pass, so these sites can't be measured on "
                "this model; attention patterns need attn_implementation='eager' on models loaded from Hugging Face"
            )
        return {site: self._from_source(site, seen[source_site(site)]) for site in sites}

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The model's own logits [batch, pos, d_vocab]."""
        self._check_ids(tokens)
        device = self.model.W_U.device
        with self._as_found():
            out: Tensor = self.model(tokens.to(device), attention_mask=mask.to(device, torch.long), return_type="logits")
        return out

    def differentiable(self, tokens: Tensor, mask: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """A site's activation, as a leaf, and the model's own logits [batch, pos, d_vocab] as they are made from it.

        For ``torch.autograd.grad``, which leaves the parameters' gradients alone. Inside ``torch.inference_mode``, too: tokens
        are copied, since what was made there cannot be kept for the way back.
        """
        self._check_ids(tokens)
        if any(parameter.is_inference() for parameter in self.model.parameters()):
            raise ModelError("the model was made inside torch.inference_mode, so it has no gradients; load it outside")
        leaves: list[Tensor] = []

        def replace(activation: Tensor, hook: Any) -> Tensor:
            leaves.append(activation.detach().clone().requires_grad_())
            return leaves[-1]

        device = self.model.W_U.device
        with self._as_found(), torch.inference_mode(False), torch.enable_grad(), self._hooked({site: replace}):
            tokens, mask = tokens.to(device, copy=True), mask.to(device, torch.long)
            out: Tensor = self.model(tokens, attention_mask=mask, return_type="logits")
        if not leaves:
            raise ModelError(f"the hook {hook_name(site)} never fired in a forward pass, so {site} has no gradient here")
        return leaves[-1], out

    @contextmanager
    def edited(self, hooks: Sequence[tuple[str, Callable[..., Tensor | None]]]) -> Iterator[None]:
        """``hooks``, pairs of a hook's name and ``function(activation, hook)``, in place inside, and gone afterwards.

        They fire behind the hooks of the model's user and before those that capture, so that what they return is measured.
        Proofs and lenses stay those of the unedited model. Edits inside edits, of this adapter or of another of the same model,
        fire behind them, and leave them in place.
        """
        points = [(self.model.hook_dict[name], function) for name, function in hooks]
        level = next(_edit_levels)
        try:
            for point, function in points:
                point.add_hook(function, level=level)
            yield
        finally:
            for point, _ in points:
                point.remove_hooks("fwd", including_permanent=False, level=level)

    def generate(self, tokens: Tensor, max_new_tokens: int, *, temperature: float, seed: int) -> Tensor:
        """Prompts of one length [batch, pos] with up to ``max_new_tokens`` more; greedy where ``temperature`` is 0.

        Rows that end early are filled up with the tokenizer's end token.
        """
        self._check_ids(tokens)
        options: dict[str, Any] = {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature}
        device = self.model.W_U.device
        with self._as_found(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            out: Tensor = self.model.generate(
                tokens.to(device),
                max_new_tokens=max_new_tokens,
                stop_at_eos=self.end is not None,
                return_type="tokens",
                verbose=False,
                **options,
            )
        return out.cpu().clone()  # not an inference tensor, on which users could not build

    def cached_activations(self, cache: Any, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The same as ``activations``, out of an ActivationCache; InputError names what the cache lacks."""
        found: dict[Site, Tensor] = {}
        for site in sites:
            name = hook_name(source_site(site))
            try:
                value = cache[name]
            except KeyError as error:
                raise InputError(
                    f"inputs: the cache has no {name}, needed for the site {site}; run the model with a names_filter that "
                    "keeps it, or ask for other sites"
                ) from error
            batched = getattr(cache, "has_batch_dim", True)
            found[site] = self._from_source(site, value if batched else value[None])
        return found

    # --- single heads ----------------------------------------------------------------------------------------------------

    def head_weights(self, layer: int) -> Tensor:
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

    @cached_property
    def _proved_layers(self) -> frozenset[int]:
        """The layers that have heads; proved to be contributions to the residual stream, every one of them."""
        layers = [i for i in range(self.n_layers) if hook_name(Site("z", i)) in self.model.hook_dict]
        ids = self._short_row()
        try:
            with silent(self.model):
                seen = self.activations(ids, torch.ones_like(ids), self.sites(("z", "attn_out"), layers))
        except (InputError, ModelError) as error:
            raise ModelError(HEADS_REFUSED.format(f"what its attention writes there can't be seen ({error})")) from error
        for i in layers:
            prove_heads(*self._output(i), seen[Site("z", i)], seen[Site("attn_out", i)], layer=i, n_heads=self.n_heads)
        return frozenset(layers)

    def _output(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """W_O and b_O of a layer (None without one), times the factor on what its block adds, if it has one."""
        block = self.model.blocks[layer]
        factor = float(getattr(block, "residual_contribution_scale", 1.0))
        weights, bias = _attribute(block.attn, "W_O"), _attribute(block.attn, "b_O")
        if weights is None:
            raise ModelError(HEADS_REFUSED.format(f"W_O of layer {layer} can't be read"))
        dtype = torch.promote_types(weights.dtype, torch.float32)
        return weights.detach().to(dtype) * factor, None if bias is None else bias.detach().to(dtype) * factor

    def _from_source(self, site: Site, value: Tensor) -> Tensor:
        """A site's activation, from that of its source: heads' results are computed, everything else is as captured."""
        if site.name != "result":
            return value
        weights = self.head_weights(site.layer).to(value.device)
        return einsum(value.to(weights.dtype), weights, "... head d_head, head d_head d_model -> ... head d_model")

    @cached_property
    def value_biases(self) -> bool:
        """Whether z holds value biases b_V: some models have none, and TransformerLens may have folded them into b_O.

        Then what a head writes, and what the model does with z at zero, is not the same as before folding.
        """
        found = (_attribute(getattr(block, "attn", None), "b_V") for block in self.model.blocks)
        return any(isinstance(bias, Tensor) and bool(bias.any()) for bias in found)

    # --- reading the unembedding -----------------------------------------------------------------------------------------

    @cached_property
    def readout(self) -> Readout:
        """The model's readout, proved by a short forward pass (run once).

        Raises:
            ModelError: the model's own log-probabilities can't be reproduced from its last residual stream.
        """
        model, cfg = self.model, self.model.cfg
        unembedding: Tensor = model.W_U.detach()
        bias = _attribute(model, "b_U")
        bias = None if bias is None or not bool(bias.any()) else bias.detach()
        cap = float(getattr(cfg, "output_logits_soft_cap", None) or 0.0)
        ids = self._short_row()
        seen: dict[str, Tensor] = {}
        with silent(model), self._as_found():
            with self._hooked({self.last_site: lambda activation, hook: seen.update(x=activation.detach())}):
                own = model(ids.to(unembedding.device), return_type="logits").flatten(0, -2)
            if "x" not in seen:
                raise ModelError(f"the hook {hook_name(self.last_site)} never fired, so the residual stream can't be read")
            if seen["x"].shape[-1] != unembedding.shape[0] or own.shape[-1] != unembedding.shape[1]:
                raise ModelError(
                    f"the residual stream {tuple(seen['x'].shape)} does not fit the unembedding {tuple(unembedding.shape)}: "
                    "the model projects between the two, and its logits can't be reproduced"
                )
            rows = model.ln_final(seen["x"]).flatten(0, -2)
        scale, error = proved_scale(rows, unembedding, bias, own, cap)

        @torch.no_grad()
        def norm(x: Tensor) -> Tensor:
            with silent(model.ln_final):
                normed: Tensor = model.ln_final(x[None].to(unembedding.dtype))[0]
            return normed

        return Readout(norm, unembedding, bias, scale, cap if cap > 0 else None, error)

    @cached_property
    def frozen_norm(self) -> FrozenNorm:
        """The final norm, linear once its scale is known; proved on random rows (ModelError where it is something else)."""
        return FrozenNorm.probe(self.readout.norm, self.model.W_U)

    # --- where a number comes from ---------------------------------------------------------------------------------------

    def provenance(self, **parts: Any) -> Provenance:
        """The model's part of a result's provenance, with the other parts given."""
        model, cfg = self.model, self.model.cfg
        mode = "compatibility mode" if getattr(model, "compatibility_mode", False) else str(cfg.normalization_type)
        return Provenance(
            model=str(getattr(cfg, "model_name", "unnamed")),
            weights=self.fingerprint,
            processing=f"{type(model).__name__}, {mode}{', value biases in z' if self.value_biases else ''}",
            dtype=str(model.W_U.dtype).removeprefix("torch."),
            device=str(model.W_U.device.type),
            **parts,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the shapes and up to 1024 evenly spaced values of every parameter, whatever the parameters' names."""
        parts = set()
        for parameter in self.model.parameters():
            values = parameter.detach().flatten()
            sample = values[:: max(1, values.numel() // 1024)].float().cpu().numpy().tobytes()
            parts.add(hashlib.sha256(f"{tuple(parameter.shape)} {parameter.dtype}".encode() + sample).digest())
        return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]

    # --- helpers ---------------------------------------------------------------------------------------------------------

    def _short_row(self) -> Tensor:
        """A few ids [1, pos] from all over the vocabulary, no special tokens, for a proof's forward pass."""
        ids = torch.linspace(0, self.d_vocab - 1, min(12, self.context, self.d_vocab)).long()[None]
        return ids[:, [i not in self.special_ids for i in ids[0].tolist()]]

    def _check_ids(self, tokens: Tensor) -> None:
        known = int(getattr(self.model.cfg, "d_vocab", self.d_vocab))
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= known):
            raise InputError(f"tokens must lie between 0 and {known - 1}; got {int(tokens.min())} to {int(tokens.max())}")

    @contextmanager
    def _hooked(self, hooks: Mapping[Site, Callable[..., Any]]) -> Iterator[None]:
        points = [(self.model.hook_dict[hook_name(site)], look) for site, look in hooks.items()]
        try:
            for point, look in points:
                point.add_hook(look, level=_LEVEL)
            yield
        finally:
            for point, _ in points:
                point.remove_hooks("fwd", including_permanent=False, level=_LEVEL)

    @contextmanager
    def _as_found(self) -> Iterator[None]:
        """Evaluation mode and no gradients inside; every module's training flag as it was afterwards."""
        roots = [root for root in (self.model, _attribute(self.model, "original_model")) if isinstance(root, nn.Module)]
        training = [module for root in roots for module in root.modules() if module.training]
        try:
            for module in training:
                module.training = False
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True


def hook_name(site: Site) -> str:
    """TransformerLens's name of a site's hook.

    >>> hook_name(Site("embed", -1)), hook_name(Site("result", 2))
    ('blocks.0.hook_resid_pre', 'blocks.2.attn.hook_result')
    """
    if site.name == "embed":
        return "blocks.0.hook_resid_pre"
    return f"blocks.{site.layer}.{'attn.' if site.name in HEAD_SITES else ''}hook_{site.name}"


def source_site(site: Site) -> Site:
    """The site to capture for a site: ``z`` for ``result``, whose own hook stays silent unless a flag of the model is set."""
    return Site("z", site.layer) if site.name == "result" else site


def _attribute(model: Any, name: str) -> Any:
    """An attribute, or None: some models raise other errors than AttributeError for parts that they lack."""
    try:
        return getattr(model, name, None)
    except (AttributeError, ImportError, KeyError, ValueError, RuntimeError):
        return None


@contextmanager
def silent(root: nn.Module) -> Iterator[None]:
    """No forward hook on any hook point below ``root`` (those of the model's user, and of others) fires inside."""
    points = [module for module in root.modules() if hasattr(module, "fwd_hooks")]
    kept = [point._forward_hooks for point in points]
    try:
        for point in points:
            point._forward_hooks = OrderedDict()
        yield
    finally:
        for point, hooks in zip(points, kept, strict=True):
            point._forward_hooks = hooks
