"""Every measure of every form of the same documents says the same, on every architecture."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from crossings import ATOL, forms, padded, same, token_rows
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy import functional
from tl_entropy.functional.lens.comparison import METRICS

pytestmark = pytest.mark.model

QUIET = {"progress": False}
MEASURES = {
    "lens_entropy": partial(tle.lens_entropy, orders=(0.5, 1, 2), surprisal=True, top_k=2),
    "lens_entropy, summary": partial(tle.lens_entropy, keep="summary"),
    "layer_divergence": partial(tle.layer_divergence, metrics=METRICS, surprisal=True),
    "patterns": tle.head_entropy,
    "readouts": partial(tle.head_entropy, of="readout"),
    "soft_information": partial(tle.soft_information, heads="z", layers=[1], n_bins=20),
    "layer_similarity": tle.layer_similarity,
    "layer_geometry": tle.layer_geometry,
    "token_surprisal": tle.token_surprisal,
    "token_reliance": lambda model, inputs, **options: tle.token_reliance(model, inputs, tle.ablate("mlp_out.1"), **options),
    "conditional_entropy": tle.conditional_entropy,
}
NEAR = {
    "layer_divergence": (5e-5, 1e-5),
    "soft_information": (1e-6, 0.0),
    "layer_geometry": (1e-5, 1e-5),
    "token_reliance": (1e-5, 1e-4),
}
"""How near, absolutely and of a number's size, where that is not 1e-5 and 0."""
RUN = ("token_reliance", "conditional_entropy")
"""Those that run the model themselves, and take no cache."""


@pytest.mark.thinned
@pytest.mark.parametrize("name", MEASURES)
def test_forms_of_an_input_give_the_same(gpt2, texts, name):
    texts = [*texts, "naïve 🙂 שלום e\u0301"] if name == "token_surprisal" else texts
    measure = partial(MEASURES[name], gpt2, **QUIET)
    expected = measure(texts)
    for form, inputs in forms(gpt2, texts, caches=name not in RUN):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = measure(inputs)
        try:
            atol, rtol = NEAR.get(name, (1e-5, 0.0))
            same(found, expected, atol, rtol=rtol)
            if name == "patterns":
                torch.testing.assert_close(found.bos_share, expected.bos_share, atol=1e-6, rtol=0)
        except AssertionError as error:
            raise AssertionError(f"{form}: {error}") from error


def test_padding_on_either_side_is_nothing_to_any_architecture(any_model, texts):
    expected = tle.lens_entropy(any_model, texts, prepend_bos=True, batch_size=1, **QUIET)
    for left in (True, False):
        inputs = padded(token_rows(any_model, texts), left=left)
        same(tle.lens_entropy(any_model, inputs, **QUIET), expected, ATOL[torch.float32])


@pytest.mark.parametrize("dtype", [dtype for dtype in ATOL if dtype != torch.float16], ids=str)
@pytest.mark.parametrize("kind", kinds())
def test_every_dtype_is_as_near_to_the_models_own_logits_as_it_can_be(kind, dtype, texts):
    model = make_model("gpt2", kind, dtype=dtype)
    found = tle.lens_entropy(model, texts, sites="resid_post.2", surprisal=True, batch_size=1, **QUIET)
    for document, row in enumerate(token_rows(model, texts)):
        with torch.no_grad():
            logits = model(torch.tensor([row]), return_type="logits")[0, 1:]
        mine = found.select(documents=document).entropy[:, 0, 0]
        torch.testing.assert_close(mine, functional.shannon_entropy(logits), atol=ATOL[dtype], rtol=0, check_dtype=False)
