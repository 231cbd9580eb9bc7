"""Models in folders: what was saved comes back, on either TransformerLens, and damage is named."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_models import SETTINGS, drawn, rows, small_model

import tl_entropy as tle


@pytest.mark.parametrize("name", ["causal attention", "memory on a grid", "memory tied", "autoencoder unrolled"])
@torch.no_grad()
def test_a_model_is_what_was_saved(name, tmp_path):
    model = small_model(name)
    again = tle.load_model(str(model.save(tmp_path / "model")), device="cpu")
    tokens, mask = rows(20, 3, model=model)
    assert torch.equal(again(tokens, attention_mask=mask), model(tokens, attention_mask=mask))
    assert (again.config, again.seed) == (model.config, model.seed)
    text = "def f(x): retür"
    assert again.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    assert tle.Adapter(again).fingerprint == tle.Adapter(model).fingerprint
    tied = again.encoder is not None and again.config.tied
    assert not tied or again.encoder.embed.weight.data_ptr() == again.entry.embed.weight.data_ptr()


def test_a_model_without_tokenizer_in_another_dtype_and_with_its_notes(tmp_path):
    model = drawn({"kind": "causal", "d_vocab": 3, "bos_token_id": 2}, None)
    model.tl_entropy_notes = ("trained for 7 steps",)
    model.save(tmp_path)
    again = tle.load_model(tmp_path, device="cpu", dtype=torch.float64)
    assert again.tokenizer is None
    assert again.cfg.dtype == torch.float64
    origin = tle.lens_entropy(again, [torch.tensor([2, 0, 1])], progress=False).provenance
    assert "trained for 7 steps" in origin.state


def test_saving_again_replaces(tmp_path):
    drawn(SETTINGS["causal flat"]).save(tmp_path)
    model = drawn({"kind": "causal", "mixer": "heads"})
    model.save(tmp_path)
    assert tle.load_model(tmp_path, device="cpu").config == model.config


@pytest.mark.parametrize("said", ['{"architectures": ["GPT2LMHeadModel"]}', "{}", "not JSON"])
def test_another_kind_of_model_is_left_where_it_is(said, tmp_path):
    (tmp_path / "config.json").write_text(said)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(tle.errors.SaveError, match=r"folder: .* holds another model"):
        drawn(SETTINGS["causal flat"]).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "config.json": said.encode(), "model.safetensors": b"weights",
    }  # fmt: skip


def flipped(path):
    whole = bytearray(path.read_bytes())
    whole[-7] ^= 1
    path.write_bytes(whole)


def rewritten(path, change):
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))


DAMAGE = {
    "weights": lambda folder: flipped(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "settings": lambda folder: rewritten(folder / "config.json", lambda whole: whole["config"].update(n_ctx=12)),
    "keys": lambda folder: rewritten(folder / "config.json", lambda whole: whole.pop("seed")),
    "layout": lambda folder: rewritten(folder / "config.json", lambda whole: whole.update(layout=9)),
    "two tokens": lambda folder: rewritten(
        folder / "tokenizer" / "tokenizer.json", lambda whole: whole["model"]["vocab"].update(a=98, b=97)
    ),
    "tokenizer": lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage, tmp_path):
    drawn(SETTINGS["causal flat"]).save(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(tle.FileError, match="model: "):
        tle.load_model(tmp_path, device="cpu")


def test_it_is_neither_kind_of_transformer_lens(tmp_path):
    drawn(SETTINGS["causal flat"]).save(tmp_path)
    with pytest.raises(tle.InputError, match=r"kind: .* is a model of this package"):
        tle.load_model(tmp_path, kind="bridge")


def test_models_saved_at_once_are_whole(tmp_path):
    models = [drawn(SETTINGS["causal flat"]), drawn({"kind": "causal", "mixer": "heads"})]
    with ThreadPoolExecutor(2) as pool:
        for saved in [pool.submit(models[i % 2].save, tmp_path) for i in range(6)]:
            saved.result()
    assert tle.load_model(tmp_path, device="cpu").config in [model.config for model in models]
    assert not list(tmp_path.glob(".*"))
