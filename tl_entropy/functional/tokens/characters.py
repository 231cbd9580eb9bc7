"""Values of tokens through the characters of their text, so that models with different tokenizers can be compared.

Two tokenizers cut one text into different tokens; the characters are what they have in common. Where a token lies is read from
character offsets, [start, end) in the original text, as fast tokenizers give them (``return_offsets_mapping``), and never from
decoded pieces: byte-level pieces are no text, and a normaliser may have changed it. Three things happen in real offsets:

    shared      the tokens of a character of several bytes all have that character's span: each counts 1/n of it
    zero-width  a prefix token, such as a lone "▁", can have start = end: it stands for no character of its own
    uncovered   spaces that were trimmed, or what a normaliser dropped, belong to no token

``covering_spans`` settles the last two. What continues a character (a combining mark, a vowel or final of Hangul) and has no
token, because a normaliser has composed it with the character before, goes with that one. A token's value x is then spread over
its characters as x·w_c / Σ w_c, with the weights w_c = 1/n_c, and the sum over characters is the sum over tokens. Below a
character nothing is known of a value: what n tokens share, they share evenly.

Special tokens (beginning, end, padding) stand for no text, although their offsets say (0, 0): leave them out first.

Refused: spans that are no integers, run backwards, leave the text or are not in its order.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, counted, warn
from tl_entropy.functional.lens.entropies import check_floating, in_double
from tl_entropy.functional.statistics import group_sums
from tl_entropy.torch_state import steady


@steady
def covering_spans(spans: Tensor, text: str | int) -> Tensor:
    r"""Return spans that cover every character of a text, each with at least one character: the least change that does it.

    Characters that no token covers go to the next token that begins after them; at the end of the text, to the token that ends
    last. But those at their beginning that continue the character before go to all tokens that end with it. A token that still
    is of zero width takes the character at its place (at the end of the text the last one) and shares it with those that cover
    it. What is shared stays shared.

    Args:
        spans: [token, 2] integers, [start, end) in characters, in the order of the text, without special tokens.
        text: the text, or the number of its characters, which does not tell what continues a character.

    Returns:
        [token, 2] int64, in the order of the text; none is of zero width, except in an empty text.

    Raises:
        InputError: spans of another shape, outside the text, backwards or not in order; no token for a text that is not empty.
        InputTypeError: spans that are no integer tensor, or a text that is neither a string nor an int.

    Warns:
        UserWarning: characters between tokens belong to none of them, and only their number is given: an accent among them goes
            to the next token, and not with its letter.

    >>> covering_spans(torch.tensor([[0, 3], [4, 7], [7, 7]]), "the cat  ").tolist()  # with its spaces trimmed
    [[0, 3], [3, 7], [7, 9]]
    >>> covering_spans(torch.tensor([[0, 0], [0, 3]]), "the").tolist()  # a prefix token shares the first character
    [[0, 1], [0, 3]]
    >>> covering_spans(torch.tensor([[0, 1], [2, 3]]), "e\u0301!").tolist()  # the accent goes with its letter
    [[0, 2], [2, 3]]
    """
    length = len(text) if isinstance(text, str) else check_int("length", text, 0)
    spans = checked_spans("spans", spans, length)
    if length == 0:
        return spans
    if not len(spans):
        raise InputError(f"spans must hold at least one token for a text of {counted(length, 'character')}; got none")
    if isinstance(text, int):
        _warn_of_gaps(spans, length)
    starts, ends = (spans if isinstance(text, int) else _with_continuations(spans, text)).clone().unbind(1)
    covered = ends.cummax(0).values  # the text up to here belongs to a token, or will
    starts = torch.minimum(starts, torch.cat([covered.new_zeros(1), covered[:-1]]))
    ends[(ends == covered[-1]).nonzero()[-1]] = length
    empty = starts == ends
    starts = torch.where(empty, starts.clamp(max=length - 1), starts)
    return torch.stack([starts, torch.where(empty, starts + 1, ends)], 1)


def _gaps(spans: Tensor, length: int) -> list[tuple[int, int, int]]:
    """Behind which tokens there are characters of none, and from where to where; those before the first are not among them."""
    starts, ends = spans.unbind(1)
    covered = ends.cummax(0).values
    following = torch.cat([starts[1:], starts.new_tensor([length])])
    tokens = ((covered < following) & (covered > 0)).nonzero()[:, 0]
    return list(zip(tokens.tolist(), covered[tokens].tolist(), following[tokens].tolist(), strict=True))


def _warn_of_gaps(spans: Tensor, length: int) -> None:
    if n := sum(following - end for _, end, following in _gaps(spans, length)):
        warn(
            f"no token covers {counted(n, 'character')} of the text, which went to the token that comes next, or last: without "
            "the text it is not known which continue the character before, as an accent does that a normaliser has composed "
            "with its letter. Pass the text in the place of its length"
        )


def _with_continuations(spans: Tensor, text: str) -> Tensor:
    """The spans, their ends moved over what no token covers and continues the character that they end with."""
    spans = spans.clone()
    for i, end, following in _gaps(spans, len(text)):
        place = end
        while place < following and continues(text[place]):
            place += 1
        here = spans[: i + 1]
        if bool(((here[:, 0] < end) & (here[:, 1] == end)).any()):
            here[here == end] = place  # a token of zero width goes along, to stay behind the character
    return spans


def continues(character: str) -> bool:
    """Whether it is a part of the character before it: a combining mark, or a vowel or final of Hangul."""
    hangul = "\u1160" <= character <= "\u11ff" or "\ud7b0" <= character <= "\ud7ff"
    return hangul or unicodedata.category(character).startswith("M")


@steady
def transfer(
    values: Tensor, source_spans: Tensor, target_spans: Tensor, length: int, *, how: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """Return the values that the tokens of one tokenizer give to those of another, over the same characters.

    ``"sum"``, for what adds up (nats of surprisal, a loss): each source token's value is spread evenly over its characters, and
    each target token adds up its own; of what n targets share, each has 1/n. The total is conserved where both cover the text.

    ``"mean"``, for what does not (an entropy, a rank): each character has its source token's value, or the mean over those that
    share it, and each target token the mean over its characters, with weights of 1/n.

    Where no two tokens share a character, a tokenizer's values come back unchanged from its own spans.

    Args:
        values: [source], any floating-point dtype. Differentiable.
        source_spans: [source, 2] integers, [start, end) in characters, in the order of the text; see ``covering_spans``.
        target_spans: [target, 2], the same of the other tokenizer. A token of zero width gets a sum of 0 and a mean of NaN.
        length: number of characters of the text.
        how: ``"sum"`` or ``"mean"``.

    Returns:
        float64 [target], in the unit of the values. NaN for every target token that touches a source token of value NaN, or a
        character that no source token covers. What lies on characters without a target token is left out.

    Raises:
        InputError: values that are not one a source token, a source token of zero width (its value would be lost), an unknown
            ``how``, or spans of another shape, outside the text, backwards or not in order.
        InputTypeError: values that are not floating-point, spans that are no integer tensors, or a length that is no int.

    >>> nats, words, halves = torch.tensor([6.0, 1.0]), torch.tensor([[0, 3], [3, 5]]), torch.tensor([[0, 2], [2, 4], [4, 5]])
    >>> transfer(nats, words, halves, 5).tolist(), transfer(nats, words, halves, 5, how="mean").tolist()
    ([4.0, 2.5, 0.5], [6.0, 3.5, 1.0])
    """
    check_choice("how", how, ("sum", "mean"))
    check_floating("values", values)
    length = check_int("length", length, 0)
    values = in_double(values)
    source = checked_spans("source_spans", source_spans, length).to(values.device)
    target = checked_spans("target_spans", target_spans, length).to(values.device)
    if values.shape != source.shape[:1]:
        raise InputError(f"values must be [{len(source)}], one a token of source_spans; got the shape {list(values.shape)}")
    empty = source[:, 0] == source[:, 1]
    if empty.any():
        raise InputError(
            f"source_spans must give every token a character; token {int(empty.nonzero()[0])} has none, so its value would "
            "be lost: pass covering_spans(source_spans, text), or leave special tokens out"
        )
    token, character = cells(source)
    weight = weights(character, length)
    portion = weight / group_sums(weight, token, len(source))[token] if how == "sum" else weight
    on_text = group_sums(values[token] * portion, character, length)
    on_text = torch.where(torch.bincount(character, minlength=length) > 0, on_text, torch.nan)

    token, character = cells(target)
    weight = weights(character, length)
    gathered = group_sums(on_text[character] * weight, token, len(target))
    return gathered if how == "sum" else gathered / group_sums(weight, token, len(target))


def cells(spans: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of a token and a character that it covers, token by token."""
    starts, ends = spans.unbind(1)
    widths = ends - starts
    token = torch.repeat_interleave(widths)
    first = widths.cumsum(0) - widths
    return token, torch.arange(len(token), device=spans.device) + (starts - first)[token]


def weights(character: Tensor, length: int) -> Tensor:
    """1/n for each of the n cells of a character."""
    return torch.bincount(character, minlength=length).double().reciprocal()[character]


def checked_spans(name: str, spans: Tensor, length: int) -> Tensor:
    """``spans`` as int64, or an error that names the first token that is wrong."""
    recipe = "build it as torch.tensor(offsets, dtype=torch.long).reshape(-1, 2)"
    if not isinstance(spans, Tensor) or spans.is_floating_point() or spans.is_complex() or spans.dtype == torch.bool:
        came = str(spans.dtype) if isinstance(spans, Tensor) else type(spans).__name__
        raise InputTypeError(f"{name} must be an integer tensor [token, 2]; got {came}: {recipe}")
    if spans.ndim != 2 or spans.shape[1] != 2:
        raise InputError(f"{name} must be [token, 2], the tokens of one text; got the shape {list(spans.shape)}: {recipe}")
    spans = spans.long()
    starts, ends = spans.unbind(1)
    outside = (starts < 0) | (starts > ends) | (ends > length)
    if outside.any():
        token = int(outside.nonzero()[0])
        raise InputError(
            f"{name} must have 0 <= start <= end <= {length}, the characters of the text; token {token} has "
            f"{spans[token].tolist()}: look whether the offsets are of this text, and in characters, not bytes"
        )
    earlier = starts[1:] < starts[:-1]
    if earlier.any():
        token = 1 + int(earlier.nonzero()[0])
        raise InputError(
            f"{name} must be in the order of the text; token {token} {spans[token].tolist()} begins before the one that comes "
            f"first {spans[token - 1].tolist()}: leave special tokens out, and take texts one by one"
        )
    return spans
