"""Standard errors of CKA against what leaving out gives, and against the spread over corpora."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tl_entropy.functional.states.similarity import cka_scores, linear_cka
from tl_entropy.functional.states.similarity_sums import BlockSums, CrossSums
from tl_entropy.functional.statistics import sampled_error


def texts(seed, documents=60, length=20, d=8, shared=1.0):
    """Two representations [token, d] of the same texts, and the text of each row."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.3, 1.5, d, dtype=torch.float64)
    means = torch.randn(documents, 1, d, generator=draw, dtype=torch.float64)
    x = (means + torch.randn(documents, length, d, generator=draw, dtype=torch.float64)).flatten(0, 1) * scale
    y = shared * x.flip(1) + torch.randn(x.shape, generator=draw, dtype=torch.float64)
    return x, y, torch.arange(documents).repeat_interleave(length)


@pytest.mark.parametrize("debiased", [True, False])
def test_the_error_is_that_of_leaving_out_documents(debiased):
    x, y, document = texts(0)
    scores = cka_scores([x], [y], debiased=debiased)
    left_out = np.array([linear_cka(x[document != d], y[document != d], debiased=debiased).item() for d in range(60)])
    jackknife = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert sampled_error(scores, document, len(x)).item() == pytest.approx(jackknife, rel=0.05)


@pytest.mark.parametrize("debiased", [True, False])
def test_sums_have_the_scores_of_all_rows(debiased):
    x, y, _ = texts(1)
    x = x + 100
    sums = CrossSums([("x", "y"), ("x", "x")])
    for first, last in ((0, 500), (500, 1200)):
        sums.update({"x": x[first:last], "y": y[first:last]})
    picked = torch.arange(0, 1200, 7)
    found = sums.scores(["x"], ["y", "x"], {"x": x[picked], "y": y[picked]}, debiased=debiased)
    expected = cka_scores([x], [y, x], debiased=debiased)[picked]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert found[:, 0, 1].abs().max() < 1e-9  # of a representation with itself CKA is 1 whatever the rows


def test_errors_of_blocks_leave_out_blocks():
    x, y, _ = texts(2)
    sums, parts = BlockSums(["x", "y"], 100), (BlockSums(["x", "y"], 100), BlockSums(["x", "y"], 100))
    sums.update({"x": x, "y": y})
    for part, first in zip(parts, (0, 600), strict=True):
        part.update({"x": x[first : first + 600], "y": y[first : first + 600]})
    value, error = sums.cka(["x"], ["y"]), sums.covariance(["x"], ["y"]).sqrt()
    kept = [torch.arange(1200) // 100 != block for block in range(12)]
    left_out = []
    for rows in kept:
        without = BlockSums(["x", "y"], 100)
        without.update({"x": x[rows], "y": y[rows]})
        left_out.append(without.cka(["x"], ["y"]).item())
    spread = np.array(left_out) - np.mean(left_out)
    assert error.item() == pytest.approx(math.sqrt(11 / 12 * (spread**2).sum()), rel=1e-6)
    parts[0].merge(parts[1])
    merged, its_error = parts[0].cka(["x"], ["y"]), parts[0].covariance(["x"], ["y"]).sqrt()
    assert (merged.item(), its_error.item()) == pytest.approx((value.item(), error.item()), rel=1e-12)


@pytest.mark.long
@pytest.mark.parametrize(("shared", "sampled"), [(1.0, 1200), (1.0, 400), (0.3, 1200)])
def test_errors_are_the_spread_over_corpora(shared, sampled):
    found = []
    for seed in range(80):
        x, y, document = texts(seed, shared=shared)
        picked = torch.randperm(1200, generator=torch.Generator().manual_seed(seed))[:sampled]
        error = sampled_error(cka_scores([x], [y])[picked], document[picked], 1200)
        found.append((linear_cka(x, y).item(), error.item()))
    values, errors = np.array(found).T
    assert math.sqrt((errors**2).mean()) / values.std(ddof=1) == pytest.approx(1, abs=0.35)
