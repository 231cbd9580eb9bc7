"""When the parts of a corpus can be merged: where they were measured alike, and in the same models; and how.

Refused: parts of which a setting differs, or a model's weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tl_entropy.accumulators import ByNumber
from tl_entropy.errors import InputError


def check_alike(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise InputError unless two accumulators have the same settings, by name; a model's is its fingerprint.

    >>> check_alike({"seed": 0}, {"seed": 1})
    Traceback (most recent call last):
    tl_entropy.errors.InputError: cannot merge: seed is 0 here and 1 there
    """
    for name, value in mine.items():
        if value != theirs[name]:
            raise InputError(f"cannot merge: {name} is {value!r} here and {theirs[name]!r} there")


def check_same(mine: object, theirs: object, names: Iterable[str]) -> None:
    """Raise InputError unless the attributes of these names are equal in both accumulators."""
    wanted = tuple(names)
    check_alike({name: getattr(mine, name) for name in wanted}, {name: getattr(theirs, name) for name in wanted})


def merged(mine: Any, theirs: Any, *, placed: bool = False) -> Any:
    """What two have seen, as one: by the ``merge`` of the first, item by item in a mapping or list, and else their sum.

    Args:
        mine: what is changed.
        theirs: what is added.
        placed: whether both use the numbers that documents have in one corpus; else the second's are numbered on.

    >>> merged({"tokens": 3, "sums": [1.0, 2.0], "lens": None}, {"tokens": 4, "sums": [0.5, 0.5], "lens": None})
    {'tokens': 7, 'sums': [1.5, 2.5], 'lens': None}
    """
    if mine is None:
        return None
    if isinstance(mine, Mapping):
        return {name: merged(part, theirs[name], placed=placed) for name, part in mine.items()}
    if isinstance(mine, list):
        return [merged(*pair, placed=placed) for pair in zip(mine, theirs, strict=True)]
    if not hasattr(mine, "merge"):
        return mine + theirs
    if isinstance(mine, ByNumber):
        mine.merge(theirs, placed=placed)  # type: ignore[attr-defined]
    else:
        mine.merge(theirs)
    return mine
