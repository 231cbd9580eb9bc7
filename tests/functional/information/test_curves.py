"""The chance curves of several units at once, and how much c depends on which groups of rows are drawn."""

from __future__ import annotations

import pytest
import torch

from tl_entropy.functional.information import blocks as module
from tl_entropy.functional.information.anchors import Sample, SampledRows
from tl_entropy.functional.information.chance import chance_curves
from tl_entropy.functional.information.cross_fitting import SoftSums
from tl_entropy.functional.information.estimates import estimates, label_estimates


def drawn(rows, units, bins=8, seed=0):
    logits = 2 * torch.randn(rows, units, bins, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.softmax(logits, -1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 300, 3000])
def test_units_measured_together_or_alone_have_the_same_curves(rows, whole):
    sample = drawn(rows, 3)
    sample[:, 1] = sample[:1, 1]  # nothing differs there
    together = chance_curves(sample, whole=whole)
    alone = [chance_curves(sample[:, [unit]], whole=whole)[0] for unit in range(3)]
    n = torch.tensor([1, 2, 3, 5, 40, 299, 5000])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one(n), other(n), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.correction(n[1:]), other.correction(n[1:]), rtol=1e-9, atol=1e-12)
    assert together[1](n).tolist() == [1.0] * len(n)


def test_c_depends_little_on_which_groups_are_drawn():
    """One draw is within a hundredth of the mean of many, at the sizes where c weighs."""
    sample = drawn(1000, 1, bins=30)
    n = torch.tensor([2, 3, 4, 8, 16])
    several = torch.stack([chance_curves(sample, seed=seed)[0].correction(n) for seed in range(12)])
    assert several.std(0).max() < 0.01
    assert (several[0] - several.mean(0)).abs().max() < 0.02


def sums_of(p, label, fold):
    """Sums by label and fold [group, unit, bin]."""
    pair, group = (label * 50 + fold).unique(return_inverse=True)
    own = -(p * p.log()).sum(-1)
    zeros = p.new_zeros(len(pair))
    return SoftSums(
        zeros[:, None, None].expand(-1, *p.shape[1:]).clone().index_add(0, group, p),
        zeros[:, None].expand(-1, p.shape[1]).clone().index_add(0, group, own),
        zeros.index_add(0, group, torch.ones(len(p), dtype=p.dtype)), pair // 50, pair % 50,
    )  # fmt: skip


def test_units_estimated_together_or_alone_have_the_same_values(monkeypatch):
    p = drawn(400, 5)
    draw = torch.Generator().manual_seed(1)
    label, fold = torch.randint(60, (400,), generator=draw), torch.randint(6, (400,), generator=draw)
    sums, curves = sums_of(p, label, fold), chance_curves(p)
    known = torch.where(torch.arange(400) % 7 == 0, torch.tensor(-2), label)
    values = ("information", "plug_in", "null", "entropy", "corrected_ceiling", "lower", "fold_jackknife")
    together = estimates(sums, curves, folds=6, sample=Sample(SampledRows(p), known))
    single = label_estimates(sums, curves, folds=6)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    for unit in range(5):
        one = sums.of_units(slice(unit, unit + 1))
        alone = estimates(one, curves[unit : unit + 1], folds=6, sample=Sample(SampledRows(p[:, [unit]]), known))
        for name in values:
            torch.testing.assert_close(getattr(together, name)[..., unit], getattr(alone, name)[..., 0], rtol=0, atol=1e-12)
        alone_labels = label_estimates(one, curves[unit : unit + 1], folds=6)
        for name in ("information", "se", "plug_in", "entropy"):
            expected = getattr(alone_labels, name)[:, 0]
            torch.testing.assert_close(getattr(single, name)[:, unit], expected, rtol=0, atol=1e-12, equal_nan=True)
    parted = estimates(sums, curves, folds=6, sample=Sample(SampledRows(p), known))
    torch.testing.assert_close(parted.information, together.information, rtol=0, atol=1e-12)
