"""Positions kept one by one and positions added up give one and the same sums, in fewer bytes."""

from __future__ import annotations

import itertools

import pytest
import torch
from states import differences
from tiny_models import cached_model

import tl_entropy as tle
from tl_entropy.analyses.information import seen as soft_seen, site_sums
from tl_entropy.analyses.information.keeping import Layout, Shape
from tl_entropy.functional.information import blocks
from tl_entropy.functional.statistics import group_sums
from tl_entropy.labels import DocumentTokens, LabelPlan

pytestmark = pytest.mark.model


def zipf_plan(documents=30, length=40, vocabulary=400):
    """A plan of text as frequent as words are; the positions of two label sets differ."""
    frequency = 1 / torch.arange(1, vocabulary, dtype=torch.float64)
    draws = torch.multinomial(frequency, documents * length, replacement=True, generator=torch.Generator().manual_seed(0))
    whole = [DocumentTokens(s := torch.cat([torch.tensor([-1]), row]), s >= 0, s >= 0) for row in draws.view(documents, length)]
    return LabelPlan.from_documents(whole, ("token", "bigram", "next_token"), valid="own")


PLAN = zipf_plan()
TABLES = PLAN.tables(7)
SAMPLE = (PLAN.ids >= 0).any(0).nonzero()[:, 0][torch.randperm(1200, generator=torch.Generator().manual_seed(1))[:90]]
COSTS = (0.05, 0.3, 0.5, 1.0)


def size(layout, cost):
    return len(layout.slots) * cost + layout.n_sums


@pytest.mark.parametrize("cost", COSTS)
def test_sums_are_those_of_all_positions(cost):
    layout, n = Layout.of(TABLES, SAMPLE, cost), PLAN.ids.shape[1]
    values = torch.rand(n, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(layout.slots[: len(SAMPLE)], SAMPLE)
    assert len(layout.slots.unique()) == len(layout.slots)
    place, mass = layout.place.long(), torch.zeros(layout.n_sums + 1, 2, 3, dtype=torch.float64)
    for table, numbers in zip(TABLES, layout.sums, strict=True):
        summed = place < 0
        mass.index_add_(0, numbers[table.rows[summed].long()], values[summed])
    for label, table in enumerate(TABLES):
        order = torch.randperm(table.n_rows, generator=torch.Generator().manual_seed(3))
        gather = layout.gather(table, order, label, torch.ones(len(layout.slots), dtype=torch.bool))
        there = table.rows >= 0
        expected = group_sums(values[there], table.rows[there].long(), table.n_rows)[order]
        for heads in (slice(0, 2), slice(1, 2)):
            torch.testing.assert_close(gather.of(mass, values[layout.slots], heads), expected[:, heads])
    every = sum(table.n_rows for table in TABLES)
    assert size(layout, cost) <= len(SAMPLE) * cost + every


@pytest.mark.parametrize("cost", COSTS)
def test_no_pair_is_left_whose_positions_take_less_than_its_sum(cost):
    layout = Layout.of(TABLES, SAMPLE, cost)
    for table, numbers in zip(TABLES, layout.sums, strict=True):
        left = (table.rows >= 0) & (layout.place < 0)
        missing = torch.bincount(table.rows[left].long(), minlength=table.n_rows)
        assert not bool(((missing > 0) & (missing * cost < 1)).any())
        assert torch.equal(missing > 0, numbers[:-1] < layout.n_sums), "a sum for every pair that needs one, and for no other"


def test_it_is_nearly_the_minimum_cut():
    scipy = pytest.importorskip("scipy.sparse")
    from scipy.sparse.csgraph import maximum_flow

    used = (PLAN.ids >= 0).any(0).nonzero()[:, 0]
    number = torch.zeros(PLAN.ids.shape[1], dtype=torch.long)
    pairs = sum(table.n_rows for table in TABLES)
    number[used] = 1 + pairs + torch.arange(len(used))
    end, edges, first = 1 + pairs + len(used), [], 1
    for table in TABLES:
        slots = (table.rows >= 0).nonzero()[:, 0]
        edges += [(0, first + row, 808) for row in range(table.n_rows)]
        edges += [(first + row, at, 10**6) for row, at in zip(table.rows[slots].tolist(), number[slots].tolist(), strict=True)]
        first += table.n_rows
    sampled = set(SAMPLE.tolist())
    edges += [(at, end, 0 if slot in sampled else 256) for slot, at in zip(used.tolist(), number[used].tolist(), strict=True)]
    source, target, capacity = map(list, zip(*edges, strict=True))
    least = maximum_flow(
        scipy.csr_matrix((capacity, (source, target)), shape=(end + 1, end + 1), dtype="int32"), 0, end
    ).flow_value
    layout = Layout.of(TABLES, SAMPLE, 256 / 808)
    found = 256 * (len(layout.slots) - len(SAMPLE)) + 808 * layout.n_sums
    assert least <= found <= 1.02 * least


def test_a_position_is_kept_as_what_is_narrower():
    assert Shape.of(64, [100, 100], 4) == Shape(True, 256, 1616)
    assert Shape.of(768, [100], 4) == Shape(False, 404, 808)
    assert Shape.of(768, [100], 8) == Shape(False, 808, 808)


@pytest.mark.thinned
@pytest.mark.parametrize("sample", [4, 30])
def test_results_do_not_depend_on_what_is_kept(monkeypatch, sample):
    model, texts = (
        cached_model("gpt2", "bridge"),
        ["the cat sat on the mat and the dog sat", "a dog and a cat", "the dog sat on"] * 3,
    )
    monkeypatch.setattr(soft_seen, "SAMPLE", sample)
    options = {"heads": True, "layers": [1], "n_bins": (20, 5), "keep_labels": True, "progress": False}
    plain, found = Layout.of, []
    for cost in (2.0, None, 0.01):  # the sample alone, the layout as it comes, all that has a label
        monkeypatch.setattr(Layout, "of", lambda tables, sampled, own, cost=cost: plain(tables, sampled, cost or own))
        found.append(tle.soft_information(model, texts, **options))
    for one in found[1:]:
        for name in ("information", "entropy", "plug_in", "lower", "fold_jackknife", "label_corrected", "label_se"):
            mine, whole = getattr(one, name), getattr(found[0], name)
            if mine.dim() == 4:  # behind the value and those of folds stand draws of anchors, in single precision
                behind = 1 + len(one.fold_tokens)
                torch.testing.assert_close(mine[behind:], whole[behind:], atol=5e-7, rtol=0, equal_nan=True)
                mine, whole = mine[:behind], whole[:behind]
            most = 1e-8 if name in ("information", "entropy", "plug_in") else 1e-7  # bounds are in single precision
            torch.testing.assert_close(mine, whole, atol=most, rtol=0, equal_nan=True)


@pytest.mark.thinned
@pytest.mark.parametrize("numbers", [2**19, 2500])
def test_small_places_worked_on_together_say_what_each_says_alone(monkeypatch, numbers):
    monkeypatch.setattr(blocks, "_AT_ONCE", numbers)  # all heads of a draw at once, or some, across places
    model, texts = cached_model("gpt2", "bridge"), ["the cat sat on the mat and the dog sat", "a dog and a cat"] * 4
    options = {"heads": True, "n_bins": (20, 5), "seed": (0, 1), "keep_labels": True, "progress": False}
    together = tle.soft_information(model, texts, **options)
    monkeypatch.setattr(site_sums, "TOGETHER", (0, 0))
    assert differences(together, tle.soft_information(model, texts, **options), by=1e-9) == []
    assert differences(together.error(), tle.soft_information(model, texts, **options).error(), by=1e-9) == []


@pytest.mark.parametrize(
    ("numbers", "workers", "sizes"),
    [([2**20] * 12, 1, [4, 4, 2, 1, 1]), ([2**20] * 12, 2, [3, 2, 1, 1, 1, 1, 1, 1, 1]), ([2**20] * 3, 16, [1, 1, 1]),
     ([2**17] * 9, 16, [4, 4, 1]), ([2**17, 2**24, 2**17], 1, [1, 1, 1]), ([], 2, [])],
)  # fmt: skip
def test_places_go_together_while_many_are_left_for_every_worker(numbers, workers, sizes):
    places = [(i, None) for i in range(len(numbers))]
    found = site_sums.together(places, numbers, workers)
    assert [len(some) for some in found] == sizes
    assert list(itertools.chain.from_iterable(found)) == places


def test_many_workers_have_no_more_at_once_than_few():
    numbers, workers = [2**18] * 512, 16
    found = site_sums.together([(number, None) for number in numbers], numbers, workers)
    assert max(sum(number for number, _ in some) for some in found) == site_sums.AT_ONCE // workers
