#!/usr/bin/env bash
# transformer-lens 4.3.0: TransformerBridge's `generate` takes any keyword and ignores those that it does not know. `generator=`, PyTorch's
# own way to fix a sample, does not fix it; `num_beams=4` searches no beams; a word of no meaning passes. `torch.manual_seed` fixes a
# sample. Hugging Face's `generate` refuses such words ("The following `model_kwargs` are not used by the model").
# Guess before: unknown keywords are refused as in Hugging Face's generate, and generator= fixes the sample.
# Seen (8 sampled tokens): with equal generators under two global seeds [89, 24, 48, ...] and [89, 69, 56, ...]; under the first seed
# with no generator, or with num_beams=4 and nonsense=3, the first of these again.
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
bridge = TransformerBridge.boot_transformers("tiny/gpt2", hf_model=model, tokenizer=tokenizer, device="cpu")


def sample(seed, **options):
    torch.manual_seed(seed)
    return bridge.generate(prompt, max_new_tokens=8, stop_at_eos=False, return_type="tokens", verbose=False, **options)[0, 4:].tolist()


first, second = (sample(seed, generator=torch.Generator().manual_seed(1)) for seed in (0, 1))
plain, odd = sample(0), sample(0, num_beams=4, nonsense=3)
print("the same generator, two global seeds:", first, second, "no generator:", plain, "num_beams and nonsense:", odd)
assert first != second, "generator= fixes the sample now"
assert first == plain == odd
try:
    model.generate(prompt, max_new_tokens=2, do_sample=True, pad_token_id=0, generator=torch.Generator())
except ValueError as error:
    print("Hugging Face:", error)
else:
    raise AssertionError("Hugging Face's generate takes generator= now")
PYTHON
