"""Spans of tokens: of every kind that can be, of real tokenizers, and who has which character by plain loops."""

from __future__ import annotations

import itertools
import unicodedata
from functools import cache

import torch
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = (
    "the cat sat on the mat",
    "a 😀b",
    "👨‍👩‍👧 sat",
    "שלום עולם and the mat",
    "e\u0301a q\u0323\u0301 cat\u0301",
    "the cat\n\n\tsat\r\n  on \r\nthe mat\n",
    "naïve ﬁne ㎏ 각 𝔘",
    " the  cat ",
    "\n",
    "x",
    "cafe\u0301 on",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8 \u1112\u1161\u11ab",
)
PROSE = ["the cat sat on the mat, and the dog sat on the cat", "a cat and the mat"] * 3


def tensor(spans):
    return torch.tensor(spans, dtype=torch.long).reshape(-1, 2)


# Plain loops, in fractions.


def exact_covering(spans, length, text=""):
    """Which characters each token has, character by character."""
    own = [set(range(start, end)) for start, end in spans]
    spans = [list(span) for span in spans]
    covered = set().union(*own)
    for c in range(1, len(text)):
        mark = unicodedata.combining(text[c]) or 0x1160 <= ord(text[c]) <= 0x11FF
        if c not in covered and mark:
            taken = [part for part in own if c - 1 in part and max(part) == c - 1]
            for part in taken:
                part.add(c)
            for span in spans if taken else []:
                span[:] = [c + 1 if taken and place == c else place for place in span]
            covered |= {c} if taken else set()
    for c in set(range(length)) - covered:
        later = [i for i, (start, _) in enumerate(spans) if start > c]
        last = max(end for _, end in spans)
        own[later[0] if later else max(i for i, (_, end) in enumerate(spans) if end == last)].add(c)
    return [part or {min(start, length - 1)} for part, (start, _) in zip(own, spans, strict=True)]


def sharers(spans, length):
    return [[i for i, (start, end) in enumerate(spans) if start <= c < end] for c in range(length)]


# Spans of every kind: gaps, zero width, sharing, overlaps, one inside another.


@st.composite
def any_spans(draw, length, least=0):
    pair = st.tuples(st.integers(0, length), st.integers(0, length)).map(sorted)
    narrow = st.integers(0, max(length - 1, 0)).map(lambda c: [c, min(c + 1, length)])
    return sorted(draw(st.lists(pair | narrow, min_size=least, max_size=12)), key=lambda span: span[0])


@st.composite
def tilings(draw, length):
    """Tokens side by side, with no character shared."""
    cuts = sorted(draw(st.sets(st.integers(1, length - 1)))) if length > 1 else []
    return [[a, b] for a, b in itertools.pairwise([0, *cuts, length])]


lengths = st.integers(1, 14)


def byte_level(*, prefix, trim):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(PROSE, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def decomposing():
    """Its normaliser makes several characters of one, so that tokens share also what is no split of bytes."""
    tokenizer = byte_level(prefix=False, trim=False)
    tokenizer.normalizer = normalizers.NFKD()
    return tokenizer


def composing():
    """As Qwen's and GPT-NeoX's: letters are composed first, and their offsets are those of the letter without its accent."""
    tokenizer = byte_level(prefix=False, trim=False)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def falling_back():
    """As Llama's: what is no known piece is bytes, "▁" is a space, and one is put before the text."""
    letters = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdehmnost",
        "▁the",
        "the",
        "th",
        "▁t",
        "he",
        "▁th",
    ]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(letters)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=40, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(PROSE, trainer)
    return tokenizer


def word_piece():
    """Lower-cases, strips accents and drops spaces; what it does not know is one token a word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(PROSE, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


MAKERS = {
    "byte-level": lambda: byte_level(prefix=False, trim=False),
    "byte-level, trimmed": lambda: byte_level(prefix=False, trim=True),
    "byte-level, prefixed": lambda: byte_level(prefix=True, trim=False),
    "byte-level, prefixed and trimmed": lambda: byte_level(prefix=True, trim=True),
    "byte-level, decomposing": decomposing,
    "byte-level, composing": composing,
    "bytes to fall back to": falling_back,
    "unigram": unigram,
    "word piece": word_piece,
}


@cache
def made(name):
    return MAKERS[name]()


def offsets(name, text):
    return tensor(made(name).encode(text, add_special_tokens=False).offsets)
