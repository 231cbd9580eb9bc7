"""What rows add to matrix-based information: derivatives by their weights, and errors against the spread over corpora."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch

from tl_entropy.analyses.states.matrix_similarity import matrix_similarities
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.states.matrices import gram_matrix, matrix_entropy
from tl_entropy.functional.states.matrix_information import dime, matrix_renyi_mutual_information
from tl_entropy.functional.states.matrix_scores import RowScores
from tl_entropy.functional.states.similarity import cka_scores, cka_table
from tl_entropy.functional.statistics import column_covariances, difference_errors

METHODS = ("cka", "dime", "mutual_information")


def texts(seed, documents, length, shared=0.3, d=8):
    """Two representations [token, d] of the same texts, and the text of each row."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.3, 1.5, d, dtype=torch.float64)
    means = torch.randn(documents, 1, d, generator=draw, dtype=torch.float64)
    x = (means + torch.randn(documents, length, d, generator=draw, dtype=torch.float64)).flatten(0, 1) * scale
    y = shared * x.flip(1) + torch.randn(x.shape, generator=draw, dtype=torch.float64)
    return x, y, torch.arange(documents).repeat_interleave(length)


def se_of(tables, quantity="mutual_information"):
    return tables[f"{quantity}_covariance"].item() ** 0.5


def weighted(a, weights, order):
    """The entropy of the rows of ``a`` with these weights."""
    root = weights.sqrt()
    moved = root[:, None] * a * root
    return matrix_entropy(moved / moved.trace(), order)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("order", [1.0, 1.01, 2.0, 3.5, math.inf])
def test_scores_are_derivatives_by_the_weights_of_rows(order, kernel):
    x, y, _ = texts(0, 20, 1, d=4)
    a, b = (gram_matrix(rows, kernel=kernel) for rows in (x, y))
    joint = a * b / (a * b).trace()
    scores = RowScores(a, order, adaptive=False).information(RowScores(b, order, adaptive=False))
    assert scores.mean().item() == pytest.approx(0, abs=1e-10)
    draw, step = torch.Generator().manual_seed(1), 1e-4
    for _ in range(3):
        change = torch.randn(20, generator=draw, dtype=torch.float64)
        change -= change.mean()

        def information(weights):
            return weighted(a, weights, order) + weighted(b, weights, order) - weighted(joint, weights, order)

        slope = (information(1 + step * change) - information(1 - step * change)) / (2 * step)
        assert (scores * change).mean().item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-6)


def test_the_bandwidth_moves_with_the_rows():
    """A change of scale alone changes no entropy; what a row does to the median is seen by repeating it."""
    x, _, _ = texts(0, 400, 1)
    width = RowScores(gram_matrix(x), 2.0, adaptive=True).width
    whole = torch.pdist(x).median().log()
    far, near = width.argsort(descending=True)[:40], width.argsort()[:40]
    for rows in (far, near):  # without these, the others have a weight of 400/360
        kept = torch.ones(400, dtype=torch.bool)
        kept[rows] = False
        moved = torch.pdist(x[kept]).median().log() - whole
        assert moved.item() == pytest.approx(width[kept].mean().item(), rel=0.25)


def test_the_error_is_that_of_leaving_out_documents():
    """Without what documents do to the bandwidth it would be two to three times as large."""
    x, y, document = texts(1, 40, 4)
    tables = matrix_similarities([x], [y], permutations=2, documents=document)
    kept = [document != one for one in range(40)]
    left_out = np.array([matrix_renyi_mutual_information(x[rows], y[rows]).item() for rows in kept])
    jackknife = math.sqrt(39 / 40 * ((left_out - left_out.mean()) ** 2).sum())
    assert se_of(tables) == pytest.approx(jackknife, rel=0.35)


def test_errors_below_order_1_are_not_known():
    x, y, document = texts(0, 10, 3)
    assert matrix_similarities([x], [y], order=0.5, permutations=2, documents=document)["dime_covariance"].isnan().all()
    one = torch.zeros(30, dtype=torch.long)
    assert matrix_similarities([x], [y], permutations=2, documents=one)["mutual_information_covariance"].isnan().all()


def test_rows_of_one_document_go_together():
    x, y, document = texts(0, 30, 5)
    together = se_of(matrix_similarities([x], [y], permutations=2, documents=document))
    copies = matrix_similarities([x.repeat(2, 1)], [y.repeat(2, 1)], permutations=2, documents=document.repeat(2))
    alone = se_of(matrix_similarities([x.repeat(2, 1)], [y.repeat(2, 1)], permutations=2))
    assert se_of(copies) == pytest.approx(together, rel=0.05)
    assert alone < 0.9 * together, "copies that pass for rows of their own make the error smaller than it is"


@pytest.mark.long
@pytest.mark.parametrize("order", [1.01, 2.0])
@pytest.mark.parametrize(("shared", "documents", "length"), [(0.0, 40, 5), (1.0, 40, 5), (0.3, 30, 8), (0.3, 150, 1)])
def test_errors_are_the_spread_over_corpora(order, shared, documents, length):
    found = []
    for seed in range(50):
        x, y, document = texts(seed, documents, length, shared)
        tables = matrix_similarities([x], [y], order=order, permutations=4, documents=document)
        values = {**tables, "entropy": tables["row_entropy"]}
        found.append([[values[q].item(), se_of(tables, q)] for q in ("dime", "mutual_information", "entropy", "joint_entropy")])
    values, errors = np.array(found).transpose(2, 0, 1)
    np.testing.assert_allclose(np.sqrt((errors**2).mean(0)) / values.std(0, ddof=1), 1, atol=0.35)


@cache
def compared(seed):
    """How like ``y`` two representations are, of the same texts, and the covariance of both; by method."""
    x, y, document = texts(seed, 40, 5, shared=0.6)
    draw = torch.Generator().manual_seed(1000 + seed)
    both = [x, x + 0.5 * torch.randn(x.shape, generator=draw, dtype=torch.float64)]
    tables = matrix_similarities(both, [y], permutations=4, documents=document)
    tables |= {"cka": cka_table(both, [y]), "cka_covariance": column_covariances(cka_scores(both, [y]), document, len(x))}
    return {name: (tables[name][:, 0], tables[f"{name}_covariance"][..., 0]) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_representations_of_the_same_texts_have_a_smaller_error_of_their_difference(method):
    _, covariance = compared(0)[method]
    torch.testing.assert_close(covariance, covariance.mT)
    assert 0 < difference_errors(covariance)[0, 1] < 0.9 * covariance.diagonal().sum().sqrt()


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_errors_of_differences_are_the_spread_over_corpora(method):
    found = [compared(seed)[method] for seed in range(60)]
    differences = np.array([(values[1] - values[0]).item() for values, _ in found])
    squares = np.array([difference_errors(covariance)[0, 1].item() ** 2 for _, covariance in found])
    assert math.sqrt(squares.mean()) / differences.std(ddof=1) == pytest.approx(1, abs=0.35)


def test_the_function_has_the_error_of_the_table():
    x, y, document = texts(0, 20, 4)
    tables = matrix_similarities([x], [y], permutations=3, documents=document)
    found = dime(x, y, permutations=3, documents=document)
    assert found.rows_se == pytest.approx(se_of(tables))
    assert math.hypot(found.rows_se, found.se) == pytest.approx(se_of(tables, "dime"))
    assert f"± {found.rows_se:.4f} (rows)" in str(found)
    fixed = dime(x, y, permutations=3, documents=document.tolist(), bandwidth=2.0)
    assert fixed.rows_se > 1.3 * found.rows_se, "a bandwidth that does not follow the scale leaves its noise in"
    assert math.isnan(dime(x, y, permutations=2, order=0.5).rows_se)
    with pytest.raises(InputError, match="documents must be one whole number for each of the 80 rows"):
        dime(x, y, documents=[1, 2])
    with pytest.raises(InputTypeError, match="documents must be whole numbers"):
        dime(x, y, documents=[0.5] * 80)
