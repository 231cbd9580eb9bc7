"""Documents by number: ranges with steps and without ends, intervals of what was read, shares of equal size."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tl_entropy.capture.parts import Part, shares, together
from tl_entropy.errors import InputError, InputTypeError

ranges = st.builds(range, st.integers(0, 12), st.integers(0, 12), st.integers(1, 4))


def numbers(intervals):
    return [number for interval in intervals for number in range(*interval)]


@given(ranges, st.one_of(st.none(), ranges), st.integers(0, 14))
def test_a_part_is_the_numbers_of_its_range(one, within, total):
    part = Part(one, None if within is None else Part(within))
    asked = sorted(set(one) if within is None else set(one) & set(within))
    assert [n for n in range(15) if part.has(n)] == asked
    assert numbers(part.intervals(total)) == [n for n in asked if n < total]
    assert part.count(total) == len([n for n in asked if n < total])
    for number in range(15):
        assert not (part.ended(number) and any(n >= number for n in asked))
    assert part.ended(max([*one, -1]) + 1)


@given(ranges, ranges)
def test_ranges_that_overlap_are_refused(one, other):
    if set(one) & set(other):
        with pytest.raises(InputError, match="must not overlap"):
            Part([one, other])
    else:
        assert numbers(Part([one, other]).intervals(99)) == sorted([*one, *other])


def test_a_slice_without_an_end_goes_on():
    part = Part(slice(3, None, 2))
    assert [n for n in range(8) if part.has(n)] == [3, 5, 7]
    assert not part.ended(10**9)
    assert repr(part) == "documents 3::2"
    assert not Part(slice(None)).all, "all documents, by their numbers"


@pytest.mark.parametrize("wrong", [5, "03", [1, 2], slice("a", None), range(3, 0, -1), range(-2, 3), slice(-2, None)])
def test_what_is_no_range_of_documents_is_refused(wrong):
    with pytest.raises((InputError, InputTypeError), match="documents"):
        Part(wrong)


@given(st.sets(st.integers(0, 30)), st.integers(1, 5))
def test_shares_are_all_documents_once_and_of_equal_size(held, parts):
    intervals = together(tuple((n, n + 1) for n in held), ())
    shared = shares(intervals, parts)
    assert [n for share in shared for one in share for n in one] == sorted(held)
    sizes = [sum(map(len, share)) for share in shared]
    assert max(sizes) - min(sizes) <= 1


def test_documents_held_twice_are_named():
    with pytest.raises(InputError, match="both hold document 4"):
        together(((0, 5),), ((4, 6),))


def test_a_part_that_was_read_is_refused():
    Part(range(5, 9)).check_new(((0, 5), (9, 12)))
    with pytest.raises(InputError, match="8 was read before"):
        Part(range(5, 9)).check_new(((8, 12),))
