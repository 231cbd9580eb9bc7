"""Divergences from logits against scipy, mpmath, closed forms, the metric axioms and the inequalities between them."""

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
from torch.utils._python_dispatch import TorchDispatchMode

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens import divergences
from tl_entropy.functional.lens.divergences import fisher_rao_distance, js_divergence, kl_divergence, total_variation

ALL = (kl_divergence, js_divergence, fisher_rao_distance, total_variation)
LARGEST = {kl_divergence: math.inf, js_divergence: math.log(2), fisher_rao_distance: math.pi, total_variation: 1.0}
EXACT = {
    kl_divergence: lambda p, q: mpmath.fsum(a * mpmath.log(a / b) if b else mpmath.inf for a, b in zip(p, q, strict=True) if a),
    js_divergence: lambda p, q: (
        mpmath.fsum(a * mpmath.log(2 * a / (a + b)) for a, b in (*zip(p, q, strict=True), *zip(q, p, strict=True)) if a) / 2
    ),
    fisher_rao_distance: lambda p, q: 2 * mpmath.acos(mpmath.fsum(mpmath.sqrt(a * b) for a, b in zip(p, q, strict=True))),
    total_variation: lambda p, q: mpmath.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
}

each = pytest.mark.parametrize("divergence", ALL, ids=lambda f: f.__name__)
metrics = pytest.mark.parametrize(
    "metric",
    [lambda p, q: js_divergence(p, q).sqrt(), fisher_rao_distance, total_variation],
    ids=["sqrt_js", "fisher_rao", "total_variation"],
)
# Wide and narrow, equal in places, impossible in places; one outcome stays possible. Nothing so small that its square is 0.
elements = st.floats(-50, 50) | st.floats(-1e-6, 1e-6) | st.sampled_from([0.0, -math.inf])
elements = elements.map(lambda value: value if abs(value) > 1e-100 else 0.0)


def rows(number):
    def possible(values):
        values[:, 0] = np.where(np.isneginf(values[:, 0]), 1.0, values[:, 0])
        return torch.from_numpy(values)

    return st.integers(1, 12).flatmap(lambda v: arrays(np.float64, (number, v), elements=elements)).map(possible)


def exact(divergence, logits_p, logits_q, digits=80):
    """The definition, with more digits than any cancellation takes away."""
    with mpmath.workdps(digits):
        laws = []
        for logits in (logits_p, logits_q):
            weights = [mpmath.exp(mpmath.mpf(value)) if value > -math.inf else mpmath.mpf(0) for value in logits.tolist()]
            total = mpmath.fsum(weights)
            laws.append([weight / total for weight in weights])
        return float(EXACT[divergence](*laws).real)


def normal(*shape, seed=0, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def log(*p):
    return torch.tensor(p, dtype=torch.float64).log()


def test_agree_with_scipy():
    logits_p, logits_q = normal(10, 300, seed=1, spread=3), normal(10, 300, seed=2, spread=3)
    p, q = scipy.special.softmax(logits_p.numpy(), -1), scipy.special.softmax(logits_q.numpy(), -1)
    np.testing.assert_allclose(kl_divergence(logits_p, logits_q), scipy.stats.entropy(p, q, axis=-1), rtol=1e-12)
    js = scipy.spatial.distance.jensenshannon(p, q, axis=-1) ** 2
    np.testing.assert_allclose(js_divergence(logits_p, logits_q), js, rtol=1e-12)
    np.testing.assert_allclose(total_variation(logits_p, logits_q), np.abs(p - q).sum(-1) / 2, rtol=1e-12)
    fisher_rao = 2 * np.arccos(np.sqrt(p * q).sum(-1))
    np.testing.assert_allclose(fisher_rao_distance(logits_p, logits_q), fisher_rao, rtol=1e-12)


@each
@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 10.0, 100.0])
def test_agree_with_the_definition(divergence, spread):
    logits_p, logits_q = normal(40, seed=3, spread=spread), normal(40, seed=4, spread=spread)
    expected = exact(divergence, logits_p, logits_q)
    assert divergence(logits_p, logits_q).item() == pytest.approx(expected, rel=1e-12)


@each
@pytest.mark.parametrize("distance", [1e-13, 1e-10, 1e-7, 1e-4, 0.03, 0.0626, 0.3, 0.99, 1.01])
@pytest.mark.parametrize("everywhere", [True, False])
def test_keep_their_digits_near_zero(divergence, distance, everywhere):
    logits_p = normal(30, seed=5, spread=4)
    logits_q = logits_p + distance * (normal(30, seed=6).sign() if everywhere else torch.eye(30, dtype=torch.float64)[3])
    expected = exact(divergence, logits_p, logits_q)
    assert expected > 0
    assert divergence(logits_p, logits_q).item() == pytest.approx(expected, rel=1e-11, abs=0)


def test_fisher_rao_keeps_digits_that_the_arccos_loses():
    logits_p = normal(30, seed=5)
    logits_q = logits_p + 1e-9 * normal(30, seed=6)
    overlap = (logits_p.log_softmax(-1) / 2 + logits_q.log_softmax(-1) / 2).exp().sum()
    expected = exact(fisher_rao_distance, logits_p, logits_q)
    assert abs(2 * overlap.clamp(max=1).acos().item() - expected) > 0.5 * expected
    assert fisher_rao_distance(logits_p, logits_q).item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.25), (0.3, 0.3000001), (1e-9, 0.5), (0.999, 0.001), (0.0, 0.4)])
def test_bernoulli_closed_forms(a, b):
    p, q = log(a, 1 - a), log(b, 1 - b)
    assert total_variation(p, q).item() == pytest.approx(abs(a - b), rel=1e-7)
    angle = 4 * abs(math.asin(math.sqrt(a)) - math.asin(math.sqrt(b))) / 2
    assert fisher_rao_distance(p, q).item() == pytest.approx(angle, rel=1e-7)
    kl = scipy.special.rel_entr(a, b) + scipy.special.rel_entr(1 - a, 1 - b)
    assert kl_divergence(p, q).item() == pytest.approx(kl, rel=1e-7, abs=1e-16)
    m = (a + b) / 2
    js = sum(scipy.special.rel_entr(x, m) + scipy.special.rel_entr(1 - x, 1 - m) for x in (a, b)) / 2
    assert js_divergence(p, q).item() == pytest.approx(js, rel=1e-7, abs=1e-16)


@each
def test_identical_distributions_are_at_zero(divergence):
    logits = normal(5, 1000, seed=7, spread=8)
    logits[2, 3:400] = -math.inf
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert divergence(logits.to(dtype), logits.to(dtype).clone()).eq(0).all()
    assert divergence(torch.tensor([7.0]), torch.tensor([-2.0])) == 0, "one token leaves no choice"


@each
def test_disjoint_supports_are_as_far_as_it_goes(divergence):
    p = torch.tensor([1.0, 2.0, 0.3, -math.inf, -math.inf, -math.inf])
    q = torch.tensor([-math.inf, -math.inf, -math.inf, 5.0, -1.0, -math.inf])
    assert divergence(p, q).item() == pytest.approx(LARGEST[divergence], rel=1e-15)
    assert divergence(q, p).item() <= LARGEST[divergence]


def test_kl_is_infinite_only_where_q_rules_out_what_p_does_not():
    wide, narrow = torch.tensor([0.0, 0.0, -math.inf]), torch.tensor([0.0, -math.inf, -math.inf])
    found = kl_divergence(torch.stack([wide, narrow, narrow]), torch.stack([narrow, wide, narrow]))
    assert found.tolist() == pytest.approx([math.inf, math.log(2), 0], rel=1e-15)
    assert kl_divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, -2000.0])).item() == pytest.approx(1000 - math.log(2))
    assert kl_divergence(torch.tensor([0.0, -2000.0]), torch.tensor([0.0, -math.inf])) == math.inf, "rare, not impossible"


@each
def test_impossible_outcomes_count_for_nothing(divergence):
    p, q = normal(20, seed=8, spread=2), normal(20, seed=9, spread=2)
    nothing = torch.full((5,), -math.inf, dtype=torch.float64)
    padded = divergence(torch.cat([nothing, p]), torch.cat([nothing, q]))
    torch.testing.assert_close(padded, divergence(p, q), rtol=1e-14, atol=0)
    p[3] = p[4] = q[4] = -math.inf
    assert divergence(p, q).item() == pytest.approx(exact(divergence, p, q), rel=1e-13)


@each
def test_rounding_never_leaves_the_range(divergence):
    p, q = normal(300, 40, seed=19, spread=3), normal(300, 40, seed=20, spread=3)
    p[:, :20] = q[:, 20:] = -math.inf
    assert divergence(p, q).le(LARGEST[divergence]).all()
    base, other = normal(300, 3, seed=21), normal(300, 3, seed=21) + normal(300, 3, seed=22, spread=0.1)
    assert divergence(base, other + 1e15).ge(0).all(), "at this offset the log ratios are off by up to 1/16"


def test_normalisers_far_apart_keep_their_digits():
    peaked = torch.zeros(50257, dtype=torch.float64)
    peaked[1:] = -60
    assert kl_divergence(peaked, torch.zeros(50257)).item() == pytest.approx(math.log(50257), rel=1e-14)


@each
def test_permuted_vocabularies_differ(divergence):
    logits = normal(50, seed=10, spread=3)
    assert divergence(logits, logits.flip(0)) > 0.5
    assert divergence(logits.flip(0), logits.flip(0)) == 0


@given(pair=rows(2))
def test_bounds_symmetry_and_inequalities(pair):
    p, q = pair
    kl, js, fisher_rao, tv = (divergence(p, q) for divergence in ALL)
    for divergence, found in zip(ALL, (kl, js, fisher_rao, tv), strict=True):
        assert 0 <= found <= LARGEST[divergence]
        assert divergence(p, p) == 0
        if divergence is not kl_divergence:
            torch.testing.assert_close(divergence(q, p), found, rtol=1e-9, atol=1e-300)
    above = 1 + 1e-9
    assert tv <= (kl / 2).sqrt() * above  # Pinsker
    assert js <= (kl + kl_divergence(q, p)) / 4 * above  # convexity
    assert js <= tv * math.log(2) * above  # Lin, theorem 3
    hellinger_squared = 2 * (fisher_rao / 4).sin() ** 2
    assert hellinger_squared <= tv * above + 1e-300
    assert tv <= (fisher_rao / 2).sin() * above + 1e-15  # Le Cam
    assert 2 * hellinger_squared <= kl * above + 1e-300


@metrics
@given(three=rows(3))
def test_triangle_inequality(metric, three):
    p, q, between = three
    assert metric(p, q) <= (metric(p, between) + metric(between, q)) * (1 + 1e-9) + 1e-15


@each
@given(pair=rows(2), shift=st.floats(-100, 100))
def test_a_constant_changes_nothing(divergence, pair, shift):
    p, q = pair
    torch.testing.assert_close(divergence(p + shift, q), divergence(p, q), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(divergence(p.log_softmax(-1), q.log_softmax(-1)), divergence(p, q), rtol=1e-9, atol=1e-12)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_read_exactly_and_worked_in_float64(divergence, dtype):
    p, q = normal(3, 500, seed=11, spread=5).to(dtype), normal(3, 500, seed=12, spread=5).to(dtype)
    found = divergence(p, q)
    assert found.dtype == torch.float64
    assert torch.equal(found, divergence(p.double(), q.double()))
    assert torch.equal(divergence(p, q.double()), found)


@each
def test_far_logits_give_no_nan(divergence):
    far = torch.tensor([[0.0, -2e38, 3e37], [1e38, -1e38, -math.inf], [0.0, 0.0, 0.0]], requires_grad=True)
    found = divergence(far[:, None], far)
    assert not found.isnan().any()
    found[found.isfinite()].sum().backward()
    assert far.grad.isfinite().all()
    huge = torch.tensor([[1.7e308, -1.7e308], [-1.7e308, 1.7e308]], dtype=torch.float64)
    assert divergence(huge, huge.flip(0)).ge(0.69).all()


@pytest.mark.thinned
@each
def test_axes_broadcasting_and_chunks(divergence, monkeypatch):
    p, q = normal(3, 4, 5, 6, seed=13), normal(3, 4, 5, 6, seed=14)
    expected = torch.stack([divergence(a, b) for a, b in zip(p.reshape(-1, 6), q.reshape(-1, 6), strict=True)]).reshape(3, 4, 5)
    against_one = torch.stack([divergence(a, q[0, 0, 0]) for a in p.reshape(-1, 6)]).reshape(3, 4, 5)
    for chunk in (2**19, 200, 50, 13, 1):
        monkeypatch.setattr(divergences, "_CHUNK", chunk)
        torch.testing.assert_close(divergence(p, q), expected)
        torch.testing.assert_close(divergence(p, q[0, 0, 0]), against_one)
        torch.testing.assert_close(divergence(p, q[:, :1, 2:3]), divergence(p, q[:, :1, 2:3].expand(3, 4, 5, 6)))
        for dim in range(4):
            found = divergence(p.movedim(-1, dim), q.movedim(-1, dim).contiguous(), dim=dim)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(divergence(p.movedim(-1, dim), q.movedim(-1, dim), dim=dim - 4), expected)
    assert divergence(q[0, 0, 0], p, dim=3).shape == (3, 4, 5)
    assert divergence(p[0, 0, 0], q[0, 0, 0]).shape == ()
    assert divergence(torch.zeros(0, 7), torch.zeros(7)).shape == (0,)
    assert divergence(torch.zeros(2, 0, 7), torch.zeros(2, 1, 7)).shape == (2, 0)


class Largest(TorchDispatchMode):
    """Sees the number of elements of the largest float64 tensor made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.size = max(self.size, result.numel())
        return result


@pytest.mark.thinned
@each
def test_nothing_as_large_as_the_logits_is_made(divergence, monkeypatch):
    monkeypatch.setattr(divergences, "_CHUNK", 300)
    p, q = torch.zeros(8, 20, 100), torch.zeros(100, requires_grad=True)
    with Largest() as largest:
        divergence(p, q).sum().backward()
    assert 100 < largest.size <= 300


@each
def test_no_temporaries_wait_for_the_gradient(divergence):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        divergence(torch.zeros(20, 100, requires_grad=True), torch.zeros(100))
    assert sum(tensor.numel() for tensor in kept if tensor.dtype == torch.float64) <= 20


@each
def test_gradients(divergence):
    p, q = normal(3, 6, seed=15, spread=2).requires_grad_(), normal(6, seed=16).requires_grad_()
    assert torch.autograd.gradcheck(divergence, (p, q))
    near = (p.detach()[0] + 1e-2 * normal(6, seed=17)).requires_grad_()
    assert torch.autograd.gradcheck(divergence, (p, near), eps=1e-7, atol=1e-6)
    assert not divergence(p.detach(), q.detach()).requires_grad


@each
def test_gradients_with_outcomes_that_agree_but_for_one(divergence):
    p = normal(6, seed=18)
    q = p.clone()
    q[2] += 0.5
    p.requires_grad_()
    q.requires_grad_()
    assert torch.autograd.gradcheck(divergence, (p, q))


@each
def test_gradients_are_finite_where_the_value_is(divergence):
    same = torch.tensor([1.0, 2.0, -math.inf], requires_grad=True)
    divergence(same, same.detach()).backward()
    assert same.grad.eq(0).all(), "the least value has no slope"
    p = torch.tensor([[0.0, -5.0, -2000.0, -math.inf], [0.0, 1.0, -math.inf, -math.inf]], requires_grad=True)
    q = torch.tensor([0.0, 5.0, -3000.0, -math.inf], requires_grad=True)
    found = divergence(p, q)
    assert found.isfinite().all()
    found.sum().backward()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()
    assert p.grad.abs().sum() > 1e-3
    kl_divergence(torch.zeros(2, requires_grad=True), q[2:]).backward()
    assert q.grad.isfinite().all(), "no NaN from an infinite divergence, either"


@each
def test_errors_name_the_argument_and_the_row(divergence):
    logits, fine = torch.zeros(3, 4, 5), torch.zeros(5)
    logits[1, 2, 0], logits[2, 3, 3] = math.nan, math.inf
    with pytest.raises(NonFiniteError, match=r"logits_p .* row \(1, 2\)"):
        divergence(logits, fine)
    with pytest.raises(NonFiniteError, match=r"logits_q .* row \(2, 3\)"):
        divergence(fine[:, None, None], logits.nan_to_num(nan=0.0, posinf=math.inf).movedim(-1, 0), dim=0)
    with pytest.raises(NonFiniteError, match=r"logits_q .* the only row"):
        divergence(fine, logits[2, 3])
    with pytest.raises(InputError, match=r"logits_q .* row 1 is all -inf"):
        divergence(torch.zeros(2), torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]]))


@each
@pytest.mark.parametrize(
    ("p", "q", "dim", "error", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(3, 5), -1, InputError, r"broadcast; got \[2, 5\] and \[3, 5\]"),
        (torch.zeros(2, 5), torch.zeros(2, 6), -1, InputError, "same outcomes on dim -1; got 5 and 6"),
        (torch.zeros(2, 5), torch.zeros(2, 1), -1, InputError, "same outcomes on dim -1; got 5 and 1"),
        (torch.zeros(2, 5), torch.zeros(5), 0, InputError, "both have the axis -2"),
        (torch.zeros(2, 5), torch.zeros(5), 2, InputError, r"dim must be an axis of .*\[2, 5\] and \[5\]; got 2"),
        (torch.zeros(()), torch.zeros(()), -1, InputError, "dim must be an axis"),
        (torch.zeros(2, 0), torch.zeros(0), -1, InputError, "at least one outcome"),
        (torch.zeros(5, dtype=torch.int64), torch.zeros(5), -1, InputTypeError, "logits_p must be .*int64"),
        (torch.zeros(5), torch.zeros(5, dtype=torch.bool), -1, InputTypeError, "logits_q must be .*bool"),
        (torch.zeros(5), [0.0, 1.0], -1, InputTypeError, "logits_q must be .*list"),
    ],
)
def test_bad_arguments_are_refused(divergence, p, q, dim, error, message):
    with pytest.raises(error, match=message):
        divergence(p, q, dim=dim)
