"""``tl-entropy sensitivity``: what it prints, writes and refuses."""

from __future__ import annotations

import pandas as pd
import pytest
from command import run

import tl_entropy as tle
from tl_entropy.demo import FOLDER

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("blank_figures")]

COMMON = ("sensitivity", "--model", FOLDER, "--text", "import os", "--text", "x = 1", "--unit", "bits", "--layers", "-1")


@pytest.mark.thinned
@pytest.mark.parametrize("weights", [(), ("--weights",)])
def test_files(monkeypatch, capsys, tmp_path, weights):
    own = ("--edits", "int4", "--sites", "mlp_out", *weights)
    status, out, err = run(monkeypatch, capsys, *COMMON, *own, "--out", tmp_path / "o")
    assert status == 0, err
    assert ("by edits of matrices" if weights else "by edits of activations") in out
    assert {path.name for path in (tmp_path / "o").iterdir()} >= {"sensitivity.safetensors", "sensitivity.csv"}
    result = tle.load(tmp_path / "o" / "sensitivity.safetensors")
    assert (result.unit, result.sites, result.edits) == ("bits", ("mlp_out.5",), ("int4",))
    assert len(pd.read_csv(tmp_path / "o" / "sensitivity.csv")) == 1


def test_a_type_that_there_is_not(monkeypatch, capsys, tmp_path):
    status, _, err = run(monkeypatch, capsys, *COMMON, "--edits", "fp4", "--out", tmp_path / "o")
    assert status == 2
    assert "--edits: to must be one of" in err
