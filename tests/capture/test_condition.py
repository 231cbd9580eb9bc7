"""What is said of the state that a model's weights are in."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tl_entropy.capture.condition import condition


def test_several_devices_are_said():
    """Fake tensors stand for those of a GPU."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Module())
    assert condition(model) == ()
    with FakeTensorMode():
        model[1].weight = nn.Parameter(torch.empty(3, 2, device="cuda"))
    assert condition(model) == ("on several devices: 2 weights on cpu, 1 weight on cuda:0",)
