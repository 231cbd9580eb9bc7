"""Models whose logits are not those of the Hugging Face model inside, and what of it TransformerLens leaves out."""

from __future__ import annotations

import re
import warnings
from functools import partial

import pytest
import torch
from odd_models import BRIDGE, TOKENS, bridge_of, own_losses, unwrapped, with_lora
from tiny_models import cached_model, hf_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.proofs.reference import Reference, difference, reference_of
from tl_entropy.capture.proofs.wrapped import wrapped_logits_proof
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError

pytestmark = pytest.mark.model
QUIET = {"progress": False}


def losses(model):
    return tle.token_surprisal(model, TOKENS, include_special=True, **QUIET).surprisal.double().reshape(2, -1)[:, -7:]


def monitored(model, tokens, *, progress):
    return tle.EntropyMonitor(model, tokens)(0)


def scaled(out):
    """Logits of half the size, which a readout takes for the model's own scale."""
    return 0.5 * out if isinstance(out, torch.Tensor) else out


# --- the proof


def test_models_give_the_logits_of_hugging_faces(any_model):
    line = Adapter(any_model).wrapped
    if not hasattr(any_model, "original_model"):
        assert line is None
    elif any_model.compatibility_mode:
        assert line.startswith("logits not compared with Hugging Face's own: its weights were processed before anything was")
    else:
        assert line.startswith(f"logits are those of {type(any_model.original_model).__name__} in transformers (off by ")


@BRIDGE
def test_a_model_that_computes_something_else_is_refused_by_name_and_figure(monkeypatch):
    model = make_model("gpt2", "bridge")
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: plain(*args, **kwargs) ** 3)
    for _ in range(2):  # what was found is not forgotten, and not taken for proved
        with pytest.raises(
            ModelError, match=r"TransformerBridge does not give the logits .* GPT2LMHeadModel \(off by \d.* check=False"
        ):
            tle.token_surprisal(model, TOKENS, **QUIET)
    found = tle.layer_similarity(tle.Adapter(model, check=False), TOKENS, **QUIET)
    assert found.provenance.state == ("logits not compared with Hugging Face's own: check=False",)


@pytest.mark.thinned
@BRIDGE
@pytest.mark.parametrize(
    "ask",
    [
        tle.lens_entropy, tle.head_entropy, tle.layer_divergence, tle.layer_similarity, tle.layer_geometry, tle.token_surprisal,
        partial(tle.soft_information, n_bins=5, folds=1), partial(tle.gradient_reliance, site="embed"), monitored,
    ],
)  # fmt: skip
def test_an_adapter_stands_for_a_model_that_is_to_be_measured_as_it_is(ask, monkeypatch):
    model = make_model("llama")
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: scaled(plain(*args, **kwargs)))
    with pytest.raises(ModelError, match="does not give the logits"):
        ask(model, TOKENS, **QUIET)
    ask(tle.Adapter(model, check=False), TOKENS, **QUIET)


@BRIDGE
def test_two_short_passes_for_each_model(monkeypatch):
    model, ran = make_model("llama"), []
    plain = type(model.original_model).forward
    monkeypatch.setattr(type(model.original_model), "forward", lambda self, *a, **k: (ran.append(1), plain(self, *a, **k))[1])
    Adapter(model).readout  # noqa: B018
    one = len(ran)
    Adapter(model).readout  # noqa: B018
    Adapter(model).readout  # noqa: B018
    assert len(ran) - one == 2 * (one - 2), "the Bridge's and Hugging Face's once"
    one = len(ran)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)  # a step of training
    Adapter(model).readout  # noqa: B018
    assert len(ran) - one == 2, "with a mask and without: the readout and what is ahead are seen on the same two"


@BRIDGE
def test_everything_is_in_its_place_again():
    model = make_model("gpt2", "bridge")
    before = list(model.original_model.named_modules()), list(model.named_modules())
    model.train()
    tle.token_surprisal(model, TOKENS, **QUIET)
    assert (list(model.original_model.named_modules()), list(model.named_modules())) == before
    assert model.training


@BRIDGE
def test_pieces_that_were_trained_since_are_no_fault():
    model = make_model("gpt2", "bridge")
    with torch.no_grad():
        weight = model.blocks[1].attn.q.original_component.weight
        weight.data = 2 * weight.data
    assert Adapter(model).wrapped.endswith("weights were trained or edited since TransformerLens has split them")


@BRIDGE
def test_processing_is_compared_with_what_was_before():
    model = make_model("gpt2", "bridge")
    Adapter(model).readout  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.enable_compatibility_mode()
    assert Adapter(model).wrapped.startswith("logits of the processed weights are off by ")
    spoilt = make_model("gpt2", "bridge")
    Adapter(spoilt).readout  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoilt.enable_compatibility_mode()
    with torch.no_grad():
        spoilt.blocks[1].mlp.out.weight.mul_(1.5)
    with pytest.warns(UserWarning, match=r"no longer those that its Hugging Face model gave \(off by .* nats"):
        Adapter(spoilt).readout  # noqa: B018


@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("kind", kinds())
def test_a_model_against_what_it_was_made_from(kind, compatible):
    reference = reference_of(hf_model("gpt2"))
    model = make_model("gpt2", kind, compatible=compatible)
    line = wrapped_logits_proof(Runner(model), reference)
    assert line.startswith("logits ")
    assert tle.token_surprisal(model, TOKENS, **QUIET).provenance.state[-1] == line
    other = Reference(reference.ids, reference.logits.flip(-1), reference.of)
    with pytest.raises(ModelError, match=r"does not give the logits of the Hugging Face model .* GPT2LMHeadModel \(off by"):
        wrapped_logits_proof(Runner(make_model("gpt2", kind, compatible=compatible)), other)


@BRIDGE
def test_what_reads_more_than_tokens_is_not_compared():
    assert reference_of(hf_model("t5")) is None
    assert Adapter(cached_model("t5", "bridge")).wrapped.endswith("an encoder-decoder reads two texts")


def test_differences():
    same = torch.tensor([[[0.0, -torch.inf, 2.0], [1.0, -1e9, 2.0]]])
    assert difference(same, same + 5.0) < 1e-9
    assert difference(same, same.roll(1, -1)) > 1.0
    assert difference(same, same[..., :2]) == float("inf")


# --- what is left out


@BRIDGE
@pytest.mark.parametrize("when", ["forward", "before", "instead"])
@pytest.mark.parametrize(
    ("name", "where"), [("gpt2", "transformer.h.1.attn.c_attn"), ("neox", "gpt_neox.layers.1.attention.query_key_value")]
)
def test_hooks_on_a_projection_that_is_split_are_refused(name, where, when):
    source = hf_model(name)
    module = source.get_submodule(where)
    if when == "forward":
        module.register_forward_hook(lambda module, args, out: 0.5 * out)
    elif when == "before":
        module.register_forward_pre_hook(lambda module, args: (0.5 * args[0],))
    else:
        own, where = module.forward, f"{where} (its forward replaced)"
        module.forward = lambda x: 0.5 * own(x)
    with pytest.raises(ModelError, match=rf"leaves out the hooks on {re.escape(where)}: it runs .*add_hook"):
        losses(bridge_of(source))


@BRIDGE
@pytest.mark.filterwarnings("ignore:hooks that somebody has left on this model")
def test_hooks_on_other_modules_run():
    source, same = hf_model("gpt2"), hf_model("gpt2")
    for model in (source, same):
        model.transformer.h[1].mlp.register_forward_hook(lambda module, args, out: 0.5 * out)
    torch.testing.assert_close(losses(bridge_of(source)), own_losses(same), atol=3e-5, rtol=0)


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize(
    ("name", "target"), [("gpt2", "c_attn"), ("neox", "query_key_value"), ("bloom", "query_key_value"), ("phi3", "qkv_proj")]
)
def test_adapters_on_a_projection_that_is_split_are_refused(name, target):
    model = bridge_of(unwrapped(with_lora(name, [target])))
    with pytest.raises(ModelError, match=rf"leaves out the adapters on \S*{target}, .*merge_and_unload"):
        losses(model)
    merged = with_lora(name, [target]).merge_and_unload()
    torch.testing.assert_close(losses(bridge_of(merged)), own_losses(with_lora(name, [target])), atol=3e-5, rtol=0)


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize(("name", "target"), [("llama", "q_proj"), ("gpt2", "c_attn")])
def test_an_adapter_that_tokens_invoke_is_refused_by_that_name(name, target):
    tuned = with_lora(name, [target], alora_invocation_tokens=[33, 260], task_type="CAUSAL_LM")
    model = bridge_of(unwrapped(tuned))
    with pytest.raises(ModelError, match=r"the adapter default does nothing before .* \(aLoRA\): .*disable_adapter_layers"):
        losses(model)
    tuned.base_model.disable_adapter_layers()
    torch.testing.assert_close(losses(model), own_losses(hf_model(name)), atol=3e-5, rtol=0)


@BRIDGE
@pytest.mark.libraries
def test_adapters_that_are_off_or_merged_in_place_are_no_fault():
    tuned = with_lora("gpt2", ["c_attn"])
    expected = own_losses(unwrapped(tuned))
    tuned.base_model.disable_adapter_layers()
    without = own_losses(unwrapped(tuned))
    torch.testing.assert_close(losses(bridge_of(unwrapped(tuned))), without, atol=3e-5, rtol=0)
    whole = with_lora("gpt2", ["c_attn"])
    whole.merge_adapter()
    torch.testing.assert_close(losses(bridge_of(unwrapped(whole))), expected, atol=3e-5, rtol=0)
