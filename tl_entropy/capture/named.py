"""Inputs by the names of files and data sets, as a command line or a configuration gives them.

They are looked at before a model is loaded: what is not there, is no text or has no such column is refused by its option.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tl_entropy.errors import InputError

_SAMPLE = 1 << 16  # bytes of a file that are looked at beforehand


def check_files(option: str, paths: Iterable[Path], *, skip: bool = False) -> None:
    """Refuse files that are not there, cannot be read, or do not begin as UTF-8; or folders of such, and without any.

    Where what cannot be used is to be left out (``skip``), a file has to be there, and that is all.
    """
    from tl_entropy.capture.inputs import pieces  # which needs torch, and a command that is only asked for help does not

    for path in paths:
        if not path.exists():
            raise InputError(f"{option}: there is nothing at {path}")
        for piece in pieces(path, text_column="text", special_ids=frozenset(), where=option):
            if skip or not isinstance(piece.value, Path):
                continue
            try:
                with piece.value.open("rb") as file:
                    codecs.getincrementaldecoder("utf-8")().decode(file.read(_SAMPLE))
            except OSError as error:
                raise InputError(f"{option}: {piece.value} cannot be read: {error}") from error
            except UnicodeDecodeError as error:
                raise InputError(f"{option}: {piece.value} is not a UTF-8 text file: {error}; convert it") from error


class Lines:
    """The lines of text files, each a document; empty ones are left out. They can be gone through again."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(paths)

    def __iter__(self) -> Iterator[str]:
        from tl_entropy.capture.inputs import pieces

        for piece in pieces(self.paths, text_column="text", special_ids=frozenset(), where="--file"):
            path = Path(str(piece.value))
            try:
                with path.open(encoding="utf-8", newline="\n") as file:
                    yield from (line for line in (each.rstrip("\r\n") for each in file) if line.strip())
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is not a UTF-8 text file: {error}; convert it or leave it out") from error


def data_set(name: str, config: str | None, split: str, column: str, limit: int | None, *, prefix: str = "--") -> Iterable[Any]:
    """The rows of a Hugging Face data set, streamed, which has the column; errors name options with this ``prefix``."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(f"{prefix}dataset needs the package datasets: pip install datasets") from error
    try:
        rows = load_dataset(name, config, split=split, streaming=True)
        columns = rows.column_names or list(next(iter(rows), {}))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{prefix}dataset {name} cannot be opened: {error}") from error
    if columns and column not in columns:
        raise InputError(f"{prefix}column: {name} has no column {column!r}; it has {', '.join(map(repr, columns))}")
    chosen: Iterable[Any] = rows if limit is None else rows.take(limit)
    return chosen
