"""Results of soft information: quantities and their errors, selection, tables, units and files."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hand_made import same
from safetensors import safe_open

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.information.cross_fitting import SoftSums
from tl_entropy.functional.information.curves import ChanceCurve
from tl_entropy.functional.information.estimates import error, estimates, label_estimates
from tl_entropy.functional.statistics import jackknife_error
from tl_entropy.results import Provenance, SoftInformation, load
from tl_entropy.results.information.soft import NEW, QUANTITIES, UNITLESS
from tl_entropy.sites import Site

SETTINGS = {"n_bins": (10, 20), "flag": True, "estimator": "cross_fitted"}
ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", settings=SETTINGS)
OLD = dataclasses.replace(ORIGIN, settings={"n_bins": (10, 20), "flag": True})
EMBED, POST, Z = Site("embed", -1), Site("resid_post", 0), Site("z", 0)
FOLDS, BINS, LABELS = 3, 4, ("token", "next_token", "kind")
PLACES = ((EMBED, -1), (Z, 0), (Z, 1), (POST, -1))
DRAWS = ((10, 0), (10, 7), (20, 0))
TEXTS = (("a", " b", "c"), ("x", "y"), ("one", "two", "three", "four"))


def soft_result(**changes):
    """Made-up values with ceiling > plug-in > null, all different, so that a wrong cell shows."""
    draw = torch.Generator().manual_seed(0)
    shape = (1 + FOLDS + BINS, len(PLACES), len(LABELS), len(DRAWS))

    def between(low, high, *size):
        return low + (high - low) * torch.rand(*(size or shape), generator=draw, dtype=torch.float64)

    cells, singles = shape[1:], (len(PLACES), 9, len(DRAWS))
    parts = {
        "entropy": between(2.0, 2.2), "plug_in": between(0.5, 0.7), "null": between(0.1, 0.3), "ceiling": between(0.9, 1.0),
        "sites": tuple(site for site, _ in PLACES), "heads": tuple(head for _, head in PLACES), "labels": LABELS,
        "sides": ("input", "output", "other"), "n_bins": tuple(b for b, _ in DRAWS), "seeds": tuple(s for _, s in DRAWS),
        "temperatures": between(0.1, 0.2, len(PLACES), len(DRAWS)),
        "fold_tokens": torch.tensor([[30, 20, 50], [10, 30, 30], [60, 40, 10]], dtype=torch.float64),
        "tokens": torch.tensor([100, 90, 90]), "coverage": torch.tensor([1.0, 0.9, 0.9], dtype=torch.float64),
        "classes": torch.tensor([3, 2, 4]), "singletons": torch.tensor([1 / 3, 0.0, 0.5], dtype=torch.float64),
        "documents": 5, "dropped": 0, "provenance": ORIGIN, "label_texts": TEXTS,
        "label_counts": torch.tensor([50, 1, 49, 30, 60, 1, 1, 44, 44]),
        "label_information": between(0.0, 1.0, *singles), "information": between(0.4, 0.5),
        "corrected_ceiling": between(1.1, 1.2, *cells), "lower": between(0.2, 0.3, *cells),
        "fold_jackknife": between(0.5, 0.6, *cells), "in_two_folds": torch.tensor([0.9, 1.0, 0.8], dtype=torch.float64),
        "label_corrected": between(-0.1, 0.9, *singles), "label_se": between(0.0, 0.1, *singles),
        "label_entropy": between(1.0, 2.0, *singles),
    }  # fmt: skip
    return SoftInformation(**{**parts, **changes})


STORED = ("entropy", "plug_in", "null", "ceiling")
OF_LABELS = ("label_counts", "label_information", "label_corrected", "label_se", "label_entropy")


def without_labels(**changes):
    return soft_result(**{"label_texts": (), **dict.fromkeys(OF_LABELS), **changes})


def old_result(**changes):
    """As a file of 0.5.0 has it: values with each fold left out, and nothing that came later."""
    r = soft_result()
    left_out = {name: getattr(r, name)[: 1 + FOLDS] for name in ("entropy", "plug_in", "null", "ceiling")}
    later = dict.fromkeys(("information", *NEW, "in_two_folds", "label_corrected", "label_se", "label_entropy"))
    return soft_result(**{**left_out, **later, "provenance": OLD, **changes})


# --- quantities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_quantities_are_what_they_are_called(unit):
    r = soft_result().to(unit)
    log = math.log(2) if unit == "bits" else 1.0
    expected = {
        "information": r.information,
        "share": r.information / (r.ceiling + r.corrected_ceiling - r.ceiling[0]),
        "entropy": r.entropy,
        "efficiency": r.entropy * log / torch.tensor([10.0, 10.0, 20.0], dtype=torch.float64).log(),
        "plug_in": r.plug_in,
        "null": r.null,
        "ceiling": r.ceiling,
        "regularity": r.plug_in / r.entropy,
        "corrected_ceiling": r.ceiling + r.corrected_ceiling - r.ceiling[0],
        "lower": r.lower,
        "fold_jackknife": r.fold_jackknife,
        "chance_adjusted": r.ceiling * (r.plug_in - r.null) / (r.ceiling - r.null),
    }
    assert expected.keys() == QUANTITIES.keys()
    for of, values in expected.items():
        if of in ("lower", "fold_jackknife"):
            torch.testing.assert_close(r.value(of), values)
            assert r.error(of).isnan().all()
            continue
        torch.testing.assert_close(r.values(of), values, msg=lambda m, name=of: f"{name}: {m}")
        torch.testing.assert_close(r.value(of), values[0])
    torch.testing.assert_close(r.values(), expected["information"])
    with pytest.raises(InputError, match="of must be one of 'information', 'share'"):
        r.values("surprise")


def test_units_change_what_has_a_unit_and_nothing_else():
    nats = soft_result(ceiling=torch.full((8, 4, 3, 3), 0.305, dtype=torch.float64))  # some of it hardly above chance
    bits = nats.to("bits")
    for of in QUANTITIES:
        factor = 1.0 if of in UNITLESS else 1 / math.log(2)
        torch.testing.assert_close(bits.values(of), nats.values(of) * factor, equal_nan=True)
        torch.testing.assert_close(bits.error(of), nats.error(of) * factor, equal_nan=True)
    torch.testing.assert_close(bits.label_information, nats.label_information / math.log(2))
    assert (bits.unit, nats.unit) == ("bits", "nats")
    torch.testing.assert_close(bits.to("nats").plug_in, nats.plug_in)
    assert without_labels().to("bits").label_information is None
    with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
        nats.to("hartleys")


def test_errors_are_what_folds_and_anchors_contribute():
    r = soft_result().select(seeds=0)  # one seed, two numbers of bins
    for of in QUANTITIES:
        if of in ("lower", "fold_jackknife"):
            continue
        values = r.values(of)
        documents, anchors = (values[1 : 1 + FOLDS] - values[0]), (values[1 + FOLDS :] - values[0])
        for part, of_it in (("documents", documents), ("anchors", anchors), ("both", values[1:] - values[0])):
            torch.testing.assert_close(r.error(of, part=part), of_it.square().sum(0).sqrt())
    step = r.values()[:, 3:] - r.values()[:, :1]
    torch.testing.assert_close(r.error_of(step), (step[1:] - step[0]).square().sum(0).sqrt())
    with pytest.raises(InputError, match="part must be one of 'both', 'documents', 'anchors'"):
        r.error(part="seeds")


def columns(value, folds, anchors):
    """A column whose folds and anchors contribute these."""
    parts = torch.cat([folds, anchors])
    return torch.cat([value[None], value - parts])


def test_anchors_of_several_seeds_are_components_of_variance():
    """Values with a part of their documents, the same for all seeds but for noise, and a part of their anchors."""
    draw, seeds = torch.Generator().manual_seed(1), 400
    shape = (len(PLACES), len(LABELS), seeds)
    shared, own, anchors = 0.03, 0.02, 0.05

    def normal(*size):
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    folds = shared * normal(FOLDS, *shape[:2], 1).expand(FOLDS, *shape) + own * normal(FOLDS, *shape)
    value = 1 + folds.sum(0) + anchors * normal(*shape)
    information = columns(value, folds, 0.001 * normal(BINS, *shape))
    r = without_labels(
        information=information, n_bins=(10,) * seeds, seeds=tuple(range(seeds)), **{
            name: getattr(soft_result(), name)[..., :1].expand(*getattr(soft_result(), name).shape[:-1], seeds)
            for name in ("entropy", "plug_in", "null", "ceiling", "temperatures", *NEW)
        },
    )  # fmt: skip
    # Documents are one draw, so that the seeds differ by their anchors and the noise of their own.
    assert r.error(part="anchors").mean().item() == pytest.approx(anchors, rel=0.1)
    of_mean, documents, of_anchors = r.mean(r.values())
    torch.testing.assert_close(of_mean, value.mean(-1))
    torch.testing.assert_close(documents, (folds.mean(-1)).square().sum(0).sqrt())
    assert of_anchors.mean().item() == pytest.approx(anchors / seeds**0.5, rel=0.1)
    alone = r.select(seeds=7)
    torch.testing.assert_close(
        alone.error(part="anchors")[..., 0], information[1 + FOLDS :, ..., 7].sub(value[..., 7]).norm(dim=0)
    )


def test_a_mean_over_draws_of_one_seed_shares_its_anchors():
    r = soft_result().select(seeds=0)
    value, documents, anchors = r.mean(r.values())
    mean = r.values().mean(-1)
    torch.testing.assert_close(value, mean[0])
    torch.testing.assert_close(documents, (mean[1 : 1 + FOLDS] - mean[0]).norm(dim=0))
    torch.testing.assert_close(anchors, (mean[1 + FOLDS :] - mean[0]).norm(dim=0))


def test_information_that_cannot_be_given_is_nan_with_the_reason():
    r = soft_result()
    information, ceiling = r.information.clone(), r.ceiling.clone()
    information[:, :, 1] = information[:, 0, 2] = torch.nan
    ceiling[0, 0, 2] = 1e-9
    few = torch.tensor([0.9, 0.3, 0.8], dtype=torch.float64)
    for unit in ("nats", "bits"):
        r = soft_result(information=information, ceiling=ceiling, in_two_folds=few).to(unit)
        frame = r.to_pandas()
        rare = "labels too rare: 27 rows have a label that two folds of documents hold, 50 are needed"
        assert set(frame[frame.label == "next_token"]["reason"]) == {rare}
        flat = "the ceiling is 0: all states are assigned alike"
        assert set(frame[(frame.label == "kind") & (frame.site == "embed")]["reason"]) == {flat}
        assert set(frame[frame.label == "token"]["reason"]) == {""}
        assert f"nan (next_token): {rare}" in repr(r)
        assert f"nan (kind): {flat}" in repr(r)
    assert "nan" not in repr(soft_result())
    one = torch.tensor([[30, 20, 50], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    alone = soft_result(information=information, fold_tokens=one)
    assert "one fold of documents" in alone.reason(0, 1, 0)


# --- files of 0.5.0 ------------------------------------------------------------------------------------------------------


def test_results_of_0_5_0_keep_their_meaning(tmp_path):
    r = old_result()
    assert (r.estimator, soft_result().estimator) == ("chance_adjusted", "cross_fitted")
    adjusted = r.ceiling * (r.plug_in - r.null) / (r.ceiling - r.null)
    for of in ("information", "chance_adjusted"):
        torch.testing.assert_close(r.values(of), adjusted)
        for j in range(3):
            torch.testing.assert_close(r.error(of)[:, j], jackknife_error(adjusted[:, :, j], r.fold_tokens[:, j]))
    torch.testing.assert_close(r.values("share"), adjusted / r.ceiling)
    assert r.error(part="anchors").isnan().all()
    for of in NEW:
        with pytest.raises(InputError, match=f"of: {of} is not in results of 0.5.0, as this one is; measure again"):
            r.values(of)
    frame = r.select(labels=["token", "next_token"]).optimality()
    y, x = (r.values()[:, :, j].flatten(1) for j in (1, 0))
    np.testing.assert_allclose(frame["expressivity_se"], jackknife_error(y, r.fold_tokens[:, 1]))
    np.testing.assert_allclose(frame["optimality_se"], jackknife_error(y / x, r.fold_tokens[:, 0]))
    assert "corrected_ceiling" not in r.to_pandas()
    assert list(r.label_table("kind").columns[-3:]) == ["text", "count", "plug_in"]
    back = load(r.save(tmp_path / "old.safetensors"))
    assert back.estimator == "chance_adjusted"
    same(back, r)
    text = repr(r)
    assert "information corrected for chance ± standard error over 5 documents, means over 2 seeds of anchors" in text
    assert "unsure" not in text


def test_results_of_0_5_0_too_rare_are_nan_with_the_reason():
    null, ceiling = old_result().null.clone(), old_result().ceiling.clone()
    null[:, :, 1] = ceiling[:, :, 1] - 0.005 * ceiling[:, :, 1]
    ceiling[:, 0, 2] = null[:, 0, 2] = 1e-9
    for unit in ("nats", "bits"):
        r = old_result(null=null, ceiling=ceiling).to(unit)
        frame = r.to_pandas()
        rare = frame[frame.label == "next_token"]
        assert rare["information"].isna().all()
        assert set(rare["reason"]) == {"labels too rare: chance alone reaches nearly the ceiling"}
        flat = frame[(frame.label == "kind") & (frame.site == "embed")]
        assert set(flat["reason"]) == {"the ceiling is 0: all states are assigned alike"}
        assert "nan (kind): the ceiling is 0: all states are assigned alike" in repr(r)


def test_old_and_new_results_are_not_compared():
    old, new = old_result().select(labels="token"), soft_result().select(labels="token")
    message = (
        r"not of one estimator \(chance_adjusted, cross_fitted\): some are of 0.5.0; measure these again, or compare of='chan"
    )
    for of in ("information", "share"):
        with pytest.raises(InputError, match=message):
            tle.plots.information({"old": old, "new": new}, of=of)
        with pytest.raises(InputError, match=message):
            tle.plots.course({0: old, 1: new}, of=of)
    for of in ("plug_in", "chance_adjusted"):
        assert len(tle.plots.information({"old": old, "new": new}, of=of).lines) >= 2


def test_new_files_say_that_0_5_0_cannot_read_them(tmp_path):
    path = soft_result().save(tmp_path / "new.safetensors")
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["tl_entropy"])["schema"] == 2
    same(load(path), soft_result())


# --- selection -----------------------------------------------------------------------------------------------------------


def test_selection():
    r = soft_result()
    assert r.select(layers=-1).sites == r.select(layers=0).sites == r.sites[1:], "the last layer; the embedding is in none"
    assert r.select(sites="z.-1").sites == r.select(sites="z").sites
    assert r.select(sites="z").heads == (0, 1)
    assert r.select(sites=("embed", "resid_post"), layers=[0]).sites == (EMBED, POST)
    assert r.select(sites="resid_post", layers=[0]).sites == (POST,)
    assert r.select(heads=-1).sites == (EMBED, POST)
    assert r.select(sites="z", heads=np.int64(1)).heads == (1,)
    assert r.select(n_bins=10).seeds == (0, 7)
    assert r.select(seeds=0).n_bins == (10, 20)
    assert r.select(n_bins=20, seeds=[0]).n_bins == (20,)
    part = r.select(sites="z", labels=["kind", "token"], seeds=0)
    assert part.labels == ("token", "kind"), "in the order of the result"
    assert part.sides == ("input", "other")
    for name in ("entropy", "plug_in", "null", "ceiling"):
        assert torch.equal(getattr(part, name), getattr(r, name)[:, 1:3][:, :, [0, 2]][..., [0, 2]])
    assert torch.equal(part.temperatures, r.temperatures[1:3][:, [0, 2]])
    assert torch.equal(part.fold_tokens, r.fold_tokens[:, [0, 2]])
    for name in ("tokens", "coverage", "classes", "singletons", "in_two_folds"):
        assert torch.equal(getattr(part, name), getattr(r, name)[[0, 2]])
    for name in ("corrected_ceiling", "lower", "fold_jackknife"):
        assert torch.equal(getattr(part, name), getattr(r, name)[1:3][:, [0, 2]][..., [0, 2]])
    assert soft_result(one_fold=((), (), ("three",))).select(labels=["kind", "token"]).one_fold == ((), ("three",))
    assert part.label_texts == (TEXTS[0], TEXTS[2])
    assert torch.equal(part.label_counts, r.label_counts[[0, 1, 2, 5, 6, 7, 8]])
    for name in OF_LABELS[1:]:
        assert torch.equal(getattr(part, name), getattr(r, name)[1:3][:, [0, 1, 2, 5, 6, 7, 8]][..., [0, 2]])
    documents = r.error(part="documents")[1:3][:, [0, 2]][..., [0, 2]]
    torch.testing.assert_close(part.error(part="documents"), documents)
    same(r.select(), r)
    plain = without_labels().select(labels="kind")
    assert plain.label_information is None
    assert plain.plug_in.shape == (8, 4, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": "mlp_out"}, "sites: mlp_out not in this result; it has embed, z, resid_post"),
        ({"layers": [0, 4]}, "layer 4 does not exist; this result has layers 0 to 0"),
        ({"sites": "z", "layers": -2}, "layer -2 does not exist; this result has layers 0 to 0"),
        ({"heads": 2}, "heads: 2 not in this result; it has -1, 0, 1"),
        ({"labels": "bigram"}, "labels: bigram not in this result; it has token, next_token, kind"),
        ({"n_bins": 30}, "n_bins: 30 not in this result; it has 10, 20"),
        ({"seeds": 1}, "seeds: 1 not in this result; it has 0, 7"),
        ({"n_bins": 20, "seeds": 7}, "seeds: 7 not in this result; it has 0"),
    ],
)
def test_what_is_not_there_cannot_be_selected(arguments, message):
    with pytest.raises(InputError) as caught:
        soft_result().select(**arguments)
    assert str(caught.value) == message


# --- tables --------------------------------------------------------------------------------------------------------------


def test_long_form():
    r = soft_result(dropped=4)
    frame = r.to_pandas()
    assert list(frame.columns) == [
        "site", "layer", "head", "label", "n_bins", "seed", "information", "information_se", "information_se_documents",
        "information_se_anchors", "share", "share_se", "entropy", "entropy_se", "efficiency", "plug_in", "plug_in_se", "null",
        "ceiling", "regularity", "corrected_ceiling", "lower", "fold_jackknife", "chance_adjusted", "tokens", "coverage",
        "classes", "singletons", "in_two_folds", "documents", "dropped", "temperature", "reason",
    ]  # fmt: skip
    assert len(frame) == 4 * 3 * 3
    line = frame[(frame.site == "z") & (frame["head"] == 1) & (frame.label == "kind") & (frame.seed == 7)].iloc[0]
    assert (line["layer"], line["n_bins"], line["tokens"], line["classes"], line["documents"], line["dropped"]) == (
        0,
        10,
        90,
        4,
        5,
        4,
    )
    assert (line["coverage"], line["singletons"], line["in_two_folds"]) == (0.9, 0.5, 0.8)
    assert line["temperature"] == r.temperatures[2, 1].item()
    for of in QUANTITIES:
        assert line[of] == r.value(of)[2, 2, 1].item()
    for of in ("information", "share", "entropy", "plug_in"):
        assert line[f"{of}_se"] == r.error(of)[2, 2, 1].item()
    for part in ("documents", "anchors"):
        assert line[f"information_se_{part}"] == r.error(part=part)[2, 2, 1].item()


def test_optimality_is_the_ratio_of_expressivity_to_complexity():
    r = soft_result().select(labels=["kind", "token", "next_token"])
    frame = r.optimality()
    assert len(frame) == 4 * 3
    assert list(frame.columns[:5]) == ["site", "layer", "head", "n_bins", "seed"]
    line = frame[(frame.site == "z") & (frame["head"] == 0) & (frame.n_bins == 20)].iloc[0]
    x, y = r.values()[:, 1, 0, 2], r.values()[:, 1, 1, 2]
    assert line["complexity"] == pytest.approx(x[0].item())
    assert line["expressivity"] == pytest.approx(y[0].item())
    assert line["optimality"] == pytest.approx((y / x)[0].item())
    assert line["plug_in_optimality"] == pytest.approx((r.plug_in[0, 1, 1, 2] / r.plug_in[0, 1, 0, 2]).item())
    assert line["complexity_se"] == pytest.approx(r.error()[1, 0, 2].item())
    assert line["expressivity_se"] == pytest.approx(r.error()[1, 1, 2].item())
    assert line["optimality_se"] == pytest.approx(error(y / x).item())
    bits = r.to("bits").optimality()
    np.testing.assert_allclose(bits["complexity"], frame["complexity"] / math.log(2))
    np.testing.assert_allclose(bits["optimality"], frame["optimality"])
    other = r.optimality(output="kind")
    np.testing.assert_allclose(other["expressivity"], r.value()[:, 2].flatten())


def test_optimality_needs_one_label_set_on_each_side():
    r = soft_result(sides=("input", "input", "other"), labels=("token", "bigram", "kind"))
    with pytest.raises(InputError, match="input: name one of the label sets; this result has token, bigram on that side"):
        r.optimality()
    with pytest.raises(InputError, match="output: name one of the label sets; this result has none on that side"):
        r.optimality("token")
    with pytest.raises(InputError, match="output must be one of 'token', 'bigram', 'kind'; got 'next'"):
        r.optimality("token", "next")
    np.testing.assert_allclose(r.optimality("bigram", "kind")["complexity"], r.value()[:, 1].flatten())


def test_label_table():
    r = soft_result()
    frame = r.label_table("kind")
    assert list(frame.columns) == [
        "site", "layer", "head", "n_bins", "seed", "text", "count", "information", "information_se", "plug_in", "entropy",
    ]  # fmt: skip
    assert len(frame) == 4 * 3 * 2, "labels seen once are left out"
    part = frame[(frame.site == "z") & (frame["head"] == 1) & (frame.n_bins == 10) & (frame.seed == 7)]
    assert part["text"].tolist() == ["three", "four"]
    assert part["count"].tolist() == [44, 44]
    for name, field in (
        ("information", r.label_corrected), ("information_se", r.label_se), ("plug_in", r.label_information),
        ("entropy", r.label_entropy),
    ):  # fmt: skip
        assert part[name].tolist() == field[2, [7, 8], 1].tolist()
    first = r.select(sites="embed", n_bins=20).label_table("token")
    assert first["text"].tolist() == ["a", "c"], "the most frequent first"
    assert first["plug_in"].tolist() == r.label_information[0, [0, 2], 2].tolist()
    pd.testing.assert_frame_equal(r.select(labels="kind").label_table(), frame)
    for label in (None, "verb"):
        with pytest.raises(InputError, match=f"label must be one of token, next_token, kind; got {label!r}"):
            r.label_table(label)
    with pytest.raises(InputError, match=r"holds no single labels; measure with soft_information\(..., keep_labels=True\)"):
        without_labels().label_table("token")


def test_single_labels_average_to_the_whole():
    """Weighted by their counts, and with the labels seen once, they are the plug-in information."""
    draw = torch.Generator().manual_seed(3)
    p = torch.softmax(3 * torch.randn(40, 6, generator=draw, dtype=torch.float64), -1)
    label = torch.arange(40).clamp_max(9)  # nine labels seen once, one seen 31 times
    label[30:] = 10
    own = -(p * p.log()).sum(-1)
    repeated = label >= 9
    mass = torch.stack([p[label == 9].sum(0), p[label == 10].sum(0), p[~repeated].sum(0)])[:, None]
    owns = torch.stack([own[label == 9].sum(), own[label == 10].sum(), own[~repeated].sum()])[:, None]
    sums = SoftSums(mass, owns, torch.tensor([21.0, 10.0, 9.0]).double(), torch.tensor([0, 1, -1]), torch.zeros(3).long())
    one = torch.ones(1, dtype=torch.float64)
    curve = ChanceCurve(one, one, 1.0, one[:0], one[:0])
    single = label_estimates(sums, [curve], folds=1)
    information, sizes = single.plug_in, single.counts
    mean = p.mean(0)
    singles = (p[~repeated] * (p[~repeated] / mean).log()).sum()
    plug_in = estimates(sums, [curve], folds=1).plug_in[0, 0]
    assert ((information[:, 0] * sizes).sum() + singles).item() / 40 == pytest.approx(plug_in.item(), abs=1e-12)


@pytest.mark.model
def test_label_table_of_a_model_averages_to_the_whole():
    from tiny_models import cached_model, kinds

    model = cached_model("gpt2", kinds()[0])
    texts = ["the cat sat on the mat and the cat sat", "the dog and the cat and the dog", "def f(x): return x and x"]
    labels = {"now": "token", "then": "next_token", "kind": ["prose", "prose", "code"]}
    r = tle.soft_information(model, texts, labels=labels, layers=[1], keep_labels=True, progress=False)
    assert tuple(map(len, r.label_texts)) == tuple(r.classes.tolist())
    counts = r.label_counts.split(r.classes.tolist())
    for j, label in enumerate(labels):
        table = r.select(sites="resid_post").label_table(label)
        once = int((counts[j] == 1).sum())
        assert counts[j].sum() == r.tokens[j]
        assert r.singletons[j].item() == pytest.approx(once / len(counts[j]))
        rest = r.plug_in[0, 1, j, 0].item() * int(r.tokens[j]) - (table["plug_in"] * table["count"]).sum()
        # What is left is that of the labels seen once; each says at most what a single state can.
        assert (0 < rest <= once * math.log(100)) if once else rest == pytest.approx(0, abs=1e-9)
    table = r.select(sites="embed").label_table("then").set_index("text")
    assert table["count"][" cat"] == " ".join(texts).count(" cat")
    assert r.select(sites="embed").label_table("kind")["text"].tolist() == ["prose", "code"]


# --- files and printing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [soft_result(), without_labels(dropped=3), soft_result().to("bits").select(sites="z")])
def test_a_file_gives_back_the_whole_result(result, tmp_path):
    path = result.save(tmp_path / "r.safetensors")
    back = load(path)
    assert type(back) is SoftInformation
    same(result, back)
    same(back.select(seeds=0), result.select(seeds=0))
    assert repr(back) == repr(result)


def test_results_print_well():
    text = repr(soft_result())
    lines = text.splitlines()
    assert lines[0] == "SoftInformation: 4 places x 3 label sets x 3 draws, nats; tiny"
    assert "H(Z)" in lines[1]
    assert "I(next_token;Z)" in lines[1]
    places = ["embed, 10 bins", "resid_post.0, 10 bins", "embed, 20 bins", "resid_post.0, 20 bins"]
    assert [line.split("bins")[0] + "bins" for line in lines[2:6]] == places, "heads are not in the table"
    r = soft_result()
    value, *parts = (part[0, 1].item() for part in r.select(n_bins=10).mean(r.select(n_bins=10).values()))
    assert f"{value:.3f} ± {math.hypot(*parts):.3f}" in lines[2]
    assert (
        "information cross-fitted ± standard error over 5 documents and over 2 seeds of anchors, of which means are shown"
        in text
    )
    note = (
        "next_token: 90 positions (90.0% of those read), 2 labels, 0.0% of them seen once, 100.0% of positions have one that "
    )
    assert note + "two folds of documents hold" in text
    by_bins = [part.mean(part.values())[1:] for part in (r.select(n_bins=10), r.select(n_bins=20))]  # as cells are
    middle = [torch.cat([part[[0, 3], 1] for part in parts]).nanmedian().item() for parts in zip(*by_bins, strict=True)]
    assert f"next_token {middle[0]:.3f} and {middle[1]:.3f}" in lines[7]
    assert lines[7].startswith("of ± are over documents and over anchors (medians of places): token ")
    assert "2 heads not shown: see to_pandas(), select(sites=...), plots.heads()" in text
    assert "dropped" not in text
    assert "3 positions dropped: a state there was zero or not finite" in repr(soft_result(dropped=3))
    alone = repr(soft_result().select(sites="embed", n_bins=20))
    assert "seeds of anchors" not in alone
    assert "over 5 documents and over anchors (jackknife of one seed)" in alone
    assert "heads not shown" not in alone
    heads = repr(soft_result().select(sites="z"))
    assert "z.0 head 1" in heads
    assert "heads not shown" not in heads
    many = without_labels(
        sites=(Z,) * 15, heads=tuple(range(15)), temperatures=torch.full((15, 3), 0.1),
        **{name: getattr(soft_result(), name)[:, [1] * 15] for name in (*STORED, "information")},
        **{name: getattr(soft_result(), name)[[1] * 15] for name in NEW},
    )  # fmt: skip
    assert "3 heads not shown" in repr(many)
    assert "z.0 head 12" not in repr(many)
    stopped = repr(soft_result(provenance=dataclasses.replace(ORIGIN, interrupted=True)))
    assert stopped.splitlines()[0].endswith("; tiny, interrupted")
    single = without_labels(**one_fold())
    assert "±" not in repr(single).splitlines()[2], "no error of a single fold"


def one_fold():
    """What a result of one fold holds: nothing of documents, and no information."""
    r = soft_result()
    found = {"fold_tokens": r.fold_tokens[:1]}
    for name in (*STORED, "information"):
        value = getattr(r, name)
        found[name] = torch.cat([value[:1], torch.full_like(value[:1], torch.nan), value[1 + FOLDS :]])
    return found | {"information": torch.full_like(found["information"], torch.nan)}


def test_a_single_fold_has_no_errors_and_says_so():
    whole = one_fold()
    for of in ("information", "entropy"):
        assert soft_result(**whole).error(of).isnan().all()
    assert "cross-fitted; one fold, so no standard errors" in repr(soft_result(**whole))
    assert "cross-fitted; one document, so no standard errors" in repr(soft_result(**whole, documents=1))
    old = {name: getattr(old_result(), name)[:1] for name in (*STORED, "fold_tokens")}
    assert old_result(**old).error().isnan().all()
    assert "corrected for chance; one fold, so no standard errors" in repr(old_result(**old))
    assert "standard errors" not in repr(soft_result())


def test_cells_whose_value_is_no_finding_say_so():
    r = soft_result().select(n_bins=20)
    for name in ("information", "fold_jackknife"):
        assert "unsure" not in repr(r)
        changed = getattr(r, name).clone()
        if name == "information":
            changed[2, 0, 1] += 2 * changed[0, 0, 1]  # one fold of documents contributes more than there is
        else:
            changed[0, 1] = 2.1 * r.value()[0, 1]  # what few rows a label leave open is as much as there is
        lines = repr(dataclasses.replace(r, **{name: changed})).splitlines()
        assert lines[2].count("unsure") == 1
        assert lines[3].count("unsure") == 0
        note = "unsure: the error, or what few positions a label leave open (see fold_jackknife), is as large as the value"
        assert note in lines


def test_a_cell_whose_error_over_documents_is_as_large_says_so_where_that_over_anchors_is_unknown():
    r = soft_result().select(n_bins=20, seeds=0)
    changed = r.information.clone()
    changed[2, 0, 1] += 2 * changed[0, 0, 1]  # one fold of documents contributes more than there is
    changed[1 + FOLDS :] = torch.nan
    two = dataclasses.replace(r, information=changed)
    assert two.error()[0, 1].isnan().all()
    lines = repr(two).splitlines()
    assert lines[2].count("unsure") == 1
    assert lines[3].count("unsure") == 0


def test_two_anchors_of_one_seed_have_no_error_and_say_so():
    r, note = soft_result(), "2 bins: two anchors say nothing of their error, so that there is no ±; give several seeds"
    columns = {name: getattr(r, name).clone() for name in (*STORED, "information")}
    for values in columns.values():
        values[1 + FOLDS :, ..., 2] = torch.nan
    two = dataclasses.replace(r, n_bins=(10, 10, 2), **columns).select(seeds=0)
    assert two.error(part="documents").isfinite().all()
    assert two.error(part="anchors")[..., 1].isnan().all()
    assert [("±" in line) for line in repr(two).splitlines()[2:6]] == [True, True, False, False]
    assert note in repr(two)
    assert note not in repr(two.select(n_bins=10))
    assert note not in repr(dataclasses.replace(r, n_bins=(2, 2, 20)))


@pytest.mark.parametrize("make", [soft_result, old_result])
def test_what_is_no_value_of_the_result_is_refused(make):
    r = make()
    for values in (None, [1.0], r.values().long()):
        for ask in (r.error_of, r.mean):
            with pytest.raises(InputTypeError, match=r"values must be floats \[left, place, label, draw\]"):
                ask(values)
    for values in (r.value(), r.values()[1:], r.values()[..., :0]):
        for ask in (r.error_of, r.mean):
            with pytest.raises(InputError, match=f"{len(r.values())} of them on the first axis; got the shape"):
                ask(values)
    for place in ((len(PLACES), 0, 0), (0, len(LABELS), 0), (0, 0, len(DRAWS))):
        with pytest.raises(InputError, match=r"(place|label|draw) must be an int from -"):
            r.reason(*place)
    with pytest.raises(InputTypeError, match="place must be an int"):
        r.reason(0.5, 0, 0)
    with pytest.raises(InputError, match="side must be one of 'input', 'output'"):
        r.label_on("x")
    for label in (np.array([1, 2]), np.array([]), 3):
        with pytest.raises(InputError, match=r"label must be one of|holds no single labels"):
            r.label_table(label)


def test_labels_in_one_fold_are_named():
    text = repr(soft_result(one_fold=((), (), ("three", "four"))))
    assert "kind: not identifiable, since in one fold of documents only: three, four" in text
    assert "not identifiable" not in repr(soft_result())


def test_notebooks_get_a_table_in_which_names_are_escaped():
    r = soft_result(labels=("<b>", "next_token", "kind"), provenance=dataclasses.replace(ORIGIN, model="<i>tiny</i>"))
    page = r._repr_html_()
    assert "<table" in page
    assert "2 heads not shown" in page
    assert "&lt;b&gt;" in page
    assert "&lt;i&gt;tiny" in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        soft_result().unit = "bits"
