"""What soft information takes, by the formulas of the documentation, at two sizes each: within 5 %."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from tiny_models import cached_model, kinds
from torch.utils.flop_counter import FlopCounterMode

import tl_entropy as tle
from tl_entropy.analyses.information.places import Place, anchors

pytestmark = pytest.mark.model

WORDS = "the cat sat on mat and dog return x".split()


def texts(n):
    return [" ".join(np.random.default_rng(i).choice(WORDS, 60)) for i in range(n)]


@pytest.mark.parametrize("n", [10, 20])
def test_disk(n, tmp_path):
    options = {"sites": "resid_post", "n_bins": 100, "labels": "position", "keep": "assignments", "progress": False}
    found = tle.soft_information(cached_model("gpt2", kinds()[0]), texts(n), folder=tmp_path / "a", **options)
    places, positions = len(found.sites), n * 60
    by_formula = positions * (places * 2 * 100 + 12) + 5 * (positions + n)
    assert sum(path.stat().st_size for path in (tmp_path / "a").iterdir()) == pytest.approx(by_formula, rel=0.05)


@pytest.mark.parametrize(("rows", "bins"), [(64, 100), (256, 40)])
def test_work_of_an_assignment(rows, bins):
    adapter = tle.Adapter(cached_model("gpt2", kinds()[0]))
    states = torch.randn(1, rows, adapter.d_model, generator=torch.Generator().manual_seed(0))
    draws = [(bins, 0)]
    place = Place.like(states, tle.Site("resid_post", 0), adapter, draws, "exact", partial(anchors, draws=draws))
    with FlopCounterMode(display=False) as counted:
        place.assign(states[0, :, None], place.lengths(states[0, :, None]))
    assert counted.get_total_flops() == pytest.approx(2 * adapter.d_model * bins * rows, rel=0.05)


@pytest.mark.parametrize("n", [10, 20])
def test_sums_where_all_is_added_up(n, monkeypatch):
    monkeypatch.setattr("tl_entropy.analyses.information.seen.SAMPLE", 1)
    monkeypatch.setattr("tl_entropy.analyses.information.keeping.Shape.of", lambda width, bins, size: _Added(bins))
    plan = tle.label_plan(cached_model("gpt2", kinds()[0]), texts(n), labels=("token", "bigram"))
    soft = tle.SoftAccumulator(cached_model("gpt2", kinds()[0]), plan, sites="resid_post", n_bins=100)
    rows, places = sum(table.n_rows for table in plan.tables(20)), len(soft.measured)
    assert soft.memory() == pytest.approx(places * 8 * 101 * rows, rel=0.05)


class _Added:
    """Keeping a position takes more than a sum, so that all are added up."""

    as_states = False

    def __init__(self, bins):
        self.kept = self.summed = sum(8 * (n + 1) for n in bins)
