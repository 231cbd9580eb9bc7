"""Frozen results: labelled axes, unit, origin; save, load and tables."""

from tl_entropy.results.base import Result, Unit
from tl_entropy.results.heads.entropy import HeadEntropy, HeadSummary
from tl_entropy.results.information.soft import SoftInformation
from tl_entropy.results.lens.divergence import DivergenceSummary, LayerDivergence
from tl_entropy.results.lens.entropy import LensEntropy, LensSummary
from tl_entropy.results.loading import load
from tl_entropy.results.models.comparison import ModelComparison
from tl_entropy.results.models.contrast import Contrast
from tl_entropy.results.models.memory_sweep import MemorySweep
from tl_entropy.results.models.monitor import EntropyHistory
from tl_entropy.results.models.neurons import NeuronEffects
from tl_entropy.results.models.placebo import Placebo
from tl_entropy.results.models.run import RunResults
from tl_entropy.results.models.sensitivity import Sensitivity
from tl_entropy.results.profiles.distances import PairwiseDistances, ProfileDistance
from tl_entropy.results.profiles.dynamics import LayerDynamics
from tl_entropy.results.profiles.embedding import ProfileEmbedding
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.geometry import LayerGeometry
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.results.tokens.calibration import EntropyCalibration
from tl_entropy.results.tokens.conditional import ConditionalEntropy
from tl_entropy.results.tokens.correlation import AlignedValues, TokenCorrelation
from tl_entropy.results.tokens.features import Discrimination, SpanFeatures
from tl_entropy.results.tokens.reliance import TokenReliance
from tl_entropy.results.tokens.site_values import Confidence, SiteMeans, UnigramDistance
from tl_entropy.results.tokens.stimuli import Stimuli
from tl_entropy.results.tokens.surprisal import SurprisalSummary, TokenSurprisal
from tl_entropy.results.tokens.words import WordSurprisal

__all__ = [
    "AlignedValues",
    "ConditionalEntropy",
    "Confidence",
    "Contrast",
    "Discrimination",
    "DivergenceSummary",
    "EntropyCalibration",
    "EntropyHistory",
    "HeadEntropy",
    "HeadSummary",
    "LayerDivergence",
    "LayerDynamics",
    "LayerGeometry",
    "LayerSimilarity",
    "LensEntropy",
    "LensSummary",
    "MemorySweep",
    "ModelComparison",
    "NeuronEffects",
    "PairwiseDistances",
    "Placebo",
    "ProfileDistance",
    "ProfileEmbedding",
    "Provenance",
    "Result",
    "RunResults",
    "Sensitivity",
    "SiteMeans",
    "SoftInformation",
    "SpanFeatures",
    "Stimuli",
    "SurprisalSummary",
    "TokenCorrelation",
    "TokenReliance",
    "TokenSurprisal",
    "UnigramDistance",
    "Unit",
    "WordSurprisal",
    "load",
]
