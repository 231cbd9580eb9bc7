"""HookedTransformers: by name as TransformerLens has them, or from a folder for GPT-2's architecture.

TransformerLens itself reads no local folders into this class.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from tl_entropy.capture.loading.source import Source
from tl_entropy.errors import ModelError


def hooked_by_name(source: Source) -> Any:
    """A HookedTransformer by a name that TransformerLens knows, folded and centred.

    Raises:
        ModelError: TransformerLens would run code of the model's repository, and that was not allowed.
    """
    from transformer_lens import HookedTransformer, loading_from_pretrained
    from transformers import AutoModelForCausalLM

    with_code = getattr(loading_from_pretrained, "NEED_REMOTE_CODE_MODELS", ())
    official: str = loading_from_pretrained.get_official_model_name(source.place)
    if not source.trust_remote_code and official.startswith(tuple(with_code)):
        raise ModelError(
            f"model: TransformerLens loads {source.place} as a HookedTransformer only with the code of its repository; read "
            "that code and pass trust_remote_code=True, or use kind='bridge'"
        )
    if source.check:  # TransformerLens does not show the model that it reads: it is read here first, and let go
        twin = replace(source, place=official)
        with suppress(OSError, ValueError):  # models that TransformerLens has in a format of its own
            twin.read(AutoModelForCausalLM)
        source.reference = twin.reference
    options = {"trust_remote_code": True} if source.trust_remote_code else {}
    return HookedTransformer.from_pretrained(source.place, device=str(source.device), dtype=source.dtype, **options).eval()


def hooked_gpt2(source: Source, read: Any, tokenizer: Any | None) -> Any:
    """A HookedTransformer with the weights of a Hugging Face model, folded and centred.

    Args:
        source: where the model was read.
        read: the model.
        tokenizer: of the model; None where it has none.

    Raises:
        ModelError: the model is of another architecture than GPT-2's.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = read.config
    if config.model_type != "gpt2":
        raise ModelError(
            "model: a HookedTransformer can be made from a folder for GPT-2's architecture only, not for "
            f"{config.model_type!r}; use kind='bridge', or build the HookedTransformer yourself and pass it"
        )
    cfg = HookedTransformerConfig(
        n_layers=config.n_layer, d_model=config.n_embd, n_ctx=config.n_positions, d_head=config.n_embd // config.n_head,
        n_heads=config.n_head, d_mlp=config.n_inner or 4 * config.n_embd, d_vocab=config.vocab_size,
        act_fn=config.activation_function, eps=config.layer_norm_epsilon, normalization_type="LN",
        model_name=source.name, original_architecture="GPT2LMHeadModel",
        device=str(source.device), dtype=source.dtype, default_prepend_bos=True,
    )  # fmt: skip
    model = HookedTransformer(cfg, tokenizer=tokenizer, move_to_device=False)
    model.load_and_process_state_dict(
        convert_gpt2_weights(read, cfg),
        fold_ln=True,
        center_writing_weights=True,
        center_unembed=True,
        fold_value_biases=True,
    )
    return model.to(source.device, print_details=False).eval()
