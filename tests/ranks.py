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
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from tempfile import mkdtemp

import torch
from states import TOKENS, differences, model

import tl_entropy as tle
from tl_entropy.analyses import distributed
from tl_entropy.analyses.states import geometry_values
from tl_entropy.capture import progress
from tl_entropy.capture.runner import Runner

READ = {"progress": False, "window": 6, "batch_size": 1}
FEW = TOKENS[:2]
"""Documents that three processes cannot share without one that has none."""
TEXTS = ["def f(x):\n    return x", "", "the cat sat", "on the mat", "and the dog"]


RANKS = {"torchrun": "RANK", "mpirun": "OMPI_COMM_WORLD_RANK", "srun": "SLURM_PROCID"}
"""What starts processes, and what it calls the number of each."""


def rank():
    return next((int(os.environ[name]) for name in RANKS.values() if name in os.environ), 0)


def saw(scenario, size, by="torchrun"):
    """What every process saw; None for one that ended without a word."""
    meeting = MEETINGS[by](size)
    running = []
    for number in range(size):
        ours, theirs = os.pipe()
        process = os.fork()
        if not process:
            os.close(ours)
            _work(scenario, {**meeting, RANKS[by]: str(number)}, theirs)
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


def _free(port):
    """A port that nobody listens at: this one, or any where it is 0; None where somebody does."""
    with socket.socket() as found, suppress(OSError):
        found.bind(("localhost", port))
        return found.getsockname()[1]
    return None


MEETINGS = {
    "torchrun": lambda size: {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(_free(0))},
    # which says where to meet only if it is told to
    "mpirun": lambda size: {"OMPI_COMM_WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(_free(0))},
    # which says no port, but the number of a job, from which one follows
    "srun": lambda size: {
        "SLURM_STEP_NUM_TASKS": str(size), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_JOB_ID": str(next(job for job in range(os.getpid(), os.getpid() + 99) if _free(20000 + job % 20000))),
    },
}  # fmt: skip
"""What starts processes, and what it tells them."""


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
        "neighbours": lambda: tle.layer_similarity(m, tokens, method="neighbours", k=1, against="all", **READ),
        "over documents": lambda: tle.layer_similarity(m, tokens, rows="documents", **READ),
        "soft_information": lambda: tle.soft_information(m, tokens, heads=True, n_bins=(5, 8), folds=2, center=True, **READ),
        "assignments": lambda: tle.soft_information(
            m, tokens, layers=[1], n_bins=8, folds=2, keep="assignments", folder=_room(), **READ
        ),
        "similarity of two": lambda: tle.layer_similarity(m, tokens, other=m, rows="documents", **READ),
        "compare_models": lambda: tle.compare_models({"a": m, "b": m}, tokens, progress=False, batch_size=1),
        "confidence": lambda: tle.confidence(m, tokens, **READ),
        "unigram_distance": lambda: tle.unigram_distance(m, tokens, keep="summary", **READ),
        "entropy_calibration": lambda: tle.entropy_calibration(
            m, longer, prompt_tokens=2, steps=2, temperature=0.0, batch_size=2, progress=False
        ),
        "conditional_entropy": lambda: tle.conditional_entropy(m, longer, **READ),
        "that of a generator": lambda: tle.conditional_entropy(m, (row for row in longer), **READ),
        "site_means": lambda: tle.site_means(m, tokens, ("embed", "z.1"), **READ),
        "head_means": lambda: tle.head_means(m, tokens, **READ),
        "label_plan": lambda: tle.label_plan(m, texts),
        "train_tuned_lens": lambda: tle.train_tuned_lens(m, longer, steps=2, tokens_per_step=8, progress=False),
        "EntropyMonitor": lambda: _monitored(m, tokens),
        "placebo": lambda: tle.placebo(m, tokens, tle.ablate_heads([(0, 1)]), _entropy, n=2),
        "neurons": lambda: tle.neurons(m, tokens, candidates=1, placebos=1, **READ),
        "sensitivity": lambda: tle.sensitivity(m, tokens, ["int8"], sites="mlp_out.-1", **READ),
        "stream": lambda: _streamed(m, tokens),
    }


ONCE = {"train_tuned_lens", "label_plan"}
"""What the first process does, and sends to the others."""
WHOLE = {"of a cache", "stream", "EntropyMonitor"}
"""What each process does by itself: it was given a cache, or accumulators that are nobody else's, or a training goes on."""


@cache
def _rooms():
    return mkdtemp(prefix="tl_entropy")


def _room():
    """A new folder, which is one for all processes that meet."""
    meeting = os.environ.get("MASTER_PORT", os.environ.get("SLURM_JOB_ID"))
    return mkdtemp(dir=_rooms()) if meeting is None else f"{_rooms()}/of {meeting}"


def _monitored(m, tokens):
    monitor = tle.EntropyMonitor(m, tokens)
    monitor(0), monitor(1)
    return monitor.history


def _entropy(m, tokens, **options):
    return float(tle.lens_entropy(m, tokens, keep="summary", layers=[-1], **READ, **options).mean_profile()["mean"].iloc[-1])


def _streamed(m, tokens):
    means = tle.LensAccumulator(m, keep="summary")
    tle.stream(m, tokens, [means], **READ)
    return means.compute(corpus={})


@contextmanager
def working():
    """Counts the tokens that go through a model, but for those of its proofs, which are made once."""
    done, proofs, proving = [0], [0], Runner.proving
    passes = {name: getattr(Runner, name) for name in ("activations", "differentiable", "logits")}

    def counted(run):
        def one(runner, tokens, mask, *more):
            done[0] += 0 if proofs[0] else int(mask.sum())
            return run(runner, tokens, mask, *more)

        return one

    @contextmanager
    def uncounted(runner):
        proofs[0] += 1
        try:
            with proving(runner):
                yield
        finally:
            proofs[0] -= 1

    for name, run in passes.items():
        setattr(Runner, name, counted(run))
    Runner.proving = uncounted
    try:
        yield done
    finally:
        Runner.proving = proving
        for name, run in passes.items():
            setattr(Runner, name, run)


def _cached(m):
    tokens = torch.tensor([[2, 3, 4, 5]])
    return m.given.run_with_cache(tokens)[1], tokens


def outcome(run):
    """What comes of it, a result or a refusal; what was warned of; and how many tokens went through the model."""
    with warnings.catch_warnings(record=True) as told, working() as done:
        warnings.simplefilter("always")
        try:
            found = run()
        except tle.TLEntropyError as error:
            found = [type(error).__name__, str(error)]
    return found, sorted({str(one.message) for one in told}), done[0]


@cache
def alone(few):
    """The outcome of every function in this process."""
    found = {name: outcome(run) for name, run in functions(*_inputs(few)).items()}
    assert few or not [one for one, *_ in found.values() if isinstance(one, list)], "none refuses what it is given"
    return found


def _inputs(few):
    return (FEW, TEXTS[:3]) if few else (TOKENS, TEXTS)


def same(few):
    """Of every function, where it differs from one process alone, and the tokens that a model read: here and alone."""
    found = {}
    for name, run in functions(*_inputs(few)).items():
        (whole, warned, work), (shared, told, mine) = alone(few)[name], outcome(run)
        # "given" is a hash of means that neurons are set to, to the last bit
        same_kind = type(whole) is type(shared)
        lines = differences(whole, shared, leave=("created", "given")) if same_kind else [f"{whole} and {shared}"]
        if told != (warned if rank() == 0 or name in WHOLE else []):
            lines.append(f"warnings: {told} and {warned}")
        found[name] = lines, mine, work
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


def killed_at_the_end():
    """The last process dies as it computes its share of the sites; what the other has then."""

    def rank_scores(*_):
        if rank():
            killed()
        return plain(*_)

    plain, geometry_values.rank_scores = geometry_values.rank_scores, rank_scores
    try:
        tle.layer_geometry(model(), TOKENS, measures="effective_rank", progress=False)
    except Exception as error:
        partial = error.partial
        return [type(error).__name__, str(error), type(partial).__name__, partial.compute().tokens]
    return None


def broken():
    raise OSError("the disk is gone")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def refused(inputs, function=tle.lens_entropy):
    """What is said of these inputs."""
    found, *_ = outcome(lambda: function(model(), inputs, **READ))
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
        "sequences": refused(rows[:5], tle.conditional_entropy),
        "stream that was split before": refused(split_dataset_by_node(stream, rank=rank(), world_size=2)),
    }


def streams():
    """Of streaming data sets with few and many shards, shuffled with one seed, gone on with, or neither: where lists differ."""
    from datasets import Dataset

    texts = [f"the cat sat {i}" for i in range(12)]
    found = {}
    ways = {1: ("plain", "resumed"), 2: ("shuffled",), 3: ("plain", "shuffled"), 5: ("plain", "shuffled", "resumed")}
    for shards, names in ways.items():
        stream, resumed = (Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=shards) for _ in range(2))
        first = [row["text"] for row in islice(resumed, 7)]
        resumed.load_state_dict(resumed.state_dict())
        every = {"plain": stream, "shuffled": stream.shuffle(seed=3, buffer_size=4), "resumed": resumed}
        for name in names:
            one = every[name]
            listed = [row["text"] for row in one]
            assert sorted([*first, *listed] if one is resumed else listed) == sorted(texts)
            mine = tle.lens_entropy(model(), one, layers=0, **READ)
            with tle.alone():
                whole = tle.lens_entropy(model(), listed, layers=0, **READ)
            found[f"{shards} shards, {name}"] = differences(whole, mine)
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
