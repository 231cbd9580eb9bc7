"""Matrix-based mutual information and DiME against numpy, discrete tables of counts, closed forms and bounds."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.states.matrices import gram_matrix, matrix_entropy, matrix_renyi_entropy
from tl_entropy.functional.states.matrix_information import (
    dime,
    joint_entropies,
    matrix_renyi_mutual_information,
    random_permutations,
)

ORDERS = (0.5, 0.999999, 1, 1.01, 2, 5, math.inf)
BIT = math.log(2)

seeds = st.integers(0, 2**32 - 1)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def counts_entropy(labels, order):
    """Rényi entropy of the shares of hashable labels."""
    p = np.array(list(Counter(labels).values()), dtype=float)
    p /= p.sum()
    if order == 1:
        return scipy.stats.entropy(p)
    if order == math.inf:
        return -math.log(p.max())
    return math.log((p**order).sum()) / (1 - order)


def numpy_entropy(a, order):
    eigenvalues = np.clip(np.linalg.eigvalsh(a), 0, None)
    eigenvalues = eigenvalues[eigenvalues > 0]
    if order == 1:
        return -(eigenvalues * np.log(eigenvalues)).sum()
    if order == math.inf:
        return -math.log(eigenvalues.max())
    return math.log((eigenvalues**order).sum()) / (1 - order)


def of_groups(labels, seed=0):
    """Rows that are equal where the labels are, and far apart where not."""
    return 100 * torch.linalg.qr(normal(8, 8, seed=seed)).Q[torch.as_tensor(labels)]


# --- the numbers


@pytest.mark.parametrize("order", [0.5, 1, 1.01, 2, 5, math.inf])
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_every_part_is_that_of_numpys_eigenvalues(order, kernel):
    x, y = normal(30, 4, seed=1), normal(30, 7, seed=2)
    y[:, :2] += x[:, :2]
    a, b = (gram_matrix(rows, kernel=kernel).numpy() for rows in (x, y))
    product = a * b
    parts = [numpy_entropy(m, order) for m in (a, b, product / product.trace())]
    shuffled = []
    for p in random_permutations(30, 20, seed=5).numpy():
        product = a * b[p][:, p]
        shuffled.append(numpy_entropy(product / product.trace(), order))
    found = dime(x, y, order=order, seed=5, kernel=kernel)
    tolerance = {"abs": 1e-6 if order == 0.5 else 1e-11}  # of eigenvalues that should be 0, the roots differ
    assert [found.entropy_x, found.entropy_y, found.joint_entropy] == pytest.approx(parts, **tolerance)
    assert found.permuted_joint_entropy == pytest.approx(np.mean(shuffled), **tolerance)
    assert found.deviation == pytest.approx(np.std(shuffled, ddof=1), **tolerance)
    assert found.dime == pytest.approx(np.mean(shuffled) - parts[2], **tolerance)
    assert found.mutual_information == pytest.approx(parts[0] + parts[1] - parts[2], **tolerance)
    assert found.se == pytest.approx(np.std(shuffled, ddof=1) / math.sqrt(20), **tolerance)
    assert (found.permutations, found.order, found.n) == (20, order, 30)
    information = matrix_renyi_mutual_information(x, y, order=order, kernel=kernel)
    assert information.item() == pytest.approx(found.mutual_information, abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_groups_of_equal_rows_have_the_entropies_of_their_counts(order):
    draw = np.random.default_rng(3)
    left, right = draw.integers(0, 4, 60), draw.integers(0, 3, 60)
    right[:25] = left[:25] % 3
    found = dime(of_groups(left), of_groups(right, seed=1), order=order, bandwidth=1.0, permutations=5)
    near = {"abs": 1e-6}
    assert found.entropy_x == pytest.approx(counts_entropy(left.tolist(), order), **near)
    assert found.entropy_y == pytest.approx(counts_entropy(right.tolist(), order), **near)
    assert found.joint_entropy == pytest.approx(counts_entropy(zip(left, right, strict=True), order), **near)
    tables = [counts_entropy(zip(left, right[p], strict=True), order) for p in random_permutations(60, 5).numpy()]
    assert found.permuted_joint_entropy == pytest.approx(np.mean(tables), **near)


def test_independent_rows_have_mutual_information_but_no_dime():
    """200 rows of 50 Gaussian components."""
    for seed in range(3):
        x, y = normal(200, 50, seed=seed), normal(200, 50, seed=100 + seed)
        found = dime(x, y)
        assert found.mutual_information / BIT == pytest.approx(1.42, abs=0.03)
        assert abs(found.dime) / BIT < 0.02


def test_rows_know_themselves():
    x = normal(200, 50)
    own, none = dime(x, x), dime(x, normal(200, 50, seed=1))
    assert own.dime > 0.1
    assert own.dime > 20 * abs(none.dime)
    assert own.dime > 50 * own.se
    partly = dime(x, x + normal(200, 50, seed=2))
    assert none.dime < partly.dime < own.dime


def test_dime_grows_with_what_is_shared():
    found = []
    for flips in (0, 30, 60, 90):
        labels = np.arange(120) % 4
        changed = labels.copy()
        changed[:flips] = np.random.default_rng(1).integers(0, 4, flips)
        found.append(dime(of_groups(labels), of_groups(changed, seed=1), bandwidth=1.0).dime)
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_shift_by_3000_is_nothing(dtype):
    x, y = normal(80, 64, dtype=dtype), normal(80, 64, seed=1, dtype=dtype)
    before, after = matrix_renyi_mutual_information(x, y), matrix_renyi_mutual_information(x + 3000, y - 3000)
    assert abs(after - before).item() / BIT < 1e-3


@given(seeds, st.integers(2, 10), st.sampled_from(ORDERS))
def test_joint_entropies_are_never_below_the_largest_and_at_order_1_never_above_the_sum(seed, n, order):
    a, b = gram_matrix(normal(n, 3, seed=seed)), gram_matrix(normal(n, 2, seed=seed + 1))
    one, two = matrix_entropy(a, order).item(), matrix_entropy(b, order).item()
    for joint in joint_entropies(a, b, order=order, permutations=random_permutations(n, 3)).tolist():
        assert joint >= max(one, two) - 1e-9
        assert order != 1 or joint <= one + two + 1e-9


def test_at_other_orders_mutual_information_can_be_negative():
    x, y = normal(7, 3, seed=7), normal(7, 2, seed=8)
    assert matrix_renyi_mutual_information(x, y, order=1).item() > 0
    # One of three random pairings.
    p = [p for p in random_permutations(7, 3) if matrix_renyi_mutual_information(x, y[p], order=5) < -1e-3]
    assert p


def test_with_a_linear_kernel_it_can_be_negative_at_order_1():
    """p = (.9, .1) against (.1, .9): the products are even, and one bit is more than both entropies together."""
    x = torch.diag(torch.tensor([0.9, 0.1], dtype=torch.float64).sqrt())
    expected = 2 * scipy.stats.entropy([0.9, 0.1]) - math.log(2)
    assert expected == pytest.approx(-0.043, abs=1e-3)
    assert matrix_renyi_mutual_information(x, x.flip(0, 1), order=1, kernel="linear").item() == pytest.approx(expected)


@given(seeds)
def test_both_sides_are_alike_and_the_order_of_items_does_not_matter(seed):
    x, y = normal(12, 3, seed=seed), normal(12, 5, seed=seed + 1)
    p = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    found = matrix_renyi_mutual_information(x, y).item()
    assert matrix_renyi_mutual_information(y, x).item() == pytest.approx(found, abs=1e-10)
    assert matrix_renyi_mutual_information(x[p], y[p]).item() == pytest.approx(found, abs=1e-10)


def test_one_kernel_of_nothing_in_common_leaves_the_other():
    x = normal(25, 3)
    same = torch.ones(25, 2)
    assert matrix_renyi_mutual_information(x, same, bandwidth=1.0).item() == pytest.approx(0, abs=1e-9)
    assert dime(x, same, bandwidth=1.0).dime == pytest.approx(0, abs=1e-9)


# --- permutations


def purity_over_all_permutations(a, b):
    """The mean of ‖A ∘ P B Pᵀ‖²_F: entries on the diagonal stay there, all others meet each other equally often."""
    n = len(a)
    on = (a.diagonal() ** 2).sum() * (b.diagonal() ** 2).mean()
    off = [(m**2).sum() - (m.diagonal() ** 2).sum() for m in (a, b)]
    return (on + off[0] * off[1] / (n * (n - 1))).item()


def test_purities_of_permuted_rows_average_to_their_closed_form():
    a, b = gram_matrix(normal(5, 2, seed=1)), gram_matrix(normal(5, 2, seed=2))
    every = torch.tensor(list(itertools.permutations(range(5))))
    purities = (-joint_entropies(a, b, order=2, permutations=every)[1:]).exp()
    expected = purity_over_all_permutations(a, b) * 25  # the trace of A ∘ B is 1/5
    assert purities.mean().item() == pytest.approx(expected, rel=1e-12)
    drawn = (-joint_entropies(a, b, order=2, permutations=random_permutations(5, 3000))[1:]).exp()
    assert abs(drawn.mean().item() - expected) < 4 * drawn.std().item() / math.sqrt(3000)
    assert purities.std() > 0.01, "permutations matter here"


def test_permutations_are_uniform():
    drawn = random_permutations(4, 4800, seed=7)
    counts = Counter(map(tuple, drawn.tolist()))
    assert len(counts) == 24
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_seeds_decide_and_touch_no_other_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = random_permutations(50, 4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(random_permutations(50, 6, seed=0)[:4], first), "fewer are the first of more"
    assert not torch.equal(random_permutations(50, 4, seed=1), first)
    assert not any(torch.equal(torch.randperm(50, generator=torch.Generator().manual_seed(0)), p) for p in first)
    assert not any((np.random.default_rng(0).permutation(50) == p.numpy()).all() for p in first)
    x, y = normal(30, 3), normal(30, 3, seed=1)
    assert dime(x, y, seed=3) == dime(x, y, seed=3)
    assert dime(x, y, seed=3) != dime(x, y, seed=4)


def test_joint_entropies_without_permutations():
    a, b = gram_matrix(normal(6, 2, seed=1)), gram_matrix(normal(6, 2, seed=2))
    [joint] = joint_entropies(a, b, order=1.01)
    several = joint_entropies(a, b, order=1.01, permutations=torch.stack([torch.arange(6), torch.arange(6).flip(0)]))
    assert several.shape == (3,)
    assert several[0] == several[1] == joint
    assert several[2] == joint_entropies(a, b.flip(0, 1), order=1.01)[0]


def test_the_record_prints_itself():
    lines = str(dime(normal(20, 3), normal(20, 3, seed=1), order=2)).splitlines()
    assert lines[0].startswith("DiME = ")
    assert lines[-1] == "  order 2, 20 rows, of at most log n = 2.9957"


# --- what is refused


@pytest.mark.parametrize("function", [dime, matrix_renyi_mutual_information])
def test_rows_that_do_not_belong_together(function):
    x = normal(10, 3)
    with pytest.raises(InputError, match=r"same number of rows.*got 10 and 9"):
        function(x, x[:9])
    with pytest.raises(NonFiniteError, match="y has a NaN or an infinity in row 4"):
        function(x, torch.where(torch.arange(10)[:, None] == 4, torch.nan, x))
    with pytest.raises(InputError, match="y: the median distance"):
        function(x, torch.ones(10, 3))
    with pytest.raises(InputTypeError, match="y must be a floating-point tensor"):
        function(x, x.long())
    with pytest.raises(InputError, match="order must be one number"):
        function(x, x, order=-1)
    with pytest.raises(InputError, match="kernel must be one of"):
        function(x, x, kernel="rbf")


def test_too_few_permutations_and_other_slips():
    x = normal(10, 3)
    with pytest.raises(InputError, match="permutations must be an int of at least 2; got 1"):
        dime(x, x, permutations=1)
    with pytest.raises(InputTypeError, match="order must be one number"):
        dime(None, None, order=(1, 2), permutations=1)
    assert dime(x, x, order=torch.tensor(2.0)).order == 2.0
    with pytest.raises(InputError, match="seed must be an int of at least 0"):
        dime(x, x, seed=-1)
    with pytest.raises(InputError, match=r"of the same rows; got \[10, 10\] and \[9, 9\]"):
        joint_entropies(gram_matrix(x), gram_matrix(x[:9]), order=1)
    one, two = torch.zeros(2, 2), torch.zeros(2, 2)
    one[0, 0] = two[1, 1] = 1
    with pytest.raises(InputError, match="no common entry on their diagonals"):
        joint_entropies(one, two, order=1)


# --- against the published package


@pytest.mark.parametrize(("n", "d"), [(20, 5), (64, 50), (200, 50)])
@pytest.mark.parametrize("order", [1.01, 1.5, 2])
def test_mutual_information_is_that_of_the_published_package(n, d, order):
    package = pytest.importorskip("entropy_profiler.estimators").MatrixRenyiMI(alpha=order, device="cpu")
    x, y = normal(n, d, seed=n), normal(n, d, seed=n + 1)
    y[:, :3] += x[:, :3]
    bits = matrix_renyi_mutual_information(x, y, order=order).item() / BIT
    # In float64. Its floor of 1e-9 under eigenvalues adds up to n times 1e-9, three times, divided by |1 - order|.
    assert bits == pytest.approx(package.compute_mi(x, y), abs=1e-10 + 3 * n * 1e-9 / (order - 1))


def test_a_shift_that_the_published_package_does_not_survive():
    package = pytest.importorskip("entropy_profiler.estimators").MatrixRenyiMI(alpha=1.01, device="cpu")
    x, y = normal(64, 50, dtype=torch.float32), normal(64, 50, seed=1, dtype=torch.float32)
    truth = matrix_renyi_mutual_information(x.double(), y.double()).item()
    assert matrix_renyi_mutual_information(x + 3000, y + 3000).item() == pytest.approx(truth, abs=1e-3 * BIT)
    assert abs(package.compute_mi(x + 3000, y + 3000) * BIT - truth) > 0.1
    assert matrix_renyi_entropy(x + 3000).item() < math.log(64)
