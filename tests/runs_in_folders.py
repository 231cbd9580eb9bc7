"""Runs in folders that tests kill: tiny checkpoints, what is asked, processes that end at random moments, what is compared."""

from __future__ import annotations

import os
import random
import resource
import time
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_models import hf_model, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.runs import models, running

ANALYSES = [
    {"lens_entropy": {"keep": "summary", "orders": [0.5, 1]}},
    {"soft_information": {"labels": ["token", "next_token"], "n_bins": 20, "folds": 4}},
    {"layer_similarity": {"method": "cka"}},
]
WORDS = "the cat sat on the mat and the dog sat on the cat def f x return x 1".split()


def texts(count, seed=0):
    """Documents of one to eighty words, so that some are longer than the models' context."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.choice((1, 3, 9, 80)))) for _ in range(count)]


def save_checkpoint(folder, seed=0):
    """A tiny model with its tokenizer."""
    hf_model("gpt2", seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_checkpoints(folder, steps=(1, 2, 10)):
    """Tiny models in folders that are named after steps; a pattern that stands for them."""
    for step in steps:
        save_checkpoint(folder / f"step_{step}", seed=step)
    return f"{folder}/step_*"


def asked_of(pattern, documents=60, **more):
    """A configuration."""
    return {
        "models": pattern, "inputs": {"text": texts(documents)}, "analyses": ANALYSES, "unit_documents": 7, "save_every": 0.05,
    } | more  # fmt: skip


@contextmanager
def study_alone(place, documents):
    """What is asked of three checkpoints, how long one process takes that is left alone, and what it finds.

    Each checkpoint is loaded once, before, and so is there in every process that is forked.
    """
    pattern = save_checkpoints(place)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "load_model", cache(models.load_model))
        patched.setattr(running, "POLL", 0.1)
        for folder in sorted(place.glob("step_*")):
            models.checkpoints((str(folder),))[0].load()
        asked = asked_of(pattern, documents)
        yield (asked, *take_seconds(place / "alone" / "study", asked))


def fork(folder, asked, *, before=lambda: None, work=None):
    """A process that works on the run in a folder and ends with status 0, 1 for an error, or 130 where it was asked to end."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        torch.set_num_threads(1)
        before()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if work is None:
                tle.run(folder, asked, progress=False)
            else:
                work()
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    except KeyboardInterrupt:
        status = 130
    except tle.TLEntropyError as error:
        (Path(folder).parent / f"error-{os.getpid()}.txt").write_text(f"{type(error).__name__}: {error}")
        status = 2
    except BaseException:
        (Path(folder).parent / f"error-{os.getpid()}.txt").write_text(traceback.format_exc())
    finally:
        os._exit(status)


def end(processes, *, number=None, within=0.0, draw=None):
    """Send a signal to processes, each at a random moment within so many seconds, and wait for them; their statuses."""
    if number is not None:
        moments = sorted((draw.uniform(0, within), process) for process in processes)
        began = time.monotonic()
        for moment, process in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            os.kill(process, number)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def ended_at_random(folder, asked, times, number, *, within, draw, finish=True):
    """Begin and end processes, one, two or three at a time, until so many were ended; then let others finish the run."""
    ended = 0
    while ended < times:
        count = 1 + ended % 3
        statuses = end([fork(folder, asked) for _ in range(count)], number=number, within=within, draw=draw)
        assert set(statuses) <= {0, -number, 130}, errors(folder)
        ended += sum(status != 0 for status in statuses)
        if not any(statuses):  # it was done before
            break
    if finish:
        assert end([fork(folder, asked) for _ in range(1 + ended % 2)]) == [0] * (1 + ended % 2), errors(folder)
    return ended


def errors(folder):
    """What processes said that ended with an error."""
    return [path.read_text() for path in Path(folder).parent.glob("error-*.txt")]


def full_at_random(folder, asked, times, *, draw, finish=True):
    """Begin processes, one or two at a time, whose files may only get so large, and which end with that error; then others."""
    full = 0
    while full < times:
        statuses = end([fork(folder, asked, before=partial(_limit, draw.randrange(3000, 60_000))) for _ in range(1 + full % 2)])
        assert set(statuses) <= {0, 2}, errors(folder)
        full += statuses.count(2)
        if 2 not in statuses:  # it was done before
            break
    assert all("cannot be written" in said for said in errors(folder))
    if finish:
        assert end([fork(folder, asked) for _ in range(1 + full % 3)]) == [0] * (1 + full % 3), errors(folder)
    return full


def _limit(size):
    """Let no file of this process get larger than so many bytes; what writes more is told so."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def assert_same(one, other):
    """Two runs found the same: counts equal, values to 1e-10."""
    assert one.models == other.models
    assert not one.failed
    assert not other.failed
    pd.testing.assert_frame_equal(one.to_pandas(), other.to_pandas(), rtol=1e-10, atol=1e-10)
    for model in one.models:
        for name in one.analyses:
            assert_same_result(one.result(model, name), other.result(model, name))


def assert_same_result(mine, theirs):
    """Two results have the same numbers: whole ones are equal, others to 1e-10."""
    for item in fields(mine):
        a, b = getattr(mine, item.name), getattr(theirs, item.name)
        if not isinstance(a, torch.Tensor):
            continue
        assert a.shape == b.shape, item.name
        if a.is_floating_point():
            assert torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-10, equal_nan=True), item.name
        else:
            assert torch.equal(a, b), item.name
    mine, theirs = mine.provenance, theirs.provenance
    assert {**mine.corpus, "seconds": 0} == {**theirs.corpus, "seconds": 0}
    assert mine.weights == theirs.weights
    assert (mine.settings, mine.interrupted) == (theirs.settings, theirs.interrupted)


def is_quiet(folder):
    """Whether a run that is done left no work, claims or workers behind."""
    return not [path for name in ("work", "workers") for path in (Path(folder) / name).rglob("*") if path.is_file()]


def take_seconds(folder, asked):
    """How long one process takes that is left alone; what it found."""
    began = time.monotonic()
    assert end([fork(folder, asked)]) == [0], errors(folder)
    return time.monotonic() - began, tle.load(folder)
