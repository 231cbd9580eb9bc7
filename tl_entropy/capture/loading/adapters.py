"""Adapters (LoRA and its like, by PEFT): where they lie, and how they are merged into the weights that they belong to.

A TransformerBridge that takes a projection apart runs copies of its pieces, without the adapter on the whole: so they are
merged before. They are read and merged by PEFT itself: transformers drops an adapter without a word where PEFT is not
installed, and reads some kinds only in part where it is (the magnitudes of DoRA).
"""

from __future__ import annotations

import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from tl_entropy.capture.digests import combined, digest
from tl_entropy.errors import InputError, ModelError
from tl_entropy.results.files import parsed

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def base_of(place: str) -> str | None:
    """Folder or name of the model to which the adapter in a folder or of a name belongs; None where there is no adapter.

    Raises:
        InputError: the adapter has no weights, or names no model, or none that is there.
        ModelError: PEFT is not installed.
    """
    from transformers.utils import find_adapter_config_file

    try:
        file = find_adapter_config_file(place)
    except OSError:  # no such name on the hub: TransformerLens has names of its own
        return None
    if file is None:
        return None
    if find_spec("peft") is None:
        raise ModelError(
            f"model: {place} holds an adapter ({Path(file).name}), which takes the package peft to read: pip install peft"
        )
    if Path(place).is_dir() and not any((Path(place) / name).is_file() for name in _WEIGHTS):
        raise InputError(f"model: {place} has {Path(file).name} and no weights of an adapter ({' or '.join(_WEIGHTS)})")
    if (Path(place) / "config.json").is_file():
        return place
    try:
        named = dict(parsed(Path(file).read_text(encoding="utf-8"))).get("base_model_name_or_path")
    except (ValueError, TypeError) as error:
        raise InputError(f"model: {file} does not describe an adapter: {error}") from error
    if not named:
        raise InputError(
            f"model: {file} does not say to which model the adapter belongs (base_model_name_or_path), and {place} holds none; "
            "put the model's config.json and weights there as well"
        )
    beside = Path(place) / named  # where it is written relative to the adapter, not to the working directory
    path = beside if beside.is_dir() and not Path(named).is_dir() else Path(named).expanduser()
    if path.is_absolute() and not path.is_dir():
        raise InputError(
            f"model: {file} says that the adapter belongs to {named} (base_model_name_or_path), and there is no such folder; "
            "write there where its model lies"
        )
    return str(path)


def _resize(model: Any, adapter: str) -> None:
    """Give the model as many rows of the embedding as the adapter brings, which was trained with tokens of its own."""
    from peft.utils.save_and_load import load_peft_weights

    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    ends = (f"{name}.weight", f"{name}.base_layer.weight")
    rows = {len(weight) for key, weight in load_peft_weights(adapter, device="cpu").items() if key.endswith(ends)}
    if len(rows) == 1 and rows != {embedding.num_embeddings}:
        model.resize_token_embeddings(*rows, mean_resizing=False)


def with_adapter(model: nn.Module, adapter: str) -> Any:
    """PEFT's model of a Hugging Face model and the adapter in a folder or of a name, not yet merged.

    Raises:
        ModelError: an adapter of another model.
    """
    from peft import PeftModel

    with warnings.catch_warnings(action="ignore"):
        warnings.filterwarnings("error", "Found missing adapter keys")
        _resize(model, adapter)
        try:
            return PeftModel.from_pretrained(model, adapter).eval()
        except UserWarning as error:
            raise ModelError(f"model: the adapter in {adapter} is none of this model. {error}"[:500]) from error


def described(tuned: Any, name: str) -> str:
    """The adapter of PEFT's model in a line: its kind, its rank and a hash of its weights."""
    from peft import get_peft_model_state_dict

    rank = getattr(tuned.active_peft_config, "r", None)
    weights = {digest(weight) for weight in get_peft_model_state_dict(tuned).values()}
    return f"adapter {name} ({_kind(tuned)}{f', rank {rank}' if rank else ''}; {combined(weights)})"


def merged(tuned: Any) -> Any:
    """The Hugging Face model inside PEFT's, with the adapter in its weights.

    Raises:
        ModelError: an adapter that cannot be merged.
    """
    # An adapter on the unembedding leaves the embedding as it is, tied or not.
    held = Counter(id(weight) for module in tuned.modules() for weight in module._parameters.values())
    for layer in tuned.modules():
        base = getattr(layer, "base_layer", None)
        for name, weight in base._parameters.items() if isinstance(base, nn.Module) else ():
            if weight is not None and held[id(weight)] > 1:
                setattr(base, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
    with warnings.catch_warnings(action="ignore"):
        try:
            return tuned.merge_and_unload(safe_merge=True)
        except Exception as error:  # each kind of adapter has reasons of its own
            reason = "it adds to the text" if tuned.active_peft_config.is_prompt_learning else str(error)
            raise ModelError(
                f"model: an adapter of the kind {_kind(tuned)} cannot be merged into the weights of its model ({reason}), and "
                "TransformerLens leaves unmerged ones out"
            ) from error


def _kind(tuned: Any) -> str:
    kind = tuned.active_peft_config.peft_type
    return str(getattr(kind, "value", kind))
