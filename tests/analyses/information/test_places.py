"""Lengths of heads' outputs in d_model, from z alone."""

from __future__ import annotations

import pytest
import torch

from tl_entropy.analyses.information.places import _lengths_of


def weights_of(condition, d_head=16, d=80):
    """W [head, d_head, d] of two heads whose directions shrink to 1 / condition, and rows z [head, row, d_head] along each."""
    drawn = torch.randn(2, d_head, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    return left * condition ** -torch.linspace(0, 1, d_head, dtype=torch.float64) @ right, left.mT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("condition", [1, 30, 2000, 1e6])
def test_lengths_are_those_of_the_output_in_every_direction(condition, dtype):
    weights, z = weights_of(float(condition))
    expected = (z @ weights).norm(dim=-1)
    within = torch.finfo(dtype).eps / 50 if dtype == torch.float32 else 100 * condition * torch.finfo(dtype).eps
    torch.testing.assert_close((z @ _lengths_of(weights, dtype)).norm(dim=-1), expected, rtol=within, atol=0)


def test_what_a_head_does_not_write_has_no_length():
    weights, z = weights_of(3.0)
    weights[1] = 0
    found = (z @ _lengths_of(weights, torch.float32)).norm(dim=-1)
    torch.testing.assert_close(found, (z @ weights).norm(dim=-1))
    assert not found[1].any()
