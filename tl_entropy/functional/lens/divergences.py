"""Divergences between softmax distributions, straight from logits: KL, Jensen-Shannon, Fisher-Rao, total variation.

Rows of logits stand for p = softmax(logits_p) and q = softmax(logits_q), outcome by outcome: two distributions that are
permutations of each other are far apart. Log-probabilities are logits too, and a constant added to a row changes nothing. -inf
marks an outcome that cannot happen; 0·log 0 and 0·log(0 / 0) are 0.

Neighbouring layers may differ by less than the rounding of p, so nothing here is a difference of nearly equal sums. The log
ratio r = log p - log q is taken from the differences of the logits, with the normalisers' log ratio by log1p, and every
divergence is a sum of terms that are at least 0 and that keep their digits at r = 0, too:

    KL = Σ p·(e^-r - 1 + r)                       JS = Σ (p + q) / 2·(t·tanh t - log cosh t),  t = r / 2
    Fisher-Rao = 4·arcsin(½·‖√p - √q‖)            TV = ½ Σ max(p, q)·(1 - e^-|r|)

(for KL, Σ q - p = 0 has been added). An offset of C between the two rows costs r about C·1e-16. Rows are worked chunk by chunk
in float64; their gradients recompute the chunk.

Refused: NaN or +inf in the logits, rows that are all -inf, an empty vocabulary or two different ones, shapes that do not
broadcast, integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tl_entropy.errors import InputError, check_int
from tl_entropy.functional.lens.entropies import check_floating, check_rows, in_double
from tl_entropy.functional.lens.tiles import MASKED
from tl_entropy.torch_state import steady

# Logits worked on at once: 4 MB in float64 for each of the handful of temporaries.
_CHUNK = 2**19
# Up to here e^-r - 1 + r is a Taylor series of 9 terms, good to 1e-18; beyond, the closed form loses at most 9 bits.
_SERIES = 1 / 16


@steady
def kl_divergence(logits_p: Tensor, logits_q: Tensor, *, dim: int = -1) -> Tensor:
    """Return how many nats are lost by taking q for p, the relative entropy KL(p ‖ q) = Σ p·log(p / q).

    Args:
        logits_p: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        logits_q: the same for q; its other axes broadcast against those of ``logits_p``.
        dim: the axis of the outcomes, counted in the shape that both have together.

    Returns:
        float64 nats from 0 to infinity, of the broadcast shape without ``dim``. Differentiable. It is infinity, with a gradient
        of 0, where q rules out (by a logit of -inf) what p does not.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: shapes that do not broadcast, vocabularies of different sizes, a row that is all -inf, or no outcomes.
        InputTypeError: not floating-point tensors.

    Source: S. Kullback and R. Leibler, On information and sufficiency, 1951.

    >>> p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    >>> round(kl_divergence(p, q).item(), 6), round(math.log(4 / 3) / 2, 6)
    (0.143841, 0.143841)
    """
    return _by_rows(logits_p, logits_q, dim, _kl)


@steady
def js_divergence(logits_p: Tensor, logits_q: Tensor, *, dim: int = -1) -> Tensor:
    """Return how well one outcome tells p from q: JS = (KL(p ‖ m) + KL(q ‖ m)) / 2 with the mixture m = (p + q) / 2.

    It is symmetric, and the mutual information of an outcome and the fair coin that chose p or q. Its square root is a metric.

    Args:
        logits_p: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        logits_q: the same for q; its other axes broadcast against those of ``logits_p``.
        dim: the axis of the outcomes, counted in the shape that both have together.

    Returns:
        float64 nats from 0 to log 2, of the broadcast shape without ``dim``. Differentiable.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: shapes that do not broadcast, vocabularies of different sizes, a row that is all -inf, or no outcomes.
        InputTypeError: not floating-point tensors.

    Source: J. Lin, Divergence measures based on the Shannon entropy, 1991, with equal weights.

    >>> js_divergence(torch.tensor([0.0, -math.inf]), torch.tensor([-math.inf, 0.0])).item() == math.log(2)
    True
    """
    return _by_rows(logits_p, logits_q, dim, _js)


@steady
def fisher_rao_distance(logits_p: Tensor, logits_q: Tensor, *, dim: int = -1) -> Tensor:
    """Return the length of the shortest path from p to q in the Fisher metric, 2·arccos Σ √(p·q).

    √p and √q lie on the unit sphere, and the distance is twice the angle between them. It is symmetric and a metric.

    Args:
        logits_p: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        logits_q: the same for q; its other axes broadcast against those of ``logits_p``.
        dim: the axis of the outcomes, counted in the shape that both have together.

    Returns:
        float64 radians from 0 to π, of the broadcast shape without ``dim``. Differentiable, with a gradient of 0 where p = q.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: shapes that do not broadcast, vocabularies of different sizes, a row that is all -inf, or no outcomes.
        InputTypeError: not floating-point tensors.

    Source: C. R. Rao, Information and the accuracy attainable in the estimation of statistical parameters, 1945; in closed form
    C. Atkinson and A. Mitchell, Rao's distance measure, 1981. As 4·arcsin(½·‖√p - √q‖), which keeps its digits near 0.

    >>> sure, fair = torch.tensor([0.0, -math.inf]), torch.zeros(2)
    >>> round(fisher_rao_distance(sure, fair).item(), 6), round(math.pi / 2, 6)
    (1.570796, 1.570796)
    """
    return _by_rows(logits_p, logits_q, dim, _fisher_rao)


@steady
def total_variation(logits_p: Tensor, logits_q: Tensor, *, dim: int = -1) -> Tensor:
    """Return the largest difference that p and q make to the probability of any event, TV = ½ Σ |p - q|.

    It is symmetric and a metric.

    Args:
        logits_p: logits or log-probabilities, any floating-point dtype; -inf is a probability of 0.
        logits_q: the same for q; its other axes broadcast against those of ``logits_p``.
        dim: the axis of the outcomes, counted in the shape that both have together.

    Returns:
        float64 probability from 0 to 1, of the broadcast shape without ``dim``. Differentiable; outcomes with p = q count for
        nothing in the gradient.

    Raises:
        NonFiniteError: a NaN or +inf; the first such row is named.
        InputError: shapes that do not broadcast, vocabularies of different sizes, a row that is all -inf, or no outcomes.
        InputTypeError: not floating-point tensors.

    Source: D. Levin, Y. Peres and E. Wilmer, Markov chains and mixing times, 2009, proposition 4.2.

    >>> round(total_variation(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()).item(), 6)
    0.25
    """
    return _by_rows(logits_p, logits_q, dim, _total_variation)


def _kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    p, q, r = _compare(logits_p, logits_q)
    x = -r.clamp(-_SERIES, _SERIES)
    series = torch.ones_like(x)
    for n in range(11, 2, -1):
        series = 1 + series * x / n
    terms = torch.where(r.abs() < _SERIES, p * x.square() / 2 * series, p * r - (p - q))
    lost = (logits_q == -math.inf) & (logits_p != -math.inf)
    return terms.sum(-1).clamp(min=0.0).masked_fill(lost.any(-1), math.inf)


def _js(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    p, q, r = _compare(logits_p, logits_q)
    t = r.clamp(-1, 1) / 2
    near = t * t.tanh() + (-t.tanh().square()).log1p() / 2
    a = r.abs()
    w = (-a).exp()
    far = math.log(2) - a * w / (1 + w) - w.log1p()
    return ((p + q) / 2 * torch.where(a < 1, near, far)).sum(-1).clamp(max=math.log(2))


def _fisher_rao(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    p, q, r = _compare(logits_p, logits_q)
    squared = (torch.maximum(p, q) * torch.expm1(-r.abs() / 2).square()).sum(-1)
    apart = squared > 0
    chord = squared.where(apart, 1.0).sqrt()  # the root's derivative at 0 is infinite
    return (4 * torch.asin(chord / 2)).clamp(max=math.pi).where(apart, 0.0)


def _total_variation(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    p, q, r = _compare(logits_p, logits_q)
    return (torch.maximum(p, q) * -torch.expm1(-r.abs())).sum(-1).div(2).clamp(max=1.0)


def _compare(logits_p: Tensor, logits_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return p, q and r = log p - log q in float64, all [rows, outcomes]; r is huge but finite where one of them is 0."""
    logits_p, logits_q = in_double(logits_p).clamp(min=MASKED), in_double(logits_q).clamp(min=MASKED)
    top_p, top_q = logits_p.detach().amax(-1, keepdim=True), logits_q.detach().amax(-1, keepdim=True)
    e_p, e_q = (logits_p - top_p).exp(), (logits_q - top_q).exp()
    s_p, s_q = e_p.sum(-1, keepdim=True), e_q.sum(-1, keepdim=True)
    difference = (logits_p - logits_q) - (top_p - top_q)
    log_ratio = s_p.log() - s_q.log()  # right in its gradient, but near 0 not in its digits
    with torch.no_grad():
        excess = torch.maximum(e_p, e_q) * -torch.expm1(-difference.abs()) * difference.sign()
        excess = excess.sum(-1, keepdim=True) / s_q
        correction = torch.where(excess > -0.5, excess.log1p(), log_ratio) - log_ratio
    return e_p / s_p, e_q / s_q, difference - (log_ratio + correction)


def _by_rows(logits_p: Tensor, logits_q: Tensor, dim: int, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return ``measure`` of chunks [rows, outcomes] of both, put together again in the broadcast shape without ``dim``."""
    shape, dim = _check_pair(logits_p, logits_q, dim)
    p, q = logits_p.expand(shape).movedim(dim, -1), logits_q.expand(shape).movedim(dim, -1)
    if torch.is_grad_enabled() and (p.requires_grad or q.requires_grad):  # else every chunk's temporaries would be kept
        results = [checkpoint(measure, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in _row_chunks(p, q)]
    else:
        results = [measure(*chunk) for chunk in _row_chunks(p, q)]
    return torch.cat(results).reshape(p.shape[:-1])


def _row_chunks(p: Tensor, q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    # Split, not sliced: the gradient of a slice is as large as the whole. And flattened late, which may copy.
    axis = next((axis for axis, size in enumerate(p.shape[:-1]) if size > 1), None)
    if axis is None or p.numel() <= _CHUNK:
        yield p.reshape(-1, p.shape[-1]), q.reshape(-1, q.shape[-1])
        return
    step = max(1, _CHUNK * p.shape[axis] // p.numel())
    for pair in zip(p.split(step, axis), q.split(step, axis), strict=True):
        yield from _row_chunks(*pair)


def _check_pair(logits_p: Tensor, logits_q: Tensor, dim: int) -> tuple[torch.Size, int]:
    """Return the broadcast shape, and ``dim`` counted from its end."""
    both = {"logits_p": logits_p, "logits_q": logits_q}
    for name, logits in both.items():
        check_floating(name, logits)
    shapes = f"{list(logits_p.shape)} and {list(logits_q.shape)}"
    axes = max(logits_p.dim(), logits_q.dim())
    dim = check_int("dim", dim)
    if not -axes <= dim < axes:
        raise InputError(f"dim must be an axis of logits_p and logits_q {shapes}; got {dim}")
    dim = dim - axes if dim >= 0 else dim
    if min(logits_p.dim(), logits_q.dim()) < -dim:
        raise InputError(f"logits_p and logits_q must both have the axis {dim} of the outcomes; got the shapes {shapes}")
    if logits_p.shape[dim] != logits_q.shape[dim]:
        raise InputError(
            f"logits_p and logits_q must hold the same outcomes on dim {dim}; got {logits_p.shape[dim]} and "
            f"{logits_q.shape[dim]}: compare distributions over one vocabulary"
        )
    if logits_p.shape[dim] == 0:
        raise InputError(f"logits_p and logits_q must hold at least one outcome on dim {dim}; got the shapes {shapes}")
    try:
        shape = torch.broadcast_shapes(logits_p.shape, logits_q.shape)
    except RuntimeError:
        raise InputError(
            f"logits_p and logits_q must have shapes that broadcast; got {shapes}: align their rows, or unsqueeze an axis"
        ) from None
    for name, logits in both.items():
        maximum = logits.detach().amax(dim)
        check_rows(name, maximum.flatten(), maximum.shape)
    return shape, dim
