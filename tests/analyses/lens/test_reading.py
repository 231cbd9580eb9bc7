"""Reading models that mask a part of their vocabulary: right in every statistic, and no token that cannot come among them."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy import functional

pytestmark = [pytest.mark.model, pytest.mark.skipif("bridge" not in kinds(), reason="the tiny model with a bias is a bridge")]

QUIET = {"progress": False, "prepend_bos": True}
TEXT = "the cat sat on the mat, and the dog sat on the cat"
MASKED = torch.arange(300) % 7 == 3


@pytest.fixture(scope="module", params=[-math.inf, -1e9], ids=["-inf", "-1e9"])
def model(request):
    masking = make_model("phi")
    with torch.no_grad():
        masking.b_U[MASKED] = request.param
    return masking


@torch.no_grad()
def dense(model):
    """Log-probabilities [site, pos, vocab] in float64 of what the tokens of the text are predicted from, and those tokens."""
    ids = torch.tensor([[0, *model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    own, cache = model.run_with_cache(ids)
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(3))]
    laws = torch.stack([model.unembed(model.ln_final(cache[name])) for name in names])[:, 0].double().log_softmax(-1)
    torch.testing.assert_close(laws[-1], own[0].double().log_softmax(-1))
    return laws[:, :-1], ids[0, 1:]


def test_surprisal_and_entropies(model):
    laws, tokens = dense(model)
    found = tle.token_surprisal(model, TEXT, top_k=300, **QUIET)
    torch.testing.assert_close(found.surprisal, functional.surprisal(laws[-1], tokens), atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(found.varentropy, functional.varentropy(laws[-1]), atol=1e-4, rtol=1e-5)
    likely = found.top_log_probs > -100
    assert int(likely.sum()) == len(tokens) * int((~MASKED).sum())
    assert not MASKED[found.top_tokens[likely]].any()
    lens = tle.lens_entropy(model, TEXT, orders=(0.5, 1, 2, math.inf), **QUIET)
    right = functional.renyi_entropy(laws[:, 1:], lens.orders).transpose(0, 1)
    torch.testing.assert_close(lens.entropy[:-1].double(), right, atol=2e-5, rtol=0)


def test_divergences(model):
    laws, _ = dense(model)
    found = tle.layer_divergence(model, TEXT, metrics=("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation"), **QUIET)
    for i, law in enumerate(laws[:, 1:]):
        own = laws[-1, 1:]
        right = [functional.kl_divergence(own, law), functional.kl_divergence(law, own), functional.js_divergence(law, own)]
        right += [functional.fisher_rao_distance(law, own), functional.total_variation(law, own)]
        torch.testing.assert_close(found.divergence[:-1, i].double(), torch.stack(right, -1), atol=2e-5, rtol=1e-5)


def test_what_comes_from_gradients_edits_and_heads_is_finite(model):
    assert tle.gradient_reliance(model, TEXT, "embed", of="entropy", **QUIET).to_pandas()["value"].notna().all()
    assert bool(tle.head_entropy(model, TEXT, of="readout", norm="recomputed", **QUIET).entropy.isfinite().all())
    written = tle.token_surprisal(model, TEXT, max_new_tokens=4, **QUIET)
    assert not written.rank[written.generated].any()


def test_a_tuned_lens_knows_its_model_again(model):
    lens = tle.train_tuned_lens(model, [TEXT], steps=2, tokens_per_step=8, validation=[TEXT], progress=False)
    tle.lens_entropy(model, TEXT, lens=lens, **QUIET)  # warnings are errors
    assert bool(lens.losses.isfinite().all())
