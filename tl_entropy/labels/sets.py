"""Label sets: what can be asked for by name, as an n-gram, as a function of tokens, or as values.

A label set gives each slot of each document a class, or leaves it undefined. Classes come as codes, whose order is the order
of the classes, so that numbers given to classes depend on the data alone.

Values are entries for documents (a language, a preference) or for positions. A flat sequence is one or the other by its length;
where it fits both, the two readings must agree.

Refused: unknown, repeated or no names; values of a length that fits nothing, or two readings; NaN (what is undefined is None);
floats, since a float is no class; entries of several kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, counted, printable
from tl_entropy.labels.slots import Slots
from tl_entropy.torch_state import steady, yours

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
        object.__setattr__(self, "n", check_int("n", self.n, 1))
        check_choice("side", self.side, ("input", "output"))

    @property
    def name(self) -> str:
        """What it is called where nobody names it: ``token``, ``bigram``, ``trigram``, ``4-gram``, ...; ``next_token``, ..."""
        short = {1: "token", 2: "bigram", 3: "trigram"}.get(self.n, f"{self.n}-gram")
        return short if self.side == "input" else f"next_{short}"


@steady
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


class LabelSet(NamedTuple):
    """A label set on given slots, before any slot is left out.

    Attributes:
        side: "input" or "output" for n-grams, "other" for all else.
        order: The n of n-grams; 0 for all else.
        codes: ``[slot]`` long or int32; the same code for the same class, in the order of the classes; below 0 where undefined.
        keys: What classes are, from the code of each ``[class]`` and a slot of each ``[class]``.
        why_none: How it can be that no counted slot has a class.
    """

    side: Side
    order: int
    codes: Tensor
    keys: Callable[[Tensor, Tensor], Any]
    why_none: str


def named(labels: Labels) -> dict[str, Any]:
    """Give every label set of ``labels`` its name, and check the names.

    Raises:
        InputError: There is no label set, or a name that is unknown or repeated.
        InputTypeError: A label set that needs a name and has none, or a name that is not a str.

    >>> named(("token", ngram(4)))
    {'token': 'token', '4-gram': NGram(n=4, side='input')}
    """
    if isinstance(labels, Mapping):
        pairs = [(printable(name) if isinstance(name, str) else name, value) for name, value in labels.items()]
    else:
        asked = labels if isinstance(labels, Sequence) and not isinstance(labels, str) else [labels]
        unnamed = [type(item).__name__ for item in asked if not isinstance(item, str | NGram)]
        if unnamed:
            raise InputTypeError(
                "labels must be a name, an ngram(n, side), a sequence of these, or a mapping from a name to one of these, to a "
                f"function or to values; got {unnamed[0]}; give it a name, as in labels={{'language': values}}"
            )
        pairs = [(item.name if isinstance(item, NGram) else item, item) for item in asked]
    if not pairs:
        raise InputError(f"labels must name at least one label set; got none; choose from {', '.join(NAMES)}")
    for name, asked_for in pairs:
        if not isinstance(name, str):
            raise InputTypeError(f"labels must have names that are str; got {name!r}")
        if isinstance(asked_for, str):
            check_choice(f"labels[{name!r}]" if isinstance(labels, Mapping) else "labels", asked_for, NAMES)
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"labels must have different names; got {', '.join(map(repr, repeated))} more than once")
    return dict(pairs)


def label_set(name: str, asked_for: Any, slots: Slots) -> LabelSet:
    """The label set ``asked_for``, one value of what ``named`` returns, on ``slots``.

    Raises:
        InputError: Values of a length that does not fit, or fits twice, or a NaN among them.
        InputTypeError: Values or entries of a kind that is not understood.
    """
    if isinstance(asked_for, str) and asked_for == "position":
        return LabelSet("other", 0, slots.place, lambda codes, _: codes[:, None] - 1, "")
    gram = _NGRAMS[asked_for] if isinstance(asked_for, str) else asked_for
    return _ngrams(gram, slots) if isinstance(gram, NGram) else _custom(f"labels[{name!r}]", gram, slots)


def _ngrams(gram: NGram, slots: Slots) -> LabelSet:
    n, ahead = gram.n, gram.side == "output"

    def keys(_: Tensor, slot: Tensor) -> Tensor:
        return slots.tokens[slot[:, None] + torch.arange(n) + (1 if ahead else 1 - n)].long()

    codes = slots.following_grams(n) if ahead else slots.grams(n)
    where = "after it" if ahead else "up to and including it"
    return LabelSet(
        gram.side, n, codes, keys, f"none has {counted(n, 'token')} {where} in its document without a special one among them"
    )


def _custom(where: str, values: Any, slots: Slots) -> LabelSet:
    lengths = (slots.starts.diff() - 1).tolist()
    body = slots.place > 0
    if callable(values):
        with yours():
            rows = [values(tokens) if len(tokens) else [] for tokens in slots.tokens[body].long().split(lengths)]
    else:
        rows = _listed(values, where)
    nested = callable(values) or bool(rows and _is_row(rows[0]))
    entries = _joined(rows, lengths, where) if nested else rows
    codes, texts = _codes(entries, where)
    readings = []
    if len(entries) == len(lengths) and not nested:
        readings.append(codes[slots.document])
    if len(entries) == sum(lengths):
        by_position = codes.new_full((len(body),), -1)
        by_position[body] = codes
        readings.append(by_position)
    if not readings:
        raise InputError(
            f"{where} must have {len(lengths)} entries, one for each document, or {sum(lengths)}, one for each position of all "
            f"documents, BOS not counted; got {len(entries)}"
        )
    if not torch.equal(readings[0][slots.counted], readings[-1][slots.counted]):
        raise InputError(
            f"{where} must have values for documents or for positions, but {len(entries)} entries fit both; pass one sequence "
            "for each document, with an entry for each of its positions"
        )

    def keys(found: Tensor, _: Tensor) -> Any:
        return found[:, None] if texts is None else tuple(texts[code] for code in found.tolist())

    return LabelSet("other", 0, readings[0], keys, "all its entries there are undefined")


def _is_row(value: Any) -> bool:
    """Whether it is a sequence of entries: a list or the like, or an array or tensor with an axis."""
    if hasattr(value, "tolist"):
        return bool(getattr(value, "ndim", 1))
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _listed(values: Any, where: str) -> list:
    if not _is_row(values):
        raise InputTypeError(f"{where} must be a function of tokens or a sequence of entries; got {type(values).__name__}")
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if not set(map(_kind, set(map(type, listed)))) <= {"bool", "int", "str", "NoneType"}:
        for place, entry in enumerate(listed):
            if entry is not None and pd.api.types.is_scalar(entry) and pd.isna(entry):
                raise InputError(
                    f"{where} must not hold {entry}, as entry {place} (from 0) is; where a label is undefined give -1 among "
                    "ints, as series.fillna(-1).astype(int), or None, as series.astype(object).where(series.notna(), None)"
                )
    return listed


def _joined(rows: list, lengths: list[int], where: str) -> list:
    """The entries of all positions, from a sequence of them for each document."""
    if len(rows) != len(lengths):
        raise InputError(f"{where} must have one sequence for each of {len(lengths)} documents; got {len(rows)}")
    joined = []
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        entries = _listed(row, f"{where} of document {number}")
        if len(entries) != length:
            raise InputError(
                f"{where} of document {number} must have {length} entries, one for each position, BOS not counted; "
                f"got {len(entries)}"
            )
        joined.extend(entries)
    return joined


def _codes(entries: list, where: str) -> tuple[Tensor, list[str] | None]:
    """Entries as codes ``[entry]``; with the text of each code, except for ints, which are their own codes."""
    kinds = {_kind(found) for found in set(map(type, entries)) - {NoneType}}
    if len(kinds) > 1 or not kinds <= {"int", "str", "bool"}:
        raise InputTypeError(
            f"{where} must have entries that are all int, all str or all bool, with None for undefined ones; "
            f"got {' and '.join(sorted(kinds))}"
        )
    if kinds <= {"int"}:
        try:
            return torch.from_numpy(np.array([-1 if entry is None else entry for entry in entries], dtype=np.int64)), None
        except OverflowError:
            raise InputError(f"{where} must have ints of at most 64 bits; pass larger ones as str") from None
    texts = sorted({str(entry) for entry in entries if entry is not None})
    code = {text: number for number, text in enumerate(texts)}
    codes = torch.tensor([-1 if entry is None else code[str(entry)] for entry in entries], dtype=torch.long)
    return codes, [printable(text) for text in texts]


def _kind(found: type) -> str:
    kinds: dict[str, tuple[type, ...]] = {"bool": (bool, np.bool_), "int": (int, np.integer), "str": (str,)}
    return next((name for name, members in kinds.items() if issubclass(found, members)), found.__name__)
