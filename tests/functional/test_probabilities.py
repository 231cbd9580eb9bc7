"""Logarithms of probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from tl_entropy.functional.probabilities import _power_of_two, entropy, logs


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_logs_are_torchs_with_a_gradient_or_without_and_leave_what_they_are_of(dtype):
    p = torch.tensor([[0.5, 1.0, 1e-4], [0.25, 3.0, 0.0]], dtype=dtype)
    before, expected = p.clone(), p[:, :2].log()
    for given in (p, p[:, [2, 1, 0]].flip(1), p.clone().requires_grad_()):
        torch.testing.assert_close(logs(given).detach()[:, :2], expected)
        assert logs(given)[1, 2].isfinite()
    assert torch.equal(p, before)


def test_the_gradient_of_an_entropy_is_finite_at_zero():
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    found = entropy(p)
    found.backward()
    assert found.item() == pytest.approx(math.log(2))
    assert p.grad.isfinite().all()


def test_a_power_of_two_in_steps_is_float32s_and_0_below_its_range():
    x = torch.cat([torch.linspace(-125.9, 0, 200_001), torch.arange(-126.0, 1), torch.tensor([0.5, -0.5, 1e-9, -1e-9, 20.25])])
    found, exact = _power_of_two(x), x.double().exp2()
    assert ((found - exact).abs() / exact).max() < 1.5e-7
    assert torch.equal(_power_of_two(torch.arange(-126.0, 1)), torch.arange(-126.0, 1).exp2())
    far = torch.tensor([-126.1, -1e4, -3.0e38, -math.inf])
    assert torch.equal(_power_of_two(far), torch.zeros(4))
    assert _power_of_two(torch.tensor(math.nan)).isnan()
