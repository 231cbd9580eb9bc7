"""Inputs and models of unusual sizes: very long, very many, a very large vocabulary, numbers too large for float16."""

from __future__ import annotations

import pytest
import torch
import transformers as tr
from tiny_models import booted, cached_model, kinds, make_model

import tl_entropy as tle

pytestmark = pytest.mark.model
QUIET = {"progress": False}


@pytest.mark.long
def test_a_document_of_a_million_tokens():
    model = cached_model("gpt2", kinds()[0])
    tokens = torch.randint(1, 300, (1_000_000,), generator=torch.Generator().manual_seed(0))
    found = tle.lens_entropy(model, tokens, keep="summary", **QUIET)
    assert (found.tokens, found.documents) == (1_000_000, 1)
    assert found.sums.isfinite().all()


@pytest.mark.long
def test_a_hundred_thousand_documents_of_three_tokens():
    model = cached_model("gpt2", kinds()[0])
    rows = torch.randint(1, 300, (100_000, 3), generator=torch.Generator().manual_seed(0))
    found = tle.lens_entropy(model, rows, keep="summary", **QUIET)
    assert (found.tokens, found.documents) == (300_000, 100_000)
    first = tle.lens_entropy(model, rows[:100], **QUIET)
    assert abs(float(found.mean_profile()["mean"].iloc[-1]) - float(first.entropy[:, -1].mean())) < 0.1


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif("bridge" not in kinds(), reason="a HookedTransformer of this size has to be written out by hand")
def test_a_vocabulary_of_200_000():
    config = tr.GPT2Config(vocab_size=200_000, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = booted(tr.GPT2LMHeadModel(config), "large", std=0.12)
    tokens = torch.tensor([[5, 199_999, 7, 100_000]])
    found = tle.lens_entropy(model, tokens, surprisal=True, top_k=2, **QUIET)
    with torch.no_grad():
        logits = model(tokens, return_type="logits")[0].double()
    expected = tle.functional.shannon_entropy(logits)
    torch.testing.assert_close(found.entropy[:, -1, 0].double(), expected.double(), atol=2e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_states_too_large_for_float16_are_named():
    model = make_model("gpt2", kinds()[0], dtype=torch.float16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" in name and "1" in name:
                parameter.mul_(3000)
    with pytest.raises(tle.TLEntropyError) as caught:
        tle.lens_entropy(model, ["the cat sat on the mat"], **QUIET)
    assert isinstance(caught.value, tle.NonFiniteError | tle.ModelError)
