"""Text is the model's own: the cache against whole passes, and greedy text against the model's own logits."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.proofs.generation import cache_is_sound
from tl_entropy.errors import ModelError

pytestmark = pytest.mark.model

PROMPTS = torch.tensor([[0, 5, 17, 80], [0, 9, 44, 201]])
NEW = 8


def forgetful(model):
    """A model's generate that, with a cache, sees the last token alone: what an empty cache comes to."""
    own = model.generate

    def generate(tokens, *, max_new_tokens, use_past_kv_cache, **options):
        if not use_past_kv_cache:
            return own(tokens, max_new_tokens=max_new_tokens, use_past_kv_cache=False, **options)
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


def mistaken(model):
    """A model's generate that writes another token than it meant to."""
    own = model.generate

    def generate(tokens, **options):
        whole = own(tokens, **options).clone()
        whole[0, -2] = (whole[0, -2] + 1) % 300
        return whole

    return generate


def test_text_that_is_not_the_models_own_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "generate", mistaken(gpt2))
    with pytest.raises(ModelError, match=r"not its own most probable text: .* the logit of a token is \d.* below the highest"):
        Adapter(gpt2).generate(PROMPTS, NEW, temperature=0.0, seed=0)
    Adapter(gpt2).generate(PROMPTS, NEW, temperature=1.0, seed=0)  # of sampled text nothing of the kind can be said


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
    monkeypatch.setattr(model, "generate", mistaken(model))
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


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_with_which_transformer_lens_does_not_write_is_refused_by_that_name(gpt2, cached, monkeypatch):
    def generate(*args, **options):
        raise NotImplementedError("generation is not supported")

    monkeypatch.setattr(gpt2, "generate", generate)
    with pytest.raises(ModelError, match=r"^generation: TransformerLens does not write text with this model: generation"):
        Adapter(gpt2).write(PROMPTS, NEW, temperature=0.0, seed=0, cached=cached)


def test_a_cache_with_which_nothing_can_be_written_is_not_used(gpt2, monkeypatch):
    """As on a HookedTransformer whose grouped heads were ungrouped."""
    own = gpt2.generate

    def generate(*given, use_past_kv_cache, **options):
        if use_past_kv_cache:
            raise RuntimeError("Sizes of tensors must match")
        return own(*given, use_past_kv_cache=False, **options)

    right, rank = written_rank(gpt2)
    monkeypatch.setattr(gpt2, "generate", generate)
    found, found_rank = written_rank(gpt2)
    assert found.provenance.corpus["uncached"] == 2
    assert torch.equal(found_rank, rank)
    torch.testing.assert_close(found.surprisal, right.surprisal, equal_nan=True)
