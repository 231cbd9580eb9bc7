"""Compiled sums: the same numbers, compiled once whatever the sizes, and no warnings from inside torch.compile."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch

from tl_entropy.errors import InputError
from tl_entropy.functional import vocabulary_changes
from tl_entropy.functional.lens import compiling, timing
from tl_entropy.functional.lens.compiling import compiled_is_faster, compiled_sums, compiler_available
from tl_entropy.functional.lens.readout import vocabulary_statistics
from tl_entropy.functional.lens.tiles import MASKED, tile_sums
from tl_entropy.functional.pairs import mixture_sums, pair_sums

ORDERS = (0.0, 0.5, 0.9, 1.0, 3.7, math.inf)  # one choice for all tests: compiling takes seconds


@pytest.mark.compiled
def test_the_same_sums_compiled_once_for_all_sizes():
    def sums(logits, *thresholds, orders):
        return tile_sums(logits, orders, thresholds)

    compiled = compiled_sums(sums, orders=ORDERS)
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for attempt, (rows, width) in enumerate([(40, 960), (7, 960), (512, 960), (96, 333), (2, 960)]):
            logits = torch.randn(rows, width, generator=generator) * 5
            logits[0, 3:] = MASKED
            thresholds = logits[:, 2:4].unbind(-1)
            with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=attempt > 0):
                found = compiled(logits, *thresholds)
            torch.testing.assert_close(found, tile_sums(logits, ORDERS, thresholds), rtol=2e-6, atol=1e-6)
    assert caught == []


@pytest.mark.compiled
@pytest.mark.parametrize("reference", ["previous", 1])
def test_pairs_are_the_same_compiled_once_for_all_sizes(reference):
    one_pass, mixed = compiled_sums(pair_sums, reference=reference), compiled_sums(mixture_sums, reference=reference)
    generator = torch.Generator().manual_seed(0)
    for attempt, (sites, rows, width) in enumerate([(3, 40, 960), (13, 7, 960), (4, 5, 333)]):
        logits = torch.randn(sites, rows, width, generator=generator) * 5
        logits[..., 7:20] = MASKED
        before, maximum = logits.clone(), logits.amax(-1)
        log_total = (logits - maximum[..., None]).exp().sum(-1).log()
        with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=attempt > 0):
            found = one_pass(logits, maximum), mixed(logits, maximum, log_total)
        assert torch.equal(logits, before)
        expected = (
            pair_sums(logits, maximum, reference=reference),
            mixture_sums(logits, maximum, log_total, reference=reference),
        )
        torch.testing.assert_close(found, expected, rtol=4e-6, atol=1e-5)


@pytest.mark.compiled
def test_sizes_of_one_compile_for_themselves():
    compiled = compiled_sums(pair_sums, reference=0)
    for dtype in (torch.float32, torch.float64):
        for sites, rows in ((1, 1), (1, 3), (3, 1), (3, 3), (4, 2)):
            logits = torch.randn(sites, rows, 48, generator=torch.Generator().manual_seed(rows)).to(dtype)
            found, expected = compiled(logits, logits.amax(-1)), pair_sums(logits, logits.amax(-1), reference=0)
            torch.testing.assert_close(found, expected, rtol=4e-6, atol=1e-5)


@pytest.mark.compiled
def test_statistics_say_that_they_were_compiled():
    generator = torch.Generator().manual_seed(1)
    hidden, unembedding = torch.randn(30, 16, generator=generator), torch.randn(16, 2100, generator=generator)
    targets = torch.arange(30)
    found, expected = (
        vocabulary_statistics(hidden, unembedding, orders=ORDERS, targets=targets, compiled=compiled)
        for compiled in (True, False)
    )
    assert found.compiled
    assert not expected.compiled
    torch.testing.assert_close(found.entropies, expected.entropies, rtol=0, atol=5e-6)
    assert torch.equal(found.rank, expected.rank)


def test_large_jobs_are_compiled_where_that_is_faster(monkeypatch):
    asked, measured, enough = [], [], 10
    monkeypatch.setattr(compiling, "_WORTH_COMPILING", 10 * 9)

    def compiled_sums(sums, orders, **more):
        asked.append(orders)
        return partial(sums, orders=orders, **more)

    for there, faster, rows, expected in (
        (True, True, enough, True), (True, False, enough, False), (True, True, enough - 1, False), (False, True, enough, False),
    ):  # fmt: skip
        monkeypatch.setattr(compiling, "compiled_sums", compiled_sums)
        monkeypatch.setattr(compiling, "compiler_available", lambda device, there=there: there)
        monkeypatch.setattr(
            compiling, "compiled_is_faster", lambda *job, faster=faster, **choice: measured.append(job) or faster
        )
        hidden, unembedding, targets = torch.zeros(rows, 4), torch.zeros(4, 9), torch.zeros(rows, 2, dtype=torch.int64)
        assert vocabulary_statistics(hidden, unembedding, targets=targets).compiled is expected
    assert asked == [(1.0,)] * 2
    assert [[tuple(tensor.shape) for tensor in tensors] for _, tensors in measured] == [[(enough, 9), (enough,), (enough,)]] * 2


@pytest.mark.parametrize("wins", ["_tile_sums", "pair_sums", "mixture_sums", "_logit_sums", "none"])
def test_each_kind_of_sums_is_measured_by_itself(monkeypatch, wins):
    compiled, clock = [], [0.0]

    def ways_of(sums, **choice):
        def run(*tensors):
            compiled.append(sums.__name__)
            clock[0] += -1.0 if sums.__name__ == wins else 1.0  # eager ones take none
            return sums(*tensors, **choice)

        return run

    monkeypatch.setattr(compiling, "_faster", {})
    monkeypatch.setattr(compiling, "compiler_available", lambda device: True)
    monkeypatch.setattr(compiling, "compiled_sums", ways_of)
    monkeypatch.setattr(compiling.time, "process_time", lambda: clock[0])
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 6, 4, generator=generator)
    unembedding = torch.randn(4, 50, generator=generator)
    metrics = ("l1", "kl", "jsd")
    found = vocabulary_changes(before, after, unembedding, metrics=metrics, compiled="faster")
    assert {key[0].__name__ for key in compiling._faster} == {"_tile_sums", "pair_sums", "mixture_sums", "_logit_sums"}
    assert {name for name in set(compiled) if compiled.count(name) > 1 + timing._LEAD} == {wins} - {"none"}
    assert found.compiled is (wins != "none")
    eager = vocabulary_changes(before, after, unembedding, metrics=metrics, compiled=False)
    assert torch.equal(found.changes, eager.changes)


def test_the_faster_way_is_measured_once_for_a_choice_and_a_shape(monkeypatch):
    ran, clock, seconds = [], [0.0], {"eager": 2.0}
    mine = torch.ones(4, 5)

    def sums(logits, *, orders, buffers=None):
        ran.append("eager")
        assert buffers.shape == (3, logits.numel())
        logits.fill_(torch.nan)  # some sums write over them
        clock[0] += seconds["eager"]

    def compiled(logits):
        ran.append("compiled")
        clock[0] += seconds["compiled"] if ran.count("compiled") > 1 else 60.0  # the first compiles

    monkeypatch.setattr(compiling, "_faster", {})
    monkeypatch.setattr(compiling, "compiled_sums", lambda sums, **choice: compiled)
    monkeypatch.setattr(compiling.time, "process_time", lambda: clock[0])
    for seconds["compiled"], orders, expected in ((1.0, (1.0,), True), (3.0, (2.0,), False), (3.0, (1.0,), True)):
        for tile in (mine, torch.zeros(7, 5)):  # one shape: the same powers of two
            assert compiled_is_faster(sums, (tile,), orders=orders) is expected
    assert ran == ["compiled", "eager"] * 10
    assert compiled_is_faster(sums, (torch.zeros(8, 5),), orders=(1.0,)) is False  # another, and its own figure
    assert ran == ["compiled", "eager"] * 15
    assert mine.isfinite().all()


@pytest.mark.compiled
def test_what_is_asked_to_be_faster_is_one_of_the_two():
    hidden, unembedding = torch.randn(30, 16), torch.randn(16, 2100)
    found = vocabulary_statistics(hidden, unembedding, targets=torch.arange(30), compiled="faster")
    same = vocabulary_statistics(hidden, unembedding, targets=torch.arange(30), compiled=found.compiled)
    assert torch.equal(found.entropies, same.entropies)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert not compiler_available()
    with pytest.raises(InputError, match="compiled=True needs a C"):
        vocabulary_statistics(torch.zeros(2, 4), torch.zeros(4, 9), compiled=True)


def test_a_compiler_that_fails_is_an_error(monkeypatch):
    def broken(logits):
        raise RuntimeError("no space left")

    monkeypatch.setattr(compiling, "_compiled", lambda *choice: broken)
    with pytest.raises(InputError, match=r"pass compiled=False.*no space left"):
        compiled_sums(tile_sums, orders=(1.0,))(torch.zeros(2, 4))
