"""Which keys a query may look at: real ones, not later ones, and on layers of local attention those within the window.

A window of w lets a query see itself and the w - 1 tokens before it (Mistral, GPT-Neo, sliding layers of Gemma 2), attention in
chunks (Llama 4) the tokens of its own chunk, counted from the first real token. Where an index chooses keys (GLM MoE DSA),
those seen are those that have any weight. Where a model's window stands differs: in the configuration of a HookedTransformer
(``use_local_attn``, ``attn_types``), and in Hugging Face's behind a TransformerBridge (``layer_types`` with ``sliding_window``
or ``attention_chunk_size``, ``attention_layers`` with ``window_size``). Whether queries see later tokens, too, is not read but
seen, in the pattern of a short pass.

Refused: layers of another kind.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_entropy.errors import ModelError

_FULL = ("full_attention", "global", "attention", "hybrid")  # in a hybrid a mixer runs beside the attention
_LOCAL = ("sliding_attention", "local")
_CHUNKED, _CHOSEN = "chunked_attention", "indexed_attention"


class Sight(NamedTuple):
    """What a query of a layer sees of the tokens before it.

    Attributes:
        window: how many tokens back, itself included; None for all.
        chunk: length of the chunks, of which it sees its own; None without.
        chosen: whether only keys of an index's choice.
    """

    window: int | None = None
    chunk: int | None = None
    chosen: bool = False


def attention_sight(model: Any, layer: int, part: str | None = None) -> Sight:
    """What a query of a layer sees, as the model's configuration has it, or that of its ``part`` ("decoder", "encoder").

    Raises:
        ModelError: the layer's attention is of a kind that is not known, or its window is nowhere to be found.

    >>> from types import SimpleNamespace
    >>> cfg = SimpleNamespace(use_local_attn=True, attn_types=["global", "local"], window_size=256)
    >>> [attention_sight(SimpleNamespace(cfg=cfg), layer).window for layer in (0, 1)]
    [None, 256]
    """
    config, kinds, window = _configured(model, part)
    if kinds is None:
        return Sight(window)
    kind = kinds[layer]
    if kind in _FULL:
        return Sight()
    if kind == _CHOSEN:
        return Sight(chosen=True)
    width = {**dict.fromkeys(_LOCAL, window), _CHUNKED: getattr(config, "attention_chunk_size", None)}
    if kind not in width:
        raise ModelError(
            f"layer {layer} has attention of the kind {kind!r}, of which it is not known what a query sees; leave it out with "
            "layers=..."
        )
    if width[kind] is None:
        raise ModelError(
            f"layer {layer} has local attention, but the model's configuration does not say how wide its window is"
        )
    return Sight(chunk=int(width[kind])) if kind == _CHUNKED else Sight(window=int(width[kind]))


def chooses_keys(model: Any, part: str | None = None) -> bool:
    """Whether, in any layer, an index chooses the keys that a query sees (GLM MoE DSA, DeepSeek V4)."""
    config, kinds, _ = _configured(model, part)
    return _CHOSEN in (kinds or ()) or bool(getattr(config, "index_topk", None))


def _configured(model: Any, part: str | None) -> tuple[Any, Any, Any]:
    """The configuration of a model's (or part's) attention, the kinds of its layers, and the width of its windows."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    config = getattr(config, "text_config", None) or config  # the language part of models that also see
    config = getattr(config, part or "", None) or config
    if config is None:
        kinds = getattr(model.cfg, "attn_types", None) if getattr(model.cfg, "use_local_attn", False) else None
        return model.cfg, kinds, getattr(model.cfg, "window_size", None) if kinds else None
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    window = getattr(config, "window_size" if hasattr(config, "attention_layers") else "sliding_window", None)
    return config, kinds, window if getattr(config, "use_sliding_window", True) else None


def scores_hook(layer: int) -> str:
    """TransformerLens's name of the hook that attention scores pass before the softmax, [batch, head, query, key].

    >>> scores_hook(2)
    'blocks.2.attn.hook_attn_scores'
    """
    return f"blocks.{layer}.attn.hook_attn_scores"


def visible_keys(sight: Sight, mask: Tensor, pattern: Tensor, *, ahead: bool) -> Tensor:
    """Whether a query sees a key: [batch, query, key] bool.

    Args:
        sight: what queries of the layer see.
        mask: [batch, pos], 0 at padding.
        pattern: the layer's attention weights [batch, head, query, key]; read only where keys are chosen by an index.
        ahead: whether queries see later tokens.
    """
    seen = in_sight(sight, mask, ahead=ahead)
    return seen & (pattern > 0).any(1).to(seen.device) if sight.chosen else seen


def in_sight(sight: Sight, mask: Tensor, *, ahead: bool) -> Tensor:
    """Whether a query could see a key, whatever an index chooses: [batch, query, key] bool.

    >>> in_sight(Sight(), torch.tensor([[0, 1, 1]]), ahead=False)[0].int().tolist()  # the first is padding
    [[0, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    mask = mask.bool()
    place = torch.arange(mask.shape[1], device=mask.device)
    back = place[:, None] - place
    seen = torch.ones_like(back, dtype=torch.bool) if ahead else back >= 0
    if sight.window is not None:
        seen = seen & (back.abs() < sight.window)
    seen = seen & mask[:, None]
    if sight.chunk is not None:
        left = (mask.cumsum(1) == 0).sum(1, keepdim=True)
        chunk = (place - left).div(sight.chunk, rounding_mode="floor")
        seen = seen & (chunk[:, :, None] == chunk[:, None])
    return seen
