"""Where a number comes from: a fingerprint of a model's weights, how they were processed, and what else is to be said of them.

The fingerprint is a hash over values of the weights, whatever they are called. Of weights that are no plain numbers (quantised
ones) it takes the tensors inside them, of weights that are elsewhere (offloaded ones) what accelerate holds of them, and of
adapters which are on. A weight that can't be read in any of these ways counts by its shape and dtype alone, and ``Fingerprint``
says how many did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tl_entropy.capture.condition import adapters_of, condition, elsewhere, is_plain, leaves, library, parametrised, quantised
from tl_entropy.capture.digests import combined, digest
from tl_entropy.capture.hooks import as_found, attribute, modules_of
from tl_entropy.errors import counted

_OF_ANY_MODULE = vars(nn.Module())


class Fingerprint(NamedTuple):
    """A hash of a model's weights, and how many of these could not be read."""

    hash: str
    unread: int


def fingerprint(model: Any, digest: Callable[[Tensor], bytes] = digest) -> Fingerprint:
    """A hash over the shapes and up to 1024 evenly spaced values of every weight, and over the state of adapters.

    Buffers that are saved with a model are weights, too: the biases of routers, the masks of pruning. Of a parametrised weight
    (``torch.nn.utils.parametrize``), what it is made into counts beside what it is made of.

    Args:
        model: a HookedTransformer or TransformerBridge.
        digest: the hash of one weight; ``whole_digest`` takes every value.
    """
    parts, unread = {digest(weight) for weight in model.parameters() if is_plain(weight)}, 0
    for module in modules_of(model):
        parts.update(digest(value) for value in _saved_buffers(module) if is_plain(value) and bool(value.any()))
        if made := parametrised(module):
            with as_found(module):
                parts.update(digest(getattr(module, name)) for name in made)
        for name, weight in _odd_weights(module):
            try:
                parts.update([digest(part) for part in _read(module, name, weight)])
            except Exception:  # what a library's own tensors raise is their own; the weight counts by what is known of it
                parts.add(hashlib.sha256(f"{tuple(weight.shape)} {weight.dtype} {type(weight).__name__}".encode()).digest())
                unread += 1
    parts.update(hashlib.sha256(text.encode()).digest() for text in adapters_of(model))
    return Fingerprint(combined(parts), unread)


def processing(model: Any, *, value_biases: bool) -> str:
    """The model's class, what TransformerLens has done to its weights, and whether z holds value biases."""
    return f"{type(model).__name__}, {_mode(model)}{', value biases in z' if value_biases else ''}"


def note(model: Any, *lines: str) -> None:
    """Keep with a model what is to be said of where it comes from; copies of the model have it, too."""
    model.tl_entropy_notes = (*(attribute(model, "tl_entropy_notes") or ()), *lines)


def state(model: Any, weights: Fingerprint, *more: str | None) -> tuple[str, ...]:
    """What else there is to say of a model, and more lines, one a fact; see ``Provenance.state``."""
    unread = f"{counted(weights.unread, 'weight')} could not be read: in the fingerprint by shape alone"
    lines = (*(attribute(model, "tl_entropy_notes") or ()), *condition(model), unread if weights.unread else None, *more)
    return tuple(line for line in lines if line)


def norm_is_folded(model: Any) -> bool:
    """Whether TransformerLens has folded norms into the weights behind them, or may have in part."""
    first, *more = _mode(model).split(", ")
    return first in ("LNPre", "RMSPre", "compatibility mode") or "processed in part or not at all" in more


def _mode(model: Any) -> str:
    """What was done to the weights, by what they are: ``enable_compatibility_mode`` sets its flags even where it fails."""
    mode = str(model.cfg.normalization_type)
    if not attribute(model, "compatibility_mode"):
        return mode
    if attribute(model, "_weights_processed") is False:
        return f"{mode}, compatibility mode without processing"
    final, unembedding = attribute(attribute(model, "ln_final"), "weight"), attribute(model, "W_U")
    capped = (attribute(model.cfg, "output_logits_soft_cap") or 0) > 0  # then the unembedding is not centred
    folded = not _is_readable(final) or bool(((final == 1) | (final == 0)).all())
    centred = capped or not _is_readable(unembedding) or _is_centred(unembedding)
    return "compatibility mode" if folded and centred else f"{mode}, processed in part or not at all"


def _is_readable(weight: Any) -> bool:
    return isinstance(weight, Tensor) and is_plain(weight)


def _is_centred(unembedding: Tensor) -> bool:
    """Whether rows have mean 0, but for the rounding of their values; some of them are asked."""
    rows = unembedding[:: max(1, len(unembedding) // 16)].double()
    allowed = max(1e-6, 4 * torch.finfo(unembedding.dtype).eps / rows.shape[-1] ** 0.5)
    return bool((rows.mean(-1).abs() <= allowed * rows.square().mean(-1).sqrt()).all())


def _saved_buffers(module: nn.Module) -> Iterator[Tensor]:
    """A module's buffers that are saved with it; those of TransformerLens's own are constants, but for the masks of pruning.

    A "bias" is none of them: it is the causal mask of an attention, or what TransformerLens has folded into an unembedding.
    """
    constant = library(module) == "transformer_lens"
    for name, value in module._buffers.items():
        if value is None or name in module._non_persistent_buffers_set or name == "bias":
            continue
        if not constant or f"{name.removesuffix('_mask')}_orig" in module._parameters:
            yield value


def _odd_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own weights that are no plain numbers; where they are packed, the scales that it keeps beside them."""
    packed = quantised(module)
    for name, weight in module._parameters.items():
        if weight is not None and not is_plain(weight):
            yield name, weight
    if packed:
        yield from _inside({name: value for name, value in module._buffers.items() if value is not None})
        yield from _inside({name: value for name, value in vars(module).items() if name not in _OF_ANY_MODULE})
    packing = getattr(module, "_weight_bias", None)  # of PyTorch's own quantised layers
    if callable(packing):
        yield from _inside({"weight_bias": packing()})


def _read(module: nn.Module, name: str, weight: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a weight is made of."""
    held = elsewhere(module, name) if weight.device.type == "meta" else weight
    if held is None:
        raise ValueError(f"{name} holds no numbers")
    yield from leaves(held)


def _inside(held: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among named values, or in tuples and mappings among them."""
    for name, value in held.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _inside(value)
        elif isinstance(value, tuple | list):
            yield from ((name, part) for part in value if isinstance(part, Tensor))
