"""Entropies of probabilities and of masses as they come, over the last axis, and exponentials; several wings build on them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_LOG2_E = 1 / math.log(2)


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
    """Return e^(factor·z), as a power of two: PyTorch's exp is MKL's, which takes three times as long on an AMD processor."""
    return torch.exp2(torch.mul(z, factor * _LOG2_E, out=out), out=out)


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
    found = p if spent else torch.empty_like(p)
    np.log(p.numpy(), out=found.numpy())
    return found


def dot(spent: Tensor, other: Tensor) -> Tensor:
    """Σ spent · other over the last axis, differentiable; ``spent`` is of no use afterwards."""
    if spent.requires_grad or other.requires_grad:
        return (spent * other).sum(-1)
    if spent.device.type != "cpu":
        return spent.mul_(other).sum(-1)
    return torch.from_numpy(np.asarray(np.einsum("...j,...j->...", spent.numpy(), other.numpy())))


def _p_log_p(p: Tensor) -> Tensor:
    return dot(logs(p), p)  # not xlogy: its gradient at 0 is infinite, and it is several times slower
