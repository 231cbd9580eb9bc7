"""Classes of tokens, made from tokens alone: one plan of classes serves every layer, head and checkpoint."""

from tl_entropy.labels.plan import LabelPlan, LabelTable
from tl_entropy.labels.sets import NAMES, Labels, NGram, Side, ngram
from tl_entropy.labels.slots import DocumentTokens
from tl_entropy.labels.spans import SpanLabels, span_labels

__all__ = [
    "NAMES",
    "DocumentTokens",
    "LabelPlan",
    "LabelTable",
    "Labels",
    "NGram",
    "Side",
    "SpanLabels",
    "ngram",
    "span_labels",
]
