"""Progress bars: they move by tokens, know what a long document has to come, and say nothing about widgets."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from tiny_models import cached_model

import tl_entropy as tle
from tl_entropy.batches import Batch
from tl_entropy.capture.progress import TokenBar


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
    shown = capsys.readouterr().err.splitlines()[-1].split("\r")[-1]
    assert "100%" in shown
    assert "113/113" in shown
    assert "3 of 3 documents" in shown


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
