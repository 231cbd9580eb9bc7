"""States of accumulators: what they say of where they come from, what is refused, and their files.

A file is one of safetensors: the tensors of a state, and all else of it as JSON, with a digest over both. It also holds what is
needed to make a result without the model: the accumulator's plain attributes, and what a provenance says of the model. Nothing
in it is ever run.

Refused: states of another kind or a later schema, of other settings, or of another model, each by naming it; files that are
damaged or something else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tl_entropy.capture.record import ModelRecord
from tl_entropy.errors import FileError, InputError, InputTypeError
from tl_entropy.lenses.protocol import lens_name
from tl_entropy.results.files import as_path, digest, opened, replacing, tensors_in, to_read
from tl_entropy.state import encoded

SCHEMA = 1
"""Of a state: it counts on where what is gathered changes its meaning."""


def state_head(accumulator: Any) -> dict[str, Any]:
    """What a state says of itself, before what was seen."""
    report = accumulator.report
    corpus = None if report is None else {"documents": report.documents, "tokens": report.tokens, "digest": report.digest}
    return {
        "kind": type(accumulator).__name__, "schema": SCHEMA, "settings": settings_of(accumulator),
        "model": accumulator.adapter.fingerprint, "corpus": corpus,
        "documents": None if report is None else [list(interval) for interval in report.held],
    }  # fmt: skip


def settings_of(accumulator: Any) -> dict[str, Any]:
    """What must be equal in two that are merged, as plain values; a lens by its name and weights."""
    if "_told" in vars(accumulator):  # by the file that it came from
        told: dict[str, Any] = accumulator._told
        return told
    more: dict[str, Any] = accumulator._told_apart()
    return {**{name: _spelled(getattr(accumulator, name)) for name in accumulator.alike}, **more}


def _spelled(value: Any) -> Any:
    try:
        return encoded(value)
    except InputTypeError:  # somebody's own lens, of which no more is known
        weights = getattr(value, "weights", None)
        return lens_name(value) if weights is None else [lens_name(value), float(weights.double().square().sum())]


def check_state(accumulator: Any, state: Mapping[str, Any]) -> None:
    """Raise InputError unless an accumulator can go on from a state."""
    head = state_head(accumulator)
    missing = [name for name in (*head, "report", "gathered") if name not in state]
    if missing:
        raise InputError(f"state must be what state_dict() gave; it lacks {', '.join(missing)}")
    if state["schema"] > SCHEMA:
        raise InputError(f"state has schema {state['schema']}, this tl_entropy reads up to {SCHEMA}; upgrade tl_entropy")
    for name in ("kind", "model"):
        if state[name] != head[name]:
            raise InputError(f"state: its {name} is {state[name]!r}, and here it is {head[name]!r}")
    for name, value in head["settings"].items():
        if name not in state["settings"] or state["settings"][name] != value:
            raise InputError(f"state: its {name} is {state['settings'].get(name)!r}, and here it is {value!r}")
    if unknown := set(state["gathered"]) ^ {*accumulator.gathered, *accumulator.kept}:
        raise InputError(f"state: {', '.join(sorted(unknown))} is not in both; it is damaged, or of another version")


def contents(accumulator: Any) -> dict[str, Any]:
    """What a file holds: the state, and what else makes a result or an accumulator of the same settings."""
    left = {*accumulator.gathered, *accumulator.kept, *accumulator.bound, "adapter", "report", "_given", "_told"}
    accumulator._settings()  # which may remember what only the model knows
    made = {name: value for name, value in vars(accumulator).items() if name not in left}
    return {
        **accumulator._state(),
        "made": {name: plain for name, value in made.items() if (plain := _or_nothing(value)) is not _NOTHING},
        "record": encoded(ModelRecord.of(accumulator.adapter, accumulator._ids().tolist())),
        "arguments": None if (given := _or_nothing(getattr(accumulator, "_given", _NOTHING))) is _NOTHING else given,
    }


_NOTHING = object()


def _or_nothing(value: Any) -> Any:
    try:
        return encoded(value)
    except InputTypeError:  # what belongs to the model, or is somebody's own
        return _NOTHING


def write(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write nested dicts and lists of tensors and plain values to one file, which then takes the place of any that was there.

    Raises:
        SaveError: the folder cannot be written to, or the disk has no room; a file that was there stays as it was.
    """
    text, tensors = split(content)
    with replacing(as_path("path", path), len(text) + sum(tensor.nbytes for tensor in tensors.values())) as waiting:
        waiting.touch()
        mode = waiting.stat().st_mode  # what the user's umask gives
        save_file(tensors, waiting, metadata={"tl_entropy_state": text, "digest": digest(text, tensors)})
        waiting.chmod(mode)
    return as_path("path", path)


def split(content: Any) -> tuple[str, dict[str, Tensor]]:
    """Nested dicts and lists as JSON, and the tensors in them by name, on the CPU."""
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    held: list[Tensor] = []  # so that no two have one id

    def apart(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in names:
                held.append(value)
                names[id(value)] = str(len(names))
                one = value.detach().cpu().contiguous()
                shared = any(one.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for t in tensors.values())
                tensors[names[id(value)]] = one.clone() if shared else one
            return {"$": "tensor", "of": names[id(value)]}
        if isinstance(value, float) and not math.isfinite(value):
            return {"$": "float", "of": repr(value)}
        if isinstance(value, Mapping):
            return {key: apart(item) for key, item in value.items()}
        return [apart(item) for item in value] if isinstance(value, list) else value

    return json.dumps(apart(content)), tensors


def joined(text: str, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of ``split``."""
    return _joined(json.loads(text), tensors)


def read(path: str | Path) -> dict[str, Any]:
    """What ``write`` wrote.

    Raises:
        FileError: no such file, not one of a state, damaged, or of a later schema.
    """
    source = to_read("path", path)
    if not source.is_file():
        raise FileError(f"path: there is no file {source}")
    try:
        with opened(source) as file:
            metadata = file.metadata() or {}
            if "tl_entropy_state" not in metadata:
                other = "holds a result, which load reads" if "tl_entropy" in metadata else "is not one that tl_entropy wrote"
                raise FileError(f"path: {source} {other}; load_accumulator reads what an accumulator's save() wrote")
            text = metadata["tl_entropy_state"]
            tensors = tensors_in(file)
        if metadata.get("digest") != digest(text, tensors):
            raise ValueError("its digest is not that of its contents")
        content: dict[str, Any] = joined(text, tensors)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"path: {source} cannot be read as a state ({type(error).__name__}: {error}); it is damaged or of another kind"
        ) from error
    if content.get("schema", math.inf) > SCHEMA:
        raise FileError(
            f"path: {source} has schema {content.get('schema')}, this tl_entropy reads up to {SCHEMA}; upgrade tl_entropy"
        )
    return content


def _joined(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_joined(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("$") == "tensor":
        return tensors[value["of"]]
    if value.get("$") == "float":
        return float(value["of"])
    return {key: _joined(item, tensors) for key, item in value.items()}
