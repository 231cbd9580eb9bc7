"""Whether what was read from a file can be a result: every field there, of its kind, and as long as the others say.

What a kind's fields are is written in their annotations. Axes of one name have one length in all tensors; a tuple whose name is
an axis in the plural (``sites`` of "site") is as long as it, and so are those that a kind lists in ``aligned``.

Refused: fields that are missing or unknown, of another kind, or of lengths that do not fit.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``values`` can be the fields of a dataclass of this kind.

    >>> @dataclasses.dataclass
    ... class Pair:
    ...     names: tuple[str, str]
    ...     how: Literal["sum", "mean"] = "sum"
    >>> check_fields(Pair, {"names": ("a", "b"), "how": "mean"})
    >>> check_fields(Pair, {"names": ("a", 1)})
    Traceback (most recent call last):
    ValueError: names is ('a', 1), not tuple[str, str]
    """
    fields: Any = dataclasses.fields(kind)
    hints = get_type_hints(kind)
    required = {item.name for item in fields if item.default is item.default_factory is dataclasses.MISSING}
    for what, names in (("missing", required - set(values)), ("unknown", set(values) - {item.name for item in fields})):
        if names:
            raise ValueError(f"fields are {what}: {', '.join(sorted(names))}")
    for name, value in values.items():
        if not _fits(value, hints[name]):
            shown = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.80}"
            raise ValueError(f"{name} is {shown}, not {_shown(hints[name])}")
    lengths: dict[str, tuple[str, int]] = {}
    for axis, name, length in _lengths(kind, hints, values):
        first, known = lengths.setdefault(axis, (name, length))
        if length != known:
            raise ValueError(f"{name} and {first} do not fit: {length} and {known} of {axis}")


def _lengths(kind: type, hints: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The axis, the field and its length along it, of all tensors and of the tuples beside them."""
    axes = set()
    for name, value in values.items():
        if isinstance(value, Tensor):
            named = _axes(next(hint for hint in _options(hints[name]) if hasattr(hint, "dim_str")))
            axes |= set(named)
            yield from ((axis, name, length) for axis, length in zip(named, value.shape, strict=True) if not axis.isdigit())
    aligned = {axis: names for axis, *names in getattr(kind, "aligned", ())}
    for axis in sorted(axes):
        for name in aligned.get(axis, [f"{axis[:-1]}ies" if axis.endswith("y") else f"{axis}s"]):
            if isinstance(values.get(name), tuple):
                yield axis, name, len(values[name])


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that a hint says."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hasattr(hint, "dim_str"):
        return isinstance(value, Tensor) and _is_tensor(value, hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = (args[0],) * len(value) if len(args) == 2 and args[1] is ... else args
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _is_tensor(value: Tensor, hint: Any) -> bool:
    axes = _axes(hint)
    sizes = len(axes) == value.ndim and all(int(a) == n for a, n in zip(axes, value.shape, strict=True) if a.isdigit())
    return sizes and str(value.dtype).removeprefix("torch.") in hint.dtypes


def _axes(hint: Any) -> tuple[str, ...]:
    return tuple(hint.dim_str.split())


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
