"""Single heads' results against ablation, against TransformerLens's own, and where they must be refused."""

from __future__ import annotations

import pytest
import torch
from tiny_models import cached_model, hf_model, kinds, make_model, tiny_tokenizer

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.proofs.heads import prove_heads
from tl_entropy.capture.stream import stream
from tl_entropy.errors import InputError, ModelError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

TOKENS = torch.tensor([[0, 5, 17, 80, 120, 33, 260, 7], [0, 9, 44, 44, 201, 3, 18, 250]])
MASK = torch.ones_like(TOKENS, dtype=torch.bool)
REFUSED = "heads of this model are not contributions to the residual stream: .* The site z can be measured instead"


def post_norm(model):
    return "gemma2" in model.cfg.model_name


def output_bias(model, layer):
    block = model.blocks[layer]
    bias = getattr(block.attn, "b_O", None)
    return 0.0 if bias is None else bias.detach() * getattr(block, "residual_contribution_scale", 1.0)


def test_heads_add_up_to_the_attentions_output(any_model):
    adapter = Adapter(any_model)
    sites = adapter.sites(["result", "attn_out"])
    assert [str(site) for site in sites[:2]] == ["result.0", "attn_out.0"]
    if post_norm(any_model):
        with pytest.raises(ModelError, match=f"(?s){REFUSED}"):
            adapter.activations(TOKENS, MASK, sites)
        return
    seen = adapter.activations(TOKENS, MASK, sites)
    assert tuple(seen) == sites
    for layer in range(adapter.n_layers):
        result = seen[Site("result", layer)]
        assert result.shape == (2, 8, adapter.n_heads, 32)
        whole = result.sum(2) + output_bias(any_model, layer)
        torch.testing.assert_close(whole, seen[Site("attn_out", layer)], atol=1e-6, rtol=0)


def test_a_heads_result_is_what_the_attentions_output_loses_without_it(any_model):
    if post_norm(any_model):
        pytest.skip("its heads are refused")
    adapter = Adapter(any_model)
    result, attn_out = Site("result", 1), Site("attn_out", 1)
    whole = adapter.activations(TOKENS, MASK, [result, attn_out])
    for head in range(adapter.n_heads):

        def ablate(z, hook, head=head):
            return torch.where(torch.arange(z.shape[2])[:, None] == head, 0.0, z)

        with any_model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", ablate)]):
            without = adapter.activations(TOKENS, MASK, [attn_out])[attn_out]
        torch.testing.assert_close(whole[result][:, :, head], whole[attn_out] - without, atol=1e-6, rtol=0)
        assert float(whole[result][:, :, head].abs().mean()) > 1e-3


@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("kind", kinds())
def test_results_are_transformer_lenss_own(kind, compatible):
    model = make_model("gpt2", kind, compatible=compatible)
    adapter = Adapter(model)
    sites = adapter.sites("result")
    seen = adapter.activations(TOKENS, MASK, sites)
    model.set_use_attn_result(True)
    own = {}

    def keep(value, hook, *, name):
        own[name] = value.detach()

    names = [hook_name(site) for site in sites]
    assert names[2] == "blocks.2.attn.hook_result"
    hooks = [(name, lambda value, hook, name=name: keep(value, hook, name=name)) for name in names]
    model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    for site, name in zip(sites, names, strict=True):
        torch.testing.assert_close(seen[site], own[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(Adapter(model).activations(TOKENS, MASK, [site])[site], seen[site], atol=1e-6, rtol=0)


@pytest.mark.parametrize("compatible", [False, True])
def test_the_residual_multiplier_scales_weights_and_bias(compatible):
    import transformers as tr
    from transformer_lens.model_bridge import TransformerBridge

    config = hf_model("granite").config
    config.attention_bias = True
    torch.manual_seed(0)
    source = tr.GraniteForCausalLM(config).eval()
    with torch.no_grad():
        for layer in source.model.layers:
            layer.self_attn.o_proj.bias.normal_()
    model = TransformerBridge.boot_transformers("tiny/biased", hf_model=source, tokenizer=tiny_tokenizer(), device="cpu")
    if compatible:
        model.enable_compatibility_mode()
    adapter = Adapter(model)
    torch.testing.assert_close(adapter.head_weights(1), 0.22 * model.blocks[1].attn.W_O.detach())
    sites = adapter.sites(["resid_pre", "result", "resid_mid"], [1])
    pre, result, mid = adapter.activations(TOKENS, MASK, sites).values()
    torch.testing.assert_close(pre + result.sum(2) + output_bias(model, 1), mid, atol=1e-6, rtol=0)


def test_z_can_be_measured_where_heads_are_refused():
    adapter = Adapter(cached_model("gemma2", "bridge"))
    with pytest.raises(ModelError, match=r"at layer 0 .*\(off by .*a norm \(Gemma 2, OLMo 2\)"):
        adapter.head_weights(0)
    sites = adapter.sites("z")
    assert {tuple(z.shape) for z in adapter.activations(TOKENS, MASK, sites).values()} == {(2, 8, 4, 8)}


def test_an_output_that_is_not_the_sum_of_the_heads_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2.hook_dict["blocks.1.hook_attn_out"], "forward", lambda x: x * 1.01)
    with pytest.raises(ModelError, match=r"at layer 1 their sum and b_O .*\(off by 0\.00"):
        Adapter(gpt2).head_weights(0)


def test_an_output_that_cannot_be_seen_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2.hook_dict["blocks.1.hook_attn_out"], "add_hook", lambda *args, **kwargs: None)
    with pytest.raises(ModelError, match=r"(?s)can't be seen \(the hooks blocks\.1\.hook_attn_out exist but never fired"):
        Adapter(gpt2).activations(TOKENS, MASK, [Site("result", 0)])


class Without:
    """A model with some hooks missing, and some attributes changed."""

    def __init__(self, model, *lacking, **changed):
        self._model = model
        self.hook_dict = {name: point for name, point in model.hook_dict.items() if name not in lacking}
        vars(self).update(changed)

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **kwargs):
        return self._model(*args, **kwargs)


def test_layers_without_heads(gpt2):
    adapter = Adapter(Without(gpt2, "blocks.0.attn.hook_z", "blocks.1.attn.hook_result"))
    with pytest.raises(InputError, match=r"this model has no result at layer 0: no hook blocks\.0\.attn\.hook_z"):
        adapter.sites("result")
    assert adapter.sites("result", [1, 2]) == (Site("result", 1), Site("result", 2))
    with pytest.raises(InputError, match=r"layer 0 has no attention heads; layers with heads: \[1, 2\]"):
        adapter.head_weights(0)
    torch.testing.assert_close(adapter.head_weights(1), gpt2.blocks[1].attn.W_O.detach())
    with pytest.raises(ModelError, match=r"can't be seen .*no hook blocks\.2\.hook_attn_out"):
        Adapter(Without(gpt2, "blocks.2.hook_attn_out")).head_weights(0)


def test_weights_that_do_not_fit_or_cannot_be_read(gpt2):
    from types import SimpleNamespace

    with pytest.raises(ModelError, match=r"(?s)W_O of layer 0 can't be read.*The site z"):
        Adapter(Without(gpt2, blocks=[SimpleNamespace(attn=SimpleNamespace())] * 3)).head_weights(0)
    transposed = SimpleNamespace(attn=SimpleNamespace(W_O=torch.zeros(8, 4, 32)))
    with pytest.raises(ModelError, match=r"z \(1, \d+, 4, 8\) and W_O \(8, 4, 32\) do not belong to 4 heads"):
        Adapter(Without(gpt2, blocks=[transposed] * 3)).head_weights(0)


def test_one_proof_a_model_and_one_capture_a_layer(gpt2, monkeypatch):
    added, passes, plain = [], [], gpt2.forward
    point = gpt2.hook_dict["blocks.1.attn.hook_z"]
    add = point.add_hook
    adapter = Adapter(gpt2)
    monkeypatch.setattr(gpt2, "forward", lambda *args, **kwargs: (passes.append(1), plain(*args, **kwargs))[1])
    adapter.head_weights(2)
    assert len(passes) == 1
    monkeypatch.setattr(point, "add_hook", lambda *args, **kwargs: (added.append(1), add(*args, **kwargs))[1])
    seen = adapter.activations(TOKENS, MASK, adapter.sites(["z", "result"], [1]))
    assert (len(added), len(passes)) == (1, 2)
    z, result = seen.values()
    expected = torch.stack([z[:, :, h].double() @ adapter.head_weights(1)[h].double() for h in range(4)], dim=2)
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)


def test_users_hooks_show_in_results_and_not_in_the_proof(gpt2):
    site = Site("result", 1)
    ruin, silence = ("blocks.1.hook_attn_out", lambda x, hook: x * 3), ("blocks.1.attn.hook_z", lambda z, hook: z * 0)
    with gpt2.hooks(fwd_hooks=[ruin, silence]):
        assert not Adapter(gpt2).activations(TOKENS, MASK, [site])[site].any()
    assert Adapter(gpt2).activations(TOKENS, MASK, [site])[site].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", kinds())
def test_precision(kind, dtype):
    model = make_model("gpt2", kind, dtype=dtype)
    adapter = Adapter(model)
    sites = adapter.sites(["z", "result"], [2])
    z, result = adapter.activations(TOKENS, MASK, sites).values()
    assert z.dtype == dtype
    assert result.dtype == adapter.head_weights(2).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = torch.stack([z[:, :, h].double() @ model.blocks[2].attn.W_O[h].detach().double() for h in range(4)], dim=2)
    torch.testing.assert_close(result.double(), expected, atol=1e-12 if dtype == torch.float64 else 1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_heads_are_refused_in_half_precision_too(dtype):
    with pytest.raises(ModelError, match="not contributions"):
        Adapter(make_model("gemma2", "bridge", dtype=dtype)).head_weights(0)


def test_caches_of_z_give_results(gpt2):
    adapter = Adapter(gpt2)
    sites = adapter.sites(["result", "attn_out"])
    _, cache = gpt2.run_with_cache(TOKENS[:1], attention_mask=MASK[:1].long())
    own = adapter.activations(TOKENS[:1], MASK[:1], sites)
    for found in (adapter.cached_activations(cache, sites), adapter.cached_activations(cache.remove_batch_dim(), sites)):
        assert tuple(found) == sites
        for site in sites:
            torch.testing.assert_close(found[site], own[site], atol=1e-6, rtol=0)
    _, poor = gpt2.run_with_cache(TOKENS, names_filter="blocks.1.hook_attn_out")
    with pytest.raises(InputError, match=r"the cache has no blocks\.1\.attn\.hook_z, needed for the site result\.1"):
        adapter.cached_activations(poor, [Site("result", 1)])


class Sums:
    """Sums of two sites over everything counted."""

    def __init__(self, sites):
        self.sites, self.total, self.rows = sites, {site: torch.zeros(32, dtype=torch.float64) for site in sites}, 0

    def update(self, batch, activations):
        for site in self.sites:
            rows = batch.rows(activations[site]).double()
            self.total[site] += rows.flatten(1, -2).sum((0, 1)) if rows.ndim == 3 else rows.sum(0)
        self.rows += batch.n_rows


def test_a_pass_over_texts(gpt2, texts):
    sums = Sums(Adapter(gpt2).sites(["result", "attn_out"], [1]))
    stream(gpt2, texts, [sums], batch_size=3, progress=False)
    result, attn_out = sums.total.values()
    assert sums.rows > 8
    torch.testing.assert_close(result + sums.rows * gpt2.blocks[1].attn.b_O.detach().double(), attn_out, atol=1e-4, rtol=0)


# --- the proof on plain tensors ------------------------------------------------------------------------------------------


def proved(z, weights, bias, attn_out):
    prove_heads(weights, bias, z, attn_out, layer=0, n_heads=weights.shape[0])
    return True


def heads(dtype=torch.float32, d_model=64):
    generator = torch.Generator().manual_seed(0)
    z, weights = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((2, 5, 3, 8), (3, 8, d_model)))
    bias = torch.randn(d_model, generator=generator).to(dtype)
    return z, weights, bias, (torch.einsum("bphd,hdm->bpm", z.double(), weights.double()) + bias.double()).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rounding_passes_and_a_missing_bias_or_factor_does_not(dtype):
    z, weights, bias, attn_out = heads(dtype)
    assert proved(z, weights, bias, attn_out)
    for wrong in ((z, weights, None, attn_out), (z, weights, bias, attn_out * 1.2), (z.roll(1, 2), weights, bias, attn_out)):
        with pytest.raises(ModelError, match="not the attention's output"):
            proved(*wrong)


def test_the_rounding_of_a_large_dimension_is_no_error():
    z, weights, bias, _ = heads(torch.bfloat16, d_model=4096)
    bias = bias.clone()
    bias[3] = 1000.0
    own = (torch.einsum("bphd,hdm->bpm", z.double(), weights.double()) + bias.double()).bfloat16()
    assert proved(z, weights, bias, own)


def test_an_error_in_one_dimension_is_seen():
    z, weights, bias, attn_out = heads()
    attn_out[..., 4] *= 1.002
    with pytest.raises(ModelError, match="not the attention's output"):
        proved(z, weights, bias, attn_out)


def test_an_attention_that_writes_nothing_passes_and_one_that_writes_nan_does_not():
    z, weights, _, attn_out = heads()
    assert proved(z, weights * 0, None, attn_out * 0)
    with pytest.raises(ModelError, match="off by nan"):
        proved(z, weights, None, attn_out * float("nan"))


def test_shapes_of_another_number_of_heads_are_refused():
    z, weights, bias, attn_out = heads()
    with pytest.raises(ModelError, match=r"z \(2, 5, 3, 8\) and W_O \(3, 8, 64\) do not belong to 6 heads"):
        prove_heads(weights, bias, z, attn_out, layer=0, n_heads=6)
    with pytest.raises(ModelError, match="do not belong to 3 heads"):
        prove_heads(weights, bias, z.flatten(2), attn_out, layer=0, n_heads=3)
    with pytest.raises(ModelError, match=r"z \(2, 5, 6, 8\) and W_O \(3, 8, 64\) do not belong to 3 heads"):
        prove_heads(weights, bias, z.repeat(1, 1, 2, 1), attn_out, layer=0, n_heads=3)


@pytest.mark.parametrize("kind", kinds())
def test_value_biases_are_in_z_until_they_are_folded(kind):
    plain, folded = (make_model("gpt2", kind, compatible=compatible) for compatible in (False, True))
    if kind == "hooked":  # loaded with value biases folded, as TransformerLens does unless told otherwise
        assert not Adapter(plain).heads.value_biases
        plain.blocks[1].attn.b_V.data += 1.0
    assert (Adapter(plain).heads.value_biases, Adapter(folded).heads.value_biases) == (True, False)
    assert Adapter(plain).provenance().processing.endswith(", value biases in z")
    assert "value biases" not in Adapter(folded).provenance().processing


@pytest.mark.skipif("bridge" not in kinds(), reason="the tiny models without biases are bridges")
def test_models_without_value_biases():
    assert not Adapter(cached_model("llama", "bridge")).heads.value_biases
