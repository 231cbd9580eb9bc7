"""What the benchmarks share: interleaved timing, a table of ratios, and a GPT-2 of the small shape with random weights."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch

D_VOCAB = 50257
FOLDER = tempfile.TemporaryDirectory()  # TransformerLens reads the tokenizer again: it stays till the end


def medians(variants: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median seconds of each variant; the first round, in which caches fill, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, run in variants.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def show(seconds: dict[str, float], errors: dict[str, float]) -> None:
    """Print a table, in Markdown, of times beside the first's."""
    reference = next(iter(seconds.values()))
    print(f"| {'variant':<34} | seconds | ratio | speed-up | error |\n|{'-' * 36}|--------:|------:|---------:|------:|")
    for name, value in seconds.items():
        error = f"{errors[name]:.0e}" if name in errors else ""
        print(f"| {name:<34} | {value:7.3f} | {value / reference:5.2f} | {reference / value:8.1f} | {error:>5} |")
    print()


def run_parts(doc: str | None, parts: dict[str, Callable[[int], None]], *, repeats: int) -> None:
    """Run the parts that the command line names, all without any."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--parts", nargs="+", choices=tuple(parts), default=tuple(parts))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part in options.parts:
        parts[part](options.repeats)


def random_model() -> tuple[Any, Any]:
    """Return a GPT-2 of the small shape with random weights, and a word tokenizer: nothing is downloaded."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    model.config.architectures = ["GPT2LMHeadModel"]
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(D_VOCAB - 1)} | {"<end>": D_VOCAB - 1}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<end>", eos_token="<end>", pad_token="<end>")
    fast.save_pretrained(FOLDER.name)
    return model, PreTrainedTokenizerFast.from_pretrained(FOLDER.name)


def random_bridge() -> Any:
    """Return the same model as a TransformerBridge."""
    from transformer_lens.model_bridge import TransformerBridge

    model, tokenizer = random_model()
    return TransformerBridge.boot_transformers("x/y", hf_model=model, tokenizer=tokenizer, device="cpu")
