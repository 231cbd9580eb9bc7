"""Several processes that talk over gloo: every streaming analysis is that of one process, and a failure is everybody's."""

from __future__ import annotations

from functools import partial

import pytest
import ranks
import torch.distributed as dist
from public import READERS
from ranks import saw
from states import TOKENS, differences, model

import tl_entropy as tle
from tl_entropy.analyses.distributed import Processes
from tl_entropy.analyses.sharing import shared
from tl_entropy.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_every_function_that_reads_is_among_those_that_are_shared():
    model()
    of_calls = set(ranks.functions(TOKENS, ranks.TEXTS))
    assert {"cka", "that of a generator"} <= of_calls
    assert READERS.keys() - of_calls == {"layer_similarity"}  # which is there by its methods


@pytest.mark.long
@pytest.mark.parametrize(("size", "few", "by"), [(2, False, "torchrun"), (3, False, "torchrun"), (3, True, "srun")])
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
        assert len(found) == 6
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
