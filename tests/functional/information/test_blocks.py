"""Labels that come block by block, against all of them at once."""

from __future__ import annotations

import pytest
import torch

from tl_entropy.functional.information.anchors import Sample, SampledRows
from tl_entropy.functional.information.blocks import Blocks
from tl_entropy.functional.information.cross_fitting import SoftSums, Whole
from tl_entropy.functional.information.curves import ChanceCurve
from tl_entropy.functional.probabilities import entropy
from tl_entropy.functional.statistics import group_sums

FOLDS, LABELS, ROWS = 5, 40, 600


def drawn():
    draw = torch.Generator().manual_seed(0)
    p = torch.softmax(2 * torch.randn(ROWS, 2, 12, generator=draw, dtype=torch.float64), -1)
    label = (LABELS * torch.rand(ROWS, generator=draw) ** 2).long()
    label[:7] = -1  # seen once
    return p, label, torch.randint(FOLDS, (ROWS,), generator=draw)


def curve():
    sizes, values = torch.tensor([[1.0, 4.0], [1.0, 0.9]], dtype=torch.float64)
    return ChanceCurve(sizes, values, 0.8, sizes + 1, values)


def summed(p, label, fold):
    pair, group = torch.stack([label, fold]).unique(dim=1, return_inverse=True)
    n = pair.shape[1]
    return SoftSums(group_sums(p, group, n), group_sums(entropy(p), group, n), torch.bincount(group).double(), *pair)


def cut(sums, *ends):
    """The groups of labels up to each end, those seen once with the first."""
    first = 0
    for end in ends:
        here = (sums.label < end) & ((sums.label >= first) if first else torch.ones_like(sums.label, dtype=torch.bool))
        yield SoftSums(*(getattr(sums, name)[here] for name in ("mass", "own", "count", "label", "fold")), first=first)
        first = end


@pytest.mark.parametrize("ends", [(LABELS,), (1, 3, 20, LABELS), (39, LABELS)], ids=str)
def test_blocks_of_labels_give_what_all_at_once_give(ends):
    p, label, fold = drawn()
    sums, curves = summed(p, label, fold), [curve(), curve()]
    known = label.clone()
    known[50:60] = -2  # without a label
    whole, sample = Whole.of(sums, FOLDS), Sample(SampledRows(p), known)
    found, expected = (Blocks(whole, curves, sample, keep_labels=True) for _ in range(2))
    expected.add(sums, alone=True)
    for block in cut(sums, *ends):
        found.add(block)
    for of in ("estimates", "label_estimates"):
        mine, theirs = getattr(found, of)(), getattr(expected, of)()
        for name, value in vars(theirs).items():
            torch.testing.assert_close(getattr(mine, name), value, atol=1e-12, rtol=0, equal_nan=True, msg=name)


def test_the_bound_chooses_one_mixture_for_all_labels_of_a_size():
    # Two labels of one size that need different mixtures: chosen alone, each in its block, the bound would be higher.
    p, label, fold = drawn()
    label = torch.arange(ROWS).div(6, rounding_mode="floor").clamp_max(2)
    p[:6] = p[0].clone()
    sums = summed(p, label, fold)
    whole, curves = Whole.of(sums, FOLDS), [curve(), curve()]
    found = Blocks(whole, curves)
    for block in cut(sums, 1, 3):
        found.add(block)
    one = Blocks(whole, curves)
    one.add(sums, alone=True)
    torch.testing.assert_close(found.estimates().lower, one.estimates().lower, atol=1e-12, rtol=0)
    alone = [Blocks(whole, curves) for _ in range(2)]
    for blocks, block in zip(alone, cut(sums, 1, 3), strict=True):
        blocks.add(block, alone=True)
    assert not torch.allclose(sum(b._sums["mixed"].amin(-1).sum(-1) for b in alone), found._sums["mixed"].amin(-1).sum(-1))
