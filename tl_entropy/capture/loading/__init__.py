"""Models by name or from a folder, as whichever kind the installed TransformerLens has.

Only this folder imports ``transformer_lens``. What is on the disk is read without touching the network; nothing is installed,
and code that a model brings is run only where the user says so; nothing is asked.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from tl_entropy.capture.feeding import out_of_memory
from tl_entropy.capture.loading.bridges import bridge_by_name, bridge_of
from tl_entropy.capture.loading.devices import check_dtype, existing_device
from tl_entropy.capture.loading.hooked import hooked_by_name, hooked_gpt2
from tl_entropy.capture.loading.images import without_processor
from tl_entropy.capture.loading.kinds import Kind, available_kinds
from tl_entropy.capture.loading.source import read_model, read_tokenizer
from tl_entropy.errors import InputError, InputTypeError, ModelError, TLEntropyError, check_choice
from tl_entropy.torch_state import steady

__all__ = ["Kind", "available_kinds", "load_model"]


@steady
def load_model(
    name_or_folder: str | Path,
    *,
    kind: Kind | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Any:
    """A TransformerLens model in evaluation mode.

    Args:
        name_or_folder: a model's name on the Hugging Face hub, or a local folder with its config, weights and tokenizer (if it
            has none, the model reads token ids).
        kind: "bridge" (TransformerBridge, 3.x and 4.x) or "hooked" (HookedTransformer, 2.x and 3.x); None takes the first of
            these that is installed.
        device: where to put it; None is the CUDA device where there is one, else the CPU.
        dtype: of its weights: float32, float64, bfloat16 or float16.
        trust_remote_code: whether code that a model brings may be run.

    Returns:
        The model.

    Raises:
        InputError: a kind that the installed TransformerLens does not have, a device that is not there, a dtype that weights
            can't have, or a folder without a model.
        ModelError: TransformerLens can't be imported, or can't load the model; or the model needs code that it brings.

    Warns:
        UserWarning: a model that sees was loaded to read alone, since torchvision is not installed.
    """
    kinds = available_kinds()
    if kind is not None:
        check_choice("kind", kind, kinds)
    if not isinstance(trust_remote_code, bool):
        raise InputTypeError(f"trust_remote_code must be True or False; got {trust_remote_code!r}")
    chosen, place = kind or kinds[0], existing_device(device)
    check_dtype(dtype)
    folder = Path(name_or_folder).expanduser()
    if not folder.is_dir() and (isinstance(name_or_folder, Path) or str(name_or_folder).startswith((".", "/", "~"))):
        raise InputError(f"model: there is no folder {name_or_folder}")
    try:
        if folder.is_dir():
            model = _from_folder(folder, chosen, place, dtype, trust_remote_code)
        else:
            by_name = bridge_by_name if chosen == "bridge" else hooked_by_name
            model = by_name(str(name_or_folder), place, dtype, trust_remote_code=trust_remote_code)
    except TLEntropyError:
        raise
    except Exception as error:  # of transformers and TransformerLens, which raise what they like
        if out_of_memory(error):
            raise
        raise _explained(error, str(name_or_folder), chosen) from error
    if said := without_processor(model):
        warnings.warn(said, stacklevel=3)
    return model


def _from_folder(folder: Path, kind: Kind, device: torch.device, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    source = read_model(folder, dtype, trust_remote_code=trust_remote_code).to(device)
    tokenizer = read_tokenizer(folder, trust_remote_code=trust_remote_code)
    name = folder.resolve().name
    if kind == "bridge":
        return bridge_of(source, tokenizer, str(folder), name, dtype)
    return hooked_gpt2(source, tokenizer, name, device, dtype)


def _explained(error: Exception, name: str, kind: Kind) -> ModelError:
    """What an error of the libraries below means for who wants to load a model."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return ModelError(
            f"model: {name} brings code of its own, without which it cannot be loaded, and which is not run unasked. Read the "
            ".py files beside its weights, then pass trust_remote_code=True"
        )
    wanted = {"bridge": "TransformerBridge", "hooked": "HookedTransformer"}[kind]
    return ModelError(f"model: {name} cannot be loaded as a {wanted}: {type(error).__name__}: {said[:500]}")
