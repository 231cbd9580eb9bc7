"""What may stand in a model's place: whatever is built like a TransformerLens model, of whatever class.

``cfg``, ``hook_dict`` and a stack of blocks will do, which covers HookedTransformer (2.x, 3.x) and TransformerBridge
(3.x, 4.x).

Refused: everything else, with the way from it to a model where there is one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tl_entropy.capture.hooks import attribute
from tl_entropy.errors import InputTypeError

_NEEDED = ("cfg", "hook_dict")


def check_is_model(model: Any) -> None:
    """Raise InputTypeError for an object that lacks a part that every TransformerLens model has."""
    if missing := [name for name in _NEEDED if attribute(model, name) is None]:
        raise InputTypeError(
            f"model must be a TransformerLens model (HookedTransformer or TransformerBridge); {type(model).__name__} "
            f"lacks {', '.join(missing)}{_way_to_load(model)}"
        )


def _way_to_load(model: Any) -> str:
    """What to do with what is not a TransformerLens model, but names one, or could become one."""
    if isinstance(model, str) and any(map(str.isspace, model)) and not os.path.exists(model):  # a text
        return "; the model comes first, and then the inputs"
    inner = attribute(model, "module")
    if inner is not None and all(attribute(inner, name) is not None for name in _NEEDED):  # DataParallel and its like
        return "; it has one inside: pass its .module"
    if isinstance(model, str | Path):
        return f"; load it first: tle.load_model({str(model)!r})"
    if type(model).__name__ == "ActivationCache":
        return "; pass its model first, and then the cache with its tokens: (cache, tokens)"
    if attribute(model, "config") is not None and callable(attribute(model, "get_output_embeddings")):
        return (
            "; a model of Hugging Face's becomes one by tle.load_model(name or folder), or in memory by "
            "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)"
        )
    return ""
