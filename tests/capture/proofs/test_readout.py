"""The proof of a readout where there is nothing to prove: not a number, and what only looks like it."""

from __future__ import annotations

import math

import pytest
import torch

from tl_entropy.capture.proofs.readout import proved_scale
from tl_entropy.errors import ModelError, NonFiniteError

ROWS = torch.tensor([[1.0, 0.0], [0.5, -2.0]])


def changed(values, value):
    values = values.clone()
    values[1, 0] = value
    return values


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize(
    ("rows", "own"),
    [
        (changed(ROWS, math.nan), ROWS), (changed(ROWS, math.inf), ROWS), (changed(ROWS, -math.inf), ROWS),
        (ROWS, changed(ROWS, math.nan)), (ROWS, changed(ROWS, math.inf)), (ROWS * math.nan, ROWS * math.nan),
    ],
)  # fmt: skip
def test_not_a_number_is_no_other_transform(rows, own, cap):
    with pytest.raises(NonFiniteError, match="hold a NaN or an infinity on a short pass; check the weights and the dtype"):
        proved_scale(rows, torch.eye(2), None, own, cap)


def test_a_token_that_the_model_rules_out_is_another_transform():
    with pytest.raises(ModelError, match="some other transform on its output"):
        proved_scale(ROWS, torch.eye(2), None, changed(ROWS, -math.inf), 0.0)
