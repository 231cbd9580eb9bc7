"""Whether a model gives the logits of the Hugging Face model that it wraps, or was made from.

A TransformerBridge puts modules of its own in the places of the model's, and runs them. Where it takes a projection of several
things apart (one matrix for queries, keys and values), it goes on with copies of the pieces: an adapter on the whole, or a hook
of somebody's, is then left out without a word, and a matrix whose pieces lie in another order is cut wrongly. So the original
modules, which are all still there, are put back into their places for one short pass: that is the Hugging Face model itself,
with its adapters and hooks, and the Bridge's logits are compared with those.

Once TransformerLens has processed the weights (compatibility mode, HookedTransformer), the original modules are gone or hold
some of the new weights: then logits are compared with those that the Hugging Face model gave before, if they were noted
(``Reference``). And where the pieces were trained or edited since they were cut, the whole is out of date, and no comparison
says anything.

Refused: logits that are not those of the Hugging Face model; adapters and hooks on its modules that do not run.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tl_entropy.capture.condition import has_adapter, invoked_adapters
from tl_entropy.capture.hooks import attribute, hooks_of_others, hooks_on_everything
from tl_entropy.capture.proofs.reference import Reference, difference, is_close, reference_of
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError, warn
from tl_entropy.torch_state import yours

AS_IT_IS = "To measure it as it is: tle.Adapter(model, check=False) in the model's place"
_CUTS = ("split_qkv_matrix", "split_gate_up_matrix")
"""What a Bridge's modules call the function that cuts a projection into pieces."""


@dataclass
class _Known:
    """What was found out about a model: when (see ``_state``), what, and what its Hugging Face model once gave."""

    state: object = None
    line: str = ""
    reference: Reference | None = None


_known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def wrapped_logits_proof(runner: Runner, reference: Reference | None = None) -> str | None:
    """Compare a model with the Hugging Face model that it wraps, or that it was made from.

    Args:
        runner: of the model.
        reference: what the Hugging Face model gave before TransformerLens took it in; None puts its modules back for a pass,
            where that is possible. It is kept for comparisons after the weights were processed.

    Returns:
        What was found, for a result's provenance; None where there is nothing to compare with. It is kept, and nothing is run
        again until a ``reference`` is given, weights are processed, or adapters and hooks are others.

    Raises:
        ModelError: the model does not give the logits of the Hugging Face model, or leaves out adapters or hooks on it.

    Warns:
        UserWarning: the logits of processed weights are no longer those that the Hugging Face model gave.
    """
    model, source = runner.model, attribute(runner.model, "original_model")
    if not isinstance(model, nn.Module):
        return None
    known = _known.setdefault(model, _Known())
    if reference is not None:
        known.reference = reference
        known.line = _compare(_own_logits(runner, reference.ids), reference, "TransformerLens computes something else", model)
    if not isinstance(source, nn.Module):
        return known.line or None
    with runner.proving():
        originals = _Originals(source)
        beside = [name for name, module in hooks_of_others(model).items() if module not in originals.hooked.values()]
        beside += hooks_on_everything()
    state = (bool(attribute(model, "_weights_processed")), *originals.adapters, *originals.hooked, *beside)
    if known.state != state:
        hooks = f"hooks of somebody's run on {_some(beside)}"
        known.line = _not_compared(hooks) if beside else _proved(runner, originals, known)
        known.state = state
    return known.line


class _Originals:
    """The modules of the wrapped Hugging Face model itself that have something on them which could be left out."""

    def __init__(self, source: nn.Module) -> None:
        self.source = source
        with unwrapped(source):
            self.invoked = invoked_adapters(source)
            self.adapters = {n: m for n, m in source.named_modules() if has_adapter(m) and not m.disable_adapters}
            self.hooked = hooks_of_others(source)


def _proved(runner: Runner, originals: _Originals, known: _Known) -> str:
    source, watched = originals.source, originals.adapters | originals.hooked
    if attribute(attribute(source, "config"), "is_encoder_decoder"):
        return _not_compared("an encoder-decoder reads two texts")
    if originals.invoked:
        raise ModelError(
            f"the adapter {_some(originals.invoked)} does nothing before a text has the tokens that invoke it (aLoRA): PEFT's "
            "wrapper looks for them, and TransformerLens does not, so it would be left out. It cannot be merged, either. To "
            f"measure the model without it, switch it off (peft_model.base_model.disable_adapter_layers()). {AS_IT_IS}"
        )
    ids = runner.short_row()
    own, ran = _watched(lambda: _own_logits(runner, ids), watched)
    with runner.proving(), runner.turns.running(), yours(runner.device), unwrapped(source):
        reference, ran_in_theirs = _watched(lambda: reference_of(source, ids), watched)
    if reference is None or own.shape != reference.logits.shape:
        return _not_compared(f"{type(source).__name__} gives no logits for tokens alone, or fails on them")
    processed = bool(attribute(runner.model, "_weights_processed"))
    off = not processed and not is_close(own, reference)
    with runner.proving():
        old = off and _pieces_are_out_of_date(source)
    left_out = [name for name in watched if name in ran_in_theirs - ran]
    adapters = [n for n in left_out if n in originals.adapters and (off or not attribute(watched[n], "merged_adapters"))]
    if adapters:
        raise ModelError(
            f"TransformerLens leaves out the adapters on {_some(adapters)}: it runs modules of its own in their places, or "
            "copies of pieces of their base weights where it splits a projection. Merge the adapters first (hf_model = "
            "peft_model.merge_and_unload(), which is then "
            f"booted), or load their folder with tle.load_model, which merges them. {AS_IT_IS}"
        )
    if hooks := [name for name in left_out if name in originals.hooked]:
        raise ModelError(
            f"TransformerLens leaves out the hooks on {_some(hooks)}: it runs modules of its own in their places, or copies of "
            f"their pieces. Set hooks on the TransformerBridge's own points (model.add_hook), or take them off. {AS_IT_IS}"
        )
    if processed:
        return _as_before(runner, known)
    if old:
        return _not_compared("weights were trained or edited since TransformerLens has split them")
    cause = f"TransformerLens's adapter ({type(attribute(runner.model, 'adapter')).__name__}) computes something else"
    line, known.reference = _compare(own, reference, cause, runner.model), reference
    return line


def _compare(own: Tensor, reference: Reference, cause: str, model: Any) -> str:
    if is_close(own, reference):
        return f"logits are those of {reference.of} in transformers (off by {difference(own, reference.logits):.1g} nats)"
    raise ModelError(
        f"this {type(model).__name__} does not give the logits of the Hugging Face model that it was made from, {reference.of} "
        f"(off by {difference(own, reference.logits):.3g} nats on a short text): {cause}. {AS_IT_IS}"
    )


def _as_before(runner: Runner, known: _Known) -> str:
    """Compare a model of processed weights with what the Hugging Face model gave before; it may be trained later."""
    if known.reference is None:
        return _not_compared("its weights were processed before anything was measured (measure once before)")
    own = _own_logits(runner, known.reference.ids)
    error = difference(own, known.reference.logits)
    if not is_close(own, known.reference):
        warn(
            f"this model's logits are no longer those that its Hugging Face model gave (off by {error:.3g} nats on a short "
            "text): TransformerLens's processing of the weights has changed what it computes, or it was trained since. Without "
            "compatibility mode a model is not changed; where attention has sinks, "
            "enable_compatibility_mode(fold_value_biases=False) is right, too"
        )
    return f"logits of the processed weights are off by {error:.1g} nats from what its Hugging Face model gave"


def _own_logits(runner: Runner, ids: Tensor) -> Tensor:
    with runner.proving():  # without a mask, as they are asked of the Hugging Face model
        return runner.state_and_logits(ids, runner.last_site)[1].detach().cpu()


@contextmanager
def unwrapped(source: nn.Module) -> Iterator[None]:
    """The original modules of a Hugging Face model are in their places inside, where a Bridge has put its own."""
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    seen: set[nn.Module] = set()

    def put_back(parent: nn.Module) -> None:
        seen.add(parent)
        for name, child in list(parent._modules.items()):
            original = child
            while original is not None and (inner := original._modules.get("_original_component")) is not None:
                original = inner
            if original is None or child is None:
                continue
            if original is not child:
                swapped.append((parent, name, child))
                parent._modules[name] = original
            if original not in seen:
                put_back(original)

    try:
        put_back(source)
        yield
    finally:
        for parent, name, child in swapped:
            parent._modules[name] = child


def _watched(run: Callable[[], Any], modules: Mapping[str, nn.Module]) -> tuple[Any, set[str]]:
    """What ``run`` gives, and the names of the modules that were called."""
    ran: set[str] = set()

    def saw(name: str) -> Callable[..., None]:
        return lambda *_: ran.add(name)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(saw(name)).remove)
        return run(), ran


def _pieces_are_out_of_date(source: nn.Module) -> bool:
    """Whether a projection that a Bridge has cut would now be cut into other pieces than those that it runs."""
    cutting = [(module, name) for module in source.modules() for name in _CUTS if callable(getattr(module, name, None))]
    held = [[child.weight for child in module.modules() if isinstance(child, nn.Linear)] for module, _ in cutting]
    with unwrapped(source), torch.no_grad():
        for (module, name), weights in zip(cutting, held, strict=True):
            for piece in getattr(module, name)(module._modules["_original_component"]):
                alike = (weight for weight in weights if weight.shape == piece.weight.shape)
                if not any(torch.equal(weight, piece.weight.to(weight)) for weight in alike):
                    return True
    return False


def _not_compared(reason: str) -> str:
    return f"logits not compared with Hugging Face's own: {reason}"


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
