"""A hash of a weight's values, whatever kind of tensor holds them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_SAMPLE = 1024
"""Values taken of each weight, evenly spaced."""
_AT_ONCE = 1 << 24
"""Values brought to the CPU at a time."""


def digest(weight: Tensor) -> bytes:
    """A hash over a tensor's shape, dtype and up to 1024 evenly spaced values; of bytes, over counts of their halves.

    Bytes hold packed numbers, and bitsandbytes packs them anew in another order and shape when it runs on a CPU.

    >>> digest(torch.ones(2, 3)) == digest(torch.ones(2, 3)) != digest(torch.ones(3, 2))
    True
    >>> digest(torch.arange(12.0).view(3, 4).T) == digest(torch.arange(12.0).view(3, 4).T.contiguous())
    True
    >>> digest(torch.tensor([1, 2], dtype=torch.uint8)) == digest(torch.tensor([[2], [1]], dtype=torch.uint8))
    True
    """
    values = weight.detach().as_subclass(Tensor)
    values = values.int_repr() if values.is_quantized else torch.view_as_real(values) if values.is_complex() else values
    if values.dtype == torch.uint8:
        header, sample = f"{values.numel()}", _halves(values.flatten())
    else:
        header, sample = f"{tuple(weight.shape)} {weight.dtype}", _sample(values).float()
    return hashlib.sha256(header.encode() + sample.cpu().numpy().tobytes()).digest()


def whole_digest(weight: Tensor) -> bytes:
    """A hash over a tensor's shape, dtype and every value.

    >>> weight = torch.zeros(5000)
    >>> other = weight.clone()
    >>> other[1] = 1  # which no sample need hold
    >>> digest(weight) == digest(other), whole_digest(weight) == whole_digest(other)
    (True, False)
    """
    values = weight.detach().as_subclass(Tensor)
    values = values.int_repr() if values.is_quantized else values
    found = hashlib.sha256(f"{tuple(weight.shape)} {weight.dtype}".encode())
    for part in values.flatten().split(_AT_ONCE):
        found.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
    return found.digest()


def combined(parts: list[bytes] | set[bytes]) -> str:
    """One hash of several, in whatever order: 16 digits."""
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]


def _sample(values: Tensor) -> Tensor:
    step = max(1, values.numel() // _SAMPLE)
    if values.is_contiguous():
        return values.flatten()[::step]
    at = torch.arange(0, values.numel(), step, device=values.device)  # to flatten them would copy them whole
    return values[torch.unravel_index(at, values.shape)]


def _halves(packed: Tensor) -> Tensor:
    counts = torch.zeros(256, dtype=torch.long)
    for part in packed.split(1 << 24):
        counts += torch.bincount(part, minlength=256).cpu()
    table = counts.view(16, 16)
    return table.sum(0) + table.sum(1)
