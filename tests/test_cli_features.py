"""``tl-entropy features``: what it reads, prints and writes, and what it refuses before a model is loaded."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from command import refused_in_one_line, run

import tl_entropy as tle
from tl_entropy.demo import FOLDER

pytestmark = pytest.mark.usefixtures("blank_figures")

ANSWERS = [
    ("import os\nimport", "sys", "good"), ("x =", "1", "bad"), ("import re\nimport", "os", "good"), ("y =", "2", "bad"),
    ('a = "b,', 'c"', "good"), ("z =", "3", "bad"),
]  # fmt: skip
SITES = ("attn_out", "mlp_out", "resid_post")


@pytest.mark.model
def test_answers_behind_their_prompts(monkeypatch, capsys, tmp_path):
    pd.DataFrame(ANSWERS, columns=["question", "answer", "grade"]).to_csv(tmp_path / "a.csv", index=False, encoding="utf-8-sig")
    options = ("--prompt", "question", "--column", "answer", "--label", "grade", "--true", "bad", "--how", "mean,last")
    null = ("--shuffles", 20, "--folds", 2, "--no-probe", "--seed", 3, "--layers", "0,-1", "--unit", "bits")
    status, out, err = run(
        monkeypatch, capsys, "features", "--file", tmp_path / "a.csv", *options, *null, "--out", tmp_path / "o"
    )
    assert status == 0, err
    assert "12 tests made" in out
    names = {path.name for path in (tmp_path / "o").iterdir()}
    tables = {f"{name}.{kind}" for name in ("features", "discrimination") for kind in ("safetensors", "csv")}
    assert names == {*tables, "auroc.png", "risk.png", "features.png"}
    texts = [f"{prompt} {answer}" for prompt, answer, _ in ANSWERS]
    model = tle.demo_model()
    words = tle.token_surprisal(model, texts, words=True, progress=False).word_surprisal(
        by=[[(len(prompt) + 1, len(prompt) + 1 + len(answer))] for prompt, answer, _ in ANSWERS]
    )
    lens = tle.lens_entropy(model, texts, sites=SITES, layers=[0, -1], progress=False).to("bits")
    features = tle.span_features(lens, words, how=("mean", "last"))
    found = tle.load(tmp_path / "o" / "features.safetensors")
    torch.testing.assert_close(found.values, features.values)
    truth = tle.discriminate(features, [grade == "bad" for *_, grade in ANSWERS], probe=False, folds=2, shuffles=20, seed=3)
    tested = tle.load(tmp_path / "o" / "discrimination.safetensors")
    for name in ("auroc", "se", "p", "p_any", "aurc"):
        torch.testing.assert_close(getattr(tested, name), getattr(truth, name))
    table = pd.read_csv(tmp_path / "o" / "features.csv")
    assert table["question"].tolist() == [prompt for prompt, *_ in ANSWERS]
    assert table[features.features[3]].tolist() == pytest.approx(features.values[:, 3].tolist())


@pytest.mark.model
def test_spans_of_one_text_in_any_order_and_no_label(monkeypatch, capsys, tmp_path):
    text = "import os, sys"
    rows = [(text, 11, 14), ("x = 1", 0, 1), (text, 0, 9), (text, 7, 9)]
    pd.DataFrame(rows, columns=["text", "start", "end"]).to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    own = ("--sites", "resid_post", "--layers", "-1", "--how", "max", "--predicting", "--out", tmp_path / "o")
    status, _, err = run(monkeypatch, capsys, "features", "--file", tmp_path / "a.tsv", *own)
    assert status == 0, err
    assert "features alone" in err
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"features.safetensors", "features.csv", "features.png"}
    lens = tle.lens_entropy(tle.demo_model(), [text, "x = 1"], sites="resid_post", layers=[-1], progress=False)
    strings = lens.tokens(0)
    at = strings.index(" os"), strings.index(" sys")
    spans = [[(at[1], at[1] + 1), (0, at[0] + 1), (at[0], at[0] + 1)], [(0, 1)]]
    values = tle.span_features(lens, spans, how="max", predicting=True).values[:, 0]
    table = pd.read_csv(tmp_path / "o" / "features.csv")
    torch.testing.assert_close(torch.tensor(table["entropy resid_post.5, max"]), values[[0, 3, 1, 2]], equal_nan=True)
    assert list(table) == ["text", "start", "end", "tokens", "entropy resid_post.5, max"]


GOOD = "text,label\na,1\nb,1\nc,0\nd,0\n"


@pytest.mark.parametrize(
    ("written", "options", "message"),
    [
        ("text,label\na,1\nb,1\n", (), "'label' must be False in at least two groups of spans; it is in 0"),
        ("text,label,group\na,1,x\nb,1,x\nc,0,y\nd,0,z\n", (), "must be True in at least two groups of spans; it is in 1"),
        ("text,label\na,1\nb,maybe\n", (), "row 3: the column 'label' must be one of true, 1, yes, false, 0, no; got 'maybe'"),
        ("text,start,end\nab,0,1\nab,1,3\n", (), "row 3: a span must have 0 <= start < end <= 2"),
        ("text,start,end\nab,0,1.5\n", (), "row 2: start and end must be characters"),
        ("text,start\nab,0\n", (), "needs both ends of a span"),
        ("text,label\n,1\n", (), "row 2: a span must have"),
        ("text,label\n", (), "holds no span"),
        ("", (), "cannot be read as a table"),
        (GOOD, ("--column", "answer"), "has no column answer; it has text, label"),
        (GOOD, ("--true", "yes"), "--true: the column 'label' has no 'yes'; it has '1', '0'"),
        ("text\na\n", ("--true", "yes"), "--true means nothing without --label"),
        (GOOD, ("--how", "median"), "--how must be one of"),
        (GOOD, ("--sites", "z"), "--sites: z holds no states"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(monkeypatch, capsys, tmp_path, written, options, message):
    (tmp_path / "a.csv").write_text(written)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("command.load_once", lambda *_, **__: pytest.fail("a model was loaded"))
    given = ("features", "--model", FOLDER, "--file", tmp_path / "a.csv", *options)
    refused_in_one_line(monkeypatch, capsys, tmp_path / "here", given, message)


def test_files_that_are_no_table(monkeypatch, capsys, tmp_path):
    for given, message in ((("--file", FOLDER / "config.json"), "--file must be one table"), ((), "give --file; got none")):
        refused_in_one_line(monkeypatch, capsys, tmp_path, ("features", "--model", FOLDER, *given), message)
