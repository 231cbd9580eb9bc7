"""Logarithms of probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from tl_entropy.functional.probabilities import entropy, logs


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
