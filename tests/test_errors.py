"""Checks of single numbers, and what they say of what came."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from tl_entropy.errors import InputError, InputTypeError, check_number


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
