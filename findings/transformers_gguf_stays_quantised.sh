#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0: a model loaded from a GGUF file has float32 weights in plain Linear modules, even where the file
# itself holds float32; yet it counts as quantised, and `save_pretrained` and `half()` refuse. `.to(torch.float16)` does not, though it
# does the same as `half()`. The mark sits in `config.quantization_config` and travels with the configuration; a fresh model of the
# configuration without it takes the state, and saves.
# Guess before: from_pretrained(gguf_file=) dequantises, and what comes back is a model like any other.
# Seen: {torch.float32}, is_quantized True, ValueError "The model is quantized with gguf and is not serializable", ValueError "`.half()`
# is not supported for quantized model"
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
cd "$room"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PYTHON'
import numpy as np
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, LlamaForCausalLM

WIDTH, INNER, VOCABULARY = 32, 64, 100
random = np.random.default_rng(0)
matrix = lambda *shape: random.normal(0, 0.3, shape).astype(np.float32)
ones = lambda: np.ones(WIDTH, np.float32)

file = GGUFWriter("tiny.gguf", "llama")
file.add_block_count(2)
file.add_context_length(64)
file.add_embedding_length(WIDTH)
file.add_feed_forward_length(INNER)
file.add_head_count(4)
file.add_head_count_kv(4)
file.add_layer_norm_rms_eps(1e-5)
file.add_vocab_size(VOCABULARY)
file.add_rope_dimension_count(WIDTH // 4)
file.add_tensor("token_embd.weight", matrix(VOCABULARY, WIDTH))
file.add_tensor("output.weight", matrix(VOCABULARY, WIDTH))
file.add_tensor("output_norm.weight", ones())
for i in range(2):
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        file.add_tensor(f"blk.{i}.{name}.weight", matrix(WIDTH, WIDTH))
    file.add_tensor(f"blk.{i}.ffn_gate.weight", matrix(INNER, WIDTH))
    file.add_tensor(f"blk.{i}.ffn_up.weight", matrix(INNER, WIDTH))
    file.add_tensor(f"blk.{i}.ffn_down.weight", matrix(WIDTH, INNER))
    file.add_tensor(f"blk.{i}.attn_norm.weight", ones())
    file.add_tensor(f"blk.{i}.ffn_norm.weight", ones())
file.write_header_to_file()
file.write_kv_data_to_file()
file.write_tensors_to_file()
file.close()

model = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf")
kinds = {type(module) for module in model.modules() if hasattr(module, "weight") and module.weight.ndim == 2}
print({weight.dtype for weight in model.parameters()}, kinds, model.is_quantized)
assert {weight.dtype for weight in model.parameters()} == {torch.float32}
assert kinds == {torch.nn.Linear, torch.nn.Embedding}
assert model.is_quantized, "a model from a GGUF file does not count as quantised any more"
for refused in (lambda: model.save_pretrained("saved"), model.half):
    try:
        refused()
    except ValueError as error:
        print("ValueError:", error)
    else:
        raise AssertionError("what was refused works now")
model.to(torch.float16)

model = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf")
del model.config.quantization_config
whole = LlamaForCausalLM(model.config)
whole.load_state_dict(model.state_dict())
whole.save_pretrained("saved")
ids = torch.tensor([[5, 6, 7, 8]])
with torch.no_grad():
    assert torch.equal(LlamaForCausalLM.from_pretrained("saved").eval()(ids).logits, model(ids).logits)
PYTHON
