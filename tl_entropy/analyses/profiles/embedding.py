"""Maps of entropy profiles in the plane, from their distances: principal coordinates, t-SNE, UMAP.

Principal coordinates (classical scaling) keep distances as well as a plane can: with D the distances and J = 1 - 1/n, they are
the eigenvectors of -½·J·D²·J times the roots of their eigenvalues (J. Gower, Some distance properties of latent root and vector
methods, 1966). t-SNE (scikit-learn) and UMAP (umap-learn) keep neighbours.

Refused: distances that are all 0; fewer than 4 profiles for t-SNE and UMAP, whose neighbourhoods need some.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, check_number
from tl_entropy.results.profiles.distances import PairwiseDistances
from tl_entropy.results.profiles.embedding import Method, ProfileEmbedding
from tl_entropy.torch_state import steady

FEWEST = 4  # profiles for t-SNE and UMAP
DEFAULTS: dict[str, float] = {"seed": 0, "perplexity": 30.0, "n_neighbors": 15, "min_dist": 0.1}
OPTIONS: dict[str, tuple[str, ...]] = {"pca": (), "tsne": ("seed", "perplexity"), "umap": ("seed", "n_neighbors", "min_dist")}


@steady
def profile_embedding(
    distances: PairwiseDistances,
    *,
    method: Method = "pca",
    seed: int = 0,
    perplexity: float = 30.0,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
) -> ProfileEmbedding:
    """A map of entropy profiles in the plane, from their distances.

    For the metric "euclidean" principal coordinates are PCA of the features, divided by the root of their number. Of the JSD
    all methods take the root, which is a metric where the JSD is not (strictly so only for bins that are the same for all
    pairs). The entry of a principal axis that is farthest from 0 is positive.

    Args:
        distances: what ``pairwise_distances`` returned.
        method: "pca"; "tsne" and "umap" need ``pip install 'tl-entropy[clusters]'``.
        seed: of "tsne" and "umap".
        perplexity: of "tsne", the effective number of neighbours; where it is more, (profiles - 1) / 3 is taken.
        n_neighbors: of "umap"; where it is more, profiles - 1 is taken.
        min_dist: of "umap", how near points may lie, from 0 to 1.

    Returns:
        ``ProfileEmbedding``; ``settings`` says what was taken.

    Raises:
        InputError: an unknown method, an option that belongs to another or is out of range, distances that are all 0, fewer
            than 4 profiles for "tsne" and "umap".
        InputTypeError: something that is no ``PairwiseDistances``, or an option that is no number.
        ImportError: the library that a method needs is not installed.

    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.profiles.distances import pairwise_distances
    >>> result = tle.lens_entropy(tle.demo_model(), ["import os", "def f(x):"], progress=False)
    >>> profile_embedding(pairwise_distances(result, metric="euclidean")).axis_names
    ('PC 1 (100 %)', 'PC 2 (0 %)')
    """
    if not isinstance(distances, PairwiseDistances):
        raise InputTypeError(f"distances must be what pairwise_distances returned; got {type(distances).__name__}")
    check_choice("method", method, OPTIONS)
    seed = check_int("seed", seed, 0, 2**32 - 1)
    n_neighbors = check_int("n_neighbors", n_neighbors, 2)
    perplexity = check_number("perplexity", perplexity, 1)
    min_dist = check_number("min_dist", min_dist, 0, 1)
    given = {"seed": seed, "perplexity": perplexity, "n_neighbors": n_neighbors, "min_dist": min_dist}
    for name, value in given.items():
        if name not in OPTIONS[method] and value != DEFAULTS[name]:
            raise InputError(f"{name} is not an option of method={method!r}, which has {', '.join(OPTIONS[method]) or 'none'}")
    if not bool(distances.distances.any()):
        raise InputError("distances are all 0; there is nothing to tell the profiles apart")
    n = len(distances.names)
    if method != "pca" and n < FEWEST:
        raise InputError(f"method={method!r} needs at least {FEWEST} profiles; got {n}: use 'pca'")
    far = distances.distances.sqrt() if distances.metric == "jsd" else distances.distances
    explained = negative = None
    settings: dict[str, float] = {}
    if method == "pca":
        coordinates, explained, negative = _principal(far)
    elif method == "tsne":
        settings = {"perplexity": float(min(perplexity, (n - 1) / 3))}
        coordinates = _tsne(far, seed, settings)
    else:
        settings = {"n_neighbors": min(n_neighbors, n - 1), "min_dist": float(min_dist)}
        coordinates = _umap(far, seed, settings)
    return ProfileEmbedding(
        coordinates=coordinates, names=distances.names, groups=distances.groups, method=method, metric=distances.metric,
        aggregate=distances.aggregate, order=distances.order, tokens=distances.tokens, explained=explained, negative=negative,
        seed=None if method == "pca" else seed, settings=settings, provenance=distances.provenance, unit=distances.unit,
        features=distances.features,
    )  # fmt: skip


def _principal(far: Tensor) -> tuple[Tensor, tuple[float, float], float]:
    """Principal coordinates [profile, 2], the shares of both axes, and that of negative eigenvalues."""
    squares = far**2
    inner = -(squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean()) / 2
    values, vectors = torch.linalg.eigh(inner)
    values, vectors = values.flip(0), vectors.flip(1)[:, :2]
    # Of entries that are as far from 0 as any, but for rounding, the first decides.
    farthest = (vectors.abs() > (1 - 1e-9) * vectors.abs().amax(0)).int().argmax(0)
    vectors = vectors * vectors.gather(0, farthest[None]).sign()
    total = values.abs().sum()
    first, second = (values[:2].clamp_min(0) / total).tolist()
    return vectors * values[:2].clamp_min(0).sqrt(), (first, second), float(-values.clamp_max(0).sum() / total)


def _tsne(far: Tensor, seed: int, settings: Mapping[str, float]) -> Tensor:
    method = _library("sklearn.manifold", "scikit-learn").TSNE(
        metric="precomputed", init="random", random_state=seed, **settings
    )
    return torch.from_numpy(method.fit_transform(far.numpy())).double()


def _umap(far: Tensor, seed: int, settings: Mapping[str, float]) -> Tensor:
    with warnings.catch_warnings():
        # TensorFlow is not needed here, and no new points are to be mapped.
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        warnings.filterwarnings("ignore", "using precomputed metric", UserWarning)
        method = _library("umap", "umap-learn").UMAP(metric="precomputed", random_state=seed, n_jobs=1, **settings)
        threads = torch.get_num_threads()
        try:
            return torch.from_numpy(method.fit_transform(far.numpy())).double()
        finally:
            torch.set_num_threads(threads)  # which is another one after numba has computed


def _library(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this method needs {name}: pip install 'tl-entropy[clusters]'") from error
