r"""Words of a text, and which tokens are theirs, by characters.

A token is what it stands for without the white space at its ends. It belongs to the words that it shares a character with;
words that share a token cannot be told apart, and are taken together. White space that is a token of its own goes with the word
behind it, and at the end of a text with the last word. Tokens without a character of any word belong to none.

So the tokens of a text are cut, between words, where the next word's first token begins, its white space included: the cut of
which T. Pimentel and C. Meister (How to compute the probability of a word, 2024) say what it costs a word to end there.

Refused: words that are empty, leave the text, or are not in its order.
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from tl_entropy.errors import InputError, InputTypeError, is_iterable
from tl_entropy.functional.tokens.characters import continues

Span = tuple[int, int]


def space_words(text: str) -> list[Span]:
    r"""What is between white space: characters [start, end) of each word.

    >>> space_words(" the cat,\nand")
    [(1, 4), (5, 9), (10, 13)]
    """
    return [found.span() for found in re.finditer(r"\S+", text)]


def character_words(text: str) -> list[Span]:
    r"""Every character that is no white space, with the marks that continue it.

    >>> character_words("猫e\u0301 x")
    [(0, 1), (1, 3), (4, 5)]
    """
    found: list[Span] = []
    for place, character in enumerate(text):
        if found and found[-1][1] == place and continues(character):
            found[-1] = (found[-1][0], place + 1)
        elif not character.isspace():
            found.append((place, place + 1))
    return found


def checked_words(where: str, spans: Iterable[Any], text: str) -> list[Span]:
    """Spans of a text's words, in its order and apart, or an error that names the first that is wrong."""
    if isinstance(spans, str) or not is_iterable(spans):
        raise InputTypeError(f"{where} must be a list of spans (start, end); got {type(spans).__name__}")
    found: list[Span] = []
    for number, span in enumerate(spans):
        ends = tuple(span) if isinstance(span, Sequence) and not isinstance(span, str) else ()
        if len(ends) < 2 or any(isinstance(end, bool) or not hasattr(end, "__index__") for end in ends[:2]):
            raise InputTypeError(f"{where}, span {number} must be (start, end), two ints; got {span!r:.80}")
        start, end = map(operator.index, ends[:2])
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"{where}, span {number} must have 0 <= start < end <= {len(text)}, characters of its text; got {start}, {end}"
            )
        if not text[start:end].strip():
            raise InputError(f"{where}, span {number} must hold a word; got white space alone")
        if found and start < found[-1][1]:
            raise InputError(
                f"{where}, span {number} must begin where the one before has ended, at {found[-1][1]}; got {start}: give words "
                "in the order of the text"
            )
        found.append((start, end))
    return found


def word_tokens(text: str, tokens: Sequence[Sequence[int]], words: Sequence[Span]) -> list[tuple[int, int, int, int]]:
    """Which tokens are each word's: (first token, one after the last, first word, one after the last).

    Args:
        text: the text.
        tokens: [start, end) of each token, in the order of the text and covering it (``covering_spans``).
        words: the same of each word, in the order of the text and apart.

    >>> word_tokens("a bc de", [(0, 1), (1, 3), (3, 4), (4, 7)], [(0, 1), (2, 4), (5, 7)])
    [(0, 1, 0, 1), (1, 3, 1, 2), (3, 4, 2, 3)]
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    found: list[list[int]] = []
    space: int | None = None  # the first token of white space that waits for a word
    for number, (start, end) in enumerate(tokens):
        piece = text[start:end]
        first, last = end - len(piece.lstrip()), start + len(piece.rstrip())
        if first >= last:
            space = number if space is None else space
            continue
        low, high = bisect_right(ends, first), bisect_left(starts, last)
        if low < high and found and low < found[-1][3]:
            found[-1][1], found[-1][3] = number + 1, high
        elif low < high:
            found.append([number if space is None else space, number + 1, low, high])
        space = None
    if space is not None and found and found[-1][1] == space and tokens[-1][1] == len(text):
        found[-1][1] = len(tokens)
    return [(a, b, c, d) for a, b, c, d in found]
