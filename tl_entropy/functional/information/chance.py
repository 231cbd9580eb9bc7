r"""How alike random rows are, as a curve in their number: what labels that say nothing would show, and how that is corrected.

Of n rows drawn at random from K soft assignments p (``functional/information/soft.py``), with p̄ the mean of all,

    D(n) = H(p̄) - E[H(mean of n rows)]      what n random rows keep of the ceiling by chance; D(1) is the ceiling, D(K) = 0
    W(n) = E[H(mean of n rows)] - mean_i H(p_i)                                 their plug-in spread, too small
    X(n) = -E[1/n Σ_i p_i · log q_i] - mean_i H(p_i)                            their cross-fitted spread, too large

with q_i = (1 - λ) (mean of the n rows without row i) + λ p̄. The true spread of all rows is C = W(K) + ½ Σ_j Var(p_j)/p̄_j / K,
and the weight at which W and X average to it is (n - 1)/(2n - 1) c(n) with

    c(n) = (C - W(n)) / (X(n) - W(n)) · (2n - 1)/(n - 1),

which is near 1, since (n - 1)/(2n - 1) is right to first order in 1/n. ``functional/information/estimates.py`` uses both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import entropy

SAMPLE = 4096
"""Rows that the curves are measured on, at most."""

MIN_CEILING = 1e-6
"""Smallest ceiling (nats): below, all states are assigned alike, and rounding is all that differs."""

FLOOR = 0.001
"""λ: how much of the mean of all rows is mixed into a mean that predicts, so that nothing is held to be impossible."""

_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
_SIZES_OF_C = (2, 3, 4, 6, 8, 16, 32, 64)


@dataclass(frozen=True, eq=False)
class ChanceCurve:
    """r(n) and c(n) of one unit.

    r is how much of the ceiling n random rows keep, as a factor on (1/n - 1/N) / (1 - 1/N): ``sizes`` [size] and ``factor``
    [size] are measured; between them r is linear in log n, beyond them in 1/n up to ``limit``. c is measured at ``c_sizes``, is
    linear in log n between them, and beyond them nears 1 like 1/n; without any size it is 1.
    """

    sizes: Tensor
    factor: Tensor
    limit: float
    c_sizes: Tensor
    c: Tensor

    def __call__(self, n: Tensor) -> Tensor:
        """The factor r of each number of rows ``n`` (any shape, at least 1), float64."""
        return _joined(n, self.sizes, self.factor, self.limit)

    def correction(self, n: Tensor) -> Tensor:
        """The factor c of each number of rows ``n`` (any shape, at least 2), float64."""
        return _joined(n, self.c_sizes, self.c, 1.0) if len(self.c_sizes) else torch.ones_like(n, dtype=torch.float64)


def chance_curve(sample: Tensor, *, seed: int = 0, whole: bool = False) -> ChanceCurve:
    """Measure r(n) and c(n) by drawing groups of n rows from ``sample`` [row, bin], rows of soft assignments drawn at random.

    Every size up to half the sample, or 256, is tried on disjoint groups of rows in several random orders (seeded); the limit
    of r for large n is the quadratic term of the entropy, ½ Σ_j Var(p_j) / p̄_j.

    Where the sample is the ``whole``, sizes above half of it are measured for r, too, on what 1024 groups of rows leave behind.

    D(n) is taken as the mean of KL(mean of n rows ‖ p̄). That has the expectation of H(p̄) - H(mean of n rows), but not its
    noise, which is linear in the states' spread and would bury D, quadratic in it, where all states point nearly one way.
    The quadratic term of the divergence, whose expectation is known, serves as a control variate, of X(n) - W(n), too. C - W(n)
    is D(n) and what the sample's own ceiling lacks.
    """
    k, bins = sample.shape
    sample = sample.double()
    mean = sample.mean(0)
    safe = mean.clamp_min(torch.finfo(torch.float64).tiny)
    half_spread = 0.5 * float((sample.var(0, correction=0) / safe).sum())
    own = float(entropy(mean) - entropy(sample).mean())
    if k < 2 or own < MIN_CEILING:  # nothing differs between rows, so that nothing is shared by chance either
        return ChanceCurve(_on_cpu([1]), _on_cpu([1]), 1.0, _on_cpu([]), _on_cpu([]))
    orders = min(256, max(2, 2 * SAMPLE // k))
    draw = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(k, generator=draw, device="cpu") for _ in range(orders)]).to(sample.device)
    shuffled = sample[order]
    running = torch.cat([shuffled.new_zeros(orders, 1, bins), shuffled.cumsum(1)], dim=1)  # gives sums of groups of any size
    sizes = [n for n in _SIZES if n == 1 or n <= k // 2]
    if whole:
        sizes = sorted({*sizes, max(k // 2, 1), *(k - n for n in sizes)} - {0})
    factors, kept = [1.0], {}
    for n in sizes[1:]:
        size = min(n, k - n)
        many, end = k // size, k // size * size
        means = (running[:, size : end + 1 : size] - running[:, :end:size]).reshape(-1, bins) / size
        means = means if size == n else ((k * mean - size * means[:1024]) / n).clamp_min(0)
        quadratic = 0.5 * (means - mean).square() @ safe.reciprocal()
        left = (1 / n - 1 / k) / (1 - 1 / k)  # of a variance, in a mean of n of the k rows
        lost = _controlled(-(means @ safe.log()) - entropy(means), quadratic, half_spread * left)
        factors.append(lost / own / left)
        if n in _SIZES_OF_C and size == n:
            enough = max(8192 // n, 1024) // n  # the larger n, the less c matters
            few = shuffled[: -(-enough // many), :end].reshape(-1, n, bins)[:enough]
            apart = _controlled(cross_fitted_gap(few, safe), quadratic[: len(few)], half_spread * left)
            kept[n] = c_of(n, lost + half_spread / (k - 1), apart)
    return ChanceCurve(_on_cpu(sizes), _on_cpu(factors), half_spread / own, _on_cpu(list(kept)), _on_cpu(list(kept.values())))


def cross_fitted_gap(groups: Tensor, mean: Tensor) -> Tensor:
    """X - W of each group of n rows [group, n, bin], with ``mean`` [bin] that of all rows: nats [group], never negative."""
    n = groups.shape[1]
    total = groups.sum(1)
    others = total[:, None] - groups
    others.clamp_min_(0).mul_((1 - FLOOR) / (n - 1)).add_((FLOOR * mean).clamp_min(torch.finfo(groups.dtype).tiny))
    cross: Tensor = others.log_().mul_(groups).sum((1, 2)) / -n
    return cross - entropy(total / n)


def c_of(n: int, lacking: float, apart: float) -> float:
    """c(n) of C - W(n) and X(n) - W(n), both in nats; 1 where rows do not differ.

    >>> round(c_of(2, 0.115813184315, 0.368152227545), 6)
    0.943739
    """
    return lacking / apart * (2 * n - 1) / (n - 1) if apart > 0 else 1.0


def _controlled(values: Tensor, quadratic: Tensor, expected: float) -> float:
    """The mean of ``values`` [group], freed of what noise it shares with ``quadratic`` [group], whose mean is known."""
    centred = quadratic - quadratic.mean()
    slope = float((centred @ values) / (centred @ centred + 1e-12 * quadratic @ quadratic))  # 0 if only rounding varies
    return float(values.mean()) - slope * (float(quadratic.mean()) - expected)


def _joined(n: Tensor, sizes: Tensor, values: Tensor, limit: float) -> Tensor:
    """A curve known at ``sizes``: linear in log n between them, tending to ``limit`` like 1/n beyond them."""
    n = n.double()
    sizes, values = sizes.to(n.device), values.to(n.device)
    known, place = sizes.log(), n.log()
    if len(known) > 1:
        right = torch.searchsorted(known, place).clamp(1, len(known) - 1)
        step = (place - known[right - 1]) / (known[right] - known[right - 1])
        inside = values[right - 1] + step * (values[right] - values[right - 1])
    else:
        inside = values[0].expand_as(n)
    last = sizes[-1]
    beyond = limit + (values[-1] - limit) * last / n
    return torch.where(n > last, beyond, inside)


def _on_cpu(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")
