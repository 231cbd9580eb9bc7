"""What two samples of one law would show: the expectation of a distance when the values are dealt anew, exactly.

Two samples of the same law are never at a distance of 0, and the fewer values, the farther apart they look. Under the
hypothesis of one law every deal of the pooled values into samples of these sizes is as likely as the one that came. The mean
over all of them is a permutation test's centre, and both distances have it in closed form, without simulation:

    W1   the gaps between neighbouring pooled values, times E|k / n - (r - k) / m|, with k of the r values below in the first
    JSD  the sum over bins of E f(k, N_b - k), with k of the bin's N_b values in the first

where k is hypergeometric. Paired samples, as one token's values at two layers, are exchanged within pairs instead: k is then
binomial. This is the chance of samples of independent values (or pairs); values that move together leave more to it.

Refused: what the distances in `curves` refuse, and paired samples of different sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.lens.entropies import check_floating
from tl_entropy.functional.profiles.samples import (
    Limits,
    bin_counts,
    bin_numbers,
    check_values,
    histogram_inputs,
    jsd_terms,
    leading_shape,
)
from tl_entropy.torch_state import steady

# Terms of an expectation worked on at once: 4 MB in float64 for each of the handful of temporaries.
_CHUNK = 2**19
# What may be left out of a law's mass.
_MASS = 1e-15


@steady
def wasserstein_chance(a: Tensor, b: Tensor, *, paired: bool = False) -> Tensor:
    r"""Return the mean Wasserstein-1 distance over all ways of dealing the values of both samples anew.

    With z the N = n + m pooled values, sorted, and k ~ Hypergeometric(N, n, r) the number of the r lowest in the first sample,

        E W = Σ_r (z_{r+1} - z_r)·E|k / n - (r - k) / m|,    E|...| = N / (n·m)·E|k - μ| = 2·ν·(m - r + ν)·P(k = ν) / (n·m)

    with μ = r·n / N and ν = ⌈μ⌉: the terms of E|k - μ| telescope, as (k - μ)·P(k) = h(k)·P(k) - h(k+1)·P(k+1) for
    h(k) = k·(m - r + k) / N. Paired, with s the pairs that straddle a gap, it is E|walk of s fair steps| / n instead, which is
    2·j·C(2j, j) / 4^j / n with j = ⌈s / 2⌉.

    Args:
        a: sample [..., n], any floating-point dtype.
        b: sample [..., m]; the leading axes broadcast against those of ``a``.
        paired: whether a[..., i] and b[..., i] belong together, so that only they may be exchanged; then n = m.

    Returns:
        float64 [...], at least 0, in the unit of the values; good to 1e-9 of itself at 90,000 values.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: an empty sample, leading axes that do not broadcast, or pairs with n different from m.
        InputTypeError: not floating-point tensors.

    Source: the closed form of the mean absolute deviation is in P. Diaconis and S. Zabell, Closed form summation for classical
    distributions, 1991.

    >>> wasserstein_chance(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 3.0])).item()  # 3 in 2 of 6 deals, else 0
    1.0
    >>> wasserstein_chance(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 3.0]), paired=True).item()  # 3 in 2 of 4 exchanges
    1.5
    """
    a, b = check_values("a", a), check_values("b", b)
    lead = leading_shape(a, b)
    n, m = a.shape[-1], b.shape[-1]
    a, b = a.expand(*lead, n), b.expand(*lead, m)
    if paired:
        _check_pairs(n, m)
        pooled, order = torch.cat([a.minimum(b), a.maximum(b)], -1).sort(dim=-1)
        straddling = torch.where(order < n, 1, -1).cumsum(-1)[..., :-1]  # in any sequence of equal values: their gaps are 0
        half = ((straddling + 1) // 2).double()
        # 2·j·C(2j, j) / 4^j = 2·Γ(j + 1/2) / (√π·Γ(j)), which is 0 for j of 0 and below
        weights = 2 / math.sqrt(math.pi) * (torch.lgamma(half + 0.5) - torch.lgamma(half)).exp() / n
    else:
        pooled = torch.cat([a, b], -1).sort(-1).values
        below = torch.arange(1, n + m, device=a.device)
        up = -(-below * n // (n + m))
        log_p = _log_ways(n, up) + _log_ways(m, below - up) - _log_ways(n + m, below)
        weights = 2 * up * (m - below + up) * log_p.exp() / (n * m)
    return (pooled.diff(dim=-1) * weights).sum(-1)


@steady
def histogram_jsd_chance(
    a: Tensor, b: Tensor, *, n_bins: int = 50, limits: Limits | None = None, paired: bool = False
) -> Tensor:
    """Return the mean of `histogram_jsd` over all ways of dealing the values of both samples anew.

    With f(k, l) a bin's part of the divergence for k and l values of both samples in it, and N_b values in bin b,

        E JS = Σ_b E f(k, N_b - k),    k ~ Hypergeometric(n + m, n, N_b)

    Paired, of the pairs with both values in the bin each sample keeps one, and of the s pairs with one there the first sample
    gets Binomial(s, 1/2). Of either law a mass of less than 1e-15 is left out, by Hoeffding's inequality, which holds without
    replacement too (W. Hoeffding, Probability inequalities for sums of bounded random variables, 1963, section 6).

    Args:
        a: sample [..., n], any floating-point dtype.
        b: sample [..., m]; the leading axes broadcast against those of ``a``.
        n_bins: number of bins, as in `histogram_jsd`.
        limits: (low, high), as in `histogram_jsd`; by default those of the pair, which no deal changes.
        paired: whether a[..., i] and b[..., i] belong together, so that only they may be exchanged; then n = m.

    Returns:
        float64 nats [...], from 0 to log 2.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: what `histogram_jsd` refuses, or pairs with n different from m.
        InputTypeError: not floating-point tensors.

    >>> chance = histogram_jsd_chance(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 3.0]))
    >>> round(chance.item(), 12) == round(math.log(2) / 3, 12)  # log 2 in 2 of 6 deals, else 0
    True
    """
    a, b, edges = histogram_inputs(a, b, n_bins, limits)
    n, m = a.shape[-1], b.shape[-1]
    if paired:
        _check_pairs(n, m)
    if not a.shape[:-1].numel():
        return a.new_zeros(a.shape[:-1])  # there are no bins to take the kinds of
    bins_a, bins_b = bin_numbers(a, edges), bin_numbers(b, edges)
    counts = bin_counts(bins_a, n_bins) + bin_counts(bins_b, n_bins)
    if paired:
        together = torch.where(bins_a == bins_b, bins_a, n_bins)  # the other pairs in a bin of their own, which is dropped
        fixed = bin_counts(together, n_bins + 1)[..., :-1]
        kinds, index = torch.stack([fixed, counts - 2 * fixed], -1).flatten(0, -2).unique(dim=0, return_inverse=True)
        fixed, free = kinds.unbind(-1)
        terms = _mean_terms(fixed, free, free // 2, free, _log_ways, n, m)
    else:
        free, index = counts.unique(return_inverse=True)
        draws = free.minimum(n + m - free).clamp(max=min(n, m))  # the smallest of the equivalent ways to tell k's law

        def log_weights(free: Tensor, k: Tensor) -> Tensor:
            return _log_ways(n, k) + _log_ways(m, free - k)

        terms = _mean_terms(torch.zeros_like(free), free, free * n // (n + m), draws, log_weights, n, m)
    return terms[index.reshape(counts.shape)].sum(-1).clamp(0.0, math.log(2))


@steady
def adjusted_jsd(value: Tensor, chance: Tensor) -> Tensor:
    """Return a Jensen-Shannon divergence with chance taken out: log 2·(value - chance) / (log 2 - chance).

    Like the adjusted mutual information: 0 on average over samples of one law, log 2 for samples that share no bin, and below 0
    where samples are more alike than chance makes them.

    Args:
        value: nats [...], as of `histogram_jsd`.
        chance: nats [...], as of `histogram_jsd_chance` of the same samples; broadcasts against ``value``.

    Returns:
        float64 nats [...], at most log 2; NaN where chance is within 1e-9 of log 2, so that nothing can be told.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: a value or chance outside 0 to log 2, or shapes that do not broadcast.
        InputTypeError: not floating-point tensors.

    Source: N. Vinh, J. Epps and J. Bailey, Information theoretic measures for clusterings comparison, 2010, for the form.

    >>> half, full = torch.tensor([math.log(2) / 2, math.log(2)], dtype=torch.float64)
    >>> adjusted_jsd(half, half).item(), adjusted_jsd(full, half).item() == math.log(2)
    (0.0, True)
    """
    most = math.log(2)
    value, chance = (_check_nats(name, given) for name, given in (("value", value), ("chance", chance)))
    leading_shape(value, chance, "value and chance")
    room = most - chance
    return torch.where(room > 1e-9, most * (value - chance) / room, torch.nan).squeeze(-1)


def _mean_terms(
    fixed: Tensor, free: Tensor, centre: Tensor, draws: Tensor, log_weights: Callable[[Tensor, Tensor], Tensor], n: int, m: int
) -> Tensor:
    """Return the mean part [kind] of bins with ``fixed`` values of both samples and k of ``free`` further ones in the first.

    Args:
        fixed: [kind].
        free: [kind].
        centre: [kind], the mean of k, rounded down.
        draws: [kind], number of draws without replacement, or of fair coins, whose sum is k.
        log_weights: (free, k) -> log P(k) up to a constant, -inf where k is impossible.
        n: size of the first sample.
        m: size of the second.
    """
    reach = (draws.double() * (math.log(2 / _MASS) / 2)).sqrt().ceil().long()  # P(|k - mean| >= t) <= 2·exp(-2·t² / draws)
    steps = torch.arange(2 * int(reach.max()) + 2, device=free.device)
    terms = []
    for chunk in torch.stack([fixed, free, centre - reach]).split(max(1, _CHUNK // len(steps)), dim=1):
        both, ours, first = chunk[..., None]
        k = first + steps
        weights = log_weights(ours, k).softmax(-1)
        k = k.clamp(min=0).minimum(ours).double()  # what is impossible has no weight, but it needs a term
        terms.append((weights * jsd_terms((both + k) / n, (both + ours - k) / m)).sum(-1))
    return torch.cat(terms)


def _log_ways(n: int | Tensor, k: Tensor) -> Tensor:
    """Return log C(n, k), -inf for k below 0 or above n, where log Γ is infinite."""
    n, k = torch.as_tensor(n, dtype=torch.float64, device=k.device), k.double()
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _check_pairs(n: int, m: int) -> None:
    if n != m:
        raise InputError(f"a and b must hold as many values to be pairs; got {n} and {m}: leave paired out")


def _check_nats(name: str, given: Tensor) -> Tensor:
    check_floating(name, given)
    nats = check_values(name, given.unsqueeze(-1))
    if ((nats < -1e-12) | (nats > math.log(2) + 1e-12)).any():
        raise InputError(f"{name} must be nats from 0 to log 2; got values from {nats.min():g} to {nats.max():g}: convert bits")
    return nats
