"""Figures of layer dynamics, of the similarity and geometry of states, and of profiles; ``make.py`` draws them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import tl_entropy as tle
from tl_entropy.demo.train import build_model

SMALL = False
"""Whether figures are drawn of little, which ``make.py --small`` asks for: to see that they can be, not to be looked at."""


def much(whole: int, little: int) -> int:
    """How much is taken, of characters or of steps: the whole, or little of it."""
    return little if SMALL else whole


def modules() -> dict[str, str]:
    """The held-out modules that are read, by name: all, or two."""
    return dict(list(zip(tle.demo_names(), tle.demo_texts(), strict=True))[: much(30, 2)])


def beginning(text: str) -> str:
    """As much of it as a window of the model holds, or half of that."""
    return text[: much(1000, 600)]


def beginnings() -> list[str]:
    """The beginnings of the modules that are read."""
    return list(map(beginning, modules().values()))


def pieces() -> tuple[list[str], list[str]]:
    """Four pieces of every held-out module, or two, and the module that each is of."""
    found = [(beginning(text[start:]), name) for name, text in modules().items() for start in range(0, much(4000, 2000), 1000)]
    return [text for text, _ in found], [name for _, name in found]


@cache
def untrained() -> Any:
    """The bundled model's architecture and tokenizer, with weights drawn at random."""
    with tempfile.TemporaryDirectory() as folder:
        build_model(seed=0).save_pretrained(folder)
        tle.demo_model().tokenizer.save_pretrained(folder)
        return tle.load_model(folder)


@cache
def dynamics(model: Any) -> Any:
    """Layer dynamics of the beginnings, of both families."""
    return tle.layer_dynamics(
        tle.lens_entropy(model, beginnings(), progress=False),
        tle.layer_divergence(model, beginnings(), progress=False),
        tle.layer_divergence(model, beginnings(), against="previous", progress=False),
    )


def velocity_plane(model: Any) -> Axes:
    """Entropy against how far each layer moves the prediction."""
    return tle.plots.velocity(dynamics(model))


def layer_importance(model: Any) -> Axes:
    """What each layer does, in the bundled model and in one that was never trained."""
    return tle.plots.importance({"trained": dynamics(model), "untrained": dynamics(untrained())})[0]


def layer_similarity(model: Any) -> Axes:
    """Debiased CKA of every pair of layers."""
    return tle.plots.similarity(tle.layer_similarity(model, beginnings(), against="all", progress=False))


def layer_information(model: Any) -> Axes:
    """What each layer shares with the output, beyond chance: matrix-based information (DiME), trained and not."""
    models = {"trained": model, "untrained": untrained()}
    return tle.plots.similarity(
        {name: tle.layer_similarity(m, beginnings(), method="matrix_renyi", progress=False) for name, m in models.items()}
    )


def neighbour_overlap(model: Any) -> Axes:
    """Share of each token's nearest neighbours that stay so from one layer to another."""
    found = tle.layer_similarity(model, beginnings(), method="neighbours", against="all", progress=False)
    return tle.plots.similarity(found)


def layer_by_layer(model: Any) -> Axes:
    """The measures of Layer by Layer over depth, of the bundled model and of one that was never trained."""
    texts, names = pieces()
    models = {"trained": model, "untrained": untrained()}
    results = {name: tle.layer_geometry(m, texts, labels=names, progress=False) for name, m in models.items()}
    measures = [name for name in results["trained"].measures if name != "normalized_prompt_entropy"]
    _, grid = plt.subplots(2, 4, figsize=(11.5, 5), layout="constrained")
    for measure, ax in zip(measures, grid.flat, strict=True):
        tle.plots.geometry(results, measure=measure, ax=ax)
        if ax is not grid[0, 0]:
            ax.get_legend().remove()
    return grid[0, 0]


def models_compared(model: Any) -> Axes:
    """The bundled model beside one that was never trained, in one call."""
    models = {"trained": model, "untrained": untrained()}
    return tle.plots.comparison(tle.compare_models(models, beginnings()[:8], progress=False))[0]


def profile_distances(model: Any) -> Axes:
    """How far the entropy profiles of texts are from each other, in the order of their hierarchy."""
    result = tle.lens_entropy(model, beginnings(), progress=False)
    named = dataclasses.replace(result, names={i: name.removesuffix(".py") for i, name in enumerate(modules())})
    return tle.plots.distances(tle.pairwise_distances(named, metric="wasserstein", progress=False))


def profile_map(model: Any) -> Axes:
    """Entropy profiles of two pieces of every module, its beginning and its middle, in two dimensions."""
    parts = {"beginning": beginnings(), "middle": [beginning(text[len(text) // 2 :]) for text in modules().values()]}
    result = tle.lens_entropy(model, [text for texts in parts.values() for text in texts], progress=False)
    groups = [part for part, texts in parts.items() for _ in texts]
    found = tle.pairwise_distances(result, metric="euclidean", groups=groups, progress=False)
    return tle.plots.clusters(tle.profile_embedding(found))


FIGURES: dict[str, Callable[[Any], Axes]] = {
    "velocity_plane": velocity_plane,
    "layer_importance": layer_importance,
    "layer_similarity": layer_similarity,
    "layer_information": layer_information,
    "neighbour_overlap": neighbour_overlap,
    "layer_by_layer": layer_by_layer,
    "models_compared": models_compared,
    "profile_distances": profile_distances,
    "profile_map": profile_map,
}
