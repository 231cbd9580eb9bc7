"""Decoders of other kinds: mixtures of experts, multi-head latent attention, attention in chunks, streams of several parts."""

from __future__ import annotations

from architectures.bodies import BODY, EXPERTS, GROUPED, LOCAL, LOCAL_EXPERTS, SCALED, SHARED_EXPERT, SIZED, WINDOW
from architectures.expectations import (
    DENSE_BETWEEN,
    NO_BFLOAT16,
    NO_MASK,
    PADS,
    POST_NORM,
    SINGLE_LAYERS,
)
from architectures.row import OK, Row, refused

SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
LATENT = {  # 4 heads with values of 16, which is not qk_rope_head_dim
    **BODY, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}  # fmt: skip
ROUTED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}  # fmt: skip
DEEPSEEK = {**LATENT, **ROUTED}
ONE_GROUP = {**DEEPSEEK, **SPARSE, "n_group": 1, "topk_group": 1}
CHOSEN_KEYS = {  # a query sees 6 keys of its own choice
    **ONE_GROUP, "index_topk": 6, "index_head_dim": 16, "indexer_types": ["full"] * 3,
    "layer_types": ["indexed_attention"] * 3,
}  # fmt: skip
DEEPSEEK_V4 = {
    **BODY, **ROUTED, "num_key_value_heads": 1, "head_dim": 16, "q_lora_rank": 16, "hc_mult": 2, "o_groups": 2,
    "o_lora_rank": 16,
    "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    "mlp_layer_types": ["hash_moe", "moe", "moe"], "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4,
}  # fmt: skip
ERNIE = {
    **GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": 32,
    "moe_layer_end_index": 2,
}  # fmt: skip
HRM = {
    **BODY, "head_dim": 8, "num_hidden_layers": 4, "num_layers_per_stack": 2, "H_cycles": 1, "L_cycles": 1, "L_bp_cycles": [1],
}  # fmt: skip
LAGUNA = {
    **SIZED, **SHARED_EXPERT, **SPARSE, "sliding_window": WINDOW,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
LLAMA4 = {
    **SIZED, "intermediate_size_mlp": 64, "num_local_experts": 4, "num_experts_per_tok": 1, "attention_chunk_size": WINDOW,
    "no_rope_layers": [1, 0, 1], "interleave_moe_layer_step": 2,
    "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
}  # fmt: skip
MODERNBERT = {
    **BODY, "local_attention": 2 * WINDOW, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "cls_token_id": 0, "sep_token_id": 0,
}  # fmt: skip

# fmt: off
ROWS = (
    Row("afmoe", "AfmoeForCausalLM", {**SIZED, **LOCAL, **EXPERTS, "num_shared_experts": 1}, cells={**POST_NORM, **NO_MASK}),
    Row("deepseek_v2", "DeepseekV2ForCausalLM", DEEPSEEK),
    Row("deepseek_v2 lite", "DeepseekV2ForCausalLM", {**DEEPSEEK, "q_lora_rank": None}),
    Row("deepseek_v3", "DeepseekV3ForCausalLM", {**DEEPSEEK, "n_group": 2, "topk_group": 1}, quick=True),
    Row("deepseek_v4", "DeepseekV4ForCausalLM", DEEPSEEK_V4, cells={
        "all": refused("no hook blocks"), "mid": SINGLE_LAYERS, "loss": OK,
    }),
    Row("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", ERNIE),
    Row("flex_olmo", "FlexOlmoForCausalLM", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
        cells={**POST_NORM, **NO_BFLOAT16}, parts={"mid": "mlp"}),
    Row("glm4_moe", "Glm4MoeForCausalLM", {**SIZED, **ROUTED}),
    Row("glm4_moe_lite", "Glm4MoeLiteForCausalLM", ONE_GROUP),
    Row("glm_moe_dsa", "GlmMoeDsaForCausalLM", {**CHOSEN_KEYS, "index_n_heads": 16}, cells={
        "mask": refused("an index chooses the keys to look at"),
        "cache": PADS,
    }),
    Row("glm_moe_dsa, ties among keys", "GlmMoeDsaForCausalLM", {**CHOSEN_KEYS, "index_n_heads": 1}, cells={
        "mask": refused("an index chooses the keys to look at"), "cache": PADS,
    }),
    Row("gpt_oss", "GptOssForCausalLM", {**SIZED, **LOCAL, **LOCAL_EXPERTS}),
    Row("granitemoe", "GraniteMoeForCausalLM", {**GROUPED, **LOCAL_EXPERTS, **SCALED}, written=0.22),
    Row("hrm_text", "HrmTextForCausalLM", HRM, cells={"all": refused("no single stack of blocks")}),
    Row("jetmoe", "JetMoeForCausalLM", {**GROUPED, **LOCAL_EXPERTS, "kv_channels": 8}, cells={
        **NO_MASK, "readout soft": refused("no z at layer 0"), "ablate": refused("a hook that this model does not have"),
    }),
    Row("laguna", "LagunaForCausalLM", {**LAGUNA, "num_attention_heads_per_layer": [4, 4, 4]}, cells=NO_MASK),
    Row("laguna uneven heads", "LagunaForCausalLM", {**LAGUNA, "num_attention_heads_per_layer": [2, 4, 2]}, cells={
        **NO_MASK,
    }),
    Row("llama4", "Llama4ForCausalLM", LLAMA4, cells=NO_MASK),
    Row("minimax_m2", "MiniMaxM2ForCausalLM", {**SIZED, **LOCAL_EXPERTS}),
    Row("mixtral", "MixtralForCausalLM", {**GROUPED, **LOCAL_EXPERTS}),
    Row("modernbert_decoder", "ModernBertDecoderForCausalLM", MODERNBERT, cells={
        "all": DENSE_BETWEEN, "pattern soft cka loss": OK,
    }),
    Row("olmoe", "OlmoeForCausalLM", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    Row("phimoe", "PhimoeForCausalLM", {**GROUPED, **LOCAL_EXPERTS}, cells=NO_MASK, registered="PhiMoEForCausalLM"),
    Row("qwen2_moe", "Qwen2MoeForCausalLM", {**GROUPED, **SHARED_EXPERT}, quick=True),
    Row("qwen3_moe", "Qwen3MoeForCausalLM", {**SIZED, **EXPERTS}),
    Row("qwen3_moe windows", "Qwen3MoeForCausalLM",
        {**SIZED, **EXPERTS, "use_sliding_window": True, "sliding_window": WINDOW}),
    Row("youtu", "YoutuForCausalLM", LATENT),
)
# fmt: on
