"""What every result shares: its unit, its origin, and its file.

A result is a frozen dataclass of tensors and plain values. Its file is one safetensors file: the tensors, and a JSON header
with the schema's version, the kind of result and all the rest, and a digest over both. Nothing in a file is ever run, and a
file is written under a temporary name and then renamed, so that an interrupted save leaves the old one whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

import torch
from safetensors.torch import save_file

from tl_entropy.errors import InputError, InputTypeError, check_choice
from tl_entropy.results.checking import check_fields
from tl_entropy.results.files import LAYOUT, SCHEMA, as_path, digest, plain, replacing, written_once
from tl_entropy.results.printing import Printed

Unit = Literal["nats", "bits"]
PER_NAT = {"nats": 1.0, "bits": 1.0 / 0.6931471805599453}


@dataclass(frozen=True, eq=False, repr=False)
class Result(Printed):
    """Base of all results: saving, loading, printing and units. A subclass lists its tensors as fields of type ``Tensor``."""

    kinds: ClassVar[dict[str, type[Result]]] = {}
    in_units: ClassVar[tuple[str, ...]] = ()  # names of the fields that carry the unit
    schema: ClassVar[int] = SCHEMA  # of its files: a kind whose fields change their meaning counts on
    aligned: ClassVar[tuple[tuple[str, ...], ...]] = ()  # an axis, and the tuples as long as it, where that is not its plural

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
        """Write the result to one safetensors file and return its path; folders on the way are made.

        Of several processes that share a measurement the first writes, and the others wait until it has.

        Raises:
            SaveError: the folder cannot be written to, or the disk has no room; a file that was there stays as it was.
        """
        target = as_path("path", path)
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
                header[item.name] = plain(value)
        whole = json.dumps({"layout": LAYOUT, "schema": self.schema, "kind": type(self).__name__, "fields": header})
        with written_once(target) as mine:
            if mine:
                _write(target, tensors, whole)
        return target

    @classmethod
    def _restore(cls, tensors: dict[str, Any], header: dict[str, Any]) -> Self:
        """Build the result from a file's parts, which are checked; a subclass turns those of older files into today's."""
        values = {**tensors, **header}
        if len(values) < len(tensors) + len(header):
            raise ValueError("a tensor and a plain value have one name")
        check_fields(cls, values)
        return cls(**values)


def _write(target: Path, tensors: dict[str, torch.Tensor], header: str) -> None:
    with replacing(target, len(header) + sum(tensor.nbytes for tensor in tensors.values())) as waiting:
        waiting.touch()
        mode = waiting.stat().st_mode  # what the user's umask gives; safetensors makes files that only the owner can read
        save_file(tensors, waiting, metadata={"tl_entropy": header, "digest": digest(header, tensors)})
        waiting.chmod(mode)


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


def chosen_from(argument: str, asked: Any, present: Iterable[Any]) -> list[Any]:
    """``asked``, one item or several, as a list; InputError unless a result has every one of them, ``present``.

    Nothing at all is asked for by leaving the argument out, and never by an empty sequence: a result of nothing says nothing.

    >>> chosen_from("layers", 2, [-1, 0, 1])
    Traceback (most recent call last):
    tl_entropy.errors.InputError: layers: 2 not in this result; it has -1, 0, 1
    """
    there = list(dict.fromkeys(present))
    shown = ", ".join(map(str, there[:20])) + (", ..." if len(there) > 20 else "")
    plain = asked.tolist() if hasattr(asked, "tolist") else asked
    several = [plain] if isinstance(plain, str) or not isinstance(plain, Iterable) else plain
    wanted = [item.tolist() if hasattr(item, "tolist") else item for item in several]
    if not all(isinstance(item, str | Number) and not isinstance(item, bool) for item in wanted):
        raise InputTypeError(f"{argument} must be one or several of {shown}; got {asked!r}")
    if not wanted:
        raise InputError(f"{argument} is empty; choose from {shown}")
    missing = [item for item in wanted if item not in there]
    if missing:
        raise InputError(f"{argument}: {', '.join(map(str, missing))} not in this result; it has {shown}")
    return wanted


def places_of(argument: str, asked: Any, present: Sequence[Any]) -> list[int]:
    """Where in ``present`` the items asked for are, one or several, in its order; None is all.

    Raises:
        InputError: an item that is not there.

    >>> places_of("layers", (2, -1), [-1, 0, 2, 2])
    [0, 2, 3]
    """
    wanted = present if asked is None else chosen_from(argument, asked, present)
    return [i for i, item in enumerate(present) if item in wanted]


def fields_at(result: Any, **places: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor | None]:
    """All tensors of a result, at these places of the axes of these names, as its fields' annotations call them.

    Places are indices, or a mask over the axis.
    """
    found = {}
    for name, axes in _axes(result.__class__).items():
        found[name] = value = getattr(result, name)
        for i, axis in enumerate(axes):
            if axis in places and value is not None:
                chosen = torch.as_tensor(places[axis])
                index = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen.long()
                found[name] = value = value.index_select(i, index)
    return found


@cache
def _axes(kind: type) -> dict[str, tuple[str, ...]]:
    """Names of the axes of each field of ``kind`` that is a tensor: of ``Float[Tensor, "row site"]`` they are row and site."""
    hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(kind).items()}
    return {name: tuple(o.dim_str.split()) for name, options in hints.items() for o in options if hasattr(o, "dim_str")}
