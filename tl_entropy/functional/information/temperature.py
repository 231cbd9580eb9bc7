"""The temperature of a soft assignment to anchors on a sphere, chosen so that one point can tell all the anchors apart.

A direction z̄ in d dimensions is shared out over ``n_bins`` anchors by softmax(z̄·w / ε). Seen as a distribution over
directions, that softmax is the von Mises-Fisher (vMF) distribution with concentration κ = 1/ε about z̄. Its divergence from
the uniform distribution on the sphere is the number of nats by which it narrows the sphere down, and ε is set so that these
are just the nats that name one bin among ``n_bins`` (Conklin 2025, arXiv 2505.23960, eq. 7):

    KL(vMF(κ) ‖ uniform on S^{d-1}) = log n_bins

With Z(κ) the mean of exp(κ z̄·w) over uniform w, the divergence is κ d log Z/dκ - log Z. It rises strictly with κ, so there is
one solution. It stays below κ²/(2d), whose solution is the leading order 1/sqrt(2 d log n_bins): good for large d, and
always too warm. For one dimension or one bin there is nothing to calibrate, and both are refused.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from scipy.optimize import brentq

from tl_entropy.errors import check_choice, check_int
from tl_entropy.torch_state import steady

Calibration = Literal["exact", "leading_order"]


@steady
def calibrate_temperature(d: int, n_bins: int, *, method: Calibration = "exact") -> float:
    """The temperature ε at which a soft assignment of one direction carries log n_bins nats.

    ``"exact"``: ε = 1/κ, with κ the solution of KL(vMF(κ) ‖ uniform on S^{d-1}) = log n_bins.
    ``"leading_order"``: ε = 1/sqrt(2 d log n_bins), to which the exact value tends for large d. It is always the warmer of
    the two: with 100 bins its divergence is 47 % of log n_bins for d = 8, 84 % for d = 64 and 98 % for d = 768.

    At fixed d, ε falls as n_bins grows. At fixed n_bins of 3 or more, the exact ε first rises with d (with 100 bins up to
    d = 14) and then falls: on a circle the bins are narrow arcs, and in many dimensions all cosines are small.

    Args:
        d: Number of dimensions of the space that holds the sphere (``d_model`` for a residual stream); at least 2.
        n_bins: Number of anchors; at least 2.
        method: ``"exact"`` (relative error below 1e-11) or ``"leading_order"``.

    Returns:
        ε > 0, dimensionless (cosine per nat): divide cosines by it to get the logits of the assignment.

    Raises:
        InputError: d or n_bins below 2, or an unknown method.
        InputTypeError: d or n_bins that is not an int.

    Source: Conklin (2025), arXiv 2505.23960, eq. 7.

    >>> round(calibrate_temperature(768, 100), 10)
    0.01178376
    >>> round(calibrate_temperature(768, 100, method="leading_order"), 10)
    0.0118899917
    """
    check_choice("method", method, get_args(Calibration))
    d = check_int("d", d, 2, math.inf)
    n_bins = check_int("n_bins", n_bins, 2, math.inf)
    if method == "leading_order":
        return 1 / math.sqrt(2 * d * math.log(n_bins))
    return _exact(d, n_bins)


@lru_cache(maxsize=1024)  # here and not above, where 64.0 would find the answer for 64 instead of being refused
def _exact(d: int, n_bins: int) -> float:
    nats = math.log(n_bins)
    low = 0.5 * math.log(2 * d * nats) - 0.01  # the leading order is a lower bound on log κ, but for rounding
    high = low + 1
    while _divergence(high, d) < nats:
        low, high = high, high + 1
    log_kappa: float = brentq(lambda x: _divergence(x, d) - nats, low, high, xtol=1e-14)
    return math.exp(-log_kappa)


def _divergence(log_kappa: float, d: int) -> float:
    """KL(vMF(κ) ‖ uniform on S^{d-1}) in nats, to about 13 digits.

    Where Hankel's expansion takes over, its 16th term is below 1e-17. The power series goes on being right above that, but
    grows long and loses digits, since the divergence is a small difference of terms that grow like κ.
    """
    return _hankel(log_kappa, d) if log_kappa > math.log(max(100, d * d / 4)) else _series(math.exp(log_kappa), d)


def _series(kappa: float, d: int) -> float:
    """2⟨k⟩ - log Σ_k w_k, with Z = Σ_k w_k, w_k = (κ²/4)^k / (k! (d/2)_k), and ⟨k⟩ the mean of k under w.

    All terms are positive, and log w_k is a running sum of small logarithms: log-gammas of d/2 would cancel badly.
    """
    nu = d / 2 - 1
    peak = 0.5 * kappa * (kappa / (nu + math.hypot(nu, kappa)))  # the largest term, where k(k + ν) = κ²/4
    k = np.arange(1, peak + 10 * math.sqrt(peak) + 40)  # w falls off like a Poisson distribution or faster: e^-50 is left out
    log_w = np.concatenate(([0.0], np.cumsum(np.log(kappa * kappa / 4 / (k * (k + nu))))))
    top = log_w.max()
    w = np.exp(log_w - top)
    return float(2 * (k @ w[1:]) / w.sum() - math.log(w.sum()) - top)


def _hankel(log_kappa: float, d: int) -> float:
    """The divergence from Hankel's expansion of I_ν, ν = d/2 - 1, for large κ; the terms linear in κ cancel exactly.

    I_ν(κ) = e^κ / sqrt(2πκ) · S, S = Σ_k s_k, s_k / s_{k-1} = ((2k - 1)² - 4ν²) / (8 k κ), and κ dS/dκ = -Σ_k k s_k.
    """
    nu = d / 2 - 1
    k = np.arange(1, 16)
    s = np.cumprod(((2 * k - 1) ** 2 - 4 * nu * nu) / (8 * k) * math.exp(-log_kappa))
    total = 1 + s.sum()
    gaussian = (nu + 0.5) * (log_kappa - 1) + 0.5 * math.log(2 * math.pi) - nu * math.log(2) - math.lgamma(nu + 1)
    return float(gaussian - (k @ s) / total - math.log(total))
