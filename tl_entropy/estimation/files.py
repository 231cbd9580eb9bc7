"""An entropy-estimation model in a folder: its configuration and weights, and its tokenizer where it has one.

``config.json`` has the settings and digests over them, the weights and the tokenizer, ``model.safetensors`` the weights,
``tokenizer`` what Hugging Face writes. Weights and tokenizer wait in a folder of their own until the configuration, which
names that folder, has taken its place: so what is there is the old model or the new, whole, whatever ends a save. Nothing that
is read is ever run.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tl_entropy.capture.hooks import attribute
from tl_entropy.errors import FileError, SaveError
from tl_entropy.estimation.steps import own_tensors
from tl_entropy.estimation.tokenizers import digest_of_files, load_tokenizer, save_tokenizer
from tl_entropy.results.files import (
    abandoned,
    as_path,
    digest,
    opened,
    parsed,
    replacing,
    tensors_in,
    waiting_for,
    write_text,
)  # fmt: skip
from tl_entropy.results.holding import held

_CONFIG, _WEIGHTS, _TOKENIZER, _PARTS = "config.json", "model.safetensors", "tokenizer", "model"
_LAYOUT = 1


def write_folder(model: Any, folder: str | Path) -> Path:
    """Write an ``EstimationModel`` into a folder; whatever ends it, the folder holds the model that it held, or this one.

    Raises:
        SaveError: the folder cannot be written to, there is no room, or it holds what is no model of this kind.
    """
    place, tensors = as_path("folder", folder), own_tensors(model)
    name = type(model).__name__
    said = {"config": model.config.as_dict(), "seed": model.seed, "notes": list(attribute(model, "tl_entropy_notes") or ())}
    whole = {
        "architectures": [name], "layout": _LAYOUT, **said, "tokenizer": None,
        "digest": digest(_header(said), tensors),
    }  # fmt: skip
    with held("folder", place / _CONFIG, wait=True), waiting_for(place / _PARTS) as waiting:
        check_place("folder", place, name)
        ours = _has_tokenizer(place)
        try:
            with replacing(waiting / _WEIGHTS, sum(tensor.nbytes for tensor in tensors.values())) as file:
                save_file(tensors, file)
            if model.tokenizer is not None:
                save_tokenizer(model.tokenizer, waiting / _TOKENIZER)
                whole["tokenizer"] = digest_of_files(waiting / _TOKENIZER)
                if not ours:
                    _check_tokenizer(place / _TOKENIZER, waiting / _TOKENIZER)
        except BaseException:
            shutil.rmtree(waiting, ignore_errors=True)
            raise
        try:
            write_text(place / _CONFIG, json.dumps(whole | {"waiting": waiting.name}, indent=1) + "\n")
        except SaveError:  # after any other end, the configuration may be in place and need what waits
            shutil.rmtree(waiting, ignore_errors=True)
            raise
        try:
            _put_in_place(waiting, place, replaces=ours)
        except OSError as error:
            raise SaveError(
                f"folder: parts of the model in {place} are left in {waiting.name}, where load_model finds them ({error})"
            ) from error
        for path in abandoned(place / _PARTS):
            shutil.rmtree(path, ignore_errors=True)
    return place


def _has_tokenizer(folder: Path) -> bool:
    """Whether the model that a folder holds has brought a tokenizer."""
    try:
        return bool(parsed((folder / _CONFIG).read_text(encoding="utf-8"))["tokenizer"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_tokenizer(there: Path, new: Path) -> None:
    """Raise SaveError where a tokenizer's place holds what no model brought, and what would be read as a part of it."""
    names = {path.name for path in there.iterdir()} if there.is_dir() else {there.name} if there.exists() else set()
    if other := sorted(names - {path.name for path in new.iterdir()}):
        raise SaveError(f"folder: {there} holds {other[0]}, which is no part of this model's tokenizer; give another folder")


def _put_in_place(waiting: Path, place: Path, *, replaces: bool) -> None:
    """Move what waits to where it belongs; what was not moved yet is found where it waits."""
    if replaces:
        shutil.rmtree(place / _TOKENIZER, ignore_errors=True)
    if (waiting / _TOKENIZER).is_dir():
        shutil.copytree(waiting / _TOKENIZER, place / _TOKENIZER, dirs_exist_ok=True)
    os.replace(waiting / _WEIGHTS, place / _WEIGHTS)
    shutil.rmtree(waiting, ignore_errors=True)


def check_place(argument: str, folder: Path, name: str) -> None:
    """Raise SaveError where a folder holds a model that is no ``name``, which would be lost."""
    if not (folder / _CONFIG).is_file():
        if (folder / _WEIGHTS).exists():
            raise SaveError(f"{argument}: {folder} holds a {_WEIGHTS} without a {_CONFIG}; give another folder")
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
    while True:
        text = _config(folder)
        try:
            return _of_config(folder, text)
        except FileError:
            if _config(folder) == text:
                raise
            # Another model was saved meanwhile: read that.


def _config(folder: Path) -> str:
    try:
        return (folder / _CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileError(f"model: {folder} cannot be read as a model ({error!r})") from error


def _of_config(folder: Path, text: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], Any]:
    """What a configuration, as text, is of."""
    try:
        whole = parsed(text)
        layout, of, tokenizer = whole["layout"], whole["digest"], whole["tokenizer"]
        said, waiting = {name: whole[name] for name in ("config", "seed", "notes")}, whole.get("waiting")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"model: {folder} cannot be read as a model ({error!r})") from error
    if layout != _LAYOUT:
        raise FileError(f"model: {folder / _CONFIG} is of layout {layout}; this version reads {_LAYOUT}")
    named = isinstance(waiting, str) and waiting != "" and Path(waiting).name == waiting  # a folder beside the configuration
    places = [folder, folder / waiting] if named else [folder]
    found = (weights for place in places if (weights := _weights(place / _WEIGHTS)) and of == digest(_header(said), weights))
    if not (weights := next(found, {})):
        raise FileError(f"model: {folder} is damaged: weights and settings are not those that were saved")
    if not tokenizer:
        return said, weights, None
    for place in places:
        if tokenizer is True or tokenizer == digest_of_files(place / _TOKENIZER):  # True: by an earlier version
            return said, weights, load_tokenizer(place / _TOKENIZER)
    raise FileError(f"model: {folder} is damaged: its tokenizer is not the one that was saved")


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; none where it cannot be read."""
    try:
        with opened(path) as file:
            return tensors_in(file)
    except (OSError, SafetensorError, ValueError):
        return {}


def _header(said: Any) -> str:
    return json.dumps(said, sort_keys=True)
