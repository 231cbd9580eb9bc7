"""Where sites are: in which stack, at which hook, and what is said where a model has none."""

from __future__ import annotations

import pytest
import torch
from tiny_models import cached_model, kinds

from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputError, ModelError
from tl_entropy.sites import Site

pytestmark = [pytest.mark.model, pytest.mark.skipif("bridge" not in kinds(), reason="these models are bridges")]

TOKENS = torch.tensor([[5, 17, 80, 120, 33, 260, 7]])
MASK = torch.ones_like(TOKENS)


def adapter_of(name, **options):
    return Adapter(cached_model(name, "bridge"), **options)


@pytest.mark.parametrize(
    ("name", "site", "reason"),
    [
        (
            "mamba",
            "pattern",
            r"no pattern at layer 0 \(it has no attention heads, or none .*\): no hook blocks.0.attn.hook_pattern",
        ),
        ("mamba", "result", r"no result at layer 0 \(it has no attention heads, .*\): no hook blocks.0.attn.hook_z"),
        ("mamba", "resid_mid", r"no resid_mid at layer 0 \(its blocks are single layers, or TransformerLens shows no state"),
        ("neox", "resid_mid", r"no resid_mid at layer 0 \(its attention and MLP run in parallel\)"),
        ("jamba", "pattern", r"no pattern at layer 0: no hook .*; layers that have one: 1 \(layers=\[1\]\)"),
        ("jamba", "z", r"no z at layer 0: no hook .*; layers that have one: 1 \(layers=\[1\]\)"),
    ],
)
def test_what_a_model_lacks_is_said_with_the_true_reason(name, site, reason):
    with pytest.raises(InputError, match=reason):
        adapter_of(name).sites(site)


def test_layers_that_have_a_site_are_enough():
    assert adapter_of("jamba").sites("pattern", [1]) == (Site("pattern", 1),)


def test_a_state_whose_own_hook_is_silent_is_seen_by_what_reads_it():
    adapter = adapter_of("gpt1", check=False)
    model = adapter.model
    names = {1: "blocks.2.hook_resid_pre", 2: "unembed.hook_in"}
    _, cache = model.run_with_cache(TOKENS)
    assert "blocks.1.hook_resid_post" not in cache.cache_dict, "this test has something to find"
    seen = adapter.activations(TOKENS, MASK, adapter.sites("resid_post"))
    for layer, name in names.items():
        assert torch.equal(seen[Site("resid_post", layer)], cache[name])


def test_the_stacks_of_an_encoder_decoder():
    decoder, encoder = adapter_of("t5"), adapter_of("t5", stack="encoder")
    try:
        decoder.logits(TOKENS, MASK)
    except ModelError:
        pytest.skip("this TransformerLens does not run it")
    _, cache = decoder.model.run_with_cache(TOKENS, attention_mask=MASK)
    for adapter, blocks, attention in ((decoder, "decoder_blocks", "self_attn"), (encoder, "encoder_blocks", "attn")):
        seen = adapter.activations(TOKENS, MASK, adapter.sites(("embed", "pattern", "resid_post")))
        assert len(seen) == 5
        assert torch.equal(seen[Site("embed", -1)], cache[f"{blocks}.0.hook_resid_pre"])
        assert torch.equal(seen[Site("pattern", 1)], cache[f"{blocks}.1.{attention}.hook_pattern"])
        assert torch.equal(seen[Site("resid_post", 1)], cache[f"{blocks}.1.hook_resid_post"])


def test_a_stack_that_is_not_there():
    with pytest.raises(InputError, match="stack: this model has one stack of blocks and no encoder of its own"):
        adapter_of("llama", stack="encoder")
    with pytest.raises(InputError, match="stack must be one of 'decoder', 'encoder'"):
        adapter_of("t5", stack="left")


def test_blocks_in_turns_are_no_stack():
    model = torch.nn.Module()
    model.cfg, model.hook_dict = object(), {}
    model.L_blocks, model.H_blocks = torch.nn.ModuleList(), torch.nn.ModuleList()
    with pytest.raises(ModelError, match=r"this Module has no single stack of blocks, .* it has L_blocks, H_blocks"):
        Adapter(model)
