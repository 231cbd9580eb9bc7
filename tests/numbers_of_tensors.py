"""Every function of ``tl_entropy.functional`` on seeded tensors: what ``all_numbers.py`` writes of them."""

from __future__ import annotations

import math
from functools import partial

import torch

from tl_entropy import functional as f

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
ORDERS = (0.0, 0.5, 1.0, 2.0, math.inf)
DIVERGENCES = ("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation")
CHANGES = ("l1", "l2", "maximum", "cosine", *DIVERGENCES, "loss", "entropy")
NOT_NUMBERS = {"compiler_available"}
"""What says nothing of a number."""


def normal(*shape, seed=0, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def whole(high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def write_tensors(record, dtypes=DTYPES):
    for dtype in dtypes:
        of = str(dtype).removeprefix("torch.")
        _lens(record, of, dtype)
        _readout(record, of, dtype)
        _states(record, of, dtype)
        _soft(record, of, dtype)
        _losses(record, of, dtype)
        _quantised(record, of, dtype)
    _profiles(record)
    write_tokens(record)


def _lens(record, of, dtype):
    one, other = (normal(4, 6, 50, seed=seed, dtype=dtype, scale=3) for seed in (0, 1))
    one[0, 0, 3:40] = -math.inf
    other[0, 0, 3:40] = -math.inf
    targets = whole(50, 4, 6)
    record(f"shannon_entropy/{of}", f.shannon_entropy, one)
    record(f"shannon_entropy/{of} along 1", f.shannon_entropy, one, dim=1)
    record(f"renyi_entropy/{of}", f.renyi_entropy, one, ORDERS)
    record(f"renyi_entropy/{of} of one order", f.renyi_entropy, one, 3, dim=0)
    record(f"varentropy/{of}", f.varentropy, one)
    record(f"surprisal/{of}", f.surprisal, one, targets)
    for name in ("kl_divergence", "js_divergence", "fisher_rao_distance", "total_variation"):
        record(f"{name}/{of}", getattr(f, name), one, other)
        record(f"{name}/{of} along 0", getattr(f, name), one, other, dim=0)


def _readout(record, of, dtype):
    hidden, unembedding = normal(3, 12, 16, dtype=dtype), normal(16, 1000, seed=1, dtype=dtype)
    bias, targets = normal(1000, seed=2, dtype=dtype), whole(1000, 12)
    readouts = {
        "plain": {},
        "bias": {"bias": bias, "scale": 0.5},
        "softcap": {"bias": bias, "softcap": 4.0},
        "bfloat16 product": {"precision": "bfloat16"},
    }
    for name, options in readouts.items():
        record(
            f"vocabulary_statistics/{of}, {name}", f.vocabulary_statistics, hidden[0], unembedding, orders=ORDERS,
            targets=targets, top_k=3, varentropy=True, compiled=False, **options,
        )  # fmt: skip
        for reference in ("previous", 0, -1):
            record(
                f"vocabulary_divergences/{of}, {name}, from {reference}", f.vocabulary_divergences, hidden, unembedding,
                reference=reference, metrics=DIVERGENCES, orders=(0.5, 1), targets=targets, top_k=2, compiled=False, **options,
            )  # fmt: skip
        record(
            f"vocabulary_changes/{of}, {name}", f.vocabulary_changes, hidden[0], hidden[1], unembedding, metrics=CHANGES,
            targets=targets, compiled=False, **options,
        )  # fmt: skip


def _states(record, of, dtype):
    x, y = normal(40, 12, dtype=dtype), normal(40, 9, seed=1, dtype=dtype)
    y[:, :6] += x[:, :6]
    labels = whole(8, 40, seed=2)
    record(f"anisotropy/{of}", f.anisotropy, x)
    record(f"curvature/{of}", f.curvature, x)
    record(f"two_nn/{of}", f.two_nn, x)
    record(f"two_nn/{of}, discard 0", f.two_nn, x, discard=0.0)
    record(f"gride/{of}", f.gride, x)
    record(f"neighbour_overlap/{of}", f.neighbour_overlap, x, y)
    record(f"neighbour_overlap/{of}, labels", f.neighbour_overlap, x, labels, k=3)
    record(f"information_imbalance/{of}", f.information_imbalance, x, y)
    for center in (True, False):
        record(f"effective_rank/{of}, center {center}", f.effective_rank, x, center=center)
    record(f"effective_rank_of_covariance/{of}", f.effective_rank_of_covariance, x.double().T.cov().to(dtype))
    for normalise in ("centred", "length", None):
        for order in (0.5, 1.0, 2.0):
            record(f"prompt_entropy/{of}, {normalise}, {order}", f.prompt_entropy, x, order=order, normalise=normalise)
    for kernel in ("gaussian", "linear"):
        record(f"gram_matrix/{of}, {kernel}", f.gram_matrix, x, kernel=kernel)
        for order in (0.5, 1.0, 1.01, 2.0):
            named = f"{of}, {kernel}, {order}"
            record(f"matrix_renyi_entropy/{named}", f.matrix_renyi_entropy, x, order=order, kernel=kernel)
            record(
                f"matrix_renyi_mutual_information/{named}", f.matrix_renyi_mutual_information, x, y, order=order, kernel=kernel
            )
        record(f"dime/{of}, {kernel}", f.dime, x, y, permutations=4, seed=3, kernel=kernel)
    record(f"gram_matrix/{of}, bandwidth", f.gram_matrix, x, bandwidth=1.5)
    record(f"matrix_entropy/{of}", f.matrix_entropy, f.gram_matrix(x), 1.01)
    for debiased in (True, False):
        record(f"linear_cka/{of}, debiased {debiased}", f.linear_cka, x, y, debiased=debiased)
    record(f"unbiased_hsic/{of}", f.unbiased_hsic, x @ x.T, y @ y.T)
    record(f"info_nce/{of}", f.info_nce, x, labels)
    record(f"lidar/{of}", f.lidar, x, labels)


def _soft(record, of, dtype):
    z, labels = normal(60, 8, dtype=dtype) + 0.3, whole(6, 60)
    z[:, 0] += 2 * (labels % 2)
    anchors = f.soft_anchors(8, 20, seed=1)
    for name, options in {
        "plain": {},
        "few bins": {"n_bins": 7, "seed": 5},
        "centred": {"center": True},
        "leading order": {"calibration": "leading_order"},
        "given": {"anchors": anchors, "temperature": 0.2},
    }.items():
        record(f"soft_entropy/{of}, {name}", f.soft_entropy, z, **options)
        record(f"soft_mutual_information/{of}, {name}", f.soft_mutual_information, z, labels, **options)
    record(f"soft_entropy/{of}, normalised", f.soft_entropy, z, normalize=True)
    record(
        f"soft_mutual_information/{of}, of documents", f.soft_mutual_information, z, labels,
        documents=torch.arange(60) // 6, folds=4,
    )  # fmt: skip
    record(f"soft_assignments/{of}", f.soft_assignments, z, anchors.to(dtype), 0.3)
    if dtype == torch.float64:
        record("soft_anchors", f.soft_anchors, 8, 20, seed=1)
        for d, n_bins in ((2, 50), (8, 100), (64, 100), (768, 50)):
            for method in ("exact", "leading_order"):
                record(f"calibrate_temperature/{d}, {n_bins}, {method}", f.calibrate_temperature, d, n_bins, method=method)
        record("soft_entropy/gradient", _gradient, f.soft_entropy, z)


def _gradient(function, x, *others):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x, *others).sum(), x)
    return gradient


def _losses(record, of, dtype):
    logits, tokens = normal(3, 7, 30, dtype=dtype, scale=2), whole(30, 3, 7)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 5:] = mask[2, :2] = False
    uncertain = uniform(3, 7, seed=1, dtype=dtype)
    for named, given in {"all": None, "masked": mask}.items():
        record(f"token_losses/{of}, {named}", f.token_losses, logits, tokens, given)
        record(f"min_max/{of}, {named}", f.min_max, uncertain, given)
        record(f"entropy_bonus/{of}, {named}", f.entropy_bonus, logits, mask=given, weight=0.1)
        losses, cells = f.token_losses(logits, tokens, given)
        pair = losses, uncertain[:, 1:]
        for reduction in ("mean", "sum", "none"):
            options = {"mask": cells, "reduction": reduction}
            record(f"entropy_matching_loss/{of}, {named}, {reduction}", f.entropy_matching_loss, *pair, **options)
            record(f"entropy_weighted_loss/{of}, {named}, {reduction}", f.entropy_weighted_loss, *pair, **options)
            record(
                f"entropy_weighted_loss/{of}, {named}, {reduction}, as they are", f.entropy_weighted_loss, *pair,
                normalize=False, **options,
            )  # fmt: skip
    record(f"entropy_bonus/{of}, gradient", _gradient, f.entropy_bonus, logits)
    readout, states = normal(8, 30, dtype=dtype), normal(21, 8, seed=1, dtype=dtype)
    for order in ORDERS:
        record(f"linear_entropy/{of}, {order}", f.linear_entropy, states, readout, order=order)
        record(f"linear_entropy/{of}, {order}, gradient", _gradient, partial(f.linear_entropy, order=order), states, readout)
    record(f"linear_cross_entropy/{of}", f.linear_cross_entropy, states, readout, tokens.flatten())
    for reverse in (False, True):
        named = f"linear_kl_divergence/{of}{', reverse' * reverse}"
        record(named, f.linear_kl_divergence, states, readout, states.flip(0), reverse=reverse)


def _profiles(record):
    a, b = 4 * uniform(5, 30), 3 * uniform(5, 24, seed=1) + 0.5
    pair = a + 0.2 * normal(5, 30, seed=2).abs()
    curves = uniform(6, 9, seed=3) + 0.1
    for n_bins in (10, 50):
        record(f"histogram_jsd/{n_bins}", f.histogram_jsd, a, b, n_bins=n_bins)
        record(f"histogram_jsd_chance/{n_bins}", f.histogram_jsd_chance, a, b, n_bins=n_bins)
    record("histogram_jsd/limits", f.histogram_jsd, a, b, limits=(0.0, 6.0))
    record("histogram_jsd_chance/paired", f.histogram_jsd_chance, a, pair, paired=True)
    record("adjusted_jsd", f.adjusted_jsd, f.histogram_jsd(a, b), f.histogram_jsd_chance(a, b))
    record("wasserstein_distance", f.wasserstein_distance, a, b)
    record("wasserstein_chance", f.wasserstein_chance, a, b)
    record("wasserstein_chance/paired", f.wasserstein_chance, a, pair, paired=True)
    record("curve_fisher_rao_distance", f.curve_fisher_rao_distance, curves[:3], curves[3:])
    record("srvf_distance", f.srvf_distance, curves[:3], curves[3:])
    record("elastic_srvf_distance", f.elastic_srvf_distance, curves[0], curves[1])
    record("common_depth", f.common_depth, curves, 13)
    for metric in ("euclidean", "fisher_rao", "srvf"):
        record(f"pairwise_curves/{metric}", f.pairwise_curves, curves, metric)
    for metric in ("wasserstein", "jsd"):
        record(f"pairwise_samples/{metric}", f.pairwise_samples, [a.T, b.T, pair.T], metric)


def _quantised(record, of, dtype):
    x = normal(5, 8, dtype=dtype, scale=3)
    for to in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8"):
        record(f"quantize/{of} to {to}", f.quantize, x, to)
        record(f"quantized_bits/{of} to {to}", f.quantized_bits, 8, to)
    record(f"quantize/{of} to int4, scale of 16 bits", f.quantize, x, "int4", scale="bfloat16")
    record(f"quantize/{of} to a grid", f.quantize, x, "grid", bits=3, limit=4)
    record(f"uniform_noise/{of}", lambda x: f.uniform_noise(x, 0.5, torch.Generator().manual_seed(0)), x)
    record(f"effective_bits/{of}", f.effective_bits, x.abs(), 0.25)


def write_tokens(record):
    text = "naïve 😀 text, of é and ß"
    ends = torch.tensor([2, 3, 6, 7, 9, 12, 14, 18, len(text)])
    spans = torch.stack([torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]]), ends], 1)
    other = torch.tensor([[0, 5], [5, 6], [6, 7], [6, 7], [7, 13], [13, len(text)]])
    values = uniform(len(spans))
    record("covering_spans", f.covering_spans, spans[::2], text)
    record("token_sizes", f.token_sizes, text, other)
    record("piece_spans", f.piece_spans, text, [bytes([byte]) for byte in text.encode()])
    for how in ("sum", "mean"):
        record(f"transfer/{how}", f.transfer, values, spans, other, len(text), how=how)
    for name, loss in {"a number": 2.5, "a tensor": uniform(4) + 1}.items():
        record(f"perplexity/{name}", f.perplexity, loss)
        record(f"bits_per_byte/{name}", f.bits_per_byte, loss, tokens=100, n_bytes=321)
        record(f"bits_per_character/{name}", f.bits_per_character, loss, tokens=100, n_characters=300)
        record(f"normalized_loss/{name}", f.normalized_loss, loss, numbers=64, bits=16, tokens=100)
    record("memory_loss", f.memory_loss, numbers=64, bits=16, tokens=100)
