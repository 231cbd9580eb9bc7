"""Tiny models of several architectures, random but not trivial, on every kind that the installed TransformerLens has."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from functools import cache
from importlib.metadata import version

import torch
import transformers as tr

VOCAB, CONTEXT = 300, 64


@cache
def tiny_tokenizer():
    """Byte-level BPE of 300 words over a few lines of code; begin, end and padding are one token, as on GPT-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(
        ["def f(x):\n    return x + 1\n", "the cat sat on the mat, and the dog sat on the cat"] * 3, trainer
    )
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    tokenizer = tr.PreTrainedTokenizerFast(tokenizer_object=bpe, **special)
    place = tempfile.mkdtemp()  # TransformerLens loads the tokenizer again from where it came, so it has to stay
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    tokenizer.save_pretrained(place)
    return tr.PreTrainedTokenizerFast.from_pretrained(place)


def hf_model(name: str, *, std: float = 0.12, seed: int = 0):
    torch.manual_seed(seed)
    common = {"vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0}
    body = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    grouped = {**body, "num_key_value_heads": 2}
    if name == "gpt2":
        config = tr.GPT2Config(
            vocab_size=VOCAB, n_positions=CONTEXT, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
        )
        model = tr.GPT2LMHeadModel(config)
    elif name == "llama":
        model = tr.LlamaForCausalLM(tr.LlamaConfig(**grouped, **common))
    elif name == "neox":
        model = tr.GPTNeoXForCausalLM(tr.GPTNeoXConfig(**body, **common))
    elif name == "phi":
        model = tr.PhiForCausalLM(tr.PhiConfig(**body, **common))
    elif name == "gemma2":
        model = tr.Gemma2ForCausalLM(tr.Gemma2Config(**grouped, **common, head_dim=8, sliding_window=CONTEXT))
    elif name == "granite":
        model = tr.GraniteForCausalLM(tr.GraniteConfig(**grouped, **common, logits_scaling=8.0, residual_multiplier=0.22))
    elif name == "cohere":
        model = tr.CohereForCausalLM(tr.CohereConfig(**grouped, **common))
    else:
        architecture, options = further_models()[name]
        made = getattr(tr, architecture)
        model = made(made.config_class(**common, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * std + (0 if parameter.ndim > 1 else parameter * (parameter != 0)))
        if name == "gemma2":  # logits of standard deviation 12, where the soft cap of 30 bends them
            hidden = model.model(torch.randint(0, VOCAB, (4, 16))).last_hidden_state
            model.get_input_embeddings().weight.mul_(12 / (hidden @ model.lm_head.weight.T).std())
    model.config.architectures = [type(model).__name__]
    model.config._attn_implementation = "eager"
    return model.eval()


@cache
def further_models():
    """Models of single tests by name: an architecture and what its configuration has beside the common; made when asked for."""
    body = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    grouped = {**body, "num_key_value_heads": 2, "head_dim": 8}
    old = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT}
    state_space = {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "time_step_rank": 4}
    hybrid = {
        "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
        "mamba_dt_rank": 4, "use_mamba_kernels": False,
    }  # fmt: skip
    beside = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
    experts = {
        "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
        "mlp_layer_types": ["dense", "sparse", "sparse"], "layer_types": ["full_attention"] * 3,
    }  # fmt: skip
    latent = {  # heads of 16, which is not the width of what is rotated
        "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 16,
    }  # fmt: skip
    local = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    chunked = {"attention_chunk_size": 5, "layer_types": ["chunked_attention", "full_attention", "chunked_attention"]}
    routed = {
        "intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1, "no_rope_layers": [1, 0, 1],
        "interleave_moe_layer_step": 2,
    }  # fmt: skip
    chosen = {  # a query sees 6 keys of its own choice
        "n_routed_experts": 2, "num_experts_per_tok": 1, "n_shared_experts": 1, "moe_intermediate_size": 32, "n_group": 1,
        "topk_group": 1, "mlp_layer_types": ["dense", "sparse", "sparse"], "index_topk": 6, "index_head_dim": 16,
        "indexer_types": ["full"] * 3, "layer_types": ["indexed_attention"] * 3,
    }  # fmt: skip
    compressed = {  # of the keys of two tokens each a query sees 4 of its own choice
        "num_key_value_heads": 1, "head_dim": 16, "q_lora_rank": 16, "hc_mult": 2, "o_groups": 2, "o_lora_rank": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
        "mlp_layer_types": ["hash_moe", "moe", "moe"], "layer_types": ["compressed_sparse_attention"] * 3,
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4,
    }  # fmt: skip
    return {
        "deepseek v4": ("DeepseekV4ForCausalLM", {**body, **compressed}),
        "falcon of groups": (
            "FalconForCausalLM",
            {**body, "new_decoder_architecture": True, "num_kv_heads": 2, "multi_query": False, "alibi": False, "bias": False},
        ),
        "gpt1": ("OpenAIGPTLMHeadModel", old),
        "codegen": ("CodeGenForCausalLM", {**old, "rotary_dim": 4}),
        "opt projecting": (
            "OPTForCausalLM", {**body, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False}
        ),
        "falcon_h1": ("FalconH1ForCausalLM", {**grouped, **beside, "mamba_d_ssm": 64, "attention_out_multiplier": 0.25}),
        "llama4": ("Llama4ForCausalLM", {**grouped, **routed, **chunked}),
        "dsa": ("GlmMoeDsaForCausalLM", {**body, **latent, **chosen, "index_n_heads": 16}),
        "dsa with ties": ("GlmMoeDsaForCausalLM", {**body, **latent, **chosen, "index_n_heads": 1}),
        "gemma3": ("Gemma3ForCausalLM", {**grouped, **local}),
        "gemma3 both ways": ("Gemma3ForCausalLM", {**grouped, **local, "use_bidirectional_attention": True}),
        "bert decoder": ("BertLMHeadModel", {**body, "is_decoder": True}),
        "laguna": ("LagunaForCausalLM", {**grouped, **experts, "num_attention_heads_per_layer": [2, 4, 2]}),
        "mla": ("YoutuForCausalLM", {**body, **latent}),
        "mamba": ("MambaForCausalLM", state_space),
        "jamba": ("JambaForCausalLM", {**grouped, **hybrid}),
        "olmo": ("OlmoForCausalLM", {**grouped}),
        "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 3, "n_head": 4}),
        "phi3": ("Phi3ForCausalLM", {**grouped, "pad_token_id": 0}),
        "t5": (
            "T5ForConditionalGeneration",
            {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
        ),
        "bert": ("BertForMaskedLM", body),
    }  # fmt: skip


def booted(source, name: str, *, std: float):
    """A TransformerBridge of a Hugging Face model whose parameters are drawn anew."""
    from transformer_lens.model_bridge import TransformerBridge

    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(torch.randn_like(parameter) * std + (0 if parameter.ndim > 1 else parameter * (parameter != 0)))
    source.config.architectures = [type(source).__name__]
    source.config._attn_implementation = "eager"
    return TransformerBridge.boot_transformers(f"tiny/{name}", hf_model=source.eval(), tokenizer=tiny_tokenizer(), device="cpu")


def make_model(name: str, kind: str = "bridge", *, compatible: bool = False, dtype=torch.float32):
    """A tiny model; ``kind="hooked"`` knows GPT-2 only, folded where ``compatible``."""
    source = hf_model(name).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "bridge":
            from transformer_lens.model_bridge import TransformerBridge

            model = TransformerBridge.boot_transformers(
                f"tiny/{name}", hf_model=source, tokenizer=tiny_tokenizer(), device="cpu", dtype=dtype
            )
            if compatible:
                model.enable_compatibility_mode()
            return model
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

        cfg = HookedTransformerConfig(
            n_layers=3, d_model=32, n_ctx=CONTEXT, d_head=8, n_heads=4, d_mlp=128, d_vocab=VOCAB, act_fn="gelu_new",
            eps=1e-5, normalization_type="LN", model_name="tiny-gpt2", device="cpu", dtype=dtype, default_prepend_bos=True,
        )  # fmt: skip
        model = HookedTransformer(cfg, tokenizer=tiny_tokenizer(), move_to_device=False)
        model.load_and_process_state_dict(
            convert_gpt2_weights(source, cfg), fold_ln=compatible, center_writing_weights=compatible, center_unembed=compatible
        )
        return model


def kinds() -> tuple[str, ...]:
    from tl_entropy.capture.loading import available_kinds

    return available_kinds()


LONG = os.environ.get("TL_ENTROPY_TESTS") == "long"
"""Whether to run everything, with many examples, which takes hours."""

GATE = LONG or os.environ.get("TL_ENTROPY_TESTS") == "gate"
"""Whether to run what is marked ``long``: what a gate wants, and nobody before a commit."""

PAGES = LONG or os.environ.get("TL_ENTROPY_TESTS") == "pages"
"""Whether to run the examples of README.md and docs/."""

ALL_MODELS = GATE or os.environ.get("TL_ENTROPY_TESTS") == "models"
"""Whether to run all models, raw and processed, however few the examples."""

NAMES = ("gpt2", "llama", "neox", "phi", "gemma2", "granite", "cohere")
ARCHITECTURES = [
    (name, kind, compatible)
    for kind in kinds()
    for i, name in enumerate(NAMES if kind == "bridge" else NAMES[:1])
    for compatible in (False, True)
    # Where it has to be quick: GPT-2 both ways, and of the others every second one processed.
    if ALL_MODELS or name == "gpt2" or compatible == bool(i % 2)
    # The Bridge of 3.x gives other logits for Cohere than Hugging Face.
    if (name, compatible) != ("cohere", False) or int(version("transformer-lens").split(".")[0]) > 3
]


def number(name: str, kind: str, compatible: bool) -> int:
    """Of a model, the same in every choice of them; raw and processed ones have even and odd ones."""
    return NAMES.index(name) // 2 + (name == "gpt2" and compatible)


@cache
def cached_model(name: str, kind: str, compatible: bool = False):
    return make_model(name, kind, compatible=compatible)


@cache
def indifferent_model():
    """A model that holds all tokens equally probable at every site, since its unembedding starts at 0."""
    model = make_model("llama")
    with torch.no_grad():
        model.W_U.zero_()
    return model
