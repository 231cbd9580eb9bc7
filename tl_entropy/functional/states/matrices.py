r"""Matrix-based Rényi entropy of states: from how alike the rows are, without a density and without bins.

The rows of x give a kernel matrix K; with A = K / tr K, a symmetric positive matrix of trace 1, whose eigenvalues λ are taken
as a probability distribution (Sánchez Giraldo, Rao and Príncipe, Measures of entropy from data using infinitely divisible
kernels, 2015, arXiv 1211.2459),

    S_a(A) = log(Σ λ^a) / (1 - a)        S_1 = -Σ λ log λ        S_2 = -log ‖A‖²_F        S_∞ = -log max λ

in nats. It says how many rows can be told apart at the width of the kernel: 0 where all are equal, log n where none is like
another. So it is no entropy of a population: it grows with the number of rows n, up to log n, and depends on the bandwidth.
Compare values at equal n only. Rows that differ by the rounding of their dtype alone are equal (``functional/states/rows.py``).
What rows say about each other is in ``functional/states/matrix_information.py``.

All is float64, on the device of the data (the CPU where that has no float64), and no gradient passes. Eigenvalues that
rounding took below 0 count as 0. A matrix takes O(n²) memory, and O(n³) time, order 2 excepted.

Refused: rows that are not finite; a matrix that is not symmetric, positive and of trace 1; rows of which so many are equal that
their median distance, the bandwidth, is 0; one row alone without a bandwidth; a linear kernel of zeros.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, NonFiniteError, check_choice, check_order, check_positive
from tl_entropy.functional.lens.entropies import check_floating, in_double, renyi_entropy
from tl_entropy.functional.states.rows import checked_rows, spread_floor, squared_distances
from tl_entropy.torch_state import steady

Kernel = Literal["gaussian", "linear"]

# How far from trace 1 and from its transpose a matrix may be, and how far below 0 an eigenvalue, to be taken for rounding.
_TRACE_ERROR, _ASYMMETRY, _NEGATIVE = 1e-6, 1e-8, -1e-8


@steady
def gram_matrix(x: Tensor, *, kernel: Kernel = "gaussian", bandwidth: float | None = None) -> Tensor:
    r"""How alike every two rows are, as a matrix of trace 1: K / tr K.

    Args:
        x: [row, d] states, any floating-point dtype.
        kernel: "gaussian", exp(-‖x_i - x_j‖² / (2 bandwidth²)), which no shift of all rows changes; or "linear", x_i · x_j, not
            centred.
        bandwidth: of the Gaussian kernel, in the unit of x; None is the median distance between two rows (the lower one of the
            two middle ones), which makes the matrix the same for every scale of x.

    Returns:
        [row, row] float64, without a unit. The diagonal of a Gaussian one is 1 / n.

    Raises:
        InputError: no rows, a median distance of 0 or none, a bandwidth that isn't positive or belongs to no linear kernel,
            or a linear kernel of zeros.
        InputTypeError: x is no tensor of floats, or bandwidth no number.
        NonFiniteError: a row with a NaN or an infinity.

    Source: Sánchez Giraldo, Rao and Príncipe (2015), arXiv 1211.2459.

    >>> gram_matrix(torch.tensor([[0.0], [1.0]]), bandwidth=1.0) * 2  # exp(-1/2) off the diagonal
    tensor([[1.0000, 0.6065],
            [0.6065, 1.0000]], dtype=torch.float64)
    """
    return named_gram_matrix("x", x, kernel=kernel, bandwidth=bandwidth)


def named_gram_matrix(argument: str, x: Tensor, *, kernel: Kernel, bandwidth: float | None = None) -> Tensor:
    """``gram_matrix`` whose errors call the rows ``argument``."""
    check_choice("kernel", kernel, ("gaussian", "linear"))
    rows = checked_rows(x, name=argument)
    if kernel == "linear":
        if bandwidth is not None:
            raise InputError(f"bandwidth belongs to kernel='gaussian' alone; got {bandwidth!r} with kernel='linear'")
        products = rows @ rows.mT
        trace = products.trace()
        if not trace > 0:
            raise InputError(f"{argument} is zero everywhere, and has no linear kernel; leave it out, or use kernel='gaussian'")
        return products / trace
    squares = squared_distances(rows, spread_floor(x.dtype))
    width = _median_distance(argument, squares) if bandwidth is None else check_positive("bandwidth", bandwidth)
    return torch.exp((squares.sqrt() / width).square() / -2) / len(rows)


@steady
def matrix_entropy(a: Tensor, order: float) -> Tensor:
    r"""Rényi entropy of a matrix of trace 1, S_a = log(Σ λ^a) / (1 - a): how evenly its eigenvalues λ are spread.

    Args:
        a: [..., n, n] symmetric positive semi-definite matrices of trace 1; such as ``gram_matrix`` gives.
        order: from 0 to infinity. Order 1 is von Neumann's entropy -Σ λ log λ; 2 is -log ‖a‖²_F, which needs no eigenvalues and
            so does not notice negative ones; infinity is -log max λ; 0 the log of the rank. Below order 1, 0 included,
            eigenvalues up to n ε max λ, with ε = 2.2e-16, are taken for 0 and the others brought to a sum of 1: what rounding
            makes of an eigenvalue of 0, some 1e-17, has a power near 1 at a small order. From order 1 on that is nothing, and
            eigenvalues are taken as they come.

    Returns:
        float64 [...], nats from 0 to log n; never rises with the order.

    Raises:
        InputError: no square matrix, not symmetric (to 1e-8), of another trace than 1 (to 1e-6), with an eigenvalue below
            -1e-8, or an order below 0.
        InputTypeError: not a tensor of floats, or an order that is no number.
        NonFiniteError: a NaN or an infinity.

    Source: Sánchez Giraldo, Rao and Príncipe (2015), arXiv 1211.2459. Near order 1 the power sum has its leading
    term taken out by algebra (``functional/lens/tiles.py``).

    >>> matrix_entropy(torch.eye(8) / 8, 1.01).exp()
    tensor(8.0000, dtype=torch.float64)
    """
    order = check_order("order", order)
    matrices = _checked(a)
    if order == 2:
        trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (2 * trace.log() - matrices.square().sum((-2, -1)).log()).clamp(min=0.0)  # only rounding takes it below
    eigenvalues = torch.linalg.eigvalsh(matrices)
    if bool((eigenvalues < _NEGATIVE).any()):
        raise InputError(
            f"a must be positive semi-definite; it has an eigenvalue of {float(eigenvalues.min()):.3g}: make it from a kernel, "
            "in float64"
        )
    largest = eigenvalues[..., -1:]
    negligible = a.shape[-1] * torch.finfo(torch.float64).eps * largest if order < 1 else torch.zeros_like(largest)
    return renyi_entropy(eigenvalues.where(eigenvalues > negligible, 0.0).log(), order)


@steady
def matrix_renyi_entropy(
    x: Tensor, *, order: float = 1.01, kernel: Kernel = "gaussian", bandwidth: float | None = None
) -> Tensor:
    r"""Matrix-based Rényi entropy S_a(K / tr K) of rows: how many of them the kernel tells apart, as a logarithm.

    Args:
        x: [row, d] states.
        order: from 0 to infinity; the usual 1.01 is nearly von Neumann's.
        kernel: as for ``gram_matrix``.
        bandwidth: as for ``gram_matrix``.

    Returns:
        A scalar in float64, nats from 0 to log n.

    Raises:
        InputError, InputTypeError, NonFiniteError: as ``gram_matrix`` and ``matrix_entropy``.

    Source: Sánchez Giraldo, Rao and Príncipe (2015), arXiv 1211.2459.

    >>> far_apart = 100 * torch.eye(4)
    >>> matrix_renyi_entropy(far_apart, bandwidth=1.0).exp()
    tensor(4., dtype=torch.float64)
    """
    return matrix_entropy(gram_matrix(x, kernel=kernel, bandwidth=bandwidth), order)


def _median_distance(argument: str, squares: Tensor) -> float:
    n = len(squares)
    if n < 2:
        raise InputError(f"{argument} has one row, and so no median distance; give more rows, or a bandwidth")
    above = torch.ones_like(squares, dtype=torch.bool).triu(1)
    median = squares[above].median().sqrt().item()
    if median == 0:
        raise InputError(
            f"{argument}: the median distance between its {n} rows, which would be the bandwidth, is 0, since more than half "
            "of them are equal; give a bandwidth, or leave out rows that repeat"
        )
    return median


def _checked(a: Tensor) -> Tensor:
    """Matrices in float64, known to be symmetric and of trace 1."""
    check_floating("a", a)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or not a.numel():
        raise InputError(f"a must be [..., n, n]; got {list(a.shape)}")
    matrices = in_double(a.detach())
    if not bool(matrices.isfinite().all()):
        raise NonFiniteError("a has a NaN or an infinity: look where it comes from")
    asymmetry = float((matrices - matrices.mT).abs().max())
    if asymmetry > _ASYMMETRY:
        raise InputError(f"a must be symmetric; it differs from its transpose by {asymmetry:.3g}")
    error = float((matrices.diagonal(dim1=-2, dim2=-1).sum(-1) - 1).abs().max())
    if error > _TRACE_ERROR:
        raise InputError(f"a must have trace 1; it is off by {error:.3g}: divide it by its trace")
    return matrices
