"""Code lengths against arithmetic with 50 digits, an arithmetic coder's bound, and values found in print."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens.entropies import shannon_entropy, surprisal
from tl_entropy.functional.tokens.coding import bits_per_byte, bits_per_character, memory_loss, normalized_loss, perplexity

positive = st.floats(1e-3, 1e9)
amounts = st.floats(0, 1e9)


def exact(formula, *values):
    with mpmath.workdps(50):
        return float(formula(*map(mpmath.mpf, values)))


@given(loss=amounts, tokens=positive, units=positive)
def test_bits_a_unit(loss, tokens, units):
    expected = pytest.approx(exact(lambda n, u, nats: n / u * nats / mpmath.log(2), tokens, units, loss), rel=1e-14)
    assert bits_per_byte(loss, tokens=tokens, n_bytes=units) == expected
    assert bits_per_character(loss, tokens=tokens, n_characters=units) == expected


@given(loss=st.floats(0, 700), numbers=amounts, bits=amounts, tokens=positive)
def test_memory(loss, numbers, bits, tokens):
    expected = exact(lambda n, b, t: n * b * mpmath.log(2) / t, numbers, bits, tokens)
    assert memory_loss(numbers=numbers, bits=bits, tokens=tokens) == pytest.approx(expected, rel=1e-14)
    found = normalized_loss(loss, numbers=numbers, bits=bits, tokens=tokens)
    assert found == pytest.approx(loss + expected, rel=1e-14)
    assert perplexity(loss) == pytest.approx(exact(mpmath.exp, loss), rel=1e-13)


def bits_per_byte_of_memory(numbers, bits, tokens, bytes_a_token):
    return bits_per_byte(memory_loss(numbers=numbers, bits=bits, tokens=tokens), tokens=1, n_bytes=bytes_a_token)


# Values as they stand in print, and the digits that they are rounded from.
@pytest.mark.parametrize(
    ("found", "printed", "value"),
    [
        (lambda: bits_per_byte(1.4, tokens=1, n_bytes=2.82), 0.72, 0.716232),
        (lambda: bits_per_byte_of_memory(512, 4, 512, 2.82), 1.42, 1.418440),
        (lambda: bits_per_byte_of_memory(128, 4, 512, 3.92), 0.255, 0.255102),
        (lambda: bits_per_character(2.5, tokens=1, n_characters=3.92), 0.920, 0.920086),
        (lambda: memory_loss(numbers=64, bits=4, tokens=1024), 0.1733, 0.173287),
        (lambda: memory_loss(numbers=64, bits=8, tokens=1024), 0.3466, 0.346574),
        (lambda: memory_loss(numbers=64, bits=16, tokens=1024), 0.6931, 0.693147),
    ],
)
def test_values_in_print(found, printed, value):
    assert found() == pytest.approx(value, abs=5e-7)
    digits = len(str(printed).split(".")[1])
    assert abs(found() - printed) <= 0.5 * 10**-digits, "rounded as printed"


def test_a_memory_of_sixteen_bits_a_token_costs_sixteen_bits_a_token():
    assert memory_loss(numbers=64, bits=16, tokens=64) == 16 * math.log(2)
    assert bits_per_byte(memory_loss(numbers=64, bits=16, tokens=64), tokens=1, n_bytes=2) == pytest.approx(8, rel=1e-15)


def test_a_code_of_random_bytes_is_their_number():
    """No code of bytes that are uniform is shorter than 8 bits a byte on average, and the model that knows it has 8."""
    data = torch.randint(0, 256, (1000,), generator=torch.Generator().manual_seed(0))
    loss = surprisal(torch.zeros(1000, 256), data).mean()
    assert bits_per_byte(loss.item(), tokens=1000, n_bytes=len(bytes(data.tolist()))) == pytest.approx(8, rel=1e-14)
    assert bits_per_byte(math.log(2), tokens=8, n_bytes=1) == 8
    assert perplexity(loss.item()) == pytest.approx(256, rel=1e-13)


def test_a_code_is_as_long_as_what_an_arithmetic_coder_writes():
    """An interval coder in exact fractions: it writes a number within the text's interval, and the number's digits decode."""
    from fractions import Fraction

    shares = {"a": Fraction(7, 10), "b": Fraction(2, 10), "c": Fraction(1, 10)}
    text = "abacaaabaaaacabaabaa" * 3
    low, width = Fraction(0), Fraction(1)
    below = {"a": Fraction(0), "b": Fraction(7, 10), "c": Fraction(9, 10)}
    for letter in text:
        low, width = low + width * below[letter], width * shares[letter]
    n_bits = math.ceil(-math.log2(width)) + 1
    code = math.ceil(low * 2**n_bits)  # n_bits digits; all that begins with them lies within the interval
    assert low <= Fraction(code, 2**n_bits)
    assert Fraction(code + 1, 2**n_bits) <= low + width
    loss = -sum(math.log(shares[letter]) for letter in text) / len(text)
    ideal = bits_per_byte(loss, tokens=len(text), n_bytes=len(text)) * len(text)
    assert ideal <= n_bits < ideal + 2


def test_perplexity_of_a_choice_among_equals():
    assert perplexity(shannon_entropy(torch.zeros(64))).item() == pytest.approx(64, rel=1e-14)
    assert perplexity(0) == 1
    assert perplexity(math.inf) == perplexity(1000.0) == math.inf


def test_numbers_give_a_float_and_tensors_a_tensor():
    for loss in (1.4, np.float64(1.4), np.float32(1.4), 1):
        assert type(bits_per_byte(loss, tokens=np.int64(3), n_bytes=5)) is float
        assert type(normalized_loss(loss, numbers=1, bits=2, tokens=3)) is type(perplexity(loss)) is float
    losses = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float16)
    sizes = torch.tensor([[4], [8]])
    found = bits_per_byte(losses, tokens=2, n_bytes=sizes)
    assert found.dtype == torch.float64
    expected = [[bits_per_byte(loss, tokens=2, n_bytes=size) for loss in (1.0, 2.0, 3.0)] for size in (4, 8)]
    assert found.tolist() == expected
    assert bits_per_byte(1.0, tokens=2, n_bytes=sizes).shape == memory_loss(numbers=1, bits=8, tokens=sizes).shape == (2, 1)
    assert isinstance(bits_per_character(torch.tensor(1.0), tokens=1, n_characters=1), torch.Tensor)
    loss = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    bits_per_byte(loss, tokens=1, n_bytes=4).backward()
    assert loss.grad.item() == pytest.approx(0.25 / math.log(2), rel=1e-15)


def test_differences_of_losses_and_impossible_tokens_are_converted_too():
    assert bits_per_byte(-math.log(2), tokens=1, n_bytes=2) == -0.5
    assert bits_per_byte(math.inf, tokens=1, n_bytes=2) == math.inf
    assert normalized_loss(math.inf, numbers=1, bits=1, tokens=1) == math.inf
    assert normalized_loss(2.0, numbers=0, bits=4, tokens=1) == normalized_loss(2.0, numbers=4, bits=0, tokens=1) == 2.0


RIGHT = {
    bits_per_byte: {"loss": 1.0, "tokens": 2, "n_bytes": 3},
    bits_per_character: {"loss": 1.0, "tokens": 2, "n_characters": 3},
    perplexity: {"loss": 1.0},
    memory_loss: {"numbers": 1, "bits": 2, "tokens": 3},
    normalized_loss: {"loss": 1.0, "numbers": 1, "bits": 2, "tokens": 3},
}


@pytest.mark.parametrize(("function", "name"), [(function, name) for function, names in RIGHT.items() for name in names])
def test_every_argument_is_checked(function, name):
    def call(value):
        return function(**{**RIGHT[function], name: value})

    for wrong in (math.nan, -math.inf, torch.tensor([1.0, math.nan])):
        with pytest.raises(NonFiniteError, match=f"{name} must not be NaN or"):
            call(wrong)
    for wrong in ("1", None, True, 1j, torch.tensor(True), torch.tensor(1j), [1.0]):
        with pytest.raises(InputTypeError, match=f"{name} must be a number or a tensor of numbers; got"):
            call(wrong)
    if name == "loss":
        return
    with pytest.raises(NonFiniteError, match=f"{name} must not be NaN or infinite; got inf"):
        call(math.inf)
    with pytest.raises(InputError, match=rf"{name} must be (at least|above) 0; got -1"):
        call(-1)
    with pytest.raises(InputError, match=rf"{name} must be (at least|above) 0; got tensor"):
        call(torch.tensor([1, -1]))
    if name in ("numbers", "bits"):
        assert math.isfinite(call(0))
    else:
        with pytest.raises(InputError, match=f"{name} must be above 0; got 0"):
            call(0)


def test_shapes_must_broadcast():
    with pytest.raises(InputError, match=r"shapes that broadcast; got loss \[2\], tokens \[3\], n_bytes \[\]"):
        bits_per_byte(torch.ones(2), tokens=torch.ones(3), n_bytes=1)
