"""Distances between profiles against numpy, scipy, the published package, closed forms and the metric axioms."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.profiles.curves import (
    common_depth,
    curve_fisher_rao_distance,
    elastic_srvf_distance,
    histogram_jsd,
    srvf_distance,
    wasserstein_distance,
)

SAMPLES = (wasserstein_distance, histogram_jsd)
CURVES = (curve_fisher_rao_distance, srvf_distance, elastic_srvf_distance)
every = pytest.mark.parametrize("distance", SAMPLES + CURVES, ids=lambda f: f.__name__)


def root_jsd(a, b):
    return histogram_jsd(a, b, n_bins=7, limits=(0.0, 10.0)).sqrt()


def uniform(*shape, seed=0, scale=10.0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def single(*shape, seed=0, scale=10.0):
    """float32 values in float64, as entropies come."""
    return uniform(*shape, seed=seed, scale=scale).float().double()


def numpy_jsd(a, b, n_bins=50, limits=None):
    if limits is None:
        limits = min(a.min(), b.min()) - 1e-6, max(a.max(), b.max()) + 1e-6
    p, q = (np.histogram(x, bins=n_bins, range=limits)[0] / len(x) for x in (a, b))
    return jensenshannon(p, q, base=2) ** 2 * math.log(2)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (5, 5), (6, 4), (64, 64), (64, 48), (97, 13), (1000, 999)])
@pytest.mark.parametrize("ties", [False, True])
def test_wasserstein_agrees_with_scipy(n, m, ties):
    a, b = uniform(n, seed=n), uniform(m, seed=m + 1) + 1
    if ties:
        a, b = a.round(), b.round()
    expected = scipy.stats.wasserstein_distance(a.numpy(), b.numpy())
    assert wasserstein_distance(a, b).item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_wasserstein_of_shifted_and_of_stretched_values():
    a = uniform(3, 40)
    torch.testing.assert_close(wasserstein_distance(a, a + 2.5), torch.full((3,), 2.5, dtype=torch.float64))
    torch.testing.assert_close(wasserstein_distance(a, torch.zeros(1)), a.mean(-1))
    torch.testing.assert_close(wasserstein_distance(a, a.repeat_interleave(3, -1)), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("n_bins", [1, 2, 7, 50, 333])
@pytest.mark.parametrize("limits", [None, (-0.3, 11.1)])
@pytest.mark.parametrize("kind", ["plain", "ties", "edges", "narrow", "far"])
def test_histogram_jsd_agrees_with_numpy_and_scipy(n_bins, limits, kind):
    a, b = single(40, 64, seed=1), single(40, 48, seed=2)
    if kind == "ties":
        a, b = (a * 4).round() / 4, (b * 4).round() / 4
    elif kind == "edges":  # values on the edges between bins, as near as float64 has them
        edges = torch.from_numpy(np.linspace(*(limits or (a.min().item() - 1e-6, b.max().item() + 1e-6)), n_bins + 1))
        a, b = (edges[(x * 1e6).long() % (n_bins + 1)] for x in (a, b))
    elif kind == "narrow":
        a, b = 5 + a * 1e-7, 5 + b * 1e-7
    elif kind == "far":
        a, b, limits = a + 3e4, b + 3e4, limits and (limits[0] + 3e4, limits[1] + 3e4)
    expected = [numpy_jsd(x.numpy(), y.numpy(), n_bins, limits) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(histogram_jsd(a, b, n_bins=n_bins, limits=limits), expected, rtol=0, atol=1e-12)


def test_histogram_jsd_closed_forms():
    far, near = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([9.0, 9.0])
    assert histogram_jsd(far, near).item() == math.log(2)
    assert histogram_jsd(far, torch.zeros(5)).item() == 0
    assert histogram_jsd(far, near, n_bins=1).item() == 0
    assert histogram_jsd(torch.full((3,), 1e12), torch.full((2,), 1e12)).item() == 0  # a range that 1e-6 doesn't widen


def test_limits_may_differ_between_pairs():
    a, b = uniform(3, 20, seed=3), uniform(3, 30, seed=4)
    low, high = torch.tensor([-1.0, 0.0, -3.0]), torch.tensor([10.0, 11.0, 12.0])
    found = histogram_jsd(a, b, limits=(low, high))
    expected = [numpy_jsd(a[i].numpy(), b[i].numpy(), limits=(low[i].item(), high[i].item())) for i in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("distance", [wasserstein_distance, histogram_jsd, root_jsd], ids=lambda f: f.__name__)
def test_leading_axes_of_samples_broadcast(distance):
    a, b = single(5, 1, 12, seed=5), single(4, 9, seed=6)
    found = distance(a, b)
    assert found.shape == (5, 4)
    assert found.dtype == torch.float64
    expected = torch.stack([torch.stack([distance(x[0], y) for y in b]) for x in a])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("spread", [1e-12, 1e-9, 1e-5, 0.1, 10.0])
def test_fisher_rao_keeps_digits_that_the_arccos_loses(spread):
    import mpmath

    a = 1 + uniform(30, seed=7)
    b = a + spread * uniform(30, seed=8, scale=1.0)
    with mpmath.workdps(60):
        laws = [[mpmath.mpf(x) / mpmath.fsum(map(mpmath.mpf, curve)) for x in curve] for curve in (a.tolist(), b.tolist())]
        expected = float(mpmath.acos(mpmath.fsum(mpmath.sqrt(p * q) for p, q in zip(*laws, strict=True))))
    assert expected > 0
    assert curve_fisher_rao_distance(a, b).item() == pytest.approx(expected, rel=1e-10, abs=2e-16)


def test_fisher_rao_closed_forms():
    assert curve_fisher_rao_distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 2.0])).item() == math.pi / 2
    a = uniform(12)
    assert curve_fisher_rao_distance(a, 4 * a).item() == 0
    assert curve_fisher_rao_distance(a, 3 * a).item() < 1e-15
    even, cubed = torch.ones(2), torch.tensor([1.0, 3.0])  # p = (1/4, 3/4) lies at 60 degrees, (1/2, 1/2) at 45
    assert curve_fisher_rao_distance(even, cubed).item() == pytest.approx(math.radians(15), rel=1e-14)


@pytest.mark.parametrize("depth", [2, 3, 13, 100])
def test_srvf_agrees_with_numpy(depth):
    a, b = uniform(depth, seed=9), uniform(depth, seed=10)
    q = [np.sign(g) * np.sqrt(np.abs(g)) for g in (np.gradient(a.numpy()), np.gradient(b.numpy()))]
    assert srvf_distance(a, b).item() == pytest.approx(np.linalg.norm(q[0] - q[1]), rel=1e-13)


def test_srvf_does_not_depend_on_the_number_of_layers_beyond_the_rectangle_rule():
    def distance(depth):
        t = torch.linspace(0, 1, depth, dtype=torch.float64)
        return srvf_distance(t**2, -2 * t**2).item()

    integral = (1 + math.sqrt(2)) * 1.0  # q = √(2t) and -√(4t): ∫ (√2 + 2)²·t dt = (√2 + 2)² / 2
    assert distance(10_000) == pytest.approx(integral, rel=1e-3)
    assert abs(distance(1000) - integral) < abs(distance(20) - integral) < 0.1


def test_srvf_ignores_the_level_and_scales_with_the_root():
    a, b = uniform(2, 12, seed=11)
    assert srvf_distance(a + 7, b).item() == pytest.approx(srvf_distance(a, b).item(), rel=1e-13)
    assert srvf_distance(4 * a, 4 * b).item() == pytest.approx(2 * srvf_distance(a, b).item(), rel=1e-13)


def bump(centre, width=4.0, height=3.0, depth=64):
    return 8 + height * torch.exp(-(((torch.arange(depth).double() - centre) / width) ** 2) / 2)


def test_a_shifted_curve_is_elastically_nearer_than_a_flat_one():
    pytest.importorskip("fdasrsf")
    curve, shifted, flat = bump(24), bump(32), torch.full((64,), 8.0)
    assert srvf_distance(curve, shifted).item() > 1.2 * srvf_distance(curve, flat).item()
    assert elastic_srvf_distance(curve, shifted).item() < 0.01
    assert elastic_srvf_distance(curve, flat).item() == pytest.approx(srvf_distance(curve, flat).item(), rel=1e-12)


def test_elastic_distance_to_a_warped_copy_is_near_0():
    pytest.importorskip("fdasrsf")
    t = torch.linspace(0, 1, 100, dtype=torch.float64)
    for warped in (t**1.5, t**0.7, t + 0.1 * torch.sin(math.pi * t)):
        curve, copy = torch.sin(2 * math.pi * t), torch.sin(2 * math.pi * warped)
        assert elastic_srvf_distance(curve, copy).item() < 0.15 * srvf_distance(curve, copy).item()


def test_elastic_distance_without_warping_is_the_plain_one(monkeypatch):
    functions = pytest.importorskip("fdasrsf.utility_functions")
    from tl_entropy.functional.profiles import curves

    a, b = uniform(2, 24, seed=12)
    q_a, q_b = (curves.square_root_velocity(x).numpy() for x in (a, b))
    plain = srvf_distance(a, b).item()
    assert curves._warped_distance(q_a, q_b, np.linspace(0, 1, 25)) == pytest.approx(plain, rel=1e-13)
    monkeypatch.setattr(functions, "optimum_reparam", lambda q, edges, other, **_: edges**2)  # a bad one
    assert elastic_srvf_distance(a, b).item() == plain


def test_the_warped_integral_is_exact_and_warping_keeps_the_norm():
    from tl_entropy.functional.profiles.curves import _warped_distance

    q, other = uniform(6, seed=13).numpy() - 5, uniform(6, seed=14).numpy() - 5
    warping = np.cumsum([0, *uniform(6, seed=15).numpy() + 1])
    warping /= warping[-1]
    t = (np.arange(600_000) + 0.5) / 600_000
    edges = np.linspace(0, 1, 7)
    there = np.interp(t, edges, warping)
    slope = (np.diff(warping) * 6)[(t * 6).astype(int)]
    warped = other[(there * 6).astype(int)] * np.sqrt(slope)
    expected = math.sqrt(6 * np.mean((q[(t * 6).astype(int)] - warped) ** 2))
    assert _warped_distance(q, other, warping) == pytest.approx(expected, rel=1e-5)
    assert _warped_distance(np.zeros(6), other, warping) == pytest.approx(np.linalg.norm(other), rel=1e-13)


def test_elastic_distance_is_symmetric_and_at_most_the_plain_one():
    pytest.importorskip("fdasrsf")
    a, b = uniform(6, 1, 20, seed=16), uniform(5, 20, seed=17)
    found = elastic_srvf_distance(a, b)
    assert found.shape == (6, 5)
    assert torch.equal(found.T, elastic_srvf_distance(b[:, None], a[:, 0]))
    assert (found < srvf_distance(a, b)).all()
    assert elastic_srvf_distance(a[0, 0], b[2]).item() == found[0, 2].item()


def test_elastic_distance_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fdasrsf.utility_functions", None)
    with pytest.raises(ImportError, match=r"tl-entropy\[elastic\]"):
        elastic_srvf_distance(uniform(5), uniform(5, seed=1))


@pytest.mark.parametrize("distance", [curve_fisher_rao_distance, srvf_distance], ids=lambda f: f.__name__)
def test_leading_axes_of_curves_broadcast(distance):
    a, b = uniform(5, 1, 12, seed=18), uniform(4, 12, seed=19)
    expected = torch.stack([torch.stack([distance(x[0], y) for y in b]) for x in a])
    torch.testing.assert_close(distance(a, b), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("depth", "n"), [(2, 2), (13, 13), (13, 25), (25, 13), (7, 100), (12, 5), (2, 9)])
def test_common_depth_agrees_with_numpy(depth, n):
    curve = uniform(3, depth, seed=20)
    found = common_depth(curve, n)
    expected = [np.interp(np.linspace(0, 1, n), np.linspace(0, 1, depth), row) for row in curve.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert torch.equal(found[:, [0, -1]], curve[:, [0, -1]])
    if n == depth:
        assert torch.equal(found, curve)


values = st.floats(0, 10).map(lambda x: x if x > 1e-100 else 0.0)
triples = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda sizes: st.tuples(*(arrays(np.float64, size, elements=values) for size in sizes))
)
curve_triples = st.integers(2, 12).flatmap(lambda depth: arrays(np.float64, (3, depth), elements=values))


def check_axioms(distance, a, b, c):
    # Half the digits are lost where equal things are told apart by a root.
    tolerance = 1e-7 if distance is root_jsd else 1e-12
    assert distance(a, a).item() == 0
    assert distance(a, b).item() == distance(b, a).item() >= 0
    assert distance(a, c).item() <= distance(a, b).item() + distance(b, c).item() + tolerance


@pytest.mark.parametrize("distance", [wasserstein_distance, root_jsd], ids=lambda f: f.__name__)
@given(triples)
def test_distances_of_samples_are_metrics(distance, given):
    check_axioms(distance, *(torch.from_numpy(sample) for sample in given))


@pytest.mark.parametrize("distance", [curve_fisher_rao_distance, srvf_distance], ids=lambda f: f.__name__)
@given(curve_triples)
def test_distances_of_curves_are_metrics(distance, given):
    curves = torch.from_numpy(given)
    curves[:, 0] += 1.0  # not 0 everywhere
    check_axioms(distance, *curves)


@given(triples)
def test_distances_of_samples_do_not_depend_on_the_sequence_and_stay_in_range(given):
    a, b, _ = (torch.from_numpy(sample) for sample in given)
    for distance in SAMPLES:
        assert distance(a, b).item() == distance(a.flip(-1), b).item()
    assert 0 <= histogram_jsd(a, b).item() <= math.log(2)
    assert wasserstein_distance(a, b).item() >= abs(a.mean() - b.mean()).item() - 1e-12


def package_profiles(*entropies):
    package = pytest.importorskip("entropy_profiler")
    tokens, depth = zip(*(entropy.shape for entropy in entropies), strict=True)
    return package, [
        package.EntropyProfile(entropy.float(), torch.zeros(n, dtype=torch.long), list(range(d)), 1.0, "by hand")
        for entropy, n, d in zip(entropies, tokens, depth, strict=True)
    ]


def test_jsd_by_layer_agrees_with_the_published_package():
    # The package has its edges in float32 where the entropies are: no value here is that near to an edge.
    a, b = single(64, 12, seed=21), single(48, 12, seed=22)
    package, profiles = package_profiles(a, b)
    expected = package.distances.jsd_layer(*profiles) * math.log(2)
    np.testing.assert_allclose(histogram_jsd(a.T, b.T), expected, rtol=0, atol=1e-12)


def test_wasserstein_by_layer_agrees_with_the_published_package():
    a, b = single(64, 12, seed=23), single(48, 12, seed=24)
    package, profiles = package_profiles(a, b)
    np.testing.assert_allclose(wasserstein_distance(a.T, b.T), package.distances.wasserstein_layer(*profiles), rtol=1e-6)


def test_distances_of_curves_agree_with_the_published_package():
    a, b = single(64, 12, seed=25), single(48, 12, seed=26)
    package, profiles = package_profiles(a, b)
    for ours, theirs in (
        (curve_fisher_rao_distance, package.distances.fisher_rao_distance),
        (srvf_distance, package.distances.srvf_distance),
    ):
        assert ours(a.mean(0), b.mean(0)).item() == pytest.approx(theirs(*profiles), rel=1e-4)


@every
def test_refuse_what_is_not_finite(distance):
    a, b = uniform(2, 5), uniform(2, 5, seed=1)
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = b.clone()
        spoilt[1, 2] = bad
        with pytest.raises(NonFiniteError, match=r"b must be finite; got .* at \[1, 2\]"):
            distance(a, spoilt)
        with pytest.raises(NonFiniteError, match="a must be finite"):
            distance(spoilt, b)


@every
def test_refuse_integers_and_empty_and_shapes_that_do_not_broadcast(distance):
    a = uniform(2, 5)
    with pytest.raises(InputTypeError, match="a must be a floating-point tensor"):
        distance(torch.ones(2, 5, dtype=torch.long), a)
    with pytest.raises(InputTypeError, match="b must be a floating-point tensor"):
        distance(a, [1.0, 2.0])
    with pytest.raises(InputError, match="b must hold at least"):
        distance(a, a[:, :0])
    with pytest.raises(InputError, match="a must hold at least"):
        distance(a[0, 0], a)
    with pytest.raises(InputError, match="leading axes that broadcast"):
        distance(uniform(3, 5), a)


@pytest.mark.parametrize("distance", CURVES, ids=lambda f: f.__name__)
def test_refuse_curves_of_different_depths(distance):
    with pytest.raises(InputError, match="same depth; got 5 and 6: use common_depth"):
        distance(uniform(5), uniform(6))


def test_refuse_curves_that_cannot_be_compared():
    with pytest.raises(InputError, match=r"b must hold curves of at least 0 .* curve \[1\] has the least value -1"):
        curve_fisher_rao_distance(uniform(3), torch.tensor([[1.0, 2, 3], [4, -1, 3]]))
    with pytest.raises(InputError, match=r"a must hold curves .* not 0 everywhere"):
        curve_fisher_rao_distance(torch.zeros(3), uniform(3))
    for distance in (srvf_distance, elastic_srvf_distance):
        with pytest.raises(InputError, match="at least 2 layer"):
            distance(uniform(1), uniform(1))
    with pytest.raises(InputError, match="at least 2 layer"):
        common_depth(uniform(1), 3)
    with pytest.raises(InputError, match="n must be an int of at least 2; got 1"):
        common_depth(uniform(4), 1)


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ((0.0, 5.0), InputError, "limits must hold all values; got values from .* for limits from 0 to 5"),
        ((1.0, 20.0), InputError, "limits must hold all values"),
        ((3.0, 3.0), InputError, "low below high"),
        ((math.nan, 20.0), InputError, "low below high"),
        ((0.0, math.inf), InputError, "limits must be finite"),
        ((torch.zeros(3), 20.0), InputError, "limits must broadcast"),
        (5.0, InputTypeError, "limits must be a pair"),
        ((1.0, 2.0, 3.0), InputTypeError, "limits must be a pair"),
        (("low", 2.0), InputTypeError, "limits must be a pair"),
    ],
)
def test_refuse_wrong_limits(limits, error, message):
    with pytest.raises(error, match=message):
        histogram_jsd(uniform(2, 50), uniform(2, 50, seed=1), limits=limits)


def test_refuse_wrong_numbers_of_bins():
    with pytest.raises(InputError, match="n_bins must be an int of at least 1; got 0"):
        histogram_jsd(uniform(5), uniform(5), n_bins=0)
    with pytest.raises(InputTypeError, match="n_bins must be an int"):
        histogram_jsd(uniform(5), uniform(5), n_bins=5.0)
