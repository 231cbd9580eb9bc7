"""Geometry of the states at every layer: the measures of "Layer by Layer" and their kin, over a corpus.

Prompt entropy and curvature are of the tokens of one document, dataset entropy, LiDAR and InfoNCE of the mean states of
documents, effective rank, anisotropy and intrinsic dimension of all tokens (Skean et al. 2025, arXiv 2502.02013). The modules
``geometry`` and ``views`` of ``functional/states/`` hold the definitions and say where the paper's code departs from them.

One pass reads all of them. What is kept at a site grows with the number of documents (a vector each, where documents are
compared), and by d_model² for the effective rank. Sums are in float64, so that batch size and padding change nothing.

Refused: sites with a head axis; labels that are not one for each document, or that name a single document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self, Unpack, cast

import torch
from torch import Tensor

from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.states.geometry_options import N_SAMPLES, OF_LABELS, check_used, chosen_measures
from tl_entropy.analyses.states.geometry_sums import Directions, Moments, Texts
from tl_entropy.analyses.states.geometry_values import (
    FAILURES,
    Noted,
    anisotropies,
    dataset_entropies,
    dimensions,
    document_means,
    effective_ranks,
    of_views,
)
from tl_entropy.analyses.states.pooled import PooledDocuments, vector_sites
from tl_entropy.analyses.states.sampling import TokenSample
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.batches import Batch
from tl_entropy.capture.given import of_stack
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import InputError, ProcessError, check_choice, check_int, check_order
from tl_entropy.functional.lens.entropies import in_double
from tl_entropy.functional.states.geometry import NORMALISE, Normalise
from tl_entropy.functional.states.views import label_list
from tl_entropy.functional.statistics import FOLDS
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.geometry import OF_DOCUMENTS, LayerGeometry, Measure
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady


class GeometryAccumulator(StreamingMeasure[LayerGeometry]):
    """Gathers what the measures need; ``compute`` gives a ``LayerGeometry``.

    Arguments as for ``layer_geometry``, and ``first_document``: how many documents come before the first one here, where the
    parts of a corpus are read apart and merged. ``labels`` are those of the documents read here.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> geometry = tle.GeometryAccumulator(model, measures="curvature")
    >>> report = tle.stream(model, "import os", [geometry], progress=False)
    >>> geometry.compute().measures
    ('curvature',)
    """

    alike = ("sites", "measures", "order", "normalise", "n_samples", "seed")
    gathered = ("_sample", "_pooled")
    kept = ("_texts", "_tokens", "_moments", "_directions", "_label_of", "_next")

    def __init__(
        self,
        model: Any,
        *,
        measures: Measure | Sequence[Measure] | None = None,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        order: float = 1.0,
        normalise: Normalise = "centred",
        labels: Sequence[Hashable] | None = None,
        n_samples: int = N_SAMPLES,
        n_documents: int | None = None,
        seed: int = 0,
        first_document: int = 0,
    ) -> None:
        model, sites = of_stack(model, sites)
        super().__init__(model)
        self.sites = vector_sites(self.adapter, sites, layers)
        self.measures = chosen_measures(measures, labels)
        check_choice("normalise", normalise, NORMALISE)
        self.order, self.normalise = check_order("order", order), normalise
        self.labels = None if labels is None else label_list(labels)
        self.n_samples, self.seed = check_int("n_samples", n_samples, 3), check_int("seed", seed, 0)
        check_used(self.measures, order=self.order, normalise=normalise, n_samples=self.n_samples, n_documents=n_documents)
        self._sample = TokenSample(n_samples, seed, first_document=first_document)
        self._pooled = PooledDocuments(self.adapter, sites=self.sites, n_documents=n_documents, seed=self.seed)
        self._texts = Texts(self._parts, self.sites, order=self.order, normalise=normalise)
        self._tokens: Counter[int] = Counter()  # of each document
        self._moments: list[Moments] = []
        self._directions = [Directions(self.adapter.d_model) for _ in self.sites]
        self._label_of: dict[int, Hashable] = {}
        self._next = 0  # one more than the highest number of a document seen

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch.

        Raises:
            InputError: a document without a label, where there are labels.
        """
        documents = batch.row_document.cpu()
        tokens = Counter(documents.tolist())
        if self.labels is not None and tokens and max(tokens) >= len(self.labels):
            raise InputError(
                f"labels must be one for each document; got {len(self.labels)}, and none for document {max(tokens)}"
            )
        texts = self._texts.read(batch, activations)
        pooled = self._pooled.read(batch, activations) if self._wants("dataset_entropy", *OF_LABELS) else None
        moments, directions = [], []
        for site in self.sites if self._wants("effective_rank", "anisotropy") else ():
            rows = batch.rows(activations[site])
            moments += [Moments.of(rows)] if self._wants("effective_rank") else []
            directions += [Directions.of(in_double(rows), documents % FOLDS)] if self._wants("anisotropy") else []
        if self._wants("two_nn", "effective_rank"):
            states: dict[Hashable, Tensor] = {site: batch.rows(activations[site]) for site in self.sites}
            self._sample.update(batch.row_document, batch.row_position, states)
        # From here on nothing can fail for want of memory, so that a batch is in as a whole or not at all.
        self._texts.add(texts)
        if pooled is not None:
            self._pooled.add(pooled)
        self._add_moments(moments)
        for mine, found in zip(self._directions, directions, strict=False):
            mine.add(*found)
        if self.labels is not None:
            self._label_of |= {document: self.labels[document] for document in tokens}
        self._tokens.update(tokens)
        self._next = max(self._next, int(batch.document.max()) + 1)

    def growth(self) -> tuple[int, str]:
        """Bytes of the documents' mean states, and what to do where they are too many."""
        return 0 if self._pooled.n_documents else self._pooled.nbytes, (
            "the mean state of every document is kept at every site: n_documents= keeps a random sample of them, measures= "
            "without dataset_entropy, lidar and info_nce sums alone, and fewer sites= or layers= take less"
        )

    def _merge(self, other: Self, *, placed: bool) -> None:
        """For two_nn and effective_rank, the other's ``first_document`` has to be the number of documents here."""
        first = 0 if placed else self._next
        self._tokens.update({first + document: n for document, n in other._tokens.items()})
        self._texts.merge(other._texts, first)
        self._add_moments([Moments(m.n, m.mean.clone(), m.scatter.clone(), m.floor) for m in other._moments])
        for mine, theirs in zip(self._directions, other._directions, strict=True):
            mine.add(theirs.sums, theirs.counts, first_fold=first)
        self._label_of |= {first + document: label for document, label in other._label_of.items()}
        self._next = max(self._next, first + other._next)

    def _settings(self) -> dict[str, Any]:
        sample = {"n_samples": self.n_samples, "sample_seed": self.seed} if self._wants("two_nn", "effective_rank") else {}
        kept = {} if self._pooled.n_documents is None else {"n_documents": self._pooled.n_documents, "sample_seed": self.seed}
        own = {**kept, "measures": self.measures, "order": self.order, "normalise": self.normalise}
        return {**own, **sample, "sites": tuple(map(str, self.sites))}

    def _result(self, provenance: Provenance) -> LayerGeometry:
        noted = Noted(self.sites)
        documents, values = self._texts.known()
        by_document = torch.zeros(len(self._tokens), len(self._parts), len(self.sites), dtype=torch.float64)
        if documents:
            place = {document: i for i, document in enumerate(documents)}
            by_document = values[[place[document] for document in sorted(self._tokens)]]
        found = [self._measured(name, by_document, noted) for name in self.measures]
        covariance = torch.stack([paired for _, paired in found])
        none = torch.full((FOLDS, len(self.sites)), torch.nan, dtype=torch.float64)
        scores = torch.stack([noted.folds.get(name, none) for name in self.measures])
        return LayerGeometry(
            sites=self.sites, measures=self.measures, values=torch.stack([values for values, _ in found]),
            errors=covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt(), covariance=covariance, by_document=by_document,
            document=torch.tensor(sorted(self._tokens), dtype=torch.long), tokens=self._tokens.total(),
            documents=len(self._tokens), order=self.order, provenance=provenance, notes=noted.lines(),
            scores=scores,
        )  # fmt: skip

    def _measured(self, name: Measure, by_document: Tensor, noted: Noted) -> tuple[Tensor, Tensor]:
        """A measure [site] and its covariance [site, site]; NaN with a note where it fails."""
        try:
            return self._measure(name, by_document, noted)
        except ProcessError:
            raise
        except FAILURES as error:
            noted.failed(name, error)
            return noted.nothing(), noted.nothing_paired()

    def _measure(self, name: Measure, by_document: Tensor, noted: Noted) -> tuple[Tensor, Tensor]:
        if name in OF_DOCUMENTS:
            return document_means(name, by_document[:, self._parts.index(name)], self.normalise, noted)
        if not self._tokens:
            return noted.nothing(), noted.nothing_paired()
        if name == "effective_rank":
            sample = self._sample.whole()
            return effective_ranks(self._moments, [sample[site] for site in self.sites], self._sample.documents, noted)
        if name == "anisotropy":
            return anisotropies(self._directions, self._tokens.total(), noted)
        if name == "two_nn":
            sample = self._sample.whole()
            return dimensions([sample[site] for site in self.sites], self._sample.documents, noted)
        means = list(self._pooled.compute().values())
        if len(means[0]) < self._pooled.seen:
            noted.note(f"{name}: of {len(means[0])} of {self._pooled.seen} documents, drawn at random")
        if name == "dataset_entropy":
            return dataset_entropies(means, self.order, self.normalise, self._pooled.floor, noted)
        labels = [self._label_of[document] for document in self._pooled.documents]
        return of_views(name, means, labels, self._pooled.floor, noted)

    def _add_moments(self, moments: list[Moments]) -> None:
        if not self._moments:
            self._moments = moments
            return
        for mine, theirs in zip(self._moments, moments, strict=False):  # none where nothing was read
            mine.add(theirs)

    @property
    def _parts(self) -> tuple[str, ...]:
        return tuple(name for name in self.measures if name in OF_DOCUMENTS)

    def _wants(self, *names: str) -> bool:
        return any(name in self.measures for name in names)


@steady
def layer_geometry(  # type: ignore[misc]  # seed is among the options, too: it is one for both
    model: Any,
    inputs: Any,
    *,
    measures: Measure | Sequence[Measure] | None = None,
    sites: str | Sequence[str | Site] = ("embed", "resid_post"),
    layers: Layers | None = None,
    positions: int | slice | Sequence[int] | None = None,
    order: float = 1.0,
    normalise: Normalise = "centred",
    labels: Sequence[Hashable] | None = None,
    n_samples: int = N_SAMPLES,
    n_documents: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    max_new_tokens: int = 0,
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> LayerGeometry:
    r"""How many directions the states fill at every site, how they bend along a text, and how well they tell texts apart.

    ``LayerGeometry`` lists the measures; their formulas are with the functions ``prompt_entropy``, ``effective_rank``,
    ``curvature``, ``anisotropy``, ``two_nn``, ``lidar`` and ``info_nce``. The tokens of a document are those counted, in order,
    also where it was read in several windows, or where positions between them don't count. The dataset entropy, LiDAR and
    InfoNCE are of the mean states of documents as they are; in the paper's code, states are centred and normed by document
    before they are averaged.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        measures: one or several; None is all, lidar and info_nce with ``labels`` only.
        sites: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, of all layers, or single ones, such as resid_post.3.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        positions: positions of each document to count; None is all. Padding, BOS and special tokens never count.
        order: Rényi order of prompt_entropy and dataset_entropy, from 0; 1 is the von Neumann entropy.
        normalise: rows of prompt_entropy and dataset_entropy. "centred" takes off their mean and brings each to length 1, as
            the paper's code does, and keeps all states of a document until its end; "length" only brings them to length 1, and
            None takes them as they are: both keep d_model² numbers a site at most.
        labels: one for each document of the input, empty ones included; documents with the same label are views (augmentations,
            pieces) of one text. lidar takes delta=1e-4, info_nce a temperature of 0.1.
        n_samples: tokens that two_nn is measured on, and errors of effective_rank, at most: drawn at random, the same ones for
            any batch size.
        n_documents: mean states that dataset_entropy, lidar and info_nce are measured on, at most: those of documents drawn at
            random (of lidar and info_nce by themselves, so give enough that most labels keep two); None is all, which takes
            8 · sites · d_model bytes each.
        seed: of these samples, and of sampled text.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        max_new_tokens: generate this many tokens after each text, and measure both.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Returns:
        ``LayerGeometry``, in nats and radians. A measure that needs more documents or tokens than there are, or that fails, is
        NaN, and a note says so.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured; a label of one document only;
            labels that are not as many as documents (``partial`` then holds the result, if all were read); an option that no
            measure asked for uses.
        ModelError: a hook never fires.
        NonFiniteError: a NaN or infinity inside the model; its ``partial`` holds the result so far.

    >>> import tl_entropy as tle
    >>> result = layer_geometry(tle.demo_model(), ["import os\n", "def f(x):"], measures="curvature", progress=False)
    >>> bool((result.value("curvature") > 1).all()), result.units
    (True, ('rad',))
    """
    check_options(layer_geometry, options, CorpusOptions)
    accumulator = GeometryAccumulator(
        model, measures=measures, sites=sites, layers=layers, order=order, normalise=normalise, labels=labels,
        n_samples=n_samples, n_documents=n_documents, seed=seed,
    )  # fmt: skip
    single = [label for label, n in Counter(accumulator.labels or ()).items() if n == 1]
    if single:
        raise InputError(f"labels: {single[0]!r} is that of one document only; give every label to two documents or more")
    if options.get("temperature"):
        options["seed"] = seed
    result = measure(
        accumulator, inputs, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress,
        options=cast("CorpusOptions", options),
    )  # fmt: skip
    corpus = result.provenance.corpus
    documents = corpus["documents"] + (corpus["skipped"]["count"] if "skipped" in corpus else corpus["empty"])
    if accumulator.labels is not None and not result.provenance.interrupted and documents != len(accumulator.labels):
        short = InputError(f"labels must be one for each of the {documents} documents; got {len(accumulator.labels)}")
        short.partial = result
        raise short
    return result
