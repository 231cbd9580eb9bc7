"""Tensors in, tensors out: no model, no files, no state."""

from tl_entropy.functional.comparison import VocabularyDivergences, vocabulary_divergences
from tl_entropy.functional.compiling import compiler_available
from tl_entropy.functional.divergences import fisher_rao_distance, js_divergence, kl_divergence, total_variation
from tl_entropy.functional.entropies import renyi_entropy, shannon_entropy, surprisal, varentropy
from tl_entropy.functional.profiles.chance import adjusted_jsd, histogram_jsd_chance, wasserstein_chance
from tl_entropy.functional.profiles.curves import (
    common_depth,
    curve_fisher_rao_distance,
    elastic_srvf_distance,
    histogram_jsd,
    srvf_distance,
    wasserstein_distance,
)
from tl_entropy.functional.profiles.pairwise import pairwise_curves, pairwise_samples
from tl_entropy.functional.readout import VocabularyStatistics, vocabulary_statistics
from tl_entropy.functional.soft import (
    SoftMutualInformation,
    soft_anchors,
    soft_assignments,
    soft_entropy,
    soft_mutual_information,
)
from tl_entropy.functional.states.geometry import (
    anisotropy,
    curvature,
    effective_rank,
    effective_rank_of_covariance,
    prompt_entropy,
    two_nn,
)
from tl_entropy.functional.states.matrices import gram_matrix, matrix_entropy, matrix_renyi_entropy
from tl_entropy.functional.states.matrix_information import MatrixInformation, dime, matrix_renyi_mutual_information
from tl_entropy.functional.states.similarity import linear_cka, unbiased_hsic
from tl_entropy.functional.states.views import info_nce, lidar
from tl_entropy.functional.temperature import calibrate_temperature

__all__ = [
    "MatrixInformation",
    "SoftMutualInformation",
    "VocabularyDivergences",
    "VocabularyStatistics",
    "adjusted_jsd",
    "anisotropy",
    "calibrate_temperature",
    "common_depth",
    "compiler_available",
    "curvature",
    "curve_fisher_rao_distance",
    "dime",
    "effective_rank",
    "effective_rank_of_covariance",
    "elastic_srvf_distance",
    "fisher_rao_distance",
    "gram_matrix",
    "histogram_jsd",
    "histogram_jsd_chance",
    "info_nce",
    "js_divergence",
    "kl_divergence",
    "lidar",
    "linear_cka",
    "matrix_entropy",
    "matrix_renyi_entropy",
    "matrix_renyi_mutual_information",
    "pairwise_curves",
    "pairwise_samples",
    "prompt_entropy",
    "renyi_entropy",
    "shannon_entropy",
    "soft_anchors",
    "soft_assignments",
    "soft_entropy",
    "soft_mutual_information",
    "srvf_distance",
    "surprisal",
    "total_variation",
    "two_nn",
    "unbiased_hsic",
    "varentropy",
    "vocabulary_divergences",
    "vocabulary_statistics",
    "wasserstein_chance",
    "wasserstein_distance",
]
