"""Reduced precision is refused where it does not help, by the figure that was measured."""

from __future__ import annotations

import pytest
import torch

import tl_entropy as tle
from tl_entropy.errors import InputError
from tl_entropy.functional import vocabulary_divergences, vocabulary_statistics
from tl_entropy.functional.lens import reduced
from tl_entropy.functional.lens.products import TileProducts

MEASURED = reduced.reduced_time  # before the tests' own fixture puts another in its place
HIDDEN, UNEMBEDDING = torch.eye(4), torch.ones(4, 8)
JOB = reduced.Product(16, torch.float32, True)


@pytest.fixture
def slow(monkeypatch):
    """A clock on which tiles in bfloat16 take as many times as long as ``slow`` says of their d_model."""
    now, plain = [0.0], TileProducts.tiles

    def set_clock(times):
        def tiles(products):
            yield from plain(products)
            now[0] += times(len(products._unembedding)) if products._reduced else 1.0

        monkeypatch.setattr(TileProducts, "tiles", tiles)
        monkeypatch.setattr(reduced.time, "thread_time", lambda: now[0])
        monkeypatch.setattr(reduced, "reduced_time", MEASURED.__wrapped__)

    return set_clock


@pytest.mark.parametrize("times", [0.5, 1.0, 46.0])
def test_the_figure_is_the_share_of_the_time(slow, times):
    slow(lambda d_model: times)
    assert reduced.reduced_time(JOB) == pytest.approx(times)


def test_it_is_measured_on_the_width_of_the_model(slow):
    slow(lambda d_model: 2.0 if d_model > 600 else 0.5)
    for d_model in (4, 600):
        assert (
            vocabulary_statistics(torch.ones(1, d_model), torch.ones(d_model, 3), precision="bfloat16").precision == "bfloat16"
        )
    with pytest.raises(InputError, match="its products at d_model 601 take 2 times as long"):
        vocabulary_statistics(torch.ones(1, 601), torch.ones(601, 3), precision="bfloat16")


def test_it_is_measured_once_for_a_shape(monkeypatch):
    made, plain = [], TileProducts.begin
    monkeypatch.setattr(TileProducts, "begin", lambda *begun: made.append(1) or plain(*begun))
    job = reduced.Product(17, torch.float32, True)
    kinds = (job, job._replace(d_model=24), job._replace(dtype=torch.bfloat16), job._replace(rounded=True))
    for asked in kinds * 2:
        assert MEASURED(asked) > 0
    assert len(made) == 2 * len(kinds)


@pytest.mark.parametrize("rounded", [False, True])
def test_what_is_held_in_bfloat16_is_not_rounded_while_it_is_measured(monkeypatch, rounded):
    seen, made = [], TileProducts.__init__
    monkeypatch.setattr(
        TileProducts, "__init__", lambda *given, **options: seen.append(given[1].dtype) or made(*given, **options)
    )
    MEASURED(reduced.Product(32, torch.float32, True, rounded))
    assert seen == [torch.bfloat16 if rounded else torch.float32, torch.float32]


@pytest.mark.parametrize("times", [1.2, 46.0])
def test_what_does_not_help_is_refused_with_the_figure(monkeypatch, gpt2, times):
    monkeypatch.setattr(reduced, "reduced_time", lambda product: times)
    message = f"precision='bfloat16' does not help on this processor: its products at d_model 512 take {times:g} times as long"
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
    monkeypatch.setattr(reduced, "reduced_time", lambda product: times)
    assert vocabulary_statistics(HIDDEN, UNEMBEDDING, precision="bfloat16").precision == "bfloat16"


def test_accelerators_are_not_asked(monkeypatch):
    monkeypatch.setattr(reduced, "reduced_time", lambda product: 46.0)
    reduced.check_reduced(UNEMBEDDING.to("meta"))


def test_a_figure_that_one_try_contradicts_refuses_nothing(slow):
    tries = iter([1.0, 3.0, 1.5, 1.04, 9.0])  # the first prepares
    slow(lambda d_model: next(tries))
    assert reduced.reduced_time(JOB) == pytest.approx(1.04)
    assert next(tries) == 9.0  # no more were needed


def test_what_no_try_contradicts_is_the_least_of_them(slow):
    tries = iter([1.0, 3.0, 1.2, *[1.5] * 10])
    slow(lambda d_model: next(tries))
    assert reduced.reduced_time(JOB) == pytest.approx(1.2)
    assert not list(tries)


def test_what_takes_many_times_as_long_is_not_tried_often(slow):
    tries = iter([46.0] * 4)
    slow(lambda d_model: next(tries))
    assert reduced.reduced_time(JOB) == pytest.approx(46.0)
    assert len(list(tries)) == 1


def test_it_is_measured_in_one_thread_and_leaves_the_others(slow):
    before, seen = torch.get_num_threads(), set()
    slow(lambda d_model: seen.add(torch.get_num_threads()) or 0.5)
    torch.set_num_threads(2)
    try:
        reduced.reduced_time(JOB)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
