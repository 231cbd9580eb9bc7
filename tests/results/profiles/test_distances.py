"""Results of profile distances: units, chance, clusters, tables and files."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.cluster import hierarchy

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results import Provenance, load
from tl_entropy.results.profiles.distances import POWERS, PairwiseDistances, ProfileDistance
from tl_entropy.results.profiles.embedding import ProfileEmbedding

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", settings={"lens": "logit lens"}, versions={}, created="then")
LOG2 = math.log(2)
UNITS = {  # in nats, in bits, and what a value in nats is multiplied by
    "jsd": ("nats", "bits", 1 / LOG2), "wasserstein": ("nats", "bits", 1 / LOG2), "euclidean": ("nats", "bits", 1 / LOG2),
    "srvf": ("√nats", "√bits", LOG2**-0.5), "elastic_srvf": ("√nats", "√bits", LOG2**-0.5), "fisher_rao": ("rad", "rad", 1.0),
}  # fmt: skip


def distance(metric="jsd", aggregate="mean", **changes):
    by_layer = metric in ("jsd", "wasserstein")
    by_depth = torch.tensor([0.1, 0.5, 0.3], dtype=torch.float64)
    parts = {
        "metric": metric, "aggregate": aggregate if by_layer else None, "value": float(getattr(by_depth, aggregate)()),
        "by_depth": by_depth if by_layer else None, "chance": by_depth / 2 if by_layer else None,
        "n_bins": 50 if metric == "jsd" else None, "order": 2.0, "paired": False, "names": ("one", "other"), "tokens": (70, 80),
        "depths": (3, 3), "provenance": ORIGIN, "other": dataclasses.replace(ORIGIN, model="big"),
    }  # fmt: skip
    return ProfileDistance(**{**parts, **changes})


def points(n=6, seed=0):
    """Points of two far groups, every other one in each."""
    draw = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.2 * draw + torch.tensor([5.0, 0.0, 0.0]) * (torch.arange(n) % 2)[:, None]


def pairs(metric="euclidean", n=6, **changes):
    parts = {
        "distances": torch.cdist(points(n), points(n), compute_mode="donot_use_mm_for_euclid_dist"),
        "names": tuple(f"run {i}" for i in range(n)), "groups": tuple("ab"[i % 2] for i in range(n)), "metric": metric,
        "aggregate": "mean" if metric in ("jsd", "wasserstein") else None, "n_bins": 50 if metric == "jsd" else None,
        "order": 1.0, "tokens": tuple(range(10, 10 + n)), "depths": (3,) * n, "models": ("tiny",) * n, "provenance": ORIGIN,
    }  # fmt: skip
    return PairwiseDistances(**{**parts, **changes})


def plane(method="pca", metric="euclidean", n=6, **changes):
    known = method == "pca"
    parts = {
        "coordinates": points(n)[:, :2].clone(), "names": tuple(f"run {i}" for i in range(n)), "groups": ("a",) * n,
        "method": method, "metric": metric, "aggregate": None, "order": 1.0,
        "tokens": (9,) * n, "explained": (0.61, 0.12) if known else None,
        "negative": 0.0 if known else None, "seed": None if known else 3, "settings": {} if known else {"perplexity": 5.0},
        "provenance": ORIGIN,
    }  # fmt: skip
    return ProfileEmbedding(**{**parts, **changes})


@pytest.mark.parametrize("metric", POWERS)
def test_units_follow_the_metric(metric):
    nats, bits, factor = UNITS[metric]
    one, all_pairs = distance(metric), pairs(metric)
    assert (one.value_unit, one.to("bits").value_unit) == (nats, bits)
    assert (all_pairs.value_unit, all_pairs.to("bits").value_unit) == (nats, bits)
    assert one.to("bits").unit == "bits"
    assert one.to("bits").value == pytest.approx(one.value * factor, rel=1e-14)
    assert one.to("bits").to("nats").value == pytest.approx(one.value, rel=1e-14)
    torch.testing.assert_close(all_pairs.to("bits").distances, all_pairs.distances * factor)
    if one.by_depth is not None:
        torch.testing.assert_close(one.to("bits").by_depth, one.by_depth * factor)
        torch.testing.assert_close(one.to("bits").chance, one.chance * factor)
    with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
        one.to("hartleys")


def test_the_adjusted_jsd_takes_chance_out():
    result = distance(chance=torch.tensor([0.1, 0.2, LOG2], dtype=torch.float64))
    found = result.adjusted()
    assert found[0].item() == pytest.approx(0, abs=1e-15)
    assert found[1].item() == pytest.approx(LOG2 * 0.3 / (LOG2 - 0.2), rel=1e-12)
    assert found[2].isnan(), "nothing but chance"
    torch.testing.assert_close(result.to("bits").adjusted(), found / LOG2, equal_nan=True)
    for metric in ("wasserstein", "srvf"):
        with pytest.raises(InputError, match=f"this is {metric}"):
            distance(metric).adjusted()


def test_a_distance_prints_its_chance():
    text = repr(distance().to("bits"))
    assert text.startswith("ProfileDistance: jsd 0.4328 bits, mean over layers; 0.2164 by chance\n")
    assert "one: 70 tokens x 3 sites, order 2\nother: 80 tokens x 3 sites, order 2\n" in text
    assert "jsd (bits)" in text
    assert "chance (bits)" in text
    assert "independent samples of one law with these numbers of tokens; running text has somewhat more" in text
    paired = repr(distance(paired=True))
    assert "exchanges within tokens" in paired
    assert "independent" not in paired
    assert "relative depths" not in text
    assert "at least 0.25 by chance" in repr(distance(aggregate="max"))
    assert "compared at 5 relative depths" in repr(distance(depths=(3, 5)))
    assert "<table" in distance()._repr_html_()


def test_a_distance_of_curves_prints_one_number():
    text = repr(distance("srvf"))
    assert text.startswith("ProfileDistance: srvf 0.3 √nats\none: 70")
    assert "chance" not in text
    assert distance("srvf").to_pandas()["distance"].tolist() == [pytest.approx(0.3)]


def test_a_distance_as_a_table():
    frame = distance().to_pandas()
    assert frame["depth"].tolist() == [0, 0.5, 1]
    assert frame["distance"].tolist() == [0.1, 0.5, 0.3]
    assert frame["chance"].tolist() == [0.05, 0.25, 0.15]


@pytest.mark.parametrize("method", ["average", "complete", "single", "weighted", "ward"])
def test_clusters_are_those_of_scipy(method):
    result = pairs()
    condensed = result.distances[tuple(torch.triu_indices(6, 6, 1))].numpy()
    np.testing.assert_allclose(result.linkage(method), hierarchy.linkage(condensed, method))
    assert result.clusters(2, method) == (0, 1, 0, 1, 0, 1)
    assert result.clusters(1, method) == (0,) * 6
    assert sorted(result.clusters(6, method)) == list(range(6))


def test_equal_profiles_are_still_cut_into_as_many_clusters_as_asked_for():
    result = pairs(distances=torch.zeros(6, 6, dtype=torch.float64))
    for n in range(1, 7):
        assert len(set(result.clusters(n))) == n


def test_ward_needs_a_euclidean_space():
    pairs("srvf").linkage("ward")
    for metric in ("jsd", "wasserstein", "fisher_rao", "elastic_srvf"):
        with pytest.raises(InputError, match=f"{metric} distances have none"):
            pairs(metric).linkage("ward")
    with pytest.raises(InputError, match="one space"):
        pairs(depths=(3, 3, 3, 3, 3, 4)).linkage("ward")
    with pytest.raises(InputError, match="method must be one of 'average'"):
        pairs().linkage("centroid")
    with pytest.raises(InputError, match="n must be an int from 1 to 6; got 7"):
        pairs().clusters(7)
    with pytest.raises(InputTypeError, match="n must be an int"):
        pairs().clusters(2.0)


def test_distances_as_tables():
    result = pairs(n=4)
    matrix, long = result.matrix(), result.to_pandas()
    assert matrix.columns.tolist() == matrix.index.tolist() == ["run 0", "run 1", "run 2", "run 3"]
    assert len(long) == 6
    for a, b, value in long.itertuples(index=False):
        assert value == matrix.loc[a, b] > 0
        assert a < b


def test_a_matrix_prints_its_first_profiles():
    text = repr(pairs("jsd", n=14))
    assert text.startswith("PairwiseDistances: 14 profiles, jsd (nats), mean over layers; tiny\n")
    assert "run 11" in text
    assert "run 12" not in text
    assert text.count("...") == 27, "a column and a row of 13, and the name of each; they share a cell"
    assert "profiles have 10 to 23 tokens" in text
    assert "have 9 tokens;" in repr(pairs("wasserstein", tokens=(9,) * 6))
    text = repr(pairs())
    assert "..." not in text
    assert "tokens" not in text


@pytest.mark.parametrize("metric", POWERS)
def test_unequal_lengths_are_told_of(metric):
    told = "profiles have 8 to 13 tokens, and short ones lie far from the others by chance alone"
    for tokens, expected in (((8, 13, 9), metric in ("jsd", "wasserstein")), ((8, 12, 9), False)):
        for result in (pairs(metric, 3, tokens=tokens), plane("tsne", metric, 3, tokens=tokens)):
            text = repr(result)
            assert (told in text) is expected
            assert ("result.select(positions=slice(0, 8)); profile_distance has the chance of a pair" in text) is expected
    assert "8 to 12 tokens; equal laws differ" in repr(pairs("jsd", 3, tokens=(8, 12, 9)))


def test_axes_of_an_embedding():
    assert plane().axis_names == ("PC 1 (61 %)", "PC 2 (12 %)")
    assert plane("tsne").axis_names == ("t-SNE 1", "t-SNE 2")
    assert plane("umap").axis_names == ("UMAP 1", "UMAP 2")


@pytest.mark.parametrize(
    ("method", "metric", "factor"),
    [("pca", "euclidean", 1 / LOG2), ("pca", "jsd", LOG2**-0.5), ("pca", "srvf", LOG2**-0.5), ("pca", "fisher_rao", 1.0),
     ("tsne", "euclidean", 1.0), ("umap", "jsd", 1.0)],
)  # fmt: skip
def test_principal_coordinates_have_the_unit_of_the_distances(method, metric, factor):
    result = plane(method, metric)
    torch.testing.assert_close(result.to("bits").coordinates, result.coordinates * factor)
    assert result.to("bits").unit == "bits"


def test_an_embedding_prints():
    text = repr(plane(n=14, negative=0.034))
    assert text.startswith("ProfileEmbedding: 14 profiles, principal coordinates of euclidean; tiny\n")
    assert "PC 1 (61 %)" in text
    assert "run 11" in text
    assert "run 12" not in text
    assert "12 of 14 profiles" in text
    assert "3.4% of the eigenvalues are negative" in text
    assert "negative" not in repr(plane())
    text = repr(plane("tsne", "jsd"))
    assert text.startswith("ProfileEmbedding: 6 profiles, t-SNE of the root of jsd, perplexity 5, seed 3; tiny\n")
    assert "mean anything" in text
    assert plane().to_pandas().columns.tolist() == ["name", "group", "x", "y"]


@pytest.mark.parametrize("result", [distance(), distance("srvf"), pairs(), plane(), plane("tsne")], ids=lambda r: r.metric)
def test_files_hold_everything(result, tmp_path):
    again = load(result.save(tmp_path / "result.safetensors"))
    assert type(again) is type(result)
    for item in dataclasses.fields(result):
        mine, theirs = getattr(result, item.name), getattr(again, item.name)
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, item.name
