"""How a process of a run is asked to end: SIGTERM, as batch systems send it, and Ctrl-C.

A pass goes on to the end of the document that is being read, is saved, and ends; what is no pass ends at once, as nothing of
it is lost. Whoever asks twice is not made to wait.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tl_entropy.errors import Elsewhere


@dataclass
class Ends:
    """What may end a pass before its documents do.

    Attributes:
        asked: why the process is to end, as a signal says; empty while it is not.
        reading: whether a pass is being made, which ends between two documents.
    """

    asked: str = ""
    reading: bool = False


class Stopped(Elsewhere):
    """The process was asked to end, and what it had read is on the disk."""


@contextmanager
def signals(ends: Ends) -> Iterator[None]:
    """SIGTERM and Ctrl-C end a pass between two documents, saved; a second one ends it at once, and anything else at once."""

    def asked(number: int, _: object) -> None:
        name = signal.Signals(number).name
        again, ends.asked = bool(ends.asked), f"{name}: what was read is saved; the same command goes on"
        if again:
            raise KeyboardInterrupt(name)
        if not ends.reading:
            raise Stopped(ends.asked)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # one that was not set from Python
                signal.signal(number, handler)


def preempt(seconds: float) -> None:
    """Send this process SIGTERM at a random moment within so many seconds, as a batch system would that needs the machine."""
    timer = threading.Timer(random.SystemRandom().uniform(0, seconds), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
