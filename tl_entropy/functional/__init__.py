"""Tensors in, tensors out: no model, no files, no state."""

from tl_entropy.functional.information.mutual import SoftMutualInformation, soft_mutual_information
from tl_entropy.functional.information.soft import soft_anchors, soft_assignments, soft_entropy
from tl_entropy.functional.information.temperature import calibrate_temperature
from tl_entropy.functional.lens.comparison import VocabularyDivergences, vocabulary_divergences
from tl_entropy.functional.lens.compiling import compiler_available
from tl_entropy.functional.lens.divergences import fisher_rao_distance, js_divergence, kl_divergence, total_variation
from tl_entropy.functional.lens.entropies import renyi_entropy, shannon_entropy, surprisal, varentropy
from tl_entropy.functional.lens.linear import linear_cross_entropy, linear_entropy, linear_kl_divergence
from tl_entropy.functional.lens.readout import VocabularyStatistics, vocabulary_statistics
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
from tl_entropy.functional.quantisation import effective_bits, quantize, quantized_bits, uniform_noise
from tl_entropy.functional.states.geometry import (
    anisotropy,
    curvature,
    effective_rank,
    effective_rank_of_covariance,
    prompt_entropy,
    two_nn,
)
from tl_entropy.functional.states.gride import Gride, gride
from tl_entropy.functional.states.matrices import gram_matrix, matrix_entropy, matrix_renyi_entropy
from tl_entropy.functional.states.matrix_information import MatrixInformation, dime, matrix_renyi_mutual_information
from tl_entropy.functional.states.neighbours import NeighbourMean, information_imbalance, neighbour_overlap
from tl_entropy.functional.states.similarity import linear_cka, unbiased_hsic
from tl_entropy.functional.states.views import info_nce, lidar
from tl_entropy.functional.tokens.characters import covering_spans, transfer
from tl_entropy.functional.tokens.coding import bits_per_byte, bits_per_character, memory_loss, normalized_loss, perplexity
from tl_entropy.functional.tokens.logit_changes import VocabularyChanges, vocabulary_changes
from tl_entropy.functional.tokens.losses import (
    entropy_bonus,
    entropy_matching_loss,
    entropy_weighted_loss,
    min_max,
    token_losses,
)
from tl_entropy.functional.tokens.sizes import piece_spans, token_sizes

__all__ = [
    "Gride",
    "MatrixInformation",
    "NeighbourMean",
    "SoftMutualInformation",
    "VocabularyChanges",
    "VocabularyDivergences",
    "VocabularyStatistics",
    "adjusted_jsd",
    "anisotropy",
    "bits_per_byte",
    "bits_per_character",
    "calibrate_temperature",
    "common_depth",
    "compiler_available",
    "covering_spans",
    "curvature",
    "curve_fisher_rao_distance",
    "dime",
    "effective_bits",
    "effective_rank",
    "effective_rank_of_covariance",
    "elastic_srvf_distance",
    "entropy_bonus",
    "entropy_matching_loss",
    "entropy_weighted_loss",
    "fisher_rao_distance",
    "gram_matrix",
    "gride",
    "histogram_jsd",
    "histogram_jsd_chance",
    "info_nce",
    "information_imbalance",
    "js_divergence",
    "kl_divergence",
    "lidar",
    "linear_cka",
    "linear_cross_entropy",
    "linear_entropy",
    "linear_kl_divergence",
    "matrix_entropy",
    "matrix_renyi_entropy",
    "matrix_renyi_mutual_information",
    "memory_loss",
    "min_max",
    "neighbour_overlap",
    "normalized_loss",
    "pairwise_curves",
    "pairwise_samples",
    "perplexity",
    "piece_spans",
    "prompt_entropy",
    "quantize",
    "quantized_bits",
    "renyi_entropy",
    "shannon_entropy",
    "soft_anchors",
    "soft_assignments",
    "soft_entropy",
    "soft_mutual_information",
    "srvf_distance",
    "surprisal",
    "token_losses",
    "token_sizes",
    "total_variation",
    "transfer",
    "two_nn",
    "unbiased_hsic",
    "uniform_noise",
    "varentropy",
    "vocabulary_changes",
    "vocabulary_divergences",
    "vocabulary_statistics",
    "wasserstein_chance",
    "wasserstein_distance",
]
