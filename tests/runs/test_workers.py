"""Who is at work in a folder: numbers and claims are held by processes that run, and free when these end or fall silent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tl_entropy.runs import workers
from tl_entropy.runs.workers import SILENT, Worker, this_process


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "workers"
    place.mkdir()
    return place


def ended():
    """The number of a process that was, and is no more."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def gone(folder, number, **told):
    """A worker that left its file behind."""
    path = folder / f"{number}.json"
    path.write_text(json.dumps({"owner": "gone", **this_process(), "place": workers._place(folder), **told}))
    return path


def test_each_takes_the_lowest_free_number_and_gives_it_back(folder):
    with Worker(folder) as one, Worker(folder) as two:
        assert (one.number, two.number) == (0, 1)
    with Worker(folder) as three:
        assert three.number == 0
    assert not list(folder.iterdir())


def test_a_claim_is_held_by_one(folder, tmp_path):
    unit = tmp_path / "unit-0.json"
    with Worker(folder) as one, Worker(folder) as two:
        assert one.claim(unit)
        assert not two.claim(unit)
        assert one.claim(unit), "its own it may claim again"
    with Worker(folder) as three:
        assert three.claim(unit), "both have gone"
    assert [path.name for path in tmp_path.iterdir() if path != folder] == ["unit-0.json"], "nothing else is left behind"


def test_a_process_of_this_machine_that_ended_is_known_at_once(folder, tmp_path):
    gone(folder, 0, process=ended(), born="1")
    with Worker(folder) as worker:
        assert worker.number == 0
        (unit := tmp_path / "unit-0.json").write_text(json.dumps({"worker": 1, "owner": "gone"}))
        gone(folder, 1, born="before another process took the number")
        assert worker.claim(unit)


def test_in_a_copy_of_a_folder_nobody_is_at_work(folder, tmp_path):
    unit = tmp_path / "unit-0.json"
    with Worker(folder) as one:
        assert one.claim(unit)
        shutil.copytree(folder, tmp_path / "copy")
        with Worker(tmp_path / "copy") as other:
            assert other.number == 0
            assert other.claim(unit)


def test_one_on_another_machine_is_waited_for_as_long_as_it_may_be_silent(folder, tmp_path):
    path = gone(folder, 0, machine="another")
    (unit := tmp_path / "unit-0.json").write_text(json.dumps({"worker": 0, "owner": "gone"}))
    with Worker(folder) as worker:
        assert worker.number == 1
        assert not worker.claim(unit)
        long_ago = worker.now() - SILENT - 1
        os.utime(path, (long_ago, long_ago))
        assert worker.claim(unit)
    with Worker(folder) as worker:
        assert worker.number == 0


def test_one_whose_clock_is_ahead_is_waited_for_as_long_as_it_stays_the_same(folder, tmp_path, monkeypatch):
    path, clock = gone(folder, 0, machine="another"), [0.0]
    (unit := tmp_path / "unit-0.json").write_text(json.dumps({"worker": 0, "owner": "gone"}))
    (cut_off := tmp_path / "unit-1.json").touch()
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock[0])

    def sign(at):
        for each in (path, cut_off):
            os.utime(each, (at, at))

    with Worker(folder) as worker:
        ahead = worker.now() + 365 * 86_400
        for step in range(3):  # each time it has given another sign
            sign(ahead + step)
            assert not worker.claim(unit)
            assert not worker.claim(cut_off)
            clock[0] += SILENT
        clock[0] += 1
        assert worker.claim(unit)
        assert worker.claim(cut_off)


def test_a_claim_that_was_cut_off_while_it_was_written_frees_itself(folder, tmp_path):
    (unit := tmp_path / "unit-0.json").touch()
    with Worker(folder) as worker:
        assert not worker.claim(unit), "it may be just being written"
        long_ago = worker.now() - SILENT - 1
        os.utime(unit, (long_ago, long_ago))
        assert worker.claim(unit)


def test_a_worker_shows_that_it_lives(folder, monkeypatch):
    monkeypatch.setattr(workers, "BEAT", 0.001)
    with Worker(folder) as worker:
        long_ago = worker.now() - SILENT - 1
        os.utime(worker.path, (long_ago, long_ago))
        while worker.path.stat().st_mtime <= long_ago:
            pass


def test_one_whose_number_was_taken_finds_out_and_leaves_the_file_alone(folder):
    with Worker(folder) as slept:
        slept.path.write_text(json.dumps({"owner": "another", **this_process()}))
        assert not slept.holds_number()
        slept.tell({})
        assert not slept.status.exists()
    assert slept.path.exists()


def test_of_two_that_find_a_free_claim_at_once_one_gets_it(folder, tmp_path, monkeypatch):
    (unit := tmp_path / "unit-0.json").write_text(json.dumps({"worker": 7, "owner": "gone"}))
    with Worker(folder) as one, Worker(folder) as two:
        free = two.is_free

        def slow(path):
            """Look, and be overtaken before the next step."""
            found = free(path)
            if path == unit:
                assert one.claim(unit)
            return found

        monkeypatch.setattr(two, "is_free", slow)
        assert not two.claim(unit)
        assert json.loads(unit.read_text())["owner"] == one.owner


def test_without_links_claims_are_held_all_the_same(folder, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refused)
    with Worker(folder) as one, Worker(folder) as two:
        assert (one.number, two.number) == (0, 1)
        assert one.claim(tmp_path / "unit-0.json")
        assert not two.claim(tmp_path / "unit-0.json")
