"""Models that look ahead, and models that a mask of ones changes: found, named, and measured where that means something."""

from __future__ import annotations

import pytest
import torch
import transformers as tr
from tiny_models import VOCAB, booted, cached_model, kinds

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import ModelError

pytestmark = pytest.mark.model

TOKENS = torch.tensor([[5, 17, 80, 120, 33], [9, 44, 201, 3, 18]])
QUIET = {"progress": False}
AHEAD = "this model looks ahead: on a short pass its states move when only a later token changes"


def both_ways():
    config = tr.Gemma3TextConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=64, use_bidirectional_attention=True,
    )  # fmt: skip
    return booted(tr.Gemma3ForCausalLM(config), "gemma3", std=0.15)


def test_models_that_look_back_pass(any_model):
    seen = Adapter(any_model).sight
    assert 0 <= seen.later < 0.1
    assert 0 <= seen.mask < 0.1


@pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")
def test_a_model_that_looks_both_ways_says_nothing_of_next_tokens():
    try:
        model = both_ways()
    except (AttributeError, KeyError, ValueError) as error:
        pytest.skip(f"this TransformerLens has no such model: {error}")
    for ask in (tle.token_surprisal, tle.lens_entropy, tle.layer_divergence):
        with pytest.raises(ModelError, match=AHEAD):
            ask(model, TOKENS, **QUIET)
    with pytest.raises(ModelError, match=AHEAD):
        tle.gradient_reliance(model, TOKENS, "embed", **QUIET)
    assert tle.layer_similarity(model, TOKENS, **QUIET).values.isfinite().any()
    assert tle.head_entropy(model, TOKENS, of="pattern", **QUIET).entropy.isfinite().any()


def test_a_mask_that_matters_is_refused(gpt2, monkeypatch):
    own = gpt2.forward

    def forward(tokens, *args, attention_mask=None, **options):
        """With any mask, the first token is another one."""
        if attention_mask is not None:
            tokens = torch.cat([(tokens[:, :1] + 1) % VOCAB, tokens[:, 1:]], dim=1)
        return own(tokens, *args, attention_mask=attention_mask, **options)

    monkeypatch.setattr(gpt2, "forward", forward)
    for ask in (tle.lens_entropy, tle.layer_similarity, tle.token_surprisal):
        with pytest.raises(ModelError, match="an attention mask of ones changes what this model computes"):
            ask(Adapter(gpt2, check=False), TOKENS, **QUIET)


def test_the_proof_looks_at_earlier_positions_alone():
    model = cached_model("gpt2", kinds()[0])
    adapter = Adapter(model)
    row = adapter.short_row()
    assert row.shape[1] > 3
    first, _ = adapter.state_and_logits(row, adapter.last_site)
    other = row.clone()
    other[0, -1] = (row[0, -1] + adapter.d_vocab // 2) % adapter.d_vocab
    second, _ = adapter.state_and_logits(other, adapter.last_site)
    assert float((first - second)[:, -1].abs().max()) > 1e-2, "the last position does move"


@pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")
def test_a_decoder_that_is_given_the_whole_text_says_nothing_of_next_tokens():
    try:
        model = cached_model("t5", "bridge")
        tle.layer_similarity(model, TOKENS, **QUIET)
    except Exception as error:
        if "TransformerLens's own forward pass fails" not in str(error):
            raise
        pytest.skip("this TransformerLens does not run T5")
    for ask in (tle.token_surprisal, tle.lens_entropy):
        with pytest.raises(ModelError, match=AHEAD):
            ask(model, TOKENS, **QUIET)
