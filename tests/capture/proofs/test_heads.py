"""Single heads' results against ablation, against TransformerLens's own, and where they must be refused."""

from __future__ import annotations

import pytest
import torch
from tiny_models import cached_model, hf_model, kinds, make_model, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.edits import Edits
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.proofs.heads import written
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
        assert result.shape == (2, 8, adapter.heads_of(1), 32)
        whole = result.sum(2) + output_bias(any_model, layer)
        torch.testing.assert_close(whole, seen[Site("attn_out", layer)], atol=1e-6, rtol=0)


def test_a_heads_result_is_what_the_attentions_output_loses_without_it(any_model):
    if post_norm(any_model):
        pytest.skip("its heads are refused")
    adapter = Adapter(any_model)
    result, attn_out = Site("result", 1), Site("attn_out", 1)
    whole = adapter.activations(TOKENS, MASK, [result, attn_out])
    for head in range(adapter.heads_of(1)):

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
    with pytest.raises(ModelError, match=r"at layer 0 .* no part, by any factor, .* a norm \(Gemma 2, OLMo 2\)"):
        adapter.head_weights(0)
    sites = adapter.sites("z")
    assert {tuple(z.shape) for z in adapter.activations(TOKENS, MASK, sites).values()} == {(2, 8, 4, 8)}


@pytest.mark.filterwarnings("ignore:hooks that somebody has left")
def test_an_output_that_is_not_the_sum_of_the_heads_is_refused(gpt2, monkeypatch):
    point = gpt2.hook_dict["blocks.1.hook_attn_out"]
    monkeypatch.setattr(point, "forward", lambda x: x + 0.01 * x.abs())
    with pytest.raises(ModelError, match="at layer 1 what attention writes is no part"):
        Adapter(gpt2, check=False).head_weights(0)
    monkeypatch.setattr(point, "forward", lambda x: x * 1.25)
    torch.testing.assert_close(Adapter(gpt2, check=False).head_weights(1), 1.25 * gpt2.blocks[1].attn.W_O.detach())


def test_heads_or_a_stream_that_cannot_be_seen_are_refused(gpt2, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gpt2.hook_dict["blocks.1.attn.hook_z"], "add_hook", lambda *args, **kwargs: None)
        with pytest.raises(ModelError, match=r"the hook blocks\.1\.attn\.hook_z never fired"):
            Adapter(gpt2).head_weights(0)
    monkeypatch.setattr(gpt2.hook_dict["blocks.1.hook_resid_pre"], "add_hook", lambda *args, **kwargs: None)
    with pytest.raises(ModelError, match="what block 1 adds to the residual stream can't be seen"):
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
    with pytest.raises(ModelError, match="what block 2 adds to the residual stream can't be seen"):
        Adapter(Without(gpt2, "blocks.2.hook_resid_pre")).head_weights(0)


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
    assert adapter.masked
    monkeypatch.setattr(gpt2, "forward", lambda *args, **kwargs: (passes.append(1), plain(*args, **kwargs))[1])
    adapter.head_weights(2)
    assert len(passes) == 1
    monkeypatch.setattr(point, "add_hook", lambda *args, **kwargs: (added.append(1), add(*args, **kwargs))[1])
    seen = adapter.activations(TOKENS, MASK, adapter.sites(["z", "result"], [1]))
    assert (len(added), len(passes)) == (1, 2), "the proof's pass and the measured one"
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


# --- heads of other numbers and widths than TransformerLens cuts z into

BRIDGE = pytest.mark.skipif("bridge" not in kinds(), reason="these models are bridges")
UNEVEN = {"mla": [(4, 16)] * 3, "laguna": [(2, 8), (4, 8), (2, 8)]}


def truth(name):
    """The Hugging Face model that a tiny model was made from, which nothing edits, and its layers' output projections."""
    source = hf_model(name)
    return source, [layer.self_attn.o_proj for layer in source.model.layers]


def without_head(name, layer, head, width):
    """Its logits with a head's part of what enters the output projection at 0."""
    source, projections = truth(name)

    def hide(module, args):
        z = args[0].clone()
        z[..., head * width : (head + 1) * width] = 0
        return (z,)

    with torch.no_grad(), projections[layer].register_forward_pre_hook(hide):
        return source(TOKENS).logits


@BRIDGE
@pytest.mark.parametrize("name", UNEVEN)
def test_z_is_cut_into_the_layers_own_heads(name):
    adapter, seen = Adapter(cached_model(name, "bridge")), {}
    assert [tuple(adapter.heads.shape(layer)) for layer in range(3)] == UNEVEN[name]
    assert [adapter.heads_of(layer) for layer in range(3)] == [heads for heads, _ in UNEVEN[name]]
    source, projections = truth(name)
    for layer, projection in enumerate(projections):
        projection.register_forward_pre_hook(lambda module, args, layer=layer: seen.update({layer: args[0]}))
    with torch.no_grad():
        source(TOKENS)
    sites = adapter.sites("z")
    _, cache = adapter.model.run_with_cache(TOKENS, attention_mask=MASK.long())
    for found in (adapter.activations(TOKENS, MASK, sites), adapter.cached_activations(cache, sites)):
        for (site, z), shape in zip(found.items(), UNEVEN[name], strict=True):
            torch.testing.assert_close(z, seen[site.layer].reshape(2, 8, *shape), atol=1e-5, rtol=0)


@BRIDGE
@pytest.mark.parametrize(("name", "layer", "head"), [("mla", 1, 1), ("mla", 0, 3), ("laguna", 1, 3), ("laguna", 2, 1)])
def test_ablated_and_occluded_heads_are_the_layers_own(name, layer, head):
    adapter = Adapter(cached_model(name, "bridge"))
    expected = without_head(name, layer, head, UNEVEN[name][layer][1])
    place = f"z.{layer}"
    means = {layer: torch.zeros(UNEVEN[name][layer])}
    for edit in (
        tle.ablate_heads([(layer, head)]), tle.ablate_heads([(layer, head)], means=means), tle.occlude(place, heads=head),
        (f"blocks.{layer}.attn.hook_z", lambda z, hook: z.index_fill(2, torch.tensor([head]), 0.0)),
    ):  # fmt: skip
        edits = Edits(adapter, edit, [adapter.last_site])
        edits.begin(whole_batch())
        with adapter.edited(edits.hooks):
            found = adapter.logits(TOKENS, MASK)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert float((expected - adapter.logits(TOKENS, MASK)).abs().max()) > 1e-3, "this test has something to find"


def whole_batch():
    from tl_entropy.batches import Window, batches

    places, counted = torch.arange(8), torch.ones(8, dtype=torch.bool)
    windows = [Window(row, counted, places, row, number, None, True, None, row) for number, row in enumerate(TOKENS)]
    [batch] = batches(windows, batch_size=2, max_tokens=1)
    return batch


@BRIDGE
@pytest.mark.parametrize("name", UNEVEN)
def test_their_results_add_up_to_the_attentions_output(name):
    adapter = Adapter(cached_model(name, "bridge"))
    for layer in range(3):
        result, whole = (Site(site, layer) for site in ("result", "attn_out"))
        seen = adapter.activations(TOKENS, MASK, [result, whole])
        assert seen[result].shape == (2, 8, UNEVEN[name][layer][0], 32)
        torch.testing.assert_close(seen[result].sum(2), seen[whole], atol=1e-5, rtol=0)


@BRIDGE
def test_they_are_counted_by_soft_information_and_in_means():
    model = cached_model("mla", "bridge")
    result = tle.soft_information(model, TOKENS, heads="z", sites=(), layers=[1], n_bins=5, folds=1, progress=False)
    assert result.heads == (0, 1, 2, 3)
    assert {tuple(mean.shape) for mean in tle.head_means(model, TOKENS, progress=False).values()} == {(4, 16)}


@BRIDGE
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: tle.ablate_heads([(0, 3)]), "heads: 0.3 does not exist; layer 0 has heads 0 to 1"),
        (lambda: tle.occlude("z.0", heads=3), "heads: 0.3 does not exist; layer 0 has heads 0 to 1"),
        (lambda: tle.mask_attention(1, heads=3), "heads: 0.3 does not exist; layer 0 has heads 0 to 1"),
        (lambda: tle.mask_attention(1, layers=2, heads=3), "heads: 2.3 does not exist; layer 2 has heads 0 to 1"),
        (
            lambda: tle.ablate_heads([(2, 1)], means={2: torch.zeros(4, 8)}),
            r"means: those of layer 2 must be \[head, d_head\] = \[2, 8\]; got \[4, 8\]",
        ),
    ],
)
def test_heads_that_a_layer_does_not_have_are_refused(edit, message):
    with pytest.raises(InputError, match=message):
        tle.lens_entropy(cached_model("laguna", "bridge"), TOKENS, interventions=edit(), progress=False)


@BRIDGE
def test_models_without_heads_say_so():
    for edit in (tle.ablate_heads([(0, 0)]), tle.occlude("z.0", heads=0)):
        with pytest.raises(InputError, match="heads: layer 0 of this model has no attention heads; nor has any other"):
            tle.lens_entropy(cached_model("mamba", "bridge"), TOKENS, interventions=edit, progress=False)
    with pytest.raises(InputError, match="heads: layer 0 of this model has no attention heads; layers that have some: 1"):
        Adapter(cached_model("jamba", "bridge")).heads_of(0)


@BRIDGE
def test_gradients_of_a_head_are_those_of_the_layers_own():
    model = cached_model("mla", "bridge")
    options = {"positions": [3, 5], "progress": False}
    whole = tle.gradient_reliance(model, TOKENS, "z.1", **options).values
    single = [tle.gradient_reliance(model, TOKENS, "z.1", heads=head, **options).values for head in range(4)]
    torch.testing.assert_close(sum(single), whole, atol=1e-6, rtol=0, equal_nan=True)


def test_a_z_that_no_number_of_heads_fits_is_refused(gpt2, monkeypatch):
    point = gpt2.hook_dict["blocks.0.attn.hook_z"]
    adapter = Adapter(gpt2)
    raw = adapter._short_pass("z", 0)
    adapter._short_pass._seen[Site("z", 0)] = raw[..., :3, :3]
    with pytest.raises(ModelError, match=r"at layer 0, z \(1, \d+, 3, 3\) and W_O \(4, 8, 32\) do not belong to 4 heads"):
        adapter.activations(TOKENS, MASK, adapter.sites("z", [0]))
    assert not point.fwd_hooks


def test_what_heads_write_together():
    z, weights, bias = torch.randn(2, 5, 3, 8), torch.randn(3, 8, 16), torch.randn(16)
    expected = torch.einsum("bphd,hdm->bpm", z.double(), weights.double()) + bias.double()
    torch.testing.assert_close(written(z, weights, bias), expected.float())
