"""Tensors in, tensors out: no model, no files, no state."""

from tl_entropy.functional.comparison import VocabularyDivergences, vocabulary_divergences
from tl_entropy.functional.compiling import compiler_available
from tl_entropy.functional.divergences import fisher_rao_distance, js_divergence, kl_divergence, total_variation
from tl_entropy.functional.entropies import renyi_entropy, shannon_entropy, surprisal, varentropy
from tl_entropy.functional.readout import VocabularyStatistics, vocabulary_statistics
from tl_entropy.functional.soft import (
    SoftMutualInformation,
    soft_anchors,
    soft_assignments,
    soft_entropy,
    soft_mutual_information,
)
from tl_entropy.functional.temperature import calibrate_temperature

__all__ = [
    "SoftMutualInformation",
    "VocabularyDivergences",
    "VocabularyStatistics",
    "calibrate_temperature",
    "compiler_available",
    "fisher_rao_distance",
    "js_divergence",
    "kl_divergence",
    "renyi_entropy",
    "shannon_entropy",
    "soft_anchors",
    "soft_assignments",
    "soft_entropy",
    "soft_mutual_information",
    "surprisal",
    "total_variation",
    "varentropy",
    "vocabulary_divergences",
    "vocabulary_statistics",
]
