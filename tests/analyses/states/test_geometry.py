"""The geometry of layers against plain functions of states gathered by hooks, and every way of cutting up the same input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import tl_entropy as tle
from tl_entropy.analyses.states import geometry, geometry_values
from tl_entropy.analyses.states.geometry import GeometryAccumulator, layer_geometry
from tl_entropy.analyses.states.geometry_sums import Moments, TextGram, Texts
from tl_entropy.analyses.states.geometry_values import Noted, dataset_entropies
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.states.geometry import anisotropy, curvature, effective_rank, prompt_entropy, two_nn
from tl_entropy.functional.states.rows import spread_floor
from tl_entropy.functional.states.views import info_nce, lidar
from tl_entropy.results.states.geometry import MEASURES
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

QUIET = {"progress": False}
BOS = {"prepend_bos": True, **QUIET}
PLAIN = tuple(name for name in MEASURES if name not in ("lidar", "info_nce"))
LONG = "the cat sat on the mat, and def f(x): the dog sat on the cat and the mat. " * 3
LABELS = ["animals", "code", "code", "animals"]
SITES = (Site("embed", -1), *(Site("resid_post", i) for i in range(3)))


@pytest.fixture
def corpus():
    return [
        "the cat sat on the mat, and the dog sat on the cat",
        "def f(x):\n    return x + 1",
        "    return x and f(x)\ndef f(x)",
        "dog and cat and dog and the mat sat",
    ]


def hook(site):
    return "blocks.0.hook_resid_pre" if site.name == "embed" else f"blocks.{site.layer}.hook_{site.name}"


@torch.no_grad()
def states(model, texts, sites=SITES):
    """Of each text, [token, d_model] at every site, its begin token left out."""
    found = []
    for text in texts:
        tokens = torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        cache = model.run_with_cache(tokens)[1]
        found.append({site: cache[hook(site)][0, 1:].double() for site in sites})
    return found


class Gatherer:
    """Every counted row, as it comes from windows."""

    sites = SITES

    def __init__(self):
        self.parts, self.document = {site: [] for site in SITES}, []

    def update(self, batch, activations):
        self.document.append(batch.row_document)
        for site in SITES:
            self.parts[site].append(batch.rows(activations[site]).double())

    def documents(self):
        document = torch.cat(self.document)
        rows = {site: torch.cat(parts) for site, parts in self.parts.items()}
        return [{site: x[document == d] for site, x in rows.items()} for d in document.unique()]


def expected(documents, labels=None, order=1.0, normalise="centred"):
    """[measure, site] values from plain functions."""
    sites = list(documents[0])
    values = {name: [] for name in MEASURES}
    for site in sites:
        each = [document[site] for document in documents]
        pool, tokens = torch.stack([x.mean(0) for x in each]), torch.cat(each)
        entropies = torch.stack([prompt_entropy(x, order=order, normalise=normalise) for x in each])
        most = torch.tensor([math.log(min(len(x) - (normalise == "centred"), x.shape[1])) for x in each])
        values["prompt_entropy"].append(entropies.mean())
        values["normalized_prompt_entropy"].append((entropies / most).mean())
        values["dataset_entropy"].append(prompt_entropy(pool, order=order, normalise=normalise))
        values["effective_rank"].append(effective_rank(tokens))
        values["curvature"].append(torch.stack([curvature(x) for x in each]).mean())
        values["anisotropy"].append(anisotropy(tokens))
        values["two_nn"].append(two_nn(tokens))
        if labels is not None:
            values["lidar"].append(lidar(pool, labels))
            values["info_nce"].append(info_nce(pool, labels))
    return {name: torch.stack(v) for name, v in values.items() if v}


def close(result, theirs, rtol=1e-5):
    assert result.measures == tuple(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(result.value(name), value, rtol=rtol, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def same(mine, theirs, tolerance=1e-5):
    """Two results of the same input; ``tolerance`` is that of the model's float32."""
    assert (mine.sites, mine.measures, mine.tokens, mine.documents) == (
        theirs.sites, theirs.measures, theirs.tokens, theirs.documents
    )  # fmt: skip
    assert torch.equal(mine.document, theirs.document)
    assert mine.notes == theirs.notes
    for name in ("values", "errors", "by_document"):
        torch.testing.assert_close(
            getattr(mine, name), getattr(theirs, name), rtol=tolerance, atol=tolerance, equal_nan=True,
            msg=lambda m, name=name: f"{name}: {m}",
        )  # fmt: skip


# --- the numbers


@pytest.mark.filterwarnings("ignore:.*rows repeat others")  # of the oracle; the result has a note
@pytest.mark.parametrize(("order", "normalise"), [(1.0, "centred"), (2.0, "length"), (1.01, None)])
def test_every_measure_is_that_of_the_states(gpt2, corpus, order, normalise):
    result = layer_geometry(gpt2, corpus, labels=LABELS, order=order, normalise=normalise, **BOS)
    documents = states(gpt2, corpus)
    assert result.sites == SITES
    assert (result.order, result.unit, result.documents) == (order, "nats", 4)
    assert result.tokens == sum(len(document[SITES[0]]) for document in documents)
    close(result, expected(documents, LABELS, order, normalise), rtol=1e-4)


def test_measures_of_documents_have_their_errors_and_their_documents(gpt2, corpus):
    result = layer_geometry(gpt2, corpus, measures=("curvature", "prompt_entropy"), **BOS)
    documents = states(gpt2, corpus)
    assert result.measures == ("prompt_entropy", "curvature")  # in the order of the list of all
    for name, measure in (("prompt_entropy", prompt_entropy), ("curvature", curvature)):
        each = torch.tensor([[measure(document[site]).item() for site in SITES] for document in documents])
        torch.testing.assert_close(result.document_values(name).float(), each, rtol=1e-4, atol=1e-5)
        error = each.std(0) / math.sqrt(4)
        torch.testing.assert_close(result.error(name).float(), error, rtol=1e-3, atol=1e-6)
    assert result.document.tolist() == [0, 1, 2, 3]


def test_errors_of_the_corpus_are_jackknives_over_documents(gpt2, corpus):
    result = layer_geometry(gpt2, corpus, measures=("dataset_entropy", "anisotropy"), **BOS)
    documents = states(gpt2, corpus)
    for i, site in enumerate(SITES):
        each = [document[site] for document in documents]
        left_out = [each[:d] + each[d + 1 :] for d in range(4)]
        entropies = np.array([prompt_entropy(torch.stack([x.mean(0) for x in part])).item() for part in left_out])
        jackknife = np.sqrt(3 / 4 * ((entropies - entropies.mean()) ** 2).sum())
        assert result.error("dataset_entropy")[i].item() == pytest.approx(jackknife, rel=1e-3)
        # Of groups of unequal size, the pseudo-values are weighed (Busing et al. 1999).
        n = np.array([len(x) for x in each])
        h = n.sum() / n
        whole, parts = anisotropy(torch.cat(each)).item(), np.array([anisotropy(torch.cat(part)).item() for part in left_out])
        pseudo = h * whole - (h - 1) * parts
        expected_error = np.sqrt((((pseudo - (pseudo / h).sum()) ** 2) / (h - 1)).mean())
        assert result.error("anisotropy")[i].item() == pytest.approx(expected_error, rel=1e-3)


def test_all_sites_that_are_vectors_are_measured(any_model):
    sites = ("embed", "resid_pre", "attn_out", "mlp_out", "resid_post")
    text = LONG[:90]
    result = layer_geometry(any_model, text, measures="curvature", sites=sites, layers=[1], **BOS)
    [document] = states(any_model, [text], result.sites)
    close(result, {"curvature": torch.stack([curvature(document[site]) for site in result.sites])}, rtol=1e-4)


# --- cutting up


@pytest.mark.thinned
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}])
@pytest.mark.parametrize("normalise", ["centred", None])
def test_any_batch_size_gives_the_same(gpt2, corpus, options, normalise):
    texts = [*corpus, LONG[:150]]
    labels = [*LABELS, "animals"]
    whole = layer_geometry(gpt2, texts, labels=labels, normalise=normalise, n_samples=30, **BOS)
    same(layer_geometry(gpt2, texts, labels=labels, normalise=normalise, n_samples=30, **options, **BOS), whole)


@pytest.mark.thinned
@pytest.mark.filterwarnings("ignore:.*rows repeat others")
@pytest.mark.parametrize("normalise", ["centred", "length", None])
def test_a_document_in_several_windows_is_one_document(gpt2, corpus, normalise):
    texts, options = [corpus[0], LONG, corpus[1]], {"window": 12, "stride": 5}
    rows = Gatherer()
    tle.stream(gpt2, texts, [rows], **options, **BOS)
    documents = rows.documents()
    assert len(documents[1][SITES[0]]) > 2 * 32  # so that the Gram matrix was folded more than once
    wanted = expected(documents, normalise=normalise)
    for batch_size in (1, 4, None):
        result = layer_geometry(gpt2, texts, normalise=normalise, batch_size=batch_size, **options, **BOS)
        close(result, wanted)


def test_an_open_document_keeps_no_more_than_d_model_rows_unless_they_wait_for_their_mean():
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    for normalise, most in (("length", 8), (None, 8), ("centred", 100)):
        gram = TextGram(normalise)
        for part in x.split(5):
            gram = gram.extended(part)
            assert sum(map(len, gram.rows)) <= most
        assert gram.entropy(1.0) == pytest.approx(prompt_entropy(x, normalise=normalise).item())
        assert (gram.tokens, gram.width) == (100, 8)


def test_a_document_that_ends_where_nothing_is_counted_is_closed_all_the_same(gpt2):
    accumulator = GeometryAccumulator(gpt2, measures=("prompt_entropy", "curvature"))
    tle.stream(gpt2, [LONG, "cat"], [accumulator], positions=slice(0, 20), window=12, batch_size=1, **BOS)
    assert not accumulator._texts._open  # their states would stay in memory
    same(
        accumulator.compute(),
        layer_geometry(gpt2, [LONG, "cat"], measures=accumulator.measures, positions=slice(0, 20), window=12, **BOS),
    )


@pytest.mark.thinned
@pytest.mark.parametrize("cut", [1, 3])
def test_parts_merge_to_the_whole(gpt2, corpus, cut):
    texts = [*corpus, "cat and mat", LONG]
    labels = [*LABELS, "animals", "animals"]
    options = {"n_samples": 40, "seed": 3}
    whole = layer_geometry(gpt2, texts, labels=labels, **options, **BOS)
    parts = []
    for first, last in ((0, cut), (cut, len(texts))):
        part = GeometryAccumulator(gpt2, labels=labels[first:last], first_document=first, **options)
        tle.stream(gpt2, texts[first:last], [part], **BOS)
        parts.append(part)
    before = [part.compute() for part in parts]
    empty = GeometryAccumulator(gpt2, labels=(), **options)
    empty.merge(GeometryAccumulator(gpt2, labels=(), **options))
    empty.merge(parts[0])
    empty.merge(parts[1])
    same(empty.compute(), whole)
    for part, its in zip(parts, before, strict=True):
        same(part.compute(), its, tolerance=0)  # what is merged stays as it was
    with pytest.raises(InputError, match="came twice"):
        parts[0].merge(parts[0])


def test_open_documents_count_as_far_as_they_came(gpt2):
    accumulator = GeometryAccumulator(gpt2, measures=PLAIN)
    batches = []

    class Keeper:
        sites = accumulator.sites

        def update(self, batch, activations):
            batches.append((batch, activations))

    tle.stream(gpt2, LONG, [Keeper()], window=12, batch_size=1, **BOS)
    for batch, activations in batches[:-1]:
        accumulator.update(batch, activations)
    result = accumulator.compute()
    assert (result.documents, result.tokens) == (1, sum(batch.n_rows for batch, _ in batches[:-1]))
    other = GeometryAccumulator(gpt2, measures=PLAIN, first_document=0)
    other.merge(accumulator)
    same(other.compute(), result, tolerance=1e-12)
    accumulator.update(*batches[-1])
    assert accumulator.compute().tokens == result.tokens + batches[-1][0].n_rows


def test_an_update_that_fails_has_changed_nothing(gpt2, corpus, monkeypatch):
    accumulator = GeometryAccumulator(gpt2)
    whole = layer_geometry(gpt2, corpus, batch_size=2, **BOS)
    update, failures = accumulator._sample.update, iter((True,))

    def sometimes(*args):
        if next(failures, False):
            raise torch.OutOfMemoryError("out of memory")
        update(*args)

    monkeypatch.setattr(accumulator._sample, "update", sometimes)
    tle.stream(gpt2, corpus, [accumulator], batch_size=2, **BOS)
    same(accumulator.compute(), whole)


def test_left_out_folds_are_every_twentieth_document():
    means = torch.randn(45, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    [value], error = dataset_entropies([means], 1.0, "centred", 0.0, Noted(SITES[:1]))
    fold = np.arange(45) % 20
    assert value.item() == pytest.approx(prompt_entropy(means).item())
    without = np.array([prompt_entropy(means[fold != left]).item() for left in range(20)])
    h = 45 / np.bincount(fold)
    pseudo = h * value.item() - (h - 1) * without
    assert error.item() == pytest.approx(((pseudo - (pseudo / h).sum()) ** 2 / (h - 1)).mean())


# --- what is not defined


def test_centred_rows_have_one_direction_less():
    x = 5 * torch.eye(8)[:6]  # orthogonal, and a simplex once centred
    for normalise, most in (("centred", math.log(5)), ("length", math.log(6)), (None, math.log(6))):
        gram = TextGram(normalise).extended(x)
        assert gram.most == pytest.approx(most)
        assert gram.entropy(1.0) / gram.most == pytest.approx(1)
    assert math.isnan(TextGram("centred").extended(x[:2]).most)
    assert TextGram("length").extended(x[:2]).most == pytest.approx(math.log(2))
    assert TextGram("centred").extended(torch.ones(20, 8)).most == pytest.approx(math.log(8))


def test_two_centred_states_have_no_share_of_their_maximum(gpt2, corpus):
    result = layer_geometry(gpt2, corpus, positions=slice(2), measures=("prompt_entropy", "normalized_prompt_entropy"), **BOS)
    assert result.value("prompt_entropy").tolist() == pytest.approx([0.0] * 4, abs=1e-9)
    assert result.value("normalized_prompt_entropy").isnan().all()
    assert result.notes == (
        "normalized_prompt_entropy: 4 of 4 documents have none (fewer than three tokens, or one state only)",
    )


@pytest.mark.parametrize(("normalise", "least"), [("centred", 3), ("length", 2), (None, 2)])
def test_few_documents_have_no_dataset_entropy_and_one_more_no_error(normalise, least):
    means = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noted = Noted(SITES[:1])
    assert dataset_entropies([means[: least - 1]], 1.0, normalise, 0.0, noted)[0].isnan().all()
    assert f"it needs at least {'three' if least == 3 else 'two'} documents" in noted.lines()[0]
    value, error = dataset_entropies([means[:least]], 1.0, normalise, 0.0, noted)
    assert value.item() > 0
    assert error.isnan().all()  # that of one document fewer is 0, whatever they are
    assert dataset_entropies([means[: least + 1]], 1.0, normalise, 0.0, noted)[1].item() > 0


def test_a_measure_that_fails_costs_no_other(gpt2, corpus, monkeypatch):
    whole = layer_geometry(gpt2, corpus, labels=LABELS, **BOS)

    def fails(*args, **options):
        raise torch.linalg.LinAlgError("did not converge")

    of_names = {"lidar": "lidar_scores", "effective_rank": "effective_rank_of_covariance", "anisotropy": None}
    for name, module_name in of_names.items():
        with monkeypatch.context() as patch:
            if module_name:
                patch.setattr(geometry_values, module_name, fails)
            else:
                patch.setattr(geometry, "anisotropies", fails)
            result = layer_geometry(gpt2, corpus, labels=LABELS, **BOS)
        assert f"{name} is nan: did not converge" in result.notes
        assert result.value(name).isnan().all()
        for other in {*MEASURES} - {name}:
            assert torch.equal(result.value(other), whole.value(other))


def test_notes_speak_of_the_measure_and_the_site(gpt2, corpus):
    def one_state(activation, hook):
        return torch.ones_like(activation)

    edits = {"interventions": [("blocks.1.hook_resid_post", one_state)]}
    result = layer_geometry(gpt2, corpus, labels=LABELS, **edits, **BOS)
    for name in ("effective_rank", "two_nn", "lidar", "dataset_entropy"):
        assert result.value(name).isnan().tolist() == [False, False, True, True], name
        assert any(
            note.startswith(f"{name} is nan: ") and note.endswith("(at resid_post.1, resid_post.2)") for note in result.notes
        )
    assert not any("x:" in note or "x must" in note for note in result.notes)


def test_rounding_is_no_variation(gpt2):
    texts = ["the " + "cat " * k for k in range(1, 30)]
    for batch_size in (1, 7):
        result = layer_geometry(
            gpt2, texts, positions=[0], measures=("dataset_entropy", "effective_rank", "two_nn"), batch_size=batch_size, **BOS
        )
        assert result.values.isnan().all()
    x = 1 + 1e-8 * torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for floor, is_nan in ((spread_floor(torch.float32), True), (spread_floor(torch.float64), False)):
        assert dataset_entropies([x], 1.0, "centred", floor, Noted(SITES[:1]))[0].isnan().all() == is_nan
    assert not Moments.of(x.float()).vary
    assert Moments.of(x).vary
    both = Moments.of(x)
    both.add(Moments.of(x.float()))
    assert not both.vary


# --- options that nothing uses


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"measures": "curvature", "order": 2.0}, "order belongs to prompt_entropy"),
        ({"measures": "two_nn", "normalise": None}, "normalise belongs to prompt_entropy"),
        ({"measures": ("prompt_entropy", "curvature"), "n_samples": 50}, "n_samples belongs to two_nn"),
    ],
)
def test_options_that_no_measure_uses_are_refused(gpt2, options, name):
    with pytest.raises(InputError, match=name):
        GeometryAccumulator(gpt2, **options)


def test_a_single_document_has_no_errors_and_no_dataset_entropy(gpt2, corpus):
    result = layer_geometry(gpt2, corpus[0], **BOS)
    assert bool(result.errors.isnan().all())
    assert bool(result.value("dataset_entropy").isnan().all())
    assert "dataset_entropy is nan: it needs at least three documents where they are centred" in result.notes
    for name in ("prompt_entropy", "effective_rank", "curvature", "anisotropy", "two_nn"):
        assert bool(result.value(name).isfinite().all())


def test_documents_that_are_too_short_are_left_out_of_means_and_noted(gpt2, corpus):
    texts = ["the", *corpus, "cat"]
    result = layer_geometry(gpt2, texts, measures=("prompt_entropy", "curvature"), **BOS)
    without = layer_geometry(gpt2, corpus, measures=("prompt_entropy", "curvature"), **BOS)
    torch.testing.assert_close(result.values, without.values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.errors, without.errors, rtol=1e-4, atol=1e-6)
    assert result.documents == 6
    assert result.document_values("curvature")[[0, 5]].isnan().all()
    assert result.notes == (
        "prompt_entropy: 2 of 6 documents have none (one token, or one state, only)",
        "curvature: 2 of 6 documents have none (fewer than two steps of some length)",
    )
    # Without centring one token has a Gram matrix: an entropy of 0, of at most 0.
    one = layer_geometry(gpt2, "the", measures=("prompt_entropy", "normalized_prompt_entropy"), normalise=None, **BOS)
    assert one.value("prompt_entropy").tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert one.value("normalized_prompt_entropy").isnan().all()


def test_one_token_in_all_leaves_notes_instead_of_numbers(gpt2):
    result = layer_geometry(gpt2, "the", **BOS)
    assert bool(result.values.isnan().all())
    noted = " ".join(result.notes)
    assert all(name in noted for name in PLAIN)


def test_equal_documents_have_equal_means(gpt2, corpus):
    result = layer_geometry(gpt2, [corpus[0]] * 3, measures=("dataset_entropy", "two_nn"), batch_size=1, **BOS)
    assert result.value("dataset_entropy").isnan().all()
    assert any(note.startswith("dataset_entropy is nan: the mean states of all 3 documents are equal") for note in result.notes)
    assert any("sampled states repeat others" in note for note in result.notes)


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_documents_without_a_counted_token_are_no_documents(gpt2, corpus):
    result = layer_geometry(gpt2, ["the", *corpus], labels=["animals", *LABELS], positions=slice(1, None), **BOS)
    assert result.document.tolist() == [1, 2, 3, 4]
    assert result.value("lidar").isfinite().all()
    alone = layer_geometry(
        gpt2, ["the", *corpus[:3]], labels=["code", "animals", "animals", "code"], measures=("lidar", "info_nce"),
        positions=slice(1, None), **BOS,
    )  # fmt: skip
    assert alone.values.isnan().all()
    assert alone.notes == tuple(
        note
        for name in ("lidar", "info_nce")
        for note in (
            f"{name}: without 1 document whose label no second one has",
            f"{name} is nan: it needs at least two labels with two documents each",
        )
    )


# --- the sample, generated text


def test_the_sample_is_the_same_for_any_batch_size_and_another_for_another_seed(gpt2, corpus):
    options = {"measures": "two_nn", "n_samples": 20, "sites": "resid_post", "layers": [2], **BOS}
    values = [layer_geometry(gpt2, corpus, seed=seed, **options).values.item() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_sampled_text_follows_the_seed(gpt2):
    options = {"measures": "curvature", "max_new_tokens": 12, "temperature": 1.5, **BOS}
    a, b, c = (layer_geometry(gpt2, "the cat sat on", seed=seed, **options) for seed in (5, 5, 6))
    assert a.tokens == b.tokens
    assert torch.equal(a.values, b.values)
    assert not torch.equal(a.values, c.values)
    assert a.provenance.settings["seed"] == 5


def test_settings_are_in_the_provenance(gpt2, corpus):
    result = layer_geometry(gpt2, corpus, positions=slice(0, 6), n_samples=10, seed=4, order=2, **BOS)
    settings = result.provenance.settings
    assert (settings["measures"], settings["order"], settings["normalise"]) == (PLAIN, 2.0, "centred")
    assert (settings["n_samples"], settings["sample_seed"]) == (10, 4)
    assert settings["sites"] == tuple(map(str, SITES))
    assert result.provenance.corpus["documents"] == 4
    assert result.tokens == 24


# --- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measures": "entropy"}, InputError, "measures must be one of 'prompt_entropy'"),
        ({"measures": ()}, InputError, "measures must hold at least one"),
        ({"measures": ("two_nn", "two_nn")}, InputError, "each once"),
        ({"measures": 3}, InputTypeError, "measures must be one or several"),
        ({"measures": "lidar"}, InputError, "lidar compares documents with the same label; give labels"),
        ({"measures": "curvature", "labels": LABELS}, InputError, "labels are for lidar and info_nce alone"),
        ({"labels": "abab"}, InputTypeError, "labels must be a sequence"),
        ({"labels": ["a", "a", "b"]}, InputError, "'b' is that of one document only"),
        ({"labels": ["a", "a", "b", "b"][:3] + ["b"] * 4}, InputError, "one for each of the 4 documents; got 7"),
        ({"labels": ["a", "a"]}, InputError, "one for each document; got 2, and none for document"),
        ({"order": -1}, InputError, "order must be"),
        ({"order": "1"}, InputTypeError, "order must be"),
        ({"normalise": "unit"}, InputError, "normalise must be one of"),
        ({"n_samples": 2}, InputError, "n_samples must be an int of at least 3"),
        ({"seed": -1}, InputError, "seed must be"),
        ({"sites": "z"}, InputError, r"sites: z\.0 has a head axis"),
        ({"positio": 1}, InputTypeError, "'positio' is not an option"),
    ],
)
def test_what_is_refused(gpt2, corpus, options, error, message):
    with pytest.raises(error, match=message):
        layer_geometry(gpt2, corpus, **options, **BOS)


def test_a_wrong_number_of_labels_costs_no_result(gpt2, corpus):
    with pytest.raises(InputError, match="got 6") as caught:
        layer_geometry(gpt2, corpus, labels=["a", "b", "a", "b", "a", "b"], **BOS)
    assert caught.value.partial.documents == 4


def test_only_equal_settings_merge(gpt2):
    mine = GeometryAccumulator(gpt2)
    with pytest.raises(InputError, match="cannot merge: model is"):
        mine.merge(GeometryAccumulator(tle.demo_model()))
    for name, options in (
        ("sites", {"sites": "embed"}),
        ("measures", {"measures": "two_nn"}),
        ("order", {"order": 2}),
        ("normalise", {"normalise": None}),
        ("n_samples", {"n_samples": 5}),
        ("seed", {"seed": 1}),
    ):
        with pytest.raises(InputError, match=f"cannot merge: {name}"):
            mine.merge(GeometryAccumulator(gpt2, **options))


def test_the_bundled_model_on_real_text():
    model = tle.demo_model()
    texts = [text[:300] for text in tle.demo_texts(4)]
    result = layer_geometry(model, texts, **QUIET)
    assert result.measures == PLAIN
    assert bool(result.values.isfinite().all())
    n = len(result.sites)
    for low, high, name in (
        (0, math.log(128), "prompt_entropy"), (0, 1, "normalized_prompt_entropy"), (0, math.log(4), "dataset_entropy"),
        (0, math.pi, "curvature"), (-1, 1, "anisotropy"),
    ):  # fmt: skip
        value = result.value(name)
        assert value.shape == (n,)
        assert low <= float(value.min()) <= float(value.max()) <= high
    assert str(result.sites[0]) == "embed"
    assert all(a.depth < b.depth for a, b in itertools.pairwise(result.sites))


def test_no_part_of_documents_takes_no_states(gpt2, corpus):
    texts = Texts((), SITES, order=1.0, normalise=None)

    class Probe:
        sites = SITES

        def update(self, batch, activations):
            found = texts.read(batch, {})  # no activations are looked at
            texts.add(found)

    tle.stream(gpt2, corpus, [Probe()], **BOS)
    assert texts.known()[0] == []
