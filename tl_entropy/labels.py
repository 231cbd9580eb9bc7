"""Classes of tokens, made from tokens alone: one plan of classes serves every layer, head and checkpoint.

A document has *slots*: slot 0 is its BOS's (empty where it has none), slot 1 + p is position p of its body. A *label set* gives
each slot a class or leaves it undefined: the n tokens up to and including a slot (``bigram``), the next n (``next_bigram``),
its position, or anything that a mapping names: a function of a document's tokens, or values for documents or positions. With
one label set on the input side and one on the output side, I(X;Z) and I(Y;Z) of Conklin (2025, arXiv 2505.23960) are of the
same X, Y and Z only if both see the same tokens; so slots that any label set leaves undefined are left out of all
(``valid="common"``) unless asked otherwise.

n-grams stay inside their document and know nothing of the model's windows. Their ids are built by pairs, as the rank of
(id of the first half, id of the second half) among the pairs that occur: no code has a base, so none overflows and no two
n-grams share one, whatever the ids of the tokens.

Refused: unknown, repeated or no label names; values that fit neither the documents nor their positions, or both with different
meanings; floats; entries of several kinds; label sets in which nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import chain
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int

Side = Literal["input", "output", "other"]


@dataclass(frozen=True, slots=True)
class NGram:
    """A label set whose classes are n-grams; ``ngram`` makes one.

    Attributes:
        n: The number of tokens, from 1.
        side: "input" for the n tokens up to and including a position, "output" for the n tokens after it.
    """

    n: int
    side: Literal["input", "output"]

    def __post_init__(self) -> None:
        check_int("n", self.n, 1)
        check_choice("side", self.side, ("input", "output"))

    @property
    def name(self) -> str:
        """What it is called where nobody names it: ``token``, ``bigram``, ``trigram``, ``4-gram``, ...; ``next_token``, ..."""
        short = {1: "token", 2: "bigram", 3: "trigram"}.get(self.n, f"{self.n}-gram")
        return short if self.side == "input" else f"next_{short}"


def ngram(n: int, side: Literal["input", "output"] = "input") -> NGram:
    """The label set of the n tokens up to and including each position ("input"), or of the next n ("output").

    Raises:
        InputError: ``n`` is below 1, or ``side`` is neither.
        InputTypeError: ``n`` is not an int.

    >>> ngram(4, "output").name
    'next_4-gram'
    """
    return NGram(n, side)


_NGRAMS = {gram.name: gram for gram in (*map(ngram, (1, 2, 3)), *(ngram(n, "output") for n in (1, 2, 3)))}
NAMES = (*_NGRAMS, "position")
"""The label sets that a name alone asks for."""

Labels = str | NGram | Sequence[str | NGram] | Mapping[str, Any]


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


@dataclass(frozen=True, eq=False)
class LabelTable:
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
class LabelPlan:
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

    >>> abab = DocumentTokens(torch.tensor([-1, 7, 8, 7, 8]), torch.tensor([0, 1, 1, 1, 1]) > 0, torch.tensor([0, 1, 1, 1, 1]) > 0)
    >>> plan = LabelPlan.from_documents([abab], ("token", "bigram"))
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
        specifications = _specifications(labels)
        slots = _Slots(documents)
        if not slots.counted.any():
            raise InputError(f"documents hold nothing to label: none of {len(slots.starts) - 1} documents has a counted token")
        sets = [_labelled(name, specification, slots) for name, specification in specifications.items()]
        kept = torch.stack([slots.counted & (labelled.code >= 0) for labelled in sets])
        for labelled, own in zip(sets, kept, strict=True):
            if not own.any():
                raise InputError(f"labels: {labelled.name!r} gives no counted token a class: {labelled.why_none}")
        if valid == "common":
            kept = kept.all(0).expand_as(kept)
            if not kept.any():
                raise InputError(
                    f"labels: no token has a class in each of {', '.join(specifications)}; "
                    "ask for fewer of them at once, or pass valid='own'"
                )
        ids, keys = torch.full(kept.shape, -1, dtype=torch.int32), []
        for labelled, keep, row in zip(sets, kept, ids, strict=True):
            places = keep.nonzero()[:, 0]
            codes, classes = labelled.code[places].unique(return_inverse=True)
            row[places] = classes.int()
            # Any slot of a class can stand for it: whichever is written last.
            example = torch.empty_like(codes)
            example[classes] = places
            keys.append(labelled.keys(codes, example))
        return cls(
            names=tuple(specifications),
            sides=tuple(labelled.side for labelled in sets),
            orders=tuple(labelled.order for labelled in sets),
            starts=slots.starts,
            tokens=slots.tokens.int(),
            ids=ids,
            keys=tuple(keys),
            counted=int(slots.counted.sum()),
            valid=valid,
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

    def slots(self, document: Tensor, position: Tensor) -> Tensor:
        """The slots, on the plan's device, of rows given by their document's number and their position there (-1 for the BOS).

        Raises:
            InputError: The two differ in shape, or a row is of a document or position that the plan does not have.
        """
        document, position = document.to(self.starts.device), position.to(self.starts.device)
        if document.shape != position.shape:
            raise InputError(f"document and position must have one shape; got {[*document.shape]} and {[*position.shape]}")
        known = (document >= 0) & (document < self.n_documents)
        start, stop = (self.starts[torch.where(known, document, 0) + one] for one in (0, 1))
        slot = start + 1 + position
        known &= (position >= -1) & (slot < stop)
        known &= self.tokens[torch.where(known, slot, 0)] >= 0  # a BOS that is not there
        if not known.all():
            missing = int(document[~known][0]), int(position[~known][0])
            raise InputError(
                "document and position must be in the plan, which has {} documents; it has no document {} with a position {}; "
                "label the inputs that are measured".format(self.n_documents, *missing)
            )
        return slot

    def folds(self, number: int) -> Tensor:
        """``[document]`` long: a fold for each document, so that folds hold about equally many slots with a class.

        The largest document first, each goes into the lightest fold. No fold is empty: there are at most as many as documents
        that have a class in some label set. The other documents get fold 0.
        """
        check_int("number", number, 1)
        used = torch.bincount(self._document()[(self.ids >= 0).any(0)], minlength=self.n_documents)
        order = used.argsort(descending=True, stable=True)[: int((used > 0).sum())]
        loads = [(0, fold) for fold in range(min(number, len(order)))]
        chosen = []
        for size in used[order].tolist():
            load, fold = loads[0]
            chosen.append(fold)
            heapreplace(loads, (load + size, fold))
        folds = torch.zeros(self.n_documents, dtype=torch.long)
        folds[order] = torch.tensor(chosen)
        return folds

    def tables(self, number_of_folds: int) -> tuple[LabelTable, ...]:
        """A table for each label set, with the documents in ``folds(number_of_folds)``."""
        folds = self.folds(check_int("number_of_folds", number_of_folds, 1))
        return tuple(_table(ids, folds[self._document()], int(folds.max()) + 1) for ids in self.ids)

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
        for i, (name, side, used, share) in enumerate(
            zip(self.names, self.sides, self.used().tolist(), self.coverage().tolist(), strict=True)
        ):
            sizes = self.sizes(i)
            rows.append((name, side, f"{used:,}", f"{share:.1%}", f"{len(sizes):,}", f"{int((sizes == 1).sum()):,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        justify = [str.ljust, str.ljust, *[str.rjust] * 4]
        documents = f"{self.n_documents:,} document{'s' * (self.n_documents != 1)}"
        head = f'LabelPlan: {self.counted:,} tokens counted in {documents}, valid="{self.valid}"'
        lines = ("  ".join(put(*cell) for put, *cell in zip(justify, row, widths, strict=True)) for row in rows)
        return "\n".join((head, *lines))

    def _document(self) -> Tensor:
        return torch.arange(self.n_documents).repeat_interleave(self.starts.diff())

    def _index(self, label: str | int) -> int:
        if isinstance(label, str):
            check_choice("label", label, self.names)
            return self.names.index(label)
        return check_int("label", label, 0, len(self.names) - 1)


class _Slots:
    """The slots of all documents, end to end."""

    def __init__(self, documents: Iterable[DocumentTokens]) -> None:
        found = list(documents)
        for number, document in enumerate(found):
            _check(number, document)
        if not found:
            raise InputError("documents must hold at least one document; got none")
        lengths = torch.tensor([len(document.tokens) for document in found])
        self.starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        self.tokens = torch.cat([document.tokens for document in found]).long().cpu()
        self.counted = torch.cat([document.counted for document in found]).cpu()
        usable = torch.cat([document.usable for document in found]).cpu()
        self.document = torch.arange(len(found)).repeat_interleave(lengths)
        slot = torch.arange(len(self.tokens))
        first = self.starts[self.document]
        # The slot in its document: 0 for the BOS, 1 + position for a token of the body.
        self.place = slot - first
        self.last = self.starts[self.document + 1] - 1
        # How many usable slots end here in a row: the longest n-gram there is.
        self.run = slot - torch.where(usable, first - 1, slot).cummax(0).values
        self._grams: dict[int, Tensor] = {}

    def grams(self, n: int) -> Tensor:
        """``[slot]`` long: the rank, among all n-grams that occur, of the one that ends at each slot; -1 where none does."""
        if n not in self._grams:
            ends = (self.run >= n).nonzero()[:, 0]
            codes = self.tokens[ends]
            if n > 1:
                behind = n // 2
                # Ranks are below the number of slots, so a pair of them is one int64, in the order of the pairs.
                codes = self.grams(n - behind)[ends - behind] * len(self.tokens) + self.grams(behind)[ends]
            self._grams[n] = torch.full_like(self.tokens, -1)
            self._grams[n][ends] = codes.unique(return_inverse=True)[1]
        return self._grams[n]


def _check(number: int, document: DocumentTokens) -> None:
    tokens, counted, usable = document.tokens, document.counted, document.usable
    if tokens.ndim != 1 or not len(tokens) or not tokens.shape == counted.shape == usable.shape:
        shapes = ", ".join(str([*part.shape]) for part in (tokens, counted, usable))
        raise InputError(f"tokens, counted and usable of document {number} must be [slot], with a slot for a BOS; got {shapes}")
    low, high = tokens.min(), tokens.max()
    if low < -1 or high >= 2**31 or bool((tokens[1:] < 0).any()) or (tokens[0] < 0 and bool(counted[0] | usable[0])):
        raise InputError(
            f"tokens of document {number} must be ids from 0 to 2**31 - 1, or -1 in slot 0 for no BOS, neither counted nor usable; "
            f"got ids from {low} to {high}"
        )


class _Labelled(NamedTuple):
    """A label set before anything is left out: ``code`` [slot] long orders the classes, below 0 where undefined."""

    name: str
    side: Side
    order: int
    code: Tensor
    keys: Callable[[Tensor, Tensor], Any]  # from the codes of classes and a slot of each
    why_none: str


def _specifications(labels: object) -> dict[str, Any]:
    """Check the names, and give every label set one."""
    if isinstance(labels, Mapping):
        named = list(labels.items())
    else:
        asked = labels if isinstance(labels, Sequence) and not isinstance(labels, (str, bytes)) else [labels]
        for item in asked:
            if not isinstance(item, (str, NGram)):
                raise InputTypeError(
                    "labels must be a name, an ngram(n, side), some of these, or a mapping from names to these, to functions or "
                    f"to values; got {type(item).__name__}; give it a name, as labels={{'name': ...}}"
                )
        named = [(item.name if isinstance(item, NGram) else item, item) for item in asked]
    if not named:
        raise InputError(f"labels is empty; choose from {', '.join(NAMES)}")
    for name, specification in named:
        if not isinstance(name, str):
            raise InputTypeError(f"labels must have names that are str; got {name!r}")
        if isinstance(specification, str):
            check_choice("labels" if specification == name else f"labels[{name!r}]", specification, NAMES)
    repeated = sorted({name for name, _ in named if [other for other, _ in named].count(name) > 1})
    if repeated:
        raise InputError(f"labels must have different names; got {', '.join(repeated)} more than once")
    return dict(named)


def _labelled(name: str, specification: Any, slots: _Slots) -> _Labelled:
    if isinstance(specification, str) and specification == "position":
        return _Labelled(name, "other", 0, slots.place, lambda codes, _: codes[:, None] - 1, "")
    gram = _NGRAMS[specification] if isinstance(specification, str) else specification
    return _ngrams(name, gram, slots) if isinstance(gram, NGram) else _custom(name, gram, slots)


def _ngrams(name: str, gram: NGram, slots: _Slots) -> _Labelled:
    n, ahead = gram.n, gram.n if gram.side == "output" else 0
    places = torch.arange(len(slots.tokens))
    here = (places + ahead <= slots.last).nonzero()[:, 0]
    code = torch.full_like(slots.tokens, -1)
    code[here] = slots.grams(n)[here + ahead]

    def keys(_: Tensor, slot: Tensor) -> Tensor:
        return slots.tokens[slot[:, None] + torch.arange(ahead - n + 1, ahead + 1)]

    where = "after it" if ahead else "up to and including it"
    return _Labelled(
        name, gram.side, n, code, keys, f"none has {n} tokens {where} inside its document, special tokens not among them"
    )


def _custom(name: str, values: Any, slots: _Slots) -> _Labelled:
    where = f"labels[{name!r}]"
    lengths = slots.starts.diff() - 1
    if callable(values):
        bodies = slots.tokens[slots.place > 0].split(lengths.tolist())
        rows = [values(body.clone()) if len(body) else [] for body in bodies]
    else:
        rows = _listed(values, where)
    if callable(values) or (rows and _is_row(rows[0])):
        entries = _joined(rows, lengths.tolist(), where)
    else:
        entries = rows
    codes, texts = _codes(entries, where)
    readings = []
    if entries is rows and len(entries) == len(lengths):
        readings.append(codes[slots.document])
    if len(entries) == int(lengths.sum()):
        code = torch.full_like(slots.tokens, -1)
        code[slots.place > 0] = codes
        readings.append(code)
    if not readings:
        raise InputError(
            f"{where} must have {len(lengths)} entries, one for each document, or {int(lengths.sum())}, one for each position "
            f"of all documents, BOS not counted; got {len(entries)}"
        )
    if not torch.equal(readings[0][slots.counted], readings[-1][slots.counted]):
        raise InputError(
            f"{where} has {len(entries)} entries, which fits both the documents and their positions; pass one sequence of "
            "entries for each document, with an entry for each of its positions"
        )

    def keys(found: Tensor, _: Tensor) -> Any:
        return found[:, None] if texts is None else tuple(texts[i] for i in found.tolist())

    return _Labelled(name, "other", 0, readings[0], keys, "all its entries there are undefined")


def _is_row(value: object) -> bool:
    """Whether it is a sequence of entries: a list or the like, or an array or tensor that has an axis."""
    if hasattr(value, "tolist"):
        return getattr(value, "ndim", 1) > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _listed(values: Any, where: str) -> list:
    if not _is_row(values):
        raise InputTypeError(f"{where} must be a function of tokens, or a sequence of values; got {type(values).__name__}")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _joined(rows: list, lengths: list[int], where: str) -> list:
    """The entries of all documents from a row of them for each."""
    if len(rows) != len(lengths):
        raise InputError(f"{where} must have a sequence of entries for each of {len(lengths)} documents; got {len(rows)}")
    joined = []
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        entries = _listed(row, f"{where} of document {number}")
        if len(entries) != length:
            raise InputError(
                f"{where} must have an entry for each of the {length} positions of document {number}, BOS not counted; "
                f"got {len(entries)}"
            )
        joined.extend(entries)
    return joined


def _codes(entries: list, where: str) -> tuple[Tensor, list[str] | None]:
    """Entries as ``[entry]`` long, in the order of their classes and below 0 where undefined; texts of str and bool ones."""
    kinds = {_kind(found) for found in set(map(type, entries)) - {NoneType}}
    if len(kinds) > 1 or not kinds <= {"int", "str", "bool"}:
        raise InputTypeError(
            f"{where} must have entries that are all int, all str or all bool, with None for undefined ones; "
            f"got {', '.join(sorted(kinds))}"
        )
    if kinds <= {"int"}:
        try:
            return torch.from_numpy(np.array([-1 if entry is None else entry for entry in entries], dtype=np.int64)), None
        except OverflowError:
            raise InputError(
                f"{where} must have ints of at most 64 bits; number larger ones anew, or pass them as str"
            ) from None
    texts = sorted({str(entry) for entry in entries if entry is not None})
    code = {text: number for number, text in enumerate(texts)}
    return torch.tensor([-1 if entry is None else code[str(entry)] for entry in entries]), texts


def _kind(found: type) -> str:
    kinds = {"bool": (bool, np.bool_), "int": (int, np.integer), "str": str}
    return next((name for name, members in kinds.items() if issubclass(found, members)), found.__name__)


def _table(ids: Tensor, fold: Tensor, n_folds: int) -> LabelTable:
    labelled = (ids >= 0).nonzero()[:, 0]
    repeats = torch.bincount(ids[labelled])[ids[labelled]] > 1
    often, once = labelled[repeats], labelled[~repeats]
    pairs, row = (ids[often].long() * n_folds + fold[often]).unique(return_inverse=True)
    rows = torch.full_like(ids, -1)
    rows[often] = row.int()
    rows[once] = (len(pairs) + fold[once]).int()
    return LabelTable(
        rows,
        row_class=torch.cat([pairs // n_folds, torch.full((n_folds,), -1)]),
        row_fold=torch.cat([pairs % n_folds, torch.arange(n_folds)]),
    )
