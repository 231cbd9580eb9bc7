"""``tl-entropy tokens``: what it prints and writes, and one clear line for what is wrong."""

from __future__ import annotations

import pandas as pd
import pytest
from command import refused_in_one_line, run

import tl_entropy as tle
from tl_entropy.demo import FOLDER

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("blank_figures")]

CODE = "import os\nimport sys\n\n\ndef f(x):\n    return x  # <script>alert(1)</script> 🙂\n"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.py").write_text(CODE)
    return tmp_path / "a.py"


def test_a_file_becomes_a_page_with_the_bundled_model(monkeypatch, capsys, tmp_path, text):
    page = tmp_path / "deep" / "out.html"
    status, out, err = run(monkeypatch, capsys, "tokens", "--file", text, "--html", page, "--out", tmp_path / "o")
    assert status == 0, err
    assert "the bundled model" in err
    assert "stdlib-gpt2-3m" in out
    assert "bits per byte" in out
    html = page.read_text()
    assert "<script>alert(1)" not in html
    assert "a.py" in html
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert names == {"tokens.safetensors", "tokens.csv", "tokens.png", "rates.csv", "documents.csv"}
    result = tle.load(tmp_path / "o" / "tokens.safetensors")
    expected = tle.token_surprisal(tle.demo_model(), CODE, progress=False)
    assert result.loss() == pytest.approx(expected.loss(), abs=1e-5)
    table = pd.read_csv(tmp_path / "o" / "tokens.csv", keep_default_na=False)
    assert len(table) == result.n_tokens
    assert table["surprisal"].tolist() == pytest.approx(result.surprisal.tolist(), rel=1e-6)
    rates = pd.read_csv(tmp_path / "o" / "rates.csv").set_index("quantity")
    assert rates.loc["bits per byte", "value"] == pytest.approx(result.bits_per_byte(), rel=1e-9)


def test_options_reach_the_measurement(monkeypatch, capsys, tmp_path):
    status, out, err = run(
        monkeypatch, capsys, "tokens", "--model", FOLDER, "--text", CODE, "--unit", "bits", "--top-k", 2, "--of", "entropy",
        "--ablate", "0.1", "--out", tmp_path / "o",
    )  # fmt: skip
    assert status == 0, err
    assert "the bundled model" not in err
    assert "loss (bits a token)" in out
    assert (tmp_path / "o" / "tokens.html").exists()
    result = tle.load(tmp_path / "o" / "tokens.safetensors")
    assert result.unit == "bits"
    assert result.top_tokens.shape[1] == 2
    assert result.provenance.settings["interventions"] == ("ablate heads 0.1",)


def test_a_summary_writes_rates_alone(monkeypatch, capsys, tmp_path, text):
    status, out, err = run(monkeypatch, capsys, "tokens", "--file", text, "--summary", "--out", tmp_path / "o")
    assert status == 0, err
    assert "SurprisalSummary" in out
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"tokens.safetensors", "tokens.csv"}
    assert "bits per byte" in pd.read_csv(tmp_path / "o" / "tokens.csv")["quantity"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "a", "--of", "loss"], "--of must be one of 'surprisal', 'entropy'"),
        (["--text", "a", "--unit", "hartleys"], "--unit must be one of"),
        (["--text", "a", "--precision", "int8"], "--precision must be one of"),
        (["--text", "a", "--summary", "--html", "x.html"], "--html: a summary keeps no single tokens"),
        (["--text", "a", "--summary", "--top-k", "2"], "--top-k: a summary keeps no single tokens"),
        (["--text", "a", "--html", "."], "--html must be a file"),
        (["--text", "<|endoftext|>"], "nothing to measure"),
        (["--text", "a", "--file", "b"], "exactly one of --text, --file and --dataset"),
        ([], "exactly one of --text, --file and --dataset"),
        (["--model", "a", "--model", "b", "--text", "a"], "this command measures one model"),
        (["--file", "nowhere.txt"], "nothing"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(monkeypatch, capsys, tmp_path, arguments, message):
    model = [] if "--model" in arguments else ["--model", FOLDER]
    refused_in_one_line(monkeypatch, capsys, tmp_path, ["tokens", *model, *arguments], message)


def test_words_of_a_table_of_stimuli(monkeypatch, capsys, tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("item,word,rt\na,import,310\na,os,290\nb,return,400\n")
    out = tmp_path / "o" / "words.csv"
    status, printed, err = run(
        monkeypatch, capsys, "words", "--file", items, "--model", FOLDER, "--out", out, "--sites", "resid_post",
        "--layers", "0,-1", "--context", "x = 1", "--unit", "bits", "--report",
    )  # fmt: skip
    assert status == 0, err
    assert "wrote" in printed
    table = pd.read_csv(out)
    assert table["rt"].tolist() == [310, 290, 400]
    model = tle.demo_model()
    result = tle.token_surprisal(model, ["x = 1 import os", "x = 1 return"], words=True, sites="resid_post", progress=False)
    expected = result.to("bits").word_surprisal(context="x = 1 ")
    assert table["surprisal"].tolist() == pytest.approx(expected.surprisal[:, 0].tolist(), abs=1e-4)
    assert table["surprisal.resid_post.0"].tolist() == pytest.approx(expected.surprisal[:, 1].tolist(), abs=1e-4)
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"words.csv", "words.png", "words.html"}
    page = (tmp_path / "o" / "words.html").read_text(encoding="utf-8")
    assert all(part in page for part in ("WordSurprisal", "data:image/png", f"read_csv(&quot;{out}&quot;)", "words.png"))


def test_words_of_texts_and_of_sentences(monkeypatch, capsys, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("import os\n\nreturn x\n")
    tables = []
    for given in (("--file", lines), ("--text", "import os", "--text", "return x")):
        out = tmp_path / f"{len(tables)}.csv"
        status, _, err = run(monkeypatch, capsys, "words", *given, "--model", FOLDER, "--out", out, "--no-correct")
        assert status == 0, err
        tables.append(pd.read_csv(out))
    assert tables[0]["surprisal"].tolist() == pytest.approx(tables[1]["surprisal"].tolist(), abs=1e-5)
    assert tables[0]["item"].tolist() == [1, 1, 3, 3]
    assert tables[0]["surprisal"].tolist() == tables[0]["pieces"].tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"lines.txt", "0.csv", "1.csv"}, "no page unless it is asked for"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--text", "x", "--by", "line"), "'space', 'character'"),
        (("--text", "x", "--final", "--no-correct"), "--final means nothing"),
        (("--text", "x", "--layers", "0"), "name sites"),
    ],
)
def test_words_that_are_refused(monkeypatch, capsys, tmp_path, given, message):
    refused_in_one_line(monkeypatch, capsys, tmp_path, ("words", "--model", FOLDER, *given), message)
