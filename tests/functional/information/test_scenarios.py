"""Soft information where the truth is known: thirty-five families, and errors against the spread of corpora and anchors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from soft_scenarios import BINS, REPLICATES, assignments, measured, over_anchors, scenarios
from tiny_models import LONG

from tl_entropy.functional.information.chance import chance_curves
from tl_entropy.functional.information.cross_fitting import SoftSums
from tl_entropy.functional.information.estimates import estimates
from tl_entropy.functional.information.mutual import soft_mutual_information
from tl_entropy.functional.statistics import balanced_folds
from tl_entropy.results import Provenance, SoftInformation
from tl_entropy.sites import Site

ALL = {scenario.name: scenario for scenario in scenarios()}


def test_there_are_twenty_five_families_and_ten_more():
    assert len(scenarios()) == len(ALL) == 35


def test_a_frequent_and_a_rare_label_in_short():
    """One of the families here, with few replicates; all of them where there is time."""
    row = measured(ALL["mostly rare, Zipf 800, 1600 rows"], 2)
    assert abs(row["cross-fitted bias"]) < 0.06 < abs(row["adjusted bias"]) + 0.02 < row["plug-in bias"]
    assert row["lower bias"] < 0


@pytest.fixture(scope="module")
def rows():
    return {name: measured(scenario, REPLICATES) for name, scenario in ALL.items()}


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_the_bias_is_within_what_is_stated(rows, name):
    row, scenario = rows[name], ALL[name]
    assert abs(row["cross-fitted bias"]) < scenario.limit * row["truth"] + scenario.floor
    assert row["lower bias"] < 0.005, "a bound in expectation"
    assert row["plug-in bias"] > 0


@pytest.mark.long
def test_the_estimate_is_the_best_on_the_whole(rows):
    rmse = {name: np.mean([row[f"{name} rmse"] for row in rows.values()]) for name in ("plug-in", "adjusted", "cross-fitted")}
    assert rmse["cross-fitted"] < 0.4 * rmse["adjusted"]
    assert rmse["adjusted"] < 0.4 * rmse["plug-in"]


@pytest.mark.long
def test_a_bigram_says_no_less_than_its_token(rows):
    for says in ("says what the token says", "says more"):
        token, bigram = (rows[f"bigram {says}: {which}"] for which in ("token", "bigram"))
        estimate = {name: row["truth"] + row["cross-fitted bias"] for name, row in (("token", token), ("bigram", bigram))}
        assert estimate["bigram"] > estimate["token"] - 0.02


@pytest.mark.long
def test_errors_over_documents_are_the_spread_of_corpora(rows):
    ratios = {name: row["se"] / row["spread"] for name, row in rows.items()}
    assert_near_one(ratios, (0.65, 1.6), 0.1, 0.9)


def assert_near_one(ratios, bounds, mean, most):
    """Each ratio within bounds, on the geometric mean near 1, and more than ``most`` of them within 35 %."""
    assert {name: ratio for name, ratio in ratios.items() if not bounds[0] < ratio < bounds[1]} == {}
    found = np.array(list(ratios.values()))
    assert math.exp(np.log(found).mean()) == pytest.approx(1, abs=mean)
    assert (abs(found - 1) < 0.35).mean() > most


TOKENS = ["40 documents: token", "bursty documents: token"]


@pytest.mark.long
@pytest.mark.parametrize("name", TOKENS)
def test_errors_from_one_draw_of_anchors_are_the_spread(name):
    """Every replicate has a corpus and anchors of its own; the part over anchors comes from each one's own."""
    values, errors = [], []
    for replicate in range(40 if LONG else 20):
        z, label, documents = ALL[name].corpus(np.random.default_rng(replicate))
        found = soft_mutual_information(z, label, documents=documents, n_bins=BINS, seed=replicate)
        values.append(found.information.item())
        errors.append(math.hypot(found.se, found.anchors_se))
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values, ddof=1), rel=0.35)


@pytest.mark.slow
def test_errors_over_anchors_are_the_spread_over_seeds():
    """Of the same corpus; a spread over 16 seeds is itself known to a fifth."""
    found = {name: over_anchors(scenario, REPLICATES if LONG else 16) for name, scenario in ALL.items()}
    ratios = {name: row["anchors_se"] / row["anchors_spread"] for name, row in found.items()}
    assert_near_one(ratios, *((0.6, 1.6), 0.1, 0.9) if LONG else ((0.5, 2), 0.15, 0.8))


def columns(scenario, rng, seeds):
    """The information of one corpus with what its folds contribute [1 + fold, 1, 1, draw], and the rows of each fold."""
    z, label, documents = scenario.corpus(rng)
    label = torch.tensor(np.unique(label, return_inverse=True)[1])
    fold = balanced_folds(torch.bincount(torch.tensor(documents)), 20)[torch.tensor(documents)]
    pair, group = (label * 20 + fold).unique(return_inverse=True)
    found = []
    for seed in seeds:
        p = torch.tensor(assignments(z, seed))
        rows = torch.cat([p, -(p * p.log()).sum(1, keepdim=True), torch.ones(len(p), 1)], 1)
        total = torch.zeros(len(pair), BINS + 2, dtype=torch.float64).index_add(0, group, rows)
        sums = SoftSums(total[:, None, :BINS], total[:, BINS : BINS + 1], total[:, BINS + 1], pair // 20, pair % 20)
        found.append(estimates(sums, chance_curves(p[torch.randperm(len(p)), None]), folds=20).information)
    return torch.stack(found, -1)[:, None], torch.bincount(fold, minlength=20)[:, None].double()


def result_of(information, fold_tokens, seeds):
    """A result of one place and label set that knows no more than its information."""
    one = torch.ones(1, dtype=torch.float64)
    return SoftInformation(
        sites=(Site("embed", -1),), heads=(-1,), labels=("token",), sides=("input",), n_bins=(BINS,) * len(seeds),
        seeds=tuple(seeds), entropy=information, plug_in=information, null=information, ceiling=information,
        temperatures=torch.ones(1, len(seeds), dtype=torch.float64), fold_tokens=fold_tokens, tokens=fold_tokens.sum(0).long(),
        coverage=one, classes=one.long(), singletons=one, documents=40, information=information,
        provenance=Provenance("none", "", "", "float64", "cpu", settings={"estimator": "cross_fitted"}),
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", TOKENS)
def test_errors_from_several_seeds_are_the_spread_of_corpora_and_anchors(name):
    values, means, errors, of_means = [], [], [], []
    for replicate in range(20 if LONG else 12):
        seeds = range(5 * replicate, 5 * replicate + 5)
        result = result_of(*columns(ALL[name], np.random.default_rng(replicate), seeds), seeds)
        values += result.value().flatten().tolist()
        errors += result.error().square().flatten().tolist()
        mean, *parts = result.mean(result.values())
        means.append(mean.item())
        of_means.append(sum(part.item() ** 2 for part in parts))
    assert math.sqrt(np.mean(errors)) == pytest.approx(np.std(values, ddof=1), rel=0.35)
    assert math.sqrt(np.mean(of_means)) == pytest.approx(np.std(means, ddof=1), rel=0.35)
