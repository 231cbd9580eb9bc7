r"""Soft assignments in two bytes a number, near enough for every value that is made of them.

An assignment p over m bins becomes whole numbers q_j from 0 to 65535, and is read back as

    p̂_j = q_j² / Σ_k q_k²,      q_j = ⌊x_j + u_j⌋,      x_j = 65535 sqrt(p_j / max_k p_k),

with u_j from 0 to 1, a hash of the row and the bin: x is rounded up or down at random, so that q_j has the expectation x_j, and
what is lost of equal states is not lost again and again. Square roots, since it is in them that distances between distributions
are the same everywhere: 16 bits of p itself would lose what bins of little weight say. Nothing need be kept beside q, and a row
sums to 1 exactly as it is read. A row of zeros stands for a state without a direction.

**What is lost.** Let V be a value made of N rows, g_ij = N ∂V/∂p_ij (for the information log p̄_xj - log p̄_j, say, in nats).
With η = q - x, which is independent between numbers, of mean 0 and range 1, to first order

    V(p̂) - V(p) = 1/N Σ_i 2 sqrt(max p_i) / 65535 Σ_j sqrt(p_ij) (g_ij - Σ_k p_ik g_ik) η_ij,

so by Hoeffding's inequality, with v = mean_i max p_i · Var_{j ~ p_i} g_ij in nats²,

    P(|V(p̂) - V(p)| > t) ≤ 2 exp(-t² N 65535² / (2 v)),       standard deviation at most sqrt(v / N) / 65535.

The second order is below m max p / 65535² a row, 2e-8 for m = 100 at the worst. For t = 1e-6 nats the probability is below 1e-9
from N = 10⁴ v rows on; v is .02 to .3 at common temperatures. Of a single label N is the number of its own rows.

Refused: nothing; see ``analyses/information/assignments.py``, which keeps such numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import entropy

TOP = 65535
"""The code of a row's largest bin."""

_GOLDEN = 0x9E3779B9 - 2**32


def coded(p: Tensor, document: Tensor, position: Tensor, salt: int = 0) -> Tensor:
    """Codes [row, ..., bin] int32, from 0 to 65535, of soft assignments [row, ..., bin].

    Args:
        p: float32 or float64; a row that is not finite becomes zeros.
        document: [row] with ``position`` what a row's rounding hangs on, the same in whatever batch it comes.
        position: [row].
        salt: another rounding for each.

    >>> import torch
    >>> where = torch.zeros(1, dtype=torch.long)
    >>> coded(torch.tensor([[0.64, 0.36, 0.0]]), where, where)[0, ::2].tolist()
    [65535, 0]
    """
    largest = p.amax(-1, keepdim=True)
    x = (p / largest).sqrt_().mul_(TOP).nan_to_num_(0.0)
    key = _hashed(_hashed(_int32(document) + salt) + _int32(position))
    units = p[0].numel()
    key = key.to(p.device)[:, None] + torch.arange(units, dtype=torch.int32, device=p.device) * _GOLDEN
    up = (_hashed(key).bitwise_and_(0xFFFFFF).to(p.dtype) / 2**24).view(p.shape)
    whole = x.floor()  # x + up would round to the next number at the top
    return (whole + (up < x - whole)).int()


def decoded(codes: Tensor) -> Tensor:
    """[..., bin] codes to [..., bin + 1] float64: the soft assignment, and its entropy in nats as the last; zeros stay zeros.

    >>> import torch
    >>> decoded(torch.tensor([[3, 4, 0]]))[0, :3].tolist()
    [0.36, 0.64, 0.0]
    """
    squares = codes.double().square_()
    p = squares / squares.sum(-1, keepdim=True).clamp_min_(1)
    return torch.cat([p, entropy(p)[..., None]], dim=-1)


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
