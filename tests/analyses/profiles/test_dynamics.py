"""Layer dynamics: against scipy and the published package, slow loops for the errors, what chance shows, and refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hand_made import without_rows
from scipy import stats
from scipy.spatial.distance import jensenshannon

import tl_entropy as tle
from tl_entropy.analyses.lens.entropy import LensAccumulator
from tl_entropy.analyses.profiles.dynamics import layer_dynamics
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional import fisher_rao_distance, js_divergence, kl_divergence
from tl_entropy.functional.profiles.chance import histogram_jsd_chance, wasserstein_chance
from tl_entropy.results import LayerDivergence, LensEntropy, Provenance
from tl_entropy.sites import Site, expand_sites

LENGTHS = (9, 1, 14, 6, 11)
CURVE = ("entropy", "velocity", "fisher_rao_velocity", "distance_to_output", "jsd_to_output")
DISTANCES = CURVE[1:]


def origin(sites, **changes):
    settings = {"lens": "logit lens", "sites": tuple(map(str, sites)), **changes}
    return Provenance("tiny", "0123456789", "raw", "float32", "cpu", settings=settings)


def rows(lengths=LENGTHS):
    return {
        "document": torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        "position": torch.cat([torch.arange(n) for n in lengths]),
        "token": torch.arange(sum(lengths)) % 2,
        "strings": {0: "def", 1: " f"},
    }


def lens(seed=0, lengths=LENGTHS, n_layers=3, **changes):
    draw, sites = torch.Generator().manual_seed(seed), expand_sites(("embed", "resid_post"), n_layers)
    entropy = 2 + torch.linspace(0, 2, len(sites)) + torch.randn(sum(lengths), len(sites), generator=draw)
    parts = {"entropy": entropy.clamp_min(0.01)[:, :, None], "sites": sites, "orders": (1.0,), "provenance": origin(sites)}
    return LensEntropy(**{**rows(lengths), **parts, **changes})


def divergence(against="output", seed=0, lengths=LENGTHS, metrics=("kl", "jsd", "fisher_rao"), n_layers=3, **changes):
    draw, asked = torch.Generator().manual_seed(seed), expand_sites(("embed", "resid_post"), n_layers)
    sites, n = asked[1:] if against == "previous" else asked, sum(lengths)
    parts = {
        "divergence": torch.rand(n, len(sites), len(metrics), generator=draw),
        "agreement": torch.zeros(n, len(sites), dtype=torch.bool),
        "output_token": torch.zeros(n, dtype=torch.long),
        "sites": sites,
        "metrics": metrics,
        "against": against,
        "provenance": origin(asked),
    }
    return LayerDivergence(**{**rows(lengths), **parts, **changes})


def numbers(entropy, n_bins=50, limits=None):
    """The four distances of E [token, site], one site at a time, by numpy and scipy."""
    e = np.asarray(entropy, dtype=np.float64)
    low, high = limits or (e.min() - 1e-6, e.max() + 1e-6)

    def angle(a, b):
        return math.acos(min(1.0, float(np.sqrt(a / a.sum() * b / b.sum()).sum())))

    def law(column):
        counts, _ = np.histogram(column, bins=n_bins, range=(low, high))
        return counts / counts.sum()

    found = np.full((4, e.shape[1]), np.nan)
    for i in range(e.shape[1]):
        if i:
            found[0, i] = stats.wasserstein_distance(e[:, i], e[:, i - 1])
            found[1, i] = angle(e[:, i], e[:, i - 1])
        found[2, i] = angle(e[:, i], e[:, -1])
        found[3, i] = jensenshannon(law(e[:, i]), law(e[:, -1])) ** 2
    return found


# --- the family of curves


@pytest.mark.parametrize("n_bins", [5, 50])
def test_curves_are_those_of_scipy(n_bins):
    result = lens()
    found = layer_dynamics(result, n_bins=n_bins)
    assert (found.quantities, found.families) == (CURVE, ("curve",) * 5)
    assert found.units == ("nats", "nats", "rad", "rad", "nats")
    assert (found.sites, found.tokens, found.documents) == (result.sites, 41, 5)
    assert (found.order, found.n_bins, found.unit) == (1.0, n_bins, "nats")
    assert found.values.dtype == torch.float64
    np.testing.assert_allclose(found.values[1:], numbers(result.entropy[:, :, 0], n_bins), atol=3e-8)
    profile = result.mean_profile()
    np.testing.assert_allclose(found.value("entropy"), profile["mean"], rtol=1e-12)
    np.testing.assert_allclose(found.error("entropy"), profile["se"], rtol=1e-12)


def test_the_ends_have_what_they_have_by_definition():
    found = layer_dynamics(lens())
    for name in ("velocity", "fisher_rao_velocity"):
        assert torch.isnan(found.value(name)[0])
        assert torch.isnan(found.error(name)[0])
        assert (found.value(name)[1:] > 0).all()
    for name in ("distance_to_output", "jsd_to_output"):
        assert found.value(name)[-1] == 0
        assert found.error(name)[-1] == 0
        assert (found.value(name)[:-1] > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_curves_are_those_of_the_published_package(seed):
    package = pytest.importorskip("entropy_profiler")
    result = lens(seed, lengths=(40, 24), n_layers=6)
    profile = package.EntropyProfile(
        entropy=result.entropy[:, :, 0], token_ids=result.token, layer_indices=list(range(7)), alpha=1.0, model_name="tiny"
    )
    theirs = package.LayerAnalyzer(None, profile)
    mine = layer_dynamics(result)
    for name, values in (("velocity", theirs.information_velocity()), ("fisher_rao_velocity", theirs.fisher_rao_velocity())):
        np.testing.assert_allclose(mine.value(name)[1:], values[1:], atol=1e-5)
        assert values[0] == 0, "the one deviation: here the first is NaN"
    ends = theirs.distance_to_output()
    np.testing.assert_allclose(mine.value("distance_to_output")[:-1], ends[:-1], atol=1e-5)
    assert ends[-1] < 1e-3, "theirs is the arccos of a sum in float32, which loses what is near 0"
    np.testing.assert_allclose(mine.value("entropy"), theirs.layer_entropy(), atol=1e-5)
    np.testing.assert_allclose(mine.to("bits").value("jsd_to_output"), theirs.jsd_to_output(), atol=1e-5)
    np.testing.assert_allclose(
        layer_dynamics(result, n_bins=9).to("bits").value("jsd_to_output"), theirs.jsd_to_output(9), atol=1e-5
    )


@pytest.mark.parametrize("folds", [2, 3, 20])
def test_errors_leave_out_folds_of_documents(folds):
    result = lens()
    found = layer_dynamics(result, folds=folds)
    e, document = result.entropy[:, :, 0].numpy(), result.document.numpy()
    loads, fold_of = [0] * min(folds, len(LENGTHS)), {}
    for d in sorted(range(len(LENGTHS)), key=lambda d: -LENGTHS[d]):
        fold_of[d] = loads.index(min(loads))
        loads[fold_of[d]] += LENGTHS[d]
    limits = (float(e.min()) - 1e-6, float(e.max()) + 1e-6)
    whole, n, pseudo = numbers(e, limits=limits), len(e), []
    for f, size in enumerate(loads):
        kept = np.array([fold_of[d] != f for d in document.tolist()])
        assert (~kept).sum() == size
        h = n / size
        pseudo.append((h, h * whole - (h - 1) * numbers(e[kept], limits=limits)))
    centre = sum(value / h for h, value in pseudo)
    expected = np.sqrt(sum((value - centre) ** 2 / (h - 1) for h, value in pseudo) / len(pseudo))
    np.testing.assert_allclose(found.errors[1:], expected, atol=1e-6)
    assert (found.errors[1:4, 1:-1] > 0).all()


def test_one_document_has_no_errors():
    found = layer_dynamics(lens(lengths=(12,)), divergence(lengths=(12,)))
    assert found.errors.isnan().all()
    assert not found.value("distance_to_output").isnan().any()


def test_one_token_is_measured_and_is_all_chance():
    found = layer_dynamics(lens(lengths=(1,)))
    assert found.value("distance_to_output").eq(0).all(), "a single token leaves no shape to a curve"
    torch.testing.assert_close(found.chance[1], found.value("velocity"), equal_nan=True)


def test_order_and_unit():
    both = lens(entropy=torch.cat([lens(0).entropy, lens(1).entropy], dim=2), orders=(2.0, 1.0))
    assert layer_dynamics(both).order == 1.0
    torch.testing.assert_close(layer_dynamics(both).values, layer_dynamics(lens(1)).values, equal_nan=True)
    of_2 = layer_dynamics(both, order=2)
    assert of_2.order == 2.0
    torch.testing.assert_close(of_2.values, layer_dynamics(lens(0)).values, equal_nan=True)
    assert layer_dynamics(lens(orders=(math.inf,))).order == math.inf
    for number in (1, np.int64(1), np.float32(1)):
        assert layer_dynamics(both, order=number).order == 1.0


@pytest.mark.parametrize("order", [[2.0, 1.0], (1.0,), True, "1", torch.tensor([1.0, 2.0])])
def test_an_order_is_one_number(order):
    both = lens(entropy=torch.cat([lens(0).entropy, lens(1).entropy], dim=2), orders=(2.0, 1.0))
    with pytest.raises(InputTypeError, match="order must be one number from 0 to infinity; got"):
        layer_dynamics(both, order=order)
    in_bits = layer_dynamics(lens().to("bits"), divergence().to("bits"))
    assert in_bits.unit == "nats"
    torch.testing.assert_close(in_bits.values, layer_dynamics(lens(), divergence()).values, equal_nan=True, atol=1e-6, rtol=0)


def test_a_curve_that_is_0_everywhere_has_no_shape():
    entropy = lens().entropy.clone()
    entropy[:, 0] = 0
    found = layer_dynamics(lens(entropy=entropy))
    assert found.value("fisher_rao_velocity").isnan().tolist() == [True, True, False, False]
    assert found.value("distance_to_output").isnan().tolist() == [True, False, False, False]
    assert not found.value("velocity")[1:].isnan().any()


# --- chance


@pytest.mark.parametrize("n_bins", [7, 50])
def test_chance_is_that_of_exchanging_a_tokens_entropies(n_bins):
    result = lens()
    found, e = layer_dynamics(result, n_bins=n_bins), result.entropy[:, :, 0].double().T.contiguous()
    limits = (float(e.min()) - 1e-6, float(e.max()) + 1e-6)
    for i in range(1, 4):
        assert math.isclose(found.chance[1, i], wasserstein_chance(e[i], e[i - 1], paired=True), rel_tol=1e-12)
    for i in range(4):
        expected = histogram_jsd_chance(e[i], e[-1], n_bins=n_bins, limits=limits, paired=True)
        assert math.isclose(found.chance[4, i], expected, rel_tol=1e-12, abs_tol=1e-15)
    assert found.chance[[0, 2, 3]].isnan().all()
    assert torch.isnan(found.chance[1, 0])


def test_at_8_tokens_of_equal_laws_what_is_seen_is_chance():
    two = (Site("resid_post", 0), Site("resid_post", 1))
    draw, seen, by_chance, moved, moved_by_chance = torch.Generator().manual_seed(0), [], [], [], []
    for _ in range(300):
        entropy = 5 + torch.randn(8, 2, 1, generator=draw)
        found = layer_dynamics(lens(lengths=(8,), entropy=entropy, sites=two)).to("bits")
        seen.append(found.value("jsd_to_output")[0].item())
        by_chance.append(found.chance[4, 0].item())
        moved.append(found.value("velocity")[1].item())
        moved_by_chance.append(found.chance[1, 1].item())
    assert abs(np.mean(seen) - 0.84) < 0.03
    assert abs(np.mean(seen) - np.mean(by_chance)) < 0.01
    assert abs(np.mean(moved) - np.mean(moved_by_chance)) < 0.05 * np.mean(moved)
    assert "jsd_to_output (curve): at resid_post.0 more than half is what 8 tokens show by chance" in repr(found)


# --- the family of the vocabulary


def test_vocabulary_values_are_means_over_tokens():
    steps, ends = divergence("previous", seed=1), divergence("output", metrics=("fisher_rao", "total_variation"))
    found = layer_dynamics(ends, steps)
    assert found.quantities == (
        "kl_velocity", "jsd_velocity", "fisher_rao_velocity", "fisher_rao_to_output", "total_variation_to_output",
    )  # fmt: skip
    assert found.units == ("nats", "nats", "rad", "rad", "")
    assert set(found.families) == {"vocabulary"}
    assert (found.order, found.sites) == (None, ends.sites)
    assert found.chance.isnan().all()
    for result, suffix in ((steps, "velocity"), (ends, "to_output")):
        profile = result.mean_profile(result.metrics)
        for metric in result.metrics:
            lines = profile[profile["quantity"] == metric]
            missing = 4 - len(lines)
            value, error = found.value(f"{metric}_{suffix}"), found.error(f"{metric}_{suffix}")
            assert value[:missing].isnan().all()
            np.testing.assert_allclose(value[missing:], result.metric(metric).double().mean(0), rtol=1e-12)
            np.testing.assert_allclose(error[missing:], lines["se"], rtol=1e-12)
    alone = layer_dynamics(steps)
    assert alone.sites == ends.sites, "the first site is known although it has no step"
    torch.testing.assert_close(alone.values, found.values[:3], equal_nan=True)


def test_permuted_distributions_are_far_apart_and_alike_to_curves():
    draw, sites = torch.Generator().manual_seed(0), (Site("resid_post", 0), Site("resid_post", 1))
    p = (4 * torch.randn(10, 2000, generator=draw, dtype=torch.float64)).softmax(-1)
    q = p[:, torch.randperm(2000, generator=draw)]
    entropy = torch.stack([-(law * law.log()).sum(-1) for law in (p, q)], 1).float()
    apart = torch.stack([js_divergence(p.log(), q.log()), fisher_rao_distance(p.log(), q.log())], -1).float()
    lengths, about = (4, 6), {"sites": sites, "provenance": origin(sites)}
    steps = divergence(
        "previous", lengths=lengths, metrics=("jsd", "fisher_rao"), **about | {"sites": sites[1:]},
        divergence=apart[:, None], agreement=torch.zeros(10, 1, dtype=torch.bool),
    )  # fmt: skip
    found = layer_dynamics(lens(lengths=lengths, entropy=entropy[:, :, None], **about), steps).to("bits")
    for name in DISTANCES:
        assert found.value(name, "curve")[-1] < 1e-7
    assert found.value("jsd_to_output")[0] < 1e-7
    assert found.value("jsd_velocity")[1] > 0.9
    assert found.value("fisher_rao_velocity")[1] > 2.7, "of the vocabulary, where no family is named"


@pytest.mark.model
def test_of_a_model_it_is_what_the_laws_at_its_sites_say():
    model, texts = tle.demo_model(), [text[:40] for text in tle.demo_texts(2)]
    quiet = {"progress": False}
    steps = tle.layer_divergence(model, texts, against="previous", **quiet)
    entropy, ends = tle.lens_entropy(model, texts, **quiet), tle.layer_divergence(model, texts, **quiet)
    found = layer_dynamics(entropy, ends, steps)
    kl, angle, jsd, ended = [], [], [], []
    for text in texts:
        ids = model.to_tokens(text, prepend_bos=True)
        with torch.no_grad():
            logits, cache = model.run_with_cache(ids)
            states = [cache["blocks.0.hook_resid_pre"], *(cache[f"blocks.{i}.hook_resid_post"] for i in range(6))]
            laws = torch.stack([model.unembed(model.ln_final(x))[0, 1:].double().log_softmax(-1) for x in states], 1)
        before, after = laws[:, :-1], laws[:, 1:]
        kl.append(kl_divergence(before, after))
        angle.append(fisher_rao_distance(before, after))
        jsd.append(js_divergence(before, after))
        ended.append(kl_divergence(logits[0, 1:].double()[:, None], laws))
    for name, of in (("kl_velocity", kl), ("fisher_rao_velocity", angle), ("jsd_velocity", jsd), ("kl_to_output", ended)):
        value = found.value(name)
        np.testing.assert_allclose(value[~value.isnan()], torch.cat(of).mean(0), atol=1e-4, rtol=1e-4)
    assert found.provenance.weights == entropy.provenance.weights
    assert found.provenance.settings["folds"] == 20
    assert found.provenance.settings["lens"] == "logit lens"
    assert "against" not in found.provenance.settings, "in which the results differ"


def test_the_provenance_holds_what_all_agree_on():
    about = {"metrics": ("kl",)}
    ends = divergence(provenance=origin(lens().sites, **about, against="output"))
    steps = divergence("previous", provenance=origin(lens().sites, **about, against="previous"))
    found = layer_dynamics(lens(), ends, steps, n_bins=30, folds=4).provenance
    assert (found.model, found.weights, found.interrupted) == ("tiny", "0123456789", False)
    assert dict(found.settings) == {
        "lens": "logit lens", "sites": tuple(map(str, lens().sites)), "metrics": ("kl",),
        "order": 1.0, "n_bins": 30, "folds": 4,
    }  # fmt: skip
    stopped = dataclasses.replace(origin(lens().sites), interrupted=True)
    assert layer_dynamics(lens(provenance=stopped)).provenance.interrupted


# --- refusals


def test_what_is_no_result_of_one_run_is_refused():
    with pytest.raises(InputError, match="results is empty"):
        layer_dynamics()
    with pytest.raises(InputTypeError, match=r"keep='positions'\); got int"):
        layer_dynamics(3)
    with pytest.raises(InputError, match="two results of lens_entropy"):
        layer_dynamics(lens(), lens())
    with pytest.raises(InputError, match="two divergences against output"):
        layer_dynamics(divergence(), divergence())
    with pytest.raises(InputError, match=r"against resid_post\.1 is no layer dynamics"):
        layer_dynamics(divergence("resid_post.1"))
    other = dataclasses.replace(origin(lens().sites), weights="9876543210")
    with pytest.raises(InputError, match=r"different runs: tiny \(weights 01234567\) \(entropy\); tiny \(weights 98765432\)"):
        layer_dynamics(lens(), divergence(provenance=other))
    ablated = origin(lens().sites, interventions=("ablate mlp_out.0",))
    with pytest.raises(InputError, match=r"tiny \(entropy\); tiny, ablate mlp_out\.0 \(against previous\)"):
        layer_dynamics(lens(), divergence("previous", provenance=ablated))
    tuned = origin(lens().sites, lens="tuned lens")
    with pytest.raises(InputError, match="measure all of one model with the same settings"):
        layer_dynamics(lens(), divergence(provenance=tuned))


@pytest.mark.parametrize("name", ["document", "position", "token"])
def test_other_rows_are_refused(name):
    changed = {name: getattr(lens(), name) + 1, "strings": {0: "def", 1: " f", 2: "x"}}
    with pytest.raises(InputError, match=rf"{name} differs: the 41 tokens \(entropy\) are not the 41 \(against output\)"):
        layer_dynamics(lens(), divergence(**changed))
    with pytest.raises(InputError, match="document differs: the 41 tokens"):
        layer_dynamics(lens(), divergence(lengths=(2, 3)))
    with pytest.raises(InputError, match="no position"):
        layer_dynamics(without_rows(lens()))


def test_other_sites_are_refused():
    parts = expand_sites(("embed", "attn_out", "resid_post"), 3)
    entropy = torch.rand(41, len(parts), 1)
    with pytest.raises(InputError, match=r"attn_out\.0 is no state of the residual stream.*select\(sites="):
        layer_dynamics(lens(entropy=entropy, sites=parts))
    kept = lens(entropy=entropy, sites=parts, provenance=origin(parts)).select(sites=["embed", "resid_post"])
    assert len(layer_dynamics(kept).sites) == 4
    with pytest.raises(InputError, match=r"sites differ: embed, .* \(entropy\), resid_post\.0, .* \(against output\)"):
        layer_dynamics(lens(), divergence().select(sites="resid_post"))
    with pytest.raises(InputError, match="hold 1 site"):
        layer_dynamics(lens().select(layers=0))


def test_steps_that_are_not_between_the_sites_are_refused():
    with pytest.raises(InputError, match=r"narrowed to resid_post\.1, resid_post\.2, but its steps are those between embed"):
        layer_dynamics(divergence("previous").select(layers=[1, 2]))
    finer = origin(expand_sites(("embed", "resid_mid", "resid_post"), 3))
    with pytest.raises(InputError, match="narrowed"):
        layer_dynamics(divergence("previous", provenance=finer))
    unknown = dataclasses.replace(finer, settings={})
    with pytest.raises(InputError, match="does not say which site came before the first"):
        layer_dynamics(divergence("previous", provenance=unknown))
    assert layer_dynamics(divergence("previous")).sites == lens().sites


def test_wrong_options_are_refused():
    several = lens(entropy=torch.rand(41, 4, 2), orders=(0.5, 2.0))
    with pytest.raises(InputError, match=r"order: choose one of 0\.5, 2"):
        layer_dynamics(several)
    with pytest.raises(InputError, match=r"order \(of lens_entropy\) must be one of 0.5, 2.0; got 3"):
        layer_dynamics(several, order=3)
    with pytest.raises(InputError, match="none of the results holds entropies"):
        layer_dynamics(divergence(), order=1)
    with pytest.raises(InputError, match="n_bins must be an int of at least 2"):
        layer_dynamics(lens(), n_bins=1)
    with pytest.raises(InputTypeError, match="folds must be an int"):
        layer_dynamics(lens(), folds=2.5)
    with pytest.raises(InputError, match="folds must be an int of at least 2"):
        layer_dynamics(lens(), folds=1)


@pytest.mark.model
def test_a_summary_is_refused():
    accumulator = LensAccumulator(tle.demo_model(), keep="summary")
    with pytest.raises(InputTypeError, match="LensSummary"):
        layer_dynamics(accumulator.compute())
