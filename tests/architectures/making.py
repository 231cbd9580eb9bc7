"""Tiny models of Hugging Face classes with random weights that say something, and the Bridge around a copy."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack, nullcontext
from unittest import mock

import torch
import transformers as tr
from architectures.row import Row
from tiny_models import tiny_tokenizer

from tl_entropy.capture.loading.images import reading_only

SPREAD = 3.0  # standard deviation of the logits


def exists(row: Row) -> bool:
    """Whether the installed transformers has the row's class."""
    return hasattr(tr, row.architecture)


def hf_model(row: Row):
    """The row's model in float32, with eager attention, in evaluation mode."""
    torch.manual_seed(0)
    made = getattr(tr, row.architecture)
    config = made.config_class(**copy.deepcopy(dict(row.config)))
    config.architectures = [row.registered or row.architecture]
    with no_towers() if row.blind else nullcontext():
        model = made._from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                randomise(module, name, parameter)
        spread_logits(model)
    return model


def randomise(module, name: str, parameter) -> None:
    """Weights of the size that keeps activations about as large as they were; biases and gains not at 0 and 1.

    What state-space models call A, D and dt stays as it was initialised: not every number there means something.
    """
    if name in ("weight", "bias") and parameter.ndim == 1:
        parameter.add_(0.2 * torch.randn_like(parameter))
    elif isinstance(module, torch.nn.Embedding):
        parameter.normal_()
    elif isinstance(module, torch.nn.Linear | tr.pytorch_utils.Conv1D) and parameter.ndim == 2:
        parameter.normal_(std=1.5 / math.sqrt(min(parameter.shape)))
    elif "experts" in type(module).__name__.lower() and parameter.ndim == 3:
        parameter.normal_(std=1.5 / math.sqrt(min(parameter.shape[1:])))


def spread_logits(model) -> None:
    """Scale the unembedding, or the embedding where they are one, so that logits have the standard deviation ``SPREAD``."""
    head = model.get_output_embeddings()
    if head is None:
        return
    ids = torch.randint(1, head.weight.shape[0], (4, 12), generator=torch.Generator().manual_seed(1))
    encoder_decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    logits = model(input_ids=ids, **encoder_decoder).logits
    head.weight.mul_(SPREAD / logits.std())


def bridge(model, row: Row):
    """A TransformerBridge around a copy of ``model``, which stays untouched. No network, and nothing installed."""
    from transformer_lens.model_bridge import TransformerBridge

    with reading_only(), ExitStack() as stack:
        for processor in (tr.AutoProcessor, tr.AutoFeatureExtractor, tr.AutoImageProcessor):
            stack.enter_context(mock.patch.object(processor, "from_pretrained", side_effect=OSError("no processor here")))
        return TransformerBridge.boot_transformers(
            f"tiny/{row.name.replace(' ', '-')}", hf_model=copy.deepcopy(model), tokenizer=tiny_tokenizer(), device="cpu",
            dtype=next(model.parameters()).dtype,
        ).eval()  # fmt: skip


def no_towers():
    """What Hugging Face builds for images and sound is nothing."""
    made = tr.AutoModel.from_config

    def from_config(config, **options):
        return made(config, **options) if "Text" in type(config).__name__ else torch.nn.Identity()

    return mock.patch.object(tr.AutoModel, "from_config", from_config)
