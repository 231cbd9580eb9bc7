"""Measures of neighbours against plain loops, closed forms, likelihoods by scipy, and the spread over samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, strategies as st
from scipy.optimize import minimize_scalar

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional import gride, information_imbalance, neighbour_overlap, two_nn


def rows(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ranks(x):
    """[i, j] the place of j among the neighbours of i, from 1; by numpy, from the differences."""
    distance = np.linalg.norm(x[:, None].numpy() - x[None].numpy(), axis=-1)
    np.fill_diagonal(distance, np.inf)
    return distance.argsort(1, kind="stable").argsort(1, kind="stable") + 1


@given(st.integers(4, 30), st.integers(1, 3), st.integers(0, 999))
def test_overlap_and_imbalance_are_those_of_loops(n, k, seed):
    x, y = rows(n, 3, seed), rows(n, 5, seed + 1)
    mine, theirs = ranks(x), ranks(y)
    shared = [len({*np.flatnonzero(a <= k)} & {*np.flatnonzero(b <= k)}) / k for a, b in zip(mine, theirs, strict=True)]
    assert neighbour_overlap(x, y, k=k).by_row.tolist() == pytest.approx(shared)
    imbalance = information_imbalance(x, y, k=k)
    assert imbalance.by_row.tolist() == pytest.approx([2 / n * b[a <= k].mean() for a, b in zip(mine, theirs, strict=True)])
    assert imbalance.value == pytest.approx(imbalance.by_row.mean().item())
    labels = [i % 3 for i in range(n)]
    alike = [np.mean([labels[j] == labels[i] for j in np.flatnonzero(mine[i] <= k)]) for i in range(n)]
    assert neighbour_overlap(x, labels, k=k).by_row.tolist() == pytest.approx(alike)
    assert neighbour_overlap(x, torch.tensor(labels), k=k).value == pytest.approx(np.mean(alike))


@given(st.integers(5, 25), st.integers(2, 4), st.integers(0, 999))
def test_imbalance_from_and_to_labels_is_that_of_loops(n, kinds, seed):
    """Rows of a label are one step apart, and all others two: by the mean of tied places, in scipy."""
    x, k = rows(n, 3, seed), 2
    labels = [*(chr(97 + i % kinds) for i in range(n - 1)), "alone"]
    steps = np.array([[1.0 + (a != b) for b in labels] for a in labels])
    np.fill_diagonal(steps, np.inf)
    tied, mine = scipy.stats.rankdata(steps, axis=1), ranks(x)
    to = information_imbalance(x, labels, k=k)
    assert to.by_row.tolist() == pytest.approx([2 / n * b[a <= k].mean() for a, b in zip(mine, tied, strict=True)])
    back = information_imbalance(labels, x)
    nearest = [row == row.min() for row in steps]
    assert back.by_row.tolist() == pytest.approx([2 / n * a[b].mean() for a, b in zip(mine, nearest, strict=True)])
    assert information_imbalance(torch.tensor([ord(one[0]) for one in labels[:-1]] + [0]), x).value == back.value


@pytest.mark.parametrize("which", ["to", "from"])
def test_the_error_with_labels_is_the_change_by_a_row(which):
    """The jackknife, which leaves out one row at a time."""
    labels = torch.arange(120) % 6
    x = rows(120, 3) + (labels % 3)[:, None]

    def of(kept):
        sides = (x[kept], labels[kept]) if which == "to" else (labels[kept], x[kept])
        return information_imbalance(*sides)

    left_out = np.array([of([j for j in range(120) if j != i]).value for i in range(120)])
    jackknife = math.sqrt(119 / 120 * ((left_out - left_out.mean()) ** 2).sum())
    assert of(range(120)).se == pytest.approx(jackknife, rel=0.15)


def test_labels_that_states_tell_and_those_that_say_nothing():
    labels = torch.arange(400) % 2
    apart = rows(400, 3) + 100 * labels[:, None]
    assert information_imbalance(apart, labels).value == pytest.approx(0.5)  # half of all rows are equally near
    assert information_imbalance(labels, apart).value == pytest.approx(0.5)
    assert information_imbalance(rows(400, 3), labels).value == pytest.approx(1, abs=0.05)
    assert information_imbalance(labels, rows(400, 3)).value == pytest.approx(1, abs=0.02)


def test_the_same_neighbours_and_none():
    x = rows(300, 4)
    turned = 3 * x @ torch.linalg.qr(rows(4, 4, 1)).Q + 2
    assert neighbour_overlap(x, turned, k=7).value == 1
    assert information_imbalance(x, turned).value == pytest.approx(2 / 300)
    other = rows(300, 4, 2)
    assert neighbour_overlap(x, other, k=30).value == pytest.approx(30 / 299, abs=0.02)
    assert information_imbalance(x, other).value == pytest.approx(1, abs=0.1)
    # A part of the components tells less than all of them.
    assert information_imbalance(x, x[:, :1]).value < information_imbalance(x[:, :1], x).value


def test_gride_is_the_maximum_of_its_likelihood_and_at_1_that_of_two_nn():
    x = rows(200, 3)
    distance = np.sort(np.linalg.norm(x[:, None].numpy() - x[None].numpy(), axis=-1), axis=1)[:, 1:]
    found = gride(x, scales=[1, 4, 20])
    for i, k in enumerate((1, 4, 20)):
        logs = np.log(distance[:, 2 * k - 1] / distance[:, k - 1])

        def negative(d, logs=logs, k=k):
            return -(np.log(d) + (k - 1) * np.log(np.expm1(d * logs)) - ((2 * k - 1) * d + 1) * logs).sum()

        best = minimize_scalar(negative, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-9})
        assert found.dimension[i].item() == pytest.approx(best.x, rel=1e-5)
        bent = (negative(best.x + 1e-3) - 2 * best.fun + negative(best.x - 1e-3)) / 1e-6
        assert found.se[i].item() == pytest.approx(bent**-0.5, rel=1e-3)
        assert found.distance[i].item() == pytest.approx(distance[:, [k - 1, 2 * k - 1]].mean())
    assert found.dimension[0].item() == pytest.approx(1 / np.log(distance[:, 1] / distance[:, 0]).mean())
    assert found.dimension[0].item() == pytest.approx(two_nn(x, discard=0.0).item(), rel=0.15)


def test_gride_finds_planes_in_noise_by_scale():
    plane = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = torch.cat([plane, torch.zeros(1500, 6, dtype=torch.float64)], 1) + 0.01 * rows(1500, 8)
    found = gride(noisy)
    assert found.scales == (1, 2, 4, 8, 16, 32)
    assert found.dimension[0] > 3
    assert found.dimension[-1] == pytest.approx(2.2, abs=0.3)
    assert bool((found.distance.diff() > 0).all())


@pytest.mark.thinned
@pytest.mark.parametrize("k", [1, 8])
def test_errors_of_gride_are_the_spread_over_samples(k):
    found = [gride(torch.rand(300, 2, generator=torch.Generator().manual_seed(i)), scales=[k]) for i in range(60)]
    spread = torch.stack([one.dimension[0] for one in found]).std().item()
    assert found[0].se[0].item() == pytest.approx(spread, rel=0.35)


@pytest.mark.long
@pytest.mark.parametrize("of", ["overlap", "imbalance"])
def test_errors_over_documents_are_the_spread_over_corpora(of):
    document, found = torch.arange(40).repeat_interleave(10), []
    for seed in range(60):
        x = 2 * rows(40, 4, seed)[document] + rows(400, 4, seed + 1000)
        y = x + rows(40, 1, seed + 2000).abs()[document] * rows(400, 4, seed + 3000)
        one = (neighbour_overlap if of == "overlap" else information_imbalance)(x, y, k=5, documents=document)
        found.append((one.value, one.se))
    values, errors = np.array(found).T
    assert math.sqrt((errors**2).mean()) / values.std(ddof=1) == pytest.approx(1, abs=0.35)


def test_documents_are_taken_together():
    document = torch.arange(100).repeat_interleave(3)
    x = rows(100, 3)[document] + 1e-3 * rows(300, 3, 1)
    alone, together = (gride(x, scales=[1], documents=one).se.item() for one in (None, document))
    assert together > alone
    labels = (document // 10).tolist()
    own = neighbour_overlap(x, labels, k=4)
    assert own.se == pytest.approx(own.by_row.std().item() / math.sqrt(300), rel=1e-9)
    sums = (own.by_row - own.value).view(100, 3).sum(1)
    expected = math.sqrt(100 / 99 * sums.square().sum().item()) / 300
    assert neighbour_overlap(x, labels, k=4, documents=document).se == pytest.approx(expected)


def test_repeated_rows_are_taken_once():
    x = rows(40, 3)
    with pytest.warns(UserWarning, match="5 of 45 rows repeat others and were left out of gride"):
        found = gride(torch.cat([x, x[:5]]), documents=torch.arange(45))
    assert found.rows == 40
    torch.testing.assert_close(found.dimension, gride(x).dimension)


@pytest.mark.parametrize(
    ("run", "error", "match"),
    [
        (lambda x: neighbour_overlap(x, x[:4]), InputError, "k must be"),
        (lambda x: neighbour_overlap(x, x[:4], k=2), InputError, "same rows; got 9 and 4"),
        (lambda x: neighbour_overlap(x, [1, 2], k=2), InputError, "same rows; got 9 and 2"),
        (lambda x: information_imbalance(x, x[:4], k=2), InputError, "same rows; got 9 and 4"),
        (lambda x: information_imbalance(x, [1, 2]), InputError, "same rows; got 9 and 2"),
        (lambda x: information_imbalance([1, 2], x), InputError, "same rows; got 2 and 9"),
        (lambda x: information_imbalance([1] * 9, [2] * 9), InputError, "labels belong on one side"),
        (lambda x: information_imbalance([1] * 9, x, k=2), InputError, "k is of states"),
        (lambda x: information_imbalance([[1]] * 9, x), InputTypeError, "labels must be a sequence"),
        (lambda x: information_imbalance(x, x * math.nan), NonFiniteError, "y has a NaN"),
        (lambda x: neighbour_overlap(x, x, k=2, documents=[0.5] * 9), InputTypeError, "documents must be whole numbers"),
        (lambda x: neighbour_overlap(x, x, k=2, documents=[0]), InputError, "one whole number for each of the 9 rows"),
        (lambda x: gride(x, scales=[5]), InputError, "scales"),
        (lambda x: gride(x, scales=[]), InputError, "one number or more"),
        (lambda x: gride(x[:2]), InputError, "three different rows"),
        (lambda x: gride(torch.eye(6)), InputError, "equally far"),
    ],
)  # fmt: skip
def test_refusals(run, error, match):
    with pytest.raises(error, match=match):
        run(rows(9, 2))


def test_dadapy_finds_the_same_where_it_is_installed():
    dadapy = pytest.importorskip("dadapy", exc_type=ImportError)
    from dadapy._utils.metric_comparisons import _return_imbalance

    x = rows(200, 3)
    y = torch.cat([x[:, :2], rows(200, 2, 1)], 1)
    labels = (x[:, 0] > 0).long()
    theirs = [dadapy.Data(z.numpy().copy(), verbose=False) for z in (x, y)]
    for data in theirs:
        data.compute_distances(maxk=199)
    ids, errors, scales = theirs[0].return_id_scaling_gride(range_max=64)
    mine = gride(x)
    assert mine.dimension.numpy() == pytest.approx(ids, rel=0.01)  # it takes n - 1 for n
    assert mine.se.numpy() == pytest.approx(errors, rel=0.01)
    assert mine.distance.numpy() == pytest.approx(scales)
    shared = theirs[0].return_data_overlap(distances=theirs[1].distances, dist_indices=theirs[1].dist_indices, k=10)
    assert neighbour_overlap(x, y, k=10).value == pytest.approx(shared)
    assert neighbour_overlap(x, labels, k=10).value == pytest.approx(
        theirs[0].return_label_overlap(labels.numpy(), k=10), abs=1e-3
    )
    imbalance = _return_imbalance(theirs[0].dist_indices, theirs[1].dist_indices, rng=np.random.default_rng(0), k=1)
    assert information_imbalance(x, y).value == pytest.approx(imbalance)
