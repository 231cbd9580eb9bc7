"""What a pass does to a model, and takes back: hooks of its own, evaluation mode, and no gradients.

Every pass adds its hooks at a level of its own, so that removing them touches nobody else's, and holds the model while it runs:
another thread's pass on the same model waits, and a pass that is begun inside one of its hooks is refused, since its
activations would come past the outer pass's hooks as well.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tl_entropy.errors import ModelError
from tl_entropy.sites import HEAD_SITES, Site

_levels = itertools.count(7_300_000)  # TransformerLens's own contexts count up from 1


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
    """Evaluation mode and no gradients inside; every module's training flag as it was afterwards."""
    roots = [root for root in (model, attribute(model, "original_model")) if isinstance(root, nn.Module)]
    training = [module for root in roots for module in root.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


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


def attribute(model: Any, name: str) -> Any:
    """An attribute, or None: some models raise other errors than AttributeError for parts that they lack."""
    try:
        return getattr(model, name, None)
    except (AttributeError, ImportError, KeyError, ValueError, RuntimeError):
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


_turns: dict[int, Turns] = {}
_making = threading.Lock()


def turns(model: Any) -> Turns:
    """The one ``Turns`` of a model, whatever number of adapters it has."""
    with _making:
        if id(model) not in _turns:
            weakref.finalize(model, _turns.pop, id(model), None)
            _turns[id(model)] = Turns()
        return _turns[id(model)]
