"""Writes a file of every kind of result that there is since 0.5.0, for the tests that speak of all kinds; see ``MADE``."""

from __future__ import annotations

import sys
from pathlib import Path

import tl_entropy as tle

TEXTS = ["import os, sys\n", "return x + 1", "for x in y: pass"]


def words():
    model = tle.demo_model()
    return tle.token_surprisal(model, TEXTS, words=True, sites="resid_post", layers=[0, -1], top_k=1, progress=False)


def features():
    found = tle.lens_entropy(tle.demo_model(), TEXTS * 2, sites=("attn_out", "mlp_out"), layers=[0, -1], progress=False)
    return tle.span_features(found, how=("mean", "last"))


def effects():
    def loss(model, inputs, interventions):
        return tle.token_surprisal(model, inputs, interventions=interventions, progress=False).per_document()["loss"]

    return tle.placebo(tle.demo_model(), TEXTS, tle.ablate_heads([(3, 1)]), loss, n=4)


def sweep():
    base = tle.EstimationConfig(kind="memory", mixer="heads", n_ctx=8, d_model=8, n_layers=1, numbers=1)
    return tle.memory_sweep(TEXTS, validation=TEXTS, numbers=(0, 2), bits=(1, 4), base=base, steps=2, progress=False)


MADE = {
    "MemorySweep": sweep,
    "Placebo": effects,
    "Sensitivity": lambda: tle.sensitivity(
        tle.demo_model(), TEXTS, ["int8", "float8_e5m2"], sites=["mlp_out.0", "resid_post.-1"], progress=False
    ),
    "NeuronEffects": lambda: tle.neurons(tle.demo_model(), TEXTS, candidates=1, placebos=2, progress=False),
    "TokenSurprisal_words": words,
    "WordSurprisal": lambda: words().word_surprisal(final=True),
    "SpanFeatures": features,
    "Discrimination": lambda: tle.discriminate(
        features(), [True, False, True, False, True, False], folds=2, shuffles=20, refits=2
    ),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or MADE:
        MADE[name]().save(Path(__file__).parent / f"{name}.safetensors")
