"""State-space models, linear attention and recurrences, alone and beside attention."""

from __future__ import annotations

from architectures.bodies import BODY, GROUPED, LINEAR, LOCAL_EXPERTS, SCALED, SHARED_EXPERT, SIZED, WINDOW
from architectures.expectations import (
    FAILS_ITSELF,
    NO_ATTENTION,
    NO_MASK,
    OTHER_MEANS,
    PADS,
    POST_NORM,
)
from architectures.row import OK, Row, refused

CONV = {**GROUPED, "layer_types": ["conv", "full_attention", "conv"]}
MAMBA_PART = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
STATE_SPACE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
FALCON_H1 = {**GROUPED, **MAMBA_PART, "mamba_d_ssm": 64, "attention_out_multiplier": 0.05}
GRANITE = {
    **GROUPED, **MAMBA_PART, **LOCAL_EXPERTS, **SCALED, "layer_types": LINEAR["layer_types"], "shared_intermediate_size": 32,
}  # fmt: skip
JAMBA = {
    **GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
    "mamba_dt_rank": 4, "use_mamba_kernels": False,
}  # fmt: skip
NEMOTRON = {
    **SIZED, "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"], "ssm_state_size": 8,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "chunk_size": 8, "n_routed_experts": 4,
    "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32, "use_mamba_kernels": False,
}  # fmt: skip
OLMO_MID = ("post_attention_layernorm", "mlp", "post_attention_layernorm")  # norms before linear attention, behind full
RECURRENT_GEMMA = {
    **GROUPED, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": WINDOW,
    "block_types": ["recurrent", "attention", "recurrent"],
}  # fmt: skip
RWKV = {
    "vocab_size": 300, "hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "context_length": 64,
}  # fmt: skip
ZAMBA = {
    **BODY, "layers_block_type": ["linear_attention", "hybrid", "linear_attention"], "mamba_d_state": 8, "n_mamba_heads": 8,
    "mamba_ngroups": 1, "chunk_size": 8, "num_mem_blocks": 1, "adapter_rank": 8, "use_mamba_kernels": False,
}  # fmt: skip
NO_HEADS = {**NO_ATTENTION, "ablate": refused("has no attention heads")}
NO_MLP_OUT = refused("no mlp_out at layer 0")

# fmt: off
ROWS = (
    Row("bamba", "BambaForCausalLM", {**GROUPED, **MAMBA_PART, "attn_layer_indices": [1]}, cells=OTHER_MEANS),
    Row("falcon_h1", "FalconH1ForCausalLM", FALCON_H1, parts={"attn_out": "self_attn"}, written=0.05, cells={
        **OTHER_MEANS,
    }),
    Row("falcon_mamba", "FalconMambaForCausalLM", {**STATE_SPACE, "time_step_rank": 4}, cells=NO_HEADS),
    Row("granitemoehybrid", "GraniteMoeHybridForCausalLM", GRANITE, cells={**FAILS_ITSELF, "mlp": NO_MLP_OUT}),
    Row("granitemoehybrid rope", "GraniteMoeHybridForCausalLM", {**GRANITE, "position_embedding_type": "rope"}, written=0.22,
        cells={**OTHER_MEANS, "mlp": NO_MLP_OUT}),
    Row("jamba", "JambaForCausalLM", JAMBA, cells=OTHER_MEANS),
    Row("lfm2", "Lfm2ForCausalLM", {**CONV, "block_multiple_of": 8}, cells=OTHER_MEANS),
    Row("lfm2_moe", "Lfm2MoeForCausalLM",
        {**CONV, "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        cells=OTHER_MEANS),
    Row("mamba", "MambaForCausalLM", {**STATE_SPACE, "time_step_rank": 4}, cells=NO_HEADS, quick=True),
    Row("mamba2", "Mamba2ForCausalLM", {**STATE_SPACE, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
        cells=NO_ATTENTION),
    Row("nemotron_h", "NemotronHForCausalLM", NEMOTRON, cells=NO_ATTENTION),
    Row("olmo_hybrid", "OlmoHybridForCausalLM", {**GROUPED, **LINEAR, "linear_num_value_heads": 2},
        cells={**POST_NORM, **NO_MASK}, parts={"mid": OLMO_MID}),
    Row("qwen3_5", "Qwen3_5ForCausalLM", {**SIZED, **LINEAR}, cells=OTHER_MEANS),
    Row("qwen3_5_moe", "Qwen3_5MoeForCausalLM", {**SIZED, **LINEAR, **SHARED_EXPERT}, cells=OTHER_MEANS),
    Row("qwen3_next", "Qwen3NextForCausalLM", {**SIZED, **LINEAR, **SHARED_EXPERT}, cells=OTHER_MEANS),
    Row("recurrent_gemma", "RecurrentGemmaForCausalLM", RECURRENT_GEMMA, layers=(), cells={**NO_ATTENTION, "cache": PADS}),
    Row("rwkv", "RwkvForCausalLM", RWKV, parts={"mid": "ln2"}, layers=(), cells={**NO_HEADS, "mid": OK, "cache": PADS}),
    Row("zamba2", "Zamba2ForCausalLM", ZAMBA, cells=NO_ATTENTION),
)
# fmt: on
