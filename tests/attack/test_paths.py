"""Odd paths for every function that reads or writes a file or a folder: the file, or an error of this package's own.

And saves that are killed before a file takes its place: the next save of the same leaves nothing that waits.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from gallery import comparison, lens
from public import READERS
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.cli.report import Leaves, report
from tl_entropy.runs.status import status_of

pytestmark = pytest.mark.model
QUIET = {"progress": False}
BUNDLED = str(Path(tle.__file__).parent / "demo" / "stdlib-gpt2-3m")
ASKED = {"models": BUNDLED, "inputs": {"text": ["import os"]}, "analyses": [{"lens_entropy": {"layers": 0}}]}

NO_PATHS = [None, 5, 1.5, True, b"bytes", [], ["a"], (), {"a": 1}, object(), torch.tensor(1)]
BAD_PATHS = ["", "\0", "a\0b", "\ud800", "x" * 300, "x/" * 3000, "a_file/x", "a_fifo"]


@cache
def accumulator():
    found = tle.LensAccumulator(model(), keep="summary")
    tle.stream(model(), ["the cat sat"], [found], **QUIET)
    return found


@cache
def estimation():
    return tle.estimation_model(tle.EstimationConfig(n_ctx=8, d_model=8, n_layers=1), "bytes")


@cache
def compared():
    return comparison(2, 5, 2)


def model():
    return cached_model("gpt2", kinds()[0])


FROM = {
    "load": tle.load,
    "load_accumulator": tle.load_accumulator,
    "load_assignments": tle.load_assignments,
    "load_jacobian_lens": tle.load_jacobian_lens,
    "load_tuned_lens": tle.load_tuned_lens,
    "load_model": tle.load_model,
    "read_stimuli": tle.read_stimuli,
    "run's config": lambda path: tle.run("new", path, **QUIET),
    "status": status_of,
}
TO = {
    "result.save": lambda path: lens(2, 5).save(path),
    "comparison.save": lambda path: compared().save(path),
    "accumulator.save": lambda path: accumulator().save(path),
    "jacobian.save": lambda path: tle.JacobianLens(torch.eye(2)[None], (0,), 3, "memory", {}).save(path),
    "tuned.export": lambda path: tle.demo_lens().export(path),
    "page.save": lambda path: tle.plots.TokenPage("<html>", 1).save(path),
    "estimation.save": lambda path: estimation().save(path),
    "assignments": lambda path: READERS["soft_information"](model(), ["the cat sat"] * 3, keep="assignments", folder=path),
    "run": lambda path: tle.run(path, ASKED, **QUIET),
    "train_estimation": lambda path: tle.train_estimation(
        estimation(), ["the cat sat on it"], validation=["a dog"], steps=1, out=path, **QUIET
    ),
}


KILLED = [name for name in TO if name not in ("assignments", "run", "train_estimation")]  # which tests of their own kill


@pytest.fixture(autouse=True)
def at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("hello")
    os.mkfifo("a_fifo")


@pytest.mark.parametrize("name", FROM)
def test_nothing_to_read(name):
    piped = {"a_fifo"} if name == "run's config" else set()  # a pipe may hold a configuration
    for given in [*NO_PATHS, *BAD_PATHS, "no/such/file", ".", "a_file"]:
        if given in (*piped, "a_file") and (piped or name == "read_stimuli"):
            continue
        with pytest.raises(tle.TLEntropyError):
            FROM[name](given)
    assert sorted(os.listdir()) == ["a_fifo", "a_file"]


@pytest.mark.parametrize("name", TO)
def test_nowhere_to_write(name):
    for given in [*NO_PATHS, *BAD_PATHS]:
        if given is None and name == "train_estimation":  # nowhere, on purpose
            continue
        with pytest.raises(tle.TLEntropyError):
            TO[name](given)
    assert sorted(os.listdir()) == ["a_fifo", "a_file"]
    assert Path("a_file").read_text() == "hello"
    assert Path("a_fifo").is_fifo()


@pytest.mark.parametrize("name", ["result.save", "tuned.export", "jacobian.save"])
def test_a_path_of_the_users_own(name, tmp_path, monkeypatch):
    """From their home, through folders that are not there yet and a link, and with a slash at the end."""
    monkeypatch.setenv("HOME", str(tmp_path))
    os.symlink("elsewhere", "link")
    os.mkdir("elsewhere")
    place = TO[name]("~/link/new/x")
    assert place == tmp_path / "link" / "new" / "x"
    read = {"result.save": tle.load, "tuned.export": tle.load_tuned_lens, "jacobian.save": tle.load_jacobian_lens}[name]
    assert repr(read("~/link/new/x/" if place.is_dir() else "~/elsewhere/new/x")) == repr(read(Path(place)))


def reported(result, folder):
    plt.close("all")
    report(result, Leaves(folder, "png", page=True))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_what_a_command_writes_is_old_or_new_and_whole(tmp_path):
    """Killed before each of its files takes its place: result, table, figures and page."""
    folder, old, new, turn = tmp_path / "there", lens(2, 5), lens(2, 4), 0
    while True:
        reported(old, folder)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        killed = killed_at(turn, lambda path: reported(new, path), folder)
        left = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".tmp")}
        reported(new, folder)
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert left.keys() == before.keys() == after.keys()
        assert [name for name, content in left.items() if content not in (before[name], after[name])] == []
        changed = sum(content != before[name] for name, content in left.items())
        assert changed == min(turn, len(before)), "one file after the other"
        if not killed:
            break
        turn += 1
    assert turn == len(before) == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*KILLED, pytest.param("report", marks=pytest.mark.long)])
def test_a_disk_without_room(name, tmp_path):
    """Where files may only get so large: an error that says so, and no half of a file."""
    for made in (model, accumulator, estimation, compared):
        made()
    save = {**TO, "report": lambda path: reported(lens(2, 5), path)}[name]
    for room in (0, 1000):
        folder, child = tmp_path / str(room), os.fork()
        if not child:
            sys.dont_write_bytecode = True  # no halves of these, either
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (what pytest catches it in is a file, too)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            status = 1
            try:
                save(folder / "x")
                status = 2
            except tle.SaveError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in ((0,) if room == 0 else (0, 2))
        assert [path for path in folder.rglob(".*.tmp") if path.is_file()] == []


def killed_at(turn, save, path):
    """Whether a process of its own was killed as it was to put its file of this number in place."""
    child = os.fork()
    if not child:
        whole, count = os.replace, iter(range(1000))

        def replace(old, new, **named):
            if next(count) == turn:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(old, new, **named)

        os.replace = replace
        try:
            save(path)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KILLED)
def test_what_a_killed_save_left_is_gone_after_the_next(name, tmp_path):
    """Killed before the first file takes its place, before the second, and so on."""
    for made in (model, accumulator, estimation, compared):
        made()  # once, and not in every child
    turn = 0
    while killed_at(turn, TO[name], path := tmp_path / str(turn) / "x"):
        assert list(tmp_path.rglob(".*.tmp")), "what was killed left its file"
        TO[name](path)
        assert not list(tmp_path.rglob(".*.tmp"))
        turn += 1
    assert turn
