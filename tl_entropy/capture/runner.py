"""Running a TransformerLens model: the one place that knows how.

A model is taken by its structure, never by its class: whatever has ``cfg``, ``blocks``, ``ln_final``, ``unembed``, ``W_U``
and ``hook_dict`` will do, which covers HookedTransformer (2.x, 3.x) and TransformerBridge (3.x, 4.x). The runner maps sites to
hook names, runs the model for their activations and stops the pass once the last of them has come; it gives the model's own
logits, their gradients, and text that the model writes. It believes the model: what is proved of one is in
``capture/proofs``. The model stays as it was: training flags, gradients, and the hooks of others (``capture/hooks.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.hooks import as_found, attribute, hook_name, hooked, silent, source_site, turns
from tl_entropy.capture.vocabulary import Vocabulary
from tl_entropy.errors import InputError, InputTypeError, ModelError
from tl_entropy.sites import Site, expand_sites

_NEEDED = ("cfg", "blocks", "ln_final", "unembed", "W_U", "hook_dict")


class _AllSeen(Exception):
    """Raised inside the last hook needed, to end a forward pass whose rest nobody reads."""


class Runner(Vocabulary):
    """A TransformerLens model, seen through the few things that a measurement needs.

    Raises:
        InputTypeError: the object lacks a part that every TransformerLens model has.
    """

    def __init__(self, model: Any) -> None:
        missing = [name for name in _NEEDED if attribute(model, name) is None]
        if missing:
            raise InputTypeError(
                f"model must be a TransformerLens model (HookedTransformer or TransformerBridge); {type(model).__name__} "
                f"lacks {', '.join(missing)}. Models without a final norm and unembedding of their own cannot be read"
            )
        self.model = model
        self.n_layers = len(model.blocks)
        self.turns = turns(model)

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
        """One forward pass over ``tokens`` [batch, pos] with its attention mask; what came past each site's hook.

        Vectors of the residual stream are [batch, pos, d_model], ``z`` is [batch, pos, head, d_head], ``pattern`` is
        [batch, head, query, key]. The pass ends as soon as the last site has been seen.

        Raises:
            InputError: token ids that the model does not have.
            ModelError: a hook exists but never fired.
        """
        self.check_ids(tokens)
        seen: dict[Site, Tensor] = {}

        def keep(site: Site) -> Callable[..., None]:
            def look(activation: Tensor, hook: Any) -> None:
                seen[site] = activation.detach()
                if len(seen) == len(sites):
                    raise _AllSeen

            return look

        device = self.model.W_U.device
        with self._running({site: keep(site) for site in sites}), suppress(_AllSeen):
            self.model(tokens.to(device), attention_mask=mask.to(device, torch.long))
        missing = [hook_name(site) for site in sorted(set(sites) - set(seen), key=lambda site: site.depth)]
        if missing:
            raise ModelError(
                f"the hooks {', '.join(missing)} exist but never fired in a forward pass, so these sites can't be measured on "
                "this model; attention patterns need attn_implementation='eager' on models loaded from Hugging Face"
            )
        return {site: seen[site] for site in sites}

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The model's own logits [batch, pos, d_vocab]."""
        self.check_ids(tokens)
        device = self.model.W_U.device
        with self._running():
            out: Tensor = self.model(tokens.to(device), attention_mask=mask.to(device, torch.long), return_type="logits")
        return out

    def state_and_logits(self, tokens: Tensor, site: Site) -> tuple[Tensor | None, Tensor]:
        """A site's activation (None where its hook never fired) and the model's own logits, from one unpadded pass."""
        seen: dict[str, Tensor] = {}
        with self._running({site: lambda activation, hook: seen.update(x=activation.detach())}):
            out: Tensor = self.model(tokens.to(self.model.W_U.device), return_type="logits")
        return seen.get("x"), out

    def differentiable(self, tokens: Tensor, mask: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """A site's activation, as a leaf, and the model's own logits [batch, pos, d_vocab] as they are made from it.

        For ``torch.autograd.grad``, which leaves the parameters' gradients alone. Inside ``torch.inference_mode``, too: tokens
        are copied, since what was made there cannot be kept for the way back.
        """
        self.check_ids(tokens)
        if any(parameter.is_inference() for parameter in self.model.parameters()):
            raise ModelError("the model was made inside torch.inference_mode, so it has no gradients; load it outside")
        leaves: list[Tensor] = []

        def replace(activation: Tensor, hook: Any) -> Tensor:
            leaves.append(activation.detach().clone().requires_grad_())
            return leaves[-1]

        device = self.model.W_U.device
        with self._running({site: replace}), torch.inference_mode(False), torch.enable_grad():
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
        with self.turns.held() if points else nullcontext(), hooked(points):
            yield

    def write(self, tokens: Tensor, max_new_tokens: int, *, temperature: float, seed: int, cached: bool) -> Tensor:
        """Prompts of one length [batch, pos] with up to ``max_new_tokens`` more; greedy where ``temperature`` is 0.

        Rows that end early are filled up with the tokenizer's end token. ``cached`` keeps keys and values from token to token;
        without, the model reads the whole text again for every one.
        """
        self.check_ids(tokens)
        options: dict[str, Any] = {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature}
        device = self.model.W_U.device
        seeded = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with self._running(), seeded, warnings.catch_warnings():
            # How TransformerLens calls Hugging Face's models is nothing that the user of either could mend.
            warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
            torch.manual_seed(seed)
            out: Tensor = self.model.generate(
                tokens.to(device),
                max_new_tokens=max_new_tokens,
                stop_at_eos=self.end is not None,
                use_past_kv_cache=cached,
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
            found[site] = value if batched else value[None]
        return found

    # --- helpers ---------------------------------------------------------------------------------------------------------

    def short_row(self) -> Tensor:
        """A few ids [1, pos] from all over the vocabulary, no special tokens, for a proof's forward pass."""
        ids = torch.linspace(0, self.d_vocab - 1, min(12, self.context, self.d_vocab)).long()[None]
        return ids[:, [i not in self.special_ids for i in ids[0].tolist()]]

    def check_ids(self, tokens: Tensor) -> None:
        """Raise InputError for token ids that the model does not have."""
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= self.n_ids):
            raise InputError(f"tokens must lie between 0 and {self.n_ids - 1}; got {int(tokens.min())} to {int(tokens.max())}")

    @contextmanager
    def proving(self) -> Iterator[None]:
        """For a proof's passes: nobody's hooks fire, and what TransformerLens itself warns of is not the user's concern."""
        with self.turns.held(), silent(self.model), warnings.catch_warnings(action="ignore"):
            yield

    @contextmanager
    def _running(self, hooks: Mapping[Site, Callable[..., Any]] | None = None) -> Iterator[None]:
        """One pass of the model as its user left it, but for evaluation mode, no gradients, and these hooks at these sites."""
        points = [(self.model.hook_dict[hook_name(site)], look) for site, look in (hooks or {}).items()]
        with self.turns.running(), as_found(self.model), hooked(points):
            yield
