"""Several models on the same inputs: entropies, layer dynamics, distances between the models, similarity of their layers.

Every model makes one pass of its own, from which come its lens entropies, the divergences of every layer from the output and
from the layer before, and the similarity of all its layers to each other; a pair of models makes another, since their states
have to be seen side by side. Models may differ in depth, width and vocabulary: entropy profiles are compared on relative
depth, and layers of models that do not read the same tokens over documents, each the mean of its states.

Refused: inputs that can be read only once, since they are read several times; token ids that are other texts to another of
the models; an ActivationCache or interventions, which are of one model; sites that are no states of the residual stream.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Unpack, cast, get_args

import torch
from torch import Tensor

from tl_entropy.analyses.lens.divergence import DivergenceAccumulator
from tl_entropy.analyses.lens.entropy import LensAccumulator
from tl_entropy.analyses.lens.reading import Over
from tl_entropy.analyses.measuring import measure_all
from tl_entropy.analyses.profiles.distances import pairwise_distances
from tl_entropy.analyses.profiles.dynamics import layer_dynamics
from tl_entropy.analyses.states.cka import CKAAccumulator, Estimator
from tl_entropy.analyses.states.paired_states import Massive, check_shared_tokens
from tl_entropy.analyses.states.similarity import layer_similarity
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.documents import Rereadable
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.inputs import repeatable
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import (
    InputError,
    InputTypeError,
    NonFiniteError,
    TLEntropyError,
    check_choice,
    check_order,
    is_iterable,
    keeping,
    printable,
)
from tl_entropy.functional.lens.comparison import METRICS, Metric
from tl_entropy.functional.profiles.curves import elastic_srvf_distance
from tl_entropy.functional.states.similarity import MIN_ROWS
from tl_entropy.results.lens.entropy import LensEntropy
from tl_entropy.results.lens.settling import STREAM_SITES
from tl_entropy.results.models.comparison import ModelComparison
from tl_entropy.results.profiles.distances import Metric as Distance, PairwiseDistances
from tl_entropy.results.profiles.dynamics import LayerDynamics
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady


@steady
def compare_models(
    models: Mapping[str, Any],
    inputs: Any,
    *,
    order: float = 1.0,
    metrics: Metric | Sequence[Metric] = ("jsd", "fisher_rao"),
    distance: Distance = "jsd",
    similarity: Literal["cka"] | None = "cka",
    estimator: Estimator = "exact",
    massive: Massive = "keep",
    sites: str | Sequence[str | Site] = ("embed", "resid_post"),
    layers: Layers | None = None,
    vocabulary: Over = "model",
    positions: int | slice | Sequence[int] | None = None,
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> ModelComparison:
    r"""Measure several models on the same inputs, and how far they are from each other.

    Of every model: lens entropies (``lens_entropy``), what each layer does (``layer_dynamics``), and how similar its layers are
    to each other (``layer_similarity``). Of all: distances between their entropy profiles (``pairwise_distances``). Of every
    pair: how similar each layer of the one is to each of the other. All of it equals what those functions give.

    States are compared token by token where two models read the same tokens in the same windows, and otherwise document by
    document, each the mean of its states over its own tokens: which of the two, the result says. A pair that cannot be
    compared, such as one of other tokens over fewer than 4 documents, is left out, and the result says so, too; likewise
    distances that there are none of. Text that is generated differs from model to model.

    Args:
        models: a name for each HookedTransformer or TransformerBridge; of any depth, width and vocabulary, all in memory.
        inputs: texts, tokens, files or data sets; see ``stream``. They are read several times, and must be the same documents
            in the same order each time.
        order: Rényi order of the entropies; 1 is Shannon.
        metrics: divergences between distributions over the vocabulary, as in ``layer_divergence``.
        distance: between entropy profiles, as in ``pairwise_distances``.
        similarity: of layers: "cka", or None to leave it out, with the second passes and the memory that it takes.
        estimator: of the CKA: "exact" or "minibatch", as in ``layer_similarity``.
        massive: what to do with massive activations in the CKA, as in ``layer_similarity``.
        sites: states of the residual stream: embed, resid_pre, resid_mid, resid_post, or single ones, such as resid_post.3.
        layers: blocks of names without a layer: numbers, from 0 or negative from each model's last, or a slice; None is all.
        vocabulary: what distributions are over: "model" for all rows of the unembedding, "tokenizer" without those that are no
            token of the model's tokenizer; see ``lens_entropy``.
        positions: positions of each document to count; None is all. Padding, BOS and special tokens never count.
        max_new_tokens: generate this many tokens after each text, every model its own, and measure both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show progress bars.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, temperature, seed; but no interventions.

    Returns:
        ``ModelComparison``, in nats.

    Raises:
        InputError: no models, inputs that can be read only once, change between readings or hold ids of other tokens than a
            model's, interventions, or as the functions above; ``estimator`` or ``massive`` without ``similarity``.
        ImportError: the distance needs a library that is not installed.
        InputTypeError: ``models`` is not a mapping from names to models; an argument of another kind.
        ModelError: a model's own logits can't be reproduced, or a hook never fires; the message begins with the model's name.
        NonFiniteError: a NaN or infinity inside a model.
        KeyboardInterrupt: Ctrl-C.

        Whatever ends it has as its ``partial`` the comparison of the models that were measured to their end; where the first
        was not, the list of its results so far.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> result = compare_models({"a": model, "b": model}, ["import os\n", "x = 1\n"], progress=False)
    >>> result.distances.distances.max().item()  # of a model to itself
    0.0
    """
    check_options(compare_models, options, CorpusOptions)
    _check(inputs, options)
    inputs = Rereadable.of(inputs)
    check_measures(order=order, metrics=metrics, distance=distance, similarity=similarity, estimator=estimator, massive=massive)
    adapters = _adapters(models, sites, layers)
    # Before the first pass, so that whatever cannot be measured is refused at once.
    where: dict[str, Any] = {"sites": sites, "layers": layers}
    waiting: dict[str, list[Any]] = {}
    for name, adapter in adapters.items():
        with _named(name):
            waiting[name] = [
                LensAccumulator(adapter, orders=order, **where, vocabulary=vocabulary),
                DivergenceAccumulator(adapter, metrics=metrics, **where, vocabulary=vocabulary),
                DivergenceAccumulator(adapter, metrics=metrics, **where, vocabulary=vocabulary, against="previous"),
            ]
            if similarity is not None:
                waiting[name].append(CKAAccumulator(adapter, **where, against="all", estimator=estimator, massive=massive))
    reading: dict[str, Any] = {"positions": positions, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    reading["progress"] = progress
    lenses: dict[str, LensEntropy] = {}
    dynamics: dict[str, LayerDynamics] = {}
    own: dict[str, LayerSimilarity] = {}
    across: dict[tuple[str, str], LayerSimilarity] = {}
    notes: list[str] = []

    def measured() -> ModelComparison | None:
        """What is known by now, once a model was measured to its end."""
        if not dynamics:
            return None
        known = {name: lenses[name] for name in dynamics}
        return ModelComparison(
            lenses=known, dynamics=dynamics, distances=distances, similarity=own, across=across, notes=tuple(notes)
        )

    distances: PairwiseDistances | None = None
    with keeping(lambda _: measured()):
        for name in adapters:
            accumulators = waiting.pop(name)
            with _named(name):
                results = measure_all(accumulators, inputs, options=options, **reading)
                _go_on(results[0], results)
                lenses[name], dynamics[name] = results[0], layer_dynamics(*results[:3])
            if len(lenses) == 1:
                _check_ids(results[0], adapters)
            for result in results[3:]:
                if result.count < MIN_ROWS:
                    notes.append(
                        f"{name}: similarity of layers is left out, since it needs {MIN_ROWS} tokens; {result.count} count"
                    )
                else:
                    own[name] = result
        if len(lenses) > 1:
            try:
                distances = pairwise_distances(lenses, metric=distance, progress=progress)
            except (InputError, NonFiniteError) as error:  # which is no reason to lose what was measured, here or below
                notes.append(f"{error}; so the distances between the models are left out")
        for one, other in itertools.combinations(own, 2):
            pair = [(adapters[name], lenses[name]) for name in (one, other)]
            alike, documents = _read_alike(*pair), len(set(lenses[one].documents) & set(lenses[other].documents))
            if not alike and documents < MIN_ROWS:
                notes.append(
                    f"{one}, {other}: not the same tokens in the same windows, and over documents {MIN_ROWS} are needed and "
                    f"there are {documents}; so the similarity of their layers is left out"
                )
                continue
            together: dict[str, Any] = {**options}
            if alike and options.get("window") is None:
                together["window"] = min(adapter.context for adapter, _ in pair)  # cuts nothing, since neither context did
            try:
                with _named(f"{one}, {other}"):
                    found = layer_similarity(
                        adapters[one], inputs, other=adapters[other], against="all", **where, estimator=estimator,
                        massive=massive, rows="tokens" if alike else "documents", **reading, **together,
                    )  # fmt: skip
            except InputError as error:
                if inputs.changed:  # and then nothing that was measured of them belongs together
                    raise
                notes.append(f"{error}; so the similarity of their layers is left out")
                continue
            _go_on(found)
            across[one, other] = found
            if not alike:
                notes.append(
                    f"{one}, {other}: not the same tokens in the same windows, so their layers are compared over documents"
                )
    return cast("ModelComparison", measured())


def check_measures(
    *, order: float, metrics: Metric | Sequence[Metric], distance: str, similarity: str | None, estimator: str, massive: str
) -> None:
    """Refuse arguments of ``compare_models`` that it cannot measure, as far as that can be told without the models.

    Raises:
        InputError: a value that is not among the choices, or ``estimator`` or ``massive`` without ``similarity``.
        InputTypeError: an order that is not one number.
        ImportError: the distance needs a library that is not installed.

    >>> defaults = {"order": 1.0, "metrics": "kl", "similarity": "cka", "estimator": "exact", "massive": "keep"}
    >>> check_measures(**defaults, distance="euclidean")
    >>> check_measures(**defaults, distance="cosine")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tl_entropy.errors.InputError: distance must be one of 'jsd', ...; got 'cosine'
    """
    check_order("order", order)
    for metric in [metrics] if isinstance(metrics, str) or not is_iterable(metrics) else metrics:
        check_choice("metrics", metric, METRICS)
    check_choice("distance", distance, get_args(Distance))
    check_choice("similarity", similarity, ("cka", None))
    check_choice("estimator", estimator, get_args(Estimator))
    check_choice("massive", massive, get_args(Massive))
    for name, value in (("estimator", estimator), ("massive", massive)):
        if similarity is None and value != inspect.signature(compare_models).parameters[name].default:
            raise InputError(f"{name}={value!r} belongs to similarity='cka'; leave it out where similarity is left out")
    if distance == "elastic_srvf":
        flat = torch.zeros(2)
        elastic_srvf_distance(flat, flat)  # an ImportError now rather than after all passes


def _check(inputs: Any, options: CorpusOptions) -> None:
    """Raise InputError for inputs and interventions that cannot serve several models."""
    if not repeatable(inputs):
        raise InputError("inputs is an iterator, or holds one, and can be read only once; give list(inputs)")
    if split_cache(inputs)[0] is not None:
        raise InputError("inputs: an ActivationCache is of one model; give the texts or tokens themselves")
    if options.get("interventions") is not None:
        raise InputError(
            "interventions belong to one model; measure that one with and without them (lens_entropy, layer_divergence), and "
            "take tl_entropy.contrast of the two"
        )


def _adapters(models: Any, sites: Any, layers: Layers | None) -> dict[str, Adapter]:
    """Every model's adapter by its name, once all have the sites asked for."""
    if not isinstance(models, Mapping):
        raise InputTypeError(f"models must be a mapping from names to models; got {type(models).__name__}")
    if not models or not all(isinstance(name, str) and name for name in models):
        raise InputError(f"models must have a name, a text, for at least one model; got {list(models)}")
    adapters = {}
    for name, model in models.items():
        with _named(name):
            adapters[printable(name)] = adapter = adapter_of(model)
            found = adapter.sites(sites, layers)
            others = [site for site in found if site.name not in STREAM_SITES]
            if others or len(found) < 2:
                raise InputError(
                    f"sites must be two or more states of the residual stream ({', '.join(sorted(STREAM_SITES))}); got "
                    f"{others[0] if others else found[0]}"
                )
    return adapters


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What is refused inside says of which model."""
    try:
        yield
    except TLEntropyError as error:
        error.args = (f"{name}: {error}",)
        raise


def _go_on(result: Any, results: Any = None) -> None:
    """Stop where the pass was stopped: models measured on different parts of the inputs could not be compared."""
    if result.provenance.interrupted:
        with keeping(lambda _: results if result.n_tokens else None):
            raise KeyboardInterrupt


def _check_ids(lens: LensEntropy, adapters: Mapping[str, Adapter]) -> None:
    """Raise InputError where token ids were given that are other texts to other models; ``lens`` is of the first."""
    if not lens.provenance.corpus["ids"]:
        return
    given = lens.token if lens.generated is None else lens.token[~lens.generated]
    (first, mine), *others = adapters.items()
    for name, adapter in others:
        if not _same_tokens(mine, adapter, given):
            raise InputError(f"inputs hold token ids, which are not the same texts to {first} and {name}; give texts")


def _same_tokens(one: Adapter, other: Adapter, ids: Tensor) -> bool:
    """Whether these ids [row], and some from all over the vocabulary, mean the same to both."""
    try:
        check_shared_tokens(one, other)
        check_shared_tokens(one, other, ids.unique().tolist())
    except InputError:
        return False
    return True


def _read_alike(one: tuple[Adapter, LensEntropy], other: tuple[Adapter, LensEntropy]) -> bool:
    """Whether two models read the same tokens in the same windows, so that their states can be seen side by side."""
    (mine, lens), (its, theirs) = one, other
    if lens.n_tokens != theirs.n_tokens or _windows(*one) != _windows(*other):
        return False
    if not all(torch.equal(getattr(lens, name), getattr(theirs, name)) for name in ("document", "position", "token")):
        return False
    return _same_tokens(mine, its, lens.token)


def _windows(adapter: Adapter, result: LensEntropy) -> tuple[Any, ...]:
    """What decides how texts become windows: the token that begins them, and how they were cut, if any was."""
    origin = result.provenance
    begin = adapter.begin if origin.settings["prepend_bos"] else None
    return (begin, origin.corpus["window"], origin.corpus["stride"]) if origin.corpus["cut"] else (begin,)
