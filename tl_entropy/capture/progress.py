"""Progress bars: where they show, and what they leave behind; and one that moves by the tokens of a corpus.

In a terminal a bar stays when it has ended. In a notebook it is shown while it moves, and leaves nothing, neither on the page
nor in the file; it needs no widgets. Anywhere else (a log, a pipe, a batch job) nothing is written until the bar ends, and then
one line: how far it came, and how long that took. A bar inside another one leaves nothing anywhere.

That tqdm misses ipywidgets is kept back, here and for the libraries that import it later.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import tqdm.std

from tl_entropy.batches import Batch
from tl_entropy.errors import counted

with warnings.catch_warnings():
    warnings.simplefilter("ignore", tqdm.std.TqdmWarning)
    import tqdm.auto

__all__ = ["Bar", "TokenBar"]


class _Nowhere:
    """A file that takes everything and keeps nothing."""

    def write(self, text: str) -> None:
        """Take it."""

    def flush(self) -> None:
        """Nothing waits."""


class _Cell(_Nowhere):
    """An output of a notebook's cell that shows the last line written to it; empty once that is blank."""

    def __init__(self) -> None:
        self._shown: Any = None
        self._text = ""

    def write(self, text: str) -> None:
        """Show what stands behind the last return of the carriage; other movements of a cursor mean nothing here."""
        _, returned, line = text.rpartition("\r")
        line = line.rstrip()
        if not returned or line == self._text:
            return
        self._text = line
        from IPython.display import display

        data = {"text/plain": line}
        if self._shown is None:
            self._shown = display(data, raw=True, display_id=True)
        else:
            self._shown.update(data, raw=True)


def _in_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    found = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(found).__mro__)


SHOWN = [True]
"""Whether bars are shown in this process, where asked for; of several that share a measurement, one shows them."""


class Bar(tqdm.std.tqdm):  # type: ignore[misc]
    """A bar of tqdm that leaves behind what suits where it shows.

    Args:
        of: what to go through, if not by ``update``.
        show: whether to show it.
        nested: whether it is inside another one.
        options: further ones of tqdm.
    """

    def __init__(self, of: Iterable[Any] | None = None, *, show: bool, nested: bool = False, **options: Any) -> None:
        show = show and SHOWN[0]
        stream = sys.stderr
        terminal = stream is not None and stream.isatty()
        notebook = not terminal and _in_notebook()
        self._told = None if terminal or notebook or nested or not show else stream
        file = stream if terminal else _Cell() if notebook else _Nowhere()
        super().__init__(of, disable=not show, leave=terminal and not nested, file=file, dynamic_ncols=terminal, **options)

    def close(self) -> None:
        """End it; what is no terminal and no notebook gets its one line, where there was something to do."""
        if self._told is not None and not self.disable and self.n:
            self._told.write(f"{self}\n")
        super().close()


def _own_lock() -> None:
    """Since the lock of tqdm is one for all processes that were forked, and stays locked where one is killed inside."""
    Bar.set_lock(threading.RLock())


_own_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_lock)


class TokenBar:
    """How much of a corpus has been read: tokens, of as many as the documents seen so far let expect.

    Of a document that has been begun the whole length is known, so that a single long one has a bar that fills; the others are
    taken to be as long as the mean of those.

    Args:
        documents: how many there are, where that is known.
        show: whether to show the bar.
    """

    def __init__(self, documents: int | None, *, show: bool) -> None:
        self._documents = documents
        self._bar = Bar(show=show, unit="tok", unit_scale=True, desc="tl_entropy")
        self._open: dict[int, tuple[int, int]] = {}  # of each document that is not yet at its end, tokens read and in all
        self._ended = self._tokens = 0  # documents at their end, and their tokens

    def __enter__(self) -> TokenBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    @property
    def expected(self) -> int | None:
        """Tokens in all, as far as can be told."""
        known, seen = self._tokens + sum(length for _, length in self._open.values()), self._ended + len(self._open)
        return None if self._documents is None or not seen else max(known, round(known / seen * self._documents))

    def take(self, batch: Batch) -> int:
        """Move on by what a batch has read for the first time; returns how much that is."""
        new = 0
        rows = zip(batch.document.tolist(), batch.position, batch.lengths, batch.last.tolist(), strict=True)
        for document, position, length, last in rows:
            before, _ = self._open.pop(document, (0, length))
            read = length if last else max(before, int(position.max()) + 1)
            new += read - before
            if last:
                self._ended, self._tokens = self._ended + 1, self._tokens + length
            else:
                self._open[document] = read, length
        self._bar.total = self.expected
        ended = f"{self._ended} of " if self._documents is not None else ""
        self._bar.set_postfix_str(f"{ended}{counted(self._documents or self._ended, 'document')}", refresh=False)
        self._bar.update(new)
        return new
