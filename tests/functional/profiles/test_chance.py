"""Chance levels against every deal and every exchange of small samples, scipy's laws, and simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.profiles.chance import adjusted_jsd, histogram_jsd_chance, wasserstein_chance
from tl_entropy.functional.profiles.curves import histogram_jsd, wasserstein_distance
from tl_entropy.functional.profiles.samples import jsd_terms

PAIRS = [(wasserstein_distance, wasserstein_chance), (histogram_jsd, histogram_jsd_chance)]
both = pytest.mark.parametrize(("distance", "chance"), PAIRS, ids=["wasserstein", "jsd"])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every_deal(a, b):
    pooled = torch.cat([a, b])
    for chosen in itertools.combinations(range(len(pooled)), len(a)):
        first = torch.zeros(len(pooled), dtype=torch.bool)
        first[list(chosen)] = True
        yield pooled[first], pooled[~first]


def every_exchange(a, b):
    for swapped in itertools.product([False, True], repeat=len(a)):
        mask = torch.tensor(swapped)
        yield torch.where(mask, b, a), torch.where(mask, a, b)


def mean_over(deals, distance, **options):
    dealt = [torch.stack(side) for side in zip(*deals, strict=True)]
    return distance(*dealt, **options).mean().item()


def values(n, kind, seed):
    """Samples with and without ties, on one side and on both."""
    drawn = normal(n, seed=seed)
    return {"plain": drawn, "ties": drawn.round(), "equal": drawn * 0 + 2, "coarse": (drawn / 2).round()}[kind]


@both
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (4, 1), (2, 3), (4, 4), (6, 3), (5, 7)])
@pytest.mark.parametrize("kind", ["plain", "ties", "equal"])
def test_agrees_with_every_deal(distance, chance, n, m, kind):
    a, b = values(n, kind, 1), values(m, kind, 2) + 0.5
    assert chance(a, b).item() == pytest.approx(mean_over(every_deal(a, b), distance), rel=1e-12, abs=1e-14)


@both
@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("kind", ["plain", "ties", "equal", "coarse"])
def test_agrees_with_every_exchange(distance, chance, n, kind):
    a, b = values(n, kind, 3), values(n, kind, 4) + (0.2 if kind == "plain" else 0)
    expected = mean_over(every_exchange(a, b), distance)
    assert chance(a, b, paired=True).item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("options", [{"n_bins": 3}, {"n_bins": 1}, {"n_bins": 8, "limits": (-5.0, 4.5)}])
def test_the_bins_are_those_of_the_divergence(paired, options):
    a, b = values(6, "plain", 5), values(6, "plain", 6)
    deals = every_exchange(a, b) if paired else every_deal(a, b)
    # The deals as a whole have the pooled limits of the pair, and so has each of them.
    expected = mean_over(deals, histogram_jsd, **options)
    assert histogram_jsd_chance(a, b, paired=paired, **options).item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


small = st.lists(st.integers(-3, 3), min_size=1, max_size=5).map(lambda drawn: torch.tensor(drawn, dtype=torch.float64))


@both
@given(small, small)
def test_agrees_with_every_deal_of_any_small_samples(distance, chance, a, b):
    assert chance(a, b).item() == pytest.approx(mean_over(every_deal(a, b), distance), rel=1e-12, abs=1e-13)
    a, b = a[: len(b)], b[: len(a)]
    assert chance(a, b, paired=True).item() == pytest.approx(mean_over(every_exchange(a, b), distance), rel=1e-12, abs=1e-13)


@pytest.mark.thinned
@pytest.mark.parametrize(("n", "m"), [(40, 60), (200, 80), (5, 500)])
def test_wasserstein_agrees_with_the_hypergeometric_law_of_scipy(n, m):
    a, b = normal(n, seed=7), normal(m, seed=8)
    gaps = np.diff(np.sort(torch.cat([a, b]).numpy()))
    expected = 0.0
    for below, gap in enumerate(gaps, start=1):
        k = np.arange(max(0, below - m), min(n, below) + 1)
        expected += gap * (scipy.stats.hypergeom(n + m, n, below).pmf(k) * np.abs(k / n - (below - k) / m)).sum()
    assert wasserstein_chance(a, b).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (300, 100), (5, 2000), (3000, 4000)])
def test_jsd_agrees_with_the_hypergeometric_law_of_scipy(n, m):
    a, b = normal(n, seed=9), normal(m, seed=10)
    pooled = torch.cat([a, b]).numpy()
    counts = np.histogram(pooled, bins=11, range=(pooled.min() - 1e-6, pooled.max() + 1e-6))[0]
    expected = 0.0
    for count in counts.tolist():
        k = np.arange(max(0, count - m), min(n, count) + 1)
        terms = jsd_terms(torch.from_numpy(k / n), torch.from_numpy((count - k) / m)).numpy()
        expected += (scipy.stats.hypergeom(n + m, n, count).pmf(k) * terms).sum()
    assert histogram_jsd_chance(a, b, n_bins=11).item() == pytest.approx(expected, rel=1e-9)


def test_paired_agrees_with_the_binomial_law_of_scipy():
    a = normal(2000, seed=11)
    b = a + 0.3 * normal(2000, seed=12)
    gaps = np.diff(np.sort(torch.cat([a, b]).numpy()))
    ends = np.sort(torch.cat([a, b]).numpy())[:-1]
    lower, upper = np.sort(a.minimum(b).numpy()), np.sort(a.maximum(b).numpy())
    straddling = np.searchsorted(lower, ends, "right") - np.searchsorted(upper, ends, "right")
    mean = {}
    for s in set(straddling.tolist()):
        k = np.arange(s + 1)
        mean[s] = (scipy.stats.binom(s, 0.5).pmf(k) * np.abs(2 * k - s)).sum() / 2000
    expected = sum(gap * mean[s] for gap, s in zip(gaps, straddling.tolist(), strict=True))
    assert wasserstein_chance(a, b, paired=True).item() == pytest.approx(expected, rel=1e-9)

    low, high = ends[0] - 1e-6, max(a.max().item(), b.max().item()) + 1e-6
    edges = np.linspace(low, high, 21)
    in_a, in_b = (np.searchsorted(edges, x.numpy(), "right") - 1 for x in (a, b))
    expected = 0.0
    for number in range(20):
        fixed, s = ((in_a == number) & (in_b == number)).sum(), ((in_a == number) != (in_b == number)).sum()
        k = np.arange(s + 1)
        terms = jsd_terms(torch.from_numpy((fixed + k) / 2000), torch.from_numpy((fixed + s - k) / 2000)).numpy()
        expected += (scipy.stats.binom(s, 0.5).pmf(k) * terms).sum()
    assert histogram_jsd_chance(a, b, n_bins=20, paired=True).item() == pytest.approx(expected, rel=1e-9)


@both
@pytest.mark.parametrize("paired", [False, True])
def test_is_the_mean_over_simulated_samples_of_one_law(distance, chance, paired):
    a, b = normal(1500, 8, seed=13), normal(1500, 8, seed=14)
    if paired:
        b = (a + b) / math.sqrt(2)
    differences = distance(a, b) - chance(a, b, paired=paired)
    assert abs(differences.mean()) < 4 * differences.std() / math.sqrt(len(differences))


def test_the_jsd_of_equal_laws_is_large_at_8_tokens_and_the_adjusted_one_is_0():
    a, b = normal(3000, 8, seed=15), normal(3000, 8, seed=16)
    found, chance = histogram_jsd(a, b), histogram_jsd_chance(a, b)
    assert found.mean().item() / math.log(2) == pytest.approx(0.855, abs=0.01)
    assert chance.mean().item() / math.log(2) == pytest.approx(0.855, abs=0.01)
    adjusted = adjusted_jsd(found, chance)
    assert abs(adjusted.nanmean()) < 4 * adjusted[adjusted.isfinite()].std() / math.sqrt(len(adjusted))


@both
def test_pairs_that_hardly_differ_have_less_chance_than_independent_ones(distance, chance):
    a = normal(64, seed=17)
    b = a + 1e-3 * normal(64, seed=18)
    assert chance(a, b, paired=True) < chance(a, b) / 10


@both
def test_90_000_values_are_no_trouble(distance, chance):
    a, b = normal(2, 45_000, seed=19), normal(2, 45_000, seed=20)
    for paired in (False, True):
        level = chance(a, b, paired=paired)
        assert torch.isfinite(level).all()
        assert (0.1 * distance(a, b) < level).all()
        assert (level < 10 * distance(a, b)).all()
    lopsided = torch.cat([a, torch.full((2, 1), 1e6)], -1)  # all but one value in one bin
    assert torch.isfinite(chance(lopsided, b)).all()


@both
@pytest.mark.parametrize("paired", [False, True])
def test_leading_axes_broadcast(distance, chance, paired):
    a, b = normal(5, 1, 6, seed=21), normal(4, 6, seed=22)
    found = chance(a, b, paired=paired)
    assert found.shape == distance(a, b).shape == (5, 4)
    assert found.dtype == torch.float64
    expected = torch.stack([torch.stack([chance(x[0], y, paired=paired) for y in b]) for x in a])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@both
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_does_not_depend_on_how_it_is_cut(distance, chance, chunk, monkeypatch):
    a, b = normal(3, 40, seed=23), normal(3, 40, seed=24)
    whole = [chance(a, b, paired=paired) for paired in (False, True)]
    monkeypatch.setattr("tl_entropy.functional.profiles.chance._CHUNK", chunk)
    for paired in (False, True):
        torch.testing.assert_close(chance(a, b, paired=paired), whole[paired], rtol=1e-13, atol=0)


@both
@pytest.mark.parametrize("paired", [False, True])
def test_no_samples_have_no_chance(distance, chance, paired):
    for lead in ((0,), (2, 0)):
        a, b = torch.zeros(*lead, 5), torch.zeros(*lead, 5)
        found = chance(a, b, paired=paired)
        assert (found.shape, found.dtype) == (distance(a, b).shape, torch.float64)
        assert found.shape == lead
    assert chance(torch.zeros(2, 0, 5), torch.zeros(2, 1, 5), paired=paired).shape == (2, 0)


def test_adjusted_jsd_closed_forms():
    most = math.log(2)
    value = torch.tensor([0.0, 0.2, 0.4, most], dtype=torch.float64)
    found = adjusted_jsd(value, torch.tensor(0.2))
    assert found[1].item() == pytest.approx(0, abs=1e-8)  # 0.2 in float32
    assert found[3].item() == pytest.approx(most)
    assert found[0].item() == pytest.approx(-0.2 * most / (most - 0.2))
    torch.testing.assert_close(adjusted_jsd(value, torch.zeros(1)), value)
    assert adjusted_jsd(value, torch.tensor(most - 1e-10, dtype=torch.float64)).isnan().all()
    assert adjusted_jsd(value, torch.tensor(most - 1e-8, dtype=torch.float64)).isfinite().all()
    assert adjusted_jsd(value[3], value[3]).shape == ()
    assert histogram_jsd_chance(torch.zeros(1), torch.ones(1)).item() == most  # two values that differ tell nothing


def test_refusals_of_adjusted_jsd():
    with pytest.raises(InputError, match=r"value must be nats from 0 to log 2; got values from 1 to 1: convert bits"):
        adjusted_jsd(torch.ones(2), torch.zeros(2))
    with pytest.raises(InputError, match="chance must be nats"):
        adjusted_jsd(torch.zeros(2), torch.tensor([-0.1, 0.2]))
    with pytest.raises(NonFiniteError, match="chance must be finite"):
        adjusted_jsd(torch.zeros(2), torch.tensor([math.nan, 0.2]))
    with pytest.raises(InputTypeError, match="value must be a floating-point tensor"):
        adjusted_jsd(0.3, torch.zeros(2))
    with pytest.raises(InputError, match=r"value and chance must have leading axes that broadcast; got \[3\] and \[2\]"):
        adjusted_jsd(torch.zeros(3), torch.zeros(2))


@both
def test_refusals(distance, chance):
    a, b = normal(2, 5, seed=25), normal(2, 4, seed=26)
    with pytest.raises(InputError, match="as many values to be pairs; got 5 and 4"):
        chance(a, b, paired=True)
    with pytest.raises(InputError, match="b must hold at least"):
        chance(a, b[:, :0])
    with pytest.raises(InputError, match="leading axes that broadcast"):
        chance(a, normal(3, 4))
    with pytest.raises(InputTypeError, match="a must be a floating-point tensor"):
        chance(torch.ones(5, dtype=torch.long), b)
    with pytest.raises(NonFiniteError, match=r"b must be finite; got nan at \[1, 0\]"):
        chance(a, torch.tensor([[0.0], [math.nan]]))
