#!/usr/bin/env bash
# transformers 5.24.0: GPT-2 (absolute positions) gives a row that is padded on the left, with its `attention_mask`, other logits than the
# row alone, since without `position_ids` the padding is counted; Llama (rotary, relative positions) does not. `generate` makes position
# ids from the mask, so that generated text is right on both, and hides it.
# Guess before: a masked row gives what it gives alone, on every architecture, as it does in generate.
# Seen (largest difference of logits from the unpadded row):
#   GPT-2 7.9 with the mask alone, 0 with position ids as well; Llama 5e-6
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cd "$room"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
ends = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.5}
gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **ends)).eval()
llama = LlamaForCausalLM(
    LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **ends)
).eval()
row = torch.tensor([[5, 6, 7, 8]])
padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), row), 1)
mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
positions = (mask.cumsum(-1) - 1).clamp(min=0)
far = {}
for model in (gpt2, llama):
    with torch.no_grad():
        alone = model(row).logits
        masked = model(padded, attention_mask=mask).logits[:, 3:]
        placed = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    far[type(model)] = float((masked - alone).abs().max())
    print(type(model).__name__, far[type(model)], float((placed - alone).abs().max()))
    assert torch.allclose(placed, alone, atol=1e-4)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    assert torch.equal(
        model.generate(padded, attention_mask=mask, **options)[0, 7:],
        model.generate(row, attention_mask=torch.ones_like(row), **options)[0, 4:],
    )
assert far[GPT2LMHeadModel] > 1, "GPT-2 makes its position ids from the mask now"
assert far[LlamaForCausalLM] < 1e-4
PYTHON
