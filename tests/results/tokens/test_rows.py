"""Rows of tokens: the words that they are parts of."""

from __future__ import annotations

import pytest
import torch

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.surprisal import TokenSurprisal


def cut(*documents):
    """A result of documents given as lists of pieces of their text; a piece of None is more of the character before."""
    span, document, position, texts, lengths = [], [], [], {}, {}
    for d, pieces in enumerate(documents):
        end = 0
        for p, piece in enumerate(pieces):
            start, end = (end - 1, end) if piece is None else (end, end + len(piece))
            span.append((start, end))
            document.append(d)
            position.append(p)
        texts[d], lengths[d] = "".join(piece for piece in pieces if piece is not None), len(pieces)
    rows = len(span)
    zero = torch.zeros(rows, dtype=torch.float64)
    return TokenSurprisal(
        surprisal=zero, entropy=zero, varentropy=zero, rank=zero.long(), document=torch.tensor(document), token=zero.long(),
        position=torch.tensor(position), span=torch.tensor(span), n_bytes=zero, n_characters=zero, strings={0: "?"},
        texts=texts, lengths=lengths, provenance=Provenance("tiny", "", "", "", "", versions={}, created=""),
    )  # fmt: skip


def words(result, *pattern):
    return [tuple(line) for line in result.words(*pattern).itertuples(index=False)]


NONE = ("", -1, 0)


def test_parts_of_words():
    result = cut(["De", "bug", "ger", " b", "asics", ".", " ", "x"], ["one", " ", "t", "wo"])
    assert words(result) == [
        ("Debugger", 0, 3), ("Debugger", 1, 3), ("Debugger", 2, 3), ("basics", 0, 2), ("basics", 1, 2), NONE, NONE, ("x", 0, 1),
        ("one", 0, 1), NONE, ("two", 0, 2), ("two", 1, 2),
    ]  # fmt: skip


def test_a_token_with_several_words_is_of_none_and_breaks_them():
    assert words(cut(["a b", "c", " d"])) == [NONE, NONE, ("d", 0, 1)]
    assert words(cut(["(self", ".x"])) == [("self", 0, 1), ("x", 0, 1)]


def test_words_of_a_part_are_whole_or_none():
    whole = cut(["be", "gin", " mid", "dle", " e", "nd"])
    assert words(whole.select(positions=slice(1, 5))) == [NONE, ("middle", 0, 2), ("middle", 1, 2), NONE]
    assert words(whole.select(positions=[0, 2, 3])) == [NONE, ("middle", 0, 2), ("middle", 1, 2)]
    three = cut(["a", "b", "c"])
    assert words(three.select(positions=[0, 2])) == [NONE, NONE]


def test_other_patterns_and_shared_characters():
    assert words(cut(["snake", "_", "case"])) == [("snake_case", 0, 3), ("snake_case", 1, 3), ("snake_case", 2, 3)]
    assert words(cut(["snake", "_", "case"]), r"[^\W_]+") == [("snake", 0, 1), NONE, ("case", 0, 1)]
    assert words(cut(["é", None, "t", "é"])) == [("été", 0, 4), ("été", 1, 4), ("été", 2, 4), ("été", 3, 4)]
    assert words(cut(["ab"]), "x*") == [NONE], "empty matches are no words"


def test_refusals():
    result = cut(["a"], ["b"])
    with pytest.raises(InputError, match="not known of 0, 1"):
        TokenSurprisal(**{**vars(result), "texts": {}}).words()
    with pytest.raises(InputError, match="pattern must be a regular expression"):
        result.words("(")
    with pytest.raises(InputTypeError, match="in a str"):
        result.words(rb"\w")
