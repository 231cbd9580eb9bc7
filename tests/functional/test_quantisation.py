"""Quantisation against loops in exact arithmetic and torch's own casts, at edges; noise by its moments; bits by counting."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional import effective_bits, quantize, quantized_bits, uniform_noise
from tl_entropy.functional.quantisation import TYPES

INF, NAN = math.inf, math.nan
EDGES = [0.0, -0.0, 5e-324, 1e-45, 2.0**-149, 1e-40, 6e-8, 2e-3, 0.3, 1.0, 1.5, 447.9, 464.0, 1e4, 65519.0, 1e30, 3.4e38, 1e300]


def numbers(seed=0, n=400):
    """Numbers of all sizes, both signs."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(-50, 40, (n,), generator=generator).double().exp2()
    drawn = sizes * torch.randn(n, generator=generator, dtype=torch.float64)
    edges = torch.tensor(EDGES, dtype=torch.float64)
    return torch.cat([drawn, edges, -edges, torch.tensor([INF, -INF], dtype=torch.float64)])


def values_of(dtype):
    """Every finite value of an 8- or 16-bit type, in order, each once."""
    patterns = torch.arange(2 ** torch.finfo(dtype).bits)
    kind = torch.uint8 if torch.finfo(dtype).bits == 8 else torch.int16
    found = patterns.to(kind).view(dtype).double()
    return found[found.isfinite()].unique()


@pytest.mark.parametrize("to", TYPES)
def test_a_type_keeps_its_values_and_parts_the_rest_at_their_middle(to):
    values = values_of(TYPES[to])
    assert torch.equal(quantize(values, to), values)
    middle = (values[:-1] + values[1:]) / 2  # exact in float64
    even = values.to(TYPES[to]).view(torch.uint8 if torch.finfo(TYPES[to]).bits == 8 else torch.int16) % 2 == 0
    assert torch.equal(quantize(middle, to), torch.where(even[:-1], values[:-1], values[1:])), "halves to the even mantissa"
    assert torch.equal(quantize(torch.nextafter(middle, values[:-1]), to), values[:-1]), "no rounding before the rounding"
    assert torch.equal(quantize(torch.nextafter(middle, values[1:]), to), values[1:])


@pytest.mark.parametrize("to", TYPES)
def test_a_cast_is_torchs_within_the_range_and_the_last_value_beyond(to):
    x = numbers().float()
    top = torch.finfo(TYPES[to]).max
    inside = x[x.abs() <= top]
    assert torch.equal(quantize(inside, to), inside.to(TYPES[to]).float())
    assert quantize(torch.tensor([2 * min(top, 1e38), INF, -INF]), to).abs().tolist()[1:] == [top, top]
    assert quantize(torch.tensor([-INF], dtype=torch.float64), to).item() == -top


def half_to_even(x: Fraction) -> int:
    return round(x)  # of a Fraction, exact and half to even


@pytest.mark.parametrize("b", [2, 4, 8, 16])
def test_ints_are_a_loop(b):
    x, top = torch.randn(7, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(b)), 2 ** (b - 1) - 1
    x[3] = 0
    found = quantize(x, f"int{b}")
    for row, got in zip(x.tolist(), found.tolist(), strict=True):
        scale = max(map(abs, row)) / top
        expected = [scale * max(-top, min(top, half_to_even(Fraction(v / scale)))) if scale else 0.0 for v in row]
        assert got == expected
    assert (found / (x.abs().amax(-1, keepdim=True) / top)).nan_to_num().round().unique().numel() <= 2**b - 1


def test_ints_halves_and_ends():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -127.0])
    assert quantize(x, "int8").tolist() == [0.0, 2.0, 2.0, -0.0, -2.0, 126.0, -127.0]
    given = torch.tensor([300.0, -INF, INF, 0.25])
    assert quantize(given, "int8", scale=0.5).tolist() == [63.5, -63.5, 63.5, 0.0], "beyond the range the last number"
    assert quantize(torch.tensor([[3.0], [3.0]]), "int4", scale=torch.tensor([[1.0], [0.1]])).flatten().tolist() == (
        pytest.approx([3.0, 0.7])
    )
    assert quantize(torch.tensor(3.0), "int8").item() == 3.0, "one number is a vector of one"


def test_a_scale_in_sixteen_bits_is_one_and_clips_nothing():
    x = torch.randn(50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = quantize(x, "int8", scale="bfloat16")
    for row, got in zip(x, found, strict=True):
        [unit] = {u for u in ((got.abs().max() / k).item() for k in (126, 127)) if torch.tensor(u).bfloat16().item() == u}
        assert row.abs().max() / 127 <= unit < row.abs().max() / 127 * (1 + 2**-7)
        assert (got / unit - (row / unit).round()).abs().max() < 1e-9
    assert quantize(torch.zeros(2, 3), "int8", scale="bfloat16").tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(("bits", "limit"), [(1, 1.0), (2, 3.0), (4, 4.2), (8, 1e-3)])
def test_the_grid_is_the_nearest_of_its_points(bits, limit):
    steps = 2**bits - 1
    points = [Fraction(limit) * (2 * k - steps) / steps for k in range(steps + 1)]
    x = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(bits)) * limit
    for value, got in zip(x.tolist(), quantize(x, "grid", bits=bits, limit=limit).tolist(), strict=True):
        nearest = min(points, key=lambda point: abs(point - Fraction(value)))
        assert got == pytest.approx(float(nearest), rel=1e-15)
    assert quantize(torch.tensor([INF, -INF, limit, -limit]), "grid", bits=bits, limit=limit).tolist() == (
        pytest.approx([limit, -limit, limit, -limit])
    )
    inside = x.clamp(-limit, limit)
    off = (quantize(x, "grid", bits=bits, limit=limit) - inside).abs().max()
    assert off <= limit / steps * (1 + 1e-12), "at most half a step, to which the noise is made"
    assert effective_bits(limit, limit / steps) == pytest.approx(bits, rel=1e-14), "grid and noise agree"


def test_halves_of_the_grid_go_to_even_points():
    x = torch.tensor([-2.0, 0.0, 2.0])  # between -3, -1, 1 and 3, which are numbers 0 to 3
    assert quantize(x, "grid", bits=2, limit=3.0).tolist() == [-3.0, 1.0, 1.0]
    assert quantize(torch.tensor([0.0]), "grid", bits=1, limit=1.0).item() == -1.0


EVERY = [
    *((to, {}) for to in TYPES),
    ("int8", {}),
    ("int8", {"scale": 0.1}),
    ("int4", {"scale": "bfloat16"}),
    ("grid", {"bits": 3, "limit": 2.0}),
]


@pytest.mark.parametrize(("to", "options"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_of_every_dtype(to, options, dtype):
    x = numbers()[:400].clamp(-6e4, 6e4).reshape(20, 20).to(dtype)
    before = x.clone()
    found = quantize(x, to, **options)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    assert torch.equal(x, before)
    assert found.isfinite().all()
    own = quantize(x.double(), to, **options).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    assert torch.equal(found, own.to(dtype))
    for shape in ((0,), (3, 0), (0, 4)):
        assert quantize(torch.zeros(shape, dtype=dtype), to, **options).shape == shape
    with pytest.raises(NonFiniteError, match="x must not be NaN"):
        quantize(torch.tensor([NAN, 1.0], dtype=dtype), to, **options)


def test_float16_that_holds_no_more_gets_no_infinity():
    assert quantize(torch.tensor([65504.0]).half(), "bfloat16").item() == 65504.0
    assert quantize(torch.tensor([1.0, -1.0]).half() * 6e4, "grid", bits=1, limit=1e6).isfinite().all()


@pytest.mark.parametrize(("to", "options"), EVERY)
def test_gradients_pass_straight_through_if_asked_and_otherwise_not_at_all(to, options):
    x = torch.tensor([0.3, -5.0, 0.01], requires_grad=True)
    found = quantize(x, to, straight_through=True, **options)
    assert torch.equal(found, quantize(x, to, **options))
    (found * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0]
    assert not quantize(x, to, **options).requires_grad


@pytest.mark.parametrize(
    ("given", "options", "error", "match"),
    [
        (torch.zeros(2), {"to": "int1"}, InputError, "from 2 to 32"),
        (torch.zeros(2), {"to": "int64"}, InputError, "from 2 to 32"),
        (torch.zeros(2), {"to": "fp8"}, InputError, "to must be one of 'bfloat16'"),
        (torch.zeros(2), {"to": torch.float16}, InputError, "to must be one of"),
        (torch.zeros(2), {"to": "grid"}, InputError, "bits and limit"),
        (torch.zeros(2), {"to": "grid", "bits": 4}, InputError, "bits and limit"),
        (torch.zeros(2), {"to": "grid", "bits": 0, "limit": 1.0}, InputError, "bits must be an int from 1 to 32"),
        (torch.zeros(2), {"to": "grid", "bits": 4, "limit": INF}, InputError, "limit must be a positive number"),
        (torch.zeros(2), {"to": "int8", "bits": 4}, InputError, "are of the grid"),
        (torch.zeros(2), {"to": "float16", "scale": 1.0}, InputError, "scale is of ints"),
        (torch.zeros(2), {"to": "int8", "scale": 0.0}, InputError, "scale must be a positive number"),
        (torch.zeros(2), {"to": "int8", "scale": torch.tensor([1.0, -1.0])}, InputError, "scale must be positive"),
        (torch.zeros(2), {"to": "int8", "scale": "float16"}, InputError, "scale must be one of 'bfloat16'"),
        (torch.tensor([INF, 1.0]), {"to": "int8"}, NonFiniteError, "whose own scale"),
        (torch.zeros(2, dtype=torch.long), {"to": "int8"}, InputTypeError, "x must be a tensor of floating"),
        ([0.5], {"to": "int8"}, InputTypeError, "got list"),
        (torch.zeros(2), {"to": "int8", "straight_through": 1}, InputTypeError, "straight_through must be True or False"),
    ],
)
def test_refusals(given, options, error, match):
    with pytest.raises(error, match=match):
        quantize(given, **options)


def test_bits_charged():
    assert [quantized_bits(10, to) for to in TYPES] == [160, 160, 80, 80]
    assert quantized_bits(10, "int4", scale="bfloat16") == 56
    assert quantized_bits(10, "int4") == 72, "an exact scale has 32 bits"
    assert quantized_bits(10, "int4", scale=torch.ones(10)) == 40
    assert quantized_bits(10, "grid", bits=3) == 30
    with pytest.raises(InputError, match="numbers must be an int of at least 0"):
        quantized_bits(-1, "int8")
    with pytest.raises(InputError, match="bits and limit"):
        quantized_bits(1, "grid")


def test_noise_is_uniform_of_both_signs_and_of_its_generator():
    x = torch.randn(3, 40_000)
    torch.manual_seed(1)
    noise = uniform_noise(x, 0.25, torch.Generator().manual_seed(0)) - x
    assert noise.min() == pytest.approx(-0.25, abs=1e-4)
    assert noise.max() == pytest.approx(0.25, abs=1e-4)
    assert abs(noise.mean()) < 4 * 0.25 / math.sqrt(3 * noise.numel()), "mean 0"
    assert noise.std() == pytest.approx(0.25 / math.sqrt(3), rel=0.01)
    state = torch.get_rng_state()
    again = uniform_noise(x, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(again - x, noise)
    assert torch.equal(state, torch.get_rng_state()), "no other draw is moved"
    assert torch.equal(uniform_noise(x, 0.0, torch.Generator()), x)
    leaf = torch.zeros(2, requires_grad=True)
    uniform_noise(leaf, 1.0, torch.Generator()).sum().backward()
    assert leaf.grad.tolist() == [1.0, 1.0]
    assert uniform_noise(x.bfloat16(), 1.0, torch.Generator()).dtype == torch.bfloat16
    assert uniform_noise(torch.zeros(0, 2), 1.0, torch.Generator()).shape == (0, 2)


@pytest.mark.parametrize(
    ("given", "error"),
    [((torch.zeros(2), -1.0), InputError), ((torch.zeros(2), INF), InputError), ((torch.zeros(2).long(), 1.0), InputTypeError)],
)
def test_noise_refuses(given, error):
    with pytest.raises(error):
        uniform_noise(*given, torch.Generator())
    with pytest.raises(InputTypeError, match="must be a torch"):
        uniform_noise(torch.zeros(2), 1.0, 0)


def test_effective_bits_are_a_capacity():
    """The points -A, -A + 2q, ..., A are told apart whatever the noise, and no more than so many are."""
    for n in (2, 3, 16):
        limit, noise = 1.0, 1.0 / (n - 1)
        points = torch.linspace(-limit, limit, n, dtype=torch.float64)
        assert points.diff().min() >= 2 * noise * (1 - 1e-12)
        assert effective_bits(limit, noise) == pytest.approx(math.log2(n), rel=1e-14)
    assert effective_bits(7.0, 2**-4) == pytest.approx(math.log2(113), rel=1e-14)
    found = effective_bits(torch.tensor([1.0, 2.0]), 1.0)
    assert found.dtype == torch.float64
    assert found.tolist() == [1.0, math.log2(3)]
    for bad in (0.0, -1.0, INF, NAN):
        with pytest.raises(InputError, match="noise must be a positive"):
            effective_bits(1.0, bad)
        with pytest.raises(InputError, match="limit must be positive"):
            effective_bits(torch.tensor([1.0, bad]), 1.0)
    with pytest.raises(InputError, match=r"limit and noise must broadcast; got \[2\] and \[3\]"):
        effective_bits(torch.ones(2), torch.ones(3))
    with pytest.raises(InputTypeError):
        effective_bits(None, 1.0)
