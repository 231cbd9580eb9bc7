"""A run that is killed, preempted or out of room, with other numbers of processes each time, ends like one left alone."""

from __future__ import annotations

import random
import signal
import sys
from functools import partial

import pytest
import yaml
from runs_in_folders import assert_same, end, ended_at_random, errors, fork, full_at_random, is_quiet, study_alone
from tiny_models import LONG

import tl_entropy as tle
from tl_entropy.cli import main

pytestmark = pytest.mark.long
TIMES = 3
DOCUMENTS = 60 if LONG else 28


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with study_alone(tmp_path_factory.mktemp("runs"), DOCUMENTS) as found:
        yield found


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


def test_a_shell_is_preempted_and_two_go_on(study, tmp_path, monkeypatch):
    """Processes that run the command, as shells do."""
    asked, seconds, alone = study
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(asked))
    for shells, status in ((["--preempt", str(seconds / 4)],), 130), (([], []), 0):
        processes = [fork(tmp_path / "study", asked, work=partial(_command, more)) for more in shells]
        assert end(processes) == [status] * len(shells), errors(tmp_path / "study")
    assert_same(tle.load(tmp_path / "study"), alone)
    assert is_quiet(tmp_path / "study")


def _command(more):
    sys.argv = ["tl-entropy", "run", "study.yaml", "--out", "study", *more]
    main()
