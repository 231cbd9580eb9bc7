"""The texts of a run: named in its configuration, numbered once, and held to what they were when the run began.

A document is its number in the inputs and a hash: of its text, and of the tokens that each model makes of it. The folder keeps
a hash of every text, and, for each model, of the tokens of some and of all of a unit together, so that a process that goes on
reads the same documents, cut in the same way, or is told which changed. Files are read when their turn comes; lines of files
and rows of a data set are held in memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_entropy.capture.inputs import pieces, read_text
from tl_entropy.capture.named import Lines, check_files, data_set
from tl_entropy.errors import InputError, InputTypeError, check_int

SEEN = 10_000
"""Characters of a document that are cut into tokens to see whether a tokenizer is the one that it was."""
_SOURCES = ("text", "file", "dataset")
_OF = {"lines": "file", "config": "dataset", "split": "dataset", "column": "dataset", "limit": "dataset"}


def check_inputs(key: str, given: Any) -> None:
    """Raise InputError or InputTypeError unless this names texts that are there, as far as that shows without reading them.

    >>> check_inputs("inputs", {"text": ["a"], "file": "b"})
    Traceback (most recent call last):
    tl_entropy.errors.InputError: inputs must have exactly one of text, file and dataset; got text and file
    """
    if not isinstance(given, Mapping):
        raise InputTypeError(f"{key} must be a mapping with text, file or dataset, such as file: [texts]; got {given!r}")
    for name in given:
        if name not in (*_SOURCES, *_OF):
            raise InputError(f"{key}.{name} is no key of inputs; choose from {', '.join((*_SOURCES, *_OF))}")
    sources = [name for name in _SOURCES if name in given]
    if len(sources) != 1:
        raise InputError(f"{key} must have exactly one of text, file and dataset; got {' and '.join(sources) or 'none'}")
    for name, of in _OF.items():
        if name in given and of not in given:
            raise InputError(f"{key}.{name} means nothing without {key}.{of}; give that, too, or leave it out")
    for name in ("config", "split", "column", "dataset"):
        if name in given and not isinstance(given[name], str):
            raise InputTypeError(f"{key}.{name} must be a text; got {given[name]!r}")
    if "limit" in given:
        check_int(f"{key}.limit", given["limit"], 1)
    if not isinstance(given.get("lines", False), bool):
        raise InputTypeError(f"{key}.lines must be true or false; got {given['lines']!r}")
    listed = _listed(given.get("text", given.get("file", [])))
    if not all(isinstance(item, str) for item in listed) or ("dataset" not in given and not listed):
        raise InputTypeError(f"{key}.{sources[0]} must be a text or a list of texts; got {given[sources[0]]!r}")
    if "file" in given:
        check_files(f"{key}.file", map(Path, listed), skip=True)


def check_outside(given: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError where a run's folder lies in one of its inputs, and would be read with them."""
    for place in map(Path, _listed(given.get("file", []))):
        if place.is_dir() and folder.resolve().is_relative_to(place.resolve()):
            raise InputError(f"folder: {folder} lies in {place}, whose files are the inputs; give a folder somewhere else")


@dataclass(frozen=True)
class Documents:
    """The documents of a run.

    Attributes:
        inputs: what the analyses are given.
        count: how many documents there are.
        digest: a hash over all of them in their order.
        hashes: [document] of each, below 2**64.
        some: number to text or file, of the documents 0, 1, 2, 4, 8, ...
        files: number to file, with its size and time, of the documents that are read when their turn comes.
    """

    inputs: list[Any]
    count: int
    digest: str
    hashes: array[int]
    some: Mapping[int, str | Path]
    files: Mapping[int, tuple[Path, tuple[int, int] | None]]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Documents:
        """The documents that a checked configuration names.

        Raises:
            InputError: there are none, or a data set that cannot be opened.
        """
        inputs: list[Any]
        if "text" in given:
            inputs = _listed(given["text"])
        elif "file" in given:
            paths = list(map(Path, _listed(given["file"])))
            inputs = list(Lines(paths)) if given.get("lines") else list(paths)
        else:
            column = given.get("column", "text")
            rows = data_set(
                given["dataset"], given.get("config"), given.get("split", "train"), column, given.get("limit"), prefix="inputs."
            )
            inputs = [row[column] for row in rows]
        digest, hashes, some, files = hashlib.sha256(), array("Q"), {}, {}
        for number, piece in enumerate(pieces(inputs, text_column="text", special_ids=frozenset(), skip=True)):
            if isinstance(piece.value, Path):
                files[number] = piece.value, _stamp(piece.value)
            found = hashlib.sha256(_bytes(piece.value)).digest()
            digest.update(found)
            hashes.append(int.from_bytes(found[:8], "little"))
            if not number & (number - 1) and isinstance(piece.value, str | Path):
                some[number] = piece.value
        if not hashes:
            raise InputError("inputs hold no document; name some texts")
        return cls(inputs, len(hashes), digest.hexdigest(), hashes, some, files)

    def check_unchanged(self, documents: Iterable[range]) -> None:
        """Raise InputError where a file among these documents has another size or time than when it was hashed."""
        for part in documents:
            for number in range(part.start, min(part.stop, self.count)):
                path, stamp = self.files.get(number, (None, None))
                if path is not None and _stamp(path) != stamp:
                    raise InputError(
                        f"inputs: document {number}, {path}, changed while the run was reading; let it be as it was, or begin "
                        "with another folder when nobody writes to it"
                    )

    def tokens(self, encode: Callable[[str], list[int]]) -> dict[str, str]:
        """Number to a hash of the tokens that a model makes of the beginning of a document, of ``some``."""
        found = {}
        for number, value in self.some.items():
            with suppress(Exception):  # whatever a tokenizer raises: the run refuses it, or leaves it out, when its turn comes
                ids = encode((read_text(value) if isinstance(value, Path) else value)[:SEEN])
                found[str(number)] = hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
        return found


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with a file: size and time; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _bytes(value: Any) -> bytes:
    """What identifies a document: its bytes, or why it is none."""
    if isinstance(value, Path):
        try:
            return value.read_bytes()
        except OSError as error:
            return type(error).__name__.encode()
    return (value if isinstance(value, str) else f"{type(value).__name__}: {value}").encode("utf-8", "surrogatepass")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
