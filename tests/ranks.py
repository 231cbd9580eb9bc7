"""What every process of a test of several processes does: one scenario, and one line of JSON that says what it saw."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings

import torch
from states import TOKENS, differences, model

import tl_entropy as tle
from tl_entropy.errors import ProcessError

RANK, SIZE = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
READ = {"progress": False, "window": 6, "batch_size": 1}
LONGER = [row for row in TOKENS if len(row) > 1]
TEXTS = ["def f(x):\n    return x", "", "the cat sat", "on the mat", "and the dog"]


def functions():
    """Every streaming analysis, as a user calls it."""
    m = model()
    return {
        "lens_entropy": lambda: tle.lens_entropy(m, TOKENS, orders=(1, 2), top_k=2, surprisal=True, **READ),
        "its summary": lambda: tle.lens_entropy(m, TOKENS, keep="summary", **READ),
        "of texts": lambda: tle.lens_entropy(m, TEXTS, keep="summary", **READ),
        "of one": lambda: tle.lens_entropy(m, TOKENS[:1], **READ),
        "of a generator": lambda: tle.lens_entropy(m, (row for row in [*TOKENS, *TOKENS]), **READ),
        "of a cache": lambda: tle.lens_entropy(m, cached(m), progress=False),
        "of some": lambda: tle.lens_entropy(m, TOKENS, documents=[range(1, 3), range(5, 8)], **READ),
        "of sampled text": lambda: tle.lens_entropy(
            m, LONGER, max_new_tokens=2, temperature=1.0, seed=3, batch_size=2, progress=False
        ),
        "layer_divergence": lambda: tle.layer_divergence(m, TOKENS, **READ),
        "head_entropy": lambda: tle.head_entropy(m, TOKENS, **READ),
        "token_surprisal": lambda: tle.token_surprisal(m, TEXTS, **READ),
        "surprisal's summary": lambda: tle.token_surprisal(m, TEXTS, keep="summary", **READ),
        "token_reliance": lambda: tle.token_reliance(m, TOKENS, tle.ablate_heads([(0, 1)]), metrics=("kl",), **READ),
        "gradient_reliance": lambda: tle.gradient_reliance(m, LONGER, "embed", progress=False),
        "layer_geometry": lambda: tle.layer_geometry(m, TOKENS, n_samples=20, **READ),
        "cka": lambda: tle.layer_similarity(m, TOKENS, **READ),
        "matrices": lambda: tle.layer_similarity(m, TOKENS, method="matrix_renyi", n_samples=20, permutations=2, **READ),
        "over documents": lambda: tle.layer_similarity(m, TOKENS, rows="documents", **READ),
        "soft_information": lambda: tle.soft_information(m, TOKENS, heads=True, n_bins=(5, 8), folds=3, center=True, **READ),
        "compare_models": lambda: tle.compare_models({"a": m, "b": m}, TOKENS, progress=False, batch_size=1),
    }


def cached(m):
    tokens = torch.tensor([[2, 3, 4, 5]])
    return m.given.run_with_cache(tokens)[1], tokens


def same():
    """Of every function, where it differs from this process alone."""
    found = {}
    for name, run in functions().items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            shared = run()
        with tle.alone(), warnings.catch_warnings(record=True) as told_alone:
            warnings.simplefilter("always")
            whole = run()
        found[name] = differences(whole, shared)
        expected = sorted({str(one.message) for one in told_alone}) if RANK == 0 else []
        if sorted({str(one.message) for one in told}) != expected:
            found[name].append(f"warnings: {sorted({str(one.message) for one in told})} and {expected}")
    return found


def failing(end):
    """One process fails at its second document; what each has then."""

    def rows():
        for i, row in enumerate([*TOKENS, *TOKENS, *TOKENS, *TOKENS]):
            if i == 30 and RANK == SIZE - 1:
                end()
            yield row

    try:
        tle.lens_entropy(model(), rows(), **READ)
    except Exception as error:
        partial = getattr(error, "partial", None)
        return [type(error).__name__, str(error), None if partial is None else partial.n_tokens]
    return None


def broken():
    raise OSError("the disk is gone")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def refused(run):
    try:
        run()
    except (ProcessError, tle.InputError) as error:
        return [type(error).__name__, str(error)]
    return None


def shuffled():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(RANK)).tolist()
    return refused(lambda: tle.lens_entropy(model(), (TOKENS[i % 6] + i for i in order), **READ))


def others():
    orders = (1.0,) if RANK == 0 else (2.0,)
    return [
        refused(lambda: (tle.lens_entropy if RANK == 0 else tle.head_entropy)(model(), TOKENS, **READ)),
        refused(lambda: tle.lens_entropy(model(), TOKENS, orders=orders, **READ)),
        refused(lambda: tle.lens_entropy(model(), TOKENS[: 8 - RANK], **READ)),
    ]


SCENARIOS = {
    "same": same, "raises": lambda: failing(broken), "dies": lambda: failing(killed), "shuffled": shuffled, "others": others,
}  # fmt: skip

if __name__ == "__main__":
    sys.stdout.write(f"SAW {json.dumps(SCENARIOS[sys.argv[1]]())}\n")
