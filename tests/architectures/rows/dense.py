"""Decoders of full or local attention, with one MLP a block."""

from __future__ import annotations

from architectures.bodies import BODY, GROUPED, LOCAL, OLD, SCALED, SIZED, WINDOW
from architectures.expectations import BEHIND_MLP, FAILS_ITSELF, NO_BFLOAT16, NO_MASK, NO_PARTS, PADS, POST_NORM
from architectures.row import Row, outside, refused

UNTIED = {"tie_word_embeddings": False}
BLOOM = {"vocab_size": 300, "hidden_size": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
BLOOM_PARTS = {"attn_out": "self_attention.dense", "mlp_out": "mlp.dense_4h_to_h"}  # without what is added inside
FALCON = {**BODY, "bias": True}
FALCON_40B = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
NEO = {
    "vocab_size": 300, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "max_position_embeddings": 64,
    "attention_types": [[["global", "local", "global"], 1]], "window_size": WINDOW, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
MPT = {"vocab_size": 300, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64, "bos_token_id": 0, "eos_token_id": 0}
OPT = {**BODY, "ffn_dim": 64, "word_embed_proj_dim": 32}
XGLM = {
    "vocab_size": 300, "d_model": 32, "ffn_dim": 64, "num_layers": 3, "attention_heads": 4, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip

STRETCHED = {  # on rows of more than 11 tokens, of which the texts have some
    "original_max_position_embeddings": 11,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e3, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 11,
    },
}  # fmt: skip

OTHER_LOGITS = refused("does not give the logits of the Hugging Face model")

# fmt: off
ROWS = (
    Row("apertus", "ApertusForCausalLM", GROUPED),
    Row("arcee", "ArceeForCausalLM", GROUPED),
    Row("bitnet", "BitNetForCausalLM", GROUPED),
    Row("bloom", "BloomForCausalLM", BLOOM, quick=True),
    Row("bloom post-ln residual", "BloomForCausalLM", {**BLOOM, "apply_residual_connection_post_layernorm": True},
        cells=NO_PARTS, parts=BLOOM_PARTS),
    Row("codegen", "CodeGenForCausalLM", {**OLD, "rotary_dim": 4}, cells=FAILS_ITSELF, parallel=True),
    Row("cohere", "CohereForCausalLM", GROUPED, parallel=True, quick=True),
    Row("cohere qk-norm", "CohereForCausalLM", {**GROUPED, "use_qk_norm": True}, parallel=True),
    Row("cohere2", "Cohere2ForCausalLM", {**SIZED, **LOCAL}, parallel=True),
    Row("cohere2 untied", "Cohere2ForCausalLM", {**SIZED, **LOCAL, **UNTIED}, parallel=True),
    Row("ernie4_5", "Ernie4_5ForCausalLM", SIZED),
    Row("exaone4", "Exaone4ForCausalLM", {**GROUPED, **LOCAL}, cells=POST_NORM, parts={"mid": "mlp"}),
    Row("falcon 40b style", "FalconForCausalLM", {**FALCON_40B, "multi_query": False},
        cells={"all": OTHER_LOGITS}, parallel=True),
    Row("falcon 40b style, multi_query", "FalconForCausalLM", {**FALCON_40B, "multi_query": True},
        cells={"boot": outside("split_with_sizes expects")}, parallel=True),
    Row("falcon 7b style", "FalconForCausalLM", {**FALCON, "multi_query": True, "parallel_attn": True}, parallel=True),
    Row("falcon rw style", "FalconForCausalLM", {**FALCON, "multi_query": False, "parallel_attn": False, "alibi": True},
        quick=True),
    Row("gemma", "GemmaForCausalLM", SIZED),
    Row("gemma untied", "GemmaForCausalLM", {**SIZED, **UNTIED}),
    Row("gemma2", "Gemma2ForCausalLM", {**SIZED, **LOCAL}, cells=POST_NORM, quick=True),
    Row("gemma2 untied", "Gemma2ForCausalLM", {**SIZED, **LOCAL, **UNTIED}, cells=POST_NORM),
    Row("gemma3", "Gemma3ForCausalLM", {**SIZED, **LOCAL}, cells=POST_NORM),
    Row("gemma3 untied", "Gemma3ForCausalLM", {**SIZED, **LOCAL, **UNTIED}, cells=POST_NORM),
    Row("glm", "GlmForCausalLM", SIZED),
    Row("glm4", "Glm4ForCausalLM", SIZED, cells=POST_NORM),
    Row("gpt2", "GPT2LMHeadModel", OLD, quick=True),
    Row("gpt_bigcode mha", "GPTBigCodeForCausalLM", {**OLD, "multi_query": False},
        cells={"boot": outside("only supports multi_query=True")}),
    Row("gpt_bigcode mqa", "GPTBigCodeForCausalLM", OLD),
    Row("gpt_neo", "GPTNeoForCausalLM", NEO, cells=NO_MASK),
    Row("gpt_neox", "GPTNeoXForCausalLM", BODY, parallel=True, quick=True),
    Row("gpt_neox sequential", "GPTNeoXForCausalLM", {**BODY, "use_parallel_residual": False}),
    Row("gptj", "GPTJForCausalLM", {**OLD, "rotary_dim": 4}, cells=NO_MASK, parallel=True),
    Row("granite", "GraniteForCausalLM", {**GROUPED, **SCALED}, written=0.22),
    Row("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", SIZED),
    Row("jais2", "Jais2ForCausalLM", GROUPED),
    Row("llama", "LlamaForCausalLM", GROUPED, quick=True),
    Row("ministral3", "Ministral3ForCausalLM", SIZED),
    Row("mistral", "MistralForCausalLM", {**GROUPED, "sliding_window": WINDOW}),
    Row("mpt", "MptForCausalLM", MPT),
    Row("nanochat", "NanoChatForCausalLM", GROUPED, cells=NO_MASK),
    Row("nemotron", "NemotronForCausalLM", SIZED),
    Row("olmo", "OlmoForCausalLM", GROUPED, cells=NO_BFLOAT16),
    Row("olmo2", "Olmo2ForCausalLM", GROUPED, cells={**POST_NORM, **NO_BFLOAT16}, parts={"mid": "mlp"}),
    Row("olmo3", "Olmo3ForCausalLM", {**GROUPED, **LOCAL}, cells={**POST_NORM, **NO_BFLOAT16}, parts={"mid": "mlp"}),
    Row("openai_gpt", "OpenAIGPTLMHeadModel", OLD, cells={**NO_PARTS, "cache": PADS}, parts={"mid": "mlp"}),
    Row("opt", "OPTForCausalLM", OPT, cells=NO_MASK, quick=True),
    Row("opt 350m style", "OPTForCausalLM", {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        cells={**NO_MASK, **NO_PARTS, **BEHIND_MLP}, parts={"mid": "fc1", "attn_out": "self_attn", "mlp_out": "fc2"}),
    Row("opt projecting", "OPTForCausalLM", {**OPT, "word_embed_proj_dim": 16, "_remove_final_layer_norm": True},
        cells=NO_MASK),
    Row("phi", "PhiForCausalLM", GROUPED, parallel=True),
    Row("phi qk-norm", "PhiForCausalLM", {**GROUPED, "qk_layernorm": True},
        cells={"boot": outside("did not declare 'q_norm'")}, parallel=True),
    Row("phi3", "Phi3ForCausalLM", GROUPED),
    Row("phi3 longrope", "Phi3ForCausalLM", {**GROUPED, **STRETCHED}, cells={
        "cache": refused("padding on the left changes what this model computes"),
    }),
    Row("qwen2", "Qwen2ForCausalLM", GROUPED),
    Row("qwen2 windows", "Qwen2ForCausalLM",
        {**GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    Row("qwen3", "Qwen3ForCausalLM", SIZED),
    Row("seed_oss", "SeedOssForCausalLM", SIZED),
    Row("smollm3", "SmolLM3ForCausalLM", {**GROUPED, "no_rope_layers": [1, 0, 1]}),
    Row("stablelm", "StableLmForCausalLM", GROUPED),
    Row("stablelm parallel", "StableLmForCausalLM", {**GROUPED, "use_parallel_residual": True}, parallel=True),
    Row("starcoder2", "Starcoder2ForCausalLM", GROUPED),
    Row("vaultgemma", "VaultGemmaForCausalLM", {**SIZED, **LOCAL}),
    Row("xglm", "XGLMForCausalLM", XGLM, cells=NO_MASK),
    Row("xglm untied", "XGLMForCausalLM", {**XGLM, **UNTIED}, cells=NO_MASK),
)
# fmt: on
