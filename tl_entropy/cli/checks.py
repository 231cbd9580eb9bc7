"""What can be found wrong on the command line before a model is loaded: texts of options, files and data sets.

Each function takes an option's text and gives what it means, or refuses it by the option's name.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tl_entropy.errors import InputError, check_choice, check_int, check_orders
from tl_entropy.sites import Site, read_places

_SAMPLE = 1 << 16  # bytes of a file that are looked at beforehand


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


def orders_in(text: str) -> tuple[float, ...]:
    """Rényi orders separated by commas.

    >>> orders_in("0.5,1,inf")
    (0.5, 1.0, inf)
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--orders must be numbers separated by commas, such as 0.5,1,2; got {text!r}") from error
    return check_orders("--orders", found, different=True)


def whole_numbers(option: str, text: str, low: int) -> tuple[int, ...]:
    """Different whole numbers of at least ``low``, separated by commas."""
    try:
        found = tuple(check_int(option, int(part), low) for part in text.split(","))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{option} must be whole numbers separated by commas, such as 0,1,2; got {text!r}") from error
    if len(set(found)) < len(found):
        raise InputError(f"{option} must be one or more different whole numbers; got {text!r}")
    return found


def layers_in(text: str | None) -> Any:
    """Layers: numbers separated by commas, negative ones from the last, or one slice.

    >>> layers_in("0,5,-1"), layers_in("::2")
    ([0, 5, -1], slice(None, None, 2))
    """
    if text is None:
        return None
    if re.fullmatch(r"\s*(-?\d+)?:(-?\d+)?(:([1-9]\d*)?)?\s*", text):
        return slice(*(int(part) if part.strip() else None for part in text.split(":")))
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--layers must be numbers, such as 0,5,-1, or a slice, such as 3:8 or ::2; got {text!r}") from error


def sites_in(text: str, *, refused: Iterable[str] = ()) -> list[str | Site]:
    """Places separated by commas, none of them at a site ``refused``."""
    found = read_places(names(text), "--sites")
    for place in found:
        name = place if isinstance(place, str) else place.name
        if name in refused:
            raise InputError(f"--sites: {name} holds no states of the residual stream; leave it out")
    return found


def choices_in(option: str, text: str, choices: Iterable[str]) -> list[str]:
    """Different names among ``choices``, separated by commas."""
    found, there = names(text), list(choices)
    for name in found:
        check_choice(option, name, there)
    if len(set(found)) < len(found):
        raise InputError(f"{option} names one twice: {text!r}")
    return found


def check_summary(summary: bool, **others: Any) -> None:
    """Refuse what belongs to single positions where only sums are kept."""
    wrong = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    if summary and wrong:
        raise InputError(f"{' and '.join(wrong)}: a summary keeps no single positions; leave it or --summary out")


def check_files(option: str, paths: Iterable[Path], *, skip: bool = False) -> None:
    """Refuse files that are not there, cannot be read, or do not begin as UTF-8; or folders of such, and without any.

    Where what cannot be used is to be left out (``skip``), a file has to be there, and that is all.
    """
    from tl_entropy.capture.inputs import pieces

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


def data_set(name: str, config: str | None, split: str, column: str, limit: int | None) -> Iterable[Any]:
    """The rows of a Hugging Face data set, streamed, which has the column."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError("--dataset needs the package datasets: pip install datasets") from error
    try:
        rows = load_dataset(name, config, split=split, streaming=True)
        columns = rows.column_names or list(next(iter(rows), {}))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--dataset {name} cannot be opened: {error}") from error
    if columns and column not in columns:
        raise InputError(f"--column: {name} has no column {column!r}; it has {', '.join(map(repr, columns))}")
    chosen: Iterable[Any] = rows if limit is None else rows.take(limit)
    return chosen
