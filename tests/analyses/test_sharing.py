"""A pass in parts is the pass as a whole: what it counts, warns of and refuses, whenever it is stopped between documents."""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
from states import differences
from tiny_models import make_model

import tl_entropy as tle
from tl_entropy.analyses.information import site_sums, sums
from tl_entropy.analyses.sharing import Pass, alone, at_once, dealt, once, parts, read, shared, sharing_here
from tl_entropy.analyses.states import geometry_values, matrix_similarity, neighbours
from tl_entropy.capture.documents import Rereadable
from tl_entropy.errors import InputError

TOKENS = [torch.arange(n) % 7 + 2 for n in (5, 0, 3, 12, 1, 4)]


FULL = [row if len(row) else torch.tensor([5, 6]) for row in TOKENS]


class Halves:
    """Reads the documents in two turns, as two processes would."""

    def read(self, accumulators, one_pass):
        first, *rest = [one_pass(accumulators, documents=part) for part in (range(3, 99), range(3))]
        for one in rest:
            first = first.together(one)
        one_pass.conclude(first)
        return first

    def once(self, name, make):
        return make(), name


class Hands(Halves):
    """So many processes, one after the other, each of which has read all."""

    def __init__(self, size=3):
        self.size, self.at = size, None

    def once(self, name, make):
        return make()

    def parts(self, name, make):
        return [self._make(make, rank) for rank in range(self.size)]

    def _make(self, make, rank):
        self.at = rank
        return make(rank, self.size)


@cache
def model():
    """In float64, so that nothing but the order of sums depends on which texts share a batch."""
    return make_model("gpt2", dtype=torch.float64)


def quietly(run):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return run(), sorted(str(one.message) for one in told)


def test_a_pass_in_parts_says_and_gives_what_one_does():
    def run():
        return tle.lens_entropy(model(), TOKENS, positions=[0, 20], window=4, progress=False, keep="summary")

    whole, said = quietly(run)
    with shared(Halves()):
        parts, said_of_parts = quietly(run)
    assert said == said_of_parts
    assert any("empty document" in one for one in said)
    assert any("no document has 20" in one for one in said)
    assert whole.provenance.corpus == parts.provenance.corpus
    assert whole.provenance.settings == parts.provenance.settings
    torch.testing.assert_close(whole.sums, parts.sums, rtol=1e-12, atol=1e-12)


def test_nothing_to_measure_is_refused_as_a_whole_alone():
    with shared(Halves()):
        assert tle.lens_entropy(model(), TOKENS[:1], progress=False).n_tokens == 5
        with pytest.raises(InputError, match="nothing to measure"):
            tle.lens_entropy(model(), [TOKENS[1]] * 4, progress=False)


def test_between_documents_the_report_and_the_sums_are_of_whole_documents():
    one_pass = Pass(tle.Adapter(model()), FULL, batch_size=2, progress=False, options={"window": 4})
    lens, seen = tle.LensAccumulator(model(), keep="summary"), []

    def after(report):
        seen.append(report)
        assert lens.report is report
        assert lens.compute().tokens == report.tokens == report.read.tokens
        return len(seen) == 2

    stopped = one_pass([lens], documents=range(6), after=after)
    assert stopped is seen[-1]
    assert stopped.held[0][1] < 6
    rest = one_pass([lens], documents=range(stopped.held[0][1], 6))
    alone_report = tle.stream(model(), FULL, [tle.LensAccumulator(model(), keep="summary")], progress=False, window=4)
    assert stopped.together(rest).counts() == alone_report.counts()
    assert lens.report.held == ((0, 6),)


def test_a_document_goes_into_an_accumulator_once():
    lens = tle.LensAccumulator(model())
    tle.stream(model(), FULL, [lens], documents=range(2, 4), progress=False)
    with pytest.raises(InputError, match="3 was read before"):
        tle.stream(model(), FULL, [lens], documents=range(3, 6), progress=False)
    with pytest.raises(InputError, match="without documents="):
        tle.stream(model(), FULL, [lens], progress=False)


def test_documents_keep_their_numbers_and_no_other_is_cut_into_tokens():
    result = tle.lens_entropy(model(), FULL, documents=[range(5, 9), range(2, 3)], progress=False)
    assert result.document.unique().tolist() == [2, 5]
    assert result.provenance.settings["documents"] == "5:9, 2:3"
    endless = (row for row in [*FULL, *([None] * 5)])  # what comes behind is refused, were it asked for
    assert tle.lens_entropy(model(), endless, documents=range(6), progress=False).document.unique().tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    with pytest.raises(InputError, match="none of documents 6:8"):
        tle.lens_entropy(model(), FULL, documents=range(6, 8), progress=False)


def test_a_plan_of_some_documents_keeps_their_numbers():
    plan = tle.label_plan(model(), FULL, documents=range(3, 6))
    assert (plan.n_documents, plan.starts.diff().tolist()[:3]) == (6, [1, 1, 1])
    found = tle.soft_information(model(), FULL, labels="token", documents=range(2, 5), n_bins=5, progress=False)
    assert found.documents == 3


def test_readings_of_parts_are_held_to_each_other():
    inputs = Rereadable(FULL)
    adapter = tle.Adapter(model())
    for part in (range(3, 6), range(4)):
        Pass(adapter, inputs, progress=False, options={})([tle.LensAccumulator(adapter)], documents=part)
    inputs.inputs = [*FULL[:4], FULL[5], FULL[4]]
    with pytest.raises(InputError, match="document 4 is not the one"):
        Pass(adapter, inputs, progress=False, options={})([tle.LensAccumulator(adapter)], documents=range(4, 5))


ENDS = {
    "soft_information": (sums, "site_values", lambda: tle.soft_information(
        model(), FULL, heads="z", n_bins=5, folds=2, keep_labels=True, progress=False
    )),
    "effective_rank": (geometry_values, "rank_scores", lambda: _geometry("effective_rank")),
    "two_nn": (geometry_values, "dimension_scores", lambda: _geometry("two_nn", n_samples=12)),
    "dataset_entropy": (geometry_values.TextGram, "extended", lambda: _geometry("dataset_entropy")),
    "lidar": (geometry_values, "lidar_scores", lambda: _geometry("lidar", labels=[0, 0, 0, 1, 1, 1])),
    "matrices": (matrix_similarity, "joint_entropies", lambda: _matrices()),
    "matrices of all": (matrix_similarity, "joint_entropies", lambda: _matrices(against="all")),
    "of documents": (matrix_similarity, "joint_entropies", lambda: _matrices(rows="documents")),
    "neighbours": (neighbours, "_of_pair", lambda: _similarity("neighbours", k=2, against="all")),
}  # fmt: skip
"""What is computed from sums: by which function for a site or pair, and how a user asks for it."""


def _geometry(name, **options):
    return tle.layer_geometry(model(), FULL, measures=name, progress=False, **options)


def _similarity(method, **options):
    return tle.layer_similarity(model(), FULL, method=method, progress=False, **options)


def _matrices(**options):
    return _similarity("matrix_renyi", permutations=2, **options)


@pytest.mark.parametrize("name", ENDS)
def test_final_statistics_are_dealt_out_to_the_last_bit(name, monkeypatch):
    where, of_one, run = ENDS[name]
    monkeypatch.setattr(site_sums, "TOGETHER", (0, 0))
    found, by, plain = [], [], getattr(where, of_one)
    for hands in (Hands(1), Hands(3)):
        made = []
        monkeypatch.setattr(
            where, of_one, lambda *given, made=made, of=hands, **more: made.append(of.at) or plain(*given, **more)
        )
        with shared(hands):
            found.append(run())
        by.append(made)
    assert differences(*found, by=0.0) == []
    assert len(by[0]) == len(by[1]), "each once"
    assert set(by[1]) == {0, 1, 2}, "each by another process"


def test_what_one_of_several_computes_is_not_dealt_out():
    with shared(Hands()):
        assert dealt("numbers", [1, 2, 3, 4], lambda mine: [(one, len(mine)) for one in mine])[0] == (1, 4)
        with at_once():
            assert dealt("numbers", [1, 2, 3, 4], lambda mine: [(one, len(mine)) for one in mine])[:2] == [(1, 2), (2, 1)]
            assert dealt("numbers", [], list) == []
            assert dealt("numbers", [1], lambda mine: dealt("more", mine, list)) == [1], "one inside the other"
            with at_once(False):
                assert dealt("numbers", [1, 2], lambda mine: [len(mine)] * len(mine)) == [2, 2]


def test_caches_are_not_shared_and_alone_is_alone():
    tokens = torch.tensor([[2, 3, 4, 5]])
    _, cache = model().run_with_cache(tokens)
    with shared(Halves()):
        assert tle.lens_entropy(model(), (cache, tokens), progress=False).n_tokens == 4
        assert once("plan", lambda: 3) == (3, "plan")
        with alone():
            assert sharing_here() is None
            assert once("plan", lambda: 3) == 3
            assert parts("sums", lambda *of: of) == [(0, 1)]
            one_pass = Pass(tle.Adapter(model()), FULL, progress=False, options={})
            assert read([tle.LensAccumulator(model())], one_pass).placed is False
    with pytest.raises(InputError, match="a cache is read whole"):
        tle.lens_entropy(model(), (cache, tokens), documents=range(1), progress=False)
