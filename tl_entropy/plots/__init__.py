"""Figures of results, one function a question: ``plot(result, *, ax=None)`` returns the matplotlib axes it drew on."""

from tl_entropy.plots.figures import heatmap, profile

__all__ = ["heatmap", "profile"]
