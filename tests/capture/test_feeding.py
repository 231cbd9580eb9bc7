"""What grows with a corpus is announced with its size and a remedy."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest

import tl_entropy as tle
from tl_entropy.capture import feeding
from tl_entropy.capture.feeding import LARGE, Watch

QUIET = {"progress": False}


def growing(*sizes, remedy="take less"):
    found = iter(sizes)
    return SimpleNamespace(growth=lambda: (next(found), remedy))


def told(watch, read):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        watch.look(read)
    return [str(warning.message) for warning in found]


def test_what_will_be_much_is_told_once_and_early():
    watch = Watch([growing(LARGE // 100, LARGE // 50, LARGE), growing(0, 0, 0, remedy="nothing"), object()], 1000)
    assert told(watch, 1)[0] == (
        "memory grows with the corpus: 0.0 GiB after 1 document, and will be 10.0 GiB, since take less"
    )
    assert told(watch, 2) == []


def test_where_nobody_knows_how_long_it_is_what_is_kept_counts():
    watch = Watch([growing(LARGE - 1, LARGE)], None)
    assert told(watch, 0) == []
    assert told(watch, 5) == ["memory grows with the corpus: 1.0 GiB after 5 documents, since take less"]
    assert told(Watch([growing(LARGE // 2)], 10), 10) == []


@pytest.mark.model
@pytest.mark.parametrize(
    ("measure", "remedy"),
    [
        (lambda model, texts: tle.lens_entropy(model, texts, **QUIET), "keep='summary' keeps sums alone"),
        (lambda model, texts: tle.token_reliance(model, texts, tle.ablate("mlp_out.1"), **QUIET), "fewer positions="),
        (lambda model, texts: tle.layer_geometry(model, texts, **QUIET), "n_documents= keeps a random sample"),
        (
            lambda model, texts: tle.layer_similarity(model, texts, rows="documents", **QUIET),
            "n_documents= keeps a random sample",
        ),
    ],
)
def test_every_measure_that_grows_says_so_with_its_remedy(gpt2, texts, monkeypatch, measure, remedy):
    monkeypatch.setattr(feeding, "LARGE", 500)
    with pytest.warns(UserWarning, match=f"memory grows with the corpus.*{remedy}"):
        measure(gpt2, texts)


@pytest.mark.model
def test_sums_do_not(gpt2, texts, monkeypatch):
    monkeypatch.setattr(feeding, "LARGE", 500)
    for measure in (tle.lens_entropy, tle.layer_divergence, tle.head_entropy, tle.token_surprisal):
        measure(gpt2, texts, keep="summary", batch_size=1, **QUIET)
    tle.layer_similarity(gpt2, texts, **QUIET)
    tle.layer_geometry(gpt2, texts, measures=("curvature", "effective_rank", "anisotropy", "two_nn"), **QUIET)
    tle.layer_geometry(gpt2, texts, measures="dataset_entropy", n_documents=4, **QUIET)
    tle.layer_similarity(gpt2, texts, rows="documents", n_documents=4, **QUIET)
