"""The sums over tiles of two distributions against divergences of all logits at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.functional.lens.divergences import fisher_rao_distance, js_divergence, kl_divergence, total_variation
from tl_entropy.functional.lens.tiles import MASKED
from tl_entropy.functional.pairs import combine_pairs, mixture_sums, pair_sums, pair_up


def random_logits(sites=4, rows=3, d_vocab=50, spread=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sites, rows, d_vocab, generator=generator, dtype=torch.float64) * spread


def by_tiles(logits, reference, widths, buffers=None):
    """Every divergence, its sums taken tile by tile in the dtype of the logits."""
    tiles = logits.split(widths, -1)
    pairs = torch.stack([pair_sums(tile, tile.amax(-1), reference=reference, buffers=buffers) for tile in tiles]).double()
    maximum = torch.stack([tile.amax(-1) for tile in tiles]).double()
    total = torch.stack([(tile - tile.amax(-1, keepdim=True)).exp().sum(-1) for tile in tiles]).double()
    top = maximum.amax(0)
    log_total = ((maximum - top).exp() * total).sum(0).log()
    found = combine_pairs(pairs, maximum, total, top + log_total, reference)
    around = top.to(logits.dtype), log_total.to(logits.dtype)
    mixed = [mixture_sums(tile.clone(), *around, reference=reference, buffers=buffers) for tile in tiles]
    found["jsd"], found["total_variation"] = torch.stack(mixed).double().sum(0)
    return found


def at_once(logits, reference):
    r, p = pair_up(logits.double(), reference)
    return {
        "kl": kl_divergence(r, p),
        "reverse_kl": kl_divergence(p, r),
        "fisher_rao": fisher_rao_distance(r, p),
        "jsd": js_divergence(r, p),
        "total_variation": total_variation(r, p),
    }


@pytest.mark.parametrize("axis", [0, 1])
def test_pairs_are_views(axis):
    values = torch.arange(12).view(3, 4)
    for reference in ("previous", 0, -1):
        r, p = pair_up(values, reference, axis)
        assert r.untyped_storage().data_ptr() == p.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
        for i, value in enumerate(p.unbind(axis)):
            expected = values.select(axis, i if reference == "previous" else reference)
            assert torch.equal(r.expand_as(p).select(axis, i), expected)
            assert torch.equal(value, values.select(axis, i + (reference == "previous")))


@given(
    seed=st.integers(0, 999),
    spread=st.floats(0.01, 40),
    widths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    reference=st.sampled_from(["previous", 0, 2, -1]),
)
def test_any_tiles_give_the_divergences_of_all_logits(seed, spread, widths, reference):
    logits = random_logits(d_vocab=sum(widths), spread=spread, seed=seed)
    found, expected = by_tiles(logits, reference, widths), at_once(logits, reference)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-7 if name == "fisher_rao" else 1e-12)


@pytest.mark.parametrize("reference", ["previous", 1])
def test_buffers_change_nothing(reference):
    logits = random_logits().float()
    buffers = torch.full((3, logits.numel() + 5), math.nan)
    plain, buffered = by_tiles(logits, reference, [30, 20]), by_tiles(logits, reference, [30, 20], buffers)
    for name, value in plain.items():
        assert torch.equal(value, buffered[name]), name


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_small_distances_keep_their_digits(distance):
    logits = random_logits(sites=2, d_vocab=400)
    logits[1] = logits[0] + distance * logits[1]
    found, expected = by_tiles(logits, 0, 100), at_once(logits, 0)
    for name, tolerance in (("fisher_rao", 1e-6), ("jsd", 1e-6), ("total_variation", 1e-6)):
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=0)
    single = by_tiles(logits.float(), 0, 100)
    rounded = at_once(logits.float(), 0)
    for name in ("kl", "reverse_kl", "fisher_rao", "jsd", "total_variation"):
        torch.testing.assert_close(single[name], rounded[name], rtol=1e-5, atol=1e-6)


def test_equal_logits_are_equal():
    logits = random_logits(sites=1).float().expand(3, -1, -1).contiguous()
    for reference in ("previous", -1):
        # What fills no vectors is worked out by other code, whose last bit may differ.
        for name, value in by_tiles(logits, reference, [13, 37]).items():
            assert value.abs().max() < (1e-7 if name == "fisher_rao" else 1e-8), name
        for name, value in by_tiles(logits[..., :32], reference, [32]).items():
            assert torch.equal(value, torch.zeros_like(value)), name


def test_masked_tokens_and_whole_masked_tiles_weigh_nothing():
    logits = random_logits()
    masked = logits.clone()
    masked[..., :20] = MASKED
    masked[..., 25] = MASKED
    kept = torch.cat([logits[..., 20:25], logits[..., 26:]], -1)
    found, expected = by_tiles(masked, "previous", [10, 10, 30]), at_once(kept, "previous")
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
