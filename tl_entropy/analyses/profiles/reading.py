"""Entropy profiles out of lens entropies: their orders, the states of the residual stream in order of depth, float64 nats.

Refused: sites that are no states of the residual stream, fewer than two of them, no tokens, entropies that are not finite,
different orders, and sites that differ between profiles and are not evenly spaced, since these are compared by relative depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice, check_order
from tl_entropy.results import LensEntropy
from tl_entropy.results.base import PER_NAT
from tl_entropy.results.lens.settling import STREAM_SITES
from tl_entropy.sites import Site


def read_profiles(results: Mapping[str, Any], orders: Sequence[float | None]) -> tuple[list[Tensor], tuple[float, ...]]:
    """The profiles [order, token, depth] of lens entropies, float64 nats in order of depth, and the orders that they share.

    Args:
        results: the lens entropies, each under the name that an error calls it by.
        orders: the Rényi orders; None stands for the only one, or 1.

    Raises:
        InputError: as the module says.
        NonFiniteError: an entropy that is not finite; the profile, site, document and position are named.
        InputTypeError: something that is no ``LensEntropy``, or an order that is no number.
    """
    for name, result in results.items():
        if not isinstance(result, LensEntropy):
            raise InputTypeError(f"{name} must be a LensEntropy, which holds every position; got {type(result).__name__}")
        other = [str(site) for site in result.sites if site.name not in STREAM_SITES]
        if other:
            raise InputError(
                f"{name}: {other[0]} is no state of the residual stream; take these alone with result.select(sites=...), from "
                f"{', '.join(sorted(STREAM_SITES))}"
            )
        if len(result.sites) < 2 or not result.n_tokens:
            raise InputError(f"{name} must have two sites or more, and tokens; got {len(result.sites)} and {result.n_tokens}")
    chosen = {tuple(one_order(name, result, order) for order in orders) for name, result in results.items()}
    if len(chosen) > 1:
        raise InputError(
            f"order: the results are of orders {', '.join(f'{o:g}' for o, *_ in sorted(chosen))}; choose one they share"
        )
    shared = chosen.pop() if chosen else (1.0,)
    stream = {name: sorted(result.sites, key=lambda site: site.depth) for name, result in results.items()}
    _check_spacing(stream)
    profiles = []
    for name, result in results.items():
        columns = [result.sites.index(site) for site in stream[name]]
        values = torch.stack([result.entropy[:, columns, result.orders.index(one)] for one in shared])
        for of_order in values:
            _check_finite(name, result, stream[name], of_order)
        profiles.append(values.double() / PER_NAT[result.unit])
    return profiles, shared


def one_order(name: str, result: LensEntropy, order: object) -> float:
    """The Rényi order asked for, one real number; for None the only one that the lens entropy called ``name`` has, or 1.

    Raises:
        InputError: an order that was not measured, or none asked for where there are several and 1 is not among them.
        InputTypeError: something else than one number.
    """
    if order is None and len(result.orders) > 1 and 1.0 not in result.orders:
        raise InputError(f"order: choose one of {', '.join(f'{o:g}' for o in result.orders)}, which {name} has")
    if order is None:
        return 1.0 if 1.0 in result.orders else result.orders[0]
    chosen = check_order("order", order)
    check_choice(f"order (of {name})", chosen, result.orders)
    return chosen


def check_shapes(profiles: Mapping[str, Tensor]) -> None:
    """Raise InputError where the mean curve of a profile [token, depth] is no distribution over depth, being 0 or below.

    Args:
        profiles: under the names that an error calls them by.
    """
    for name, profile in profiles.items():
        curve = profile.mean(0)
        if (curve < 0).any() or not curve.any():
            raise InputError(
                f"{name}: Fisher-Rao compares mean curves as distributions over depth, and this one is from {curve.min():g} to "
                f"{curve.max():g}; it must be at least 0 and not 0 everywhere: leave it out, or take metric='euclidean'"
            )


def _check_finite(name: str, result: LensEntropy, sites: Sequence[Site], values: Tensor) -> None:
    """Raise NonFiniteError for the first of ``values`` [token, site] that is not finite."""
    broken = (~values.isfinite()).nonzero()
    if len(broken):
        row, column = broken[0].tolist()
        document, position = int(result.document[row]), int(result.position[row])
        raise NonFiniteError(
            f"{name}: the entropy must be finite; got {values[row, column].item()} at {sites[column]}, position {position} of "
            f"{result.names.get(document, f'document {document}')} (and {len(broken) - 1} more): "
            "leave such tokens out, or look where they come from"
        )


def _check_spacing(sites: Mapping[str, Sequence[Site]]) -> None:
    """Raise InputError where sites that differ between profiles cannot be told to stand at even depths."""
    if len(set(map(tuple, sites.values()))) < 2:
        return
    kinds = {name: tuple(dict.fromkeys(site.name for site in places)) for name, places in sites.items()}
    (first, mine), *others = kinds.items()
    for name, theirs in others:
        if set(theirs) != set(mine):
            raise InputError(
                f"{first} has sites {', '.join(mine)} and {name} {', '.join(theirs)}; measure or select(sites=...) both alike"
            )
    for name, places in sites.items():
        layers = sorted({site.layer for site in places})
        if len({after - before for before, after in pairwise(layers)}) > 1:
            raise InputError(
                f"{name} has layers {', '.join(map(str, layers))}, which are not evenly spaced (embed is -1), and sites differ "
                "between the profiles; select(layers=...) at even steps"
            )
