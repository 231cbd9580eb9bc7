"""Summaries hold as much after many documents as after few: their own bytes, counted object by object."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

import pytest
import states
import torch
from tiny_models import LONG, cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses.information.parts import AssignmentParts
from tl_entropy.analyses.information.soft import _Means
from tl_entropy.analyses.lens.reading import Reading
from tl_entropy.analyses.means import StateMeans
from tl_entropy.analyses.states.document_states import DocumentStates
from tl_entropy.analyses.states.pooled import PooledDocuments
from tl_entropy.capture.adapter import Adapter

pytestmark = pytest.mark.model

SUMMARIES = {
    "lens_entropy": partial(tle.LensAccumulator, orders=(1.0, 2.0), keep="summary"),
    "layer_divergence": partial(tle.DivergenceAccumulator, metrics=("kl",), keep="summary"),
    "head_entropy": partial(tle.HeadAccumulator, keep="summary"),
    "head readouts": partial(tle.HeadAccumulator, of="readout", keep="summary"),
    "token_surprisal": partial(tle.SurprisalAccumulator, keep="summary"),
    "confidence": partial(tle.ConfidenceAccumulator, sites=("embed", "resid_post"), keep="summary"),
    "unigram_distance": lambda model: tle.UnigramAccumulator(model, torch.arange(model.d_vocab), keep="summary"),
    "site_means": lambda model: StateMeans(model, model.sites("resid_post", None)),
    "neurons": states.neurons,
    "cka": tle.CKAAccumulator,
    "minibatch cka": partial(tle.CKAAccumulator, estimator="minibatch", block=10),
    "matrix_renyi": partial(tle.MatrixAccumulator, n_samples=40, permutations=2),
    "neighbours": partial(tle.NeighbourAccumulator, n_samples=40, k=3),
    "documents": partial(PooledDocuments, n_documents=40),
    "geometry of documents": partial(tle.GeometryAccumulator, measures=("dataset_entropy",), n_documents=40),
    "geometry of texts": partial(tle.GeometryAccumulator, measures=("prompt_entropy", "curvature")),
    "geometry": partial(tle.GeometryAccumulator, measures=("effective_rank", "anisotropy", "two_nn"), n_samples=40),
}
OTHERS = {
    tle.RelianceAccumulator, tle.GradientRelianceAccumulator, tle.SoftAccumulator, AssignmentParts, DocumentStates, _Means,
}  # fmt: skip
"""What keeps every position or document, which is said before, a list of what it wrote, or sums of labels, as its plan has."""
OF_DOCUMENTS = {"geometry": 100, "geometry of documents": 100, "geometry of texts": 300}
"""Bytes for each document of what a result has by document: which they are, and their tokens."""
OF_A_TENSOR = 440
"""Bytes that a small tensor takes beside its numbers, as measured."""
FEW, MANY = (400, 4000) if LONG else (60, 400)


def held(value, seen=None):
    """Bytes of all that hangs on a value but models, what reads them, and code; whole storages of tensors."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, Adapter | Reading | torch.nn.Module | type) or callable(value):
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        known = storage.data_ptr() in seen
        seen.add(storage.data_ptr())
        return OF_A_TENSOR + (0 if known else storage.nbytes())
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        return size + sum(held(key, seen) + held(item, seen) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return size + sum(held(item, seen) for item in value)
    slots = [getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)]
    return size + sum(held(item, seen) for item in [*getattr(value, "__dict__", {}).values(), *slots])


def files(folder, number):
    """Documents with names, of two tokens or three."""
    for i in range(number):
        path = folder / f"document {i} of many with a name of its own.txt"
        path.write_text("the cat" if i % 2 else "dog and cat")
        yield path


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Bytes that each accumulator holds after few documents, and after many."""
    adapter, folder = Adapter(cached_model("gpt2", kinds()[0])), tmp_path_factory.mktemp("documents")
    found = []
    for number in (FEW, MANY):
        made = {name: make(adapter) for name, make in SUMMARIES.items()}
        tle.stream(adapter, files(folder, number), list(made.values()), count="predicted", batch_size=20, progress=False)
        found.append({name: held(vars(accumulator)) for name, accumulator in made.items()})
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", SUMMARIES)
def test_it_is_flat(sizes, name):
    few, many = (size[name] for size in sizes)
    assert many <= 1.05 * few + OF_DOCUMENTS.get(name, 0) * MANY, (few, many)


def test_every_accumulator_is_here():
    adapter = states.model()
    made = {type(make(adapter)) for make in SUMMARIES.values()}
    assert {type(make(adapter)) for make in states.EVERY.values()} - OTHERS <= made


def test_this_test_sees_what_grows(tmp_path):
    adapter = Adapter(cached_model("gpt2", kinds()[0]))
    rows = tle.LensAccumulator(adapter)
    tle.stream(adapter, files(tmp_path, 20), [rows], batch_size=5, progress=False)
    before = held(vars(rows))
    tle.stream(adapter, files(tmp_path, 20), [rows], batch_size=5, progress=False)
    assert held(vars(rows)) > before + 2000
