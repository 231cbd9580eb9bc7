"""Rows that are longer than a model's positions were made for, beside shorter ones, and behind them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers as tr
from odd_models import bridge_of
from tiny_models import kinds

import tl_entropy as tle
from tl_entropy import ModelError
from tl_entropy.capture.adapter import Adapter

QUIET = {"progress": False}
BEYOND = 14
BODY = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 1e3, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e3}
LOCAL = {"head_dim": 8, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}
MODELS = {
    "longrope": (
        "Phi3ForCausalLM",
        {"original_max_position_embeddings": BEYOND, "max_position_embeddings": 64,
         "rope_parameters": {**LONG, "original_max_position_embeddings": BEYOND}},
    ),
    "dynamic": ("LlamaForCausalLM", {"max_position_embeddings": BEYOND, "rope_parameters": DYNAMIC}),
    "dynamic, for one kind of layer": (
        "Gemma3ForCausalLM",
        {**LOCAL, "max_position_embeddings": BEYOND,
         "rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", "rope_theta": 1e3}}},
    ),
}  # fmt: skip

pytestmark = pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")


def stretching(name):
    """A Bridge of a model, and a copy of the model that the Bridge does not touch."""
    architecture, options = MODELS[name]
    made = getattr(tr, architecture)
    torch.manual_seed(0)
    config = made.config_class(**BODY, **copy.deepcopy(options))
    source = made._from_config(config, attn_implementation="eager").eval()
    for weight in source.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    source.config.architectures = [architecture]
    return bridge_of(copy.deepcopy(source)), source


def texts(context):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 290, (min(n, context),), generator=generator) for n in (20, 9, BEYOND, 4)]


def own_entropies(source, rows):
    """Of each row alone, by a model that has read nothing before."""
    found = []
    for row in rows:
        with torch.no_grad():
            log_p = copy.deepcopy(source)(input_ids=row[None]).logits[0].double().log_softmax(-1)
        found.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(found)


def last_entropies(model, rows, **options):
    result = tle.lens_entropy(model, rows, sites="resid_post", layers=[1], orders=(1.0,), **QUIET, **options)
    return result.entropy[:, 0, 0].double(), result.provenance


@pytest.mark.parametrize("name", MODELS)
def test_a_row_is_what_it_is_alone(name):
    model, source = stretching(name)
    rows = texts(source.config.max_position_embeddings)
    right = own_entropies(source, rows)
    for options in ({"batch_size": 1}, {"batch_size": 4}, {}):
        found, provenance = last_entropies(model, rows, **options)
        torch.testing.assert_close(found, right, atol=1e-4, rtol=0)
    assert f"rows beyond {BEYOND} tokens" in " ".join(provenance.state)


@pytest.mark.parametrize("name", [name for name in MODELS if "dynamic" in name])
def test_a_longer_text_before_changes_nothing_and_stays_what_it_did(name):
    model, source = stretching(name)
    rows = texts(BEYOND)
    last_entropies(model, rows)  # proofs are done
    with torch.no_grad():
        fresh = model(rows[2][None])
        model(torch.arange(1, 31)[None])
        stretched = model(rows[2][None])
        assert (stretched - fresh).abs().max() > 0.01, "the model keeps what the longer text has stretched"
        found, _ = last_entropies(model, rows)
        torch.testing.assert_close(found, own_entropies(source, rows), atol=1e-4, rtol=0)
        torch.testing.assert_close(model(rows[2][None]), stretched, atol=0, rtol=0)


def test_shorter_rows_share_a_pass_and_padded_caches_beyond_are_refused():
    model, source = stretching("longrope")
    lengths = []
    model.add_hook("blocks.1.hook_resid_post", lambda x, hook: lengths.append(list(x.shape[:2])))
    rows = texts(64)
    right = own_entropies(source, rows)
    with pytest.warns(UserWarning, match="hooks that somebody has left"):
        last_entropies(model, rows, batch_size=4)
    assert lengths[-2:] == [[1, 20], [3, BEYOND]]
    model.reset_hooks()
    for some, refused in ((rows[:2], True), (rows[1:], False)):
        tokens = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
        mask = (tokens != 0).long()
        _, cache = model.run_with_cache(tokens, attention_mask=mask)
        if refused:
            with pytest.raises(ModelError, match="padding changes what this model computes"):
                last_entropies(model, (cache, tokens, mask))
        else:
            found, _ = last_entropies(model, (cache, tokens, mask))
            torch.testing.assert_close(found, right[20:], atol=1e-4, rtol=0)


def test_text_beyond_is_written_without_a_cache(monkeypatch):
    model, _ = stretching("longrope")
    adapter = Adapter(model)
    monkeypatch.setattr(Adapter, "generates_with_cache", True)
    prompt = torch.arange(1, BEYOND + 2)[None]
    assert adapter.generate(prompt[:, :8], BEYOND - 8, temperature=1.0, seed=0).cached
    for temperature in (0.0, 1.0):
        assert not adapter.generate(prompt, 5, temperature=temperature, seed=0).cached


@pytest.mark.parametrize(("name", "tokens"), [("longrope", 8), ("dynamic", 8), ("dynamic", BEYOND + 1)])
def test_text_that_outgrows_the_length_while_it_is_written_is_refused_by_that_name(name, tokens):
    adapter = Adapter(stretching(name)[0])
    prompt = torch.arange(1, tokens + 1)[None]
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match=f"stretches the positions of a whole text that is longer than {BEYOND} tokens"):
            adapter.generate(prompt, BEYOND, temperature=temperature, seed=0)


def test_other_models_pad_at_any_length():
    assert Adapter(tle.demo_model()).pads_to == math.inf
