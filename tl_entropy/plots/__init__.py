"""Figures of results, one function a question: ``plot(result, *, ax=None)`` returns the matplotlib axes it drew on."""

from tl_entropy.plots.figures import heatmap, profile
from tl_entropy.plots.plane import information_plane
from tl_entropy.plots.soft import heads, information
from tl_entropy.plots.training import course

__all__ = ["course", "heads", "heatmap", "information", "information_plane", "profile"]
