"""Labels of spans of characters, as taggers and annotators give them, turned into labels of tokens, whatever the tokenizer.

One rule for all cases. A token is the characters that it stands for, without whitespace at its ends unless it has nothing else.
It has the label of the span that covers most of them, if that is at least half; of spans that cover as many, the shortest, and
of equally long ones the first given. So

    a span that cuts a token    labels it if it covers half of it or more
    spans inside each other     the inner one labels the tokens that both cover
    spans that overlap          each labels the tokens that it covers more of
    tokens without a span       have no label and are not counted, or the label ``outside``

All tokens of a character of several bytes have its label.

Refused: a span that is no (start, end, label), is empty or leaves its text; spans for another number of documents; a document
of which it is not known where in its text the tokens are. The document and the span are named.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.torch_state import Steady, steady, yours

Label = str | int | bool
_NAMES = ("label", "entity_group", "entity")  # of a label in a mapping


class Span(NamedTuple):
    """Characters [start, end) of a text, and what they are."""

    start: int
    end: int
    label: Label


class Places(NamedTuple):
    """Where the tokens of a document are: its text, and the characters [start, end) of it that each token [pos] stands for."""

    text: str
    spans: Tensor


@dataclass(frozen=True, eq=False)
class SpanLabels(Steady):
    """A label set whose classes are labels of spans of characters; ``span_labels`` makes one.

    Attributes:
        spans: those of each document, or a function from its text to them.
        outside: the label of tokens that no span labels; None for none.

    >>> import tl_entropy as tle
    >>> names = tle.span_labels(lambda text: [(7, 9, "module")] if text.startswith("import os") else [])
    >>> type(names).__name__
    'SpanLabels'
    """

    spans: Sequence[Iterable[Any]] | Callable[[str], Iterable[Any]]
    outside: Label | None = None

    def entries(self, where: str, documents: Sequence[Places | None]) -> list[list[Label | None]]:
        """The label of every token of every document, None for none.

        Args:
            where: what an error calls the label set.
            documents: where their tokens are; None where that is not known.

        Raises:
            InputError, InputTypeError: as the module says.
        """
        if not callable(self.spans) and len(self.spans) != len(documents):
            raise InputError(f"{where} must have the spans of each of {len(documents)} documents; got {len(self.spans)} lists")
        found: list[list[Label | None]] = []
        for number, places in enumerate(documents):
            here = f"{where}, document {number}"
            if places is not None and not len(places.spans):  # nothing to label
                found.append([])
                continue
            if places is None:
                raise InputError(
                    f"{here}: it is not known where in its text the tokens are, as of tokens that no text gives; pass texts, "
                    "or labels of positions"
                )
            if callable(self.spans):
                with yours():
                    given = list(self.spans(places.text))
            elif isinstance(self.spans[number], str | Mapping) or not isinstance(self.spans[number], Iterable):
                raise InputTypeError(f"{here} must be a list of spans; got {type(self.spans[number]).__name__}")
            else:
                given = list(self.spans[number])
            spans = [_checked(f"{here}, span {i}", span, places.text) for i, span in enumerate(given)]
            found.append(_token_labels(places, spans, self.outside))
        return found


@steady
def span_labels(spans: Sequence[Iterable[Any]] | Callable[[str], Iterable[Any]], *, outside: Label | None = None) -> SpanLabels:
    r"""A label set from spans of characters, such as named entities, parts of speech or sentences, for any tokenizer.

    A token, without whitespace at its ends, has the label of the span that covers most of it, if that is at least half; of
    spans that cover as many of its characters the shortest, then the first given.

    Args:
        spans: for each document a list of spans, or a function from a document's text to its spans. A span is (start, end,
            label), with characters [start, end) of the text as it was given; or a mapping with start, end and label (or
            entity_group, or entity), as pipelines of Hugging Face return; or an object with start_char, end_char and label_,
            as those of spaCy. Labels are all str, all int or all bool.
        outside: the label of tokens that no span labels; None leaves them out.

    Returns:
        ``SpanLabels``, for ``labels={"entity": span_labels(...)}`` in ``soft_information`` and ``label_plan``.

    Raises:
        InputTypeError: spans that are neither a list nor a function. Single spans are checked where texts are known.

    >>> import tl_entropy as tle
    >>> entities = tle.span_labels([[(7, 9, "module"), (17, 20, "module")]], outside="none")
    >>> tle.label_plan(tle.demo_model(), "import os\nimport sys\n", labels={"entity": entities})
    LabelPlan: 6 tokens counted in 1 document, valid="common"
    label   side   tokens  coverage  classes  seen once
    entity  other       6    100.0%        2          0
    """
    if isinstance(spans, str | Mapping) or not (callable(spans) or isinstance(spans, Sequence)):
        raise InputTypeError(
            "spans must be a list with the spans of each document, or a function from a text to them; got "
            f"{type(spans).__name__}"
        )
    return SpanLabels(spans, outside)


def _checked(where: str, span: Any, text: str) -> Span:
    """A span of a text, or an error that names it."""
    if isinstance(span, Mapping):
        name = next((name for name in _NAMES if name in span), "label")
        parts: tuple[Any, ...] = tuple(span.get(part) for part in ("start", "end", name))
    elif hasattr(span, "start_char"):
        parts = (span.start_char, span.end_char, span.label_)
    else:
        parts = tuple(span) if isinstance(span, Sequence) and not isinstance(span, str) else ()
    if len(parts) != 3 or any(isinstance(end, bool) or not hasattr(end, "__index__") for end in parts[:2]) or parts[2] is None:
        raise InputTypeError(f"{where} must be (start, end, label), with two ints and a label; got {span!r:.80}")
    if not isinstance(parts[2], str | int | np.integer | np.bool_):
        raise InputTypeError(f"{where} must have a label that is a str, an int or a bool; got {parts[2]!r:.80}")
    start, end = map(operator.index, parts[:2])
    if not 0 <= start < end <= len(text):
        raise InputError(
            f"{where} must have 0 <= start < end <= {len(text)}, the characters of its text; got {start} and {end}: look "
            "whether it is of this document, and in characters, not bytes or tokens"
        )
    return Span(start, end, parts[2])  # type: ignore[arg-type]


def _token_labels(places: Places, spans: Sequence[Span], outside: Label | None) -> list[Label | None]:
    """The label of each token, by the rule of the module."""
    waiting = sorted(enumerate(spans), key=lambda pair: -pair[1].start)  # the next one last
    open_: list[tuple[int, Span]] = []
    found: list[Label | None] = []
    for first, last in places.spans.tolist():
        while waiting and waiting[-1][1].start < last:
            open_.append(waiting.pop())
        open_ = [pair for pair in open_ if pair[1].end > first]
        start, end = _without_ends(places.text, first, last)
        covered = [(min(end, span.end) - max(start, span.start), span.start - span.end, -i, span.label) for i, span in open_]
        most = max(covered, key=lambda item: item[:3], default=None)
        found.append(most[3] if most is not None and 2 * most[0] >= end - start else outside)
    return found


def _without_ends(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a token without whitespace at its ends, unless it has nothing else."""
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return end - len(piece.lstrip()), start + len(piece.rstrip())
