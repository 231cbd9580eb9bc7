"""What a pass does to a model, and takes back: hooks of its own, evaluation mode, and no gradients.

Every pass adds its hooks at a level of its own, so that removing them touches nobody else's, and holds the model while it runs:
another thread's pass on the same model waits, and a pass that is begun inside one of its hooks is refused, since its
activations would come past the outer pass's hooks as well.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from tl_entropy.capture.rotation import unstretched
from tl_entropy.errors import ModelError
from tl_entropy.sites import HEAD_SITES, UNEMBED, Site

_FIRST_LEVEL = 7_300_000  # TransformerLens's own contexts count up from 1
_levels = itertools.count(_FIRST_LEVEL)
_OWN = (
    "tl_entropy.", "transformer_lens.model_bridge.", "transformer_lens.hook_points.", "transformer_lens.HookedRootModule.",
    "transformer_lens.utilities.", "transformers.", "accelerate.", "peft.", "bitsandbytes.", "optimum.", "torchao.", "hqq.",
    "torch.",
)  # fmt: skip
"""Where the functions are written whose hooks belong to a model, or are this package's own."""


def hook_name(site: Site) -> str:
    """TransformerLens's name of a site's hook.

    >>> hook_name(Site("embed", -1)), hook_name(Site("result", 2)), hook_name(Site("post", 2))
    ('blocks.0.hook_resid_pre', 'blocks.2.attn.hook_result', 'blocks.2.mlp.hook_post')
    """
    if site.name == "embed":
        return "blocks.0.hook_resid_pre"
    if site.name == UNEMBED:
        return "unembed.hook_in"
    part = "attn." if site.name in HEAD_SITES else "mlp." if site.name == "post" else ""
    return f"blocks.{site.layer}.{part}hook_{site.name}"


def source_site(site: Site) -> Site:
    """The site to capture for a site: ``z`` for ``result``, whose own hook stays silent unless a flag of the model is set."""
    return Site("z", site.layer) if site.name == "result" else site


@contextmanager
def hooked(points: Sequence[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Pairs of a hook point and a ``function(activation, hook)``: in place inside, behind those already there, then gone."""
    level = next(_levels)
    try:
        for point, function in points:
            point.add_hook(function, level=level)
        yield
    finally:
        for point, _ in points:
            point.remove_hooks("fwd", including_permanent=False, level=level)


@contextmanager
def as_found(model: Any) -> Iterator[None]:
    """Evaluation mode, no gradients, and nothing compiled inside; every module's training flag as it was afterwards.

    Nor is anything left inside of what an earlier text has stretched (``capture/rotation.py``). What ``torch.compile`` has made
    of a model or its parts may have been made before hooks were set, and need not call them.
    """
    modules = modules_of(model)
    training = [module for module in modules if module.training]
    dynamo = "torch._dynamo" in sys.modules  # without it nothing was compiled; to import it takes a second
    try:
        for module in training:
            module.training = False
        eagerly = torch.compiler.set_stance("force_eager") if dynamo else nullcontext()
        with torch.no_grad(), eagerly, unstretched(modules):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def silent(root: nn.Module) -> Iterator[None]:
    """No forward hook on any hook point below ``root`` (those of the model's user, and of others) fires inside."""
    points = [module for module in _below(root) if module._forward_hooks and "fwd_hooks" in vars(module)]
    kept = [point._forward_hooks for point in points]
    try:
        for point in points:
            point._forward_hooks = OrderedDict()
        yield
    finally:
        for point, hooks in zip(points, kept, strict=True):
            point._forward_hooks = hooks


def uncompiled(model: Any) -> Any:
    """The model for which one that ``torch.compile`` has returned stands; any other as it is."""
    inner = getattr(model, "_modules", {}).get("_orig_mod")
    return model if inner is None else inner


def modules_of(model: Any) -> list[nn.Module]:
    """Every module of a model, once; a Bridge does not hold the Hugging Face model as its child."""
    return _below(*(root for root in (attribute(model, "original_model"), model) if isinstance(root, nn.Module)))


def _below(*roots: nn.Module) -> list[nn.Module]:
    """The last root and every module below it, then those of the one before, each once; in the order of ``modules()``."""
    seen: set[nn.Module | None] = {None}  # a part may be None
    found: list[nn.Module] = []
    waiting: list[Any] = list(roots)
    while waiting:  # modules() makes a generator in a generator for every level, several times a pass
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            found.append(module)
            if parts := module._modules:
                waiting.extend(reversed(parts.values()))
    return found


def hooks_of_others(model: Any, *, back: bool = False) -> dict[str, nn.Module]:
    """Modules with hooks that neither this package has put there nor what the model is made of, by their names.

    A ``forward`` that somebody has put in the place of a module's own does what a hook does, and counts as one; that of the
    whole model shows in its logits.

    Args:
        model: the model.
        back: whether hooks of the way back, of gradients, count beside those of the way forward.
    """
    modules = modules_of(model)
    replaced = {module for module in modules if module is not model and forward_is_replaced(module)}
    held = [module for module in modules if module in replaced or _foreign(module, back=back)]
    if not held:
        return {}
    # TransformerLens's hook points have several names; the least nested ones are those that people use.
    names: dict[int, str] = {}
    points = attribute(model, "hook_dict") or {}
    for name in sorted(points, key=lambda name: (name.count("."), -len(name))):
        names.setdefault(id(points[name]), name)
    for root in (model, attribute(model, "original_model")):
        for name, module in root.named_modules() if isinstance(root, nn.Module) else ():
            names.setdefault(id(module), name or type(module).__name__)
    return {names[id(module)] + " (its forward replaced)" * (module in replaced): module for module in held}


def hooks_on_everything(*, back: bool = False) -> list[str]:
    """The functions of PyTorch by which others have set hooks that run on every module of this process; ``back`` as above."""
    everywhere = nn.modules.module
    held = {
        "forward_hook": everywhere._global_forward_hooks,
        "forward_pre_hook": everywhere._global_forward_pre_hooks,
    }
    if back:
        held |= {
            "full_backward_hook": everywhere._global_backward_hooks,
            "full_backward_pre_hook": everywhere._global_backward_pre_hooks,
        }
    return [
        f"every module (register_module_{name})"
        for name, hooks in held.items()
        if any(_is_of_others(function) for function in hooks.values())
    ]


def is_left(model: Any, module: nn.Module) -> bool:
    """Whether a module has hooks of others that stay: any but those of a ``with model.hooks(...)`` that is still open."""
    inside = range(1, int(attribute(model, "context_level") or 0) + 1)
    left = (
        handle is None or handle.is_permanent or handle.context_level not in inside for handle in _foreign(module, back=True)
    )
    return forward_is_replaced(module) or any(left)


def forward_is_replaced(module: nn.Module) -> bool:
    """Whether others have put a function in the place of a module's own ``forward``."""
    found = vars(module).get("forward")  # a class's own is not there, or was put back
    return found is not None and getattr(found, "__func__", None) is not type(module).forward and _is_of_others(found)


def _foreign(module: nn.Module, *, back: bool) -> list[Any]:
    """Of each hook of others on a module: TransformerLens's handle for it, or None on modules that are no hook points."""
    kinds = [module._forward_hooks, module._forward_pre_hooks]
    kinds += [module._backward_hooks, module._backward_pre_hooks] if back else []
    if not any(kinds):
        return []
    handles = {handle.hook.id: handle for kind in ("fwd_hooks", "bwd_hooks") for handle in getattr(module, kind, ())}
    others = []
    for key, function in itertools.chain(*(hooks.items() for hooks in kinds)):
        handle = handles.get(key)
        ours = handle is not None and (handle.context_level or 0) >= _FIRST_LEVEL
        if not ours and _is_of_others(function):
            others.append(handle)
    return others


def _is_of_others(function: Any) -> bool:
    return not _written_by(function).startswith(_OWN)


def _written_by(function: Any) -> str:
    """The module in which a hook's function was written: of a hook point's, the one that was handed to it."""
    while True:
        held = getattr(getattr(function, "__code__", None), "co_freevars", ())
        handed = next((name for name in ("hook", "full_hook") if name in held), None)  # on the way back one is in another
        if isinstance(function, partial):
            function = function.func
        elif handed is not None and "add_hook" in function.__qualname__:
            function = function.__closure__[held.index(handed)].cell_contents
        else:
            written = getattr(function, "__module__", None) or type(function).__module__
            return f"{written}."


def attribute(model: Any, name: str) -> Any:
    """An attribute, or None: some models raise other errors than AttributeError for parts that they lack."""
    try:
        return getattr(model, name, None)
    except (AttributeError, ImportError, KeyError, ValueError, RuntimeError, TypeError, AssertionError):
        return None


class Turns:
    """Whose turn it is to run a model: passes of several threads wait for each other, and none begins inside another."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other thread's pass runs inside; this thread's do."""
        with self._lock:
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """One forward pass.

        Raises:
            ModelError: this thread is inside one of the model's passes already, in a hook.
        """
        with self._lock:
            if self._running:
                raise ModelError(
                    "this model is being measured already, and this call is made inside one of its hooks: the inner pass would "
                    "be taken for the outer one's. Measure before or after, or use a second copy of the model"
                )
            self._running = True
            try:
                yield
            finally:
                self._running = False


_turns: weakref.WeakKeyDictionary[Any, Turns] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def turns(model: Any) -> Turns:
    """The one ``Turns`` of a model, whatever number of adapters it has, and of all models that share a module with it.

    Such are two Bridges around one Hugging Face model: hooks of each fire in the passes of the other.
    """
    with _making:
        if model not in _turns:
            parts = [model, *modules_of(model)]
            own = next((_turns[part] for part in parts if part in _turns), Turns())
            _turns.update(dict.fromkeys(parts, own))
        return _turns[model]
