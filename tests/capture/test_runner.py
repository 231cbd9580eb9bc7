"""Passes that fail: by whose fault, and what is said."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from odd_models import bridge_of
from tiny_models import cached_model, hf_model, kinds, make_model

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


@BRIDGE
def test_a_pass_that_fails_by_a_hook_on_a_module_is_not_said_to_fail_without():
    model = make_model("llama")

    def fails(module, given):
        raise KeyError("mine")

    model.original_model.model.layers[1].register_forward_pre_hook(fails)
    with (
        pytest.warns(UserWarning, match="hooks that somebody has left"),
        pytest.raises(
            ModelError, match=r"pass fails on this model, with the hooks that somebody has left on .*1 \(KeyError: 'mine'"
        ),
    ):
        tle.lens_entropy(tle.Adapter(model, check=False), TOKENS, progress=False)


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


def test_states_that_are_not_one_for_each_token_are_refused(gpt2):
    longer = ("blocks.2.hook_resid_post", lambda activation, hook: torch.cat([activation[:, :3], activation], 1))
    with gpt2.hooks(fwd_hooks=[longer]), pytest.raises(ModelError, match=r"is \[1, 10\] for tokens \[1, 7\]: .*PEFT's prompts"):
        tle.layer_similarity(gpt2, TOKENS, progress=False)


@BRIDGE
@pytest.mark.libraries
def test_tokens_that_an_adapter_puts_before_the_text_are_refused_by_that_name():
    peft = pytest.importorskip("peft")
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = bridge_of(peft.get_peft_model(hf_model("llama"), prompt).eval())
    with pytest.raises(ModelError, match=r"is \[1, 11\] for tokens \[1, 7\]: .*PEFT's prompts"):
        measured(model)


# --- hooks that somebody has left


def measured(model):
    return tle.token_surprisal(model, TOKENS, progress=False)


def test_hooks_that_were_left_are_named_in_a_warning_and_in_the_provenance(gpt2):
    clean = measured(gpt2)
    assert not any("hooks of others" in line for line in clean.provenance.state)
    gpt2.hook_dict["blocks.2.hook_mlp_out"].add_hook(lambda activation, hook: 0 * activation)
    gpt2.hook_dict["blocks.1.hook_attn_out"].add_hook(partial(zeroed, factor=0), is_permanent=True)
    try:
        with pytest.warns(UserWarning, match="hooks that somebody has left .*hook_") as caught:
            dirty = measured(gpt2)
        assert len(caught) == 1
        for name in ("blocks.2.hook_mlp_out", "blocks.1.hook_attn_out"):
            assert name in str(caught[0].message)
            assert f"hooks of others ran at {name}" in dirty.provenance.state
        assert not torch.equal(clean.surprisal, dirty.surprisal)
    finally:
        gpt2.reset_hooks(including_permanent=True)
    assert measured(gpt2).provenance.state == clean.provenance.state


def zeroed(activation, hook, factor):
    return factor * activation


def test_hooks_of_an_open_context_are_named_without_a_warning(gpt2):
    with gpt2.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", lambda activation, hook: 0 * activation)]):
        found = measured(gpt2)
    assert "hooks of others ran at blocks.2.hook_mlp_out" in found.provenance.state


def test_hooks_of_pytorch_on_a_module_are_named(gpt2):
    handle = gpt2.blocks[1].mlp.register_forward_pre_hook(lambda module, args: None)
    try:
        with pytest.warns(UserWarning, match=r"run in what is measured, and may change it: \S*blocks\.1\.\S*mlp\. model"):
            measured(gpt2)
    finally:
        handle.remove()


def test_a_forward_in_the_place_of_a_modules_own_is_named(gpt2):
    clean, part = measured(gpt2), gpt2.blocks[1].mlp
    part = getattr(part, "original_component", part)
    own = part.forward
    try:
        part.forward = lambda *args, **options: 0.5 * own(*args, **options)
        with pytest.warns(
            UserWarning, match=r"hooks that somebody has left .*\.1\.\S*mlp\S* \(its forward replaced\).*del module\.forward"
        ):
            dirty = measured(gpt2)
        assert any("its forward replaced" in line for line in dirty.provenance.state)
        assert not torch.equal(clean.surprisal, dirty.surprisal)
        part.forward = own  # of its class
        assert measured(gpt2).provenance.state == clean.provenance.state
    finally:
        del part.forward


@pytest.mark.parametrize("setting", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_hooks_of_pytorch_on_every_module_are_named(gpt2, setting):
    handle = getattr(torch.nn.modules.module, setting)(lambda module, *passed: None)
    try:
        with pytest.warns(UserWarning, match=rf"hooks that somebody has left .* every module \({setting}\)"):
            found = measured(gpt2)
        assert f"hooks of others ran at every module ({setting})" in found.provenance.state
    finally:
        handle.remove()
    assert not any("hooks of others" in line for line in measured(gpt2).provenance.state)


def doubled(module, gradients, *_):
    return tuple(None if gradient is None else 2 * gradient for gradient in gradients)


@pytest.mark.filterwarnings("ignore:.*ackward hook:UserWarning")  # of PyTorch: on some modules they do not fire
@pytest.mark.parametrize("of", ["TransformerLens", "PyTorch", "PyTorch, before", "every module"])
def test_hooks_of_the_way_back_are_named_where_gradients_are_measured(gpt2, of):
    point, part = gpt2.hook_dict["blocks.1.hook_resid_pre"], gpt2.blocks[1].mlp
    set_hook, name = {
        "TransformerLens": (
            lambda: point.add_hook(lambda gradient, hook: (2 * gradient,), "bwd"),
            r"blocks\.1\.hook_resid_pre",
        ),
        "PyTorch": (lambda: part.register_full_backward_hook(doubled), r"blocks\.1\.\S*mlp"),
        "PyTorch, before": (lambda: part.register_full_backward_pre_hook(doubled), r"blocks\.1\.\S*mlp"),
        "every module": (
            lambda: torch.nn.modules.module.register_module_full_backward_hook(doubled),
            r"every module \(register_module_full_backward_hook\)",
        ),
    }[of]

    def gradients():
        return tle.gradient_reliance(gpt2, TOKENS[:, :4], "embed", progress=False)

    clean, without = gradients().values.nan_to_num(), measured(gpt2).provenance.state
    handle = set_hook()
    try:
        with pytest.warns(UserWarning, match=rf"hooks that somebody has left .*{name}"):
            found = gradients()
        assert any(line.startswith("hooks of others ran at") for line in found.provenance.state)
        assert not torch.equal(found.values.nan_to_num(), clean)
        assert measured(gpt2).provenance.state == without, "no gradient is in these"
    finally:
        gpt2.reset_hooks(including_permanent=True)
        if hasattr(handle, "remove"):
            handle.remove()
    assert torch.equal(gradients().values.nan_to_num(), clean)


def test_interventions_and_captures_are_nobody_elses(gpt2):
    found = tle.lens_entropy(gpt2, TOKENS, interventions=tle.ablate("mlp_out.1"), progress=False)
    assert not any("hooks of others" in line for line in found.provenance.state)


def test_what_could_become_a_model_is_refused_with_the_way():
    with pytest.raises(InputTypeError, match=r"str lacks cfg.*; load it first: tle\.load_model\('gpt2'\)"):
        tle.lens_entropy("gpt2", "the cat", progress=False)
    with pytest.raises(InputTypeError, match=r"str lacks cfg.*; the model comes first, and then the inputs"):
        Adapter("A text, and no name\n" * 999)
    with pytest.raises(InputTypeError, match=r"PosixPath lacks cfg.*load_model\('folder/model'\)"):
        tle.lens_entropy(Path("folder/model"), "the cat", progress=False)
    with pytest.raises(InputTypeError, match=r"DataParallel lacks cfg.*; it has one inside: pass its \.module"):
        Adapter(torch.nn.DataParallel(cached_model("gpt2", kinds()[0])))
    with pytest.raises(InputTypeError, match=r"ActivationCache lacks .*; pass its model first, and .*: \(cache, tokens\)"):
        tle.lens_entropy(cached_model("gpt2", kinds()[0]).run_with_cache("the cat")[1], TOKENS, progress=False)
    with pytest.raises(InputTypeError, match=r"GPT2LMHeadModel lacks .*tle\.load_model\(name or folder\).*boot_transformers"):
        tle.lens_entropy(hf_model("gpt2"), "the cat", progress=False)
