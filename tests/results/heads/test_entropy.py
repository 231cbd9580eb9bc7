"""Results of head entropies: units, shares, selection, profiles, tables, files, and what they print."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hand_made import same, without_rows

from tl_entropy.accumulators import DocumentMeans
from tl_entropy.errors import InputError
from tl_entropy.results import HeadEntropy, HeadSummary, Provenance, load
from tl_entropy.results.heads.entropy import normalized

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", settings={"of": "pattern"})
VISIBLE = torch.tensor([[1, 1], [2, 2], [3, 2], [2, 2], [9, 2]])
DOCUMENT = torch.tensor([0, 0, 0, 2, 2])


def heads_result(**changes):
    """5 rows of 2 documents, layers 1 and 4, 3 heads, orders 1 and 2; the second document has a begin token."""
    rng = torch.Generator().manual_seed(0)
    share = torch.rand(5, 2, 3, 2, generator=rng)
    parts = {
        "entropy": share * VISIBLE.log()[:, :, None, None],
        "document": DOCUMENT,
        "position": torch.tensor([0, 1, 2, 0, 1]),
        "token": torch.tensor([5, 6, 5, 6, 6]),
        "layers": (1, 4),
        "heads": (0, 1, 2),
        "orders": (1.0, 2.0),
        "of": "pattern",
        "norm": None,
        "strings": {5: "a", 6: " b"},
        "provenance": ORIGIN,
        "names": {2: "x.py"},
        "visible": VISIBLE,
        "bos_share": torch.rand(5, 2, 3, generator=rng).masked_fill((DOCUMENT == 0)[:, None, None], math.nan),
        "sink_share": torch.rand(5, 2, 3, generator=rng),
    }
    return HeadEntropy(**{**parts, **changes})


def readout_result():
    return heads_result(of="readout", norm="frozen", visible=None, bos_share=None, sink_share=None)


def summary_of(result):
    """The sums over the same rows, by ``DocumentMeans``."""

    def six(values):
        known = ~values.isnan().flatten(1).all(1)
        means = DocumentMeans(values.shape[1:])
        means.update(values[known], result.document[known], [0, 2])
        sums = means.sums()
        return torch.cat([torch.full_like(sums[:1], means.seen_documents), sums])

    axes = {name: getattr(result, name) for name in ("layers", "heads", "orders", "of", "norm", "provenance")}
    if result.of == "readout":
        return HeadSummary(**axes, entropy_sums=six(result.entropy))
    return HeadSummary(
        **axes, entropy_sums=six(result.entropy), normalized_sums=six(result.normalized),
        bos_share_sums=six(result.bos_share), sink_share_sums=six(result.sink_share),
    )  # fmt: skip


@pytest.mark.parametrize("make", [heads_result, readout_result])
def test_a_file_gives_back_the_whole_result(make, tmp_path):
    for result in (make(), make().to("bits"), summary_of(make())):
        back = load(result.save(tmp_path / "r.safetensors"))
        assert type(back) is type(result)
        same(result, back)


def test_a_share_is_of_the_log_of_the_visible_keys():
    result = heads_result()
    assert result.normalized[0].isnan().all(), "with one key there is nothing to share"
    for row in range(1, 5):
        for layer in range(2):
            expected = result.entropy[row, layer] / math.log(VISIBLE[row, layer])
            torch.testing.assert_close(result.normalized[row, layer], expected)
    assert float(result.normalized[1:].max()) <= 1
    torch.testing.assert_close(result.to("bits").normalized, result.normalized, equal_nan=True)
    even = normalized(VISIBLE[1:].log()[:, :, None, None], VISIBLE[1:])
    assert torch.equal(even, torch.ones_like(even))


def test_units():
    result, bits = heads_result(), heads_result().to("bits")
    torch.testing.assert_close(bits.entropy, result.entropy / math.log(2))
    for name in ("bos_share", "sink_share", "visible"):
        torch.testing.assert_close(getattr(bits, name), getattr(result, name), equal_nan=True)
    total = summary_of(result)
    for column in ("mean", "se"):
        nats = total.mean_profile()[column]
        np.testing.assert_allclose(total.to("bits").mean_profile()[column], nats / math.log(2))
        np.testing.assert_allclose(
            total.to("bits").mean_profile("normalized")[column], total.mean_profile("normalized")[column]
        )


def test_mean_profile_weighs_tokens_and_errs_by_document():
    result = heads_result()
    profile = result.mean_profile()
    assert list(profile.columns) == ["layer", "head", "order", "mean", "se", "tokens", "documents"]
    assert len(profile) == 2 * 3 * 2
    values = result.entropy.double()
    line = profile[(profile.layer == 4) & (profile["head"] == 2) & (profile.order == 2)].iloc[0]
    cell = values[:, 1, 2, 1]
    mean = cell.mean()
    assert line["mean"] == pytest.approx(float(mean))
    residuals = torch.stack([(cell[d == DOCUMENT] - mean).sum() for d in (0, 2)])
    assert line["se"] == pytest.approx(float((2 * residuals.square().sum()).sqrt() / 5))
    assert (line["tokens"], line["documents"]) == (5, 2)
    assert result.select(documents=0).mean_profile()["se"].isna().all()


def test_tokens_without_a_value_are_left_out():
    result = heads_result()
    share = result.mean_profile("normalized")
    assert set(share["tokens"]) == {4}
    np.testing.assert_allclose(share["mean"], result.normalized[1:].double().mean(0).flatten())
    begin = result.mean_profile("bos_share")
    assert (set(begin["tokens"]), set(begin["documents"])) == ({2}, {1})
    assert begin["order"].isna().all()
    np.testing.assert_allclose(begin["mean"], result.bos_share[3:].double().mean(0).flatten())
    assert set(result.mean_profile("sink_share")["tokens"]) == {5}


def test_a_layer_that_sees_one_key_only_has_no_share():
    one = VISIBLE.clone()
    one[:, 1] = 1
    result = heads_result(visible=one)
    profile = result.mean_profile("normalized")
    assert profile[profile.layer == 4]["mean"].isna().all()
    assert profile[profile.layer == 1]["mean"].notna().all()
    np.testing.assert_allclose(summary_of(result).mean_profile("normalized"), profile)


@pytest.mark.parametrize("of", ["entropy", "normalized", "bos_share", "sink_share"])
def test_a_summary_has_the_same_profile(of):
    result = heads_result()
    np.testing.assert_allclose(summary_of(result).mean_profile(of), result.mean_profile(of), rtol=1e-9)
    assert (summary_of(result).tokens, summary_of(result).documents) == (5, 2)
    np.testing.assert_allclose(summary_of(result).to_pandas(), result.mean_profile())


@pytest.mark.parametrize("make", [readout_result, lambda: summary_of(readout_result())])
def test_readouts_have_an_entropy_alone(make):
    result = make()
    assert len(result.mean_profile()) == 12
    for of in ("normalized", "bos_share", "sink_share"):
        with pytest.raises(InputError, match=f"of: {of} belongs to attention patterns"):
            result.mean_profile(of)
    with pytest.raises(InputError, match="of must be one of 'entropy'"):
        result.mean_profile("surprisal")


def test_readouts_have_no_share():
    with pytest.raises(InputError, match="belongs to attention patterns"):
        readout_result().normalized  # noqa: B018
    assert "normalized" not in readout_result().to_pandas()


def test_selection():
    result = heads_result()
    part = result.select(layers=4, heads=[0, 2], orders=2, documents=0, positions=slice(-2, None))
    assert (part.layers, part.heads, part.orders) == ((4,), (0, 2), (2.0,))
    assert part.position.tolist() == [1, 2]
    torch.testing.assert_close(part.entropy, result.entropy[1:3][:, 1:][:, :, [0, 2]][..., 1:])
    assert torch.equal(part.visible, VISIBLE[1:3, 1:])
    torch.testing.assert_close(part.sink_share, result.sink_share[1:3][:, 1:][:, :, [0, 2]])
    torch.testing.assert_close(part.normalized, result.normalized[1:3][:, 1:][:, :, [0, 2]][..., 1:])
    assert part.tokens() == [" b", "a"]
    assert readout_result().select(heads=np.int64(1)).entropy.shape == (5, 2, 1, 2)
    assert result.select(layers=[4, 1]).layers == (1, 4), "in the model's order"
    assert result.select(layers=-1).layers == (4,) == result.select(layers=slice(2, None)).layers
    for arguments, message in (
        ({"layers": 0}, "layer 0 does not exist; this result has layers 1, 4"),
        ({"heads": 3}, "heads: 3 not"),
        ({"orders": 5}, "orders: 5 not"),
        ({"documents": 1}, "documents: 1 not"),
        ({"positions": 9}, "positions: 9 not"),
    ):
        with pytest.raises(InputError, match=message):
            result.select(**arguments)


def test_long_form():
    result = heads_result(generated=torch.tensor([False, False, True, False, True]))
    frame = result.to_pandas()
    assert list(frame.columns) == [
        "document", "position", "token", "layer", "head", "order", "entropy", "normalized", "visible", "bos_share",
        "sink_share", "generated",
    ]  # fmt: skip
    assert len(frame) == 5 * 2 * 3 * 2
    cell = frame[(frame.document == 2) & (frame.position == 1) & (frame.layer == 4) & (frame["head"] == 1) & (frame.order == 2)]
    assert cell["entropy"].item() == result.entropy[4, 1, 1, 1].item()
    assert cell["bos_share"].item() == result.bos_share[4, 1, 1].item()
    assert (cell["visible"].item(), cell["token"].item(), cell["generated"].item()) == (2, " b", True)


def test_results_print_well():
    lines = repr(heads_result()).splitlines()
    shape = "5 tokens of 2 documents x 2 layers x 3 heads x 2 orders, nats; tiny"
    assert lines[0] == f"HeadEntropy: attention patterns, {shape}"
    assert lines[1].split() == ["head", "0", "head", "1", "head", "2"]
    assert lines[2].split() == ["layer", "1", *(f"{x:.3f}" for x in heads_result().entropy[:, 0, :, 0].mean(0).tolist())]
    assert lines[-1] == "mean over tokens, order 1; with standard errors: mean_profile()"
    assert repr(summary_of(readout_result())).startswith(f"HeadSummary: head readouts, frozen norm, {shape}")
    stopped = heads_result(provenance=dataclasses.replace(ORIGIN, model="<b>", interrupted=True))
    assert "<b>" not in stopped._repr_html_()
    assert "&lt;b&gt;, interrupted</strong>" in stopped._repr_html_()
    assert "<table" in stopped._repr_html_()
    nothing = without_rows(heads_result())
    assert (
        repr(nothing) == "HeadEntropy: attention patterns, 0 tokens of 0 documents x 2 layers x 3 heads x 2 orders, nats; tiny"
    )
    assert nothing._repr_html_() == f"<div><strong>{nothing!r}</strong></div>"
    with pytest.raises(InputError, match="no position to take a mean of"):
        nothing.mean_profile()
    with pytest.raises(InputError, match="no position to take a mean of"):
        dataclasses.replace(summary_of(heads_result()), entropy_sums=torch.zeros(6, 2, 3, 2)).mean_profile()


def test_large_tables_are_cut():
    wide = heads_result(
        entropy=torch.ones(5, 40, 40, 1), layers=tuple(range(40)), heads=tuple(range(40)), orders=(1.0,), of="readout",
        norm="frozen", visible=None, bos_share=None, sink_share=None,
    )  # fmt: skip
    assert len(repr(wide).splitlines()) < 40
    assert "..." in repr(wide)
