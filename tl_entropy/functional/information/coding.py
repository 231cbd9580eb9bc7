r"""Soft assignments in two bytes a number, near enough for every value that is made of them.

An assignment p over m bins becomes whole numbers q_j from 0 to 65535, and is read back as

    p̂_j = q_j³ / Σ_k q_k³,      q_j = ⌊x_j + u_j⌋,      x_j = 65535 (p_j / max_k p_k)^⅓,

with u_j from 0 to 1, a hash of the row and the bin: x is rounded up or down at random, so that q_j has the expectation x_j, and
what is lost of equal states is not lost again and again. Cube roots, since values depend on ratios of small p, too, of which 16
bits of p itself would say little (of roots from the square to the eighth, on states of the bundled model, the cube lost least).
Nothing need be kept beside q, and a row sums to 1 as it is read. A row of zeros stands for a state without a direction.

**What is lost.** Let V be a value made of N rows, g_ij = N ∂V/∂p_ij (for the plug-in information log p̄_xj - log p̄_j, in nats).
With η = q - x, which is independent between numbers, of mean 0 and range 1, to first order

    V(p̂) - V(p) = 1/N Σ_i 3 max(p_i)^⅓ / 65535 Σ_j p_ij^⅔ (g_ij - Σ_k p_ik g_ik) η_ij,

so by Hoeffding's inequality, with w = mean_i max(p_i)^⅔ Σ_j p_ij^(4/3) (g_ij - Σ_k p_ik g_ik)², which is at most the mean of
max(p_i) Var g_i, in nats²,

    P(|V(p̂) - V(p)| > t) ≤ 2 exp(-2 t² N 65535² / 9 w),       standard deviation at most 1.5 sqrt(w / N) / 65535.

The second order is some (m max p)^⅔ / 65535², 1e-8 at the worst. For t = 1e-6 nats the probability is below 1e-9 from
N = 23,000 w rows on. For H(Z), ceiling and plug-in information w is .01 to .1 at common temperatures; for the cross-fitted
information of rare labels, in which few rows predict each other, it is larger, and N is the number of rows in labels that two
folds hold. Of a single label N is the number of its own rows.

Refused: nothing; see ``analyses/information/assignments.py``, which keeps such numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.functional.hashing import key_of_cells, uniform_of
from tl_entropy.functional.probabilities import entropy

TOP = 65535
"""The code of a row's largest bin."""


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
    x = (p / largest).pow_(1 / 3).mul_(TOP).nan_to_num_(0.0)
    key = key_of_cells(document, position, salt).to(p.device)
    up = uniform_of(key, p[0].numel(), p.dtype).view(p.shape)
    whole = x.floor()  # x + up would round to the next number at the top
    return (whole + (up < x - whole)).int()


def decoded(codes: Tensor) -> Tensor:
    """[..., bin] codes to [..., bin + 1] float64: the soft assignment, and its entropy in nats as the last; zeros stay zeros.

    >>> import torch
    >>> decoded(torch.tensor([[1, 3, 0]]))[0, :3].mul(28).tolist()
    [1.0, 27.0, 0.0]
    """
    roots = codes.double()
    cubes = (roots * roots).mul_(roots)
    p = cubes / cubes.sum(-1, keepdim=True).clamp_min_(1)
    return torch.cat([p, entropy(p)[..., None]], dim=-1)
