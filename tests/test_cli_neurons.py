"""``tl-entropy neurons`` and ``placebo``, and neurons in ``--ablate``: what they print and write."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from command import run

import tl_entropy as tle
from tl_entropy.demo import FOLDER

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("blank_figures")]

TEXTS = ["import os\nimport sys\n", "def f(x):\n    return x\n"]
COMMON = ("--model", FOLDER, "--text", TEXTS[0], "--text", TEXTS[1])


def test_neurons_of_the_last_layer(monkeypatch, capsys, tmp_path):
    own = ("--candidates", 1, "--placebos", 2, "--unit", "bits")
    status, out, err = run(monkeypatch, capsys, "neurons", *COMMON, *own, "--out", tmp_path / "o")
    assert status == 0, err
    assert "null share" in out
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"neurons.safetensors", "neurons.csv", "entropy.png", "loss.png", "screening.csv"}
    result = tle.load(tmp_path / "o" / "neurons.safetensors")
    assert (result.unit, result.roles) == ("bits", ("entropy", "frequency", "placebo", "placebo"))
    assert len(pd.read_csv(tmp_path / "o" / "screening.csv")) == 768


def test_neurons_by_name_and_what_is_refused(monkeypatch, capsys, tmp_path):
    own = ("--only", "5.3,-1.4", "--placebos", 0, "--out", tmp_path / "o")
    status, _, err = run(monkeypatch, capsys, "neurons", *COMMON, *own)
    assert status == 0, err
    assert tle.load(tmp_path / "o" / "neurons.safetensors").names == ("5.3", "5.4")
    status, _, err = run(monkeypatch, capsys, "neurons", *COMMON, "--only", "five", "--out", tmp_path / "p")
    assert (status, err) == (
        2, "tl-entropy: --only must be neurons, such as 11.584 (layer 11, neuron 584), separated by commas; got 'five'\n"
    )  # fmt: skip


def test_neurons_are_ablated_to_means(monkeypatch, capsys, tmp_path):
    own = ("--ablate", "post.5.3", "--to-means", "--out", tmp_path / "o")
    status, _, err = run(monkeypatch, capsys, "lens", *COMMON, *own)
    assert status == 0, err
    name = tle.load(tmp_path / "o" / "contrast.safetensors").after.settings["interventions"][0]
    means = tle.site_means(tle.demo_model(), TEXTS, "post.5", progress=False)
    assert name == tle.ablate_neurons([(5, 3)], means=means).name


@pytest.mark.thinned
@pytest.mark.parametrize("of", ["loss", "entropy"])
def test_placebos_of_a_head(monkeypatch, capsys, tmp_path, of):
    own = ("--ablate", "3.1", "--placebos", 2, "--of", of, "--unit", "bits", "--out", tmp_path / "o")
    status, out, err = run(monkeypatch, capsys, "placebo", *COMMON, *own)
    assert status == 0, err
    assert "as large or larger are" in out
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"placebo.safetensors", "placebo.csv", "placebo.png"}
    found = tle.load(tmp_path / "o" / "placebo.safetensors")
    assert (found.unit, found.edits[0], tuple(found.effects.shape)) == ("bits", "ablate heads 3.1", (3, 2))
    if of == "loss":
        model = tle.demo_model()
        changed, plain = (
            tle.token_surprisal(model, TEXTS, interventions=edit, progress=False).per_document()["loss"]
            for edit in (tle.ablate_heads([(3, 1)]), None)
        )
        assert found.effects[0].tolist() == pytest.approx(((changed - plain) / math.log(2)).tolist(), abs=1e-5)


def test_a_placebo_needs_an_edit(monkeypatch, capsys, tmp_path):
    status, _, err = run(monkeypatch, capsys, "placebo", *COMMON, "--out", tmp_path / "o")
    assert (status, "placebo needs an edit: --ablate 3.1" in err) == (2, True)
