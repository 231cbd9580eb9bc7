"""The slots of all documents, end to end, and the n-grams in them.

A document has *slots*: slot 0 is its BOS's (empty where it has none), slot 1 + p is position p of its body. An n-gram is n
usable slots in a row inside one document; the model's windows do not matter.

n-grams are numbered by pairs: the number of one is the rank of (number of its first half, number of its second half) among the
pairs that occur. Such a code has the number of slots for its base, so none overflows, and no two n-grams share one, whatever
the ids of the tokens and however long the n-gram. Codes of base vocabulary size do both.

Refused: documents without a slot for a BOS, ids that no tokenizer has, no documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_entropy.errors import InputError


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
    """The slots of all documents, one after the other, on the CPU.

    Attributes:
        starts: ``[document + 1]`` long; the first slot of each document, and the number of slots.
        document: ``[slot]`` long; the document of each slot.
        place: ``[slot]`` long; the slot's number in its document.
        tokens: ``[slot]`` long; -1 where there is no BOS.
        counted: ``[slot]`` bool.

    Raises:
        InputError: There is no document, or one is not what ``DocumentTokens`` says.

    >>> usable = torch.tensor([False, True, True, True])
    >>> Slots([DocumentTokens(torch.tensor([-1, 5, 5, 3]), usable, usable)]).grams(2).tolist()  # (5, 3) and (5, 5) occur
    [-1, -1, 1, 0]
    """

    def __init__(self, documents: Iterable[DocumentTokens]) -> None:
        found = list(documents)
        if not found:
            raise InputError("documents must hold at least one document; got none")
        for number, one in enumerate(found):
            shapes = [[*part.shape] for part in (one.tokens, one.counted, one.usable)]
            if one.tokens.ndim != 1 or not len(one.tokens) or shapes != shapes[:1] * 3:
                raise InputError(
                    f"tokens, counted and usable of document {number} must all be [slot], with slot 0 for the BOS; "
                    f"got {', '.join(map(str, shapes))}"
                )
        lengths = torch.tensor([len(document.tokens) for document in found])
        self.starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        self.document = torch.arange(len(found)).repeat_interleave(lengths)
        self.tokens = torch.cat([document.tokens for document in found]).long().cpu()
        self.counted = torch.cat([document.counted for document in found]).cpu()
        usable = torch.cat([document.usable for document in found]).cpu()
        slot, first = torch.arange(len(self.tokens)), self.starts[self.document]
        self.place = slot - first
        missing = (self.tokens == -1) & (self.place == 0) & ~self.counted & ~usable
        wrong = ~missing & ((self.tokens < 0) | (self.tokens >= 2**31))
        if wrong.any():
            number, token, place = (int(part[wrong][0]) for part in (self.document, self.tokens, self.place))
            raise InputError(
                f"tokens of document {number} must be ids from 0 to 2**31 - 1, or -1 in slot 0 where there is no BOS, neither "
                f"counted nor usable; got {token} in slot {place}"
            )
        # How many usable slots in a row end at each, in its document: the longest n-gram that ends there.
        self._run = slot - torch.where(usable, first - 1, slot).cummax(0).values
        self._grams: dict[int, Tensor] = {}

    def grams(self, n: int) -> Tensor:
        """``[slot]`` long: the rank, among all n-grams that occur, of the one that ends at each slot; -1 where none does."""
        if n not in self._grams:
            ends = (self._run >= n).nonzero()[:, 0]
            codes = self.tokens[ends]
            if n > 1:
                tail = n // 2
                # Both ranks are below the number of slots, itself below 2**31, so this is exact.
                codes = self.grams(n - tail)[ends - tail] * len(self.tokens) + self.grams(tail)[ends]
            ranks = torch.full_like(self.tokens, -1)
            ranks[ends] = codes.unique(return_inverse=True)[1]
            self._grams[n] = ranks
        return self._grams[n]

    def following_grams(self, n: int) -> Tensor:
        """``[slot]`` long: the same rank of the n-gram that begins at the next slot."""
        grams = torch.full_like(self.tokens, -1)
        last = self.starts[self.document + 1] - 1
        here = (torch.arange(len(grams)) + n <= last).nonzero()[:, 0]
        grams[here] = self.grams(n)[here + n]
        return grams
