"""Depth as an axis: which places form a line through the model, how deep each is, and where the ticks are.

Depth is counted in blocks: l is the residual stream after block l, and sites inside that block lie between l - 1 and l.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tl_entropy.plots.style import subset
from tl_entropy.sites import Site

# How far before the end of its block a site stands, in blocks; resid_pre is the end of the block before.
BEFORE_END = {"embed": 0.0, "resid_pre": 1.0, "attn_out": 0.75, "resid_mid": 0.5, "mlp_out": 0.25, "resid_post": 0.0}


def depth_lines(places: Iterable[tuple[int, Site]], asked: Any) -> dict[str, tuple[list[int], np.ndarray]]:
    """For each site name asked for (None is all) its places, in order of depth, and their depths.

    The residual stream begins at the embedding, which stands alone where nothing else of the stream is asked for.

    >>> depth_lines(enumerate([Site("embed", -1), Site("resid_mid", 0)]), None)
    {'resid_mid': ([0, 1], array([-1. , -0.5]))}
    """
    there = list(places)
    names = subset("sites", asked, dict.fromkeys(site.name for _, site in there))
    stream = next((name for name in ("resid_post", "resid_mid", "resid_pre") if name in names), "embed")
    found: dict[str, list[tuple[float, int]]] = {}
    for place, site in there:
        if site.name in names:
            line = found.setdefault(stream if site.name == "embed" else site.name, [])
            line.append((site.layer - BEFORE_END[site.name], place))
    ordered = {name: sorted(line) for name, line in found.items()}
    return {name: ([place for _, place in line], np.array([depth for depth, _ in line])) for name, line in ordered.items()}


def depth_ticks(depths: Sequence[np.ndarray]) -> tuple[list[int], list[str]]:
    """A tick at the end of every block, or of every k-th where they would collide, and one at the embedding."""
    first = math.floor(min(depth.min() for depth in depths))
    last = math.ceil(max(depth.max() for depth in depths))
    step = max(1, math.ceil((last + 1 - max(first, 0)) / 12))
    blocks = [layer for layer in range(0, last + 1, step) if layer >= first and (step == 1 or first >= 0 or layer > 0)]
    return ([-1, *blocks], ["embed", *map(str, blocks)]) if first < 0 else (blocks, [str(layer) for layer in blocks])
