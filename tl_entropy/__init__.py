"""tl_entropy: information measures on the insides of TransformerLens models.

    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), tle.demo_texts(1)[0][:400], progress=False)

Names are imported when they are first used, so that ``import tl_entropy`` pulls in neither torch nor matplotlib nor
transformer_lens.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_entropy import functional, plots
    from tl_entropy.analyses.divergence import DivergenceAccumulator, layer_divergence
    from tl_entropy.analyses.dynamics import layer_dynamics
    from tl_entropy.analyses.gradient_reliance import GradientRelianceAccumulator, gradient_reliance
    from tl_entropy.analyses.heads import HeadAccumulator, head_entropy
    from tl_entropy.analyses.lens import LensAccumulator, lens_entropy
    from tl_entropy.analyses.models import compare_models
    from tl_entropy.analyses.monitor import EntropyMonitor
    from tl_entropy.analyses.profiles.distances import pairwise_distances, profile_distance
    from tl_entropy.analyses.profiles.embedding import profile_embedding
    from tl_entropy.analyses.reliance import RelianceAccumulator, token_reliance
    from tl_entropy.analyses.sequence_loss import conditional_entropy
    from tl_entropy.analyses.soft import label_plan, soft_information
    from tl_entropy.analyses.soft_sums import SoftAccumulator
    from tl_entropy.analyses.states.cka import CKAAccumulator
    from tl_entropy.analyses.states.geometry import GeometryAccumulator, layer_geometry
    from tl_entropy.analyses.states.matrix_similarity import MatrixAccumulator
    from tl_entropy.analyses.states.similarity import layer_similarity
    from tl_entropy.analyses.surprisal import SurprisalAccumulator, token_surprisal
    from tl_entropy.analyses.token_alignment import align_tokens, token_correlation
    from tl_entropy.capture.adapter import Adapter
    from tl_entropy.capture.head_means import head_means, site_means
    from tl_entropy.capture.interventions import Intervention, ablate, ablate_heads, steer
    from tl_entropy.capture.loading import load_model
    from tl_entropy.capture.occlusion import mask_attention, occlude
    from tl_entropy.capture.positions import AtPositions
    from tl_entropy.capture.stream import StreamReport, stream
    from tl_entropy.demo import demo_lens, demo_model, demo_names, demo_texts
    from tl_entropy.errors import FileError, InputError, InputTypeError, ModelError, NonFiniteError, TLEntropyError
    from tl_entropy.labels import LabelPlan, ngram
    from tl_entropy.lenses.files import load_tuned_lens
    from tl_entropy.lenses.training import train_tuned_lens
    from tl_entropy.lenses.tuned import TunedLens
    from tl_entropy.results import LensEntropy, LensSummary, Provenance, SoftInformation, load
    from tl_entropy.results.comparison import ModelComparison
    from tl_entropy.results.conditional import ConditionalEntropy
    from tl_entropy.results.contrast import Contrast, contrast
    from tl_entropy.results.distances import PairwiseDistances, ProfileDistance, ProfileEmbedding
    from tl_entropy.results.divergence import DivergenceSummary, LayerDivergence
    from tl_entropy.results.dynamics import LayerDynamics
    from tl_entropy.results.geometry import LayerGeometry
    from tl_entropy.results.heads import HeadEntropy, HeadSummary
    from tl_entropy.results.monitor import EntropyHistory
    from tl_entropy.results.reliance import TokenReliance
    from tl_entropy.results.similarity import LayerSimilarity
    from tl_entropy.results.surprisal import SurprisalSummary, TokenSurprisal
    from tl_entropy.results.token_correlation import AlignedValues, TokenCorrelation
    from tl_entropy.sites import Site

__version__ = "0.5.0"

_HOMES = {
    "tl_entropy.analyses.states.cka": ("CKAAccumulator",),
    "tl_entropy.analyses.divergence": ("DivergenceAccumulator", "layer_divergence"),
    "tl_entropy.analyses.dynamics": ("layer_dynamics",),
    "tl_entropy.analyses.profiles.embedding": ("profile_embedding",),
    "tl_entropy.analyses.states.geometry": ("GeometryAccumulator", "layer_geometry"),
    "tl_entropy.analyses.heads": ("HeadAccumulator", "head_entropy"),
    "tl_entropy.analyses.lens": ("LensAccumulator", "lens_entropy"),
    "tl_entropy.analyses.states.matrix_similarity": ("MatrixAccumulator",),
    "tl_entropy.analyses.models": ("compare_models",),
    "tl_entropy.analyses.profiles.distances": ("pairwise_distances", "profile_distance"),
    "tl_entropy.analyses.states.similarity": ("layer_similarity",),
    "tl_entropy.analyses.soft": ("label_plan", "soft_information"),
    "tl_entropy.analyses.soft_sums": ("SoftAccumulator",),
    "tl_entropy.capture.adapter": ("Adapter",),
    "tl_entropy.capture.head_means": ("head_means", "site_means"),
    "tl_entropy.capture.interventions": ("Intervention", "ablate", "ablate_heads", "steer"),
    "tl_entropy.capture.occlusion": ("mask_attention", "occlude"),
    "tl_entropy.capture.positions": ("AtPositions",),
    "tl_entropy.analyses.monitor": ("EntropyMonitor",),
    "tl_entropy.analyses.sequence_loss": ("conditional_entropy",),
    "tl_entropy.analyses.token_alignment": ("align_tokens", "token_correlation"),
    "tl_entropy.analyses.reliance": ("RelianceAccumulator", "token_reliance"),
    "tl_entropy.analyses.gradient_reliance": ("GradientRelianceAccumulator", "gradient_reliance"),
    "tl_entropy.results.monitor": ("EntropyHistory",),
    "tl_entropy.results.conditional": ("ConditionalEntropy",),
    "tl_entropy.results.reliance": ("TokenReliance",),
    "tl_entropy.results.token_correlation": ("AlignedValues", "TokenCorrelation"),
    "tl_entropy.capture.loading": ("load_model",),
    "tl_entropy.capture.stream": ("StreamReport", "stream"),
    "tl_entropy.demo": ("demo_lens", "demo_model", "demo_names", "demo_texts"),
    "tl_entropy.errors": ("FileError", "InputError", "InputTypeError", "ModelError", "NonFiniteError", "TLEntropyError"),
    "tl_entropy.labels": ("LabelPlan", "ngram"),
    "tl_entropy.lenses.files": ("load_tuned_lens",),
    "tl_entropy.lenses.training": ("train_tuned_lens",),
    "tl_entropy.lenses.tuned": ("TunedLens",),
    "tl_entropy.results": ("LensEntropy", "LensSummary", "Provenance", "SoftInformation", "load"),
    "tl_entropy.results.comparison": ("ModelComparison",),
    "tl_entropy.results.contrast": ("Contrast", "contrast"),
    "tl_entropy.results.distances": ("PairwiseDistances", "ProfileDistance", "ProfileEmbedding"),
    "tl_entropy.results.divergence": ("DivergenceSummary", "LayerDivergence"),
    "tl_entropy.results.dynamics": ("LayerDynamics",),
    "tl_entropy.results.geometry": ("LayerGeometry",),
    "tl_entropy.results.heads": ("HeadEntropy", "HeadSummary"),
    "tl_entropy.results.similarity": ("LayerSimilarity",),
    "tl_entropy.analyses.surprisal": ("SurprisalAccumulator", "token_surprisal"),
    "tl_entropy.results.surprisal": ("SurprisalSummary", "TokenSurprisal"),
    "tl_entropy.sites": ("Site",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("functional", "plots")

__all__ = [
    "Adapter", "AlignedValues", "AtPositions", "CKAAccumulator", "ConditionalEntropy", "Contrast",
    "DivergenceAccumulator", "DivergenceSummary", "EntropyHistory", "EntropyMonitor", "FileError",
    "GeometryAccumulator", "GradientRelianceAccumulator", "HeadAccumulator", "HeadEntropy", "HeadSummary", "InputError",
    "InputTypeError", "Intervention", "LabelPlan", "LayerDivergence", "LayerDynamics", "LayerGeometry",
    "LayerSimilarity", "LensAccumulator", "LensEntropy", "LensSummary", "MatrixAccumulator", "ModelComparison",
    "ModelError", "NonFiniteError", "PairwiseDistances", "ProfileDistance", "ProfileEmbedding", "Provenance",
    "RelianceAccumulator", "Site", "SoftAccumulator", "SoftInformation", "StreamReport", "SurprisalAccumulator",
    "SurprisalSummary", "TLEntropyError", "TokenCorrelation", "TokenReliance", "TokenSurprisal", "TunedLens", "ablate",
    "ablate_heads", "align_tokens", "compare_models", "conditional_entropy", "contrast", "demo_lens", "demo_model",
    "demo_names", "demo_texts", "functional", "gradient_reliance", "head_entropy", "head_means", "label_plan",
    "layer_divergence", "layer_dynamics", "layer_geometry", "layer_similarity", "lens_entropy", "load", "load_model",
    "load_tuned_lens", "mask_attention", "ngram", "occlude", "pairwise_distances", "plots", "profile_distance",
    "profile_embedding", "site_means", "soft_information", "steer", "stream", "token_correlation", "token_reliance",
    "token_surprisal", "train_tuned_lens",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"tl_entropy.{name}")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'tl_entropy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
