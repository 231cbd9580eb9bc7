"""Reduced precision: the unembedding is rounded once for a model, and multiplied with as it is for a few rows."""

from __future__ import annotations

import pytest
import torch
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy.analyses.lens.reading import FEW
from tl_entropy.functional.lens.products import TileProducts

pytestmark = pytest.mark.model

QUIET = {"progress": False, "prepend_bos": False}


@pytest.fixture(scope="module")
def adapter():
    return tle.Adapter(make_model("gpt2", kinds()[0]))


@pytest.fixture
def held(monkeypatch):
    """The unembeddings that tiles are made of."""
    seen, made = [], TileProducts.__init__

    def begun(self, unembedding, *args, **options):
        seen.append((unembedding, options["reduced"]))
        made(self, unembedding, *args, **options)

    monkeypatch.setattr(TileProducts, "__init__", begun)
    return seen


CALLS = {
    "lens_entropy": tle.lens_entropy,
    "layer_divergence": tle.layer_divergence,
    "token_surprisal": tle.token_surprisal,
    "token_reliance": lambda *given, **options: tle.token_reliance(*given, tle.ablate("mlp_out.1"), **options),
    "head_entropy": lambda *given, **options: tle.head_entropy(*given, of="readout", norm="recomputed", **options),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_what_is_multiplied_with_is_rounded_once_for_a_model(adapter, held, call):
    call(adapter, torch.arange(5, 25), precision="bfloat16", **QUIET)
    place = adapter.readout.rounded.data_ptr()
    assert {(unembedding.data_ptr(), reduced) for unembedding, reduced in held} == {(place, True)}
    torch.testing.assert_close(adapter.readout.rounded.float(), adapter.readout.unembedding, atol=0, rtol=2**-8)


def test_numbers_are_those_of_rounding_tile_by_tile(adapter):
    ids = torch.arange(5, 25)
    found = tle.lens_entropy(adapter, ids, sites="resid_post", layers=-1, precision="bfloat16", **QUIET)
    readout = adapter.readout
    rows = readout.norm(adapter.activations(ids[None], torch.ones(1, 20), (adapter.last_site,))[adapter.last_site][0])
    bare = {"bias": readout.bias, "scale": readout.scale, "precision": "bfloat16"}
    right = tle.functional.vocabulary_statistics(rows, readout.unembedding, **bare).entropies
    torch.testing.assert_close(found.entropy[:, 0].double(), right[-len(found.entropy) :], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [FEW - 1, FEW])
def test_few_rows_are_multiplied_in_float32(adapter, held, rows):
    ids = torch.arange(5, 5 + rows)
    fast, full = (
        tle.lens_entropy(adapter, ids, sites="resid_post", layers=-1, precision=precision, **QUIET).entropy
        for precision in ("bfloat16", "float32")
    )
    assert held[0][1] == (rows >= FEW)
    assert torch.equal(fast, full) == (rows < FEW)
    torch.testing.assert_close(fast, full, atol=0.05, rtol=0)
