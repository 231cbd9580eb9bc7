#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0 (CPU build), a Llama with rope_scaling "dynamic" made for 64 positions: what a text of 100 tokens gives
# depends on what was read before it. After one of 200 tokens its rotary frequencies stay stretched for 200 positions, until a text
# of less than 64 comes; and beside one of 200 tokens in a batch every row is turned by the frequencies of 200.
# Guess before: without a cache, in evaluation mode, a forward pass is a function of its own text.
# Seen (largest change of a logit; the largest logit is 7.4): again 0.00, after a text of 200 tokens 7.86, after one of 50 more 0.00
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cat >"$room/script.py" <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
    rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.3)
tokens = torch.randint(0, 100, (1, 200))


def logits(length):
    with torch.no_grad():
        return model(tokens[:, :length], use_cache=False).logits[0]


first = logits(100)
again = (logits(100) - first).abs().max().item()
logits(200)
after = (logits(100) - first).abs().max().item()
logits(50)
reset = (logits(100) - first).abs().max().item()
print(f"largest {first.abs().max():.1f}; again {again:.2f}, after a text of 200 tokens {after:.2f}, after one of 50 more {reset:.2f}")
assert again == 0 and reset == 0 and after > 0.05, "a text is read as it was before now"
PYTHON
"$room/venv/bin/python" "$room/script.py"
