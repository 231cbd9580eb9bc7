r"""How alike two representations of the same rows are: linear CKA from the unbiased HSIC, and the biased form.

With kernel matrices K = X Xᵀ and L = Y Yᵀ of n rows, K̃ and L̃ without their diagonals, the unbiased estimator of the
Hilbert-Schmidt independence criterion is

    HSIC(K, L) = [tr(K̃ L̃) + 1ᵀK̃1 · 1ᵀL̃1 / ((n-1)(n-2)) - 2/(n-2) · 1ᵀK̃L̃1] / (n(n-3))

(Song et al. 2012, equation 5), and CKA(X, Y) = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)). It stays the same where X or Y is
rotated, scaled or shifted. Arithmetic is not indifferent to a shift, so rows are centred first, in float64. Then 1ᵀK = 0, and

    n(n-3) · HSIC = ‖XᵀY‖² - n/(n-2) · Σ |x|²|y|² + Σ |x|² · Σ |y|² / ((n-1)(n-2))

where ‖XᵀY‖² = Σ K∘L may be taken from the features or from the kernel matrices, whichever are smaller.

The biased form, ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), goes to 1 for independent data as rows get few beside features: .96 for 32 rows of 768
features. The debiased one is about 0 there, whatever the numbers.

Sources: Song, Smola, Gretton, Bedo and Borgwardt (2012), Feature Selection via Dependence Maximization; Kornblith, Norouzi, Lee
and Hinton (2019), arXiv 1905.00414; Nguyen, Raghu and Kornblith (2021), arXiv 2010.15327, for the debiased form.

Refused: anything but two matrices of finite floats with the same rows, at least 4 of them (2 for the biased form).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.states.rows import checked_rows, spread_floor
from tl_entropy.torch_state import steady

MIN_ROWS = 4
"""The fewest rows that have an unbiased HSIC."""

# Rows and columns of a kernel may differ by this share of its largest entry.
_ASYMMETRY = 1e-5

# HSIC(K, K) below this share of ‖K‖² is rounding, and its rows don't vary as far as float64 can tell.
_ROUNDING = 1e-13


@steady
def linear_cka(x: Float[Tensor, "row d1"], y: Float[Tensor, "row d2"], *, debiased: bool = True) -> Float[Tensor, ""]:
    """How alike two representations of the same rows are, up to rotation, scale and shift: linear CKA.

    HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)) of linear kernels, with the unbiased HSIC or the biased one (see above).

    Args:
        x: [row, d1], in any unit.
        y: [row, d2], of the same rows.
        debiased: use the unbiased HSIC, which needs 4 rows or more.

    Returns:
        A float64 scalar: from -1 to 1 where debiased, about 0 for independent data; from 0 to 1 where biased. NaN where ``x``
        or ``y`` does not vary: all rows alike up to the rounding of their dtype, or, debiased, all at one distance from each
        other.

    Raises:
        InputError: not two matrices with the same rows, or too few of them.
        InputTypeError: something else than tensors of floats.
        NonFiniteError: a NaN or an infinity.

    Source: Nguyen, Raghu and Kornblith (2021), arXiv 2010.15327, equations 2 and 3, with one batch; Kornblith et al. (2019),
    arXiv 1905.00414, section 3, for the biased form.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 200, 50, generator=generator)
    >>> round(linear_cka(x, 3 * x.flip(1) + 1).item(), 6), round(linear_cka(x, y).item(), 2)
    (1.0, -0.01)
    """
    return cka_table([x], [y], debiased=debiased)[0, 0]


def cka_table(x: Sequence[Tensor], y: Sequence[Tensor], *, debiased: bool = True) -> Float[Tensor, "x y"]:
    """Linear CKA of each representation of ``x`` with each of ``y``, as ``linear_cka`` of each pair.

    Args:
        x: representations [row, d], each of its own d.
        y: others, of the same rows.
        debiased: as for ``linear_cka``, as are the range, NaN, and what is refused.

    Returns:
        [x, y], float64.
    """
    fewest = MIN_ROWS if debiased else 2
    a, b = (
        [_scaled(checked_rows(v, name=name), spread_floor(v.dtype)) for v in values] for name, values in (("x", x), ("y", y))
    )
    rows = sorted({len(value) for value in (*a, *b)})
    if len(rows) != 1 or rows[0] < fewest:
        raise InputError(f"x and y must have the same number of rows, at least {fewest}; got {' and '.join(map(str, rows))}")
    own_a, own_b = (torch.stack([hsic_table([v], [v], debiased=debiased)[0, 0] for v in values]) for values in (a, b))
    return cka_of(hsic_table(a, b, debiased=debiased), own_a[:, None], own_b)


@steady
def unbiased_hsic(k: Float[Tensor, "row row"], l: Float[Tensor, "row row"]) -> Float[Tensor, ""]:  # noqa: E741 (the papers' names)
    """How dependent two variables are, from their kernel matrices: the unbiased estimator of HSIC.

    Taken as the inner product of the matrices without their diagonals and centred so that rows sum to 0 (Székely and Rizzo
    2014), which is the formula above in another form.

    Args:
        k: [row, row], symmetric; its diagonal does not matter.
        l: [row, row], likewise, of the same rows.

    Returns:
        A float64 scalar, in units of both kernels; 0 on average for independent data, so negative as often as not.

    Raises:
        InputError: not two symmetric matrices of one size, at least 4 x 4.
        InputTypeError: something else than tensors of floats.
        NonFiniteError: a NaN or an infinity.

    Source: Song et al. (2012), equation 5.

    >>> unbiased_hsic(torch.ones(5, 5), torch.eye(5)).item()  # a kernel that tells no row from another
    0.0
    """
    kernels = [checked_rows(k, name="k"), checked_rows(l, name="l")]
    for name, value in zip("kl", kernels, strict=True):
        square = value.shape[0] == value.shape[1]
        if not square or bool((value - value.mT).abs().max() > _ASYMMETRY * value.abs().max()):
            raise InputError(f"{name} must be a symmetric matrix [row, row]; got shape {list(value.shape)}")
    n = len(k)
    if len(l) != n or n < MIN_ROWS:
        raise InputError(f"k and l must be of one size, at least {MIN_ROWS} x {MIN_ROWS}; got {n} and {len(l)}")
    return (_u_centred(kernels[0]) * _u_centred(kernels[1])).sum() / (n * (n - 3))


def centred(x: Tensor, floor: float) -> Tensor:
    """``x`` [row, d] of float64 less its mean; exactly 0 where the spread is no more than ``floor`` times the rows' length."""
    apart = x - x[:1]  # the mean of equal numbers may round
    apart = apart - apart.mean(0)
    size = x.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)  # without which squares may overflow
    return apart if bool((apart / size).norm() > floor * (x / size).norm()) else torch.zeros_like(apart)


def hsic_table(x: Sequence[Tensor], y: Sequence[Tensor], *, debiased: bool = True) -> Tensor:
    """HSIC [x, y] of each pair of ``centred`` representations [row, d] of the same rows: unbiased, or ‖XᵀY‖².

    That of a representation with itself is 0 where it can't be told from rounding.
    """
    rows = len(x[0])
    if rows <= max(value.shape[1] for value in (*x, *y)):
        kernels = torch.stack([(value @ value.T).flatten() for value in y])
        cross = kernels @ kernels.T if x is y else torch.stack([kernels @ (value @ value.T).flatten() for value in x])
    else:
        cross = torch.stack([torch.stack([(a.T @ b).square().sum() for b in y]) for a in x])
    if not debiased:
        return cross
    square_x, square_y = (torch.stack([value.square().sum(1) for value in values]) for values in (x, y))
    hsic = hsic_of_centred(cross, square_x @ square_y.T, torch.outer(square_x.sum(1), square_y.sum(1)), rows)
    same = torch.tensor([[a is b for b in y] for a in x], device=hsic.device)
    return torch.where(same, resolved(hsic, cross, rows), hsic)


def hsic_of_centred(cross: Tensor, squares: Tensor, traces: Tensor, n: int) -> Tensor:
    """The unbiased HSIC of linear kernels, from sums over n rows of zero mean.

    Args:
        cross: ‖XᵀY‖².
        squares: Σ |x|²|y|².
        traces: Σ |x|² · Σ |y|².
        n: number of rows.
    """
    return (cross - n / (n - 2) * squares + traces / ((n - 1) * (n - 2))) / (n * (n - 3))


def resolved(hsic: Tensor, cross: Tensor, n: int) -> Tensor:
    """HSIC of a variable with itself; 0 where it can't be told from rounding. ``cross`` is ‖XᵀX‖² of ``n`` centred rows."""
    return torch.where(hsic * (n * (n - 3)) > _ROUNDING * cross, hsic, 0.0)


def cka_of(hsic: Tensor, hsic_x: Tensor, hsic_y: Tensor) -> Tensor:
    """The ratio of one HSIC to those of each variable with itself; NaN where one of these is not positive."""
    known = (hsic_x > 0) & (hsic_y > 0)
    return torch.where(known, hsic / (hsic_x.clamp_min(0).sqrt() * hsic_y.clamp_min(0).sqrt()), torch.nan)


def cka_scores(x: Sequence[Tensor], y: Sequence[Tensor], *, debiased: bool = True) -> Tensor:
    """What each row adds to ``cka_table`` to first order [row, x, y]: see ``scores_of``."""
    a, b = (
        [_scaled(checked_rows(v, name=name), spread_floor(v.dtype)) for v in values] for name, values in (("x", x), ("y", y))
    )
    own_a, own_b = ([scores_of(v, v, v.mT @ v / len(v), len(v)) for v in values] for values in (a, b))
    hsic_a, hsic_b = (torch.stack([hsic_table([v], [v], debiased=debiased)[0, 0] for v in values]) for values in (a, b))
    hsic, n = hsic_table(a, b, debiased=debiased), len(a[0])
    scale = 1.0 if debiased else 1 / n**2
    return torch.stack([
        torch.stack([
            ratio_scores(scores_of(v, w, v.mT @ w / n, n), own_a[i], own_b[j], hsic[i, j] * scale, hsic_a[i] * scale,
                         hsic_b[j] * scale)
            for j, w in enumerate(b)
        ], dim=1)
        for i, v in enumerate(a)
    ], dim=1)  # fmt: skip


def scores_of(x: Tensor, y: Tensor, c: Tensor, n: int) -> Tensor:
    """What rows of n add to HSIC, x_i · C y_i with C = Σ x yᵀ / n and the row's own part in it left out [row].

    HSIC is ‖E[x yᵀ]‖² of centred rows, so that a row changes it by twice what its score is above the mean.

    Args:
        x: [row, d1] some of the n rows, centred.
        y: [row, d2] the same ones.
        c: [d1, d2] of all n.
        n: number of all.
    """
    own = x.square().sum(1) * y.square().sum(1)
    found: Tensor = (n * ((x @ c) * y).sum(1) - own) / (n - 1)
    return found


def ratio_scores(cross: Tensor, own_x: Tensor, own_y: Tensor, hsic: Tensor, hsic_x: Tensor, hsic_y: Tensor) -> Tensor:
    """What rows add to the ratio of one HSIC to those of each variable with itself, from their ``scores_of`` [row]."""
    ratio = cka_of(hsic, hsic_x, hsic_y)
    return 2 * (cross / (hsic_x * hsic_y).clamp_min(0).sqrt() - ratio / 2 * (own_x / hsic_x + own_y / hsic_y))


def _scaled(x: Tensor, floor: float) -> Tensor:
    """``centred``, and of largest magnitude 1, since HSIC takes the fourth power of it."""
    apart = centred(x, floor)
    largest = apart.abs().amax()
    return torch.where(largest > 0, apart / largest, 0.0)


def _u_centred(k: Tensor) -> Tensor:
    """The matrix without its diagonal, so centred that each row and column sums to 0 (Székely and Rizzo 2014)."""
    n = len(k)
    off = k.clone().fill_diagonal_(0)
    sums = off.sum(0)
    off = off - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return off.fill_diagonal_(0)
