"""How long entropies and losses without stored logits take, forwards and backwards, and how much memory, beside torch's own.

    python tests/benchmarks/bench_linear_entropy.py [--threads 2] [--repeats 3] [--parts time memory errors] [--rows 4096]

Ratios are medians of interleaved repeats in one run, so that a drift of the machine hits both sides; measure on an idle one.

time    4096 rows of GPT-2's shape (d_model 768, vocabulary 50257): a mean and its gradients in hidden states and unembedding,
        relative to the same from stored logits by log_softmax; and by the package cut-cross-entropy, where it is installed
memory  peak memory beyond what was there before and the unembedding's gradient, each variant in a process of its own
errors  largest differences from the same in float64, of 64 rows
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from shared import D_VOCAB, medians
from torch.nn.functional import cross_entropy

from tl_entropy.functional import linear_cross_entropy, linear_entropy, linear_kl_divergence

D_MODEL, SPREAD = 768, 3.0
Factors = tuple[torch.Tensor, torch.Tensor]


def factors(rows: int) -> Factors:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, D_MODEL, generator=generator)
    unembedding = torch.randn(D_MODEL, D_VOCAB, generator=generator) * SPREAD / D_MODEL**0.5
    return hidden.requires_grad_(), unembedding.requires_grad_()


def variants(rows: int) -> dict[str, dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]]:
    """Of each quantity the ways to it, the first from stored logits."""
    targets = torch.randint(0, D_VOCAB, (rows,), generator=torch.Generator().manual_seed(1))
    reference = factors(rows)[0].detach().flip(0)

    def stored_entropy(hidden: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
        log_p = (hidden @ unembedding).log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def stored_order(hidden: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
        return -(2 * (hidden @ unembedding).log_softmax(-1)).logsumexp(-1)

    def stored_divergence(hidden: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            log_r = (reference @ unembedding).log_softmax(-1)
        return (log_r.exp() * (log_r - (hidden @ unembedding).log_softmax(-1))).sum(-1)

    losses = {
        "log_softmax": lambda h, w: cross_entropy(h @ w, targets, reduction="none"),
        "linear_cross_entropy": lambda h, w: linear_cross_entropy(h, w, targets),
    }
    if find_spec("cut_cross_entropy") and find_spec("triton"):  # which it imports for other ways than this one
        from cut_cross_entropy import linear_cross_entropy as cut

        losses["cut-cross-entropy, torch_compile"] = lambda h, w: cut(h, w.t(), targets, reduction="none", impl="torch_compile")
    return {
        "entropy": {"log_softmax": stored_entropy, "linear_entropy": linear_entropy},
        "order 2": {"log_softmax": stored_order, "linear_entropy": lambda h, w: linear_entropy(h, w, order=2)},
        "cross-entropy": losses,
        "divergence": {
            "log_softmax": stored_divergence,
            "linear_kl_divergence": lambda h, w: linear_kl_divergence(h, w, reference),
        },
    }


def both_ways(way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], given: Factors) -> list[torch.Tensor]:
    return list(torch.autograd.grad(way(*given).mean(), given))


def bench_time(rows: int, repeats: int, clock: Callable[[], float]) -> None:
    given = factors(rows)
    for quantity, ways in variants(rows).items():
        seconds = medians({name: lambda way=way: both_ways(way, given) for name, way in ways.items()}, repeats, clock)
        first = next(iter(seconds.values()))
        print(f"{quantity}, {rows} rows x {D_MODEL} x {D_VOCAB}, {torch.get_num_threads()} threads")
        for name, value in seconds.items():
            print(f"  {name:<34}{value:>9.2f} s{value / first:>8.2f}")


def bench_memory(rows: int) -> None:
    print(f"peak memory in MB beside the unembedding's gradient, {rows} rows")
    for quantity, ways in variants(2).items():
        for name in ways:
            command = [sys.executable, __file__, "--rows", str(rows), "--alone", quantity, name]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"  {quantity:<16}{name:<34}{float(found):>8.0f}", flush=True)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def alone(rows: int, quantity: str, name: str) -> None:
    way, given = variants(rows)[quantity][name], factors(rows)
    held = torch.ones_like(given[1])  # as large as the gradient, and before as after at the peak
    before = peak()
    del held
    both_ways(way, given)
    print(peak() - before)


def bench_errors() -> None:
    given = factors(64)
    exact: Factors = given[0].detach().double().requires_grad_(), given[1].detach().double().requires_grad_()
    print("largest error of values, and of gradients beside the largest gradient, 64 rows")
    for quantity, ways in variants(64).items():
        stored = next(iter(ways.values()))
        if quantity == "divergence":
            continue  # its reference is of float32
        expected, slopes = stored(*exact), both_ways(stored, exact)
        for name, way in ways.items():
            off = (way(*given).double() - expected).abs().max().item()
            gradients = both_ways(way, given)
            share = max(((one - two).abs().max() / two.abs().max()).item() for one, two in zip(gradients, slopes, strict=True))
            print(f"  {quantity:<16}{name:<34}{off:>10.1e}{share:>10.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--parts", nargs="+", choices=("time", "memory", "errors"), default=("time", "memory", "errors"))
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        alone(options.rows, *options.alone)
        sys.exit()
    if "time" in options.parts:
        bench_time(options.rows, options.repeats, time.perf_counter if options.clock == "wall" else time.process_time)
    if "memory" in options.parts:
        bench_memory(options.rows)
    if "errors" in options.parts:
        bench_errors()
