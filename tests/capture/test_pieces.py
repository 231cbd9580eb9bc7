"""The bytes of single tokens: what they are together is the text, of every kind of tokenizer that knows them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from spans import MAKERS, TEXTS, made
from tokenizers import AddedToken, decoders, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_entropy.capture.pieces import piece_reader


def wrapped(name, **special):
    return PreTrainedTokenizerFast(tokenizer_object=made(name), **special)


def spelt(tokenizer, text):
    read = piece_reader(tokenizer)
    return [read(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("name", ["byte-level", "byte-level, trimmed"])
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_byte_level_pieces_spell_the_text(name, text):
    assert b"".join(spelt(wrapped(name), text)) == text.encode()


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("name", ["byte-level, prefixed", "bytes to fall back to"])
def test_a_space_is_put_before_some(name, text):
    found = b"".join(spelt(wrapped(name), text))
    assert found in (b" " + text.encode(), text.encode())


def test_single_bytes():
    assert spelt(wrapped("bytes to fall back to"), "thé")[-2:] == [b"\xc3", b"\xa9"]
    assert spelt(wrapped("byte-level"), "é") == [b"\xc3", b"\xa9"]
    assert all(piece_reader(wrapped("byte-level"))(i) is not None for i in range(256))


@pytest.mark.parametrize("name", [name for name in MAKERS if "byte" not in name])
def test_pieces_of_text_are_no_bytes(name):
    assert piece_reader(wrapped(name)) is None


def test_added_tokens_are_their_text():
    tokenizer = wrapped("byte-level")
    tokenizer.add_tokens([AddedToken("<é>", special=True), "two words"])
    assert spelt(tokenizer, "a<é>two words") == [b"a", "<é>".encode(), b"two words"]


def test_the_part_that_cuts_up_says_as_much_as_the_one_that_puts_together():
    for cuts, joins in ((True, False), (False, True)):
        tokenizer = MAKERS["byte-level"]()
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel()]) if joins else None
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()]) if cuts else None
        assert piece_reader(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) is not None


def test_what_cannot_be_described_is_not_known():
    class Custom:
        def decode_chain(self, tokens):
            return tokens

    tokenizer = MAKERS["word piece"]()
    tokenizer.decoder = decoders.Decoder.custom(Custom())
    assert piece_reader(SimpleNamespace(backend_tokenizer=tokenizer)) is None
    assert piece_reader(None) is None
    assert piece_reader(object()) is None
    assert piece_reader(wrapped("byte-level"))(10**6) is None
