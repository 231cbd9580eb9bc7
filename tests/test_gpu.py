"""The script that compares an accelerator with the CPU: a model that it moves is the same model there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import ranks
import torch
from tiny_models import make_model

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
TIED = "transformer.wte._original_component.weight"


def gradients(device: torch.device) -> dict[str, torch.Tensor]:
    """Of the loss of a tiny model that the script moved."""
    import run

    model = run.moved(make_model("gpt2"), device)
    model(torch.arange(1, 9, device=device)[None], return_type="loss").backward()
    return {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}


def other_gradients() -> list[list[str]]:
    """Names of gradients that are others on the stand-in, of a model, and of one made after that was moved."""
    sys.path.append(str(Path(__file__).parent / "gpu"))
    import other_device

    there, whole = other_device.register(), gradients(torch.device("cpu"))
    assert TIED in whole
    found = []
    for _ in range(2):
        mine = gradients(there)
        off = [name for name in whole.keys() & mine.keys() if (mine[name] - whole[name]).abs().max() > 1e-4]
        found.append(sorted([*off, *(whole.keys() ^ mine.keys())]))
    return found


def test_a_weight_in_two_places_stays_one_on_the_stand_in():
    assert ranks.saw(other_gradients, 1) == [[[], []]]
