"""Distances between entropy profiles E [token, layer]: between two layers' values, and between two curves over depth.

Two views of a profile are compared. The values of many tokens at one layer are a *sample*, on the last axis here: samples are
compared by Wasserstein-1 or by the Jensen-Shannon divergence of histograms. A mean over tokens is a *curve* over depth, on the
last axis too: curves are compared as distributions over depth (Fisher-Rao) or by their square-root velocity functions

    q = sign(f')·√|f'|        d(f, g) = ‖q_f - q_g‖        elastic: the smallest over warpings γ of depth, q_g → (q_g∘γ)·√γ'

(A. Srivastava and E. Klassen, Functional and Shape Data Analysis, 2016). All of these see entropies only: two layers whose
vocabulary distributions are permutations of each other have a distance of 0 here, and a large one by `divergences`. What a
distance between samples would be by chance is in `chance`, all pairs of many profiles in `pairwise`.

Everything is float64 inside and out, and in the unit that the values came in. Refused: NaN and infinity, integers, no values at
all, shapes that do not broadcast, curves of different depths (`common_depth` makes them one), curves too short or 0 everywhere.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_int
from tl_entropy.functional.profiles.samples import (
    Limits,
    bin_counts,
    bin_numbers,
    check_values,
    histogram_inputs,
    jsd_terms,
    leading_shape,
    sorted_distance,
)
from tl_entropy.torch_state import steady


@steady
def wasserstein_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return how far the values of one sample must move, on average, to become the other: Wasserstein-1, the earth mover's.

    W = ∫ |Q_a(u) - Q_b(u)| du over the quantiles, exactly, also for different numbers of values; for equal numbers it is the
    mean of |sorted a - sorted b|. It is a metric between the samples' distributions.

    Args:
        a: sample [..., n], any floating-point dtype.
        b: sample [..., m]; the leading axes broadcast against those of ``a``.

    Returns:
        float64 [...], at least 0, in the unit of the values.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: an empty sample, or leading axes that do not broadcast.
        InputTypeError: not floating-point tensors.

    Source: L. Vaserstein, Markov processes over denumerable products of spaces, 1969; in one dimension by quantiles,
    S. Vallender, Calculation of the Wasserstein distance between probability distributions on the line, 1974.

    >>> wasserstein_distance(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 1.0, 2.0])).item()
    1.5
    """
    a, b = check_values("a", a), check_values("b", b)
    leading_shape(a, b)
    return sorted_distance(a.sort(-1).values, b.sort(-1).values)


@steady
def histogram_jsd(a: Tensor, b: Tensor, *, n_bins: int = 50, limits: Limits | None = None) -> Tensor:
    """Return the Jensen-Shannon divergence between the histograms of two samples over the same equal bins.

    JS = ½·Σ p·log(2p / (p + q)) + ½·Σ q·log(2q / (p + q)), with p and q the shares of values in each bin. It depends on the
    bins, and two samples of one law are not at 0: subtract `chance.histogram_jsd_chance`, or compare it at least.

    Args:
        a: sample [..., n], any floating-point dtype.
        b: sample [..., m]; the leading axes broadcast against those of ``a``.
        n_bins: number of bins; each holds its lower edge, the last one both (as numpy.histogram's).
        limits: (low, high), floats or tensors [...], the outer edges; by default from 1e-6 below the least to 1e-6 above the
            largest value of the pair, pair by pair. With limits that are fixed its square root is a metric.

    Returns:
        float64 nats [...], from 0 to log 2.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: an empty sample, leading axes that do not broadcast, a wrong ``n_bins``, low that is not below high, or
            values outside the limits.
        InputTypeError: not floating-point tensors.

    Source: J. Lin, Divergence measures based on the Shannon entropy, 1991, with equal weights.

    >>> apart = histogram_jsd(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0, 3.0, 3.0]))
    >>> bins = 0.25 * math.log(2) + 0.25 * math.log(4 / 3) + 0.125 * math.log(2 / 3) + 0.375 * math.log(2)  # at 1, 2, 2, 3
    >>> round(apart.item(), 12) == round(bins, 12)
    True
    """
    a, b, edges = histogram_inputs(a, b, n_bins, limits)
    p, q = (bin_counts(bin_numbers(values, edges), n_bins).double() / values.shape[-1] for values in (a, b))
    return jsd_terms(p, q).sum(-1).clamp(0.0, math.log(2))


@steady
def curve_fisher_rao_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the angle between two curves taken as distributions over depth: arccos Σ √(p·q), p and q normalised to sum to 1.

    A factor that one curve has over the other changes nothing; where along depth the entropy lies is all that counts. It is a
    metric between normalised curves. Mind the factor: the distance between vocabulary distributions,
    `divergences.fisher_rao_distance`, is 2·arccos Σ √(p·q), twice the angle.

    Args:
        a: curve [..., depth] of values of at least 0, any floating-point dtype.
        b: the same; its leading axes broadcast against those of ``a``.

    Returns:
        float64 radians [...], from 0 to π/2. As 2·arcsin(½·‖√p - √q‖), which keeps its digits near 0.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: a negative value, a curve that is 0 everywhere, different depths, or leading axes that do not broadcast.
        InputTypeError: not floating-point tensors.

    Source: A. Bhattacharyya, On a measure of divergence between two multinomial populations, 1946.

    >>> round(curve_fisher_rao_distance(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])).item() / math.pi, 12)
    0.25
    """
    a, b = _curve_pair(a, b, least=1)
    return chord_angle((root_density("a", a) - root_density("b", b)).norm(dim=-1))


@steady
def srvf_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return how differently two curves rise and fall: the L2 distance √Σ (q_a - q_b)² of their q = sign(f')·√|f'|.

    f' are differences along depth per layer: central ones, one-sided at the ends. A constant added to a curve changes nothing,
    and a factor c on both scales the distance by √c. Over relative depth t in [0, 1], where f' is (depth - 1) times as large,
    it is the integral ∫ (q_a - q_b)² dt by the rectangle rule with steps of 1 / (depth - 1), so that it does not depend on the
    number of layers beyond that. It is no elastic distance: a curve that is shifted can be farther than a flat one.

    Args:
        a: curve [..., depth], depth of at least 2, any floating-point dtype.
        b: the same; its leading axes broadcast against those of ``a``.

    Returns:
        float64 [...], at least 0, in the square root of the curves' unit.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: different depths, less than two layers, or leading axes that do not broadcast.
        InputTypeError: not floating-point tensors.

    Source: A. Srivastava et al., Registration of functional data using Fisher-Rao metric, 2011, without the registration.

    >>> rising, flat = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.zeros(4)
    >>> srvf_distance(rising, flat).item(), srvf_distance(rising, rising + 5).item()
    (2.0, 0.0)
    """
    a, b = _curve_pair(a, b, least=2)
    distance: Tensor = (square_root_velocity(a) - square_root_velocity(b)).norm(dim=-1)
    return distance


@steady
def elastic_srvf_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return how differently two curves rise and fall whatever the depths at which they do: the amplitude distance.

    The smallest `srvf_distance` over warpings γ of depth, min_γ ‖q_a - (q_b∘γ)·√γ'‖: each layer's q holds on one cell of depth,
    the γ found by dynamic programming is linear between knots on the cells' edges with slopes from 1/7 to 7, and the integral
    over the warped cells is exact. So without warping it is `srvf_distance`, which it never exceeds; no warping brings a curve
    nearer to a flat one; and of both directions the better one counts, so that it is symmetric. A pair of 24 layers takes about
    a millisecond, one of 64 about ten.

    Args:
        a: curve [..., depth], depth of at least 2, any floating-point dtype.
        b: the same; its leading axes broadcast against those of ``a``.

    Returns:
        float64 [...], from 0 to `srvf_distance`, in the square root of the curves' unit.

    Raises:
        ImportError: fdasrsf is not installed (``pip install 'tl-entropy[elastic]'``).
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: different depths, less than two layers, or leading axes that do not broadcast.
        InputTypeError: not floating-point tensors.

    Source: A. Srivastava and E. Klassen, Functional and Shape Data Analysis, 2016, chapter 4; the registration is that of the
    package fdasrsf (its "DP2"), the minimum one over the warpings named above.

    >>> early, late = torch.tensor([1.0, 1, 5, 1, 1, 1, 1, 1]), torch.tensor([1.0, 1, 1, 1, 5, 1, 1, 1])  # the same bump
    >>> round(srvf_distance(early, late).item(), 6), round(elastic_srvf_distance(early, late).item(), 6)
    (3.464102, 0.0)
    """
    a, b = _curve_pair(a, b, least=2)
    try:
        from fdasrsf.utility_functions import optimum_reparam
    except ImportError as error:
        raise ImportError("elastic_srvf_distance needs fdasrsf: pip install 'tl-entropy[elastic]'") from error

    plain = (square_root_velocity(a) - square_root_velocity(b)).norm(dim=-1)
    velocities = torch.broadcast_tensors(square_root_velocity(a), square_root_velocity(b))
    q_a, q_b = (q.reshape(-1, q.shape[-1]).cpu().numpy() for q in velocities)
    edges = np.linspace(0, 1, a.shape[-1] + 1)

    def registered(q: np.ndarray, other: np.ndarray) -> float:
        if not (q.any() and other.any()):
            return math.inf  # nothing to register: a flat curve is at the same distance whatever the warping
        # A value for every edge is asked for; what holds on a cell is the value of its left edge, and the last is not used.
        warping = optimum_reparam(np.append(q, 0.0), edges, np.append(other, 0.0), method="DP2", lam=0.0, grid_dim=7)
        return _warped_distance(q, other, warping)

    found = [min(registered(p, q), registered(q, p)) for p, q in zip(q_a, q_b, strict=True)]
    return torch.tensor(found, dtype=torch.float64, device=plain.device).reshape(plain.shape).minimum(plain)


@steady
def common_depth(profile: Tensor, n: int) -> Tensor:
    """Return curves of any depth at ``n`` points of relative depth, by linear interpolation between layers.

    The points are 0, 1 / (n - 1), ..., 1, the first layer at 0 and the last at 1; for n equal to the depth nothing changes.

    Args:
        profile: [..., depth], depth of at least 2, any floating-point dtype.
        n: number of points, at least 2.

    Returns:
        float64 [..., n], in the unit of the profile.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: less than two layers, or ``n`` below 2.
        InputTypeError: not a floating-point tensor, or ``n`` that is no int.

    >>> common_depth(torch.tensor([0.0, 1.0, 4.0]), 5).tolist()
    [0.0, 0.5, 1.0, 2.5, 4.0]
    """
    profile, n = check_values("profile", profile, axis="layer", least=2), check_int("n", n, 2)
    # In whole numbers of 1 / (n - 1) of a layer, so that layers are met exactly.
    place = torch.arange(n, device=profile.device) * (profile.shape[-1] - 1)
    left, share = place // (n - 1), (place % (n - 1)).double() / (n - 1)
    right = (left + 1).clamp(max=profile.shape[-1] - 1)
    return torch.lerp(profile[..., left], profile[..., right], share)


def root_density(name: str, curves: Tensor) -> Tensor:
    """Return √p of curves [..., depth] normalised to sum to 1, or refuse those that are negative somewhere or 0 everywhere."""
    least, total = curves.amin(-1), curves.sum(-1)
    bad = (least < 0) | (total == 0)
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise InputError(
            f"{name} must hold curves of at least 0 that are not 0 everywhere; curve {list(place)} has the least value "
            f"{least[place].item():g} and the sum {total[place].item():g}: leave it out"
        )
    return (curves / total.unsqueeze(-1)).sqrt()


def chord_angle(chord: Tensor) -> Tensor:
    """Return the angle between unit vectors of entries of at least 0 from their distance: 2·arcsin(chord / 2), at most π/2."""
    return (2 * (chord / 2).asin()).clamp(max=math.pi / 2)


def square_root_velocity(curves: Tensor) -> Tensor:
    """Return q = sign(f')·√|f'| of curves f [..., depth]; f' are central differences per layer, one-sided at the ends."""
    (velocity,) = torch.gradient(curves, dim=-1)
    return velocity.sign() * velocity.abs().sqrt()


def _curve_pair(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    a, b = check_values("a", a, axis="layer", least=least), check_values("b", b, axis="layer", least=least)
    leading_shape(a, b)
    if a.shape[-1] != b.shape[-1]:
        raise InputError(f"a and b must have the same depth; got {a.shape[-1]} and {b.shape[-1]}: use common_depth")
    return a, b


def _warped_distance(q: np.ndarray, other: np.ndarray, warping: np.ndarray) -> float:
    """Return √(depth·∫ (q - (other∘γ)·√γ')² dt), exactly, for q's that are constant on ``depth`` equal cells of [0, 1].

    ``warping`` [depth + 1] holds γ at the cells' edges, and γ is linear between them.
    """
    depth = len(q)
    edges = np.linspace(0, 1, depth + 1)
    cuts = np.union1d(edges, np.interp(edges, warping, edges))  # where q, γ' or other∘γ may jump
    middle = (cuts[1:] + cuts[:-1]) / 2
    here = np.minimum((middle * depth).astype(int), depth - 1)
    there = np.minimum((np.interp(middle, edges, warping) * depth).astype(int), depth - 1)
    slope = np.diff(warping)[here] * depth
    return math.sqrt(depth * float(np.sum((q[here] - other[there] * np.sqrt(slope)) ** 2 * np.diff(cuts))))
