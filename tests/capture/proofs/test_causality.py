"""Models that look ahead, and models that a mask of ones changes: found, named, and measured where that means something."""

from __future__ import annotations

import pytest
import torch
import transformers as tr
from tiny_models import VOCAB, booted, cached_model, kinds, make_model, tiny_tokenizer

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
        with pytest.raises(ModelError, match=AHEAD + r".*its attention goes in both directions"):
            ask(model, TOKENS, **QUIET)
    with pytest.raises(ModelError, match=AHEAD):
        tle.gradient_reliance(model, TOKENS, "embed", **QUIET)
    assert tle.layer_similarity(model, TOKENS, **QUIET).values.isfinite().any()
    assert tle.head_entropy(model, TOKENS, of="pattern", **QUIET).entropy.isfinite().any()


def test_a_mask_that_matters_is_not_handed_on_and_results_say_so(gpt2, monkeypatch):
    rows = [TOKENS[0], TOKENS[1][:3], TOKENS[1]]
    asked = (tle.lens_entropy, tle.layer_similarity, tle.token_surprisal)
    right = [ask(gpt2, rows, batch_size=1, **QUIET) for ask in asked]
    assert all("mask" not in line for line in right[0].provenance.state)
    own = gpt2.forward

    def forward(tokens, *args, attention_mask=None, **options):
        """With any mask, the first token is another one."""
        if attention_mask is not None:
            tokens = torch.cat([(tokens[:, :1] + 1) % VOCAB, tokens[:, 1:]], dim=1)
        return own(tokens, *args, attention_mask=attention_mask, **options)

    monkeypatch.setattr(gpt2, "forward", forward)
    for ask in asked:
        found = ask(Adapter(gpt2), rows, **QUIET)
        assert found.provenance.corpus["unpadded"] is True
        assert "no attention mask was handed on: one of ones changes what the model computes" in found.provenance.state
    torch.testing.assert_close(tle.lens_entropy(Adapter(gpt2), rows, **QUIET).entropy, right[0].entropy, atol=1e-5, rtol=0)
    found = tle.token_surprisal(Adapter(gpt2), rows, **QUIET).surprisal
    torch.testing.assert_close(found, right[2].surprisal, atol=1e-5, rtol=0, equal_nan=True)
    changes = tle.gradient_reliance(Adapter(gpt2), rows[:1], "embed", **QUIET)
    assert changes.values.isfinite().any()
    with pytest.raises(ModelError, match=r"an attention mask of ones changes what this model computes.*rows of one length"):
        Adapter(gpt2).logits(TOKENS, torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]))


@pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")
def test_another_model_that_reads_its_padding_reads_rows_alone(gpt2, monkeypatch):
    other = cached_model("llama", kinds()[0])
    right = tle.layer_similarity(gpt2, ROWS, other=other, batch_size=1, **QUIET)
    forward = ReadsPadding(other, "right")
    monkeypatch.setattr(other, "forward", forward)
    found = tle.layer_similarity(gpt2, ROWS, other=other, batch_size=4, **QUIET)
    torch.testing.assert_close(found.values, right.values, atol=1e-5, rtol=0)
    assert forward.shapes[-4:] == [[len(row)] for row in ROWS]


@pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")
def test_gpt_1_is_right_without_a_mask():
    torch.manual_seed(0)
    config = tr.OpenAIGPTConfig(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    config.architectures = ["OpenAIGPTLMHeadModel"]
    source = tr.OpenAIGPTLMHeadModel._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        right = torch.cat([source(row[None]).logits[0].double().log_softmax(-1) for row in ROWS])
    from transformer_lens.model_bridge import TransformerBridge

    try:
        model = TransformerBridge.boot_transformers("tiny/gpt1", hf_model=source, tokenizer=tiny_tokenizer(), device="cpu")
        adapter = Adapter(model)
        found = tle.lens_entropy(adapter, ROWS, sites="resid_post", **QUIET)
    except (AttributeError, KeyError, ValueError, ModelError) as error:
        pytest.skip(f"this TransformerLens has no such model: {error}")
    torch.testing.assert_close(found.entropy[:, -1, 0].double(), -(right.exp() * right).sum(-1), atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match="what the MLP writes is no part, by any factor"):  # and not: can't be seen
        adapter.contributions.factor(tle.Site("mlp_out", 0))


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
def test_a_model_that_declares_it_is_measured_and_results_say_so(monkeypatch):
    try:
        model = both_ways()
    except (AttributeError, KeyError, ValueError) as error:
        pytest.skip(f"this TransformerLens has no such model: {error}")
    monkeypatch.setattr(model.cfg, "reads_ahead", True, raising=False)
    with torch.no_grad():
        right = -model(TOKENS, return_type="logits").double().log_softmax(-1)[:, :-1].gather(2, TOKENS[:, 1:, None])
    found = tle.token_surprisal(model, TOKENS, **QUIET)
    torch.testing.assert_close(found.surprisal, right.flatten(), atol=2e-5, rtol=0)
    for result in (found, tle.lens_entropy(model, TOKENS, **QUIET), tle.gradient_reliance(model, TOKENS, "embed", **QUIET)):
        assert "reads ahead as declared" in result.provenance.processing
        assert "the model reads ahead, as it declares: it has seen the tokens that it speaks of" in repr(result)


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
        with pytest.raises(ModelError, match=AHEAD + r".*an encoder-decoder, whose encoder gives the decoder the whole text"):
            ask(model, TOKENS, **QUIET)


class ReadsPadding:
    """A forward pass that tells tokens how many cells of their row are padding on one side, or on either."""

    def __init__(self, model, side):
        self.own, self.side, self.shapes = model.forward, side, []

    def __call__(self, tokens, *args, attention_mask=None, **options):
        if attention_mask is not None:
            real = attention_mask.bool()
            hidden = {"left": real.cumsum(1) == 0, "right": real.flip(1).cumsum(1).flip(1) == 0}[self.side]
            tokens = torch.where(real, (tokens + hidden.sum(1, keepdim=True)) % VOCAB, tokens)
            self.shapes.append(real.sum(1).tolist())
        return self.own(tokens, *args, attention_mask=attention_mask, **options)


ROWS = [TOKENS[0], TOKENS[1][:3], TOKENS[1][1:4], TOKENS[0][:4]]


def test_a_model_that_reads_its_padding_gets_rows_of_one_length(gpt2, monkeypatch):
    right = tle.lens_entropy(gpt2, ROWS, batch_size=1, **QUIET)
    surprisals = tle.token_surprisal(gpt2, ROWS, batch_size=1, **QUIET).surprisal
    losses = tle.conditional_entropy(gpt2, ROWS, batch_size=1, **QUIET)
    assert "unpadded" not in right.provenance.corpus
    forward = ReadsPadding(gpt2, "right")
    monkeypatch.setattr(gpt2, "forward", forward)
    assert Adapter(gpt2).sight.padding > 1
    assert Adapter(gpt2).sight.mask < 0.1
    found = tle.lens_entropy(gpt2, ROWS, batch_size=4, **QUIET)
    assert found.provenance.corpus["unpadded"] is True
    torch.testing.assert_close(found.entropy, right.entropy, atol=1e-5, rtol=0)
    found = tle.token_surprisal(gpt2, ROWS, **QUIET).surprisal
    torch.testing.assert_close(found, surprisals, atol=1e-5, rtol=0, equal_nan=True)
    torch.testing.assert_close(tle.conditional_entropy(gpt2, ROWS, **QUIET).entropy, losses.entropy, atol=1e-5, rtol=0)
    forward.shapes.clear()
    tle.layer_similarity(gpt2, ROWS, **QUIET)
    assert forward.shapes[-3:] == [[5], [3, 3], [4]], "rows of one length share a batch, in their order"


def test_caches_padded_where_that_matters_are_refused(gpt2, monkeypatch):
    width = max(map(len, ROWS))
    tokens, mask = torch.zeros(2, len(ROWS), width, dtype=torch.long)
    for i, ids in enumerate(ROWS):
        tokens[i, width - len(ids) :], mask[i, width - len(ids) :] = ids, 1
    _, cache = gpt2.run_with_cache(tokens, attention_mask=mask)
    right = tle.lens_entropy(gpt2, ROWS, **QUIET)
    found = tle.lens_entropy(gpt2, (cache, tokens, mask), **QUIET)
    torch.testing.assert_close(found.entropy, right.entropy, atol=1e-5, rtol=0)
    monkeypatch.setattr(gpt2, "forward", ReadsPadding(gpt2, "left"))
    with pytest.raises(ModelError, match="padding on the left changes what this model computes"):
        tle.lens_entropy(gpt2, (cache, tokens, mask), **QUIET)
    found = tle.lens_entropy(gpt2, (tokens, mask), **QUIET)
    torch.testing.assert_close(found.entropy, right.entropy, atol=1e-5, rtol=0)
    with monkeypatch.context() as patch:
        patch.setattr(gpt2, "forward", ReadsPadding(gpt2, "right"))
        Adapter(gpt2).check_rows(mask * 0 + 1)
        with pytest.raises(ModelError, match="padding changes what this model computes"):
            Adapter(gpt2).check_rows(mask.flip(1))


@pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
def test_an_index_that_chooses_compressed_keys_may_choose_padding():
    try:
        model = make_model("deepseek v4")
    except (ValueError, AttributeError) as error:
        pytest.skip(f"these libraries do not have it: {error}")
    rows = [torch.randint(1, VOCAB, (n,), generator=torch.Generator().manual_seed(n)) for n in (40, 33)]
    alone, together = (tle.token_surprisal(model, rows, batch_size=n, **QUIET) for n in (1, 2))
    torch.testing.assert_close(together.surprisal, alone.surprisal, atol=1e-4, rtol=0, equal_nan=True)
    assert together.provenance.corpus["unpadded"] is True


@pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
def test_an_index_that_chooses_keys_may_choose_padding():
    adapter = Adapter(cached_model("dsa", "bridge"))
    assert adapter.pads_to == 0
    report = tle.stream(adapter, ROWS, [tle.LensAccumulator(adapter)], **QUIET)
    assert report.counts()["unpadded"] is True
