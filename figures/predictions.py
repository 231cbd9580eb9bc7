"""Figures of predictions by layer, of words, answers and neurons; ``make.py`` draws them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from layers import beginnings, much
from matplotlib.axes import Axes

import tl_entropy as tle

NAME = re.compile(r"[^\W\d]\w{3,}")
"""A name of four letters or more."""


def settling(model: Any) -> Axes:
    """Share of tokens that have come near to the output by each layer, with thresholds of half a bit and half a nat."""
    result = tle.layer_divergence(model, beginnings(), metrics="jsd", progress=False)
    axes = tle.plots.settling({"half a bit": result}, threshold=0.5, unit="bits")
    tle.plots.settling({"half a nat": result}, threshold=0.5, unit="nats", rho=None, ax=axes)
    bits, _, nats = axes.lines  # and the dashed line between them
    bits.set(label="half a bit")
    nats.set(label="half a nat", linestyle="--")
    axes.set_ylabel("Share settled")
    axes.legend(frameon=False)
    return axes


def unigram_distance(model: Any) -> Axes:
    """How far every layer is from the frequencies of tokens, through the logit lens and the bundled tuned lens."""
    lenses = {"logit lens": None, "tuned lens": tle.demo_lens()}
    found = {name: tle.unigram_distance(model, beginnings(), lens=lens, progress=False) for name, lens in lenses.items()}
    return tle.plots.by_layer(found)


def confidence(model: Any) -> Axes:
    """Self-certainty of every layer, and of what attention and MLP write."""
    sites = ("embed", "attn_out", "mlp_out", "resid_post")
    return tle.plots.by_layer(tle.confidence(model, beginnings(), sites=sites, keep="summary", progress=False))


def lens_plane(model: Any) -> Axes:
    """How unsure each layer is, against what the next token costs it."""
    return tle.plots.lens_plane(tle.lens_entropy(model, beginnings(), surprisal=True, progress=False))


def target_ranks(model: Any) -> Axes:
    """Ranks of three names at every layer, behind a prompt that asks for one of them."""
    prompt = (
        "class Queue:\n    def __init__(self, items):\n        self.items = items\n\n    def size(self):\n        return len("
    )
    result = tle.layer_divergence(model, prompt, metrics="kl", targets=("self", " self", "len"), progress=False)
    return tle.plots.targets(result, position=-1)


def entropy_calibration(model: Any) -> Axes:
    """What the model's own text costs it beside given text, step by step behind the same prompts."""
    return tle.plots.calibration(tle.entropy_calibration(model, beginnings(), prompt_tokens=32, steps=48, progress=False))


def jacobian_lens(model: Any) -> Axes:
    """How much of the bundled model's Jacobian lens is the identity, and how much noise, of two fits on few prompts each."""
    from transformer_lens.tools.analysis import JacobianLens

    prompts = beginnings()[:8]
    fits = [
        JacobianLens.fit(model, part, corpus="modules", max_seq_len=much(96, 32), dim_batch=32, show_progress=False)
        for part in (prompts[::2], prompts[1::2])
    ]
    return tle.plots.jacobian(*fits)


@cache
def names_seen(model: Any) -> tuple[Any, list[bool]]:
    """Entropies of modules where a name is about to come, and whether it came before in the text."""
    texts = beginnings()
    found = [[match.span() for match in NAME.finditer(text)] for text in texts]
    words = tle.token_surprisal(model, texts, words=True, top_k=0, progress=False).word_surprisal(by=found)
    sites = ("attn_out", "mlp_out", "resid_post")
    entropy = tle.lens_entropy(model, texts, sites=sites, prepend_bos=True, progress=False)
    features = tle.span_features(entropy, words, how="first", predicting=True)
    seen: list[set[str]] = [set() for _ in texts]
    again = []
    for document, (start, end) in zip(words.document.tolist(), words.span.tolist(), strict=True):
        name = texts[document][start:end]
        again.append(name in seen[document])
        seen[document].add(name)
    return features, again


def module_features(model: Any) -> Axes:
    """Entropies of attention, MLP and stream before a name: one that came before in the text (True), or a new one."""
    return tle.plots.features(*names_seen(model))


def module_areas(model: Any) -> Axes:
    """How well each of these tells the two apart, beside the best of all for shuffled labels."""
    return tle.plots.discrimination(tle.discriminate(*names_seen(model), probe=False, shuffles=200))


def word_costs(model: Any) -> Axes:
    """What words cost, read at every layer, and in the end."""
    texts = beginnings()
    return tle.plots.words(
        tle.token_surprisal(model, texts, words=True, sites="resid_post", top_k=0, progress=False).word_surprisal()
    )


def neurons(model: Any) -> Axes:
    """What single neurons of the last layer at their means change, whole and straight to the logits, beside random ones."""
    return tle.plots.neurons(tle.neurons(model, beginnings()[:8], candidates=5, placebos=20, progress=False))


def placebo(model: Any) -> Axes:
    """What a model without one head costs more, beside models without another head of the same layer."""

    def loss(model: Any, inputs: Any, interventions: Any) -> torch.Tensor:
        result = tle.token_surprisal(model, inputs, top_k=0, interventions=interventions, progress=False)
        return result.per_document()["loss"]

    return tle.plots.placebo(tle.placebo(model, beginnings()[:8], tle.ablate_heads([(3, 1)]), loss, n=5))


FIGURES: dict[str, Callable[[Any], Axes]] = {
    "settling": settling,
    "unigram_distance": unigram_distance,
    "confidence": confidence,
    "lens_plane": lens_plane,
    "target_ranks": target_ranks,
    "entropy_calibration": entropy_calibration,
    "jacobian_lens": jacobian_lens,
    "module_features": module_features,
    "module_areas": module_areas,
    "word_costs": word_costs,
    "neurons": neurons,
    "placebo": placebo,
}
