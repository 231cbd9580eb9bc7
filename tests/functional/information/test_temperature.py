"""The temperature of soft assignment against mpmath, quadrature on the sphere, closed forms and bounds."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.optimize import brentq
from scipy.special import log_softmax

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.information import temperature
from tl_entropy.functional.information.temperature import calibrate_temperature

DIMENSIONS = (2, 3, 4, 5, 8, 15, 30, 64, 100, 512, 768, 4096, 100_000)
BINS = (2, 3, 10, 100, 1000, 10_000)

dimensions = st.one_of(st.integers(2, 40), st.integers(2, 100_000))
bins = st.one_of(st.integers(2, 40), st.integers(2, 10_000))


def exact_divergence(kappa, d):
    """KL(vMF(κ) ‖ uniform) from the Bessel functions of its normaliser, at the precision that mpmath works in."""
    nu = mpmath.mpf(d) / 2 - 1
    bessel = mpmath.besseli(nu, kappa)
    log_z = mpmath.loggamma(nu + 1) + nu * mpmath.log(2 / kappa) + mpmath.log(bessel)
    return kappa * mpmath.besseli(nu + 1, kappa) / bessel - log_z


def assert_solves(epsilon, d, n_bins, tolerance=1e-11):
    """The divergence rises with κ, so a change of sign across κ (1 ± tolerance) proves the relative error to be below it."""
    with mpmath.workdps(50):
        kappa, nats, step = 1 / mpmath.mpf(epsilon), mpmath.log(n_bins), mpmath.mpf(tolerance)
        assert exact_divergence(kappa * (1 - step), d) < nats < exact_divergence(kappa * (1 + step), d)


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("n_bins", BINS)
def test_it_solves_the_equation(d, n_bins):
    assert_solves(calibrate_temperature(d, n_bins), d, n_bins)


@given(d=dimensions, n_bins=bins)
def test_it_solves_the_equation_anywhere(d, n_bins):
    assert_solves(calibrate_temperature(d, n_bins), d, n_bins)


@pytest.mark.parametrize(("d", "n_bins"), [(2, 10**12), (10, 10**8), (64, 10**40), (1000, 10**100), (10**17, 10)])
def test_it_solves_the_equation_far_outside(d, n_bins):
    assert_solves(calibrate_temperature(d, n_bins), d, n_bins)


def test_the_oracle_is_sharp():
    epsilon = calibrate_temperature(64, 100)
    for wrong in (epsilon * (1 + 2e-11), epsilon * (1 - 2e-11)):
        with pytest.raises(AssertionError):
            assert_solves(wrong, 64, 100)


@pytest.mark.parametrize(("d", "n_bins"), [(2, 2), (2, 50), (3, 10), (4, 1000), (9, 100), (64, 100), (768, 100)])
def test_the_divergence_is_that_of_the_densities(d, n_bins):
    """The definition, Σ p log(p / u), on a fine grid of angles with the pole, of which u ∝ sin^(d - 2) and p ∝ u exp(κ cos)."""
    angle = (np.arange(200_000) + 0.5) * (math.pi / 200_000)
    log_u = log_softmax((d - 2) * np.log(np.sin(angle)))
    log_p = log_softmax(log_u + np.cos(angle) / calibrate_temperature(d, n_bins))
    assert np.exp(log_p) @ (log_p - log_u) == pytest.approx(math.log(n_bins), rel=1e-8)


def test_known_values():
    assert calibrate_temperature(64, 100) == pytest.approx(0.0370494750218, abs=1e-13)
    assert calibrate_temperature(768, 100) == pytest.approx(0.0117837599671, abs=1e-13)


@pytest.mark.parametrize("n_bins", BINS)
def test_three_dimensions_have_a_closed_form(n_bins):
    """κ coth κ - 1 - log(sinh κ / κ), written without the overflow of sinh."""

    def excess(kappa):
        log_sinh = kappa - math.log(2) + math.log1p(-math.exp(-2 * kappa))
        return kappa / math.tanh(kappa) - 1 - log_sinh + math.log(kappa) - math.log(n_bins)

    assert calibrate_temperature(3, n_bins) == pytest.approx(1 / brentq(excess, 1e-2, 1e6, xtol=1e-12), rel=1e-10)


@pytest.mark.parametrize("d", [2, 3, 5, 10, 19, 20, 21, 30, 64])
@pytest.mark.parametrize("factor", [0.5, 0.999999, 1.000001, 2])
def test_both_forms_hold_where_one_takes_over_from_the_other(d, factor):
    log_kappa = math.log(max(100, d * d / 4) * factor)
    with mpmath.workdps(50):
        expected = float(exact_divergence(mpmath.exp(log_kappa), d))
    assert temperature._series(math.exp(log_kappa), d) == pytest.approx(expected, rel=3e-13)
    assert temperature._hankel(log_kappa, d) == pytest.approx(expected, rel=1e-14)
    assert temperature._divergence(log_kappa, d) == pytest.approx(expected, rel=3e-13)


def test_the_long_series_is_left_to_the_expansion(monkeypatch):
    monkeypatch.setattr(temperature, "_series", lambda kappa, d: pytest.fail(f"a series at κ = {kappa}"))
    assert temperature._divergence(math.log(4e7), 2) == pytest.approx(0.5 * math.log(2 * math.pi * 4e7 / math.e), rel=1e-8)


@given(d=dimensions, n_bins=bins, more=st.integers(1, 1000))
def test_more_bins_are_colder(d, n_bins, more):
    for method in ("exact", "leading_order"):
        assert calibrate_temperature(d, n_bins + more, method=method) < calibrate_temperature(d, n_bins, method=method)


def warmth(d, n_bins):
    """The exact temperature over the leading order."""
    return calibrate_temperature(d, n_bins) / calibrate_temperature(d, n_bins, method="leading_order")


@given(d=dimensions, n_bins=bins, more=st.integers(1, 1000))
def test_the_leading_order_is_too_warm_and_less_so_in_more_dimensions(d, n_bins, more):
    assert warmth(d, n_bins) < warmth(d + more, n_bins) < 1


@given(d=dimensions, more=st.integers(1, 1000), n_bins=bins)
def test_two_bins_and_the_leading_order_are_colder_in_more_dimensions(d, more, n_bins):
    assert calibrate_temperature(d + more, 2) < calibrate_temperature(d, 2)
    leading = [calibrate_temperature(size, n_bins, method="leading_order") for size in (d, d + more)]
    assert leading[1] < leading[0]


def test_with_many_bins_the_temperature_peaks_at_some_dimension():
    found = [calibrate_temperature(d, 100) for d in range(2, 200)]
    steps = np.sign(np.diff(found))
    assert steps[0] == 1
    assert steps[-1] == -1
    assert np.count_nonzero(np.diff(steps)) == 1


def test_leading_order():
    assert calibrate_temperature(50, 10, method="leading_order") == pytest.approx(0.1 / math.sqrt(math.log(10)), rel=1e-15)
    assert warmth(10**9, 100) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("d", "share"), [(8, 0.471), (64, 0.838), (768, 0.983), (4096, 0.997)])
def test_the_nats_that_the_leading_order_reaches(d, share):
    log_kappa = -math.log(calibrate_temperature(d, 100, method="leading_order"))
    assert temperature._divergence(log_kappa, d) / math.log(100) == pytest.approx(share, abs=6e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, 100), InputError, "d must be an int of at least 2; got 1"),
        ((0, 100), InputError, "d must be an int of at least 2; got 0"),
        ((64, 1), InputError, "n_bins must be an int of at least 2; got 1"),
        ((64, -5), InputError, "n_bins must be an int of at least 2; got -5"),
        ((64.0, 100), InputTypeError, "d must be an int of at least 2; got 64.0"),
        ((64, 100.0), InputTypeError, "n_bins must be an int of at least 2; got 100.0"),
        ((True, 100), InputTypeError, "d must be an int of at least 2; got True"),
        ((64, "100"), InputTypeError, "n_bins must be an int of at least 2; got '100'"),
    ],
)
@pytest.mark.parametrize("method", ["exact", "leading_order"])
def test_what_cannot_be_calibrated_is_refused(arguments, error, message, method):
    calibrate_temperature(64, 100)  # a cache that took 64.0 for 64 would now answer
    with pytest.raises(error, match=f"^{message}$"):
        calibrate_temperature(*arguments, method=method)


@pytest.mark.parametrize("method", ["leading-order", "", None, ["exact"]])
def test_a_mistyped_method_lists_the_right_ones(method):
    with pytest.raises(InputError, match="method must be one of 'exact', 'leading_order'; got"):
        calibrate_temperature(64, 100, method=method)
