"""Several processes that talk over gloo: every streaming analysis is that of one process, and a failure is everybody's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from states import TOKENS, differences, model

import tl_entropy as tle
from tl_entropy.analyses.distributed import Processes
from tl_entropy.analyses.sharing import shared
from tl_entropy.errors import InputError

RANKS = Path(__file__).parents[1] / "ranks.py"


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def saw(scenario, size):
    """What every process saw; None for one that ended without a word."""
    port = str(free_port())
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(RANKS.parents[1]), str(RANKS.parent)])
    running = [
        subprocess.Popen(
            [sys.executable, str(RANKS), scenario], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **meeting, "RANK": str(rank), "PYTHONPATH": path},
        )
        for rank in range(size)
    ]  # fmt: skip
    said = []
    for one in running:
        out, err = one.communicate(timeout=300)
        lines = [json.loads(line.removeprefix("SAW ")) for line in out.splitlines() if line.startswith("SAW ")]
        assert lines or one.returncode < 0, err
        said.append(lines[0] if lines else None)
    return said


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_analysis_is_that_of_one_process(size):
    for found in saw("same", size):
        assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.long
def test_where_one_fails_the_others_stop_and_keep_what_they_read():
    first, second, third = saw("raises", 3)
    assert third[:2] == ["OSError", "the disk is gone"]
    for kind, said, partial in (first, second):
        assert kind == "ProcessError"
        assert "process 2 has stopped (OSError: the disk is gone)" in said
        assert "partial" in said
        assert partial > 0


@pytest.mark.long
def test_where_one_dies_the_others_stop_and_keep_what_they_read():
    first, second = saw("dies", 2)
    assert second is None
    kind, said, partial = first
    assert kind == "ProcessError"
    assert "another process has died" in said
    assert partial > 0


@pytest.mark.long
def test_processes_that_read_something_else_are_told():
    for kind, said in saw("shuffled", 2):
        assert kind == "InputError"
        assert "shuffle with the same seed" in said
    for measured, settings, inputs in saw("others", 2):
        assert "process 1 has not the measurement" in measured[1]
        assert "process 1 has not the settings" in settings[1]
        assert "process 1 has not the documents" in inputs[1]


def test_one_process_alone_sends_itself_what_it_read():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with shared(Processes(0, 1)):
            found = tle.lens_entropy(model(), TOKENS, window=6, progress=False, keep="summary")
            plan = tle.soft_information(model(), TOKENS[:4], labels="token", layers=[0], n_bins=4, folds=2, progress=False)
            with pytest.raises(InputError, match="nothing to measure"):
                tle.lens_entropy(model(), TOKENS, positions=70, progress=False)
    finally:
        dist.destroy_process_group()
    assert differences(tle.lens_entropy(model(), TOKENS, window=6, progress=False, keep="summary"), found) == []
    assert plan.documents == 4
