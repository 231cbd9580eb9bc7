"""Which class each token has in each label set, where its sums go, and in which fold its document is.

With one label set on the input side and one on the output side, I(X;Z) and I(Y;Z) of Conklin (2025, arXiv 2505.23960) are about
one Z only if both are measured on the same tokens: so a token that any label set leaves undefined is left out of all of them
(``valid="common"``), unless each is asked to use all it can (``"own"``).

Sums are kept by class and fold of documents, so that no document predicts itself, and for errors over documents. A class that
is seen once says nothing by itself, so such classes share a row: memory grows with the classes that repeat.

Refused: label sets in which no token has a class; rows of documents or positions that were not there when the plan was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, check_int, counted, warn
from tl_entropy.functional.statistics import balanced_folds
from tl_entropy.labels.sets import Labels, Side, label_set, named
from tl_entropy.labels.slots import DocumentTokens, Slots
from tl_entropy.state import Kept
from tl_entropy.torch_state import Steady

LARGE = 2**30
"""Bytes from which on what a plan takes while it is made is told of."""


@dataclass(frozen=True, eq=False)
class LabelTable(Steady):
    """Where each slot's soft assignment is added up.

    One row for each pair of a class seen at least twice and a fold in which it occurs, by class and then by fold; behind them
    one row for each fold, empty or not, that pools the classes seen once. So memory grows with the classes that repeat.

    Attributes:
        rows: ``[slot]`` int32; the row of each slot, -1 where it has no class.
        row_class: ``[row]`` long; the class of each row, -1 for the pooled ones.
        row_fold: ``[row]`` long; the fold of each row.
    """

    rows: Tensor
    row_class: Tensor
    row_fold: Tensor

    @property
    def n_rows(self) -> int:
        """The number of rows, pooled ones included."""
        return len(self.row_class)


@dataclass(frozen=True, eq=False)
class LabelPlan(Steady, Kept):
    """Which class each slot of all documents has, in each label set.

    Classes are numbered from 0 in the order of their keys: n-grams by their token ids, first token first, positions and
    integers by size, texts by code point. Only classes of slots that are kept have a number.

    Attributes:
        names: The label sets' names.
        sides: The side of each: "input", "output" or "other".
        orders: The n of each n-gram; 0 for anything else.
        starts: ``[document + 1]`` long; the first slot of each document among all slots, and the number of slots.
        tokens: ``[slot]`` int32; all slots of all documents.
        ids: ``[label, slot]`` int32; classes, -1 where a slot is not counted, or left out.
        keys: What the classes of each label set are: the token ids of n-grams, ``[class, n]`` long; positions (-1 for the BOS)
            or integer ids, ``[class, 1]`` long; a tuple of texts for other labels.
        counted: The number of counted slots.
        valid: Whether all label sets share one set of slots ("common") or each has all it can ("own").
        usable: ``[slot]`` bool; the slots that may be part of an n-gram.

    >>> tokens = torch.tensor([-1, 7, 8, 7, 8])
    >>> plan = LabelPlan.from_documents([DocumentTokens(tokens, tokens >= 0, tokens >= 0)], ("token", "bigram"))
    >>> plan
    LabelPlan: 4 tokens counted in 1 document, valid="common"
    label   side   tokens  coverage  classes  seen once
    token   input       3     75.0%        2          1
    bigram  input       3     75.0%        2          1
    >>> plan.texts("bigram", {7: "a", 8: "b"}), plan.sizes("bigram").tolist()
    (['ab', 'ba'], [2, 1])
    """

    names: tuple[str, ...]
    sides: tuple[Side, ...]
    orders: tuple[int, ...]
    starts: Tensor
    tokens: Tensor
    ids: Tensor
    keys: tuple[Any, ...]
    counted: int
    valid: Literal["common", "own"]
    usable: Tensor

    @classmethod
    def from_documents(
        cls, documents: Iterable[DocumentTokens], labels: Labels, *, valid: Literal["common", "own"] = "common"
    ) -> LabelPlan:
        """Label every counted slot.

        Args:
            documents: All documents, in the order of their numbers, empty ones included.
            labels: A name from ``NAMES`` or an ``NGram``; a sequence of these; or a mapping from a name to either, to a
                function of a document's body tokens ``[pos]`` (long) that returns an entry for each, or to values: one for
                each document, one for each body position of all documents one after the other, or a sequence of such entries
                for each document. Entries are all int, all str or all bool; None and ints below 0 mean undefined. Values for
                documents also hold at a counted BOS; values for positions do not.
            valid: "common" leaves slots that any label set leaves undefined out of all of them; "own" does not.

        Raises:
            InputError: No label set, an unknown or repeated name, values of a wrong or ambiguous length, documents that are
                not as described, or a label set without a single class.
            InputTypeError: Labels, values or entries of a kind that is not understood, such as floats.
        """
        check_choice("valid", valid, ("common", "own"))
        named(labels)  # refused before anything is read
        return cls.from_slots(Slots(documents), labels, valid=valid)

    @classmethod
    def from_slots(cls, slots: Slots, labels: Labels, *, valid: Literal["common", "own"] = "common") -> LabelPlan:
        """Label every counted slot; ``labels``, ``valid`` and what is raised as for ``from_documents``."""
        check_choice("valid", valid, ("common", "own"))
        asked = named(labels)
        if not slots.counted.any():
            raise InputError(
                f"documents must hold a counted token; got {counted(len(slots.starts) - 1, 'document')} with none; pass some "
                "text"
            )
        _announce(len(slots.tokens), len(asked))
        sets = {name: label_set(name, asked_for, slots) for name, asked_for in asked.items()}
        kept = torch.stack([slots.counted & (one.codes >= 0) for one in sets.values()])
        for (name, one), own in zip(sets.items(), kept, strict=True):
            if not own.any():
                raise InputError(f"labels: {name!r} has a class for no counted token: {one.why_none}; leave it out")
        if valid == "common":
            kept = kept.all(0).expand_as(kept)
            if not kept.any():
                raise InputError(
                    f"labels: no token has a class in each of {', '.join(sets)}; ask for fewer, or pass valid='own'"
                )
        ids, keys = torch.full(kept.shape, -1, dtype=torch.int32), []
        for one, keep, row in zip(sets.values(), kept, ids, strict=True):
            slot = keep.nonzero()[:, 0]
            codes, classes = one.codes[slot].unique(return_inverse=True)
            row[slot] = classes.int()
            # Any slot of a class can stand for it: here whichever is written last.
            example = torch.empty(len(codes), dtype=torch.long)
            example[classes] = slot
            keys.append(one.keys(codes, example))
        return cls(
            names=tuple(sets),
            sides=tuple(one.side for one in sets.values()),
            orders=tuple(one.order for one in sets.values()),
            starts=slots.starts,
            tokens=slots.tokens,
            ids=ids,
            keys=tuple(keys),
            counted=int(slots.counted.sum()),
            valid=valid,
            usable=slots.usable,
        )

    @property
    def n_documents(self) -> int:
        """The number of documents, empty ones included."""
        return len(self.starts) - 1

    def used(self) -> Tensor:
        """``[label]`` long: the slots that have a class."""
        return (self.ids >= 0).sum(1)

    def coverage(self) -> Tensor:
        """``[label]`` float64 from 0 to 1: the share of the counted slots that have a class."""
        return self.used().double() / self.counted

    def sizes(self, label: str | int) -> Tensor:
        """``[class]`` long: how often each class of a label set, given by name or number, occurs; at least once."""
        ids = self.ids[self._index(label)]
        return torch.bincount(ids[ids >= 0])

    def check_bodies(self, documents: Iterable[int], bodies: Iterable[Tensor]) -> None:
        """Raise InputError unless these documents, by number, have these tokens ``[pos]`` (the BOS not counted) in the plan."""
        for document, body in zip(documents, bodies, strict=True):
            known = 0 <= document < self.n_documents
            planned = self.tokens[self.starts[document] + 1 : self.starts[document + 1]] if known else self.tokens[:0]
            if not torch.equal(planned.long().cpu(), body.cpu()):
                raise InputError(
                    f"labels: the plan was made from other tokens than those that are read, of document {document}; make it "
                    "from the same inputs, in the same order: from a list, or a loader that does not shuffle"
                )

    def slots(self, document: Tensor, position: Tensor) -> Tensor:
        """The slots, on the plan's device, of rows given by their document's number and their position there (-1 for the BOS).

        Raises:
            InputError: The two differ in shape, or a row is of a document or position that the plan does not have.
        """
        document, position = document.to(self.starts.device), position.to(self.starts.device)
        if document.shape != position.shape:
            raise InputError(f"document and position must have one shape; got {[*document.shape]} and {[*position.shape]}")
        known = (document >= 0) & (document < self.n_documents)
        row = torch.where(known, document, 0)
        slot = self.starts[row] + 1 + position
        known &= (position >= -1) & (slot < self.starts[row + 1])
        # A slot without a token is that of a BOS that is not there.
        known &= self.tokens[torch.where(known, slot, 0)] >= 0
        if not known.all():
            i, j = int(document[~known][0]), int(position[~known][0])
            raise InputError(
                f"document and position must be in the plan, which has {self.n_documents} documents; it has no position {j} in "
                f"document {i}; make the plan from the inputs that are measured"
            )
        return slot

    def folds(self, number: int) -> Tensor:
        """``[document]`` long: a fold for each document, so that folds hold about equally many slots with a class.

        The largest document first, equal ones in random order (seeded), each goes into the lightest fold. No fold is empty:
        there are at most as many as documents that have a class in some label set. The other documents get fold 0.

        Raises:
            InputError: ``number`` is below 1.
            InputTypeError: It is not an int.
        """
        number = check_int("number", number, 1)
        used = torch.bincount(self._document()[(self.ids >= 0).any(0)], minlength=self.n_documents)
        return balanced_folds(used, number)

    def tables(self, number_of_folds: int) -> tuple[LabelTable, ...]:
        """A table for each label set, with the documents in ``folds(number_of_folds)``; raises what that does."""
        folds = self.folds(check_int("number_of_folds", number_of_folds, 1))
        of_slots = folds.int().repeat_interleave(self.starts.diff())
        return tuple(_table(ids, of_slots, int(folds.max()) + 1) for ids in self.ids)

    def texts(self, label: str | int, strings: Mapping[int, str]) -> list[str]:
        """Every class of a label set as text; ``strings`` are those of the tokens, by id, which n-grams string together.

        Raises:
            InputError: There is no such label set, or ``strings`` lacks a token.
        """
        index = self._index(label)
        keys = self.keys[index]
        if isinstance(keys, tuple):
            return list(keys)
        if not self.orders[index]:
            return [str(number) for (number,) in keys.tolist()]
        try:
            return ["".join(strings[token] for token in key) for key in keys.tolist()]
        except KeyError as error:
            raise InputError(f"strings must have the text of every token id; it lacks {error}") from None

    def __repr__(self) -> str:
        rows = [("label", "side", "tokens", "coverage", "classes", "seen once")]
        for name, side, used, share in zip(self.names, self.sides, self.used().tolist(), self.coverage().tolist(), strict=True):
            sizes = self.sizes(name)
            rows.append((name, side, f"{used:,}", f"{share:.1%}", f"{len(sizes):,}", f"{int((sizes == 1).sum()):,}"))
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, wide, strict=True))
            )
            for row in rows
        )
        documents = counted(self.n_documents, "document", ",")
        head = f'LabelPlan: {counted(self.counted, "token", ",")} counted in {documents}, valid="{self.valid}"'
        return "\n".join((head, *lines))

    def _document(self) -> Tensor:
        return torch.arange(self.n_documents).repeat_interleave(self.starts.diff())

    def _index(self, label: str | int) -> int:
        if isinstance(label, str):
            check_choice("label", label, self.names)
            return self.names.index(label)
        return check_int("label", label, 0, len(self.names) - 1)


def _table(ids: Tensor, fold: Tensor, n_folds: int) -> LabelTable:
    labelled = (ids >= 0).nonzero()[:, 0]
    repeats = torch.bincount(ids[labelled])[ids[labelled]] > 1
    often, once = labelled[repeats], labelled[~repeats]
    pairs, row = (ids[often].long() * n_folds + fold[often]).unique(return_inverse=True)
    rows = torch.full_like(ids, -1)
    rows[often] = row.int()
    rows[once] = len(pairs) + fold[once]
    return LabelTable(
        rows,
        row_class=torch.cat([pairs // n_folds, torch.full((n_folds,), -1)]),
        row_fold=torch.cat([pairs % n_folds, torch.arange(n_folds)]),
    )


def _announce(slots: int, sets: int) -> None:
    """Warn of what a plan takes while it is made, where that is much: 20 bytes a slot and 55 more for each label set."""
    if (size := slots * (20 + 55 * sets)) >= LARGE:
        warn(
            f"the plan of {counted(sets, 'label set')} for {counted(slots, 'position', ',')} takes about "
            f"{size / 2**30:.1f} GiB while it is made; fewer labels or documents take less"
        )
