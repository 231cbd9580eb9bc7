"""Two ways are compared by pairs of tries, right after one another."""

from __future__ import annotations

from itertools import islice

import pytest

from tl_entropy.functional.lens.timing import first_is_faster, paired_times

WON, LOST = (1.0, 2.0), (2.0, 1.0)


def test_both_run_in_turn_and_the_first_run_of_each_does_not_count():
    now, ran, seconds = [0.0], [], {"first": iter([60.0, 1.0, 3.0]), "second": iter([70.0, 2.0, 4.0])}

    def way(name):
        def run():
            ran.append(name)
            now[0] += next(seconds[name])

        return run

    assert list(islice(paired_times(way("first"), way("second"), lambda: now[0]), 2)) == [(1.0, 2.0), (3.0, 4.0)]
    assert ran == ["first", "second"] * 3


@pytest.mark.parametrize(
    ("pairs", "tried", "expected"),
    [
        ([WON] * 12, 4, True),
        ([LOST] * 12, 4, False),
        ([(0.1, 2.0), (8.0, 0.5), *[LOST] * 10], 6, False),  # one try that nothing disturbed decides nothing
        ([LOST, *[WON] * 11], 6, True),
        ([WON, LOST] * 5 + [LOST, LOST], 12, False),
        ([WON, LOST] * 6, 12, True),
        ([(1.0, 1.0)] * 12, 4, True),
    ],
)
def test_tries_go_on_until_one_way_leads(pairs, tried, expected):
    left = iter([*pairs, *[LOST] * 8])
    assert first_is_faster(left) is expected
    assert len(pairs) + 8 - len(list(left)) == tried
