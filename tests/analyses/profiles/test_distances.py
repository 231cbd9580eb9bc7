"""Distances between entropy profiles against plain loops of NumPy and SciPy, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hand_made import lens as hand_made_lens, without_rows
from hypothesis import given, strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from tl_entropy.analyses.profiles.distances import pairwise_distances, profile_distance
from tl_entropy.analyses.profiles.embedding import profile_embedding
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.profiles.curves import common_depth
from tl_entropy.results import LensEntropy, LensSummary, Provenance, load
from tl_entropy.results.profiles.distances import BY_LAYER, POWERS
from tl_entropy.sites import Site

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", versions={}, created="then")
PLAIN = [metric for metric in POWERS if metric != "elastic_srvf"]


def stream(depth):
    return (Site("embed", -1), *(Site("resid_post", layer) for layer in range(depth - 1)))


def lens(values, *, lengths=None, model="tiny", word=0, **changes):
    """A lens entropy of these values [token, depth], cut into documents of ``lengths``, of one ``word`` over and over."""
    values = torch.as_tensor(values, dtype=torch.float32)
    rows, depth = values.shape
    lengths = (rows,) if lengths is None else lengths
    parts = {
        "entropy": values[:, :, None], "document": torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        "position": torch.cat([torch.arange(n) for n in lengths]), "token": torch.full((rows,), word),
        "sites": stream(depth), "orders": (1.0,), "strings": {0: "a"},
        "provenance": dataclasses.replace(ORIGIN, model=model, weights=model),
    }  # fmt: skip
    return LensEntropy(**{**parts, **changes})


def drawn(rows=9, depth=4, seed=0, **changes):
    draw = np.random.default_rng(seed)
    return lens(np.linspace(6, 1 + seed % 3, depth) + draw.gamma(2.0, 0.5, (rows, depth)), **changes)


def plain(result, depth=None):
    """E [token, depth] in float64, at ``depth`` relative depths."""
    values = result.entropy[:, :, 0].double().numpy()
    if depth is None:
        return values
    grid, own = np.linspace(0, 1, depth), np.linspace(0, 1, values.shape[1])
    return np.stack([np.interp(grid, own, row) for row in values])


def slow(a, b, metric, n_bins=50):
    """The distance of two profiles [token, depth], layer by layer where it is of layers."""
    if metric == "jsd":
        found = []
        for x, y in zip(a.T, b.T, strict=True):
            limits = (min(x.min(), y.min()) - 1e-6, max(x.max(), y.max()) + 1e-6)
            p, q = (np.histogram(z, bins=n_bins, range=limits)[0] / len(z) for z in (x, y))
            found.append(jensenshannon(p, q) ** 2)
        return np.array(found)
    if metric == "wasserstein":
        return np.array([wasserstein_distance(x, y) for x, y in zip(a.T, b.T, strict=True)])
    f, g = a.mean(0), b.mean(0)
    if metric == "euclidean":
        return np.sqrt(((f - g) ** 2).mean())
    if metric == "fisher_rao":
        return np.arccos(np.sqrt(f / f.sum() * g / g.sum()).sum())
    df, dg = np.gradient(f), np.gradient(g)
    return np.sqrt(((np.sign(df) * np.sqrt(np.abs(df)) - np.sign(dg) * np.sqrt(np.abs(dg))) ** 2).sum())


@pytest.mark.parametrize("metric", PLAIN)
def test_distances_are_those_of_plain_loops(metric):
    a, b = drawn(9, seed=0), drawn(14, seed=1)
    expected = slow(plain(a), plain(b), metric)
    found = profile_distance(a, b, metric=metric)
    assert found.value == pytest.approx(float(np.mean(expected)), rel=1e-9)
    assert (found.unit, found.order, found.tokens, found.depths) == ("nats", 1.0, (9, 14), (4, 4))
    assert (found.provenance, found.other) == (a.provenance, b.provenance)
    if metric in BY_LAYER:
        np.testing.assert_allclose(found.by_depth, expected, rtol=1e-9)
        assert found.aggregate == "mean"
        for aggregate in ("max", "sum"):
            other = profile_distance(a, b, metric=metric, aggregate=aggregate)
            assert other.value == pytest.approx(float(getattr(np, aggregate)(expected)), rel=1e-9)
    else:
        assert (found.by_depth, found.chance, found.aggregate, found.n_bins) == (None,) * 4


def test_bins_are_those_asked_for():
    a, b = drawn(9, seed=0), drawn(14, seed=1)
    found = profile_distance(a, b, n_bins=7)
    np.testing.assert_allclose(found.by_depth, slow(plain(a), plain(b), "jsd", 7), rtol=1e-9)
    assert found.n_bins == 7
    assert pairwise_distances([a, b], n_bins=7).distances[0, 1].item() == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("metric", ["jsd", "wasserstein"])
def test_chance_is_the_mean_over_all_dealings(metric):
    a, b = drawn(3, 2, seed=0), drawn(4, 2, seed=1)
    pooled = np.concatenate([plain(a), plain(b)])
    dealt = []
    for chosen in itertools.combinations(range(7), 3):
        mine = np.isin(np.arange(7), chosen)
        dealt.append(slow(pooled[mine], pooled[~mine], metric, 5))
    found = profile_distance(a, b, metric=metric, **({"n_bins": 5} if metric == "jsd" else {}))
    np.testing.assert_allclose(found.chance, np.mean(dealt, axis=0), rtol=1e-9)


@pytest.mark.parametrize("metric", ["jsd", "wasserstein"])
def test_of_the_same_tokens_chance_is_the_mean_over_exchanges_within_them(metric):
    bins = {"n_bins": 5} if metric == "jsd" else {}
    a, b = drawn(4, 2, seed=0, lengths=(3, 1)), drawn(4, 2, seed=1, lengths=(3, 1), model="big")
    x, y = plain(a), plain(b)
    exchanged = []
    for swapped in itertools.product([False, True], repeat=4):
        mask = np.array(swapped)[:, None]
        exchanged.append(slow(np.where(mask, y, x), np.where(mask, x, y), metric, 5))
    found = profile_distance(a, b, metric=metric, **bins)
    np.testing.assert_allclose(found.chance, np.mean(exchanged, axis=0), rtol=1e-9)
    assert found.paired
    assert "exchanges within tokens" in repr(found)
    for other in (
        drawn(4, 2, seed=1, lengths=(3, 1), word=1), drawn(4, 2, seed=1, lengths=(2, 2)), drawn(5, 2, seed=1, lengths=(3, 2)),
        dataclasses.replace(b, position=b.position + 1), dataclasses.replace(b, document=b.document + 1),
    ):  # fmt: skip
        alone = profile_distance(a, other, metric=metric, **bins)
        assert not alone.paired
        assert "independent samples" in repr(alone)
        assert (alone.chance != found.chance).any()


def test_of_the_same_tokens_what_is_beyond_chance_can_be_seen():
    rng = np.random.default_rng(0)
    before = rng.gamma(2, 1.5, (200, 4))
    noise = before + 0.02 * rng.normal(size=before.shape)
    found = profile_distance(lens(before), lens(before + 0.1), metric="wasserstein")
    assert bool((found.by_depth > 2 * found.chance).all()), "all tokens moved the same way"
    assert bool(
        (found.by_depth < profile_distance(lens(before), lens(before + 0.1, word=1), metric="wasserstein").chance).all()
    )
    assert float(profile_distance(lens(before), lens(noise)).adjusted().abs().max()) < 2e-3, "nothing but noise"
    assert bool((profile_distance(lens(before), lens(noise, word=1)).adjusted() < -0.03).all())
    assert profile_distance(lens(before), lens(before)).adjusted().tolist() == [0.0] * 4


def test_equal_laws_at_eight_tokens_are_far_apart_by_chance_alone():
    rng = np.random.default_rng(0)
    found = profile_distance(lens(rng.normal(5, 1, (8, 40))), lens(rng.normal(5, 1, (8, 40)), word=1)).to("bits")
    assert found.value == pytest.approx(0.84, abs=0.04)
    assert float(found.chance.mean()) == pytest.approx(0.84, abs=0.04)
    assert found.value == pytest.approx(float(found.chance.mean()), abs=0.02)


@pytest.mark.parametrize("metric", POWERS)
def test_all_pairs_are_those_of_single_pairs(metric):
    if metric == "elastic_srvf":
        pytest.importorskip("fdasrsf")
    sizes = ((9, 4), (5, 6), (12, 4), (7, 3), (1, 6))
    some = [drawn(rows, depth, seed=i) for i, (rows, depth) in enumerate(sizes)]
    found = pairwise_distances(some, metric=metric, progress=False)
    assert torch.equal(found.distances, found.distances.T)
    assert torch.equal(found.distances.diagonal(), torch.zeros(5, dtype=torch.float64))
    for i, j in itertools.combinations(range(5), 2):
        alone = profile_distance(some[i], some[j], metric=metric)
        assert found.distances[i, j].item() == pytest.approx(alone.value, rel=1e-9, abs=1e-12)
        assert alone.value > 0
    assert (found.tokens, found.depths) == ((9, 5, 12, 7, 1), (4, 6, 4, 3, 6))
    if metric in BY_LAYER:
        largest = pairwise_distances(some, metric=metric, aggregate="max")
        assert largest.distances[0, 1].item() == pytest.approx(
            profile_distance(some[0], some[1], metric=metric, aggregate="max").value, rel=1e-9
        )
        assert largest.aggregate == "max"


@pytest.mark.parametrize("metric", PLAIN)
def test_different_depths_are_compared_at_the_depths_of_the_deeper(metric):
    a, b = drawn(9, 4, seed=0), drawn(14, 7, seed=1)
    expected = slow(plain(a, 7), plain(b), metric)
    for one, other in ((a, b), (b, a)):
        found = profile_distance(one, other, metric=metric)
        assert found.value == pytest.approx(float(np.mean(expected)), rel=1e-9)
        if metric in BY_LAYER:
            np.testing.assert_allclose(found.by_depth, expected, rtol=1e-9)


@pytest.mark.parametrize("metric", PLAIN)
def test_a_straight_profile_is_itself_at_any_depth(metric):
    slopes = np.array([[6.0, 2.0], [5.0, 1.0], [7.0, 6.0]])

    def straight(depth):
        return lens(np.stack([np.linspace(*ends, depth) for ends in slopes]))

    assert profile_distance(straight(3), straight(9), metric=metric).value < 1e-6
    assert profile_distance(straight(3), drawn(3, 9), metric=metric).value > 0.01


def test_the_documents_of_one_result_are_profiles():
    lengths = (4, 1, 7)
    whole = drawn(12, lengths=lengths, names={1: "x.py"})
    found = pairwise_distances(whole, metric="wasserstein")
    assert found.names == ("document 0", "x.py", "document 2")
    assert (found.tokens, found.groups, found.models) == (lengths, ("tiny",) * 3, ("tiny",) * 3)
    parts = [whole.select(documents=d) for d in range(3)]
    torch.testing.assert_close(found.distances, pairwise_distances(parts, metric="wasserstein").distances, rtol=0, atol=0)
    later = pairwise_distances(whole.select(documents=[0, 2]), metric="wasserstein", groups=["left", "right"])
    assert (later.names, later.groups) == (("document 0", "document 2"), ("left", "right"))
    assert later.distances[0, 1] == found.distances[0, 2]


def test_units_are_brought_together():
    a, b = drawn(9, seed=0), drawn(14, seed=1)
    for metric in PLAIN:
        expected = profile_distance(a, b, metric=metric)
        for one, other in ((a.to("bits"), b), (a, b.to("bits")), (a.to("bits"), b.to("bits"))):
            found = profile_distance(one, other, metric=metric)
            assert found.unit == "nats"
            assert found.value == pytest.approx(expected.value, rel=1e-4 if metric == "jsd" else 1e-5)
    assert pairwise_distances([a.to("bits"), b], metric="euclidean").distances[0, 1].item() == pytest.approx(
        profile_distance(a, b, metric="euclidean").value, rel=1e-5
    )


def test_depth_decides_the_order_of_sites():
    a, b = drawn(9, seed=0), drawn(14, seed=1)
    turned = dataclasses.replace(a, entropy=a.entropy[:, [2, 0, 3, 1]], sites=tuple(a.sites[i] for i in (2, 0, 3, 1)))
    for metric in PLAIN:
        assert profile_distance(turned, b, metric=metric).value == profile_distance(a, b, metric=metric).value


def test_one_order_is_compared():
    def several(seed, orders):
        one = drawn(9, seed=seed)
        return dataclasses.replace(one, entropy=torch.cat([one.entropy + i for i in range(len(orders))], -1), orders=orders)

    a, b = several(0, (0.5, 1.0)), several(1, (1.0, 2.0))
    found = profile_distance(a, b, metric="euclidean")
    assert (found.order, found.value) == (1.0, profile_distance(a, b, metric="euclidean", order=1).value)
    expected = np.sqrt((((plain(drawn(9, seed=0)) + 1).mean(0) - plain(drawn(9, seed=1)).mean(0)) ** 2).mean())
    assert found.value == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match=r"order \(of b\) must be one of 1.0, 2.0; got 0.5"):
        profile_distance(a, b, order=0.5)
    with pytest.raises(InputError, match="orders 1, 2; choose one they share"):
        profile_distance(a, several(1, (2.0,)))
    with pytest.raises(InputError, match=r"choose one of 0.5, 2, which a has"):
        profile_distance(several(0, (0.5, 2.0)), b)
    assert pairwise_distances([several(0, (math.inf,)), several(1, (math.inf,))]).order == math.inf


@pytest.mark.parametrize("order", [[1.0], True, "1", torch.tensor([1.0, 2.0]), np.ones(1), np.True_])
def test_an_order_is_one_number(order):
    with pytest.raises(InputTypeError, match="order must be one number from 0 to infinity; got"):
        profile_distance(drawn(9, seed=0), drawn(9, seed=1), order=order)
    for number in (1, 1.0, np.int64(1), np.float32(1), torch.tensor(1.0)):
        found = profile_distance(drawn(9, seed=0), drawn(9, seed=1), order=number).order
        assert (type(found), found) == (float, 1.0)


def test_names_and_groups():
    some = [drawn(9, seed=0), drawn(9, seed=1, model="big"), drawn(9, seed=2)]
    found = pairwise_distances(some, metric="srvf")
    assert (found.names, found.groups) == (("tiny (1)", "big", "tiny (2)"), ("tiny", "big", "tiny"))
    assert profile_distance(some[0], some[1]).names == ("tiny", "big")
    assert profile_distance(some[0], some[2]).names == ("tiny (1)", "tiny (2)")
    taken = [*some, drawn(9, seed=3, model="tiny (1)"), drawn(9, seed=4, model="tiny (3)"), some[0]]
    assert pairwise_distances(taken, metric="srvf").names == ("tiny (2)", "big", "tiny (4)", "tiny (1)", "tiny (3)", "tiny (5)")
    assert pairwise_distances(some, names=(letter for letter in "xyz")).names == ("x", "y", "z")
    for wrong in (5, {"x", "y", "z"}, {"x": 1, "y": 2, "z": 3}):
        with pytest.raises(InputTypeError, match="names must be 3 strings in the order of the profiles, such as a list; got"):
            pairwise_distances(some, names=wrong)
        with pytest.raises(InputTypeError, match="groups must be 3 strings in the order of the profiles, such as a list; got"):
            pairwise_distances(some, groups=wrong)
    found = pairwise_distances(dict(zip("abc", some, strict=True)), metric="srvf", groups=(1, 1, 2))
    assert (found.names, found.groups, found.models) == (("a", "b", "c"), ("1", "1", "2"), ("tiny", "big", "tiny"))
    assert pairwise_distances(some, names=["x", "y", "z"]).names == ("x", "y", "z")
    with pytest.raises(InputError, match="names must all be different; got x, y, x"):
        pairwise_distances(some, names=["x", "y", "x"])
    with pytest.raises(InputError, match="names must be 3 strings"):
        pairwise_distances(some, names=["x", "y"])
    with pytest.raises(InputError, match="groups must be 3 strings"):
        pairwise_distances(some, groups="abc")
    with pytest.raises(InputError, match="the mapping already names"):
        pairwise_distances({"a": some[0], "b": some[1]}, names=["x", "y"])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_pairs_that_were_compared_before_it_ended_are_at_hand(monkeypatch, kind):
    left = [3]

    def ends(a, b):
        left[0] -= 1
        if not left[0]:
            raise kind
        return 1.0

    monkeypatch.setattr("tl_entropy.analyses.profiles.distances.elastic_srvf_distance", ends)
    with pytest.raises(kind) as caught:
        pairwise_distances(hand_made_lens(), metric="elastic_srvf", progress=False)
    found = caught.value.partial.distances
    assert int(found.isnan().sum()) == 2 * (6 - 2)
    assert bool((found.diagonal() == 0).all())
    assert torch.equal(found.nan_to_num(), found.T.nan_to_num())
    with pytest.raises(InputError, match="some pairs have none"):
        caught.value.partial.clusters(2)


def test_the_elastic_distance_shows_its_progress(capsys):
    pytest.importorskip("fdasrsf")
    some = [drawn(5, seed=i) for i in range(3)]
    found = pairwise_distances(some, metric="elastic_srvf")
    assert "3/3" in capsys.readouterr().err
    pairwise_distances(some, metric="elastic_srvf", progress=False)
    pairwise_distances(some, metric="srvf")
    assert not capsys.readouterr().err
    assert bool((found.distances <= pairwise_distances(some, metric="srvf").distances + 1e-9).all())


@given(st.integers(0, 2**20), st.sampled_from(PLAIN))
def test_order_of_tokens_and_profiles_is_no_matter(seed, metric):
    draw = np.random.default_rng(seed)
    a, b = (draw.uniform(0.1, 8, (rows, 3)) for rows in (5, 8))
    found = profile_distance(lens(a), lens(b), metric=metric).value
    assert profile_distance(lens(draw.permutation(a)), lens(b), metric=metric).value == pytest.approx(found, abs=1e-12)
    assert profile_distance(lens(b), lens(a), metric=metric).value == pytest.approx(found, abs=1e-12)
    assert profile_distance(lens(a), lens(a), metric=metric).value == pytest.approx(0, abs=1e-12)
    c = lens(draw.uniform(0.1, 8, (4, 3)))
    if metric != "jsd":  # whose bins differ between pairs
        around = profile_distance(lens(a), c, metric=metric).value + profile_distance(c, lens(b), metric=metric).value
        assert found <= around + 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "cosine"}, "metric must be one of 'jsd'"),
        ({"aggregate": "median"}, "aggregate must be one of 'mean', 'max', 'sum'"),
        ({"metric": "srvf", "aggregate": "max"}, "srvf compares whole curves; leave it out"),
        ({"metric": "wasserstein", "n_bins": 20}, "n_bins=20 belongs to metric='jsd'"),
        ({"n_bins": 1}, "n_bins must be an int of at least 2; got 1"),
        ({"order": 3}, "must be one of 1.0; got 3"),
    ],
)
def test_options_that_are_refused(options, message):
    some = [drawn(9, seed=0), drawn(9, seed=1)]
    with pytest.raises(InputError, match=message):
        profile_distance(*some, **options)
    with pytest.raises(InputError, match=message):
        pairwise_distances(some, **options)


def test_profiles_that_are_refused():
    good = drawn(9)
    summary = LensSummary(
        good.sites, (1.0,), 0, 0, torch.zeros(5, 4, 1), torch.zeros(4, 1), torch.zeros(4, 1, 2, dtype=torch.long), 1.0, ORIGIN
    )
    with pytest.raises(InputTypeError, match="b must be a LensEntropy, which holds every position; got LensSummary"):
        profile_distance(good, summary)
    with pytest.raises(InputTypeError, match=r"results\[1\] must be a LensEntropy"):
        pairwise_distances([good, None])
    with pytest.raises(InputTypeError, match=r"results\['x'\] must be a LensEntropy"):
        pairwise_distances({"x": None, "y": good})
    with pytest.raises(InputTypeError, match="one LensEntropy, or a mapping or list of them; got LensSummary"):
        pairwise_distances(summary)
    for too_few in ([], [good], {"a": good}, good):
        with pytest.raises(InputError, match=r"at least two profiles; got [01]"):
            pairwise_distances(too_few)
    written = dataclasses.replace(good, sites=(*good.sites[:3], Site("mlp_out", 2)))
    with pytest.raises(InputError, match=r"a: mlp_out.2 is no state of the residual stream"):
        profile_distance(written, good)
    with pytest.raises(InputError, match="two sites or more, and tokens; got 1 and 9"):
        profile_distance(good, good.select(sites="embed"))
    with pytest.raises(InputError, match="two sites or more, and tokens; got 4 and 0"):
        profile_distance(good, without_rows(good))


def test_sites_that_differ_must_be_evenly_spaced():
    deep, shallow = drawn(9, 7), drawn(9, 4)
    holes = deep.select(sites=("embed", "resid_post"), layers=[0, 3])
    assert profile_distance(holes, holes, metric="srvf").value == 0, "alike, they need no common axis"
    assert profile_distance(deep.select(sites=("embed", "resid_post"), layers=[1, 3, 5]), shallow).depths == (4, 4)
    with pytest.raises(InputError, match=r"a has layers -1, 0, 3, which are not evenly spaced \(embed is -1\)"):
        profile_distance(holes, shallow)
    with pytest.raises(InputError, match="not evenly spaced"):
        pairwise_distances([shallow, deep, holes])
    middle = dataclasses.replace(shallow, sites=tuple(Site("resid_mid", layer) for layer in range(4)))
    with pytest.raises(InputError, match=r"a has sites embed, resid_post and b resid_mid; measure or select"):
        profile_distance(shallow, middle)


def test_values_that_are_not_finite_are_refused():
    broken = drawn(9)
    broken.entropy[3, 2, 0] = math.nan
    good, place = drawn(9, seed=1), r"must be finite; got nan at resid_post.1, position 3 of document 0 \(and 0 more\)"
    for metric in PLAIN:
        with pytest.raises(NonFiniteError, match="^b: the entropy " + place):
            profile_distance(good, broken, metric=metric)
        with pytest.raises(NonFiniteError, match=r"^results\[1\]: the entropy " + place):
            pairwise_distances([good, broken], metric=metric)
        with pytest.raises(NonFiniteError, match=r"^results\['x'\]: the entropy " + place):
            pairwise_distances({"deep": drawn(9, 7), "good": good, "x": broken}, metric=metric)
    several = drawn(9, lengths=(4, 5), names={1: "x.py"})
    several.entropy[5, 0, 0] = math.inf
    several.entropy[8, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"^results: .* got inf at embed, position 1 of x.py \(and 1 more\)"):
        pairwise_distances(several)


def test_a_curve_without_a_shape_is_named():
    good, flat, below = drawn(9, seed=1), lens(np.zeros((9, 4))), lens(np.full((9, 4), -1.0))
    for bad, told in ((flat, "from 0 to 0"), (below, "from -1 to -1")):
        with pytest.raises(InputError, match=f"^b: Fisher-Rao compares .* {told}; .* take metric='euclidean'"):
            profile_distance(good, bad, metric="fisher_rao")
        with pytest.raises(InputError, match=rf"^results\['bad'\]: Fisher-Rao compares .* {told}"):
            pairwise_distances({"deep": drawn(9, 7), "good": good, "bad": bad}, metric="fisher_rao")
    several = lens(np.concatenate([plain(good), plain(flat)]), lengths=(9, 9), names={1: "x.py"})
    with pytest.raises(InputError, match=r"^results \(x.py\): Fisher-Rao"):
        pairwise_distances(several, metric="fisher_rao")
    assert profile_distance(good, flat, metric="euclidean").value > 0


@pytest.mark.parametrize("metric", ["jsd", "wasserstein", "fisher_rao", "srvf"])
def test_distances_are_those_of_the_published_package(metric):
    peer = pytest.importorskip("entropy_profiler.distances")
    profiler = pytest.importorskip("entropy_profiler.profiler")
    some = [drawn(rows, seed=i) for i, rows in enumerate((9, 14, 30, 5))]
    theirs = [
        profiler.EntropyProfile(r.entropy[:, :, 0], torch.zeros(r.n_tokens, dtype=torch.long), [0, 1, 2, 3], 1.0, "m")
        for r in some
    ]
    unit = "bits" if metric == "jsd" else "nats"
    error = 1e-5 if metric == "fisher_rao" else 1e-6  # theirs takes the arccos of a float32 near 1
    for aggregate in ("mean", "max", "sum") if metric in BY_LAYER else ("mean",):
        matrix = peer.pairwise_distances(theirs, metric=metric, aggregation=aggregate)
        mine = pairwise_distances(some, metric=metric, aggregate=aggregate).to(unit)
        np.testing.assert_allclose(mine.distances, matrix, rtol=2e-6, atol=error)
        pair = peer.profile_distance(*theirs[:2], metric=metric, aggregation=aggregate)
        assert profile_distance(*some[:2], metric=metric, aggregate=aggregate).to(unit).value == pytest.approx(
            pair.aggregate, abs=error
        )


def test_documents_of_unequal_lengths_say_what_that_does():
    lengths = (8,) * 3 + (200,) * 3
    found = pairwise_distances(lens(np.random.default_rng(0).gamma(2, 1.5, (sum(lengths), 4)), lengths=lengths))
    assert "profiles have 8 to 200 tokens, and short ones lie far from the others by chance alone" in repr(found)
    assert found.distances[0, 1] > 5 * found.distances[4, 5], "of one law, all of them"


# --- several orders, and features of mean curves


def several_orders(seed, orders=(0.5, 1.0, 2.0), **shape):
    parts = [drawn(seed=10 * seed + i, **shape) for i in range(len(orders))]
    return dataclasses.replace(parts[0], entropy=torch.cat([part.entropy for part in parts], -1), orders=orders)


def featured(curve, features):
    depth = len(curve)
    steps = [after - before for before, after in itertools.pairwise(curve)]
    if features == "bucketed":
        thirds = [curve[i * depth // 3 : (i + 1) * depth // 3] for i in range(3)]
        return [sum(third) / len(third) for third in thirds]
    return {"mean": curve, "delta": steps, "full": [*curve, *steps]}[features]


@pytest.mark.parametrize("features", ["mean", "delta", "bucketed", "full"])
@pytest.mark.parametrize("order", [1, (0.5, 2)])
def test_features_are_those_of_plain_loops(features, order):
    results = [several_orders(0, rows=9), several_orders(1, rows=14), several_orders(2, rows=6)]
    found = pairwise_distances(results, metric="euclidean", order=order, features=features)
    asked = [float(order)] if isinstance(order, int) else list(map(float, order))
    points = [
        [value for one in asked for value in featured(r.entropy[:, :, r.orders.index(one)].double().mean(0).tolist(), features)]
        for r in results
    ]
    for i, j in itertools.product(range(3), range(3)):
        squares = [(a - b) ** 2 for a, b in zip(points[i], points[j], strict=True)]
        assert float(found.distances[i, j]) == pytest.approx(math.sqrt(sum(squares) / len(squares)), abs=1e-9)
    assert (found.order, found.features) == (asked[0] if len(asked) == 1 else tuple(asked), features)


@pytest.mark.parametrize("metric", ["jsd", "wasserstein"])
@pytest.mark.parametrize("aggregate", ["mean", "max", "sum"])
def test_of_samples_orders_are_more_layers(metric, aggregate):
    results = [several_orders(0, rows=9), several_orders(1, rows=14)]
    found = pairwise_distances(results, metric=metric, aggregate=aggregate, order=[1, 2], progress=False)
    alone = [profile_distance(*results, metric=metric, order=order).by_depth for order in (1, 2)]
    expected = torch.cat(alone)
    value = expected.max() if aggregate == "max" else getattr(expected, aggregate)()
    assert float(found.distances[0, 1]) == pytest.approx(float(value))
    assert f"{aggregate} over layers and orders, orders 1, 2" in repr(found)


def test_features_of_different_depths_and_of_documents():
    results = [several_orders(0, rows=9, depth=4), several_orders(1, rows=9, depth=7)]
    found = pairwise_distances(results, metric="euclidean", order=2, features="delta")
    shallow = common_depth(results[0].entropy[:, :, 2].mean(0), 7).diff()
    deep = results[1].entropy[:, :, 2].double().mean(0).diff()
    assert float(found.distances[0, 1]) == pytest.approx(float((shallow - deep).square().mean().sqrt()))
    documents = pairwise_distances(several_orders(3, rows=9, lengths=(4, 5)), metric="euclidean", order=(1, 2), features="full")
    assert documents.tokens == (4, 5)
    assert float(documents.distances[0, 1]) > 0


def test_features_are_kept_and_named(tmp_path):
    found = pairwise_distances([several_orders(i) for i in range(4)], metric="euclidean", order=(1, 2), features="delta")
    assert "euclidean (nats), of steps of mean curves, orders 1, 2" in repr(found)
    again = load(found.save(tmp_path / "d.safetensors"))
    assert (again.order, again.features) == ((1.0, 2.0), "delta")
    embedded = profile_embedding(again)
    assert (embedded.order, embedded.features) == ((1.0, 2.0), "delta")
    assert "principal coordinates of euclidean, of steps of mean curves, orders 1, 2" in repr(embedded)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": "median"}, InputError, "features must be one of 'mean'"),
        ({"features": "delta", "metric": "jsd"}, InputError, "features='delta' belongs to metric='euclidean'"),
        ({"metric": "srvf", "order": (1, 2)}, InputError, "order: srvf compares one curve, and so one order; got 1, 2"),
        ({"metric": "euclidean", "order": (1, 1)}, InputError, "order must be one or more different numbers"),
        ({"metric": "euclidean", "order": (1, 3)}, InputError, r"must be one of 0.5, 1.0, 2.0; got 3"),
        ({"metric": "euclidean", "order": "1"}, InputTypeError, "order must be one or several numbers"),
    ],
)
def test_orders_and_features_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        pairwise_distances([several_orders(0), several_orders(1)], **options)


def test_thirds_need_three_sites():
    with pytest.raises(InputError, match="features='bucketed' needs three sites or more, of which it makes thirds; got 2"):
        pairwise_distances([drawn(depth=2), drawn(depth=2, seed=1)], metric="euclidean", features="bucketed")


@pytest.mark.parametrize("features", ["mean", "delta", "bucketed", "full"])
def test_features_are_those_of_the_published_package(features):
    peer = pytest.importorskip("entropy_profiler.viz")
    profiler = pytest.importorskip("entropy_profiler.profiler")
    results = [drawn(9, depth=7, seed=i) for i in range(2)]
    theirs = []
    for result in results:
        profile = profiler.EntropyProfile(result.entropy[:, :, 0], torch.zeros(9, dtype=torch.long), list(range(7)), 1.0, "m")
        target = 6 if features == "delta" else 7
        theirs.append(peer._extract_features(profile, features, target))
    if features == "full":  # whose steps are stretched to the length of the curves there
        theirs = [np.concatenate([one[:7], np.diff(one[:7])]) for one in theirs]
    expected = float(np.sqrt(np.mean((theirs[0] - theirs[1]) ** 2)))
    assert float(pairwise_distances(results, metric="euclidean", features=features).distances[0, 1]) == pytest.approx(
        expected, rel=1e-4
    )
