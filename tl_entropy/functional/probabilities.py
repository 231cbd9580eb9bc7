"""Entropies of probabilities and of masses as they come, over the last axis, and exponentials; several wings build on them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """-Σ p log p over the last axis, nats; 0 log 0 is 0, and so is its gradient's share."""
    return -_p_log_p(p)


def extensive(mass: Tensor) -> Tensor:
    """The extensive entropy n H(mass / n) = n log n - Σ_j mass_j log mass_j with n = Σ_j mass_j, over the last axis, nats.

    The total is summed, not counted: so a rounding of the assignments cancels in differences. Masses below 0 are roundings
    of 0.
    """
    mass = mass.clamp_min(0)
    total = mass.sum(-1, keepdim=True)
    return _p_log_p(total) - _p_log_p(mass)


def natural_exp(z: Tensor, factor: float = 1.0, out: Tensor | None = None) -> Tensor:
    """Return e^(factor·z), as a power of two: PyTorch's exp is MKL's, which takes three times as long on an AMD processor.

    In code that torch.compile makes for a processor, float32 must have factor·z below 88, and what is below e^-87 is 0.
    """
    x = torch.mul(z, factor / math.log(2), out=out)  # no constant of the module: torch.compile would take it for unknown
    if torch.compiler.is_compiling() and x.dtype == torch.float32 and x.device.type == "cpu":
        return _power_of_two(x)
    return torch.exp2(x, out=out)


def _power_of_two(x: Tensor) -> Tensor:
    """2^x in steps that are fused into what they stand among, where exp2 is a call that takes as long as all else there.

    Between -½ and ½ it is the polynomial of the smallest relative error, 2e-9 (E. Remez, 1934).
    """
    shifted = x + 12582912.0  # 1.5·2^23, beside which float32 has no digits behind the point: x rounded is in the last ones
    rest = x - (shifted - 12582912.0)
    power = rest * 0.000153458120038 + 0.00133999312191
    power = power * rest + 0.00961848895711
    power = power * rest + 0.0555032877697
    power = power * rest + 0.240226468906
    power = power * rest + 0.693147205737
    power = power * rest + 1.0
    power = (power.view(torch.int32) + (shifted.view(torch.int32) << 23)).view(torch.float32)  # added to the exponent
    return torch.where(x < -126.0, 0.0, power)


def logs(p: Tensor, *, spent: bool = False) -> Tensor:
    """Return log p, finite at 0, where it is only ever multiplied by 0; differentiable where ``p`` is.

    A ``p`` that is ``spent``, of no use afterwards, may give its memory.
    """
    tiny = torch.finfo(p.dtype).tiny
    safe = p.clamp_min_(tiny) if spent and not p.requires_grad else p.clamp_min(tiny)
    return positive_logs(safe, spent=True)


def positive_logs(p: Tensor, *, spent: bool = False) -> Tensor:
    """The same of numbers that are all above 0.

    Where no gradient is asked for it is NumPy's: PyTorch's is MKL's, which takes three times as long on an AMD processor.
    """
    if p.requires_grad or p.device.type != "cpu" or p.dtype not in (torch.float32, torch.float64):
        return p.log()
    if spent:
        values = p.numpy()
        np.log(values, out=values)
        return p
    return torch.from_numpy(np.log(p.numpy()))


def dot(spent: Tensor, other: Tensor) -> Tensor:
    """Σ spent · other over the last axis, differentiable; ``spent`` is of no use afterwards."""
    product = spent * other if spent.requires_grad or other.requires_grad else spent.mul_(other)
    return product.sum(-1)


def _p_log_p(p: Tensor) -> Tensor:
    return dot(logs(p), p)  # not xlogy: its gradient at 0 is infinite, and it is several times slower
