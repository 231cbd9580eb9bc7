"""Text is the model's own: the cache against whole passes, and greedy text against the model's own logits."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.proofs.generation import cache_is_sound
from tl_entropy.capture.writing import written_whole
from tl_entropy.errors import ModelError

pytestmark = pytest.mark.model

PROMPTS = torch.tensor([[0, 5, 17, 80], [0, 9, 44, 201]])
NEW = 8


def forgetful(model):
    """A model's generate that sees the last token alone: what an empty cache comes to."""

    def generate(tokens, *, max_new_tokens, use_past_kv_cache, **options):
        for step in range(max_new_tokens):
            seen = tokens if step == 0 else tokens[:, -1:]
            tokens = torch.cat([tokens, model(seen)[:, -1:].argmax(-1)], dim=1)
        return tokens

    return generate


def written_rank(model, **options):
    result = tle.token_surprisal(model, PROMPTS, max_new_tokens=NEW, include_special=True, progress=False, **options)
    return result, result.rank[result.generated]


def test_greedy_text_has_rank_0_where_it_is_measured(any_model):
    result, rank = written_rank(any_model)
    assert len(rank) == 2 * NEW
    assert not rank.any()
    sound = Adapter(any_model).generates_with_cache
    assert result.provenance.corpus.get("uncached", 0) == (0 if sound else 2)


def test_a_cache_that_forgets_is_found_and_not_used(gpt2, monkeypatch):
    right = written_rank(gpt2)[0].token
    monkeypatch.setattr(gpt2, "generate", forgetful(gpt2))
    assert not cache_is_sound(Adapter(gpt2))
    lying = gpt2.generate(PROMPTS, max_new_tokens=NEW, use_past_kv_cache=True)
    result, rank = written_rank(gpt2)
    assert not torch.equal(lying[:, 4:].flatten(), right[result.generated]), "this test has something to find"
    assert torch.equal(result.token, right)
    assert not rank.any()
    assert result.provenance.corpus["uncached"] == 2, "the result says so"


def test_sampled_text_does_not_depend_on_the_way(gpt2, monkeypatch):
    options = {"temperature": 1.0, "seed": 3}
    slow = Adapter(gpt2).write(PROMPTS, NEW, cached=False, **options)
    written = Adapter(gpt2).generate(PROMPTS, NEW, **options)
    assert torch.equal(written.tokens, slow)
    monkeypatch.setattr(gpt2, "generate", forgetful(gpt2))
    assert torch.equal(Adapter(gpt2).generate(PROMPTS, NEW, **options).tokens, slow)


def mistaken(own):
    """A way to write that puts another token than it meant to before the last."""

    def write(*given, **options):
        whole = own(*given, **options).clone()
        whole[0, -2] = (whole[0, -2] + 1) % 300
        return whole

    return write


def test_text_that_is_not_the_models_own_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(Adapter, "write", mistaken(Adapter.write))
    with pytest.raises(ModelError, match=r"not its own most probable text: .* the logit of a token is \d.* below the highest"):
        Adapter(gpt2).generate(PROMPTS, NEW, temperature=0.0, seed=0)
    Adapter(gpt2).generate(PROMPTS, NEW, temperature=1.0, seed=0)  # of sampled text nothing of the kind can be said


def test_what_a_model_gets_wrong_with_its_cache_is_written_without(gpt2, monkeypatch):
    right = Adapter(gpt2).generate(PROMPTS, NEW, temperature=0.0, seed=0).tokens
    monkeypatch.setattr(gpt2, "generate", mistaken(gpt2.generate))
    written = Adapter(gpt2).generate(PROMPTS, NEW, temperature=0.0, seed=0)
    assert not written.cached
    assert torch.equal(written.tokens, right)


@pytest.mark.skipif("bridge" not in kinds(), reason="the models are bridges")
@pytest.mark.parametrize("name", ["gpt2", "mamba"], ids=["attention", "a state in place of keys"])
def test_settings_for_generation_that_a_model_brings_change_nothing(name):
    """TransformerLens lets Hugging Face's generate write with mamba: the best 50 tokens alone, if nothing is said."""
    model, plain = make_model(name), make_model(name)
    with torch.no_grad():
        for each in (model, plain):
            each.original_model.get_output_embeddings().weight.mul_(0.1)  # every token is about as probable as the others
    for setting, value in {"top_k": 3, "top_p": 0.5, "repetition_penalty": 1.8, "no_repeat_ngram_size": 2}.items():
        setattr(model.original_model.generation_config, setting, value)
    prompts = PROMPTS[:1].expand(64, -1)
    for temperature in (0.0, 1.0):
        text, own = (Adapter(m).generate(prompts, 3, temperature=temperature, seed=4).tokens for m in (model, plain))
        assert torch.equal(text, own)
    with torch.no_grad():
        order = plain(prompts[:1])[0, -1].argsort(descending=True)
    ranks = (text[:, 4, None] == order).nonzero()[:, 1].float()
    assert abs(ranks.mean() - 149.5) < 4 * 300 / 12**0.5 / 64**0.5, "the whole vocabulary is drawn from"


def test_a_low_temperature_does_not_overflow_in_half_precision():
    """Where a logit over the temperature is more than float16 holds, the most probable token is drawn."""
    logits = torch.tensor([3.0, 60.0, 59.0], dtype=torch.float16)
    text = written_whole(lambda tokens: logits.expand(*tokens.shape, 3), torch.tensor([[0]]), 4, temperature=5e-4, ends=())
    assert text.tolist() == [[0, 1, 1, 1, 1]]


@pytest.mark.skipif("bridge" not in kinds(), reason="the models are bridges")
def test_text_ends_where_any_setting_of_the_model_says_so():
    """Of a chat model the settings for generation name the end of an answer, beside the end of a text."""
    model = make_model("gpt2")
    long = Adapter(model).generate(PROMPTS[:1], NEW, temperature=0.0, seed=0).tokens[0]
    stop = int(long[5])
    model.original_model.generation_config.eos_token_id = [0, stop]
    found = written_rank(model)[0]
    first = 4 + long[4:].tolist().index(stop)
    assert found.token[found.generated & (found.document == 0)].tolist() == long[4 : first + 1].tolist()


def test_what_stands_behind_the_end_is_not_judged(gpt2, monkeypatch):
    adapter = Adapter(gpt2)
    whole = adapter.write(PROMPTS, 3, temperature=0.0, seed=0, cached=False)
    end = int(whole[0, 4])  # let the first token written be the one that ends a text
    monkeypatch.setattr(type(adapter), "ends", (end,))
    ended = torch.cat([whole[:1, :5], torch.full((1, 2), end)], dim=1)
    monkeypatch.setattr(type(adapter), "write", lambda self, tokens, *args, **options: ended)
    assert torch.equal(adapter.generate(PROMPTS[:1], 3, temperature=0.0, seed=0).tokens, ended)


def test_an_edited_model_that_writes_what_it_is_not_measured_to_say_is_refused(gpt2):
    """A hook that edits the last column meets every token while the text is written, and one alone while it is measured."""

    def last_column(activation, hook):
        activation[:, -1] *= 0.1
        return activation

    with pytest.raises(ModelError, match=r"not its own most probable text: .* or an intervention, does something else"):
        written_rank(gpt2, interventions=("blocks.1.hook_mlp_out", last_column))


@pytest.mark.skipif("bridge" not in kinds(), reason="the tiny model with a bias is a bridge")
def test_a_mask_of_a_part_of_the_vocabulary_lets_no_other_text_through(monkeypatch):
    model = make_model("phi")
    with torch.no_grad():
        model.b_U[::7] = -1e9
    monkeypatch.setattr(Adapter, "write", mistaken(Adapter.write))
    with pytest.raises(ModelError, match="not its own most probable text"):
        Adapter(model).generate(PROMPTS, NEW, temperature=0.0, seed=0)


@pytest.mark.skipif("bridge" not in kinds(), reason="the models are bridges")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("name", "cause"), [("t5", "encoder-decoder"), ("bert", "both"), ("gemma3 both ways", "both")])
def test_a_model_that_looks_ahead_has_no_text_of_its_own(name, cause, temperature):
    if name == "t5" and version("transformer-lens").startswith("3."):
        pytest.skip("this TransformerLens cannot run it")
    with pytest.raises(ModelError, match=rf"^generation: this model looks ahead \(.*{cause}.*\), so it has no text of its own"):
        tle.layer_similarity(make_model(name), "the cat", max_new_tokens=3, temperature=temperature, progress=False)


def test_a_model_with_which_transformer_lens_does_not_write_is_refused_by_that_name(gpt2, monkeypatch):
    def generate(*args, **options):
        raise NotImplementedError("generation is not supported")

    monkeypatch.setattr(gpt2, "generate", generate)
    with pytest.raises(ModelError, match=r"^generation: TransformerLens does not write text with this model: generation"):
        Adapter(gpt2).generate(PROMPTS, NEW, temperature=0.0, seed=0)


def test_a_cache_with_which_nothing_can_be_written_is_not_used(gpt2, monkeypatch):
    """As on a HookedTransformer whose grouped heads were ungrouped."""

    def generate(*given, **options):
        raise RuntimeError("Sizes of tensors must match")

    right, rank = written_rank(gpt2)
    monkeypatch.setattr(gpt2, "generate", generate)
    found, found_rank = written_rank(gpt2)
    assert found.provenance.corpus["uncached"] == 2
    assert torch.equal(found_rank, rank)
    torch.testing.assert_close(found.surprisal, right.surprisal, equal_nan=True)
