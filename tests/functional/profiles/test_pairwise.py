"""All pairs at once against the functions of one pair, and against the published package."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.profiles.curves import curve_fisher_rao_distance, histogram_jsd, srvf_distance, wasserstein_distance
from tl_entropy.functional.profiles.pairwise import pairwise_curves, pairwise_samples
from tl_entropy.functional.profiles.samples import sorted_distance

SINGLE = {
    "euclidean": lambda a, b: (a - b).square().mean(-1).sqrt(),
    "fisher_rao": curve_fisher_rao_distance,
    "srvf": srvf_distance,
    "wasserstein": wasserstein_distance,
    "jsd": histogram_jsd,
}
curve_metrics = pytest.mark.parametrize("metric", ["euclidean", "fisher_rao", "srvf"])
sample_metrics = pytest.mark.parametrize("metric", ["wasserstein", "jsd"])


def uniform(*shape, seed=0, scale=10.0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def pair_by_pair(profiles, metric, **options):
    return torch.stack(
        [torch.stack([SINGLE[metric](a.double().T, b.double().T, **options) for b in profiles]) for a in profiles]
    )


def check_matrix(matrix):
    assert matrix.dtype == torch.float64
    assert torch.equal(matrix, matrix.transpose(0, 1))
    assert (matrix.diagonal(dim1=0, dim2=1) == 0).all()
    assert (matrix >= 0).all()


@curve_metrics
def test_curves_agree_with_the_functions_of_a_pair(metric):
    curves = uniform(9, 13)
    curves[4] = curves[2] * 2
    found = pairwise_curves(curves, metric)
    check_matrix(found)
    torch.testing.assert_close(found, SINGLE[metric](curves.double(), curves.double()[:, None]), rtol=1e-12, atol=1e-15)


@curve_metrics
def test_near_curves_keep_their_digits(metric):
    curves = uniform(40, 30).double()
    curves = torch.cat([curves, curves + 1e-7 * uniform(40, 30, seed=1)])  # many, as where products would be taken
    expected = SINGLE[metric](curves[0], curves[40]).item()
    assert expected > 0
    assert pairwise_curves(curves, metric)[0, 40].item() == pytest.approx(expected, rel=1e-9)


@curve_metrics
@given(st.integers(2, 8).flatmap(lambda depth: arrays(np.float64, (3, depth), elements=st.floats(0, 10))))
def test_curves_obey_the_triangle_inequality(metric, curves):
    curves[:, 0] += 1.0  # not 0 everywhere
    found = pairwise_curves(torch.from_numpy(curves), metric)
    check_matrix(found)
    assert found[0, 2] <= found[0, 1] + found[1, 2] + 1e-12


@sample_metrics
@pytest.mark.parametrize("tokens", [[16] * 7, [5, 1, 12, 5, 40, 3, 12], [30, 2, 2]], ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_samples_agree_with_the_functions_of_a_pair(metric, tokens, ties):
    profiles = [uniform(n, 6, seed=number) + number / 3 for number, n in enumerate(tokens)]
    if ties:
        profiles = [profile.round() for profile in profiles]
        profiles[1] = torch.full_like(profiles[1], 3.0)
    found = pairwise_samples(profiles, metric)
    check_matrix(found)
    torch.testing.assert_close(found, pair_by_pair(profiles, metric), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_bins", [1, 2, 17, 200])
def test_bins_agree_with_the_functions_of_a_pair(n_bins):
    profiles = [uniform(n, 3, seed=n) for n in (8, 20, 9)]
    profiles.append(torch.cat([profiles[0], profiles[1]]))
    found = pairwise_samples(profiles, "jsd", n_bins=n_bins)
    torch.testing.assert_close(found, pair_by_pair(profiles, "jsd", n_bins=n_bins), rtol=0, atol=1e-13)
    assert found.max() <= math.log(2)


@sample_metrics
@pytest.mark.parametrize("chunk", [1, 100, 1000])
def test_samples_do_not_depend_on_how_they_are_cut(metric, chunk, monkeypatch):
    profiles = [uniform(n, 4, seed=number) for number, n in enumerate([9, 30, 9, 1, 17, 30, 8])]
    whole = pairwise_samples(profiles, metric)
    monkeypatch.setattr("tl_entropy.functional.profiles.pairwise._CHUNK", chunk)
    torch.testing.assert_close(pairwise_samples(profiles, metric), whole, rtol=0, atol=1e-14)


def test_values_on_edges_are_binned_alike():
    # The first has values on every second edge, as near as float64 has them; the others are in the bins above or below these.
    edges = torch.from_numpy(np.linspace(2.0 - 1e-6, 9.0 + 1e-6, 51))[1:-1:2]
    ends = torch.tensor([2.0, 9.0], dtype=torch.float64)
    profiles = [torch.cat([ends, edges + shift])[:, None] for shift in (0.0, 0.07, -0.07)]
    found = pairwise_samples(profiles, "jsd")
    torch.testing.assert_close(found, pair_by_pair(profiles, "jsd"), rtol=0, atol=1e-13)
    assert found[0, 1] == 0
    assert found[0, 2] > 0.6


def test_sorted_values_that_are_filled_up_count_for_nothing():
    one, many = uniform(6).double().sort().values, uniform(3, 6, seed=1).double().sort(-1).values
    sizes = torch.tensor([2, 6, 4])
    filled = torch.where(torch.arange(6) < sizes[:, None], many, math.inf)
    expected = torch.stack([wasserstein_distance(one, row[:size]) for row, size in zip(many, sizes, strict=True)])
    torch.testing.assert_close(sorted_distance(one, filled, sizes), expected, rtol=1e-13, atol=0)


@sample_metrics
def test_one_profile_is_at_0_from_itself(metric):
    assert torch.equal(pairwise_samples([uniform(5, 3)], metric), torch.zeros(1, 1, 3, dtype=torch.float64))
    assert torch.equal(pairwise_curves(uniform(1, 3), "srvf"), torch.zeros(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("metric", ["jsd", "wasserstein", "fisher_rao", "srvf"])
def test_pairs_agree_with_the_published_package(metric):
    package = pytest.importorskip("entropy_profiler")
    entropies = [uniform(n, 8, seed=n) for n in (24, 40, 33, 24)]
    profiles = [
        package.EntropyProfile(entropy, torch.zeros(len(entropy), dtype=torch.long), list(range(8)), 1.0, "by hand")
        for entropy in entropies
    ]
    expected = torch.from_numpy(package.pairwise_distances(profiles, metric=metric))
    if metric in ("jsd", "wasserstein"):
        found = pairwise_samples(entropies, metric).mean(-1)
    else:
        found = pairwise_curves(torch.stack([entropy.mean(0) for entropy in entropies]), metric)
    if metric == "jsd":
        found = found / math.log(2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12)


@curve_metrics
def test_refuse_wrong_curves(metric):
    with pytest.raises(InputError, match=r"curves must be \[profile, depth\] .* got the shape \[2, 3, 4\]"):
        pairwise_curves(uniform(2, 3, 4), metric)
    with pytest.raises(InputError, match="at least one profile"):
        pairwise_curves(uniform(0, 4), metric)
    with pytest.raises(NonFiniteError, match=r"curves must be finite; got inf at \[0, 1\]"):
        pairwise_curves(torch.tensor([[1.0, math.inf]]), metric)
    with pytest.raises(InputTypeError, match="curves must be a floating-point tensor"):
        pairwise_curves([[1.0, 2.0]], metric)


def test_refuse_unknown_metrics_and_bins():
    with pytest.raises(InputError, match="metric must be one of 'euclidean', 'fisher_rao', 'srvf'; got 'jsd'"):
        pairwise_curves(uniform(2, 4), "jsd")
    with pytest.raises(InputError, match="metric must be one of 'wasserstein', 'jsd'; got 'srvf'"):
        pairwise_samples([uniform(2, 4)], "srvf")
    with pytest.raises(InputError, match="n_bins must be an int of at least 1; got 0"):
        pairwise_samples([uniform(2, 4)], "jsd", n_bins=0)
    with pytest.raises(InputError, match=r"curves must hold curves of at least 0 .* curve \[1\]"):
        pairwise_curves(torch.tensor([[1.0, 2.0], [1.0, -1.0]]), "fisher_rao")
    with pytest.raises(InputError, match="at least 2 layer"):
        pairwise_curves(uniform(3, 1), "srvf")


@sample_metrics
def test_refuse_wrong_profiles(metric):
    good = uniform(5, 3)
    with pytest.raises(InputError, match="profiles must hold at least one profile"):
        pairwise_samples([], metric)
    with pytest.raises(InputError, match=r"same depth; got 3 and, for profiles\[1\], 4: use common_depth"):
        pairwise_samples([good, uniform(5, 4)], metric)
    with pytest.raises(InputError, match=r"profiles\[1\] must be \[token, depth\]"):
        pairwise_samples([good, uniform(3)], metric)
    with pytest.raises(InputError, match=r"profiles\[1\] must be \[token, depth\] with at least one token"):
        pairwise_samples([good, uniform(0, 3)], metric)
    with pytest.raises(NonFiniteError, match=r"profiles\[1\] must be finite; got nan at \[4, 2\]"):
        pairwise_samples([good, torch.where(torch.arange(15).reshape(5, 3) == 14, math.nan, good)], metric)
    with pytest.raises(InputTypeError, match=r"profiles\[0\] must be a floating-point tensor"):
        pairwise_samples([good.long()], metric)
