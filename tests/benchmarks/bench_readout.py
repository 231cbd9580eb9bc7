"""How long vocabulary_statistics takes, how much memory and how far off it is, beside the plain product and two peers.

    python tests/benchmarks/bench_readout.py [--threads 2] [--repeats 5] [--parts product few limit lens profiler memory]

Ratios are medians of interleaved repeats in one run, so that a drift of the machine hits both sides; measure on an idle one.
``--clock cpu`` takes processor time instead of wall-clock time: for a busy machine, and with one thread.

product   GPT-2's shape, 512 rows, against ``hidden @ W_U`` with all logits freshly allocated
few       the same of 1 to 32 rows: float32, W_U rounded anew and W_U held in bfloat16, laid out either way
limit     the shapes of GPT-2 and of SmolLM2: what the products of all tiles take by themselves
lens      13 sites x 96 positions against transformer_lens' logit_lens, one thread
profiler  64 prompt and 32 generated tokens against entropy-profiler, its generation not counted, one thread
memory    peak memory beyond what was there before, each variant in a process of its own
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shared import D_VOCAB, medians, random_bridge, random_model, show

from tl_entropy.functional import compiler_available, renyi_entropy, vocabulary_statistics
from tl_entropy.functional.lens.readout import Reader
from tl_entropy.functional.lens.reduced import Product, reduced_time

D_MODEL, ROWS = 768, 512
ORDERS = (0.5, 1.0, 2.0, 5.0)
SITES, POSITIONS, TOP_K = 13, 96, 5
REDUCED = reduced_time(Product(D_MODEL, torch.float32, False))
PRECISIONS = ("float32", "bfloat16") if REDUCED <= 1.05 else ("float32",)
"""Those that help on this processor: others are refused."""

WAYS: dict[str, dict[str, Any]] = {
    f"{way} {precision}": {"compiled": way == "compiled", "precision": precision}
    for precision in PRECISIONS
    for way in ("eager", "compiled")
}


def random_readout(rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, D_MODEL, generator=generator)
    return hidden, torch.randn(D_MODEL, D_VOCAB, generator=generator) * 0.1


def product_variants() -> dict[str, Callable[[], Any]]:
    hidden, unembedding = random_readout()
    transposed, half = unembedding.t().contiguous().t(), unembedding.bfloat16()

    def ours(weights: torch.Tensor = unembedding, **options: Any) -> Callable[[], Any]:
        options.setdefault("compiled", False)
        return lambda: vocabulary_statistics(hidden, weights, orders=ORDERS, **options)

    variants: dict[str, Callable[[], Any]] = {
        "hidden @ W_U, all logits": lambda: hidden @ unembedding,
        "eager float32": ours(),
        "eager float32, W_U transposed": ours(transposed),
    }
    if "bfloat16" in PRECISIONS:
        variants["eager bfloat16"] = ours(precision="bfloat16")
        variants["eager bfloat16, W_U in bfloat16"] = ours(half, precision="bfloat16")
    else:
        print("bfloat16: no units for it in this processor, so it is refused")
    if compiler_available():
        variants["compiled float32"] = ours(compiled=True)
        variants |= {"compiled bfloat16": ours(compiled=True, precision="bfloat16")} if "bfloat16" in PRECISIONS else {}
    else:
        print("compiled: no C++ compiler found")
    return variants


def bench_product(repeats: int, clock: Callable[[], float]) -> None:
    variants = product_variants()
    hidden, unembedding = random_readout()
    exact = renyi_entropy(hidden[:64].double() @ unembedding.double(), ORDERS)
    rounded = renyi_entropy(hidden[:64].double() @ unembedding.bfloat16().double(), ORDERS)
    errors = {}
    for name, run in list(variants.items())[1:]:
        truth = rounded if "W_U in bfloat16" in name else exact
        errors[name] = (run().entropies[:64] - truth).abs().max().item()
    print(f"{ROWS} rows x {D_MODEL} x {D_VOCAB}, orders {ORDERS}, {torch.get_num_threads()} threads")
    show(medians(variants, repeats, clock), errors)


def bench_few(repeats: int, clock: Callable[[], float]) -> None:
    if "bfloat16" not in PRECISIONS:
        print("bfloat16: no units for it in this processor, so it is refused")
        return
    hidden, unembedding = random_readout(32)
    for name, weights in (("[d_model, d_vocab]", unembedding), ("[d_vocab, d_model]", unembedding.t().contiguous().t())):
        half = weights.bfloat16()
        for rows in (1, 2, 3, 4, 6, 8, 16, 32):

            def ours(weights: torch.Tensor, precision: Any, rows: int = rows) -> Callable[[], Any]:
                return lambda: vocabulary_statistics(hidden[:rows], weights, precision=precision, compiled=False)

            variants = {
                "float32": ours(weights, "float32"),
                "bfloat16, rounded anew": ours(weights, "bfloat16"),
                "bfloat16, held": ours(half, "bfloat16"),
            }
            print(f"{rows} rows, W_U {name}, {torch.get_num_threads()} threads")
            show(medians(variants, repeats, clock), {})


def bench_limit(repeats: int, clock: Callable[[], float]) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, n_sites, rows, d_model, d_vocab in (("GPT-2", 1, 512, 768, D_VOCAB), ("SmolLM2", 31, 256, 576, 49152)):
        hidden = torch.randn(n_sites * rows, d_model, generator=generator)
        unembedding = torch.randn(d_model, d_vocab, generator=generator) * 0.1

        def plain(hidden: torch.Tensor = hidden, unembedding: torch.Tensor = unembedding, rows: int = rows) -> None:
            for site in hidden.split(rows):
                site @ unembedding

        def tiles(hidden: torch.Tensor = hidden, unembedding: torch.Tensor = unembedding) -> None:
            options: dict[str, Any] = {"bias": None, "scale": 1.0, "softcap": None, "targets": None, "top_k": 0}
            reader = Reader.open(hidden, unembedding, orders=ORDERS, precision="float32", compiled=False, **options)
            for part, _, _ in reader.blocks(hidden, None):
                reader.products.begin(part)
                for _ in reader.products.tiles():
                    pass

        def ours(compiled: bool, hidden: torch.Tensor = hidden, unembedding: torch.Tensor = unembedding) -> Callable[[], Any]:
            return lambda: vocabulary_statistics(hidden, unembedding, orders=ORDERS, compiled=compiled)

        variants = {"hidden @ W_U, all logits by site": plain, "products of all tiles alone": tiles, "eager": ours(False)}
        variants |= {"compiled": ours(True)} if compiler_available() else {}
        print(f"{name}: {n_sites} x {rows} rows x {d_model} x {d_vocab}, {torch.get_num_threads()} threads")
        show(medians(variants, repeats, clock), {})


def lens_variants() -> dict[str, Callable[[], Any]]:
    from transformer_lens.tools.analysis.logit_lens import logit_lens

    model = random_bridge()
    tokens = torch.randint(0, D_VOCAB - 1, (1, POSITIONS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        stack = cache.accumulated_resid(layer=-1)

    def ours(**options: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad():
                rows = torch.cat([model.ln_final(site)[0] for site in stack])
                return vocabulary_statistics(rows, model.W_U, bias=model.b_U, top_k=TOP_K, **options)

        return run

    return {
        "transformer_lens logit_lens": lambda: logit_lens(model, tokens, cache=cache, positions=None, top_k=TOP_K),
        "logit_lens, as called by default": lambda: logit_lens(model, tokens, cache=cache, positions=None),
        **{name: ours(**options) for name, options in WAYS.items() if options["compiled"] <= compiler_available()},
    }


def bench_lens(repeats: int, clock: Callable[[], float]) -> None:
    torch.set_num_threads(1)
    try:
        variants = lens_variants()
    except ImportError as error:
        print(f"lens: the peer is not installed ({error})\n")
        return
    peer = variants["transformer_lens logit_lens"]().readout.entropy.double().flatten()
    names = [name for name in variants if name in WAYS]
    errors = {name: (variants[name]().entropies[:, 0] - peer).abs().max().item() for name in names}
    print(f"{SITES} sites x {POSITIONS} positions, entropy and the {TOP_K} likeliest tokens, 1 thread; error: against the peer")
    show(medians(variants, repeats, clock), errors)


def bench_profiler(repeats: int, clock: Callable[[], float]) -> None:
    torch.set_num_threads(1)
    try:
        from entropy_profiler.profiler import EntropyProfiler
    except ImportError as error:
        print(f"profiler: the peer is not installed ({error})\n")
        return
    model, tokenizer = random_model()
    peer = EntropyProfiler.__new__(EntropyProfiler)  # its constructor downloads
    peer.model, peer.tokenizer, peer.device = model, tokenizer, "cpu"
    peer.alpha, peer.layer_stride, peer.model_name = 1.0, 1, "random"
    peer._ln, peer._lm_head = model.transformer.ln_f, model.lm_head
    prompt = torch.randint(0, D_VOCAB - 1, (1, 64), generator=torch.Generator().manual_seed(1))
    generated = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=32,
        min_new_tokens=32,
        do_sample=False,
        output_hidden_states=True,
        return_dict_in_generate=True,
        pad_token_id=tokenizer.pad_token_id,
    )

    with torch.no_grad():
        read = model(prompt, output_hidden_states=True, return_dict=True)
    peer.model = lambda *args, **kwargs: read  # the lens alone is timed: both sides are given the hidden states

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        return torch.cat([peer._profile_prompt(prompt), peer._compute_entropy_from_generation(generated.hidden_states)])

    def ours(**options: Any) -> Callable[[], torch.Tensor]:
        @torch.no_grad()
        def run() -> torch.Tensor:
            before = read.hidden_states
            sites = [[state[0], *(step[i][0, -1:] for step in generated.hidden_states)] for i, state in enumerate(before)][1:]
            stack = torch.stack([torch.cat(rows) for rows in sites])
            stack[:-1] = model.transformer.ln_f(stack[:-1])  # the last is normed already
            found = vocabulary_statistics(stack.flatten(0, 1), model.lm_head.weight.t(), **options)
            return found.entropies.reshape(stack.shape[:2]).t()

        return run

    variants = {"entropy-profiler": theirs}
    variants |= {name: ours(**options) for name, options in WAYS.items() if options["compiled"] <= compiler_available()}
    expected = theirs()[:, :-1].double()  # its last layer is normed twice
    errors = {name: (variants[name]()[:, :-1] - expected).abs().max().item() for name in list(variants)[1:]}
    print("64 prompt + 32 generated tokens x 12 layers, the lens alone, 1 thread; error: against the peer")
    show(medians(variants, repeats, clock), errors)


def resident(field: str) -> float:
    """Return this process's VmRSS (now) or VmHWM (high-water mark) in megabytes, from Linux's /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak(part: str, name: str) -> None:
    """Print the megabytes by which one run of a variant rises above what the process held before it."""
    torch.set_num_threads(1)
    run = (product_variants() if part == "product" else lens_variants())[name]
    torch.ones(64, 64) @ torch.ones(64, 64)
    vocabulary_statistics(torch.ones(2, 4), torch.ones(4, 8), precision=PRECISIONS[-1], top_k=1)  # loads the libraries
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that the process still holds would hide what the run takes
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
    run()
    print(f"{resident('VmHWM') - before:.0f}")


def bench_memory() -> None:
    print(f"{'part':<10}{'variant':<34}{'peak MB beyond before':>22}")
    names = {
        "product": ("hidden @ W_U, all logits", *(f"eager {precision}" for precision in PRECISIONS)),
        "lens": (
            "transformer_lens logit_lens",
            "logit_lens, as called by default",
            *(f"eager {precision}" for precision in PRECISIONS),
        ),
    }
    for part, variants in names.items():
        for name in variants:
            command = [sys.executable, "-W", "ignore", __file__, "--peak", part, name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            answer = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else "failed: " + done.stderr[-200:]
            print(f"{part:<10}{name:<34}{answer:>22}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ("product", "few", "limit", "lens", "profiler", "memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak(*options.peak)
        return
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    torch.set_num_threads(options.threads)
    for part, run in (
        ("product", bench_product), ("few", bench_few), ("limit", bench_limit), ("lens", bench_lens),
        ("profiler", bench_profiler),
    ):  # fmt: skip
        if part in options.parts:
            run(options.repeats, clock)
    if "memory" in options.parts:
        bench_memory()


if __name__ == "__main__":
    main()
