"""The start of a translator: against NumPy's least squares in double, however the rows come and wherever their mean lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tl_entropy.lenses import regression
from tl_entropy.lenses.regression import RIDGE, Regression


def oracle(x, targets, ridge=RIDGE):
    """Weighted ridge regression as one least-squares problem with a row for each penalty."""
    x, targets = x.double().numpy(), targets.double().numpy()
    weights = 1 / (targets**2).sum(1)
    mean = (weights[:, None] * x).sum(0) / weights.sum()
    spread = (weights[:, None] * (x - mean) ** 2).sum(0)
    root = np.sqrt(weights)[:, None]
    design = np.vstack([np.hstack([x, np.ones((len(x), 1))]) * root, np.diag([*np.sqrt(ridge * spread), 0])[:-1]])
    wanted = np.vstack([(targets - x) * root, np.zeros((x.shape[1], x.shape[1]))])
    found = np.linalg.lstsq(design, wanted, rcond=None)[0].T
    return found[:, :-1], found[:, -1]


def data(dtype=torch.float64, *, offset=0.0, n=60, width=5):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=draw, dtype=torch.float64) * torch.tensor([1, 10, 0.1, 1, 3]) + offset
    targets = x @ torch.randn(width, width, generator=draw, dtype=torch.float64)
    targets = targets + torch.randn(n, width, generator=draw, dtype=torch.float64)
    return x.to(dtype), targets.to(dtype)


@pytest.mark.parametrize("parts", [[60], [1, 59], [20, 20, 20]])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_values(parts, offset):
    x, targets = data(offset=offset)
    fit = Regression()
    for rows, wanted in zip(x.split(parts), targets.split(parts), strict=True):
        fit.update(rows, wanted)
    weights, biases = fit.solve()
    true = oracle(x, targets)
    np.testing.assert_allclose(weights, true[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(biases, true[1], rtol=1e-4, atol=1e-3)


def test_single_precision_with_a_large_mean():
    x, targets = data(torch.float32, offset=100.0)
    fit = Regression()
    fit.update(x, targets)
    np.testing.assert_allclose(fit.solve()[0], oracle(x, targets)[0], rtol=1e-3, atol=1e-3)


def test_huge_rows_have_no_more_votes_than_others():
    x, targets = data()
    huge = torch.cat([x, 1e4 * x[:1]]), torch.cat([targets, 1e4 * torch.randn(1, 5, dtype=torch.float64)])
    fits = [Regression(), Regression()]
    fits[0].update(x, x + targets * 0.01)
    fits[1].update(huge[0][:60], x + targets * 0.01)
    fits[1].update(huge[0][60:] * 1e-4, huge[1][60:])
    assert (fits[0].solve()[0] - fits[1].solve()[0]).abs().max() < 0.2


def test_dimensions_that_never_move_are_left_alone():
    x, targets = data()
    x[:, 2] = 7.0
    fit = Regression()
    fit.update(x, targets)
    weights, biases = fit.solve()
    assert weights.isfinite().all()
    assert biases.isfinite().all()
    assert weights[:, 2].abs().max() < 1e-6


def test_one_row_and_rows_of_zero():
    fit = Regression()
    fit.update(torch.ones(1, 3), torch.tensor([[1.0, 2.0, 3.0]]))
    fit.update(torch.ones(1, 3), torch.zeros(1, 3))  # has no direction to become, and no vote
    weights, biases = fit.solve()
    assert weights.isfinite().all()
    torch.testing.assert_close(1 + weights.sum(1) + biases, torch.tensor([1.0, 2.0, 3.0]).double())
    assert regression.RIDGE == 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_that_are_all_the_same_are_left_as_they_are(dtype):
    """Such as those of a vector that is repeated at every position: what is seen of their spread is rounding."""
    row = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    fit = Regression()
    for n in (11, 7):
        fit.update(row.expand(n, -1), 2 * row.expand(n, -1) + 1)
    weights, biases = fit.solve()
    assert weights.abs().max() < 10
    torch.testing.assert_close(row[0].double() + weights @ row[0].double() + biases, 2 * row[0].double() + 1, atol=1e-5, rtol=0)
