#!/usr/bin/env bash
# transformers 5.24.0 with peft 0.21.0: `from_pretrained` of a folder that holds a DoRA adapter beside its base model reads the adapter's two
# matrices and not its magnitudes, whose name in the file it does not map to the module's: they are set anew, from the base weights. The
# load report lists them as "UNEXPECTED ... can be ignored" and "MISSING". A LoRA of the same file layout is read whole, and PEFT reads both.
# Guess before: what PEFT wrote, transformers' own adapter reading gives back, magnitudes and all.
# Seen (largest difference of logits from the model that was saved):
#   transformers: LoRA 0, DoRA 2.5; PEFT: 0 and 0
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 peft==0.21.0
cd "$room"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3
)
row = torch.arange(5, 15)[None]


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=row).logits


far = {}
for name, dora in (("LoRA", False), ("DoRA", True)):
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(name)
    LlamaForCausalLM.from_pretrained(name).save_pretrained(f"{name} base")
    options = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(LlamaForCausalLM.from_pretrained(name), LoraConfig(use_dora=dora, **options))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora" in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    right = logits(model)
    model.save_pretrained(name)
    by_transformers = logits(AutoModelForCausalLM.from_pretrained(name))
    by_peft = logits(PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(f"{name} base"), name))
    far[name] = [float((found - right).abs().max()) for found in (by_transformers, by_peft)]
    print(f"{name}: transformers {far[name][0]:.2g}, PEFT {far[name][1]:.2g}")
assert max(far["LoRA"]) < 1e-4
assert far["DoRA"][1] < 1e-4
assert far["DoRA"][0] > 0.5, "transformers reads the magnitudes of DoRA now"
PYTHON
