"""What a model declares decides: whose token it predicts, that it has read it, and what that costs."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import drawn, small_model

import tl_entropy as tle

TEXTS = ["import os\nimport sys", "def f(x): return x + 1, x - 1", "x"]  # one of two windows
QUIET = {"progress": False}
LN2 = math.log(2)


def own_losses(model, text):
    """Of an autoencoder, window by window, by its own logits."""
    found, ids, t = [], torch.tensor(list(text.encode()) if isinstance(text, str) else text), model.cfg.n_ctx
    for row in ids.split(t):
        with torch.no_grad():
            found += torch.nn.functional.cross_entropy(model(row[None])[0], row, reduction="none").tolist()
    return found


def test_an_autoencoders_target_is_the_token_itself():
    model = small_model("autoencoder heads")
    result = tle.token_surprisal(model, TEXTS, **QUIET)
    right = [loss for text in TEXTS for loss in own_losses(model, text)]
    assert torch.allclose(result.surprisal, torch.tensor(right, dtype=torch.float64), atol=1e-5)
    assert result.token.tolist() == [byte for text in TEXTS for byte in text.encode()]
    assert result.position[:3].tolist() == [0, 1, 2]
    assert result.spans()[0] if hasattr(result, "spans") else True
    summary = tle.token_surprisal(model, TEXTS, keep="summary", **QUIET)
    assert math.isclose(summary.loss(memory_bits=0), sum(right) / len(right), rel_tol=1e-6)
    divergence = tle.layer_divergence(model, TEXTS, surprisal=True, **QUIET)
    assert torch.allclose(divergence.surprisal[:, -1].double(), result.surprisal, atol=1e-4)
    again = tle.token_surprisal(model, TEXTS, batch_size=1, **QUIET)
    assert torch.allclose(again.surprisal, result.surprisal, atol=1e-5)
    some = tle.token_surprisal(model, TEXTS, positions=[0, -1], **QUIET)
    assert some.position.tolist() == [0, 19, 0, 28, 0]


def test_reliance_and_monitors_take_the_same_target():
    model = small_model("autoencoder heads")
    plain = tle.token_surprisal(model, TEXTS, **QUIET).surprisal
    edit = tle.ablate("mlp_out.1")
    changed = tle.token_surprisal(model, TEXTS, interventions=edit, **QUIET).surprisal
    reliance = tle.token_reliance(model, TEXTS, {"mlp": edit}, metrics=("loss",), **QUIET)
    assert torch.allclose(reliance.values[:, 0, 0], changed - plain, atol=1e-4)
    monitor = tle.EntropyMonitor(model, TEXTS)
    assert math.isclose(float(monitor(0).loss), float(plain.mean()), rel_tol=1e-5)


@pytest.mark.parametrize(("width", "bos"), [(None, False), (1, False), (7, True)])
def test_differences_of_sequences_are_of_tokens_given_back(width, bos):
    """Of an autoencoder, each is the loss of a whole sequence less that of the sequence without its last token."""
    model = small_model("autoencoder heads")
    result = tle.conditional_entropy(model, TEXTS, window=width, prepend_bos=bos, **QUIET)
    right, front = [], [256] * bos

    def total(ids):
        return sum(own_losses(model, front + ids)[bos:]) if ids else 0.0

    for text in TEXTS:
        ids, room = list(text.encode()), (width or model.cfg.n_ctx) - bos
        for i in range(len(ids)):
            first = max(0, i + 1 - room)
            right.append(total(ids[first : i + 1]) - total(ids[first:i]))
    assert torch.allclose(result.entropy, torch.tensor(right, dtype=torch.float64), atol=2e-4)
    assert result.token.tolist() == [byte for text in TEXTS for byte in text.encode()]
    assert "no entropy of that token" in str(result)
    if not bos and width is None:
        some = tle.conditional_entropy(model, TEXTS, positions=[0, -1], batch_size=1, **QUIET)
        assert torch.allclose(some.entropy, result.select(positions=[0, -1]).entropy, atol=1e-5)


def test_rates_of_a_model_that_reads_ahead_need_a_price():
    for name in ("memory heads", "autoencoder heads"):
        for keep in ("positions", "summary"):
            result = tle.token_surprisal(small_model(name), TEXTS, keep=keep, **QUIET)
            for rate in (result.loss, result.bits_per_byte, result.perplexity, result.rates, result.bits_per_character):
                with pytest.raises(tle.InputError, match="memory_bits"):
                    rate()
            assert result.loss(memory_bits=0) < result.loss(memory_bits=8)
            shown = str(result)
            assert "loss without its memory" in shown
            assert "no entropy of that token" in shown
            assert "bits per byte" not in shown


def test_a_declared_price_is_bits_times_windows_over_what_was_predicted():
    model = small_model("memory on a grid")
    result = tle.token_surprisal(model, TEXTS, **QUIET)
    tokens, windows = len("".join(TEXTS)), 1 + 2 + 1
    assert result.provenance.corpus["windows"] == windows
    raw = float(result.surprisal.mean())
    assert math.isclose(result.loss(), raw + 16 * LN2 * windows / tokens, rel_tol=1e-6)
    assert math.isclose(result.bits_per_byte(), result.loss() / LN2, rel_tol=1e-6), "a byte a token"
    assert math.isclose(result.loss(memory_bits=5), raw + 5 * LN2 * windows / tokens, rel_tol=1e-6)
    assert math.isclose(result.loss(memory_bits=5, memory_tokens=10), raw + 0.5 * LN2, rel_tol=1e-6)
    summary = tle.token_surprisal(model, TEXTS, keep="summary", **QUIET)
    assert math.isclose(summary.loss(), result.loss(), rel_tol=1e-6)
    assert "bits per byte" in str(result)
    causal = tle.token_surprisal(small_model("causal heads"), TEXTS, **QUIET)
    assert causal.loss() == causal.loss(memory_bits=0), "nothing to pay"
    past = tle.token_surprisal(small_model("past heads token"), TEXTS, **QUIET)
    assert past.loss() == past.loss(memory_bits=0), "what was decoded already is free"


def test_what_is_declared_decides_for_any_model(monkeypatch):
    model = drawn({"kind": "autoencoder", "mixer": "heads"})
    model.cfg.reads_ahead = False
    with pytest.raises(tle.ModelError, match="looks ahead"):
        tle.token_surprisal(model, TEXTS, **QUIET)
    model.cfg.reads_ahead, model.cfg.memory_bits = True, 10
    assert tle.token_surprisal(model, TEXTS, **QUIET).loss() > 0
    for name, value in (("predicts", "all"), ("memory_bits", -1)):
        monkeypatch.setattr(model.cfg, name, value)
        with pytest.raises(tle.TLEntropyError, match=f"cfg.{name}"):
            tle.token_surprisal(model, TEXTS, **QUIET)
        monkeypatch.undo()


def test_what_means_nothing_for_tokens_that_were_read_is_refused():
    model = small_model("autoencoder heads")
    with pytest.raises(tle.InputError, match="where words begin"):
        tle.token_surprisal(model, TEXTS, words=True, **QUIET)
    with pytest.raises(tle.ModelError, match="no text of its own"):
        tle.lens_entropy(model, "a", max_new_tokens=3, **QUIET)
    with pytest.raises(tle.ModelError, match="no text of its own"):
        tle.token_surprisal(small_model("memory heads"), "a", max_new_tokens=3, **QUIET)


def test_results_say_what_was_declared(tmp_path):
    for name, own in (("autoencoder heads", True), ("memory heads", False)):
        result = tle.lens_entropy(small_model(name), TEXTS, **QUIET)
        assert ("of the token there" in str(result)) == own
        assert "reads ahead" in str(result)
        assert "reads ahead" in str(tle.load(result.save(tmp_path / f"{own}.safetensors")))
