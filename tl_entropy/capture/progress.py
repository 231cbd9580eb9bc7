"""Progress bars: tqdm's own, and one that moves by the tokens of a corpus.

In a notebook without ipywidgets tqdm falls back to bars of text, which do as well; that it says so is kept back, here and for
the libraries that import it later.
"""

from __future__ import annotations

import warnings
from types import TracebackType

from tqdm.std import TqdmWarning

from tl_entropy.batches import Batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["TokenBar", "tqdm"]


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
        self._bar = tqdm(unit="tok", unit_scale=True, desc="tl_entropy", disable=not show, dynamic_ncols=True)
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
        of = "" if self._documents is None else f" of {self._documents}"
        self._bar.set_postfix_str(f"{self._ended}{of} documents", refresh=False)
        self._bar.update(new)
        return new
