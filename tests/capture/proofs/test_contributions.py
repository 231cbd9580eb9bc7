"""What sub-layers add to the stream: on plain tensors, on models with a factor, and where it is no part of it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import booted, cached_model, kinds

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.proofs.contributions import share
from tl_entropy.errors import ModelError
from tl_entropy.sites import Site

TOKENS = torch.tensor([[0, 5, 17, 80, 120, 33, 260, 7], [0, 9, 44, 44, 201, 3, 18, 250]])
MASK = torch.ones_like(TOKENS, dtype=torch.bool)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)


def parts(dtype=torch.float32, d_model=64):
    draw = torch.Generator().manual_seed(0)
    return (torch.randn(2, 5, d_model, generator=draw).to(dtype) for _ in range(3))


def plus(*terms):
    return sum(term.double() for term in terms).to(terms[0].dtype)


@DTYPES
@pytest.mark.parametrize("factor", [1.0, 0.22, 0.7, -2.0])
def test_a_factor_is_found_and_rounding_is_none(dtype, factor):
    stream, value, _ = parts(dtype)
    found = share(value, stream, plus(stream, factor * value), plain=(1.0, 0.22))
    if factor in (1.0, 0.22):
        assert found == factor
    assert abs(found / factor - 1) < {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 3e-3)


@DTYPES
def test_what_is_added_beside_has_a_factor_of_its_own(dtype):
    stream, value, other = parts(dtype)
    after = plus(stream, 0.05 * value, 3 * other)
    assert share(value, stream, after) is None
    assert abs(share(value, stream, after, [other, stream, after]) / 0.05 - 1) < (1e-5 if dtype.itemsize > 2 else 0.3)


@DTYPES
@pytest.mark.parametrize("change", ["bias", "norm", "rows", "nonlinear", "nan"])
def test_another_transform_is_none(dtype, change):
    stream, value, other = parts(dtype)
    added = {
        "bias": value + 1.0,
        "norm": value / value.float().square().mean(-1, keepdim=True).sqrt().to(dtype) * torch.linspace(0.1, 2, 64).to(dtype),
        "rows": value * torch.linspace(0.8, 1.2, 5).to(dtype)[:, None],
        "nonlinear": value.abs(),
        "nan": value * float("nan"),
    }[change]
    assert share(value, stream, plus(stream, added)) is None
    assert share(value, stream, plus(stream, added), [other]) is None


def test_a_value_that_is_no_part_where_the_others_are_all():
    stream, value, other = parts()
    assert share(value, stream, stream + other, [other]) is None


def test_the_rounding_of_a_large_dimension_is_no_error():
    stream, value, _ = parts(torch.bfloat16, d_model=4096)
    stream[..., 3] = 1000.0
    assert share(value, stream, plus(stream, value)) == 1.0


def test_an_error_in_one_dimension_is_seen():
    stream, value, _ = parts()
    added = value.clone()
    added[..., 4] *= 1.01
    assert share(value, stream, stream + added) is None


def test_what_writes_nothing_is_a_part_where_nothing_is_added():
    stream, value, other = parts()
    assert share(value * 0, stream, stream) == 1.0
    assert share(value * 0, stream, stream + other) is None


@pytest.mark.model
def test_plain_blocks_add_what_their_parts_write(any_model):
    adapter = Adapter(any_model)
    for layer in range(adapter.n_layers):
        for name in ("attn_out", "mlp_out"):
            assert adapter.contributions.factor(Site(name, layer)) == 1.0
            assert adapter.view(Site(name, layer)) is None


# --- a mixer beside the attention, and a multiplier behind it

BRIDGE = pytest.mark.skipif("bridge" not in kinds(), reason="these models are bridges")


@pytest.mark.model
@BRIDGE
def test_a_multiplier_behind_the_hook_is_taken():
    adapter = Adapter(cached_model("falcon_h1", "bridge"))
    site, mixer, multiplier = Site("attn_out", 1), "blocks.1.mamba.hook_out", 0.25
    assert adapter.contributions.factor(site) == pytest.approx(multiplier, rel=1e-5)
    pre, mid, attn = (Site(name, 1) for name in ("resid_pre", "resid_mid", "attn_out"))
    seen = adapter.activations(TOKENS, MASK, (pre, mid, attn, Site("result", 1)))
    _, cache = adapter.model.run_with_cache(TOKENS, attention_mask=MASK.long(), names_filter=[mixer, "blocks.1.hook_attn_out"])
    torch.testing.assert_close(seen[attn], multiplier * cache["blocks.1.hook_attn_out"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen[pre] + seen[attn] + cache[mixer], seen[mid], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[Site("result", 1)].sum(2), seen[attn], atol=1e-6, rtol=1e-5)


@pytest.mark.model
@BRIDGE
def test_edits_are_in_units_of_the_stream():
    model = cached_model("falcon_h1", "bridge")
    adapter = Adapter(model)
    vector, mid = torch.linspace(-1, 1, 32), Site("resid_mid", 1)
    from tl_entropy.capture.edits import Edits

    def seen(edit):
        edits = Edits(adapter, edit, [mid])
        with adapter.edited(edits.hooks):
            return adapter.activations(TOKENS, MASK, [mid])[mid]

    plain = seen(None)
    torch.testing.assert_close(
        seen(tle.steer(vector, layer=1, site="attn_out")) - plain, vector.expand_as(plain), atol=1e-5, rtol=0
    )
    unchanged = ("blocks.1.hook_attn_out", lambda activation, hook: activation)
    assert torch.equal(seen(unchanged), plain), "an edit that changes nothing changes no bit"


@pytest.mark.model
@BRIDGE
def test_a_sub_layer_that_is_no_part_of_the_stream_is_refused_by_lenses_alone():
    model = Adapter(cached_model("gpt1", "bridge"), check=False)
    with pytest.raises(ModelError, match="at layer 0 what attention writes is no part"):
        tle.lens_entropy(model, TOKENS, sites="attn_out", progress=False)
    with pytest.raises(ModelError, match="at layer 1 what the MLP writes is no part"):
        tle.lens_entropy(model, TOKENS, sites="mlp_out", layers=[1], progress=False)
    found = tle.layer_similarity(model, TOKENS, sites=("attn_out", "resid_post"), progress=False)
    assert found.values.isfinite().all()


@pytest.mark.model
@BRIDGE
def test_a_state_behind_the_mlp_is_not_the_one_in_the_middle():
    """With its norms behind its parts, OPT's second norm reads what the MLP has been added to."""
    import transformers as tr

    config = tr.OPTConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, max_position_embeddings=64,
        word_embed_proj_dim=16, do_layer_norm_before=False,
    )  # fmt: skip
    model = booted(tr.OPTForCausalLM(config), "opt", std=0.15)
    for sites in ("resid_mid", ("resid_mid.1", "resid_post.1")):
        with pytest.raises(ModelError, match="is passed behind the MLP, so it is not the state between attention and MLP"):
            tle.lens_entropy(model, TOKENS, sites=sites, progress=False)
    assert tle.lens_entropy(model, TOKENS, sites="resid_post", progress=False).entropy.isfinite().all()


@pytest.mark.model
def test_states_in_the_middle_are_passed_before_the_mlp(any_model):
    adapter = Adapter(any_model)
    for layer in adapter.layers_with("resid_mid"):
        assert adapter.view(Site("resid_mid", layer)) is None
