"""Compiled sums: the same numbers, compiled once whatever the sizes, and no warnings from inside torch.compile."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from tl_entropy.errors import InputError
from tl_entropy.functional import compiling, readout
from tl_entropy.functional.compiling import compiled_tile_sums, compiler_available
from tl_entropy.functional.readout import vocabulary_statistics
from tl_entropy.functional.tiles import MASKED, tile_sums

ORDERS = (0.0, 0.5, 0.9, 1.0, 3.7, math.inf)  # one choice for all tests: compiling takes seconds

needs_compiler = pytest.mark.skipif(not compiler_available(), reason="torch.compile finds no C++ compiler here")


@needs_compiler
def test_the_same_sums_compiled_once_for_all_sizes():
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for attempt, (rows, width) in enumerate([(40, 960), (7, 960), (512, 960), (96, 333), (2, 960)]):
            logits = torch.randn(rows, width, generator=generator) * 5
            logits[0, 3:] = MASKED
            threshold = logits[:, 2].clone()
            with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=attempt > 0):
                found = compiled_tile_sums(ORDERS, True)(logits, threshold)
            torch.testing.assert_close(found, tile_sums(logits, ORDERS, threshold), rtol=2e-6, atol=1e-6)
    assert caught == []


@needs_compiler
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


def test_large_jobs_are_compiled_where_there_is_a_compiler(monkeypatch):
    asked = []
    monkeypatch.setattr(readout, "_WORTH_COMPILING", 10 * 9)
    monkeypatch.setattr(readout, "compiled_tile_sums", lambda orders, ranked: asked.append(orders) or sums)

    def sums(logits, threshold):
        return tile_sums(logits, (1.0,), threshold)

    for there, rows, expected in ((True, 10, True), (True, 9, False), (False, 10, False)):
        monkeypatch.setattr(readout, "compiler_available", lambda device, there=there: there)
        assert vocabulary_statistics(torch.zeros(rows, 4), torch.zeros(4, 9)).compiled is expected
    assert asked == [(1.0,)]


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert not compiler_available()
    with pytest.raises(InputError, match="compiled=True needs a C"):
        vocabulary_statistics(torch.zeros(2, 4), torch.zeros(4, 9), compiled=True)


def test_a_compiler_that_fails_is_an_error(monkeypatch):
    def broken(logits, threshold):
        raise RuntimeError("no space left")

    monkeypatch.setattr(compiling, "_compiled", lambda orders, ranked: broken)
    with pytest.raises(InputError, match=r"pass compiled=False.*no space left"):
        compiled_tile_sums((1.0,), False)(torch.zeros(2, 4), None)
