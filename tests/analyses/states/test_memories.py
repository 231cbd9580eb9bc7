"""Memories of windows: which text each is of, and that they are what the decoder is given."""

from __future__ import annotations

import pytest
import torch
from small_models import small_model
from tiny_models import cached_model, kinds

import tl_entropy as tle

TEXTS = ["import os\nimport sys", "def f(x): return x + 1, x - 1", "x", "y" * 80]
QUIET = {"progress": False}


@pytest.mark.parametrize("of", ["memory", "state"])
@torch.no_grad()
def test_memories_are_those_of_the_windows(of):
    model = small_model("memory on a grid")
    found = tle.memories(model, TEXTS, of=of, **QUIET)
    assert found.document.tolist() == [0, 1, 1, 2, 3, 3, 3, 3]
    assert found.span.tolist()[:4] == [[0, 20], [0, 23], [23, 29], [0, 1]]
    for document, (first, last), numbers in zip(found.document.tolist(), found.span.tolist(), found.numbers, strict=True):
        row = torch.tensor([[256, *TEXTS[document].encode()[first:last]]])
        assert torch.allclose(model.run_with_cache(row)[1][f"hook_{of}"][0], numbers, atol=1e-5)
    assert torch.allclose(tle.memories(model, TEXTS, of=of, batch_size=1, **QUIET).numbers, found.numbers, atol=1e-5)
    assert found.provenance.model == "memory heads"


def test_measures_of_rows_take_memories():
    texts = [kind * n for n in range(20, 44) for kind in ("a", "b = 1\n")]
    one, other = (tle.memories(small_model(f"memory {mixer}"), texts, **QUIET) for mixer in ("heads", "attention"))
    with pytest.raises(tle.InputError, match="a row a window, for what takes rows"):
        tle.layer_similarity(small_model("memory heads"), texts, sites="memory", **QUIET)
    kind, length = (
        tle.functional.soft_mutual_information(one.numbers, labels, documents=one.document, center=True)
        for labels in (one.document % 2, one.document // 2 % 2)
    )
    assert kind.information > 0.3
    assert abs(length.information) < 0.1, "whose parity is in no memory"
    assert float(tle.functional.linear_cka(one.numbers, one.numbers)) == pytest.approx(1)
    assert 0.1 < float(tle.functional.linear_cka(one.numbers, other.numbers)) < 1
    assert 1 < float(tle.functional.effective_rank(one.numbers)) < 4


def test_chunks_have_memories_of_their_own():
    model = small_model("past heads token")
    found = tle.memories(model, TEXTS, **QUIET)
    assert found.document.tolist() == [0, 1, 1, 2, 3, 3, 3, 3]
    assert found.span.tolist()[-4:] == [[0, 23], [23, 47], [47, 71], [71, 80]]


def test_what_has_no_memory_is_refused():
    with pytest.raises(tle.ModelError, match="no hook_memory"):
        tle.memories(cached_model("gpt2", kinds()[0]), TEXTS, **QUIET)
    with pytest.raises(tle.InputError, match="of must be one of"):
        tle.memories(small_model("memory flat"), TEXTS, of="encoder", **QUIET)
