"""Rotary positions that are stretched where a text is longer than those that the model was first trained on.

Beyond so many tokens every row of a pass is turned by other angles than a row alone would be: those of the longest row
(``longrope``: Phi 3 and 4 of long contexts; ``dynamic``). And the second kind keeps them for later passes, too, until a short
text comes. So rows beyond that length share a pass with rows of their own length alone, text of that length is written without
a cache of keys, and every pass begins with the angles that the model was made with. Text that grows beyond it is no longer what
the model read when it began to write.

It is read off the modules that turn, as Hugging Face makes them: by their ``rope_type``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_OWN, _FIRST = "original_inv_freq", "original_max_seq_len"
"""How the name ends of the frequencies that a module was made with, some for every kind of layer; and for which length."""

_TRAINED = "original_max_position_embeddings"


def stretched_beyond(modules: Sequence[nn.Module]) -> float:
    """The longest row, in tokens, that is turned by the same angles whatever shares its pass; infinite where all are.

    >>> stretched_beyond([nn.Linear(2, 2)])
    inf
    """
    return min((border for border, _ in _borders(modules)), default=math.inf)


def turned_alike(modules: Sequence[nn.Module], shorter: int, longer: int) -> bool:
    """Whether rows of these lengths, in tokens, are turned by the same angles, each alone."""
    return all(longer <= border or shorter == longer or (once and shorter > border) for border, once in _borders(modules))


def _borders(modules: Sequence[nn.Module]) -> Iterator[tuple[float, bool]]:
    """From which length on rows are turned by other angles, and whether these are the same for all beyond it."""
    for module in modules:
        for layer, kind in _kinds(module):
            if "dynamic" in kind:
                yield vars(module)[_FIRST], False
            elif kind == "longrope":
                yield _configured(vars(module).get("config"), layer) or vars(module)[_FIRST], True


@contextmanager
def unstretched(modules: Sequence[nn.Module]) -> Iterator[None]:
    """No module keeps angles from an earlier text inside; afterwards each has what it had."""
    kept = [(m, dict(m._buffers), dict(vars(m))) for m in modules if any("dynamic" in kind for _, kind in _kinds(m))]
    try:
        for module, buffers, values in kept:
            for name in [name for name in (*buffers, *values) if name.endswith(_OWN)]:
                prefix, own = name.removesuffix(_OWN), getattr(module, name)
                now = buffers[f"{prefix}inv_freq"]
                module._buffers[f"{prefix}inv_freq"] = own.to(now.device) if isinstance(now, Tensor) else own
                setattr(module, f"{prefix}max_seq_len_cached", values[_FIRST])
        yield
    finally:
        for module, buffers, values in kept:
            module._buffers.update(buffers)
            for name in vars(module).keys() - values.keys():
                delattr(module, name)
            vars(module).update(values)


def _kinds(module: nn.Module) -> list[tuple[str | None, str]]:
    """Of a module that turns: the kind of its angles, for all layers (None), or for each kind of layer."""
    found = vars(module).get("rope_type")
    if found is None or _FIRST not in vars(module):
        return []
    return list(found.items()) if isinstance(found, dict) else [(None, str(found))]


def _configured(config: Any, layer: str | None) -> float | None:
    """From which length on ``longrope`` stretches, as a configuration has it; older ones have it beside the angles' own."""
    angles = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    own = angles if layer is None else angles.get(layer, {})
    return own.get(_TRAINED) or getattr(config, _TRAINED, None)
