"""Encoders of masked language models, and encoder-decoders."""

from __future__ import annotations

from architectures.bodies import BODY, SIZED
from architectures.expectations import AHEAD, DENSE_BETWEEN, ENCODER_DECODER, NO_PART
from architectures.row import OK, Expected, Row, refused

BERT_PARTS = {"blocks": "bert.encoder.layer", "attn": "attention", "out": "output.dense"}
ROBERTA_PARTS = {**BERT_PARTS, "blocks": "roberta.encoder.layer"}
BART = {
    "vocab_size": 300, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
LED = {**BART, "attention_window": 8, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
T5 = {
    "vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
SWITCH = {**T5, "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
SIDE = {**SIZED, "num_hidden_layers": 2, "sliding_window": 8, "layer_types": ["full_attention"] * 2}
EYE = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
SEEING = {"text_config": SIDE, "vision_config": EYE, "mm_tokens_per_image": 4, "vocab_size": 300}
FLORENCE_EYE = {
    "depths": [1], "patch_size": [4], "patch_stride": [4], "patch_padding": [1], "patch_prenorm": [False], "embed_dim": [32],
    "num_heads": [2], "num_groups": [2], "window_size": 4, "projection_dim": 32, "max_temporal_embeddings": 4,
    "max_position_embeddings": 8,
}  # fmt: skip
FLORENCE = {"text_config": {**BART, "model_type": "bart"}, "vision_config": FLORENCE_EYE, "image_token_id": 291}


# Of a decoder's block with three sub-layers, ``resid_mid`` is the state behind the first.
T5_PARTS = {"mid": "layer.1", "attn_out": "layer.0.SelfAttention", "mlp_out": "layer.2.DenseReluDense"}
PRE_NORM = {"mid": "encoder_attn_layer_norm", "attn_out": "self_attn", "mlp_out": "fc2"}
POST_NORM = {"mid": "encoder_attn", "attn_out": "self_attn", "mlp_out": "fc2"}


NO_OUT = refused("no hook decoder_blocks.0.hook_(attn|mlp)_out")


def both(name: str, architecture: str, config: dict, parts: dict, *, quick: bool = False, **cells: Expected) -> Row:
    """An encoder-decoder, of which the decoder is measured."""
    if parts is POST_NORM:
        cells = {"attn mlp": NO_PART, **cells}
    return Row(
        f"{name} (encoder-decoder)", architecture, config, {**ENCODER_DECODER, "pattern": OK, **cells}, parts, quick=quick
    )


MASKED = {"all": AHEAD, "attn mlp": NO_PART, "pattern soft cka": OK}

# fmt: off
ROWS = (
    Row("bert (decoder)", "BertLMHeadModel", {**BODY, "is_decoder": True}, parts=BERT_PARTS, cells={
        "all": DENSE_BETWEEN, "attn mlp": NO_PART, "pattern soft cka loss": OK,
    }),
    Row("bert (masked)", "BertForMaskedLM", BODY, parts=BERT_PARTS, cells=MASKED),
    Row("roberta (masked)", "RobertaForMaskedLM", {**BODY, "max_position_embeddings": 66, "pad_token_id": 1},
        parts=ROBERTA_PARTS, cells=MASKED),
    both("bart", "BartForConditionalGeneration", BART, POST_NORM),
    both("blenderbot", "BlenderbotForConditionalGeneration", BART, PRE_NORM),
    both("florence2", "Florence2ForConditionalGeneration", FLORENCE, POST_NORM),
    both("led", "LEDForConditionalGeneration", LED, POST_NORM, pattern=refused("exist but never fired")),
    both("longt5", "LongT5ForConditionalGeneration", {**T5, "local_radius": 4}, T5_PARTS),
    both("m2m100", "M2M100ForConditionalGeneration", BART, PRE_NORM),
    both("marian", "MarianMTModel", {**BART, "decoder_vocab_size": 300}, POST_NORM),
    both("mbart", "MBartForConditionalGeneration", BART, PRE_NORM),
    both("mt5", "MT5ForConditionalGeneration", T5, T5_PARTS),
    both("pegasus", "PegasusForConditionalGeneration", BART, PRE_NORM),
    both("switch_transformers", "SwitchTransformersForConditionalGeneration", SWITCH, {**T5_PARTS, "mlp_out": "layer.2.mlp"},
         pattern=refused(r"no weights .batch, head, query, key. of every query for every key")),
    both("t5", "T5ForConditionalGeneration", T5, T5_PARTS, quick=True),
    both("t5gemma", "T5GemmaForConditionalGeneration", {"encoder": SIDE, "decoder": SIDE, "vocab_size": 300},
         {"mid": "pre_cross_attn_layernorm"}, attn=NO_OUT, mlp=NO_OUT),
    both("t5gemma2", "T5Gemma2ForConditionalGeneration",
         {"encoder": SEEING, "decoder": SIDE, "vocab_size": 300, "image_token_index": 291, "eoi_token_index": 292}, {},
         attn=NO_OUT, mlp=NO_OUT),
)
# fmt: on
