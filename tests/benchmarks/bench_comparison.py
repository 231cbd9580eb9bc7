"""How long vocabulary_divergences takes, how much memory and how far off it is, beside vocabulary_statistics on the same rows.

    python tests/benchmarks/bench_comparison.py [--threads 2] [--repeats 5] [--parts time whole errors memory peer]

Ratios are medians of interleaved repeats in one run, so that a drift of the machine hits both sides; measure on an idle one.
``--clock cpu`` takes processor time instead of wall-clock time: for a busy machine, and with one thread.

time    13 sites x 96 rows of GPT-2's shape, every site against the last, relative to vocabulary_statistics made the same way
whole   the functions themselves: layer_divergence on 8 texts of 96 tokens, relative to lens_entropy on the same
errors  the largest for logits of several standard deviations, and for neighbours that are 1e-3 and 1e-4 apart
memory  peak memory beyond what was there before, each variant in a process of its own
peer    the trajectory of the package tuned-lens through its logit lens on 96 tokens, one thread, the forward pass not counted
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_readout import PRECISIONS, WAYS, resident
from shared import D_VOCAB, medians, random_bridge, random_model, show

import tl_entropy as tle
from tl_entropy.functional import (
    compiler_available,
    fisher_rao_distance,
    js_divergence,
    kl_divergence,
    total_variation,
    vocabulary_divergences,
    vocabulary_statistics,
)

D_MODEL, SITES, ROWS = 768, 13, 96
METRICS = {
    "one pass": ("kl", "reverse_kl", "fisher_rao"),
    "two passes": ("kl", "reverse_kl", "fisher_rao", "jsd"),
    "two passes, all five": ("kl", "reverse_kl", "fisher_rao", "jsd", "total_variation"),
}
EXACT: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "kl": kl_divergence,
    "reverse_kl": lambda r, p: kl_divergence(p, r),
    "jsd": js_divergence,
    "fisher_rao": fisher_rao_distance,
    "total_variation": total_variation,
}


def random_sites(rows: int = ROWS, spread: float = 2.8, step: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sites that turn into one another, or with ``step`` ones whose logits are about that far from the first's."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(SITES, rows, D_MODEL, generator=generator)
    if step is not None:
        hidden[1:] = hidden[0] + hidden[1:] * step / spread
    else:
        for site in range(1, SITES):
            hidden[site] = (hidden[site - 1] + 0.5 * hidden[site]) / 1.25**0.5
    return hidden, torch.randn(D_MODEL, D_VOCAB, generator=generator) * spread / D_MODEL**0.5


def time_variants(way: str) -> dict[str, Callable[[], Any]]:
    hidden, unembedding = random_sites()

    def divergences(metrics: Any) -> Callable[[], Any]:
        return lambda: vocabulary_divergences(hidden, unembedding, reference=-1, metrics=metrics, **WAYS[way])

    return {
        "vocabulary_statistics": lambda: vocabulary_statistics(hidden.flatten(0, 1), unembedding, **WAYS[way]),
        **{name: divergences(metrics) for name, metrics in METRICS.items()},
    }


def bench_time(repeats: int, clock: Callable[[], float]) -> None:
    for way, options in WAYS.items():
        if options["compiled"] > compiler_available():
            continue
        print(f"{way}, {SITES} sites x {ROWS} rows x {D_MODEL} x {D_VOCAB}, {torch.get_num_threads()} threads")
        show(medians(time_variants(way), repeats, clock), {})


def bench_whole(repeats: int, clock: Callable[[], float]) -> None:
    model = random_bridge()
    tokens = torch.randint(0, D_VOCAB - 1, (8, ROWS), generator=torch.Generator().manual_seed(1))

    def divergence(*metrics: Any) -> Callable[[], Any]:
        return lambda: tle.layer_divergence(model, tokens, metrics=metrics, compiled=False, progress=False)

    variants = {
        "lens_entropy": lambda: tle.lens_entropy(model, tokens, compiled=False, progress=False),
        "layer_divergence, kl": divergence("kl"),
        "layer_divergence, kl, fisher_rao": divergence("kl", "fisher_rao"),
        "layer_divergence, kl, fisher_rao, jsd": divergence("kl", "fisher_rao", "jsd"),
    }
    print(f"whole functions, 8 texts x {ROWS} tokens x {SITES} sites, eager, {torch.get_num_threads()} threads")
    show(medians(variants, repeats, clock), {})


def bench_errors() -> None:
    print(f"largest errors, {SITES} sites x 4 rows\n{'way':<20}{'logits':<26}" + "".join(f"{name:>17}" for name in EXACT))
    cases: list[tuple[float, float | None]] = [(1.0, None), (4.0, None), (12.0, None), (4.0, 1e-3), (4.0, 1e-4)]
    for spread, step in cases:
        hidden, unembedding = random_sites(4, spread, step)
        logits = hidden.double() @ unembedding.double()
        exact = torch.stack([measure(logits[:-1], logits[1:]) for measure in EXACT.values()], -1)
        for way, options in WAYS.items():
            if options["compiled"] > compiler_available():
                continue
            found = vocabulary_divergences(hidden, unembedding, reference="previous", metrics=tuple(EXACT), **options)
            errors = (found.divergences - exact).abs().amax((0, 1)).tolist()
            case = f"std {spread:g}" + ("" if step is None else f", {step:g} apart")
            print(f"{way:<20}{case:<26}" + "".join(f"{error:>17.1e}" for error in errors))
    print()


def peak(name: str) -> None:
    """Print the megabytes by which one run of a variant rises above what the process held before it."""
    torch.set_num_threads(1)
    way, _, metrics = name.partition(", ")
    hidden, unembedding = random_sites(512)

    def run(rows: int) -> None:
        vocabulary_divergences(hidden[:, :rows], unembedding, reference=-1, metrics=METRICS[metrics], **WAYS[way])

    small = torch.ones(2, 2, 4)
    vocabulary_divergences(small, torch.ones(4, 8), reference=-1, metrics=METRICS[metrics], precision=PRECISIONS[-1])
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that the process still holds would hide what the run takes
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the high-water mark
    run(512)
    print(f"{resident('VmHWM') - before:.0f}")


def bench_memory() -> None:
    print(f"{f'{SITES} sites x 512 rows':<44}{'peak MB beyond before':>22}")
    for way in (f"eager {precision}" for precision in PRECISIONS):
        for metrics in METRICS:
            command = [sys.executable, "-W", "ignore", __file__, "--peak", f"{way}, {metrics}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            answer = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else "failed: " + done.stderr[-200:]
            print(f"{f'{way}, {metrics}':<44}{answer:>22}")
    print()


def bench_peer(repeats: int, clock: Callable[[], float]) -> None:
    torch.set_num_threads(1)
    try:
        from tuned_lens import model_surgery
        from tuned_lens.nn.lenses import LogitLens
        from tuned_lens.plotting import PredictionTrajectory
    except ImportError as error:
        print(f"peer: the package tuned-lens is not installed ({error})\n")
        return
    model_surgery._transformer_lens_available = False  # it looks for HookedTransformer, which TransformerLens 4 has no more
    model, tokenizer = random_model()
    lens = LogitLens.from_model(model)
    tokens = torch.randint(0, D_VOCAB - 1, (1, ROWS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        read = model(tokens, output_hidden_states=True)

    class Read:  # both sides are given what the forward pass gave
        device = "cpu"

        def __call__(self, *args: Any, **options: Any) -> Any:
            return read

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        trajectory = PredictionTrajectory.from_lens_and_model(lens, Read(), tokens[0].tolist(), tokenizer)
        return torch.from_numpy(trajectory.forward_kl().stats)

    def ours(**options: Any) -> Callable[[], torch.Tensor]:
        @torch.no_grad()
        def run() -> torch.Tensor:
            stack = torch.stack([state[0] for state in read.hidden_states])
            stack[:-1] = model.transformer.ln_f(stack[:-1])  # the last is normed already
            unembedding = model.lm_head.weight.t()
            found = vocabulary_divergences(stack, unembedding, reference=-1, metrics=("kl",), top_k=10, **options)
            return found.divergences[..., 0]

        return run

    variants = {"tuned-lens, forward_kl": theirs}
    variants |= {name: ours(**options) for name, options in WAYS.items() if options["compiled"] <= compiler_available()}
    expected = theirs().double()
    errors = {name: (variants[name]() - expected).abs().max().item() for name in list(variants)[1:]}
    print(f"{SITES} sites x {ROWS} positions, KL to the output and the 10 likeliest tokens, 1 thread; error: against the peer")
    show(medians(variants, repeats, clock), errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ("time", "whole", "errors", "memory", "peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak(options.peak)
        return
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    torch.set_num_threads(options.threads)
    if "time" in options.parts:
        bench_time(options.repeats, clock)
    if "whole" in options.parts:
        bench_whole(options.repeats, clock)
    if "errors" in options.parts:
        bench_errors()
    if "memory" in options.parts:
        bench_memory()
    if "peer" in options.parts:
        bench_peer(options.repeats, clock)


if __name__ == "__main__":
    main()
