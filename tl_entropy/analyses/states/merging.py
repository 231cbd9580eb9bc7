"""When the parts of a corpus can be merged: where they were measured alike, and in the same models.

Refused: parts of which a setting differs, or a model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
