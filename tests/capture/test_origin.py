"""Where numbers come from: weights of every kind are hashed before a pass, and what they are is said."""

from __future__ import annotations

import contextlib
import copy
import hashlib

import pytest
import torch
from odd_models import BRIDGE, TOKENS, bridge_of, offloaded, own_losses, reread, unwrapped, wide_llama, with_lora
from tiny_models import cached_model, hf_model, make_model
from torch import nn
from torch.nn.utils import parametrize, prune

import tl_entropy as tle
from tl_entropy.capture import origin
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.condition import condition, quantised

QUIET = {"progress": False}


def measured(model):
    return tle.token_surprisal(model, TOKENS, **QUIET).provenance


def hash_of(model):
    return origin.fingerprint(model).hash


def of_0_5_0(model):
    """The fingerprint as 0.5.0 made it: lenses and results that were saved then hold it."""
    parts = set()
    for parameter in model.parameters():
        values = parameter.detach().flatten()
        sample = values[:: max(1, values.numel() // 1024)].float().cpu().numpy().tobytes()
        parts.add(hashlib.sha256(f"{tuple(parameter.shape)} {parameter.dtype}".encode() + sample).digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]


# --- the fingerprint


@pytest.mark.model
def test_of_plain_weights_it_is_that_of_0_5_0(any_model):
    assert Adapter(any_model).fingerprint == of_0_5_0(any_model)
    assert origin.fingerprint(any_model).unread == 0


class Strange(torch.Tensor):
    """A tensor of a library's own class, with numbers inside that PyTorch does not see."""

    @staticmethod
    def __new__(cls, inside):
        return torch.Tensor._make_wrapper_subclass(cls, inside.shape, dtype=torch.float32)

    def __init__(self, inside):
        self.inside = inside

    def __tensor_flatten__(self):
        return ["inside"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].inside)
        raise NotImplementedError(f"{function} of a packed tensor")


def strange_layer(values):
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(Strange(values), requires_grad=False)
    return nn.Sequential(layer)


def test_tensors_of_other_classes_count_by_what_is_inside():
    values = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    one, same, other = (strange_layer(v) for v in (values, values.clone(), values + 1))
    for layer in (same, other):
        layer[0].bias = one[0].bias
    assert hash_of(one) == hash_of(same) != hash_of(other)
    assert quantised(one[0]) == {"weight": f"8 bits by {Strange.__module__.partition('.')[0]} (Strange)"}


def test_what_cannot_be_read_counts_by_its_shape_and_is_said():
    layer = nn.Sequential(nn.Linear(3, 2, device="meta"))
    found = origin.fingerprint(layer)
    assert found.unread == 2
    assert origin.state(layer, found)[-1] == "2 weights could not be read: in the fingerprint by shape alone"


def test_packed_integers_count_whichever_way_they_lie():
    packed = torch.randint(256, (64, 32), dtype=torch.uint8)
    layers = [nn.Module() for _ in range(3)]
    for layer, values in zip(layers, (packed, packed.flip(0).reshape(32, 64), packed.roll(1, 0) + 1), strict=True):
        layer.register_buffer("packed", values)
    assert hash_of(layers[0]) == hash_of(layers[1]) != hash_of(layers[2])


def test_buffers_that_are_saved_are_weights():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(3, 2))
    plain = hash_of(layer)
    layer[0].register_buffer("made", torch.ones(3), persistent=False)
    assert hash_of(layer) == plain
    layer[0].register_buffer("correction", torch.ones(3))
    with_buffer = hash_of(layer)
    layer[0].correction.add_(1)
    assert len({plain, with_buffer, hash_of(layer)}) == 3


@pytest.mark.model
def test_masks_of_pruning_count(gpt2):
    def pruned(every):
        copied = copy.deepcopy(gpt2)
        module, name = next((m, n) for m in copied.modules() for n, w in m.named_parameters(recurse=False) if w.ndim > 1)
        mask = torch.ones_like(getattr(module, name))
        mask.view(-1)[::every] = 0
        prune.custom_from_mask(module, name, mask)
        return hash_of(copied)

    assert pruned(2) == pruned(2) != pruned(3)


class Scaled(torch.nn.Module):
    """A weight times a factor that is no weight."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, weight):
        return weight * self.factor


@BRIDGE
@pytest.mark.model
@pytest.mark.parametrize("path", ["model.layers.0.mlp.down_proj", "lm_head"])
def test_what_a_weight_is_made_into_counts_is_said_and_is_measured(path):
    plain, found = hash_of(bridge_of(wide_llama())), []
    for factor in (0.5, 0.25):
        source = wide_llama()
        parametrize.register_parametrization(source.get_submodule(path), "weight", Scaled(factor))
        result = tle.token_surprisal(bridge_of(source), TOKENS, **QUIET)
        found.append(result.provenance.weights)
        right = own_losses(source)[:, -7:].flatten()
        torch.testing.assert_close(result.surprisal[~result.surprisal.isnan()].double(), right, atol=1e-4, rtol=0)
        assert "parametrised: 1 weight, by Scaled" in result.provenance.state
    assert len({plain, *found}) == 3


@pytest.mark.model
def test_it_is_taken_before_the_pass(gpt2, monkeypatch):
    order, plain, forward = [], origin.fingerprint, gpt2.forward
    monkeypatch.setattr(origin, "fingerprint", lambda model: (order.append("hash"), plain(model))[1])
    adapter = Adapter(gpt2, check=False)
    monkeypatch.setattr(gpt2, "forward", lambda *args, **kwargs: (order.append("pass"), forward(*args, **kwargs))[1])
    tle.token_surprisal(adapter, TOKENS, **QUIET)
    assert order[:2] == ["hash", "pass"]
    assert order.count("hash") == 1


# --- how they were processed


@BRIDGE
@pytest.mark.model
def test_compatibility_mode_is_said_of_what_is_in_it():
    assert "compatibility mode" in Adapter(cached_model("llama", "bridge", True)).provenance().processing
    assert "compatibility mode" in Adapter(cached_model("gpt2", "bridge", True)).provenance().processing
    assert "compatibility" not in Adapter(cached_model("gpt2", "bridge")).provenance().processing
    model = make_model("llama")
    model.enable_compatibility_mode(no_processing=True)
    assert Adapter(model).provenance().processing.endswith("compatibility mode without processing")


@BRIDGE
@pytest.mark.model
def test_a_processing_that_failed_half_way_is_not_said_to_have_been_done(monkeypatch):
    from transformer_lens.weight_processing import ProcessWeights

    def fails(*args, **kwargs):
        raise ValueError("half-way")

    model = make_model("llama")
    monkeypatch.setattr(ProcessWeights, "distribute_weights_to_components", fails)
    with pytest.raises(ValueError, match="half-way"):
        model.enable_compatibility_mode()
    assert Adapter(model).provenance().processing.endswith("processed in part or not at all")


# --- what they are


@BRIDGE
@pytest.mark.model
def test_several_dtypes_are_said():
    source = hf_model("llama")
    source.model.norm.double()
    assert condition(source) == ("weights of several dtypes: 47,040 numbers in float32, 32 numbers in float64",)
    assert condition(cached_model("llama", "bridge")) == ()


@BRIDGE
@pytest.mark.model
def test_weights_on_the_disk_are_hashed_and_said():
    places = {"": "disk"}
    one, same = (offloaded(hf_model("llama"), places) for _ in range(2))
    source = hf_model("llama")
    with torch.no_grad():
        source.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    other = offloaded(source, places)
    found = measured(one)
    assert found.weights == hash_of(same) != hash_of(other)
    [line] = [line for line in found.state if line.startswith("offloaded: ")]
    assert line.endswith(" weights, loaded where needed")
    assert not any("could not be read" in line for line in found.state)


@BRIDGE
@pytest.mark.model
def test_notes_of_a_model_are_said():
    model = copy.deepcopy(cached_model("llama", "bridge"))
    origin.note(model, "from a file")
    assert measured(model).state[0] == "from a file"


@BRIDGE
@pytest.mark.model
def test_a_compiled_model_is_measured_without():
    plain = make_model("llama")
    expected = tle.token_surprisal(plain, TOKENS, **QUIET)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    whole = torch.compile(make_model("llama"), backend=backend)
    part = make_model("llama")
    part.blocks[1].compile(backend=backend)
    for model in (whole, part):
        found = tle.token_surprisal(model, TOKENS, **QUIET)
        assert torch.equal(found.surprisal, expected.surprisal)
        assert found.provenance.weights == expected.provenance.weights
        assert "compiled by torch.compile, and measured without" in found.provenance.state
    assert not compiled
    assert "compiled by torch.compile, and measured without" not in expected.provenance.state


# --- libraries


@BRIDGE
@pytest.mark.libraries
def test_an_adapter_is_said_to_be_on_the_modules_that_have_it():
    tuned = with_lora("llama", ["q_proj"])
    tuned.add_adapter("other", type(tuned.peft_config["default"])(r=4, lora_alpha=4, target_modules=["v_proj", "o_proj"]))
    tuned.base_model.set_adapter(["default", "other"])
    lines = [line for line in measured(bridge_of(unwrapped(tuned))).state if line.startswith("adapter ")]
    assert [line.rpartition("), ")[2] for line in lines] == [
        "not merged, scaled by 2, on 3 modules", "not merged, scaled by 1, on 6 modules"
    ]  # fmt: skip


@BRIDGE
@pytest.mark.libraries
def test_adapters_on_and_off_differ_and_are_said():
    tuned = with_lora("llama", ["q_proj", "v_proj"])
    model = bridge_of(unwrapped(tuned))
    on = measured(model)
    tuned.base_model.disable_adapter_layers()
    off = measured(model)
    assert on.weights != off.weights
    [line], [line_off] = ([line for line in found.state if line.startswith("adapter ")] for found in (on, off))
    assert line.startswith("adapter 'default' (")
    assert line.endswith("), not merged, scaled by 2, on 6 modules")
    assert line_off.endswith("), switched off, on 6 modules")
    assert line.split("(")[1].split(")")[0] == line_off.split("(")[1].split(")")[0]
    tuned.base_model.enable_adapter_layers()
    assert measured(model).weights == on.weights
    other = measured(bridge_of(unwrapped(with_lora("llama", ["q_proj", "v_proj"], seed=6))))
    assert other.weights != on.weights
    assert line not in other.state


@BRIDGE
@pytest.mark.libraries
def test_a_failed_compatibility_mode_with_adapters():
    model = bridge_of(unwrapped(with_lora("llama", ["q_proj"])))
    with contextlib.suppress(ValueError):
        model.enable_compatibility_mode()
    assert "compatibility mode" not in measured(model).processing


def quantised_models():
    def torchao(source):
        quantization = pytest.importorskip("torchao.quantization")
        quantization.quantize_(
            source, quantization.Int8WeightOnlyConfig(), lambda m, name: isinstance(m, nn.Linear) and "lm_head" not in name
        )
        return source, "8 bits by torchao (Int8Tensor)"

    def quanto(source):
        library = pytest.importorskip("optimum.quanto")
        library.quantize(source, weights=library.qint4, exclude="lm_head")
        library.freeze(source)
        return source, "4 bits by optimum"

    def hqq(source):
        library = pytest.importorskip("hqq.core.quantize")
        config = library.BaseQuantizeConfig(nbits=4, group_size=32)
        for layer in source.model.layers:
            layer.mlp.up_proj = library.HQQLinear(layer.mlp.up_proj, config, compute_dtype=torch.float32, device="cpu")
        return source, "4 bits by hqq (HQQLinear)"

    def bitsandbytes(bits):
        def make(source):
            pytest.importorskip("bitsandbytes")
            import transformers

            options = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
            config = transformers.BitsAndBytesConfig(**options, llm_int8_skip_modules=["lm_head"])
            model = reread(source, quantization_config=config, device_map="cpu", dtype=torch.float32)
            return model, f"{bits} bits by bitsandbytes"

        return make

    return {"torchao": torchao, "quanto": quanto, "hqq": hqq, "8": bitsandbytes(8), "4": bitsandbytes(4)}


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize("name", quantised_models())
def test_quantised_weights_are_hashed_and_said(name):
    make = quantised_models()[name]
    changed = wide_llama()
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight.copy_(0.1 * torch.randn(128, 64))
    (one, kind), (same, _), (other, _) = (make(source) for source in (wide_llama(), wide_llama(), changed))
    one, same, other = map(bridge_of, (one, same, other))
    found = measured(one)
    assert any(line.startswith("quantised: ") and kind in line for line in found.state)
    assert not any("could not be read" in line for line in found.state)
    assert found.weights == measured(same).weights == measured(one).weights != measured(other).weights
