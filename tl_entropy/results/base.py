"""What every result shares: its unit, its origin, and its file.

A result is a frozen dataclass of tensors and plain values. Its file is one safetensors file: the tensors, and a JSON header
with the schema's version, the kind of result and all the rest. Nothing in a file is ever run, and a file is written under a
temporary name and then renamed, so that an interrupted save leaves the old one whole.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tl_entropy.errors import FileError, InputError, check_choice
from tl_entropy.results.printing import Printed
from tl_entropy.sites import Site

SCHEMA = 1

Unit = Literal["nats", "bits"]
PER_NAT = {"nats": 1.0, "bits": 1.0 / 0.6931471805599453}


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a number depends on."""
    found = {}
    for name in ("tl-entropy", "torch", "transformer-lens", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    ``weights`` is a fingerprint of the parameters: equal for equal weights under the same processing and
    the same TransformerLens, whatever the model is called.
    ``settings`` are the arguments that decide the numbers; ``corpus`` counts what was read; ``interrupted`` says that the
    pass was stopped before the input's end.
    """

    model: str
    weights: str
    processing: str
    dtype: str
    device: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    corpus: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    versions: Mapping[str, str] = field(default_factory=library_versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True, eq=False, repr=False)
class Result(Printed):
    """Base of all results: saving, loading, printing and units. A subclass lists its tensors as fields of type ``Tensor``."""

    kinds: ClassVar[dict[str, type[Result]]] = {}
    in_units: ClassVar[tuple[str, ...]] = ()  # names of the fields that carry the unit

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Result.kinds[cls.__name__] = cls

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``."""
        check_choice("unit", unit, PER_NAT)
        now = str(getattr(self, "unit"))  # noqa: B009
        factor = PER_NAT[unit] / PER_NAT[now]
        values = {name: getattr(self, name) for name in self.in_units}
        changed = {name: value * factor for name, value in values.items() if value is not None}
        return dataclasses.replace(self, **{**changed, "unit": unit})

    def save(self, path: str | Path) -> Path:
        """Write the result to one safetensors file and return its path; folders on the way are made."""
        target = Path(path)
        tensors, header = {}, {}
        stored: set[int] = set()
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                tensor = value.detach().cpu().contiguous()
                place = tensor.untyped_storage().data_ptr()
                tensors[item.name] = tensor.clone() if place in stored else tensor  # a file has each tensor to itself
                stored.add(place)
            else:
                header[item.name] = _plain(value)
        whole = {"schema": SCHEMA, "kind": type(self).__name__, "fields": header}
        with replacing(target) as waiting:
            waiting.touch()
            mode = waiting.stat().st_mode  # what the user's umask gives; safetensors makes files that only the owner can read
            save_file(tensors, waiting, metadata={"tl_entropy": json.dumps(whole)})
            waiting.chmod(mode)
        return target

    @classmethod
    def _restore(cls, tensors: dict[str, Any], header: dict[str, Any]) -> Self:
        """Build the result from a file's parts; a subclass turns plain JSON values back into its own types."""
        return cls(**tensors, **header)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A name beside ``target`` to write to, which takes its place afterwards; what fails leaves the old file whole.

    Folders on the way are made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield waiting
        waiting.replace(target)
    finally:
        waiting.unlink(missing_ok=True)


def in_unit(units: Iterable[str], unit: Unit) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Factors [quantity] (float64) that bring quantities of these units to ``unit``, or to its square, and their units then.

    What is in neither nats nor bits stays.

    >>> factors, units = in_unit(("bits", "rad", "nats", "nats²"), "bits")
    >>> [round(factor, 3) for factor in factors.tolist()], units
    ([1.0, 1.0, 1.443, 2.081], ('bits', 'rad', 'bits', 'bits²'))
    """
    check_choice("unit", unit, PER_NAT)
    factors, after = [], []
    for now in units:
        base = now.removesuffix("²")
        known, power = base in PER_NAT, 2 if base != now else 1
        factors.append((PER_NAT[unit] / PER_NAT[base]) ** power if known else 1.0)
        after.append(unit + now[len(base) :] if known else now)
    return torch.tensor(factors, dtype=torch.float64), tuple(after)


def load(path: str | Path) -> Any:
    """The result that ``result.save(path)`` wrote: of a file, or the comparison of models in a folder.

    Raises:
        FileError: no such file, not a file of tl_entropy, damaged, or written by a later version.
    """
    source = Path(path)
    if source.is_dir():
        from tl_entropy.results.comparison import load_comparison  # which needs this module

        return load_comparison(source)
    if not source.is_file():
        raise FileError(f"path: there is no file {source}")
    try:
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
            if "tl_entropy" not in metadata:
                raise FileError(f"path: {source} is a safetensors file, but not one that tl_entropy wrote")
            whole = json.loads(metadata["tl_entropy"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise FileError(f"path: {source} cannot be read as a result ({error}); it is damaged or of another kind") from error
    if whole["schema"] > SCHEMA:
        raise FileError(
            f"path: {source} has schema {whole['schema']}, this tl_entropy reads up to {SCHEMA}; upgrade tl_entropy"
        )
    if whole["kind"] not in Result.kinds:
        known = ", ".join(sorted(Result.kinds))
        raise FileError(f"path: {source} holds a {whole['kind']!r}; load reads {known}, and load_tuned_lens reads lenses")
    return Result.kinds[whole["kind"]]._restore(tensors, _unplain(whole["fields"]))


def chosen_from(argument: str, asked: Any, present: Iterable[Any]) -> list[Any]:
    """``asked``, one item or several, as a list; InputError unless a result has every one of them, ``present``.

    >>> chosen_from("layers", 2, [-1, 0, 1])
    Traceback (most recent call last):
    tl_entropy.errors.InputError: layers: 2 not in this result; it has -1, 0, 1
    """
    wanted = [asked] if isinstance(asked, str | Number) else list(asked)
    there = list(dict.fromkeys(present))
    missing = [item for item in wanted if item not in there]
    if missing:
        shown = ", ".join(map(str, there[:20])) + (", ..." if len(there) > 20 else "")
        raise InputError(f"{argument}: {', '.join(map(str, missing))} not in this result; it has {shown}")
    return wanted


def _plain(value: Any) -> Any:
    """A value as JSON. Floats travel as text, since JSON has no infinity; sites and provenance carry their kind."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Site):
        return {"$site": str(value)}
    if isinstance(value, Provenance):
        return {"$provenance": _plain(dataclasses.asdict(value))}
    if isinstance(value, float):
        return {"$float": repr(value)}
    if isinstance(value, Mapping):
        return {"$map": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"a result cannot store {type(value).__name__}")


def _unplain(value: Any) -> Any:
    """The inverse of ``_plain``; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(_unplain(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "$site" in value:
        return Site.parse(value["$site"])
    if "$float" in value:
        return float(value["$float"])
    if "$map" in value:
        return {_unplain(k): _unplain(v) for k, v in value["$map"]}
    if "$provenance" in value:
        return Provenance(**_unplain(value["$provenance"]))
    return {k: _unplain(v) for k, v in value.items()}
