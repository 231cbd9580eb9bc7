"""``tl-entropy confidence`` and ``unigram``: what they print and write."""

from __future__ import annotations

import pandas as pd
import pytest
from command import run

import tl_entropy as tle
from tl_entropy.demo import FOLDER

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("blank_figures")]

CODE = "import os\nimport sys\n"
COMMON = ("--model", FOLDER, "--text", CODE, "--text", "def f(x):\n    return x\n", "--unit", "bits")


def test_confidence_of_chosen_layers(monkeypatch, capsys, tmp_path):
    own = ("--top-k", 5, "--layers", "0,-1")
    status, out, err = run(monkeypatch, capsys, "confidence", *COMMON, *own, "--out", tmp_path / "o")
    assert status == 0, err
    assert "top_k_confidence" in out
    names = {path.name for path in (tmp_path / "o").iterdir()}
    figures = ("self_certainty", "margin", "top_k_confidence", "top_k_mass", "z", "kurtosis")
    assert names == {"confidence.safetensors", "confidence.csv", *(f"{name}.png" for name in figures)}
    result = tle.load(tmp_path / "o" / "confidence.safetensors")
    assert (result.unit, [str(site) for site in result.sites]) == ("bits", ["resid_post.0", "resid_post.5"])
    assert result.provenance.settings["top_k"] == 5
    assert len(pd.read_csv(tmp_path / "o" / "confidence.csv")) == 2 * result.n_tokens


def test_unigram_summary(monkeypatch, capsys, tmp_path):
    own = ("--smoothing", 1.0, "--summary")
    status, out, err = run(monkeypatch, capsys, "unigram", *COMMON, *own, "--out", tmp_path / "o")
    assert status == 0, err
    assert "unigram_kl" in out
    result = tle.load(tmp_path / "o" / "unigram.safetensors")
    assert (type(result).__name__, result.provenance.settings["smoothing"]) == ("SiteMeans", 1.0)
    assert len(pd.read_csv(tmp_path / "o" / "unigram.csv")) == 14


def test_calibration(monkeypatch, capsys, tmp_path):
    own = ("calibration", *COMMON, "--prompt-tokens", 2, "--steps", 3, "--temperature", 0)
    status, out, err = run(monkeypatch, capsys, *own, "--out", tmp_path / "o")
    assert status == 0, err
    assert "calibration_by_entropy" in out
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"calibration.safetensors", "calibration.csv", "calibration.png", "difference.png", "means.csv"}
    assert tle.load(tmp_path / "o" / "calibration.safetensors").own.shape == (2, 3)
