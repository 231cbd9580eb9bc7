"""What a loss means as a code length: bits a byte or a character, perplexity, and what a memory beside the model costs.

A model that gives a token the probability p lets an arithmetic coder write it in -log2 p bits, to within two bits a text. So a
mean loss of L nats a token, over ``tokens`` tokens that stand for ``n_bytes`` bytes of UTF-8, is a code of

    bits per byte = (tokens / n_bytes)·L / ln 2        perplexity = exp L

(C. Shannon, A mathematical theory of communication, 1948; I. Witten, R. Neal and J. Cleary, Arithmetic coding for data
compression, 1987). Losses of models with different tokenizers can be compared in bits per byte, not in nats a token.

A model that also reads a memory made from the text, ``numbers`` numbers of ``bits`` bits, has not coded the text without it: a
decoder needs both parts (J. Rissanen, Modeling by shortest data description, 1978). Over the tokens that it serves, it costs

    memory loss = numbers·bits·ln 2 / tokens        normalized loss = L + memory loss

nats a token, and only the normalised loss is a code length.

All arguments are numbers or tensors that broadcast; numbers give a float, a tensor among them a float64 tensor. Refused: NaN,
counts that are 0 or below or infinite, memories of negative size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens.entropies import in_double
from tl_entropy.torch_state import steady

Number = float | Tensor


@steady
def bits_per_byte(loss: Number, *, tokens: Number, n_bytes: Number) -> Number:
    """Return the code length of a text in bits per byte of UTF-8: (tokens / n_bytes)·loss / ln 2.

    Args:
        loss: mean nats a token, over the tokens that are counted.
        tokens: how many tokens that is; with ``n_bytes`` only their ratio matters.
        n_bytes: bytes that these very tokens stand for; a first token without a loss belongs to neither (``token_sizes``).

    Returns:
        Bits per byte; 8 is what an uncompressed text has.

    Raises:
        NonFiniteError: NaN, a loss of -inf, or an infinite count.
        InputError: ``tokens`` or ``n_bytes`` of 0 or below, or shapes that do not broadcast.
        InputTypeError: neither a number nor a tensor of numbers.

    >>> round(bits_per_byte(1.4, tokens=1, n_bytes=2.82), 4)
    0.7162
    """
    return _by_unit(loss=loss, tokens=tokens, n_bytes=n_bytes)


@steady
def bits_per_character(loss: Number, *, tokens: Number, n_characters: Number) -> Number:
    """Return the code length of a text in bits per character: (tokens / n_characters)·loss / ln 2.

    As ``bits_per_byte``, with the characters (code points) that the counted tokens stand for; the same number for ASCII, and
    up to four times as large elsewhere.

    >>> round(bits_per_character(2.5, tokens=1, n_characters=3.92), 4)
    0.9201
    """
    return _by_unit(loss=loss, tokens=tokens, n_characters=n_characters)


@steady
def perplexity(loss: Number) -> Number:
    """Return exp(loss), of a loss in nats: the number of equally likely tokens that would be as hard to predict.

    Raises:
        NonFiniteError: NaN or -inf.
        InputTypeError: neither a number nor a tensor of numbers.

    >>> round(perplexity(math.log(50257)))
    50257
    """
    return _measure(torch.exp, loss=loss)


@steady
def memory_loss(*, numbers: Number, bits: Number, tokens: Number) -> Number:
    """Return what a memory beside the model costs: numbers·bits·ln 2 / tokens.

    Args:
        numbers: how many numbers the memory holds.
        bits: of each, as it is stored; of a quantised memory, those of the grid.
        tokens: how many real tokens it serves; padding is not served.

    Returns:
        Nats a token, at least 0, to be added to a loss; ``bits_per_byte`` and the others convert it.

    Raises:
        NonFiniteError: NaN or infinity.
        InputError: ``numbers`` or ``bits`` below 0, ``tokens`` of 0 or below, or shapes that do not broadcast.
        InputTypeError: neither a number nor a tensor of numbers.

    >>> round(memory_loss(numbers=64, bits=4, tokens=1024), 4)
    0.1733
    """
    return _measure(_memory, numbers=numbers, bits=bits, tokens=tokens)


@steady
def normalized_loss(loss: Number, *, numbers: Number, bits: Number, tokens: Number) -> Number:
    """Return loss + ``memory_loss``: the nats a token that the text costs when the memory is charged for, too.

    Only this is a code length, to be compared with the loss of a model that has no memory. Arguments and errors are those of
    ``memory_loss``, with the mean loss in nats a token.

    >>> round(normalized_loss(2.0, numbers=64, bits=8, tokens=1024), 4)
    2.3466
    """
    return _measure(lambda loss, *memory: loss + _memory(*memory), loss=loss, numbers=numbers, bits=bits, tokens=tokens)


def _memory(numbers: Tensor, bits: Tensor, tokens: Tensor) -> Tensor:
    return numbers * bits * math.log(2) / tokens


def _by_unit(**arguments: Number) -> Number:
    return _measure(lambda loss, tokens, units: tokens / units * loss / math.log(2), **arguments)


def _measure(formula: Callable[..., Tensor], **arguments: Number) -> Number:
    """``formula`` of the checked arguments in float64: a tensor where one of them is, else a float."""
    values = [_checked(name, value) for name, value in arguments.items()]
    try:
        torch.broadcast_shapes(*(value.shape for value in values))
    except RuntimeError as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in zip(arguments, values, strict=True))
        raise InputError(f"the arguments must have shapes that broadcast; got {shapes}") from error
    result = formula(*values)
    return result if any(isinstance(value, Tensor) for value in arguments.values()) else result.item()


def _checked(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bool:
        number = in_double(value)
    elif not isinstance(value, bool) and isinstance(value, Real):
        number = torch.tensor(float(value), dtype=torch.float64)
    else:
        raise InputTypeError(f"{name} must be a number or a tensor of numbers; got {value!r}")
    infinite = number == -math.inf if name == "loss" else number.isinf()  # a token that was held impossible costs +inf
    if (number.isnan() | infinite).any():
        raise NonFiniteError(f"{name} must not be NaN or {'-inf' if name == 'loss' else 'infinite'}; got {value!r}")
    if name in ("numbers", "bits") and (number < 0).any():
        raise InputError(f"{name} must be at least 0; got {value!r}")
    if name in ("tokens", "n_bytes", "n_characters") and (number <= 0).any():
        raise InputError(f"{name} must be above 0; got {value!r}")
    return number
