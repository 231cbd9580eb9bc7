"""What a similarity of layers says of itself."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tl_entropy.errors import InputError
from tl_entropy.results.loading import load
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Site

ROWS = (Site("embed", -1), Site("resid_post", 0), Site("resid_post", 1))
ORIGIN = Provenance("m", "0", "LN", "float32", "cpu", settings={"debiased": True, "estimator": "exact"})


def cka(columns=ROWS[-1:], **changed):
    values = torch.linspace(0, 1, 3 * len(columns), dtype=torch.float64).view(1, 3, len(columns))
    given = {
        "method": "cka", "rows": ROWS, "columns": columns, "quantities": ("cka",), "units": ("",), "values": values,
        "against": "output" if len(columns) == 1 else "all", "over": "tokens", "count": 12, "documents": 3, "massive": "keep",
        "massive_tokens": 0, "provenance": ORIGIN,
    }  # fmt: skip
    return LayerSimilarity(**{**given, **changed})


def renyi(**changed):
    settings = {"order": 1.01, "n_samples": 12}
    given = {
        "method": "matrix_renyi", "quantities": ("dime", "entropy"), "units": ("nats", "nats"),
        "values": torch.tensor([[[0.5], [1.0], [math.log(4)]], [[1.0], [2.0], [3.0]]], dtype=torch.float64),
        "provenance": dataclasses.replace(ORIGIN, settings=settings),
    }  # fmt: skip
    return cka(**{**given, **changed})


def test_the_headline_is_the_first_quantity():
    result = renyi()
    assert torch.equal(result.value(), result.values[0])
    assert torch.equal(result.value("entropy"), result.values[1])
    with pytest.raises(InputError, match="quantity: cka not in this result; it has dime, entropy"):
        result.value("cka")


def test_only_what_has_a_unit_is_scaled():
    bits = renyi().to("bits")
    assert (bits.unit, bits.units) == ("bits", ("bits", "bits"))
    assert bits.value()[2, 0].item() == pytest.approx(2)
    torch.testing.assert_close(bits.to("nats").values, renyi().values)
    same = cka().to("bits")
    assert torch.equal(same.values, cka().values)
    assert same.units == ("",)
    with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
        cka().to("hartleys")


def test_the_long_form_has_a_line_for_every_number():
    frame = renyi(columns=ROWS[:2], values=torch.arange(12).double().view(2, 3, 2)).to_pandas()
    names = ["row_site", "row_layer", "column_site", "column_layer", "quantity", "unit", "value", "se"]
    assert list(frame.columns) == names
    assert frame["value"].tolist() == list(range(12))
    assert frame.iloc[3, :-1].tolist() == ["resid_post", 0, "resid_post", 0, "dime", "nats", 3.0]
    assert frame["se"].isna().all()


def test_a_single_column_prints_every_quantity():
    text = repr(renyi())
    assert text.splitlines()[0] == (
        "LayerSimilarity: matrix-based Rényi information of order 1.01, 3 x 1 site, against output; 12 tokens of 3 documents; m"
    )
    assert "dime (nats)" in text
    assert "resid_post.1" in text
    assert "1.386" in text
    assert "about 0 where they are independent" in text
    assert "massive" not in text
    assert "dime (bits)" in repr(renyi().to("bits"))


def test_several_columns_print_the_matrix():
    text = repr(cka(columns=ROWS, other=dataclasses.replace(ORIGIN, model="n"), massive="drop", massive_tokens=4))
    assert "debiased CKA, 3 x 3 sites, against all" in text
    assert "; m against n" in text
    assert "cka: rows of m, columns of n" in text
    assert "4 tokens with massive states, left out" in text
    assert "0.125" in text
    assert "<table" in cka(columns=ROWS)._repr_html_()


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"massive_tokens": 2}, "2 tokens with massive states, kept"),
        ({"massive": "normalise"}, "0 tokens with massive states, kept; every state is divided by its norm"),
        ({"values": torch.full((1, 3, 1), math.nan)}, "NaN: too few rows, or states that do not vary"),
        ({"over": "documents"}, "; 12 documents; m"),
        ({"settings": {"debiased": False}}, "biased: near 1 for independent states, too"),
        ({"settings": {"debiased": False}}, ": biased CKA"),
        ({"settings": {"debiased": True}}, "debiased: about 0 for independent states"),
        ({"settings": {"estimator": "minibatch", "block": 8, "left_out_rows": 3}}, "within blocks of 8 rows"),
        ({"settings": {"estimator": "minibatch", "block": 8, "left_out_rows": 3}}, "left out: 3 rows, too few for a block"),
        ({"interrupted": True}, "m, interrupted"),
    ],
)
def test_notes_say_what_was_done(changed, note):
    origin = {name: changed[name] for name in ("settings", "interrupted") if name in changed}
    rest = {name: value for name, value in changed.items() if name not in origin}
    assert note in repr(cka(**rest, provenance=dataclasses.replace(ORIGIN, **origin)))


@pytest.mark.parametrize("other", [None, dataclasses.replace(ORIGIN, model="n")])
def test_a_file_holds_all_of_it(tmp_path, other):
    result = renyi(other=other)
    again = load(result.save(tmp_path / "similarity.safetensors"))
    assert torch.equal(again.values, result.values)
    for field in dataclasses.fields(result):
        if field.name != "values":
            assert getattr(again, field.name) == getattr(result, field.name), field.name


def test_sites_without_a_value_are_named():
    values = torch.ones(2, 3, 3, dtype=torch.float64)
    values[:, 1] = values[0, :, 2] = math.nan
    text = repr(renyi(columns=ROWS, values=values))
    assert "NaN: too few rows, or more than half of the states are equal, at resid_post.0, resid_post.1" in text
    nothing = repr(renyi(values=torch.full((2, 3, 1), math.nan, dtype=torch.float64)))
    assert "NaN: too few rows, or more than half of the states are equal\n" in nothing + "\n"


def test_differences_of_rows_have_errors_of_their_own(tmp_path):
    covariance = torch.zeros(2, 3, 3, 1, dtype=torch.float64)
    covariance[0, :, :, 0] = torch.tensor([[4.0, 3.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    result = renyi(covariance=covariance)
    expected = torch.tensor([[0, 2, 5], [2, 0, 5], [5, 5, 0]], dtype=torch.float64).sqrt()[..., None]
    torch.testing.assert_close(result.difference_error(), expected)
    torch.testing.assert_close(result.to("bits").difference_error("dime"), expected / math.log(2))
    loaded = load(result.save(tmp_path / "similarity.safetensors"))
    torch.testing.assert_close(loaded.difference_error(), expected)
    with pytest.raises(InputError, match="earlier version, which kept no covariance of rows; measure again"):
        renyi().difference_error()
