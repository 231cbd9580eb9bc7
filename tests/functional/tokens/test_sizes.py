"""Sizes of tokens against plain loops in fractions and the bytes of real tokenizers' pieces, and that they add up."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st
from spans import MAKERS, TEXTS, any_spans, made, offsets, sharers, tensor

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.tokens.characters import covering_spans
from tl_entropy.functional.tokens.sizes import piece_spans, token_sizes

BYTE_LEVEL = [name for name in MAKERS if name.startswith("byte-level")]
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=14)


def pieces(name, text):
    """The bytes of a byte-level tokenizer's pieces: each of their characters stands for one."""
    return [bytes(len(piece)) for piece in made(name).encode(text, add_special_tokens=False).tokens]


def lengths_of(found):
    return torch.tensor([len(piece) for piece in found])


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=14), st.data())
def test_sizes_add_up_to_the_text(text, data):
    spans = covering_spans(tensor(data.draw(any_spans(len(text), 1))), text)
    characters, n_bytes = token_sizes(text, spans)
    owners = sharers(spans.tolist(), len(text))
    for i, (start, end) in enumerate(spans.tolist()):
        shares = {c: Fraction(1, len(owners[c])) for c in range(start, end)}
        assert characters[i].item() == pytest.approx(float(sum(shares.values())), rel=1e-14)
        expected = sum(share * len(text[c].encode()) for c, share in shares.items())
        assert n_bytes[i].item() == pytest.approx(float(expected), rel=1e-14)
    assert characters.sum().item() == pytest.approx(len(text), rel=1e-14)
    assert n_bytes.sum().item() == pytest.approx(len(text.encode()), rel=1e-14)


def test_bytes_of_every_code_point():
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    each = torch.arange(len(text))
    _, n_bytes = token_sizes(text, torch.stack([each, each + 1], 1))
    assert n_bytes.tolist() == [len(character.encode()) for character in text]


def test_what_no_token_covers_counts_nowhere():
    characters, n_bytes = token_sizes("a é b", tensor([[0, 0], [0, 1], [2, 3]]))
    assert characters.tolist() == [0, 1, 1]
    assert n_bytes.tolist() == [0, 1, 2]
    assert [sizes.tolist() for sizes in token_sizes("", tensor([]))] == [[], []]


@given(texts, st.data())
def test_sizes_by_own_bytes_add_up_to_the_text(text, data):
    spans = covering_spans(tensor(data.draw(any_spans(len(text), 1))), text)
    own = torch.tensor(data.draw(st.lists(st.integers(0, 6), min_size=len(spans), max_size=len(spans))), dtype=torch.long)
    characters, n_bytes = token_sizes(text, spans, own)
    assert characters.sum().item() == pytest.approx(len(text), rel=1e-13)
    assert n_bytes.sum().item() == pytest.approx(len(text.encode()), rel=1e-13)
    assert bool((characters >= -1e-12).all())
    plain = token_sizes(text, spans)[1]
    owners = sharers(spans.tolist(), len(text))
    for i, (start, end) in enumerate(spans.tolist()):
        if all(owners[c] == [i] for c in range(start, end)):
            assert n_bytes[i] == plain[i], "what it shares with no other token is its own"


@given(texts, st.data())
def test_pieces_that_spell_the_text_have_their_own_bytes(text, data):
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    found = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    spans = piece_spans(text, found)
    assert torch.equal(covering_spans(spans, text), spans), "they cover the text, and none is empty"
    characters, n_bytes = token_sizes(text, spans, lengths_of(found))
    assert n_bytes.tolist() == pytest.approx([len(piece) for piece in found], abs=1e-12)
    start = 0
    edges = [len(text[:c].encode()) for c in range(len(text) + 1)]
    for piece, (first, last), share in zip(found, spans.tolist(), characters.tolist(), strict=True):
        stop = start + len(piece)
        touched = [c for c in range(len(text)) if edges[c] < stop and edges[c + 1] > start]
        assert [first, last] == [touched[0], touched[-1] + 1] if touched else last == first + 1
        overlap = sum(Fraction(min(stop, edges[c + 1]) - max(start, edges[c]), edges[c + 1] - edges[c]) for c in touched)
        assert share == pytest.approx(float(overlap), abs=1e-12)
        start = stop


def test_pieces_that_do_not_spell_the_text_have_no_spans():
    for wrong in ([b"the"], [b"the ", b"mat"], [b"the cat", b" "], []):
        assert piece_spans("the cat", wrong) is None
    assert piece_spans("", []).tolist() == []
    assert piece_spans("", [b""]).tolist() == [[0, 0]]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_pieces_are_where_offsets_say(text):
    plain = made("byte-level").encode(text)
    to_byte = {c: b for b, c in enumerate_alphabet(text)}
    found = [bytes(to_byte[c] for c in piece) for piece in plain.tokens]
    assert piece_spans(text, found).tolist() == covering_spans(offsets("byte-level", text), text).tolist()


def enumerate_alphabet(text):
    """Every byte of a text with the character that byte-level pieces write it as."""
    spelt = "".join(made("byte-level").encode(text).tokens)
    return zip(text.encode(), spelt, strict=True)


@pytest.mark.parametrize(
    ("text", "spans", "own", "characters", "n_bytes"),
    [
        ("€", [[0, 1], [0, 1]], [1, 2], [1 / 3, 2 / 3], [1, 2]),
        ("x€y", [[0, 2], [1, 3]], [3, 2], [5 / 3, 4 / 3], [3, 2]),
        ("e\u0301", [[0, 2], [0, 2]], [1, 1], [1.25, 0.75], [1.5, 1.5]),  # three bytes for two
        ("\u1112\u1161\u11ab", [[0, 3]] * 3, [1, 1, 1], [1, 1, 1], [3, 3, 3]),
        ("the", [[0, 1], [0, 3]], [0, 3], [0, 3], [0, 3]),  # a prefix that is no byte of the text
        ("ab", [[0, 1], [0, 1], [1, 2]], [0, 0, 5], [0.5, 0.5, 1], [0.5, 0.5, 1]),  # nothing known, and nothing shared
    ],
)
def test_own_bytes_by_hand(text, spans, own, characters, n_bytes):
    found = token_sizes(text, tensor(spans), torch.tensor(own))
    assert found[0].tolist() == pytest.approx(characters, abs=1e-15)
    assert found[1].tolist() == pytest.approx(n_bytes, abs=1e-15)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_sizes_are_the_bytes_of_byte_level_tokens(text):
    """This tokenizer has learnt ASCII alone and splits all else into its bytes, so a token has a byte a letter of its name."""
    tokens = made("byte-level").encode(text).tokens
    _, n_bytes = token_sizes(text, covering_spans(offsets("byte-level", text), text))
    assert n_bytes.tolist() == pytest.approx([len(token) for token in tokens], rel=1e-14)


@pytest.mark.parametrize("name", BYTE_LEVEL)
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_real_tokenizers_add_up(name, text):
    raw = offsets(name, text)
    own = lengths_of(pieces(name, text))
    for spans in (covering_spans(raw, text), covering_spans(raw, "x" * len(text))):
        for characters, n_bytes in (token_sizes(text, spans), token_sizes(text, spans, own)):
            assert characters.sum().item() == pytest.approx(len(text), rel=1e-14)
            assert n_bytes.sum().item() == pytest.approx(len(text.encode()), rel=1e-14)


@pytest.mark.parametrize(("text", "expected"), [("cafe\u0301 on", [1.5, 1.5]), ("\u1112\u1161\u11ab a", [3, 3, 3])])
def test_a_composed_character_has_all_its_parts(text, expected):
    spans = covering_spans(offsets("byte-level, composing", text), text)
    n_bytes = token_sizes(text, spans, lengths_of(pieces("byte-level, composing", text)))[1]
    at = next(i for i, span in enumerate(spans.tolist()) if spans.tolist().count(span) > 1)
    assert n_bytes[at : at + len(expected)].tolist() == expected


def test_errors():
    whole = tensor([[0, 5]])
    with pytest.raises(InputTypeError, match="text must be a string; got bytes"):
        token_sizes(b"12345", whole)
    for call in (lambda text: token_sizes(text, tensor([[0, 3]])), lambda text: piece_spans(text, [])):
        with pytest.raises(InputError, match="UTF-8 can encode; got a lone surrogate at character 1"):
            call("a\ud800b")
    for wrong in ([5], torch.ones(1), torch.ones(1, dtype=torch.bool)):
        with pytest.raises(InputTypeError, match="own must be an integer tensor"):
            token_sizes("12345", whole, wrong)
    with pytest.raises(InputError, match=r"own must be \[1\], the bytes of each token; got the shape \[2\]"):
        token_sizes("12345", whole, torch.tensor([1, 4]))
    with pytest.raises(InputError, match="own must be numbers of bytes, at least 0; got -1"):
        token_sizes("12345", whole, torch.tensor([-1]))
