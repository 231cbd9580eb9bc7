"""What labels and documents that nobody knows beforehand are called: whole numbers, strings and tuples.

Refused: anything else, since it may be equal to itself in one batch and not in the next; none or too many for the rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError


def in_order(keys: Mapping[Hashable, Any]) -> list[Any]:
    """Keys in an order that does not depend on that in which they came: their own where they have one."""
    try:
        return sorted(keys)
    except TypeError:
        return sorted(keys, key=lambda key: (type(key).__name__, repr(key)))


def keys_of(argument: str, values: Any, rows: int, chosen: Sequence[int]) -> list[Any]:
    """What each chosen row is called, None for nothing: whole numbers as int, strings, tuples."""
    if isinstance(values, Tensor | np.ndarray | pd.MultiIndex):
        values = values.tolist()
    elif isinstance(values, pd.Series | pd.Index | ExtensionArray):
        values = [None if missing else value for value, missing in zip(values.tolist(), values.isna(), strict=True)]
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != rows:
        got = (
            f"{len(values)} of them" if isinstance(values, Sequence) and not isinstance(values, str) else type(values).__name__
        )
        raise InputError(f"{argument} must be a sequence with one entry for each of the {rows} rows of z; got {got}")
    return [_key(argument, values[i]) for i in chosen]


def _key(argument: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list):
        value = tuple(value)
    if value is None or isinstance(value, str) or (isinstance(value, tuple) and _hashable(value)):
        return value
    if isinstance(value, int):
        return int(value) if value >= 0 else None
    raise InputTypeError(f"{argument} must be whole numbers, strings or tuples, None for nothing; got {value!r}")


def _hashable(value: tuple[Any, ...]) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
