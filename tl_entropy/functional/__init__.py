"""Tensors in, tensors out: no model, no files, no state."""

from tl_entropy.functional.compiling import compiler_available
from tl_entropy.functional.entropies import renyi_entropy, shannon_entropy, surprisal, varentropy
from tl_entropy.functional.readout import VocabularyStatistics, vocabulary_statistics

__all__ = [
    "VocabularyStatistics",
    "compiler_available",
    "renyi_entropy",
    "shannon_entropy",
    "surprisal",
    "varentropy",
    "vocabulary_statistics",
]
