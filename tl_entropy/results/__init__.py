"""Frozen results: labelled axes, unit, origin; save, load and tables."""

from tl_entropy.results.base import Provenance, Result, Unit, load
from tl_entropy.results.lens import LensEntropy, LensSummary
from tl_entropy.results.soft import SoftInformation

__all__ = ["LensEntropy", "LensSummary", "Provenance", "Result", "SoftInformation", "Unit", "load"]
