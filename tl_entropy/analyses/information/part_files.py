"""The files of assignments that several processes write, each in a folder of its own below ``parts``, until they are one store.

A chunk is where some rows are that follow each other, and a check sum of its bytes in every file; what no chunk names does not
count.

Refused: parts that are damaged or not there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_entropy.analyses.information.store import (
    CHUNKS,
    INDEX,
    PARTS,
    ROWS,
    SLOTS,
    StoreReader,
    StoreWriter,
    line_of,
    saving,
)
from tl_entropy.errors import FileError
from tl_entropy.results.files import replacing


class PartWriter:
    """The files of one of several processes, in a folder of its own below ``parts``.

    Args:
        folder: that of all.
    """

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex
        self.folder = folder / PARTS / self.name
        self._rows = 0
        with saving(folder):
            self.folder.mkdir(parents=True)

    def append(self, arrays: Mapping[str, np.ndarray], edges: Sequence[int]) -> list[dict[str, Any]]:
        """Write rows, and say where each of the chunks is that begin and end at ``edges``."""
        with saving(self.folder):
            for name, array in arrays.items():
                with open(self.folder / name, "ab") as file:
                    file.truncate(self._rows * array[0].nbytes)  # of what could not be written as a whole
                    file.write(array.tobytes())
        chunks = [
            {
                "part": self.name, "at": self._rows + first, "rows": stop - first, "first": arrays[ROWS][first][:2].tolist(),
                "sums": [zlib.crc32(array[first:stop].tobytes()) for array in arrays.values()],
            }
            for first, stop in itertools.pairwise(edges)
        ]  # fmt: skip
        self._rows += edges[-1]
        return chunks

    def sync(self) -> None:
        """See to it that what was written is on the disk."""
        with saving(self.folder):
            for path in self.folder.iterdir():
                with open(path, "r+b") as file:
                    os.fsync(file.fileno())


class PartsReader(StoreReader):
    """Reads what processes have written into parts, as if they had been put together.

    Args:
        folder: that of all.
        chunks: as ``PartWriter.append`` gave them, in any order.
        sizes: name of each file to the bytes of a row.
        slots: the arrays named in ``SLOTS``.
        contents: as for ``StoreWriter.finish``.
    """

    def __init__(
        self, folder: Path, chunks: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], slots: Mapping[str, np.ndarray],
        contents: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.folder, self.sizes = folder, sizes
        self._chunks = sorted(chunks, key=lambda chunk: chunk["first"])
        self.slots = {name: np.ascontiguousarray(slots[name], dtype) for name, dtype in SLOTS.items()}
        self.fields = {**contents, "rows": sum(chunk["rows"] for chunk in chunks), "files": list(sizes)}

    def data(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes of each chunk of a file, in order, their check sums compared."""
        which = self.fields["files"].index(name)
        for chunk in self._chunks:
            path = self.folder / PARTS / chunk["part"] / name
            try:
                with open(path, "rb") as file:
                    file.seek(chunk["at"] * size)
                    data = file.read(chunk["rows"] * size)
            except OSError as error:
                raise FileError(
                    f"folder: {path} cannot be read ({error}); all processes have to see one folder, by one name"
                ) from error
            if zlib.crc32(data) != chunk["sums"][which] or len(data) != chunk["rows"] * size:
                raise FileError(f"folder: {path} is damaged at row {chunk['at']}; measure anew")
            yield data

    def put_together(self, *, ended: bool) -> None:
        """Make one whole folder of all parts, file by file, so that the disk has one file twice at most.

        Whoever does so again after a process was killed at it goes on with the files that are left.

        Raises:
            SaveError: the folder cannot be written to, or there is no room.
            FileError: parts are damaged, or not there.
        """
        folder = self.folder
        if (folder / INDEX).exists():
            return
        for name, size in self.sizes.items():
            if not (folder / name).exists():
                with replacing(folder / name, self.fields["rows"] * size) as waiting, open(waiting, "wb") as file:
                    for data in self.data(name, size):
                        file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            with saving(folder):
                for part in (folder / PARTS).glob("*"):
                    (part / name).unlink(missing_ok=True)
        log = b"".join(line_of({"rows": chunk["rows"], "sums": chunk["sums"]}) for chunk in self._chunks)
        with saving(folder):
            for name, array in self.slots.items():
                (folder / name).write_bytes(array.tobytes())
            (folder / CHUNKS).write_bytes(log)
        ends = {CHUNKS: len(log), **{name: self.fields["rows"] * size for name, size in self.sizes.items()}}
        contents = {name: value for name, value in self.fields.items() if name not in ("rows", "files")}
        StoreWriter(folder, self.slots, {"sizes": ends, "rows": self.fields["rows"]}).finish(contents, ended=ended)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
