"""W_U and W_O read through the modules: what a module adds to its weight is in what is measured."""

from __future__ import annotations

import pytest
import torch
from odd_models import (
    BRIDGE,
    TOKENS,
    bridge_of,
    offloaded,
    own_log_probabilities,
    own_losses,
    reread,
    unwrapped,
    wide_llama,
    with_lora,
)
from tiny_models import cached_model, hf_model, kinds
from torch import nn

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.linear import linear_map
from tl_entropy.errors import ModelError

QUIET = {"progress": False}
HERE = {"dtype": torch.float32, "device": torch.device("cpu")}


class Added(nn.Module):
    """A linear layer, and something beside it that its weight does not hold."""

    def __init__(self, base, beside):
        super().__init__()
        self.base, self.beside = base, beside

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.beside(x)


def entropy_of(log_p):
    return -(log_p.exp() * log_p).sum(-1)


def check_measured(model, source, *, atol=3e-6):
    """Lens entropies at the last site, losses and what heads add up to are those of the Hugging Face model ``source``."""
    log_p = torch.cat([own_log_probabilities(source, row[None]) for row in TOKENS])
    options = {**QUIET, "include_special": True}
    last = tle.lens_entropy(model, TOKENS, sites="resid_post", layers=[-1], **options)
    torch.testing.assert_close(last.entropy.double().reshape(2, -1), entropy_of(log_p), atol=atol, rtol=0)
    losses = tle.token_surprisal(model, TOKENS, **options).surprisal.double().reshape(2, -1)
    right = torch.cat([own_losses(source, row[None]) for row in TOKENS])
    torch.testing.assert_close(losses[:, -7:], right, atol=10 * atol, rtol=0)


# --- the map of a module


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_plain_layer_gives_its_own_weight_and_no_copy(bias, dtype):
    layer = nn.Linear(40, 30, bias=bias, dtype=dtype)
    matrix, constant = linear_map(layer, 40, layer.weight.T, layer.bias, **HERE)
    assert matrix.data_ptr() == layer.weight.data_ptr()
    assert (constant is not None) == bias


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("told", [False, True])
def test_what_is_beside_the_weight_is_in_the_matrix(dtype, told):
    torch.manual_seed(0)
    layer = Added(nn.Linear(1500, 30), nn.Linear(1500, 30)).to(dtype)
    matrix, constant = linear_map(layer, 1500, *((layer.weight.T, layer.bias) if told else ()), **HERE)
    assert matrix.dtype == dtype
    expected = layer.base.weight.T.double() + layer.beside.weight.T.double()
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(matrix.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(constant.double(), layer.base.bias.double() + layer.beside.bias.double(), atol=tolerance, rtol=0)


def test_a_bias_that_rules_tokens_out_stays():
    layer = Added(nn.Linear(8, 5), nn.Linear(8, 5))
    with torch.no_grad():
        layer.base.bias[2] = -torch.inf
    matrix, constant = linear_map(layer, 8, layer.weight.T, layer.bias, **HERE)
    assert constant[2] == -torch.inf
    assert bool(matrix.isfinite().all())


def test_dropout_is_off_and_nobodys_hooks_fire(gpt2):
    layer = Added(nn.Linear(8, 5), nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 5))).train()
    maps = [linear_map(layer, 8, layer.weight.T, layer.bias, **HERE)[0] for _ in range(2)]
    assert torch.equal(*maps)
    assert layer.training
    gpt2.hook_dict["unembed.hook_in"].add_hook(lambda x, hook: 0 * x) if "unembed.hook_in" in gpt2.hook_dict else None
    try:
        assert bool(linear_map(gpt2.unembed, 32, **HERE)[0].any())
    finally:
        gpt2.reset_hooks()


# --- models


@pytest.mark.thinned
@BRIDGE
@pytest.mark.model
@pytest.mark.parametrize("part", ["lm_head", "o_proj"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_beside_the_weight_are_measured(part, dtype):
    source, plain = (hf_model("llama").to(dtype) for _ in range(2))
    torch.manual_seed(1)
    for model in (source, plain):
        torch.manual_seed(1)
        for parent in [model] if part == "lm_head" else [layer.self_attn for layer in model.model.layers]:
            base = getattr(parent, part)
            beside = nn.Linear(base.in_features, base.out_features, bias=False, dtype=dtype)
            setattr(parent, part, Added(base, beside))
    model = bridge_of(source, dtype=dtype)
    check_measured(model, plain)
    adapter = Adapter(model)
    sites = adapter.sites(["result", "attn_out"], [1])
    result, attn_out = adapter.activations(TOKENS, torch.ones_like(TOKENS), sites).values()
    torch.testing.assert_close(result.sum(2), attn_out, atol=1e-6, rtol=0)
    if part == "lm_head":
        assert float((adapter.readout.unembedding - model.W_U.detach()).abs().max()) > 0.1, "this test has something to find"


@pytest.mark.model
def test_the_readout_of_a_plain_model_copies_nothing(any_model):
    readout = Adapter(any_model).readout
    assert readout.unembedding.data_ptr() == any_model.W_U.data_ptr()


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_a_packed_unembedding_has_no_vocabulary_of_its_own(kind, monkeypatch):
    model = cached_model("gpt2", kind)
    assert Adapter(model).d_vocab == 300
    monkeypatch.setattr(
        type(model.unembed), "W_U", property(lambda self: torch.zeros(4800, 1, dtype=torch.uint8)), raising=False
    )
    if kind == "bridge":
        assert Adapter(model).d_vocab == 300


@pytest.mark.thinned
@BRIDGE
@pytest.mark.model
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-6), (torch.float32, 3e-6), (torch.float16, 2e-3), (torch.bfloat16, 0.02)], ids=str
)
def test_every_dtype_is_measured(dtype, atol):
    model = bridge_of(hf_model("llama").to(dtype), dtype=dtype)
    check_measured(model, hf_model("llama").to(dtype), atol=atol)
    assert tle.token_surprisal(model, TOKENS, **QUIET).provenance.dtype == str(dtype).removeprefix("torch.")


@BRIDGE
@pytest.mark.model
@pytest.mark.parametrize("part", ["lm_head", "model.embed_tokens", "model.layers.1"])
def test_weights_in_two_dtypes_that_do_not_meet_are_refused_by_that_name(part):
    source = hf_model("llama").to(torch.bfloat16)
    source.get_submodule(part).float()
    with pytest.raises(
        ModelError, match=r"own forward pass fails .* dtype.* and weights in (bfloat16 and float32|float32 and bf)"
    ):
        tle.token_surprisal(bridge_of(source, dtype=torch.bfloat16), TOKENS, **QUIET)


# --- libraries


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [["lm_head"], ["o_proj"], ["q_proj", "v_proj", "down_proj"]])
def test_an_adapter_is_measured(targets, dtype):
    source = unwrapped(with_lora("llama", targets))
    same = unwrapped(with_lora("llama", targets))
    check_measured(bridge_of(source.to(dtype), dtype=dtype), same.to(dtype), atol=3e-6 if dtype == torch.float32 else 0.05)
    head = tle.head_entropy(bridge_of(source.to(torch.float32)), TOKENS, of="readout", **QUIET)
    assert bool(head.entropy.isfinite().all())


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize("std", [0.01, 0.02, 0.03])
def test_a_small_adapter_on_the_unembedding_is_seen_in_bfloat16(std):
    """Worth a tenth of a nat, which is less than bfloat16's rounding of single logits."""
    tuned = with_lora("llama", ["lm_head"], std=std).to(torch.bfloat16)
    expected = own_losses(unwrapped(tuned))
    with tuned.disable_adapter():
        without = own_losses(unwrapped(tuned))
    assert float((expected - without).abs().max()) < 0.3
    found = tle.token_surprisal(bridge_of(unwrapped(tuned), dtype=torch.bfloat16), TOKENS, include_special=True, **QUIET)
    found = found.surprisal.double().reshape(2, -1)[:, -7:]
    rms = [float((found - one).square().mean().sqrt()) for one in (expected, without)]
    assert rms[0] < min(rms[1], 0.02)


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize("whole", [False, True])
def test_torchao(whole):
    quantization = pytest.importorskip("torchao.quantization")
    source, same = hf_model("llama"), hf_model("llama")
    for model in (source, same):
        quantization.quantize_(
            model,
            quantization.Int8WeightOnlyConfig(),
            lambda m, name: isinstance(m, nn.Linear) and (whole or "lm_head" not in name),
        )
    check_measured(bridge_of(source), same)


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize("bits", [4, 8])
def test_hqq(bits):
    hqq = pytest.importorskip("hqq.core.quantize")

    def quantised():
        source = hf_model("llama")
        for layer in source.model.layers:
            for name in ("gate_proj", "up_proj", "down_proj"):
                config = hqq.BaseQuantizeConfig(nbits=bits, group_size=32)
                options = {"compute_dtype": torch.float32, "device": "cpu"}
                setattr(layer.mlp, name, hqq.HQQLinear(getattr(layer.mlp, name), config, **options))
        return source

    check_measured(bridge_of(quantised()), quantised())


@BRIDGE
@pytest.mark.libraries
def test_quanto():
    quanto = pytest.importorskip("optimum.quanto")
    source, same = hf_model("llama"), hf_model("llama")
    for model in (source, same):
        quanto.quantize(model, weights=quanto.qint8)
        quanto.freeze(model)
    check_measured(bridge_of(source), same)


def bitsandbytes(**options):
    pytest.importorskip("bitsandbytes")
    import transformers

    config = transformers.BitsAndBytesConfig(**options)
    return reread(wide_llama(), quantization_config=config, device_map="cpu", dtype=torch.float32)


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize(
    "options",
    [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}],
    ids=["8 bits", "4 bits"],
)
def test_bitsandbytes_but_for_the_unembedding(options):
    options = {**options, "llm_int8_skip_modules": ["lm_head"]}
    check_measured(bridge_of(bitsandbytes(**options)), bitsandbytes(**options), atol=1e-5)


@BRIDGE
@pytest.mark.libraries
@pytest.mark.parametrize(("threshold", "alone"), [(6.0, True), (0.0, False)])
def test_outliers_are_those_of_a_row_and_not_of_its_batch(threshold, alone):
    """With 8 bits, a column that is large in any row of a batch is not rounded in all of them."""
    model = bridge_of(bitsandbytes(load_in_8bit=True, llm_int8_threshold=threshold))
    check_measured(model, bitsandbytes(load_in_8bit=True, llm_int8_threshold=threshold), atol=1e-5)
    said = tle.token_surprisal(model, TOKENS, progress=False).provenance.state
    assert any("every row was read alone" in line for line in said) == alone


@BRIDGE
@pytest.mark.libraries
def test_an_unembedding_that_rounds_what_it_reads_is_refused_by_that_name():
    model = bridge_of(bitsandbytes(load_in_8bit=True, llm_int8_skip_modules=["none"]))
    with pytest.raises(
        ModelError, match=r"of its unembedding: it is quantised \(8 bits by bitsandbytes .*llm_int8_skip_modules"
    ):
        tle.lens_entropy(model, TOKENS, **QUIET)
    assert tle.layer_similarity(model, TOKENS, **QUIET).values.isfinite().any()


@BRIDGE
@pytest.mark.libraries
def test_an_output_projection_that_rounds_what_it_reads_is_refused_by_that_name():
    model = bridge_of(bitsandbytes(load_in_8bit=True, llm_int8_skip_modules=["lm_head"]))
    with pytest.raises(
        ModelError,
        match=r"not contributions .* Of its W_O: it is quantised \(8 bits by bitsandbytes.*skip_modules=\['o_proj'\]",
    ) as refused:
        tle.head_entropy(model, TOKENS, of="readout", **QUIET)
    assert "since a norm" not in str(refused.value), "no norm follows on a Llama"
    assert tle.head_entropy(model, TOKENS, **QUIET).entropy.isfinite().all()


@BRIDGE
@pytest.mark.libraries
def test_an_adapter_in_float32_on_weights_in_bfloat16_is_measured():
    source, same = (
        unwrapped(with_lora("llama", ["q_proj", "lm_head"], source=hf_model("llama").to(torch.bfloat16))) for _ in "ab"
    )
    assert source.lm_head.lora_A.default.weight.dtype == torch.float32
    model = bridge_of(source, dtype=torch.bfloat16)
    check_measured(model, same, atol=0.02)
    state = tle.token_surprisal(model, TOKENS, **QUIET).provenance.state
    assert any(line.startswith("weights of several dtypes: ") for line in state)


@BRIDGE
@pytest.mark.libraries
def test_an_unembedding_that_transformer_lens_cannot_run_is_refused_by_that_name():
    options = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32, "llm_int8_skip_modules": ["none"]}
    model = bridge_of(bitsandbytes(**options))
    with pytest.raises(
        ModelError, match=r"own forward pass fails .* of its unembedding: it is quantised \(4 bits by bitsandbytes"
    ):
        tle.lens_entropy(model, TOKENS, **QUIET)


SOME = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk",
        "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip


@pytest.mark.thinned
@BRIDGE
@pytest.mark.model
@pytest.mark.parametrize("places", [SOME, {"": "disk"}], ids=["two layers", "all"])
def test_weights_on_the_disk_are_measured(places):
    model = offloaded(hf_model("llama"), places)
    check_measured(model, hf_model("llama"))
    assert bool(tle.head_entropy(model, TOKENS, of="readout", **QUIET).entropy.isfinite().all())


@BRIDGE
@pytest.mark.model
def test_weights_that_are_nowhere_are_refused():
    model = bridge_of(hf_model("llama"))
    with pytest.raises(ModelError, match="on the device meta, where they hold no numbers"):
        tle.lens_entropy(model.to("meta"), TOKENS, **QUIET)
