"""Where in its text each token of a document stands, and how many bytes and characters it is.

Tokens that are bytes and spell the text need no offsets; for others the tokenizer's are taken, once they have been found to be
those of these tokens and in the order of the text. A text that begins with its BOS is taken without it.

A token that stands for what the tokenizer does not know is no code of its characters: its sizes are NaN. Of a text of which the
tokenizer drops characters no places are known: they would be counted as another token's, and offsets are beside the text.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputError
from tl_entropy.functional.tokens.characters import covering_spans
from tl_entropy.functional.tokens.sizes import piece_spans, token_sizes
from tl_entropy.functional.tokens.words import word_tokens


class Placed(NamedTuple):
    """The tokens of a document in its text.

    Attributes:
        text: the document's text, without a BOS.
        tokens: [token] ids.
        span: [token, 2], characters [start, end) of ``text``.
        n_bytes: [token] float64.
        n_characters: [token] float64.
    """

    text: str
    tokens: Tensor
    span: Tensor
    n_bytes: Tensor
    n_characters: Tensor


def placed(adapter: Adapter, text: str, length: int) -> Placed | None:
    """The places of a text's ``length`` tokens (the BOS not counted); None where they can't be known."""
    ids, offsets = adapter.tokenised(text)
    front = len(ids) - length
    if front not in (0, 1) or ids[:front] not in ([], [adapter.begin]) or adapter.dropped(text):
        return None
    pieces = adapter.pieces(ids)
    if pieces and front < len(pieces) and pieces[front].startswith(b" "):
        written = text.encode().removeprefix(b"".join(pieces[:front]))
        if not written.startswith(b" ") or b"".join(pieces[front:]) == b" " + written:
            pieces[front] = pieces[front][1:]  # without the space that the tokenizer has put before the text
    span = None if pieces is None else piece_spans(text, pieces)
    if span is None:
        span = None if offsets is None or len(offsets) != len(ids) else _covering(offsets, text)
    if span is None:
        return None
    own = None if pieces is None else torch.tensor(list(map(len, pieces)), dtype=torch.long)
    n_characters, n_bytes = token_sizes(text, span, own)
    if adapter.unknown is not None:
        number, name = adapter.unknown
        for i, token in enumerate(ids):
            if token == number and text[slice(*span[i].tolist())].strip() != name:
                n_characters[i] = n_bytes[i] = torch.nan
    cut = int(span[0, 1]) if front else 0
    return Placed(
        text[cut:], torch.tensor(ids[front:], dtype=torch.long), (span[front:] - cut).clamp(min=0), n_bytes[front:],
        n_characters[front:],
    )  # fmt: skip


def token_positions(places: Placed, text: str, start: int, end: int) -> tuple[int, int] | None:
    """Positions [first, one after the last) of the tokens of characters [start, end) of a text, of which ``places`` are.

    White space before them that is a token of its own is among them. None where no token has one of these characters.

    >>> import torch
    >>> spans, sizes = torch.tensor([[0, 3], [3, 6], [6, 7]]), torch.ones(3)
    >>> places = Placed("the cat", torch.tensor([5, 6, 7]), spans, sizes, sizes)
    >>> token_positions(places, "the cat", 4, 7), token_positions(places, "the cat", 3, 4)
    ((1, 3), None)
    """
    front = len(text) - len(places.text)
    found = word_tokens(places.text, places.span.tolist(), [(max(0, start - front), max(0, end - front))])
    return found[0][:2] if found else None


def _covering(offsets: list[tuple[int, int]], text: str) -> Tensor | None:
    """The spans of offsets that are in the order of the text; None of others."""
    try:
        return covering_spans(torch.tensor(offsets, dtype=torch.long).reshape(-1, 2), text)
    except InputError:
        return None
