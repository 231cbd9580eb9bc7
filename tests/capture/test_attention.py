"""Which keys a query sees, against the patterns of models that have windows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers as tr
from tiny_models import CONTEXT, VOCAB, booted, cached_model, kinds

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.attention import attention_window, visible_keys
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


@pytest.mark.model
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_the_patterns(name):
    model = windowed(name)
    assert tuple(attention_window(model, layer) for layer in range(len(model.blocks))) == WINDOWS[name]
    _check_against_patterns(model)


def _check_against_patterns(model, padded=True):
    adapter = Adapter(model)
    left = torch.ones_like(TOKENS).index_fill(1, torch.tensor([0, 1]), 0)
    for mask in (torch.ones_like(TOKENS), left, left.flip(1))[: 3 if padded else 1]:
        for site, pattern in adapter.activations(TOKENS, mask, adapter.sites("pattern")).items():
            visible = visible_keys(model, site.layer, mask)
            real = mask[0].bool()
            assert torch.equal((pattern[0] > 0).all(0)[real], visible[0][real]), "what is visible has weight, and nothing else"


@pytest.mark.model
def test_every_architecture(any_model):
    assert attention_window(any_model, 0) in (None, CONTEXT)
    assert attention_window(any_model, 1) is None
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
    assert tuple(attention_window(model, layer) for layer in range(3)) == expected
    _check_against_patterns(model, padded=direction == "causal")  # TransformerLens masks no padding where it looks both ways


def with_config(**parts):
    return SimpleNamespace(cfg=SimpleNamespace(), original_model=SimpleNamespace(config=SimpleNamespace(**parts)))


def test_what_a_query_sees():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    seen = visible_keys(with_config(sliding_window=2), 0, mask).int().tolist()
    assert seen[0] == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert seen[1] == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]


def test_configurations():
    assert attention_window(with_config(sliding_window=7, use_sliding_window=False), 0) is None
    assert attention_window(with_config(text_config=SimpleNamespace(sliding_window=7)), 3) == 7
    assert attention_window(with_config(), 0) is None
    with pytest.raises(ModelError, match=r"layer 1 has attention of the kind 'chunked_attention'.*layers=\.\.\."):
        attention_window(with_config(layer_types=["full_attention", "chunked_attention"]), 1)
    with pytest.raises(ModelError, match=r"layer 0 has local attention, but .* how wide"):
        attention_window(with_config(layer_types=["sliding_attention"]), 0)


@pytest.mark.model
def test_patterns_are_a_site_of_every_model():
    adapter = Adapter(cached_model("llama", "bridge"))
    [pattern] = adapter.activations(TOKENS, torch.ones_like(TOKENS), [Site("pattern", 0)]).values()
    assert pattern.shape == (1, 4, 12, 12), "grouped-query models have a pattern for every head"
