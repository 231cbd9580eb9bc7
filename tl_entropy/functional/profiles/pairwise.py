"""All pairs of many entropy profiles at once: the distances of `curves`, a profile against many others at a time.

Curves are mapped once to points (the values, √p, or square-root velocities), between which the distance is Euclidean or
the angle of a chord. Samples are sorted once; Wasserstein-1 needs no more than that, and for a histogram of a pair's own range
the edges are looked up in the sorted values. Beyond the profiles and the result it takes memory for a dozen blocks of 2 MB
each, or as large as the longest profile.

Refused: what the functions in `curves` refuse, no profiles, profiles of different depths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_choice, check_int, listed
from tl_entropy.functional.profiles.curves import chord_angle, root_density, square_root_velocity
from tl_entropy.functional.profiles.samples import check_values, inner_edges, jsd_terms, pooled_limits, sorted_distance
from tl_entropy.torch_state import steady

CurveMetric = Literal["euclidean", "fisher_rao", "srvf"]
SampleMetric = Literal["wasserstein", "jsd"]

# Values worked on at once: 2 MB in float64 for each of the handful of temporaries, which caches hold.
_CHUNK = 2**18


@steady
def pairwise_curves(curves: Tensor, metric: CurveMetric) -> Tensor:
    """Return the distances between all pairs of curves.

    Args:
        curves: [profile, depth], any floating-point dtype.
        metric: "euclidean", the root of the mean over depth of squared differences; "fisher_rao", as by
            `curve_fisher_rao_distance`; "srvf", as by `srvf_distance`.

    Returns:
        float64 [profile, profile], symmetric with a diagonal of 0: in the unit of the curves, in radians from 0 to π/2, or in
        the square root of the unit.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: an unknown metric, another shape, no profiles, or curves that the metric's function refuses.
        InputTypeError: not a floating-point tensor.

    >>> pairwise_curves(torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 3.0, 3.0, 3.0]]), "euclidean").tolist()
    [[0.0, 3.0], [3.0, 0.0]]
    """
    check_choice("metric", metric, get_args(CurveMetric))
    curves = check_values("curves", curves, axis="layer", least=2 if metric == "srvf" else 1)
    if curves.dim() != 2 or not len(curves):
        raise InputError(f"curves must be [profile, depth] with at least one profile; got the shape {list(curves.shape)}")
    if metric == "euclidean":
        return _euclidean(curves) / math.sqrt(curves.shape[1])
    if metric == "fisher_rao":
        return chord_angle(_euclidean(root_density("curves", curves)))
    return _euclidean(square_root_velocity(curves))


@steady
def pairwise_samples(profiles: Sequence[Tensor], metric: SampleMetric, *, n_bins: int = 50) -> Tensor:
    """Return the distances between the values of all pairs of profiles, layer by layer.

    Args:
        profiles: of each, E [token, depth], any floating-point dtype; the numbers of tokens may differ, the depth not.
        metric: "wasserstein", as by `wasserstein_distance`; "jsd", as by `histogram_jsd` between each pair's own limits.
        n_bins: number of bins for "jsd".

    Returns:
        float64 [profile, profile, depth], symmetric in the first two axes with a diagonal of 0: in the unit of the values, or
        in nats from 0 to log 2.

    Raises:
        NonFiniteError: a NaN or an infinity; the first place is named.
        InputError: an unknown metric, no profiles, one without tokens, different depths, or a wrong ``n_bins``.
        InputTypeError: profiles that are not floating-point tensors.

    >>> pairwise_samples([torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [1.0], [2.0]])], "wasserstein")[0, 1].item()
    1.5
    """
    check_choice("metric", metric, get_args(SampleMetric))
    n_bins = check_int("n_bins", n_bins, 1)
    values = _sorted_values(profiles)
    order = sorted(range(len(values)), key=lambda number: values[number].shape[-1])  # so that little has to be filled up
    distances = values[0].new_zeros(len(values), len(values), len(values[0]))
    for block in _blocks([values[number].shape[-1] for number in order], len(values[0]), n_bins):
        many, sizes = _filled_up([values[number] for number in order[block.start : block.stop]])
        for place, number in enumerate(order[: block.stop - 1]):
            later = slice(max(place + 1 - block.start, 0), None)
            if metric == "wasserstein":
                found = sorted_distance(values[number], many[later], sizes[later])
            else:
                found = _sorted_jsd(values[number], many[later], sizes[later], n_bins)
            others = order[block.start : block.stop][later]
            distances[number, others] = distances[others, number] = found
    return distances


def _euclidean(points: Tensor) -> Tensor:
    # Not by products: x² + y² - 2·x·y loses half the digits of small distances, and their sums need not be symmetric.
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def _sorted_values(profiles: Sequence[Tensor]) -> list[Tensor]:
    """Return the values of each profile [depth, token], sorted, or refuse the profiles."""
    values: list[Tensor] = []
    for number, profile in enumerate(listed("profiles", profiles, "tensors [token, depth]")):
        name = f"profiles[{number}]"
        checked = check_values(name, profile, axis="layer")
        if checked.dim() != 2 or not len(checked):
            raise InputError(f"{name} must be [token, depth] with at least one token; got the shape {list(profile.shape)}")
        if values and len(values[0]) != checked.shape[1]:
            raise InputError(
                f"profiles must have the same depth; got {len(values[0])} and, for {name}, {checked.shape[1]}: use common_depth"
            )
        values.append(checked.T.sort(-1).values)
    if not values:
        raise InputError("profiles must hold at least one profile; got none")
    return values


def _blocks(sizes: list[int], depth: int, n_bins: int) -> Iterator[range]:
    """Cut profiles with these rising numbers of values into blocks to be worked on at once."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or (stop + 1 - start) * depth * max(sizes[stop], n_bins) > _CHUNK:
            yield range(start, stop)
            start = stop


def _filled_up(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return values [depth, token] as one [profile, depth, token], infinity behind the last, and their numbers [profile, 1]."""
    sizes = [one.shape[-1] for one in values]
    filled = [torch.nn.functional.pad(one, (0, max(sizes) - one.shape[-1]), value=math.inf) for one in values]
    return torch.stack(filled), torch.tensor(sizes, device=values[0].device)[:, None]


def _sorted_jsd(one: Tensor, many: Tensor, sizes: Tensor, n_bins: int) -> Tensor:
    """Return `histogram_jsd` [other, depth] of sorted values [depth, token] and others [other, depth, token], filled up."""
    largest = many.gather(-1, (sizes - 1)[..., None].expand(-1, len(one), 1))[..., 0]
    low, high = pooled_limits(one[:, 0].minimum(many[..., 0]), one[:, -1].maximum(largest))
    edges = inner_edges(low, high, n_bins)
    p = _sorted_shares(one.expand(len(many), -1, -1).contiguous(), edges, torch.full_like(sizes, one.shape[-1]))
    return jsd_terms(p, _sorted_shares(many, edges, sizes)).sum(-1).clamp(0.0, math.log(2))


def _sorted_shares(values: Tensor, edges: Tensor, sizes: Tensor) -> Tensor:
    """Return the share of sorted values in each bin [other, depth, n_bins]: the bins of `bin_numbers`, an edge at a time."""
    below = torch.searchsorted(values, edges)
    total = sizes[..., None].expand(*below.shape[:-1], 1)
    return torch.cat([below, total], -1).diff(dim=-1, prepend=torch.zeros_like(total)) / total.double()
