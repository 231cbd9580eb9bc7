"""What comparing and describing the states of layers costs beside the forward pass, and beside the package entropy-profiler.

    OMP_NUM_THREADS=2 python tests/benchmarks/bench_states.py [--threads 2] [--repeats 5] [--parts update renyi cka]

Ratios are medians of interleaved repeats in one run, so that a drift of the machine hits both sides; measure on an idle one.
The variable holds numpy, with which the package computes its CKA, to as many threads as torch.

update  GPT-2-small's shape with random weights, 8 x 128 tokens, 13 sites: time of an update, as a share of the plain forward
        pass, and what the sums take
renyi   matrix-based information of 13 sites with the output, 1000 tokens: what 20 permutations take beside the package, which
        has none, and both for each joint entropy
cka     13 layers against the last, 1024 tokens: beside the package, which knows the biased form alone
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from shared import D_VOCAB, medians, random_bridge, run_parts, show
from torch import Tensor

import tl_entropy as tle
from tl_entropy.batches import Batch, batches
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.functional.states.similarity import cka_table, linear_cka

DOCUMENTS, LENGTH, SAMPLES, PERMUTATIONS = 8, 128, 1000, 20


@cache
def bridge() -> tle.Adapter:
    return tle.Adapter(random_bridge())


def random_batches(number: int) -> list[Batch]:
    tokens = torch.randint(0, D_VOCAB - 1, (number * DOCUMENTS, LENGTH), generator=torch.Generator().manual_seed(0))
    return list(batches(read_corpus(bridge(), tokens), batch_size=DOCUMENTS, max_tokens=1))


def activations(batch: Batch) -> dict[Any, Tensor]:
    """Return the states of a batch at the 13 sites of the residual stream."""
    adapter = bridge()
    return adapter.activations(batch.tokens, batch.attention_mask, adapter.sites(("embed", "resid_post")))


def bench_update(repeats: int) -> None:
    adapter, batch_list = bridge(), random_batches(repeats + 1)
    first, states = batch_list[0], activations(batch_list[0])
    accumulators: dict[str, Any] = {
        "CKA, exact, against the output": tle.CKAAccumulator(adapter),
        "CKA, exact, all pairs": tle.CKAAccumulator(adapter, against="all"),
        "CKA, minibatch, all pairs": tle.CKAAccumulator(adapter, against="all", estimator="minibatch"),
        "geometry, 7 measures": tle.GeometryAccumulator(adapter),
    }

    def in_turn(accumulator: Any) -> Callable[[], None]:
        """Update with the next batch at each call; all batches see the same states, which are as good as any."""
        turn = iter(batch_list)
        return lambda: accumulator.update(next(turn), states)

    variants: dict[str, Callable[[], Any]] = {
        "plain forward pass, with logits": lambda: adapter.logits(first.tokens, first.attention_mask)
    }
    variants |= {name: in_turn(accumulator) for name, accumulator in accumulators.items()}
    print(f"update: {first.n_rows} tokens x {len(states)} sites, {torch.get_num_threads()} threads")
    for name, accumulator in accumulators.items():
        if hasattr(accumulator, "memory"):
            print(f"sums of {name}: {accumulator.memory() / 2**20:.0f} MiB")
    show(medians(variants, repeats, time.perf_counter), {})


def bench_renyi(repeats: int) -> None:
    adapter, [batch] = bridge(), random_batches(1)
    accumulator = tle.MatrixAccumulator(adapter, n_samples=SAMPLES, permutations=PERMUTATIONS)
    accumulator.update(batch, activations(batch))
    states = list(accumulator.sample.whole().values())
    pairs = len(states)
    # For each variant how many joint entropies there are, and how many matrices whose eigenvalues are found.
    counts = {"ours": (pairs * (1 + PERMUTATIONS), pairs * (1 + PERMUTATIONS) + pairs + 1)}
    variants: dict[str, Callable[[], Any]] = {"ours": accumulator.compute}
    try:
        from entropy_profiler import MatrixRenyiMI
    except ImportError as error:
        print(f"renyi: the package entropy-profiler is not installed ({error})")
    else:
        peer = MatrixRenyiMI(alpha=1.01, device="cpu")

        def theirs(dtype: torch.dtype) -> Callable[[], Tensor]:
            rows = [x.to(dtype) for x in states]
            return lambda: torch.tensor([peer.compute_mi(x, rows[-1]) for x in rows], dtype=torch.float64)

        peers = {"entropy-profiler": theirs(torch.float32), "entropy-profiler, given float64": theirs(torch.float64)}
        counts |= dict.fromkeys(peers, (pairs, 3 * pairs))
        variants = peers | variants
        result = accumulator.compute()
        mine = result.values[result.quantities.index("mutual_information"), :, 0] / math.log(2)
        for name, run in peers.items():
            print(f"{name}: mutual information differs by up to {(run() - mine).abs().max().item():.1e} bits")
    size = f"{SAMPLES} tokens, {pairs} sites with the output, {PERMUTATIONS} permutations"
    print(f"renyi: {size}, {torch.get_num_threads()} threads; milliseconds for each joint entropy and each spectrum")
    seconds = medians(variants, min(repeats, 3), time.perf_counter)
    reference = next(iter(seconds))
    print(f"{'variant':<34}{'seconds':>9}{'joint':>7}{'ms':>8}{'ratio':>8}{'spectra':>9}{'ms':>8}{'ratio':>8}")
    for name, value in seconds.items():
        line = f"{name:<34}{value:>9.3f}"
        for count, of_reference, width in zip(counts[name], counts[reference], (7, 9), strict=True):
            ratio = (value / count) / (seconds[reference] / of_reference)
            line += f"{count:>{width}}{1000 * value / count:>8.1f}{ratio:>8.2f}"
        print(line)
    print()


def bench_cka(repeats: int) -> None:
    [batch] = random_batches(1)
    layers = [x.flatten(0, 1) for x in activations(batch).values()]
    last = layers[-1]
    variants: dict[str, Callable[[], Any]] = {
        "ours, linear_cka pair by pair": lambda: torch.stack([linear_cka(x, last) for x in layers]),
        "ours, cka_table": lambda: cka_table(layers, [last])[:, 0],
        "ours, cka_table, biased": lambda: cka_table(layers, [last], debiased=False)[:, 0],
    }
    errors = {}
    try:
        from entropy_profiler.analysis import _linear_cka
    except ImportError as error:
        print(f"cka: the package entropy-profiler is not installed ({error})")
    else:

        def theirs(dtype: torch.dtype) -> Callable[[], Tensor]:
            rows = [x.to(dtype).numpy() for x in layers]
            return lambda: torch.tensor([_linear_cka(x, rows[-1]) for x in rows], dtype=torch.float64)

        peers = {"entropy-profiler": theirs(torch.float32), "entropy-profiler, given float64": theirs(torch.float64)}
        biased = variants["ours, cka_table, biased"]()
        errors = {name: (run() - biased).abs().max().item() for name, run in peers.items()}
        variants = peers | variants
    size = f"{len(last)} tokens x {last.shape[1]}, {len(layers)} layers against the last"
    print(f"cka: {size}, {torch.get_num_threads()} threads; error: of the package from our biased form")
    show(medians(variants, repeats, time.perf_counter), errors)


if __name__ == "__main__":
    run_parts(__doc__, {"update": bench_update, "renyi": bench_renyi, "cka": bench_cka}, repeats=5)
