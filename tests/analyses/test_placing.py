"""Where tokens stand in their texts, of real tokenizers of every kind, against what their own bytes and offsets say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from spans import MAKERS, TEXTS, made
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tl_entropy.analyses.placing import placed
from tl_entropy.capture.vocabulary import Vocabulary


class Speaker(Vocabulary):
    """A vocabulary without a model behind it."""

    def __init__(self, tokenizer):
        size = 10**4
        self.model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(d_vocab=size), W_U=torch.zeros(1, size))


def speaker(name, **special):
    return Speaker(PreTrainedTokenizerFast(tokenizer_object=made(name), **special))


def place(adapter, text):
    return placed(adapter, text, len(adapter.encode(text)))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_sizes_add_up_to_the_text_with_every_tokenizer(name, text):
    adapter = speaker(name)
    if not adapter.encode(text):
        return
    found = place(adapter, text)
    assert found.text == text
    assert found.tokens.tolist() == adapter.encode(text)
    if found.n_bytes.isnan().any():
        assert name == "word piece", "whose token for unknown words is no code of them"
        return
    assert found.n_bytes.sum().item() == pytest.approx(len(text.encode()), rel=1e-14)
    assert found.n_characters.sum().item() == pytest.approx(len(text), rel=1e-14)


@pytest.mark.parametrize("name", ["byte-level", "byte-level, trimmed", "byte-level, prefixed", "bytes to fall back to"])
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_tokens_that_are_bytes_have_as_many_as_they_are(name, text):
    """Also where offsets leave out spaces, or there are none; a space that was put before the text is none of its bytes."""
    adapter = speaker(name)
    found, pieces = place(adapter, text), adapter.pieces(adapter.encode(text))
    added = len(b"".join(pieces)) - len(text.encode())
    assert found.n_bytes.tolist() == [len(pieces[0]) - added, *map(len, pieces[1:])]
    adapter.tokenised = lambda text: (adapter.encode(text), None)
    assert torch.equal(place(adapter, text).span, found.span)
    assert torch.equal(place(adapter, text).n_bytes, found.n_bytes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301 on", {"Ã": 1.5, "©": 1.5, "Ġon": 3}),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", dict.fromkeys("íķľêµŃ", 3)),
        ("é€", {"Ã": 1, "©": 1, "â": 1, "Ĥ": 1, "¬": 1}),
    ],
)
def test_composed_letters_have_their_accents(text, expected):
    adapter = speaker("byte-level, composing")
    found = place(adapter, text)
    sizes = dict(zip(adapter.model.tokenizer.convert_ids_to_tokens(found.tokens), found.n_bytes.tolist(), strict=True))
    assert {piece: size for piece, size in sizes.items() if piece in expected} | expected == expected


def test_offsets_are_checked_before_they_are_used():
    adapter = speaker("word piece")
    text, ids = "the cat sat", adapter.encode("the cat sat")
    right = adapter.tokenised(text)[1]
    assert place(adapter, text).span.tolist() == [[0, 3], [3, 7], [7, 11]]
    wrong = [
        None,
        right[:-1],
        [*right, right[-1]],
        right[::-1],
        [(0, 99)] * len(ids),
        [(3, 1)] * len(ids),
        [(-1, 2)] * len(ids),
    ]
    for offsets in wrong:
        adapter.tokenised = lambda _, offsets=offsets: (ids, offsets)
        assert place(adapter, text) is None, offsets
    adapter.tokenised = lambda _: (ids, right)
    assert placed(adapter, text, len(ids) + 1) is None, "other tokens than were read"
    assert placed(adapter, text, len(ids) - 1) is None, "the first is no BOS"


@pytest.mark.parametrize("name", ["byte-level", "bytes to fall back to", "word piece"])
def test_a_bos_in_front_is_no_part_of_the_text(name):
    adapter = speaker(name, bos_token="<s>")
    text = "the cat"
    found = placed(adapter, f"<s>{text}", len(adapter.encode(f"<s>{text}")) - 1)
    assert found.text == text
    assert found.n_bytes.sum() == len(text)
    assert found.span[0, 0] == 0
    assert found.span[-1, 1] == len(text)


def test_an_unknown_word_is_no_code_of_its_letters():
    adapter = speaker("word piece", unk_token="[UNK]")
    found = place(adapter, "the 日本 cat [UNK]")
    pieces = adapter.model.tokenizer.convert_ids_to_tokens(found.tokens)
    assert pieces == ["the", "[UNK]", "[UNK]", "cat", "[UNK]"]
    assert found.n_bytes.isnan().tolist() == [False, True, True, False, False], "one that is written out is known"
    assert found.n_characters.isnan().tolist() == found.n_bytes.isnan().tolist()


def test_a_token_for_the_unknown_is_one_though_nobody_calls_it_special():
    adapter = speaker("word piece")
    unknown = adapter.model.tokenizer.convert_tokens_to_ids("[UNK]")
    assert adapter.model.tokenizer.unk_token_id is None
    assert adapter.unknown == (unknown, "[UNK]")
    assert unknown in adapter.special_ids
    assert place(adapter, "the 日本 cat").n_bytes.isnan().tolist() == [False, True, True, False]


def test_where_a_tokenizer_drops_characters_no_places_are_known():
    letters = {letter: i for i, letter in enumerate("abcé ")}
    plain = Tokenizer(models.BPE(letters, []))
    adapter = Speaker(PreTrainedTokenizerFast(tokenizer_object=plain))
    text = "ab é日x, \u0301c"
    assert adapter.model.tokenizer.convert_ids_to_tokens(adapter.encode(text)) == ["a", "b", " ", "é", " ", "c"]
    assert adapter.dropped(text) == {"日", "x", ","}
    assert place(adapter, text) is None
    assert place(adapter, "ab é \u0301c").n_bytes.tolist() == [1, 1, 1, 2, 1, 3], "a mark is none of them"
    assert speaker("byte-level").dropped(text) == set()
