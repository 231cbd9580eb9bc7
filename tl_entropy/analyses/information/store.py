"""A folder of soft assignments of every position: files that only grow, and a log of what of them counts.

    assignments.json    what is held, of which model, with which settings; written last, so that no folder without it is whole
    rows                [row, 3] int32: document, position and token of each row, in the order in which they are read
    chunks              a line for each batch: rows, and a check sum (CRC-32) of its bytes in every other file
    SITE.BINS-SEED      [row, head, bin] uint16: soft assignments as ``functional/information/coding.py`` has them
    starts, tokens, usable    the slots of the label plan: int64, int32, uint8
    parts/NAME/     the same files of one of several processes, which only grow, until all are put together
    begun.json      of a pass that has not come to its end: what was asked, and, noted now and then between two documents, how
                    long each file was, with what else was seen until then

All numbers are little-endian and without a header, so that ``numpy.memmap`` reads them. A chunk counts once its line is
written; whatever was behind is written over. Killed at any moment, the folder lacks its index and is read as unfinished; the
next pass that asks for the same goes on from what was noted last, and any other is written anew. Check sums are compared as
chunks are read.

Refused: folders that hold anything else, or a whole store already, or that another pass is writing to; damaged, shorter or
longer files, unknown schemas.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tl_entropy.analyses.sharing import sharing_here
from tl_entropy.errors import FileError, InputError, SaveError
from tl_entropy.results.files import as_path, check_folder, parsed, plain, unplain, write_text
from tl_entropy.results.holding import held, lock_of

INDEX, CHUNKS, ROWS, BEGUN, PARTS = "assignments.json", "chunks", "rows", "begun.json", "parts"
LOCK = lock_of(Path(INDEX)).name
SLOTS = {"starts": "<i8", "tokens": "<i4", "usable": "u1"}
KIND, SCHEMA = "Assignments", 1
CODES, NUMBERS = np.dtype("<u2"), np.dtype("<i4")
_AT_ONCE = 2**20  # numbers that are read at once, in whole chunks


class StoreWriter:
    """Writes a folder, chunk by chunk.

    Args:
        folder: a new one, an empty one, or one that a pass left unfinished.
        slots: the arrays named in ``SLOTS``.
        begun: what ``begun`` has found, to go on from there.

    Raises:
        InputError: the folder holds assignments, or something else.
        SaveError: it cannot be written to.
    """

    def __init__(self, folder: Path, slots: Mapping[str, np.ndarray], begun: Mapping[str, Any] | None = None) -> None:
        self.folder, self._sizes = folder, {CHUNKS: 0}
        self._slots = {name: np.ascontiguousarray(slots[name], dtype) for name, dtype in SLOTS.items()}
        self._rows = 0
        self._log = sha256()
        if begun is not None:
            self._sizes, self._rows = dict(begun["sizes"]), begun["rows"]
            self._log.update((folder / CHUNKS).read_bytes()[: self._sizes[CHUNKS]])
            with saving(folder):
                (folder / INDEX).unlink(missing_ok=True)  # of a pass that was ended
            return
        clear(folder)
        with saving(folder):
            for name, array in self._slots.items():
                (folder / name).write_bytes(array.tobytes())
            (folder / CHUNKS).write_bytes(b"")

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """A chunk: the rows of every file."""
        rows, sums, ends = len(arrays[ROWS]), {}, dict(self._sizes)
        for name, array in arrays.items():
            data = np.ascontiguousarray(array, NUMBERS if name == ROWS else CODES).tobytes()
            sums[name] = zlib.crc32(data)
            ends[name] = self._put(name, data)
        line = line_of({"rows": rows, "sums": list(sums.values())})
        ends[CHUNKS] = self._put(CHUNKS, line)
        self._log.update(line)
        self._rows, self._sizes = self._rows + rows, ends

    def note(self, asked: str, contents: Mapping[str, Any]) -> None:
        """Note how far this is, for a later pass to go on from here."""
        with saving(self.folder):
            for name in self._sizes:
                with open(self.folder / name, "r+b") as file:
                    os.fsync(file.fileno())
        state = {"asked": asked, "sizes": self._sizes, "rows": self._rows, "log": self._log.hexdigest(), "contents": contents}
        write_text(self.folder / BEGUN, json.dumps(state))

    def finish(self, contents: Mapping[str, Any], *, ended: bool = False) -> None:
        """Make a whole folder of it; more chunks may follow, and another ``finish``.

        Args:
            contents: what is held beside the numbers.
            ended: whether the pass was ended before its end, so that another one may go on.
        """
        with saving(self.folder):
            for name, size in self._sizes.items():
                with open(self.folder / name, "r+b") as file:
                    file.truncate(size)
                    os.fsync(file.fileno())
        digests = {name: sha256(array.tobytes()).hexdigest() for name, array in self._slots.items()}
        files = [name for name in self._sizes if name != CHUNKS]
        fields = {**contents, "rows": self._rows, "files": files, "digests": {**digests, CHUNKS: self._log.hexdigest()}}
        text = json.dumps({"kind": KIND, "schema": SCHEMA, "fields": plain(fields)})
        write_text(self.folder / INDEX, json.dumps({"digest": sha256(text.encode()).hexdigest(), "contents": text}))
        if not ended:
            (self.folder / BEGUN).unlink(missing_ok=True)

    def _put(self, name: str, data: bytes) -> int:
        """Write behind what counts; the new size."""
        start = self._sizes.get(name, 0)
        with saving(self.folder), open(self.folder / name, "r+b" if (self.folder / name).exists() else "w+b") as file:
            file.seek(start)
            file.write(data)
        return start + len(data)


class StoreReader:
    """Reads a folder.

    Attributes:
        fields: what ``finish`` was given, and "rows".
        slots: the arrays named in ``SLOTS``.

    Raises:
        FileError: there is no such folder, it is unfinished, damaged, of another kind or of a later schema.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / INDEX).is_file():
            what = "was not written to its end; write it anew" if (folder / CHUNKS).exists() else "holds no assignments"
            raise FileError(f"folder: {folder} {what}: soft_information(..., keep='assignments', folder=...)")
        try:
            outer = parsed((folder / INDEX).read_text(encoding="utf-8"))
            text = outer["contents"]
            if sha256(text.encode()).hexdigest() != outer["digest"]:
                raise ValueError("its index is not what was written")
            index = parsed(text)
            if index["kind"] == KIND and index["schema"] > SCHEMA:
                raise FileError(
                    f"folder: {folder} has schema {index['schema']}, this tl_entropy reads up to {SCHEMA}; upgrade it"
                )
            if (index["kind"], index["schema"]) != (KIND, SCHEMA):
                raise ValueError(f"it holds {index['kind']!r} of schema {index['schema']!r}")
            self.fields: dict[str, Any] = unplain(index["fields"])
            read = {name: (folder / name).read_bytes() for name in (*SLOTS, CHUNKS)}
            for name, data in read.items():
                if sha256(data).hexdigest() != self.fields["digests"][name]:
                    raise ValueError(f"{name} is not what was written")
            self.slots = {name: np.frombuffer(read[name], dtype).copy() for name, dtype in SLOTS.items()}
            log = read[CHUNKS]
            self._chunks = [parsed(line) for line in log.splitlines()]
            if sum(chunk["rows"] for chunk in self._chunks) != self.fields["rows"]:
                raise ValueError("its chunks are not all of its rows")
        except FileError:
            raise
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise FileError(f"folder: {folder} cannot be read as assignments ({type(error).__name__}: {error})") from error

    def chunks(self, name: str, dtype: np.dtype, shape: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """First row and [row, *shape] of some chunks of a file at a time, in order, their check sums compared."""
        wide = int(np.prod(shape, dtype=np.int64))
        size, start = wide * dtype.itemsize, 0
        waiting: list[bytes] = []
        for data in self.data(name, size):
            waiting.append(data)
            rows = sum(map(len, waiting)) // size
            if rows * wide >= _AT_ONCE:
                yield start, np.frombuffer(b"".join(waiting), dtype).reshape(rows, *shape)
                start, waiting = start + rows, []
        if waiting:
            yield start, np.frombuffer(b"".join(waiting), dtype).reshape(-1, *shape)

    def data(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes of each chunk of a file whose rows take so many, in order, their check sums compared."""
        which, path = self.fields["files"].index(name), self.folder / name
        try:
            with open(path, "rb") as file:
                for number, chunk in enumerate(self._chunks):
                    data = file.read(chunk["rows"] * size)
                    if zlib.crc32(data) != chunk["sums"][which] or len(data) != chunk["rows"] * size:
                        raise FileError(f"folder: {path} is damaged in chunk {number}; write it anew, or copy it again")
                    yield data
                if file.read(1):
                    raise FileError(f"folder: {path} is longer than what was written; write it anew, or copy it again")
        except OSError as error:
            raise FileError(f"folder: {path} cannot be read ({error})") from error


def begun(folder: Path, asked: str) -> dict[str, Any] | None:
    """What a pass that asked for the same has noted in a folder; None where none did, or what it wrote is not there."""
    try:
        found: dict[str, Any] = parsed((folder / BEGUN).read_text(encoding="utf-8"))
        if found["asked"] != asked or any((folder / name).stat().st_size < size for name, size in found["sizes"].items()):
            return None
        whole = sha256((folder / CHUNKS).read_bytes()[: found["sizes"][CHUNKS]]).hexdigest() == found["log"]
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return found if whole else None


def writing(keep: str, folder: object) -> AbstractContextManager[None]:
    """Hold the folder while assignments are written to it, where they are; it is looked at now, before anything is read.

    Raises:
        InputError, SaveError: as ``check_empty``; SaveError, too, where another pass writes to it.
    """
    if keep == "sums" or folder is None or sharing_here() is not None:
        return nullcontext()
    place = as_path("folder", folder)
    check_empty(place, may_go_on=True)
    return held("folder", place / INDEX, wait=False)


def check_empty(folder: Path, *, may_go_on: bool = False) -> None:
    """Raise unless assignments can be written into ``folder``, which need not be there yet.

    Args:
        folder: where to.
        may_go_on: whether those of a pass that was ended may be there.

    Raises:
        InputError: it holds assignments, or something else.
        SaveError: it is a file, or cannot be written to.
    """
    check_folder("folder", folder)
    found = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
    if INDEX in found and not (may_go_on and BEGUN in found):
        raise InputError(f"folder: {folder} holds assignments already: load_assignments(folder) reads them; or give another")
    if found and not found & {CHUNKS, PARTS} and not found <= set(SLOTS):
        raise InputError(f"folder: {folder} holds other files, such as {min(found)}; give a folder of its own")


def clear(folder: Path) -> None:
    """Make a folder, and remove from it what a pass that was killed has left.

    Raises:
        InputError, SaveError: as ``check_empty``.
    """
    check_empty(folder)
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def line_of(entry: Mapping[str, Any]) -> bytes:
    """A line of the log."""
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


class saving:
    """Errors of the system as what they mean here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, SaveError):
            raise SaveError(f"folder: {self.folder} cannot be written ({error}); what was written until then counts") from error
