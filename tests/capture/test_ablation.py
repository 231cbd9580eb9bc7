"""Neurons: the site post, what they write, their ablation to 0 and to means, their placebo, and what is refused."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARCHITECTURES, cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError, ModelError

RAW = ("gpt2", kinds()[-1], False)
TEXTS = ["the cat sat on the mat", "def f(x):"]
NORMED = {"gemma2"}  # a norm stands behind the MLP


def seen(model, tokens, *names):
    _, cache = model.run_with_cache(tokens)
    return [cache[name] for name in names]


def losses(model, edit=None):
    return tle.token_surprisal(model, TEXTS, interventions=edit, progress=False).surprisal


@pytest.mark.model
@pytest.mark.parametrize(("name", "kind", "compatible"), ARCHITECTURES)
def test_neurons_write_what_the_mlp_adds(name, kind, compatible):
    model = cached_model(name, kind, compatible)
    adapter = tle.Adapter(model)
    tokens = torch.arange(1, 9)[None]
    if name in NORMED:
        with pytest.raises(ModelError, match=r"neurons of layer 1 are not contributions .* a norm"):
            adapter.neurons.weights(1)
        return
    post, out = (tle.Site(place, 1) for place in ("post", "mlp_out"))
    found = adapter.activations(tokens, torch.ones_like(tokens), [post, out])
    assert adapter.width(post) == adapter.neurons.number(1) == found[post].shape[-1]
    written = found[post].double() @ adapter.neurons.weights(1).double()
    bias = found[out].double() - written
    assert float((bias - bias[:, :1]).abs().max()) < 1e-5  # what is left is the same at every position
    assert float(written.std()) > 0.01


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize(("name", "kind", "compatible"), ARCHITECTURES)
def test_ablation_to_0_and_to_means_is_that_of_a_hook(name, kind, compatible):
    model = cached_model(name, kind, compatible)
    means = tle.site_means(model, TEXTS, "post", progress=False)
    assert [str(site) for site in means] == ["post.0", "post.1", "post.2"]

    def to(value):
        def edit(activation, hook):
            activation[..., 3] = value
            return activation

        return tle.Intervention("by hand", [("blocks.1.mlp.hook_post", edit)])

    assert torch.equal(losses(model, tle.ablate_neurons([(1, 3)])), losses(model, to(0.0)))
    to_mean = tle.ablate_neurons([(-2, 3)], means=means)
    assert torch.equal(losses(model, to_mean), losses(model, to(means[tle.Site("post", 1)][3])))
    assert not torch.equal(losses(model, to_mean), losses(model))


@pytest.mark.model
def test_means_are_over_the_positions_counted():
    model = cached_model(*RAW)
    found = tle.site_means(model, TEXTS[0], "post.1", prepend_bos=False, progress=False)[tle.Site("post", 1)]
    [post] = seen(model, model.to_tokens(TEXTS[0], prepend_bos=False), "blocks.1.mlp.hook_post")
    assert found.tolist() == pytest.approx(post[0].double().mean(0).tolist(), abs=1e-6)


@pytest.mark.model
def test_neurons_are_matched_by_others_of_the_same_layers():
    adapter, generator = tle.Adapter(cached_model(*RAW)), torch.Generator().manual_seed(0)
    drawn = {tle.ablate_neurons([(0, 5), (2, 1), (2, 2)]).matched(adapter, generator).name for _ in range(3)}
    assert len(drawn) == 3
    for name in drawn:
        pairs = [tuple(map(int, pair.split("."))) for pair in name.removeprefix("ablate neurons ").split(", ")]
        assert [layer for layer, _ in pairs] == [0, 2, 2]
        assert not {(0, 5), (2, 1), (2, 2)} & set(pairs)
    number = adapter.neurons.number(0)
    with pytest.raises(InputError, match="layer 0 has 0 other neurons"):
        tle.ablate_neurons([(0, i) for i in range(number)]).matched(adapter, generator)


@pytest.mark.model
@pytest.mark.skipif("bridge" not in kinds(), reason="mixtures of experts are TransformerBridge's")
def test_mixtures_of_experts_and_models_without_mlps_are_refused():
    model = cached_model("llama4", "bridge")
    with pytest.raises(InputError, match=r"no post at layer 1: its MLP is a mixture of experts .* \(layers=\[0, 2\]\)"):
        tle.site_means(model, TEXTS, "post", progress=False)
    assert len(tle.site_means(model, TEXTS, "post", layers=[0, 2], progress=False)) == 2
    with pytest.raises(InputError, match="no post at layer 1: its MLP is a mixture of experts"):
        losses(model, tle.ablate_neurons([(1, 0)]))
    with pytest.raises(InputError, match=r"no post at layer 0 \(it has no MLP, or none whose neurons"):
        tle.site_means(cached_model("mamba", "bridge"), TEXTS, "post", progress=False)


@pytest.mark.model
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda model: tle.ablate_neurons([]), InputError, "neurons is empty"),
        (lambda model: tle.ablate_neurons(3), InputTypeError, r"neurons must be pairs .* got 3 in it"),
        (lambda model: tle.ablate_neurons([(1, 0)], means=torch.zeros(4)), InputTypeError, "means must map sites to"),
        (lambda model: tle.ablate_neurons([(1, 0)], means={"post.0": [0.0]}), InputError, "none for layer 1; site_means"),
        (lambda model: tle.ablate_neurons([(1, 4)], means={"post.1": [0.0] * 4}), InputError, "with neuron 4"),
        (
            lambda model: losses(model, tle.ablate_neurons([(1, 999)])),
            InputError,
            "1.999 does not exist; layer 1 has neurons 0",
        ),
        (lambda model: losses(model, tle.ablate_neurons([(7, 0)])), InputError, "7.0 does not exist; the model has layers 0"),
        (lambda model: losses(model, tle.ablate_neurons([(1, 0)], means={"post.1": [0.0] * 4})), InputError, r"\[neuron\] = "),
        (lambda model: tle.lens_entropy(model, TEXTS, sites="post"), InputError, "post.0 holds activations of neurons"),
        (lambda model: tle.layer_geometry(model, TEXTS, sites="post"), InputError, "as wide as the MLP has neurons"),
        (lambda model: tle.layer_similarity(model, TEXTS, sites="post"), InputError, "as wide as the MLP has neurons"),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(cached_model(*RAW))


@pytest.mark.model
def test_neurons_hold_soft_information():
    found = tle.soft_information(cached_model(*RAW), TEXTS * 3, labels="token", sites="post", n_bins=4, progress=False)
    assert [str(site) for site in found.sites] == ["post.0", "post.1", "post.2"]
