"""What the report of a pass says of where its documents came from."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from tiny_models import cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.analyses.lens.entropy import LensAccumulator
from tl_entropy.analyses.tokens.gradient_reliance import GradientRelianceAccumulator
from tl_entropy.analyses.tokens.reliance import RelianceAccumulator
from tl_entropy.errors import InputError, NonFiniteError

pytestmark = pytest.mark.model

TEXT = "the cat sat on the mat"
IDS = torch.tensor([[5, 9, 12, 4]])


@pytest.mark.thinned
@pytest.mark.parametrize("max_new_tokens", [0, 2])
@pytest.mark.parametrize(
    ("inputs", "ids"),
    [(TEXT, False), ([TEXT, "the dog"], False), (IDS, True), ([TEXT, IDS], True), ({"input_ids": IDS}, True)],
)
def test_the_report_tells_documents_given_as_ids_from_generated_text(inputs, ids, max_new_tokens):
    model = cached_model("gpt2", kinds()[0])
    report = tle.stream(model, inputs, [LensAccumulator(model, keep="summary")], max_new_tokens=max_new_tokens, progress=False)
    assert report.ids is ids
    assert report.counts()["ids"] is ids
    assert (report.bytes is None) is (ids or max_new_tokens > 0)


def test_a_cache_holds_ids():
    model = cached_model("gpt2", kinds()[0])
    _, cache = model.run_with_cache(IDS)
    assert tle.stream(model, (cache, IDS), [LensAccumulator(model, keep="summary")], progress=False).ids


def test_it_is_in_the_provenance():
    model = cached_model("gpt2", kinds()[0])
    found = [tle.lens_entropy(model, given, max_new_tokens=1, progress=False) for given in (TEXT, IDS)]
    assert [result.provenance.corpus["ids"] for result in found] == [False, True]


@pytest.mark.parametrize("count", ["read", "predicted"])
def test_what_runs_the_model_is_refused_on_a_cache(count):
    model = cached_model("gpt2", kinds()[0])
    _, cache = model.run_with_cache(IDS)
    lens = LensAccumulator(model, keep="summary")
    for one in (RelianceAccumulator(model, tle.ablate("mlp_out.1")), GradientRelianceAccumulator(model, "embed")):
        for accumulators in ([one], [lens, one]):
            with pytest.raises(InputError, match="inputs: nothing runs on a cache; pass the texts or tokens themselves"):
                tle.stream(model, (cache, IDS), accumulators, count=count, progress=False)
    assert tle.stream(model, (cache, IDS), [lens], progress=False).tokens == IDS.numel()


@pytest.mark.parametrize(("column", "place"), [(0, "document 0, the begin token"), (3, "document 0, position 2")])
def test_where_an_activation_is_not_finite(column, place):
    model = cached_model("gpt2", kinds()[0])

    def broken(activation, hook):
        activation[:, column] = torch.inf
        return activation

    one = RelianceAccumulator(model, tle.ablate("mlp_out.1"))
    with pytest.raises(NonFiniteError, match=rf"resid_post has a NaN or an infinity at {place} \(and"):
        tle.stream(model, TEXT, [one], count="predicted", interventions=("blocks.2.hook_resid_post", broken), progress=False)


def test_an_accumulator_of_another_model_is_refused():
    model, other = cached_model("gpt2", kinds()[0]), make_model("gpt2", kinds()[0])
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    for one in (LensAccumulator(other), tle.CKAAccumulator(other), RelianceAccumulator(other, tle.ablate("mlp_out.1"))):
        with pytest.raises(InputError, match=r"accumulators: \w+Accumulator is of other weights than those of the model"):
            tle.stream(model, TEXT, [one], progress=False)
        assert tle.stream(other, TEXT, [one], progress=False).tokens > 0


def test_an_accumulator_of_a_model_that_was_trained_since_is_refused():
    model = make_model("gpt2", kinds()[0])
    one = LensAccumulator(model)
    tle.stream(model, TEXT, [one], progress=False)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with pytest.raises(InputError, match="of this one before it was trained"):
        tle.stream(model, TEXT, [one], progress=False)
    assert one.compute().n_tokens == 6
    tle.stream(model, TEXT, [LensAccumulator(model)], progress=False)


@pytest.mark.skipif(version("transformer-lens").startswith("3."), reason="TransformerLens 3 cannot run this model")
def test_an_accumulator_of_the_other_stack_is_refused():
    model = cached_model("t5", "bridge")
    plan = tle.label_plan(model, IDS, labels="token")
    one = tle.SoftAccumulator(model, plan=plan, sites="encoder.resid_post", n_bins=10)
    with pytest.raises(
        InputError, match=r"of the model's encoder, and this pass runs for those of its decoder; pass its \.adapter"
    ):
        tle.stream(model, IDS, [one], progress=False)
    assert tle.stream(one.adapter, IDS, [one], progress=False).tokens > 0
