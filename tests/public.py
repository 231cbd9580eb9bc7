"""Every public name of tl_entropy, and how each that reads inputs is called: for tests that speak of all of them."""

from __future__ import annotations

from functools import partial

import tl_entropy as tle

QUIET = {"progress": False}


class Again:
    """Inputs that can be read again and again, each time by the same function, and do not know their length."""

    def __init__(self, function):
        self.function = function

    def __iter__(self):
        return iter(self.function())


class Breaking:
    """Inputs that end in an error, an iterator's or, where they are read several times, at the last of ``readings``."""

    def __init__(self, items, error, readings=1):
        self.items, self.error, self.left = items, error, readings

    def __iter__(self):
        self.left -= 1
        yield from self.items
        if not self.left:
            raise self.error


def _lenses(model, inputs, **options):
    means = tle.LensAccumulator(model, keep="summary")
    tle.stream(model, inputs, [means], **QUIET, **options)
    return means.compute()


def _monitored(model, inputs, **options):
    monitor = tle.EntropyMonitor(model, inputs, **options)
    monitor(0), monitor(1)
    return monitor.history


READERS = {
    "lens_entropy": partial(tle.lens_entropy, **QUIET),
    "layer_divergence": partial(tle.layer_divergence, **QUIET),
    "head_entropy": partial(tle.head_entropy, **QUIET),
    "layer_similarity": partial(tle.layer_similarity, **QUIET),
    "layer_geometry": partial(tle.layer_geometry, measures=("effective_rank", "curvature"), **QUIET),
    "soft_information": partial(tle.soft_information, n_bins=5, layers=[1], **QUIET),
    "token_surprisal": partial(tle.token_surprisal, **QUIET),
    "confidence": partial(tle.confidence, **QUIET),
    "unigram_distance": partial(tle.unigram_distance, **QUIET),
    "entropy_calibration": partial(tle.entropy_calibration, prompt_tokens=1, steps=2, **QUIET),
    "neurons": partial(tle.neurons, candidates=1, placebos=1, **QUIET),
    "token_reliance": lambda model, inputs, **options: tle.token_reliance(
        model, inputs, tle.ablate("mlp_out.1"), metrics=("kl",), **QUIET, **options
    ),
    "gradient_reliance": lambda model, inputs, **options: tle.gradient_reliance(model, inputs, "embed", **QUIET, **options),
    "conditional_entropy": partial(tle.conditional_entropy, **QUIET),
    "compare_models": lambda model, inputs, **options: tle.compare_models(
        {"one": model, "other": model}, inputs, similarity=None, **QUIET, **options
    ),
    "head_means": partial(tle.head_means, **QUIET),
    "site_means": lambda model, inputs, **options: tle.site_means(model, inputs, "embed", **QUIET, **options),
    "label_plan": tle.label_plan,
    "train_tuned_lens": partial(tle.train_tuned_lens, steps=2, tokens_per_step=8, **QUIET),
    "stream": _lenses,
    "EntropyMonitor": _monitored,
    "sensitivity": lambda model, inputs, **options: tle.sensitivity(
        model, inputs, ["int8"], sites="mlp_out.-1", **QUIET, **options
    ),
}
"""Public functions and classes that read inputs, as functions of a model, inputs and options."""

VARIANTS = {
    "lens_entropy, summary": partial(tle.lens_entropy, keep="summary", **QUIET),
    "layer_divergence, summary": partial(tle.layer_divergence, keep="summary", **QUIET),
    "head_entropy, summary": partial(tle.head_entropy, keep="summary", **QUIET),
    "head_entropy, readout": partial(tle.head_entropy, of="readout", **QUIET),
    "token_surprisal, summary": partial(tle.token_surprisal, keep="summary", **QUIET),
    "confidence, summary": partial(tle.confidence, sites=("embed", "resid_post"), keep="summary", **QUIET),
    "layer_similarity, matrix_renyi": partial(tle.layer_similarity, method="matrix_renyi", permutations=2, **QUIET),
    "layer_similarity, documents": partial(tle.layer_similarity, rows="documents", **QUIET),
    "layer_similarity, two models": lambda model, inputs, **options: tle.layer_similarity(
        model, inputs, other=model, rows="documents", **QUIET, **options
    ),
    "soft_information, centred": partial(tle.soft_information, n_bins=5, layers=[1], center=True, **QUIET),
    "token_reliance, tokens": lambda model, inputs, **options: tle.token_reliance(
        model, inputs, "tokens", metrics=("kl",), **QUIET, **options
    ),
}
"""The same with other options, where they go another way through the code."""

READINGS = {
    "sensitivity": 2,
    "compare_models": 2, "soft_information": 2, "soft_information, centred": 3, "layer_similarity, two models": 2,
    "EntropyMonitor": 2, "unigram_distance": 2, "entropy_calibration": 1, "neurons": 3,
}  # fmt: skip
"""Which reading of the inputs is the last, of those that read them several times."""

OTHERS = {
    "plots", "functional", "load", "contrast", "align_tokens", "token_correlation", "pairwise_distances", "profile_distance",
    "profile_embedding", "layer_dynamics", "ngram", "ablate", "ablate_heads", "ablate_neurons", "steer", "occlude",
    "mask_attention", "load_model", "load_tuned_lens", "run", "span_labels", "demo_lens", "demo_model", "demo_names",
    "demo_texts",
    "load_accumulator", "load_assignments", "load_jacobian_lens", "read_direction", "placebo", "alone", "read_stimuli",
    "span_features",
    "discriminate", "quantize", "add_noise", "estimation_model", "train_estimation", "memory_sweep", "memories",
}  # fmt: skip
"""Public functions and modules that read none, or read them with models of their own kind."""
