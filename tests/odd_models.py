"""Tiny models whose weights are no plain numbers: with adapters, quantised, offloaded; and what Hugging Face says."""

from __future__ import annotations

import tempfile

import pytest
import torch
from tiny_models import hf_model, kinds, tiny_tokenizer

BRIDGE = pytest.mark.skipif("bridge" not in kinds(), reason="these models are bridges")
TOKENS = torch.tensor([[0, 5, 17, 80, 120, 33, 260, 7], [0, 9, 44, 44, 201, 3, 18, 250]])


def bridge_of(source, *, dtype=None, **options):
    """A TransformerBridge of a Hugging Face model as it is."""
    from transformer_lens.model_bridge import TransformerBridge

    options = {"device": "cpu", "dtype": dtype or torch.float32} | options
    return TransformerBridge.boot_transformers("tiny/odd", hf_model=source, tokenizer=tiny_tokenizer(), **options).eval()


def own_log_probabilities(source, tokens=TOKENS):
    """Of a Hugging Face model's own logits, in float64."""
    with torch.no_grad():
        return source(input_ids=tokens).logits.double().log_softmax(-1)


def own_losses(source, tokens=TOKENS):
    """[text, position - 1] in nats."""
    return -own_log_probabilities(source, tokens)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


def wide_llama(*, seed=0):
    """A Llama that is wide enough for what quantises blocks of numbers."""
    import transformers as tr

    torch.manual_seed(seed)
    config = tr.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, initializer_range=0.15,
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    return tr.LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()


def with_lora(name, targets, *, std=0.3, seed=5, source=None, **options):
    """A Hugging Face model with LoRA on modules of these names, which does something: PEFT's wrapper."""
    peft = pytest.importorskip("peft")
    source = source or hf_model(name)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **options)
    model = peft.get_peft_model(source, config).eval()
    for path, weight in model.named_parameters():
        if "lora_B" in path:
            torch.nn.init.normal_(weight, std=std)
    return model


def unwrapped(peft_model):
    """The Hugging Face model inside PEFT's wrapper, with its adapters."""
    return peft_model.base_model.model


def saved(source):
    """A folder with a Hugging Face model."""
    folder = tempfile.mkdtemp()
    source.save_pretrained(folder)
    return folder


def reread(source, **options):
    """A Hugging Face model saved and read again, with options of ``from_pretrained``."""
    import transformers

    made = getattr(transformers, type(source).__name__)
    return made.from_pretrained(saved(source), attn_implementation="eager", **options).eval()


def offloaded(source, places):
    """A TransformerBridge of the same with its weights in these places."""
    model = reread(source, device_map=places, offload_folder=tempfile.mkdtemp())
    try:
        return bridge_of(model)
    except ValueError as error:
        pytest.skip(f"this TransformerLens does not boot it: {error}")
