"""Figures of profile distances: what is drawn, what the axes say, and what is refused."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgba
from scipy.cluster import hierarchy

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.profiles.distances import MOST_NAMED, clusters, distances
from tl_entropy.results import Provenance
from tl_entropy.results.profiles.distances import PairwiseDistances
from tl_entropy.results.profiles.embedding import ProfileEmbedding

ORIGIN = Provenance("tiny", "0", "none", "float32", "cpu", versions={}, created="then")


def pairs(n=5, metric="euclidean", name="run {}", **changes):
    draw = torch.Generator().manual_seed(n)
    points = torch.randn(n, 3, generator=draw, dtype=torch.float64) + 4 * (torch.arange(n) % 2)[:, None]
    by_layer = metric in ("jsd", "wasserstein")
    parts = {
        "distances": torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist"),
        "names": tuple(name.format(i) for i in range(n)), "groups": tuple("ab"[i % 2] for i in range(n)), "metric": metric,
        "aggregate": "mean" if by_layer else None, "n_bins": 50, "order": 1.0, "tokens": (9,) * n, "depths": (3,) * n,
        "models": ("tiny",) * n, "provenance": ORIGIN,
    }  # fmt: skip
    return PairwiseDistances(**{**parts, **changes})


def plane(n=5, method="pca", **changes):
    draw, known = torch.Generator().manual_seed(n), method == "pca"
    parts = {
        "coordinates": torch.randn(n, 2, generator=draw, dtype=torch.float64), "names": tuple(f"run {i}" for i in range(n)),
        "groups": tuple("ab"[i % 2] for i in range(n)), "method": method, "metric": "jsd", "aggregate": "mean", "order": 1.0,
        "tokens": (9,) * n, "explained": (0.61, 0.12) if known else None,
        "negative": 0.0 if known else None, "seed": None if known else 0,
        "settings": {}, "provenance": ORIGIN,
    }  # fmt: skip
    return ProfileEmbedding(**{**parts, **changes})


def mesh(axes):
    (found,) = [artist for artist in axes.get_children() if isinstance(artist, QuadMesh)]
    return found


def labels(ticks):
    return [tick.get_text() for tick in ticks]


@pytest.mark.parametrize("method", ["average", "single", "ward"])
def test_the_matrix_stands_in_the_order_of_its_clusters(method):
    result = pairs()
    axes = distances(result, method=method)
    order = hierarchy.leaves_list(result.linkage(method))
    assert order.tolist() != list(range(5)), "the order is a matter of this test"
    np.testing.assert_array_equal(mesh(axes).get_array(), result.distances.numpy()[np.ix_(order, order)])
    assert labels(axes.get_xticklabels()) == labels(axes.get_yticklabels()) == [f"run {i}" for i in order]
    assert axes.yaxis_inverted(), "the first profile is at the top"
    assert mesh(axes).get_clim()[0] == 0


def test_the_tree_stands_above_its_columns():
    result = pairs()
    axes = distances(result)
    (tree,) = axes.child_axes
    lines = tree.get_lines()
    assert len(lines) == 4
    heights = sorted(max(line.get_ydata()) for line in lines)
    np.testing.assert_allclose(heights, result.linkage()[:, 2])
    feet = sorted({x for line in lines for x, y in zip(*line.get_data(), strict=True) if y == 0})
    assert feet == [0.5, 1.5, 2.5, 3.5, 4.5]
    axes.figure.draw_without_rendering()
    matrix, above = axes.get_window_extent(), tree.get_window_extent()
    np.testing.assert_allclose([above.x0, above.x1], [matrix.x0, matrix.x1])
    assert above.y0 > matrix.y1
    assert tree.get_xlim() == axes.get_xlim()
    assert not distances(result, dendrogram=False).child_axes


@pytest.mark.parametrize(
    ("metric", "unit", "text"),
    [
        ("jsd", "bits", "JSD of token entropies\nmean over layers (bits)"),
        ("srvf", "nats", "SRVF distance\nof mean curves (√nats)"),
        ("fisher_rao", "bits", "Fisher-Rao distance\nof mean curves (rad)"),
    ],
)
def test_the_bar_names_metric_and_unit(metric, unit, text):
    assert distances(pairs(metric=metric).to(unit)).figure.axes[-1].get_ylabel() == text


def test_cells_are_written_into_where_they_are_few():
    result = pairs(n=8)
    order = hierarchy.leaves_list(result.linkage())
    texts = [text.get_text() for text in distances(result).texts]
    assert texts == [f"{value:.1f}" for value in result.distances.numpy()[np.ix_(order, order)].flatten()]
    assert not distances(pairs(n=9)).texts
    assert len(distances(pairs(n=9), annotate=True).texts) == 81
    assert not distances(result, annotate=False).texts
    small = pairs(n=3, distances=pairs(n=3).distances / 1000)
    assert all(len(text.get_text()) == 6 for text in distances(small).texts)


def test_names_are_short_and_left_out_where_they_are_many():
    long = pairs(n=3, name="EleutherAI/some-long-model at {}")
    shown = labels(distances(long).get_xticklabels())
    assert sorted(shown) == [f"some-long-model at {i}" for i in range(3)]
    runs = {
        "src/parts/one/two/__init__.py": "one/two/__init__.py", "a/m, tuned lens of maker/m": "m, tuned lens of maker/m",
        "m, a tuned lens of maker/m": "m, a tuned … of maker/m", "x" * 30 + "/": "x" * 11 + "…" + "x" * 10 + "/",
        "a/" + "x" * 22: "a/" + "x" * 22,
    }  # fmt: skip
    assert set(labels(distances(pairs(n=5, names=tuple(runs))).get_xticklabels())) == set(runs.values())
    assert len(labels(distances(pairs(n=MOST_NAMED)).get_xticklabels())) == MOST_NAMED
    axes = distances(pairs(n=MOST_NAMED + 1))
    assert not labels(axes.get_xticklabels())
    assert axes.get_xlabel() == f"{MOST_NAMED + 1} profiles, near ones side by side"


def test_equal_profiles_can_be_drawn():
    assert mesh(distances(pairs(n=3, distances=torch.zeros(3, 3, dtype=torch.float64)))).get_array().max() == 0


def test_dollars_in_names_are_no_formulae():
    for axes in (
        distances(pairs(n=3, name="${}_$")),
        clusters(plane(n=3, names=("$a_$", "$b_$", "c"), groups=("$1_$", "$", "x"))),
    ):
        axes.figure.draw_without_rendering()


def dots(axes):
    return [artist for artist in axes.get_children() if isinstance(artist, PathCollection)]


def test_points_have_a_colour_and_a_marker_for_each_group():
    result = plane()
    axes = clusters(result)
    a, b = dots(axes)
    np.testing.assert_array_equal(a.get_offsets(), result.coordinates[::2])
    np.testing.assert_array_equal(b.get_offsets(), result.coordinates[1::2])
    assert to_rgba(a.get_facecolor()[0]) != to_rgba(b.get_facecolor()[0])
    assert a.get_paths()[0].vertices.shape != b.get_paths()[0].vertices.shape
    assert labels(axes.get_legend().get_texts()) == ["a", "b"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("PC 1 (61 %)", "PC 2 (12 %)")
    assert axes.get_aspect() == 1


def test_points_can_be_labelled_by_their_clusters():
    axes = clusters(plane(), by=pairs().clusters(3))
    assert len(dots(axes)) == 3
    assert labels(axes.get_legend().get_texts()) == ["0", "1", "2"]
    assert clusters(plane(), by=["x"] * 5).get_legend() is None


def test_maps_of_neighbours_have_no_ticks():
    axes = clusters(plane(method="tsne"))
    assert (axes.get_xlabel(), axes.get_xticks().tolist(), axes.get_yticks().tolist()) == ("t-SNE 1", [], [])
    assert len(clusters(plane()).get_xticks())


@pytest.mark.long
def test_points_are_named_where_they_are_few():
    named = plane(n=4, coordinates=torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    assert sorted(text.get_text() for text in clusters(named).texts) == [f"run {i}" for i in range(4)]
    assert not clusters(named, label_points=False).texts
    assert not clusters(plane(n=13)).texts
    assert len(clusters(plane(n=13), label_points=True).texts) == 13


def test_it_draws_on_given_axes_and_sets_nothing():
    before = dict(mpl.rcParams)
    figure, (left, right) = plt.subplots(1, 2)
    assert distances(pairs(), ax=left) is left
    assert clusters(plane(), ax=right) is right
    assert left.figure is figure
    assert dict(mpl.rcParams) == before


def test_what_is_refused():
    with pytest.raises(InputTypeError, match="what pairwise_distances returned; got ProfileEmbedding"):
        distances(plane())
    with pytest.raises(InputTypeError, match="what profile_embedding returned; got PairwiseDistances"):
        clusters(pairs())
    with pytest.raises(InputError, match="method must be one of"):
        distances(pairs(), method="nearest")
    with pytest.raises(InputError, match="'ward' adds up variances"):
        distances(pairs(metric="jsd"), method="ward")
    with pytest.raises(InputError, match="got 'model'"):
        clusters(plane(), by="model")
    with pytest.raises(InputError, match="each of the 5 profiles; got 4 labels"):
        clusters(plane(), by=[0, 1, 2, 3])
    with pytest.raises(InputTypeError, match="by must be 'group' or a label for each of the 5 profiles; got 5"):
        clusters(plane(), by=5)
    assert not plt.get_fignums(), "a refusal leaves no empty figure behind"
