"""A run that is killed, preempted or out of room, with other numbers of processes each time, ends like one left alone."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from runs_in_folders import (
    asked_of,
    assert_same,
    end,
    ended_at_random,
    errors,
    fork,
    full_at_random,
    is_quiet,
    loaded_once,
    save_checkpoints,
    take_seconds,
)

import tl_entropy as tle
from tl_entropy.runs import models

pytestmark = pytest.mark.long
TIMES = 3


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """What is asked, how long one process takes that is left alone, and what it finds."""
    place = tmp_path_factory.mktemp("runs")
    pattern = save_checkpoints(place)
    patched = pytest.MonkeyPatch()
    loaded_once(patched)
    for folder in sorted(place.glob("step_*")):  # what is loaded before is there in every process that is forked
        models.checkpoints((str(folder),))[0].load()
    asked = asked_of(pattern)
    yield (asked, *take_seconds(place / "alone" / "study", asked))
    patched.undo()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_at_random_moments(number, study, tmp_path):
    asked, seconds, alone = study
    folder = tmp_path / "study"
    ended = ended_at_random(folder, asked, TIMES, number, within=seconds / 4, draw=random.Random(int(number)))
    assert ended >= TIMES
    assert_same(tle.load(folder), alone)
    assert is_quiet(folder)


def test_out_of_room_at_random_moments(study, tmp_path):
    asked, _, alone = study
    folder = tmp_path / "study"
    assert full_at_random(folder, asked, TIMES, draw=random.Random(0)) >= TIMES
    assert_same(tle.load(folder), alone)
    assert is_quiet(folder)


@pytest.mark.parametrize("count", [2, 3])
def test_several_at_once(count, study, tmp_path):
    asked, _, alone = study
    assert end([fork(tmp_path / "study", asked) for _ in range(count)]) == [0] * count, errors(tmp_path / "study")
    assert_same(tle.load(tmp_path / "study"), alone)
    assert is_quiet(tmp_path / "study")


def test_the_command_pretends_a_preemption_and_goes_on(study, tmp_path, monkeypatch, capsys):
    """Whole processes, as a shell starts them."""
    import os
    import subprocess
    import sys

    import yaml

    asked, _, alone = study
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(asked))
    environment = {**os.environ, "PYTHONPATH": str(Path(tle.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from tl_entropy.cli import main; main()", "run", "study.yaml", "--out", "study"]
    ended = [
        subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        for more in (("--preempt", "0.01"), ())
    ]
    assert [one.returncode for one in ended] == [130, 0], [one.stderr for one in ended]
    assert_same(tle.load(tmp_path / "study"), alone)
