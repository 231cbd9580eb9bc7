"""What soft_information costs beside the forward pass, and beside the package soft-entropy.

    python tests/benchmarks/bench_soft.py [--threads 2] [--repeats 9] [--parts overhead reference calibration]

Ratios are medians of interleaved repeats in one run, so that a drift of the machine hits both sides; measure on an idle one.

overhead     GPT-2-small's shape with random weights, 8 x 128 tokens: time of an update, as a share of the plain forward pass
reference    13 layers x 20,000 tokens x 768, labels token, bigram and next token: against the accumulator of soft-entropy
calibration  one temperature
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from shared import D_VOCAB, medians, random_bridge, run_parts, show

import tl_entropy as tle
from tl_entropy.batches import Batch, batches
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.functional import calibrate_temperature, soft_anchors

LABELS = ("token", "bigram", "next_token")
BINS, D_MODEL = 100, 768


def zipf_tokens(documents: int, length: int) -> torch.Tensor:
    """Tokens as frequent as words are."""
    frequency = 1 / torch.arange(1, D_VOCAB, dtype=torch.float64)
    draws = torch.multinomial(frequency, documents * length, replacement=True, generator=torch.Generator().manual_seed(0))
    return draws.view(documents, length)


def bridge() -> tle.Adapter:
    return tle.Adapter(random_bridge())


def in_turn(batch_list: list[Batch], activations: dict[Any, torch.Tensor], accumulator: Any) -> Callable[[], None]:
    """Update with the next batch at each call; all batches see the same activations, which are as good as any."""
    turn: Iterator[Batch] = iter(batch_list * 1000)
    return lambda: accumulator.update(next(turn), activations)


def bench_overhead(repeats: int) -> None:
    adapter, tokens = bridge(), zipf_tokens(160, 128)
    batch_list = list(batches(read_corpus(adapter, tokens), batch_size=8, max_tokens=1))
    plan = tle.label_plan(adapter, tokens, labels=LABELS)
    ways: dict[str, Any] = {
        "13 sites": {},
        "13 sites, 144 heads (z)": {"heads": "z"},
        "13 sites, 144 heads twice (z, result)": {"heads": True},
    }
    accumulators = {name: tle.SoftAccumulator(adapter, plan, **options) for name, options in ways.items()}
    first, mask = batch_list[0].tokens, batch_list[0].attention_mask
    variants: dict[str, Callable[[], Any]] = {"plain forward pass, with logits": lambda: adapter.logits(first, mask)}
    variants["forward pass to the last site"] = lambda: adapter.activations(first, mask, accumulators["13 sites"].sites)
    for name, accumulator in accumulators.items():
        variants[f"update: {name}"] = in_turn(batch_list, adapter.activations(first, mask, accumulator.sites), accumulator)
    print(f"8 x 128 tokens, labels {', '.join(LABELS)}, {BINS} bins, {torch.get_num_threads()} threads")
    print(plan)
    for name, accumulator in accumulators.items():
        print(f"sums of {name}: {accumulator.memory() / 2**20:.0f} MiB, without errors (folds=1): "
              f"{tle.SoftAccumulator(adapter, plan, folds=1, **ways[name]).memory() / 2**20:.0f} MiB")  # fmt: skip
    show(medians(variants, repeats, time.perf_counter), {})
    whole = {
        "all 20 forward passes, with logits": lambda: [adapter.logits(b.tokens, b.attention_mask) for b in batch_list],
        "soft_information, all in all": partial(
            tle.soft_information, adapter, tokens, labels=plan, batch_size=8, progress=False
        ),
    }
    show(medians(whole, 2, time.perf_counter), {})


def bench_reference(repeats: int) -> None:
    try:
        from soft_entropy.accumulator import SoftEntropyAccumulator
    except ImportError as error:
        print(f"reference: the peer is not installed ({error})\n")
        return
    adapter, tokens = bridge(), zipf_tokens(160, 127)
    batch_list = list(batches(read_corpus(adapter, tokens), batch_size=8, max_tokens=1))
    plan = tle.label_plan(adapter, tokens, labels=LABELS)
    sites = adapter.sites(("embed", "resid_post"))
    draw = torch.Generator().manual_seed(1)
    states = [[torch.randn(*b.tokens.shape, D_MODEL, generator=draw) for _ in sites] for b in batch_list]
    ids = [plan.ids[:, plan.slots(b.row_document, b.row_position)] for b in batch_list]
    kept = [(i >= 0).all(0) for i in ids]
    rows = [[s.flatten(0, 1)[keep] for s in layer] for layer, keep in zip(states, kept, strict=True)]
    labels = [dict(zip(LABELS, i[:, keep], strict=True)) for i, keep in zip(ids, kept, strict=True)]
    anchors = soft_anchors(D_MODEL, BINS).mT.contiguous()
    together = [torch.cat([r[i] for r in rows]) for i in range(len(sites))]
    labels_together = {name: torch.cat([part[name] for part in labels]) for name in LABELS}

    def theirs(by_layer: list[list[torch.Tensor]], parts: list[dict[str, torch.Tensor]]) -> list[dict[str, float]]:
        found = []
        for i in range(len(sites)):
            peer = SoftEntropyAccumulator(d=D_MODEL, n_bins=BINS, backend="torch")
            for batch, part in zip(by_layer, parts, strict=True):
                peer.update(batch[i], part)
            found.append(peer.results())
        return found

    def products() -> None:
        for batch in rows:
            for state in batch:
                state @ anchors

    def ours(**options: Any) -> Any:
        accumulator = tle.SoftAccumulator(adapter, plan, **options)
        for batch, layers in zip(batch_list, states, strict=True):
            accumulator.update(batch, dict(zip(sites, layers, strict=True)))
        return accumulator.compute()

    variants: dict[str, Callable[[], Any]] = {
        "soft-entropy 0.1.5, 20 updates": lambda: theirs(rows, labels),
        "soft-entropy 0.1.5, one update of all": lambda: theirs([together], [labels_together]),
        "products with the anchors alone": products,
        "ours, 20 updates": ours,
        "ours, without errors (folds=1)": partial(ours, folds=1),
    }
    print(f"{sum(map(int, map(sum, kept)))} tokens x {len(sites)} layers x {D_MODEL}, {torch.get_num_threads()} threads")
    show(medians(variants, repeats, time.perf_counter), {})


def bench_calibration(repeats: int) -> None:
    print("one temperature, not seen before: slowest of 200")
    slowest = 0.0
    for i in range(200):
        start = time.perf_counter()
        calibrate_temperature(int(2 * 1.055**i), 2 + 50 * i)
        slowest = max(slowest, time.perf_counter() - start)
    print(f"{slowest * 1000:.2f} ms\n")


if __name__ == "__main__":
    run_parts(__doc__, {"overhead": bench_overhead, "reference": bench_reference, "calibration": bench_calibration}, repeats=9)
