"""Some documents of an input, by their numbers: what a pass is told to read, and what has been read so far.

A part of a corpus keeps the numbers of the whole, so that what is kept by document (rows, folds, samples) is that of one run
over all of it. What is asked for are ranges, which may have a step and no end; what was read are *intervals*, each the first
number and one more than the last, in order and not touching.

Refused: numbers below 0, which would be from an end that nobody may know; ranges that overlap.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence

from tl_entropy.errors import InputError, InputTypeError

Documents = range | slice | Sequence[range]
"""Documents asked for: numbers in the whole input, from 0."""

Intervals = tuple[tuple[int, int], ...]


class Part:
    """Documents asked for.

    Args:
        documents: a range, a slice without negative numbers, ranges that do not overlap, or None for all.
        within: another part, of whose documents these are.

    Raises:
        InputError: negative numbers, a step below 1, or ranges that overlap.
        InputTypeError: anything else.

    >>> part = Part([range(0, 2), range(5, 9, 2)])
    >>> [number for number in range(10) if part.has(number)], part.ended(7), part.ended(8), part.count(6)
    ([0, 1, 5, 7], False, True, 3)
    >>> part.intervals(8)
    ((0, 2), (5, 6), (7, 8))
    """

    def __init__(self, documents: Documents | None, within: Part | None = None) -> None:
        self._within: Part | None = None if within is None or within.all else within
        self.all: bool = documents is None and self._within is None
        given = slice(None) if documents is None else documents
        some = given if isinstance(given, Sequence) and not isinstance(given, range | str) else [given]
        self._ranges = tuple(one for one in map(_checked, some) if len(one))
        for i, one in enumerate(self._ranges):
            for other in self._ranges[:i]:
                if (both := _common(one, other)) is not None:
                    raise InputError(f"documents: ranges must not overlap; {both} is in {other} and in {one}")

    def has(self, number: int) -> bool:
        """Whether this document is asked for."""
        inside = self._within is None or self._within.has(number)
        return self.all or (inside and any(number in one for one in self._ranges))

    def ended(self, number: int) -> bool:
        """Whether neither this document nor any later one is asked for."""
        outside = self._within is not None and self._within.ended(number)
        return not self.all and (outside or all(number > one[-1] for one in self._ranges))

    def count(self, total: int) -> int:
        """How many of so many documents are asked for."""
        if self._within is not None:
            return sum(stop - first for first, stop in self.intervals(total))
        return sum(len(_until(one, total)) for one in self._ranges)

    def intervals(self, stop: int) -> Intervals:
        """The documents asked for with numbers below ``stop``."""
        found: list[tuple[int, int]] = []
        for one in self._ranges:
            cut = _until(one, stop)
            found += [(cut.start, cut.stop)] if cut.step == 1 and len(cut) else [(number, number + 1) for number in cut]
        intervals = _joined(found)
        return intervals if self._within is None else _both(intervals, self._within.intervals(stop))

    def check_new(self, held: Intervals) -> None:
        """Raise InputError where a document is asked for that is among ``held``."""
        for interval in held:
            for one in self._ranges:
                both = _common(one, range(*interval))
                if both is not None and self.has(both):
                    raise InputError(f"documents: {both} was read before; every document goes into an accumulator once")

    def __repr__(self) -> str:
        return "all documents" if self.all else f"documents {', '.join(map(_shown, self._ranges)) or 'none'}"


def together(mine: Intervals, theirs: Intervals) -> Intervals:
    """The intervals of both.

    Raises:
        InputError: a document is in both.

    >>> together(((0, 2),), ((2, 4), (8, 9)))
    ((0, 4), (8, 9))
    >>> together(((0, 3),), ((2, 4),))
    Traceback (most recent call last):
    tl_entropy.errors.InputError: cannot merge: both hold document 2; every document may be read once
    """
    found = sorted([*mine, *theirs])
    for (_, stop), (first, _) in itertools.pairwise(found):
        if first < stop:
            raise InputError(f"cannot merge: both hold document {first}; every document may be read once")
    return _joined(found)


def shares(intervals: Intervals, parts: int) -> list[tuple[range, ...]]:
    """Documents in parts of about equal size, each of neighbours; some are empty where documents are too few.

    >>> shares(((0, 4), (10, 13)), 3), shares(((0, 1),), 2)
    ([(range(0, 3),), (range(3, 4), range(10, 11)), (range(11, 13),)], [(range(0, 1),), ()])
    """
    total = sum(stop - first for first, stop in intervals)
    edges = [math.ceil(total * part / parts) for part in range(parts + 1)]
    return [tuple(_between(intervals, *pair)) for pair in itertools.pairwise(edges)]


def _between(intervals: Intervals, first: int, last: int) -> Iterator[range]:
    """The documents from the ``first`` to before the ``last`` in the order of the intervals."""
    gone = 0
    for start, stop in intervals:
        here = range(start, stop)[max(0, first - gone) : max(0, last - gone)]
        gone += stop - start
        if here:
            yield here


def _both(mine: Intervals, theirs: Intervals) -> Intervals:
    """The documents that are in both."""
    found, i, j = [], 0, 0
    while i < len(mine) and j < len(theirs):
        first, stop = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
        found += [(first, stop)] if first < stop else []
        i, j = (i + 1, j) if mine[i][1] < theirs[j][1] else (i, j + 1)
    return tuple(found)


def _joined(intervals: Iterable[tuple[int, int]]) -> Intervals:
    found: list[tuple[int, int]] = []
    for first, stop in sorted(intervals):
        if found and found[-1][1] == first:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((first, stop))
    return tuple(found)


def _checked(one: object) -> range:
    if isinstance(one, slice):
        try:
            start, step = one.start or 0, 1 if one.step is None else one.step
            one = range(start, sys.maxsize if one.stop is None else one.stop, step)
        except (TypeError, ValueError) as error:
            raise InputTypeError(f"documents must be a slice of ints; got {one!r}: {error}") from error
    if not isinstance(one, range):
        raise InputTypeError(f"documents must be a range, a slice, or a sequence of ranges; got {one!r}")
    if one.step < 1 or one.start < 0 or one.stop < 0:
        raise InputError(f"documents are numbered from 0, and counted upwards; got {one}")
    return one


def _until(one: range, stop: int) -> range:
    return range(one.start, min(one.stop, max(stop, one.start)), one.step)


def _common(one: range, other: range) -> int | None:
    """The first number in both; None where there is none."""
    step, first = math.gcd(one.step, other.step), max(one.start, other.start)
    if (one.start - other.start) % step:
        return None
    wide, narrow = (one, other) if one.step >= other.step else (other, one)
    begin = wide.start + -(-(first - wide.start) // wide.step) * wide.step
    tried = range(begin, min(one.stop, other.stop), wide.step)[: narrow.step // step]
    return next((number for number in tried if number in narrow), None)


def _shown(one: range) -> str:
    end = "" if one.stop == sys.maxsize else str(one.stop)
    return f"{one.start}:{end}" + (f":{one.step}" if one.step > 1 else "")
