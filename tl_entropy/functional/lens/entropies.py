"""Entropies of softmax distributions, straight from logits: Shannon, Rényi of any order, surprisal, varentropy.

A row of logits l has the distribution p = softmax(l). Log-probabilities are logits too, so every function takes either, and a
constant added to a row changes nothing. -inf marks an outcome that cannot happen, and 0·log 0 is 0.

    H_a = log(Σ p^a) / (1 - a)        H_1 = -Σ p·log p        H_0 = log |support|        H_inf = -max log p

in nats, never rising with the order a (A. Rényi, On measures of entropy and information, 1961). Rows are worked chunk by chunk
in float64 with their maximum taken out, so no order loses digits: neither near 1, where the plain power sum cancels, nor at
large orders, where clamped probabilities cap the result. The sums are those of ``tiles.py``.

Refused: NaN or +inf in the logits, rows that are all -inf, an empty vocabulary, integers, orders below 0 or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_int, check_orders
from tl_entropy.functional.lens.tiles import MASKED, combine, tile_sums
from tl_entropy.torch_state import steady

# Logits worked on at once: 4 MB in float64 for each of the handful of temporaries.
_CHUNK = 2**19


@steady
def shannon_entropy(logits: Tensor, *, dim: int = -1) -> Tensor:
    """Return how uncertain softmax(logits) is: H = -Σ p·log p = log s - Σ e·z / s, with z = l - max l, e = exp(z), s = Σ e.

    Args:
        logits: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        dim: the axis of the outcomes.

    Returns:
        float64 nats between 0 and log(size of ``dim``), of the shape of ``logits`` without ``dim``. Differentiable.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: a row that is all -inf, or no outcomes at all.
        InputTypeError: not a floating-point tensor.

    Source: C. Shannon, A mathematical theory of communication, 1948.

    >>> shannon_entropy(torch.tensor([0.0, 0.0, -math.inf])).item() == math.log(2)
    True
    """
    return _by_rows(logits, dim, lambda rows: _entropies(rows, (1.0,))[:, 0])


@steady
def renyi_entropy(logits: Tensor, order: float | Sequence[float], *, dim: int = -1) -> Tensor:
    """Return the Rényi entropy of softmax(logits), H_a = log(Σ p^a) / (1 - a), of one order or of several from one pass.

    Order 0 is the log of the support's size, 1 Shannon's entropy, 2 the log of the inverse collision probability, infinity the
    min-entropy -max log p. The higher the order, the more the likely outcomes alone decide.

    Args:
        logits: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        order: one order from 0 to infinity, or a sequence of them.
        dim: the axis of the outcomes.

    Returns:
        float64 nats between 0 and log(size of ``dim``), of the shape of ``logits`` without ``dim``; for a sequence of orders,
        these on a new last axis. Differentiable.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: an order below 0 or NaN, a row that is all -inf, or no outcomes at all.
        InputTypeError: not a floating-point tensor, or an order that is no number.

    Source: A. Rényi, On measures of entropy and information, 1961.

    >>> renyi_entropy(torch.zeros(8), (0, 0.5, 1, 5, math.inf)).exp()
    tensor([8.0000, 8.0000, 8.0000, 8.0000, 8.0000], dtype=torch.float64)
    """
    orders = check_orders("order", order)
    entropies = _by_rows(logits, dim, lambda rows: _entropies(rows, orders))
    return entropies[..., 0] if isinstance(order, int | float) else entropies


@steady
def surprisal(logits: Tensor, targets: Tensor, *, dim: int = -1) -> Tensor:
    """Return how unexpected each target is under softmax(logits): -log p(target).

    Args:
        logits: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        targets: integers, of the shape of ``logits`` without ``dim``.
        dim: the axis of the outcomes.

    Returns:
        float64 nats from 0 to infinity, of the shape of ``targets``. Differentiable in the logits.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: targets of another shape or out of range, a row that is all -inf, or no outcomes at all.
        InputTypeError: logits that are not floating-point, or targets that are not integers.

    >>> surprisal(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
    tensor([4., 4.], dtype=torch.float64)
    """
    dim = _check_logits(logits, dim)
    if not isinstance(targets, Tensor):
        raise InputTypeError(f"targets must be an integer tensor; got {type(targets).__name__}")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise InputTypeError(f"targets must be an integer tensor; got {targets.dtype}")
    index = targets.long().to(logits.device).unsqueeze(dim)
    expected = list(logits.shape)
    expected[dim] = 1
    if list(index.shape) != expected:
        raise InputError(
            f"targets must have the shape of logits {list(logits.shape)} without dim {dim}; got {list(targets.shape)}"
        )
    outside = (targets < 0) | (targets >= logits.shape[dim])
    if outside.any():
        raise InputError(
            f"targets must be between 0 and {logits.shape[dim] - 1}; got {int(targets[outside][0])}: "
            "leave out the rows that have none"
        )
    orders = (math.inf,)  # the one that needs nothing but the normaliser
    normalizer = _by_rows(logits, dim, lambda rows: combine(tile_sums(rows, orders)[None], orders)[1])
    return normalizer - logits.gather(dim, index).squeeze(dim).to(normalizer)


@steady
def varentropy(logits: Tensor, *, dim: int = -1) -> Tensor:
    """Return how much the surprisal varies under softmax(logits): the variance Σ p·(log p + H)².

    It is 0 for every distribution that is uniform on its support, and -2 dH_a/da at a = 1.

    Args:
        logits: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        dim: the axis of the outcomes.

    Returns:
        float64 nats², at least 0, of the shape of ``logits`` without ``dim``. Differentiable.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: a row that is all -inf, or no outcomes at all.
        InputTypeError: not a floating-point tensor.

    Source: I. Kontoyiannis and S. Verdú, Optimal lossless data compression, 2014.

    >>> round(varentropy(torch.tensor([0.75, 0.25]).log()).item(), 6), round(0.75 * 0.25 * math.log(3) ** 2, 6)
    (0.226303, 0.226303)
    """
    return _by_rows(logits, dim, _varentropies)


def _entropies(rows: Tensor, orders: tuple[float, ...]) -> Tensor:
    return combine(tile_sums(rows, orders)[None], orders)[0]


def _varentropies(rows: Tensor) -> Tensor:
    z = rows - rows.amax(-1, keepdim=True)
    p = z.exp() / z.exp().sum(-1, keepdim=True)
    mean = (p * z).sum(-1, keepdim=True)
    return (p * (z - mean) ** 2).sum(-1)


def _check_logits(logits: Tensor, dim: int) -> int:
    """``dim`` as an int."""
    check_floating("logits", logits)
    dim = check_int("dim", dim)
    if not -logits.dim() <= dim < logits.dim():
        raise InputError(f"dim must be an axis of logits {list(logits.shape)}; got {dim}")
    if logits.shape[dim] == 0:
        raise InputError(f"logits must hold at least one outcome on dim {dim}; got the shape {list(logits.shape)}")
    return dim


def _by_rows(logits: Tensor, dim: int, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``measure`` of checked float64 chunks [rows, outcomes], put together again in the shape without ``dim``."""
    dim = _check_logits(logits, dim)
    moved = logits.movedim(dim, -1)
    lead = moved.shape[:-1]

    def flat(part: Tensor, first: int) -> list[Tensor]:
        if part.dim() > 2 and not part.is_contiguous():  # flattening it would copy it whole
            size = part.shape[1:-1].numel()
            return [chunk for i, inner in enumerate(part) for chunk in flat(inner, first + i * size)]
        rows = part.reshape(-1, part.shape[-1])
        step = max(1, _CHUNK // rows.shape[1])
        starts = range(0, len(rows), step)
        return [measure(checked(rows[start : start + step], first + start)) for start in starts]

    def checked(rows: Tensor, first: int) -> Tensor:
        rows = in_double(rows)
        check_rows("logits", rows.detach().amax(-1), lead, first)
        return rows.clamp(min=MASKED)

    chunks = flat(moved, 0)
    if not chunks:
        chunks = [measure(moved.new_zeros(1, moved.shape[-1], dtype=torch.float64))[:0]]
    result = torch.cat(chunks)
    return result.reshape(lead + result.shape[1:])


def check_floating(name: str, logits: Tensor) -> None:
    """Raise InputTypeError unless the argument ``name`` is a floating-point tensor."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = str(logits.dtype) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputTypeError(
            f"{name} must be a floating-point tensor; got {came}: convert it with torch.as_tensor(...).float()"
        )


def check_rows(name: str, maximum: Tensor, shape: torch.Size, first: int = 0) -> None:
    """Refuse rows of logits that are no distribution, told from the ``maximum`` of each; the first is named.

    Args:
        name: the argument.
        maximum: [row], of all rows or of a chunk of them.
        shape: of the rows of the whole; () where there is but one.
        first: number of the chunk's first row among all.

    Raises:
        InputError: a row that is all -inf.
        NonFiniteError: a NaN or +inf.
    """
    bad = ~(maximum.abs() < math.inf)
    if not bad.any():
        return
    offset = int(bad.nonzero()[0])
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(first + offset), shape)) if shape else ()
    where = f"row {place[0] if len(place) == 1 else place}" if place else "the only row"
    if maximum[offset] == -math.inf:
        raise InputError(f"{name} must leave something possible; {where} is all -inf: leave such rows out")
    raise NonFiniteError(f"{name} must not hold NaN or +inf; {where} does: look where they come from")


def in_double(logits: Tensor) -> Tensor:
    """The logits in float64; on the CPU where their device, Apple's, has none."""
    return logits.to("cpu" if logits.device.type == "mps" else logits.device, torch.float64)
