"""``tl-entropy compare``: what it writes, and one clear line for what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from command import refused_in_one_line, run
from tiny_models import hf_model, tiny_tokenizer

import tl_entropy as tle
from tl_entropy import demo
from tl_entropy.analyses.models.comparison import compare_models
from tl_entropy.errors import ModelError

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("blank_figures")]

BUNDLED = str(Path(demo.__file__).parent / "stdlib-gpt2-3m")
CODE = ["import os\nimport sys\n", "def f(x):\n    return x\n", "x = 1\n", "class A:\n    pass\n"]
TEXTS = [part for text in CODE for part in ("--text", text)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a model with another vocabulary, depth and width."""
    folder = tmp_path_factory.mktemp("models") / "tiny model"
    hf_model("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_two_models_give_a_folder_tables_and_figures(tiny, monkeypatch, capsys, tmp_path):
    status, out, err = run(
        monkeypatch, capsys, "compare", "--model", BUNDLED, "--model", tiny, *TEXTS, "--metrics", "kl, jsd", "--distance",
        "wasserstein", "--unit", "bits", "--window", 40, "--layers", "0:3", "--out", tmp_path / "o",
    )  # fmt: skip
    assert status == 0, err
    assert "ModelComparison: 2 models, bits" in out
    assert "similarity" not in err
    result = tle.load(tmp_path / "o")
    assert result.names == ("stdlib-gpt2-3m", "tiny model")
    models = {"stdlib-gpt2-3m": tle.demo_model(), "tiny model": tle.load_model(tiny)}
    expected = compare_models(
        models, CODE, metrics=("kl", "jsd"), distance="wasserstein", window=40, layers=slice(0, 3), progress=False
    ).to("bits")  # fmt: skip
    for name in result.names:
        assert result.dynamics[name].values.nan_to_num().flatten().tolist() == pytest.approx(
            expected.dynamics[name].values.nan_to_num().flatten().tolist(), abs=1e-5
        )
    assert [site.layer for site in result.lenses["stdlib-gpt2-3m"].sites] == [-1, 0, 1, 2]
    pair = result.names
    assert result.across[pair].over == "documents"
    assert result.across[pair].values.flatten().tolist() == pytest.approx(
        expected.across[pair].values.flatten().tolist(), abs=1e-4
    )
    table = pd.read_csv(tmp_path / "o" / "dynamics.csv")
    pd.testing.assert_frame_equal(table, result.to_pandas(), check_dtype=False, check_exact=False)
    distances = pd.read_csv(tmp_path / "o" / "distances.csv")
    assert distances["distance"].tolist() == pytest.approx([float(result.distances.distances[0, 1])])
    stems = ("0_stdlib-gpt2-3m", "1_tiny_model")
    figures = {"comparison", "importance", "distances", *(f"similarity_{stem}" for stem in stems), f"across_{'_'.join(stems)}"}
    results = {f"{kind}_{stem}" for kind in ("lens", "dynamics", "similarity") for stem in stems}
    results |= {"distances", f"across_{'_'.join(stems)}"}
    files = {p.name for p in (tmp_path / "o").iterdir()}
    tables = {"comparison.json", "dynamics.csv", "distances.csv"}
    assert files == tables | {f"{name}.png" for name in figures} | {f"{name}.safetensors" for name in results}
    assert all(str(tmp_path / "o" / name) in out for name in files)


@pytest.mark.long
def test_ctrl_c_writes_the_models_that_were_measured(monkeypatch, capsys, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tl_entropy.analyses.models.comparison.layer_similarity", interrupted)
    arguments = ("compare", "--model", BUNDLED, "--model", BUNDLED, *TEXTS, "--out", tmp_path / "o")
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status in (130, "tl-entropy: interrupted"), "as the version of typer has it"
    assert "until then it measured" in err
    assert "ModelComparison: 2 models" in out
    assert not tle.load(tmp_path / "o").across


@pytest.mark.long
def test_one_model_twice_has_two_names(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tl_entropy.cli.report.drawn", lambda *_: [])
    status, _, err = run(
        monkeypatch, capsys, "compare", "--model", BUNDLED, "--model", f"{BUNDLED}/", *TEXTS, "--similarity", "none", "--order",
        2, "--max-new-tokens", 2, "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    result = tle.load(tmp_path)
    assert result.names == ("stdlib-gpt2-3m", "stdlib-gpt2-3m (2)")
    assert (result.similarity, result.across, float(result.distances.distances.max())) == ({}, {}, 0)
    assert result.lenses["stdlib-gpt2-3m"].orders == (2.0,)
    assert int(result.lenses["stdlib-gpt2-3m"].generated.sum()) == 8


@pytest.mark.long
def test_one_model_alone_is_compared_with_none(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.txt").write_text("of an earlier day")
    (tmp_path / "lens_1_gone.safetensors").write_text("of an earlier comparison")
    status, out, err = run(monkeypatch, capsys, "compare", "--model", BUNDLED, "--text", CODE[0], "--out", tmp_path)
    assert status == 0, err
    assert "1 model" in out
    files = {p.name for p in tmp_path.iterdir()} - {"mine.txt", "lens_1_gone.safetensors"}
    [wrote] = [line for line in out.splitlines() if line.startswith("wrote ")]
    assert wrote == "wrote " + ", ".join(sorted(str(tmp_path / name) for name in files))
    assert "similarity_0_stdlib-gpt2-3m.png" in files
    assert not [name for name in files if "distances" in name or "across" in name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "cosine"], "metrics must be one of"),
        (["--distance", "cosine"], "distance must be one of"),
        (["--similarity", "svcca"], "--similarity must be one of 'cka', 'none'"),
        (["--estimator", "fast"], "estimator must be one of"),
        (["--massive", "hide"], "massive must be one of"),
        (["--order", "-1"], "order must be one number from 0 to infinity"),
        (["--similarity", "none", "--massive", "drop"], "massive='drop' belongs to similarity='cka'"),
        (["--distance", "elastic_srvf"], "elastic_srvf_distance needs fdasrsf: pip install 'tl-entropy[elastic]'"),
    ],
)
def test_choices_are_checked_before_models_are_loaded(arguments, message, monkeypatch, capsys, tmp_path):
    def loaded(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tle, "load_model", loaded)
    for name in ("fdasrsf", "fdasrsf.utility_functions"):
        monkeypatch.setitem(sys.modules, name, None)
    status, out, err = run(monkeypatch, capsys, "compare", "--model", BUNDLED, *TEXTS, *arguments)
    assert (status, out, list(tmp_path.iterdir())) == (2, "", [])
    assert err.startswith("tl-entropy: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", *TEXTS], "Missing option '--model'"),
        (["compare", "--model", BUNDLED], "give exactly one of --text, --file and --dataset; got none"),
        (
            ["compare", "--model", BUNDLED, *TEXTS, "--sites", "mlp_out"],
            "--sites: mlp_out holds no states",
        ),
        (["compare", "--model", BUNDLED, *TEXTS, "--order", "one"], "--order"),
        (["compare", "--model", BUNDLED, *TEXTS, "--unit", "hartleys"], "--unit must be one of"),
        (["compare", "--model", BUNDLED, "--model", "/no/such/folder", *TEXTS], "there is no folder /no/such/folder"),
        (["compare", "--model", BUNDLED, *TEXTS, "--ablate", "0.1"], "No such option"),
        (["lens", "--model", BUNDLED, "--model", BUNDLED, *TEXTS], "--model: this command measures one model; got 2"),
    ],
)
def test_bad_arguments_give_one_line_and_a_failure(arguments, message, monkeypatch, capsys, tmp_path):
    refused_in_one_line(monkeypatch, capsys, tmp_path, arguments, message)


def test_a_file_in_the_way_is_told_in_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "o").write_text("mine")
    status, _, err = run(
        monkeypatch, capsys, "compare", "--model", BUNDLED, "--text", CODE[0], "--similarity", "none", "--out", tmp_path / "o"
    )
    assert status == 2
    assert "is a file, so there is no folder" in err
    assert (tmp_path / "o").read_text() == "mine"


def test_code_of_a_model_runs_only_where_it_may(monkeypatch, capsys, tmp_path):
    asked = []

    def loaded(name, **options):
        asked.append(options["trust_remote_code"])
        raise ModelError("enough")

    monkeypatch.chdir(tmp_path)
    for more in ([], ["--trust-remote-code"]):
        monkeypatch.setattr("command.load_once", loaded)
        assert run(monkeypatch, capsys, "compare", "--model", BUNDLED, *TEXTS, *more)[0] == 2
    assert asked == [False, True]
