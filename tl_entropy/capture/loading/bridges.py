"""TransformerBridges: by name as TransformerLens has them, or around a Hugging Face model that was read."""

from __future__ import annotations

from typing import Any

from tl_entropy.capture.loading.images import reading_only
from tl_entropy.capture.loading.source import Source, architecture_of


def bridge_by_name(source: Source) -> Any:
    """A TransformerBridge by a model's name on the Hugging Face hub."""
    from transformer_lens.model_bridge import TransformerBridge

    options = {"device": source.device, "dtype": source.dtype, "trust_remote_code": source.trust_remote_code}
    with reading_only():
        model = TransformerBridge.boot_transformers(source.place, model_class=source, tokenizer=source.tokenizer(), **options)
    model.cfg.model_name = source.name
    return model.eval()


def bridge_of(source: Source, read: Any, tokenizer: Any | None) -> Any:
    """A TransformerBridge around a Hugging Face model.

    Args:
        source: where the model was read.
        read: the model.
        tokenizer: of the model; None where it has none.
    """
    from transformer_lens.model_bridge import TransformerBridge

    read.config.architectures = read.config.architectures or [type(read).__name__]
    with reading_only():
        if tokenizer is None:  # TransformerBridge.boot_transformers would look for one on the hub
            from transformer_lens.model_bridge.sources import build_bridge_from_module

            model = build_bridge_from_module(read, architecture_of(read.config), hf_config=read.config, dtype=source.dtype)
        else:
            options = {"device": source.device, "dtype": source.dtype}
            model = TransformerBridge.boot_transformers(source.place, hf_model=read, tokenizer=tokenizer, **options)
    model.cfg.model_name = source.name
    return model.eval()
