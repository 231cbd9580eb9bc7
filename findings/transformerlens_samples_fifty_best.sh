#!/usr/bin/env bash
# transformer-lens 4.3.0: TransformerBridge's `generate` draws from the whole vocabulary, but for models with a state (Mamba,
# Mamba 2) and `use_past_kv_cache=False`: these it hands to Hugging Face's `generate`, which takes the 50 most probable tokens alone where
# nothing is said, and heeds the model's `generation_config`.
# Guess before: top_k=None, the default, draws from the whole vocabulary with any model, with its cache or without.
# Seen (512 first tokens of a model whose 300 tokens are about equally probable): the best 50 alone; with top_k = 3 there, 3 alone.
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformer-lens==4.3.0 transformers==5.24.0
cd "$room"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(300)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0", pad_token="w0").save_pretrained("tokenizer")
tokenizer = PreTrainedTokenizerFast.from_pretrained("tokenizer")

torch.manual_seed(0)
model = MambaForCausalLM(
    MambaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=4, bos_token_id=0, eos_token_id=0,
        architectures=["MambaForCausalLM"],
    )
).eval()
prompts = torch.tensor([[5, 6, 7, 8]]).expand(512, -1)
bridge = TransformerBridge.boot_transformers("tiny/mamba", hf_model=model, tokenizer=tokenizer, device="cpu")
with torch.no_grad():
    order = bridge(prompts[:1])[0, -1].argsort(descending=True)


def worst_rank():
    torch.manual_seed(0)
    text = bridge.generate(
        prompts, max_new_tokens=1, stop_at_eos=False, return_type="tokens", verbose=False, use_past_kv_cache=False
    )
    return int((text[:, 4, None] == order).nonzero()[:, 1].max())


nothing_said = worst_rank()
model.generation_config.top_k = 3
three = worst_rank()
print("the least probable of 512 tokens has the rank", nothing_said, "and with generation_config.top_k = 3 the rank", three)
assert 40 < nothing_said < 50, "the whole vocabulary is drawn from now"
assert three == 2, "generation_config is not heeded any more"
PYTHON
