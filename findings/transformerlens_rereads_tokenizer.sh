#!/usr/bin/env bash
# transformer-lens 4.3.0: `boot_transformers(..., tokenizer=tokenizer)` does not keep the tokenizer that it is handed: where it puts no BOS in
# front, another one is read from its `name_or_path`, and tokens that were added in memory are gone, without a warning.
# Guess before: the model's tokenizer is the one that was handed in.
# Seen: 52 tokens handed in, `<new> <special>` are [50, 51]; the model's has 50, and they are the unknown word, [1, 1].
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformer-lens==4.3.0 transformers==5.24.0
cd "$room"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PYTHON'
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 50)}}, unk_token="</s>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>").save_pretrained("tokenizer")
tokenizer = AutoTokenizer.from_pretrained("tokenizer")
tokenizer.add_tokens(["<new>"])
tokenizer.add_special_tokens({"additional_special_tokens": ["<special>"]})
config = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2, architectures=["GPT2LMHeadModel"])
bridge = TransformerBridge.boot_transformers("tiny/gpt2", hf_model=GPT2LMHeadModel(config).eval(), tokenizer=tokenizer, device="cpu")
given, kept = (t("<new> <special>", add_special_tokens=False)["input_ids"] for t in (tokenizer, bridge.tokenizer))
print("handed in:", len(tokenizer), given, "the model's:", len(bridge.tokenizer), kept)
assert given == [50, 51]
assert kept == [1, 1] and len(bridge.tokenizer) == 50, "the tokenizer is kept now"
PYTHON
