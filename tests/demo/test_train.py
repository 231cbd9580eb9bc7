"""Training: what is held out stays out, and an interrupted training goes on as if nothing had happened."""

from __future__ import annotations

import zipfile

import pytest
import torch
from safetensors.torch import load_file

from tl_entropy.demo import train

TEXTS = {
    "library": {"a.py": "def f(x):\n    return x\n" * 60, "b.py": "import os\n\nprint(os.getcwd())\n" * 60},
    "tests": {"test/t.py": "assert f(1) == 1\n" * 100},
    "validation": {"v": "import sys\n" * 5},
    "held_out": {"h": "import re\n" * 5},
}


def test_nothing_held_out_is_trained_on(monkeypatch):
    names = [
        "heapq.py",
        "test/test_heapq.py",
        "test/test_ssl.py",
        "test/test_zlib.py",
        "json/decoder.py",
        "csv.py",
        "asyncio/queues.py",
    ]
    monkeypatch.setattr(train, "source_files", lambda: ((name, "x = 1\n") for name in names))
    parts = train.split_sources()
    assert sorted(parts["held_out"]) == ["heapq"]
    assert sorted(parts["validation"]) == ["csv"]
    assert sorted(parts["tests"]) == ["test/test_zlib.py"]
    assert sorted(parts["library"]) == ["asyncio/queues.py", "json/decoder.py"]
    assert len(train.HELD_OUT) == 30


def test_schedule():
    rates = [train.rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == 1 / 200
    assert rates[300] == rates[599] == 1.0
    assert rates[800] == 0.5
    assert 0 < rates[-1] < 0.01


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(train, "split_sources", lambda: TEXTS)

    def tiny(seed):
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(seed)
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=train.VOCABULARY, n_positions=train.CONTEXT, n_embd=16, n_layer=1, n_head=2, bos_token_id=0)
        )

    monkeypatch.setattr(train, "build_model", tiny)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(small, tmp_path, monkeypatch):
    settings = {"batch": 2, "rate": 1e-2, "share": 0.5, "seed": 3}
    train.main(tmp_path / "whole", steps=4, **settings)

    save, calls = train.save_state, []

    def save_and_stop(folder, step, model, parts):
        save(folder, step, model, parts)
        raise KeyboardInterrupt

    plain = train.draw_rows

    def stop_at_two(streams, share, batch, step, seed):
        calls.append(step)
        return plain(streams, share, batch, step, seed)

    monkeypatch.setattr(train, "draw_rows", stop_at_two)
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    monkeypatch.setattr(train, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train.main(tmp_path / "parts", steps=4, **settings)
    monkeypatch.setattr(train, "save_state", save)
    train.main(tmp_path / "parts", steps=4, **settings)
    assert calls == [0, 1, 2, 3]
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-3, atol=1e-4)
    assert (tmp_path / "parts" / "report.json").is_file()


def test_checkpoints_are_kept_where_asked_for_and_can_be_loaded(small, tmp_path):
    import typer

    import tl_entropy as tle

    train.main(tmp_path, steps=3, batch=2, rate=1e-2, keep="0,2")
    assert sorted(folder.name for folder in tmp_path.glob("step-*")) == ["step-0", "step-2"]
    untrained = train.build_model(0).state_dict()["transformer.wte.weight"]
    before, after = (
        load_file(tmp_path / name / "model.safetensors")["transformer.wte.weight"] for name in ("step-0", "step-2")
    )
    torch.testing.assert_close(before.float(), untrained, rtol=1e-3, atol=1e-6)
    assert not torch.equal(before, after)
    assert tle.load_model(tmp_path / "step-2", device="cpu").cfg.n_layers == 1
    with pytest.raises(typer.BadParameter, match="--keep must be steps"):
        train.main(tmp_path, steps=3, keep="0,two")


def test_the_sources_are_the_library_and_what_it_bundles(monkeypatch, tmp_path):
    for name, text in (("b.py", b"x = 1\n"), ("a/c.py", b"y = 2\n"), ("latin.py", b"# \xe9\n"), ("no.txt", b"no\n"),
                       ("site-packages/d.py", b"z = 3\n"), ("a/__pycache__/e.py", b"z = 4\n")):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    wheel = tmp_path / "ensurepip" / "_bundled" / "pip-1.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pip/f.py", "w = 5\n")
        archive.writestr("pip/RECORD", "")
    monkeypatch.setattr(train.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert list(train.source_files()) == [("a/c.py", "y = 2\n"), ("b.py", "x = 1\n"), ("pip-1.whl/pip/f.py", "w = 5\n")]
