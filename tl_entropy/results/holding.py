"""What is written by one at a time: folders of several files, which two savers would mix.

Who writes holds a lock on a file beside what is written, ``.NAME.lock``, by the system (``flock``), so that the lock ends with
whoever holds it, however that ends. It is taken away again by whoever had it, and so are folders that were made for it and hold
nothing in the end. Who is refused writes into it which folders it had made, since they stay until the holder has ended.

Not held: where the system has no such locks (Windows, some file systems of networks); there two savers can mix their files,
which digests show when they are read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tl_entropy.errors import SaveError
from tl_entropy.results.files import check_folder

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks answer."""

MOST = 1000
"""How often a folder may vanish, by others who had made it, before it counts as one that cannot be made."""


def lock_of(target: Path) -> Path:
    """The file that is locked.

    >>> lock_of(Path("lens/config.json")).as_posix()
    'lens/.config.json.lock'
    """
    return target.with_name(f".{target.name}.lock")


@contextmanager
def held(argument: str, target: Path, *, wait: bool) -> Iterator[None]:
    """Let nobody else hold ``target``, in this process or another, while what is inside runs; its folder is made where needed.

    Args:
        argument: its name in errors.
        target: what is written, or what stands for all of it.
        wait: for whoever holds it, which is right where that is short; otherwise it is refused.

    Raises:
        SaveError: the folder cannot be written to; or ``target`` is held, and not waited for.
    """
    folder = Path(os.path.realpath(target.parent))
    check_folder(argument, folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = lock_of(folder / target.name)
    try:
        file = _locked(lock, missing, wait=wait)
    except BlockingIOError as error:
        _without_empty(missing)  # where the holder has ended meanwhile
        raise SaveError(
            f"{argument}: somebody else is writing {target} now, this process in another thread or another process; wait until "
            "that has ended, or give another place"
        ) from error
    except OSError as error:
        raise SaveError(f"{argument}: {folder} cannot be written to ({error})") from error
    try:
        yield
    finally:
        if file is not None:
            missing += _let_go(lock, file)
        _without_empty(missing)


def _without_empty(made: Iterable[Path]) -> None:
    """Take away the folders of those that were made which hold nothing."""
    for path in sorted(set(made), reverse=True):  # the innermost first
        with suppress(OSError):
            path.rmdir()


def _locked(lock: Path, made: Sequence[Path], *, wait: bool) -> int | None:
    """The locked file, open; None where there are no locks. BlockingIOError where somebody else has it."""
    try:
        import fcntl
    except ImportError:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return None
    vanished = 0
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except (FileNotFoundError, FileExistsError):  # somebody else made a folder of it, and took it away again
            vanished += 1
            if vanished == MOST:
                raise
            continue
        try:
            if made:
                os.write(file, b"".join(os.fsencode(path) + b"\0" for path in made))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is(lock, file):  # or whoever had it has taken it away, and another may be there
                return file
        except OSError as error:
            os.close(file)
            if error.errno in NO_LOCKS:
                lock.unlink(missing_ok=True)
                return None
            raise BlockingIOError(*error.args) from error  # over a network, one that is held may also be an EACCES
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _let_go(lock: Path, file: int) -> list[Path]:
    """The folders that others had made, who were refused."""
    import fcntl

    try:
        if _is(lock, file):
            lock.unlink()
        names = os.pread(file, os.fstat(file).st_size, 0).split(b"\0")[:-1]  # of those who come later, each finds it gone
        fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file, too
    except OSError:  # the folder was taken away: so was the lock
        return []
    finally:
        os.close(file)
    return [Path(os.fsdecode(name)) for name in names]


def _is(lock: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(lock), os.fstat(file))
    except FileNotFoundError:
        return False
