"""Writes a small result of every kind, and what it says: its numbers, its print and its table.

    python tests/results/saved_by_0_5_0/make.py FOLDER

The files beside this script are what it wrote under tl_entropy 0.5.0; ``expected.json`` names the other versions. They stay as
they are, so that later versions are held to reading them. A kind of result that came later has no file here.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

import pandas as pd
import torch
from digests import digests
from tiny_models import cached_model, kinds, make_model

import tl_entropy as tle

QUIET = {"progress": False}
TEXTS = ["def f(x):\n    return x + 1\n", "naïve = 'é 😀'\n"]
ENDS = {"layers": [0, 5]}
DIVERGENCES = ("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation")


def of_positions(model):
    """Of the logit lens, of divergences and of heads: every token's values, and sums of them."""
    with tempfile.TemporaryDirectory() as folder:
        for i, text in enumerate(TEXTS):
            (Path(folder) / f"{i}.py").write_text(text, encoding="utf-8")
        yield "LensEntropy", tle.lens_entropy(
            model, Path(folder), orders=(0.5, 1, float("inf")), surprisal=True, top_k=2, **ENDS, **QUIET
        )  # fmt: skip
    writes = tle.demo_model(kind="hooked") if "hooked" in kinds() else model
    yield "LensEntropy_generated", tle.lens_entropy(writes, TEXTS, max_new_tokens=3, layers=[5], **QUIET)
    yield "LensSummary", tle.lens_entropy(model, TEXTS, orders=(1, 2), keep="summary", layers=[5], **QUIET).to("bits")
    yield "LayerDivergence", tle.layer_divergence(
        model, TEXTS, metrics=DIVERGENCES, surprisal=True, targets=(" self", 7), top_k=2, **ENDS, **QUIET
    )  # fmt: skip
    yield "LayerDivergence_previous", tle.layer_divergence(model, TEXTS, against="previous", **ENDS, **QUIET).to("bits")
    yield "DivergenceSummary", tle.layer_divergence(model, TEXTS, metrics=DIVERGENCES, keep="summary", **ENDS, **QUIET)
    yield "HeadEntropy", tle.head_entropy(model, TEXTS, orders=(1, 2), layers=[5], **QUIET)
    yield "HeadEntropy_readout", tle.head_entropy(model, TEXTS, of="readout", layers=[5], **QUIET)
    yield "HeadSummary", tle.head_entropy(model, TEXTS, keep="summary", layers=[5], **QUIET)
    before, after = (
        tle.lens_entropy(model, TEXTS, interventions=edit, **ENDS, **QUIET) for edit in (None, tle.ablate_heads([(0, 1)]))
    )
    yield "Contrast", tle.contrast(before, after)


def of_states(model):
    labels = {"token": "token", "next": tle.ngram(1, "output"), "document": ["a", "b"]}
    yield "SoftInformation", tle.soft_information(
        model, TEXTS, labels=labels, valid="own", n_bins=(5, 8), seed=(0, 1), folds=2, keep_labels=True, **ENDS, **QUIET
    )  # fmt: skip
    yield "SoftInformation_heads", tle.soft_information(model, TEXTS, heads="z", n_bins=5, layers=[5], folds=1, **QUIET)
    yield "LayerSimilarity", tle.layer_similarity(model, TEXTS, **ENDS, **QUIET)
    yield "LayerSimilarity_information", tle.layer_similarity(
        model, TEXTS, method="matrix_renyi", permutations=2, **ENDS, **QUIET
    )  # fmt: skip
    yield "LayerSimilarity_of_two", tle.layer_similarity(
        model, [*TEXTS, "import os\n", "x = 1\n"], other=cached_model("gpt2", kinds()[0]), rows="documents", against="all",
        **QUIET,
    )  # fmt: skip
    yield "LayerGeometry", tle.layer_geometry(model, TEXTS * 2, labels=[0, 1] * 2, **ENDS, **QUIET)


def of_profiles(model):
    lens = tle.lens_entropy(model, TEXTS, **ENDS, **QUIET)
    output, previous = (tle.layer_divergence(model, TEXTS, against=site, **ENDS, **QUIET) for site in ("output", "previous"))
    yield "LayerDynamics", tle.layer_dynamics(lens, output, previous)
    one, other = (lens.select(documents=i) for i in range(2))
    yield "ProfileDistance", tle.profile_distance(one, other)
    yield "ProfileDistance_srvf", tle.profile_distance(one, other, metric="srvf").to("bits")
    far = tle.pairwise_distances({"one": one, "other": other, "both": lens}, groups=["a", "a", "b"], **QUIET)
    yield "PairwiseDistances", far
    yield "ProfileEmbedding", tle.profile_embedding(far)


def of_tokens(model):
    costs, others = (
        tle.token_surprisal(one, TEXTS, top_k=k, **QUIET) for one, k in ((model, 2), (cached_model("gpt2", kinds()[0]), None))
    )
    yield "TokenSurprisal", costs
    yield "SurprisalSummary", tle.token_surprisal(model, TEXTS, keep="summary", **QUIET)
    yield "AlignedValues", tle.align_tokens(costs, others, of=("surprisal", "entropy"))
    yield "TokenCorrelation", tle.token_correlation(costs, others)
    yield "TokenReliance", tle.token_reliance(model, TEXTS, {"a head": tle.ablate_heads([(1, 2)])}, **QUIET)
    yield "TokenReliance_tokens", tle.token_reliance(model, TEXTS[1], "tokens", metrics=("loss",), **QUIET)
    yield "ConditionalEntropy", tle.conditional_entropy(model, TEXTS, **QUIET)


def of_training():
    """Of tiny models, which leave smaller files."""
    model = make_model("gpt2", kinds()[0])
    yield "TunedLens", tle.train_tuned_lens(model, TEXTS, steps=2, tokens_per_step=10, validation=TEXTS, **QUIET)
    monitor = tle.EntropyMonitor(model, TEXTS)
    for step in range(2):
        monitor(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)
    yield "EntropyHistory", monitor.history
    both = {"gpt2": cached_model("gpt2", kinds()[0]), "a/llama": cached_model("llama", "bridge")}
    yield "ModelComparison", tle.compare_models(both, TEXTS, **QUIET)


def says(result):
    """What a result says: its numbers' digests by where they are, its print, and the beginning of its table."""
    table = result.to_pandas() if hasattr(result, "to_pandas") else pd.DataFrame()
    return {
        "kind": type(result).__name__,
        "fields": digests(result),
        "repr": repr(result).split("\n"),
        "lines": len(table),
        "table": table.head(20).to_csv(index=False, float_format="%.9g").split("\n"),
    }


def main(folder: Path) -> None:
    """Write the files into ``folder``."""
    torch.set_num_threads(1)
    libraries = ("torch", "transformers", "transformer-lens", "numpy", "pandas", "safetensors")
    expected = {
        "versions": {"tl_entropy": tle.__version__, **{name: version(name) for name in libraries}},
        "kinds": sorted({*tle.LensEntropy.kinds, tle.TunedLens.__name__, tle.ModelComparison.__name__}),
        "results": {},
    }
    model = tle.demo_model()
    with warnings.catch_warnings(action="ignore"):
        for part in (of_positions(model), of_states(model), of_profiles(model), of_tokens(model), of_training()):
            for name, result in part:
                result.save(folder / (name if name == "ModelComparison" else f"{name}.safetensors"))
                expected["results"][name] = says(result)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
