"""Several savers of one place: each whole, in turn or refused; and readers meanwhile, who get one of the results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import hand_made
import pytest
import torch
from hand_made import same

import tl_entropy as tle
from tl_entropy.errors import SaveError
from tl_entropy.lenses.tuned import TunedLens
from tl_entropy.results import holding
from tl_entropy.results.holding import held, lock_of


def together(*calls):
    """What calls in threads of their own raise."""
    wrong = []

    def run(call):
        try:
            call()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    target, seen = tmp_path / "new" / "folder" / "index.json", []

    def write(name):
        with held("folder", target, wait=True):
            seen.append(name)
            time.sleep(0.001)
            seen.append(name)

    assert together(*[lambda i=i: [write(i) for _ in range(5)] for i in range(4)]) == []
    assert len(seen) == 40
    assert seen[::2] == seen[1::2]
    assert not list(tmp_path.rglob("*.lock"))


def test_who_does_not_wait_is_told(tmp_path):
    target = tmp_path / "index.json"
    with held("out", target, wait=False):
        assert lock_of(target).exists()
        with (
            pytest.raises(SaveError, match=r"out: somebody else is writing .*index\.json now"),
            held("out", target, wait=False),
        ):
            pytest.fail("it was let in")
        with held("out", tmp_path / "other.json", wait=False):
            pass
    with held("out", target, wait=False):
        pass
    assert not lock_of(target).exists()


def test_folders_of_who_is_refused_go_with_the_holder(tmp_path, monkeypatch):
    """One looks which folders are missing, another makes them, locks and is the holder; the first is refused."""
    target, looked = tmp_path / "new" / "folder" / "index.json", holding._locked

    def later(lock, made, *, wait):
        monkeypatch.setattr(holding, "_locked", looked)
        made_by_other = list(made)
        lock.parent.mkdir(parents=True)
        holder = held("out", target, wait=False)  # finds them there
        holder.__enter__()
        try:
            return looked(lock, made_by_other, wait=wait)
        finally:
            held_by_other.append(holder)

    held_by_other = []
    monkeypatch.setattr(holding, "_locked", later)
    with pytest.raises(SaveError, match="somebody else is writing"), held("out", target, wait=False):
        pytest.fail("it was let in")
    assert target.parent.is_dir()
    held_by_other[0].__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_holder_that_was_killed_lets_go(tmp_path):
    target, (ready, tell) = tmp_path / "index.json", os.pipe()
    child = os.fork()
    if not child:
        with held("out", target, wait=True):
            os.write(tell, b"x")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(SaveError), held("out", target, wait=False):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with held("out", target, wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nobody_waits(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(holding.NO_LOCKS[0], "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    with held("out", tmp_path / "x", wait=False), held("out", tmp_path / "x", wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"out: .*file is a file"), held("out", tmp_path / "file" / "x", wait=False):
        pass


def test_comparisons_saved_and_read_at_once_are_whole(tmp_path):
    """Of other models and fewer files, so that a mixture cannot pass for either."""
    folder = tmp_path / "c"
    both = [hand_made.compared(((name, 3), (f"{name}-2", 4)), notes=(name,)) for name in ("a", "b")]
    both[0].save(folder)
    found, done = [], threading.Event()

    def read():
        while not done.is_set():
            found.append(tle.load(folder))

    def save():
        wrong.extend(together(*[lambda one=one: [one.save(folder) for _ in range(2)] for one in both]))
        done.set()

    wrong = []
    wrong += together(read, save)
    assert wrong == []
    for one in (*found, tle.load(folder)):
        whole = both[one.notes == ("b",)]
        assert one.names == whole.names
        for name in one.names:
            same(one.lenses[name], whole.lenses[name])
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_lenses_exported_at_once_are_whole(tmp_path):
    lenses = [TunedLens(torch.full((n, 4, 4), float(n)), torch.zeros(n, 4), hand_made.origin("tiny")) for n in (2, 3)]
    assert together(*[lambda lens=lens: [lens.export(tmp_path) for _ in range(5)] for lens in lenses]) == []
    found = tle.load_tuned_lens(tmp_path)  # as many translators as its configuration says
    assert torch.equal(found.weights, torch.full_like(found.weights, float(found.n_layers)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "params.pt"]


@pytest.mark.parametrize("wrong", [None, 5, ["x"], b"x"])
def test_what_is_no_path_is_told(wrong):
    lens = TunedLens(torch.zeros(2, 4, 4), torch.zeros(2, 4), hand_made.origin("tiny"))
    for call in (tle.load, tle.load_tuned_lens, hand_made.lens().save, hand_made.compared().save, lens.save, lens.export):
        with pytest.raises(tle.InputTypeError, match=r"(path|folder) must be a path"):
            call(wrong)
