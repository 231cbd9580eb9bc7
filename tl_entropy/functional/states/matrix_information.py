r"""Matrix-based Rényi mutual information of states, and DiME: what rows say about each other, without a density or bins.

With A and B the Gram matrices of trace 1 of two sets of rows (``functional/states/matrices.py``), and ∘ the product entry by
entry,

    S_a(A, B) = S_a(A ∘ B / tr(A ∘ B)),    I_a(x; y) = S_a(A) + S_a(B) - S_a(A, B),
    DiME(x; y) = mean over permutations P of S_a(A, P B Pᵀ)  -  S_a(A, B)

in nats (Sánchez Giraldo, Rao and Príncipe 2015, arXiv 1211.2459; Skean, Dhakal, Jacobs and Sanchez Giraldo, DiME: Maximizing
mutual information by a difference of matrix-based entropies, 2023, arXiv 2301.08164).

No entropy of n rows exceeds log n. That holds the joint one down, so that I is far above 0 for independent rows: 0.98 nats
(1.4 bits) for 200 rows of 50 Gaussian components. DiME compares the joint entropy with that of the same rows
paired at random, and is 0 in expectation for independent rows. It has a ceiling of its own: where no row is like another, or
all are equal, no pairing differs from any other and DiME is 0. Values grow with n; compare them at equal n only.

Permuting takes rows to be exchangeable. Tokens of a document are not, quite: what two sets of rows share because both follow
the document is dependence, too, and counts.

Refused: sets of unequal numbers of rows, fewer than two permutations, and what ``matrix_entropy`` refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_int, check_order
from tl_entropy.functional.lens.entropies import in_double
from tl_entropy.functional.states.matrices import Kernel, matrix_entropy, named_gram_matrix
from tl_entropy.functional.states.matrix_scores import RowScores
from tl_entropy.functional.states.rows import document_numbers
from tl_entropy.functional.statistics import sampled_error
from tl_entropy.torch_state import steady

# A number that nobody picks for a seed.
_SALT = int.from_bytes(b"tl_entropy permutations", "big")


@steady
def matrix_renyi_mutual_information(
    x: Tensor, y: Tensor, *, order: float = 1.01, kernel: Kernel = "gaussian", bandwidth: float | None = None
) -> Tensor:
    r"""Matrix-based Rényi mutual information, I_a = S_a(A) + S_a(B) - S_a(A ∘ B / tr(A ∘ B)), of rows that belong together.

    Independent rows are far from 0; see ``dime``.

    Args:
        x: [row, d1] states.
        y: [row, d2] states, row by row those that belong to x.
        order: from 0 to infinity.
        kernel: as for ``gram_matrix``, of both.
        bandwidth: of both kernels; None is the median distance in each.

    Returns:
        A scalar in float64, nats; with a Gaussian kernel no more than the lower one of both entropies, and at order 1 never
        negative. At other orders, where Rényi's entropies are not subadditive, it can be, a little; and so it can at any order
        with a linear kernel, whose diagonal is no constant.

    Raises:
        InputError, InputTypeError, NonFiniteError: as ``gram_matrix`` and ``matrix_entropy``, or unequal numbers of rows.

    Source: Sánchez Giraldo, Rao and Príncipe (2015), arXiv 1211.2459.

    >>> x = 100 * torch.eye(4)
    >>> matrix_renyi_mutual_information(x, x, bandwidth=1.0).exp()  # all that there is to know
    tensor(4., dtype=torch.float64)
    """
    a, b = _pair(x, y, kernel, bandwidth)
    [joint] = joint_entropies(a, b, order=order)
    information: Tensor = matrix_entropy(a, order) + matrix_entropy(b, order) - joint
    return information


@dataclass(frozen=True)
class MatrixInformation:
    """Matrix-based information between two sets of rows, with all that is needed to judge it. Values in nats.

    Attributes:
        entropy_x: S(A).
        entropy_y: S(B).
        joint_entropy: S(A ∘ B / tr(A ∘ B)).
        permuted_joint_entropy: the mean of the same with the rows of y permuted.
        deviation: its standard deviation over permutations.
        permutations: how many there were.
        order: of the entropies.
        n: number of rows; no entropy here can exceed log n.

    >>> import torch
    >>> from tl_entropy.functional import dime
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> type(dime(x, x)).__name__
    'MatrixInformation'
    """

    entropy_x: float
    entropy_y: float
    joint_entropy: float
    permuted_joint_entropy: float
    deviation: float
    permutations: int
    order: float
    n: int
    rows_se: float

    @property
    def dime(self) -> float:
        """The headline: permuted less joint entropy; about 0 for independent rows."""
        return self.permuted_joint_entropy - self.joint_entropy

    @property
    def mutual_information(self) -> float:
        """S(A) + S(B) - S(A, B), far above 0 for independent rows."""
        return self.entropy_x + self.entropy_y - self.joint_entropy

    @property
    def se(self) -> float:
        """Standard error of ``dime`` that comes from the choice of permutations; that of the rows is ``rows_se``."""
        return self.deviation / math.sqrt(self.permutations)

    def __str__(self) -> str:
        return (
            f"DiME = {self.dime:.4f} ± {self.rows_se:.4f} (rows) ± {self.se:.4f} ({self.permutations} permutations) nats\n"
            f"  I(x;y) = {self.mutual_information:.4f}, S(x) = {self.entropy_x:.4f}, S(y) = {self.entropy_y:.4f}\n"
            f"  joint {self.joint_entropy:.4f}, with permuted rows {self.permuted_joint_entropy:.4f} ± {self.deviation:.4f} "
            "each\n"
            f"  order {self.order:g}, {self.n} rows, of at most log n = {math.log(self.n):.4f}"
        )


@steady
def dime(
    x: Tensor,
    y: Tensor,
    *,
    order: float = 1.01,
    permutations: int = 20,
    seed: int = 0,
    kernel: Kernel = "gaussian",
    bandwidth: float | None = None,
    documents: Any = None,
) -> MatrixInformation:
    r"""Difference of matrix-based entropies: what rows say about each other beyond rows paired at random.

    Takes the eigenvalues of ``permutations`` + 3 matrices; at order 2, of none.

    Args:
        x: [row, d1] states.
        y: [row, d2] states, row by row those that belong to x.
        order: from 0 to infinity.
        permutations: how many random pairings are averaged, 2 or more.
        seed: of the permutations.
        kernel: as for ``gram_matrix``, of both.
        bandwidth: of both kernels; None is the median distance in each.
        documents: [row] whole numbers: which rows belong together. None takes every row for independent of the others.

    Returns:
        A record, in nats; ``dime`` may come out a little below 0.

    Raises:
        InputError, InputTypeError, NonFiniteError: as ``matrix_renyi_mutual_information``, or fewer than 2 permutations.

    Source: Skean, Dhakal, Jacobs and Sanchez Giraldo (2023), arXiv 2301.08164. The mean over permutations is
    sampled at every order.

    >>> x = torch.eye(4).repeat(50, 1)  # four groups of equal rows
    >>> print(dime(x, x, bandwidth=0.1))  # by chance 16 pairs of groups, not 4; equal groups are an extreme, without slope
    DiME = 1.3650 ± 0.0000 (rows) ± 0.0015 (20 permutations) nats
      I(x;y) = 1.3863, S(x) = 1.3863, S(y) = 1.3863
      joint 1.3863, with permuted rows 2.7513 ± 0.0068 each
      order 1.01, 200 rows, of at most log n = 5.2983
    """
    order = check_order("order", order)
    permutations = check_int("permutations", permutations, 2)
    a, b = _pair(x, y, kernel, bandwidth)
    belongs = torch.arange(len(a)) if documents is None else document_numbers(documents, len(a))
    mine, theirs = (RowScores(one, order, adaptive=kernel == "gaussian" and bandwidth is None) for one in (a, b))
    rows_se = math.nan if order < 1 else sampled_error(mine.information(theirs).cpu(), belongs, len(a)).item()
    joint, *permuted = joint_entropies(a, b, order=order, permutations=random_permutations(len(a), permutations, seed=seed))
    shuffled = torch.stack(permuted)
    return MatrixInformation(
        entropy_x=matrix_entropy(a, order).item(), entropy_y=matrix_entropy(b, order).item(), joint_entropy=joint.item(),
        permuted_joint_entropy=shuffled.mean().item(), deviation=shuffled.std().item(), permutations=len(permuted),
        order=order, n=len(a), rows_se=rows_se,
    )  # fmt: skip


def random_permutations(n: int, number: int, *, seed: int = 0) -> Tensor:
    """``number`` random orders of n rows, uniform: [number, n] int64 on the CPU, the same everywhere.

    >>> random_permutations(5, 3).sort().values.tolist() == [[0, 1, 2, 3, 4]] * 3
    True
    """
    seed = check_int("seed", seed, 0)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([_SALT, seed])))
    return torch.from_numpy(np.stack([generator.permutation(n) for _ in range(number)]))


def joint_entropies(a: Tensor, b: Tensor, *, order: float, permutations: Tensor | None = None) -> Tensor:
    r"""S_a(A ∘ B / tr(A ∘ B)) of matrices of trace 1, then the same with B's rows and columns in other orders.

    Args:
        a: [n, n] as ``gram_matrix`` gives.
        b: [n, n], of the same rows.
        order: from 0 to infinity.
        permutations: [permutation, n], orders of the rows of b; None is none.

    Returns:
        [1 + permutation] float64, nats.

    Raises:
        InputError: matrices of unequal size, or without a common entry on the diagonal.

    >>> joint_entropies(torch.eye(4) / 4, torch.eye(4) / 4, order=2).exp()
    tensor([4.], dtype=torch.float64)
    """
    if a.shape != b.shape:
        raise InputError(f"a and b must be of the same rows; got {list(a.shape)} and {list(b.shape)}")

    def joint(other: Tensor) -> Tensor:
        product = in_double(a) * in_double(other)
        trace = product.trace()
        if not trace > 0:
            raise InputError("a and b have no common entry on their diagonals, and so no joint entropy; leave out zero rows")
        return matrix_entropy(product / trace, order)

    orders = () if permutations is None else permutations.to(b.device)
    return torch.stack([joint(b), *(joint(b[p[:, None], p]) for p in orders)])


def _pair(x: Tensor, y: Tensor, kernel: Kernel, bandwidth: float | None) -> tuple[Tensor, Tensor]:
    """The Gram matrices of rows that belong together."""
    a, b = (named_gram_matrix(name, rows, kernel=kernel, bandwidth=bandwidth) for name, rows in (("x", x), ("y", y)))
    if len(a) != len(b):
        raise InputError(f"x and y must have the same number of rows, each those of the same items; got {len(a)} and {len(b)}")
    return a, b.to(a.device)
