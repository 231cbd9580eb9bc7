"""The bundled model: offline, of either kind, and as good as its card says."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import pytest
import torch
from tiny_models import kinds

import tl_entropy as tle
from tl_entropy import demo

pytestmark = pytest.mark.model

FOLDER = Path(demo.__file__).parent
REPORT = json.loads((FOLDER / "stdlib-gpt2-3m" / "report.json").read_text())


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("kind", kinds())
def test_model_loads_offline(kind, no_network):
    model = tle.demo_model(kind=kind)
    assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.n_ctx) == (6, 6, 192, 256)
    assert not model.training
    assert tle.Adapter(model).readout.error < 1e-3
    assert tle.Adapter(model).encode(tle.demo_texts(1)[0])


def test_kinds_agree():
    if len(kinds()) < 2:
        pytest.skip("one kind of model is installed")
    text = tle.demo_texts(1)[0][:800]
    bridge, hooked = (tle.lens_entropy(tle.demo_model(kind=k), text, progress=False) for k in ("bridge", "hooked"))
    torch.testing.assert_close(bridge.entropy, hooked.entropy, atol=1e-4, rtol=0)


def test_unknown_kind():
    with pytest.raises(tle.InputError, match="kind must be one of"):
        tle.demo_model(kind="keras")


def test_texts_are_the_held_out_modules():
    assert [f"{name}.py" for name in sorted(REPORT["modules"])] == tle.demo_names()
    assert sum(len(text.encode()) for text in tle.demo_texts()) == REPORT["held_out"]["bytes"]
    assert all(compile(text, name, "exec") for name, text in zip(tle.demo_names(), tle.demo_texts(), strict=True))


def test_the_cards_loss_is_what_the_package_measures():
    name, text = next((n, t) for n, t in zip(tle.demo_names(), tle.demo_texts(), strict=True) if n == "queue.py")
    result = tle.lens_entropy(tle.demo_model(), text, sites="resid_post", layers=[-1], surprisal=True, progress=False)
    measured = float(result.surprisal.double().nanmean())
    card = REPORT["modules"][name.removesuffix(".py")]
    # The card predicts each window's first token from the begin token alone, the package from the window before it.
    assert measured == pytest.approx(card["nats_per_token"], abs=0.06)
    assert card["tokens"] == result.n_tokens
    assert card["bits_per_byte"] == pytest.approx(card["nats_per_token"] * card["tokens"] / card["bytes"] / math.log(2))


def test_card_and_report_agree():
    card = (FOLDER / "MODEL_CARD.md").read_text()
    for value in (REPORT["held_out"]["nats_per_token"], REPORT["held_out"]["bits_per_byte"]):
        assert f"{value:.2f}" in card
    assert f"{REPORT['steps']:,}" in card
    for name in REPORT["modules"]:
        assert name in card


def test_size():
    assert (FOLDER / "stdlib-gpt2-3m" / "model.safetensors").stat().st_size <= 8_000_000
