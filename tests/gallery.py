"""Every plot, of results made by hand with as many layers, tokens and results as a test wants to see."""

from __future__ import annotations

import dataclasses
import math

import torch
from hand_made import origin, similarities, surprisal

import tl_entropy.plots as plots
from tl_entropy.analyses.profiles.distances import pairwise_distances
from tl_entropy.analyses.profiles.dynamics import layer_dynamics
from tl_entropy.analyses.profiles.embedding import profile_embedding
from tl_entropy.lenses.jacobian import JacobianLens
from tl_entropy.results import HeadEntropy, LayerDivergence, LensEntropy, LensSummary, SoftInformation, TokenCorrelation
from tl_entropy.results.models.comparison import ModelComparison
from tl_entropy.results.models.contrast import contrast
from tl_entropy.results.models.memory_sweep import MemorySweep
from tl_entropy.results.models.monitor import EntropyHistory
from tl_entropy.results.models.neurons import NeuronEffects
from tl_entropy.results.models.placebo import Placebo
from tl_entropy.results.models.sensitivity import Sensitivity
from tl_entropy.results.states.geometry import LayerGeometry
from tl_entropy.results.tokens.calibration import EntropyCalibration
from tl_entropy.results.tokens.features import Discrimination, SpanFeatures
from tl_entropy.results.tokens.reliance import TokenReliance
from tl_entropy.results.tokens.site_values import CONFIDENCE, Confidence, units_of
from tl_entropy.results.tokens.words import WordSurprisal
from tl_entropy.sites import expand_sites

WORDS = (" the", "def", "\n        ", " supercalifragilistic", "\ufffd", "x", " Tübingen", "import", "(", "\n\n")
STRINGS = {i: word if i < 10 else f"{word}{i}" for i in range(64) for word in [WORDS[i % 10]]}
STREAM = ("embed", "resid_post")
INSIDE = ("embed", "resid_mid", "attn_out", "mlp_out", "resid_post")


def names(n):
    """Of models: short ones and long ones."""
    return [f"maker-of-models/a-rather-long-model-name-{i}b-deduped" if i % 3 == 2 else f"model {i}" for i in range(n)]


def rows(tokens):
    """Two documents of as many tokens each."""
    return {
        "document": torch.arange(2).repeat_interleave(tokens),
        "position": torch.arange(tokens).repeat(2),
        "token": torch.arange(2 * tokens) % len(STRINGS),
        "strings": STRINGS,
        "names": {0: "a/path/to/some_module_of_the_corpus.py"},
    }


def draw(seed, *shape, low=0.0, high=1.0):
    """Numbers that a seed decides, between two others."""
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lens(layers, tokens, seed=0, *, site_names=STREAM, orders=(1.0,), high=True):
    """Entropies that fall a little with depth, from 7.3 to 6 nats, or over their whole range."""
    sites = expand_sites(site_names, layers)
    level = torch.linspace(7.2, 6.1, len(sites)) if high else torch.linspace(7.2, 0.3 + 0.1 * seed, len(sites))
    values = (level[:, None] + draw(seed, 2 * tokens, len(sites), len(orders), low=-0.1, high=0.1)).float()
    top = (draw(seed + 1, 2 * tokens, len(sites), 1) * 64).long()
    return LensEntropy(
        entropy=values, sites=sites, orders=orders, provenance=origin(f"model {seed}"), top_tokens=top,
        surprisal=(values[..., 0] + draw(seed + 2, *values.shape[:2])).float(), **rows(tokens),
    )  # fmt: skip


def summary(layers, tokens):
    """The sums of ``lens``."""
    of = lens(layers, tokens)
    n, s = float(tokens), of.entropy.double().unflatten(0, (2, tokens)).sum(1)
    sums = torch.stack([torch.full_like(s[0], 2 * n), s.sum(0), torch.full_like(s[0], 2 * n * n), n * s.sum(0), (s * s).sum(0)])
    counts = torch.zeros(*s.shape[1:], 4, dtype=torch.long)
    squares = of.entropy.double().square().sum(0)
    return LensSummary(of.sites, of.orders, 2 * tokens, 2, sums, squares, counts, math.log(50257), of.provenance)


def divergence(layers, tokens, seed=0, *, against="output", site_names=STREAM):
    """Divergences that fall to 0, with targets and top tokens."""
    sites, n = expand_sites(site_names, layers), 2 * tokens
    measured = sites[1:] if against == "previous" else sites
    values = draw(seed, n, len(measured), 2) * torch.linspace(4, 0.01, len(measured))[:, None]
    top = (draw(seed + 1, n, len(measured), 1) * 64).long()
    return LayerDivergence(
        divergence=values.float(), agreement=draw(seed + 3, n, len(measured)) < torch.linspace(0, 1, len(measured)),
        output_token=top[:, -1, 0], sites=measured, metrics=("jsd", "fisher_rao"), against=against, top_tokens=top,
        provenance=origin(f"model {seed}", sites=tuple(map(str, sites))), targets=tuple(range(6)),
        surprisal=values[..., 0].float(), rank=(values[..., 0] * 900).long(),
        target_surprisal=draw(seed, n, len(measured), 6).float(), target_rank=(draw(seed, n, len(measured), 6) * 4e4).long(),
        **rows(tokens),
    )  # fmt: skip


def dynamics(layers, tokens, seed=0):
    """Of these two, and of the steps."""
    plain = dataclasses.replace(lens(layers, tokens, seed, high=False), top_tokens=None)
    return layer_dynamics(plain, divergence(layers, tokens, seed), divergence(layers, tokens, seed, against="previous"))


def distances(tokens, n, layers=6, **options):
    """Between the profiles of n results."""
    profiles = {name: lens(layers, min(tokens, 50), seed, high=False) for seed, name in enumerate(names(n))}
    return pairwise_distances(profiles, metric="euclidean", progress=False, **options)


def soft(layers, seed=0, *, heads=False):
    """Soft information about four label sets, of 12 heads a layer or of the stream."""
    sites = expand_sites(("z",) if heads else STREAM, layers)
    places = [(site, head) for site in sites for head in (range(12) if heads else [-1])]
    shape, labels = (5, len(places), 4, 1), ("token", "bigram", "next_token", "next_bigram")
    depth = torch.linspace(0, 1, len(places), dtype=torch.float64)[None, :, None, None]
    near = {
        name: (level + bend * depth + 0.1 * draw(seed + i, 1, *shape[1:])) * (1 + 0.01 * draw(seed, *shape))
        for i, (name, level, bend) in enumerate(
            [
                ("entropy", 4.0, -0.5),
                ("plug_in", 1.2, 0.4),
                ("null", 0.2, 0.0),
                ("ceiling", 2.0, -0.3),
                ("information", 0.8, 0.3),
            ]
        )
    }
    return SoftInformation(
        sites=tuple(site for site, _ in places), heads=tuple(head for _, head in places), labels=labels,
        sides=("input", "input", "output", "output"), n_bins=(100,), seeds=(0,), **near,
        temperatures=torch.full((len(places), 1), 0.05, dtype=torch.float64), fold_tokens=torch.full((4, 4), 10.0),
        tokens=torch.tensor([40] * 4), coverage=torch.ones(4), classes=torch.tensor([5] * 4), singletons=torch.zeros(4),
        documents=4, provenance=origin(f"model {seed}"), corrected_ceiling=near["ceiling"][0], lower=near["information"][0],
        fold_jackknife=near["information"][0], in_two_folds=torch.ones(4),
    )  # fmt: skip


def head_entropy(layers, tokens):
    """Patterns of 12 heads a layer."""
    shape = (2 * tokens, layers, 12)
    return HeadEntropy(
        entropy=draw(0, *shape, 1, high=3), layers=tuple(range(layers)), heads=tuple(range(12)), orders=(1.0,), of="pattern",
        norm=None, provenance=origin("m"), visible=torch.full(shape[:2], 30), bos_share=draw(1, *shape),
        sink_share=draw(2, *shape), **rows(tokens),
    )  # fmt: skip


def history(layers, seed=0):
    """A training of seven measured steps."""
    sites, steps = expand_sites(STREAM, layers), torch.tensor([0, 1, 10, 100, 1000, 5000, 10000])
    entropy = 8 - torch.linspace(0, 4, 7, dtype=torch.float64)[:, None] + draw(seed, 7, len(sites))
    return EntropyHistory(
        steps=steps, entropy=entropy, entropy_se=0.02 * entropy, loss=entropy[:, -1] + 0.3, loss_se=0.02 * entropy[:, -1],
        sites=sites, tokens=99, loss_tokens=95, documents=4, provenance=origin(f"model {seed}"),
    )  # fmt: skip


def geometry(layers, seed=0):
    """Curvature along depth."""
    sites = expand_sites(STREAM, layers)
    values = 1.8 + 0.2 * draw(seed, 1, len(sites))
    return LayerGeometry(
        sites=sites, measures=("curvature",), values=values, errors=0.02 * values, by_document=draw(0, 0, 1, len(sites)),
        document=torch.zeros(0, dtype=torch.long), tokens=9, documents=2, order=1.0, provenance=origin(f"model {seed}"),
    )  # fmt: skip


def comparison(layers, tokens, n):
    """Of n models, each a block deeper than the one before."""
    depths = dict(zip(names(n), range(layers, layers + n), strict=True))
    lenses = {name: lens(depth, min(tokens, 50), i, high=False) for i, (name, depth) in enumerate(depths.items())}
    pairs = [(a, b) for i, a in enumerate(depths) for b in list(depths)[i + 1 :]]
    return ModelComparison(
        lenses=lenses, dynamics={name: dynamics(depth, 5, i) for i, (name, depth) in enumerate(depths.items())},
        distances=pairwise_distances(lenses, progress=False) if n > 1 else None,
        similarity={name: similarities(depth, depth, model=name) for name, depth in depths.items()},
        across={(a, b): similarities(depths[a], depths[b], model=a, other=b) for a, b in pairs}, notes=(),
    )  # fmt: skip


def reliance(tokens, sources, over="parts"):
    """Of one document on parts or on its own tokens."""
    n = tokens if over == "tokens" else sources
    values = draw(0, tokens, n, 2, low=-1)
    called = tuple(map(str, range(n))) if over == "tokens" else tuple(f"ablate_heads(({i}, 1), to=0)" for i in range(n))
    if over == "tokens":
        values[torch.arange(n) >= torch.arange(tokens)[:, None]] = math.nan
    parts = {name: value[:tokens] if isinstance(value, torch.Tensor) else value for name, value in rows(tokens).items()}
    return TokenReliance(
        values=values, sources=called, metrics=("kl", "loss"), units=("nats", "nats"), over=over,
        span=torch.full((tokens, 2), -1), provenance=origin("m"), **parts,
    )  # fmt: skip


def correlation(tokens):
    """Surprisals of two models."""
    x = draw(0, 2 * tokens, high=9)
    return TokenCorrelation(
        x=x, y=x + draw(1, 2 * tokens), quantities=("surprisal", "surprisal"), units=("nats", "nats"), slope=1.0,
        intercept=0.5, pearson=0.9, spearman=0.9, slope_error=0.01, intercept_error=0.01, pearson_error=0.01, left_out=0,
        on="y", how=None, provenance=origin(names(3)[2]), x_provenance=origin("model 0"), **rows(tokens),
    )  # fmt: skip


def site_values(layers, tokens, seed=0):
    """Confidence of every token at every site."""
    sites, measured = expand_sites(STREAM, layers), tuple(CONFIDENCE)
    return Confidence(
        values=draw(seed, 2 * tokens, len(sites), len(measured)), sites=sites, measured=measured, units=units_of(measured),
        span=torch.full((2 * tokens, 2), -1), provenance=origin(f"model {seed}"), **rows(tokens),
    )  # fmt: skip


def calibrated(steps, seed=0):
    """Costs of own and of given text of four documents."""
    own, entropy, given = (draw(seed + i, 4, steps, high=6) for i in range(3))
    return EntropyCalibration(
        own=own, entropy=entropy, given=given, document=torch.arange(4), prompt_tokens=8, provenance=origin(f"model {seed}")
    )


def all_of(one, n):
    """A result, or n of them by name."""
    return one(0) if n == 1 else {name: one(seed) for seed, name in enumerate(names(n))}


def changed(layers, tokens, seed=0):
    return contrast(
        lens(layers, tokens, 0), dataclasses.replace(lens(layers, tokens, seed + 1), provenance=origin(f"run {seed}"))
    )


def neuron_effects(n):
    """Of n candidates and twice as many placebos."""
    roles = ("entropy",) * (n - n // 2) + ("frequency",) * (n // 2) + ("placebo",) * (2 * n)
    sums = torch.cat([torch.ones(3 * n, 8, 1), 100 * torch.ones(3 * n, 8, 1), draw(5, 3 * n, 8, 13)], -1).double()
    pairs = torch.stack([torch.full((3 * n,), 31), 97 * torch.arange(3 * n)], 1)
    return NeuronEffects(
        neurons=pairs, roles=roles, activations=torch.zeros(3 * n), products=sums.mT @ sums, baseline=torch.ones(5, 3).double(),
        screened=pairs, weights=torch.zeros(3 * n, 4).double(), null_directions=2, provenance=origin("m"),
    )  # fmt: skip


def words(n_sites, n_words):
    """Words of two texts, read at so many sites beside the output."""
    rng, n = torch.Generator().manual_seed(0), 2 * n_words
    cost = 9 * torch.rand(n, n_sites + 1, generator=rng, dtype=torch.float64) + torch.linspace(0, 6, n_sites + 1).flip(0)
    place = torch.arange(n) % n_words
    return WordSurprisal(
        surprisal=cost, pieces=cost + 0.3, readings=("output", *(f"resid_post.{i}" for i in range(n_sites))),
        words=tuple(WORDS[i % len(WORDS)] for i in range(n)), document=torch.arange(n) // n_words, index=place,
        span=torch.stack([3 * place, 3 * place + 2], 1), position=torch.stack([place, place + 1], 1),
        n_words=torch.ones_like(place), n_tokens=torch.ones_like(place),
        frequency=torch.ones(n, dtype=torch.float64), provenance=origin("tiny"), items={},
    )  # fmt: skip


def discrimination(n_features):
    """Areas of so many features and of a probe."""
    n = n_features + 1
    area, se = draw(0, n, low=0.3, high=0.9), draw(1, n, low=0.02, high=0.05)
    return Discrimination(
        auroc=area, se=se, oriented=area, aurc=area, risk=draw(2, n, 20), p=area, p_any=area, null=draw(3, 50, high=0.2),
        probe_null=draw(4, 9), features=(*(f"entropy attn_out.{i}, mean" for i in range(n_features)), "probe"),
        coverages=tuple(i / 20 for i in range(1, 21)), n_tests=n, spans=(40, 20, 0), groups=10, provenance=origin("tiny"),
    )  # fmt: skip


def span_values(n_features, spans=12):
    """As many features of spans, every third of which is True."""
    place = torch.arange(spans)
    return SpanFeatures(
        values=draw(6, spans, n_features, high=8), features=tuple(f"entropy attn_out.{i}, mean" for i in range(n_features)),
        units=("nats",) * n_features, document=place, start=0 * place, end=0 * place + 1, tokens=0 * place + 1,
        provenance=origin("tiny"),
    ), [i % 3 == 0 for i in range(spans)]  # fmt: skip


def jacobian_lens(layers, seed=0):
    """Matrices that are the less the identity the earlier they are."""
    noise = draw(seed, layers, 4, 4, low=-1) * torch.linspace(1, 0, layers)[:, None, None]
    return JacobianLens((torch.eye(4) + noise).float(), tuple(range(layers)), 40, "memory")


PLANE = {"input": "token", "output": "next_token"}


def swept(n):
    """A causal model, and memories of 1 to n numbers."""
    sizes, tokens = torch.arange(n + 1), torch.full((8,), 64)
    nats = draw(9, 1 + n, 8) * 64
    return MemorySweep(
        nats, sizes, 4 * (sizes > 0), tokens, tokens // 32, tokens.double(), 100 * sizes, nats[:, 0], origin("m")
    )


def changes(layers, edits):
    """Sensitivities from 1e-4 to 1 nat a token."""
    sites = tuple(f"mlp_out.{i}" for i in range(layers))
    sums = 10 ** draw(5, edits, layers, 4, low=-4)
    return Sensitivity(sums, draw(1, 4), torch.ones(4).long(), tuple(f"int{2 + i}" for i in range(edits)), sites, origin("m"))


FIGURES = {
    "profile": lambda k, t, n: plots.profile(all_of(lambda i: lens(k, t, i), n)),
    "profile_low": lambda k, t, n: plots.profile(all_of(lambda i: lens(k, t, i, orders=(0.5, 1.0, 2.0), high=False), n)),
    "profile_inside": lambda k, t, n: plots.profile(all_of(lambda i: lens(k, t, i, site_names=INSIDE), min(n, 2))),
    "profile_ceiling": lambda k, t, n: plots.profile(summary(k, t), ceiling=True),
    "heatmap": lambda k, t, n: plots.heatmap(lens(k, t), document=0),
    "heatmap_inside": lambda k, t, n: plots.heatmap(lens(k, t, site_names=INSIDE), document=0),
    "heatmap_tops": lambda k, t, n: plots.heatmap(divergence(k, t), document=0, top_tokens=True),
    "lens_plane": lambda k, t, n: plots.lens_plane(all_of(lambda i: lens(k, t, i, high=False), n)),
    "divergences": lambda k, t, n: plots.divergences(all_of(lambda i: divergence(k, t, i), n)),
    "divergences_log": lambda k, t, n: plots.divergences(all_of(lambda i: divergence(k, t, i), n), log=True),
    "decisions": lambda k, t, n: plots.decisions(all_of(lambda i: divergence(k, t, i), n)),
    "settling": lambda k, t, n: plots.settling(all_of(lambda i: divergence(k, t, i), n), unit="bits"),
    "jacobian": lambda k, t, n: plots.jacobian(jacobian_lens(k), jacobian_lens(k, n)),
    "by_layer": lambda k, t, n: plots.by_layer(all_of(lambda i: site_values(k, t, i), n)),
    "calibration": lambda k, t, n: plots.calibration(all_of(lambda i: calibrated(t, i), n)),
    "targets": lambda k, t, n: plots.targets(divergence(k, t), document=0, position=-1),
    "information": lambda k, t, n: plots.information(all_of(lambda i: soft(k, i), min(n, 2)), ceiling=True),
    "information_plane": lambda k, t, n: plots.information_plane(all_of(lambda i: soft(k, i), n), **PLANE),
    "course": lambda k, t, n: plots.course({10**i - 1: soft(k, i) for i in range(5)}, label="token"),
    "heads": lambda k, t, n: plots.heads(head_entropy(k, t)),
    "heads_soft": lambda k, t, n: plots.heads(soft(k, heads=True), label="token"),
    "contrast": lambda k, t, n: plots.contrast(all_of(lambda i: changed(k, t, i), n), quantity="entropy"),
    "contrast_map": lambda k, t, n: plots.contrast_map(changed(k, t), quantity="entropy", document=0),
    "placebo": lambda k, t, n: plots.placebo(Placebo(draw(3, 1 + t, 8), ("edit",) * (1 + t), 0, origin("m"))),
    "sensitivity": lambda k, t, n: plots.sensitivity(changes(k, n)),
    "memory_sweep": lambda k, t, n: plots.memory_sweep(swept(n)),
    "neurons": lambda k, t, n: plots.neurons(neuron_effects(k)),
    "velocity": lambda k, t, n: plots.velocity(all_of(lambda i: dynamics(k, t, i), n)),
    "importance": lambda k, t, n: plots.importance(all_of(lambda i: dynamics(k, t, i), n)),
    "similarity": lambda k, t, n: plots.similarity(all_of(lambda i: similarities(k, k, against="output", model=f"m{i}"), n)),
    "similarity_matrix": lambda k, t, n: plots.similarity(similarities(k, k + 2, other="model 2")),
    "geometry": lambda k, t, n: plots.geometry(all_of(lambda i: geometry(k, i), n), measure="curvature"),
    "distances": lambda k, t, n: plots.distances(distances(t, max(n, 2), k)),
    "clusters": lambda k, t, n: plots.clusters(profile_embedding(distances(t, max(n, 2), k))),
    "comparison": lambda k, t, n: plots.comparison(comparison(min(k, 30), t, min(n, 4))),
    "monitor": lambda k, t, n: plots.monitor(history(k)),
    "token_text": lambda k, t, n: plots.token_text(surprisal([word.replace("\ufffd", "?") for word in WORDS] * (t // 10 + 1))),
    "token_correlation": lambda k, t, n: plots.token_correlation(correlation(t)),
    "words": lambda k, t, n: plots.words(words(k, t), document=0),
    "discrimination": lambda k, t, n: plots.discrimination(discrimination(3 * k)),
    "discrimination_risk": lambda k, t, n: plots.discrimination(discrimination(3 * k), of="risk"),
    "features": lambda k, t, n: plots.features(*span_values(3 * k)[: 1 if n == 1 else 2]),
    "words_of_sites": lambda k, t, n: plots.words(words(k, t)),
    "reliance": lambda k, t, n: plots.reliance(reliance(t, min(n, 8))),
    "reliance_map": lambda k, t, n: plots.reliance(reliance(t, n, "tokens"), metric="loss"),
}  # fmt: skip
"""By name, of so many layers, tokens and results."""
