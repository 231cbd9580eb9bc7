"""Numbers as text that is equal where they are equal bit for bit: those of tensors, tables, results, and of what holds them.

A tensor becomes its dtype, its shape, the beginning of a hash of its bytes and, for the reader, the mean of what is finite.
A float becomes its hexadecimal form. All NaNs are one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

PLAIN = (bool, int, float, complex, str, type(None), np.generic)
LONGEST = 80  # characters that a text is shown with; a longer one is hashed


def digests(value, name: str = "") -> dict[str, str]:
    """Every number in ``value`` as text, by where it is in there.

    >>> digests({"a": 0.5, "b": (torch.tensor([1.0, 3.0]), "text")}, "of")
    {'of/a': '0x1.0000000000000p-1', 'of/b/0': 'float32[2] a47077a19cd711ee, mean 2', 'of/b/1': 'text'}
    """
    found = leaves(value, name)
    return {where: _of_tensor(leaf) if isinstance(leaf, torch.Tensor) else _short(leaf) for where, leaf in found.items()}


def leaves(value, name: str = "") -> dict[str, torch.Tensor | str]:
    """Every tensor in ``value``, on the CPU, and everything else as text, by where it is in there.

    >>> leaves({"a": 0.5, "b": (torch.tensor([1.0, 3.0]), "text")}, "of")
    {'of/a': '0x1.0000000000000p-1', 'of/b/0': tensor([1., 3.]), 'of/b/1': 'text'}
    """
    if isinstance(value, torch.Tensor):
        return {name: value.detach().cpu()}
    if isinstance(value, np.ndarray):
        return {name: torch.tensor(value)}
    if isinstance(value, pd.DataFrame):
        columns = {"index": value.index.to_series(), **{str(column): value[column] for column in value}}
        return leaves({column: _of_column(series) for column, series in columns.items()}, name)
    if _is_plain(value):
        return {name: _text(value)}
    if dataclasses.is_dataclass(value):
        return leaves({item.name: getattr(value, item.name) for item in dataclasses.fields(value)}, name)
    if isinstance(value, Mapping):
        if all(map(_is_plain, value.values())) and not all(isinstance(key, str) for key in value):
            return {name: repr(sorted((_text(key), _text(part)) for key, part in value.items()))}
        named = {_key(key): part for key, part in value.items()}
    elif isinstance(value, tuple | list):
        named = {str(i): part for i, part in enumerate(value)}
    else:
        raise TypeError(f"{name}: no numbers are known of a {type(value).__name__}")
    found: dict[str, torch.Tensor | str] = {}
    for key, part in named.items():
        found |= leaves(part, f"{name}/{key}" if name else key)
    return found


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What two sets of digests differ in, a line each.

    >>> differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
    ['b: 2 | 3', 'c: only in the second, 4']
    """
    lines = []
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in other:
            lines.append(f"{name}: only in the first, {one[name]}")
        elif name not in one:
            lines.append(f"{name}: only in the second, {other[name]}")
        elif one[name] != other[name]:
            lines.append(f"{name}: {one[name]} | {other[name]}")
    return lines


def _of_tensor(value: torch.Tensor) -> str:
    flat = value.flatten().contiguous()
    if flat.is_floating_point():
        flat = torch.where(flat.isnan(), torch.nan, flat)
    dtype, shape = str(value.dtype).removeprefix("torch."), list(value.shape)
    finite = flat[flat.isfinite()].double().tolist()
    mean = f", mean {math.fsum(finite) / len(finite):.9g}" if finite else ""  # fsum rounds once, however the numbers lie
    return f"{dtype}{shape} {_hash(flat.view(torch.uint8).numpy().tobytes())}{mean}"


def _of_column(series: pd.Series):
    """A column as an array of numbers, or as one text of all its values."""
    values = series.to_numpy()
    return values if values.dtype.kind in "biuf" else repr([_text(value) for value in values.tolist()])


def _is_plain(value) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))  # a site, too
    return isinstance(value, PLAIN)


def _text(value) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) in (tuple, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    return str(value)


def _key(key) -> str:
    return "-".join(map(str, key)) if type(key) is tuple else str(key)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}... {_hash(text.encode())}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
