"""The bundled model's tuned lens: offline, for every kind of model, and as good as the card says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from tiny_models import kinds

import tl_entropy as tle
from tl_entropy import demo
from tl_entropy.demo import train_lens
from tl_entropy.functional import kl_divergence
from tl_entropy.lenses.protocol import check_lens

pytestmark = pytest.mark.model

FOLDER = Path(demo.__file__).parent


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.long
def test_it_beats_the_logit_lens_at_every_layer_of_either_kind(kind, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    lens, adapter = demo.demo_lens(), tle.Adapter(demo.demo_model(kind=kind))
    readout, sites = adapter.readout, adapter.sites(("embed", "resid_post"))
    check_lens(lens, adapter, sites)
    for text in demo.demo_texts(2):
        ids = torch.tensor([[adapter.begin, *adapter.encode(text)[: adapter.context - 1]]])
        states = [x[0, 1:] for x in adapter.activations(ids, torch.ones_like(ids), sites).values()]
        output = readout.norm(states[-1]) @ readout.unembedding
        output = output if readout.bias is None else output + readout.bias

        def kl(rows, output=output):
            logits = readout.norm(rows) @ readout.unembedding
            return float(kl_divergence(output, logits if readout.bias is None else logits + readout.bias).mean())

        plain, tuned = ([kl(of(s, x)) for s, x in zip(sites, states, strict=True)] for of in (lambda s, x: x, lens))
        assert all(b < 0.6 * a for a, b in zip(plain[:-1], tuned[:-1], strict=True)), (plain, tuned)
        assert max(plain[-1], tuned[-1]) < 1e-9


def test_it_fits_compatibility_mode():
    if "bridge" not in kinds():
        pytest.skip("there is no TransformerBridge")
    model = demo.demo_model(kind="bridge")
    text, lens = demo.demo_texts(1)[0][:600], demo.demo_lens()
    raw = tle.lens_entropy(model, text, lens=lens, progress=False).entropy
    model.enable_compatibility_mode()
    check_lens(lens, tle.Adapter(model), ())
    torch.testing.assert_close(tle.lens_entropy(model, text, lens=lens, progress=False).entropy, raw, atol=1e-3, rtol=0)


def test_card_and_lens_agree():
    lens, card = demo.demo_lens(), (FOLDER / "MODEL_CARD.md").read_text()
    for site, plain, tuned in zip(["embed", *(f"resid_post.{i}" for i in range(5))], *lens.losses.tolist(), strict=True):
        assert f"| {site} | {plain:.2f} | {tuned:.2f} |" in card
    assert f"{lens.provenance.corpus['tokens_trained']:,} positions" in card
    assert f"{lens.provenance.settings['steps']} steps" in card
    assert lens.provenance.model == "stdlib-gpt2-3m"
    assert not lens.provenance.interrupted


def test_size():
    assert (FOLDER / "stdlib-gpt2-3m-lens.safetensors").stat().st_size <= 1_000_000


def test_it_is_trained_on_what_the_model_was_trained_on_and_measured_on_what_it_was_not(monkeypatch, tmp_path):
    parts = {"library": {"a": "x = 1"}, "tests": {"b": "y = 2"}, "validation": {"c": "z = 3"}, "held_out": {"d": "w = 4"}}
    asked = {}

    def pretend(model, texts, **options):
        asked.update(options, texts=texts)
        return demo.demo_lens()

    monkeypatch.setattr(train_lens, "split_sources", lambda: parts)
    monkeypatch.setattr(train_lens, "train_tuned_lens", pretend)
    train_lens.main(tmp_path / "lens.safetensors", steps=2, tokens=100)
    assert sorted(asked["texts"]) == ["x = 1", "y = 2"]
    assert asked["validation"] == demo.demo_texts()
    assert (asked["steps"], asked["tokens_per_step"]) == (2, 100)
    assert (tmp_path / "lens.safetensors").is_file()
