"""How many bytes and characters of a text each of its tokens stands for.

Offsets of characters (``functional/tokens/characters.py``) do not say how tokens divide a character that several of them share.
Tokens that are bytes know: byte-level pieces, and those that fall back to single bytes. Where the pieces one after the other
spell the text, ``piece_spans`` gives their places without any offsets, and each token has as many bytes as its piece. Where a
normaliser has changed the text, offsets say which characters a group of tokens stands for together, and they divide these by
their own bytes. So the sizes of all tokens always add up to the text's.

Refused: what ``characters`` refuses; text that UTF-8 cannot encode; bytes that are not one number for each token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.statistics import group_sums
from tl_entropy.functional.tokens.characters import cells, checked_spans, weights
from tl_entropy.torch_state import steady


@steady
def token_sizes(text: str, spans: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return how many characters and how many UTF-8 bytes each token stands for; of what n tokens share, each has 1/n.

    With ``own``, tokens that share characters divide all that they stand for together by their own bytes: exactly, where these
    are as many as the text's; in proportion, where a normaliser has made the text longer or shorter there.

    Args:
        text: the text that was tokenized.
        spans: [token, 2] integers, [start, end) in characters, in the order of the text.
        own: [token] integers, how many bytes each token's piece is; None where that is not known.

    Returns:
        Characters [token] and bytes [token], float64. From ``covering_spans`` they sum to ``len(text)`` and
        ``len(text.encode())``; a character that no token covers counts nowhere.

    Raises:
        InputError: spans of another shape, outside the text, backwards or not in order; a lone surrogate in the text; not one
            number of bytes for each token, or a negative one.
        InputTypeError: spans or bytes that are no integer tensor, or a text that is no string.

    >>> [sizes.tolist() for sizes in token_sizes("é!", torch.tensor([[0, 1], [0, 1], [1, 2]]))]
    [[0.5, 0.5, 1.0], [1.0, 1.0, 1.0]]
    >>> token_sizes("€", torch.tensor([[0, 1], [0, 1]]), torch.tensor([2, 1]))[1].tolist()  # cut behind its second byte
    [2.0, 1.0]
    """
    n_bytes = _byte_counts(text)
    spans = checked_spans("spans", spans, len(text)).cpu()
    token, character = cells(spans)
    weight = weights(character, len(text))
    characters = group_sums(weight, token, len(spans))
    sizes = group_sums(weight * n_bytes[character], token, len(spans))
    if own is None or not len(spans):
        return characters, sizes
    own = _checked_own(own, len(spans)).cpu()
    group = _groups(spans)
    total = group_sums(sizes, group, int(group[-1]) + 1)
    mine = group_sums(own.double(), group, len(total))
    known = (torch.bincount(group)[group] > 1) & (mine[group] > 0)
    shares = torch.where(known, own * total[group] / mine[group].clamp(min=1), sizes)
    # Bytes become characters along the text, of which a group covers all that it spans.
    edge, place = (torch.cat([x.new_zeros(1), x.cumsum(0)]).double() for x in (n_bytes, torch.ones_like(n_bytes)))
    first = edge[spans[_first(group), 0]]
    ends = shares.cumsum(0) - torch.cat([total.new_zeros(1), total.cumsum(0)])[group] + first[group]
    passed = torch.from_numpy(np.interp(torch.stack([ends - shares, ends]), edge, place))
    return torch.where(known, passed[1] - passed[0], characters), shares


@steady
def piece_spans(text: str, pieces: Sequence[bytes]) -> Tensor | None:
    r"""Return the spans of tokens whose pieces, one after the other, are the bytes of a text; None where they are not.

    Args:
        text: the text that was tokenized.
        pieces: the bytes that each token stands for, in the order of the text.

    Returns:
        [token, 2] int64, as ``covering_spans`` makes them: the characters of which a token has a byte; one without a byte
        shares the character at its place.

    Raises:
        InputError: a lone surrogate in the text.
        InputTypeError: a text that is no string.

    >>> piece_spans("aé", [b"a", b"\xc3", b"\xa9"]).tolist()
    [[0, 1], [1, 2], [1, 2]]
    >>> piece_spans("a", [b"b"]) is None
    True
    """
    n_bytes = _byte_counts(text)
    if not isinstance(pieces, Sequence) or not all(isinstance(piece, bytes) for piece in pieces):
        raise InputTypeError(f"pieces must be bytes, one of each token; got {type(pieces).__name__}")
    if b"".join(pieces) != text.encode():
        return None
    edge = torch.cat([n_bytes.new_zeros(1), n_bytes.cumsum(0)]).long()  # where each character begins, and the end
    cuts = torch.tensor([0, *map(len, pieces)]).cumsum(0)
    starts = (torch.searchsorted(edge, cuts[:-1], right=True) - 1).clamp(max=max(len(text) - 1, 0))
    ends = torch.searchsorted(edge, cuts[1:])
    return torch.stack([starts, ends if not text else torch.maximum(ends, starts + 1)], 1)


def _groups(spans: Tensor) -> Tensor:
    """The number of each token's group [token]: tokens of a group share characters with each other, and with no other."""
    starts, ends = spans.unbind(1)
    apart = starts[1:] >= ends.cummax(0).values[:-1]
    return torch.cat([apart.new_zeros(1), apart]).cumsum(0)


def _first(group: Tensor) -> Tensor:
    """The first token of each group."""
    return torch.cat([group.new_ones(1), group.diff()]).nonzero()[:, 0]


def _byte_counts(text: str) -> Tensor:
    """UTF-8 bytes of each character [character], float64."""
    if not isinstance(text, str):
        raise InputTypeError(f"text must be a string; got {type(text).__name__}")
    try:
        code = torch.from_numpy(np.frombuffer(text.encode("utf-32-le"), np.int32).astype(np.int64))
    except UnicodeEncodeError as error:
        raise InputError(f"text must be what UTF-8 can encode; got a lone surrogate at character {error.start}") from error
    return 1.0 + (code > 0x7F).double() + (code > 0x7FF).double() + (code > 0xFFFF).double()


def _checked_own(own: Tensor, tokens: int) -> Tensor:
    if not isinstance(own, Tensor) or own.is_floating_point() or own.is_complex() or own.dtype == torch.bool:
        came = str(own.dtype) if isinstance(own, Tensor) else type(own).__name__
        raise InputTypeError(f"own must be an integer tensor [token]; got {came}")
    if own.shape != (tokens,):
        raise InputError(f"own must be [{tokens}], the bytes of each token; got the shape {list(own.shape)}")
    if bool((own < 0).any()):
        raise InputError(f"own must be numbers of bytes, at least 0; got {int(own.min())}")
    return own.long()
