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

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tl_entropy.functional.information.curves import ChanceCurve
from tl_entropy.functional.information.random_groups import Kinds, left_of, measured

SAMPLE = 4096
"""Rows that the curves are measured on, at most."""

MIN_CEILING = 1e-6
"""Smallest ceiling (nats): below, all states are assigned alike, and rounding is all that differs."""

ROWS = 1024
"""Rows that the groups of each size are made of. Which ones are drawn moves information by a thousandth of a nat, since what a
label of n rows is corrected by, and its noise, go as 1/n."""

_FEW = 24  # groups


def chance_curves(
    sample: Tensor, *, seed: int = 0, whole: bool = False, entropies: Tensor | None = None, largest: float = math.inf
) -> list[ChanceCurve]:
    """Measure r(n) and c(n) of every unit by drawing groups of n rows from ``sample`` [row, unit, bin], rows drawn at random.

    Every size up to half the sample, or 256, is tried on disjoint groups of rows in random order (seeded); the limit of r for
    large n is the quadratic term of the entropy, ½ Σ_j Var(p_j) / p̄_j.

    Where the sample is the ``whole``, sizes above half of it are measured for r, too, on what groups of rows leave behind, if
    ``largest``, that of a label, is above all others.

    D(n) is taken as the mean of KL(mean of n rows ‖ p̄). That has the expectation of H(p̄) - H(mean of n rows), but not its
    noise, which is linear in the states' spread and would bury D, quadratic in it, where all states point nearly one way.
    X(n) is how means of n - 1 rows predict all other rows at once. Of two quantities the expectation over groups is known, so
    that they serve as control variates: the quadratic term of the divergence, and the mean of KL(p_i ‖ p̄). C - W(n) is D(n)
    and what the sample's own ceiling lacks. Means over groups are as noisy as some parts in a thousand, so that the divergences
    of single groups are in the sample's own dtype, where rows differ enough for it; all else is in float64.

    ``entropies`` [unit, row] are those of the rows, where they are there already.
    """
    k, units, _ = sample.shape
    draw = torch.Generator().manual_seed(seed)
    orders = min(256, -(-ROWS // k))
    each = min(k, -(-ROWS // orders))
    order = torch.stack([torch.randperm(k, generator=draw, device="cpu")[:each] for _ in range(orders)]).to(sample.device)
    kinds = Kinds(k, orders, each, whole=whole, largest=largest)
    found = measured(sample.transpose(0, 1), entropies, order, kinds)
    ceiling, half_spread = found.ceiling, found.half_spread

    sizes, sizes_of_c = [1, *kinds.every, *kinds.behind], [n + 1 for n in kinds.less]
    left = ceiling.new_tensor([left_of(n, k) for n in [*sizes, *kinds.less]])
    expected = torch.stack([half_spread[:, None] * left[1:], ceiling[:, None].expand(-1, len(left) - 1)])
    number = [*kinds.every.values(), *kinds.behind.values(), *kinds.less.values()]
    means = torch.cat([ceiling[:, None], _controlled(found.values, expected, _members(number).to(left))], dim=1)
    lost, apart = means.split([len(sizes), len(kinds.less)], dim=1)
    of_c = lost[:, [sizes.index(n) for n in sizes_of_c]]
    cs = c_of(ceiling.new_tensor(sizes_of_c), of_c + half_spread[:, None] / (k - 1), apart + of_c).cpu()
    rising = sorted(range(len(sizes)), key=sizes.__getitem__)
    factors = (lost / ceiling[:, None] / left[: len(sizes)])[:, rising].cpu()
    limits, differ = (half_spread / ceiling).tolist(), (ceiling >= MIN_CEILING).tolist()
    dtypes = [sample.dtype if single else torch.float64 for single in found.single.tolist()]
    at, at_c = _on_cpu(sorted(sizes)), _on_cpu(sizes_of_c)
    return [
        ChanceCurve(at, factors[unit], limits[unit], at_c, cs[unit], dtypes[unit])
        if differ[unit] and k > 1
        # Nothing differs between rows, so that nothing is shared by chance either.
        else ChanceCurve(_on_cpu([1]), _on_cpu([1]), 1.0, _on_cpu([]), _on_cpu([]))
        for unit in range(units)
    ]


def _members(number: Sequence[int]) -> Tensor:
    """[group, size] 1 where a group is of a size, of which there are so many."""
    at = torch.arange(len(number), device="cpu")
    return (at.repeat_interleave(torch.tensor(number, dtype=torch.long, device="cpu"))[:, None] == at).double()


def c_of(n: int | Tensor, lacking: Tensor, apart: Tensor) -> Tensor:
    """c(n) of C - W(n) and X(n) - W(n), both in nats; 1 where rows do not differ.

    >>> round(c_of(2, torch.tensor(0.115813184315), torch.tensor(0.368152227545)).item(), 6)
    0.943739
    """
    return torch.where(apart > 0, lacking / apart * (2 * n - 1) / (n - 1), 1.0)


def _controlled(found: Tensor, expected: Tensor, member: Tensor) -> Tensor:
    """[unit, size] the mean of values, freed of what noise they share with two controls, whose means are known.

    Of few groups no slopes can be told: the first control is then taken to have slope 1, and the other 0.

    Args:
        found: [3, unit, group] the values and the controls.
        expected: [2, unit, size] what the controls are in the mean.
        member: [group, size] 1 where a group is of a size.
    """
    found, number = found.double(), member.sum(0)
    mean = found @ member / number
    value, excess = mean[0], mean[1:] - expected
    centred, first, second = found - mean @ member.T
    products = torch.stack([centred * first, centred * second, first * first, first * second, second * second])
    v1, v2, s1, s12, s2 = products @ member
    floor = 1e-12 * (torch.stack([s1, s2]) + number * mean[1:].square())  # slope 0 if only rounding varies
    shared = s12 / (s1 + floor[0])  # what the second has of the first, which is taken from it
    own = s2 - shared * (2 * s12 - shared * s1) + floor[1]
    of_second = (v2 - shared * v1) / own * (excess[1] - shared * excess[0])
    return value - torch.where(number < _FEW, excess[0], v1 / (s1 + floor[0]) * excess[0] + of_second)


def _on_cpu(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")
