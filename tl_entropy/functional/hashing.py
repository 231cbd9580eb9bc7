"""Random numbers that hang on what they are for, and not on what was drawn before: on a document, a position and a salt.

So they are the same in whatever batch, order or process a token comes, and on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B9 - 2**32


def key_of_cells(document: Tensor, position: Tensor, salt: int = 0) -> Tensor:
    """A key [...] int32 for each pair of a document's number and a position, of shapes that broadcast.

    Args:
        document: whole numbers, of which the low 32 bits count.
        position: likewise.
        salt: other keys for each; from -2**31 to 2**31 - 1.

    >>> key_of_cells(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])).unique().numel()
    3
    """
    return _hashed(_hashed(_int32(document) + salt) + _int32(position))


def uniform_of(key: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers [..., n] from 0 to below 1 in steps of 2^-24, independent between keys and within one.

    >>> bool((uniform_of(torch.tensor([3, 4], dtype=torch.int32), 1000).mean(-1) - 0.5).abs().max() < 0.03)
    True
    """
    units = torch.arange(n, dtype=torch.int32, device=key.device) * _GOLDEN
    return _hashed(key[..., None] + units).bitwise_and_(0xFFFFFF).to(dtype) / 2**24


def _int32(numbers: Tensor) -> Tensor:
    """The low 32 bits."""
    return ((numbers.long() + 2**31) % 2**32 - 2**31).int()


def _hashed(x: Tensor) -> Tensor:
    """A hash of 32 bits in which every bit hangs on every bit (C. Wellons's lowbias32), int32."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x.bitwise_xor_((x >> 15) & 0x1FFFF)
    x = x.mul_(0x846CA68B - 2**32)
    return x.bitwise_xor_((x >> 16) & 0xFFFF)
