"""Frozen results: labelled axes, unit, origin; save, load and tables."""

from tl_entropy.results.base import Provenance, Result, Unit, load
from tl_entropy.results.contrast import Contrast
from tl_entropy.results.divergence import DivergenceSummary, LayerDivergence
from tl_entropy.results.heads import HeadEntropy, HeadSummary
from tl_entropy.results.lens import LensEntropy, LensSummary
from tl_entropy.results.soft import SoftInformation

__all__ = [
    "Contrast",
    "DivergenceSummary",
    "HeadEntropy",
    "HeadSummary",
    "LayerDivergence",
    "LensEntropy",
    "LensSummary",
    "Provenance",
    "Result",
    "SoftInformation",
    "Unit",
    "load",
]
