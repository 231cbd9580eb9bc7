"""Maps of profiles: principal coordinates against PCA and eigenvalues, t-SNE and UMAP on far groups, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tl_entropy.analyses.profiles.distances import pairwise_distances
from tl_entropy.analyses.profiles.embedding import profile_embedding
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results import LensEntropy, Provenance
from tl_entropy.results.profiles.distances import PairwiseDistances
from tl_entropy.sites import Site

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", versions={}, created="then")


def given_distances(matrix, metric="euclidean", **changes):
    n = len(matrix)
    parts = {
        "distances": torch.as_tensor(matrix, dtype=torch.float64), "names": tuple(f"run {i}" for i in range(n)),
        "groups": tuple("ab"[i % 2] for i in range(n)), "metric": metric, "aggregate": None, "n_bins": None, "order": 2.0,
        "tokens": (9,) * n, "depths": (3,) * n, "models": ("tiny",) * n, "provenance": ORIGIN,
    }  # fmt: skip
    return PairwiseDistances(**{**parts, **changes})


def apart(points):
    points = np.asarray(points, dtype=float)
    return np.sqrt(((points[:, None] - points) ** 2).sum(-1))


def two_groups(n):
    rng = np.random.default_rng(0)
    return given_distances(apart(rng.normal(0, 0.1, (n, 3)) + 10 * (np.arange(n) % 2)[:, None]))


def gap(coordinates):
    """Whether even and odd points are apart: their distance over the widest of the two groups."""
    even, odd = (coordinates[i::2].numpy() for i in (0, 1))
    return np.linalg.norm(even.mean(0) - odd.mean(0)) / max(apart(even).max(), apart(odd).max())


def test_principal_coordinates_are_those_of_pca_of_the_curves():
    decomposition = pytest.importorskip("sklearn.decomposition")
    n, depth, tokens = 12, 5, 6
    values = torch.rand(n * tokens, depth, 1, generator=torch.Generator().manual_seed(0)) * 4 + torch.arange(5.0)[:, None]
    sites = (Site("embed", -1), *(Site("resid_post", layer) for layer in range(depth - 1)))
    whole = LensEntropy(
        values, torch.arange(n).repeat_interleave(tokens), torch.arange(tokens).repeat(n),
        torch.zeros(n * tokens, dtype=torch.long), sites, (1.0,), {0: "a"}, ORIGIN,
    )  # fmt: skip
    found = profile_embedding(pairwise_distances(whole, metric="euclidean"))
    curves = values[:, :, 0].double().reshape(n, tokens, depth).mean(1).numpy()
    pca = decomposition.PCA(n_components=2)
    scores = pca.fit_transform(curves) / np.sqrt(depth)
    scores *= np.sign((scores * found.coordinates.numpy()).sum(0))
    np.testing.assert_allclose(found.coordinates, scores, atol=1e-12)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-10)
    assert found.negative == pytest.approx(0, abs=1e-12)
    assert (found.method, found.metric, found.order, found.seed, found.settings) == ("pca", "euclidean", 1.0, None, {})
    assert found.names[:2] == ("document 0", "document 1")


def test_points_of_a_plane_come_back():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(9, 2)) * (3, 1)
    found = profile_embedding(given_distances(apart(points)))
    np.testing.assert_allclose(apart(found.coordinates), apart(points), atol=1e-10)
    assert sum(found.explained) == pytest.approx(1, abs=1e-10)
    assert found.explained[0] > found.explained[1]
    np.testing.assert_allclose(found.coordinates.mean(0), 0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_entry_farthest_from_zero_is_positive(seed):
    points = np.random.default_rng(seed).normal(size=(7, 3))
    for turned in (points, -points):
        found = profile_embedding(given_distances(apart(turned))).coordinates
        farthest = found.gather(0, found.abs().argmax(0)[None])
        assert bool((farthest > 0).all())
    two = profile_embedding(given_distances([[0, 3], [3, 0]])).coordinates
    np.testing.assert_allclose(two, [[1.5, 0], [-1.5, 0]], atol=1e-7)


def test_the_root_of_the_jsd_is_taken():
    points = np.random.default_rng(2).normal(size=(8, 4))
    expected = profile_embedding(given_distances(apart(points)))
    found = profile_embedding(given_distances(apart(points) ** 2, "jsd"))
    torch.testing.assert_close(found.coordinates, expected.coordinates)
    assert profile_embedding(given_distances(apart(points) ** 2, "wasserstein")).explained != expected.explained


def test_distances_of_no_euclidean_space_say_so():
    star = np.full((5, 5), 2.0) - 2 * np.eye(5)  # a centre at 1 from four points that are at 2 from each other
    star[0], star[:, 0] = 1.0, 1.0
    star[0, 0] = 0.0
    found = profile_embedding(given_distances(star, "wasserstein"))
    centred = np.eye(5) - 1 / 5
    values = np.sort(np.linalg.eigvalsh(-centred @ star**2 @ centred / 2))[::-1]
    assert values[-1] < -0.1
    total = np.abs(values).sum()
    np.testing.assert_allclose(found.explained, values[:2] / total, rtol=1e-10)
    assert found.negative == pytest.approx(-values[values < 0].sum() / total, rel=1e-10)
    assert "negative" in repr(found)


def test_tsne_keeps_far_groups_apart():
    pytest.importorskip("sklearn")
    result = two_groups(20)
    found = profile_embedding(result, method="tsne", seed=3)
    assert gap(found.coordinates) > 1.5
    assert found.settings == {"perplexity": 19 / 3}
    assert (found.seed, found.explained, found.negative) == (3, None, None)
    assert found.coordinates.dtype == torch.float64
    assert torch.equal(found.coordinates, profile_embedding(result, method="tsne", seed=3).coordinates)
    assert not torch.equal(found.coordinates, profile_embedding(result, method="tsne", seed=4).coordinates)
    other = profile_embedding(result, method="tsne", perplexity=4)
    assert other.settings == {"perplexity": 4.0}
    assert profile_embedding(two_groups(4), method="tsne").settings == {"perplexity": 1.0}


@pytest.mark.slow  # UMAP compiles itself
def test_umap_keeps_far_groups_apart():
    pytest.importorskip("umap")
    threads = torch.get_num_threads()
    torch.set_num_threads(7)
    found = profile_embedding(two_groups(20), method="umap", n_neighbors=5)
    assert torch.get_num_threads() == 7
    torch.set_num_threads(threads)
    assert gap(found.coordinates) > 1.5
    assert found.settings == {"n_neighbors": 5, "min_dist": 0.1}
    assert found.seed == 0
    few = profile_embedding(two_groups(4), method="umap")
    assert few.settings["n_neighbors"] == 3
    assert bool(few.coordinates.isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "isomap"}, "method must be one of 'pca', 'tsne', 'umap'"),
        ({"seed": 1}, "seed is not an option of method='pca', which has none"),
        ({"perplexity": 5}, "perplexity is not an option of method='pca'"),
        ({"method": "tsne", "n_neighbors": 5}, "n_neighbors is not an option of method='tsne', which has seed, perplexity"),
        ({"method": "tsne", "min_dist": 0.5}, "min_dist is not an option"),
        ({"method": "umap", "perplexity": 5}, "perplexity is not an option of method='umap'"),
        ({"method": "tsne", "perplexity": 0.5}, "perplexity must be a finite number of at least 1; got 0.5"),
        ({"method": "tsne", "perplexity": float("nan")}, "perplexity must be a finite number of at least 1; got nan"),
        ({"method": "umap", "n_neighbors": 1}, "n_neighbors must be an int of at least 2"),
        ({"method": "umap", "min_dist": 1.5}, "min_dist must be a finite number from 0 to 1"),
        ({"method": "umap", "seed": -1}, "seed must be an int from 0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        profile_embedding(two_groups(6), **options)


@pytest.mark.parametrize("value", ["a", None, True, [1.0]])
@pytest.mark.parametrize(
    ("option", "method", "span"), [("perplexity", "tsne", "of at least 1"), ("min_dist", "umap", "from 0 to 1")]
)
def test_options_that_are_no_numbers(option, method, span, value):
    with pytest.raises(InputTypeError, match=f"{option} must be a finite number {span}; got"):
        profile_embedding(two_groups(6), method=method, **{option: value})


def test_the_numbers_of_tokens_go_along():
    result = given_distances(apart(np.arange(6.0).reshape(3, 2)), "wasserstein", tokens=(8, 200, 9))
    found = profile_embedding(result)
    assert found.tokens == (8, 200, 9)
    assert "profiles have 8 to 200 tokens" in repr(found)


def test_distances_that_are_refused():
    with pytest.raises(InputTypeError, match="what pairwise_distances returned; got ndarray"):
        profile_embedding(np.zeros((3, 3)))
    with pytest.raises(InputError, match="all 0"):
        profile_embedding(given_distances(np.zeros((3, 3))))
    for method in ("tsne", "umap"):
        with pytest.raises(InputError, match="at least 4 profiles; got 3"):
            profile_embedding(two_groups(3), method=method)


@pytest.mark.parametrize(("method", "library"), [("tsne", "sklearn.manifold"), ("umap", "umap")])
def test_a_missing_library_is_named_with_its_extra(method, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"pip install 'tl-entropy\[clusters\]'"):
        profile_embedding(two_groups(6), method=method)
