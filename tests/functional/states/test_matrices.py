"""Matrix-based entropies against mpmath, discrete entropies, closed forms and invariances."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import scipy.spatial.distance
import torch
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.states.matrices import gram_matrix, matrix_entropy, matrix_renyi_entropy

ORDERS = (0.5, 0.999999, 1, 1.000001, 1.01, 2, 5, math.inf)
NATS_PER_MILLIBIT = 1e-3 * math.log(2)

seeds = st.integers(0, 2**32 - 1)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def spectrum(*weights):
    weights = torch.tensor(weights, dtype=torch.float64)
    return weights / weights.sum()


def with_spectrum(eigenvalues, seed=0):
    q = rotation(len(eigenvalues), seed)
    matrix = (q * eigenvalues) @ q.T
    return (matrix + matrix.T) / 2


def exact_renyi(weights, order):
    """Of a discrete distribution, with more digits than any order takes away."""
    with mpmath.workdps(60):
        p = [mpmath.mpf(float(w)) for w in weights if w > 0]
        total = mpmath.fsum(p)
        p = [w / total for w in p]
        if order == 1:
            return float(-mpmath.fsum(w * mpmath.log(w) for w in p))
        if order == math.inf:
            return float(-mpmath.log(max(p)))
        a = mpmath.mpf(order)
        return float(mpmath.log(mpmath.fsum(w**a for w in p)) / (1 - a))


# --- the entropy of a matrix


@pytest.mark.parametrize("order", [0, *ORDERS])
def test_every_order_is_the_power_sum_of_eigenvalues_in_many_digits(order):
    eigenvalues = spectrum(*(0.6**k for k in range(12)))
    found = matrix_entropy(with_spectrum(eigenvalues), order).item()
    assert found == pytest.approx(exact_renyi(eigenvalues, order), abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_a_gram_matrix_and_its_eigenvalues_in_many_digits(order):
    x = normal(7, 3, seed=3)
    with mpmath.workdps(40):
        rows = [[mpmath.mpf(v) for v in row] for row in x.tolist()]
        squares = [[mpmath.fsum((a - b) ** 2 for a, b in zip(r, s, strict=True)) for s in rows] for r in rows]
        width = sorted(mpmath.sqrt(squares[i][j]) for i in range(7) for j in range(i))[10]  # the middle one of 21
        kernel = mpmath.matrix(7, 7)
        for i in range(7):
            for j in range(7):
                kernel[i, j] = mpmath.exp(-squares[i][j] / (2 * width**2)) / 7
        eigenvalues = mpmath.eigsy(kernel, eigvals_only=True)
        expected = exact_renyi([float(v) for v in eigenvalues], order)
    assert matrix_renyi_entropy(x, order=order).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("order", [0, *ORDERS])
def test_nothing_alike_and_everything_alike(order):
    n = 40
    assert matrix_entropy(torch.eye(n) / n, order).item() == pytest.approx(math.log(n), abs=1e-12)
    # At order 0.5 eigenvalues of 1e-17 that should be 0 add their roots.
    assert matrix_entropy(torch.ones(n, n, dtype=torch.float64) / n, order).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_that_are_equal_have_no_entropy(order):
    x = normal(1, 9).expand(30, 9) + 3000
    assert matrix_renyi_entropy(x, order=order, bandwidth=0.5).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [(10, 10, 10), (25, 4, 1), (7, 6, 5, 4, 3, 2, 1)])
def test_groups_of_equal_rows_far_apart_have_the_entropy_of_their_sizes(order, sizes):
    x = torch.cat([100 * rotation(8, seed=1)[i].expand(size, 8) for i, size in enumerate(sizes)])
    assert matrix_renyi_entropy(x, order=order, bandwidth=1.0).item() == pytest.approx(exact_renyi(sizes, order), abs=1e-6)


def test_order_0_is_the_rank():
    a = with_spectrum(spectrum(5, 3, 1, 0, 0, 0, 0, 0))
    assert matrix_entropy(a, 0).item() == pytest.approx(math.log(3))
    assert matrix_renyi_entropy(normal(50, 4), order=0, kernel="linear").item() == pytest.approx(math.log(4))


def test_the_error_at_order_a_half_is_as_stated():
    n = 1000
    assert matrix_entropy(torch.ones(n, n) / n, 0.5).item() < 1e-5


def test_matrices_come_many_at_once():
    stack = torch.stack([with_spectrum(spectrum(1, 2, 3, k + 1), seed=k) for k in range(6)]).reshape(2, 3, 4, 4)
    for order in (0, 1.01, 2, math.inf):
        found = matrix_entropy(stack, order)
        assert found.shape == (2, 3)
        torch.testing.assert_close(found[1, 2], matrix_entropy(stack[1, 2], order))


def test_small_errors_of_the_trace_do_not_count():
    a = with_spectrum(spectrum(4, 2, 1))
    for order in (0, 1, 1.01, 2, math.inf):
        torch.testing.assert_close(matrix_entropy(a * (1 + 5e-7), order), matrix_entropy(a, order), rtol=0, atol=1e-12)


@given(seeds, st.integers(2, 12), st.integers(1, 8))
def test_entropy_never_rises_with_the_order_and_stays_in_its_range(seed, n, d):
    a = gram_matrix(normal(n, d, seed=seed))
    found = [matrix_entropy(a, order).item() for order in ORDERS]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))
    assert found[-1] >= -1e-12
    assert found[0] <= math.log(n) + 1e-12


@given(seeds, st.integers(1, 8), st.integers(1, 8), st.integers(1, 5), st.sampled_from(["gaussian", "linear"]))
def test_zeros_that_rounding_made_count_at_no_order(seed, distinct, d, copies, kernel):
    a = gram_matrix(
        normal(distinct, d, seed=seed).repeat(copies, 1), kernel=kernel, bandwidth=None if kernel == "linear" else 1.0
    )
    orders = (0, 1e-3, 0.01, 0.05, 0.1, 0.3, *ORDERS)
    found = [matrix_entropy(a, order).item() for order in orders]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))
    assert found[0] <= math.log(distinct) + 1e-12


def test_ten_rows_four_times_each_are_no_more_than_ten():
    a = gram_matrix(normal(10, 3).repeat(4, 1))
    found = [matrix_entropy(a, order).item() for order in (0, 0.01, 0.05, 0.1)]
    assert found[0] == pytest.approx(math.log(10), abs=1e-12)
    assert found == sorted(found, reverse=True)


# --- Gram matrices


def test_a_gaussian_gram_matrix_is_that_of_scipys_distances():
    x = normal(20, 6)
    distances = scipy.spatial.distance.pdist(x.numpy())
    lower = np.sort(distances)[(len(distances) - 1) // 2]
    assert len(distances) % 2 == 0, "there are two middle ones, and the lower one is meant"
    kernel = np.exp(-((scipy.spatial.distance.squareform(distances) / lower) ** 2) / 2) / 20
    np.testing.assert_allclose(gram_matrix(x).numpy(), kernel, rtol=1e-12)
    given_width = np.exp(-((scipy.spatial.distance.squareform(distances) / 0.7) ** 2) / 2) / 20
    np.testing.assert_allclose(gram_matrix(x, bandwidth=0.7).numpy(), given_width, rtol=1e-11)


def test_a_gram_matrix_is_symmetric_of_trace_1_and_float64():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        a = gram_matrix(normal(50, 30, dtype=dtype))
        assert a.dtype == torch.float64
        assert torch.equal(a, a.T)
        assert torch.equal(a.diagonal(), torch.full((50,), 1 / 50, dtype=torch.float64))


def test_a_linear_gram_matrix_is_not_centred():
    x = normal(12, 5) + 3
    a = gram_matrix(x, kernel="linear")
    torch.testing.assert_close(a, x @ x.T / (x @ x.T).trace(), rtol=1e-12, atol=0)
    # Its eigenvalues are those of the uncentred second moments, the smaller matrix.
    moments = x.T @ x
    torch.testing.assert_close(matrix_entropy(a, 1.01), matrix_entropy(moments / moments.trace(), 1.01), rtol=1e-10, atol=0)


@given(seeds, st.floats(-3000, 3000), st.floats(1e-3, 1e3))
def test_neither_rotation_nor_shift_nor_scale_changes_the_entropy(seed, shift, scale):
    x = normal(15, 6, seed=seed)
    moved = (x @ rotation(6, seed)) * scale + shift
    for order in (0.5, 1.01, 2):
        before, after = matrix_renyi_entropy(x, order=order).item(), matrix_renyi_entropy(moved, order=order).item()
        assert after == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_shift_by_3000_is_nothing(dtype):
    x = normal(100, 64, dtype=dtype)
    before, after = matrix_renyi_entropy(x), matrix_renyi_entropy(x + 3000)
    assert abs(after - before).item() < NATS_PER_MILLIBIT
    assert before.item() > 1


@pytest.mark.parametrize(("copies", "distinct", "d", "scale"), [(19, 3, 768, 40), (7, 9, 333, 1), (21, 5, 201, 3000)])
def test_equal_rows_are_at_distance_0_exactly(copies, distinct, d, scale):
    """Though the products of equal rows differ in their last digits, one way or the other."""
    x = (normal(distinct, d, seed=5) * scale + 7).repeat(copies, 1)
    a = gram_matrix(x, bandwidth=1e-10) * len(x)
    assert torch.equal(a, torch.eye(distinct, dtype=torch.float64).repeat(copies, copies))


def test_bandwidths_beyond_all_distances_are_no_trouble():
    x = normal(10, 4)
    assert matrix_renyi_entropy(x, bandwidth=1e-200).item() == pytest.approx(math.log(10))
    assert matrix_renyi_entropy(x, bandwidth=1e200).item() == pytest.approx(0, abs=1e-9)


def test_no_gradient_passes():
    x = normal(10, 4).requires_grad_()
    assert not gram_matrix(x).requires_grad
    assert not matrix_entropy(x.new_ones(1, 1).requires_grad_(), 1).requires_grad


def test_one_huge_component_does_not_make_the_others_equal():
    x = normal(30, 6)
    x[3, 2] = 1e8
    others = [i for i in range(30) if i != 3]
    width = 1.5
    expected = gram_matrix(x[others], bandwidth=width) * 29
    torch.testing.assert_close((gram_matrix(x, bandwidth=width) * 30)[others][:, others], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_differ_by_rounding_are_equal(dtype):
    x = normal(1, 64, dtype=dtype).expand(20, -1) * (1 + torch.finfo(dtype).eps * (torch.arange(20)[:, None] % 2)).to(dtype)
    assert len(x.unique(dim=0)) == 2
    with pytest.raises(InputError, match="median distance between its 20 rows"):
        gram_matrix(x)


# --- what is refused


def test_a_median_distance_of_0_is_refused():
    x = normal(20, 5)
    x[:16] = x[0]
    with pytest.raises(InputError, match=r"median distance between its 20 rows.*is 0.*give a bandwidth"):
        gram_matrix(x)
    gram_matrix(x, bandwidth=1.0)
    x = normal(20, 5)
    x[:13] = x[0]  # 78 of 190 pairs are equal
    gram_matrix(x)
    with pytest.raises(InputError, match="one row"):
        gram_matrix(x[:1])
    assert gram_matrix(x[:1], bandwidth=1.0).item() == 1


@pytest.mark.parametrize(
    ("error", "arguments", "options", "message"),
    [
        (InputTypeError, ["x"], {}, "x must be a floating-point tensor"),
        (InputTypeError, [torch.ones(3, 3, dtype=torch.long)], {}, "x must be a floating-point tensor"),
        (InputError, [torch.zeros(3)], {}, r"x must be \[row, d_model\]"),
        (InputError, [torch.zeros(0, 3)], {}, r"x must be \[row, d_model\]"),
        (NonFiniteError, [torch.tensor([[0.0], [math.nan], [math.inf]])], {}, r"row 1 \(and 1 more\)"),
        (InputError, [torch.zeros(3, 3)], {"kernel": "cosine"}, "kernel must be one of 'gaussian', 'linear'"),
        (InputError, [torch.zeros(3, 3)], {"kernel": "linear"}, "zero everywhere"),
        (InputError, [torch.ones(3, 3)], {"kernel": "linear", "bandwidth": 1.0}, "belongs to kernel='gaussian'"),
        (InputError, [torch.ones(3, 3)], {"bandwidth": 0.0}, "bandwidth must be a positive number"),
        (InputError, [torch.ones(3, 3)], {"bandwidth": math.nan}, "bandwidth must be a positive number"),
        (InputTypeError, [torch.ones(3, 3)], {"bandwidth": "median"}, "bandwidth must be a positive number"),
    ],
)
def test_rows_that_have_no_gram_matrix(error, arguments, options, message):
    with pytest.raises(error, match=message):
        gram_matrix(*arguments, **options)


@pytest.mark.parametrize(
    ("error", "a", "order", "message"),
    [
        (InputError, torch.eye(3), 1, "trace 1; it is off by 2"),
        (InputError, torch.tensor([[0.5, 0.1], [0.2, 0.5]]), 1, "differs from its transpose by 0.1"),
        (InputError, torch.tensor([[0.5, 0.6], [0.6, 0.5]]), 1, "positive semi-definite; it has an eigenvalue of -0.1"),
        (InputError, torch.ones(2, 3), 1, r"a must be \[..., n, n\]"),
        (InputError, torch.ones(0, 0), 1, r"a must be \[..., n, n\]"),
        (InputError, torch.ones(0, 2, 2), 1, r"a must be \[..., n, n\]"),
        (NonFiniteError, torch.full((2, 2), math.nan), 1, "NaN or an infinity"),
        (InputTypeError, [[1.0]], 1, "floating-point tensor"),
        (InputError, torch.ones(1, 1), -0.5, "order must be one number from 0 to infinity"),
        (InputError, torch.ones(1, 1), math.nan, "order must be one number from 0 to infinity"),
        (InputTypeError, torch.ones(1, 1), (1, 2), "order must be one number"),
        (InputTypeError, torch.ones(1, 1), "shannon", "order must be one number"),
    ],
)
def test_matrices_and_orders_that_have_no_entropy(error, a, order, message):
    with pytest.raises(error, match=message):
        matrix_entropy(a, order)


def test_eigenvalues_below_0_by_rounding_count_as_0():
    a = with_spectrum(spectrum(3, 2, 1, 0)) - 5e-9 * torch.eye(4)
    assert matrix_entropy(a, 1).item() == pytest.approx(exact_renyi((3, 2, 1), 1), abs=1e-6)
    with pytest.raises(InputError, match="positive semi-definite"):
        matrix_entropy(a - 5e-8 * torch.eye(4), 1)


def test_order_2_takes_no_eigenvalues_and_so_sees_none_below_0():
    a = torch.tensor([[0.5, 0.6], [0.6, 0.5]], dtype=torch.float64)
    assert matrix_entropy(a, 2).item() == 0  # -log 1.22, and no less than 0
    b = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.25, 0.3], [0.0, 0.3, 0.25]], dtype=torch.float64)
    assert matrix_entropy(b, 2).item() == pytest.approx(-math.log(0.25 + 0.125 + 0.18))


# --- against the published package


@pytest.mark.parametrize(("n", "d"), [(20, 5), (64, 50)])
def test_gram_matrix_and_entropy_are_those_of_the_published_package(n, d):
    package = pytest.importorskip("entropy_profiler.estimators").MatrixRenyiMI(alpha=1.01, device="cpu")
    x = normal(n, d, seed=n)
    theirs = package.gram_matrix(x, package._bandwidth_heuristic(x))
    torch.testing.assert_close(gram_matrix(x), theirs, rtol=1e-9, atol=0)
    # Its floor of 1e-9 under eigenvalues adds less than n times 1e-9 to a sum that the order divides by 0.01.
    assert matrix_renyi_entropy(x).item() == pytest.approx(package.entropy(theirs).item() * math.log(2), abs=n * 1e-7)
