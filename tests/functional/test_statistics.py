"""Means and errors over documents against plain formulas and against replicates; folds by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.functional.statistics import balanced_folds, clustered_mean, document_sums, group_sums, jackknife_error


def sums(n, s):
    """The five sums over documents that ``clustered_mean`` takes."""
    return n.sum(), s.sum(0), (n * n).sum(), (n * s).sum(0), (s * s).sum(0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_group_sums_are_those_of_a_loop(shape):
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(50, *shape, generator=draw, dtype=torch.float64)
    group = torch.randint(0, 6, (50,), generator=draw)
    total = group_sums(values, group, 8)
    assert (total.shape, total.dtype) == ((8, *shape), torch.float64)
    for i in range(8):
        expected = sum((v for v, g in zip(values, group, strict=True) if g == i), torch.zeros(shape).double())
        torch.testing.assert_close(total[i], expected)
    assert group_sums(values.float(), group, 8).dtype == torch.float32
    assert group_sums(values[:0], group[:0], 0).shape == (0, *shape)


def test_group_sums_are_differentiable():
    values = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    group = torch.tensor([1, 0, 1, 2, 2])
    weights = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    (weights * group_sums(values, group, 3)).sum().backward()
    assert torch.equal(values.grad, weights[group])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_document_sums_add_up_in_double_precision(dtype):
    values = torch.rand(300, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    documents = torch.randint(-4, 9, (300,), generator=torch.Generator().manual_seed(1)) * 1000
    seen, total, counts = document_sums(values, documents)
    assert seen.tolist() == sorted(set(documents.tolist()))
    for i, document in enumerate(seen):
        own = values[documents == document].double()
        torch.testing.assert_close(total[i], own.sum(0), rtol=1e-14, atol=0)
        assert counts[i] == len(own)


def test_document_sums_of_nothing():
    seen, total, counts = document_sums(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert (len(seen), total.shape, len(counts)) == (0, (0, 4), 0)


def test_error_of_a_mean_over_documents_of_one_token_is_the_usual_one():
    values = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, error = clustered_mean(*sums(torch.ones(50).double(), values), documents=50)
    assert mean.item() == pytest.approx(values.mean().item())
    assert error.item() == pytest.approx(values.std().item() / math.sqrt(50))


def test_errors_of_means_match_replicates():
    """Documents with a mean of their own and unequal lengths: the error reported is the spread over corpora."""
    rng = np.random.default_rng(0)
    means, errors, naive = [], [], []
    for _ in range(400):
        n = rng.integers(5, 80, 60)
        own = rng.normal(size=60)
        s = n * own + rng.normal(size=60) * np.sqrt(n)
        mean, error = clustered_mean(*sums(torch.tensor(n).double(), torch.tensor(s)), documents=60)
        means.append(mean.item())
        errors.append(error.item())
        naive.append(math.sqrt(2 / n.sum()))  # as if tokens were independent
    spread = np.std(means, ddof=1)
    assert np.mean(errors) == pytest.approx(spread, rel=0.1)
    assert np.mean(naive) < 0.4 * spread


def test_one_document_has_no_error():
    mean, error = clustered_mean(*sums(torch.tensor([4.0]), torch.tensor([2.0])), documents=1)
    assert mean.item() == 0.5
    assert error.isnan()


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_jackknife_of_equal_groups_is_the_classic_one(groups, seed):
    values = torch.randn(1 + groups, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    left_out = values[1:]
    expected = ((groups - 1) / groups * (left_out - left_out.mean(0)).square().sum(0)).sqrt()
    torch.testing.assert_close(jackknife_error(values, torch.full((groups,), 7)), expected)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12), st.integers(0, 10_000))
def test_jackknife_of_unequal_groups(sizes, seed):
    """Busing, Meijer and van der Leeden (1999), equations 3 to 5, written group by group."""
    values = np.random.default_rng(seed).normal(size=1 + len(sizes))
    g, n = len(sizes), sum(sizes)
    jackknifed = g * values[0] - sum((1 - m / n) * v for m, v in zip(sizes, values[1:], strict=True))
    variance = 0.0
    for m, without in zip(sizes, values[1:], strict=True):
        h = n / m
        variance += (h * values[0] - (h - 1) * without - jackknifed) ** 2 / (h - 1) / g
    found = jackknife_error(torch.tensor(values), torch.tensor(sizes))
    assert found.item() == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-9)


def test_jackknife_ignores_empty_groups_and_needs_two():
    values = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3.0, 0.0, 5.0, 1.0])
    torch.testing.assert_close(jackknife_error(values, rows), jackknife_error(values[[0, 1, 3, 4]], rows[[0, 2, 3]]))
    assert jackknife_error(values, torch.tensor([4, 0, 0, 0])).isnan().all()
    assert jackknife_error(values[:1], torch.tensor([4, 2])).isnan().all()
    assert jackknife_error(values[:1], torch.tensor([4])).shape == (2,)


@pytest.mark.parametrize("sizes", [[10] * 20, [40, 30, 20, *[10] * 11]], ids=["equal", "unequal"])
def test_jackknife_of_a_mean_matches_replicates(sizes):
    rng, n = np.random.default_rng(1), np.array(sizes)
    means, errors = [], []
    for _ in range(500):
        s = rng.normal(size=len(n)) * np.sqrt(n)
        whole = s.sum() / n.sum()
        errors.append(jackknife_error(torch.tensor([whole, *(s.sum() - s) / (n.sum() - n)]), torch.tensor(n)).item())
        means.append(whole)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means, ddof=1), rel=0.12)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(1, 25))
def test_folds_are_balanced(sizes, number):
    folds = balanced_folds(torch.tensor(sizes), number)
    rows = torch.bincount(folds, torch.tensor(sizes)).long()
    filled = sum(size > 0 for size in sizes)
    assert folds.shape == (len(sizes),)
    assert len(rows) == max(1, min(number, filled))
    if filled:
        assert bool((rows > 0).all())
        assert rows.max() - rows.min() <= max(sizes)
    assert folds[torch.tensor(sizes) == 0].sum() == 0
    loads = np.zeros(len(rows))
    for size in sorted(sizes, reverse=True):  # the largest left goes to the smallest fold
        loads[loads.argmin()] += size
    assert sorted(rows.tolist()) == sorted(loads.tolist())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 8))
def test_empty_documents_change_nothing_for_others(sizes, number):
    sizes = torch.tensor(sizes)
    filled = sizes > 0
    assert torch.equal(balanced_folds(sizes, number)[filled], balanced_folds(sizes[filled], number))


def test_equal_documents_give_equal_folds():
    assert torch.bincount(balanced_folds(torch.full((60,), 5), 20)).tolist() == [3] * 20


def test_equal_documents_come_in_random_order():
    """Dealt as they stand, 200 documents whose ten classes take turns would make folds of one class each."""
    folds = balanced_folds(torch.full((200,), 5), 20)
    classes = [len({d % 10 for d in (folds == fold).nonzero()[:, 0].tolist()}) for fold in range(20)]
    assert np.mean(classes) > 5
    torch.manual_seed(3)
    assert torch.equal(folds, balanced_folds(torch.full((200,), 5), 20))
