"""Signals at random moments of every analysis, in Python and on the command line: what was measured by then is there."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import threading
import time
import warnings
from pathlib import Path

import pytest
from public import READERS
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy import demo

pytestmark = [pytest.mark.model, pytest.mark.long]
TRIALS = 6
DOCUMENTS = 3000
TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1", "dog and cat and dog"] * 12
BUNDLED = str(Path(demo.__file__).parent / "stdlib-gpt2-3m")


@pytest.mark.parametrize("name", [name for name in READERS if name != "EntropyMonitor"])
def test_ctrl_c_at_any_moment_leaves_the_model_as_it_was_and_what_was_measured(name):
    model, draw = cached_model("gpt2", kinds()[0]), random.Random(name)
    flags = [module.training for module in model.modules()]
    for _ in range(TRIALS):
        timer = threading.Timer(draw.uniform(0.02, 0.6), lambda: os.kill(os.getpid(), signal.SIGINT))
        found = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                timer.start()  # which may itself be where the signal arrives
                found = READERS[name](model, TEXTS)
                timer.join()  # it was done before: the signal comes by now, however slow the machine is
                time.sleep(60)  # which it ends
            except KeyboardInterrupt as error:
                found = found or getattr(error, "partial", None) or "nothing was measured yet"
            except tle.InputError as error:  # too little came for a result
                found = error
            finally:
                timer.join()
        assert found is not None
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert not any(point.fwd_hooks for point in model.hook_dict.values())
        assert [module.training for module in model.modules()] == flags


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_line_writes_what_it_has(number, tmp_path):
    draw, results = random.Random(int(number)), []
    (tmp_path / "texts").mkdir()
    for i in range(DOCUMENTS):
        (tmp_path / "texts" / f"{i}.txt").write_text("import os\nimport sys\ndef f(x):\n    return x\n" * 4)
    environment = {**os.environ, "PYTHONPATH": str(Path(tle.__file__).parents[1])}
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from tl_entropy.cli import main; main()"
    for i in range(TRIALS):
        arguments = [
            "lens",
            "--model",
            BUNDLED,
            "--file",
            str(tmp_path / "texts"),
            "--summary",
            "--out",
            str(tmp_path / str(i)),
        ]
        terminal, end = pty.openpty()  # elsewhere a bar is one line, when it is done
        termios.tcsetwinsize(end, (24, 120))
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stderr=end, stdout=subprocess.DEVNULL, env=environment
        )
        os.close(end)
        told = b""
        while b"tok/s" not in told:  # the pass has begun
            told += os.read(terminal, 1000)
        time.sleep(draw.uniform(0, 2))
        process.send_signal(number)
        with contextlib.suppress(OSError):  # of a terminal whose other end is closed
            while more := os.read(terminal, 1000):
                told += more
        os.close(terminal)
        assert process.wait(120) == 130, told.decode(errors="replace")[-600:]
        assert b"Traceback" not in told
        if b"interrupted after 0 tokens" not in told:
            results.append(tle.load(tmp_path / str(i) / "lens.safetensors"))
            assert results[-1].provenance.interrupted
            assert 0 < results[-1].documents < DOCUMENTS
    assert results, "some came after the first batch"
