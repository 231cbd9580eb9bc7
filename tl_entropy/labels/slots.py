"""The slots of all documents, end to end, and the n-grams in them.

A document has *slots*: slot 0 is its BOS's (empty where it has none), slot 1 + p is position p of its body. An n-gram is n
usable slots in a row inside one document; the model's windows do not matter.

n-grams are numbered by pairs: the number of one is the rank of (number of its first half, number of its second half) among the
pairs that occur. Such a code has the number of slots for its base, so none overflows, and no two n-grams share one, whatever
the ids of the tokens and however long the n-gram. Codes of base vocabulary size do both.

Refused: documents without a slot for a BOS, ids that no tokenizer has, no documents.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError

_AT_ONCE = 2**14  # slots


@dataclass(frozen=True, eq=False)
class DocumentTokens:
    """What a plan needs of one document.

    Attributes:
        tokens: ``[slot]`` long; slot 0 is the BOS's (-1 where the document has none), slot 1 + p is position p of the body.
        counted: ``[slot]`` bool; the slots that enter statistics.
        usable: ``[slot]`` bool; the slots that may be part of an n-gram: no special tokens, unless those are counted.
    """

    tokens: Tensor
    counted: Tensor
    usable: Tensor


class Slots:
    """The slots of all documents, one after the other, on the CPU: a few bytes of each are kept, whatever documents came as.

    Attributes:
        starts: ``[document + 1]`` long; the first slot of each document, and the number of slots.
        tokens: ``[slot]`` int32; -1 where there is no BOS.
        counted: ``[slot]`` bool.
        usable: ``[slot]`` bool.

    Raises:
        InputError: There is no document, or one is not what ``DocumentTokens`` says.

    >>> usable = torch.tensor([False, True, True, True])
    >>> Slots([DocumentTokens(torch.tensor([-1, 5, 5, 3]), usable, usable)]).grams(2).tolist()  # (5, 3) and (5, 5) occur
    [-1, -1, 1, 0]
    """

    def __init__(self, documents: Iterable[DocumentTokens]) -> None:
        lengths, tokens, flags = array("q"), bytearray(), bytearray()
        for some in _some(documents):
            _check(some, len(lengths))
            lengths.extend(len(document.tokens) for document in some)
            tokens += torch.cat([document.tokens for document in some]).int().cpu().numpy().tobytes()
            counted, usable = (torch.cat([getattr(document, of) for document in some]) for of in ("counted", "usable"))
            flags += (counted.byte() + 2 * usable.byte()).cpu().numpy().tobytes()
        if not lengths:
            raise InputError("documents must hold at least one document; got none")
        ends = torch.frombuffer(lengths, dtype=torch.long).cumsum(0)
        both = torch.frombuffer(flags, dtype=torch.uint8)
        self._hold(torch.cat([ends.new_zeros(1), ends]), torch.frombuffer(tokens, dtype=torch.int32), both % 2 > 0, both > 1)

    @classmethod
    def of(cls, starts: Tensor, tokens: Tensor, counted: Tensor, usable: Tensor) -> Self:
        """The slots with these attributes."""
        self = cls.__new__(cls)
        self._hold(starts, tokens, counted, usable)
        return self

    def _hold(self, starts: Tensor, tokens: Tensor, counted: Tensor, usable: Tensor) -> None:
        self.starts, self.tokens, self.counted, self.usable = starts, tokens, counted, usable
        self._grams: dict[int, Tensor] = {}

    @property
    def document(self) -> Tensor:
        """``[slot]`` long; the document of each slot."""
        return torch.arange(len(self.starts) - 1).repeat_interleave(self.starts.diff())

    @property
    def place(self) -> Tensor:
        """``[slot]`` long; the slot's number in its document."""
        return torch.arange(len(self.tokens)) - self.starts[:-1].repeat_interleave(self.starts.diff())

    @cached_property
    def _run(self) -> Tensor:
        """``[slot]`` int32; how many usable slots in a row end at each, in its document: the longest n-gram that ends there."""
        slot = torch.arange(len(self.tokens), dtype=torch.int32)
        before = self.starts[:-1].int().sub_(1).repeat_interleave(self.starts.diff())
        before[~self.usable] = slot[~self.usable]
        # Not cummax: it gives places, too, which take twice as much.
        return slot.sub_(torch.from_numpy(np.maximum.accumulate(before.numpy())))

    def grams(self, n: int) -> Tensor:
        """``[slot]`` int32: the rank, among all n-grams that occur, of the one that ends at each slot; -1 where none does."""
        if n not in self._grams:
            ends = (self._run >= n).nonzero()[:, 0]
            codes = self.tokens[ends]
            if n > 1:
                tail = n // 2
                # Both ranks are below the number of slots, itself below 2**31, so this is exact.
                codes = self.grams(n - tail)[ends - tail].long() * len(self.tokens) + self.grams(tail)[ends]
            ranks = torch.full_like(self.tokens, -1)
            ranks[ends] = codes.unique(return_inverse=True)[1].int()
            self._grams[n] = ranks
        return self._grams[n]

    def following_grams(self, n: int) -> Tensor:
        """``[slot]`` int32: the same rank of the n-gram that begins at the next slot."""
        grams = torch.full_like(self.tokens, -1)
        last = self.starts[1:].repeat_interleave(self.starts.diff()) - 1
        here = (torch.arange(len(grams)) + n <= last).nonzero()[:, 0]
        grams[here] = self.grams(n)[here + n]
        return grams


def _some(documents: Iterable[DocumentTokens]) -> Iterator[list[DocumentTokens]]:
    """As many at a time as have some thousand tokens."""
    found: list[DocumentTokens] = []
    slots = 0
    for document in documents:
        found.append(document)
        slots += document.tokens.numel()
        if slots > _AT_ONCE or len(found) > _AT_ONCE // 16:
            yield found
            found, slots = [], 0
    if found:
        yield found


def _check(documents: Sequence[DocumentTokens], first: int) -> None:
    """Raise InputError unless these documents, numbered from ``first``, are what ``DocumentTokens`` says."""
    for number, one in enumerate(documents, start=first):
        shapes = [[*part.shape] for part in (one.tokens, one.counted, one.usable)]
        if one.tokens.ndim != 1 or not len(one.tokens) or shapes != shapes[:1] * 3:
            raise InputError(
                f"tokens, counted and usable of document {number} must all be [slot], with slot 0 for the BOS; "
                f"got {', '.join(map(str, shapes))}"
            )
        tokens = one.tokens
        wrong = (tokens < 0) | (tokens >= 2**31)
        wrong[0] &= bool((tokens[0] != -1) | one.counted[0] | one.usable[0])
        if wrong.any():
            place = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"tokens of document {number} must be ids from 0 to 2**31 - 1, or -1 in slot 0 where there is no BOS, neither "
                f"counted nor usable; got {int(tokens[place])} in slot {place}"
            )
