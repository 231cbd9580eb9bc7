"""Batches on their way from the model to the accumulators: whole ones, finite ones, and as large as memory allows.

Where memory runs out, a batch is cut in two and tried again, for the accumulators that have not had it yet, and later batches
are kept as small. Ctrl-C waits until every accumulator has had the batch. What grows with the corpus is warned of before it is
too much.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tl_entropy.accumulators import Accumulator
from tl_entropy.batches import Batch
from tl_entropy.capture.hooks import hook_name
from tl_entropy.errors import NonFiniteError, counted, warn
from tl_entropy.sites import Site

LARGE = 2**30
"""Bytes that are kept of a corpus from which on that is said."""


@contextmanager
def whole_batches() -> Iterator[None]:
    """Ctrl-C waits until every accumulator has had the batch, so that none holds half of one; a second Ctrl-C doesn't wait."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: Any) -> None:
        if held:
            raise KeyboardInterrupt
        held.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


class Feeder:
    """Learns how many cells fit in memory, and cuts batches that do not, if it may (``splits``)."""

    def __init__(self, *, splits: bool) -> None:
        self._splits = splits
        self._room: float = float("inf")  # cells of the largest batch that may fit

    def feed(self, batch: Batch, waiting: list[Accumulator], take_in: Callable[[Batch, list[Accumulator]], None]) -> None:
        """``take_in(batch, waiting)``; where memory runs out, with the batch's halves, for those still in ``waiting``.

        ``take_in`` takes every accumulator that has had the batch out of ``waiting``.
        """
        if not self._may_split(batch) or batch.tokens.numel() <= self._room:
            if self._fits(batch, waiting, take_in):
                return
            # Outside the handler, so that the failed attempt's tensors, which its traceback held, are free by now.
            self._room = batch.tokens.numel() / 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        for half in batch.split():
            self.feed(half, list(waiting), take_in)

    def _fits(self, batch: Batch, waiting: list[Accumulator], take_in: Callable[[Batch, list[Accumulator]], None]) -> bool:
        try:
            take_in(batch, waiting)
        except RuntimeError as error:
            if not self._may_split(batch) or not out_of_memory(error):
                raise
            return False
        return True

    def _may_split(self, batch: Batch) -> bool:
        return self._splits and len(batch) > 1


class Watch:
    """Warns, once, of what accumulators keep of a corpus where it is, or will be, much.

    Args:
        accumulators: those with a ``growth`` are looked at.
        documents: how many there are; None where nobody knows, and then what is kept by now counts.
    """

    def __init__(self, accumulators: Sequence[Accumulator], documents: int | None) -> None:
        self._growing: list[Any] = [a for a in accumulators if hasattr(a, "growth")]
        self._documents, self._told = documents, False

    def look(self, read: int) -> None:
        """Look at what is kept after ``read`` documents."""
        if self._told:
            return
        found = [one.growth() for one in self._growing]
        held = sum(size for size, _ in found)
        whole = held * max(1.0, self._documents / read) if self._documents and read else held
        if whole >= LARGE:
            self._told = True
            then = "" if self._documents is None else f", and will be {whole / 2**30:.1f} GiB"
            remedies = "; ".join(dict.fromkeys(remedy for size, remedy in found if size))
            warn(
                f"memory grows with the corpus: {held / 2**30:.1f} GiB after {counted(read, 'document')}{then}, since "
                f"{remedies}"
            )


def out_of_memory(error: Exception) -> bool:
    """Whether an error is that of memory that ran out, on whatever device."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in str(error)
        or "out of memory" in str(error)
    )


def check_finite(batch: Batch, activations: Mapping[Site, Tensor]) -> None:
    """Raise NonFiniteError at the first NaN or infinity in a counted cell."""
    for site, activation in activations.items():
        if site.name == "pattern" or bool(activation.sum().isfinite()):  # a finite sum has finite parts only
            continue
        rows = batch.rows(activation)
        bad = (~rows.flatten(1).isfinite()).any(1).nonzero()
        if len(bad):
            raise NonFiniteError(
                f"{hook_name(site)} has a NaN or an infinity at {row_place(batch, int(bad[0]))} (and {len(bad) - 1} more of "
                "this batch); check the weights and the dtype"
            )


def row_place(batch: Batch, row: int) -> str:
    """Where a row is, for a message: the document, and the position in it or the begin token."""
    document, position = int(batch.row_document[row]), int(batch.row_position[row])
    return f"document {document}, {f'position {position}' if position >= 0 else 'the begin token'}"
