"""Entropy-estimation models out of their folders, for ``load_model``: what comes out is what was saved, and can be measured."""

from __future__ import annotations

from pathlib import Path

import torch

from tl_entropy.capture import origin
from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import FileError, InputError, InputTypeError, ModelError
from tl_entropy.estimation.config import EstimationConfig
from tl_entropy.estimation.files import read_folder
from tl_entropy.estimation.models import EstimationModel


def load_estimation(folder: Path, *, device: torch.device, dtype: torch.dtype) -> EstimationModel:
    """The model that ``save`` wrote into a folder, in evaluation mode.

    Raises:
        FileError: damaged, or of a newer layout.
        ModelError: the model gives a text other states alone than padded, so that no batch of it could be measured.
    """
    said, weights, tokenizer = read_folder(folder)
    try:
        model = EstimationModel(EstimationConfig.from_dict(said["config"]), tokenizer, seed=said["seed"])
        missing = set(model.load_state_dict(weights, strict=False).missing_keys) - model.named_twice()
    except (RuntimeError, TypeError, InputError, InputTypeError) as error:
        raise FileError(f"model: {folder} is no whole model ({error})") from error
    if missing:
        raise FileError(f"model: {folder} lacks weights: {', '.join(sorted(missing)[:3])}")
    model = model.to(device, dtype).eval()
    origin.note(model, *said["notes"])
    if not Adapter(model).pads_to:
        raise ModelError(f"model: {folder} gives a text other states alone than padded, so that no batch of it can be measured")
    return model
