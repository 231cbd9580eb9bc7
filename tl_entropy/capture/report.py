"""What a pass has read: counts of documents and tokens, and which they were; of parts of a corpus, together that of the whole.

Refused: together what holds the same documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tl_entropy.capture.parts import Intervals, together
from tl_entropy.capture.skipping import Skipped
from tl_entropy.errors import InputError
from tl_entropy.state import Kept

LISTED = 20
"""Documents of a kind that are listed by number."""


@dataclass(slots=True)
class CorpusReport(Kept):
    """What has gone by so far.

    Attributes:
        window: The most tokens in a window, BOS included.
        stride: New tokens from one window's start to the next's; None for as many as fit.
        documents: Documents that have been measured to their end; empty ones are not among them.
        tokens: Counted tokens.
        bytes: UTF-8 bytes of these documents' texts, a BOS that is written out before one not among them; None as soon as one
            came as tokens, of which nobody knows the bytes.
        characters: Their characters, likewise.
        cut: Documents that did not fit into one window.
        n_empty: Documents without a token, which were skipped.
        empty: The numbers of the first 20 of them.
        n_uncounted: Documents with tokens of which none is counted.
        uncounted: The numbers of the first 20 of them.
        longest: Tokens of the longest document.
        doubled: Documents that begin with two BOS.
        special: Special tokens of these documents, words that the tokenizer does not know among them, that are left out.
        digest: The sum of the documents' digests, below 2**64: the same for the same documents in whatever order.
        bodies: The same of their tokens without the BOS and their numbers, which is another where a tokenizer makes others.
        skipped: What was left out because it cannot be used, with ``on_error="skip"``; empty documents are among it.
        walked: Documents that have gone by, those that were not asked for among them.
        windows: Windows in which something was counted.
    """

    window: int
    stride: int | None
    documents: int = 0
    tokens: int = 0
    bytes: int | None = 0
    characters: int | None = 0
    cut: int = 0
    n_empty: int = 0
    empty: list[int] = field(default_factory=list)
    n_uncounted: int = 0
    uncounted: list[int] = field(default_factory=list)
    longest: int = 0
    doubled: int = 0
    special: int = 0
    digest: int = 0
    bodies: int = 0
    skipped: Skipped = field(default_factory=Skipped)
    walked: int = 0
    windows: int = 0

    def together(self, other: CorpusReport) -> CorpusReport:
        """Of both, who have read other documents of one input in the same way."""
        return CorpusReport(
            window=self.window, stride=self.stride, documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens, bytes=added(self.bytes, other.bytes),
            characters=added(self.characters, other.characters), cut=self.cut + other.cut,
            n_empty=self.n_empty + other.n_empty, empty=sorted([*self.empty, *other.empty])[:LISTED],
            n_uncounted=self.n_uncounted + other.n_uncounted,
            uncounted=sorted([*self.uncounted, *other.uncounted])[:LISTED], longest=max(self.longest, other.longest),
            doubled=self.doubled + other.doubled, special=self.special + other.special,
            digest=(self.digest + other.digest) % 2**64, bodies=(self.bodies + other.bodies) % 2**64,
            skipped=self.skipped.together(other.skipped),
            walked=max(self.walked, other.walked), windows=self.windows + other.windows,
        )  # fmt: skip

    def numbered_from(self, first: int) -> CorpusReport:
        """A copy in which document 0 has this number."""
        skipped = Skipped(self.skipped.count, [(first + number, where, why) for number, where, why in self.skipped.first])
        empty, uncounted = ([first + number for number in numbers] for numbers in (self.empty, self.uncounted))
        return replace(self, empty=empty, uncounted=uncounted, skipped=skipped, walked=first + self.walked)

    @property
    def left_out(self) -> int:
        """Documents that are not measured: empty ones, and those that were skipped, which empty ones then are among."""
        return self.skipped.count or self.n_empty


def added(total: int | None, more: int | None) -> int | None:
    """The sum; None where one is not known."""
    return None if total is None or more is None else total + more


@dataclass(frozen=True)
class StreamReport(Kept):
    """What one pass read, or several of parts of one corpus.

    Attributes:
        given: what was counted of the documents, or prompts, as they were given.
        read: what was counted of what was measured: the same, or prompts with what was generated after them.
        tokens: positions counted.
        held: documents that have gone by, left out ones included: (first, one after the last), by numbers in the whole input.
        placed: whether ``documents`` were asked for, so that numbers are those of a corpus that may be read in parts.
        seconds: time of the pass.
        interrupted: whether Ctrl-C ended it.
        prompt_lengths: document to tokens of its prompt, where texts were generated.
        uncached: documents that were generated without the model's cache, since what it wrote with it was not its own.
        unpadded: whether every batch is of windows of one length, since padding changes what the model computes.
        trusted: whether it was read from a cache in which nothing shows that it is of these tokens.
        glimpse: a hash of the documents that have gone by, those of others included, and of their order, where this is a part.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> report = tle.stream(model, ["import os", "import sys"], [tle.LensAccumulator(model)], progress=False)
    >>> report.documents, report.held
    (2, ((0, 2),))
    """

    given: CorpusReport
    read: CorpusReport
    tokens: int
    held: Intervals
    placed: bool
    seconds: float
    interrupted: bool
    prompt_lengths: Mapping[int, int]
    uncached: int
    unpadded: bool
    glimpse: int = 0
    trusted: bool = False

    @property
    def documents(self) -> int:
        """Texts or rows read to their end."""
        return self.read.documents

    @property
    def bytes(self) -> int | None:
        """UTF-8 bytes of the texts read; None where tokens were given, or generated."""
        return self.read.bytes

    @property
    def characters(self) -> int | None:
        """Characters of the texts read, likewise."""
        return self.read.characters

    @property
    def empty(self) -> int:
        """Number of texts without a token, which were skipped."""
        return self.given.n_empty

    @property
    def cut(self) -> int:
        """Number of texts longer than a window."""
        return self.read.cut

    @property
    def window(self) -> int:
        """Tokens of a window."""
        return self.read.window

    @property
    def stride(self) -> int | None:
        """New tokens from window to window; None for as many as fit."""
        return self.read.stride

    @property
    def special(self) -> int:
        """Special tokens of the documents that are left out, words that the tokenizer does not know among them."""
        return self.read.special

    @property
    def ids(self) -> bool:
        """Whether a document, or a prompt, was given as token ids, which may be other texts to another model."""
        return self.given.bytes is None

    @property
    def digest(self) -> str:
        """A hash of the documents, or prompts, as they were given, in whatever order: 16 digits."""
        return f"{self.given.digest:016x}"

    @property
    def skipped(self) -> Mapping[str, Any]:
        """'count' and "first" of what ``on_error="skip"`` left out: (number, place, reason) each; empty for nothing."""
        return self.given.skipped.told()

    def counts(self) -> dict[str, Any]:
        """The counts, for a result's provenance."""
        names = ("documents", "tokens", "bytes", "characters", "empty", "cut", "window", "stride", "ids", "digest")
        counts = {name: getattr(self, name) for name in names}
        noted = ("uncached", "special", "unpadded", "trusted", "skipped")
        if self.read.windows != self.documents:
            counts["windows"] = self.read.windows
        return counts | {name: getattr(self, name) for name in noted if getattr(self, name)}

    def together(self, other: StreamReport) -> StreamReport:
        """The report of both, who have read other documents.

        Where neither was told which (``placed``), each has numbered its own from 0, and the other's are numbered on from these.

        Raises:
            InputError: a document is in both, or one of the two was told which to read and the other was not.

        >>> import tl_entropy as tle
        >>> model, texts = tle.demo_model(), ["import os", "import sys"]
        >>> reports = [tle.stream(model, texts, [tle.LensAccumulator(model)], documents=range(i, i + 1), progress=False)
        ...            for i in (1, 0)]
        >>> both = reports[0].together(reports[1])
        >>> both.held, both.digest == tle.stream(model, texts, [tle.LensAccumulator(model)], progress=False).digest
        (((0, 2),), True)
        """
        if self.placed != other.placed:
            raise InputError(
                "cannot merge: one has read with documents=, by the numbers of the whole corpus, and the other has numbered "
                "its own from 0; read all parts with documents=, or none"
            )
        if not self.placed:
            other = other._numbered_from(self.given.walked)
        return StreamReport(
            given=self.given.together(other.given), read=self.read.together(other.read), tokens=self.tokens + other.tokens,
            held=together(self.held, other.held), placed=self.placed and other.placed, seconds=self.seconds + other.seconds,
            interrupted=self.interrupted or other.interrupted,
            prompt_lengths={**self.prompt_lengths, **other.prompt_lengths}, uncached=self.uncached + other.uncached,
            unpadded=self.unpadded, trusted=self.trusted or other.trusted,
        )  # fmt: skip

    def _numbered_from(self, first: int) -> StreamReport:
        lengths = {first + document: length for document, length in self.prompt_lengths.items()}
        held = tuple((first + start, first + stop) for start, stop in self.held)
        given, read = self.given.numbered_from(first), self.read.numbered_from(first)
        return replace(self, given=given, read=read, held=held, prompt_lengths=lengths)
