"""Folders with quantised weights, as libraries write them, against transformers' own reading."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import transformers as tr
from model_folders import IDS, losses, true_losses, write_folder
from tiny_models import CONTEXT, VOCAB, kinds, tiny_tokenizer

import tl_entropy as tle

pytestmark = [
    pytest.mark.libraries,
    pytest.mark.skipif("bridge" not in kinds(), reason="this TransformerLens has no TransformerBridge"),
]


def llama():
    """Wide enough for blocks of 64 weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0}
    return tr.LlamaForCausalLM(tr.LlamaConfig(**sizes, **ids, initializer_range=0.3)).eval()


def quantisation(name):
    if name == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        return tr.TorchAoConfig(Int8WeightOnlyConfig())
    skipped = {"llm_int8_skip_modules": ["lm_head"]}
    if name == "bitsandbytes 8 bits":
        return tr.BitsAndBytesConfig(load_in_8bit=True, **skipped)
    return tr.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **skipped)


@pytest.mark.parametrize("name", ["torchao", "bitsandbytes 4 bits", "bitsandbytes 8 bits"])
def test_quantised_weights_in_a_folder(tmp_path, name):
    library = name.partition(" ")[0]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    plain, place = write_folder(tmp_path / "plain", llama()), tmp_path / "quantised"
    options = {"device_map": "cpu", "dtype": torch.float32}
    tr.AutoModelForCausalLM.from_pretrained(plain, quantization_config=quantisation(name), **options).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    true = true_losses(tr.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval())
    model = tle.load_model(place, device="cpu")
    torch.testing.assert_close(losses(model), true, atol=2e-5, rtol=0)
    assert (true - true_losses(llama())).abs().max() > 1e-3, "this test sees the quantisation"
    said = tle.lens_entropy(model, IDS, progress=False).provenance.state
    assert any(line.startswith("quantised: ") and library in line for line in said)
