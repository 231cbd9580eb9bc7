"""Figures of results, one function a question: ``plot(result, *, ax=None)`` returns the matplotlib axes it drew on."""

from tl_entropy.plots.heads.maps import heads
from tl_entropy.plots.information.soft import information
from tl_entropy.plots.lens.figures import heatmap, profile
from tl_entropy.plots.lens.jacobian import jacobian
from tl_entropy.plots.lens.plane import lens_plane
from tl_entropy.plots.lens.predictions import decisions, divergences, targets
from tl_entropy.plots.lens.settling import settling
from tl_entropy.plots.models.comparison import comparison
from tl_entropy.plots.models.course import course
from tl_entropy.plots.models.differences import contrast, contrast_map
from tl_entropy.plots.models.memory_sweep import memory_sweep
from tl_entropy.plots.models.monitor import monitor
from tl_entropy.plots.models.neurons import neurons
from tl_entropy.plots.models.placebo import placebo
from tl_entropy.plots.models.sensitivity import sensitivity
from tl_entropy.plots.plane import information_plane
from tl_entropy.plots.profiles.distances import clusters, distances
from tl_entropy.plots.profiles.dynamics import importance, velocity
from tl_entropy.plots.states.geometry import geometry
from tl_entropy.plots.states.similarity import similarity
from tl_entropy.plots.tokens.by_layer import by_layer
from tl_entropy.plots.tokens.calibration import calibration
from tl_entropy.plots.tokens.correlation import token_correlation
from tl_entropy.plots.tokens.discrimination import discrimination
from tl_entropy.plots.tokens.features import features
from tl_entropy.plots.tokens.page import TokenPage, tokens
from tl_entropy.plots.tokens.reliance import reliance
from tl_entropy.plots.tokens.text import token_text
from tl_entropy.plots.tokens.words import words

__all__ = [
    "TokenPage",
    "by_layer",
    "calibration",
    "clusters",
    "comparison",
    "contrast",
    "contrast_map",
    "course",
    "decisions",
    "discrimination",
    "distances",
    "divergences",
    "features",
    "geometry",
    "heads",
    "heatmap",
    "importance",
    "information",
    "information_plane",
    "jacobian",
    "lens_plane",
    "memory_sweep",
    "monitor",
    "neurons",
    "placebo",
    "profile",
    "reliance",
    "sensitivity",
    "settling",
    "similarity",
    "targets",
    "token_correlation",
    "token_text",
    "tokens",
    "velocity",
    "words",
]
