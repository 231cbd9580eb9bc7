"""Results: units, selection, tables, profiles and files."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hand_made import same, without_rows
from safetensors.torch import save_file

import tl_entropy as tle
from tl_entropy.errors import FileError, InputError
from tl_entropy.results import LensEntropy, LensSummary, Provenance, load
from tl_entropy.sites import Site

ORIGIN = Provenance(
    "tiny", "abc", "raw", "float32", "cpu", settings={"orders": (1.0, math.inf), "x": None, "n": 3, "flag": True}
)


def lens_result(**changes):
    parts = {
        "entropy": torch.tensor([[[2.0, 1.0], [4.0, 3.0]], [[3.0, 2.0], [5.0, 4.0]], [[10.0, 9.0], [0.5, 0.25]]]),
        "document": torch.tensor([0, 0, 2]),
        "position": torch.tensor([0, 1, 0]),
        "token": torch.tensor([5, 6, 5]),
        "sites": (Site("embed", -1), Site("resid_post", 0)),
        "orders": (1.0, math.inf),
        "strings": {5: "a", 6: " b"},
        "provenance": ORIGIN,
        "names": {2: "x.py"},
        "surprisal": torch.tensor([[1.0, 2.0], [math.nan, math.nan], [math.nan, math.nan]]),
        "rank": torch.tensor([[3, 0], [-1, -1], [-1, -1]]),
    }
    return LensEntropy(**{**parts, **changes})


def summary_result():
    counts = torch.zeros(1, 1, 4, dtype=torch.int64)
    counts[0, 0] = torch.tensor([1, 0, 2, 1])
    sums = torch.tensor([4.0, 8.0, 8.0, 16.0, 34.0], dtype=torch.float64)[:, None, None]
    squares = torch.tensor([[18.0]], dtype=torch.float64)
    return LensSummary((Site("embed", -1),), (1.0,), 4, 2, sums, squares, counts, 4.0, ORIGIN)


@pytest.mark.parametrize("result", [lens_result(), lens_result(surprisal=None, rank=None).to("bits"), summary_result()])
def test_a_file_gives_back_the_whole_result(result, tmp_path):
    path = result.save(tmp_path / "deep" / "r.safetensors")
    back = load(path)
    assert type(back) is type(result)
    same(result, back)
    assert [p.name for p in path.parent.iterdir()] == ["r.safetensors"], "no temporary file is left"
    same(tle.load(str(path)), result)


def test_numbers_of_numpy_come_back_as_plain_ones(tmp_path):
    settings = {
        "a": np.int64(3),
        "b": np.float64(0.1),
        "c": np.float32(0.5),
        "d": np.True_,
        "e": (np.str_("x"), -np.float64("inf")),
    }
    origin = dataclasses.replace(ORIGIN, settings=settings)
    back = load(lens_result(provenance=origin).save(tmp_path / "r.safetensors")).provenance.settings
    assert back == {"a": 3, "b": 0.1, "c": 0.5, "d": True, "e": ("x", -math.inf)}
    assert [type(value) for value in back.values()] == [int, float, float, bool, tuple]


def test_a_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "other").touch()
    path = lens_result().save(tmp_path / "r.safetensors")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = lens_result().save(tmp_path / "r.safetensors")
    before = path.read_bytes()

    def broken(tensors, name, metadata):
        name.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("tl_entropy.results.base.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        lens_result().to("bits").save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_are_no_results(tmp_path):
    with pytest.raises(FileError, match="no file"):
        load(tmp_path / "none")
    (tmp_path / "text").write_text("hello, this is no result at all")
    with pytest.raises(FileError, match="cannot be read"):
        load(tmp_path / "text")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(FileError, match="not one that tl_entropy wrote"):
        load(tmp_path / "other")
    for header, message in (({"schema": 99, "kind": "LensEntropy"}, "upgrade"), ({"schema": 1, "kind": "Odd"}, "'Odd'")):
        save_file({"x": torch.zeros(1)}, tmp_path / "new", metadata={"tl_entropy": json.dumps({**header, "fields": {}})})
        with pytest.raises(FileError, match=message):
            load(tmp_path / "new")
    whole = lens_result().save(tmp_path / "whole")
    whole.write_bytes(whole.read_bytes()[:-8])
    with pytest.raises(FileError, match="damaged"):
        load(whole)


def test_units():
    nats = lens_result()
    bits = nats.to("bits")
    torch.testing.assert_close(bits.entropy, nats.entropy / math.log(2))
    torch.testing.assert_close(bits.surprisal, nats.surprisal / math.log(2), equal_nan=True)
    assert (bits.unit, nats.unit) == ("bits", "nats")
    torch.testing.assert_close(bits.to("nats").entropy, nats.entropy)
    with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
        nats.to("hartleys")
    one, two = summary_result(), summary_result().to("bits")
    for name in ("mean", "se"):
        np.testing.assert_allclose(two.mean_profile()[name], one.mean_profile()[name] / math.log(2))
    torch.testing.assert_close(two.quantile(0.5), one.quantile(0.5) / math.log(2))
    torch.testing.assert_close(two.deviation(), one.deviation() / math.log(2))
    torch.testing.assert_close(two.edges(), one.edges() / math.log(2))


def test_mean_profile_weighs_tokens_and_errs_by_document():
    profile = lens_result().mean_profile()
    line = profile[(profile.site == "embed") & (profile.order == 1)].iloc[0]
    assert line["mean"] == pytest.approx(5.0), "(2 + 3 + 10) / 3, not the mean of the documents' means 6.25"
    # documents: sums 5 and 10, counts 2 and 1; residuals 5 - 2·5 = -5 and 10 - 5 = 5; sqrt(2/1 · 50) / 3
    assert line["se"] == pytest.approx(10 / 3)
    assert (line["tokens"], line["documents"]) == (3, 2)
    alone = lens_result().select(documents=0).mean_profile()
    assert alone["se"].isna().all()
    surprisal = lens_result().mean_profile(of="surprisal")
    assert surprisal["mean"].tolist() == [1.0, 2.0]
    assert surprisal["tokens"].tolist() == [1, 1]


def test_standard_error_is_that_of_replicated_corpora():
    """Over many corpora of correlated tokens, the error reported is the spread of the means."""
    torch.manual_seed(1)
    means, errors = [], []
    for _ in range(400):
        n = torch.randint(5, 30, (40,))
        document = torch.arange(40).repeat_interleave(n)
        values = torch.randn(40)[document] + 0.5 * torch.randn(len(document))
        empty = torch.zeros(len(document), dtype=torch.long)
        result = lens_result(
            entropy=values[:, None, None], document=document, position=empty, token=empty, sites=(Site("embed", -1),),
            orders=(1.0,), strings={0: "a"}, surprisal=None, rank=None,
        )  # fmt: skip
        profile = result.mean_profile()
        means.append(profile["mean"].item())
        errors.append(profile["se"].item())
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_selection():
    result = lens_result()
    assert result.select(layers=-1).sites == result.select(layers=0).sites == (Site("resid_post", 0),), "the last layer"
    assert result.select(sites="embed").sites == (Site("embed", -1),)
    assert set(result.select(sites="embed").to_pandas()["layer"]) == {-1}, "in tables"
    assert result.select(sites="resid_post").entropy.shape == (3, 1, 2)
    assert result.select(orders=math.inf).entropy[:, 0, 0].tolist() == [1.0, 2.0, 9.0]
    assert result.select(documents=2).token.tolist() == [5]
    assert result.select(positions=1).document.tolist() == [0]
    assert result.select(positions=slice(0, 1)).document.tolist() == [0, 2]
    assert result.select(positions=slice(-1, None)).token.tolist() == [6, 5], "from the end of each document"
    assert result.select(documents=np.int64(2), orders=np.float64(1)).token.tolist() == [5]
    both = result.select(documents=[0], layers=[0])
    assert both.surprisal[:, 0].tolist()[0] == 2.0
    assert both.tokens() == ["a", " b"]
    for arguments, message in (
        ({"sites": "z"}, "sites: z not in this result; it has embed, resid_post"),
        ({"layers": 7}, "layer 7 does not exist; this result has layers 0 to 0"),
        ({"layers": []}, "layers is empty"),
        ({"sites": []}, "sites is empty"),
        ({"sites": "resid_post.3"}, "layer 3 does not exist; this result has"),
        ({"sites": "z.0"}, "sites: z.0 not in this result; it has embed, resid_post.0"),
        ({"orders": 3}, "orders: 3 not"),
        ({"documents": 1}, "documents: 1 not"),
        ({"positions": 9}, "positions: 9 not"),
    ):
        with pytest.raises(InputError, match=message):
            result.select(**arguments)


def test_long_form():
    frame = lens_result().to_pandas()
    assert list(frame.columns[:7]) == ["document", "position", "token", "site", "layer", "order", "entropy"]
    assert len(frame) == 3 * 2 * 2
    cell = frame[(frame.document == 0) & (frame.position == 1) & (frame.site == "resid_post") & (frame.order == math.inf)]
    assert cell["entropy"].item() == 4.0
    assert cell["token"].item() == " b"
    assert cell["layer"].item() == 0
    first = frame[(frame.document == 0) & (frame.position == 0) & (frame.site == "embed")]
    assert first["rank"].tolist() == [3, 3]
    assert first["surprisal"].tolist() == [1.0, 1.0]


def test_xarray_has_named_axes():
    pytest.importorskip("xarray")
    data = lens_result().to_xarray()
    assert data.entropy.dims == ("document", "position", "site", "order")
    assert data.entropy.sel(document=2, position=0, site="embed", order=1.0).item() == 10.0
    assert math.isnan(data.entropy.sel(document=2, position=1, site="embed", order=1.0).item())
    assert data.token.sel(document=0, position=1).item() == " b"
    assert data.entropy.attrs["units"] == "nats"


def test_quantiles_come_from_the_histogram():
    # bins of width 1 hold 1, 0, 2 and 1 values
    result = summary_result()
    assert result.quantile([0, 0.25, 0.5, 1]).flatten().tolist() == [0.0, 1.0, 2.5, 4.0]
    later = dataclasses.replace(result, counts=result.counts.roll(1, -1))  # 1, 1, 0, 2
    assert later.quantile([0, 1]).flatten().tolist() == [0.0, 4.0]
    emptied = dataclasses.replace(result, counts=torch.tensor([[[0, 0, 3, 1]]]))
    assert emptied.quantile(0).item() == 2.0, "the lower edge of the first occupied bin"
    with pytest.raises(InputError, match="q must be a finite number from 0 to 1"):
        result.quantile(1.5)


def test_results_print_well():
    text = repr(lens_result())
    assert text.splitlines()[0] == "LensEntropy: 3 tokens of 2 documents x 2 sites x 2 orders, nats; tiny"
    assert "order 1" in text
    assert "order inf" in text
    assert "5.000 ± 3.333" in text
    assert "resid_post.0" in text
    assert "<table" in lens_result()._repr_html_()
    assert "<table" in summary_result()._repr_html_()
    nothing = without_rows(lens_result())
    assert repr(nothing) == "LensEntropy: 0 tokens of 0 documents x 2 sites x 2 orders, nats; tiny"
    assert nothing._repr_html_() == f"<div><strong>{nothing!r}</strong></div>"
    odd = dataclasses.replace(ORIGIN, model="<b>")
    assert "<b>" not in lens_result(provenance=odd)._repr_html_()


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        lens_result().unit = "bits"
