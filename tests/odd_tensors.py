"""A call that is right of every function of tensors, and values that are odd in the place of any of its arguments."""

from __future__ import annotations

import math

import numpy as np
import torch

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(12, 4, generator=G), torch.randn(12, 3, generator=G)
P, Q, U = torch.randn(5, 7, generator=G), torch.randn(5, 7, generator=G), torch.randn(4, 7, generator=G)
H, T = torch.randn(5, 4, generator=G), torch.tensor([0, 1, 2, 3, 6])
CURVES, LABELS = torch.rand(3, 6, generator=G) + 0.1, [0, 1, 2] * 4
SPANS = torch.tensor([[0, 3], [3, 7]])
READ = {"unembedding": U, "bias": None, "scale": 1.0, "softcap": None}
ONE = {"x": X}

GOOD = {
    "soft_mutual_information": {"z": X, "labels": LABELS, "documents": None, "folds": 2, "n_bins": 5, "center": False},
    "soft_anchors": {"d": 4, "n_bins": 5, "seed": 0},
    "soft_assignments": {"z": X, "anchors": X[:5] / X[:5].norm(dim=1, keepdim=True), "temperature": 0.5},
    "soft_entropy": {"z": X, "n_bins": 5, "seed": 0, "anchors": None, "temperature": None, "center": False, "normalize": False},
    "calibrate_temperature": {"d": 4, "n_bins": 5, "method": "exact"},
    "vocabulary_divergences": {"hidden": H[None], "reference": 0, "metrics": ("kl",), "targets": T, "top_k": 1, **READ},
    "compiler_available": {"device": "cpu"},
    "kl_divergence": {"logits_p": P, "logits_q": Q, "dim": -1},
    "js_divergence": {"logits_p": P, "logits_q": Q, "dim": -1},
    "fisher_rao_distance": {"logits_p": P, "logits_q": Q, "dim": -1},
    "total_variation": {"logits_p": P, "logits_q": Q, "dim": -1},
    "shannon_entropy": {"logits": P, "dim": -1},
    "renyi_entropy": {"logits": P, "order": 2.0, "dim": -1},
    "surprisal": {"logits": P, "targets": T, "dim": -1},
    "varentropy": {"logits": P, "dim": -1},
    "linear_entropy": {"hidden": H, "order": 1.0, **READ},
    "linear_cross_entropy": {"hidden": H, "targets": T, **READ},
    "linear_kl_divergence": {"hidden": H, "reference": H + 1, "reference_unembedding": None, "reverse": False, **READ},
    "vocabulary_statistics": {"hidden": H, "orders": (1.0,), "targets": T, "top_k": 1, "subset": None, **READ},
    "wasserstein_chance": {"a": CURVES, "b": CURVES + 1, "paired": False},
    "histogram_jsd_chance": {"a": CURVES, "b": CURVES + 1, "n_bins": 5, "limits": None, "paired": False},
    "adjusted_jsd": {"value": torch.tensor(0.5), "chance": torch.tensor(0.1)},
    "wasserstein_distance": {"a": CURVES, "b": CURVES + 1},
    "histogram_jsd": {"a": CURVES, "b": CURVES + 1, "n_bins": 5, "limits": None},
    "curve_fisher_rao_distance": {"a": CURVES, "b": CURVES + 1},
    "srvf_distance": {"a": CURVES, "b": CURVES + 1},
    "common_depth": {"profile": CURVES, "n": 4},
    "pairwise_curves": {"curves": CURVES, "metric": "euclidean"},
    "pairwise_samples": {"profiles": [CURVES, CURVES + 1], "metric": "wasserstein", "n_bins": 5},
    "quantize": {"x": X, "to": "int8", "bits": None, "limit": None, "scale": 0.1, "straight_through": False},
    "quantized_bits": {"numbers": 4, "to": "int8", "bits": None, "scale": None},
    "uniform_noise": {"x": X, "scale": 0.1, "generator": torch.Generator().manual_seed(0)},
    "effective_bits": {"limit": 1.0, "noise": 0.1},
    "prompt_entropy": {"x": X, "order": 1.0, "normalise": "centred"},
    "effective_rank": {"x": X, "center": True},
    "effective_rank_of_covariance": {"c": torch.eye(4)},
    "curvature": ONE,
    "anisotropy": ONE,
    "two_nn": {"x": X, "discard": 0.1},
    "gram_matrix": {"x": X, "kernel": "gaussian", "bandwidth": None},
    "matrix_entropy": {"a": torch.eye(4) / 4, "order": 2.0},
    "matrix_renyi_entropy": {"x": X, "order": 2.0, "kernel": "gaussian", "bandwidth": None},
    "matrix_renyi_mutual_information": {"x": X, "y": Y, "order": 2.0, "kernel": "gaussian", "bandwidth": None},
    "dime": {"x": X, "y": Y, "order": 2.0, "permutations": 2, "seed": 0, "kernel": "gaussian", "documents": None},
    "neighbour_overlap": {"x": X, "y": Y, "k": 2, "documents": None},
    "information_imbalance": {"x": X, "y": Y, "k": 1, "documents": None},
    "gride": {"x": X, "scales": (1, 2), "documents": None},
    "linear_cka": {"x": X, "y": Y, "debiased": True},
    "unbiased_hsic": {"k": X @ X.mT, "l": Y @ Y.mT},
    "lidar": {"x": X, "labels": LABELS, "delta": 1e-4},
    "info_nce": {"x": X, "labels": LABELS, "temperature": 0.1},
    "covering_spans": {"spans": SPANS, "text": "the cat"},
    "transfer": {"values": torch.ones(2), "source_spans": SPANS, "target_spans": SPANS, "length": 7, "how": "sum"},
    "bits_per_byte": {"loss": 1.0, "tokens": 4, "n_bytes": 8},
    "bits_per_character": {"loss": 1.0, "tokens": 4, "n_characters": 8},
    "perplexity": {"loss": 1.0},
    "memory_loss": {"numbers": 4, "bits": 8, "tokens": 16},
    "normalized_loss": {"loss": 1.0, "numbers": 4, "bits": 8, "tokens": 16},
    "vocabulary_changes": {"before": H, "after": H + 1, "metrics": ("l1",), "targets": T, **READ},
    "min_max": {"values": P, "mask": None},
    "token_losses": {"logits": P[None], "tokens": T[None], "mask": None},
    "entropy_weighted_loss": {"losses": P.abs(), "entropy": Q.abs(), "mask": None, "normalize": True, "reduction": "mean"},
    "entropy_matching_loss": {"losses": P.abs(), "entropy": Q.abs(), "mask": None, "reduction": "mean"},
    "entropy_bonus": {"logits": P[None], "mask": None, "weight": 0.01},
    "token_sizes": {"text": "the cat", "spans": SPANS, "own": None},
    "piece_spans": {"text": "the cat", "pieces": [b"the", b" cat"]},
}  # fmt: skip
SLOW = {"elastic_srvf_distance": {"a": CURVES, "b": CURVES + 1}}
"""Each takes a second or more."""

ODD = [
    None, True, 0, 1, -1, 2, 3, 65, 2**40, -(2**63), 2**70, 0.0, 0.5, 1.5, -0.5, 1e-320, 1e300, math.inf, -math.inf, math.nan,
    1j, "", "x", "mean", b"1", [], (), {}, {1, 2}, [1, 2], [0.5], ["a", None], [[1, 2], [3]],
    object(), slice(0, 2), range(3), print,
    np.int8(3), np.float16(0.5), np.bool_(True), np.array([]), np.array(3), np.array([1.0, np.nan]), np.array(["a"]),
    np.ones((5, 7)), np.ma.masked_array([1.0], [True]), torch.tensor(2), torch.tensor(math.nan), torch.tensor([]),
    torch.zeros(0, 4), torch.zeros(5, 0), torch.tensor([1.0, 2.0]), torch.tensor([1, 2]), torch.ones(5, 7), torch.ones(12, 4),
    torch.ones(5, 4), torch.ones(2, 3, 4), torch.ones(5, 7).double(), torch.ones(5, 7).half(), torch.ones(5, 7).bfloat16(),
    torch.ones(5, 7).long(), torch.ones(5, 7).bool(), torch.ones(5, 7, dtype=torch.complex64), torch.full((5, 7), math.nan),
    torch.full((5, 7), -math.inf), torch.full((5, 7), math.inf), torch.full((5, 7), 1e38), torch.full((12, 4), 1e-40),
    torch.full((12, 4), math.nan), torch.ones(5, 7, device="meta"), torch.ones(12, 4, device="meta"),
    torch.ones(5, 7, requires_grad=True), torch.ones(5, 7).to_sparse(), torch.tensor([-1, 0, 1, 2, 3]),
    torch.tensor([0, 1, 2, 3, 7]),
    torch.ones(5, 7).to(torch.uint8), torch.ones(5, 7).numpy().astype("float16"), torch.ones(5, 7).T,
]  # fmt: skip
