"""The command line: what it finds wrong before a model is loaded, what every command offers, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer
from command import run

import tl_entropy as tle
from tl_entropy import cli, demo
from tl_entropy.cli.checks import layers_in
from tl_entropy.results.holding import held

BUNDLED = str(Path(demo.__file__).parent / "stdlib-gpt2-3m")
COMMANDS = (
    "demo", "lens", "divergence", "heads", "information", "tokens", "words", "confidence", "unigram", "calibration",
    "features", "neurons", "placebo", "sensitivity", "train-lens", "compare", "run", "status", "merge",
)  # fmt: skip
TEXT = ("--text", "import os\nimport sys\n")


@pytest.fixture
def without_models(monkeypatch, tmp_path):
    """No model can be loaded, and the command runs in a folder of its own."""

    def loaded(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(tle, "load_model", loaded)
    monkeypatch.setattr(tle, "demo_model", loaded)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["tl-entropy", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    [line] = printed.err.splitlines()
    return line.removeprefix("tl-entropy: ")


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("lens --file no.txt", "--file: there is nothing at no.txt"),
        ("lens --file empty", "--file is a folder that holds no files"),
        ("lens --file image.png", "--file: image.png is not a UTF-8 text file"),
        ("tokens --file image.png", "--file: image.png is not a UTF-8 text file"),
        ("lens --dataset rows --column code", "--column: rows has no column 'code'; it has 'text'"),
        ("lens --dataset nowhere", "--dataset nowhere cannot be opened"),
        ("lens --text a --column code", "--column means nothing without --dataset"),
        ("lens --text a --split test --limit 3", "--split and --limit means nothing without --dataset"),
        ("lens --text a --lines", "--lines means nothing without --file"),
        ("lens --text a --documents -1", "--documents must be numbers from 0, or slices, such as 0:100 or 100:200,300:"),
        ("lens --text a --documents 0:3,2", "ranges must not overlap"),
        ("lens --text a --temperature 1", "--temperature means nothing without --max-new-tokens"),
        ("lens --text a --max-new-tokens 3 --seed 1", "--seed means nothing without --temperature"),
        ("lens --text a --steer-scale 2", "--steer-scale means nothing without --steer"),
        ("lens --text a --orders 1,1", "--orders must be one or more different numbers"),
        ("lens --text a --orders nan", "--orders must be one or several numbers from 0"),
        ("demo --orders -1", "--orders must be one or several numbers from 0"),
        ("lens --text a --layers 3,x", "--layers must be numbers, such as 0,5,-1, or a slice"),
        ("lens --text a --layers ::0", "--layers must be numbers"),
        ("lens --text a --sites resid_past", "--sites must be one of 'embed'"),
        ("lens --text a --sites z", "--sites: z holds no states of the residual stream"),
        ("lens --text a --summary --top-k 2", "--top-k: a summary keeps no single positions"),
        ("lens --text a --format bmp", "--format must be one of 'png', 'pdf', 'svg'; got 'bmp'"),
        ("lens --text a --tuned-lens no_lens", "no_lens"),
        ("lens --text a --precision float8", "--precision must be one of"),
        ("divergence --text a --metrics kl,kl", "--metrics names one twice"),
        ("divergence --text a --metrics wasserstein", "--metrics must be one of"),
        ("divergence --text a --against input", "--against must be 'output', 'previous' or one site"),
        ("divergence --text a --summary --target x --surprisal", "--surprisal and --target: a summary keeps no single"),
        ("divergence --text a --ablate resid_post.1", "--ablate must be heads, such as 3.1"),
        ("divergence --text a --steer no.npy --steer-at z.1", "--steer-at must be one of 'resid_pre'"),
        ("heads --text a --of keys", "--of must be one of"),
        ("heads --text a --norm frozen", "--norm means nothing without --of readout"),
        ("heads --text a --vocabulary tokenizer", "--vocabulary means nothing without --of readout"),
        ("information --text a --labels verb", "labels must be one of"),
        ("information --text a --labels token,token", "different names"),
        ("information --text a --n-bins 1", "--n-bins must be an int of at least 2"),
        ("tokens --text a --html image.png/page.html", "--html: image.png is a file"),
        ("train-lens --text a --validation no.txt", "--validation: there is nothing at no.txt"),
        ("train-lens --text a --learning-rate 0", "--learning-rate must be a positive number"),
        ("train-lens --text a --unit bits", "No such option"),
        ("train-lens --text a --format pdf", "No such option"),
        ("information --text a --vocabulary tokenizer", "No such option"),
        ("lens --text a --out image.png", "--out: image.png is a file"),
        ("compare --text a --model ./nowhere", "there is no folder ./nowhere"),
        ("compare --text a --metrics cosine", "--metrics must be one of"),
        ("compare --text a --sites mlp_out", "--sites: mlp_out holds no states"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_before_a_model_is_loaded(arguments, message, without_models, monkeypatch, capsys):
    (without_models / "empty").mkdir()
    (without_models / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    if "--dataset" in arguments:
        pytest.importorskip("datasets")
        (without_models / "rows").mkdir()
        (without_models / "rows" / "rows.jsonl").write_text('{"text": "a"}\n')
    name, *rest = arguments.split(" ")
    model = [] if name == "demo" else ["--model", BUNDLED]
    assert message in refused(monkeypatch, capsys, name, *model, *rest)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0,5,-1", [0, 5, -1]),
        ("-1", [-1]),
        ("3:8", slice(3, 8)),
        ("::2", slice(None, None, 2)),
        (":-1", slice(None, -1)),
        (None, None),
    ],
)
def test_layers_as_they_are_written(text, found):
    assert layers_in(text) == found


def test_versions_are_told(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "--version")
    assert status == 0
    assert out.startswith("tl-entropy ")
    assert "transformer-lens" in out
    assert "torch" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_of_options_that_the_command_has(name, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, name, "--help")
    options, shown = out.split("Examples:\n")
    lines = [shlex.split(line) for line in shown.strip().splitlines()]
    assert status == 0
    assert lines
    for line in lines:
        assert line[:2] == ["tl-entropy", name]
        for option in (part for part in line if part.startswith("--")):
            assert re.search(rf"^  {option}\b", options, re.MULTILINE), option


def test_a_folder_that_another_writes_to_is_refused_before_a_model_is_loaded(monkeypatch, capsys, without_models):
    for arguments, written in (
        (("lens", "--model", BUNDLED, *TEXT, "--out", "o"), "o/lens"),
        (("words", "--model", BUNDLED, *TEXT, "--out", "w.csv"), "w.csv"),
        (("demo",), "tl-entropy-demo/demo"),
    ):
        with held("--out", Path(written), wait=False):
            assert f"--out: somebody else is writing {written} now" in refused(monkeypatch, capsys, *arguments)
    assert list(without_models.iterdir()) == []


def test_words_may_be_written_elsewhere_from_a_folder_that_cannot_be_written_to(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).resolve() != tmp_path and allowed(path, mode))
    message = refused(monkeypatch, capsys, "words", "--model", BUNDLED, *TEXT, "--out", "w.csv")
    assert re.fullmatch(r"--out: .* is read-only; .*", message)
    run(monkeypatch, capsys, "words", "--model", BUNDLED, *TEXT, "--out", "new/w.csv")
    assert len(pd.read_csv(tmp_path / "new" / "w.csv"))


def test_all_commands_are_tried_here():
    group = typer.main.get_command(cli.app)
    assert set(group.commands) == set(COMMANDS)


@pytest.mark.model
def test_every_line_of_a_file_is_a_text(monkeypatch, capsys, tmp_path):
    (tmp_path / "lines.txt").write_bytes("import os\r\n\n  \nx = 'é'\npass".encode())
    arguments = (
        "lens",
        "--model",
        BUNDLED,
        "--file",
        tmp_path / "lines.txt",
        "--lines",
        "--layers",
        "::4",
        "--out",
        tmp_path / "o",
    )
    status, _, err = run(monkeypatch, capsys, *arguments, "--format", "pdf")
    assert status == 0, err
    mine = tle.load(tmp_path / "o" / "lens.safetensors")
    expected = tle.lens_entropy(tle.demo_model(), ["import os", "x = 'é'", "pass"], layers=[0, 4, 5], progress=False)
    assert mine.sites == expected.sites
    torch.testing.assert_close(mine.entropy, expected.entropy)
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"lens.safetensors", "profile.csv", "profile.pdf", "heatmap.pdf"}
    assert (tmp_path / "o" / "profile.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.model
def test_ranks_of_targets_are_told_and_in_a_table(monkeypatch, capsys, tmp_path):
    arguments = (
        "divergence",
        "--model",
        BUNDLED,
        *TEXT,
        "--target",
        " os",
        "--target",
        "\n",
        "--layers",
        "-1",
        "--out",
        tmp_path,
    )
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    result = tle.load(tmp_path / "divergence.safetensors")
    table = pd.read_csv(tmp_path / "targets.csv")
    assert table["rank of ' os'"].tolist() == result.target_rank[:, :, 0].flatten().tolist()
    last = result.target_rank[-1, -1].tolist()
    assert re.search(rf"^resid_post\.5 +{last[0]} +{last[1]}$", out, re.MULTILINE), out


@pytest.mark.model
def test_generated_text_is_told(monkeypatch, capsys, tmp_path):
    arguments = ("tokens", "--model", BUNDLED, *TEXT, "--max-new-tokens", 4, "--out", tmp_path)
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    result = tle.load(tmp_path / "tokens.safetensors")
    written = "".join(text for text, new in zip(result.tokens(), result.generated.tolist(), strict=True) if new)
    assert written
    assert f"document 0 goes on: {written!r}" in out
    assert json.loads((tmp_path / "generated.json").read_text(encoding="utf-8")) == {"0": written}
