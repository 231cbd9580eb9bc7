"""Reduced precision is refused where it does not help, by the figure that was measured."""

from __future__ import annotations

import pytest
import torch

import tl_entropy as tle
from tl_entropy.errors import InputError
from tl_entropy.functional import vocabulary_divergences, vocabulary_statistics
from tl_entropy.functional.lens import reduced

MEASURED = reduced.reduced_time  # before the tests' own fixture puts another in its place
HIDDEN, UNEMBEDDING = torch.eye(4), torch.ones(4, 8)


def slow(monkeypatch, times):
    """A clock on which products of bfloat16 take so many times as long."""
    now, plain = [0.0], torch.mm

    def mm(one, other):
        now[0] += times if one.dtype == torch.bfloat16 else 1.0
        return plain(one, other)

    monkeypatch.setattr(reduced.torch, "mm", mm)
    monkeypatch.setattr(reduced.time, "perf_counter", lambda: now[0])
    return MEASURED.__wrapped__


@pytest.mark.parametrize("times", [0.5, 1.0, 46.0])
def test_the_figure_is_the_share_of_the_time(monkeypatch, times):
    assert slow(monkeypatch, times)(1) == pytest.approx(times)


def test_it_is_measured_once_for_a_process(monkeypatch):
    calls, plain = [], torch.mm
    monkeypatch.setattr(reduced.torch, "mm", lambda *factors: calls.append(1) or plain(*factors))
    for threads in (1001, 1001):
        assert MEASURED(threads) > 0
    assert 0 < len(calls) <= 10


@pytest.mark.parametrize("times", [1.2, 46.0])
def test_what_does_not_help_is_refused_with_the_figure(monkeypatch, gpt2, times):
    monkeypatch.setattr(reduced, "reduced_time", lambda threads: times)
    message = f"precision='bfloat16' does not help on this processor: its products take {times:g} times as long"
    for ask in (
        lambda: vocabulary_statistics(HIDDEN, UNEMBEDDING, precision="bfloat16"),
        lambda: vocabulary_divergences(HIDDEN[None].repeat(2, 1, 1), UNEMBEDDING, reference=-1, precision="bfloat16"),
        lambda: tle.lens_entropy(gpt2, torch.tensor([5, 6, 7]), precision="bfloat16", progress=False),
        lambda: tle.token_surprisal(gpt2, torch.tensor([5, 6, 7]), precision="bfloat16", progress=False),
    ):
        with pytest.raises(InputError, match=message):
            ask()
    vocabulary_statistics(HIDDEN, UNEMBEDDING)


@pytest.mark.parametrize("times", [0.5, 1.04])
def test_what_helps_is_taken(monkeypatch, times):
    monkeypatch.setattr(reduced, "reduced_time", lambda threads: times)
    assert vocabulary_statistics(HIDDEN, UNEMBEDDING, precision="bfloat16").precision == "bfloat16"


def test_accelerators_are_not_asked(monkeypatch):
    monkeypatch.setattr(reduced, "reduced_time", lambda threads: 46.0)
    reduced.check_reduced(torch.device("cuda"))
