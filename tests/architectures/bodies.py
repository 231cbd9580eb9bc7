"""Parts that the configurations of many tiny models have in common."""

from __future__ import annotations

from typing import Any

WINDOW = 5
"""Width of windows of attention, shorter than the texts."""

BODY: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GROUPED: dict[str, Any] = {**BODY, "num_key_value_heads": 2}
SIZED: dict[str, Any] = {**GROUPED, "head_dim": 8}

OLD: dict[str, Any] = {  # the names of GPT-2's time
    "vocab_size": 300, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip

LOCAL: dict[str, Any] = {
    "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip

EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED_EXPERT: dict[str, Any] = {**EXPERTS, "shared_expert_intermediate_size": 32}
LOCAL_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}

SCALED: dict[str, Any] = {  # Granite's factors
    "residual_multiplier": 0.22, "logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.25,
}  # fmt: skip

LINEAR: dict[str, Any] = {  # linear attention around a layer of attention
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
