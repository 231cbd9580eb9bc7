r"""The shape of a cloud of states: how many directions it fills, and how it bends along a text.

These are measures of "Layer by Layer" (Skean et al. 2025, arXiv 2502.02013) and their kin, each of plain tensors, computed in
float64, in nats: of the tokens of one text, ``prompt_entropy`` and ``curvature``; of any rows, ``effective_rank``,
``anisotropy`` and the intrinsic dimension ``two_nn``. Those of texts in several views are in ``functional/states/views.py``.

The paper's public code (OFSkean/information_flow) departs from its formulas in places. Where numbers here differ from it, the
function says so.

Refused: too few rows, NaN and infinities, and data of which a measure is undefined, such as rows that are all equal
up to the rounding of their dtype (``functional/states/rows.py``).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, warn
from tl_entropy.functional.probabilities import entropy
from tl_entropy.functional.states.matrices import matrix_entropy
from tl_entropy.functional.states.rows import check_real, checked_rows, from_median, spread_floor, squared_distances, varies
from tl_entropy.torch_state import steady

Normalise = Literal["centred", "length"] | None
NORMALISE = ("centred", "length", None)

ROUNDING = 1e-12
"""What is smaller than this share of the data's own size is a rounding of 0."""

SAME = 1e-5
"""Rows closer than this share of the median distance to the median are one and the same to ``two_nn``."""


@steady
def prompt_entropy(x: Tensor, *, order: float = 1.0, normalise: Normalise = "centred") -> Tensor:
    r"""How evenly the states of one text spread over directions: the matrix-based Rényi entropy of their Gram matrix.

    With K = X Xᵀ and its eigenvalues λ_i, S = log(Σ_i (λ_i / tr K)^order) / (1 - order), and -Σ p_i log p_i with
    p_i = λ_i / tr K at order 1. Xᵀ X has the same eigenvalues but zeros, and is used where it is smaller.

    Args:
        x: [token, d_model] states of one text, or [document, d_model] states of documents (then it is their dataset entropy).
        order: from 0; 1 is the von Neumann entropy.
        normalise: "centred" takes off the mean of the rows and brings each to length 1, as the paper's code does; "length"
            brings them to length 1; None takes X as it is, as in the paper's formula. Rows without a direction (equal to the
            mean, up to the rounding of their dtype) add nothing.

    Returns:
        [] float64, nats, from 0 to log min(token, d_model), or log min(token - 1, d_model) where centred.

    Raises:
        InputError: not [token, d_model], no direction in any row (such as all rows equal, when centred), an unknown
            ``normalise``, or an order below 0.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Skean et al. 2025, equation 1; Giraldo, Rao and Principe 2015. Deviation from its code: entries of K below 0 stay as
    they are. (The code sets them to 0, and K then has other eigenvalues, some of them negative.)

    >>> round(prompt_entropy(torch.eye(4), normalise=None).exp().item(), 6)
    4.0
    """
    check_choice("normalise", normalise, NORMALISE)
    gram = smaller_gram(directed_rows(checked_rows(x), normalise, spread_floor(x.dtype)))
    trace = gram.trace()
    if not trace > 0:
        what = "they are all equal, or there is one row only" if normalise == "centred" else "all are 0"
        raise InputError(f"x: none of the {len(x)} rows has a direction: {what}; prompt_entropy needs rows that differ")
    return matrix_entropy(gram / trace, order)


@steady
def effective_rank(x: Tensor, *, center: bool = True) -> Tensor:
    r"""How many directions the rows fill, in effect: exp of the entropy of the normalised singular values.

    With σ_i the singular values of X, less the mean of its rows where ``center``, p_i = σ_i / Σ_j σ_j and
    erank = exp(-Σ_i p_i log p_i).

    Args:
        x: [row, d_model].
        center: whether to take off the mean of the rows. The source doesn't; but a mean far from 0, as states have, is one huge
            singular value, which says nothing about their spread.

    Returns:
        [] float64, from 1 to min(row - 1, d_model), or min(row, d_model) without centring.

    Raises:
        InputError: not [row, d_model], or nothing but 0 (such as all rows equal, up to the rounding of their dtype, when
            centred).
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality, definition 1.

    >>> round(effective_rank(3 * torch.eye(5), center=False).item(), 6)
    5.0
    """
    states = checked_rows(x)
    centred = states - states.mean(0) if center else states
    sigma = torch.linalg.svdvals(centred)
    if not centred.norm() > max(ROUNDING, spread_floor(x.dtype)) * states.norm():
        raise InputError(f"x: the {len(x)} rows {'are all equal' if center else 'are 0'}, and fill no direction")
    return entropy(sigma / sigma.sum()).exp()


@steady
def effective_rank_of_covariance(c: Tensor) -> Tensor:
    """``effective_rank`` of rows of which only the covariance is known: the singular values are the roots of its eigenvalues.

    Args:
        c: [d_model, d_model] symmetric; any multiple of the covariance gives the same number. Eigenvalues below the largest
            times d_model times the precision of float64 are roundings of 0, and taken for 0.

    Returns:
        [] float64, from 1 to d_model.

    Raises:
        InputError: not square and symmetric, 0, or with an eigenvalue clearly below 0.
        InputTypeError, NonFiniteError: ``c`` is no tensor of floats, or holds a NaN or an infinity.

    >>> round(effective_rank_of_covariance(torch.diag(torch.tensor([4.0, 4.0, 0.0]))).item(), 6)
    2.0
    """
    matrix = checked_rows(c, name="c")
    if matrix.shape[0] != matrix.shape[1] or bool((matrix - matrix.mT).abs().max() > 1e-6 * matrix.abs().max()):
        raise InputError(f"c must be a symmetric [d_model, d_model] covariance; got one of shape {list(c.shape)}")
    values = torch.linalg.eigvalsh(matrix)
    if not values[-1] > 0 or values[0] < -1e-8 * values[-1]:
        raise InputError(
            f"c must have no eigenvalue below 0, and not be 0; got {float(values[0]):.3g} to {float(values[-1]):.3g}"
        )
    kept = values[values > values[-1] * len(values) * torch.finfo(torch.float64).eps]
    return entropy(kept.sqrt() / kept.sqrt().sum()).exp()


def rank_scores(c: Tensor, x: Tensor) -> Tensor:
    """What each row adds to the effective rank, to first order: that of the rows' mean score [row] is 0.

    With λ_i, v_i the eigenvalues and vectors of the covariance, σ_i = √λ_i and H = log erank, a row's score is
    -erank Σ_i (log p_i + H) / (2 σ_i Σ σ) · ((v_i · x)² - λ_i).

    Args:
        c: [d_model, d_model] covariance of all rows.
        x: [row, d_model] some of the rows less the mean of all, float64.
    """
    values, vectors = torch.linalg.eigh(c)
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    sigma = values.sqrt()
    p = sigma / sigma.sum()
    h = entropy(p)
    weights = -h.exp() * (p.log() + h) / (2 * sigma * sigma.sum())
    scores: Tensor = ((x @ vectors).square() - values) @ weights
    return scores


@steady
def curvature(x: Tensor) -> Tensor:
    r"""How much the path of the states through a text bends: the mean angle between successive steps.

    With v_k = x_{k+1} - x_k, c = mean_k arccos(v_k · v_{k+1} / (abs(v_k) abs(v_{k+1}))).

    Args:
        x: [token, d_model] states of one text, in its order. Angles at a step of length 0, up to the rounding of the
            dtype, are left out.

    Returns:
        [] float64, rad, from 0 (a straight line) to π (there and back); unrelated steps at right angles have π/2, and
        independent states 2π/3.

    Raises:
        InputError: not [token, d_model] with at least three tokens, or no angle between steps of some length.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Hosseini and Fedorenko (2023), Large language models implicitly learn to straighten neural sentence trajectories.
    Deviation from the code of Skean et al. 2025: that takes the arccos of the cosine's absolute value, so that there and back
    is 0, and states that are centred and normed.

    >>> curvature(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])).item() / math.pi
    0.5
    """
    angles = turning_angles(checked_rows(x, least=3), spread_floor(x.dtype))
    found = angles[~angles.isnan()]
    if not len(found):
        raise InputError(f"x: no two successive steps between the {len(x)} rows have a length, so there is no angle")
    return found.mean()


@steady
def anisotropy(x: Tensor) -> Tensor:
    r"""How much all states point one way: the mean cosine between different rows.

    (abs(Σ_i u_i)² - n) / (n (n - 1)) with the n rows u_i brought to length 1: the mean over all pairs, without drawing any.

    Args:
        x: [row, d_model].

    Returns:
        [] float64, from -1 / (n - 1) to 1.

    Raises:
        InputError: not [row, d_model] with at least two rows, or a row of length 0, which has no direction.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Ethayarajh (2019), How contextual are contextualized word representations?, section 4.1, which samples pairs.

    >>> anisotropy(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])).item()  # of three pairs, one points the same way
    0.3333333333333333
    """
    states = checked_rows(x, least=2)
    return mean_cosine(unit_rows(states).sum(0), len(states))


@steady
def two_nn(x: Tensor, *, discard: float = 0.1) -> Tensor:
    r"""The intrinsic dimension of the cloud of rows, from the distances to their two nearest neighbours.

    With μ_i = r2_i / r1_i the ratio of the distances of row i to its second and first neighbour, sorted, and F(μ_i) = i / n,
    the slope of -log(1 - F) over log μ through the origin: d = Σ a_i b_i / Σ a_i², a = log μ, b = -log(1 - F).

    Args:
        x: [row, d_model]. Rows that repeat another (``different_rows``) are taken once, with a warning.
        discard: share of the rows with the largest μ that don't enter the fit, from 0 below 1. The last row, of which F is 1,
            never does.

    Returns:
        [] float64, above 0: a dimension, biased low where it is high and rows are few.

    Raises:
        InputError: not [row, d_model], fewer than three different rows, none left after ``discard``, or all first and second
            neighbours equally far (as on a grid), where no dimension can be read off.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Facco, d'Errico, Rodriguez and Laio (2017), Estimating the intrinsic dimension of datasets by a minimal neighborhood
    information.

    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> round(two_nn(square).item())
    2
    """
    if not 0 <= check_real("discard", discard) < 1:
        raise InputError(f"discard must be a share of the rows from 0 below 1; got {discard!r}")
    states = different_rows(x)
    if len(states) < len(x):
        warn(f"{len(x) - len(states)} of {len(x)} rows repeat others and were left out of two_nn")
    if len(states) < 3:
        raise InputError(
            f"x must have at least three different rows [row, d_model], for two neighbours each; got {len(states)}"
        )
    return dimension_of_different(states, discard)


def dimension_of_different(states: Tensor, discard: float = 0.1) -> Tensor:
    """``two_nn`` of rows [row, d_model] in float64, of which there are three or more and none repeats another."""
    ratio = _neighbour_ratios(states).sort().values
    n = len(ratio)
    kept = min(int(n * (1 - discard)), n - 1)
    if not kept:
        raise InputError(
            f"discard={discard!r} leaves nothing of the {n} different rows for the fit: give more rows, or discard less"
        )
    a = ratio[:kept].log()
    b = -torch.log1p(-torch.arange(1, kept + 1, dtype=torch.float64, device=a.device) / n)
    if not a.any():
        raise InputError(
            f"x: the first two neighbours of the {kept} rows kept are equally far, which leaves the dimension open"
        )
    return (a @ b) / (a @ a)


def dimension_scores(states: Tensor, discard: float = 0.1) -> Tensor:
    """What each row adds to ``dimension_of_different``, to first order [row]: the score of the likelihood of d.

    log μ is exponential with rate d, and censored at the largest that enters the fit: with t that value and m the share of rows
    below it, -d² (min(log μ, t) - [log μ ≤ t] / d) / m. Of independent rows the error is then about d / √(m n).
    """
    d, logs = dimension_of_different(states, discard), _neighbour_ratios(states).log()
    most = logs.sort().values[max(min(int(len(logs) * (1 - discard)), len(logs) - 1) - 1, 0)]
    inside = (logs <= most).double()
    scores: Tensor = -d * (d * logs.clamp_max(most) - inside) / inside.mean()
    return scores


def directed_rows(x: Tensor, normalise: Normalise, floor: float = 0.0) -> Tensor:
    """Rows as ``prompt_entropy`` takes them; 0 where a row has no direction.

    Args:
        x: [token, d_model] of float64.
        normalise: as for ``prompt_entropy``.
        floor: ``spread_floor`` of the dtype in which the rows came. Where all rows, centred, are as short as that, or one is
            beside its own length, they have no direction.
    """
    if normalise is None:
        return x
    shifted, least = x, torch.zeros_like(x[:, :1])
    if normalise == "centred":
        mean = x.mean(0)
        shifted = x - mean
        if not varies(shifted.square().sum(), len(x), mean, max(floor, ROUNDING)):
            return torch.zeros_like(x)
        own = x.norm(dim=1, keepdim=True)
        least = torch.maximum(ROUNDING * own.max(), floor * own)
    lengths = shifted.norm(dim=1, keepdim=True)
    there = lengths > least
    return torch.where(there, shifted / torch.where(there, lengths, 1.0), 0.0)


def smaller_gram(x: Tensor) -> Tensor:
    """X Xᵀ or Xᵀ X, whichever is smaller: they have the same eigenvalues, but for zeros."""
    return x @ x.mT if x.shape[0] <= x.shape[1] else x.mT @ x


def turning_angles(x: Tensor, floor: float = 0.0) -> Tensor:
    """Angles [token - 2] in rad between successive steps of ``x`` [token, d_model]; NaN beside a step of length 0.

    A step as short as ``floor``, ``spread_floor`` of the dtype in which the rows came, times the longer row at its ends is one.
    """
    steps, rows = x.diff(dim=0), x.norm(dim=1)
    lengths = steps.norm(dim=1)
    there = lengths > floor * torch.maximum(rows[1:], rows[:-1])
    u = steps / lengths.where(there, math.nan)[:, None]
    # Not arccos: it loses half of the digits near 0 and π.
    angles: Tensor = 2 * torch.atan2((u[1:] - u[:-1]).norm(dim=1), (u[1:] + u[:-1]).norm(dim=1))
    return angles


def mean_cosine(total: Tensor, n: Tensor | int) -> Tensor:
    """The mean cosine of all pairs of n directions, from their sum ``total`` [..., d_model]; NaN for fewer than two."""
    count = torch.as_tensor(n, dtype=torch.float64, device=total.device)
    cosine: Tensor = (total.square().sum(-1) - count) / torch.where(count > 1, count * (count - 1), math.nan)
    return cosine


def different_rows(x: Tensor) -> Tensor:
    """The rows of ``x`` [row, d_model] in float64, those that repeat another left out.

    Rows repeat each other where they are closer than 1e-5 of the median distance to the median of each component, or than
    their dtype can tell (``spread_floor`` of the longer one): the states of one text in two batches differ by as much in
    float32, and no dimension should come from that.
    """
    return checked_rows(x)[different_places(x)]


def different_places(x: Tensor) -> Tensor:
    """Which rows of ``x`` are its ``different_rows``: their numbers [different]."""
    states, inverse = checked_rows(x).unique(dim=0, return_inverse=True)
    number = torch.arange(len(inverse), device=inverse.device)
    first = torch.full_like(number[: len(states)], len(inverse)).scatter_reduce(0, inverse, number, "amin")
    same = SAME * from_median(states).norm(dim=1).median()
    near = squared_distances(states, spread_floor(x.dtype)) <= same**2
    different: Tensor = first[~near.tril(-1).any(1)]
    return different


def _neighbour_ratios(x: Tensor) -> Tensor:
    """r2 / r1 of every one of the different rows of ``x`` [row, d_model]."""
    nearest = squared_distances(x).fill_diagonal_(math.inf).topk(2, largest=False).indices
    # The products find the neighbours; how far they are is taken from the differences, which don't cancel.
    r = (x[nearest] - x[:, None]).norm(dim=2).sort(dim=1).values
    ratios: Tensor = r[:, 1] / r[:, 0]
    return ratios


def unit_rows(states: Tensor) -> Tensor:
    """Rows brought to length 1."""
    lengths = states.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise InputError(f"x: row {int((lengths[:, 0] == 0).nonzero()[0])} has length 0, and so no cosine; leave such rows out")
    directions: Tensor = states / lengths
    return directions
