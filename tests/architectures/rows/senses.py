"""Models that also see or hear, read without an image or a sound: as the language models that they are then."""

from __future__ import annotations

from architectures.bodies import EXPERTS, GROUPED, LINEAR, LOCAL, SHARED_EXPERT, SIZED, WINDOW
from architectures.expectations import DENSE_BETWEEN, NO_MASK, NO_PART, OTHER_MEANS, POST_NORM, SINGLE_LAYERS
from architectures.row import OK, Row, outside

GEMMA = {**SIZED, **LOCAL}
GEMMA_3N = {
    **GEMMA, "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "laurel_rank": 8,
    "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 3, "intermediate_size": [64] * 3,
}  # fmt: skip
GEMMA_4 = {**GEMMA, "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8}
LLAMA, QWEN2 = {**GROUPED, "model_type": "llama"}, {**GROUPED, "model_type": "qwen2"}
LLAMA_4 = {
    **SIZED, "intermediate_size_mlp": 64, "num_local_experts": 4, "attention_chunk_size": WINDOW, "no_rope_layers": [1, 0, 1],
}  # fmt: skip
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}

EYE = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
CLIP = {**EYE, "model_type": "clip_vision_model", "projection_dim": 32}
GLIMMER = {**EYE, "layer_types": ["full_attention"], "pos_emb_height": 2, "pos_emb_width": 2}
LLAMA_EYE = {
    **EYE, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "intermediate_size": 128,
}  # fmt: skip
QWEN_EYE = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 1,
    "temporal_patch_size": 1, "out_hidden_size": 32,
}  # fmt: skip
STACKED_EYE = {**QWEN_EYE, "deepstack_visual_indexes": [0]}
EAR = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "num_mel_bins": 8,
    "max_source_positions": 16,
}  # fmt: skip
QWEN_EAR = {
    "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 8,
    "max_source_positions": 16,
}  # fmt: skip
GEMMA_EAR = {
    "hidden_size": 32, "conf_num_hidden_layers": 1, "conf_num_attention_heads": 2, "vocab_size": 8, "vocab_offset": 308,
}  # fmt: skip
FLAMINGO_EAR = {**EAR, "model_type": "audioflamingo3_encoder"}
VQ = {
    "hidden_size": 32, "embed_dim": 8, "z_channels": 8, "base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1,
    "codebook_size": 8, "latent_channels": 8,
}  # fmt: skip

IMAGE, INDEX = {"image_token_id": 291}, {"image_token_index": 291}
VIDEO = {**IMAGE, "video_token_id": 292}
FRAMED = {**VIDEO, "vision_start_token_id": 293, "vision_end_token_id": 294}
SOUND = {**VIDEO, "audio_token_id": 293}

MLP_OUT = {"mlp_out": "post_feedforward_layernorm"}  # Gemma 4 adds something of its own after the MLP
GEMMA_4_CELLS = {**NO_MASK, **POST_NORM}

# fmt: off
ROWS = (
    Row("audio_flamingo3 (text)", "AudioFlamingo3ForConditionalGeneration",
        {"text_config": QWEN2, "audio_config": EAR, "audio_token_id": 291}),
    Row("emu3 (text)", "Emu3ForConditionalGeneration",
        {"text_config": GROUPED, "vq_config": VQ, "vocabulary_map": {"<image>": 291}, **IMAGE}),
    Row("gemma3 vision (text)", "Gemma3ForConditionalGeneration", {
        "text_config": GEMMA, "vision_config": EYE, "mm_tokens_per_image": 4, "boi_token_index": 292, "eoi_token_index": 293,
        **INDEX,
    }, cells=POST_NORM),
    Row("gemma3n (text)", "Gemma3nForConditionalGeneration", {
        "text_config": GEMMA_3N, "vision_config": {"hidden_size": 32, "vocab_size": 8, "vocab_offset": 300},
        "audio_config": GEMMA_EAR,
    }, blind=True, cells={
        "all": DENSE_BETWEEN, "attn mlp": NO_PART, "pattern soft cka loss": OK, "mid": SINGLE_LAYERS,
    }),
    Row("gemma4", "Gemma4ForCausalLM", GEMMA_4, cells=GEMMA_4_CELLS, parts=MLP_OUT),
    Row("gemma4 two head sizes", "Gemma4ForCausalLM", {**GEMMA_4, "global_head_dim": 16}, cells=GEMMA_4_CELLS, parts=MLP_OUT),
    Row("gemma4 vision (text)", "Gemma4ForConditionalGeneration", {"text_config": GEMMA_4, **SOUND},
        cells=GEMMA_4_CELLS, parts=MLP_OUT),
    Row("gemma4_unified (text)", "Gemma4UnifiedForConditionalGeneration", {"text_config": GEMMA, **SOUND}, cells=GEMMA_4_CELLS),
    Row("glm4v (text)", "Glm4vForConditionalGeneration",
        {"text_config": {**GROUPED, **MROPE}, "vision_config": {**QWEN_EYE, "image_size": 16}, **VIDEO},
        cells={**POST_NORM, **NO_MASK}),
    Row("glm_asr (text)", "GlmAsrForConditionalGeneration", {"text_config": LLAMA, "audio_config": EAR, "audio_token_id": 291}),
    Row("idefics3 (text)", "Idefics3ForConditionalGeneration", {"text_config": LLAMA, "vision_config": EYE, **IMAGE}),
    Row("llama4 vision (text)", "Llama4ForConditionalGeneration", {"text_config": LLAMA_4, "vision_config": LLAMA_EYE, **INDEX},
        cells={"boot": outside("no attribute 'image_outputs'")}),  # Hugging Face's own forward pass
    Row("llava (text)", "LlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP, **INDEX}),
    Row("llava_next (text)", "LlavaNextForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP, **INDEX}),
    Row("llava_onevision (text)", "LlavaOnevisionForConditionalGeneration", {
        "text_config": QWEN2, "vision_config": {**EYE, "model_type": "siglip_vision_model"}, "video_token_index": 292, **INDEX,
    }),
    Row("mistral3 (text)", "Mistral3ForConditionalGeneration", {
        "text_config": {**SIZED, "model_type": "mistral"}, "vision_config": {**EYE, "model_type": "pixtral", "head_dim": 16},
        **INDEX,
    }),
    Row("muse_glimmer (text)", "MuseGlimmerForConditionalGeneration",
        {"text_config": GEMMA, "vision_config": GLIMMER, "out_hidden_size": 32, "projector_hidden_size": 32, **VIDEO},
        cells={**POST_NORM, **NO_MASK}),
    Row("music_flamingo (text)", "MusicFlamingoForConditionalGeneration", {
        "text_config": QWEN2, "audio_config": FLAMINGO_EAR, "audio_token_id": 291, "audio_bos_token_id": 292,
        "audio_eos_token_id": 293,
    }),
    Row("qwen2_5_vl (text)", "Qwen2_5_VLForConditionalGeneration",
        {"text_config": {**GROUPED, **MROPE}, "vision_config": QWEN_EYE, **FRAMED}, cells=NO_MASK),
    Row("qwen2_audio (text)", "Qwen2AudioForConditionalGeneration",
        {"text_config": QWEN2, "audio_config": QWEN_EAR, "audio_token_index": 291}),
    Row("qwen3_5 vision (text)", "Qwen3_5ForConditionalGeneration",
        {"text_config": {**SIZED, **LINEAR}, "vision_config": QWEN_EYE, **FRAMED}, cells=OTHER_MEANS),
    Row("qwen3_5_moe vision (text)", "Qwen3_5MoeForConditionalGeneration",
        {"text_config": {**SIZED, **LINEAR, **SHARED_EXPERT}, "vision_config": QWEN_EYE, **FRAMED}, cells=OTHER_MEANS),
    Row("qwen3_vl (text)", "Qwen3VLForConditionalGeneration",
        {"text_config": {**SIZED, **MROPE}, "vision_config": STACKED_EYE, **FRAMED}, cells=NO_MASK),
    Row("qwen3_vl_moe (text)", "Qwen3VLMoeForConditionalGeneration",
        {"text_config": {**SIZED, **MROPE, **EXPERTS}, "vision_config": STACKED_EYE, **FRAMED}, cells=NO_MASK),
)
# fmt: on
