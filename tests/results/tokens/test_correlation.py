"""Aligned values and correlations as results: units, parts, tables, what is printed, files."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from tl_entropy.errors import InputError
from tl_entropy.results import Provenance, load
from tl_entropy.results.base import in_unit
from tl_entropy.results.tokens.correlation import AlignedValues, TokenCorrelation

NAN = math.nan
LOG_2 = math.log(2)


def origin(model):
    return Provenance(model, "abc", "raw", "float32", "cpu", versions={}, created="then")


def aligned(**changes):
    parts = {
        "values": torch.tensor([[NAN, 1.0, 5.0], [2.0, 2.0, 6.0], [4.0, 3.0, 7.0]], dtype=torch.float64),
        "quantities": ("surprisal", "varentropy", "rank"), "units": ("nats", "nats²", ""),
        "abouts": ("cost", "spread", "place"), "how": "mean", "document": torch.tensor([0, 0, 3]),
        "position": torch.tensor([0, 1, 1]),
        "token": torch.tensor([7, 8, 7]), "span": torch.tensor([[0, 1], [1, 3], [2, 4]]), "strings": {7: "a", 8: " b"},
        "texts": {0: "a b", 3: "xyza"}, "provenance": origin("big"), "target": origin("small"),
    }  # fmt: skip
    return AlignedValues(**{**parts, **changes})


def correlation(**changes):
    parts = {
        "x": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), "y": torch.tensor([2.0, 2.0, 5.0], dtype=torch.float64),
        "quantities": ("entropy", "surprisal"), "units": ("nats", "nats"), "slope": 1.5, "intercept": -0.125, "pearson": 0.5,
        "spearman": 0.25, "slope_error": 0.25, "intercept_error": 0.5, "pearson_error": 0.0625, "left_out": 0, "on": "y",
        "how": None, "document": torch.tensor([0, 0, 1]), "position": torch.tensor([0, 1, 0]), "token": torch.tensor([7, 8, 7]),
        "strings": {7: "a", 8: " b"}, "provenance": origin("small"), "x_provenance": origin("big"),
    }  # fmt: skip
    return TokenCorrelation(**{**parts, **changes})


def test_factors_of_units():
    for now, unit, factor, then in (
        ("nats", "bits", 1 / LOG_2, "bits"), ("bits", "nats", LOG_2, "nats"), ("bits²", "nats", LOG_2**2, "nats²"),
        ("rad", "bits", 1.0, "rad"), ("", "bits", 1.0, ""), ("m²", "bits", 1.0, "m²"),
    ):  # fmt: skip
        [found], names = in_unit((now,), unit)
        assert math.isclose(found, factor, rel_tol=1e-15)
        assert names == (then,)
    with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
        in_unit(("nats",), "hartleys")


def test_aligned_values_in_bits_and_back():
    bits = aligned().to("bits")
    assert (bits.unit, bits.units) == ("bits", ("bits", "bits²", ""))
    np.testing.assert_allclose(bits.values[1], [2 / LOG_2, 2 / LOG_2**2, 6])
    np.testing.assert_allclose(bits.to("nats").values, aligned().values)


def test_aligned_values_as_columns_parts_and_tables():
    result = aligned()
    columns = result.columns()
    assert list(columns) == ["surprisal", "varentropy", "rank"]
    assert columns["varentropy"].values.tolist() == [1, 2, 3]
    assert columns["varentropy"][1:] == ("nats²", "spread (big, on the tokens of small)")
    frame = result.to_pandas()
    assert list(frame.columns) == ["document", "position", "start", "end", "token", "surprisal", "varentropy", "rank"]
    assert frame["rank"].tolist() == [5, 6, 7]
    assert frame["token"].tolist() == ["a", " b", "a"]
    part = result.select(documents=3)
    assert part.values.tolist() == [[4, 3, 7]]
    assert part.texts == {3: "xyza"}


def test_aligned_values_print_means_of_what_has_a_value():
    lines = repr(aligned()).splitlines()
    assert lines[:2] == ["AlignedValues: 3 tokens of 2 documents, nats; big", "on the tokens of small"]
    assert lines[3].split() == ["surprisal", "(nats)", "2", "3.000", "±", "1.000"]
    assert lines[4].split() == ["varentropy", "(nats²)", "3", "2.000", "±", "0.667"]
    assert lines[5].split()[:2] == ["rank", "3"]
    assert lines[-2] == "mean over tokens that have a value ± standard error over documents"
    assert lines[-1] == "from token to token through their characters, how='mean'"
    same = repr(aligned(how=None)).splitlines()
    assert same[1] == "the same tokens as small"
    assert "characters" not in same[-1]
    nothing = repr(aligned(values=torch.full((3, 3), NAN, dtype=torch.float64)))
    assert nothing.splitlines()[3].split() == ["surprisal", "(nats)", "0", "nan"]
    assert "<strong>AlignedValues" in aligned()._repr_html_()


def test_the_line_in_bits():
    bits = correlation().to("bits")
    np.testing.assert_allclose(bits.x, [1 / LOG_2, 2 / LOG_2, 3 / LOG_2])
    np.testing.assert_allclose(bits.y, [2 / LOG_2, 2 / LOG_2, 5 / LOG_2])
    assert (bits.slope, bits.slope_error, bits.slope_unit, bits.units) == (1.5, 0.25, "", ("bits", "bits"))
    assert math.isclose(bits.intercept, -0.125 / LOG_2)
    assert math.isclose(bits.intercept_error, 0.5 / LOG_2)
    assert (bits.pearson, bits.spearman, bits.r_squared, bits.pearson_error) == (0.5, 0.25, 0.25, 0.0625)
    mixed = correlation(units=("nats", "nats²")).to("bits")
    assert (mixed.slope_unit, mixed.units) == ("bits²/bits", ("bits", "bits²"))
    assert math.isclose(mixed.slope, 1.5 / LOG_2)
    assert math.isclose(mixed.slope_error, 0.25 / LOG_2)
    assert math.isclose(mixed.intercept, -0.125 / LOG_2**2)
    ranks = correlation(units=("", "nats")).to("bits")
    assert ranks.x.equal(correlation().x)
    assert math.isclose(ranks.slope, 1.5 / LOG_2)


@pytest.mark.parametrize(
    ("units", "expected"), [(("nats", "nats"), ""), (("", "nats"), "nats"), (("nats", ""), "1/nats"), (("", ""), "")]
)
def test_the_unit_of_the_slope(units, expected):
    assert correlation(units=units).slope_unit == expected


def test_pairs_and_summary_as_tables():
    frame = correlation().to_pandas()
    assert list(frame.columns) == ["document", "position", "token", "x", "y"]
    assert frame.iloc[1].tolist() == [0, 1, " b", 2.0, 2.0]
    summary = correlation(units=("", "nats")).summary()
    expected = pd.DataFrame(
        [
            ("slope", "nats", 1.5, 0.25), ("intercept", "nats", -0.125, 0.5), ("R²", "", 0.25, NAN),
            ("Pearson r", "", 0.5, 0.0625), ("Spearman rho", "", 0.25, NAN),
        ],
        columns=["quantity", "unit", "value", "se"],
    )  # fmt: skip
    pd.testing.assert_frame_equal(summary, expected)


def test_the_line_prints_itself():
    lines = repr(correlation(left_out=4, how="sum")).splitlines()
    assert lines[0] == "TokenCorrelation: 3 tokens of 2 documents, nats; small"
    assert lines[1] == "y, surprisal of small, against x, entropy of big"
    assert [line.split() for line in lines[3:8]] == [
        ["slope", "1.5", "±", "0.25"],
        ["intercept", "(nats)", "-0.125", "±", "0.5"],
        ["R²", "0.25"],
        ["Pearson", "r", "0.5", "±", "0.062"],
        ["Spearman", "rho", "0.25"],
    ]
    assert lines[8:] == [
        "± standard error over documents",
        "x came to the tokens of y through their characters, how='sum'",
        "left out, without a value of x or y: 4",
    ]
    assert "y came to the tokens of x" in repr(correlation(how="mean", on="x"))
    one = correlation(document=torch.zeros(3, dtype=torch.long), slope_error=NAN, intercept_error=NAN, pearson_error=NAN)
    assert "±" not in repr(one)
    assert repr(one).splitlines()[-1] == "one document, so no standard errors"
    assert "<td>1.5 ± 0.25</td>" in correlation()._repr_html_()


@pytest.mark.parametrize("result", [aligned(), aligned(how=None).to("bits"), correlation(), correlation(how="sum").to("bits")])
def test_a_file_holds_all_of_it(result, tmp_path):
    back = load(result.save(tmp_path / "result.safetensors"))
    assert type(back) is type(result)
    for name, value in vars(result).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(back, name), value, equal_nan=True, rtol=0, atol=0)
        else:
            assert getattr(back, name) == value, name
    assert repr(back) == repr(result)
