"""States from anywhere: the accumulator over plain batches against the function, the stream, and the published package."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional import soft_anchors, soft_entropy, soft_mutual_information
from tl_entropy.sites import Site

NUMBERS = (
    "information", "plug_in", "null", "ceiling", "corrected_ceiling", "chance_adjusted", "entropy", "lower", "fold_jackknife",
    "se", "anchors_se", "plug_in_se", "in_two_folds", "share", "coverage", "singletons", "rows", "dropped",
)  # fmt: skip


@cache
def corpus(rows=900, d=12, types=60, documents=30):
    """States, labels, documents of 30 rows in turn; every tenth row without a label."""
    rng = np.random.default_rng(0)
    label = rng.choice(types, rows, p=(w := 1 / np.arange(1, types + 1)) / w.sum())
    document = np.arange(rows) * documents // rows
    z = rng.normal(size=(types, d))[label] + 0.3 * rng.normal(size=(documents, d))[document] + 0.6 * rng.normal(size=(rows, d))
    label[::10] = -1
    return torch.tensor(z), label, document


def filled(order=range(900), size=900, *, labels=None, states=None, **options):
    z, label, document = corpus()
    states = states or tle.StateInformation(12, 20, **options)
    order = np.array(list(order))
    for chosen in np.array_split(order, max(1, len(order) // size)):
        states.update(z[chosen], label[chosen] if labels is None else [labels[i] for i in chosen], documents=document[chosen])
    return states


def assert_alike(found, expected, tolerance=1e-10, of=NUMBERS):
    for name in of:
        mine, theirs = float(getattr(found, name)), float(getattr(expected, name))
        assert mine == pytest.approx(theirs, abs=tolerance, nan_ok=True), name


def test_it_is_the_function_on_all_rows_at_once():
    z, label, document = corpus()
    kept = label >= 0
    expected = soft_mutual_information(z[kept], label[kept], documents=document[kept], n_bins=20)
    of = [name for name in NUMBERS if name != "coverage"]
    found = filled(size=70).mutual_information()
    assert_alike(found, expected, of=of)
    assert found.coverage == pytest.approx(0.9)
    assert list(found.labels) == expected.labels.tolist()
    assert found.counts.tolist() == expected.counts.tolist()
    for name in ("label_information", "label_corrected", "label_se"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), equal_nan=True)
    assert math.isnan(found.jackknife)


def test_the_order_of_documents_and_batches_does_not_matter():
    expected = filled().mutual_information()
    documents = np.random.default_rng(1).permutation(30)
    for order, size in ((np.concatenate([np.arange(30) + 30 * d for d in documents]), 45), (range(900), 1)):
        assert_alike(filled(order, size).mutual_information(), expected)


@pytest.mark.parametrize("bounds", [(0, 300, 900), (0, 30, 90, 600, 900)])
def test_parts_merge_to_the_whole_in_any_order(bounds):
    expected = filled().mutual_information()
    parts = [filled(range(low, high), 50) for low, high in pairwise(bounds)]
    for order in (parts, parts[::-1]):
        joined = tle.StateInformation(12, 20)
        for part in order:
            joined.merge(part)
        assert_alike(joined.mutual_information(), expected)
        assert joined.entropy() == pytest.approx(filled().entropy(), abs=1e-12)
    assert_alike(parts[0].mutual_information(), filled(range(bounds[1])).mutual_information())  # what was merged is as it was


def test_parts_without_documents_merge_to_the_same_in_any_order():
    z, label, _ = corpus()
    parts = []
    for chosen in torch.arange(900).split(300):
        parts.append(tle.StateInformation(12, 20))
        parts[-1].update(z[chosen], label[chosen])
    found = []
    for order in permutations(parts):
        joined = tle.StateInformation(12, 20)
        for part in order:
            joined.merge(part)
        found.append(joined.mutual_information())
    for other in found[1:]:
        assert_alike(other, found[0])


def test_documents_without_a_label_change_nothing():
    z, label, document = corpus()
    label = np.where(document % 4, label, -1)  # all are as long, so that folds are dealt by number
    states = tle.StateInformation(12, 20)
    states.update(z, label, documents=document)
    assert_alike(states.mutual_information(), soft_mutual_information(z, label, documents=document, n_bins=20))


def test_batches_of_nothing_and_sets_without_a_label():
    z, *_ = corpus()
    states = filled(invalid="drop")
    states.update(z[:0], [], documents=[])
    states.update(torch.zeros(3, 12), [1, 2, 3], documents=[1, 2, 3])
    states.update(z[:4], {"none": [-1] * 4}, documents=[100] * 4)
    assert (states.rows, states.dropped) == (904, 3)
    frame = states.to_pandas().set_index("label")
    assert frame.loc["labels", "information"] == states.mutual_information("labels").information.item()
    assert frame.loc["none", "reason"] == "no row with a label was seen"
    assert frame.loc["none", ["rows", "coverage"]].tolist() == [0, 0]
    assert frame.loc["none", ["information", "plug_in", "entropy"]].isna().all()
    assert math.isnan(states.results()["information/none"])
    with pytest.raises(InputError, match="no row with a label of 'none' was seen"):
        states.mutual_information("none")


def test_entropies_are_those_of_all_rows_and_of_each_label():
    z, label, _ = corpus()
    states = filled(size=100)
    assert states.entropy() == pytest.approx(soft_entropy(z, n_bins=20).item(), abs=1e-12)
    found = states.conditional_entropy()
    counts = np.bincount(label[label >= 0])
    assert next(iter(found)) == counts.argmax()
    for x, h in found.items():
        assert h == pytest.approx(soft_entropy(z[label == x], n_bins=20).item(), abs=1e-10)
    assert math.isnan(tle.StateInformation(3).entropy())


@pytest.mark.parametrize(
    "named", [lambda x: f"word {x}", lambda x: (x % 7, x), lambda x: 10**15 + x, lambda x: np.int32(x)],
    ids=["strings", "tuples", "sparse", "NumPy's"],
)  # fmt: skip
def test_labels_may_be_called_anything(named):
    _, label, _ = corpus()
    labels = [None if x < 0 else named(int(x)) for x in label]
    found, expected = filled(size=200, labels=labels).mutual_information(), filled().mutual_information()
    assert_alike(found, expected)
    assert sorted(found.counts.tolist()) == sorted(expected.counts.tolist())


def test_several_label_sets_each_have_rows_of_their_own():
    """Sets that are given on different batches do not share their counts."""
    z, label, document = corpus()
    states = tle.StateInformation(12, 20)
    parity = np.where(label < 0, -1, label % 2)[:600]
    states.update(z[:600], {"word": label[:600], "odd": parity}, documents=document[:600])
    states.update(z[600:], {"word": label[600:]}, documents=document[600:])
    assert_alike(states.mutual_information("word"), filled().mutual_information())
    odd = states.mutual_information("odd")
    expected = soft_mutual_information(z[:600], parity, documents=document[:600], n_bins=20)
    assert odd.plug_in.item() == pytest.approx(expected.plug_in.item(), abs=1e-10)
    assert odd.rows == 540
    frame = states.to_pandas().set_index("label")
    assert frame.loc["word", "information"] == states.mutual_information("word").information.item()
    flat = states.results()
    assert flat["information/odd"] == odd.information.item()
    assert flat["entropy"] == states.entropy()
    assert all(isinstance(value, float) for value in flat.values())
    with pytest.raises(InputError, match="name must be one of the label sets, of which there are word, odd"):
        states.mutual_information()
    with pytest.raises(InputError, match="name must be one of the label sets, word, odd; got 'verb'"):
        states.conditional_entropy("verb")


@pytest.mark.parametrize("of", [pd.Series, pd.Index, pd.Categorical])
def test_labels_of_pandas(of):
    _, label, _ = corpus()
    labels = of([None if x < 0 else f"word {x}" for x in label])
    states = tle.StateInformation(12, 20)
    states.update(corpus()[0], labels, documents=corpus()[2])
    assert_alike(states.mutual_information(), filled().mutual_information())
    pairs = pd.MultiIndex.from_arrays([label, label % 7])
    assert_alike(filled(labels=pairs).mutual_information(), filled(labels=list(pairs)).mutual_information())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_float_dtype_and_arrays(dtype):
    z, label, document = corpus()
    rows = z.to(dtype)
    expected = soft_mutual_information(rows[label >= 0], label[label >= 0], documents=document[label >= 0], n_bins=20)
    for given in [rows] + ([rows.numpy()] if dtype != torch.bfloat16 else []):
        states = tle.StateInformation(12, 20)
        states.update(given, torch.tensor(label), documents=torch.tensor(document))
        assert_alike(states.mutual_information(), expected, 1e-6, of=("information", "plug_in", "ceiling"))


def test_without_documents_rows_are_dealt():
    z, label, _ = corpus()
    states = tle.StateInformation(12, 20)
    for chosen in torch.arange(900).split(100):
        states.update(z[chosen], label[chosen])
    found = states.mutual_information()
    expected = soft_mutual_information(z[label >= 0], label[label >= 0], n_bins=20)
    assert_alike(found, expected, of=("plug_in", "ceiling", "entropy"))
    assert found.information.item() == pytest.approx(expected.information.item(), abs=3 * found.se)
    assert 0 < found.se < 0.2


def test_more_rows_than_the_sample_holds():
    rng = np.random.default_rng(3)
    label, z = np.arange(6000) % 100, torch.tensor(rng.normal(size=(6000, 8)))
    z = z + torch.tensor(rng.normal(size=(100, 8)))[label]
    states = tle.StateInformation(8, 16)
    for chosen in torch.arange(6000).split(900):
        states.update(z[chosen], label[chosen], documents=chosen // 60)
    found, expected = states.mutual_information(), soft_mutual_information(z, label, documents=np.arange(6000) // 60, n_bins=16)
    assert len(states._sample) == 4096
    assert_alike(found, expected, of=("plug_in", "ceiling", "lower", "fold_jackknife", "corrected_ceiling"))
    assert found.information.item() == pytest.approx(expected.information.item(), abs=0.005)


def test_a_state_dict_goes_on_where_it_stopped():
    whole, half = filled(size=300), filled(range(450), 300)
    again = tle.StateInformation(12, 20)
    again.load_state_dict(half.state_dict())
    assert_alike(again.mutual_information(), half.mutual_information(), 0)
    filled(range(450, 900), 300, states=again)
    assert_alike(again.mutual_information(), whole.mutual_information())
    assert half.rows == 450
    with pytest.raises(InputError, match="state must be of the same anchors"):
        tle.StateInformation(12, 20, seed=1).load_state_dict(half.state_dict())
    again.reset()
    assert again.rows == 0
    assert again.to_pandas().empty


def test_what_does_not_fit_is_refused_and_changes_nothing():
    z, label, document = corpus()
    states = filled(range(300))
    before = states.mutual_information()
    for arguments, error, message in (
        ((z[:5, :4], label[:5], document[:5]), InputError, r"z must be \[row, 12\]; got \[5, 4\]"),
        (
            (z[:5], label[:4], document[:5]),
            InputError,
            "labels 'labels' must be a sequence with one entry for each of the 5 rows",
        ),
        ((z[:5], label[:5], document[:4]), InputError, "documents must be a sequence with one entry for each of the 5 rows"),
        ((z[:5], "abcde", document[:5]), InputError, "must be a sequence .*; got str"),
        (
            (z[:5], [0.5] * 5, document[:5]),
            InputTypeError,
            "must be whole numbers, strings or tuples, None for nothing; got 0.5",
        ),
        ((z[:5], [([],)] * 5, document[:5]), InputTypeError, r"got \(\[\],\)"),
        ((z[:5], label[:5], [0, 0, None, 0, 0]), InputError, "documents must have one for every row"),
        ((z[:5], label[:5], None), InputError, "documents must be given with every batch or with none"),
        ((z[:5] * 0, label[:5], document[:5]), InputError, "no direction"),
        ((z[:5] * math.nan, label[:5], document[:5]), NonFiniteError, "NaN"),
    ):
        with pytest.raises(error, match=message):
            states.update(arguments[0], arguments[1], documents=arguments[2])
    assert_alike(states.mutual_information(), before, 0)
    for other in (
        tle.StateInformation(12, 30),
        tle.StateInformation(12, 20, folds=5),
        tle.StateInformation(12, 20, center=z[0]),
    ):
        with pytest.raises(InputError, match="cannot merge: anchors, temperature, center"):
            states.merge(other)
    with pytest.raises(InputError, match=r"cannot merge: an accumulator .* itself"):
        states.merge(states)
    assert_alike(states.mutual_information(), before, 0)
    bare = tle.StateInformation(12, 20)
    bare.update(z[:5])
    with pytest.raises(InputError, match="cannot merge: documents"):
        states.merge(bare)
    with pytest.raises(InputError, match="of which there are none"):
        bare.mutual_information()
    dropping = tle.StateInformation(12, 20, invalid="drop")
    rows = z[:300].clone()
    rows[3] = 0
    dropping.update(rows, label[:300], documents=document[:300])
    assert (dropping.dropped, dropping.rows) == (1, 299)


@pytest.mark.model
def test_it_is_soft_information_on_the_states_of_a_model():
    model = cached_model("gpt2", kinds()[0])
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice("the cat sat on mat and dog return x".split(), 12)) for _ in range(24)]
    result = tle.soft_information(model, texts, labels="token", sites="resid_post", layers=[1], progress=False)

    class Feeding:
        sites = (Site("resid_post", 1),)

        def __init__(self):
            self.states = tle.StateInformation(32)

        def update(self, batch, activations):
            rows = batch.rows(activations[self.sites[0]])
            self.states.update(rows, batch.row_token, documents=batch.row_document)

    feeding = Feeding()
    tle.stream(model, texts, [feeding], batch_size=5, progress=False)
    found = feeding.states.mutual_information()
    for name in ("information", "plug_in", "null", "ceiling", "corrected_ceiling", "lower", "fold_jackknife"):
        assert float(getattr(found, name)) == pytest.approx(result.value(name).item(), abs=2e-5), name
    assert found.se == pytest.approx(result.error(part="documents").item(), rel=1e-3)
    assert found.anchors_se == pytest.approx(result.error(part="anchors").item(), rel=1e-3)


def test_digits_equal_the_published_package_batch_by_batch():
    z, label = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    temperature = pytest.importorskip("soft_entropy.temp_calibration").find_eps(100, 64)
    theirs = pytest.importorskip("soft_entropy.accumulator").SoftEntropyAccumulator(64, seed=0, backend="numpy")
    theirs.w = torch.nn.functional.normalize(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)), dim=-1).numpy()
    ours = tle.StateInformation(64, anchors=theirs.w, temperature=temperature)
    for start in range(0, len(z), 500):
        theirs.update(z[start : start + 500].astype(np.float32), label[start : start + 500])
        ours.update(z[start : start + 500].astype(np.float32), label[start : start + 500])
    expected, found = theirs.results(), ours.results()
    assert found["efficiency"] == pytest.approx(expected["H(Z)"], abs=1e-6)
    assert found["plug_in/labels"] / math.log(100) == pytest.approx(expected["I(X;Z)/labels"], abs=1e-6)
    assert found["regularity/labels"] == pytest.approx(expected["regularity/labels"], abs=1e-6)


def test_anchors_may_be_arrays():
    z, label, document = corpus()
    given = tle.StateInformation(12, anchors=soft_anchors(12, 20).numpy())
    given.update(z, label, documents=document)
    assert_alike(given.mutual_information(), filled().mutual_information(), 1e-6)
