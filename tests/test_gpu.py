"""The script that compares an accelerator with the CPU: a model that it moves is the same model there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
from tiny_models import make_model

import tl_entropy as tle

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
TIED = "transformer.wte._original_component.weight"


def gradients(device: torch.device) -> dict[str, torch.Tensor]:
    """Of the loss of a tiny model that the script moved."""
    import run

    model = run.moved(make_model("gpt2"), device)
    model(torch.arange(1, 9, device=device)[None], return_type="loss").backward()
    return {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}


def registered() -> torch.device:
    sys.path.append(str(Path(__file__).parent / "gpu"))
    import other_device

    return other_device.register()


def other_gradients() -> list[list[str]]:
    """Names of gradients that are others on the stand-in, of a model, and of one made after that was moved."""
    there, whole = registered(), gradients(torch.device("cpu"))
    assert TIED in whole
    found = []
    for _ in range(2):
        mine = gradients(there)
        off = [name for name in whole.keys() & mine.keys() if (mine[name] - whole[name]).abs().max() > 1e-4]
        found.append(sorted([*off, *(whole.keys() ^ mine.keys())]))
    return found


def test_a_weight_in_two_places_stays_one_on_the_stand_in():
    # In a process of its own: torch's engine of gradients knows only devices that were there before its first pass back.
    command = [sys.executable, "-c", "import json, test_gpu; print(json.dumps(test_gpu.other_gradients()))"]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    ran = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == [[], []]


def neurons_there() -> list[float]:
    """Differences of matrices and biases of neurons on the stand-in: of a model there, and with a bias left behind."""
    there = registered()
    import run

    model = make_model("gpt2", compatible=True)
    whole = tle.Adapter(model).neurons.weights(0).clone()
    model, found = run.moved(model, there), []
    for _ in range(2):
        weights = tle.Adapter(model).neurons.weights(0)
        assert weights.device == there
        found.append((weights.cpu() - whole).abs().max().item())
        vars(model.blocks[0].mlp)["b_out"] = torch.nn.Parameter(model.blocks[0].mlp.b_out.detach().cpu())
    return found


def test_neurons_of_a_model_on_another_device_are_read_there():
    [found] = ranks.saw(neurons_there, 1)
    assert found == pytest.approx([0, 0], abs=1e-5)


def products() -> list[list[float]]:
    """A shape that torch makes in place, and what it copies home from a view."""
    there = registered()
    squeezed, out = torch.ones(4, device=there) @ torch.ones(4, 5, device=there), torch.empty(1, 3, 5, device=there)
    torch.matmul(torch.ones(1, 3, 4, device=there), torch.ones(4, 5, device=there), out=out)
    return [list(squeezed.shape), out.cpu().unique().tolist()]


def test_products_on_the_stand_in_have_their_shapes_and_numbers():
    assert ranks.saw(products, 1) == [[[5], [4.0]]]
