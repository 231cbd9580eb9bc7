"""The same run ended 20 times by SIGKILL, 10 times by SIGTERM and 5 times for want of room, and once in every way by turns.

Each time another number of processes goes on: one, two or three. What comes out is what one process finds that is left alone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from runs_in_folders import assert_same, ended_at_random, full_at_random, is_quiet, study_alone

import tl_entropy as tle

pytestmark = pytest.mark.long
DOCUMENTS = 120


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with study_alone(tmp_path_factory.mktemp("runs"), DOCUMENTS) as found:
        yield found


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 20), (signal.SIGTERM, 10)])
@pytest.mark.parametrize("seed", range(3))
def test_ended_at_random_moments(number, times, seed, study, tmp_path):
    asked, seconds, alone = study
    ended = ended_at_random(tmp_path / "study", asked, times, number, within=seconds / times / 2, draw=random.Random(seed))
    assert ended >= times
    assert_same(tle.load(tmp_path / "study"), alone)
    assert is_quiet(tmp_path / "study")


def test_out_of_room(study, tmp_path):
    asked, _, alone = study
    assert full_at_random(tmp_path / "study", asked, 5, draw=random.Random(1)) >= 5
    assert_same(tle.load(tmp_path / "study"), alone)
    assert is_quiet(tmp_path / "study")


def test_every_way_by_turns(study, tmp_path):
    asked, seconds, alone = study
    draw, folder = random.Random(2), tmp_path / "study"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        ended_at_random(folder, asked, 2, number, within=seconds / 8, draw=draw, finish=False)
        full_at_random(folder, asked, 1, draw=draw, finish=False)
    ended_at_random(folder, asked, 1, signal.SIGKILL, within=seconds / 8, draw=draw)
    assert_same(tle.load(folder), alone)
    assert is_quiet(folder)


def test_killed_twenty_times_then_shells_go_on(study, tmp_path):
    """Three checkpoints and three analyses: one, two and three forked processes, then two commands, of which one is killed."""
    asked, seconds, alone = study
    folder, draw = tmp_path / "study", random.Random(3)
    assert ended_at_random(folder, asked, 20, signal.SIGKILL, within=seconds / 40, draw=draw, finish=False) >= 20
    assert not is_quiet(folder), "something is left to do"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(asked))
    command = [sys.executable, "-c", "from tl_entropy.cli import main; main()", "run", "study.yaml", "--out", "study"]
    environment = {**os.environ, "PYTHONPATH": str(Path(tle.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    shells = [subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while shells[0].poll() is None and not list((folder / "workers").glob("*.json")):
        time.sleep(0.01)
    shells[0].kill()
    said = shells[1].communicate()[0]
    assert shells[1].returncode == 0
    assert "RunResults: 9 of 9 results of 3 models" in said
    shells[0].communicate()
    assert_same(tle.load(folder), alone)
    assert not [path for path in (folder / "work").rglob("*") if path.is_file()]
