"""Positions of documents against Python's own indexing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.capture.positions import AtPositions
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.positions import at_positions, checked_positions, shown_positions

ENDS = st.none() | st.integers(-12, 12)
STEPS = st.none() | st.integers(-4, 4).filter(bool)


def meant(positions, length):
    """The positions of a document that are meant."""
    cells = at_positions(checked_positions(positions), torch.arange(-1, length), length)
    assert not cells[0], "the BOS is no position"
    return cells[1:].nonzero()[:, 0].tolist()


@given(st.builds(slice, ENDS, ENDS, STEPS), st.integers(1, 9))
def test_slices_mean_what_python_means(some, length):
    assert meant(some, length) == sorted(range(length)[some])


@given(st.lists(st.integers(-12, 12), min_size=1, max_size=5), st.integers(1, 9))
def test_ints_mean_what_python_means_and_nothing_where_they_are_not(some, length):
    found = set()
    for index in some:
        try:
            found.add(range(length)[index])
        except IndexError:
            continue
    assert meant(some, length) == sorted(found)


def test_none_is_every_token_and_neither_bos_nor_padding():
    assert meant(None, 3) == [0, 1, 2]
    position = torch.tensor([-1, 0, 1, -1, -1])
    for some in (None, (-1, -2, 0, 1), slice(None)):
        assert at_positions(some, position, 2).tolist() == [False, True, True, False, False]


def test_cells_of_a_window_know_only_the_documents_length():
    window = torch.tensor([-1, 6, 7, 8])
    assert at_positions((-1, 6), window, 9).tolist() == [False, True, False, True]
    assert at_positions((-1, 6), window, 12).tolist() == [False, True, False, False]


@pytest.mark.parametrize("given_as", [5, np.int64(5), torch.tensor(5), [5], (5,), np.array([5]), torch.tensor([5]), iter([5])])
def test_kinds(given_as):
    assert checked_positions(given_as) == (5,)


@pytest.mark.parametrize(
    ("some", "error"),
    [
        ([], InputError), (True, InputTypeError), ([False, True], InputTypeError), (1.0, InputTypeError), ("1", InputTypeError),
        (slice("a"), InputTypeError), (torch.tensor([True]), InputTypeError), (slice(None, None, 0), InputTypeError),
    ],
)  # fmt: skip
def test_refused(some, error):
    with pytest.raises(error, match="positions must"):
        checked_positions(some)
    with pytest.raises(error, match="positions must"):
        AtPositions(some, lambda activation, hook, cells: None)


def test_shown():
    shown = [shown_positions(some) for some in ((3,), slice(None), slice(None, -2), slice(np.int64(1), 7, -1))]
    assert shown == ["3", ":", ":-2", "1:7:-1"]
