"""Where sites are: in which stack, at which hook, and what is said where a model has none."""

from __future__ import annotations

import pytest
import torch
from odd_models import bridge_of, wide_llama
from tiny_models import cached_model, kinds

import tl_entropy as tle
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


def test_hooks_in_modules_that_layers_share_are_refused():
    """Two layers that are one module: the stream is each layer's, and what passes inside would be both layers'."""
    source = wide_llama()
    source.model.layers[1] = source.model.layers[0]
    source.config.use_cache = False
    with torch.no_grad():
        states = source(input_ids=TOKENS, output_hidden_states=True).hidden_states[1:]
        raw = [*(source.model.norm(state) for state in states[:-1]), states[-1]]  # behind the norm already
        right = [source.lm_head(state).double().log_softmax(-1) for state in raw]
    model = bridge_of(source)
    found = tle.lens_entropy(model, TOKENS, include_special=True, progress=False).entropy[..., 0].double()
    for layer, logs in enumerate(right):
        torch.testing.assert_close(found[:, 1 + layer], -(logs.exp() * logs).sum(-1).flatten(), atol=2e-6, rtol=0)
    own = r"is in a module that several layers of this model share"
    for call in (
        lambda: tle.layer_geometry(model, TOKENS, measures="curvature", sites="mlp_out", progress=False),
        lambda: tle.lens_entropy(model, TOKENS, sites="resid_mid", progress=False),
        lambda: tle.head_entropy(model, TOKENS, progress=False),
        lambda: tle.lens_entropy(model, TOKENS, interventions=tle.ablate_heads([(0, 1)]), progress=False),
        lambda: tle.lens_entropy(model, TOKENS, interventions=tle.ablate("mlp_out.1"), progress=False),
    ):
        with pytest.raises(tle.ModelError, match=own):
            call()
