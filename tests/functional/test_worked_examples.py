"""The small examples that introductions to the entropy of language models use, with the digits that they should have.

Several values in print are rounded wrongly, or guessed. Each stands here next to what 50 digits and scipy give.
"""

from __future__ import annotations

import math

import mpmath
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, strategies as st

from tl_entropy.functional.lens.entropies import renyi_entropy, shannon_entropy, surprisal, varentropy

STEPS = [2.0, 1.0, 0.5, 0.3]  # the logits of the example that is worked step by step


def exact(weights, *, logits=False):
    """Entropy in nats of probabilities, or of the softmax of logits, with 50 digits."""
    with mpmath.workdps(50):
        terms = [mpmath.exp(mpmath.mpf(str(w))) if logits else mpmath.mpf(str(w)) for w in weights]
        shares = [term / mpmath.fsum(terms) for term in terms]
        return float(-mpmath.fsum(p * mpmath.log(p) for p in shares))


def double(values):
    return torch.tensor(values, dtype=torch.float64)


# (probabilities, value found in print, value, whether the print is its rounding)
OF_PROBABILITIES = [
    ([0.95, 0.02, 0.02, 0.01], "0.3", 0.251261, True),  # but a quarter: 0.25
    ([0.6, 0.2, 0.1, 0.1], "1.2", 1.088900, False),  # 1.1
    ([0.25, 0.25, 0.25, 0.25], "1.39", 1.386294, True),
]
OF_LOGITS = [
    ([10.0, 1.0, 0.5, 0.1], "0.2", 0.002566, False),  # near eighty times too large
    ([2.0, 2.1, 1.9, 2.0], "1.38", 1.383797, True),
    (STEPS, "1.144", 1.144266, True),
]


def rounds_to(value, printed):
    return abs(value - float(printed)) <= 0.5 * 10 ** -len(printed.split(".")[1])


@pytest.mark.parametrize(("probabilities", "printed", "value", "right"), OF_PROBABILITIES)
def test_of_probabilities(probabilities, printed, value, right):
    found = shannon_entropy(double(probabilities).log()).item()  # log-probabilities are logits, too
    assert found == pytest.approx(exact(probabilities), rel=1e-14)
    assert found == pytest.approx(scipy.stats.entropy(probabilities), rel=1e-14)
    assert found == pytest.approx(value, abs=5e-7)
    assert rounds_to(found, printed) == right


@pytest.mark.parametrize(("logits", "printed", "value", "right"), OF_LOGITS)
def test_of_logits(logits, printed, value, right):
    found = shannon_entropy(double(logits)).item()
    assert found == pytest.approx(exact(logits, logits=True), rel=1e-13)
    assert found == pytest.approx(scipy.stats.entropy(scipy.special.softmax(logits)), rel=1e-13)
    assert found == pytest.approx(value, abs=5e-7)
    assert rounds_to(found, printed) == right


# (what it is, value found in print, value, whether the print is its rounding); one index a token
STEP_BY_STEP = [
    ("log-sum-exp", 0, "2.57", 2.573064, True),
    ("log p", 0, "-0.57", -0.573064, True),
    ("log p", 1, "-1.57", -1.573064, True),
    ("log p", 2, "-2.07", -2.073064, True),
    ("log p", 3, "-2.27", -2.273064, True),
    ("p", 0, "0.565", 0.563795, False),  # from log p rounded to two digits, so the four add up to 1.002
    ("p", 1, "0.208", 0.207409, False),
    ("p", 2, "0.126", 0.125800, True),
    ("p", 3, "0.103", 0.102996, True),
    ("p log p", 0, "-0.322", -0.323091, False),
    ("p log p", 1, "-0.327", -0.326267, False),
    ("p log p", 2, "-0.261", -0.260791, True),
    ("p log p", 3, "-0.234", -0.234117, True),
    ("entropy", 0, "1.144", 1.144266, True),  # the errors cancel
    ("maximum", 0, "1.386", 1.386294, True),
    ("percentage of the maximum", 0, "82.5", 82.541320, True),
]


def steps():
    logits = double(STEPS)
    log_p = -surprisal(logits.expand(4, 4), torch.arange(4))
    entropy, maximum = shannon_entropy(logits), shannon_entropy(torch.zeros(4))
    return {
        "log-sum-exp": (logits - log_p)[:1],
        "log p": log_p,
        "p": log_p.exp(),
        "p log p": log_p.exp() * log_p,
        "entropy": entropy[None],
        "maximum": maximum[None],
        "percentage of the maximum": 100 * entropy[None] / maximum,
    }


def exact_steps():
    with mpmath.workdps(50):
        logits = [mpmath.mpf(str(value)) for value in STEPS]
        normalizer = mpmath.log(mpmath.fsum(map(mpmath.exp, logits)))
        log_p = [value - normalizer for value in logits]
        terms = [mpmath.exp(value) * value for value in log_p]
        found = {
            "log-sum-exp": [normalizer],
            "log p": log_p,
            "p": [mpmath.exp(value) for value in log_p],
            "p log p": terms,
            "entropy": [-mpmath.fsum(terms)],
            "maximum": [mpmath.log(4)],
            "percentage of the maximum": [-100 * mpmath.fsum(terms) / mpmath.log(4)],
        }
        return {name: [float(value) for value in values] for name, values in found.items()}


@pytest.mark.parametrize(("name", "index", "printed", "value", "right"), STEP_BY_STEP)
def test_step_by_step(name, index, printed, value, right):
    found = steps()[name][index].item()
    assert found == pytest.approx(exact_steps()[name][index], rel=1e-14)
    assert found == pytest.approx(value, abs=5e-7)
    assert rounds_to(found, printed) == right


def test_the_steps_fit_together():
    found = steps()
    assert found["p"].sum().item() == pytest.approx(1, abs=1e-15), "not 1.002"
    assert found["entropy"].item() == pytest.approx(-found["p log p"].sum().item(), rel=1e-15)
    assert found["log-sum-exp"].item() == pytest.approx(torch.logsumexp(double(STEPS), 0).item(), rel=1e-15)


# What the same introductions claim.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_large_logits_are_no_trouble(dtype):
    logits = torch.tensor([1000.0, 992.0, 984.0], dtype=dtype)  # each a bfloat16
    naive = logits.exp() / logits.exp().sum()
    assert naive.isnan().any(), "e^1000 is infinite even in float64"
    assert shannon_entropy(logits).item() == pytest.approx(exact([0, -8, -16], logits=True), rel=1e-12)


def test_a_constant_changes_nothing():
    found = shannon_entropy(double([[1000, 999, 998], [2, 1, 0], [-1000, -1001, -1002]]))
    assert found.tolist() == pytest.approx([0.832396] * 3, abs=5e-7)
    assert found.tolist() == pytest.approx([exact([2, 1, 0], logits=True)] * 3, rel=1e-14)


@pytest.mark.parametrize(("temperature", "value"), [(2.0, 1.326121), (1.0, 1.144266), (0.5, 0.635453)])
def test_temperature_by_hand(temperature, value):
    found = shannon_entropy(double(STEPS) / temperature).item()
    assert found == pytest.approx(value, abs=5e-7)
    assert found == pytest.approx(exact([step / temperature for step in STEPS], logits=True), rel=1e-14)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=20), st.floats(0.05, 20), st.floats(1.001, 20))
def test_a_higher_temperature_never_lowers_entropy(logits, temperature, factor):
    cold, warm = double(logits) / temperature, double(logits) / (temperature * factor)
    gain = (shannon_entropy(warm) - shannon_entropy(cold)).item()
    assert gain >= -1e-12
    if varentropy(cold) > 1e-6:  # dH / d log T; 0 if all that is likely is equally likely
        assert gain > 0


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=30))
def test_entropy_is_never_negative_nor_above_the_maximum(logits):
    found = shannon_entropy(double(logits)).item()
    assert 0 <= found <= math.log(len(logits)) + 1e-12


@given(st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=30))
def test_no_log_probability_is_positive(weights):
    log_p = -surprisal(double(weights).log().expand(len(weights), -1), torch.arange(len(weights)))
    assert (log_p <= 1e-15).all()
    assert shannon_entropy(double(weights).log()).item() == pytest.approx(-(log_p.exp() * log_p).sum().item(), abs=1e-12)


def test_certainty_is_zero_and_ignorance_the_logarithm_of_the_vocabulary():
    assert shannon_entropy(double([0.0, -math.inf, -math.inf])).item() == 0
    assert shannon_entropy(torch.zeros(50257)).item() == pytest.approx(math.log(50257), rel=1e-14)
    assert [round(math.log(p), 2) for p in (1.0, 0.5, 0.1)] == [0, -0.69, -2.3]


def test_one_entropy_a_position():
    """Over the last dimension alone: [batch, seq, vocab] gives [batch, seq], and no two positions are mixed."""
    logits = torch.randn(2, 10, 50_000, generator=torch.Generator().manual_seed(0))
    found = shannon_entropy(logits)
    assert found.shape == (2, 10)
    expected = scipy.stats.entropy(scipy.special.softmax(logits.double().numpy(), -1), axis=-1)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=0)
    assert shannon_entropy(logits.movedim(-1, 0), dim=0).equal(found)
    assert found.sum() > math.log(50_000), "what a sum over all dimensions would give is no entropy"


def test_the_order_of_the_examples_is_theirs_for_every_order_of_renyi():
    """Confident, medium, uniform: 95 %, 60 % and 25 % for the likeliest of four tokens."""
    rows = double([probabilities for probabilities, *_ in OF_PROBABILITIES]).log()
    for order in (0.5, 1, 2, math.inf):
        confident, medium, uniform = renyi_entropy(rows, order).tolist()
        assert confident < medium < uniform
    assert renyi_entropy(rows, 0).tolist() == pytest.approx([math.log(4)] * 3, rel=1e-15)
