"""Peak memory of every analysis that keeps sums alone, after 10⁴ to 10⁷ tokens: each in a process of its own.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_memory.py [--tokens 10_000 100_000 1_000_000] [--length 50] [name ...]
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_memory.py --small --tokens 10_000 100_000 10_000_000 [name ...]

Texts of so many tokens come from a generator that nobody knows the length of; with ``--small`` they are documents of 100 tokens
for a model of two layers, d_model 16 and 100 tokens, which reads ten million of them in minutes; ``--small 1`` is one of a
layer and d_model 8, for half of that. Printed is the peak of the whole process (its resident set) beyond what it held after
the model was loaded, and how much more the whole peak is than at the first size. The plan of labels of soft information, which
does grow, is there by itself, too.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "and", "def", "return", "import", "x", "f"]
FOLDER = tempfile.TemporaryDirectory()
TOKENS = ("effective_rank", "anisotropy", "two_nn", "prompt_entropy", "curvature")
"""The measures of geometry that know tokens alone."""


class Texts:
    """Texts that can be read again, of which nobody knows how many there are."""

    def __init__(self, n, length):
        self.n, self.length = n, length

    def __iter__(self):
        import random

        for i in range(self.n):
            draw = random.Random(i)
            yield " ".join(draw.choice(WORDS) for _ in range(self.length))


class Tokens(Texts):
    """The same of tokens; each document is a turn of one of 50."""

    def __iter__(self):
        import torch

        draw = torch.Generator().manual_seed(0)
        few = torch.randint(1, 100, (50, self.length), generator=draw)
        for i in range(self.n):
            yield few[i % 50].roll(i // 50)


def small_model(layers):
    """A GPT-2 of so many layers, a d_model of 8 for each, and 100 tokens, as a TransformerBridge."""
    import torch
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = {"n_embd": 8 * layers, "n_layer": layers, "n_head": layers}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_positions=512, **shape)).eval()
    model.config.architectures = ["GPT2LMHeadModel"]
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0", pad_token="w0")
    tokenizer.save_pretrained(FOLDER.name)  # TransformerLens reads it again
    tokenizer = PreTrainedTokenizerFast.from_pretrained(FOLDER.name)
    return TransformerBridge.boot_transformers("x/y", hf_model=model, tokenizer=tokenizer, device="cpu")


def analyses():
    """Names and functions of a model and texts."""
    import tl_entropy as tle

    quiet = {"progress": False}
    sums = {**quiet, "keep": "summary"}
    return {
        "lens_entropy": partial(tle.lens_entropy, **sums),
        "lens_entropy, three orders": partial(tle.lens_entropy, orders=(0.5, 1, 2), **sums),
        "layer_divergence": partial(tle.layer_divergence, **sums),
        "layer_divergence, previous": partial(tle.layer_divergence, against="previous", **sums),
        "layer_divergence, targets": partial(tle.layer_divergence, metrics=("jsd",), targets=[1, 2], **sums),
        "head_entropy": partial(tle.head_entropy, **sums),
        "head_entropy, readout": partial(tle.head_entropy, of="readout", **sums),
        "token_surprisal": partial(tle.token_surprisal, **sums),
        "layer_similarity": partial(tle.layer_similarity, **quiet),
        "layer_similarity, minibatch": partial(tle.layer_similarity, estimator="minibatch", **quiet),
        "layer_similarity, matrices": partial(
            tle.layer_similarity, method="matrix_renyi", n_samples=200, permutations=2, **quiet
        ),
        "layer_similarity, neighbours": partial(tle.layer_similarity, method="neighbours", n_samples=200, **quiet),
        "layer_similarity, documents": partial(tle.layer_similarity, rows="documents", n_documents=300, **quiet),
        "layer_geometry": partial(tle.layer_geometry, n_documents=300, **quiet),
        "layer_geometry, tokens": partial(tle.layer_geometry, measures=TOKENS, n_samples=500, **quiet),
        "soft_information": partial(tle.soft_information, n_bins=20, layers=[-1], **quiet),
        "label_plan": lambda model, texts: tle.label_plan(model, texts),
        "soft_information, assignments": lambda model, texts: tle.soft_information(
            model, texts, n_bins=20, layers=[-1], keep="assignments", folder=tempfile.mkdtemp(), **quiet
        ),
        "site_means": lambda model, texts: tle.site_means(model, texts, "resid_post", **quiet),
        "head_means": partial(tle.head_means, **quiet),
        "confidence": partial(tle.confidence, **sums),
        "confidence at sites": partial(tle.confidence, sites=("embed", "resid_post"), **sums),
        "unigram_distance": partial(tle.unigram_distance, **sums),
        "neurons": partial(tle.neurons, candidates=2, placebos=4, **quiet),
        "layer_divergence, settled": partial(tle.layer_divergence, metrics=("jsd",), settled=(0.5, "bits"), **sums),
        "placebo": lambda model, texts: tle.placebo(model, texts, tle.ablate_heads([(0, 1)]), _costs, n=2),
        "neighbours": partial(tle.layer_similarity, method="neighbours", n_samples=200, **quiet),
        # What is a row of the result is kept, so that these grow:
        "sensitivity": partial(tle.sensitivity, edits=["int4"], sites="mlp_out.-1", **quiet),
        "entropy_calibration": partial(tle.entropy_calibration, prompt_tokens=2, steps=3, **quiet),
        "token_surprisal, positions": partial(tle.token_surprisal, **quiet),
        "words": lambda model, texts: tle.token_surprisal(model, texts, words=True, **quiet).word_surprisal(),
        "span_features": lambda model, texts: tle.span_features(tle.token_surprisal(model, texts, **quiet)),
        "memories": lambda model, texts: tle.memories(_with_memory(), texts, **quiet),
    }


def _costs(model, inputs, interventions):
    """The mean surprisal under an edit, by sums alone."""
    import tl_entropy as tle

    found = tle.token_surprisal(model, inputs, interventions=interventions, keep="summary", progress=False)
    return float(found.sums[4] / found.sums[1])


def _with_memory():
    import tl_entropy as tle

    config = tle.EstimationConfig(kind="memory", n_ctx=64, d_model=32, n_layers=2, numbers=4)
    return tle.estimation_model(config, "bytes")


def peak():
    """MB of the process's largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name, tokens, length, small):
    """Print the peak before and after one analysis of so many tokens, and the seconds of the processor that it took."""
    import warnings

    from tiny_models import cached_model, kinds

    warnings.simplefilter("ignore")
    model, kind = (small_model(small), Tokens) if small else (cached_model("gpt2", kinds()[0]), Texts)
    before, begun = peak(), time.process_time()
    analyses()[name](model, kind(tokens // length, length))
    print(before, peak(), time.process_time() - begun)


def main():
    """Print a line for each analysis."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tokens", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--length", type=int)
    parser.add_argument(
        "--small", nargs="?", type=int, const=2, help="documents of 100 tokens, a model of two layers or of so many"
    )
    parser.add_argument("--one", action="store_true", help="measure in this process")
    asked = parser.parse_args()
    length = asked.length or (100 if asked.small else 50)
    if asked.one:
        one(asked.names[0], asked.tokens[0], length, asked.small)
        return
    print(
        f"{'MB beyond the loaded model':32}",
        *(f"{n:>11,}" for n in asked.tokens),
        "   more than at the first, of the whole peak",
    )
    for name in asked.names or analyses():
        found = []
        for n in asked.tokens:
            command = [sys.executable, __file__, "--one", name, "--tokens", str(n), "--length", str(length)]
            command += [] if asked.small is None else ["--small", str(asked.small)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(tuple(map(float, run.stdout.split())))
        shares = [f"{after / found[0][1] - 1:.1%}" for _, after, _ in found[1:]]
        told = f"{found[-1][2]:.0f} s of a processor"
        print(f"{name:32}", *(f"{after - before:11.1f}" for before, after, _ in found), "  ", *shares, "  ", told, flush=True)


if __name__ == "__main__":
    main()
