"""Checks of single numbers, and what they say of what came."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from types import GeneratorType

import numpy as np
import pytest
import torch

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError, check_number, check_order, check_orders


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), Fraction(2)])
def test_numbers_of_python_and_numpy_are_floats(value):
    for found in (check_number("x", value), check_number("x", value, 2, 2)):
        assert found == 2.0
        assert type(found) is float


@pytest.mark.parametrize(
    ("value", "span", "message"),
    [
        (-0.5, (0,), "x must be a finite number of at least 0; got -0.5"),
        (np.float32(100.5), (1, 100), "x must be a finite number from 1 to 100; got 100.5"),
        (np.nextafter(1.0, 0), (1, 100), "x must be a finite number from 1 to 100; got 0.9999999999999999"),
        (math.nan, (), "x must be a finite number; got nan"),
        (math.nan, (0, 1), "x must be a finite number from 0 to 1; got nan"),
        (math.inf, (0,), "x must be a finite number of at least 0; got inf"),
        (-math.inf, (), "x must be a finite number; got -inf"),
    ],
)
def test_out_of_range(value, span, message):
    with pytest.raises(InputError) as caught:
        check_number("x", value, *span)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [None, True, np.True_, "2", 2j, [2.0], torch.tensor(2.0), np.array(2.0), Decimal(2)])
def test_no_numbers(value):
    with pytest.raises(InputTypeError, match=r"^x must be a finite number; got "):
        check_number("x", value)


# --- orders --------------------------------------------------------------------------------------------------------------

ORDERS = [
    (2, (2.0,)), (np.float32(2), (2.0,)), (np.int64(2), (2.0,)), (np.array(2.0), (2.0,)), (torch.tensor(2.0), (2.0,)),
    ([np.float32(2), 1], (2.0, 1.0)), (np.array([0.5, math.inf]), (0.5, math.inf)), (torch.tensor([0.5, 1.0]), (0.5, 1.0)),
    ((o for o in (1, 2)), (1.0, 2.0)), ([torch.tensor(3.0)], (3.0,)), (Fraction(1, 2), (0.5,)),
]  # fmt: skip
NO_ORDERS = [["a"], [None], [[1, 2]], True, [True], "1", ["1"], None, b"1", {"a": 1}, np.zeros((2, 2)), 1j]


@pytest.mark.parametrize(("given", "found"), ORDERS, ids=lambda value: repr(value)[:30])
def test_orders_are_numbers_of_any_library(given, found):
    assert check_orders("orders", given) == found
    if not isinstance(given, list | GeneratorType) and np.ndim(given) == 0:
        assert check_order("order", given) == found[0]


@pytest.mark.parametrize("given", NO_ORDERS, ids=repr)
def test_what_is_no_order_is_refused_by_the_arguments_name(given):
    with pytest.raises(InputTypeError, match="orders must be one or several numbers from 0 to infinity; got"):
        check_orders("orders", given)


@pytest.mark.parametrize("given", [-1, math.nan, [1, -0.5], [], (), 10**400])
def test_orders_out_of_range(given):
    with pytest.raises(InputError, match=r"^orders must be"):
        check_orders("orders", given)


def test_one_order_and_different_orders():
    assert check_orders("orders", (1, 1)) == (1.0, 1.0)
    with pytest.raises(InputError, match="orders must be one or more different numbers"):
        check_orders("orders", (1, 1.0), different=True)
    with pytest.raises(InputTypeError, match=r"order must be one number from 0 to infinity; got .*call once for each"):
        check_order("order", (1, 2))


@pytest.mark.model
@pytest.mark.parametrize("ask", ["lens_entropy", "head_entropy", "layer_geometry", "compare_models"])
def test_all_functions_take_the_same_orders(gpt2, ask):
    name = "orders" if ask in ("lens_entropy", "head_entropy") else "order"
    models = {"a": gpt2} if ask == "compare_models" else gpt2
    for given in (["a"], True, "1"):
        with pytest.raises(InputTypeError, match=f"^{name} must be one (or several )?number"):
            getattr(tle, ask)(models, torch.tensor([5, 6, 7]), **{name: given}, progress=False)


@pytest.mark.model
@pytest.mark.parametrize(
    "ask", [tle.lens_entropy, tle.layer_divergence, tle.head_entropy, tle.soft_information, tle.head_means]
)
def test_no_layers_are_refused_by_that_name(gpt2, ask):
    with pytest.raises(InputError, match="layers is empty; leave it out for all: the model has layers 0 to 2"):
        ask(gpt2, torch.tensor([5, 6, 7]), layers=[], progress=False)


@pytest.mark.model
def test_warnings_point_at_the_line_of_the_caller(gpt2):
    with pytest.warns(UserWarning, match="positions: no document has 100") as caught:
        tle.lens_entropy(gpt2, torch.tensor([5, 6, 7]), positions=[0, 100], progress=False)
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.model
@pytest.mark.parametrize(
    ("ask", "option"),
    [
        ("lens_entropy", "sites"), ("layer_divergence", "metrics"), ("layer_similarity", "against"),
        ("layer_geometry", "measures"), ("soft_information", "sites"), ("soft_information", "n_bins"),
    ],
)  # fmt: skip
def test_arrays_without_an_axis_are_no_several_things(gpt2, ask, option):
    for given in (np.array("x"), torch.tensor(1.5), np.array(None)):
        with pytest.raises(tle.TLEntropyError, match=option):
            getattr(tle, ask)(gpt2, torch.tensor([5, 6, 7]), **{option: given}, progress=False)
