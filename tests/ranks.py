"""Several processes that talk over gloo, forked from this one: what each of them says of a scenario.

What was loaded or measured before is there in all of them, so that a process costs nothing but what it does itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import traceback
import warnings
from functools import cache

import torch
from states import TOKENS, differences, model

import tl_entropy as tle
from tl_entropy.analyses import distributed
from tl_entropy.capture import progress

READ = {"progress": False, "window": 6, "batch_size": 1}
FEW = TOKENS[:2]
"""Documents that three processes cannot share without one that has none."""
TEXTS = ["def f(x):\n    return x", "", "the cat sat", "on the mat", "and the dog"]


def rank():
    return int(os.environ.get("RANK", "0"))


def saw(scenario, size):
    """What every process saw; None for one that ended without a word."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = str(found.getsockname()[1])
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    running = []
    for number in range(size):
        ours, theirs = os.pipe()
        process = os.fork()
        if not process:
            os.close(ours)
            _work(scenario, {**meeting, "RANK": str(number)}, theirs)
        os.close(theirs)
        running.append((process, ours))
    said = []
    for process, ours in running:
        with os.fdopen(ours) as words:
            text = words.read()
        os.waitpid(process, 0)
        said.append(json.loads(text) if text else None)
    errors = [one for one in said if isinstance(one, dict) and "error" in one]
    assert not errors, errors[0]["error"]
    return said


def _work(scenario, meeting, theirs):
    signal.alarm(120)
    try:
        torch.set_num_threads(1)
        os.environ.update(meeting)
        distributed._known.clear()
        found = scenario()
    except BaseException:
        found = {"error": traceback.format_exc()}
    with os.fdopen(theirs, "w") as words:
        json.dump(found, words)
    distributed._end()  # after all have come, so that nobody takes this for a death
    os._exit(0)


def functions(tokens, texts):
    """Every streaming analysis, as a user calls it."""
    m = model()
    longer = [row for row in tokens if len(row) > 1]
    return {
        "lens_entropy": lambda: tle.lens_entropy(m, tokens, orders=(1, 2), top_k=2, surprisal=True, **READ),
        "its summary": lambda: tle.lens_entropy(m, tokens, keep="summary", **READ),
        "of texts": lambda: tle.lens_entropy(m, texts, keep="summary", **READ),
        "of one": lambda: tle.lens_entropy(m, tokens[:1], **READ),
        "of a generator": lambda: tle.lens_entropy(m, (row for row in [*tokens, *tokens]), **READ),
        "of a cache": lambda: tle.lens_entropy(m, _cached(m), progress=False),
        "of some": lambda: tle.lens_entropy(m, tokens, documents=[range(1, 3), range(5, 8)], **READ),
        "of sampled text": lambda: tle.lens_entropy(
            m, longer, max_new_tokens=2, temperature=1.0, seed=3, batch_size=2, progress=False
        ),
        "layer_divergence": lambda: tle.layer_divergence(m, tokens, **READ),
        "its summary too": lambda: tle.layer_divergence(m, tokens, keep="summary", **READ),
        "head_entropy": lambda: tle.head_entropy(m, tokens, **READ),
        "of readouts": lambda: tle.head_entropy(m, tokens, of="readout", keep="summary", **READ),
        "token_surprisal": lambda: tle.token_surprisal(m, texts, **READ),
        "surprisal's summary": lambda: tle.token_surprisal(m, texts, keep="summary", **READ),
        "token_reliance": lambda: tle.token_reliance(m, tokens, tle.ablate_heads([(0, 1)]), metrics=("kl",), **READ),
        "gradient_reliance": lambda: tle.gradient_reliance(m, longer, "embed", progress=False),
        "layer_geometry": lambda: tle.layer_geometry(m, tokens, n_samples=20, **READ),
        "cka": lambda: tle.layer_similarity(m, tokens, **READ),
        "cka in blocks": lambda: tle.layer_similarity(m, tokens, estimator="minibatch", **READ),
        "matrices": lambda: tle.layer_similarity(m, tokens, method="matrix_renyi", n_samples=20, permutations=2, **READ),
        "over documents": lambda: tle.layer_similarity(m, tokens, rows="documents", **READ),
        "soft_information": lambda: tle.soft_information(m, tokens, heads=True, n_bins=(5, 8), folds=2, center=True, **READ),
        "compare_models": lambda: tle.compare_models({"a": m, "b": m}, tokens, progress=False, batch_size=1),
    }


def _cached(m):
    tokens = torch.tensor([[2, 3, 4, 5]])
    return m.given.run_with_cache(tokens)[1], tokens


def outcome(run):
    """What comes of it, a result or a refusal; and what was warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = run()
        except tle.TLEntropyError as error:
            found = [type(error).__name__, str(error)]
    return found, sorted({str(one.message) for one in told})


@cache
def alone(few):
    """The outcome of every function in this process."""
    return {name: outcome(run) for name, run in functions(*_inputs(few)).items()}


def _inputs(few):
    return (FEW, TEXTS[:3]) if few else (TOKENS, TEXTS)


def same(few):
    """Of every function, where it differs from one process alone."""
    found = {}
    for name, run in functions(*_inputs(few)).items():
        (whole, warned), (shared, told) = alone(few)[name], outcome(run)
        found[name] = differences(whole, shared) if type(whole) is type(shared) else [f"{whole} and {shared}"]
        if told != (warned if rank() == 0 else []):
            found[name].append(f"warnings: {told} and {warned}")
    return found


def failing(end):
    """One process fails at its second document; what each has then."""

    def rows():
        for i, row in enumerate([*TOKENS, *TOKENS, *TOKENS, *TOKENS]):
            if i == 30 and rank() == int(os.environ["WORLD_SIZE"]) - 1:
                end()
            yield row

    try:
        tle.lens_entropy(model(), rows(), **READ)
    except Exception as error:
        partial = getattr(error, "partial", None)
        return [type(error).__name__, str(error), None if partial is None else partial.n_tokens]
    return None


def broken():
    raise OSError("the disk is gone")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def refused(inputs):
    """What is said of these inputs."""
    found, _ = outcome(lambda: tle.lens_entropy(model(), inputs, **READ))
    return found if isinstance(found, list) else None


def shuffled():
    """Lists, streams and data sets that every process has in an order of its own; the first document may be the same."""
    from datasets import Dataset
    from datasets.distributed import split_dataset_by_node

    order = [0, *(1 + torch.randperm(39, generator=torch.Generator().manual_seed(rank()))).tolist()]
    rows = [TOKENS[i % 6] + i for i in order]
    texts = Dataset.from_dict({"text": [f"the cat {i}" for i in range(20)]})
    stream = texts.to_iterable_dataset(num_shards=5)
    return {
        "list": refused(rows),
        "generator": refused(row for row in rows),
        "data set": refused(texts.shuffle(seed=rank())),
        "stream": refused(stream.shuffle(seed=rank(), buffer_size=4)),
        "stream that was split before": refused(split_dataset_by_node(stream, rank=rank(), world_size=2)),
    }


def streams():
    """Of streaming data sets with few and many shards, shuffled with one seed or not: whether they give what the list does."""
    from datasets import Dataset

    texts = [f"the cat sat {i}" for i in range(20)]
    found = {}
    for shards in (1, 2, 5):
        stream = Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=shards)
        for name, one in (("", stream), (" shuffled", stream.shuffle(seed=3, buffer_size=4))):
            listed = [row["text"] for row in one]
            assert sorted(listed) == sorted(texts)
            mine = tle.lens_entropy(model(), one, layers=0, **READ)
            with tle.alone():
                whole = tle.lens_entropy(model(), listed, layers=0, **READ)
            found[f"{shards} shards{name}"] = differences(whole, mine)
    return found


def others():
    orders = (1.0,) if rank() == 0 else (2.0,)
    calls = [
        lambda: (tle.lens_entropy if rank() == 0 else tle.head_entropy)(model(), TOKENS, **READ),
        lambda: tle.lens_entropy(model(), TOKENS, orders=orders, **READ),
        lambda: tle.lens_entropy(model(), TOKENS[: 8 - rank()], **READ),
    ]
    return [outcome(call)[0] for call in calls]


def saved(folder):
    """The files that each process finds after saving one result to one name, one to its own, and one of its own alone."""
    distributed.PATIENCE /= 20
    result = tle.lens_entropy(model(), TOKENS[:3], layers=0, **READ)
    result.save(folder / "same")
    there = [(folder / "same").exists(), (folder / "same").stat().st_ino]
    result.save(folder / f"of {rank()}")
    with tle.alone():
        result.save(folder / f"alone {rank()}")
    return [*there, sorted(path.name for path in folder.glob(f"*{rank()}")), progress.SHOWN[0]]
