"""The one place that knows TransformerLens.

A model is taken by its structure, never by its class: whatever has ``cfg``, ``blocks``, ``ln_final``, ``unembed``, ``W_U``
and ``hook_dict`` will do, which covers HookedTransformer (2.x, 3.x) and TransformerBridge (3.x, 4.x). The adapter

- maps sites to hook names and runs the model for their activations, stopping the pass once the last of them has come;
- reads the model's unembedding, and proves on a short pass that ``ln_final``, ``W_U``, ``b_U``, a soft cap and a measured
  scale give the model's own log-probabilities; a model where they don't is refused;
- leaves the model as it was: training flags, gradients, and the hooks of others.

Hooks are added at a level of their own on the hook points asked for, so that removing them touches nobody else's.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tl_entropy.errors import InputError, InputTypeError, ModelError
from tl_entropy.results.base import Provenance
from tl_entropy.sites import HEAD_SITES, Site, expand_sites

_NEEDED = ("cfg", "blocks", "ln_final", "unembed", "W_U", "hook_dict")
_LEVEL = 7_300_000  # of our hooks: TransformerLens's own contexts count up from 1
# Largest difference allowed between rebuilt log-probabilities and the model's own. A readout that misses a scale, a cap or a
# projection is off by far more; reduced precision rounds the model's own logits to about 2^-8 of their size.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}


class _AllSeen(Exception):
    """Raised inside the last hook needed, to end a forward pass whose rest nobody reads."""


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


class Adapter:
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

    # --- what the corpus needs -------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        """Longest input, in tokens."""
        return int(self.model.cfg.n_ctx)

    @property
    def d_vocab(self) -> int:
        """Number of tokens that the model predicts over."""
        return int(self.model.W_U.shape[-1])

    @property
    def has_tokenizer(self) -> bool:
        """Whether texts can be given."""
        return getattr(self.model, "tokenizer", None) is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return list(self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @property
    def begin(self) -> int | None:
        """Id of the token that begins a text, or None."""
        return getattr(getattr(self.model, "tokenizer", None), "bos_token_id", None)

    @property
    def end(self) -> int | None:
        """Id of the token that ends a text, or None."""
        return getattr(getattr(self.model, "tokenizer", None), "eos_token_id", None)

    @property
    def prepends_begin(self) -> bool:
        """Whether TransformerLens begins texts with that token for this model, unless told otherwise."""
        return bool(getattr(self.model.cfg, "default_prepend_bos", True)) and self.begin is not None

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokenizer's special tokens (begin, end, padding, ...)."""
        return frozenset(getattr(getattr(self.model, "tokenizer", None), "all_special_ids", ()))

    @property
    def pad_id(self) -> int:
        """An id that fills padding cells; they are masked, so that any legal id will do."""
        pad = getattr(getattr(self.model, "tokenizer", None), "pad_token_id", None)
        return pad if pad is not None and pad < self.d_vocab else 0

    def strings(self, ids: Sequence[int]) -> dict[int, str]:
        """The text of each token id; the id in angle brackets where there is no tokenizer."""
        if not self.has_tokenizer:
            return {i: f"<{i}>" for i in ids}
        return {i: self.model.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids}

    # --- running the model -----------------------------------------------------------------------------------------------

    def sites(self, names: Any, layers: Sequence[int] | None = None) -> tuple[Site, ...]:
        """Short names to sites of this model; InputError for a site that it does not have."""
        sites = expand_sites(names, self.n_layers, layers)
        for site in sites:
            if hook_name(site) not in self.model.hook_dict:
                reason = " (its attention and MLP run in parallel)" if site.name == "resid_mid" else ""
                raise InputError(
                    f"sites: this model has no {site.name} at layer {site.layer}{reason}: no hook {hook_name(site)}"
                )
        return sites

    def activations(self, tokens: Tensor, mask: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """One forward pass over ``tokens`` [batch, pos] with its attention mask; what came past each site.

        Vectors of the residual stream are [batch, pos, d_model], ``z`` is [batch, pos, head, d_head], ``pattern`` is
        [batch, head, query, key]. The pass ends as soon as the last site has been seen.

        Raises:
            InputError: token ids that the model does not have.
            ModelError: a hook exists but never fired.
        """
        self._check_ids(tokens)
        seen: dict[Site, Tensor] = {}

        def keep(site: Site) -> Callable[..., None]:
            def look(activation: Tensor, hook: Any) -> None:
                seen[site] = activation.detach()
                if len(seen) == len(sites):
                    raise _AllSeen

            return look

        device = self.model.W_U.device
        with self._as_found(), self._hooked({site: keep(site) for site in sites}):
            try:
                self.model(tokens.to(device), attention_mask=mask.to(device, torch.long))
            except _AllSeen:
                return seen
        silent = [hook_name(site) for site in sites if site not in seen]
        raise ModelError(
            f"the hooks {', '.join(silent)} exist but never fired in a forward pass, so these sites can't be measured on this "
            "model; attention patterns need attn_implementation='eager' on models loaded from Hugging Face"
        )

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The model's own logits [batch, pos, d_vocab]."""
        self._check_ids(tokens)
        device = self.model.W_U.device
        with self._as_found():
            out: Tensor = self.model(tokens.to(device), attention_mask=mask.to(device, torch.long), return_type="logits")
        return out

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
            name = hook_name(site)
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
        ids = torch.linspace(0, self.d_vocab - 1, min(12, self.context, self.d_vocab)).long()[None]
        ids = ids[:, [i not in self.special_ids for i in ids[0].tolist()]]
        last = Site("resid_post", self.n_layers - 1)
        seen: dict[str, Tensor] = {}
        with _silent(model), self._as_found():
            with self._hooked({last: lambda activation, hook: seen.update(x=activation.detach())}):
                own = model(ids.to(unembedding.device), return_type="logits").flatten(0, -2).to("cpu", torch.float64)
            if "x" not in seen:
                raise ModelError(f"the hook {hook_name(last)} never fired, so the residual stream can't be read")
            if seen["x"].shape[-1] != unembedding.shape[0] or own.shape[-1] != unembedding.shape[1]:
                raise ModelError(
                    f"the residual stream {tuple(seen['x'].shape)} does not fit the unembedding {tuple(unembedding.shape)}: "
                    "the model projects between the two, and its logits can't be reproduced"
                )
            rows = model.ln_final(seen["x"]).flatten(0, -2)
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

        @torch.no_grad()
        def norm(x: Tensor) -> Tensor:
            with _silent(model.ln_final):
                normed: Tensor = model.ln_final(x[None].to(unembedding.dtype))[0]
            return normed

        return Readout(norm, unembedding, bias, scale, cap if cap > 0 else None, error)

    # --- where a number comes from ---------------------------------------------------------------------------------------

    def provenance(self, **parts: Any) -> Provenance:
        """The model's part of a result's provenance, with the other parts given."""
        model, cfg = self.model, self.model.cfg
        mode = "compatibility mode" if getattr(model, "compatibility_mode", False) else str(cfg.normalization_type)
        return Provenance(
            model=str(getattr(cfg, "model_name", "unnamed")),
            weights=self.fingerprint,
            processing=f"{type(model).__name__}, {mode}",
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

    def _check_ids(self, tokens: Tensor) -> None:
        known = int(getattr(self.model.cfg, "d_vocab", self.d_vocab))
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= known):
            raise InputError(f"tokens must lie between 0 and {known - 1}; got {int(tokens.min())} to {int(tokens.max())}")

    @contextmanager
    def _hooked(self, hooks: Mapping[Site, Callable[..., None]]) -> Iterator[None]:
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

    >>> hook_name(Site("embed", -1)), hook_name(Site("z", 2))
    ('blocks.0.hook_resid_pre', 'blocks.2.attn.hook_z')
    """
    if site.name == "embed":
        return "blocks.0.hook_resid_pre"
    return f"blocks.{site.layer}.{'attn.' if site.name in HEAD_SITES else ''}hook_{site.name}"


def _attribute(model: Any, name: str) -> Any:
    """An attribute, or None: some models raise other errors than AttributeError for parts that they lack."""
    try:
        return getattr(model, name, None)
    except (AttributeError, ImportError, KeyError, ValueError, RuntimeError):
        return None


@contextmanager
def _silent(root: nn.Module) -> Iterator[None]:
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
