"""A run that is killed, preempted or out of room, with other numbers of processes each time, ends like one left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from runs_in_folders import (
    asked_of,
    assert_same,
    assert_same_result,
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


def test_a_shell_is_preempted_and_two_go_on(study, tmp_path):
    """Whole processes, as shells start them."""
    asked, _, alone = study
    model = alone.models[0]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**asked, "models": model}))
    environment = {**os.environ, "PYTHONPATH": str(Path(tle.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from tl_entropy.cli import main; main()", "run", "study.yaml", "--out", "study"]
    for several, status in ((("--preempt", "0.01"),), 130), (((), ()), 0):
        shells = [
            subprocess.Popen(
                [*command, *more], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            for more in several
        ]
        for shell in shells:
            said = shell.communicate()[1]
            assert shell.returncode == status, said
    results = tle.load(tmp_path / "study")
    for name in alone.analyses:
        assert_same_result(results.result(model, name), alone.result(model, name))
