"""The state of a worker as a file (``accumulator.save``): what it has gathered in a pass, and which documents that is.

Every analysis of a run gathers in one accumulator a pass. Which documents a state holds is read from the file's header alone.

Refused: a file that is not there, damaged, or of a later version.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tl_entropy.analyses.models.accumulators import load_accumulator
from tl_entropy.analyses.saving import read
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.capture.parts import Intervals
from tl_entropy.errors import FileError
from tl_entropy.results.files import opened

PATTERN = "state-*.safetensors"


def name_of(worker: int) -> str:
    """The name of a worker's file."""
    return f"state-{worker}.safetensors"


def number_of(path: Path) -> int:
    """Whose file it is."""
    return int(path.stem.removeprefix("state-"))


def save(path: Path, accumulators: Sequence[StreamingMeasure[Any]]) -> None:
    """Write what was gathered.

    Raises:
        SaveError: the disk has no room, or the folder cannot be written to; a file that was there stays as it was.
    """
    [one] = accumulators
    one.save(path)


def held(path: Path) -> Intervals:
    """The documents that a state holds; its tensors are not read.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with opened(path) as file:
            documents = json.loads((file.metadata() or {})["tl_entropy_state"])["documents"]
        return tuple((int(first), int(stop)) for first, stop in documents or ())
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise FileError(f"path: {path} cannot be read as a state ({type(error).__name__}: {error})") from error


def load(path: Path, accumulators: Sequence[StreamingMeasure[Any]]) -> None:
    """Go on from a state, in place of what accumulators of the same settings and model hold.

    Raises:
        FileError: it cannot be read.
        InputError: it is of other settings, or of another model.
    """
    content = read(path)
    [one] = accumulators
    one.load_state_dict({name: content[name] for name in one.state_dict()})


def add(path: Path, accumulators: Sequence[StreamingMeasure[Any]]) -> None:
    """Add a state to accumulators of the same settings and model.

    Raises:
        FileError, InputError: as ``load``.
    """
    [one] = accumulators
    if one.report is None:
        load(path, accumulators)
    else:
        one.merge(load_accumulator(path))


def computed(paths: Sequence[Path]) -> Any:
    """The result of what several states hold together, without their model.

    Raises:
        FileError, InputError: one cannot be read, or they hold too little for a result.
    """
    first, *others = map(load_accumulator, paths)
    for other in others:
        first.merge(other)
    return first.compute(corpus=first.report.counts())
