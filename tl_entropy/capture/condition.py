"""What a model's weights are where they are no plain numbers: packed, with an adapter on them, or elsewhere.

Everything is seen by its structure, and no library is imported: a layer with an adapter has the flag ``disable_adapters`` and
the list ``active_adapters`` (PEFT), a quantised weight is a tensor of a library's own class, or integers, and an offloaded one
is on ``meta``, with a hook of accelerate's that knows where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tl_entropy.capture.digests import combined, digest
from tl_entropy.capture.hooks import attribute, modules_of
from tl_entropy.errors import counted

_PACKED = (torch.uint8, torch.int8, torch.int32)
_WIDE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_OF_TORCH = (Tensor, nn.Parameter)


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is numbers that can be multiplied by: no packed integers, no library's own tensor, not elsewhere.

    >>> is_plain(torch.ones(2)), is_plain(torch.ones(2, dtype=torch.int8)), is_plain(torch.ones(2, device="meta"))
    (True, False, False)
    """
    return (
        type(weight) in _OF_TORCH
        and weight.is_floating_point()
        and weight.dtype.itemsize >= 2
        and weight.layout is torch.strided
        and weight.device.type != "meta"
    )


def floating_dtypes(model: Any) -> dict[torch.dtype, int]:
    """How many numbers a model's weights hold of each dtype, most first; packed ones do not count."""
    found = Counter[torch.dtype]()
    for module in modules_of(model):
        packed = quantised(module) if module._parameters else {}
        for name, weight in module._parameters.items():
            if weight is not None and name not in packed and weight.is_floating_point():
                found[weight.dtype] += weight.numel()
    return dict(found.most_common())


def quantised(module: nn.Module) -> dict[str, str]:
    """Of each quantised weight of a module's own: its bits, and the library and class of the weight or of its module.

    A quantised weight is a tensor of another class than PyTorch's, or is packed into integers or into less than two bytes a
    number, or into something that is no tensor at all.

    >>> quantised(nn.Linear(2, 2))
    {}
    """
    found = {}
    passing = module._non_persistent_buffers_set
    for name, weight in (*module._parameters.items(), *module._buffers.items()):
        if weight is None or (type(weight) in _OF_TORCH and weight.dtype in _WIDE):
            continue
        if name in passing and name in module._buffers:
            continue
        small = weight.itemsize < 2 if weight.is_floating_point() else weight.dtype in _PACKED
        if library(weight) != "torch":
            found[name] = f"{_bits(module, weight)}by {library(weight)} ({type(weight).__name__})"
        elif weight.ndim > 1 and small:
            found[name] = f"{_bits(module, weight)}by {library(module)} ({type(module).__name__})"
    if "_packed_params" in module._modules:  # of PyTorch's own quantised layers
        found["_packed_params"] = f"by torch ({type(module).__name__})"
    return found


def parametrised(module: nn.Module) -> dict[str, str]:
    """Of each weight of a module's own that is made of another by ``torch.nn.utils.parametrize``: by what.

    >>> parametrised(nn.Linear(2, 2)), parametrised(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    ({}, {'weight': '_WeightNorm'})
    """
    made = module._modules.get("parametrizations")
    if not isinstance(made, nn.ModuleDict) or not nn.utils.parametrize.is_parametrized(module):
        return {}
    return {name: " and ".join(type(step).__name__ for step in steps.children()) for name, steps in made.items()}


def unusual(part: Any, name: str = "lm_head") -> str | None:
    """Why a part of a model may do something else than its matrix says, and what to do about it; None where nothing is seen.

    Args:
        part: the part.
        name: what Hugging Face's models call its module, mostly.
    """
    for module in part.modules() if isinstance(part, nn.Module) else ():
        for kind in quantised(module).values():
            return (
                f"it is quantised ({kind}), and may round what it reads as well. Leave it out when you quantise "
                f"(BitsAndBytesConfig(llm_int8_skip_modules=[{name!r}]); other libraries have a like option)"
            )
        if has_adapter(module):
            return "it has an adapter on it, which may not be linear: merge it first (merge_and_unload())"
    return None


def condition(model: Any) -> tuple[str, ...]:
    """What is to be said of a model's weights, one line a fact; nothing of plain numbers of one dtype in one place."""
    modules = modules_of(model)
    packed = Counter(kind for module in modules for kind in quantised(module).values())
    lines = [f"quantised: {counted(count, 'weight')}, {kind}" for kind, count in sorted(packed.items())]
    made = Counter(steps for module in modules for steps in parametrised(module).values())
    lines += [f"parametrised: {counted(count, 'weight')}, by {steps}" for steps, count in sorted(made.items())]
    if len(dtypes := floating_dtypes(model)) > 1:
        shares = (f"{numbers:,} numbers in {str(dtype).removeprefix('torch.')}" for dtype, numbers in dtypes.items())
        lines.append(f"weights of several dtypes: {', '.join(shares)}")
    weights = {id(w): str(w.device) for module in modules for w in module._parameters.values() if w is not None}
    places = Counter(weights.values())
    if away := places.pop("meta", 0):
        lines.append(f"offloaded: {counted(away, 'weight')}, loaded where needed")
    if len(places) > 1:
        parts = (f"{counted(count, 'weight')} on {place}" for place, count in sorted(places.items()))
        lines.append(f"on several devices: {', '.join(parts)}")
    if any("_orig_mod" in module._modules or module._compiled_call_impl is not None for module in modules):
        lines.append("compiled by torch.compile, and measured without")
    return (*lines, *adapters_of(model))


def adapters_of(model: Any) -> tuple[str, ...]:
    """A model's adapters, each with a hash of its weights, whether it is on, and on how many modules."""
    weights: dict[tuple[str, str], list[bytes]] = {}
    modules = Counter[tuple[str, str]]()
    for module in modules_of(model):
        layer: Any = module
        for name in layer.active_adapters if has_adapter(module) else ():
            own = [weight for path, weight in module.named_parameters() if name in path.split(".") and "base_layer" not in path]
            if own:  # it may be on other modules alone
                key = (name, _adapters_state(layer, name))
                modules[key] += 1
                weights.setdefault(key, []).extend(map(digest, own))
    return tuple(
        f"adapter {name!r} ({combined(weights[name, state])}), {state}, on {count} modules"
        for (name, state), count in sorted(modules.items())
    )


def invoked_adapters(source: nn.Module) -> list[str]:
    """Adapters of a Hugging Face model that are on, and do nothing before a text has tokens that invoke them (aLoRA).

    PEFT's wrapper looks for these tokens; the model inside it does not.
    """
    configured = attribute(source, "peft_config")
    if not isinstance(configured, dict):
        return []
    layers: list[Any] = [module for module in modules_of(source) if has_adapter(module)]
    on = {name for layer in layers if not layer.disable_adapters for name in layer.active_adapters}
    return sorted(name for name in on if attribute(configured.get(name), "alora_invocation_tokens"))


def _adapters_state(layer: Any, name: str) -> str:
    if layer.disable_adapters:
        return "switched off"
    scales, merged = attribute(layer, "scaling"), name in (attribute(layer, "merged_adapters") or ())
    scaled = f", scaled by {scales[name]:g}" if isinstance(scales, dict) and name in scales else ""
    return f"{'merged' if merged else 'not merged'}{scaled}"


def elsewhere(module: nn.Module, name: str) -> Tensor | None:
    """What accelerate holds of a module's weight that is on ``meta``; None where it holds nothing."""
    for hook in accelerate_hooks(module):
        held = getattr(hook, "weights_map", None)
        if held is not None and name in held:
            value: Tensor = held[name]
            return value
    return None


def has_adapter(module: nn.Module) -> bool:
    """Whether a module is a layer with an adapter of PEFT's on it, by its structure."""
    return all(isinstance(getattr(type(module), name, None), property) for name in ("disable_adapters", "active_adapters"))


def library(thing: Any) -> str:
    """The library that an object's class is of.

    >>> library(nn.Linear(1, 1))
    'torch'
    """
    return type(thing).__module__.partition(".")[0]


def runs_on(model: Any) -> torch.device | None:
    """Where accelerate brings the weights of a model that has them elsewhere; None where it brings none."""
    for module in modules_of(model):
        for hook in accelerate_hooks(module):
            place = getattr(hook, "execution_device", None)
            if place is not None and torch.device(place).type != "meta":
                return torch.device(place)
    return None


def accelerate_hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks of accelerate on a module, those in sequences of hooks included."""
    hooks = [getattr(module, "_hf_hook", None)]
    while hooks:
        hook = hooks.pop()
        hooks += getattr(hook, "hooks", ())
        yield hook


def leaves(weight: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor of a library's own class is made of; any other is its own."""
    if not hasattr(weight, "__tensor_flatten__"):
        yield weight
        return
    for name in weight.__tensor_flatten__()[0]:
        yield from leaves(getattr(weight, name))


def _bits(module: nn.Module, weight: Tensor) -> str:
    """How many bits a number of a packed weight takes, in words; nothing where the number of numbers is not known."""
    rows, columns = (getattr(module, name, None) for name in ("out_features", "in_features"))
    numbers = weight.numel() if weight.is_floating_point() else 0
    if isinstance(rows, int) and isinstance(columns, int):
        numbers = rows * columns
    held = max(part.numel() * part.itemsize for part in leaves(weight))
    return f"{8 * held / numbers:.2g} bits " if numbers else ""
