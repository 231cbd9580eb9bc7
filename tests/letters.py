"""A tokenizer of letters, and the windows of a corpus as lists: for tests of what comes in, without a model."""

from __future__ import annotations

from dataclasses import dataclass

from tl_entropy.capture.corpus import Corpus

BOS, SEP = 0, 1


@dataclass(frozen=True)
class Letters:
    """One id a character; BOS is also the pad, as on GPT-2; "|" is a special token; spaces vanish."""

    begin: int | None = BOS
    special_ids: frozenset[int] = frozenset({BOS, SEP})
    pad_id: int = BOS
    context: int = 8
    n_ids: int = 0x110000
    has_tokenizer: bool = True

    def encode(self, text):
        return [{"|": SEP, "^": BOS}.get(c, ord(c)) for c in text if c != " "]

    def strings(self, ids):
        return {i: {SEP: "|", BOS: "^"}.get(i, chr(i)) for i in ids}


class Shuffled:
    """As a data loader that shuffles: at each reading the documents come in the next of the orders given."""

    def __init__(self, *orders):
        self.orders = iter(orders)

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(next(self.orders))


def corpus_of(inputs, encoder=None, *, prepend_bos=True, **options):
    return Corpus(inputs, encoder or Letters(), prepend_bos=prepend_bos, **options)


def listed(windows):
    return [
        (w.tokens.tolist(), w.counted.tolist(), w.position.tolist(), w.target.tolist(), w.document, w.last) for w in windows
    ]


def ids(text):
    return Letters().encode(text)
