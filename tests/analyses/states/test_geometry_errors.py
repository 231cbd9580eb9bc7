"""Standard errors of the geometry of layers, against closed forms, what leaving out gives, and the spread over corpora."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses.states.geometry_sums import Directions, Moments
from tl_entropy.analyses.states.geometry_values import (
    Noted,
    anisotropies,
    dataset_entropies,
    dimensions,
    document_means,
    effective_ranks,
    of_views,
)
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.states.geometry import effective_rank
from tl_entropy.functional.states.views import Discriminant, info_nce, info_nce_scores, lidar
from tl_entropy.functional.statistics import difference_errors, paired_errors, sampled_covariance, sampled_error
from tl_entropy.sites import Site


def texts(seed, documents=40, length=25, d=12, effect=1.0):
    """Rows [token, d] of texts, each with a mean of its own, and the text of each."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.3, 2, d, dtype=torch.float64)
    means = effect * torch.randn(documents, 1, d, generator=draw, dtype=torch.float64) * scale
    rows = means + torch.randn(documents, length, d, generator=draw, dtype=torch.float64) * scale**2
    return rows.flatten(0, 1), torch.arange(documents).repeat_interleave(length)


def rank_and_error(seed):
    rows, document = texts(seed, documents=60)
    noted = Noted([Site("embed", -1)])
    picked = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:400]
    value, error = effective_ranks([Moments.of(rows)], [rows[picked]], document[picked], noted)
    return value.item(), error.item() ** 0.5


def dimension_and_error(seed):
    rows, document = texts(seed, documents=30, length=12, d=4)
    value, error = dimensions([rows], document, Noted([Site("embed", -1)]))
    return value.item(), error.item() ** 0.5


def views_and_error(name, count=40):
    def found(seed):
        draw = torch.Generator().manual_seed(seed)
        own = torch.randn(count, 1, 10, generator=draw, dtype=torch.float64) * torch.linspace(0.2, 1.5, 10)
        rows = (own + 0.5 * torch.randn(count, 4, 10, generator=draw)).flatten(0, 1)
        labels = torch.arange(count).repeat_interleave(4).tolist()
        value, error = of_views(name, [rows], labels, 0.0, Noted([Site("embed", -1)]))
        return value.item(), error.item() ** 0.5

    return found


def documents_and_error(documents, order):
    def found(seed):
        draw = torch.Generator().manual_seed(seed)
        kinds = torch.randn(8, 24, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        own = kinds[torch.randint(8, (documents,), generator=draw)]
        rows = (own + torch.randn(own.shape, generator=draw, dtype=torch.float64)) * torch.linspace(0.3, 2, 24)
        value, error = dataset_entropies([rows], order, "centred", 0.0, Noted([Site("embed", -1)]))
        return value.item(), error.item() ** 0.5

    return found


@pytest.mark.long
@pytest.mark.parametrize(
    "of",
    [rank_and_error, dimension_and_error, views_and_error("lidar"), views_and_error("info_nce"), documents_and_error(60, 1.0),
     documents_and_error(300, 1.0), documents_and_error(300, 2.0), views_and_error("lidar", 260),
     views_and_error("info_nce", 260)],
    ids=["effective_rank", "two_nn", "lidar", "info_nce", "dataset_entropy", "of many documents", "of order 2",
         "lidar of many", "info_nce of many"],
)  # fmt: skip
def test_errors_are_the_spread_over_corpora(of):
    found = np.array([of(seed) for seed in range(48)])
    assert np.sqrt((found[:, 1] ** 2).mean()) / found[:, 0].std(ddof=1) == pytest.approx(1, abs=0.35)


def two_sites(seed, measure):
    """A measure at two sites of the same 30 texts, whose states are alike, and its covariance."""
    x, document = texts(seed, documents=30, length=10, d=6)
    draw = torch.Generator().manual_seed(1000 + seed)
    both = [x, x * torch.linspace(1, 2, 6) + 0.5 * torch.randn(x.shape, generator=draw, dtype=torch.float64)]
    means = [site.view(30, 10, 6).mean(1) for site in both]
    noted = Noted([Site("resid_post", 0), Site("resid_post", 1)])
    if measure == "effective_rank":
        return effective_ranks([Moments.of(site) for site in both], both, document, noted)
    if measure == "two_nn":
        return dimensions(both, document, noted)
    if measure == "anisotropy":
        directions = [Directions(6), Directions(6)]
        for mine, site in zip(directions, both, strict=True):
            mine.add(*Directions.of(site + 1, document % 20))
        return anisotropies(directions, 300, noted)
    if measure == "dataset_entropy":
        return dataset_entropies(means, 1.0, "centred", 0.0, noted)
    if measure == "info_nce":
        return of_views(measure, [site.view(60, 5, 6).mean(1) for site in both], (torch.arange(60) // 2).tolist(), 0.0, noted)
    return document_means("curvature", torch.stack(means, 1)[..., 0], None, noted)


PAIRED = ("effective_rank", "two_nn", "anisotropy", "dataset_entropy", "info_nce", "curvature")


@pytest.mark.parametrize("measure", PAIRED)
def test_sites_of_the_same_texts_have_a_smaller_error_of_their_difference(measure):
    values, covariance = two_sites(0, measure)
    assert torch.equal(covariance, covariance.mT)
    paired, apart = difference_errors(covariance)[0, 1], covariance.diagonal().sum().sqrt()
    assert values.shape == (2,)
    assert 0 < paired < 0.95 * apart


@pytest.mark.long
@pytest.mark.parametrize("measure", PAIRED)
def test_errors_of_differences_are_the_spread_over_corpora(measure):
    found = [two_sites(seed, measure) for seed in range(48)]
    differences = np.array([(values[1] - values[0]).item() for values, _ in found])
    squares = np.array([difference_errors(covariance)[0, 1].item() ** 2 for _, covariance in found])
    assert math.sqrt(squares.mean()) / differences.std(ddof=1) == pytest.approx(1, abs=0.35)


def test_the_error_of_two_nn_of_independent_rows_is_that_of_its_likelihood():
    rows = torch.rand(800, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = dimensions([rows], torch.arange(800), Noted([Site("embed", -1)]))
    assert error.sqrt().item() == pytest.approx(value.item() / math.sqrt(0.9 * 800), rel=0.15)


def test_the_error_of_the_effective_rank_is_the_change_by_a_document():
    """Of many documents the jackknife that leaves out one at a time is linear, too."""
    rows, document = texts(0, documents=100, length=5, d=6)
    _, error = effective_ranks([Moments.of(rows)], [rows], document, Noted([Site("embed", -1)]))
    left_out = np.array([effective_rank(rows[document != d]).item() for d in range(100)])
    jackknife = np.sqrt(99 / 100 * ((left_out - left_out.mean()) ** 2).sum())
    assert error.sqrt().item() == pytest.approx(jackknife, rel=0.1)


@pytest.mark.parametrize(("name", "measured"), [("lidar", lidar), ("info_nce", info_nce)])
def test_errors_of_views_are_near_those_that_leave_out_labels(name, measured):
    draw = torch.Generator().manual_seed(0)
    rows = (torch.randn(80, 1, 6, generator=draw, dtype=torch.float64) + torch.randn(80, 3, 6, generator=draw)).flatten(0, 1)
    label = torch.arange(80).repeat_interleave(3)
    noted = Noted([Site("embed", -1)])
    value, error = of_views(name, [rows], label.tolist(), 0.0, noted)
    assert value.item() == pytest.approx(measured(rows, label).item(), rel=1e-12)
    left_out = np.array([measured(rows[label != c], label[label != c]).item() for c in range(80)])
    jackknife = np.sqrt(79 / 80 * ((left_out - left_out.mean()) ** 2).sum())
    slopes = info_nce_scores(rows, label)[1] if name == "info_nce" else Discriminant.of(rows, label, 1e-4).scores()
    assert math.sqrt(slopes.square().sum() / (80 * 79)) == pytest.approx(jackknife, rel=0.1)
    assert jackknife * (0.99 if name == "info_nce" else 0.5) < error.sqrt().item() < jackknife * 1.1
    by_folds = np.array([-(left_out[np.arange(80) % 20 == f] - left_out.mean()).sum() for f in range(20)])
    assert np.corrcoef(noted.folds[name][:, 0], by_folds)[0, 1] > 0.98


def views_of(labels, views, d, seed=0, noise=1.0, decay=0.5):
    """Rows [view, d] whose spectra fall by a power, and the label of each."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, d + 1, dtype=torch.float64) ** -decay
    own = 3 * scale * torch.randn(labels, 1, d, generator=draw, dtype=torch.float64)
    rows = (own + noise * scale.sqrt() * torch.randn(labels, views, d, generator=draw)).flatten(0, 1)
    return rows, torch.arange(labels).repeat_interleave(views).tolist()


@pytest.mark.long
@pytest.mark.parametrize(
    ("labels", "views", "d", "noise", "decay"),
    [(120, 4, 30, 1, 0.5), (62, 4, 24, 2, 0.5), (96, 3, 24, 2, 0.5), (166, 3, 64, 2, 0.5), (166, 2, 64, 2, 1.0),
     (62, 2, 24, 0.5, 1.5), (24, 4, 24, 2, 0.5), (24, 8, 24, 2, 0.5), (64, 8, 64, 2, 0.5), (60, 8, 150, 1, 1.5)],
)  # fmt: skip
def test_the_error_of_lidar_is_the_spread_over_corpora(labels, views, d, noise, decay):
    found = []
    for seed in range(48):
        rows, label = views_of(labels, views, d, seed, noise, decay)
        value, error = of_views("lidar", [rows], label, 0.0, Noted([Site("embed", -1)]))
        found.append((value.item(), error.item()))
    values, squares = np.array(found).T
    assert np.sqrt(squares.mean()) / values.std(ddof=1) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize(
    ("labels", "views", "note"),
    [(30, 3, None), (12, 3, None), (18, 2, None),
     (11, 4, "lidar: errors may be too wide by a half: 11 texts, fewer than d_model 12"),
     (17, 2, "lidar has no error, and hangs on delta: .* 17 views beyond one a text, of 18 needed for d_model 12"),
     (2, 20, "lidar has no error: it needs at least three labels")],
)  # fmt: skip
def test_lidar_says_where_its_error_is_rough_and_has_none_where_nothing_can_be_told(labels, views, note):
    rows, label = views_of(labels, views, 12)
    noted = Noted([Site("embed", -1)])
    value, variance = of_views("lidar", [rows], label, 0.0, noted)
    assert value.item() == pytest.approx(lidar(rows, label).item())
    assert bool(variance.isfinite().all()) == ("no error" not in (note or ""))
    assert [bool(re.search(note, line)) for line in noted.lines()] == [True] if note else not noted.lines()
    noted = Noted([Site("embed", -1)])
    assert bool(of_views("info_nce", [rows], label, 0.0, noted)[1].isfinite().all()) == (labels > 2)
    assert noted.lines() == (() if labels > 2 else ("info_nce has no error: it needs at least three labels",))


def test_the_error_from_a_sample_is_that_of_all_rows_on_average():
    draw = torch.Generator().manual_seed(0)
    document = torch.arange(40).repeat_interleave(25)
    scores = torch.randn(40, generator=draw, dtype=torch.float64)[document] + torch.randn(1000, generator=draw)
    whole = sampled_error(scores, document, 1000).square()
    picks = [torch.randperm(1000, generator=draw)[:300] for _ in range(200)]
    parts = torch.stack([sampled_error(scores[i], document[i], 1000).square() for i in picks])
    assert parts.mean().item() == pytest.approx(whole.item(), rel=0.05)
    assert math.isnan(sampled_error(scores[:25], document[:25], 25).item())


def test_of_few_rows_whose_pairs_say_less_than_nothing_the_error_is_not_0():
    scores, document = torch.tensor([[1.0, 3], [-1, -3], [1, 2], [-1, -2]], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    assert sampled_error(scores, document, 4).tolist() == [0, 0], "of all rows it is what it is"
    found = sampled_error(scores, document, 40)
    alone = sampled_error(scores, torch.arange(4), 40) * math.sqrt(
        2 / (4 / 3) * 0.9
    )  # documents of a row each, less the sampled part
    torch.testing.assert_close(found, alone)
    covariance = sampled_covariance(scores, document, 40)
    torch.testing.assert_close(covariance.diagonal().sqrt(), found)
    third = torch.tensor([2.0, 2, -2, -2], dtype=torch.float64)
    together = sampled_covariance(torch.cat([scores, third[:, None]], 1), document, 40)
    torch.testing.assert_close(together[2, 2].sqrt(), sampled_error(third, document, 40))
    assert (torch.linalg.eigvalsh(together) > -1e-12).all(), "no difference has a variance below 0"


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, math.inf])
@pytest.mark.parametrize("normalise", ["centred", "length", None])
def test_the_error_of_the_entropy_of_many_documents_is_that_of_leaving_them_out(monkeypatch, order, normalise):
    rows = torch.randn(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.linspace(0.3, 2, 6) + 1
    noted = Noted([Site("embed", -1)])
    value, linear = dataset_entropies([rows], order, normalise, 0.0, noted)
    monkeypatch.setattr("tl_entropy.analyses.states.geometry_values.JACKKNIFE_UP_TO", 400)
    same, left_out = dataset_entropies([rows], order, normalise, 0.0, noted)
    assert value.item() == same.item()
    assert linear.sqrt().item() == pytest.approx(
        left_out.sqrt().item(), rel=0.35
    )  # of twenty folds, the error has an error of 16 %


def test_the_rank_and_equal_documents_have_no_error():
    noted = Noted([Site("embed", -1)])
    for rows, order in ((torch.ones(300, 4).double(), 1.0), (torch.randn(300, 4).double(), 0.0)):
        assert math.isnan(dataset_entropies([rows], order, "centred", 0.0, noted)[1].item())


def two_models(seed):
    """Geometry and CKA of two "models" of the same forty texts: values, and the errors of their differences."""
    x, document = texts(seed, documents=40, length=10, d=6)
    draw = torch.Generator().manual_seed(1000 + seed)
    y = x * torch.linspace(1, 2, 6) + 0.5 * torch.randn(x.shape, generator=draw, dtype=torch.float64)
    found = []
    for rows in (x, y):
        noted = Noted([Site("resid_post", 0)])
        value, variance = effective_ranks([Moments.of(rows)], [rows], document, noted)
        found.append((value, variance.diagonal().sqrt(), noted.folds["effective_rank"]))
    (one, se, scores), (other, its_se, its_scores) = found
    return (one - other).item(), paired_errors(se, scores, its_se, its_scores).item(), math.hypot(se, its_se)


@pytest.mark.long
def test_errors_of_differences_between_models_are_the_spread_over_corpora():
    found = np.array([two_models(seed) for seed in range(60)])
    paired, apart = np.sqrt((found[:, 1:] ** 2).mean(0))
    assert paired / found[:, 0].std(ddof=1) == pytest.approx(1, abs=0.35)
    assert paired < 0.8 * apart


def test_models_of_the_same_documents_are_paired():
    model, texts = (
        cached_model("gpt2", kinds()[0]),
        ["the cat sat", "def f(x): return x", "import os", "a dog and a cat", "x = 1"] * 3,
    )
    other = tle.ablate("mlp_out.0")
    one, two = (tle.layer_geometry(model, texts, interventions=edit, progress=False) for edit in (None, other))
    for measure in one.measures:
        error = one.paired_error(two, measure)
        assert error.shape == (len(one.sites), len(two.sites))
        assert (
            one.paired_error(one, measure).diagonal().nan_to_num(0).max() < 1e-6 * one.error(measure).nan_to_num(0).max() + 1e-9
        )
        known = ~error.isnan()
        assert (error[known] <= (one.error(measure)[:, None] + two.error(measure))[known] + 1e-12).all()
    assert one.paired_error(two, "curvature")[0, 0] < 1e-6  # the embedding is the same in both
    similar = [tle.layer_similarity(model, texts, interventions=edit, progress=False) for edit in (None, other)]
    error = similar[0].paired_error(similar[1])
    assert error.shape == (*similar[0].values.shape[1:], *similar[1].values.shape[1:])
    assert 0 < error[0, 0, 0, 0] < similar[0].error()[0, 0] + similar[1].error()[0, 0]
    with pytest.raises(InputError, match="other documents"):
        one.paired_error(tle.layer_geometry(model, texts[1:], progress=False), "curvature")
    with pytest.raises(InputError, match="other is in bits"):
        one.paired_error(two.to("bits"), "curvature")
    with pytest.raises(InputTypeError, match="other must be a LayerGeometry; got LayerSimilarity"):
        one.paired_error(similar[0], "curvature")
    blocks = tle.layer_similarity(model, texts, estimator="minibatch", progress=False)
    with pytest.raises(InputError, match="no contributions of folds"):
        blocks.paired_error(blocks)
    for method in ("matrix_renyi", "neighbours"):
        pair = [tle.layer_similarity(model, texts, method=method, interventions=edit, progress=False) for edit in (None, other)]
        for quantity in pair[0].quantities[:3]:
            error = pair[0].paired_error(pair[1], quantity)[0, 0, 1, 0]
            assert 0 < error < pair[0].error(quantity)[0, 0] + pair[1].error(quantity)[1, 0]
            assert (pair[0].paired_error(pair[0], quantity)[0, 0, 0, 0] < 1e-6).item()
    over = [tle.layer_similarity(model, texts, rows="documents", interventions=edit, progress=False) for edit in (None, other)]
    assert not over[0].paired_error(over[1])[0].isnan().any()
