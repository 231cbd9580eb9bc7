"""Accumulators of every kind that the package has, on one small model in float64, and how their results compare."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from tempfile import mkdtemp

import torch
from tiny_models import make_model

import tl_entropy as tle
from tl_entropy.analyses.information.parts import AssignmentParts
from tl_entropy.analyses.information.soft import _Means
from tl_entropy.analyses.means import StateMeans
from tl_entropy.analyses.models.neuron_sums import NeuronAccumulator
from tl_entropy.analyses.models.neurons import _screened
from tl_entropy.analyses.states.document_states import DocumentStates

TOKENS = [(torch.arange(n) * (n + 3) + n) % 17 + 2 for n in (5, 9, 3, 12, 7, 4, 8, 1)]
"""Documents; with a window of 6, some are longer than that. No two windows begin with the same token, whose states would be the
same but for rounding."""

READ = {"progress": False, "window": 6, "batch_size": 2}


@cache
def model():
    """In float64, so that which texts share a batch changes nothing but the order of sums."""
    return tle.Adapter(make_model("gpt2", dtype=torch.float64))  # which proves what it is once


@cache
def plan():
    return tle.label_plan(model(), TOKENS, labels=("token", "next_token"), window=6)


@cache
def room():
    """A folder in which assignments are written, by all."""
    return mkdtemp(prefix="tl_entropy")


@cache
def lens():
    width = model().d_model
    generator = torch.Generator().manual_seed(0)
    weights = 0.01 * torch.randn(3, width, width, generator=generator)
    origin = tle.lens_entropy(model(), TOKENS[:1], progress=False).provenance
    return tle.TunedLens(weights, torch.zeros(3, width), origin)


@cache
def post():
    return tle.site_means(model(), TOKENS, ("post.0", "post.-1"), progress=False)


def neurons(m):
    """Of a neuron that takes passes and of one that takes none, each with a placebo."""
    law = torch.arange(1.0, m.d_vocab + 1, dtype=torch.float64)
    given = {site.layer: [3] for site in post()}
    return NeuronAccumulator(m, _screened(m, list(given), given, law / law.sum(), 2, 1, 1, 0), post(), law / law.sum())


def half(site, rows):
    """A lens of one's own."""
    return rows / 2


EVERY = {
    "lens": lambda m: tle.LensAccumulator(m, orders=(1, 2), surprisal=True, top_k=2),
    "tuned lens, sums": lambda m: tle.LensAccumulator(m, lens=lens(), keep="summary"),
    "own lens, sums": lambda m: tle.LensAccumulator(m, lens=half, keep="summary", vocabulary="tokenizer"),
    "divergence": lambda m: tle.DivergenceAccumulator(m, targets=[5], surprisal=True),
    "divergence, sums": lambda m: tle.DivergenceAccumulator(m, against="previous", keep="summary"),
    "patterns": lambda m: tle.HeadAccumulator(m, orders=(0, 1)),
    "patterns, sums": lambda m: tle.HeadAccumulator(m, keep="summary"),
    "readouts, sums": lambda m: tle.HeadAccumulator(m, of="readout", keep="summary"),
    "surprisal": lambda m: tle.SurprisalAccumulator(m),
    "surprisal, sums": lambda m: tle.SurprisalAccumulator(m, keep="summary"),
    "confidence": lambda m: tle.ConfidenceAccumulator(m, sites=("embed", "resid_post"), top_k=3),
    "confidence, sums": lambda m: tle.ConfidenceAccumulator(m, keep="summary"),
    "unigram, sums": lambda m: tle.UnigramAccumulator(m, torch.arange(m.d_vocab), keep="summary"),
    "reliance on parts": lambda m: tle.RelianceAccumulator(m, {"a head": tle.ablate_heads([(0, 1)])}, metrics=("kl", "loss")),
    "gradients": lambda m: tle.GradientRelianceAccumulator(m, "embed"),
    "geometry": lambda m: tle.GeometryAccumulator(m, labels=["a", "b"] * 4, n_samples=20),
    "geometry, sampled": lambda m: tle.GeometryAccumulator(m, measures=("dataset_entropy", "anisotropy"), n_documents=4),
    "neurons": neurons,
    "cka": lambda m: tle.CKAAccumulator(m, massive="drop"),
    "matrices": lambda m: tle.MatrixAccumulator(m, n_samples=20, permutations=2),
    "neighbours": lambda m: tle.NeighbourAccumulator(m, n_samples=20, k=2),
    "document states": lambda m: DocumentStates(m, m.sites("resid_post", None), "keep"),
    "soft": lambda m: tle.SoftAccumulator(m, plan(), heads=True, n_bins=(5, 8), keep_labels=True, folds=3),
    "assignments": lambda m: AssignmentParts(m, plan(), folder=room(), heads="z", n_bins=(5, 8), folds=3),
    "site means": lambda m: StateMeans(m, m.sites(("embed", "z"), None)),
    "means": lambda m: _Means(tle.SoftAccumulator(m, plan(), n_bins=5)),
}
ONE_WINDOW = {"gradients"}
"""Those whose documents have to fit into one."""


def reading(name):
    """How a pass of this one reads."""
    return {**READ, "window": None} if name in ONE_WINDOW else READ


def streamed(name, documents=None, into=None):
    found = EVERY[name](model()) if into is None else into
    tle.stream(model(), TOKENS, [found], documents=documents, **reading(name))
    return found


def differences(one, other, where="result", *, leave=("created",), by=1e-10):
    """Where two results differ by more than so much, relative or absolute: lines that say so."""
    if dataclasses.is_dataclass(one) or hasattr(one, "_fields"):
        names = one._fields if hasattr(one, "_fields") else [f.name for f in dataclasses.fields(one)]
        return [
            line
            for name in names
            if name not in leave
            for line in differences(getattr(one, name), getattr(other, name), f"{where}.{name}", leave=leave, by=by)
        ]
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return [f"{where}: {one.dtype}{list(one.shape)} and {other.dtype}{list(other.shape)}"]
        close = torch.isclose(one, other, rtol=by, atol=by, equal_nan=True) if one.is_floating_point() else one == other
        return [] if bool(close.all()) else [f"{where}: off by {(one - other).abs().max()}"]
    if isinstance(one, dict) or hasattr(one, "items"):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one))} and {sorted(map(str, other))}"]
        keys = [key for key in one if key not in leave]
        return [line for key in keys for line in differences(one[key], other[key], f"{where}[{key}]", leave=leave, by=by)]
    if isinstance(one, float):
        return [] if math.isclose(one, other, rel_tol=by, abs_tol=by) or one != one else [f"{where}: {one} and {other}"]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{where}[{i}]", leave=leave, by=by)]
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]
