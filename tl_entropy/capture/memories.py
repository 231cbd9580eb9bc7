"""Memories that a model is told of a text: where they pass, and the model without them.

A model with a memory shows it at ``hook_memory`` [batch, n], or [batch, chunk, n] of chunks, and what it was made of at
``hook_state``: one vector a window, and none of a position. Without its memory a model gets zeros or a mean there; where the
memory is a cell that attention looks at, the cell is hidden from it as well (``hook_memory_scores``), since a cell of zeros is
still a key. Places in its encoder are called as the decoder's, with ``encoder.`` in front.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.interventions import Intervention, fingerprint
from tl_entropy.capture.places import ENCODER, OF_WINDOWS
from tl_entropy.errors import InputError
from tl_entropy.sites import Site

_SCORES = ".attn.hook_memory_scores"


def as_hook(place: str) -> str:
    """The hook of a memory, a state or a place in an encoder that is called by its short name; other names as they are.

    >>> as_hook("memory"), as_hook("encoder.resid_post.0"), as_hook("resid_post.0")
    ('hook_memory', 'encoder.blocks.0.hook_resid_post', 'resid_post.0')
    """
    if place.startswith(ENCODER) and "hook_" not in place:
        return f"{ENCODER}{hook_name(Site.parse(place.removeprefix(ENCODER)))}"
    return OF_WINDOWS.get(place, place)


def without(place: str, value: Tensor | None) -> Intervention:
    """A memory or a state at 0, or at a mean [n] that is no number of its text; a memory's cells out of attention, too.

    Args:
        place: "memory" or "state".
        value: what to put in; None is 0.
    """
    of_window = OF_WINDOWS[place]

    def edit(activation: Tensor, hook: Any) -> Tensor:
        if str(hook.name).endswith(_SCORES):
            return torch.full_like(activation, -torch.inf)
        if value is None:
            return torch.zeros_like(activation)
        if value.numel() not in (1, activation.shape[-1]) or value.ndim > 1:
            raise InputError(f"means: to be put into {place}, they must be [{activation.shape[-1]}]; got {list(value.shape)}")
        return value.to(activation).expand_as(activation)

    def meant(name: str) -> bool:
        return name == of_window or (place == "memory" and value is None and name.endswith(_SCORES))

    to = "0" if value is None else f"means {fingerprint(value)}"

    def check(adapter: Adapter) -> None:
        if of_window not in adapter.points:
            raise InputError(f"interventions: this model has no {of_window}, so it has no {place} that could be taken away")

    return Intervention(f"occlude {place} to {to}", ((meant, edit),), check)
