"""What is lost of soft assignments in two bytes a number, against the bound that the module states."""

from __future__ import annotations

import math

import pytest
import torch

from tl_entropy.functional.information.coding import TOP, coded, decoded
from tl_entropy.functional.probabilities import entropy

N, BINS = 4000, 60


def drawn(scale=1.5, rows=N, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return torch.softmax(scale * torch.randn(rows, BINS, generator=draw, dtype=torch.float64), -1).to(dtype)


def places(rows=N):
    return torch.arange(rows) // 50, torch.arange(rows) % 50


def test_codes_are_rounded_up_or_down_at_random_without_bias():
    p = drawn()
    codes = coded(p, *places())
    eta = codes - (p / p.amax(-1, keepdim=True)) ** (1 / 3) * TOP
    assert codes.dtype == torch.int32
    assert (int(codes.min()) >= 0, int(codes.max())) == (True, TOP)
    assert float(eta.abs().max()) < 1
    assert abs(float(eta.mean())) < 4 * math.sqrt(1 / 6 / eta.numel())
    moved = torch.corrcoef(eta[:, :20].T) - torch.eye(20)  # bins are rounded independently of each other
    assert float(moved.abs().max()) < 5 / math.sqrt(N)
    assert abs(float((eta[1:, 0] * eta[:-1, 0]).mean())) < 5 / math.sqrt(N)  # and so are rows


def test_rows_sum_to_one_exactly_with_their_own_entropy_last():
    found = decoded(coded(drawn(dtype=torch.float32), *places()))
    assert float((found[:, :-1].sum(-1) - 1).abs().max()) < 1e-15
    assert torch.equal(found[:, -1], entropy(found[:, :-1]))


@pytest.mark.parametrize("scale", [0.3, 1.5, 6.0])
@pytest.mark.parametrize("equal", [False, True], ids=["different states", "one state N times"])
def test_values_are_within_the_stated_bound(scale, equal):
    p = drawn(scale)
    p = p[:1].expand(N, -1) if equal else p
    mean, found = p.mean(0), decoded(coded(p, *places()))
    # The two halves of every value: Σ p · log p̄, of which H(Z) is made, and mean H(p_i); g is the derivative by a row.
    for g, value, truth in (
        (-mean.log().expand(N, -1), entropy(found[:, :-1].mean(0)), entropy(mean)),
        (-p.log(), found[:, -1].mean(), entropy(p).mean()),
    ):
        centred = g - (p * g).sum(-1, keepdim=True)
        w = (p.amax(-1) ** (2 / 3) * (p ** (4 / 3) * centred**2).sum(-1)).mean().item()
        assert w <= (p.amax(-1) * (p * centred**2).sum(-1)).mean().item()
        assert abs(value - truth) < 6 * math.sqrt(w / N) / TOP + 1e-8


def test_a_state_without_direction_is_a_row_of_zeros():
    p = drawn(rows=3)
    p[1] = torch.nan
    codes = coded(p, *places(3))
    assert codes.sum(-1).ne(0).tolist() == [True, False, True]
    assert torch.equal(decoded(codes)[1], torch.zeros(BINS + 1, dtype=torch.float64))


def test_rounding_hangs_on_document_and_position_and_on_nothing_else():
    p, (document, position) = drawn(rows=100, dtype=torch.float32)[:, None], places(100)
    whole = coded(p, document, position)
    parts = torch.cat([coded(p[at], document[at], position[at]) for at in torch.arange(100).split(7)])
    assert torch.equal(whole, parts)
    other = coded(p, document, position, salt=1)
    assert float((whole != other).double().mean()) > 0.2
    assert torch.equal(whole, coded(p, document + 2**32, position))  # numbers beyond 32 bits are no error
