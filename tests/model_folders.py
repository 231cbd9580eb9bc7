"""Tiny models in folders, as Hugging Face's libraries write them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from tiny_models import hf_model, tiny_tokenizer

IDS = torch.tensor([[0, 5, 17, 80, 120, 33, 260, 7, 91, 12], [0, 9, 44, 44, 201, 3, 18, 250, 77, 140]])


def write_folder(place: Path, source="gpt2", *, tokenizer: bool = True) -> Path:
    """A folder with a model (or one of ``tiny_models`` by its name) and the tiny tokenizer."""
    model = hf_model(source) if isinstance(source, str) else source
    model.save_pretrained(place)
    if tokenizer:
        tiny_tokenizer().save_pretrained(place)
    return place


@torch.no_grad()
def true_losses(source, ids=IDS) -> torch.Tensor:
    """Losses [text, position] of a Hugging Face model's own logits, in float64."""
    logits = copy.deepcopy(source).eval()(input_ids=ids).logits.double()
    return -logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


@torch.no_grad()
def losses(model, ids=IDS) -> torch.Tensor:
    """The same of a TransformerLens model."""
    logits = model(ids.to(next(model.parameters()).device), return_type="logits").cpu().double()
    return -logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
