"""Contrasts: differences, paired means against plain loops, tables, files, and what can't be compared."""

from __future__ import annotations

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hand_made import surprisal, without_rows

import tl_entropy as tle
from tl_entropy.capture.ablation import ablate_heads
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results import LayerDivergence, LensEntropy, LensSummary, Provenance, load
from tl_entropy.results.models.contrast import Contrast, contrast, run_names
from tl_entropy.sites import Site

ORIGIN = Provenance("tiny", "0123456789", "raw", "float32", "cpu")
SITES = (Site("embed", -1), Site("resid_post", 0), Site("resid_post", 1))
LENGTHS = (5, 1, 7, 4)


def lens(seed=0, **changes):
    draw, rows = torch.Generator().manual_seed(seed), sum(LENGTHS)
    document = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    position = torch.cat([torch.arange(n) for n in LENGTHS])
    surprisal = torch.rand(rows, len(SITES), generator=draw) * 9
    surprisal[[sum(LENGTHS[: i + 1]) - 1 for i in range(len(LENGTHS))]] = math.nan
    parts = {
        "entropy": torch.rand(rows, len(SITES), 2, generator=draw) * 5 + document[:, None, None],
        "document": document,
        "position": position,
        "token": torch.arange(rows) % 3,
        "sites": SITES,
        "orders": (1.0, math.inf),
        "strings": {0: "a", 1: " b", 2: "\n", 9: "never read"},
        "provenance": ORIGIN,
        "names": {2: "x.py"},
        "surprisal": surprisal,
        "rank": torch.where(surprisal.isnan(), -1, 0),
    }
    return LensEntropy(**{**parts, **changes})


@pytest.mark.parametrize("deep", [False, True])
def test_of_single_tokens(deep):
    before, after = (surprisal(["the", " cat", " is"], ["a", " cat"], seed=seed) for seed in (0, 1))
    if deep:
        sites = (Site("resid_post", 0), Site("resid_post", 1))
        before, after = (
            dataclasses.replace(r, sites=sites, site_surprisal=r.surprisal[:, None] * torch.tensor([3.0, 2.0]))
            for r in (before, after)
        )
    change = contrast(before, after)
    assert change.sites[-1] == Site("resid_post", -1)
    assert change.quantities == ("surprisal", "entropy", "excess", "varentropy", "rank")
    assert change.units == ("nats", "nats", "nats", "nats²", "")
    assert change.values("surprisal")[:, -1].tolist() == pytest.approx((after.surprisal - before.surprisal).tolist())
    line = change.mean_profile("surprisal").iloc[-1]
    assert line["mean"] == pytest.approx(float((after.surprisal - before.surprisal).double().mean()))
    if deep:
        expected = 3 * (after.surprisal - before.surprisal)
        assert change.values("surprisal")[:, 0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        assert change.values("entropy")[:, :2].isnan().all()
    assert "surprisal" in repr(change)
    assert change._repr_html_()
    ax = tle.plots.contrast(change, quantity="surprisal")
    assert ax.get_lines() or ax.collections
    tle.plots.contrast_map(change, quantity="surprisal", document=0)
    plt.close("all")
    with pytest.raises(InputError, match="unit differ"):
        contrast(before, after.to("bits"))


def divergence(seed=0, **changes):
    base, draw = lens(), torch.Generator().manual_seed(seed)
    rows = base.n_tokens
    parts = {name: getattr(base, name) for name in ("document", "position", "token", "sites", "strings", "provenance")}
    parts |= {
        "divergence": torch.rand(rows, 3, 2, generator=draw),
        "agreement": torch.rand(rows, 3, generator=draw) < 0.5,
        "output_token": torch.zeros(rows, dtype=torch.long),
        "metrics": ("kl", "fisher_rao"),
        "against": "output",
    }
    return LayerDivergence(**{**parts, **changes})


def test_the_difference_is_after_minus_before():
    before, after = lens(0), lens(1)
    found = contrast(before, after)
    assert (found.quantities, found.units) == (("entropy", "entropy of order inf", "surprisal"), ("nats",) * 3)
    assert torch.equal(found.values("entropy"), after.entropy[:, :, 0] - before.entropy[:, :, 0])
    assert torch.equal(found.values("entropy of order inf"), after.entropy[:, :, 1] - before.entropy[:, :, 1])
    torch.testing.assert_close(found.values("surprisal"), after.surprisal - before.surprisal, equal_nan=True)
    back = contrast(after, before)
    torch.testing.assert_close(back.difference, -found.difference, equal_nan=True)
    assert found.tokens(1) == before.tokens(1)
    assert found.documents == (0, 1, 2, 3)
    assert sorted(found.strings) == [0, 1, 2]


def test_a_run_against_itself_is_zero():
    for result in (lens(), divergence()):
        found = contrast(result, result)
        known = found.difference[~found.difference.isnan()]
        assert torch.equal(known, torch.zeros_like(known))
        profile = found.mean_profile()
        assert profile["mean"].eq(0).all()
        assert profile["se"].eq(0).all()


def plain_mean(values, document):
    """Mean over tokens and its error over documents, as in a textbook: loops in Python floats."""
    sums, counts = {}, {}
    for value, d in zip(values.tolist(), document.tolist(), strict=True):
        if not math.isnan(value):
            sums[d], counts[d] = sums.get(d, 0.0) + value, counts.get(d, 0) + 1
    n, d = sum(counts.values()), len(counts)
    mean = sum(sums.values()) / n
    spread = sum((sums[k] - mean * counts[k]) ** 2 for k in counts)
    return mean, math.sqrt(d / (d - 1) * spread) / n, n, d


def test_mean_and_error_are_those_of_paired_differences():
    before, after = lens(0), lens(1)
    profile = contrast(before, after).mean_profile()
    assert len(profile) == 9
    raw = {"entropy": (before.entropy[:, :, 0], after.entropy[:, :, 0]), "surprisal": (before.surprisal, after.surprisal)}
    for name, (one, other) in raw.items():
        lines = profile[profile["quantity"] == name]
        assert lines["site"].tolist() == ["embed", "resid_post", "resid_post"]
        assert lines["layer"].tolist() == [-1, 0, 1]
        for i in range(3):
            mean, se, n, d = plain_mean(other[:, i] - one[:, i], before.document)
            line = lines.iloc[i]
            np.testing.assert_allclose([line["mean"], line["se"]], [mean, se], rtol=1e-5, atol=1e-7)
            assert (line["tokens"], line["documents"]) == (n, d)
    assert profile[profile["quantity"] == "surprisal"]["documents"].eq(3).all(), "a document of one token has no surprisal"


def test_pairing_removes_what_documents_share():
    before = lens(entropy=lens().entropy + 50 * lens().document[:, None, None])
    after = dataclasses.replace(before, entropy=before.entropy + 0.25)
    profile = contrast(before, after).mean_profile("entropy")
    assert profile["se"].max() < 1e-5
    assert before.mean_profile()["se"].min() > 10
    np.testing.assert_allclose(profile["mean"], 0.25, rtol=1e-5)


def test_sites_may_have_values_at_different_rows():
    before, after = lens(0), lens(1)
    holes = after.surprisal.clone()
    holes[:3, 1] = math.nan
    holes[:, 2] = math.nan
    profile = contrast(before, dataclasses.replace(after, surprisal=holes)).mean_profile("surprisal")
    mean, se, n, d = plain_mean((holes - before.surprisal)[:, 1], before.document)
    np.testing.assert_allclose(profile[["mean", "se"]].iloc[1], [mean, se], rtol=1e-5)
    assert profile["tokens"].tolist() == [13, n, 0]
    assert profile["documents"].tolist() == [3, d, 0]
    assert math.isnan(profile["mean"].iloc[2])


def test_units():
    found = contrast(lens(0), lens(1))
    bits = found.to("bits")
    assert bits.units == ("bits",) * 3
    torch.testing.assert_close(bits.difference, found.difference / math.log(2), equal_nan=True)
    torch.testing.assert_close(bits.to("nats").difference, found.difference, equal_nan=True)
    direct = contrast(lens(0).to("bits"), lens(1).to("bits"))
    assert direct.units == bits.units
    torch.testing.assert_close(direct.difference, bits.difference, equal_nan=True, rtol=1e-4, atol=1e-5)
    mixed = contrast(divergence(0), divergence(1))
    assert dict(zip(mixed.quantities, mixed.units, strict=True)) == {
        "kl": "nats", "fisher_rao": "rad", "agreement": "", "decided": "",
    }  # fmt: skip
    scaled = mixed.to("bits")
    assert scaled.units == ("bits", "rad", "", "")
    torch.testing.assert_close(scaled.values("kl"), mixed.values("kl") / math.log(2))
    assert torch.equal(scaled.values("fisher_rao"), mixed.values("fisher_rao"))
    with pytest.raises(InputError, match="unit must be one of"):
        found.to("hartleys")


def test_what_only_one_result_holds_is_left_out():
    assert contrast(lens(surprisal=None, rank=None), lens()).quantities == ("entropy", "entropy of order inf")
    assert contrast(lens(), lens(surprisal=None, rank=None)).quantities == ("entropy", "entropy of order inf")


def test_parts():
    found = contrast(lens(0), lens(1))
    part = found.select(layers=[0, 1], quantities="surprisal", documents=[0, 2], positions=slice(-3, None))
    assert part.sites == SITES[1:]
    assert (part.quantities, part.units, part.documents) == (("surprisal",), ("nats",), (0, 2))
    assert part.position.tolist() == [2, 3, 4, 4, 5, 6]
    rows = found.rows([0, 2], slice(-3, None))
    torch.testing.assert_close(part.values("surprisal"), found.values("surprisal")[rows][:, 1:], equal_nan=True)
    for asked, message in (
        ({"quantities": "kl"}, "quantities: kl not in"),
        ({"layers": 7}, "layer 7 does not exist; this"),
    ):
        with pytest.raises(InputError, match=message):
            found.select(**asked)
    for ask in (found.values, found.unit_of, found.mean_profile):
        with pytest.raises(InputError, match="quantity: kl not in this result; it has entropy"):
            ask("kl")


def test_the_long_table():
    generated = torch.arange(sum(LENGTHS)) % 2 == 0
    found = contrast(lens(0, generated=generated), lens(1))
    frame = found.to_pandas()
    assert list(frame) == [
        "document", "position", "token", "site", "layer", "entropy", "entropy of order inf", "surprisal", "generated",
    ]  # fmt: skip
    row = frame.iloc[7 * 3 + 1]
    assert (row["document"], row["position"], row["token"], row["site"], row["layer"]) == (2, 1, " b", "resid_post", 0)
    assert row["entropy"] == found.values("entropy")[7, 1].item()
    assert frame["generated"].tolist() == generated.repeat_interleave(3).tolist()


def test_a_file_gives_it_back(tmp_path):
    settings = {"interventions": ("ablate heads 1.0",), "orders": (1.0, math.inf)}
    found = contrast(lens(0), lens(1, provenance=dataclasses.replace(ORIGIN, settings=settings)))
    back = load(found.save(tmp_path / "c.safetensors"))
    assert type(back) is Contrast
    for item in dataclasses.fields(found):
        mine, theirs = getattr(found, item.name), getattr(back, item.name)
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert mine == theirs, item.name


def test_it_says_what_was_compared():
    changed = dataclasses.replace(ORIGIN, settings={"interventions": ("ablate heads 1.0", "steer <x>")}, interrupted=True)
    found = contrast(lens(0), lens(1, provenance=changed))
    assert found.runs() == ("tiny", "tiny, ablate heads 1.0, steer <x>, interrupted")
    first, before, after, columns, embed, *_, last = repr(found).splitlines()
    assert first == "Contrast: 17 tokens of 4 documents x 3 sites, after - before"
    assert (before, after) == ("before: tiny", "after: tiny, ablate heads 1.0, steer <x>, interrupted")
    assert columns.endswith("surprisal (nats)")
    mean, se = found.mean_profile("entropy").iloc[0][["mean", "se"]]
    assert embed.split()[:4] == ["embed", f"{mean:+.3f}", "±", f"{se:.3f}"]
    assert last == "mean paired difference over tokens ± standard error over documents"
    page = found._repr_html_()
    assert "steer &lt;x&gt;" in page
    assert f"{mean:+.3f} ± {se:.3f}" in page
    checkpoint = dataclasses.replace(ORIGIN, weights="ffff")
    assert contrast(lens(0), lens(1, provenance=checkpoint)).runs() == ("tiny (weights 01234567)", "tiny (weights ffff)")
    one = contrast(lens(0), lens(1)).select(documents=0)
    assert repr(one).endswith("; one document, so no standard errors")
    assert "±" not in repr(one)


def origin(settings, corpus=None, **changes):
    return dataclasses.replace(ORIGIN, settings=settings, corpus=corpus or {}, **changes)


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        (origin({"lens": "logit lens"}), origin({"lens": "tuned lens"}), ("tiny, logit lens", "tiny, tuned lens")),
        (origin({}), origin({"lens": "tuned lens of tiny"}), ("tiny, logit lens", "tiny, tuned lens of tiny")),
        (origin({}, {"window": 64}), origin({"window": 10}, {"window": 10}), ("tiny, window=64", "tiny, window=10")),
        (origin({}, {"window": 64}), origin({"window": 64}, {"window": 64}), ("tiny", "tiny")),
        (origin({}, {"stride": None}), origin({"stride": 5}, {"stride": 5}), ("tiny", "tiny, stride=5")),
        (origin({"positions": "None"}), origin({"positions": "slice(9)"}), ("tiny", "tiny, positions=slice(9)")),
        (
            origin({"prepend_bos": True, "precision": "float32"}), origin({"prepend_bos": False, "precision": "float64"}),
            ("tiny, prepend_bos=True, precision=float32", "tiny, prepend_bos=False, precision=float64"),
        ),
        (
            origin({"compiled": True, "readout_error": 1e-6, "orders": (1.0, 2.0), "sites": ("embed",)}),
            origin({"compiled": False, "readout_error": 2e-6, "orders": (1.0,), "sites": ("z",)}),
            ("tiny", "tiny"),
        ),
        (
            origin({"interventions": ("a", "b")}), origin({"lens": "other"}, weights="ffff", interrupted=True),
            ("tiny (weights 01234567), a, b, logit lens", "tiny (weights ffff), other, interrupted"),
        ),
        (origin({}), dataclasses.replace(ORIGIN, model="big", weights="ffff"), ("tiny", "big")),
    ],
)  # fmt: skip
def test_runs_are_named_by_all_that_differs(before, after, names):
    assert contrast(lens(0, provenance=before), lens(1, provenance=after)).runs() == names
    assert run_names([after, before, before]) == [names[1], names[0], names[0]]


def test_contrasts_that_differ_in_the_lens_or_the_window_have_labels_of_their_own():
    afters = [origin({}), origin({"lens": "tuned lens of tiny"}), origin({}, {"window": 10}), origin({}, {"window": 12})]
    found = [contrast(lens(0, provenance=origin({}, {"window": 64})), lens(1, provenance=after)) for after in afters]
    axes = tle.plots.contrast(found, quantity="entropy", sites="resid_post")
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == [
        "tiny, logit lens",
        "tiny, tuned lens of tiny",
        "tiny, logit lens, window=10",
        "tiny, logit lens, window=12",
    ]


def test_parts_of_characters_of_0_5_0_are_the_same_tokens():
    old, new = lens(strings={0: "a", 1: "\ufffd", 2: "\n"}), lens(strings={0: "a", 1: "<0xE6>", 2: "\n"})
    assert contrast(old, new).n_tokens == 17


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: lens().to("bits"), "unit differ: nats before, bits after"),
        (lambda: lens().select(layers=[0]), "sites differ: embed, resid_post.0, resid_post.1 before, resid_post.0 after"),
        (lambda: lens().select(orders=1), "orders differ: 1.0, inf before, 1.0 after"),
        (lambda: lens().select(documents=[0, 1]), "rows differ: 17 tokens before, 6 after"),
        (
            lambda: lens(token=(torch.arange(17) + (torch.arange(17) > 8)) % 3),
            "token differs first at row 9 .document 2, pos.* 3",
        ),
        (
            lambda: lens(position=lens().position + (lens().document == 2)),
            "position differs first at row 6 .*: 0 before, 1 after",
        ),
        (lambda: lens(document=lens().document + 1), "document differs first at row 0"),
        (lambda: lens(strings={0: "a", 1: "b", 2: "\n"}), "token 1 is ' b' before and 'b' after; only models with the same"),
        (lambda: without_rows(lens()), "after holds no position to compare"),
    ],
)
def test_what_is_not_alike_is_refused(other, message):
    with pytest.raises(InputError, match=message):
        contrast(lens(), other())


def test_more_refusals():
    with pytest.raises(InputError, match="before holds no position"):
        contrast(without_rows(lens()), lens())
    with pytest.raises(InputError, match="metrics differ: kl, fisher_rao before, kl, jsd after"):
        contrast(divergence(), divergence(metrics=("kl", "jsd")))
    with pytest.raises(InputError, match="against differ: output before, previous after"):
        contrast(divergence(), divergence(against="previous"))
    with pytest.raises(InputTypeError, match="before is a LensEntropy and after a LayerDivergence"):
        contrast(lens(), divergence())
    with pytest.raises(InputTypeError, match=r"before must be a LensEntropy, LayerDivergence or TokenSurprisal.*got str"):
        contrast("lens", lens())
    counts = torch.zeros(1, 1, 4, dtype=torch.long)
    summary = LensSummary(
        SITES[:1], (1.0,), 0, 0, torch.zeros(5, 1, 1), torch.zeros(1, 1), counts, ceiling=1.0, provenance=ORIGIN
    )
    with pytest.raises(InputTypeError, match=r"after must be .* got LensSummary"):
        contrast(lens(), summary)


def test_generated_text():
    flags = torch.arange(17) > 3
    one, other = lens(generated=flags), lens(1)
    assert torch.equal(contrast(one, other).generated, flags)
    assert torch.equal(contrast(other, one).generated, flags)
    with pytest.raises(InputError, match="generated differs: prompts"):
        contrast(one, lens(1, generated=~flags))
    with pytest.raises(InputError, match="generate once, and measure that text in both"):
        contrast(one, lens(1, token=torch.zeros(17, dtype=torch.long)))


@pytest.mark.model
def test_an_intervention_changes_what_lies_behind_it(gpt2, texts):
    options = {"surprisal": True, "progress": False}
    plain = tle.lens_entropy(gpt2, texts, **options)
    found = contrast(plain, tle.lens_entropy(gpt2, texts, interventions=ablate_heads([(1, 0), (1, 3)]), **options))
    assert found.runs()[1].endswith("ablate heads 1.0, 1.3")
    entropy = found.values("entropy")
    assert [str(site) for site in found.sites] == ["embed", "resid_post.0", "resid_post.1", "resid_post.2"]
    assert torch.equal(entropy[:, :2], torch.zeros_like(entropy[:, :2]))
    assert bool((entropy[:, 2:].abs().amax(0) > 1e-3).all())
