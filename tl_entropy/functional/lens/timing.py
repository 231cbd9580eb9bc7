"""Times of two ways to compute the same, taken so that what else the machine does weighs on both alike.

The shortest of a few tries of each is no fair comparison where other work runs beside them, and processor time does not mend
it: caches are shared, and threads that wait for one another spin. So the two run in turn, right after one another, and what
counts is which of such a pair was the faster; no time is compared with one from another moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

_LEAD, _MOST = 4, 12


def paired_times(
    first: Callable[[], object], second: Callable[[], object], clock: Callable[[], float]
) -> Iterator[tuple[float, float]]:
    """Yield times of both, run in turn, without end; the first run of each, which prepares it, is not among them.

    >>> next(paired_times(list, dict, iter(range(100)).__next__))
    (1, 1)
    """
    first(), second()
    while True:
        started = clock()
        first()
        between = clock()
        second()
        yield between - started, clock() - between


def first_is_faster(pairs: Iterable[tuple[float, float]]) -> bool:
    """Return which way is first to be the faster in four pairs more than the other; after twelve, in more of them.

    >>> first_is_faster([(1.0, 2.0), (9.0, 2.0), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0)])
    True
    """
    lead = 0
    for first, second in islice(pairs, _MOST):
        lead += 1 if first <= second else -1
        if abs(lead) == _LEAD:
            break
    return lead >= 0
