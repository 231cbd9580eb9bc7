"""Peak memory of every analysis that keeps sums alone, after 400, 4,000 and 40,000 documents: each in a process of its own.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_memory.py [name ...]

Texts of six tokens come from a generator that nobody knows the length of. Printed is the peak of the whole process (its
resident set) beyond what it held after the model was loaded, and how much more that is than after 400 documents, as a share of
the whole peak. Label tables of soft information, which do grow, are told by their own size.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES = (400, 4_000, 40_000)
WORDS = ["the", "cat", "sat", "on", "mat", "dog", "and", "def", "return", "import", "x", "f"]


class Texts:
    """Texts that can be read again, of which nobody knows how many there are."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        import random

        for i in range(self.n):
            draw = random.Random(i)
            yield " ".join(draw.choice(WORDS) for _ in range(6))


def analyses():
    """Names and functions of a model and texts."""
    import tl_entropy as tle

    quiet = {"progress": False}
    sums = {**quiet, "keep": "summary"}
    return {
        "lens_entropy": partial(tle.lens_entropy, **sums),
        "layer_divergence": partial(tle.layer_divergence, **sums),
        "head_entropy": partial(tle.head_entropy, **sums),
        "head_entropy, readout": partial(tle.head_entropy, of="readout", **sums),
        "token_surprisal": partial(tle.token_surprisal, **sums),
        "layer_similarity": partial(tle.layer_similarity, **quiet),
        "layer_similarity, minibatch": partial(tle.layer_similarity, estimator="minibatch", **quiet),
        "layer_similarity, documents": partial(tle.layer_similarity, rows="documents", n_documents=300, **quiet),
        "layer_geometry": partial(tle.layer_geometry, n_documents=300, **quiet),
        "soft_information": partial(tle.soft_information, n_bins=20, layers=[-1], **quiet),
        "site_means": lambda model, texts: tle.site_means(model, texts, "resid_post", **quiet),
        "head_means": partial(tle.head_means, **quiet),
    }


def peak():
    """MB of the process's largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name, n):
    """Print the peak before and after one analysis of ``n`` documents."""
    import warnings

    from tiny_models import cached_model, kinds

    warnings.simplefilter("ignore")
    model = cached_model("gpt2", kinds()[0])
    before = peak()
    analyses()[name](model, Texts(n))
    print(before, peak())


def main(names):
    print(f"{'MB beyond the loaded model':32}", *(f"{n:>9,}" for n in SIZES), "   more than at the first, of the whole peak")
    for name in names or analyses():
        found = []
        for n in SIZES:
            run = subprocess.run([sys.executable, __file__, "--one", name, str(n)], capture_output=True, text=True, check=True)
            found.append(tuple(map(float, run.stdout.split())))
        beyond = [after - before for before, after in found]
        share = found[-1][1] / found[0][1] - 1
        print(f"{name:32}", *(f"{value:9.1f}" for value in beyond), f"{share:10.1%}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1:])
