"""Who is at work in a run's folder, and what each has claimed; told by files alone.

A worker is a number that a process holds while it runs: ``workers/N.json`` names it, and is touched every half minute. What
is claimed is a file that names its worker. A number or claim is free when its process has ended, as far as this machine can
tell, when it is at work in a folder of which this one is a copy, or when nothing was heard of it for ten minutes: by the time
of its last sign, or, since the clock that gives it may be ahead, by its staying the same so long under this process's eyes. So
a process that is killed on another machine is waited for that long, and one on this machine not at all.

A process that slept through its ten minutes may find that another took its number: it then lets go of what it holds in
memory, and begins with a new number. That two hold the same documents for a while costs time, never a wrong number: what is
held is written in each state.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from tl_entropy.runs.folder import create, read_json, write_json

BEAT = 30.0
"""Seconds from one sign of life to the next."""
SILENT = 600.0
"""Seconds without one after which a worker's number and claims are free."""


class Worker:
    """A process at work in a folder.

    Args:
        folder: where the workers are told (``RunFolder.workers``).

    Attributes:
        number: the lowest that was free.
        owner: which process it is, of all that ever held the number.
    """

    number: int

    def __init__(self, folder: Path) -> None:
        self.folder, self.owner = folder, uuid.uuid4().hex
        self._ended = threading.Event()
        self._claimed: set[Path] = set()
        self._seen: dict[int, tuple[float, float]] = {}  # the last sign in files of others, and when this process first saw it
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.take_number()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.holds_number():
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
                self.status.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        """The file that names this worker."""
        return self.folder / f"{self.number}.json"

    @property
    def status(self) -> Path:
        """The file that says how far it is."""
        return self.folder / f"{self.number}.status.json"

    def take_number(self) -> None:
        """Take the lowest number that is free."""
        number = 0
        told = {"owner": self.owner, **this_process(), "place": _place(self.folder)}
        while not claim(self.folder / f"{number}.json", told, self._is_free):
            number += 1
        self.number = number

    def holds_number(self) -> bool:
        """Whether nobody took the number in the meantime."""
        return (read_json(self.path) or {}).get("owner") == self.owner

    def claim(self, path: Path) -> bool:
        """Claim what a file stands for; False where another holds it who is at work."""
        found = claim(path, {"worker": self.number, "owner": self.owner}, self.is_free)
        self._claimed |= {path} if found else set()
        return found

    def release(self, folder: Path) -> None:
        """Give back what this worker has claimed below a folder."""
        for path in [path for path in self._claimed if folder in path.parents]:
            self._claimed.discard(path)
            if (read_json(path) or {}).get("owner") == self.owner:
                path.unlink(missing_ok=True)

    def is_free(self, path: Path) -> bool:
        """Whether a claim is this worker's own, or of one who is no longer at work."""
        found = read_json(path)
        if found is None:  # just being written, or cut off while it was
            return not path.exists() or self._is_silent(path)
        if found.get("owner") == self.owner:
            return True
        holder = self.folder / f"{found.get('worker')}.json"
        return (read_json(holder) or {}).get("owner") != found.get("owner") or self._is_free(holder)

    def now(self) -> float:
        """The time as the folder's file system tells it, which may be another machine's."""
        probe = self.path if hasattr(self, "number") else self.folder
        try:
            os.utime(probe)
            return probe.stat().st_mtime
        except OSError:
            return time.time()

    def tell(self, content: Mapping[str, Any]) -> None:
        """Say how far this worker is."""
        if self.holds_number():
            write_json(self.status, {"worker": self.number, **content})

    def _is_free(self, path: Path) -> bool:
        found = read_json(path)
        if found is None:
            return not path.exists() or self._is_silent(path)
        return not alive(found, path, self.now()) or (is_elsewhere(found) and self._is_silent(path))

    def _is_silent(self, path: Path) -> bool:
        """Whether a file was touched last ten minutes ago, as it says, or as this process saw it."""
        try:
            found = path.stat()
        except OSError:
            return False
        now = time.monotonic()
        if self._seen.get(found.st_ino, (None,))[0] != found.st_mtime:  # the number stays where the file is moved
            self._seen[found.st_ino] = found.st_mtime, now
        return max(self.now() - found.st_mtime, now - self._seen[found.st_ino][1]) > SILENT

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):
                if self.holds_number():
                    os.utime(self.path)


def alive(told: Mapping[str, Any], path: Path, now: float) -> bool:
    """Whether the process that a file names is at work, as far as can be told.

    Args:
        told: what the file holds.
        path: the file.
        now: the time on its file system.
    """
    if not is_elsewhere(told):
        is_here = told.get("place") == _place(path.parent)  # and not at work in a folder of which this is a copy
        return is_here and told.get("born") == _born(int(told.get("process", 0)))
    return _age(path, now) <= SILENT


def is_elsewhere(told: Mapping[str, Any]) -> bool:
    """Whether the process that a file names is on another machine, where nothing but its signs tells of it."""
    return told.get("machine") != _machine()


def claim(path: Path, content: Mapping[str, Any], is_free: Any) -> bool:
    """Write a claim that nobody holds; False where somebody does."""
    if create(path, content):
        return True
    if not is_free(path):
        return False
    before = path.with_name(f".{path.name}.{content['owner']}")
    try:
        path.replace(before)  # one alone succeeds
    except FileNotFoundError:
        return create(path, content)
    if not is_free(before):  # another took the free one between the look and the move: it gets it back
        with suppress(OSError):
            os.link(before, path)
        before.unlink(missing_ok=True)
        return False
    before.unlink(missing_ok=True)
    return create(path, content)


@cache
def _machine() -> str:
    """A machine since it was started, and what sees the same processes on it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def this_process() -> dict[str, Any]:
    """What tells this process from all others."""
    return {"machine": _machine(), "host": socket.gethostname(), "process": os.getpid(), "born": _born(os.getpid())}


def _place(folder: Path) -> list[int] | None:
    """What tells a folder from its copies on one machine; None where nothing does."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return [found.st_dev, found.st_ino]


def _born(process: int) -> str | None:
    """When a process of this machine began, as far as it says; None where there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() or not _runs(process) else ""
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]  # a zombie has ended


def _runs(process: int) -> bool:
    """Whether there is a process of this number, where no file system tells; asking is not for Windows, where signals kill."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:
        return 0.0


def memory() -> int:
    """The most memory that this process has had, in bytes; 0 where nobody says."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
