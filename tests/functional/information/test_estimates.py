"""Values from sums of soft assignments against plain loops over rows, over permutations, and over what is left out."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import hypergeom

from tl_entropy.functional.information import chance
from tl_entropy.functional.information.chance import SAMPLE, chance_curves
from tl_entropy.functional.information.cross_fitting import SoftSums
from tl_entropy.functional.information.curves import ChanceCurve
from tl_entropy.functional.information.estimates import (
    MIN_RESOLUTION,
    MIN_ROWS,
    chance_adjusted,
    delete_one,
    error,
    estimates,
    label_estimates,
    reason_for_nan,
)
from tl_entropy.functional.information.mutual import soft_mutual_information
from tl_entropy.functional.information.soft import soft_anchors, soft_assignments
from tl_entropy.functional.information.temperature import calibrate_temperature
from tl_entropy.functional.probabilities import entropy, extensive


def chance_curve(p, **options):
    """The curve of one unit."""
    return chance_curves(p[:, None], **options)[0]


def drawn(rows, bins, seed, *, spread=3.0, signal=None):
    """Assignments: softmax of Gaussian logits; those of one ``signal`` share a part."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, bins))
    if signal is not None:
        logits += rng.normal(size=(max(signal) + 1, bins))[signal]
    weights = np.exp(spread * logits)
    return weights / weights.sum(1, keepdims=True)


def zipf(rows, types, seed):
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, types + 1)
    return rng.choice(types, rows, p=weights / weights.sum())


def plain_entropy(p):
    return float(sum(-v * math.log(v) for v in p if v > 0))


def plain_plug_in(p, label):
    """H(Z) - Σ_x P(x) H(Z|x), label by label."""
    h = plain_entropy(p.mean(0))
    for x in set(label.tolist()):
        h -= (label == x).mean() * plain_entropy(p[label == x].mean(0))
    return h


def plain_ceiling(p):
    return plain_entropy(p.mean(0)) - float(np.mean([plain_entropy(row) for row in p]))


def plain_null(p, label, curve):
    """Σ_x P(x) D(n_x), with D from the curve as the module defines it."""
    n = len(label)
    total = 0.0
    for size in Counter(label.tolist()).values():
        factor = float(curve(torch.tensor(float(size))))
        total += size / n * plain_ceiling(p) * factor * (1 / size - 1 / n) / (1 - 1 / n)
    return total


def shuffled_plug_ins(p, label, times, seed):
    rng = np.random.default_rng(seed)
    one_hot = (label[:, None] == np.unique(label)).astype(float)
    sizes = one_hot.sum(0)
    found = []
    for _ in range(times):
        q = np.maximum(one_hot[rng.permutation(len(label))].T @ p / sizes[:, None], 1e-300)
        found.append(plain_entropy(p.mean(0)) + (sizes / len(label)) @ (q * np.log(q)).sum(1))
    return np.array(found)


def gathered(units, label, fold, *, pooled):
    """The sums of ``units`` (assignments of each unit), row by row; pooled: labels seen once go into one group for a fold."""
    sizes, groups = Counter(label.tolist()), {}
    for i, (x, f) in enumerate(zip(label.tolist(), fold.tolist(), strict=True)):
        group = groups.setdefault((-1 if pooled and sizes[x] == 1 else x, f), [0.0, 0.0, 0])
        group[0] = group[0] + np.stack([p[i] for p in units])
        group[1] = group[1] + np.array([plain_entropy(p[i]) for p in units])
        group[2] += 1
    mass, own, count = zip(*groups.values(), strict=True)
    keys = torch.tensor(list(groups))
    return SoftSums(
        torch.tensor(np.stack(mass)), torch.tensor(np.stack(own)), torch.tensor(count).double(), keys[:, 0], keys[:, 1]
    )


def corpus(seed=0, rows=240, bins=12):
    """Two units, labels with singletons and frequent ones, five folds of which some lack most labels."""
    label = zipf(rows, 60, seed)
    fold = np.sort(np.random.default_rng(seed + 1).choice(5, rows, p=[0.4, 0.3, 0.15, 0.1, 0.05]))
    units = [drawn(rows, bins, seed + 2), drawn(rows, bins, seed + 3, spread=1.0, signal=label)]
    return units, label, fold, [chance_curve(torch.tensor(p)) for p in units]


@pytest.mark.thinned
@pytest.mark.parametrize("pooled", [False, True], ids=["every label", "pooled singletons"])
@pytest.mark.parametrize("seed", [0, 7])
def test_values_equal_plain_loops(pooled, seed):
    units, label, fold, curves = corpus(seed)
    found = estimates(gathered(units, label, fold, pooled=pooled), curves, folds=5)
    assert found.entropy.shape == (6, 2)
    assert found.fold_rows.tolist() == np.bincount(fold).tolist()
    assert found.rows == len(label)
    in_two = [len(set(fold[label == x].tolist())) > 1 for x in label]
    assert found.rows_inside == sum(in_two)
    for unit, p in enumerate(units):
        assert found.entropy[0, unit].item() == pytest.approx(plain_entropy(p.mean(0)), abs=1e-10)
        assert found.plug_in[0, unit].item() == pytest.approx(plain_plug_in(p, label), abs=1e-10)
        assert found.ceiling[0, unit].item() == pytest.approx(plain_ceiling(p), abs=1e-10)
        assert found.null[0, unit].item() == pytest.approx(plain_null(p, label, curves[unit]), abs=1e-10)


def weighed_values(p, label, weight):
    """H(Z), plug-in information and ceiling of rows that count ``weight`` each."""
    share = weight / weight.sum()
    h = plain_entropy(share @ p)
    conditional = sum(
        share[label == x].sum() * plain_entropy(np.average(p[label == x], 0, weight[label == x])) for x in set(label)
    )
    own = sum(s * plain_entropy(row) for s, row in zip(share, p, strict=True))
    return {"entropy": h, "plug_in": h - conditional, "ceiling": h - own}


def test_what_a_fold_adds_is_the_derivative_by_its_weight():
    units, label, fold, curves = corpus(2)
    found = estimates(gathered(units, label, fold, pooled=True), curves, folds=5)
    for unit, p in enumerate(units):
        for f in range(5):
            up, down = (weighed_values(p, label, 1 + step * (fold == f)) for step in (1e-5, -1e-5))
            for name in up:
                column = getattr(found, name)[:, unit]
                expected = math.sqrt(5 / 4) * (up[name] - down[name]) / 2e-5
                assert (column[0] - column[1 + f]).item() == pytest.approx(expected, abs=1e-8), name
    torch.testing.assert_close(found.null / found.ceiling, (found.null[:1] / found.ceiling[:1]).expand_as(found.null))


def test_errors_are_the_jackknife_of_values_with_a_fold_left_out():
    """To first order; of entropies, in which few rows a label play no part."""
    units, label, _, curves = corpus(3, rows=2000)
    fold = np.arange(2000) // 100
    found = estimates(gathered(units, label, fold, pooled=True), curves, folds=20)
    for unit, p in enumerate(units):
        without = [plain_entropy(p[fold != f].mean(0)) for f in range(20)]
        expected = math.sqrt(19 / 20 * ((np.array(without) - np.mean(without)) ** 2).sum())
        assert error(found.entropy)[unit].item() == pytest.approx(expected, rel=0.03)


def test_one_fold_gives_no_information_and_no_error():
    units, label, fold, curves = corpus()
    found = estimates(gathered(units, label, 0 * fold, pooled=True), curves, folds=1)
    assert found.plug_in[0, 1].item() == pytest.approx(plain_plug_in(units[1], label), abs=1e-12)
    assert error(found.plug_in).isnan().all()
    for values in (found.information, found.corrected_ceiling, found.lower, found.fold_jackknife):
        assert values.isnan().all()
    assert found.rows_inside == 0


def test_reasons_come_in_the_order_of_what_is_missing():
    assert reason_for_nan(0.0, 0, 1) == "the ceiling is 0: all states are assigned alike"
    assert reason_for_nan(1.0, 0, 1).startswith("one fold of documents")
    assert reason_for_nan(1.0, MIN_ROWS - 1, 2) == (
        "labels too rare: 49 rows have a label that two folds of documents hold, 50 are needed"
    )
    assert reason_for_nan(1.0, MIN_ROWS, 2) == ""


def test_an_empty_fold_changes_nothing():
    units, label, fold, curves = corpus()
    found = estimates(gathered(units, label, fold + (fold > 1), pooled=True), curves, folds=6)  # none in fold 2
    expected = estimates(gathered(units, label, fold, pooled=True), curves, folds=5)
    for name in ("information", "entropy", "plug_in", "null", "ceiling"):
        value = getattr(found, name)
        torch.testing.assert_close(value[3], value[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(error(value), error(getattr(expected, name)), rtol=0, atol=1e-12)


def test_a_single_row_says_nothing():
    p = drawn(2, 5, 0)
    found = estimates(gathered([p[:1]], np.array([0]), np.array([0]), pooled=False), [chance_curve(torch.tensor(p))], folds=1)
    assert [found.null[0].item(), found.plug_in[0].item(), found.ceiling[0].item()] == pytest.approx([0, 0, 0], abs=1e-12)
    assert found.information[0].isnan()


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 9), st.floats(0.01, 8), st.integers(1, 40))
def test_information_lies_between_0_and_the_ceiling(seed, types, bins, spread, rows):
    p, label = drawn(rows, bins, seed, spread=spread), np.random.default_rng(seed).integers(0, types, rows)
    found = estimates(gathered([p], label, 0 * label, pooled=False), [chance_curve(torch.tensor(p))], folds=1)
    assert -1e-12 <= found.plug_in[0].item() <= found.ceiling[0].item() + 1e-12
    assert found.ceiling[0].item() <= found.entropy[0].item() + 1e-12 <= math.log(bins) + 2e-12
    if rows > 1:
        assert -1e-9 <= found.null[0].item() <= found.ceiling[0].item() * (1 + 1e-9) + 1e-9


@given(st.integers(0, 10_000), st.integers(1, 30), st.booleans())
def test_label_information_averages_to_the_plug_in(seed, types, pooled):
    label = np.random.default_rng(seed).integers(0, types, 50)
    p = drawn(50, 8, seed, signal=label)
    sums = gathered([p], label, np.arange(50) % 3, pooled=pooled)
    single = label_estimates(sums, [chance_curve(torch.tensor(p))], folds=3)
    gain, sizes = single.plug_in, single.counts
    mean = p.mean(0)
    total = 0.0
    for x, n in Counter(label.tolist()).items():
        if pooled and n == 1:  # known only as a sum of entropies: Σ_j mean_j log p̄_j is the other half of their divergence
            total += float((p[label == x][0] * np.log(p[label == x][0] / mean)).sum())
            continue
        q = p[label == x].mean(0)
        assert gain[x, 0].item() == pytest.approx(float((q * np.log(q / mean)).sum()), abs=1e-12)
        assert gain[x, 0] >= 0
        assert sizes[x] == n
        total += n * gain[x, 0].item()
    assert total / 50 == pytest.approx(plain_plug_in(p, label), abs=1e-12)


def test_entropies():
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    assert entropy(p).tolist() == pytest.approx([math.log(2), 0.0])
    entropy(p).sum().backward()
    assert p.grad.isfinite().all()
    mass = torch.tensor([3.0, 0.0, 9.0, -1e-18], dtype=torch.float64)
    assert extensive(mass).item() == pytest.approx(12 * plain_entropy([0.25, 0.75]))
    assert extensive(torch.zeros(4)).item() == 0


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 1, 1, 1, 1, 1, 1), (3, 2, 2), (3, 3, 1), (4, 3), (5, 1, 1)])
def test_the_null_is_the_mean_over_all_permutations_of_seven_rows(sizes):
    p = drawn(7, 10, 5)
    label = np.repeat(np.arange(len(sizes)), sizes)
    orders = np.array(list(permutations(range(7))))
    mean = plain_entropy(p.mean(0))
    for x, n in enumerate(sizes):
        q = p[orders[:, label == x]].mean(1)
        mean += n / 7 * (q * np.log(q)).sum(1).mean()
    null = estimates(gathered([p], label, 0 * label, pooled=False), [chance_curve(torch.tensor(p))], folds=1).null[0].item()
    # Groups of 2 and 3 are measured on random orders; those of more than half the rows follow from the limit for many.
    assert null == pytest.approx(mean, rel=0.005 if max(sizes) <= 3 else 0.08)


@pytest.mark.parametrize("types", [3, 30, 300])
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0], ids=["nearly equal rows", "soft rows", "hard rows"])
def test_the_null_is_the_mean_over_permutations(types, spread):
    label = zipf(400, types, 1)
    p = drawn(400, 20, 2, spread=spread, signal=label)
    shuffled = shuffled_plug_ins(p, label, 200, 3)
    null = estimates(gathered([p], label, 0 * label, pooled=True), [chance_curve(torch.tensor(p))], folds=1).null[0].item()
    error = shuffled.std(ddof=1) / math.sqrt(len(shuffled))
    assert abs(null - shuffled.mean()) < 4 * error + 0.003 * shuffled.mean()


@pytest.mark.parametrize(("rows", "near"), [(1024, 0.02), (8192, 0.01)])
def test_chance_of_two_kinds_of_rows_is_hypergeometric(rows, near, monkeypatch):
    """Of n rows k are of the first kind, k hypergeometric; so D(n) has a closed form."""
    assert chance.ROWS == 1024, "as many as there are without being asked"
    monkeypatch.setattr(chance, "ROWS", rows)
    p = drawn(2, 10, 4)
    curve = chance_curve(torch.tensor(np.tile(p, (50, 1))))

    def lost(n):
        k = np.arange(n + 1)
        mixed = [plain_entropy(a * p[0] + (1 - a) * p[1]) for a in k / n]
        return plain_entropy(p.mean(0)) - hypergeom(100, 50, n).pmf(k) @ mixed

    for n in (1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 20, 30, 48, 70, 95):
        factor = lost(n) / lost(1) * (1 - 1 / 100) / (1 / n - 1 / 100)
        assert curve(torch.tensor(float(n))).item() == pytest.approx(factor, rel=near)


def test_chance_curve_joins_its_points_and_tends_to_its_limit():
    none = torch.ones(0, dtype=torch.float64)
    curve = ChanceCurve(torch.tensor([1.0, 4.0]).double(), torch.tensor([1.0, 3.0]).double(), 5.0, none, none)
    n = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    torch.testing.assert_close(curve(n), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double())
    assert curve(torch.tensor(4e9)).item() == pytest.approx(5)
    alone = ChanceCurve(torch.ones(1).double(), torch.ones(1).double(), 2.0, none, none)
    assert alone(torch.tensor([1, 2, 4])).tolist() == [1.0, 1.5, 1.75]
    assert alone.correction(torch.tensor([2, 9])).tolist() == [1.0, 1.0]
    both = ChanceCurve(none, none, 1.0, torch.tensor([2.0, 8.0]), torch.tensor([0.8, 0.9]))
    expected = torch.tensor([0.8, 0.85, 0.9, 0.95]).double()
    torch.testing.assert_close(both.correction(torch.tensor([2, 4, 8, 16])), expected)


def test_chance_curve_is_the_same_again_and_from_a_sample():
    p = torch.tensor(drawn(6000, 20, 9), dtype=torch.float32)
    torch.manual_seed(1)
    whole, n = chance_curve(p), torch.tensor([2.0, 10.0, 100.0, 2000.0])
    torch.manual_seed(2)
    assert torch.equal(whole(n), chance_curve(p)(n))
    torch.testing.assert_close(chance_curve(p[:SAMPLE])(n), whole(n), rtol=0.03, atol=0)
    torch.testing.assert_close(chance_curve(p[:500])(n), whole(n), rtol=0.08, atol=0)
    assert whole(torch.ones(1)).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_chance_curve_of_few_or_equal_rows(rows):
    assert chance_curve(torch.tensor(drawn(rows, 5, 0)))(torch.ones(1)).item() == pytest.approx(1)
    assert chance_curve(torch.full((rows, 4), 0.25))(torch.tensor([1.0, 9.0])).tolist() == [1.0, 1.0]


def test_chance_of_rows_that_all_differ_alike():
    """With a bin of its own for each of 40 rows, D(n) = log(40 / n) whatever rows are drawn: nothing varies but rounding."""
    curve = chance_curve(torch.eye(40, dtype=torch.float64))
    for n in (1, 2, 3, 4, 6, 8, 12, 16):
        factor = math.log(40 / n) / math.log(40) * (1 - 1 / 40) / (1 / n - 1 / 40)
        assert curve(torch.tensor(float(n))).item() == pytest.approx(factor, rel=1e-9)


def test_adjusting_for_chance():
    plug_in, null, ceiling = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.1, 1.0, 0.05], [0.1] * 4, [1.0] * 4))
    adjusted = chance_adjusted(plug_in, null, ceiling)
    assert adjusted.tolist() == pytest.approx([0.2 / 0.9, 0, 1, -0.05 / 0.9])
    for unresolved in ((0.999, 0.995, 1.0), (0.0, 0.0, 0.0), (math.nan,) * 3, (1e-7, 0.0, 9e-7)):
        assert chance_adjusted(*(torch.tensor(v) for v in unresolved)).isnan()
    limit = torch.tensor(1 - 1.01 * MIN_RESOLUTION).double()
    assert chance_adjusted(limit, limit, torch.tensor(1.0).double()).item() == pytest.approx(0)


@pytest.mark.parametrize("types", [1, 4, 40, 4000])
def test_delete_one_is_the_jackknife_of_the_plug_in(types):
    label = np.unique(np.random.default_rng(0).integers(0, types, 60), return_inverse=True)[1]
    p = drawn(60, 7, 1, signal=label)
    rest = [plain_plug_in(np.delete(p, i, 0), np.delete(label, i)) for i in range(60)]
    expected = 60 * plain_plug_in(p, label) - 59 * float(np.mean(rest))
    assert delete_one(torch.tensor(p), torch.tensor(label)).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("sizes", [(30, 30), (48, 12), (20, 20, 20), (55, 5)])
def test_the_null_of_large_labels_in_a_small_sample_is_the_mean_over_permutations(sizes):
    z = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    label = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    draw = torch.Generator().manual_seed(1)
    found = soft_mutual_information(z, label)
    p = soft_assignments(z, soft_anchors(16, 100), calibrate_temperature(16, 100)).double().numpy()
    assert plain_plug_in(p, label.numpy()) == pytest.approx(found.plug_in.item(), abs=1e-6)
    values = [plain_plug_in(p, label[torch.randperm(60, generator=draw)].numpy()) for _ in range(200)]
    error = float(np.std(values)) / 200**0.5
    assert found.null == pytest.approx(float(np.mean(values)), abs=3.5 * error)
