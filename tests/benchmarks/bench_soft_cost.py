"""What soft_information costs beside the forward pass and beside another tree of this package, in one run.

    python tests/benchmarks/bench_soft_cost.py [--reference TREE] [--threads 2] [--repeats 3] [--texts 8 32]

A GPT-2 of the small shape with random weights; texts of 128 tokens; labels token and next_token; 13 residual sites, or these
and all 144 heads twice (z and result), 301 places. Each tree runs in a process of its own, and they take turns, so that a drift
of the machine hits all of them. Times are of the processors (all threads), so that other work on the machine counts little;
--wall has those of the clock. Memory of the sums is that of 144 heads at 20,000 tokens. Measure on an idle machine.

statistics   from sums to the result
update       one batch of 8 texts, into sums that are there
whole        the whole call, with the plan of labels, beside the plain forward pass of all texts with logits
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


def worker(threads: int, wall: bool) -> None:
    """Measure what is asked for, one JSON line in and one out."""
    import torch

    torch.set_num_threads(threads)
    from shared import D_VOCAB, random_bridge

    import tl_entropy as tle

    clock = time.perf_counter if wall else time.process_time
    adapter = tle.Adapter(random_bridge())
    frequency = 1 / torch.arange(1, D_VOCAB, dtype=torch.float64)

    def timed(run: Callable[[], Any]) -> float:
        start = clock()
        run()
        return clock() - start

    def measured(what: str, heads: bool, texts: int) -> float:
        draw = torch.Generator().manual_seed(0)
        tokens = torch.multinomial(frequency, texts * 128, replacement=True, generator=draw).view(texts, 128)
        options: dict[str, Any] = {"heads": heads}
        if what == "whole":
            return timed(lambda: tle.soft_information(adapter, tokens, batch_size=8, progress=False, **options))
        if what == "forward":
            return timed(lambda: [adapter.logits(rows, torch.ones_like(rows, dtype=torch.bool)) for rows in tokens.split(8)])
        if what == "memory":
            plan = tle.label_plan(adapter, tokens, labels=("token", "bigram", "next_token"))
            accumulator = tle.SoftAccumulator(adapter, plan, sites=("z",))
            return accumulator.memory() / 2**30
        plan = tle.label_plan(adapter, tokens)
        accumulator = tle.SoftAccumulator(adapter, plan, **options)
        if what == "update":
            times: list[float] = []

            class Timed:
                sites = accumulator.sites
                merge = compute = None

                def update(self, batch: Any, activations: Any) -> None:
                    times.append(timed(lambda: accumulator.update(batch, activations)))

            tle.stream(adapter, tokens, [Timed()], batch_size=8, progress=False)
            return statistics.median(times[1:])  # the first makes the sums
        tle.stream(adapter, tokens, [accumulator], batch_size=8, progress=False)
        return timed(accumulator.compute)

    for line in sys.stdin:
        print(json.dumps(measured(*json.loads(line))), flush=True)


class Tree:
    """A process with one tree of the package."""

    def __init__(self, tree: Path, threads: int, wall: bool) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), str(HERE.parent)]), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(HERE), "--worker", "--threads", str(threads), *(["--wall"] if wall else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )

    def __call__(self, *what: Any) -> float:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(what), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            try:
                return float(line)
            except ValueError:
                continue  # what a library prints when it starts
        raise RuntimeError(f"the process ended while it measured {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, nargs="+", default=(8, 32))
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.threads, options.wall)
        return
    trees = {"this tree": Tree(HERE.parents[2], options.threads, options.wall)}
    if options.reference:
        trees["reference"] = Tree(options.reference.resolve(), options.threads, options.wall)

    def medians(*what: Any) -> dict[str, float]:
        found: dict[str, list[float]] = {name: [] for name in trees}
        for _ in range(options.repeats):
            for name, tree in trees.items():
                found[name].append(tree(*what))
        return {name: statistics.median(values) for name, values in found.items()}

    def show(title: str, seconds: dict[str, float], beside: float | None = None) -> None:
        cells = [
            f"{name} {value:8.3f}" + (f" ({value / beside:.2f} x forward)" if beside else "") for name, value in seconds.items()
        ]
        if len(seconds) == 2:
            cells.append(f"ratio {seconds['this tree'] / seconds['reference']:.3f}")
        print(f"{title:<44}{'   '.join(cells)}", flush=True)

    for tree in trees.values():
        tree("forward", False, 8)
    for texts in options.texts:
        forward = medians("forward", False, texts)
        show(f"{texts} texts, plain forward pass, s", forward)
        for heads in (False, True):
            place = "13 sites" if not heads else "301 places"
            show(f"{texts} texts, {place}, whole call, s", medians("whole", heads, texts), statistics.median(forward.values()))
            show(f"{texts} texts, {place}, final statistics, s", medians("statistics", heads, texts))
    for heads in (False, True):
        show(f"update, {'301 places' if heads else '13 sites'}, s", medians("update", heads, 32))
    show("sums of 144 heads at 20,000 tokens, GiB", {name: tree("memory", True, 157) for name, tree in trees.items()})
    for tree in trees.values():
        tree.process.kill()


if __name__ == "__main__":
    main()
