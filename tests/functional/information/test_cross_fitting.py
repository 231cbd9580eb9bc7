"""The cross-fitted estimate against published check values, plain loops, and what must hold of any estimate of information."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.functional.information.anchors import Sample, SampledRows, replicates
from tl_entropy.functional.information.chance import c_of, chance_curves
from tl_entropy.functional.information.cross_fitting import Groups, SoftSums, Whole
from tl_entropy.functional.information.curves import ChanceCurve
from tl_entropy.functional.information.estimates import error, estimates, label_estimates
from tl_entropy.functional.information.mutual import soft_mutual_information
from tl_entropy.functional.information.random_groups import predicted

ROWS = np.array(
    [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7]]
)
LABEL, FOLD = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 1, 0, 1, 2, 2])
CLOSE = 2e-12  # the check values have twelve digits
PARTS = (0.001, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)


def constant(c=1.0, at=3):
    """A chance curve with c(n) = ``c`` up to ``at`` rows; 1 at every size where it is 1."""
    one = torch.ones(1, dtype=torch.float64)
    return ChanceCurve(one, one, 1.0, at * one, c * one)


def chance_curve(p, **options):
    """The curve of one unit."""
    return chance_curves(p[:, None], **options)[0]


def h(p):
    return -sum(v * math.log(v) for v in p if v > 0)


def cross(p, q):
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def plain(p, label, fold, c=lambda n: 1.0):
    """Every value by loops over rows, labels and folds, from the definitions; no sums but those of rows."""
    n, mean = len(p), p.mean(0)
    own = [h(row) for row in p]
    found = {"k": {}, "S": {}, "W": {}, "X": {}, "J": {}}

    def spreads(rows, c):
        """W, X, weight, S, S^J and cross-entropies by row of one set of rows."""
        folds = sorted({fold[i] for i in rows})
        centre = p[rows].mean(0)
        mine = sum(own[i] for i in rows) / len(rows)
        w = h(centre) - mine
        if len(folds) < 2:
            return w, math.nan, math.nan, math.nan, math.nan, None
        x, b, left_out = 0.0, 0.0, 0.0
        by_row = {}
        for g in folds:
            inside, outside = [i for i in rows if fold[i] == g], [i for i in rows if fold[i] != g]
            q = 0.999 * p[outside].mean(0) + 0.001 * mean
            b += len(inside) / len(rows) / len(outside)
            left_out += len(outside) * h(p[outside].mean(0))
            for i in inside:
                by_row[i] = (cross(p[i], centre), cross(p[i], q))
                x += by_row[i][1] / len(rows)
        x -= mine
        beta = (1 / len(rows)) / (1 / len(rows) + b) * c
        jackknife = (len(folds) * len(rows) * h(centre) - left_out) / len(rows) - mine
        return w, x, beta, w + beta * (x - w), jackknife, by_row

    everything = list(range(n))
    w, x, _, s, j, _ = spreads(everything, 1.0)
    found |= {"W_total": w, "X_total": x, "S_total": s, "J_total": j}
    in_two, score_t, score_p, rows_p = [], {}, {}, {}
    for f in set(fold.tolist()):
        of = [i for i in everything if fold[i] == f]
        score_t[f] = sum(cross(p[i], mean) - own[i] for i in of)
        score_p[f], rows_p[f] = 0.0, 0
    for value in sorted(set(label.tolist())):
        rows = [i for i in everything if label[i] == value]
        w, x, beta, s_x, j, by_row = spreads(rows, c(len(rows)))
        found["W"][value], found["X"][value], found["S"][value], found["J"][value] = w, x, s_x, j
        found["k"][value] = cross(p[rows].mean(0), mean) - sum(own[i] for i in rows) / len(rows) - s_x
        if by_row is None:
            continue
        in_two.append(value)
        for i in rows:
            score_p[fold[i]] += (1 - beta) * by_row[i][0] + beta * by_row[i][1] - own[i]
            rows_p[fold[i]] += 1
    sizes = {value: int((label == value).sum()) for value in in_two}
    total = sum(sizes.values())
    if not total:
        return found | {"I": math.nan, "I_J": math.nan}
    found["I"] = found["S_total"] - sum(sizes[v] * found["S"][v] for v in in_two) / total
    found["I_J"] = found["J_total"] - sum(sizes[v] * found["J"][v] for v in in_two) / total
    all_t, all_p = sum(score_t.values()), sum(score_p.values())
    u = [(score_t[f] - (fold == f).sum() * all_t / n) / n - (score_p[f] - rows_p[f] * all_p / total) / total for f in score_t]
    found["se"] = math.sqrt(len(u) / (len(u) - 1) * sum(v * v for v in u))
    gain = 0.0
    for size in {round(2 * math.log2(k)) for k in sizes.values()}:
        those = [v for v in in_two if round(2 * math.log2(sizes[v])) == size]
        lost = []
        for a in PARTS:
            lost.append(0.0)
            for v in those:
                rows = [i for i in everything if label[i] == v]
                for i in rows:
                    outside = p[[k for k in rows if fold[k] != fold[i]]].mean(0)
                    lost[-1] += cross(p[i], (1 - a) * outside + a * mean)
        spread = min(lost) - sum(own[i] for i in everything if label[i] in those)
        gain += sum(sizes[v] for v in those) * found["W_total"] - spread
    found["lower"] = gain / n
    return found


def gathered(p, label, fold):
    """The sums by label and fold; labels are dense numbers."""
    pair, group = np.unique(label * (fold.max() + 1) + fold, return_inverse=True)
    mass, own, count = np.zeros((len(pair), 1, p.shape[1])), np.zeros((len(pair), 1)), np.bincount(group)
    np.add.at(mass[:, 0], group, p)
    np.add.at(own[:, 0], group, [h(row) for row in p])
    number = fold.max() + 1
    return SoftSums(
        *map(torch.tensor, (mass, own)), torch.tensor(count).double(), *map(torch.tensor, (pair // number, pair % number))
    )


def found_by(p, label, fold, curve=None, **options):
    return estimates(gathered(p, label, fold), [curve or constant()], folds=int(fold.max()) + 1, **options)


# --- check values ----------------------------------------------------------------------------------------------------------


def test_check_values_of_seven_rows_by_sums():
    sums = gathered(ROWS, LABEL, FOLD)
    groups = Groups.of(sums.count, sums.label, sums.fold)
    whole, corrected = Whole.of(sums, 3).ceilings()
    assert whole.item() == pytest.approx(0.193078674767, abs=CLOSE)
    assert corrected.item() == pytest.approx(0.222498724764, abs=CLOSE)
    assert groups.weight.tolist() == pytest.approx([2 / 7, 2 / 5, 0])
    found = estimates(sums, [constant()], folds=3)
    assert found.information[0].item() == pytest.approx(0.130572732093, abs=CLOSE)
    assert found.plug_in[0].item() == pytest.approx(0.141425625051, abs=CLOSE)
    assert error(found.information).item() == pytest.approx(0.020306998896, abs=CLOSE)
    assert found.lower.item() == pytest.approx(0.064146421178, abs=CLOSE)
    assert found.fold_jackknife.item() == pytest.approx(0.131189015873, abs=CLOSE)
    assert found.corrected_ceiling.item() == corrected.item()
    assert (found.rows, found.rows_inside) == (7, 6)
    single = label_estimates(sums, [constant()], folds=3)
    assert single.information[:2, 0].tolist() == pytest.approx([0.094945550119, 0.052381827481], abs=CLOSE)
    assert single.information[2].isnan()
    assert single.se[2].isnan()


def test_check_values_of_seven_rows_by_loops():
    found = plain(ROWS, LABEL, FOLD)
    assert [found["W"][0], found["W"][1], found["W_total"]] == pytest.approx(
        [0.040464775412, 0.080059007259, 0.193078674767], abs=CLOSE
    )
    assert [found["X"][0], found["X"][1], found["X_total"]] == pytest.approx(
        [0.136499189979, 0.169783503532, 0.268099802260], abs=CLOSE
    )
    assert [found["S"][0], found["S"][1], found["S_total"]] == pytest.approx(
        [0.067903179574, 0.115948805768, 0.222498724764], abs=CLOSE
    )
    assert [found["J"][0], found["J"][1], found["J_total"], found["I_J"]] == pytest.approx(
        [0.066328764844, 0.116060499688, 0.222383648139, 0.131189015873], abs=CLOSE
    )
    assert [found["I"], found["se"], found["lower"]] == pytest.approx(
        [0.130572732093, 0.020306998896, 0.064146421178], abs=CLOSE
    )
    assert [found["k"][0], found["k"][1]] == pytest.approx([0.094945550119, 0.052381827481], abs=CLOSE)


def test_check_values_of_another_c_and_of_rows_as_folds():
    found = found_by(ROWS, LABEL, FOLD, constant(0.95))
    assert found.information[0].item() == pytest.approx(0.132155937160, abs=CLOSE)
    assert error(found.information).item() == pytest.approx(0.020005281774, abs=CLOSE)
    other = plain(ROWS, LABEL, FOLD, lambda n: 0.95)
    assert [other["I"], other["se"]] == pytest.approx([0.132155937160, 0.020005281774], abs=CLOSE)
    found, other = found_by(ROWS, LABEL, np.arange(7)), plain(ROWS, LABEL, np.arange(7))
    assert [found.information[0].item(), error(found.information).item()] == pytest.approx(
        [0.138824906088, 0.053721643484], abs=CLOSE
    )
    assert [other["I"], other["se"]] == pytest.approx([0.138824906088, 0.053721643484], abs=CLOSE)


@pytest.mark.parametrize(
    ("n", "within", "across", "beta", "c"),
    [
        (2, 0.109805172991, 0.477957400536, 0.314579610417, 0.943738831252),
        (3, 0.148508925956, 0.354139382493, 0.374990323168, 0.937475807921),
    ],
)
def test_check_values_of_c_from_all_groups_of_seven_rows(n, within, across, beta, c):
    groups = [ROWS[list(chosen)] for chosen in combinations(range(7), n)]
    mean = torch.tensor(ROWS).mean(0, keepdim=True)
    own = float(np.mean([h(row) for row in ROWS]))
    w = float(np.mean([h(group.mean(0)) for group in groups])) - own
    others = torch.tensor(np.stack([ROWS[list(chosen)].mean(0) for chosen in combinations(range(7), n - 1)]))
    gap = float(predicted((others / mean)[None], mean, n - 1, 7).mean()) + h(ROWS.mean(0)) - own - w
    whole = h(ROWS.mean(0)) - own + 0.5 * float((ROWS.var(0, ddof=1) / ROWS.mean(0)).sum()) / 7
    assert [w, w + gap] == pytest.approx([within, across], abs=CLOSE)
    assert whole == pytest.approx(0.225618357306, abs=CLOSE)
    bounds = torch.tensor([whole - w, gap], dtype=torch.float64)
    assert c_of(n, *bounds).item() == pytest.approx(c, abs=1e-11)
    assert c_of(n, *bounds).item() * (n - 1) / (2 * n - 1) == pytest.approx(beta, abs=1e-11)


def test_c_as_measured_nears_that_of_all_groups():
    curve = chance_curve(torch.tensor(ROWS), whole=True)
    several = [chance_curve(torch.tensor(ROWS), seed=seed).correction(torch.tensor([2.0, 3.0])).tolist() for seed in range(20)]
    assert np.mean(several, 0).tolist() == pytest.approx([0.943738831252, 0.937475807921], rel=0.01)
    found = curve.correction(torch.tensor([2.0, 3.0])).tolist()
    assert curve.correction(torch.tensor([6.0])).item() == pytest.approx(1 + (found[1] - 1) / 2), "beyond, it nears 1 like 1/n"


# --- loops, order, merging -------------------------------------------------------------------------------------------------


def drawn(seed, rows, types, bins, folds, spread=2.0):
    rng = np.random.default_rng(seed)
    label = np.unique(rng.integers(0, types, rows), return_inverse=True)[1]
    fold = np.unique(rng.integers(0, folds, rows), return_inverse=True)[1]
    weights = np.exp(spread * (rng.normal(size=(rows, bins)) + rng.normal(size=(types, bins))[label]))
    return weights / weights.sum(1, keepdims=True), label, fold


@given(st.integers(0, 10_000), st.integers(4, 30), st.integers(1, 12), st.integers(2, 6), st.integers(2, 8))
def test_sums_equal_loops(seed, rows, types, bins, folds):
    p, label, fold = drawn(seed, rows, types, bins, folds)
    if fold.max() == 0:
        return
    expected, found = plain(p, label, fold), found_by(p, label, fold)
    assert found.information[0].item() == pytest.approx(expected["I"], abs=1e-10, nan_ok=True)
    assert found.fold_jackknife.item() == pytest.approx(expected["I_J"], abs=1e-10, nan_ok=True)
    assert found.corrected_ceiling.item() == pytest.approx(expected["S_total"], abs=1e-10)
    single = label_estimates(gathered(p, label, fold), [constant()], folds=int(fold.max()) + 1)
    for x, k in expected["k"].items():
        assert single.information[x, 0].item() == pytest.approx(k, abs=1e-10, nan_ok=True)
        assert single.entropy[x, 0].item() == pytest.approx(h(p[label == x].mean(0)), abs=1e-10)
    if math.isfinite(expected["I"]):
        assert error(found.information).item() == pytest.approx(expected["se"], abs=1e-10)
        assert found.lower.item() == pytest.approx(expected["lower"], abs=1e-10)


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_any_order_split_and_numbering_gives_the_same(seed, random):
    p, label, fold = drawn(seed, 60, 12, 6, 7)
    expected = found_by(p, label, fold)
    order, labels, folds = (random.sample(range(k), k) for k in (60, int(label.max()) + 1, int(fold.max()) + 1))
    q, x, f = p[order], np.array(labels)[label[order]], np.array(folds)[fold[order]]
    whole = gathered(q, x, f)
    low, high = gathered(q[:23], x[:23], f[:23]), gathered(q[23:], x[23:], f[23:])
    keys = whole.label * 100 + whole.fold
    parts = [torch.zeros_like(t) for t in (whole.mass, whole.own, whole.count)]
    for part in (high, low):
        at = torch.searchsorted(keys, part.label * 100 + part.fold)
        for total, more in zip(parts, (part.mass, part.own, part.count), strict=True):
            total.index_add_(0, at, more)
    merged = SoftSums(*parts, whole.label, whole.fold)
    for sums in (whole, merged):
        found = estimates(sums, [constant()], folds=int(fold.max()) + 1)
        for name in ("information", "plug_in", "entropy", "ceiling"):
            mine, theirs = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(mine[0], theirs[0], atol=1e-10, rtol=0, equal_nan=True)
            torch.testing.assert_close(error(mine), error(theirs), atol=1e-10, rtol=0, equal_nan=True)
        for name in ("lower", "fold_jackknife", "corrected_ceiling"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-10, rtol=0, equal_nan=True)


def test_groups_without_rows_count_nothing():
    p, label, fold = drawn(3, 80, 9, 5, 6)
    sums = gathered(p, label, fold)
    expected = estimates(sums, [constant()], folds=6)
    empty = SoftSums(
        torch.cat([sums.mass, torch.zeros(2, 1, 5).double()]), torch.cat([sums.own, torch.zeros(2, 1).double()]),
        torch.cat([sums.count, torch.zeros(2).double()]), torch.cat([sums.label, torch.tensor([0, 9])]),
        torch.cat([sums.fold, torch.tensor([6, 1])]),
    )  # fmt: skip
    found = estimates(empty, [constant()], folds=7)
    assert found.information[0].item() == pytest.approx(expected.information[0].item(), abs=1e-12)
    assert error(found.information).item() == pytest.approx(error(expected.information).item(), abs=1e-12)


def test_single_labels_average_to_the_whole():
    """Weighted by rows, corrected ones over labels in two folds are I + (C - S)."""
    p, label, fold = drawn(1, 300, 20, 6, 5)
    sums = gathered(p, label, fold)
    found, single = estimates(sums, [constant()], folds=5), label_estimates(sums, [constant()], folds=5)
    assert bool(single.information.isfinite().all())
    mean = (single.counts @ single.information[:, 0] / 300).item()
    expected = (found.information[0] + found.ceiling[0] - found.corrected_ceiling).item()
    assert mean == pytest.approx(expected, abs=1e-12)


# --- anchors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plug_in", "ceiling", "entropy"])
def test_what_anchors_add_is_what_leaving_out_a_third_of_them_changes(name):
    p, label, fold = drawn(5, 50, 6, 8, 4)
    p[3] = [1e-9, *[0] * 6, 1 - 1e-9]  # a row that one anchor has nearly all of
    label[label == 5] = -1  # seen once: no spread
    found = found_by(p, label, fold, sample=Sample(SampledRows(torch.tensor(p)[:, None]), torch.tensor(label)))
    column = getattr(found, name)[:, 0]
    kept = replicates(8)[1:].bool().numpy()
    assert len(column) == 1 + fold.max() + 1 + len(kept)
    assert set(kept.sum(1)) == {5, 6}
    assert set(kept.sum(0)) == {12}, "each anchor is left out in one of three"

    def value(kept):
        q = p[:, kept]
        q = q / np.where(q.any(1), q.sum(1), 1)[:, None]  # a row that no anchor there has any of has a share in none
        rows = np.array([shannon(row) for row in q])
        labels = set(label.tolist()) - {-1}
        conditional = sum((label == x).mean() * shannon(q[label == x].mean(0)) for x in labels)
        within = conditional - rows[label >= 0].sum() / len(q)
        entropy = shannon(q.mean(0))
        return {"plug_in": entropy - rows.mean() - within, "ceiling": entropy - rows.mean(), "entropy": entropy}[name]

    left = np.array([value(one) for one in kept])
    counts = np.sqrt(kept.sum(1) / (8 - kept.sum(1)) / len(kept))
    assert (column[0] - column[-len(kept) :]).tolist() == pytest.approx(((left - left.mean()) * counts).tolist(), abs=1e-9)


def test_a_row_that_no_drawn_anchor_has_any_of_has_an_entropy_of_zero():
    drawn = SampledRows(torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [0.2] * 5])[:, None])
    none = drawn.p[0, 0] @ drawn.weights.mT < 1e-20
    assert none.any()
    assert drawn.entropies[0, 0][none].unique().tolist() == [0.0]


def shannon(p):
    return -float((p[p > 0] * np.log(p[p > 0])).sum())


def test_what_anchors_add_in_single_precision_and_of_rows_without_a_label():
    p, label, fold = drawn(5, 50, 6, 8, 4)
    sample = lambda p, label: Sample(SampledRows(torch.tensor(p)[:, None]), torch.tensor(label))  # noqa: E731
    exact = found_by(p, label, fold, sample=sample(p, label))
    rough = found_by(p, label, fold, sample=sample(p.astype(np.float32), label))
    torch.testing.assert_close(exact.information, rough.information, rtol=0, atol=1e-6)
    more = np.concatenate([p, p[::-1]]), np.concatenate([label, np.full(50, -2)])
    torch.testing.assert_close(
        exact.information, found_by(p, label, fold, sample=sample(*more)).information, rtol=0, atol=1e-12
    )


def test_errors_over_anchors_are_the_spread_over_seeds():
    rng = np.random.default_rng(0)
    centres, label = rng.normal(size=(30, 16)), np.arange(600) % 30
    z = torch.tensor(centres[label] + 0.7 * rng.normal(size=(600, 16)))
    found = [soft_mutual_information(z, label, n_bins=50, seed=seed) for seed in range(24)]
    spread = np.std([one.information.item() for one in found], ddof=1)
    assert math.sqrt(np.mean([one.anchors_se**2 for one in found])) == pytest.approx(spread, rel=0.35)


# --- what must hold of any estimate of information ----------------------------------------------------------------------------


def zipf(rng, rows, types):
    weights = 1 / np.arange(1, types + 1)
    return rng.choice(types, rows, p=weights / weights.sum())


def clustered(seed, rows=1500, types=120, d=16, signal=1.0, noise=0.7):
    rng = np.random.default_rng(seed)
    label = zipf(rng, rows, types)
    codes = rng.normal(size=(types, d))
    centres = rng.normal(size=(12, d))[rng.integers(0, 12, rows)]
    return torch.tensor(signal * codes[label] + centres + noise * rng.normal(size=(rows, d))), label, rng


@pytest.mark.parametrize("seed", range(6))
def test_permuted_labels_say_nothing_within_3_errors(seed):
    z, label, rng = clustered(seed, rows=1000)
    found = soft_mutual_information(z, rng.permutation(label), n_bins=40)
    assert abs(found.information.item()) < 3 * found.se
    assert found.plug_in.item() > 0.1
    assert abs(found.lower) < 0.02


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 1.0, 3.0]))
def test_finer_labels_never_say_less_beyond_the_error(seed, signal):
    z, label, _ = clustered(seed, rows=600, types=40, signal=signal)
    coarse = soft_mutual_information(z, label // 4, n_bins=25)
    fine = soft_mutual_information(z, label, n_bins=25)
    assert fine.information.item() > coarse.information.item() - 4 * math.hypot(fine.se, coarse.se)


@given(st.integers(0, 1000), st.sampled_from([0.0, 1.0, 3.0]))
def test_labels_split_at_random_say_the_same_within_the_error(seed, signal):
    z, label, rng = clustered(seed, rows=600, types=40, signal=signal)
    whole = soft_mutual_information(z, label, n_bins=25)
    halves = soft_mutual_information(z, 2 * label + rng.integers(0, 2, len(label)), n_bins=25)
    assert halves.information.item() == pytest.approx(whole.information.item(), abs=4 * math.hypot(whole.se, halves.se))
    assert halves.plug_in.item() > whole.plug_in.item()


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 2.0]))
def test_lower_lies_between_0_and_the_headline(seed, signal):
    z, label, _ = clustered(seed, rows=600, types=40, signal=signal)
    found = soft_mutual_information(z, label, n_bins=25)
    # Of labels that say nothing one seed in some thousand has a bound more than 3 errors above.
    assert -3 * found.se <= found.lower <= found.information.item() + 4 * found.se
    assert found.information.item() <= found.corrected_ceiling.item() + 1e-9 + 3 * found.se


def test_equal_states_within_labels_tell_all():
    rng = np.random.default_rng(0)
    label = np.arange(300) % 60
    found = soft_mutual_information(torch.tensor(rng.normal(size=(60, 64))[label]), label)
    assert found.share == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 10])
def test_labels_of_documents_that_say_nothing(classes):
    """60 documents of equal length with a state of their own, whose classes take turns: the truth is 0."""
    values, plug_in, adjusted = [], [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        document = np.arange(1200) // 20
        z = torch.tensor(0.6 * rng.normal(size=(60, 16))[document] + rng.normal(size=(1200, 16)))
        found = soft_mutual_information(z, document % classes, documents=document, n_bins=30)
        values.append(found.information.item())
        plug_in.append(found.plug_in.item())
        adjusted.append(found.chance_adjusted.item())
    assert abs(np.mean(values)) < 0.015
    assert abs(np.mean(values)) < 0.2 * np.mean(adjusted) < 0.2 * np.mean(plug_in)


@pytest.mark.parametrize("folds", [3, 5, 20])
def test_rare_labels_that_say_nothing_in_few_folds_are_unsure(folds):
    """Their bias is above the error, but the fold jackknife is as far away."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        z, label = torch.tensor(rng.normal(size=(600, 64))), rng.permutation(600) % 120
        found = soft_mutual_information(z, label, documents=np.arange(600), folds=folds, seed=seed)
        assert abs(found.information.item()) < {3: 0.3, 5: 0.2, 20: 0.1}[folds]
        assert found.fold_jackknife - found.information.item() > 2 * abs(found.information.item())


def test_gradients_are_finite_differences_at_fixed_weights():
    rng = np.random.default_rng(0)
    label, document = np.arange(60) % 4, np.arange(60) // 6
    z = torch.tensor(rng.normal(size=(4, 3))[label] + rng.normal(size=(60, 3))).requires_grad_()
    fixed = {"n_bins": 6, "documents": document}
    found = soft_mutual_information(z, label, **fixed)
    (gradient,) = torch.autograd.grad(found.information, z)
    assert gradient.isfinite().all()
    weights = np.random.default_rng(1).normal(size=z.shape)
    step = torch.tensor(weights / np.linalg.norm(weights))
    curve = {}

    def value(shift):
        """With c as it was at z: it is held fixed, too."""
        from tl_entropy.functional.information import mutual

        plain = mutual.chance_curves
        try:
            mutual.chance_curves = lambda *a, **k: curve.setdefault("c", plain(*a, **k))
            return soft_mutual_information(z.detach() + shift * step, label, **fixed).information.item()
        finally:
            mutual.chance_curves = plain

    value(0.0)
    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    assert (gradient * step).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-8)
