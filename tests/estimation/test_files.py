"""Models in folders: what was saved comes back, on either TransformerLens, and damage is named."""

from __future__ import annotations

import json
import os
import signal
import sys
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


BARE = {"kind": "causal", "d_vocab": 3, "bos_token_id": 2}


def with_a_template():
    """A model whose tokenizer has a file more than others."""
    model = drawn(SETTINGS["causal flat"])
    model.tokenizer.chat_template = "{{ messages }}"
    return model


def is_model(found, expected):
    weights = found.state_dict()
    return (
        (found.config, found.seed) == (expected.config, expected.seed)
        and all(torch.equal(weights[name], weight) for name, weight in expected.state_dict().items())
        and getattr(found.tokenizer, "chat_template", None) == getattr(expected.tokenizer, "chat_template", None)
    )


def test_nothing_of_the_old_tokenizer_is_left(tmp_path):
    for model in (with_a_template(), drawn(SETTINGS["causal flat"]), with_a_template(), drawn(BARE, None)):
        model.save(tmp_path)
        assert is_model(tle.load_model(tmp_path, device="cpu"), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


CHANGES = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.copyfile", "shutil.copytree", "shutil.rmtree")


def killed_before(turn, save):
    """Whether a process of its own was killed before it did something to files for this time."""
    child = os.fork()
    if not child:
        count = iter(range(10_000))

        def before(event, arguments):
            reads = event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            if event in CHANGES and not reads and next(count) == turn:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(before)
        try:
            save()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", [with_a_template, lambda: drawn(BARE, None)])
def test_a_save_killed_at_any_moment_leaves_the_old_model_or_the_new(first, tmp_path):
    old, new, held, killed = first(), drawn(SETTINGS["memory on a grid"]), [], True
    while killed:
        folder = old.save(tmp_path / str(len(held)))
        killed = killed_before(len(held), lambda folder=folder: new.save(folder))
        found = tle.load_model(folder, device="cpu")
        held.append(found.config == new.config)
        assert is_model(found, new if held[-1] else old)
        if len(held) % 4 == 0:  # the next save leaves nothing that waits
            old.save(folder)
            assert is_model(tle.load_model(folder, device="cpu"), old)
            assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert held == sorted(held)
    assert 5 < sum(held) < len(held) - 5


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_first_save_that_is_killed_leaves_no_model_or_the_whole_one(tmp_path):
    model, whole, killed = with_a_template(), [], True
    while killed:
        folder = tmp_path / str(len(whole))
        killed = killed_before(len(whole), lambda folder=folder: model.save(folder))
        try:
            assert is_model(tle.load_model(folder, device="cpu"), model)
        except tle.TLEntropyError:
            whole.append(False)
        else:
            whole.append(True)
    assert whole == sorted(whole)
    assert 5 < sum(whole) < len(whole) - 5


def test_what_no_model_brought_is_left_alone(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "__init__.py").write_text("mine")
    with pytest.raises(tle.SaveError, match=r"tokenizer holds __init__\.py, which is no part of this model's tokenizer"):
        drawn(SETTINGS["causal flat"]).save(tmp_path)
    drawn(BARE, None).save(tmp_path)
    drawn(BARE, None).save(tmp_path)
    assert (tmp_path / "tokenizer" / "__init__.py").read_text() == "mine"
    (tmp_path / "config.json").unlink()
    with pytest.raises(tle.SaveError, match=r"holds a model\.safetensors without a config\.json"):
        drawn(BARE, None).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "tokenizer"]


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
