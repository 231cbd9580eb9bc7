"""Running a TransformerLens model: the one place that knows how.

A model is taken by its structure, never by its class (``capture/structure.py``); a norm and an unembedding are asked for where
they are read. The runner maps sites to hook names, runs the model for their activations and stops the pass once the last of
them has come; it gives the model's own logits, their gradients, and text that the model writes. It believes the model: what is
proved of one is in ``capture/proofs``. The model stays as it was: training flags, gradients, and hooks of others
(``capture/hooks.py``).

Where a pass fails, a short one without anybody's hooks is tried: if that fails, too, it is TransformerLens that cannot run the
model, and the error says so. Otherwise the error is left as it is: that of a hook, or of memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.condition import floating_dtypes, runs_on, unusual
from tl_entropy.capture.feeding import out_of_memory
from tl_entropy.capture.hooks import as_found, attribute, hooked, hooks_of_others, silent, source_site, turns, uncompiled
from tl_entropy.capture.places import Places, StackName
from tl_entropy.capture.structure import check_is_model
from tl_entropy.capture.vocabulary import Vocabulary
from tl_entropy.capture.writing import written_whole, written_with_cache
from tl_entropy.errors import InputError, ModelError, TLEntropyError
from tl_entropy.results.provenance import library_versions
from tl_entropy.sites import Site
from tl_entropy.torch_state import yours


class _AllSeen(Exception):
    """Raised inside the last hook needed, to end a forward pass whose rest nobody reads."""


class Runner(Vocabulary, Places):
    """A TransformerLens model, seen through the few things that a measurement needs.

    Args:
        model: a HookedTransformer or TransformerBridge.
        stack: of an encoder-decoder, the "decoder" (as for None) or the "encoder".

    Attributes:
        given: the model as it came; ``model`` is what ``torch.compile`` has not yet touched.

    Raises:
        InputError: a stack that the model does not have.
        InputTypeError: the object lacks a part that every TransformerLens model has.
        ModelError: the model has no single stack of blocks.
    """

    def __init__(self, model: Any, *, stack: StackName | None = None) -> None:
        check_is_model(model)
        Places.__init__(self, uncompiled(model), stack)
        self.given = model
        self.turns = turns(self.model)

    @property
    def masked(self) -> bool:
        """Whether its passes are handed a mask; where not, they are of rows of one length, without padding."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the model wants its tokens: where its first weights are, or where they are brought to when they are needed."""
        there = (weight.device for weight in self.model.parameters() if weight.device.type != "meta")
        found = next(there, None) or runs_on(self.model)
        if found is None:
            raise ModelError(
                "the weights of this model are on the device meta, where they hold no numbers; load the model with them"
            )
        return found

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most of its numbers, packed ones aside."""
        return next(iter(floating_dtypes(self.model)), torch.float32)

    def activations(self, tokens: Tensor, mask: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """One forward pass over ``tokens`` [batch, pos] with its attention mask; what came past each site's hook.

        Vectors of the residual stream are [batch, pos, d_model], ``z`` is [batch, pos, head, d_head], ``pattern`` is
        [batch, head, query, key]. The pass ends as soon as the last site has been seen.

        Raises:
            InputError: token ids that the model does not have.
            ModelError: a hook exists but never fired, or what passes it is not one state for each token.
        """
        self.check_ids(tokens)
        seen: dict[Site, Tensor] = {}

        def keep(site: Site) -> Callable[..., None]:
            def look(activation: Tensor, hook: Any) -> None:
                seen[site] = activation.detach()
                if len(seen) == len(sites):
                    raise _AllSeen

            return look

        handed = self._mask(mask)
        with suppress(_AllSeen), self._running({site: keep(site) for site in sites}):
            self.model(tokens.to(self.device), **handed)
        missing = sorted(set(sites) - set(seen), key=lambda site: site.depth)
        if missing and self.found_elsewhere(missing):
            return self.activations(tokens, mask, sites)
        if missing:
            names = ", ".join(self.hook_of(site) for site in missing)
            raise ModelError(
                f"the hooks {names} exist but never fired in a forward pass, so these sites can't be measured on "
                "this model; attention patterns need attn_implementation='eager' on models loaded from Hugging Face"
            )
        for site in sites:
            if site.name != "pattern" and (shape := seen[site].shape[:2]) != tokens.shape:
                raise ModelError(
                    f"what passes {self.hook_of(site)} is {list(shape)} for tokens {list(tokens.shape)}: it is not one state "
                    "for each token. A model that puts tokens of its own before a text (PEFT's prompts) is measured without "
                    "them alone"
                )
        return {site: seen[site] for site in sites}

    def passing(self, name: str, tokens: Tensor, mask: Tensor) -> Tensor | None:
        """What comes past a hook of that name, where the pass ends; None where there is none that fires."""
        if name not in self.points:
            return None
        self.check_ids(tokens)
        seen: list[Tensor] = []

        def look(activation: Tensor, hook: Any) -> None:
            seen.append(activation.detach())
            raise _AllSeen

        handed = self._mask(mask)
        with suppress(_AllSeen), self._running({name: look}):
            self.model(tokens.to(self.device), **handed)
        return seen[0] if seen else None

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The model's own logits [batch, pos, d_vocab]."""
        self.check_ids(tokens)
        handed = self._mask(mask)
        with self._running():
            out: Tensor = self.model(tokens.to(self.device), return_type="logits", **handed)
        return out

    def state_and_logits(self, tokens: Tensor, site: Site, *, mask: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """A site's activation (None where it has no hook that fires) and the model's own logits."""
        seen: dict[str, Tensor] = {}
        options = {} if mask is None else {"attention_mask": mask.to(self.device, torch.long)}
        hooks = {site: lambda activation, hook: seen.update(x=activation.detach())}
        with self._running(hooks if self.hook_of(site) in self.points else {}):
            out: Tensor = self.model(tokens.to(self.device), return_type="logits", **options)
        if not seen and self.found_elsewhere([site]):
            return self.state_and_logits(tokens, site, mask=mask)
        return seen.get("x"), out

    def differentiable(self, tokens: Tensor, mask: Tensor, site: Site | str) -> tuple[Tensor, Tensor]:
        """The activation of a site, or of a hook by its name, as a leaf, and the model's own logits as they are made from it.

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

        handed = self._mask(mask)
        with self._running({site: replace}), torch.inference_mode(False), torch.enable_grad():
            out: Tensor = self.model(tokens.to(self.device, copy=True), return_type="logits", **handed)
        if not leaves:
            name = site if isinstance(site, str) else self.hook_of(site)
            raise ModelError(f"the hook {name} never fired in a forward pass, so {site} has no gradient here")
        return leaves[-1], out

    @contextmanager
    def edited(self, hooks: Sequence[tuple[str, Callable[..., Tensor | None]]]) -> Iterator[None]:
        """``hooks``, pairs of a hook's name and ``function(activation, hook)``, in place inside, and gone afterwards.

        They fire behind the hooks of the model's user and before those that capture, so that what they return is measured.
        Proofs and lenses stay those of the unedited model. Edits inside edits, of this adapter or of another of the same model,
        fire behind them, and leave them in place.
        """
        known = self.points if hooks else {}
        points = [(known[self.own_hook(name, known)], function) for name, function in hooks]
        with self.turns.held() if points else nullcontext(), hooked(points):
            yield

    def write(self, tokens: Tensor, max_new_tokens: int, *, temperature: float, seed: int, cached: bool) -> Tensor:
        """Prompts of one length [batch, pos] with up to ``max_new_tokens`` more; greedy where ``temperature`` is 0.

        Rows that end early are filled up with an end token. ``cached`` keeps keys and values from token to token;
        without, the model reads the whole text again for every one (see ``written_whole``).
        """
        self.check_ids(tokens)
        if not callable(attribute(self.model, "generate")):
            raise ModelError(f"generation: this {type(self.model).__name__} has no generate of its own, so it writes no text")
        device, masked = self.device, self.masked
        seeded = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

        def logits(tokens: Tensor) -> Tensor:
            handed = {"attention_mask": torch.ones_like(tokens)} if masked else {}
            out: Tensor = self.model(tokens, return_type="logits", **handed)
            return out

        with self._running(), seeded:
            torch.manual_seed(seed)
            how: dict[str, Any] = {"temperature": temperature, "ends": self.ends}
            if cached:
                return written_with_cache(self.model, tokens.to(device), max_new_tokens, **how)
            return written_whole(logits, tokens.to(device), max_new_tokens, **how)

    def cached_activations(self, cache: Any, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The same as ``activations``, out of an ActivationCache; InputError names what the cache lacks."""
        found, points = {}, self.points
        for site in sites:
            name = self.hook_of(source_site(site), points)
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

    def _mask(self, mask: Tensor) -> dict[str, Tensor]:
        """What a pass is handed of the mask [batch, pos] of its tokens."""
        if self.masked:
            return {"attention_mask": mask.to(self.device, torch.long)}
        if not bool(mask.all()):
            raise ModelError(
                "an attention mask of ones changes what this model computes, so TransformerLens does not hand masks on as the "
                "model means them, and padding cannot be hidden from it; give it rows of one length"
            )
        return {}

    @contextmanager
    def proving(self) -> Iterator[None]:
        """For a proof's passes: nobody's hooks fire, and what TransformerLens itself warns of is not the user's concern."""
        self._before()
        with self.turns.held(), silent(self.model), warnings.catch_warnings(action="ignore"):
            yield

    @contextmanager
    def _running(self, hooks: Mapping[Any, Callable[..., Any]] | None = None) -> Iterator[None]:
        """One pass of the model in its user's state, but for evaluation mode, no gradients, and these hooks at these places.

        Places are sites, or names of hooks.
        """
        self._before()
        known = self.points if hooks else {}
        named = ((at if isinstance(at, str) else self.hook_of(at, known), look) for at, look in (hooks or {}).items())
        points = [(known[self.own_hook(name, known)], look) for name, look in named]
        try:
            with self.turns.running(), yours(self.device), as_found(self.model), hooked(points):
                yield
        except (_AllSeen, TLEntropyError):
            raise
        except Exception as error:
            if not out_of_memory(error):
                self._refuse_what_fails_by_itself()
            raise

    def _before(self) -> None:
        """What is to be found out of the model before it is run: here nothing."""

    def _refuse_what_fails_by_itself(self) -> None:
        """Raise ModelError where a short pass fails without anybody's hooks, too; nothing is said of memory that runs out."""
        row = self.short_row().to(self.device)
        try:
            with self.proving(), self.turns.running(), yours(self.device), as_found(self.model):
                self.model(row, attention_mask=torch.ones_like(row))
        except Exception as error:
            if isinstance(error, TLEntropyError) or out_of_memory(error):
                return
            versions = library_versions()
            dtypes = " and ".join(str(dtype).removeprefix("torch.") for dtype in floating_dtypes(self.model))
            why = unusual(attribute(self.model, "unembed"))
            also = "" if why is None else f"; of its unembedding: {why}"
            said = f"{type(error).__name__}: {error}".split("\n")[0]
            left = ", ".join(name for name, module in hooks_of_others(self.model).items() if not hasattr(module, "fwd_hooks"))
            with_hooks = f"with the hooks that somebody has left on {left}" if left else "without anybody's hooks"
            raise ModelError(
                f"TransformerLens's own forward pass fails on this model, {with_hooks} ({said}), so nothing can be "
                f"measured on it with transformer-lens {versions['transformer-lens']}, transformers {versions['transformers']} "
                f"and weights in {dtypes}{also}"
            ) from error
