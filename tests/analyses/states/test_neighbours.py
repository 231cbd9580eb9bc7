"""Neighbours of layers: against the functions on the same rows (those against dadapy), any split of the input, and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses.states.neighbours import QUANTITIES, neighbour_similarities
from tl_entropy.errors import InputError
from tl_entropy.functional import information_imbalance, neighbour_overlap
from tl_entropy.functional.statistics import paired_errors

QUIET = {"progress": False}
TEXTS = ["the cat sat on the mat", "def f(x): return x", "a dog and a cat", "import os, sys\n"] * 3


def rows(seed, n=60, d=4, documents=20):
    draw = torch.Generator().manual_seed(seed)
    own = torch.randn(documents, d, generator=draw, dtype=torch.float64).repeat_interleave(n // documents, 0)
    return own + torch.randn(n, d, generator=draw, dtype=torch.float64)


def test_the_tables_are_those_of_the_functions():
    x, y, document = [rows(0), rows(0)[:, :2]], [rows(0) ** 3, rows(1), rows(0)[:, 1:]], torch.arange(60) // 3
    values, covariance, scores = neighbour_similarities(x, y, k=5, documents=document).values()
    assert scores.shape == (3, 20, 2, 3)
    assert values.shape == (len(QUANTITIES), 2, 3)
    assert covariance.shape == (3, 2, 2, 3)
    for i, one in enumerate(x):
        for j, other in enumerate(y):
            pair = (
                neighbour_overlap(one, other, k=5, documents=document), information_imbalance(one, other, documents=document),
                information_imbalance(other, one, documents=document),
            )  # fmt: skip
            assert values[:, i, j].tolist() == pytest.approx([found.value for found in pair], abs=1e-12)
            assert covariance[:, i, i, j].sqrt().tolist() == pytest.approx([found.se for found in pair], abs=1e-12)


def replicate(seed):
    """Three sites of forty texts, against the first."""
    x, document = rows(seed, 400, documents=40), torch.arange(400) // 10
    noise = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)
    sites = [x, *(x * torch.linspace(1, 3, 4) + scale * more for scale, more in zip((1, 2), noise, strict=True))]
    return neighbour_similarities(sites[1:], sites[:1], k=10, documents=document)


@pytest.mark.long
def test_errors_and_those_of_differences_are_the_spread_over_corpora():
    found = [replicate(seed) for seed in range(60)]
    values, covariance = (torch.stack([one[name] for one in found])[..., 0] for name in ("values", "covariance"))
    variances = covariance.mean(0)
    own = variances.diagonal(dim1=1, dim2=2).sqrt()
    ratio = own / values.std(0)
    paired = (own.square().sum(1) - 2 * variances[:, 0, 1]).sqrt()
    both = torch.cat([ratio.flatten(), paired / (values[:, :, 0] - values[:, :, 1]).std(0)])
    assert both.log().mean().exp().item() == pytest.approx(1, abs=0.35)
    assert 0.65 < both.min() < both.max() < 1.6  # what rows do in pairs is counted twice: most where clouds are alike
    assert (paired[0] < 0.9 * own[0].square().sum().sqrt()).item()
    # As if each had been measured in a model of its own.
    between = [
        [paired_errors(*(of for i in (0, 1) for of in (of_site(one, q, i)))).item() ** 2 for q in range(len(QUANTITIES))]
        for one in found
    ]
    ratio = torch.tensor(between).mean(0).sqrt() / paired
    assert ratio.log().abs().max() < math.log(1.35)


def of_site(found, quantity, site):
    """The error of a site's value, [1], and what folds add to it [fold, 1]."""
    return found["covariance"][quantity, site, site].sqrt(), found["scores"][quantity, :, site]


def test_layers_of_a_model_and_of_two():
    model = cached_model("gpt2", kinds()[0])
    other = cached_model("llama", "bridge") if "bridge" in kinds() else cached_model("gpt2", "hooked", True)
    result = tle.layer_similarity(model, TEXTS, method="neighbours", k=3, n_samples=30, **QUIET)
    assert (result.quantities, result.units, result.count) == (QUANTITIES, ("", "", ""), 30)
    assert result.value()[-1, 0] == 1
    assert result.value("imbalance")[-1, 0].item() == pytest.approx(2 / 30)
    assert result.error()[0, 0] > 0
    assert result.difference_error().shape == (len(result.rows), len(result.rows), 1)
    assert "3 nearest neighbours" in repr(result)
    accumulators = [tle.NeighbourAccumulator(model, k=3, n_samples=30) for _ in range(2)]
    for accumulator, part in zip(accumulators, (range(5), range(5, 12)), strict=True):
        tle.stream(model, TEXTS, [accumulator], documents=part, **QUIET)
    accumulators[1].merge(accumulators[0])
    torch.testing.assert_close(accumulators[1].compute().values, result.values, rtol=0, atol=1e-10)
    across = tle.layer_similarity(model, TEXTS, method="neighbours", other=other, against="all", k=3, **QUIET)
    assert across.value().shape == (len(across.rows), len(across.columns))
    back = tle.layer_similarity(other, TEXTS, method="neighbours", other=model, against="all", k=3, **QUIET)
    torch.testing.assert_close(across.value("imbalance"), back.value("imbalance_back").mT, rtol=0, atol=1e-12)
    over = tle.layer_similarity(model, TEXTS, method="neighbours", rows="documents", k=3, **QUIET)
    assert over.count == 12
    with pytest.raises(InputError, match="k must be below the number of rows"):
        neighbour_similarities([torch.eye(3)], [torch.eye(3)], k=3)


def test_few_tokens_have_no_neighbours():
    with pytest.raises(InputError, match="needs at least 11 tokens"):
        tle.layer_similarity(cached_model("gpt2", kinds()[0]), "the cat", method="neighbours", **QUIET)


def test_figures_of_it():
    axes = tle.plots.similarity(tle.layer_similarity(cached_model("gpt2", kinds()[0]), TEXTS, method="neighbours", **QUIET))
    assert axes.get_ylabel() == "Neighbour overlap with output"
    assert np.isfinite(axes.lines[0].get_ydata()).all()
