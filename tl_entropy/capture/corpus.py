"""Texts and tokens as windows: every token of every document counted exactly once, whatever the model's context.

A document is a text, a file, or a row of tokens (``capture/inputs.py`` lists what may be handed in). Its *body* is its tokens
without the BOS; positions number the body from 0, and the BOS, if it has one, has position -1. A text has a BOS where
``prepend_bos`` says so, or where it begins with one itself, as what a chat template renders does: the model never sees a second
one for it. A row of tokens is taken as it is, and has a BOS where it begins with its id. So a text and the same text's tokens
give the same windows.

A body of more tokens than fit beside the BOS (the *room*) is cut into windows that start at 0, ``stride``, 2 ``stride``, ...,
each with the document's BOS in front. The first window counts all its tokens; each later one counts those that no window
before it has counted, and sees the others as context. With ``stride`` equal to the room, the default, windows are neighbours;
a smaller one buys longer context for the tokens behind a cut with more forward passes (the sliding window of
https://huggingface.co/docs/transformers/perplexity).

One rule for what counts nothing: inputs of which no token is counted (no documents, empty ones, special tokens alone,
positions that none has, a single token that nothing predicts) are refused at their end, with the reason; where some documents
are such, or some ``positions`` are in none, a warning says so.

Refused: windows larger than the context; strides that would leave tokens out; inputs in which there is nothing to measure; a
second pass over a generator; and what ``capture/inputs.py`` and ``capture/documents.py`` refuse.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Unpack

import torch

from tl_entropy.batches import Window
from tl_entropy.capture.documents import Document, Rereadable, TextEncoder, check_texts, checked_ids
from tl_entropy.capture.inputs import Piece, at_hand, pieces, repeatable
from tl_entropy.capture.options import WindowOptions
from tl_entropy.capture.parts import Documents, Part
from tl_entropy.capture.report import LISTED, CorpusReport, added
from tl_entropy.capture.skipping import OnError
from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, counted, warn
from tl_entropy.positions import Positions, at_positions, checked_positions, shown_positions
from tl_entropy.results.provenance import skipped_note

Count = Literal["read", "predicted", "around"]

_PATH = 1024
"""Characters of a path at most."""


class Corpus:
    """Anything that holds texts or tokens, as a lazy sequence of ``Window``; only one document is held at a time.

    Args:
        inputs: A str (a text, even where it looks like a path); a ``pathlib.Path`` to a text file or a folder of them; a
            tensor of tokens ``[pos]`` or ``[batch, pos]``; ``(tokens, mask)``; a mapping with ``input_ids``; a ``datasets``
            data set; or an iterable of any of these. ``Rereadable`` inputs must be the same at every reading.
        encoder: The model's tokenizer and limits.
        prepend_bos: Whether the model is to see a BOS before each text. Tokens never get one that they did not have.
        window: The most tokens in a window, BOS included; None for the model's context.
        stride: New tokens from the start of a window to the next, from 1 to the room in a window; None for the whole room.
        positions: Which positions of each document are counted: all (None), one, several, or a slice; negative ones are from
            the document's end, and one that a document does not have selects nothing in it. The model sees every token.
        include_special: Whether to count special ids too, and each document's BOS once, where ``positions`` is None.
        special_ids: Which ids are special; None for those that the encoder knows. Without a tokenizer a BOS is one only where
            it is among them.
        text_column: The column of a data set that holds the texts.
        on_error: What to do with a document that cannot be used: "raise" its error, or "skip" it (``capture/skipping.py``).
        quiet: Whether somebody else warns of documents that are empty or left out.
        measured: Whether its tokens are what is measured, so that some have to count; prompts of texts to be written are not.
        documents: Which documents are read; None for all. Others are walked past, and no text is cut into tokens.
        part: Whether there may be nothing to measure here, since others read the rest; who has read it all calls ``conclude``.
        count: What ``positions`` and the rule for special ids speak of: the token that a cell reads ("read"), or the one that
            it predicts ("predicted"). The cell that is counted for a predicted token is the one before it, a BOS where there is
            one; a token with nothing before it is predicted nowhere, and counted nowhere. "around" is the same with the cell of
            a document's last token beside it, which predicts what would come: it is a row, and no token of the report. Of a
            model whose predictions at a position are of the token there (``encoder.predicts`` is "own"), that token's cell is
            the one that is counted, and its target is itself.

    Attributes:
        report: What the latest pass has seen so far; each pass starts a new one.
        special_ids: The ids that are special here.
        glimpse: Of a part, a hash of all documents that have gone by, whether asked for or not, and of their order.
        n_documents: How many documents will be read, where that is known beforehand; None for generators and streams.

    Raises:
        InputError: A window, stride or position that makes no sense, or inputs that cannot be measured: at construction, where
            the inputs are at hand; else when their turn comes.
        InputTypeError: An argument, or an item of ``inputs``, of a kind that is not understood.

    >>> from types import SimpleNamespace
    >>> letters = SimpleNamespace(
    ...     encode=lambda text: [ord(c) for c in text], begin=1, special_ids=frozenset({1}), context=4, has_tokenizer=True,
    ...     n_ids=128)
    >>> corpus = Corpus("ABCDE", letters, prepend_bos=True)
    >>> [(w.tokens.tolist(), w.counted.tolist()) for w in corpus]
    [([1, 65, 66, 67], [False, True, True, True]), ([1, 68, 69], [False, True, True])]
    >>> corpus.report.tokens, corpus.report.bytes, corpus.report.cut
    (5, 5, 1)
    """

    report: CorpusReport
    n_documents: int | None

    def __init__(
        self,
        inputs: object,
        encoder: TextEncoder,
        *,
        prepend_bos: bool,
        window: int | None = None,
        stride: int | None = None,
        positions: Positions = None,
        include_special: bool = False,
        special_ids: Collection[int] | None = None,
        text_column: str = "text",
        on_error: OnError = "raise",
        count: Count = "read",
        quiet: bool = False,
        measured: bool = True,
        documents: Documents | Part | None = None,
        part: bool = False,
    ) -> None:
        check_choice("count", count, ("read", "predicted", "around"))
        check_choice("on_error", on_error, ("raise", "skip"))
        self._readings = inputs if isinstance(inputs, Rereadable) else None
        self._inputs = inputs.inputs if isinstance(inputs, Rereadable) else inputs
        self._encoder = encoder
        self._prepend_bos = prepend_bos
        self._window = encoder.context if window is None else check_int("window", window, 1, encoder.context)
        self._stride = None if stride is None else check_int("stride", stride, 1)
        self._selection = checked_positions(positions)
        self._include_special = include_special
        self.special_ids = encoder.special_ids if special_ids is None else checked_ids(special_ids, encoder.n_ids)
        self._special = torch.tensor(sorted(self.special_ids), dtype=torch.long)
        named = getattr(encoder, "padding_ids", self.special_ids)
        self._padding = named if special_ids is None else self.special_ids
        # A configuration may name a BOS that is none, as a class of models does for all of them; a tokenizer puts it there.
        self._begin = encoder.begin if encoder.has_tokenizer or encoder.begin in self.special_ids else None
        self._text_column = text_column
        self._skips, self._quiet, self._measured = on_error == "skip", quiet, measured
        self.part, self._may_be_nothing = documents if isinstance(documents, Part) else Part(documents), part
        self._own = getattr(encoder, "predicts", "next") == "own"
        self._predicted, self._around = count != "read", count == "around" and not self._own
        self._started, self.glimpse = False, 0
        self._marks: deque[tuple[int, CorpusReport]] | None = None
        self._room_and_stride("a text", prepend_bos and encoder.begin is not None)
        self.report = CorpusReport(self._window, self._stride)
        if not quiet:
            _warn_of_paths(self._inputs)
        self.n_documents = self._count()

    def __iter__(self) -> Iterator[Window]:
        """Go through the windows, in order, filling a new ``report``; raises what the class does."""
        if self._started and not repeatable(self._inputs):
            raise InputError("inputs hold an iterator, which an earlier pass has used up; pass a list, or build it anew")
        self._started = True
        self.report = CorpusReport(self._window, self._stride)
        self.glimpse = 0
        return self._pass(self.report)

    def _count(self) -> int | None:
        if at_hand(self._inputs):
            return self.part.count(sum(1 for _ in self._pieces()))
        # A data set or a single column of one: both know their length without being read.
        is_dataset = any(hasattr(self._inputs, name) for name in ("column_names", "column_name"))
        return self.part.count(len(self._inputs)) if is_dataset and isinstance(self._inputs, Sized) else None

    def given_digest(self) -> int:
        """A hash of all documents as they were given, and of their order, below 2**64; no text is cut into tokens."""
        every = pieces(self._inputs, text_column=self._text_column, special_ids=self._padding, skip=True)
        return sum(piece.digest(number) for number, piece in enumerate(every)) % 2**64

    def mark(self) -> None:
        """Remember, of the passes that begin now, what the report was after each document (``until``)."""
        self._marks = deque()

    def until(self, number: int) -> CorpusReport:
        """The report of this pass as it was after document ``number``; of one that is marked, and once for each number."""
        found = CorpusReport(self._window, self._stride)
        while self._marks and self._marks[0][0] <= number:
            found = self._marks.popleft()[1]
        return found

    def _pieces(self) -> Iterator[Piece]:
        return pieces(self._inputs, text_column=self._text_column, special_ids=self._padding, skip=self._skips)

    def _document(self, number: int, piece: Piece, report: CorpusReport) -> Document | None:
        """A piece as a document; None where it is left out."""
        if self._readings is not None and number in self._readings.skipped:
            report.skipped.add(number, piece.name or piece.where, self._readings.skipped[number])
            return None
        if isinstance(piece.value, str | Path):
            check_texts(piece.where, self._encoder, prepend_bos=self._prepend_bos)
        try:
            document = Document.of(number, piece, self._encoder, begin=self._begin, prepend_bos=self._prepend_bos)
            if self._skips and not len(document.body):
                report.n_empty += 1
                raise InputError(f"{piece.where} is without a token")
        except (InputError, InputTypeError) as error:
            if not self._skips:
                raise
            if self._readings is not None:
                self._readings.skip(number, str(error))
            report.skipped.add(number, piece.name or piece.where, str(error))
            return None
        return document

    def _pass(self, report: CorpusReport) -> Iterator[Window]:
        if not self.part.ended(0):
            yield from self._read(report)
        if not self._may_be_nothing:
            self.conclude(report, report)

    def _read(self, report: CorpusReport) -> Iterator[Window]:
        for number, piece in enumerate(self._pieces()):
            if self.part.has(number):
                yield from self._of_piece(number, piece, report)
            if self._may_be_nothing:
                self.glimpse = (self.glimpse + piece.digest(number)) % 2**64
            report.walked = number + 1
            if self.part.ended(number + 1):
                return
        if self._readings is not None:
            self._readings.check_end(report.walked)

    def _of_piece(self, number: int, piece: Piece, report: CorpusReport) -> Iterator[Window]:
        document = self._document(number, piece, report)
        if document is None:
            return
        if self._readings is not None:
            self._readings.check(number, document.digest)
        if len(document.body):
            yield from self._windows(document, report)
        else:
            report.n_empty += 1
            report.empty.extend([number] if len(report.empty) < LISTED else [])

    def conclude(self, given: CorpusReport, read: CorpusReport) -> None:
        """Refuse what was nothing to measure as a whole, and warn of what is to be known.

        Args:
            given: of the documents as they were given.
            read: of what was measured: the same, or what was generated after them.
        """
        if not read.documents or (self._measured and not read.tokens):
            raise InputError(f"inputs hold nothing to measure: {self._nothing(given.walked, read)}")
        if not self._quiet:
            self._warn(given)
        if self._measured:
            self._warn_of_uncounted(read)

    def _nothing(self, documents: int, report: CorpusReport) -> str:
        """Why no token is counted, and what to do."""
        if not report.documents and not self.part.count(documents) and not self.part.all:
            return f"there are none of {self.part}, which are numbered from 0; {counted(documents, 'document')} came"
        read, longest = counted(documents, "document"), counted(report.longest, "token")
        if not report.documents:
            skipped = report.skipped.told()
            return skipped_note(skipped) if skipped else f"{read}, none with a token; pass some text"
        if report.special:
            return f"{read}, and {self._asked()} are special tokens; include_special=True counts them"
        if missing := self._missing(report.longest):
            return f"no document has positions {missing}; the longest has {longest}"
        if self._predicted:
            return f"{read}, and nothing comes before {self._asked()} to predict them; pass more text, or a BOS"
        return f"{read} of up to {longest}, and {self._asked()} are none of them"

    def _asked(self) -> str:
        return "all their tokens" if self._selection is None else f"positions={shown_positions(self._selection)}"

    def _missing(self, longest: int) -> str:
        """Which positions asked for one by one no document has, of which the longest has so many tokens."""
        asked = self._selection if isinstance(self._selection, tuple) else ()
        return shown_positions(tuple(position for position in asked if not -longest <= position < longest))

    def _warn_of_uncounted(self, report: CorpusReport) -> None:
        """Warn of documents of which nothing counts, and of positions that none has."""
        if missing := self._missing(report.longest):
            longest = counted(report.longest, "token")
            warn(f"positions: no document has {missing}; the longest has {longest}")
        if report.n_uncounted:
            which = f"{counted(report.n_uncounted, 'document')}, {_listed(report.uncounted, report.n_uncounted)}"
            warn(
                f"nothing counts of {which}; they hold special tokens alone, or no position that is asked for, or one token "
                "that nothing predicts"
            )

    def _warn(self, report: CorpusReport) -> None:
        """Warn of documents that were left out, and of those that begin with two BOS."""
        if skipped := report.skipped.told():
            warn(skipped_note(skipped))
        elif report.n_empty:
            first = _listed(report.empty, report.n_empty)
            empty = f"{counted(report.n_empty, 'empty document')} {'was' if report.n_empty == 1 else 'were'} skipped"
            warn(f"{empty}: {first}")
        if report.doubled:
            warn(
                f"two begin tokens (id {self._begin}) begin {counted(report.doubled, 'document')}, and the model sees both; "
                "tokenise what a chat template rendered with add_special_tokens=False"
            )

    def _windows(self, document: Document, report: CorpusReport) -> Iterator[Window]:
        body, bos, n = document.body, document.bos, len(document.body)
        report.longest = max(report.longest, n)
        room, stride = self._room_and_stride(document.where, bos is not None)
        selected, special = at_positions(self._selection, torch.arange(n), n), torch.isin(body, self._special)
        countable = selected if self._include_special else selected & ~special
        shifted = self._predicted and not self._own
        count_bos = bool(countable[0]) if shifted else self._include_special and self._selection is None and not self._predicted
        if shifted:
            end = countable[-1:] & (count_bos or bool(countable[1:].any())) if self._around else countable.new_zeros(1)
            countable = torch.cat([countable[1:], end])
        following = body if self._own else torch.cat([body[1:], body.new_tensor([-1])])
        for start in range(0, max(n - room, 0) + stride, stride):
            cells = slice(start, min(start + room, n))
            position = torch.arange(cells.start, cells.stop)
            counted_before = start - stride + room if start else 0
            parts = [body[cells], countable[cells] & (position >= counted_before), position, following[cells]]
            if bos is not None:
                front = (bos, False, -1, -1) if start else (bos, count_bos, -1, -1 if self._own else body[0])
                parts = [torch.cat([part.new_tensor([cell]), part]) for cell, part in zip(front, parts, strict=True)]
            tokens, counted, position, target = parts
            last = cells.stop == n
            report.windows += bool(counted.any())
            report.tokens += int(counted.sum()) - bool(self._around and last and counted[-1])
            if last:
                report.documents += 1
                report.cut += start > 0
                report.doubled += bos is not None and int(body[0]) == bos and bool(countable.any())
                report.special += 0 if self._include_special else int((selected & special).sum())
                report.digest = (report.digest + document.digest) % 2**64
                report.bodies = (report.bodies + document.body_digest) % 2**64
                report.bytes = added(report.bytes, document.n_bytes)
                report.characters = added(report.characters, document.n_characters)
            if last and not bool(countable.any()) and not (bos is not None and count_bos):
                report.n_uncounted += 1
                report.uncounted.extend([document.number] if len(report.uncounted) < LISTED else [])
            if last and self._marks is not None:
                report.walked = document.number + 1
                self._marks.append((document.number, report.numbered_from(0)))
            yield Window(tokens, counted, position, target, document.number, document.name, last, document.text, body)

    def _room_and_stride(self, where: str, has_bos: bool) -> tuple[int, int]:
        """The tokens of a body that fit into a window, and how far apart windows start."""
        room = self._window - has_bos
        if room < 1:
            raise InputError(f"window must be at least 2, for the BOS of {where} and a token; got {self._window}")
        if self._stride is not None and self._stride > room:
            beside = " beside the BOS" if has_bos else ""
            raise InputError(
                f"stride must be an int from 1 to {room}, the tokens of {where} that a window of {self._window} holds{beside}; "
                f"got {self._stride}"
            )
        return room, self._stride or room


def _listed(first: list[int], count: int) -> str:
    return f"number{'s' * (count != 1)} {', '.join(map(str, first[:5]))}{', ...' * (count > 5)} (from 0)"


def _warn_of_paths(inputs: object) -> None:
    """Warn of a text that is the path of a file or folder, too: it is measured as a text."""
    for text in inputs if isinstance(inputs, list | tuple) else [inputs]:
        if not isinstance(text, str) or not 0 < len(text) < _PATH or "\n" in text or "\0" in text:
            continue
        with suppress(OSError, ValueError):  # a text that can be no path
            if os.path.exists(text):
                warn(
                    f"{text!r} is measured as a text, and a file or folder of that name is there; to read it, pass "
                    f"pathlib.Path({text!r})"
                )
                return


def read_corpus(
    encoder: TextEncoder,
    inputs: Any,
    *,
    positions: Any = None,
    count: Count = "read",
    quiet: bool = False,
    measured: bool = True,
    part: bool = False,
    **options: Unpack[WindowOptions],
) -> Corpus:
    """The windows of ``inputs`` (no cache) as ``stream`` reads them for a model."""
    if options.get("prepend_bos") is None:
        options["prepend_bos"] = encoder.prepends_begin
    return Corpus(
        inputs, encoder, positions=positions, count=count, quiet=quiet, measured=measured, part=part,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip
