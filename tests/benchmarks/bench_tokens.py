"""What reading a text token by token costs: beside the loss of the same tokens from all logits, and on a page.

    python tests/benchmarks/bench_tokens.py [--threads 2] [--repeats 5] [--parts surprisal page transfer reliance]

Ratios are medians of interleaved repeats in one run, so that a drift of the machine hits both sides; measure on an idle one.

surprisal  GPT-2-small's shape with random weights, 8 x 128 tokens: token_surprisal (loss, entropy, varentropy, rank, top 5)
           beside the forward pass with all logits, and beside what one would write by hand with them
page       20,000 tokens of the held-out texts as one page: seconds, and bytes a token
transfer   values of 300,000 tokens moved to another tokenizer's tokens of the same million characters
reliance   the same 8 x 128 tokens with and without a head: token_reliance beside two plain forward passes
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from shared import D_VOCAB, medians, random_bridge, run_parts, show
from torch import Tensor

import tl_entropy as tle
from tl_entropy.functional.lens.reduced import Product, reduced_time
from tl_entropy.functional.tokens.characters import transfer

DOCUMENTS, LENGTH, CHARACTERS = 8, 128, 1_000_000


@cache
def bridge() -> Any:
    return random_bridge()


def tokens() -> Tensor:
    begun = torch.randint(0, D_VOCAB - 1, (DOCUMENTS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    begun[:, 0] = D_VOCAB - 1  # the BOS
    return begun


def plain() -> Tensor:
    with torch.no_grad():
        logits: Tensor = bridge()(tokens())
    return logits


def by_hand() -> tuple[Tensor, ...]:
    """The same numbers from all logits, as they are usually written, in float32."""
    ids = tokens()
    log_p = plain()[:, :-1].log_softmax(-1)
    p = log_p.exp()
    loss = -log_p.gather(-1, ids[:, 1:, None])
    entropy = -(p * log_p).sum(-1)
    varentropy = (p * (log_p + entropy[..., None]) ** 2).sum(-1)
    rank = (log_p > -loss).sum(-1)
    return loss[..., 0], entropy, varentropy, rank, *log_p.topk(5)


def bench_surprisal(repeats: int) -> None:
    ids = tokens()

    def ours(**options: Any) -> Callable[[], Any]:
        return lambda: tle.token_surprisal(bridge(), ids, progress=False, batch_size=DOCUMENTS, compiled=False, **options)

    variants: dict[str, Callable[[], Any]] = {
        "forward pass with all logits": plain,
        "by hand, from all logits": by_hand,
        "token_surprisal": ours(),
    }
    if reduced_time(Product(768, torch.float32, False)) <= 1.05:
        variants["token_surprisal, bfloat16 product"] = ours(precision="bfloat16")
    loss, entropy, *_ = (value.double().flatten() for value in by_hand()[:2])
    result = ours()()
    print(f"surprisal: {ids.shape[0]} x {ids.shape[1] - 1} tokens, {torch.get_num_threads()} threads")
    print(f"largest difference of the loss from that by hand: {(result.surprisal - loss).abs().max().item():.1e} nats")
    print(f"and of the entropy: {(result.entropy - entropy).abs().max().item():.1e} nats")
    show(medians(variants, repeats, time.perf_counter), {})


def bench_page(repeats: int) -> None:
    whole = tle.token_surprisal(tle.demo_model(), tle.demo_texts(), progress=False)
    counted = whole.per_document()["tokens"].cumsum()
    part = whole.select(documents=list(whole.documents)[: int((counted < 20_000).sum()) + 1])
    bare = tle.token_surprisal(tle.demo_model(), tle.demo_texts(len(part.documents)), top_k=0, progress=False)
    for name, result in (("with 5 most probable tokens", part), ("without", bare)):
        html = tle.plots.tokens(result).html
        print(f"page of {result.n_tokens} tokens, {name}: {len(html.encode()) / result.n_tokens:.0f} bytes a token")
    show(
        medians(
            {"page, top 5": lambda: tle.plots.tokens(part).html, "without": lambda: tle.plots.tokens(bare).html},
            repeats,
            time.perf_counter,
        ),
        {},
    )


def bench_transfer(repeats: int) -> None:
    rng = torch.Generator().manual_seed(0)

    def spans(count: int) -> Tensor:
        cuts = torch.randperm(CHARACTERS - 1, generator=rng)[: count - 1].sort().values + 1
        edges = torch.cat([torch.tensor([0]), cuts, torch.tensor([CHARACTERS])])
        return torch.stack([edges[:-1], edges[1:]], 1)

    source, target = spans(300_000), spans(250_000)
    values = torch.rand(len(source), generator=rng, dtype=torch.float64)
    moved = transfer(values, source, target, CHARACTERS)
    print(f"transfer: sums differ by {abs(moved.sum() - values.sum()).item() / values.sum().item():.1e} of their size")
    show(
        medians(
            {
                "sum": lambda: transfer(values, source, target, CHARACTERS),
                "mean": lambda: transfer(values, source, target, CHARACTERS, how="mean"),
            },
            repeats,
            time.perf_counter,
        ),
        {},
    )


def bench_reliance(repeats: int) -> None:
    ids, edit = tokens(), tle.ablate_heads([(3, 1)])

    def ours(*metrics: str) -> Callable[[], Any]:
        return lambda: tle.token_reliance(bridge(), ids, edit, metrics=metrics, batch_size=DOCUMENTS, progress=False)

    variants: dict[str, Callable[[], Any]] = {
        "two forward passes with all logits": lambda: (plain(), plain()),
        "token_reliance, l1, cosine, kl, loss": ours("l1", "cosine", "kl", "loss"),
        "token_reliance, loss": ours("loss"),
    }
    print(f"reliance: {ids.shape[0]} x {ids.shape[1] - 1} tokens, one head, {torch.get_num_threads()} threads")
    show(medians(variants, repeats, time.perf_counter), {})


if __name__ == "__main__":
    parts = {"surprisal": bench_surprisal, "page": bench_page, "transfer": bench_transfer, "reliance": bench_reliance}
    run_parts(__doc__, parts, repeats=5)
