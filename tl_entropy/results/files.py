"""What a result's file holds: plain values as JSON, a digest over all of it, and how one file takes another's place.

A file is written under a name of its own and then renamed, so that whatever ends a save leaves the old file whole. A save that
was killed leaves such a waiting file, which the next one takes away.

Refused: folders and links that cannot be written to; a disk without the room.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from tl_entropy.errors import FileError, InputError, InputTypeError, SaveError, printable
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
LAYOUT = 2
"""Of a file: from 2 on, it has a digest over its header and its tensors."""

WRITERS: list[Callable[[Path], AbstractContextManager[bool]]] = []
"""Where several processes have the same results: says whether this one writes a file, and is told when it has."""

_count = itertools.count()
_waiting: set[str] = set()  # names of this process's own files that wait to be renamed


def digest(header: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over a header and the names, dtypes, shapes and bytes of tensors (on the CPU, contiguous).

    >>> digest("", {"a": torch.zeros(2)})[:8], digest("", {"a": torch.zeros(2, 1)})[:8]
    ('4b92d6e3', '95802ab4')
    """
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = torch.as_strided(tensor, (tensor.numel(),), (1,))  # of a single number any stride counts as contiguous
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def written_once(target: Path) -> AbstractContextManager[bool]:
    """Whether this process is to write a result, of all that have the same one; asked for around the writing."""
    return WRITERS[0](target) if WRITERS else nullcontext(True)


@contextmanager
def replacing(target: Path, size: int = 0) -> Iterator[Path]:
    """A name beside ``target`` to write to, which takes its place afterwards; what fails leaves the old file whole.

    Folders on the way are made, and a link leads to the file that is replaced.

    Args:
        target: the file.
        size: bytes that will be written, as far as known, for the message.

    Raises:
        SaveError: the folder cannot be written to, or there is no room.
    """
    target = Path(os.path.realpath(target))
    with waiting_for(target) as waiting:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not target.is_file():
                raise OSError("it is a folder" if target.is_dir() else "it is a device or a pipe")
            for path in abandoned(target):
                path.unlink(missing_ok=True)
            yield waiting
            waiting.replace(target)
        except (OSError, SafetensorError) as error:
            raise SaveError(f"path: {target} cannot be written ({error}){_room(target, size)}") from error
        finally:
            with suppress(OSError):
                waiting.unlink(missing_ok=True)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, opened to read; also by a name that is no UTF-8, which safetensors does not take."""
    with ExitStack() as ended:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            link = Path(ended.enter_context(TemporaryDirectory())) / "file"
            link.symlink_to(path.resolve())
            path = link
        yield ended.enter_context(safe_open(path, "pt"))


def tensors_in(file: Any) -> dict[str, torch.Tensor]:
    """All tensors of an opened file, by name."""
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def parsed(text: str | bytes) -> Any:
    """What JSON says; ValueError for what is none, and for what is nested too deeply to be read.

    >>> parsed("[" * 100_000)
    Traceback (most recent call last):
    ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_text(path: Path, text: str) -> Path:
    """Write a text as UTF-8, whole or not at all; lone surrogates are spelled out. SaveError where it cannot be."""
    data = text.encode(errors="backslashreplace")
    with replacing(path, len(data)) as waiting:
        waiting.write_bytes(data)
    return path


def write_torch(path: Path, values: Any, size: int) -> Path:
    """Write what ``torch.save`` writes, whole or not at all; SaveError where it cannot be."""
    with replacing(path, size) as waiting, open(waiting, "wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # of its own writer, where there is no room
            raise OSError(str(error).splitlines()[0]) from error
    return path


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as CSV, whole or not at all, without its index; SaveError where it cannot be."""
    return write_text(path, table.to_csv(index=False))


@contextmanager
def waiting_for(target: Path) -> Iterator[Path]:
    """A name beside ``target`` for what is to take its place, which no other save has or takes away meanwhile."""
    waiting = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.{next(_count)}.tmp")
    _waiting.add(waiting.name)
    try:
        yield waiting
    finally:
        _waiting.discard(waiting.name)


def abandoned(target: Path) -> list[Path]:
    """What saves of ``target`` left waiting that were killed on this machine."""
    start, found = f".{target.name}.{socket.gethostname()}.", []
    for path in target.parent.iterdir():
        number = path.name.removeprefix(start).split(".")[0]
        if not (path.name.startswith(start) and path.name.endswith(".tmp") and number.isdigit()):
            continue
        if not _runs(int(number)) or (int(number) == os.getpid() and path.name not in _waiting):
            found.append(path)
    return found


def _runs(process: int) -> bool:
    if os.name != "posix":  # elsewhere, asking with signal 0 would be more than a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _room(target: Path, size: int) -> str:
    needed = f"; it takes {size} bytes" if size else ""
    try:
        return f"{needed}; its disk has {shutil.disk_usage(target.parent).free} bytes left"
    except OSError:
        return needed


def as_path(argument: str, given: object) -> Path:
    """A path as a ``Path``, ``~`` being the user's folder.

    Raises:
        InputTypeError: no path.
        InputError: one that no file can have, or an empty text.

    >>> as_path("path", None)
    Traceback (most recent call last):
    tl_entropy.errors.InputTypeError: path must be a path (str or pathlib.Path); got NoneType
    """
    name = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(name, str):
        raise InputTypeError(f"{argument} must be a path (str or pathlib.Path); got {type(given).__name__}")
    try:
        possible = name and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise InputError(
            f"{argument} must be the path of a file or folder, which {name!r} cannot be; '.' is the folder at hand"
        )
    return Path(os.path.expanduser(name))


def to_read(argument: str, given: object) -> Path:
    """The path of what is read, which need not be there; FileError where the system refuses to say.

    >>> to_read("path", "x" * 300)
    Traceback (most recent call last):
    tl_entropy.errors.FileError: path: ... cannot be read ([Errno ...] File name too long: ...)
    """
    path = as_path(argument, given)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise FileError(f"{argument}: {path} cannot be read ({error})") from error
    return path


def check_folder(argument: str, folder: Path) -> None:
    """Raise SaveError unless files can be written into ``folder``, which need not be there yet."""
    there = folder
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
    except OSError as error:
        raise SaveError(f"{argument}: {folder} cannot be written to ({error})") from error
    if not there.is_dir() and there.exists():  # a folder that others take away meanwhile is made again
        raise SaveError(f"{argument}: {there} is a file, so there is no folder {folder}; give another")
    if not os.access(there, os.W_OK | os.X_OK) and there.exists():
        raise SaveError(f"{argument}: {there} is read-only; give a folder that can be written to")


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
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, int):
        return value
    raise TypeError(f"a result cannot store {type(value).__name__}")


def unplain(value: Any) -> Any:
    """The inverse of ``plain``; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(unplain(item) for item in value)
    if isinstance(value, str):
        return printable(value)
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
