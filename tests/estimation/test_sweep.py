"""A sweep over memories: its cells are what single models cost, and on known sources every one of them is a bound."""

from __future__ import annotations

import gzip
import math

import pytest
import torch
from tiny_models import LONG

import tl_entropy as tle
from tl_entropy.estimation import windows
from tl_entropy.estimation.sources import BiasedCoin, CoinsAndCopies, MarkovChain

QUIET = {"progress": False}
BASE = {"kind": "memory", "mixer": "heads", "n_ctx": 16, "d_model": 16, "n_layers": 1, "numbers": 1}


def nats(model, window):
    with torch.no_grad():
        return float(model(torch.tensor([[256, *window]]), return_type="loss")) * len(window)


def test_cells_are_of_every_size_and_grid_and_measured_on_it():
    texts, held_out = ["abab" * 20, "xyz" * 9], ["abab" * 4, "xy"]
    base = tle.EstimationConfig(**BASE)
    found = tle.memory_sweep(texts, validation=held_out, numbers=(0, 2), bits=(1, 3), base=base, steps=3, **QUIET)
    assert list(zip(found.numbers.tolist(), found.bits.tolist(), strict=True)) == [(0, 0), (2, 1), (2, 3)]
    assert (found.tokens.tolist(), found.windows.tolist(), found.n_bytes.tolist()) == ([16, 2], [2, 1], [16.0, 2.0])
    model = tle.estimation_model(tle.EstimationConfig(**{**BASE, "numbers": 2, "limit": 1.0}), "bytes")
    tle.train_estimation(model, texts, validation=held_out, steps=3, every=3, **QUIET)
    for cell, bits in ((1, 1), (2, 3)):
        on_grid = model.at_bits(bits)
        windows = ([b"abab" * 3 + b"aba", b"b"], [b"xy"])  # of 15 bytes beside the one that begins a text
        right = [sum(nats(on_grid, window) for window in document) for document in windows]
        assert found.nats[cell].tolist() == pytest.approx(right, rel=1e-5)
    assert found.provenance.settings["steps"] == 3
    alone = [len(gzip.compress(text.encode(), 9, mtime=0)) for text in held_out]
    assert found.provenance.corpus["compressed"]["gzip"] == sum(alone)


def test_one_model_for_each_grid_has_noise_of_half_its_step(monkeypatch):
    noises, make = list[float](), tle.estimation_model
    monkeypatch.setattr(
        "tl_entropy.estimation.sweep.estimation_model", lambda c, *a, **k: noises.append(c.noise) or make(c, *a, **k)
    )
    base = tle.EstimationConfig(**BASE)
    options = {"validation": ["abab" * 4], "numbers": (0, 2), "bits": (1, 2), "base": base, "steps": 2, **QUIET}
    one, each = (tle.memory_sweep(["abab" * 20], per_bits=per_bits, **options) for per_bits in (False, True))
    assert noises == [None, None, None, 1.0, 1 / 3]
    assert one.nats.shape == each.nats.shape
    assert not torch.equal(one.nats, each.nats)


def test_a_sweep_trains_on_every_grid_itself_where_gradients_pass_straight_through():
    base = tle.EstimationConfig(**BASE, limit=1.0, bits=1, straight_through=True)
    options = {"validation": ["abab" * 4], "numbers": (0, 2), "bits": (1, 2), "base": base, "steps": 2, **QUIET}
    found = tle.memory_sweep(["abab" * 20], per_bits=True, **options)
    assert found.bits.tolist() == [0, 1, 2]
    assert "straight through" in str(found.provenance)
    with pytest.raises(tle.InputError, match="per_bits=True, for a training on each"):
        tle.memory_sweep(["abab" * 20], **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"numbers": ()}, "numbers must hold at least one"),
        ({"bits": (2, 2)}, "each once"),
        ({"bits": (0,)}, "bits must be an int"),
        ({"base": tle.EstimationConfig()}, "base must be of kind='memory'"),
        ({"base": 3}, "base must be an EstimationConfig"),
        ({"per_bits": 1}, "per_bits must be True or False"),
        ({"rate": 1}, "'rate' is not an option"),
    ],
)
def test_what_is_no_sweep_is_refused(options, said):
    with pytest.raises(tle.TLEntropyError, match=said):
        tle.memory_sweep(["abab"], validation=["abab"], **options)


SOURCES = {
    "coins and copies": (CoinsAndCopies(8, 1), 16),
    "a biased coin": (BiasedCoin(0.2), 16),
    "a Markov chain": (MarkovChain([[0.9, 0.1], [0.3, 0.7]]), 16),
}


@pytest.mark.skipif(not LONG, reason="trains")
@pytest.mark.parametrize("name", SOURCES)
def test_every_cell_is_a_bound_on_a_source_of_known_entropy(name):
    source, n = SOURCES[name]
    training, held_out = source.sample(3000, n, seed=0), source.sample(400, n, seed=1)
    base = tle.EstimationConfig(
        kind="memory", mixer="heads", n_heads=8, n_ctx=n + 1, d_model=24, encoder_width=32, n_layers=1, numbers=1, d_vocab=3,
        bos_token_id=2,
    )  # fmt: skip
    found = tle.memory_sweep(
        training, validation=held_out, numbers=(0, 2, 8), bits=(1, 4), base=base, tokenizer=None, per_bits=True, steps=300,
        batch_size=64, short=0.0, **QUIET,
    )  # fmt: skip
    entropy = source.rate(n)
    drawn = float(source.surprisal(held_out).mean())  # what these windows cost whoever knows the source
    assert (found.charged >= entropy - 3 * found.se - abs(drawn - entropy)).all(), found
    assert math.isfinite(found.estimate().value)


def test_texts_are_read_once_for_all_trainings_of_a_sweep(monkeypatch):
    readings, read = [], windows.read_corpus

    def counted(adapter, texts, **options):
        readings.append(texts)
        return read(adapter, texts, **options)

    monkeypatch.setattr(windows, "read_corpus", counted)
    base = tle.EstimationConfig(**BASE)
    tle.memory_sweep(["abab" * 20], validation=["abab"], numbers=(0, 2, 3), bits=(1,), base=base, steps=1, **QUIET)
    assert readings == [["abab" * 20], ["abab"]]
