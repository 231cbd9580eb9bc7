"""Edits at positions of documents that nobody told of a batch."""

from __future__ import annotations

import pytest
import torch

from tl_entropy.capture.interventions import intervention_names
from tl_entropy.capture.positions import AtPositions
from tl_entropy.errors import InputError, InputTypeError


def doubled(activation, hook, cells):
    return torch.where(cells[..., None], activation * 2, activation)


def test_an_edit_at_positions_is_named_after_its_function_and_refuses_to_run_without_documents():
    at = AtPositions([4, -1], doubled)
    assert intervention_names(("hook_embed", at)) == ("hook_embed: doubled at 4, -1",)
    with pytest.raises(InputError, match="positions 4, -1 are of documents, and nothing says here which column"):
        at(torch.zeros(1, 5, 2), None)
    with pytest.raises(InputTypeError, match=r"edit must be a function.* got int"):
        AtPositions(0, 3)
