"""Which keys a query sees, against the patterns of models that have windows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers as tr
from tiny_models import CONTEXT, VOCAB, booted, cached_model, kinds

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.attention import Sight, attention_sight, in_sight, visible_keys
from tl_entropy.errors import ModelError
from tl_entropy.sites import Site

TOKENS = torch.arange(5, 17)[None]
WINDOW = 5
COMMON = {"vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0}
BODY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {**COMMON, **BODY, "num_key_value_heads": 2}


def windowed(name):

    torch.manual_seed(0)
    if name == "gemma2":
        source = tr.Gemma2ForCausalLM(tr.Gemma2Config(**GROUPED, head_dim=8, sliding_window=WINDOW))
    elif name == "mistral":
        source = tr.MistralForCausalLM(tr.MistralConfig(**GROUPED, head_dim=8, sliding_window=WINDOW))
    elif name == "qwen2":
        some = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
        source = tr.Qwen2ForCausalLM(tr.Qwen2Config(**GROUPED, **some))
    elif name == "gpt-oss":
        some = {"head_dim": 8, "sliding_window": WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1}
        source = tr.GptOssForCausalLM(tr.GptOssConfig(**GROUPED, **some))
    else:
        kinds_of_layers = {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "num_heads": 4}
        source = tr.GPTNeoForCausalLM(
            tr.GPTNeoConfig(**COMMON, hidden_size=32, intermediate_size=64, window_size=WINDOW, **kinds_of_layers)
        )
    return booted(source, name, std=0.2)


WINDOWS = {
    "gemma2": (WINDOW, None, WINDOW),
    "mistral": (WINDOW, WINDOW, WINDOW),
    "qwen2": (None, WINDOW, WINDOW),
    "gpt-oss": (WINDOW, None, WINDOW),
    "gpt-neo": (None, WINDOW, None, WINDOW),
}


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_the_patterns(name):
    model = windowed(name)
    assert tuple(attention_sight(model, layer).window for layer in range(len(model.blocks))) == WINDOWS[name]
    _check_against_patterns(model)


def _check_against_patterns(model, padded=True):
    adapter = Adapter(model)
    left = torch.ones_like(TOKENS).index_fill(1, torch.tensor([0, 1]), 0)
    for mask in (torch.ones_like(TOKENS), left, left.flip(1))[: 3 if padded else 1]:
        for site, pattern in adapter.activations(TOKENS, mask, adapter.sites("pattern")).items():
            sight = attention_sight(adapter.model, site.layer, adapter.stack.of)
            visible = visible_keys(sight, mask, pattern, ahead=adapter.looks_ahead(site.layer))
            real = mask[0].bool()
            assert torch.equal((pattern[0] > 0).all(0)[real], visible[0][real]), "what is visible has weight, and nothing else"


@pytest.mark.model
def test_every_architecture(any_model):
    assert attention_sight(any_model, 0) in (Sight(), Sight(CONTEXT))
    assert attention_sight(any_model, 1) == Sight()
    _check_against_patterns(any_model)


@pytest.mark.model
@pytest.mark.skipif("hooked" not in kinds(), reason="no HookedTransformer here")
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_hooked_transformers_say_it_themselves(direction):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    local = {"use_local_attn": True, "attn_types": ["global", "local", "local"], "window_size": WINDOW}
    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=3, d_model=32, n_ctx=CONTEXT, d_head=8, n_heads=4, d_vocab=VOCAB, act_fn="gelu", device="cpu",
            model_name="local", attention_dir=direction, **(local if direction == "causal" else {}),
        )
    )  # fmt: skip
    expected = (None, WINDOW, WINDOW) if direction == "causal" else (None, None, None)
    assert tuple(attention_sight(model, layer).window for layer in range(3)) == expected
    _check_against_patterns(model, padded=direction == "causal")  # TransformerLens masks no padding where it looks both ways


def with_config(**parts):
    return SimpleNamespace(cfg=SimpleNamespace(), original_model=SimpleNamespace(config=SimpleNamespace(**parts)))


def test_what_a_query_sees():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    seen = in_sight(attention_sight(with_config(sliding_window=2), 0), mask, ahead=False).int().tolist()
    assert seen[0] == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert seen[1] == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]


def test_configurations():
    assert attention_sight(with_config(sliding_window=7, use_sliding_window=False), 0) == Sight()
    assert attention_sight(with_config(text_config=SimpleNamespace(sliding_window=7)), 3) == Sight(7)
    assert attention_sight(with_config(), 0) == Sight()
    kinds = ["hybrid", "attention", "chunked_attention", "indexed_attention", "odd_attention"]
    several = with_config(layer_types=kinds, sliding_window=7, attention_chunk_size=5)
    assert [attention_sight(several, layer) for layer in range(4)] == [Sight(), Sight(), Sight(chunk=5), Sight(chosen=True)]
    with pytest.raises(ModelError, match=r"layer 4 has attention of the kind 'odd_attention'.*layers=\.\.\."):
        attention_sight(several, 4)
    for kind in ("sliding_attention", "chunked_attention"):
        with pytest.raises(ModelError, match=r"layer 0 has local attention, but .* how wide"):
            attention_sight(with_config(layer_types=[kind]), 0)
    parts = {"decoder": SimpleNamespace(sliding_window=3), "encoder": SimpleNamespace(sliding_window=4)}
    assert [attention_sight(with_config(**parts), 0, part).window for part in (None, "decoder", "encoder")] == [None, 3, 4]


def test_chunks_are_counted_from_the_first_real_token():
    seen = in_sight(Sight(chunk=2), torch.tensor([[0, 1, 1, 1]]), ahead=False)[0].int().tolist()
    assert seen == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]


def test_later_tokens_are_seen_within_the_window_too():
    seen = in_sight(Sight(2), torch.ones(1, 4), ahead=True)[0].int().tolist()
    assert seen == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["falcon_h1", "llama4", "dsa", "gemma3 both ways", "bert", "bert decoder"])
def test_kinds_of_attention_are_those_of_the_patterns(name):
    model = cached_model(name, "bridge")
    kinds_of_model = [attention_sight(model, layer) for layer in range(3)]
    expected = {
        "llama4": [Sight(chunk=WINDOW), Sight(), Sight(chunk=WINDOW)], "dsa": [Sight(chosen=True)] * 3,
        "gemma3 both ways": [Sight(3), Sight(), Sight(3)],  # Hugging Face takes a window of 5 as 3 to either side
    }  # fmt: skip
    assert kinds_of_model == expected.get(name, [Sight()] * 3)
    assert [Adapter(model).looks_ahead(layer) for layer in range(3)] == [name in ("gemma3 both ways", "bert")] * 3
    _check_against_patterns(model, padded=False)


@pytest.mark.model
def test_patterns_are_a_site_of_every_model():
    adapter = Adapter(cached_model("llama", "bridge"))
    [pattern] = adapter.activations(TOKENS, torch.ones_like(TOKENS), [Site("pattern", 0)]).values()
    assert pattern.shape == (1, 4, 12, 12), "grouped-query models have a pattern for every head"
