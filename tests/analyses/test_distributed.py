"""Several processes that talk over gloo: every streaming analysis is that of one process, and a failure is everybody's."""

from __future__ import annotations

import json
import time
import warnings
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import ranks
import torch.distributed as dist
from public import READERS
from ranks import saw
from states import TOKENS, differences, model

import tl_entropy as tle
from tl_entropy.analyses import distributed
from tl_entropy.analyses.distributed import Processes
from tl_entropy.analyses.sharing import shared
from tl_entropy.capture import progress
from tl_entropy.errors import InputError, ProcessError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_every_function_that_reads_is_among_those_that_are_shared():
    model()
    of_calls = set(ranks.functions(TOKENS, ranks.TEXTS))
    assert {"cka", "that of a generator"} <= of_calls
    assert READERS.keys() - of_calls == {"layer_similarity"}  # which is there by its methods


@pytest.mark.long
@pytest.mark.parametrize(("size", "few", "by"), [(2, False, "mpirun"), (3, False, "torchrun"), (3, True, "srun")])
def test_every_analysis_is_that_of_one_process_and_its_work_is_dealt_out(size, few, by):
    """With 8 documents of uneven lengths, or with 2, so that one of three processes has none."""
    ranks.alone(few)
    saw_each = saw(partial(ranks.same, few), size, by)
    for found in saw_each:
        assert "estimator='minibatch' cuts blocks" in found.pop("cka in blocks")[0][0]
    for name in saw_each[0]:
        lines, work, (alone, *_) = zip(*(found[name] for found in saw_each), strict=True)
        assert not any(lines), (name, lines)
        if name in ranks.WHOLE:
            assert set(work) == {alone}, name
        elif name in ranks.ONCE:
            assert work == (alone, *[0] * (size - 1)), name
        else:
            assert sum(work) == pytest.approx(alone, rel=0.05), (name, work, alone)
            assert few or name == "of one" or max(work) < 0.8 * alone, (name, work, alone)


@pytest.mark.long
def test_where_one_fails_the_others_stop_and_keep_what_they_read():
    model()
    first, second, third = saw(partial(ranks.failing, ranks.broken), 3)
    assert third[:2] == ["OSError", "the disk is gone"]
    for kind, said, read in (first, second):
        assert kind == "ProcessError"
        assert "process 2 has stopped (OSError: the disk is gone)" in said
        assert "partial" in said
        assert read > 0


@pytest.mark.long
def test_where_one_dies_the_others_stop_and_keep_what_they_read():
    model()
    first, second = saw(partial(ranks.failing, ranks.killed), 2)
    assert second is None
    kind, said, read = first
    assert kind == "ProcessError"
    assert "another process has died" in said
    assert read > 0


@pytest.mark.long
def test_where_one_dies_amid_final_statistics_the_others_keep_what_was_read():
    model()
    first, second = saw(ranks.killed_at_the_end, 2)
    assert second is None
    kind, said, accumulator, tokens = first
    assert kind == "ProcessError"
    assert "another process has died" in said
    assert (accumulator, tokens) == ("GeometryAccumulator", sum(map(len, TOKENS)))


@pytest.mark.long
def test_processes_that_read_something_else_are_told():
    model()
    for found in saw(ranks.shuffled, 2):
        assert len(found) == 6
        for kind, said in found.values():
            assert kind == "InputError"
            assert "process 1 has other documents than process 0" in said
            assert "shuffle with the same seed" in said
    for measured, settings, inputs in saw(ranks.others, 2):
        assert "process 1 has not the measurement" in measured[1]
        assert "process 1 has not the settings" in settings[1]
        assert "process 1 has not the documents" in inputs[1]


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 3])
def test_of_a_streaming_data_set_nothing_is_lost_or_doubled(size):
    model()
    for found in saw(ranks.streams, size):
        assert len(found) == 8
        assert not any(found.values()), found


@pytest.mark.long
def test_the_first_process_alone_writes_what_all_have(tmp_path):
    model()
    first, second = saw(partial(ranks.saved, tmp_path), 2)
    assert first == [True, second[1], ["alone 0", "of 0"], True]
    assert second == [True, first[1], ["alone 1", "of 1"], False]


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


@pytest.fixture
def one(monkeypatch):
    """A process that is its only one; what others would say is made up."""
    monkeypatch.setattr(progress, "SHOWN", [True])
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(seconds=0.01))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Processes
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("documents", [((0, 20),), ((2, 5), (7, 19)), None])
def test_shares_hold_every_document_once(documents, together, one):
    given = [one(rank, 3)._share(SimpleNamespace(documents=documents, together=together)) for rank in range(3)]
    first = 9 * distributed.BLOCK * together if documents is None else 20  # of a stream: what stands at its beginning
    held = sorted(place for share in given for part in share for place in part if place < first) if documents else []
    if documents is None:
        held = sorted(place for share in given for part in share for place in range(part.start, first, part.step))
        assert held == list(range(first))
    elif together == 1:
        assert held == [place for start, stop in documents for place in range(start, stop)]
    else:
        assert sorted(set(held)) == held
        assert {place for start, stop in documents for place in range(start, stop)} <= set(held)
        assert all(part.start % together == 0 for share in given for part in share if len(part))


def test_what_another_measures_is_compared_by_name(one, monkeypatch):
    processes = one(0, 1)
    monkeypatch.setattr(processes, "_told", lambda text: [text, json.dumps({"measurement": "cka", "documents": 3})])
    with pytest.raises(ProcessError, match=r"process 1 has not the measurement of process 0: cka and lens_entropy"):
        processes._agree({"measurement": "lens_entropy", "documents": 3})
    processes._agree({"measurement": "cka", "documents": 3})


def test_processes_that_do_not_come_are_told_of(one, monkeypatch):
    def waits(**_):
        raise RuntimeError("rank 1 is missing")

    monkeypatch.setattr(dist, "monitored_barrier", waits)
    with pytest.raises(ProcessError, match=r"not all of the 2 processes have come to this measurement \(rank 1 is missing\)"):
        one(0, 2)._agree({})


def test_a_failure_elsewhere_is_seen_now_and_then(one, monkeypatch):
    processes = one(0, 1)
    processes._look()
    processes._store.set(processes._failed, "")
    processes._looked = time.monotonic()
    processes._look()  # not yet
    monkeypatch.setattr(distributed, "LOOKS", 0.0)
    with pytest.raises(ProcessError, match="another process has failed"):
        processes._look()


def test_whoever_did_not_fail_stops_with_what_the_other_said(one, monkeypatch):
    processes = one(0, 1)
    monkeypatch.setattr(processes, "_told", lambda text: [text, "process 1 has stopped (OSError: gone)"])
    with pytest.raises(ProcessError, match=r"process 1 has stopped .*; what was read here is this error's 'partial'"):
        processes._together(lambda: 3)

    def cut(text):
        raise ProcessError("another process has died")

    monkeypatch.setattr(processes, "_told", cut)
    with pytest.raises(ZeroDivisionError):  # its own failure goes before
        processes._together(lambda: 1 / 0)
    with pytest.raises(ProcessError, match="has died"):
        processes._together(lambda: 3)


def test_a_connection_that_breaks_is_a_process_that_died(one):
    with pytest.raises(ProcessError, match=r"another process has died \(reset by peer\)"), one(0, 1)._talking():
        raise RuntimeError("reset by peer\nand more")


def test_the_first_writes_and_another_only_where_the_first_does_not(one, tmp_path):
    first, second = one(0, 2), one(1, 2)
    with second.written_once(tmp_path / "a") as writes:
        assert writes, "the first has not written within the patience"
    for target in (tmp_path / "b", tmp_path / "b"):
        with first.written_once(target) as writes:
            assert writes
        with second.written_once(target) as writes:
            assert not writes


def test_only_the_first_warns(one, recwarn):
    for rank in (0, 1):
        with one(rank, 2)._quiet():
            warnings.warn(f"of {rank}", UserWarning, stacklevel=1)
    assert [str(one.message) for one in recwarn if str(one.message).startswith("of")] == ["of 0"]


def test_a_process_alone_is_none_of_several(one, monkeypatch):
    monkeypatch.setattr(distributed, "_known", [])
    assert distributed.found() is None
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    found = distributed.found()
    assert (found.rank, found.size) == (0, 2)
    assert distributed.found() is found
