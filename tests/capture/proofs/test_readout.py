"""The proof of a readout: what rounding explains, what it does not, and where there is nothing to prove."""

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


# --- what rounding explains

WIDTH, VOCAB = 64, 700


def readout_of(dtype, *, mask=0.0, factor=1.0, scale=1.0, cap=0.0, delta=0.0):
    """Rows, matrix and bias in a dtype, and a model's logits of them, whose own matrix is off by ``delta``."""
    draw = torch.Generator().manual_seed(0)
    rows, matrix = torch.randn(12, WIDTH, generator=draw), 0.4 * factor * torch.randn(WIDTH, VOCAB, generator=draw)
    rows, matrix, bias = rows.to(dtype), matrix.to(dtype), torch.randn(VOCAB, generator=draw).to(dtype)
    bias[::3] = mask
    change = delta * torch.randn(WIDTH, VOCAB, generator=draw)
    own = ((rows @ (matrix + change.to(dtype)) + bias) * scale).to(dtype)
    return rows, matrix, bias, cap * torch.tanh(own / cap) if cap else own


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 0.0625])
@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize(
    ("mask", "factor"), [(0.0, 1.0), (-math.inf, 1.0), (-1e9, 1.0), (-3e4, 1.0), (0.0, 1e3), (-math.inf, 1e3)]
)
def test_rounding_is_no_other_transform_however_large_the_logits(dtype, scale, cap, mask, factor):
    if dtype == torch.float16 and mask == -1e9:
        mask = -6e4
    rows, matrix, bias, own = readout_of(dtype, mask=mask, factor=factor, scale=scale, cap=cap)
    found, error = proved_scale(rows, matrix, bias, own, cap)
    if not (cap and factor > 1):  # where all logits are at the cap, any scale gives them
        assert found == scale
    assert error <= 8 * max(cap, 40 * scale * factor) * torch.finfo(dtype).eps


def test_logits_of_ten_thousands_are_proved_in_their_own_rounding():
    rows, matrix, bias, own = readout_of(torch.float32, factor=1e4)
    assert proved_scale(rows, matrix, bias, own, 0.0)[0] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_adapter_that_a_maximum_of_nats_lets_through_is_refused(dtype):
    rows, matrix, bias, own = readout_of(dtype, delta=0.005)
    plain = readout_of(dtype)[3]
    moved = (own.double().log_softmax(-1) - plain.double().log_softmax(-1)).abs()
    assert moved.max() < 0.3, "less than the largest rounding that bfloat16 may have"
    with pytest.raises(ModelError, match=r"in units of what rounding to b?float16 does .* some other transform"):
        proved_scale(rows, matrix, bias, own, 0.0)


@pytest.mark.parametrize(("changed_columns", "by"), [(slice(0, 1), 9.0), (slice(None), 2.0)])
def test_one_logit_far_off_and_all_logits_a_little_off_are_both_refused(changed_columns, by):
    rows, matrix, bias, own = readout_of(torch.bfloat16)
    signs = torch.ones(VOCAB).index_fill_(0, torch.arange(0, VOCAB, 2), -1.0)
    step = by * torch.finfo(torch.bfloat16).eps / 2 * own.float().abs().clamp(min=3.0) * signs
    own = own.float()
    own[:, changed_columns] += step[:, changed_columns]
    with pytest.raises(ModelError, match="some other transform on its output"):
        proved_scale(rows, matrix, bias, own, 0.0)


def test_a_constant_for_each_row_changes_no_probability():
    rows, matrix, bias, own = readout_of(torch.float32, mask=-1e9)
    assert proved_scale(rows, matrix, bias, own + torch.arange(12.0)[:, None], 0.0)[0] == 1.0


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize("bias", [0.0, -math.inf, -1e9])
def test_a_mask_on_one_side_alone_is_another_transform(bias, cap):
    rows, matrix, _, own = readout_of(torch.float32, cap=cap)
    b = torch.zeros(VOCAB)
    own = rows @ matrix
    own = cap * torch.tanh(own / cap) if cap else own
    b[5] = bias
    own[:, 5] = 1.0 if bias else -math.inf
    with pytest.raises(ModelError, match="some other transform on its output"):
        proved_scale(rows, matrix, b, own, cap)


def test_an_unembedding_of_zeros_is_proved():
    rows = torch.randn(3, 8)
    assert proved_scale(rows, torch.zeros(8, 20), None, torch.zeros(3, 20), 0.0) == (1.0, 0.0)
