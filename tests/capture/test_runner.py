"""Passes that fail: by whose fault, and what is said."""

from __future__ import annotations

import pytest
import torch
from tiny_models import cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import InputTypeError, ModelError

pytestmark = pytest.mark.model

TOKENS = torch.tensor([[5, 17, 80, 120, 33, 260, 7]])
MASK = torch.ones_like(TOKENS)
BRIDGE = pytest.mark.skipif("bridge" not in kinds(), reason="these models are bridges")


@BRIDGE
@pytest.mark.parametrize("measure", [tle.head_entropy, tle.layer_similarity, tle.lens_entropy, tle.token_surprisal])
def test_a_model_that_transformer_lens_cannot_run_is_refused_by_that_name(measure):
    with pytest.raises(ModelError, match=r"TransformerLens's own forward pass fails on this model.*embed_positions.*float32"):
        measure(cached_model("codegen", "bridge"), TOKENS, progress=False)


@BRIDGE
def test_a_dtype_that_transformer_lens_cannot_run_is_refused_by_that_name():
    model = make_model("olmo", dtype=torch.bfloat16)
    try:
        with torch.no_grad():
            model(TOKENS)
        pytest.skip("this TransformerLens runs it")
    except RuntimeError:
        pass
    with pytest.raises(ModelError, match=r"own forward pass fails .* weights in bfloat16") as caught:
        tle.lens_entropy(model, TOKENS, progress=False)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("error", [KeyError("mine"), torch.OutOfMemoryError("full"), MemoryError(), RuntimeError("mine")])
def test_what_a_hook_raises_stays_as_it_is(gpt2, error):
    def hook(activation, hook):
        raise error

    adapter, sites = Adapter(gpt2), (Adapter(gpt2).last_site,)
    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", hook)]), pytest.raises(type(error)) as caught:
        adapter.activations(TOKENS, MASK, sites)
    assert caught.value is error
    with adapter.edited([("blocks.1.hook_resid_pre", hook)]), pytest.raises(type(error)) as caught:
        adapter.logits(TOKENS, MASK)
    assert caught.value is error
    adapter.activations(TOKENS, MASK, sites)


def test_memory_that_runs_out_in_the_short_pass_is_no_fault_of_the_model(gpt2, monkeypatch):
    adapter = Adapter(gpt2)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(gpt2, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        adapter.logits(TOKENS, MASK)


def test_what_is_not_a_model_is_refused_by_what_it_lacks():
    with pytest.raises(InputTypeError, match=r"must be a TransformerLens model .*; Linear lacks cfg, hook_dict"):
        Runner(torch.nn.Linear(2, 2))


def test_a_model_that_writes_no_text_is_refused_by_that_name(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "generate", None)
    with pytest.raises(ModelError, match="has no generate of its own"):
        tle.lens_entropy(gpt2, TOKENS, max_new_tokens=2, progress=False)


@BRIDGE
def test_a_part_is_asked_for_where_it_is_read():
    model = make_model("llama")
    del model.unembed
    adapter = Adapter(model)
    assert (adapter.d_model, adapter.d_vocab, adapter.dtype) == (32, 300, torch.float32)
    with pytest.raises(ModelError, match="no unembedding"):
        adapter.readout  # noqa: B018
