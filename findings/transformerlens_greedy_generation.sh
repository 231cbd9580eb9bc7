#!/usr/bin/env bash
# transformer-lens 4.3.0 with transformers 5.24.0: TransformerBridge's greedy `generate` on GPT-2 does not write the most probable tokens.
# In transformers 5.24.0 GPT-2's blocks hand the cache to attention under another name (`cache`, not `past_key_values`), for which the
# Bridge's attention does not look. With `use_past_kv_cache=False` every token is the most probable one, and so it is with Hugging Face's
# own `generate`.
# Guess before: do_sample=False writes the argmax of the model's own logits, cache or not.
# Seen (ranks of the 12 tokens written, in the same model's logits):
#   with the cache     [0, 2, 2, 30, 70, 5, 5, 0, 13, 12, 0, 1]
#   without the cache  [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
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
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0", pad_token="w0").save_pretrained("tokenizer")
tokenizer = PreTrainedTokenizerFast.from_pretrained("tokenizer")

torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=100, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, initializer_range=0.5,
        architectures=["GPT2LMHeadModel"],
    )
).eval()
prompt = torch.tensor([[5, 6, 7, 8]])
options = {"max_new_tokens": 12, "do_sample": False}
truth = model.generate(prompt, pad_token_id=0, eos_token_id=None, **options)
bridge = TransformerBridge.boot_transformers("tiny/gpt2", hf_model=model, tokenizer=tokenizer, device="cpu")


def ranks(cache):
    written = bridge.generate(
        prompt, use_past_kv_cache=cache, stop_at_eos=False, return_type="tokens", verbose=False, **options
    )
    with torch.no_grad():
        logits = bridge(written)[0, 3:-1]
    return written, (logits > logits.gather(-1, written[0, 4:, None])).sum(-1).tolist()


(_, with_cache), (written, without) = ranks(True), ranks(False)
print("with the cache", with_cache, "without", without)
assert max(with_cache) > 0, "with the cache, greedy text is the argmax now"
assert max(without) == 0 and torch.equal(written, truth)
PYTHON
