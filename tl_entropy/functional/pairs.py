"""Sums over one tile of two distributions' logits, and how the sums of all tiles become divergences.

r is the reference and p what is compared with it; a tile's maximum is m, z = l - m, e = exp(z) and s = Σ e, for each of the
two. One pass keeps, with d = z_r - z_p,

    D = Σ e_r·d        E = Σ e_p·d        C = Σ (√e_p - √e_r)²

With log normalisers Z, the tiles' masses P and R (P = e^(m_p - Z_p)·s_p) and μ = m_r - m_p, in float64:

    KL(r ‖ p) = Σ_t R·(D / s_r + μ) - (Z_r - Z_p)        KL(p ‖ r) = (Z_r - Z_p) - Σ_t P·(E / s_p + μ)
    Σ (√p - √r)² = Σ_t (√P - √R)² + √(P·R)·h,            h = (C - (√s_p - √s_r)²) / √(s_p·s_r)
    Fisher-Rao = 4·arcsin(½·√Σ (√p - √r)²)

Since s, e and d all come from the same rounded z, that rounding only moves p and r a little, and is of second order where they
are close. h is a tile's squared chord between its conditional distributions. A Bhattacharyya coefficient Σ √(p·r) near 1 would
lose the digits of a small distance; a chord keeps them.

Jensen-Shannon and total variation mix p and r token by token and so need Z first: a second pass over the logits. With
x = |log p - log r|, u = e^-x - 1 and g = log(1 + u / 2), their terms are

    JS: ½·max(p, r)·(-x·(1 + u) - 2·g·(1 + u / 2))        TV: ½·max(p, r)·(-u)

which are what ``divergences.py`` defines, without a difference of logarithms that are nearly equal.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tl_entropy.functional.probabilities import natural_exp

Reference = int | Literal["previous"]


def pair_up(values: Tensor, reference: Reference, axis: int = 0) -> tuple[Tensor, Tensor]:
    """Return views of the references and of what is compared with them, of sizes on ``axis`` that broadcast.

    >>> [part.tolist() for part in pair_up(torch.tensor([5, 6, 7]), "previous")]
    [[5, 6], [6, 7]]
    >>> [part.tolist() for part in pair_up(torch.tensor([5, 6, 7]), -1)]
    [[7], [5, 6, 7]]
    """
    if reference == "previous":
        pairs = values.shape[axis] - 1
        return values.narrow(axis, 0, pairs), values.narrow(axis, 1, pairs)
    return values.select(axis, reference).unsqueeze(axis), values


def pair_sums(logits: Tensor, maximum: Tensor, *, reference: Reference, buffers: Tensor | None = None) -> Tensor:
    """Return D, E and C of one tile.

    Args:
        logits: [site, row, width] in float32 or float64, without -inf; left as they are.
        maximum: [site, row], of each row of the tile.
        reference: the site that all are compared with, or "previous".
        buffers: [3, at least as many numbers as there are logits] to work in.

    Returns:
        [3, pair, row] in the dtype of the logits.
    """
    z = torch.sub(logits, maximum[..., None], out=_view(buffers, 0, logits.shape))
    reference_z, site_z = pair_up(z, reference)
    pairs = site_z.shape
    d = torch.sub(reference_z, site_z, out=_view(buffers, 1, pairs))
    reference_root, site_root = pair_up(natural_exp(z, 0.5, z), reference)
    forward = torch.mul(d, reference_root, out=_view(buffers, 2, pairs)).mul_(reference_root).sum(-1)
    backward = torch.mul(d, site_root, out=_view(buffers, 2, pairs)).mul_(site_root).sum(-1)
    chord = torch.sub(site_root, reference_root, out=_view(buffers, 1, pairs))
    return torch.stack([forward, backward, chord.square_().sum(-1)])


def mixture_sums(
    logits: Tensor, maximum: Tensor, log_total: Tensor, *, reference: Reference, buffers: Tensor | None = None
) -> Tensor:
    """Return the sums of one tile that make up Jensen-Shannon, in nats, and total variation.

    Args:
        logits: [site, row, width] in float32 or float64, without -inf; with ``buffers``, they are written over.
        maximum: [site, row], over all tiles.
        log_total: [site, row], the log normaliser less the maximum: apart, they keep the digits of large logits.
        reference: the site that all are compared with, or "previous".
        buffers: [3, at least as many numbers as there are logits] to work in.

    Returns:
        [2, pair, row] in the dtype of the logits.
    """
    log_p = torch.sub(logits, maximum[..., None], out=None if buffers is None else logits).sub_(log_total[..., None])
    reference_log_p, site_log_p = pair_up(log_p, reference)
    shape = site_log_p.shape
    minus_x = torch.sub(site_log_p, reference_log_p, out=_view(buffers, 0, shape)).abs_().neg_()
    larger = torch.maximum(site_log_p, reference_log_p, out=_view(buffers, 1, shape))
    larger = natural_exp(larger, out=larger)
    half_u = torch.expm1(minus_x, out=_view(buffers, 2, shape)).mul_(0.5)
    g = torch.log1p(half_u, out=None if buffers is None else logits[: shape[0]])
    g = g.addcmul_(half_u, g)
    js = minus_x.addcmul_(half_u, minus_x, value=2).sub_(g, alpha=2).mul_(larger).sum(-1) / 2
    return torch.stack([js, -half_u.mul_(larger).sum(-1)])


def combine_pairs(
    sums: Tensor, maximum: Tensor, total: Tensor, log_normalizer: Tensor, reference: Reference
) -> dict[str, Tensor]:
    """Return each divergence [pair, row] of one pass.

    Args:
        sums: [tiles, 3, pair, row], of `pair_sums`, in float64 as all that follow.
        maximum: [tiles, site, row].
        total: [tiles, site, row], s.
        log_normalizer: [site, row], Z.
        reference: as for the sums.
    """
    forward, backward, chord = sums.unbind(1)
    mass = (maximum + total.log() - log_normalizer).exp()
    reference_mass, site_mass = pair_up(mass, reference, 1)
    reference_total, site_total = pair_up(total, reference, 1)
    reference_z, site_z = pair_up(log_normalizer, reference)
    log_ratio = reference_z - site_z
    reference_maximum, site_maximum = pair_up(maximum, reference, 1)
    apart = reference_maximum - site_maximum
    geometric = (reference_total * site_total).sqrt()
    conditional = ((chord - (site_total.sqrt() - reference_total.sqrt()).square()) / geometric).clamp(min=0.0)
    between = (site_mass.sqrt() - reference_mass.sqrt()).square() + (site_mass * reference_mass).sqrt() * conditional
    return {
        "kl": ((reference_mass * (forward / reference_total + apart)).sum(0) - log_ratio).clamp(min=0.0),
        "reverse_kl": (log_ratio - (site_mass * (backward / site_total + apart)).sum(0)).clamp(min=0.0),
        "fisher_rao": (4 * torch.asin((between.sum(0).sqrt() / 2).clamp(max=1.0))).clamp(max=math.pi),
    }


def _view(buffers: Tensor | None, index: int, shape: torch.Size) -> Tensor | None:
    return None if buffers is None else buffers[index, : math.prod(shape)].view(shape)
