"""Runs that outgrow one process: two processes against one, what saving costs, and how soon a run that goes on reads again.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_runs.py --parts processes      # some five minutes with nothing else running
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_runs.py --parts saving resume  # some two

``processes``: the same call in one process and in two that share it (gloo), one thread each, in alternating pairs: the median
of the ratios of their seconds, from when all are ready to when all have the result; and, for a machine that has other work, the
same of the seconds of the processor that the busiest of them takes. ``saving``: a run in a folder that saves after every
document: what one save takes, as a share of a minute. ``resume``: a run that was stopped half-way, gone on with in a process of
its own: seconds until it reads again, beyond those that loading the model takes.

The models are a GPT-2 of the small shape with random weights (``processes``), and the bundled one (the other parts).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from shared import random_bridge

import tl_entropy as tle
from tl_entropy.analyses import distributed
from tl_entropy.demo import FOLDER

TESTS = Path(__file__).parents[1]
DOCUMENT = 128
"""Tokens of a document."""


def tokens(count, vocabulary):
    """Documents of random tokens."""
    draw = torch.Generator().manual_seed(0)
    return list(torch.randint(1, vocabulary, (max(2, count // DOCUMENT), DOCUMENT), generator=draw))


def seconds_of(run, size):
    """Seconds in which so many forked processes share a call, from when all are ready; and those of the busiest's processor."""
    from ranks import saw

    def timed():
        import torch.distributed as dist

        signal.alarm(0)  # of those in a test, which are not to last
        distributed.found()
        if size > 1:
            dist.barrier()
        start = time.perf_counter(), time.process_time()
        run()
        return time.perf_counter() - start[0], time.process_time() - start[1]

    return tuple(map(max, zip(*saw(timed, size), strict=True)))


def processes(asked):
    """Two against one."""
    model = tle.Adapter(random_bridge())
    calls = {
        "lens_entropy": lambda documents: tle.lens_entropy(model, documents, keep="summary", batch_size=4, progress=False),
        "soft_information": lambda documents: tle.soft_information(model, documents, batch_size=4, progress=False),
        "layer_geometry": lambda documents: tle.layer_geometry(model, documents, batch_size=4, progress=False),
        "matrices": lambda documents: tle.layer_similarity(
            model, documents, method="matrix_renyi", n_samples=300, permutations=5, batch_size=4, progress=False
        ),
    }
    for name, call in ((name, calls[name]) for name in asked.calls):
        documents = tokens(asked.tokens * (10 if name == "soft_information" else 1), 5000)
        call(documents[:2])  # so that all is proved before
        pairs = []
        for i in range(asked.repeats):
            order = (1, 2) if i % 2 == 0 else (2, 1)
            found = {size: seconds_of(lambda call=call, documents=documents: call(documents), size) for size in order}
            pairs.append([one / two for one, two in zip(found[1], found[2], strict=True)])
            (one, _), (two, _), (ratio, of_processors) = found[1], found[2], pairs[-1]
            print(
                f"  {name}: {one:.1f} s in one process, {two:.1f} s in two: {ratio:.2f}; of processors {of_processors:.2f}",
                flush=True,
            )
        ratio, of_processors = map(statistics.median, zip(*pairs, strict=True))
        print(
            f"{name} of {len(documents) * DOCUMENT:,} tokens: two processes give {ratio:.2f} times the throughput of one; by "
            f"the time of processors {of_processors:.2f} times"
        )


def _asked_of(documents, **more):
    texts = tle.demo_texts()
    every = [f"# {i}\n{texts[i % len(texts)][:1500]}" for i in range(documents)]
    soft = {"soft_information": {"labels": ["token", "next_token"], "n_bins": 100, "batch_size": 1}}
    lens = {"lens_entropy": {"keep": "summary", "batch_size": 1}}
    return {
        "models": str(FOLDER), "inputs": {"text": every}, "analyses": [soft, lens], "unit_documents": 20, "save_every": 1e-9,
    } | more  # fmt: skip


def saving(asked):
    """What one save takes."""
    from tl_entropy.runs import states

    plain, spent = states.save, {}

    def timed(path, accumulators):
        start = time.perf_counter()
        plain(path, accumulators)
        spent.setdefault(path.parents[1].name, []).append((time.perf_counter() - start, path.stat().st_size))

    states.save = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            tle.run(Path(folder) / "study", _asked_of(asked.documents), progress=False)
    finally:
        states.save = plain
    for name, saves in spent.items():
        seconds, size = statistics.median(one for one, _ in saves), max(size for _, size in saves)
        speed = statistics.median(size / one for one, size in saves)
        print(
            f"{name}: a save takes {1000 * seconds:.1f} ms (median of {len(saves)}; states up to {size / 1e6:.1f} MB, "
            f"{speed / 1e6:.0f} MB a second): once a minute costs {seconds / 60:.2%}"
        )


def resume(asked):
    """How soon a run that was stopped reads again."""
    from tl_entropy.runs import sharing

    with tempfile.TemporaryDirectory() as place:
        folder, config = Path(place) / "study", _asked_of(asked.documents)
        take, left = sharing._SharedPass._take, [max(1, asked.documents // 40)]

        def taken(one, documents):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            take(one, documents)

        sharing._SharedPass._take = taken
        try:
            tle.run(folder, config, progress=False)
        except KeyboardInterrupt:
            pass
        finally:
            sharing._SharedPass._take = take
        (Path(place) / "asked.json").write_text(json.dumps(config))
        found = []
        for _ in range(asked.repeats):
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
            command = [sys.executable, __file__, "--resumed", place, "--began", str(time.time())]
            said = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
            found.append(json.loads(said.splitlines()[-1]))
        parts = {name: statistics.median(one[name] for one in found) for name in found[0]}
        beyond = parts["in all"] - parts["loading the model"]
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()))
        print(f"a resumed run of {asked.documents} documents reads again after {beyond:.1f} s beyond loading the model")


def resumed(place, began):
    """In a process of its own: go on, and end as the first document is about to be read."""
    from tl_entropy.runs import models, sharing

    imported, loading = time.time(), [0.0]
    load = models.load_model

    def loaded(*given, **options):
        start = time.time()
        try:
            return load(*given, **options)
        finally:
            loading[0] += time.time() - start

    def first(*_):
        now = time.time()
        told = {"importing": imported - began, "loading the model": loading[0], "in all": now - began}
        print(json.dumps(told), flush=True)
        os._exit(0)

    models.load_model, sharing._SharedPass._take = loaded, first
    tle.run(Path(place) / "study", json.loads((Path(place) / "asked.json").read_text()), progress=False)


def main():
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"processes": processes, "saving": saving, "resume": resume}
    parser.add_argument("--parts", nargs="+", choices=tuple(parts), default=tuple(parts))
    calls = ("lens_entropy", "soft_information", "layer_geometry", "matrices")
    parser.add_argument("--calls", nargs="+", choices=calls, default=calls[:2], help="of the processes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512, help="of lens_entropy; soft_information reads ten times as many")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--resumed")
    parser.add_argument("--began", type=float)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.resumed:
        resumed(asked.resumed, asked.began)
    for part in asked.parts if not asked.resumed else ():
        parts[part](asked)


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    main()
