"""TransformerBridges: by name as TransformerLens has them, or around a Hugging Face model that was read."""

from __future__ import annotations

from typing import Any

import torch

from tl_entropy.capture.loading.images import reading_only


def bridge_by_name(name: str, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
    """A TransformerBridge by a model's name on the Hugging Face hub."""
    from transformer_lens.model_bridge import TransformerBridge

    with reading_only():
        return TransformerBridge.boot_transformers(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code).eval()


def bridge_of(source: Any, tokenizer: Any | None, place: str, name: str, dtype: torch.dtype) -> Any:
    """A TransformerBridge around a Hugging Face model and its tokenizer.

    Args:
        source: the Hugging Face model, on its device.
        tokenizer: of the model; None where it has none.
        place: where an image processor would lie.
        name: what to call the model.
        dtype: of its weights.
    """
    from transformer_lens.model_bridge import TransformerBridge

    source.config.architectures = source.config.architectures or [type(source).__name__]
    with reading_only():
        if tokenizer is None:  # TransformerBridge.boot_transformers would look for one on the hub
            from transformer_lens.model_bridge.sources import build_bridge_from_module

            architecture = architecture_of(source.config)
            model = build_bridge_from_module(source, architecture, hf_config=source.config, dtype=dtype, model_name=name)
        else:
            options = {"device": source.device, "dtype": dtype}
            model = TransformerBridge.boot_transformers(place, hf_model=source, tokenizer=tokenizer, **options)
            model.cfg.model_name = name
    return model.eval()


def architecture_of(config: Any) -> str:
    """What TransformerLens calls the architecture of a Hugging Face configuration."""
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    found: str = determine_architecture_from_hf_config(config)
    return found


def reading_class(config: Any) -> Any:
    """The class of transformers with which TransformerLens reads a model of this configuration."""
    from transformer_lens.model_bridge.sources.transformers import get_hf_model_class_for_architecture

    return get_hf_model_class_for_architecture(architecture_of(config))
