"""What a reliance of tokens says of itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hand_made import without_rows

from tl_entropy.errors import InputError
from tl_entropy.results.loading import load
from tl_entropy.results.positions import token_means
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.reliance import TokenReliance

NAN = math.nan
ORIGIN = Provenance("m", "0", "LN", "float32", "cpu")


def parts(**changed):
    """Two documents of three and two tokens; two sources; kl in nats and cosine."""
    values = torch.tensor(
        [[[1.0, 0.1], [0.0, 0.0]], [[3.0, 0.3], [0.0, 0.0]], [[2.0, 0.2], [0.0, 0.0]], [[4.0, 0.4], [1.0, 2.0]],
         [[4.0, 0.8], [0.0, 0.5]]], dtype=torch.float64,
    )  # fmt: skip
    given = {
        "values": values, "sources": ("head 0.1", "mlp"), "metrics": ("kl", "cosine"), "units": ("nats", ""), "over": "parts",
        "document": torch.tensor([0, 0, 0, 1, 1]), "position": torch.tensor([0, 1, 2, 1, 2]),
        "token": torch.tensor([5, 6, 7, 6, 7]), "span": torch.tensor([[0, 1], [1, 2], [2, 3], [1, 2], [2, 3]]),
        "strings": {5: "a", 6: "b", 7: "\n"}, "provenance": ORIGIN, "texts": {0: "ab\n", 1: "ab\n"}, "names": {1: "x.py"},
    }  # fmt: skip
    return TokenReliance(**{**given, **changed})


def tokens(**changed):
    """The same tokens, with tokens before them as sources, and one metric that has a sign."""
    values = torch.tensor(
        [[NAN, NAN], [2.0, NAN], [-1.0, 0.5], [6.0, NAN], [3.0, 0.25]], dtype=torch.float64
    )[..., None]  # fmt: skip
    return parts(values=values, sources=("0", "1"), metrics=("loss",), units=("nats",), over="tokens", **changed)


def test_a_metric_and_a_source_by_name():
    result = parts()
    assert torch.equal(result.value(), result.values[:, :, 0])
    assert torch.equal(result.value("cosine", "mlp"), result.values[:, 1, 1])
    assert tokens().value("loss", 1)[2] == 0.5
    with pytest.raises(InputError, match="metric: l1 not in this result; it has kl, cosine"):
        result.value("l1")
    with pytest.raises(InputError, match=r"source: head 3 not in this result; it has head 0\.1, mlp"):
        result.value("kl", "head 3")


def test_only_what_has_a_unit_is_scaled():
    bits = parts().to("bits")
    assert (bits.unit, bits.units) == ("bits", ("bits", ""))
    torch.testing.assert_close(bits.value("kl"), parts().value("kl") / math.log(2))
    assert torch.equal(bits.value("cosine"), parts().value("cosine"))
    torch.testing.assert_close(bits.to("nats").values, parts().values)
    with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
        bits.to("hartleys")


def test_normalized_is_from_0_to_1_in_each_document():
    scaled = parts().normalized()
    assert scaled[:, 0].tolist() == [0, 1, 0.5, 0, 0]  # 1, 3, 2 and then 4, 4
    assert scaled[:, 1].tolist() == [0, 0, 0, 1, 0]
    over = tokens().normalized("loss")
    assert over.tolist() == [[0, 0], [1, 0], [0, 0], [1, 0], [0, 0]]
    assert over.isfinite().all()


def test_columns_are_one_for_each_source_and_metric():
    columns = parts().columns()
    assert list(columns) == ["kl, head 0.1", "cosine, head 0.1", "kl, mlp", "cosine, mlp"]
    assert columns["kl, mlp"].unit == "nats"
    assert torch.equal(columns["cosine, mlp"].values, parts().values[:, 1, 1])
    assert "without mlp" in columns["kl, mlp"].about
    assert list(parts().select(sources="mlp").columns()) == ["kl", "cosine"]
    # Not by the name of what token_surprisal has a column of: a loss is no change of the loss.
    assert list(tokens().columns()) == ["change of loss, token 0", "change of loss, token 1"]
    assert list(tokens().select(sources=0).columns()) == ["change of loss"]
    both = parts(metrics=("entropy", "kl")).select(sources="mlp").columns()
    assert list(both) == ["change of entropy", "kl"]
    assert torch.equal(both["change of entropy"].values, parts().values[:, 1, 0])


def test_means_are_over_tokens_with_errors_over_documents():
    profile = parts().mean_profile()
    mean, error = token_means(parts().values, parts().document)
    assert profile["mean"].tolist() == mean.flatten().tolist()
    assert profile["se"].tolist() == error.flatten().tolist()
    assert profile[["source", "metric", "unit", "tokens"]].to_numpy().tolist()[1] == ["head 0.1", "cosine", "", 5]


def test_means_leave_out_tokens_that_do_not_come_after_the_source():
    profile = tokens().mean_profile()
    assert profile["tokens"].tolist() == [4, 2]
    assert profile["mean"].tolist() == [2.5, 0.375]
    # (2 - 1, 6 + 3) over two tokens each: the mean is 2.5, and the documents are 0.5 and 4.5
    assert profile["se"][0] == pytest.approx(2.0)
    none = tokens().select(positions=[0, 1]).mean_profile()
    assert none["tokens"].tolist() == [2, 0]
    assert math.isnan(none["mean"][1])


def test_a_metric_without_a_value_does_not_take_the_others_with_it():
    values = parts().values.clone()
    values[1, 0, 1] = NAN
    profile = parts(values=values).mean_profile()
    assert profile["tokens"].tolist() == [5, 4, 5, 5]
    there = [0, 2, 3, 4]
    mean, error = token_means(values[:, 0, 0], parts().document)
    assert (profile["mean"][0], profile["se"][0]) == (mean, error)
    mean, error = token_means(values[there, 0, 1], parts().document[there])
    assert (profile["mean"][1], profile["se"][1]) == (mean, error)


def test_the_matrix_of_a_document():
    table = tokens().matrix(document=0)
    assert table.index.tolist() == [0, 1]
    assert table.columns.tolist() == [0, 1, 2]
    assert table.fillna(9).to_numpy().tolist() == [[9, 2, -1], [9, 9, 0.5]]
    assert tokens().select(documents=1).matrix("loss").columns.tolist() == [1, 2]
    short = tokens().select(positions=[0, 1])  # source 1 comes before none of these
    assert short.matrix(document=0).index.tolist() == [0]
    late = torch.tensor([[False, False], [False, False], [True, False], [False, False], [True, False]])
    masked = dataclasses.replace(tokens(), values=torch.where(late, 1.0, NAN).double()[..., None])
    assert masked.matrix(document=0).fillna(9).to_numpy().tolist() == [[9, 9, 1]]  # as where the token before still sees itself
    assert masked.matrix(document=0).index.tolist() == [0]
    with pytest.raises(InputError, match=r"document: choose one of the 2 in this result \(0, 1\)"):
        tokens().matrix()
    with pytest.raises(InputError, match="document: 7 not in this result"):
        tokens().matrix(document=7)
    with pytest.raises(InputError, match="matrix needs tokens as sources"):
        parts().matrix(document=0)


def test_the_long_form_has_a_line_for_every_value():
    frame = parts().to_pandas()
    assert frame.columns.tolist() == ["document", "position", "start", "end", "token", "source", "metric", "unit", "value"]
    assert len(frame) == 5 * 2 * 2
    lines = frame[(frame["document"] == 1) & (frame["position"] == 1) & (frame["source"] == "mlp")]
    assert lines[["token", "metric", "unit", "value"]].to_numpy().tolist() == [
        ["b", "kl", "nats", 1.0],
        ["b", "cosine", "", 2.0],
    ]
    assert len(tokens().to_pandas()) == 6  # without those that do not come after the source
    assert "generated" in parts(generated=torch.ones(5, dtype=torch.bool)).to_pandas()


def test_hundreds_of_sources():
    values = torch.rand(5, 300, 1, dtype=torch.float64)
    many = parts(values=values, sources=tuple(map(str, range(300))), metrics=("kl",), units=("nats",))
    assert many.to_pandas()["value"].tolist() == values.flatten().tolist()
    assert len(many.columns()) == len(many.mean_profile()) == 300


def test_select():
    result = parts()
    part = result.select(documents=1, sources="mlp", metrics="cosine")
    assert part.values[:, 0, 0].tolist() == [2.0, 0.5]
    assert (part.sources, part.metrics, part.units) == (("mlp",), ("cosine",), ("",))
    assert (part.texts, part.documents) == ({1: "ab\n"}, (1,))
    assert result.select(positions=slice(-1, None)).position.tolist() == [2, 2]
    turned = result.select(metrics=("cosine", "kl"))
    assert torch.equal(turned.value("kl"), result.value("kl"))
    assert turned.units == ("", "nats")
    assert tokens().select(sources=[1]).sources == ("1",)
    for one in (1, "1", np.int64(1), np.array(1), torch.tensor(1), [np.int64(1)], np.array([1]), torch.tensor([1]), {"1"}):
        assert tokens().select(sources=one).sources == ("1",)
    assert tokens().select(sources=[torch.tensor(1), 0]).sources == ("1", "0")
    for one in (np.int64(1), torch.tensor(1)):
        assert torch.equal(tokens().value("loss", one)[2:3], torch.tensor([0.5], dtype=torch.float64))
    for wrong in (1.0, [1.0], torch.tensor(1.0), [None]):
        with pytest.raises(InputError, match=r"sources: .* not in this result; it has 0, 1"):
            tokens().select(sources=wrong)
    for nothing in ([], torch.tensor([], dtype=torch.long)):
        with pytest.raises(InputError, match="sources is empty; choose from 0, 1"):
            tokens().select(sources=nothing)
    for wrong in ([1, 1], [1, "1"]):
        with pytest.raises(InputError, match="sources must be one or several, each once; got 1, 1"):
            tokens().select(sources=wrong)
    for wrong, message in (([], "is empty; choose from"), (("kl", "kl"), "must be one or several, each once; got kl, kl")):
        with pytest.raises(InputError, match=f"metrics {message}"):
            result.select(metrics=wrong)
    with pytest.raises(InputError, match="metrics: 3 not in this result"):
        result.select(metrics=3)
    with pytest.raises(InputError, match=r"metric: .* not in this result"):
        result.value(["kl", "cosine"])
    with pytest.raises(InputError, match="sources: attention not in this result"):
        result.select(sources=["attention"])
    with pytest.raises(InputError, match="metrics: l1 not in this result; it has kl, cosine"):
        result.select(metrics="l1")


@pytest.mark.parametrize("make", [parts, tokens])
def test_save_and_load(make, tmp_path):
    result = make()
    again = load(result.save(tmp_path / "reliance.safetensors"))
    assert isinstance(again, TokenReliance)
    for field in dataclasses.fields(result):
        mine, theirs = getattr(result, field.name), getattr(again, field.name)
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert mine == theirs, field.name


def test_printed():
    shown = repr(parts())
    assert shown.startswith("TokenReliance: 2 sources, 5 tokens of 2 documents; m\n")
    assert "kl (nats)" in shown
    assert "head 0.1" in shown
    mean, error = token_means(parts().values, parts().document)
    assert f"{mean[0, 0]:.3f} ± {error[0, 0]:.3f}" in shown
    assert f"{mean[0, 1]:.4f} ± {error[0, 1]:.4f}" in shown  # cosine, below 1
    large = parts(values=parts().values * 1e4)
    assert f"{mean[0, 0] * 1e4:.0f} ± {error[0, 0] * 1e4:.0f}" in repr(large)
    assert "reliance is not entropy" in shown
    assert "reliance is not entropy" in parts()._repr_html_()
    assert "2 tokens as sources" in repr(tokens())
    assert repr(tokens().select(sources=1)).startswith("TokenReliance: 1 token as source, ")
    assert "mean over the tokens that the source can change" in repr(tokens())
    assert repr(parts().select(sources="mlp")).startswith("TokenReliance: 1 source, ")


def test_printed_sources_are_those_with_the_largest_means():
    values = torch.arange(20.0, dtype=torch.float64).expand(5, 20)[..., None] * torch.tensor([-1.0, 0.0])
    many = parts(values=values, sources=tuple(f"head {i}" for i in range(20)))
    shown = repr(many)
    assert "12 of 20 sources: those with the largest mean kl" in shown
    assert "head 19" in shown
    assert "head 8 " in shown
    assert "head 7 " not in shown


def test_without_a_source():
    none = dataclasses.replace(tokens(), values=torch.zeros(5, 0, 1, dtype=torch.float64), sources=())
    assert repr(none).startswith("TokenReliance: 0 tokens as sources, 5 tokens of 2 documents; m")
    assert "kl" not in repr(none)
    assert none._repr_html_()
    assert none.columns() == {}
    assert none.mean_profile().empty
    assert none.to_pandas().empty
    assert none.normalized().shape == (5, 0)
    assert none.matrix(document=0).shape == (0, 3)


def test_without_a_token():
    none = without_rows(parts())
    assert repr(none) == "TokenReliance: 2 sources, 0 tokens of 0 documents; m"
    assert none.normalized().shape == (0, 2)
    with pytest.raises(InputError, match="holds no position to take a mean of"):
        none.mean_profile()
