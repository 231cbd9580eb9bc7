"""Which keys a query may look at: real ones, not later ones, and on layers of local attention those within the window.

A window of w lets a query see itself and the w - 1 tokens before it (Mistral, GPT-Neo, the sliding layers of Gemma 2). Where a
model's window stands differs: in the configuration of a HookedTransformer (``use_local_attn``, ``attn_types``), and in Hugging
Face's behind a TransformerBridge (``sliding_window`` with ``layer_types``, ``window_size`` with ``attention_layers``).

Refused: layers of another kind, such as attention in chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import ModelError

_LOCAL = {"full_attention": False, "global": False, "sliding_attention": True, "local": True}


def attention_window(model: Any, layer: int) -> int | None:
    """How many tokens back a query of a layer sees, itself included; None for all.

    Raises:
        ModelError: the layer's attention is neither full nor within a sliding window, or its window is nowhere to be found.

    >>> from types import SimpleNamespace
    >>> cfg = SimpleNamespace(use_local_attn=True, attn_types=["global", "local"], window_size=256)
    >>> [attention_window(SimpleNamespace(cfg=cfg), layer) for layer in (0, 1)]
    [None, 256]
    """
    config = getattr(getattr(model, "original_model", None), "config", None)
    config = getattr(config, "text_config", None) or config  # the language part of models that also see
    if config is None:
        config, kinds = (
            model.cfg,
            getattr(model.cfg, "attn_types", None) if getattr(model.cfg, "use_local_attn", False) else None,
        )
        window = getattr(config, "window_size", None) if kinds else None
    else:
        kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
        window = getattr(config, "window_size" if hasattr(config, "attention_layers") else "sliding_window", None)
        if not getattr(config, "use_sliding_window", True):
            window = None
    if kinds is None:
        return window
    if kinds[layer] not in _LOCAL:
        raise ModelError(
            f"layer {layer} has attention of the kind {kinds[layer]!r}, of which it is not known what a query sees; leave it "
            "out with layers=..."
        )
    if not _LOCAL[kinds[layer]]:
        return None
    if window is None:
        raise ModelError(
            f"layer {layer} has local attention, but the model's configuration does not say how wide its window is"
        )
    return int(window)


def scores_hook(layer: int) -> str:
    """TransformerLens's name of the hook that attention scores pass before the softmax, [batch, head, query, key].

    >>> scores_hook(2)
    'blocks.2.attn.hook_attn_scores'
    """
    return f"blocks.{layer}.attn.hook_attn_scores"


def visible_keys(model: Any, layer: int, mask: Tensor) -> Tensor:
    """Whether a query sees a key: [batch, query, key] bool, from the attention mask [batch, pos].

    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(cfg=SimpleNamespace(use_local_attn=False))
    >>> visible_keys(model, 0, torch.tensor([[0, 1, 1]]))[0].int().tolist()  # the first is padding
    [[0, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    place = torch.arange(mask.shape[1], device=mask.device)
    back = place[:, None] - place
    seen = torch.ones_like(back, dtype=torch.bool)
    if getattr(model.cfg, "attention_dir", "causal") == "causal":
        seen = back >= 0
    window = attention_window(model, layer)
    if window is not None:
        seen = seen & (back < window)
    return seen & mask.bool()[:, None]
