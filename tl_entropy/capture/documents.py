"""From what was handed in to documents: a body of ids, the BOS that goes before it, and a digest that says which one it is.

A text is cut into ids by the model's tokenizer; a row of tokens is taken as it is. A document that begins with the id of the
BOS, text or tokens, has its BOS from there, and gets no second one: what a chat template renders begins with one.

By their digests documents are held to be the same, in the same order, where inputs are read several times (``Rereadable``): a
loader that shuffles would pair what does not belong together.

Refused: texts for a model without a tokenizer or, with ``prepend_bos``, without a BOS; ids that the model does not have; text
that UTF-8 cannot hold; other documents at a later reading than at the first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor

from tl_entropy.capture.inputs import Piece, read_text, repeatable
from tl_entropy.errors import InputError, InputTypeError, check_int, counted

_UNREAD = 0
"""In place of the digest of a document that no reading has come to, or that is left out."""


class TextEncoder(Protocol):
    """What a corpus has to know of a model: how its tokenizer splits a text, and which ids and lengths it allows."""

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without a BOS."""

    def strings(self, ids: Sequence[int]) -> Mapping[int, str]:
        """The text of each id by itself."""

    @property
    def begin(self) -> int | None:
        """The id of the BOS; None where there is none."""

    @property
    def prepends_begin(self) -> bool:
        """Whether texts begin with the BOS where nothing else is asked for."""

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that are never counted: BOS, EOS, padding and the tokenizer's other special tokens."""

    @property
    def pad_id(self) -> int:
        """Any id that padding cells may hold."""

    @property
    def n_ids(self) -> int:
        """How many ids the model can read: those from 0 to one less."""

    @property
    def context(self) -> int:
        """The most tokens that the model sees at once."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether ``encode`` works."""


class Document(NamedTuple):
    """One document of a corpus.

    Attributes:
        number: its number in the whole input, from 0.
        body: [pos] its tokens without the BOS.
        bos: the BOS that goes before it; None for none.
        where: what to call it in errors.
        name: the file's name where it is one.
        text: its text, where it came as one.
        n_bytes: UTF-8 bytes of the text, a BOS that is written out before it not among them; None without a text.
        n_characters: its characters, likewise.
        digest: a hash, below 2**64, of the text, or of the body where no text came; of either, the same in any windows.
    """

    number: int
    body: Tensor
    bos: int | None
    where: str
    name: str | None
    text: str | None
    n_bytes: int | None
    n_characters: int | None
    digest: int

    @classmethod
    def of(cls, number: int, piece: Piece, encoder: TextEncoder, *, begin: int | None, prepend_bos: bool) -> Document:
        """The document that a piece of the input is to a model, whose BOS is ``begin``.

        Raises:
            InputError: a text that the model cannot be given, or ids that it does not have.
            InputError, InputTypeError: what the piece itself says of why it is none.
        """
        if isinstance(piece.value, Exception):
            raise piece.value
        value = read_text(piece.value) if isinstance(piece.value, Path) else piece.value
        where = piece.where
        if isinstance(value, Tensor):
            ids, bos, text, own = value, None, None, None
        else:
            ids = torch.tensor(_encoded(value, where, encoder), dtype=torch.long)
            bos, text, own = begin if prepend_bos else None, value, value
        _check_ids(ids, where, encoder.n_ids)
        if begin is not None and len(ids) and int(ids[0]) == begin:
            bos, ids = begin, ids[1:]
            own = None if text is None else text.removeprefix(encoder.strings([begin])[begin])
        return cls(
            number=number, body=ids, bos=bos, where=where, name=piece.name, text=text,
            n_bytes=None if own is None else _utf8_length(own, where), n_characters=None if own is None else len(own),
            digest=_digest(ids if text is None else text),
        )  # fmt: skip

    @property
    def body_digest(self) -> int:
        """A hash of its number and its body, below 2**64."""
        return _hashed(b"%d" % self.number, self.body.numpy().tobytes())


class Rereadable:
    """Inputs that are read several times, and must be the same documents in the same order each time.

    The first reading of a document says which it is; later ones are held to that, by a digest of 8 bytes each.

    Args:
        inputs: what is read.

    Attributes:
        changed: whether they were found not to be the same.
        skipped: why the documents of these numbers were left out at the first reading, and so are at every other.

    Raises:
        InputError: ``inputs`` can be read only once.

    >>> twice = Rereadable(["a", "b"])
    >>> twice.check(0, 7), twice.check_end(1)
    (None, None)
    >>> twice.check(0, 8)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tl_entropy.errors.InputError: inputs changed between two readings: document 0 is not the one that it was before; ...
    """

    def __init__(self, inputs: object) -> None:
        if not repeatable(inputs):
            raise InputError(
                "inputs are read several times, and hold an iterator, which can be read only once; pass list(inputs)"
            )
        self.inputs = inputs
        self.changed = False
        self.skipped: dict[int, str] = {}
        self._digests = array("Q")
        self._whole = False  # whether some reading came to the end, so that no more documents may come

    @classmethod
    def of(cls, inputs: object) -> Rereadable:
        """``inputs`` themselves where a caller has made them so already."""
        return inputs if isinstance(inputs, cls) else cls(inputs)

    def check(self, number: int, digest: int) -> None:
        """Raise InputError unless document ``number`` has the digest that it had at the first reading."""
        if number >= len(self._digests) and self._whole:
            self._refuse(f"there are more than the {len(self._digests)} documents that there were before")
        self._digests.extend([_UNREAD] * (number + 1 - len(self._digests)))
        if self._digests[number] == _UNREAD:
            self._digests[number] = digest
        elif self._digests[number] != digest:
            self._refuse(f"document {number} is not the one that it was before")

    def skip(self, number: int, reason: str) -> None:
        """Leave document ``number`` out from now on; InputError where an earlier reading did not."""
        if number in self.skipped:
            return
        if number < len(self._digests) and self._digests[number] != _UNREAD:
            raise InputError(f"document {number} was read before, and cannot be used now: {reason}")
        self.check(number, _UNREAD)
        self.skipped[number] = reason

    def check_end(self, documents: int) -> None:
        """Raise InputError unless as many documents have come to the end as at the first reading."""
        if documents < len(self._digests):
            self._refuse(f"there are {counted(documents, 'document')}, and there were {len(self._digests)} before")
        self._digests.extend([_UNREAD] * (documents - len(self._digests)))
        self._whole = True

    def _refuse(self, what: str) -> NoReturn:
        self.changed = True
        raise InputError(
            f"inputs changed between two readings: {what}; pass a list, or a loader that gives the same documents in the same "
            "order each time (shuffle=False, or shuffled once with a fixed seed)"
        )


def checked_ids(ids: Collection[int], known: int = 2**63) -> frozenset[int]:
    """Special ids as they are given by hand; InputError unless they are ids from 0 to ``known`` - 1.

    >>> sorted(checked_ids((2, 0), 10))
    [0, 2]
    """
    listed: Any = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(listed, str) or not isinstance(listed, Collection):
        raise InputTypeError(f"special_ids must be a collection of ids, such as (0, 1); got {ids!r}")
    return frozenset(check_int("special_ids", i, 0, known - 1) for i in listed)


def check_texts(where: str, encoder: TextEncoder, *, prepend_bos: bool) -> None:
    """Raise InputError unless a model can be given texts, such as the one at ``where``."""
    if not encoder.has_tokenizer:
        raise InputError(f"{where} is a text, but the model has no tokenizer; pass tokens, as torch.tensor([...])")
    if prepend_bos and encoder.begin is None:
        raise InputError(f"prepend_bos is True, but there is no BOS to put before {where}; pass prepend_bos=False")
    if prepend_bos and encoder.begin is not None and encoder.begin >= encoder.n_ids:
        raise InputError(
            f"the BOS to put before {where} has the id {encoder.begin}, but the model reads ids from 0 to {encoder.n_ids - 1}: "
            "the tokenizer's BOS is no token of this model; pass prepend_bos=False, or give the model a row for it"
        )


def _encoded(text: str, where: str, encoder: TextEncoder) -> list[int]:
    _utf8_length(text, where)
    try:
        return encoder.encode(text)
    except MemoryError:
        raise
    except Exception as error:  # whatever a tokenizer raises
        raise InputError(
            f"{where}: the tokenizer cannot split this text ({type(error).__name__}: {error}); repair or leave it out"
        ) from error


def _check_ids(ids: Tensor, where: str, known: int) -> None:
    if len(ids) and int(ids.max()) >= known:
        place = int((ids >= known).nonzero()[0])
        raise InputError(
            f"tokens must be ids from 0 to {known - 1}, which the model reads; {where} has {int(ids[place])} at place {place}: "
            "look whether tokenizer and model belong together"
        )


def _digest(body: str | Tensor) -> int:
    """A hash of a text or of tokens [pos], below 2**64; a text and its tokens have different ones."""
    return _hashed(b"text", body.encode()) if isinstance(body, str) else _hashed(b"tokens", body.numpy().tobytes())


def _hashed(*parts: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(b" ".join(parts), digest_size=8).digest(), "little")


def _utf8_length(text: str, where: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InputError(f"{where} is not a text that UTF-8 can hold: {error}; repair or leave it out") from error
