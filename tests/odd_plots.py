"""A call that is right of every plot, and values that are odd in the place of any of its arguments."""

from __future__ import annotations

import math

import gallery as g
import numpy as np
import torch
from hand_made import similarities, surprisal

from tl_entropy.analyses.profiles.embedding import profile_embedding
from tl_entropy.results.models.placebo import Placebo

PLOTS = {
    "profile": lambda: ((g.lens(2, 5),), {}),
    "heatmap": lambda: ((g.lens(2, 5),), {"document": 0}),
    "lens_plane": lambda: ((g.lens(2, 5, high=False),), {}),
    "divergences": lambda: ((g.divergence(2, 5),), {}),
    "decisions": lambda: ((g.divergence(2, 5),), {}),
    "settling": lambda: ((g.divergence(2, 5),), {}),
    "jacobian": lambda: ((g.jacobian_lens(2), g.jacobian_lens(2, 1)), {}),
    "by_layer": lambda: ((g.site_values(2, 5, 0),), {}),
    "calibration": lambda: ((g.calibrated(5),), {}),
    "targets": lambda: ((g.divergence(2, 5),), {"document": 0, "position": -1}),
    "information": lambda: ((g.soft(2),), {}),
    "information_plane": lambda: ((g.soft(2),), dict(g.PLANE)),
    "course": lambda: (({0: g.soft(2, 0), 9: g.soft(2, 1)},), {"label": "token"}),
    "heads": lambda: ((g.head_entropy(2, 5),), {}),
    "contrast": lambda: ((g.changed(2, 5),), {"quantity": "entropy"}),
    "contrast_map": lambda: ((g.changed(2, 5),), {"quantity": "entropy", "document": 0}),
    "placebo": lambda: ((Placebo(g.draw(3, 6, 8), ("edit",) * 6, 0, g.origin("m")),), {}),
    "sensitivity": lambda: ((g.changes(2, 2),), {}),
    "memory_sweep": lambda: ((g.swept(2),), {}),
    "neurons": lambda: ((g.neuron_effects(2),), {}),
    "velocity": lambda: ((g.dynamics(2, 5),), {}),
    "importance": lambda: ((g.dynamics(2, 5),), {}),
    "similarity": lambda: ((similarities(2, 2, against="output", model="m"),), {}),
    "geometry": lambda: ((g.geometry(2),), {"measure": "curvature"}),
    "distances": lambda: ((g.distances(5, 2, 2),), {}),
    "clusters": lambda: ((profile_embedding(g.distances(5, 2, 2)),), {}),
    "comparison": lambda: ((g.comparison(2, 5, 2),), {}),
    "monitor": lambda: ((g.history(2),), {}),
    "token_text": lambda: ((surprisal(["a", "b"]),), {}),
    "tokens": lambda: ((surprisal(["a", "b"]),), {}),
    "token_correlation": lambda: ((g.correlation(5),), {}),
    "words": lambda: ((g.words(2, 5),), {}),
    "discrimination": lambda: ((g.discrimination(2),), {}),
    "features": lambda: (g.span_values(2), {}),
    "reliance": lambda: ((g.reliance(5, 2),), {}),
}  # fmt: skip

ODD = [
    None, True, 0, 1, -1, 65, 2**70, 0.5, 1e300, math.inf, math.nan, 1j, "", "x", "nats", "a$_{b", b"1", [], (), {}, {1},
    [1, 2], (2, 1), (None, 3), (0, math.nan), ["a"], ["a", "a"], object(), slice(0, 2), np.int8(1), np.array([]),
    np.array([1, 2]),
    np.array("a"), torch.tensor(1), torch.tensor([]), torch.ones(2, 2), print,
]  # fmt: skip
OTHERS = [
    g.lens(2, 5), g.soft(2), {"a": g.lens(2, 5), "b": None}, [g.lens(2, 5), g.lens(2, 5)], {1: g.geometry(2)}, [None], {"a": 5},
]  # fmt: skip
"""Results of other kinds, and several of which one is none."""
