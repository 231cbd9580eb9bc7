"""Which kinds of model the installed TransformerLens has."""

from __future__ import annotations

import importlib
from typing import Literal

from tl_entropy.errors import ModelError

Kind = Literal["bridge", "hooked"]

_PLACES: dict[Kind, tuple[str, str]] = {
    "bridge": ("transformer_lens.model_bridge", "TransformerBridge"),
    "hooked": ("transformer_lens", "HookedTransformer"),
}


def available_kinds() -> tuple[Kind, ...]:
    """The kinds of model that the installed TransformerLens has, the preferred one first.

    Raises:
        ModelError: TransformerLens can't be imported; the reason is the one that Python gives.
    """
    found = tuple(kind for kind, (module, name) in _PLACES.items() if _has(module, name))
    if not found:
        raise ModelError("this version of TransformerLens has neither TransformerBridge nor HookedTransformer; use 2.15 to 4.x")
    return found


def _has(module: str, name: str) -> bool:
    """Whether TransformerLens has a class; ModelError where what is there can't be imported."""
    try:
        importlib.import_module("transformer_lens")
        getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a broken library underneath raises
        # What a version of TransformerLens does not have, it says by name; 4.0 raises ImportError for what it removed.
        lacking = getattr(error, "name", None)
        if lacking == name or (lacking == module != "transformer_lens") or isinstance(error, AttributeError):
            return False
        raise ModelError(
            f"TransformerLens cannot be imported: {type(error).__name__}: {error}. "
            f"`python -c 'from {module} import {name}'` shows where; it, or a library that it needs, is missing, broken or of "
            "another version than it expects"
        ) from error
    return True
