"""A model whose layers lie on two devices, as ``device_map`` puts them: every analysis is that of the model on one.

The second device is the stand-in of ``tests/gpu``, which refuses what an accelerator refuses. It computes no gradients.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import ranks
import torch
from states import differences, model
from tiny_models import make_model

import tl_entropy as tle

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
LEFT = ("created", "device", "seconds", "state")


def spread(alone):
    """Where results of a model on two devices differ from those of one, which are given."""
    sys.path.append(str(Path(__file__).parents[1] / "gpu"))
    import other_device

    there = other_device.register()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    made = make_model("gpt2", dtype=torch.float64)

    def hand_over(module, device):
        def at(value):
            return value.to(device) if isinstance(value, torch.Tensor) else value

        def moved(_, given, named):
            return tuple(map(at, given)), {name: at(value) for name, value in named.items()}

        module.register_forward_pre_hook(moved, with_kwargs=True)

    for block in list(made.blocks)[1:]:
        hand_over(block.to(there), there)
    hand_over(made.ln_final, torch.device("cpu"))
    assert len({parameter.device.type for parameter in made.parameters()}) == 2
    adapter = tle.Adapter(made)
    ranks.model = lambda: adapter
    found = {}
    for name, run in ranks.functions(*ranks._inputs(False)).items():
        if name != "gradient_reliance":
            whole, mine = alone[name], ranks.outcome(run)[0]  # what hands over is warned of as somebody's hook
            found[name] = differences(whole, mine, leave=LEFT) if type(whole) is type(mine) else [f"{whole} and {mine}"]
    return found


@pytest.mark.long
def test_every_analysis_of_a_model_on_two_devices_is_that_of_one(monkeypatch):
    model()
    monkeypatch.setitem(ranks.READ, "batch_size", 8)  # every operation of the stand-in takes its time
    alone = {name: ranks.outcome(run)[0] for name, run in ranks.functions(*ranks._inputs(False)).items()}
    [found] = ranks.saw(partial(spread, alone), 1)
    assert len(found) > 20
    assert {name: lines for name, lines in found.items() if lines} == {}
