r"""Numbers written with few bits: rounded to a type or to a grid, or blurred by noise that does as much.

| to | values | bits charged for a vector of n numbers |
|---|---|---|
| "bfloat16", "float16" | those of the type | 16 n |
| "float8_e4m3fn", "float8_e5m2" | those of the type, up to ±448 and ±57344 | 8 n |
| "int8", "int4", ... "int{b}" | s·k for whole k from -(2^(b-1) - 1) to 2^(b-1) - 1 | b·n, and s where it is a vector's own |
| "grid" | A·(2k - K) / K for k from 0 to K, with K = 2^b - 1 | b·n |

Everything is rounded to the nearest of these values, halves to even (the even mantissa, or the even k), and what lies beyond
the last is put on it. The scale s of a vector is its largest absolute value / (2^(b-1) - 1), so that this one stays as it is.

The grid has 2^b points in steps of 2A / (2^b - 1), its end points ±A among them. Rounding to it is off by at most half a step,
q = A / (2^b - 1), and uniform noise from -q to q does in training what the grid does in evaluation. The number that such noise
leaves of a value from -A to A is its capacity as a channel, which for whole A/q is

    effective bits = log2(1 + A / q)

(input on the points -A, -A + 2q, ..., A, which the noise does not confuse), and an upper bound otherwise. So a grid of b bits
and noise of half its step have the same b effective bits. Without a limit A there is none: training moves numbers apart until
the noise does not matter.

Uniform noise in place of rounding: Ballé, Laparra and Simoncelli 2017, "End-to-end optimized image compression", arXiv
1611.01704, section 3; the gradient passed straight through: Bengio, Léonard and Courville 2013, arXiv 1308.3432; the types:
Micikevicius et al. 2022, "FP8 formats for deep learning", arXiv 2209.05433.

Refused: NaN; an infinity where it would set the scale; tensors that are no floating-point numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice, check_int, check_number, check_positive
from tl_entropy.torch_state import steady

TYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
SCALE_BITS = 16
"""What the scale of a vector costs."""


@steady
def quantize(
    x: Tensor,
    to: str,
    *,
    bits: int | None = None,
    limit: float | None = None,
    scale: float | Tensor | str | None = None,
    straight_through: bool = False,
) -> Tensor:
    """Return every number rounded to the nearest that ``to`` has, in the dtype that it came in.

    The last axis is that of vectors. What a decoder needs of them, ``quantized_bits`` says. See the module for the values.

    Args:
        x: [..., n] floating-point numbers. Beyond the largest value, infinities included, they become that value.
        to: "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"; "int2" to "int32"; or "grid".
        bits: of a number on the grid, from 1 to 32.
        limit: A, the end of the grid.
        scale: of "int{b}", what 1 stands for: a number, or a tensor that broadcasts to x, such as one that was measured on
            other text, ``other.abs().max() / 127``; None is each vector's own, exact; "bfloat16" is each vector's own rounded
            up to what 16 bits hold, for losses that are to be charged for it.
        straight_through: let gradients pass as if nothing had been done. Without it none pass, as the derivative is 0.

    Returns:
        As x. Where the dtype of x cannot hold a value, the nearest that it can.

    Raises:
        InputError: another ``to``, bits or a limit for other than the grid or none for it, a scale for other than ints.
        InputTypeError: no tensor of floating-point numbers.
        NonFiniteError: NaN; an infinity in a vector whose own scale it would set.

    >>> import torch
    >>> quantize(torch.tensor([0.5, 1.5, -127.0]), "int8").tolist()
    [0.0, 2.0, -127.0]
    >>> quantize(torch.tensor([0.4, -3.0, 0.0]), "grid", bits=2, limit=1.0).tolist()  # -1, -1/3, 1/3, 1; halves to even
    [0.3333333432674408, -1.0, 0.3333333432674408]
    >>> quantize(torch.tensor([460.0, 17.0]), "float8_e4m3fn").tolist()
    [448.0, 16.0]
    """
    rounded = rounding(to, bits, limit, scale)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputTypeError(f"x must be a tensor of floating-point numbers; got {getattr(x, 'dtype', type(x).__name__)}")
    if isinstance(scale, Tensor) and not _broadcasts(scale.shape, x.shape):
        raise InputError(f"scale must broadcast to x {list(x.shape)}; got the shape {list(scale.shape)}")
    with torch.no_grad():
        double = x.to("cpu" if x.device.type == "mps" else x.device, torch.float64)
        if double.isnan().any():
            raise NonFiniteError("x must not be NaN")
        top = torch.finfo(x.dtype).max
        found = rounded(double).clamp(-top, top).to(x.device, x.dtype) if x.numel() else x.clone()
    return _StraightThrough.apply(x, found) if straight_through else found


@steady
def quantized_bits(numbers: int, to: str, *, bits: int | None = None, scale: Any = None) -> int:
    """Return the bits charged for a vector of ``numbers`` numbers that ``quantize`` has rounded.

    Args:
        numbers: how many a vector has, from 0.
        to: as in ``quantize``.
        bits: of a number on the grid.
        scale: of ints, as in ``quantize``: a vector's own costs 16 bits, and 32 where it is left exact (None); one that was
            given, for all vectors, costs nothing.

    Raises:
        InputError, InputTypeError: as ``quantize``.

    >>> quantized_bits(16, "int8", scale="bfloat16"), quantized_bits(16, "int8", scale=0.01), quantized_bits(16, "grid", bits=4)
    (144, 128, 64)
    """
    numbers = check_int("numbers", numbers, 0)
    rounding(to, bits, 1.0 if isinstance(to, str) and to == "grid" else None, scale)
    if to in TYPES:
        return numbers * torch.finfo(TYPES[to]).bits
    if to == "grid":
        return numbers * int(bits or 0)
    own = SCALE_BITS * (1 if scale == "bfloat16" else 2) if scale is None or isinstance(scale, str) else 0
    return numbers * _int_bits(to) + own


@steady
def uniform_noise(x: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Return x + u, with u uniform from -scale to scale and independent for every number.

    Its mean is 0 and its standard deviation scale / √3. In training it stands for rounding to steps of 2·scale. Gradients pass.

    Args:
        x: floating-point numbers of any shape.
        scale: q, at least 0.
        generator: of its own, so that noise changes no other draw. One on the CPU draws the same for every device.

    Raises:
        InputError: a scale below 0 or not finite.
        InputTypeError: an argument of another kind.

    >>> import torch
    >>> noisy = uniform_noise(torch.zeros(1000), 0.5, torch.Generator().manual_seed(0))
    >>> bool(noisy.abs().max() <= 0.5), bool(noisy.min() < -0.49), bool(noisy.max() > 0.49)
    (True, True, True)
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputTypeError(f"x must be a tensor of floating-point numbers; got {getattr(x, 'dtype', type(x).__name__)}")
    if not isinstance(generator, torch.Generator):
        raise InputTypeError(f"generator must be a torch.Generator; got {type(generator).__name__}")
    scale = check_number("scale", scale, 0)
    u = torch.rand(x.shape, generator=generator, dtype=torch.float32, device=generator.device)
    return x + ((2 * u - 1) * scale).to(x.device, x.dtype)


@steady
def effective_bits(limit: float | Tensor, noise: float | Tensor) -> float | Tensor:
    """Return log2(1 + limit / noise): the bits that uniform noise leaves of a number from -limit to limit.

    Exact where limit / noise is whole, an upper bound otherwise; a grid of b bits has noise = limit / (2^b - 1), and b of them.

    Args:
        limit: A, above 0; of numbers that nothing limits, the range that was measured.
        noise: q, above 0; half the step, where numbers are rounded.

    Returns:
        Bits a number, above 0; a float of numbers, a float64 tensor where one of them is a tensor.

    Raises:
        InputError: 0 or below, or not finite, or shapes that do not broadcast.
        InputTypeError: no numbers.

    >>> effective_bits(1.0, 1 / 15), effective_bits(1.0, 1.0), round(effective_bits(7.0, 2**-4), 1)
    (4.0, 1.0, 6.8)
    """
    a, q = _positive("limit", limit), _positive("noise", noise)
    try:
        found = torch.log2(1 + a / q)
    except RuntimeError as error:
        raise InputError(f"limit and noise must broadcast; got {list(a.shape)} and {list(q.shape)}") from error
    return found if isinstance(limit, Tensor) or isinstance(noise, Tensor) else found.item()


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(context: Any, x: Tensor, found: Tensor) -> Tensor:
        return found

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def rounding(to: str, bits: int | None, limit: float | None, scale: Any) -> Callable[[Tensor], Tensor]:
    """The function of float64 numbers [..., n] that the arguments mean, once they are checked."""
    whole = isinstance(to, str) and re.fullmatch(r"int\d+", to) is not None
    if not whole:
        check_choice("to", to, (*TYPES, "grid", "int8", "int4"))
    if to != "grid" and (bits is not None or limit is not None):
        raise InputError(f"bits and limit are of the grid; {to!r} has its own. Leave them out, or take to='grid'")
    if not whole and scale is not None:
        raise InputError(f"scale is of ints, such as 'int8'; {to!r} has none")
    if to == "grid":
        if bits is None or limit is None:
            raise InputError("the grid needs bits and limit, such as quantize(x, 'grid', bits=4, limit=1.0)")
        end, steps = check_positive("limit", limit), 2 ** check_int("bits", bits, 1, 32) - 1
        return lambda x: _on_grid(x, end, steps)
    if whole:
        top = 2 ** (_int_bits(to) - 1) - 1
        given = scale if scale is None or isinstance(scale, str) else _positive("scale", scale)
        if isinstance(given, str):
            check_choice("scale", given, ("bfloat16",))
        return lambda x: _whole(x, top, given)
    return lambda x: _as_type(x, TYPES[to])


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    try:
        return bool(torch.broadcast_shapes(shape, to) == to)
    except RuntimeError:
        return False


def _int_bits(to: str) -> int:
    return check_int("to: the bits of an int", int(to.removeprefix("int")), 2, 32)


def _on_grid(x: Tensor, limit: float, steps: int) -> Tensor:
    k = ((x.clamp(-limit, limit) / limit + 1) * (steps / 2)).round()
    return (2 * k - steps) / steps * limit


def _whole(x: Tensor, top: int, scale: Tensor | str | None) -> Tensor:
    if isinstance(scale, Tensor):
        unit = scale.to(x.device)
    else:
        largest = x.abs().amax(-1, keepdim=True)
        if largest.isinf().any():
            raise NonFiniteError("x has an infinity in a vector whose own scale it would set; give scale=, or a finite x")
        unit = largest / top
        if scale == "bfloat16":
            unit = _rounded_up(unit)
    k = (x / unit).nan_to_num(0.0, math.inf, -math.inf).round().clamp(-top, top)  # of a vector of zeros 0 / 0
    return k * unit


def _rounded_up(unit: Tensor) -> Tensor:
    """The next bfloat16 that is not below, so that the largest number of a vector stays within its range."""
    near = _as_type(unit, torch.bfloat16)
    return torch.where(near < unit, _as_type(near + _spacing(near, torch.bfloat16), torch.bfloat16), near)


def _as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded as the type rounds, subnormal numbers included: in float64, where nothing is rounded twice, on every device."""
    top = torch.finfo(dtype).max
    x = x.clamp(-top, top)
    step = _spacing(x, dtype)
    return (x / step).round() * step


def _spacing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of a type's values at x."""
    info = torch.finfo(dtype)
    power = (x / torch.frexp(x).mantissa / 2).nan_to_num(0.0)  # the power of 2 at or below, exactly
    return (power * info.eps).clamp(min=info.smallest_normal * info.eps)


def _positive(name: str, value: Any) -> Tensor:
    """Positive, finite numbers in float64."""
    if not isinstance(value, Tensor):
        return torch.tensor(check_positive(name, value), dtype=torch.float64)
    if value.is_complex() or value.dtype == torch.bool:
        raise InputTypeError(f"{name} must be positive numbers; got {value.dtype}")
    found = value.detach().to("cpu" if value.device.type == "mps" else value.device, torch.float64)
    if not bool((found.isfinite() & (found > 0)).all()):
        raise InputError(f"{name} must be positive and finite; got {value!r}")
    return found
