"""Figures of results, one function a question: ``plot(result, *, ax=None)`` returns the matplotlib axes it drew on."""

from tl_entropy.plots.differences import contrast, contrast_map
from tl_entropy.plots.dynamics import importance, velocity
from tl_entropy.plots.figures import heatmap, profile
from tl_entropy.plots.head_maps import heads
from tl_entropy.plots.layer_geometry import geometry
from tl_entropy.plots.layer_similarity import similarity
from tl_entropy.plots.model_comparison import comparison
from tl_entropy.plots.monitor import monitor
from tl_entropy.plots.plane import information_plane
from tl_entropy.plots.predictions import decisions, divergences, targets
from tl_entropy.plots.profile_distances import clusters, distances
from tl_entropy.plots.reliance import reliance
from tl_entropy.plots.soft import information
from tl_entropy.plots.token_correlation import token_correlation
from tl_entropy.plots.token_page import TokenPage, tokens
from tl_entropy.plots.token_text import token_text
from tl_entropy.plots.training import course

__all__ = [
    "TokenPage",
    "clusters",
    "comparison",
    "contrast",
    "contrast_map",
    "course",
    "decisions",
    "distances",
    "divergences",
    "geometry",
    "heads",
    "heatmap",
    "importance",
    "information",
    "information_plane",
    "monitor",
    "profile",
    "reliance",
    "similarity",
    "targets",
    "token_correlation",
    "token_text",
    "tokens",
    "velocity",
]
