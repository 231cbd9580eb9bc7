"""Which plots draw which kind of result, for refusals that name the right one."""

from __future__ import annotations

from typing import Any

DRAWN_BY = {
    "LensEntropy": ("profile", "heatmap", "lens_plane"),
    "LensSummary": ("profile",),
    "LayerDivergence": ("divergences", "decisions", "settling", "heatmap", "targets"),
    "DivergenceSummary": ("divergences", "decisions", "settling"),
    "HeadEntropy": ("heads",),
    "HeadSummary": ("heads",),
    "SoftInformation": ("information", "information_plane", "heads"),
    "LayerSimilarity": ("similarity",),
    "LayerGeometry": ("geometry",),
    "LayerDynamics": ("velocity", "importance"),
    "Contrast": ("contrast", "contrast_map"),
    "PairwiseDistances": ("distances",),
    "Placebo": ("placebo",),
    "Sensitivity": ("sensitivity",),
    "MemorySweep": ("memory_sweep",),
    "NeuronEffects": ("neurons",),
    "ProfileEmbedding": ("clusters",),
    "ModelComparison": ("comparison",),
    "EntropyHistory": ("monitor",),
    "TokenSurprisal": ("tokens", "token_text"),
    "AlignedValues": ("tokens", "token_text"),
    "ConditionalEntropy": ("tokens", "token_text"),
    "TokenReliance": ("reliance", "tokens", "token_text"),
    "TokenCorrelation": ("token_correlation",),
    "WordSurprisal": ("words",),
    "Confidence": ("by_layer", "tokens", "token_text"),
    "UnigramDistance": ("by_layer", "tokens", "token_text"),
    "SiteMeans": ("by_layer",),
    "SpanFeatures": ("features",),
    "Discrimination": ("discrimination",),
    "EntropyCalibration": ("calibration",),
}
"""The plots that draw each kind of result."""


def kind_of(result: Any) -> str:
    """What a refusal says of what came: its kind, and where that is a result's the plots that draw it.

    >>> kind_of(3)
    'int'
    """
    kind = type(result).__name__
    if kind not in DRAWN_BY:
        return kind
    return f"{kind}, for which there is {' and '.join(f'plots.{name}' for name in DRAWN_BY[kind])}"
