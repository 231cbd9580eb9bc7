"""Frozen results: labelled axes, unit, origin; save, load and tables."""

from tl_entropy.results.base import Provenance, Result, Unit, load
from tl_entropy.results.conditional import ConditionalEntropy
from tl_entropy.results.contrast import Contrast
from tl_entropy.results.distances import PairwiseDistances, ProfileDistance, ProfileEmbedding
from tl_entropy.results.divergence import DivergenceSummary, LayerDivergence
from tl_entropy.results.dynamics import LayerDynamics
from tl_entropy.results.geometry import LayerGeometry
from tl_entropy.results.heads import HeadEntropy, HeadSummary
from tl_entropy.results.lens import LensEntropy, LensSummary
from tl_entropy.results.monitor import EntropyHistory
from tl_entropy.results.reliance import TokenReliance
from tl_entropy.results.similarity import LayerSimilarity
from tl_entropy.results.soft import SoftInformation
from tl_entropy.results.surprisal import SurprisalSummary, TokenSurprisal
from tl_entropy.results.token_correlation import AlignedValues, TokenCorrelation

__all__ = [
    "AlignedValues",
    "ConditionalEntropy",
    "Contrast",
    "DivergenceSummary",
    "EntropyHistory",
    "HeadEntropy",
    "HeadSummary",
    "LayerDivergence",
    "LayerDynamics",
    "LayerGeometry",
    "LayerSimilarity",
    "LensEntropy",
    "LensSummary",
    "PairwiseDistances",
    "ProfileDistance",
    "ProfileEmbedding",
    "Provenance",
    "Result",
    "SoftInformation",
    "SurprisalSummary",
    "TokenCorrelation",
    "TokenReliance",
    "TokenSurprisal",
    "Unit",
    "load",
]
