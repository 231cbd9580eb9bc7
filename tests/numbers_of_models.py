"""Every function of ``tl_entropy`` that measures models: what ``all_numbers.py`` writes of them."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

import torch
from tiny_models import ARCHITECTURES, cached_model, kinds, make_model

import tl_entropy as tle

QUIET = {"progress": False}
ORDERS = (0.5, 1.0, 2.0, math.inf)
DIVERGENCES = ("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation")
CHANGES = ("l1", "l2", "maximum", "cosine", *DIVERGENCES, "loss", "entropy")
SITES = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1", "the", "dog and cat and dog and the mat sat, naïve 😀"]
LONG = "the cat sat on the mat, and the dog sat on the cat and the mat\n" * 4  # longer than the context of the tiny models
LABELS = ("token", "next_token")


def write_models(record):
    for name, kind, compatible in ARCHITECTURES:
        _tiny(record.fields, f"{name} {kind}{' compatible' * compatible}", cached_model(name, kind, compatible))
    for kind in kinds():
        _tiny(record.fields, f"gpt2 {kind} bfloat16", make_model("gpt2", kind, dtype=torch.bfloat16))
        _bundled(record, f"bundled {kind}", tle.demo_model(kind=kind))


def _tiny(fields, of, model):
    """What may differ from architecture to architecture."""
    for site in SITES:  # one by one, since not every model has them all
        fields(f"lens_entropy/{of}, {site}", tle.lens_entropy, model, TEXTS, sites=site, **QUIET)
    before = fields(f"lens_entropy/{of}", tle.lens_entropy, model, TEXTS, **QUIET)
    fields(
        f"lens_entropy/{of}, orders", tle.lens_entropy, model, [*TEXTS, LONG], orders=ORDERS, surprisal=True, top_k=3, **QUIET
    )
    fields(f"layer_divergence/{of}", tle.layer_divergence, model, TEXTS, metrics=DIVERGENCES, surprisal=True, **QUIET)
    fields(f"layer_divergence/{of}, previous", tle.layer_divergence, model, TEXTS, against="previous", **QUIET)
    fields(f"head_entropy/{of}", tle.head_entropy, model, TEXTS, orders=ORDERS, **QUIET)
    for norm in ("frozen", "recomputed"):
        fields(f"head_entropy/{of}, {norm}", tle.head_entropy, model, TEXTS, of="readout", norm=norm, **QUIET)
    for heads in (False, "z", "result"):
        fields(f"soft_information/{of}, {heads}", tle.soft_information, model, TEXTS, heads=heads, n_bins=12, **QUIET)
    fields(f"layer_similarity/{of}", tle.layer_similarity, model, TEXTS, against="all", **QUIET)
    fields(
        f"layer_similarity/{of}, matrix_renyi", tle.layer_similarity, model, TEXTS, method="matrix_renyi", permutations=3,
        **QUIET,
    )  # fmt: skip
    fields(f"layer_geometry/{of}", tle.layer_geometry, model, TEXTS, **QUIET)
    fields(f"token_surprisal/{of}", tle.token_surprisal, model, [*TEXTS, LONG], top_k=2, **QUIET)
    fields(f"conditional_entropy/{of}", tle.conditional_entropy, model, TEXTS, **QUIET)
    fields(f"head_means/{of}", tle.head_means, model, TEXTS, **QUIET)
    fields(f"site_means/{of}", tle.site_means, model, TEXTS, ("mlp_out", "resid_post"), **QUIET)
    for edit in _edits(model):
        named = f"{of}, {edit.name}"
        after = fields(f"lens_entropy/{named}", tle.lens_entropy, model, TEXTS, interventions=edit, **QUIET)
        fields(f"token_reliance/{named}", tle.token_reliance, model, TEXTS, edit, metrics=CHANGES, **QUIET)
        if after is not None:
            fields(f"contrast/{named}", tle.contrast, before, after)
    short = [text[:12] for text in TEXTS]  # of each token in turn
    fields(f"token_reliance/{of}, tokens", tle.token_reliance, model, short, "tokens", **QUIET)
    for quantity in ("loss", "l1", "entropy"):
        fields(f"gradient_reliance/{of}, {quantity}", tle.gradient_reliance, model, short, "embed", of=quantity, **QUIET)
    fields(f"gradient_reliance/{of}, z", tle.gradient_reliance, model, short, "z.1", heads=[0, 2], **QUIET)


def _edits(model):
    """Interventions of every kind."""
    d_model = int(model.cfg.d_model)
    yield tle.ablate_heads([(0, 1), (1, 0)])
    yield tle.ablate_neurons([(0, 1), (1, 0)])
    yield tle.ablate("mlp_out.1")
    yield tle.steer(torch.linspace(-1, 1, d_model), layer=1, scale=2.0)
    yield tle.occlude("resid_post.0", [1, -1])
    yield tle.occlude("z.1", slice(0, 2), heads=1)
    yield tle.quantize("resid_post.0", "int4")
    yield tle.add_noise("mlp_out.0", 0.1)
    yield tle.mask_attention(1)
    yield tle.mask_attention(0, layers=1, heads=[0, 1])


def _bundled(record, of, model):
    """Every function with its main options."""
    texts = [text[:300] for text in tle.demo_texts(4)]
    lens = _entropies(record, of, model, texts)
    output, previous = _divergences(record, of, model, texts)
    _inputs(record, of, model, texts)
    _heads(record, of, model, texts)
    _information(record, of, model, texts)
    _states(record, of, model, texts)
    _profiles(record, of, lens, output, previous)
    _token_results(record, of, model, texts)
    _accumulators(record, of, model, texts)
    _training(record, of, model, texts)
    if "hooked" in of:  # a Bridge leaves it to transformers, some versions of which stop it from working
        for temperature in (0.0, 0.8):
            record(
                f"lens_entropy/{of}, generated at {temperature}", tle.lens_entropy, model, [text[:60] for text in texts],
                max_new_tokens=4, temperature=temperature, surprisal=True, **QUIET,
            )  # fmt: skip


def _entropies(record, of, model, texts):
    whole = record(f"lens_entropy/{of}", tle.lens_entropy, model, texts, orders=ORDERS, surprisal=True, top_k=2, **QUIET)
    for name, options in {
        "all sites": {"sites": SITES, "layers": [0, 3]},
        "one site": {"sites": "resid_post.3"},
        "tuned": {"lens": tle.demo_lens()},
        "own lens": {"lens": lambda site, rows: rows * 0.5},
        "bfloat16 product": {"precision": "bfloat16"},
        "summary": {"keep": "summary", "orders": ORDERS},
    }.items():
        record(f"lens_entropy/{of}, {name}", tle.lens_entropy, model, texts, **options, **QUIET)
    summary = tle.lens_entropy(model, texts, keep="summary", **QUIET)
    record(f"lens_entropy/{of}, quantiles", summary.quantile, [0, 0.1, 0.5, 1])
    record(f"lens_entropy/{of}, surprisal's profile", whole.mean_profile, of="surprisal")
    record(
        f"lens_entropy/{of}, a part",
        whole.select,
        sites=("embed", "resid_post"),
        layers=5,
        orders=2,
        documents=[0, 2],
        positions=slice(-4, None),
    )
    return whole


def _divergences(record, of, model, texts):
    found = {}
    for against in ("output", "previous", "resid_post.2"):
        found[against] = record(
            f"layer_divergence/{of}, {against}", tle.layer_divergence, model, texts, metrics=DIVERGENCES, against=against,
            surprisal=True, targets=(" self", 7), top_k=2, **QUIET,
        )  # fmt: skip
        record(
            f"layer_divergence/{of}, {against}, summary", tle.layer_divergence, model, texts, metrics=DIVERGENCES,
            against=against, keep="summary", **QUIET,
        )  # fmt: skip
    for weights in (False, True):
        record(
            f"sensitivity/{of}, weights {weights}", tle.sensitivity, model, texts, ["int4"], layers=-1, weights=weights, **QUIET
        )
    record(f"neurons/{of}", tle.neurons, model, texts, layers=[1, -1], candidates=1, placebos=1, **QUIET)
    record(f"placebo/{of}", tle.placebo, model, texts, tle.ablate_heads([(3, 1)]), _losses, n=2)
    directions = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    record(f"read_direction/{of}", tle.read_direction, model, directions, lens=tle.demo_lens(), site="resid_post.3")
    record(f"layer_divergence/{of}, tuned", tle.layer_divergence, model, texts, lens=tle.demo_lens(), **QUIET)
    return found["output"], found["previous"]


def _inputs(record, of, model, texts):
    """The same through every door, and every cut."""
    tokens = model.to_tokens(texts[0])[:, :40]
    two = torch.cat([tokens, tokens.flip(1)])
    mask = torch.ones_like(two)
    mask[1, :5] = 0
    _, cache = model.run_with_cache(tokens)
    with tempfile.TemporaryDirectory() as folder:
        for i, text in enumerate(texts):
            (Path(folder) / f"{i}.py").write_text(text, encoding="utf-8")
        doors = {
            "text": texts[0], "generator": iter(texts), "tokens": two, "tokens and mask": (two, mask), "one row": two[1],
            "cache": (cache, tokens), "rows": [{"text": text} for text in texts], "empty": ["", texts[0]],
        }  # fmt: skip
        for name, inputs in doors.items():
            record(f"lens_entropy/{of}, of {name}", tle.lens_entropy, model, inputs, surprisal=True, **QUIET)
    for name, options in {
        "batches of 1": {"batch_size": 1},
        "batches of 3": {"batch_size": 3},
        "windows": {"window": 32},
        "strides": {"window": 32, "stride": 8},
        "no BOS": {"prepend_bos": False},
        "BOS": {"prepend_bos": True},
        "special": {"prepend_bos": True, "include_special": True},
        "one position": {"positions": -1},
        "positions": {"positions": [0, 3, -2]},
        "a slice": {"positions": slice(2, -2, 3)},
    }.items():
        record(f"lens_entropy/{of}, {name}", tle.lens_entropy, model, texts, surprisal=True, **options, **QUIET)
        record(f"token_surprisal/{of}, {name}", tle.token_surprisal, model, texts, **options, **QUIET)


def _heads(record, of, model, texts):
    for name, options in {
        "pattern": {"orders": ORDERS},
        "readout": {"of": "readout", "layers": [1, 4]},
        "recomputed": {"of": "readout", "norm": "recomputed", "layers": [1, 4]},
    }.items():
        whole = record(f"head_entropy/{of}, {name}", tle.head_entropy, model, texts, **options, **QUIET)
        summary = record(
            f"head_entropy/{of}, {name}, summary", tle.head_entropy, model, texts, keep="summary", **options, **QUIET
        )
        if name == "pattern":
            for quantity in ("normalized", "bos_share", "sink_share"):
                record(f"head_entropy/{of}, {quantity}", whole.mean_profile, quantity)
                record(f"head_entropy/{of}, {quantity}, summary", summary.mean_profile, quantity)
    means = record(f"head_means/{of}", tle.head_means, model, texts, layers=[0, 3], **QUIET)
    places = record(f"site_means/{of}", tle.site_means, model, texts, ("z.1", "resid_post.2"), **QUIET)
    for name, edit in {
        "heads to means": tle.ablate_heads([(0, 1), (3, 5)], means=means),
        "z to means": tle.occlude("z.1", [0, -1], means=places),
        "stream to means": tle.occlude("resid_post.2", [0, -1], means=places),
        "a hook": ("blocks.1.hook_mlp_out", lambda activation, hook: activation * 0.5),
        "a hook at positions": ("blocks.1.hook_mlp_out", tle.AtPositions(-1, lambda x, hook, cells: x * ~cells[..., None])),
    }.items():
        record(f"lens_entropy/{of}, {name}", tle.lens_entropy, model, texts, interventions=edit, **QUIET)


def _information(record, of, model, texts):
    labels = {
        "document": ["a", "b", "a", "b"], "token": "token", "four": tle.ngram(4), "next": tle.ngram(2, "output"),
        "even": lambda tokens: tokens % 2, "position": "position",
        "word": tle.span_labels(lambda text: [(*word.span(), "word") for word in re.finditer(r"\w+", text)], outside="none"),
    }  # fmt: skip
    plan = record(f"label_plan/{of}", tle.label_plan, model, texts, labels=labels, valid="own")
    for name, options in {
        "labels": {"labels": labels, "valid": "own"},
        "plan": {"labels": plan, "valid": "own", "keep_labels": True, "folds": 2},
        "heads": {"heads": True, "layers": [1, 4], "n_bins": 20},
        "draws": {"n_bins": (10, 30), "seed": (0, 3), "layers": [2]},
        "centred": {"center": True, "layers": [2]},
        "leading order": {"calibration": "leading_order", "layers": [2]},
        "all sites": {"sites": SITES, "layers": [3]},
        "no folds": {"folds": 1, "layers": [3]},
    }.items():
        result = record(
            f"soft_information/{of}, {name}", tle.soft_information, model, texts, **{"n_bins": 40, **options}, **QUIET
        )
        for quantity in ("share", "efficiency", "regularity"):
            record(f"soft_information/{of}, {name}, {quantity}", result.value, quantity)
            record(f"soft_information/{of}, {name}, {quantity}'s error", result.error, quantity)
        if name == "plan":
            record(f"soft_information/{of}, optimality", result.optimality, "token", "next")
            record(f"soft_information/{of}, single labels", result.label_table, "token")


def _states(record, of, model, texts):
    tiny = cached_model("gpt2", kinds()[0])
    for name, options in {
        "output": {},
        "all": {"against": "all"},
        "one": {"against": "resid_post.2"},
        "biased": {"debiased": False},
        "minibatch": {"estimator": "minibatch", "against": "all"},
        "without massive": {"massive": "drop"},
        "normalised": {"massive": "normalise"},
        "documents": {"rows": "documents"},
        "another model": {"other": tiny, "rows": "documents", "against": "all"},
        "itself": {"other": model, "against": "all", "layers": [0, 5]},
        "matrix_renyi": {"method": "matrix_renyi", "n_samples": 100, "permutations": 3},
        "neighbours": {"method": "neighbours", "n_samples": 100, "against": "all", "k": 4},
        "matrix_renyi of order 2": {"method": "matrix_renyi", "order": 2.0, "permutations": 2, "layers": [2], "seed": 4},
    }.items():
        record(f"layer_similarity/{of}, {name}", tle.layer_similarity, model, texts, **options, **QUIET)
    halves = [text[:150] for text in texts] + [text[150:] for text in texts]
    for name, options in {
        "whole": {},
        "labels": {"labels": [0, 1, 2, 3] * 2},
        "by length, order 2": {"order": 2.0, "normalise": "length", "measures": ("prompt_entropy", "dataset_entropy")},
        "a sample": {"measures": "two_nn", "n_samples": 100, "seed": 3},
    }.items():
        record(f"layer_geometry/{of}, {name}", tle.layer_geometry, model, halves, **options, **QUIET)


def _profiles(record, of, lens, output, previous):
    record(f"layer_dynamics/{of}", tle.layer_dynamics, lens, output, previous, order=1.0)
    record(f"layer_dynamics/{of}, curve", tle.layer_dynamics, lens, order=2.0, n_bins=20, folds=3)
    parts = {str(i): lens.select(documents=i) for i in range(4)}
    for metric in ("jsd", "wasserstein", "fisher_rao", "srvf", "elastic_srvf", "euclidean"):
        record(f"profile_distance/{of}, {metric}", tle.profile_distance, parts["0"], parts["1"], metric=metric, order=1.0)
        far = record(f"pairwise_distances/{of}, {metric}", tle.pairwise_distances, parts, metric=metric, order=1.0, **QUIET)
        record(f"profile_embedding/{of}, {metric}", tle.profile_embedding, far)
        record(f"pairwise_distances/{of}, {metric}, clusters", far.clusters, 2, "complete")
    record(f"profile_embedding/{of}, tsne", tle.profile_embedding, far, method="tsne", seed=1, perplexity=1.0)
    deeper = lens.select(sites=("embed", "resid_post"), layers=slice(3))
    for aggregate in ("max", "sum"):
        record(f"profile_distance/{of}, {aggregate}", tle.profile_distance, lens, deeper, aggregate=aggregate, order=2.0)


def _token_results(record, of, model, texts):
    found = record(f"token_surprisal/{of}", tle.token_surprisal, model, texts, top_k=3, **QUIET)
    record(f"token_surprisal/{of}, summary", tle.token_surprisal, model, texts, keep="summary", **QUIET)
    record(f"token_surprisal/{of}, with a memory", found.rates, memory_bits=100.0, memory_tokens=10)
    with_words = tle.token_surprisal(model, texts, words=True, sites="resid_post", **QUIET)
    record(f"word_surprisal/{of}", with_words.word_surprisal, final=True)
    for name, options in {
        "output": {},
        "stream": {"sites": ("embed", "resid_post"), "top_k": 3},
        "summary": {"keep": "summary"},
    }.items():
        record(f"confidence/{of}, {name}", tle.confidence, model, texts, **options, **QUIET)
    record(f"entropy_calibration/{of}", tle.entropy_calibration, model, texts, prompt_tokens=8, steps=4, temperature=0, **QUIET)
    record(f"unigram_distance/{of}", tle.unigram_distance, model, texts, **QUIET)
    parts = record(f"span_features/{of}", tle.span_features, found, how=("mean", "max", "first"))
    truths = [i % 2 == 0 for i in range(len(parts.document))]
    if len(truths) > 3:
        record(f"discriminate/{of}", tle.discriminate, parts, truths, folds=2, shuffles=10, refits=1)
    tiny = tle.token_surprisal(cached_model("gpt2", kinds()[0]), texts, **QUIET)
    for how in ("sum", "mean"):
        record(f"align_tokens/{of}, {how}", tle.align_tokens, found, tiny, of=("surprisal", "entropy"), how=how)
        record(f"token_correlation/{of}, {how}", tle.token_correlation, found, tiny, how=how, folds=3)
    record(f"token_correlation/{of}, of two", tle.token_correlation, found, found, of=("surprisal", "entropy"))
    short = [text[:60] for text in texts]
    heads = {"one head": tle.ablate_heads([(1, 2)]), "layer": [tle.ablate("mlp_out.2"), tle.ablate("attn_out.2")]}
    record(f"token_reliance/{of}", tle.token_reliance, model, short, heads, metrics=CHANGES, **QUIET)
    masked = record(f"token_reliance/{of}, tokens", tle.token_reliance, model, short, "tokens", **QUIET)
    record(f"token_reliance/{of}, matrix", masked.matrix, "kl", 1)
    record(f"gradient_reliance/{of}", tle.gradient_reliance, model, short, "resid_post.1", **QUIET)
    record(f"conditional_entropy/{of}", tle.conditional_entropy, model, short, **QUIET)
    record(f"conditional_entropy/{of}, windows", tle.conditional_entropy, model, short, window=12, **QUIET)
    record(
        f"conditional_entropy/{of}, pad_shift", tle.conditional_entropy, model, short, method="pad_shift", window=24, **QUIET
    )


def _accumulators(record, of, model, texts):
    """Several on one pass, and of two halves of a corpus, merged."""
    plan = tle.label_plan(model, texts, labels=LABELS)
    kinds_of = {
        "lens": lambda first: tle.LensAccumulator(model, surprisal=True),
        "divergence": lambda first: tle.DivergenceAccumulator(model, keep="summary"),
        "heads": lambda first: tle.HeadAccumulator(model, keep="summary"),
        "cka": lambda first: tle.CKAAccumulator(model, against="all"),
        "matrix": lambda first: tle.MatrixAccumulator(model, permutations=2, n_samples=60, first_document=first),
        "neighbours": lambda first: tle.NeighbourAccumulator(model, n_samples=60, first_document=first),
        "geometry": lambda first: tle.GeometryAccumulator(model, first_document=first),
        "surprisal": lambda first: tle.SurprisalAccumulator(model),
        "confidence": lambda first: tle.ConfidenceAccumulator(model, sites="resid_post"),
        "unigram": lambda first: tle.UnigramAccumulator(model, torch.arange(model.cfg.d_vocab)),
        "reliance": lambda first: tle.RelianceAccumulator(model, tle.ablate("mlp_out.1")),
        "gradients": lambda first: tle.GradientRelianceAccumulator(model, "embed"),
    }
    short = [text[:40] for text in texts]  # a pass back for each of their tokens
    whole, start, end = ([make(first) for make in kinds_of.values()] for first in (0, 0, 2))
    for part, cut in ((whole, slice(0, 4)), (start, slice(0, 2)), (end, slice(2, 4))):
        tle.stream(model, texts[cut], part[:-1], batch_size=1, **QUIET)
        tle.stream(model, short[cut], part[-1:], batch_size=1, **QUIET)
    for name, one, other, rest in zip(kinds_of, whole, start, end, strict=True):
        record(f"stream/{of}, {name}", one.compute)
        other.merge(rest)
        record(f"stream/{of}, {name}, merged", other.compute)
    soft = tle.SoftAccumulator(model, plan, n_bins=20)
    report = tle.stream(model, texts, [soft], batch_size=2, **QUIET)
    record(f"stream/{of}, soft", soft.compute)
    record(f"stream/{of}, report", report.counts)


def _training(record, of, model, texts):
    name, kind = "gpt2", "hooked" if "hooked" in of else "bridge"
    tiny = make_model(name, kind)
    trained = record(
        f"train_tuned_lens/{of}", tle.train_tuned_lens, tiny, [*TEXTS, LONG], steps=4, tokens_per_step=30, validation=TEXTS,
        **QUIET,
    )  # fmt: skip
    record(f"lens_entropy/{of}, trained lens", tle.lens_entropy, tiny, TEXTS, lens=trained, **QUIET)
    record(f"demo_lens/{of}", tle.demo_lens)
    monitor = tle.EntropyMonitor(tiny, TEXTS, every=2)
    optimizer = torch.optim.SGD(tiny.parameters(), lr=0.1)
    for step in range(4):
        monitor(step)
        tiny(tiny.to_tokens(LONG[:40]), return_type="loss").backward()
        optimizer.step()
        optimizer.zero_grad()
    record(f"EntropyMonitor/{of}", lambda: monitor.history)
    both = {"bundled": model, "tiny": cached_model(name, kind), "edited": tiny}
    for distance in ("jsd", "srvf"):
        record(
            f"compare_models/{of}, {distance}", tle.compare_models, both, [t[:120] for t in texts], distance=distance, **QUIET
        )


def _losses(model, inputs, interventions):
    return tle.token_surprisal(model, inputs, interventions=interventions, **QUIET).per_document()["loss"]
