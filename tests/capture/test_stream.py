"""What the report of a pass says of where its documents came from."""

from __future__ import annotations

import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses.lens import LensAccumulator

pytestmark = pytest.mark.model

TEXT = "the cat sat on the mat"
IDS = torch.tensor([[5, 9, 12, 4]])


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
