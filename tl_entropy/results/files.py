"""What a result's file holds: the version of its layout, plain values as JSON, and how one file takes another's place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

SCHEMA = 1


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


def plain(value: Any) -> Any:
    """A value as JSON. Floats travel as text, since JSON has no infinity; sites and provenance carry their kind."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Site):
        return {"$site": str(value)}
    if isinstance(value, Provenance):
        return {"$provenance": plain(dataclasses.asdict(value))}
    if isinstance(value, float):
        return {"$float": repr(value)}
    if isinstance(value, Mapping):
        return {"$map": [[plain(k), plain(v)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"a result cannot store {type(value).__name__}")


def unplain(value: Any) -> Any:
    """The inverse of ``plain``; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(unplain(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "$site" in value:
        return Site.parse(value["$site"])
    if "$float" in value:
        return float(value["$float"])
    if "$map" in value:
        return {unplain(k): unplain(v) for k, v in value["$map"]}
    if "$provenance" in value:
        return Provenance(**unplain(value["$provenance"]))
    return {k: unplain(v) for k, v in value.items()}
