"""Everything else that is saved, with bits flipped and ends cut off: it loads as it was, or is an error of this package's own.

Files of results, tuned lenses and comparisons are those of ``results/test_damaged_files.py``.
"""

from __future__ import annotations

import random

import pytest
import states
import torch
from small_models import SETTINGS, drawn
from tiny_models import LONG

import tl_entropy as tle
from tl_entropy.lenses.jacobian import JacobianLens

pytestmark = pytest.mark.model
TRIALS = 300 if LONG else 6
ODD = (b"", b"null", b"[" * 100_000, b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{}")
"""Contents that no save has written: none, JSON of another kind or too deep, lengths that no disk has."""


def jacobian(folder):
    weights = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    path = JacobianLens(weights, (0, 1), 3, "memory", {"corpus": "mine"}).save(folder / "lens.pt")
    return lambda: (lambda lens: (lens.weights, lens.layers, lens.prompts))(tle.load_jacobian_lens(path))


def accumulator(name):
    def saved(folder):
        path = states.streamed(name, range(3)).save(folder / "one")
        return lambda: tle.load_accumulator(path).state_dict()

    return saved


def estimation(folder):
    drawn(SETTINGS["memory on a grid"]).save(folder / "model")

    def read():
        model = tle.load_model(folder / "model", device="cpu")
        return model.state_dict(), model.config.as_dict(), model.seed, model.tokenizer("def f(x): retür")["input_ids"]

    return read


def training(folder):
    texts, options = ["import os\n" * 20], {"steps": 2, "batch_size": 2, "every": 1, "progress": False}
    settings = {"kind": "causal"}
    tle.train_estimation(drawn(settings, n_layers=1), texts, validation=texts, out=folder / "run", **options)
    for path in (folder / "run").iterdir():  # the model at the end is that of ``estimation``
        if path.name in ("config.json", "model.safetensors"):
            path.unlink()

    def read():
        model = drawn(settings, n_layers=1)
        history = tle.train_estimation(model, texts, validation=texts, out=folder / "run", **options)
        return model.state_dict(), history.steps, history.loss, history.validation, history.tokens

    return read


def assignments(folder):
    tle.soft_information(
        states.model(), states.TOKENS, keep="assignments", folder=folder / "kept", layers=[0], n_bins=5, window=6, folds=2,
        progress=False,
    )  # fmt: skip
    return lambda: tle.load_assignments(folder / "kept").information("token", folds=2, progress=False)


SAVED = {"JacobianLens": jacobian, "EstimationModel": estimation, "a training": training, "assignments": assignments}
SAVED |= {f"accumulator: {name}": accumulator(name) for name in states.EVERY}
QUICK = ("JacobianLens", "EstimationModel", "assignments", "accumulator: cka")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in SAVED])
def test_damage_is_seen(name, tmp_path):
    read, draw = SAVED[name](tmp_path), random.Random(name)
    whole = read()
    files = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    refused = 0
    for path, raw in files.items():
        for _ in range(max(2, TRIALS // len(files))):
            bad = bytearray(raw)
            bad[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            for damaged in (bad, raw[: draw.randrange(len(raw))], *ODD):
                path.unlink()
                path.write_bytes(damaged)
                try:
                    found = read()
                except (
                    tle.FileError,
                    tle.InputError,
                    tle.ModelError,
                    tle.SaveError,
                ):  # settings of something else, or of no model
                    refused += 1
                else:
                    assert states.differences(found, whole) == []
                for other, content in files.items():
                    if not other.exists() or other.read_bytes() != content:
                        other.write_bytes(content)
    assert refused
