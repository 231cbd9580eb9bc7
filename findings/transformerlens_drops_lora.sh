#!/usr/bin/env bash
# transformer-lens 4.3.0 with peft 0.21.2: LoRA on a joint projection (c_attn, PEFT's own choice on GPT-2) is dropped without a word when
# TransformerBridge takes the model in: it splits the projection's base weight into Q, K and V. The Bridge's logits are the base model's;
# and the PEFT model that was handed in loses its adapter, too. `merge_and_unload()` first keeps it.
# Guess before: the Bridge has the adapter's logits, or booting says that it cannot.
# Seen (largest difference of logits; the adapter moves them by 3.98):
#   Bridge and the base model 7e-6; the PEFT model before and after booting 3.98; no warning
#   Bridge of the merged model and the adapted model 5e-6
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformer-lens==4.3.0 transformers==5.24.0 peft==0.21.2
cd "$room"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PYTHON'
import warnings

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0", pad_token="w0").save_pretrained("tokenizer")
tokenizer = PreTrainedTokenizerFast.from_pretrained("tokenizer")


def tuned():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=100, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, initializer_range=0.5,
        architectures=["GPT2LMHeadModel"],
    )
    model = get_peft_model(GPT2LMHeadModel(config).eval(), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM")).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def bridge_of(model):
    return TransformerBridge.boot_transformers("tiny/gpt2", hf_model=model, tokenizer=tokenizer, device="cpu")


ids = torch.tensor([[5, 6, 7, 8, 9]])
far = lambda a, b: float((a - b).abs().max())
model = tuned()
with torch.no_grad():
    adapted = model(ids).logits
    with model.disable_adapter():
        base = model(ids).logits
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = bridge_of(model.base_model.model)(ids)
    after = model(ids).logits
    merged = bridge_of(tuned().merge_and_unload())(ids)
print("adapter moves", far(adapted, base), "Bridge and base", far(seen, base), "after and before booting", far(after, adapted))
print("merged", far(merged, adapted), "warned:", [str(warning.message) for warning in said])
assert far(adapted, base) > 1 and far(merged, adapted) < 1e-4
assert far(seen, base) < 1e-4, "the Bridge does not have the base model's logits any more"
assert far(after, adapted) > 1, "the model that was handed in keeps its adapter now"
assert not any("lora" in str(warning.message).lower() or "adapter" in str(warning.message).lower() for warning in said)
PYTHON
