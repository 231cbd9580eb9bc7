"""Entropies and losses that never store logits: values and gradients against those of stored logits in float64."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
import torch
from tiny_models import cached_model, kinds
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

from tl_entropy import functional as f
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional import linear_cross_entropy, linear_entropy, linear_kl_divergence
from tl_entropy.functional.lens import slopes

INF = math.inf
ORDERS = (0, 1e-3, 0.3, 0.5, 0.9, 1, 1 + 1e-9, 1.3, 1.5, 2, 3.3, 50, INF)
BENT = {"scale": 1.7, "softcap": 3.0}


@pytest.fixture(params=[None, (2, 1, 8)], ids=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    if request.param:
        for name, value in zip(("_ROWS", "_COLUMNS", "_TILE"), request.param, strict=True):
            monkeypatch.setattr(slopes, name, value)


def draw(*shape, seed=0, spread=1.0, dtype=torch.float64):
    return (spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def factors(dtype=torch.float64):
    return draw(5, 3, dtype=dtype).requires_grad_(), draw(3, 11, seed=1, spread=2, dtype=dtype).requires_grad_()


def stored(hidden, unembedding, bias=None, scale=1.0, softcap=None):
    logits = scale * (hidden @ unembedding + (0 if bias is None else bias))
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def gradients(values, *inputs):
    return torch.autograd.grad((values * torch.arange(1, 1 + len(values))).sum(), inputs)


def masked_bias():
    bias = draw(11, seed=2)
    bias[4] = -INF
    return bias


@pytest.mark.thinned
@pytest.mark.parametrize("options", [{}, BENT], ids=["plain", "bent"])
@pytest.mark.parametrize("order", ORDERS)
def test_entropy_and_its_gradient_are_those_of_stored_logits(tiles, order, options):
    hidden, unembedding = factors()
    found = linear_entropy(hidden, unembedding, order=order, **options)
    expected = f.renyi_entropy(stored(hidden, unembedding, **options), order)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert gradcheck(lambda h, w: linear_entropy(h, w, order=order, **options), (hidden, unembedding), fast_mode=True)


@pytest.mark.parametrize("order", ORDERS)
def test_a_masked_token_has_no_share_in_an_entropy_of_any_order(tiles, order):
    hidden, unembedding = factors()
    values = [
        linear_entropy(hidden, unembedding, bias=masked_bias(), order=order),
        f.renyi_entropy(stored(hidden, unembedding, masked_bias()), order),
    ]
    torch.testing.assert_close(*values, atol=1e-12, rtol=1e-12)
    found, expected = (gradients(value, hidden, unembedding) for value in values)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert found[1][:, 4].eq(0).all()


@pytest.mark.parametrize("options", [{}, BENT], ids=["plain", "bent"])
def test_cross_entropy_and_its_gradient(tiles, options):
    hidden, unembedding = factors()
    bias, targets = draw(11, seed=3).requires_grad_(), torch.tensor([1, 4, -100, 10, 0])
    found = linear_cross_entropy(hidden, unembedding, targets, bias=bias, **options)
    expected = cross_entropy(stored(hidden, unembedding, bias, **options), targets, reduction="none", ignore_index=-100)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert gradcheck(
        lambda h, w, b: linear_cross_entropy(h, w, targets, bias=b, **options), (hidden, unembedding, bias), fast_mode=True
    )
    assert gradients(found, hidden)[0][2].eq(0).all(), "no target, no gradient"


@pytest.mark.parametrize("options", [{}, BENT], ids=["plain", "bent"])
@pytest.mark.parametrize("reverse", [False, True])
def test_divergence_from_a_reference_with_an_unembedding_of_its_own(tiles, reverse, options):
    hidden, unembedding = factors()
    bias, reference, other = draw(11, seed=3).requires_grad_(), draw(5, 4, seed=4), draw(4, 11, seed=5)
    options = {"reverse": reverse, "reference_unembedding": other, **options}
    bent = {name: value for name, value in options.items() if name in BENT}
    pair = stored(reference, other, **bent), stored(hidden, unembedding, bias, **bent)
    expected = f.kl_divergence(*(pair[::-1] if reverse else pair))
    found = linear_kl_divergence(hidden, unembedding, reference, bias=bias, **options)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert gradcheck(
        lambda h, w, b: linear_kl_divergence(h, w, reference, bias=b, **options), (hidden, unembedding, bias), fast_mode=True
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_divergence_from_the_same_readout(tiles, reverse):
    hidden, unembedding = factors()
    options = {"bias": masked_bias(), "reverse": reverse}
    assert linear_kl_divergence(hidden, unembedding, hidden, **options).eq(0).all()
    reference = draw(5, 3, seed=4)
    pair = stored(reference, unembedding.detach(), masked_bias()), stored(hidden, unembedding, masked_bias())
    expected = f.kl_divergence(*(pair[::-1] if reverse else pair))
    found = linear_kl_divergence(hidden, unembedding, reference, **options)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    both = gradients(found, hidden, unembedding), gradients(expected, hidden, unembedding)
    torch.testing.assert_close(*both, atol=1e-10, rtol=1e-10)  # the reference is a constant, its unembedding included


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_worked_in_float32(tiles, dtype):
    hidden, unembedding = factors(dtype)
    found = linear_entropy(hidden, unembedding)
    assert found.dtype == torch.float32
    exact = [factor.detach().double().requires_grad_() for factor in (hidden, unembedding)]
    expected = f.shannon_entropy(stored(*exact))
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for one, other in zip(gradients(found, hidden, unembedding), gradients(expected, *exact), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=tolerance)


def test_layouts_shapes_and_what_needs_no_gradient(tiles):
    hidden, unembedding = factors()
    turned = unembedding.detach().t().contiguous().t()
    torch.testing.assert_close(linear_entropy(hidden, turned), linear_entropy(hidden, unembedding), atol=1e-12, rtol=0)
    cube = hidden.detach().view(1, 5, 3)
    assert linear_entropy(cube, turned).shape == (1, 5)
    assert linear_entropy(hidden[0], unembedding).shape == ()
    none = linear_entropy(hidden[:0], unembedding)
    assert none.shape == (0,)
    none.sum().backward()
    assert unembedding.grad.eq(0).all()
    alone = turned.requires_grad_()
    linear_entropy(cube, alone).sum().backward()
    torch.testing.assert_close(alone.grad, torch.autograd.grad(linear_entropy(hidden, unembedding).sum(), unembedding)[0])
    assert not linear_entropy(cube, turned.detach()).requires_grad


def test_a_product_that_is_larger_than_a_tile_of_float32():
    hidden, unembedding = draw(1000, 8, dtype=torch.float32).requires_grad_(), draw(8, 2500, seed=1, dtype=torch.float32)
    unembedding.requires_grad_()
    exact = [factor.detach().double().requires_grad_() for factor in (hidden, unembedding)]
    found, expected = linear_entropy(hidden, unembedding), f.shannon_entropy(stored(*exact))
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)
    for one, other in zip(gradients(found, hidden, unembedding), gradients(expected, *exact), strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", kinds())
def test_losses_of_every_kind_of_model_from_its_hidden_states(kind):
    model = cached_model("gpt2", kind)
    tokens = torch.arange(2, 14).view(2, 6)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    with torch.no_grad():
        stream = model.run_with_cache(tokens)[1][f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]
        hidden, logits = model.ln_final(stream), model(tokens)
    readout = {"unembedding": model.W_U.detach(), "bias": model.b_U.detach()}
    found, real = f.token_losses(hidden, tokens, mask, **readout)
    expected, there = f.token_losses(logits, tokens, mask)
    assert torch.equal(real, there)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    bonus = f.entropy_bonus(hidden, mask=mask, weight=1.0, **readout)
    torch.testing.assert_close(bonus, f.entropy_bonus(logits, mask=mask, weight=1.0), atol=1e-5, rtol=0)


def test_gradients_of_losses_from_hidden_states():
    hidden, unembedding = draw(2, 4, 3).requires_grad_(), draw(3, 7, seed=1).requires_grad_()
    tokens, mask = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])

    def both(h, w):
        losses, _ = f.token_losses(h, tokens, mask, unembedding=w)
        return losses.sum() + f.entropy_bonus(h, mask=mask, weight=0.3, unembedding=w)

    assert gradcheck(both, (hidden, unembedding), fast_mode=True)
    hidden.data[1, 3] = math.nan  # outside the mask
    both(hidden, unembedding).backward()
    assert hidden.grad.isfinite().all()


def test_a_second_derivative_is_refused():
    hidden, unembedding = factors()
    for value in (
        linear_entropy(hidden, unembedding),
        linear_cross_entropy(hidden, unembedding, torch.zeros(5, dtype=torch.int64)),
        linear_kl_divergence(hidden, unembedding, hidden),
    ):
        with pytest.raises(InputError, match="have a first derivative, no second one"):
            torch.autograd.grad(value.sum(), hidden, create_graph=True)


FINE = torch.zeros(2, 3)
WIDE = torch.zeros(3, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: linear_entropy(FINE * math.nan, WIDE), NonFiniteError, "hidden must be finite.*row 0, 1"),
        (lambda: linear_entropy(FINE, WIDE + INF), NonFiniteError, "must hold neither NaN nor"),
        (lambda: linear_entropy(FINE, WIDE.t()), InputError, "must share d_model"),
        (lambda: linear_entropy(FINE, WIDE, order=-1), InputError, "order must be one number"),
        (lambda: linear_entropy(FINE, WIDE, order=(1, 2)), InputTypeError, "call once for each"),
        (lambda: linear_entropy(FINE, WIDE, scale=INF), InputError, "scale must be a finite number"),
        (lambda: linear_entropy(FINE, WIDE, softcap=0.0), InputError, "softcap must be None or above 0"),
        (lambda: linear_entropy(FINE, WIDE, bias=torch.full((5,), -INF)), InputError, "leave some token possible"),
        (lambda: linear_entropy("a", WIDE), InputTypeError, "hidden must be a floating-point tensor"),
        (lambda: linear_cross_entropy(FINE, WIDE, torch.zeros(2)), InputTypeError, "targets must be an int64 tensor"),
        (lambda: linear_cross_entropy(FINE, WIDE, torch.zeros(3).long()), InputError, re.escape("targets must be [2]")),
        (lambda: linear_cross_entropy(FINE, WIDE, torch.tensor([0, 5])), InputError, "below the vocabulary's 5 tokens; got 5"),
        (lambda: linear_kl_divergence(FINE, WIDE, FINE[:1]), InputError, "reference must hold a state for each"),
        (lambda: linear_kl_divergence(FINE, WIDE, FINE * INF), NonFiniteError, "reference must be finite"),
        (
            lambda: linear_kl_divergence(FINE, WIDE, FINE, reference_unembedding=torch.zeros(3, 6)),
            InputError,
            "must have the vocabulary of unembedding, 5 tokens",
        ),
        (lambda: linear_kl_divergence(FINE, WIDE, FINE, reference_bias=torch.zeros(5)), InputError, "pass both"),
        (
            lambda: linear_kl_divergence(
                FINE, WIDE, FINE, reference_unembedding=WIDE, bias=torch.tensor([-INF, 0.0, 0.0, 0.0, 0.0])
            ),
            InputError,
            "must mask the same tokens",
        ),
        (lambda: f.entropy_bonus(FINE, softcap=3.0), InputError, "belong to an unembedding"),
        (
            lambda: f.token_losses(FINE[None], torch.tensor([[0, 5]]), unembedding=WIDE),
            InputError,
            "between 0 and 4 where they count; got 5",
        ),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


MEASURE = """
import resource, sys, torch
from tl_entropy import functional as f
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
calls = {
    "entropy": lambda h: f.linear_entropy(h, unembedding),
    "order 3": lambda h: f.linear_entropy(h, unembedding, order=3),
    "loss": lambda h: f.linear_cross_entropy(h, unembedding, torch.zeros(len(h), dtype=torch.int64)),
    "divergence": lambda h: f.linear_kl_divergence(h, unembedding, h.detach() * 0.5),
}
unembedding = torch.randn(64, 50257).requires_grad_()
many = torch.randn(4096, 64).requires_grad_()
unembedding.grad = torch.ones_like(unembedding)  # so that the call before has held as many gradients
call = calls[sys.argv[1]]
call(many[:2]).mean().backward()
before = peak()
call(many).mean().backward()
print(peak() - before)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["loss", *(pytest.param(name, marks=pytest.mark.slow) for name in ("entropy", "order 3", "divergence"))]
)
def test_extra_memory_stays_below_64_megabytes_both_ways(name):
    run = subprocess.run([sys.executable, "-c", MEASURE, name], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 64, "4096 rows of logits would be 823 MB"
