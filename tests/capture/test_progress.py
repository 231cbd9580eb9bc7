"""Progress bars: they move by tokens, know what a long document has to come, and say nothing about widgets."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace

import nbformat
import pytest
import torch
import tqdm.std
from nbclient import NotebookClient
from tiny_models import cached_model

import tl_entropy as tle
from tl_entropy.batches import Batch
from tl_entropy.capture.progress import Bar, TokenBar


def batch(*windows):
    """A batch of windows (document, first position, tokens, length of the document)."""
    n = max(tokens for _, _, tokens, _ in windows)
    position = torch.full((len(windows), n), -1)
    for row, (_, first, tokens, _) in enumerate(windows):
        position[row, :tokens] = torch.arange(first, first + tokens)
    real = position >= 0
    document = torch.tensor([document for document, *_ in windows])
    last = torch.tensor([first + tokens == length for _, first, tokens, length in windows])
    nothing = (None,) * len(windows)
    bodies = tuple(torch.zeros(length) for *_, length in windows)
    return Batch(position, real, real, position, position, document, last, nothing, nothing, bodies)


def test_a_long_document_has_a_bar_that_fills():
    bar = TokenBar(1, show=False)
    assert [bar.take(batch((0, first, 10, 30))) for first in (0, 10, 20)] == [10, 10, 10]
    assert bar.expected == 30


def test_windows_that_overlap_move_it_by_what_is_new():
    bar = TokenBar(2, show=False)
    assert bar.take(batch((0, 0, 8, 20), (0, 4, 8, 20))) == 12
    assert bar.expected == 40, "the other is expected to be as long"
    assert bar.take(batch((0, 12, 8, 20), (1, 0, 4, 4))) == 12
    assert bar.expected == 24


def test_of_a_generator_nothing_is_expected():
    bar = TokenBar(None, show=False)
    bar.take(batch((0, 0, 5, 5)))
    assert bar.expected is None


@pytest.mark.model
def test_the_bar_ends_at_all_tokens(capsys):
    tokens = [torch.arange(5, 5 + n) for n in (40, 3, 70)]
    model = cached_model("gpt2", "bridge")
    tle.lens_entropy(model, tokens, window=16, stride=4, prepend_bos=False, batch_size=2, positions=-1)
    [shown] = capsys.readouterr().err.splitlines()
    assert "100%" in shown
    assert "113/113" in shown
    assert "3 of 3 documents" in shown


def test_a_log_has_one_line_of_each_bar_and_none_of_those_inside(capsys):
    for _ in Bar(range(3), show=True, desc="outer", mininterval=0):
        for _ in Bar(range(50), show=True, nested=True, desc="inner", mininterval=0):
            pass
    [line] = capsys.readouterr().err.split("\n")[:-1]
    assert line.startswith("outer: 100%")
    assert "3/3" in line
    assert "\r" not in line


def test_a_bar_that_is_stopped_says_how_far_it_came(capsys):
    def steps():
        yield 0
        raise ValueError("stop")

    bar = Bar(steps(), total=4, show=True)
    with pytest.raises(ValueError, match="stop"):
        list(bar)
    bar.close()
    assert capsys.readouterr().err.count("1/4") == 1


def test_a_log_has_no_line_of_what_was_refused_before_it_began(capsys):
    with pytest.raises(ZeroDivisionError), TokenBar(2, show=True):
        _ = 1 / 0
    assert not capsys.readouterr().err


def test_nothing_is_written_of_a_bar_that_is_not_shown(capsys):
    assert list(Bar("ab", show=False)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_without_any_stream_there_is_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(Bar("ab", show=True)) == ["a", "b"]


def test_a_terminal_keeps_a_bar_and_not_those_inside(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    list(Bar(range(3), show=True, nested=True, desc="inner"))
    assert "inner" in terminal.getvalue()
    assert terminal.getvalue().rstrip("\r").split("\r")[-1].strip() == ""
    list(Bar(range(3), show=True, desc="outer"))
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("outer: 100%")
    assert last.endswith("\n")


def test_a_notebook_sees_the_bar_move(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=type("ZMQInteractiveShell", (), {})))
    monkeypatch.setitem(
        sys.modules,
        "IPython.display",
        SimpleNamespace(display=lambda data, raw, display_id: handle.update(data, raw) or handle),
    )
    list(Bar(range(3), show=True, desc="outer", mininterval=0))
    assert [line.partition("|")[0] for line in shown] == ["outer:   0%", "outer:  33%", "outer:  67%", "outer: 100%", ""]


@pytest.mark.long
def test_a_notebook_sees_bars_move_by_tokens_and_keeps_nothing_of_them():
    code = """
import os, sys
os.environ["TQDM_MININTERVAL"] = "0"  # every step is shown
sys.modules["ipywidgets"] = None  # not installed
import IPython.display
import tl_entropy as tle
shown, display = [], IPython.display.display
class Handle:
    def __init__(self, handle): self.handle = handle
    def update(self, data, **more):
        shown.append(data["text/plain"])
        self.handle.update(data, **more)
def seen(data, **more):
    shown.append(data["text/plain"])
    return Handle(display(data, **more))
IPython.display.display = seen
model = tle.demo_model()
result = tle.lens_entropy(model, ["import os\\nimport sys\\n", "x = 1\\n", "return"], batch_size=1)
print([line.split("|")[-1].split("tok")[0] for line in shown], result.n_tokens)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    outputs = notebook.cells[0].outputs
    kept = [output for output in outputs if output.output_type == "display_data"]
    assert kept, "it was shown"
    assert {tuple(output.data.items()) for output in kept} == {(("text/plain", ""),)}
    [said] = [output for output in outputs if output.output_type != "display_data"]
    assert said.name == "stdout", "no warning"
    assert "' 6.00/18.0 [" in said.text, "6 tokens of the first text; three such are expected"
    assert said.text.endswith("''] 11\n")


def test_a_lock_that_a_killed_process_holds_stops_no_bar():
    """As where processes were forked from one, share tqdm's lock, and one of them is killed while it holds it."""
    with tqdm.std.tqdm.get_lock():
        thread = threading.Thread(target=lambda: Bar([1, 2], show=False).close(), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.long
def test_a_notebook_without_widgets_hears_nothing_of_them():
    code = """
import sys, types, warnings
from tqdm.std import TqdmWarning
class ZMQInteractiveShell: pass
sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=ZMQInteractiveShell)
for name in ("ipywidgets", "IPython.html.widgets"):
    sys.modules[name] = None  # not installed
warnings.simplefilter("always", TqdmWarning)
import tl_entropy.demo
import tqdm.auto
"""
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    assert "IProgress" not in run([sys.executable, "-c", code]).stderr
    loud = code.replace("import tl_entropy.demo\n", "")
    assert "IProgress not found" in run([sys.executable, "-c", loud]).stderr, "this test sees the warning"
