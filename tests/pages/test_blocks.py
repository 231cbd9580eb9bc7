"""Every block of README.md and docs/ runs, offline, in its page's order and namespace, and prints what is shown below it.

``.ci/run examples`` runs this; ``TL_ENTROPY_TESTS=pages pytest tests/pages -rP`` shows the counts.
"""

from __future__ import annotations

import ast
import io
import os
import shlex
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml
from page_blocks import ROOT, blocks, differences, pages
from tiny_models import LONG

import tl_entropy as tle
from tl_entropy import demo
from tl_entropy.runs.ask import KEYS

FOLDER = Path(demo.__file__).parent / "stdlib-gpt2-3m"
PAGES = {path.relative_to(ROOT).as_posix(): blocks(path.read_text(encoding="utf-8")) for path in pages()}
NEEDS = {
    "hub": "runs, on folders and rows of the same names",
    "minutes": "runs with the long tests",
    "hours": "parsed",
    "network": "parsed",
    "gpu": "parsed",
    "cluster": "parsed",
    "peft": "parsed",
    "gguf": "parsed",
    "spacy": "parsed",
    "peers": "parsed",
    "clone": "parsed",
}
STAND_INS = ("gpt2", "distilgpt2", "EleutherAI/pythia-160m", "HuggingFaceTB/SmolLM2-135M", "my-model", "path/to/folder")

IN_OTHER_WORDS = {" Paris": "self"}
"""What is one token of the models that are named, and of the stand-in."""


def runs(block):
    """Whether this run of the tests executes it."""
    return block.language in ("python", "bash") and (block.needs in ("", "hub") or (block.needs == "minutes" and LONG))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder in which names of models are folders of the bundled one, with a text, and a hub that has one data set."""
    import datasets

    for name in STAND_INS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(FOLDER)
    shutil.copy(FOLDER.parent / "stdlib-gpt2-3m-lens.safetensors", tmp_path / "path/to/lens")
    texts = [text[:300] for text in tle.demo_texts(3)]
    for name in ("notes.txt", "sentences.txt"):
        (tmp_path / name).write_text("".join(texts), encoding="utf-8")
    answers = [f"question {i},answer {i % 3},{'wrong' if i % 3 else 'right'}\n" for i in range(12)]
    (tmp_path / "answers.csv").write_text("".join(["question,answer,grade\n", *answers]), encoding="utf-8")
    rows = datasets.Dataset.from_dict({"text": texts})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows.to_iterable_dataset())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(demo, "load_model", demo.load_model.__wrapped__)  # some pages change weights
    monkeypatch.chdir(tmp_path)
    plt.close("all")
    yield
    plt.close("all")


def run_python(block, namespace, page):
    """Execute it as a notebook's cell would be, and return what it prints, the last expression's value included."""
    tree, printed = ast.parse(block.source), io.StringIO()
    ast.increment_lineno(tree, block.line)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(printed):
        exec(compile(tree, page, "exec"), namespace)
        value = eval(compile(last, page, "eval"), namespace) if last else None
        if value is not None:
            print(repr(value))
    plt.close("all")
    return printed.getvalue()


def commands(block):
    """The calls of tl-entropy in a block of shell lines, as lists of words."""
    words = [shlex.split(line, comments=True) for line in block.source.replace("\\\n", " ").splitlines()]
    return [line[i:] for line in words for i, word in enumerate(line) if word.split("/")[-1] == "tl-entropy"]


def run_bash(block, monkeypatch, page):
    """Run its calls of tl-entropy in this process, where "gpt2" is a folder, and return what they print."""
    from tl_entropy.cli import main

    printed = io.StringIO()
    for words in commands(block):
        few = ["--steps", "2", "--tokens-per-step", "32"] if "--steps" in words else []  # the option that is given last counts
        monkeypatch.setattr(sys, "argv", [*(IN_OTHER_WORDS.get(word, word) for word in words), *few])
        with redirect_stdout(printed), pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code, f"{page}:{block.line}: {shlex.join(words)} ends with {left.value.code}"
    return printed.getvalue()


@pytest.mark.pages
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [page for page, found in PAGES.items() if any(map(runs, found))])
def test_blocks_run_and_print_what_is_shown(page, desk, monkeypatch):
    namespace = {"__name__": "__main__"}
    for block in filter(runs, PAGES[page]):
        try:
            printed = run_python(block, namespace, page) if block.language == "python" else run_bash(block, monkeypatch, page)
        except Exception as error:
            error.add_note(f"in the block at {page}:{block.line}")
            raise
        shown = block.output if block.output is not None and (block.language == "python" or commands(block)) else None
        if shown is not None:
            printed = printed.split("\nwrote ")[0]
            assert not (off := differences(shown, printed)), f"{page}:{block.line} prints\n{printed}\nand shows\n" + "\n".join(
                off
            )


def test_every_block_is_python_or_marked():
    """So no block is left out unseen; the marks that there are are counted."""
    counts = dict.fromkeys(["python", "bash", "yaml"], 0) | {f"needs {need} ({what})": 0 for need, what in NEEDS.items()}
    for page, found in PAGES.items():
        for block in found:
            place = f"{page}:{block.line}"
            assert block.needs == "" or block.needs in NEEDS, (
                f"{place} needs {block.needs!r}, which is none of {', '.join(NEEDS)}"
            )
            if block.language == "python":
                tree = ast.parse(block.source, place)
                literal = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value is Ellipsis]
                assert not literal, f"{place} has a literal '...', which no reader can run"
            elif block.language == "bash":
                called = commands(block)
                assert block.needs or len(called) == len(block.source.strip().splitlines()), (
                    f"{place} is not run, and not marked"
                )
            elif block.language == "yaml":
                assert set(yaml.safe_load(block.source)) <= set(KEYS), f"{place} is no configuration of a run"
            else:
                assert block.language in ("", "text"), f"{place} is of the language {block.language!r}"
                continue
            counts[f"needs {block.needs} ({NEEDS[block.needs]})" if block.needs else block.language] += 1
    print("\n".join(f"{count:4d}  {kind}" for kind, count in counts.items() if count))
    assert os.environ.get("TL_ENTROPY_TESTS") == "long" or counts["python"] > 30


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1.25 ± 0.01", "a  1.26 ± 0.01", True),
        ("a 1.25", "a 1.29", False),
        ("3 sites", "4 sites", False),
        ("a ...", "a b c", True),
        ("a\nb", "a", False),
        ("x=1.0)", "x=1.1)", True),
    ],
)
def test_what_is_shown_is_compared_word_by_word(shown, printed, same):
    assert (not differences(shown, printed)) == same


def test_fences_of_a_page():
    page = "# t\n```python\n1 + 1\n```\n\n```text\n2\n```\n```bash needs hub\nls\n```\n```{toctree}\nx\n```\n```\nx\n```\n"
    first, second, third = blocks(page)
    assert (first.source, first.output, first.line) == ("1 + 1\n", "2\n", 2)
    assert (second.language, second.needs, second.output) == ("bash", "hub", None)
    assert third.language == ""
