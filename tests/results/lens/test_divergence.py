"""Layer divergence as a result: units, selection, tables, profiles and files, on numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hand_made import same, without_rows

from tl_entropy.errors import InputError
from tl_entropy.functional.statistics import document_sums
from tl_entropy.results import DivergenceSummary, LayerDivergence, Provenance, load
from tl_entropy.sites import Site

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", settings={"lens": "logit lens", "metrics": ("kl",)})
METRICS = ("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation")
SITES = (Site("embed", -1), Site("attn_out", 0), Site("resid_post", 0), Site("resid_post", 1))
IN_UNIT = ("kl", "reverse_kl", "jsd")
AGREEMENT = torch.tensor(
    [
        [True, False, True, True],  # decided from the start, whatever the attention wrote
        [True, True, False, True],  # by the last block only
        [False, True, True, True],  # after the first block
        [False, False, False, False],  # never
        [True, True, True, False],  # not any more
    ]
)
DECIDED = [0, 3, 2, 4, 4]


def divergence_result(**changes):
    draw = torch.Generator().manual_seed(0)
    rows = 5
    parts = {
        "divergence": torch.rand(rows, len(SITES), len(METRICS), generator=draw),
        "agreement": AGREEMENT,
        "document": torch.tensor([0, 0, 0, 2, 2]),
        "position": torch.tensor([0, 1, 2, 0, 1]),
        "token": torch.tensor([5, 6, 5, 6, 6]),
        "output_token": torch.tensor([6, 6, 5, 7, 5]),
        "sites": SITES,
        "metrics": METRICS,
        "against": "output",
        "strings": {5: "a", 6: " b", 7: "\n", 8: "\ufffd", 9: "\ufffd"},
        "provenance": ORIGIN,
        "names": {2: "x.py"},
        "top_tokens": torch.randint(5, 8, (rows, len(SITES), 2), generator=draw),
        "top_log_probs": -torch.rand(rows, len(SITES), 2, generator=draw),
        "surprisal": torch.rand(rows, len(SITES), generator=draw),
        "rank": torch.randint(0, 9, (rows, len(SITES)), generator=draw),
        "targets": (6, 8, 9),
        "target_surprisal": torch.rand(rows, len(SITES), 3, generator=draw),
        "target_rank": torch.randint(0, 9, (rows, len(SITES), 3), generator=draw),
        "generated": torch.tensor([False, False, True, False, True]),
    }
    parts["surprisal"][[2, 4]] = math.nan
    parts["rank"][[2, 4]] = -1
    return LayerDivergence(**{**parts, **changes})


def bare_result(**changes):
    """Without anything that is not always there."""
    nothing = ("top_tokens", "top_log_probs", "surprisal", "rank", "target_surprisal", "target_rank", "generated")
    return divergence_result(**dict.fromkeys(nothing), targets=(), **changes)


def summary_of(result):
    """The sums that ``result`` would have given."""
    columns = (*result.metrics, "agreement", "decided")
    values = torch.stack([result.quantities()[name].double() for name in columns], -1)
    _, s, n = document_sums(values, result.document)
    n = n[:, None, None].expand_as(s)
    return DivergenceSummary(
        sites=result.sites, columns=columns, against=result.against, tokens=result.n_tokens,
        documents=len(result.documents), sums=torch.stack([n, s, n * n, n * s, s * s]).sum(1), provenance=result.provenance,
        squares=values.square().sum(0),
    )  # fmt: skip


@pytest.mark.parametrize(
    "result",
    [
        divergence_result(),
        bare_result(),
        divergence_result(against="resid_post.0").to("bits"),
        without_rows(divergence_result()),
        summary_of(divergence_result()),
        summary_of(divergence_result()).to("bits"),
    ],
    ids=["whole", "bare", "bits", "empty", "summary", "summary in bits"],
)
def test_a_file_gives_back_the_whole_result(result, tmp_path):
    back = load(result.save(tmp_path / "r.safetensors"))
    assert type(back) is type(result)
    same(back, result)
    assert repr(back) == repr(result)


# --- units


def test_bits_scale_information_and_nothing_else():
    nats = divergence_result()
    bits = nats.to("bits")
    assert (nats.unit, bits.unit) == ("nats", "bits")
    for metric in METRICS:
        factor = math.log(2) if metric in IN_UNIT else 1.0
        torch.testing.assert_close(bits.metric(metric) * factor, nats.metric(metric), rtol=1e-6, atol=0)
    for name in ("surprisal", "target_surprisal"):
        torch.testing.assert_close(getattr(bits, name) * math.log(2), getattr(nats, name), equal_nan=True)
    for name in ("agreement", "rank", "target_rank", "top_log_probs", "top_tokens"):
        assert torch.equal(getattr(bits, name), getattr(nats, name))
    torch.testing.assert_close(bits.to("nats").divergence, nats.divergence)
    assert bits.to("bits").unit == "bits"
    torch.testing.assert_close(bits.to("bits").divergence, bits.divergence, rtol=0, atol=0)
    for one in (nats, summary_of(nats)):
        with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
            one.to("hartleys")


@pytest.mark.parametrize("result", [divergence_result(), summary_of(divergence_result())], ids=["positions", "summary"])
def test_profiles_name_and_convert_their_units(result):
    nats, bits = result.mean_profile(), result.to("bits").mean_profile()
    for name, lines in bits.groupby("quantity"):
        unit = {"fisher_rao": "rad"}.get(name, "bits" if name in IN_UNIT else "")
        assert lines["unit"].unique().tolist() == [unit]
        factor = math.log(2) if name in IN_UNIT else 1.0
        for column in ("mean", "se"):
            np.testing.assert_allclose(lines[column] * factor, nats.loc[lines.index, column], rtol=1e-6)


# --- where it is decided


def test_decided_is_judged_by_the_residual_stream_alone():
    assert divergence_result().decided().tolist() == DECIDED
    assert divergence_result().decided_sites() == [(*SITES, None)[column] for column in DECIDED]
    without_last = divergence_result().select(sites=("embed", "attn_out", "resid_post"), layers=0)
    assert without_last.sites == SITES[:3]
    assert without_last.decided().tolist() == [0, 3, 2, 3, 0]
    assert divergence_result().select(sites="resid_post").decided().tolist() == [0, 1, 0, 2, 2]
    with pytest.raises(InputError, match="none of the sites is a state of the residual stream"):
        divergence_result().select(sites="attn_out").decided()


# --- quantities


def test_quantities_have_a_value_everywhere():
    result = divergence_result()
    there = result.quantities()
    assert list(there) == [
        *METRICS, "agreement", "decided", "surprisal", "rank", "surprisal of ' b'", "rank of ' b'",
        "surprisal of '\ufffd' (8)", "rank of '\ufffd' (8)", "surprisal of '\ufffd' (9)", "rank of '\ufffd' (9)",
    ]  # fmt: skip
    assert all(value.shape == (5, 4) and value.is_floating_point() for value in there.values())
    assert torch.equal(there["jsd"], result.divergence[:, :, 2])
    assert there["decided"][:, 1].isnan().all(), "what attention writes decides nothing"
    assert there["decided"][:, [0, 2, 3]].tolist() == [[float(i >= first) for i in (0, 2, 3)] for first in DECIDED]
    assert there["rank"][2].isnan().all(), "no token follows"
    assert torch.equal(there["rank"][0], result.rank[0].float())
    for i, name in enumerate(("' b'", "'\ufffd' (8)", "'\ufffd' (9)")):
        assert torch.equal(there[f"surprisal of {name}"], result.target_surprisal[:, :, i])
        assert torch.equal(there[f"rank of {name}"], result.target_rank[:, :, i].float())
    assert list(bare_result().quantities()) == [*METRICS, "agreement", "decided"]
    assert list(bare_result().select(sites="attn_out").quantities()) == [*METRICS, "agreement"]


def test_metrics_by_name():
    assert torch.equal(divergence_result().metric("fisher_rao"), divergence_result().divergence[:, :, 3])
    with pytest.raises(InputError, match="metric: jsd not in this result; it has kl"):
        divergence_result().select(metrics="kl").metric("jsd")


# --- means


def loop_mean(values, documents):
    """Mean over tokens that have a value, and its clustered error, spelled out."""
    known = [(v, d) for v, d in zip(values, documents, strict=True) if not math.isnan(v)]
    mean = sum(v for v, _ in known) / len(known)
    by_document = {d: [v for v, e in known if e == d] for _, d in known}
    clusters = len(by_document)
    if clusters < 2:
        return mean, math.nan
    spread = sum((sum(part) - mean * len(part)) ** 2 for part in by_document.values())
    return mean, math.sqrt(spread * clusters / (clusters - 1)) / len(known)


@pytest.mark.parametrize("keep", ["positions", "summary"])
def test_the_profile_is_that_of_a_plain_loop(keep):
    result = divergence_result()
    names = [*METRICS, "agreement", "decided"]
    profile = (result if keep == "positions" else summary_of(result)).mean_profile()
    assert profile["quantity"].unique().tolist() == names
    for name in names:
        lines = profile[profile["quantity"] == name]
        columns = [i for i in range(4) if name != "decided" or SITES[i].name != "attn_out"]
        assert [*zip(lines["site"], lines["layer"], strict=True)] == [tuple(SITES[i]) for i in columns]
        for (_, line), column in zip(lines.iterrows(), columns, strict=True):
            mean, se = loop_mean(result.quantities()[name][:, column].tolist(), result.document.tolist())
            assert line["mean"] == pytest.approx(mean, rel=1e-6)
            assert line["se"] == pytest.approx(se, rel=1e-5)
            assert (line["tokens"], line["documents"]) == (5, 2)


def test_tokens_without_a_successor_are_left_out_of_means():
    result = divergence_result()
    for name in ("surprisal", "rank"):
        for column, line in result.mean_profile(name).iterrows():
            mean, se = loop_mean(result.quantities()[name][:, column].tolist(), result.document.tolist())
            assert line["mean"] == pytest.approx(mean)
            assert line["se"] == pytest.approx(se)
            assert (line["tokens"], line["documents"]) == (3, 2)
    assert result.mean_profile(["rank of ' b'", "kl"])["quantity"].tolist() == ["rank of ' b'"] * 4 + ["kl"] * 4


def test_one_document_has_no_error():
    alone = divergence_result().select(documents=0)
    assert alone.mean_profile()["se"].isna().all()
    assert "±" not in repr(alone).partition("\n")[2].rpartition("\n")[0]


@pytest.mark.parametrize(
    ("result", "asked", "message"),
    [
        (bare_result(), "surprisal", "quantities: surprisal not in this result; it has kl"),
        (bare_result().select(sites="attn_out"), "decided", "quantities: decided not"),
        (without_rows(divergence_result()), None, "no position to take a mean of"),
        (divergence_result().select(positions=2), "surprisal", "no position to take a mean of"),
        (summary_of(bare_result()), "rank", "quantities: rank not"),
        (dataclasses.replace(summary_of(bare_result()), tokens=0), None, "no position to take a mean of"),
    ],
)
def test_means_that_are_not_there(result, asked, message):
    with pytest.raises(InputError, match=message):
        result.mean_profile(asked)


def test_a_summary_knows_its_metrics():
    total = summary_of(divergence_result())
    assert total.metrics == METRICS
    pd.testing.assert_frame_equal(total.to_pandas(), total.mean_profile())
    assert total.mean_profile("jsd")["quantity"].unique().tolist() == ["jsd"]


# --- parts and tables


def test_selection():
    result = divergence_result()
    part = result.select(sites=["embed", "resid_post"], layers=-1, metrics=["jsd", "kl"], documents=2, positions=1)
    assert part.sites == (SITES[0], SITES[3])
    assert part.metrics == ("kl", "jsd"), "in the order of the result"
    torch.testing.assert_close(part.divergence, result.divergence[4:, [0, 3]][:, :, [0, 2]], rtol=0, atol=0)
    for name in ("document", "position", "token", "output_token", "generated"):
        assert torch.equal(getattr(part, name), getattr(result, name)[4:])
    for name in ("agreement", "top_tokens", "top_log_probs", "rank", "target_surprisal", "target_rank"):
        assert torch.equal(getattr(part, name), getattr(result, name)[4:][:, [0, 3]])
    assert part.surprisal.isnan().all()
    assert (part.targets, part.against, part.provenance) == (result.targets, result.against, result.provenance)
    assert result.select(positions=slice(-1, None)).position.tolist() == [2, 1], "from the end of each document"
    assert result.select(documents=np.int64(2)).tokens() == [" b", " b"]
    same(result.select(), result)
    nothing = bare_result().select(documents=0)
    assert all(getattr(nothing, name) is None for name in ("surprisal", "top_tokens", "generated"))
    for arguments, message in (
        ({"sites": "z"}, "sites: z not in this result; it has embed, attn_out, resid_post"),
        ({"layers": 7}, "layer 7 does not exist; this result has layers 0 to 1"),
        ({"metrics": "hellinger"}, "metrics: hellinger not"),
        ({"documents": 1}, "documents: 1 not in this result; it has 0, 2"),
        ({"positions": 9}, "positions: 9 not"),
    ):
        with pytest.raises(InputError, match=message):
            result.select(**arguments)


def test_long_form():
    result = divergence_result()
    frame = result.to_pandas()
    assert list(frame.columns) == [
        "document", "position", "token", "site", "layer", *result.quantities(), "top_token", "output_token", "generated",
    ]  # fmt: skip
    assert len(frame) == 5 * 4
    cell = frame[(frame.document == 2) & (frame.position == 0) & (frame.site == "resid_post") & (frame.layer == 1)].iloc[0]
    assert (cell["token"], cell["output_token"]) == (" b", "\n")
    assert cell["kl"] == result.divergence[3, 3, 0].item()
    assert cell["rank of ' b'"] == result.target_rank[3, 3, 0].item()
    assert cell["top_token"] == result.strings[int(result.top_tokens[3, 3, 0])]
    assert frame["decided"].isna().tolist() == (frame["site"] == "attn_out").tolist()
    assert frame["decided"].sum() == sum(i >= first for i in (0, 2, 3) for first in DECIDED)
    assert frame["agreement"].dtype == bool
    assert frame["agreement"].tolist() == AGREEMENT.flatten().tolist()
    assert frame["generated"].tolist() == [flag for flag in (False, False, True, False, True) for _ in range(4)]
    assert list(bare_result().to_pandas().columns[5:]) == [*METRICS, "agreement", "decided", "output_token"]
    assert "decided" not in bare_result().select(sites="attn_out").to_pandas()
    assert len(without_rows(result).to_pandas()) == 0


def test_results_print_well():
    result = divergence_result()
    lines = repr(result).splitlines()
    assert lines[0] == "LayerDivergence: 5 tokens of 2 documents x 4 sites, against output, nats; tiny"
    assert lines[1].split() == [*METRICS, "agreement", "decided"]
    assert [line.split()[0] for line in lines[2:6]] == ["embed", "attn_out.0", "resid_post.0", "resid_post.1"]
    mean, se = loop_mean(result.divergence[:, 0, 0].tolist(), result.document.tolist())
    assert f"{mean:.3f} ± {se:.3f}" in lines[2]
    assert not any("nan" in text.lower() for text in (repr(result), result._repr_html_())), "attn_out decides nothing"
    assert lines[-1] == "mean over tokens ± standard error over documents; agreement, decided: shares of tokens"
    names = result.target_names
    assert lines[-2] == f"targets {', '.join(names)}: mean_profile({f'rank of {names[0]}'!r}), surprisal likewise"
    assert not result.mean_profile(eval(lines[-2].partition("mean_profile(")[2].partition("), ")[0])).empty
    total = summary_of(result)
    assert repr(total).splitlines()[0] == "DivergenceSummary: 5 tokens of 2 documents x 4 sites, against output, nats; tiny"
    assert repr(total).splitlines()[1:] == [*lines[1:-2], lines[-1]]
    for one in (result, total):
        page = one._repr_html_()
        assert "<table" in page
        assert f"{mean:.3f} ± {se:.3f}" in page
    origin = dataclasses.replace(ORIGIN, model="<b>", settings={"lens": "tuned lens"}, interrupted=True)
    odd = divergence_result(provenance=origin, against="previous").to("bits")
    assert "against previous, through tuned lens, bits; <b>, interrupted" in repr(odd)
    assert "<b>" not in odd._repr_html_()
    plain = bare_result().select(sites="attn_out", metrics="kl")
    assert repr(plain).splitlines()[1].split() == ["kl", "agreement"]


def test_nothing_prints_as_nothing():
    nothing = without_rows(divergence_result())
    assert repr(nothing) == "LayerDivergence: 0 tokens of 0 documents x 4 sites, against output, nats; tiny"
    empty = dataclasses.replace(summary_of(divergence_result()), tokens=0, documents=0)
    assert repr(empty) == "DivergenceSummary: 0 tokens of 0 documents x 4 sites, against output, nats; tiny"
    for one in (nothing, empty):
        assert one._repr_html_() == f"<div><strong>{one!r}</strong></div>"
    assert nothing.decided().tolist() == []
    assert nothing.to("bits").n_tokens == 0


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        divergence_result().unit = "bits"
