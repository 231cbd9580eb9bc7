"""How long all pairs of many entropy profiles take, beside the package entropy-profiler.

    python tests/benchmarks/bench_distances.py [--profiles 300] [--layers 24] [--tokens 64] [--threads 2]

Seconds of one run for each metric; measure on an idle machine. ``--clock cpu`` takes processor time instead of wall-clock time:
for a busy machine, and with one thread. The package is measured on as many profiles as make about --pairs pairs, of the same
size, and its seconds are scaled by the number of pairs; both numbers are printed. The error is the largest difference between
our distances and its own on these pairs, in nats, radians or √nats (it works in float32). What it does not have, elastic
distances and chance levels, stands below, for one pair.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from tl_entropy.functional.profiles.chance import histogram_jsd_chance, wasserstein_chance
from tl_entropy.functional.profiles.curves import elastic_srvf_distance
from tl_entropy.functional.profiles.pairwise import pairwise_curves, pairwise_samples


def seconds(run: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, Any]:
    start = clock()
    result = run()
    return clock() - start, result


def random_profiles(number: int, layers: int, tokens: int) -> list[torch.Tensor]:
    """Return entropies that fall over depth, each profile with a level of its own, in float32."""
    generator = torch.Generator().manual_seed(0)
    fall = torch.linspace(10, 3, layers)
    levels = torch.rand(number, generator=generator)
    return [fall * (0.5 + level) * torch.rand(tokens, layers, generator=generator).sqrt() for level in levels]


def ours(profiles: list[torch.Tensor], metric: Any) -> torch.Tensor:
    if metric in ("wasserstein", "jsd"):
        return pairwise_samples(profiles, metric)
    return pairwise_curves(torch.stack([profile.mean(0) for profile in profiles]), metric)


def package_run(profiles: list[torch.Tensor], metric: str) -> Callable[[], Any] | None:
    try:
        import entropy_profiler as package
    except ImportError:
        return None
    tokens, layers = profiles[0].shape
    theirs = [package.EntropyProfile(e, torch.zeros(tokens), list(range(layers)), 1.0, "random") for e in profiles]
    return lambda: torch.from_numpy(package.pairwise_distances(theirs, metric=metric))


def bench_pairs(profiles: list[torch.Tensor], pairs: int, clock: Callable[[], float]) -> None:
    pairwise_samples(profiles[:2], "jsd")  # what is loaded on first use
    every = len(profiles) * (len(profiles) - 1) // 2
    few = min(len(profiles), math.ceil((1 + math.sqrt(1 + 8 * pairs)) / 2))
    measured = few * (few - 1) // 2
    print(f"{'metric':<14}{'seconds':>9}{f'package, {measured} pairs':>24}{f'scaled to {every}':>20}{'ratio':>9}{'error':>10}")
    for metric in ("jsd", "wasserstein", "fisher_rao", "srvf", "euclidean"):
        taken, found = seconds(lambda metric=metric: ours(profiles, metric), clock)
        run = None if metric == "euclidean" else package_run(profiles[:few], metric)
        if run is None:
            print(f"{metric:<14}{taken:>9.3f}")
            continue
        theirs, expected = seconds(run, clock)
        scaled = theirs * every / measured
        mean = found.mean(-1) if found.dim() == 3 else found
        expected = expected * math.log(2) if metric == "jsd" else expected
        error = (mean[:few, :few] - expected).abs().max().item()
        print(f"{metric:<14}{taken:>9.3f}{theirs:>24.3f}{scaled:>20.1f}{scaled / taken:>9.0f}{error:>10.1e}")
    print()


def bench_single(profiles: list[torch.Tensor], clock: Callable[[], float]) -> None:
    a, b = (profile.T for profile in profiles[:2])
    long_a, long_b = (torch.randn(24, 45_000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    variants: dict[str, Callable[[], Any]] = {
        f"elastic, a pair of {len(a)} layers": lambda: elastic_srvf_distance(a.mean(-1), b.mean(-1)),
        f"chance of jsd, {len(a)} layers": lambda: histogram_jsd_chance(a, b),
        f"chance of wasserstein, {len(a)} layers": lambda: wasserstein_chance(a, b),
        "chance of jsd, 24 x 90,000 values": lambda: histogram_jsd_chance(long_a, long_b),
        "chance of wasserstein, 24 x 90,000 values": lambda: wasserstein_chance(long_a, long_b),
    }
    for name, run in variants.items():
        try:
            run()
        except ImportError as error:
            print(f"{name}: {error}")
            continue
        print(f"{name:<46}{seconds(run, clock)[0]:>10.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=300)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=300, help="pairs on which the package is measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    torch.set_num_threads(options.threads)
    profiles = random_profiles(options.profiles, options.layers, options.tokens)
    size = f"{options.profiles} profiles x {options.layers} layers x {options.tokens} tokens"
    print(f"{size}, {options.threads} threads, {options.clock} clock")
    bench_pairs(profiles, options.pairs, clock)
    bench_single(profiles, clock)


if __name__ == "__main__":
    main()
