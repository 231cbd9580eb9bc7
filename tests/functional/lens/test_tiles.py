"""Sums over a tile: a few rows at a time they are those of all at once."""

from __future__ import annotations

import math

import pytest
import torch

from tl_entropy.functional.lens import tiles
from tl_entropy.functional.lens.tiles import MASKED, tile_sums

ORDERS = (0.0, 0.5, 0.9, 1.0, 2.0, 3.7, 5.0, math.inf)


@pytest.mark.parametrize("shape", [(11, 48), (3, 5, 48), (4, 48)])
def test_a_few_rows_at_a_time_give_the_sums_of_all(monkeypatch, shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator) * 4
    logits[..., 7:9] = MASKED
    thresholds = [logits[..., 3], logits[..., 0] + 0.1]
    wanted = {"moments": True, "level": True, "shape": True, "subset": torch.rand(48, generator=generator)}
    monkeypatch.setattr(tiles, "_NEAR", 4 * 48 // torch.get_num_threads())  # four rows, and the last part is shorter
    before, sizes, sums = logits.clone(), [], tiles._sums
    monkeypatch.setattr(
        tiles, "_sums", lambda part, *others, **options: sizes.append(len(part)) or sums(part, *others, **options)
    )
    scratch = tuple(torch.full_like(logits, math.nan) for _ in range(3))
    found = tile_sums(logits, ORDERS, thresholds, scratch, **wanted)
    assert sizes == [4] * (shape[0] * (5 if len(shape) == 3 else 1) // 4) + [3] * (shape[0] != 4)
    assert torch.equal(logits, before)
    torch.testing.assert_close(found, tile_sums(logits, ORDERS, thresholds, **wanted), rtol=1e-6, atol=1e-6)
    exact = tile_sums(logits.double(), ORDERS, [least.double() for least in thresholds], moments=True)
    torch.testing.assert_close(found[: len(ORDERS) + 1].double(), exact[: len(ORDERS) + 1], rtol=1e-5, atol=1e-5)
