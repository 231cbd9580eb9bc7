"""An entropy-estimation model in a folder: its configuration and weights, and its tokenizer where it has one.

``config.json`` has the settings and digests over them, the weights and the tokenizer, ``model.safetensors`` the weights,
``tokenizer`` what Hugging Face writes. The configuration is written last, so that a folder with one is whole. Nothing that is
read is ever run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tl_entropy.capture.hooks import attribute
from tl_entropy.errors import FileError, SaveError
from tl_entropy.estimation.steps import own_tensors
from tl_entropy.estimation.tokenizers import digest_of_files, load_tokenizer, save_tokenizer
from tl_entropy.results.files import as_path, digest, parsed, replacing, write_text
from tl_entropy.results.holding import held

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer"
_LAYOUT = 1


def write_folder(model: Any, folder: str | Path) -> Path:
    """Write an ``EstimationModel`` into a folder; one that is there already is replaced, file by file.

    Raises:
        SaveError: the folder cannot be written to, there is no room, or it holds another kind of model.
    """
    place, tensors = as_path("folder", folder), own_tensors(model)
    name = type(model).__name__
    said = {"config": model.config.as_dict(), "seed": model.seed, "notes": list(attribute(model, "tl_entropy_notes") or ())}
    whole = {
        "architectures": [name], "layout": _LAYOUT, **said, "tokenizer": None,
        "digest": digest(_header(said), tensors),
    }  # fmt: skip
    with held("folder", place / _CONFIG, wait=True):
        check_place("folder", place, name)
        with replacing(place / _WEIGHTS, sum(tensor.nbytes for tensor in tensors.values())) as waiting:
            save_file(tensors, waiting)
            (place / _CONFIG).unlink(missing_ok=True)  # of other weights
        if model.tokenizer is not None:
            save_tokenizer(model.tokenizer, place / _TOKENIZER)
            whole["tokenizer"] = digest_of_files(place / _TOKENIZER)
        write_text(place / _CONFIG, json.dumps(whole, indent=1) + "\n")
    return place


def check_place(argument: str, folder: Path, name: str) -> None:
    """Raise SaveError where a folder holds a model that is no ``name``, which would be lost."""
    if not (folder / _CONFIG).is_file():
        return
    try:
        of = parsed((folder / _CONFIG).read_text(encoding="utf-8"))["architectures"]
    except (OSError, ValueError, KeyError, TypeError):
        of = None
    if of != [name]:
        raise SaveError(f"{argument}: {folder} holds another model, whose {_CONFIG} is no {name}'s; give another folder")


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], Any]:
    """Settings ("config", "seed", "notes"), weights and tokenizer (None where there is none) of a folder.

    Raises:
        FileError: damaged, or of a newer layout.
    """
    try:
        whole, weights = parsed((folder / _CONFIG).read_text(encoding="utf-8")), load_file(folder / _WEIGHTS)
        layout, of, tokenizer = whole["layout"], whole["digest"], whole["tokenizer"]
        said = {name: whole[name] for name in ("config", "seed", "notes")}
    except (OSError, ValueError, SafetensorError, KeyError, TypeError) as error:
        raise FileError(f"model: {folder} cannot be read as a model ({error!r})") from error
    if layout != _LAYOUT:
        raise FileError(f"model: {folder / _CONFIG} is of layout {layout}; this version reads {_LAYOUT}")
    if of != digest(_header(said), weights):
        raise FileError(f"model: {folder} is damaged: weights and settings are not those that were saved")
    if not tokenizer:
        return said, weights, None
    if tokenizer is not True and tokenizer != digest_of_files(folder / _TOKENIZER):  # True: by an earlier version
        raise FileError(f"model: {folder} is damaged: its tokenizer is not the one that was saved")
    return said, weights, load_tokenizer(folder / _TOKENIZER)


def _header(said: Any) -> str:
    return json.dumps(said, sort_keys=True)
