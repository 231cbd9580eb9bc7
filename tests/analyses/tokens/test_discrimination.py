"""Features of spans against plain loops, and areas, risks and nulls against scikit-learn, pairs and known answers."""

from __future__ import annotations

import sys

import pytest
import torch
from hand_made import lens, surprisal

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.tokens.discrimination import area_errors, areas, ranks, risks
from tl_entropy.results import Provenance, SpanFeatures

QUICK = {"shuffles": 50, "refits": 2}


def made(values, document=None):
    values = torch.as_tensor(values, dtype=torch.float64).reshape(len(values), -1)
    n = torch.arange(len(values))
    return SpanFeatures(
        values=values, features=tuple(f"f{i}" for i in range(values.shape[1])), units=("nats",) * values.shape[1],
        document=n if document is None else torch.as_tensor(document), start=n * 0, end=n * 0 + 1, tokens=n * 0 + 1,
        provenance=Provenance("tiny", "abc", "raw", "float32", "cpu", versions={}, created="then"),
    )  # fmt: skip


def drawn(n=60, features=4, seed=0, effect=0.0):
    rng = torch.Generator().manual_seed(seed)
    label = torch.rand(n, generator=rng) < 0.4
    values = torch.randn(n, features, generator=rng, dtype=torch.float64)
    values[:, 0] += effect * label
    return values, label


def test_features_are_those_of_a_loop():
    result = lens()
    spans = [[(0, 2), (2, 3)], [(1, 4)], [], [(0, 9)]]
    with pytest.warns(UserWarning, match=r"1 span of 4 end behind .*: \[0, 9\) of document 3, whose last value is at 4$"):
        found = tle.span_features(result, spans, how=("mean", "max", "min", "first", "last"))
    lines = [(document, start, end) for document, here in enumerate(spans) for start, end in here]
    assert list(zip(found.document.tolist(), found.start.tolist(), found.end.tolist(), strict=True)) == lines
    for row, (document, start, end) in enumerate(lines):
        inside = (result.document == document) & (result.position >= start) & (result.position < end)
        for i, site in enumerate(result.sites):
            values = result.entropy[inside, i, 0].double()
            expected = (values.mean(), values.max(), values.min(), values[0], values[-1])
            for way, value in zip(("mean", "max", "min", "first", "last"), expected, strict=True):
                place = found.features.index(f"entropy {site}, {way}")
                assert found.values[row, place].item() == pytest.approx(value.item(), rel=1e-12)
        assert found.tokens[row] == int(inside.sum())
    whole = tle.span_features(result)
    assert whole.document.tolist() == [0, 1, 2, 3]
    before = tle.span_features(result, [[(1, 3)], [], [], []], predicting=True)
    assert torch.equal(before.values, tle.span_features(result, [[(0, 2)], [], [], []]).values)
    assert tle.span_features(result.to("bits")).values.sum() == pytest.approx(whole.to("bits").values.sum().item())


def test_features_of_single_tokens_and_of_words():
    result = surprisal(["the", " cat", " s", "at"], ["a", " dog"])
    words = result.word_surprisal(correct=False)
    found = tle.span_features(result, words, ("surprisal", "rank"))
    assert found.features == ("surprisal, mean", "rank, mean")
    assert found.units == ("nats", "")
    assert (found.start.tolist(), found.end.tolist()) == ([0, 1, 2, 0, 1], [1, 2, 4, 1, 2])
    assert found.values[2, 0].item() == pytest.approx(result.surprisal[2:4].mean().item())
    with pytest.warns(UserWarning, match=r"1 span of 1 end behind .*: \[7, 9\) of document 0, whose last value is at \d+$"):
        nothing = tle.span_features(result, [[(7, 9)], []])
    assert nothing.values.isnan().all()
    assert nothing.tokens.tolist() == [0]
    part = tle.span_features(result.select(documents=[1]), [[(0, 1)], [(0, 2)]], "surprisal")
    assert part.document.tolist() == [0, 1]  # a row for each span that was given, so that labels fit
    assert part.tokens.tolist() == [0, 2]
    assert part.values.isnan().flatten().tolist() == [True, False]


def test_areas_and_errors_are_those_of_all_pairs():
    values, label = drawn(features=2, effect=1.0)
    values[:10, 1] = 0.0  # ties
    x, y = values[label][:, None], values[~label][None]
    above = (x > y).double() + (x == y).double() / 2
    area = above.mean((0, 1))
    torch.testing.assert_close(areas(ranks(values), label[None])[0], area)
    n = torch.tensor([int(label.sum()), int((~label).sum())])
    scores = torch.zeros_like(values)
    scores[label], scores[~label] = (above.mean(1) - area) / n[0], (above.mean(0) - area) / n[1]
    group = torch.arange(len(values)) // 3
    sums = torch.stack([scores[group == g].sum(0) for g in range(int(group.max()) + 1)])
    expected = (sums.square().sum(0) * len(sums) / (len(sums) - 1)).sqrt()
    torch.testing.assert_close(area_errors(values, label, group), expected)
    assert area_errors(values, label, group * 0).isnan().all()
    metrics = pytest.importorskip("sklearn.metrics")
    for i in range(2):
        assert area[i].item() == pytest.approx(metrics.roc_auc_score(label.numpy(), values[:, i].numpy()))


def test_errors_over_groups_are_the_spread_over_corpora():
    rng = torch.Generator().manual_seed(0)
    found, told = [], []
    for _ in range(200):
        shared = torch.randn(20, generator=rng).repeat_interleave(4)
        label = (torch.rand(20, generator=rng) < 0.5).repeat_interleave(4)
        values = (shared + 0.5 * torch.randn(80, generator=rng)).double()[:, None]
        if 8 < int(label.sum()) < 72:
            found.append(areas(ranks(values), label[None])[0, 0])
            told.append(area_errors(values, label, torch.arange(20).repeat_interleave(4))[0])
    assert torch.stack(told).mean().item() == pytest.approx(torch.stack(found).std().item(), rel=0.2)


def test_risks_by_hand():
    scores = torch.tensor([[0.0], [1.0], [1.0], [3.0]])
    label = torch.tensor([False, True, False, True])
    assert risks(scores, label)[:, 0].tolist() == pytest.approx([0, 0.25, 1 / 3, 0.5])


def test_what_tells_classes_apart_is_found_and_what_does_not_is_not():
    values, label = drawn(n=120, features=6, effect=3.0)
    found = tle.discriminate(made(values), label, **QUICK)
    assert found.features == ("f0", "f1", "f2", "f3", "f4", "f5", "probe")
    assert found.auroc[0] > 0.95
    assert found.p_any[0].item() == pytest.approx(1 / 51)
    assert found.auroc[-1] > 0.9
    assert (found.auroc[1:6] - 0.5).abs().max() < 0.2
    assert found.n_tests == 7
    assert found.aurc[0] < found.aurc[1]
    low = tle.discriminate(made(-values), label, probe=False, **QUICK)
    torch.testing.assert_close(low.auroc[0], 1 - found.auroc[0])
    torch.testing.assert_close(low.oriented[0], found.oriented[0])
    torch.testing.assert_close(low.p_any, found.p_any[:6])


def test_by_chance_nothing_is_told_apart():
    areas_of_probes, adjusted = [], []
    for seed in range(12):
        values, label = drawn(n=60, features=12, seed=seed)
        found = tle.discriminate(made(values), label, folds=3, shuffles=30, refits=0)
        areas_of_probes.append(found.auroc[-1])
        adjusted.append(found.p_any[:-1].min() <= 0.05)
    assert torch.stack(areas_of_probes).mean().item() == pytest.approx(0.5, abs=0.08)
    assert sum(map(bool, adjusted)) <= 3, "of twelve, about one"


def test_groups_are_held_out_whole():
    """A feature that names the group tells groups' labels apart in the same groups, and not in others."""
    rng = torch.Generator().manual_seed(1)
    group = torch.arange(24).repeat_interleave(5)
    label = (torch.rand(24, generator=rng) < 0.5)[group]
    names = torch.randn(24, 40, generator=rng).double()[group] + 0.01 * torch.randn(120, 40, generator=rng)
    together = tle.discriminate(made(names, group), label, **QUICK)
    apart = tle.discriminate(made(names), label, **QUICK)
    assert apart.auroc[-1] > 0.95
    assert together.auroc[-1] < 0.75
    assert (together.groups, apart.groups) == (24, 120)
    named = tle.discriminate(made(names), label, groups=[f"question {g}" for g in group.tolist()], **QUICK)
    torch.testing.assert_close(named.auroc, together.auroc)


def test_labels_groups_and_values():
    values, label = drawn(n=20)
    values[3, 1] = torch.nan
    features = made(values)
    found = tle.discriminate(features, label, probe=False, **QUICK)
    assert found.spans == (19, int(label.sum() - label[3].int()), 1)
    by_key = {(i, 0, 1): bool(label[i]) for i in range(20)}
    for given in (label.int().tolist(), label.numpy(), by_key):
        torch.testing.assert_close(tle.discriminate(features, given, probe=False, **QUICK).auroc, found.auroc)
    assert features.select("f1").features == ("f1",)
    assert features.to_pandas().shape == (20, 8)
    assert found.to_pandas()["feature"].tolist() == ["f0", "f1", "f2", "f3"]
    again = tle.discriminate(features, label, probe=False, **QUICK)
    assert torch.equal(again.null, found.null)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tle.span_features(lens(), quantities="kl"), InputError, "quantities: kl not in this result"),
        (lambda: tle.span_features(lens(), [[]]), InputError, "spans must have a list for each of 4"),
        (
            lambda: tle.span_features(lens(), [[(2, 2)], [], [], []]),
            InputError,
            "document 0, span 0 must have 0 <= start < end",
        ),
        (lambda: tle.span_features(lens(), [[3], [], [], []]), InputTypeError, "two positions"),
        (lambda: tle.span_features(lens(), how="sum"), InputError, "'mean', 'max'"),
        (lambda: tle.span_features(lens(), how=[]), InputError, "'mean', 'max'"),
        (lambda: tle.discriminate(made([1, 2]), [[True], [True, False]]), InputTypeError, "got lists in a list"),
        (lambda: tle.span_features(torch.zeros(2)), InputTypeError, "values of positions"),
        (lambda: tle.span_features(surprisal(["a"]), predicting=True), InputError, "leave it out"),
        (lambda: tle.discriminate(torch.zeros(2), [True]), InputTypeError, "must be of span_features"),
        (lambda: tle.discriminate(made([1, 2, 3]), [True, False]), InputError, "one for each of 3 spans"),
        (lambda: tle.discriminate(made([1, 2, 3]), [0.5, 1, 2]), InputTypeError, "truth values"),
        (lambda: tle.discriminate(made([1, 2, 3]), [True] * 3), InputError, "labels must be False in at least two groups"),
        (
            lambda: tle.discriminate(made([1, 2, 3, 4]), [True, False] * 2, groups=[1]),
            InputError,
            "groups must be one for each",
        ),
        (lambda: tle.discriminate(made([1, 2, 3, torch.inf]), [True, False] * 2), InputError, "'f0' is infinite at 1 span"),
        (lambda: tle.discriminate(made([1, 2]), {(0, 0, 1): True}), InputError, r"it lacks \(1, 0, 1\)"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_scikit_learn_a_probe_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    values, label = drawn(n=20)
    with pytest.raises(ImportError, match="probe=False"):
        tle.discriminate(made(values), label, **QUICK)
    assert tle.discriminate(made(values), label, probe=False, **QUICK).n_tests == 4
