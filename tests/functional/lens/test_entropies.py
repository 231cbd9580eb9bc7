"""Entropies from logits against scipy, mpmath, closed forms and the inequalities between them."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens import entropies
from tl_entropy.functional.lens.entropies import renyi_entropy, shannon_entropy, surprisal, varentropy

ORDERS = (0, 1e-40, 0.01, 0.3, 0.5, 0.75, 0.999, 1, 1.000002, 1.3, 1.5, 2, 2.5, 3.7, 5, 7, 50, 1e5, 1e40, math.inf)

any_logits = arrays(np.float64, st.integers(1, 30), elements=st.floats(-200, 200))


def exact_renyi(logits, order, digits=60):
    """The definition, with more digits than any cancellation takes away."""
    with mpmath.workdps(digits):
        weights = [mpmath.exp(mpmath.mpf(float(value))) for value in logits if value > -math.inf]
        total = mpmath.fsum(weights)
        p = [weight / total for weight in weights]
        if order == math.inf:
            return float(-mpmath.log(max(p)))
        if order == 1:
            return float(-mpmath.fsum(q * mpmath.log(q) for q in p))
        order = mpmath.mpf(order)
        return float(mpmath.log(mpmath.fsum(q**order for q in p)) / (1 - order))


def test_uniform_over_a_vocabulary_has_one_entropy():
    found = renyi_entropy(torch.zeros(50257), (0, 0.5, 1, 5, 50, math.inf))
    torch.testing.assert_close(found, torch.full((6,), math.log(50257), dtype=torch.float64), rtol=0, atol=1e-12)
    assert found[0].item() == pytest.approx(10.82490, abs=1e-5)


def test_shannon_agrees_with_scipy():
    logits = torch.randn(20, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    expected = scipy.stats.entropy(scipy.special.softmax(logits.numpy(), -1), axis=-1)
    np.testing.assert_allclose(shannon_entropy(logits), expected, rtol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spread", [1e-6, 0.1, 2.0, 30.0])
def test_every_order_agrees_with_the_definition(order, spread):
    logits = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * spread
    assert renyi_entropy(logits, order).item() == pytest.approx(exact_renyi(logits, order), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("order", [0.01, 0.5, 0.9, 1, 1.01, 2, 5, 50, math.inf])
def test_peaked_distributions_keep_their_digits(order):
    logits = [0.0, -8.0, -9.0, -750.0]
    found = renyi_entropy(torch.tensor(logits, dtype=torch.float64), order).item()
    assert found == pytest.approx(exact_renyi(logits, order, 400), rel=1e-9)


def test_orders_next_to_one():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shannon, varentropies = shannon_entropy(logits), varentropy(logits)
    assert abs(renyi_entropy(logits, 1.000002) - shannon) < 1e-5
    for distance in (1e-15, -1e-15, 1e-9, -1e-6, 1e-4):
        tangent = shannon - distance / 2 * varentropies
        assert abs(renyi_entropy(logits, 1 + distance) - tangent) < 2 * distance**2 + 1e-12


def test_impossible_outcomes_count_for_nothing():
    found = renyi_entropy(torch.tensor([0.0, 0.0, -math.inf]), ORDERS)
    torch.testing.assert_close(found, torch.full_like(found, math.log(2)), rtol=0, atol=1e-12)
    assert renyi_entropy(torch.tensor([-math.inf, 3.0]), ORDERS).eq(0).all()


@given(logits=any_logits, orders=st.lists(st.floats(0, 100) | st.floats(0.99, 1.01), min_size=2, max_size=6))
def test_never_rises_with_the_order_and_stays_in_range(logits, orders):
    found = renyi_entropy(torch.from_numpy(logits), (0, *sorted(orders), math.inf))
    assert found.diff().max() <= 1e-9
    assert found.min() >= 0
    assert found.max() <= math.log(len(logits)) + 1e-12


@given(logits=any_logits, shift=st.floats(-1e4, 1e4))
def test_a_constant_changes_nothing(logits, shift):
    base, shifted = torch.from_numpy(logits), torch.from_numpy(logits + shift)
    torch.testing.assert_close(renyi_entropy(base, ORDERS[2:]), renyi_entropy(shifted, ORDERS[2:]), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(varentropy(base), varentropy(shifted), rtol=1e-6, atol=1e-6)


@given(logits=any_logits)
def test_independent_choices_add(logits):
    base = torch.from_numpy(logits)
    pair = (base[:, None] + base[None, :5]).flatten()
    both = renyi_entropy(base, ORDERS[2:]) + renyi_entropy(base[:5], ORDERS[2:])
    torch.testing.assert_close(renyi_entropy(pair, ORDERS[2:]), both, rtol=1e-9, atol=1e-9)


def test_log_probabilities_are_logits():
    logits = torch.randn(7, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(renyi_entropy(logits.log_softmax(-1), ORDERS), renyi_entropy(logits, ORDERS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_read_exactly_and_worked_in_float64(dtype):
    logits = (torch.randn(3, 1000, generator=torch.Generator().manual_seed(4)) * 5).to(dtype)
    found = renyi_entropy(logits, ORDERS)
    assert found.dtype == torch.float64
    assert torch.equal(found, renyi_entropy(logits.double(), ORDERS))


def test_surprisal_and_varentropy_agree_with_the_definition():
    logits = torch.randn(4, 5, 40, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3
    targets = torch.randint(0, 40, (4, 5), generator=torch.Generator().manual_seed(6))
    log_p = logits.log_softmax(-1)
    torch.testing.assert_close(surprisal(logits, targets), -log_p.gather(-1, targets[..., None])[..., 0])
    mean = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(varentropy(logits), (log_p.exp() * (log_p + mean[..., None]) ** 2).sum(-1))
    torch.testing.assert_close(surprisal(logits.movedim(-1, 1), targets, dim=1), surprisal(logits, targets))
    assert surprisal(torch.tensor([0.0, -math.inf]), torch.tensor(1)) == math.inf
    assert varentropy(torch.tensor([0.0, 0.0, -math.inf])) == 0


def test_axes_and_chunks(monkeypatch):
    logits = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(7))
    expected = renyi_entropy(logits.double(), (0.7, 2))
    assert expected.shape == (3, 4, 5, 2)
    assert renyi_entropy(logits, 2).shape == (3, 4, 5)
    assert renyi_entropy(logits, [2]).shape == (3, 4, 5, 1)
    monkeypatch.setattr(entropies, "_CHUNK", 13)
    torch.testing.assert_close(renyi_entropy(logits, (0.7, 2)), expected)
    for dim in range(4):
        moved = logits.movedim(-1, dim)
        torch.testing.assert_close(renyi_entropy(moved, (0.7, 2), dim=dim), expected)
        torch.testing.assert_close(renyi_entropy(moved.contiguous(), (0.7, 2), dim=dim - 4), expected)
    assert shannon_entropy(torch.zeros(0, 7)).shape == (0,)
    assert renyi_entropy(torch.zeros(2, 0, 7), (1, 2)).shape == (2, 0, 2)


@pytest.mark.parametrize("order", [0.01, 0.5, 0.7, 1, 1.2, 1.5, 2, 2.5, 5, 50, math.inf])
def test_gradients(order):
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: renyi_entropy(x, order), logits)
    assert torch.autograd.gradcheck(varentropy, logits)
    assert torch.autograd.gradcheck(lambda x: surprisal(x, torch.tensor([1, 5])), logits)
    far = torch.tensor([0.0, -5.0, -2000.0, -math.inf], requires_grad=True)
    renyi_entropy(far, order).backward()
    assert far.grad.isfinite().all()
    assert not renyi_entropy(logits.detach(), order).requires_grad


@pytest.mark.parametrize("chunk", [5, 13, 2**19])
def test_errors_name_the_first_bad_row(monkeypatch, chunk):
    monkeypatch.setattr(entropies, "_CHUNK", chunk)
    logits = torch.zeros(3, 4, 5)
    logits[1, 2, 0], logits[2, 3, 3] = math.nan, math.inf
    with pytest.raises(NonFiniteError, match=r"row \(1, 2\)"):
        shannon_entropy(logits)
    with pytest.raises(NonFiniteError, match=r"row \(1, 2\)"):
        varentropy(logits.movedim(-1, 0), dim=0)
    with pytest.raises(NonFiniteError, match="row 1 does"):
        surprisal(logits[2, 2:], torch.tensor([0, 0]))
    with pytest.raises(InputError, match="row 1 is all -inf"):
        renyi_entropy(torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]]), 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: renyi_entropy(torch.zeros(3), -0.5), InputError, "from 0 to infinity; got -0.5"),
        (lambda: renyi_entropy(torch.zeros(3), (1, math.nan)), InputError, r"got \(1, nan\)"),
        (lambda: renyi_entropy(torch.zeros(3), ()), InputError, "one or more different numbers"),
        (lambda: renyi_entropy(torch.zeros(3), "2"), InputTypeError, "must be one or several numbers"),
        (lambda: shannon_entropy(torch.zeros(3, 0)), InputError, "at least one outcome"),
        (lambda: shannon_entropy(torch.zeros(3), dim=1), InputError, "dim must be an axis"),
        (lambda: shannon_entropy(torch.zeros(3, dtype=torch.int64)), InputTypeError, "int64"),
        (lambda: shannon_entropy([0.0, 1.0]), InputTypeError, "list"),
        (lambda: surprisal(torch.zeros(2, 3), torch.tensor([0, 3])), InputError, "between 0 and 2; got 3"),
        (lambda: surprisal(torch.zeros(2, 3), torch.tensor([0, -1])), InputError, "got -1"),
        (lambda: surprisal(torch.zeros(2, 3), torch.tensor([0])), InputError, "shape of logits"),
        (lambda: surprisal(torch.zeros(2, 3), torch.tensor([0.0, 1.0])), InputTypeError, "integer"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
