"""Memories that a model is told of a text: where they pass, and the model without them.

A model with a memory shows it at ``hook_memory`` [batch, n], or [batch, chunk, n] of chunks, and what it was made of at
``hook_state``: one vector a window, and none of a position. Without its memory a model gets zeros or a mean there; where the
memory is a cell that attention looks at, the cell is hidden from it as well (``hook_memory_scores``), since a cell of zeros is
still a key.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.interventions import Intervention, fingerprint
from tl_entropy.errors import InputError

PLACES = {"memory": "hook_memory", "state": "hook_state"}
"""Short names of places with one vector a window, and their hooks."""

_SCORES = ".attn.hook_memory_scores"


def without(place: str, value: Tensor | None) -> Intervention:
    """A memory or a state at 0, or at a mean [n] that is no number of its text; a memory's cells out of attention, too.

    Args:
        place: "memory" or "state".
        value: what to put in; None is 0.
    """
    hook_name = PLACES[place]

    def edit(activation: Tensor, hook: Any) -> Tensor:
        if str(hook.name).endswith(_SCORES):
            return torch.full_like(activation, -torch.inf)
        if value is None:
            return torch.zeros_like(activation)
        if value.numel() not in (1, activation.shape[-1]) or value.ndim > 1:
            raise InputError(f"means: to be put into {place}, they must be [{activation.shape[-1]}]; got {list(value.shape)}")
        return value.to(activation).expand_as(activation)

    def meant(name: str) -> bool:
        return name == hook_name or (place == "memory" and value is None and name.endswith(_SCORES))

    to = "0" if value is None else f"means {fingerprint(value)}"

    def check(adapter: Adapter) -> None:
        if hook_name not in adapter.points:
            raise InputError(f"interventions: this model has no {hook_name}, so it has no {place} that could be taken away")

    return Intervention(f"occlude {place} to {to}", ((meant, edit),), check)
