"""A new streaming measure from its sums and its result alone, and what its base promises of every one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import tl_entropy as tle
from tl_entropy.accumulators import DocumentMeans, Histogram
from tl_entropy.analyses.merging import merged
from tl_entropy.analyses.rows import closed
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.errors import InputError
from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.results.base import Result
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

QUIET = {"progress": False}


# --- the example of the page on extending ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class StateNorms(Result):
    """Mean length of the states at every site, with standard errors over documents.

    Attributes:
        sites: what the axis of the others means.
        mean: [site], over tokens.
        error: [site], its standard error over documents.
        provenance: model, settings, corpus, versions.
    """

    sites: tuple[Site, ...]
    mean: Float[Tensor, "site"]
    error: Float[Tensor, "site"]
    provenance: Provenance

    def to_pandas(self):
        columns = {"layer": [site.layer for site in self.sites], "mean": self.mean.tolist(), "se": self.error.tolist()}
        return pd.DataFrame(columns, index=[str(site) for site in self.sites])

    def _title(self):
        return [f"StateNorms: {len(self.sites)} sites; {self.provenance.model}"]

    _table = to_pandas

    def _notes(self):
        return ["mean over tokens, standard error over documents"]


class StateNormAccumulator(StreamingMeasure[StateNorms]):
    """Gathers the lengths of the states at ``sites``."""

    alike = ("sites",)
    gathered = ("_means",)

    def __init__(self, model, sites=("embed", "resid_post"), layers=None):
        super().__init__(model)
        self.sites = self.adapter.sites(sites, layers)
        self._means = DocumentMeans((len(self.sites),))

    def update(self, batch, activations):
        lengths = torch.stack([batch.rows(activations[site]).double().norm(dim=1) for site in self.sites], 1)
        self._means.update(lengths, batch.row_document, closed(batch))

    def _result(self, provenance):
        mean, error = clustered_mean(*self._means.sums(), self._means.seen_documents)
        return StateNorms(self.sites, mean, error, provenance)


# -----------------------------------------------------------------------------------------------------------------------------


def test_a_new_measure_is_short():
    assert sum(len(inspect.getsource(part).splitlines()) for part in (StateNorms, StateNormAccumulator)) < 60


@pytest.mark.model
def test_the_new_measure_is_what_its_definition_says(gpt2, texts):
    measure = StateNormAccumulator(gpt2)
    tle.stream(gpt2, texts, [measure], batch_size=2, **QUIET)
    found = measure.compute(settings={"batch": 2})
    adapter = tle.Adapter(gpt2)
    sums, counts = [], []
    for text in texts:
        ids = torch.tensor([[0, *adapter.encode(text)]])
        states = adapter.activations(ids, torch.ones_like(ids), found.sites)
        lengths = torch.stack([states[site][0, 1:].double().norm(dim=1) for site in found.sites], 1)
        sums.append(lengths.sum(0))
        counts.append(len(lengths))
    s, n = torch.stack(sums), torch.tensor(counts, dtype=torch.float64)
    mean = s.sum(0) / n.sum()
    torch.testing.assert_close(found.mean, mean, rtol=1e-6, atol=0)
    error = (((s - n[:, None] * mean) ** 2).sum(0) * len(n) / (len(n) - 1)).sqrt() / n.sum()
    torch.testing.assert_close(found.error, error, rtol=1e-5, atol=0)
    assert found.provenance.weights == adapter.fingerprint
    assert found.provenance.settings == {"batch": 2}
    assert "resid_post.2" in repr(found)


@pytest.mark.model
@pytest.mark.parametrize("cut", [0, 1, 3, 4])
def test_two_parts_merge_to_the_whole(gpt2, texts, cut):
    parts = [StateNormAccumulator(gpt2) for _ in range(3)]
    for part, some in zip(parts, (texts[:cut], texts[cut:], texts), strict=True):
        if some:
            tle.stream(gpt2, some, [part], batch_size=1, **QUIET)
    first, second, whole = parts
    first.merge(second)
    torch.testing.assert_close(first.compute().mean, whole.compute().mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(first.compute().error, whole.compute().error, rtol=1e-10, atol=0)


@pytest.mark.model
def test_parts_of_other_settings_or_models_do_not_merge(gpt2, texts):
    measure = StateNormAccumulator(gpt2)
    tle.stream(gpt2, texts, [measure], **QUIET)
    before = measure.compute().mean
    with pytest.raises(InputError, match="cannot merge: sites is"):
        measure.merge(StateNormAccumulator(gpt2, "resid_post"))
    other = StateNormAccumulator(tle.demo_model(), layers=[0, 1, 2])
    with pytest.raises(InputError, match=r"cannot merge: model is '.*' here and '.*' there"):
        measure.merge(other)
    assert torch.equal(measure.compute().mean, before)


def test_every_kind_of_part_is_merged():
    means = DocumentMeans((1,))
    theirs = DocumentMeans((1,))
    theirs.update(torch.tensor([[2.0]]), torch.tensor([0]), closed=[0])
    seen = {"n": 1, "flags": torch.tensor([True, False]), "parts": [torch.ones(2), 2.5], "means": means, "none": None}
    more = {"n": 2, "flags": torch.tensor([False, False]), "parts": [torch.ones(2), 0.5], "means": theirs, "none": None}
    found = merged(seen, more)
    assert found["n"] == 3
    assert found["flags"].tolist() == [True, False]
    assert found["parts"][0].tolist() == [2.0, 2.0]
    assert found["parts"][1] == 3.0
    assert found["means"] is means
    assert means.tokens == means.seen_documents == 1
    assert found["none"] is None


EVERY = {
    "lens_entropy": lambda model, **options: tle.LensAccumulator(model, **options),
    "layer_divergence": lambda model, **options: tle.DivergenceAccumulator(model, **options),
    "head_entropy": lambda model, **options: tle.HeadAccumulator(model, **options),
    "token_surprisal": lambda model, **options: tle.SurprisalAccumulator(model, **options),
    "confidence": lambda model, **options: tle.ConfidenceAccumulator(model, **options),
    "layer_similarity": lambda model, **options: tle.CKAAccumulator(model, **options),
    "layer_geometry": lambda model, **options: tle.GeometryAccumulator(model, measures=["curvature", "two_nn"], **options),
    "token_reliance": lambda model, **options: tle.RelianceAccumulator(model, tle.ablate("attn_out.0"), **options),
    "gradient_reliance": lambda model, **options: tle.GradientRelianceAccumulator(model, "embed", **options),
}
OWN = {
    "layer_geometry": {"measures": ["curvature", "two_nn"]},
    "token_reliance": {"on": tle.ablate("attn_out.0")},
    "gradient_reliance": {"site": "embed"},
}


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("name", EVERY)
def test_an_accumulator_says_by_itself_what_its_function_says(gpt2, texts, name):
    found = getattr(tle, name)(gpt2, texts, **OWN.get(name, {}), **QUIET).provenance.settings
    accumulator = EVERY[name](gpt2)
    tle.stream(gpt2, texts, [accumulator], **QUIET)
    own = accumulator.compute().provenance.settings
    assert own == {key: found[key] for key in own}
    assert set(found) - set(own) == {"positions", "max_new_tokens", "prepend_bos"}


@pytest.mark.model
@pytest.mark.parametrize("name", EVERY)
def test_no_accumulator_merges_what_another_model_gave(gpt2, name):
    layers = {} if "reliance" in name or "surprisal" in name else {"layers": [0, 1]}
    with pytest.raises(InputError, match="cannot merge: model is"):
        EVERY[name](gpt2, **layers).merge(EVERY[name](tle.demo_model(), **layers))


@pytest.mark.model
@pytest.mark.parametrize("part", [Histogram, DocumentMeans])
def test_an_update_that_runs_out_of_memory_has_changed_no_sum(gpt2, texts, monkeypatch, part):
    whole = tle.lens_entropy(gpt2, texts, keep="summary", **QUIET)
    plain, calls = part.update, []

    def scarce(self, *arguments, **options):
        calls.append(self)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        plain(self, *arguments, **options)

    monkeypatch.setattr(part, "update", scarce)
    found = tle.lens_entropy(gpt2, texts, keep="summary", **QUIET)
    assert len(calls) == 3
    assert found.tokens == whole.tokens
    assert int(found.counts.sum()) == int(whole.counts.sum())
    torch.testing.assert_close(found.sums, whole.sums)
    torch.testing.assert_close(found.squares, whole.squares)
