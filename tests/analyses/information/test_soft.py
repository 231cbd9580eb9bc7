"""Soft information against the function on states gathered by hand, and every way of cutting up the same input."""

from __future__ import annotations

import os
import signal
from functools import cache

import numpy as np
import pytest
import torch
from crossings import padded, token_rows
from letters import Shuffled
from tiny_models import VOCAB, cached_model, make_model

import tl_entropy as tle
from tl_entropy.analyses.information import places as soft_places, seen as soft_seen, soft, sums as soft_sums
from tl_entropy.batches import Window, batches
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError
from tl_entropy.functional.information import chance
from tl_entropy.functional.information.mutual import soft_mutual_information
from tl_entropy.labels import DocumentTokens, LabelPlan
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

QUIET = {"progress": False}
SMALL = {"n_bins": 20, **QUIET}
STORED = ("entropy", "plug_in", "null", "ceiling")
VALUES = ("information", "entropy", "plug_in", "null", "ceiling", "corrected_ceiling", "lower", "fold_jackknife")
WORDS = "the cat sat on mat and dog return x".split()
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 7 + 2 * (i % 5))) for i in range(9)]
EMBED, POST, Z = Site("embed", -1), Site("resid_post", 1), Site("z", 1)


@cache
def double_model():
    return make_model("gpt2", "bridge", dtype=torch.float64)


class Rows:
    """Every counted row, as it comes."""

    def __init__(self, *sites):
        self.sites = sites
        self.document, self.position, self.states = [], [], {site: [] for site in sites}

    def update(self, batch, activations):
        self.document += batch.row_document.tolist()
        self.position += batch.row_position.tolist()
        for site in self.sites:
            self.states[site].append(batch.rows(activations[site]))


def gathered(model, inputs, *sites, **options):
    """Rows of one document at a time, without padding: (documents, positions, site to states)."""
    rows = Rows(*sites)
    tle.stream(model, inputs, [rows], batch_size=1, **QUIET, **options)
    return rows.document, rows.position, {site: torch.cat(parts) for site, parts in rows.states.items()}


def grams(model, texts, documents, positions, n, *, ahead=False):
    """The n tokens up to each row or after it as dense numbers; -1 where the document has not so many."""
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = []
    for d, p in zip(documents, positions, strict=True):
        low = p + 1 if ahead else p - n + 1
        gram = tuple(ids[d][max(low, 0) : low + n])
        found.append(gram if len(gram) == n and low >= 0 else None)
    number = {gram: i for i, gram in enumerate(dict.fromkeys(g for g in found if g is not None))}
    return torch.tensor([-1 if gram is None else number[gram] for gram in found])


def assert_same(mine, theirs, tolerance, *, of=VALUES):
    behind = 1 + len(theirs.fold_tokens)
    for name in of:
        one, other = getattr(mine, name), getattr(theirs, name)
        exact = {"rtol": 0, "equal_nan": True}
        if one.dim() == 4:  # behind the value and those of folds stand draws of anchors, in single precision
            torch.testing.assert_close(one[behind:], other[behind:], atol=5 * tolerance, **exact)
            one, other = one[:behind], other[:behind]
        torch.testing.assert_close(one, other, atol=tolerance, **exact)
    for name in ("sites", "heads", "labels", "sides", "n_bins", "seeds", "documents", "dropped"):
        assert getattr(mine, name) == getattr(theirs, name), name
    for name in ("tokens", "classes", "singletons", "coverage", "fold_tokens", "in_two_folds"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def assert_is(result, place, label, expected, tolerance=1e-6, *, chance=3e-6, folded=False):
    """One value of a result is what the function gives; where that has the documents, what is cross-fitted, too."""
    for name in ("entropy", "plug_in", "ceiling"):
        mine = getattr(result, name)[0, place, label, 0]
        torch.testing.assert_close(mine, getattr(expected, name).double(), atol=tolerance, rtol=0, msg=lambda m, n=name: n + m)
    assert result.null[0, place, label, 0].item() == pytest.approx(expected.null, rel=chance)
    adjusted = result.value("chance_adjusted")[place, label, 0].item()
    assert adjusted == pytest.approx(expected.chance_adjusted.item(), rel=10 * chance, abs=10 * tolerance, nan_ok=True)
    if folded:
        for name in ("information", "corrected_ceiling", "lower", "fold_jackknife"):
            mine = result.value(name)[place, label, 0].item()
            near = pytest.approx(float(getattr(expected, name)), rel=10 * chance, abs=10 * tolerance, nan_ok=True)
            assert mine == near, name
        assert result.in_two_folds[label].item() == pytest.approx(expected.in_two_folds)
    assert result.tokens[label] == expected.rows
    assert result.classes[label] == len(expected.labels)
    assert result.singletons[label] == pytest.approx(expected.singletons)


def test_it_is_the_function_on_states_and_ngrams_gathered_by_hand(any_model):
    # With fewer positions than the sample holds, chance is measured on all rows, in the same random order by both.
    result = tle.soft_information(any_model, TEXTS, layers=[1], heads="z", prepend_bos=True, batch_size=4, **QUIET)
    documents, positions, states = gathered(any_model, TEXTS, EMBED, POST, Z, prepend_bos=True)
    labels = [grams(any_model, TEXTS, documents, positions, 1), grams(any_model, TEXTS, documents, positions, 1, ahead=True)]
    kept = (labels[0] >= 0) & (labels[1] >= 0)
    where = torch.tensor(documents)[kept]
    assert result.labels == ("token", "next_token")
    for place in (0, result.sites.index(POST), result.sites.index(Z) + 2):
        z = states[result.sites[place]][kept]
        z = z[:, result.heads[place]] if result.heads[place] >= 0 else z
        for label in range(2):
            expected = soft_mutual_information(z, labels[label][kept], documents=where)
            assert_is(result, place, label, expected, folded=True)
            errors = [expected.plug_in_se, expected.se, expected.anchors_se]
            of = [("plug_in", "documents"), ("information", "documents"), ("information", "anchors")]
            found = [result.error(name, part=part)[place, label, 0].item() for name, part in of]
            assert found[:2] == pytest.approx(errors[:2], rel=1e-4, nan_ok=True)
            assert found[2] == pytest.approx(errors[2], rel=1e-3, nan_ok=True)  # in single precision
            assert result.temperatures[place, 0].item() == expected.temperature
            assert result.coverage[label].item() == pytest.approx(kept.double().mean().item())


def test_heads_in_d_model_are_z_times_their_part_of_w_o(any_model):
    if any_model.cfg.model_name.endswith("gemma2"):
        for heads in (True, "result"):
            with pytest.raises(ModelError, match="heads of this model are not contributions"):
                tle.soft_information(any_model, TEXTS[:2], heads=heads, **QUIET)
        assert tle.soft_information(any_model, TEXTS[:2], heads="z", **QUIET).heads.count(3) == 3
        return
    result = tle.soft_information(any_model, TEXTS, sites="embed", layers=[1], heads="result", prepend_bos=True, **QUIET)
    assert [str(s) for s in result.sites] == ["embed"] + ["result.1"] * 4
    assert result.heads == (-1, 0, 1, 2, 3)
    documents, positions, states = gathered(any_model, TEXTS, Z, prepend_bos=True)
    label = grams(any_model, TEXTS, documents, positions, 1)
    kept = grams(any_model, TEXTS, documents, positions, 1, ahead=True) >= 0
    written = torch.einsum("rhd,hdm->rhm", states[Z].float(), tle.Adapter(any_model).head_weights(1))
    assert written.shape[-1] == 32
    for head in (0, 3):
        assert_is(result, 1 + head, 0, soft_mutual_information(written[kept, head], label[kept]), 2e-6, chance=1e-5)


def test_longer_ngrams_own_positions_and_a_chance_sample_of_another_order(gpt2, many_draws):
    labels = (tle.ngram(4), "bigram", "next_trigram", "position")
    result = tle.soft_information(gpt2, TEXTS, labels=labels, valid="own", sites="resid_post", layers=[1], **QUIET)
    assert result.labels == ("4-gram", "bigram", "next_trigram", "position")
    assert result.sides == ("input", "input", "output", "other")
    documents, positions, states = gathered(gpt2, TEXTS, POST)
    expected = [
        grams(gpt2, TEXTS, documents, positions, 4), grams(gpt2, TEXTS, documents, positions, 2),
        grams(gpt2, TEXTS, documents, positions, 3, ahead=True), torch.tensor(positions),
    ]  # fmt: skip
    for j, label in enumerate(expected):
        # One sample of all rows serves every label set here, those with the label alone do in the function.
        assert_is(result, 0, j, soft_mutual_information(states[POST], label), chance=2e-2 if bool((label < 0).any()) else 1e-6)
    common = tle.soft_information(gpt2, TEXTS, labels=labels, sites="resid_post", layers=[1], **QUIET)
    kept = torch.stack([label >= 0 for label in expected]).all(0)
    assert common.tokens.tolist() == [int(kept.sum())] * 4
    assert_is(common, 0, 1, soft_mutual_information(states[POST][kept], expected[1][kept]))
    assert result.provenance.settings["valid"] == "own"


def test_sites_layers_and_heads(gpt2):
    def places(**options):
        result = tle.soft_information(gpt2, TEXTS[:3], **options, **SMALL)
        return [f"{site}:{head}" if head >= 0 else str(site) for site, head in zip(result.sites, result.heads, strict=True)]

    assert places() == ["embed", "resid_post.0", "resid_post.1", "resid_post.2"]
    assert places(layers=[-1, 0]) == ["embed", "resid_post.0", "resid_post.2"]
    assert places(sites="mlp_out", layers=[1]) == ["mlp_out.1"]
    assert places(sites=["embed", Site("attn_out", 1)]) == ["embed", "attn_out.1"]
    heads = [f"{site}.1:{head}" for site in ("z", "result") for head in range(4)]
    assert places(layers=[1], heads=True) == ["embed", *heads, "resid_post.1"]
    assert places(sites=("z", "z"), layers=[1], heads="z") == heads[:4]
    both = tle.soft_information(gpt2, TEXTS, layers=[1], heads=True, **SMALL)
    alone = tle.soft_information(gpt2, TEXTS, layers=[1], heads="z", **SMALL)
    assert_same(both.select(sites="z"), alone.select(sites="z"), 0)


@pytest.mark.long
def test_several_draws_at_once_are_each_alone(gpt2):
    several = tle.soft_information(
        gpt2, TEXTS, n_bins=(60, 10), seed=range(3, 5), layers=[1], heads="z", keep_labels=True, **QUIET
    )
    assert several.n_bins == (60, 60, 10, 10)
    assert several.seeds == (3, 4, 3, 4)
    for bins, seed in zip(several.n_bins, several.seeds, strict=True):
        alone = tle.soft_information(gpt2, TEXTS, n_bins=bins, seed=seed, layers=[1], heads="z", keep_labels=True, **QUIET)
        mine = several.select(n_bins=bins, seeds=seed)
        # Scores of more anchors come from a larger product, which may round its last digit otherwise.
        assert_same(mine, alone, 1e-6)
        assert torch.equal(mine.temperatures, alone.temperatures)
        torch.testing.assert_close(mine.label_information, alone.label_information, atol=1e-6, rtol=0, equal_nan=True)
    first, second = (several.select(seeds=seed, n_bins=60).entropy for seed in (3, 4))
    assert float((first - second).abs().max()) > 1e-3
    assert several.provenance.settings["n_bins"] == (60, 10)
    assert several.provenance.settings["seed"] == (3, 4)


def test_the_leading_order_is_another_temperature(gpt2):
    exact, leading = (
        tle.soft_information(gpt2, TEXTS, sites="embed", calibration=c, **QUIET) for c in ("exact", "leading_order")
    )
    assert leading.temperatures.item() == pytest.approx((2 * 32 * np.log(100)) ** -0.5)
    assert leading.temperatures.item() > exact.temperatures.item()
    assert leading.entropy.mean() > exact.entropy.mean()


@pytest.mark.thinned
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_any_batch_size_gives_the_same(gpt2, batch_size):
    options = {"layers": [1], "heads": True, **SMALL}
    expected = tle.soft_information(gpt2, TEXTS, **options)
    assert_same(tle.soft_information(gpt2, TEXTS, batch_size=batch_size, **options), expected, 1e-6)


def test_double_precision_agrees_to_ten_digits():
    model = double_model()
    options = {"layers": [1], "heads": True, "keep_labels": True, **SMALL}
    expected = tle.soft_information(model, TEXTS, **options)
    for batch_size in (1, 4):
        result = tle.soft_information(model, TEXTS, batch_size=batch_size, **options)
        assert_same(result, expected, 1e-10)
        torch.testing.assert_close(result.label_information, expected.label_information, atol=1e-10, rtol=0, equal_nan=True)
    documents, positions, states = gathered(model, TEXTS, POST)
    label = grams(model, TEXTS, documents, positions, 1)
    kept = grams(model, TEXTS, documents, positions, 1, ahead=True) >= 0
    place = expected.sites.index(POST)
    assert_is(expected, place, 0, soft_mutual_information(states[POST][kept], label[kept], n_bins=20), 1e-10, chance=1e-9)


def test_a_cache_whose_tensors_want_gradients_leaves_none_in_the_sums(gpt2):
    tokens, mask = padded(token_rows(gpt2, TEXTS), left=True)
    expected = tle.soft_information(gpt2, TEXTS, heads="z", layers=[1], **SMALL)
    _, kept = gpt2.run_with_cache(tokens, attention_mask=mask)
    for activation in kept.cache_dict.values():  # as some TransformerLens leave them
        activation.requires_grad_(activation.is_floating_point())
    accumulator = tle.SoftAccumulator(gpt2, tle.label_plan(gpt2, (tokens, mask)), heads="z", layers=[1], n_bins=20)
    tle.stream(gpt2, (kept, tokens, mask), [accumulator], **QUIET)
    assert_same(accumulator.compute(), expected, 1e-6)
    assert not any(tensor.requires_grad for tensor in tensors(accumulator))


@pytest.mark.thinned
@pytest.mark.parametrize("stride", [None, 5])
def test_windows_count_every_token_once_and_labels_cross_their_borders(gpt2, stride):
    long = [" ".join(TEXTS), " ".join(TEXTS[::-1])]
    options = {"window": 16, "stride": stride}
    result = tle.soft_information(gpt2, long, labels=("bigram", "next_bigram"), **options, **QUIET)
    documents, positions, states = gathered(gpt2, long, POST, **options)
    label = grams(gpt2, long, documents, positions, 2)
    kept = (label >= 0) & (grams(gpt2, long, documents, positions, 2, ahead=True) >= 0)
    assert int(kept.sum()) == len(positions) - 2 * 3, "one position at the beginning and two at the end of a document"
    expected = soft_mutual_information(states[POST][kept], label[kept], documents=torch.tensor(documents)[kept])
    assert_is(result, result.sites.index(POST), 0, expected, folded=True)
    assert_same(tle.soft_information(gpt2, long, labels=result.labels, batch_size=2, **options, **QUIET), result, 1e-6)
    assert result.provenance.settings["window"] == 16
    assert result.provenance.corpus["cut"] == 2


def test_generators_are_kept_and_positions_choose(gpt2):
    expected = tle.soft_information(gpt2, TEXTS, positions=slice(2, 6), **QUIET)
    assert_same(tle.soft_information(gpt2, iter(TEXTS), positions=slice(2, 6), **QUIET), expected, 1e-6)
    documents, positions, states = gathered(gpt2, TEXTS, POST)
    label = grams(gpt2, TEXTS, documents, positions, 1)
    kept = torch.tensor([2 <= p < 6 for p in positions])
    kept &= grams(gpt2, TEXTS, documents, positions, 1, ahead=True) >= 0
    assert_is(expected, 2, 0, soft_mutual_information(states[POST][kept], label[kept]))
    last = tle.soft_information(gpt2, TEXTS, labels="token", positions=-1, **QUIET)
    assert last.tokens.tolist() == [len(TEXTS)]
    assert last.provenance.settings["positions"] == "-1"


def test_empty_documents_keep_their_numbers(gpt2):
    texts = ["", TEXTS[0], "", TEXTS[1], TEXTS[2], ""]
    language = ["none", "one", "none", "two", "one", "none"]
    with pytest.warns(UserWarning, match="3 empty documents"):
        result = tle.soft_information(gpt2, texts, labels={"language": language}, keep_labels=True, **QUIET)
    assert result.label_texts == (("one", "two"),)
    filled = tle.soft_information(gpt2, TEXTS[:3], labels={"language": ["one", "two", "one"]}, **QUIET)
    torch.testing.assert_close(result.plug_in[0], filled.plug_in[0], atol=1e-6, rtol=0)


def test_labels_of_documents_of_positions_and_functions(gpt2, many_draws):
    kinds = ["a", "b", None] * 3
    documents, positions, states = gathered(gpt2, TEXTS, POST)
    parity = [p % 2 for p in positions]
    labels = {"kind": kinds, "parity": lambda tokens: torch.arange(len(tokens)) % 2, "flat": parity, "now": "token"}
    result = tle.soft_information(gpt2, TEXTS, labels=labels, valid="own", sites="resid_post", layers=[1], **QUIET)
    assert result.labels == tuple(labels)
    assert result.sides == ("other", "other", "other", "input")
    of_document = torch.tensor([{"a": 0, "b": 1, None: -1}[kinds[d]] for d in documents])
    assert_is(result, 0, 0, soft_mutual_information(states[POST], of_document), chance=2e-2)
    for j in (1, 2):
        assert_is(result, 0, j, soft_mutual_information(states[POST], parity))
    assert_is(result, 0, 3, soft_mutual_information(states[POST], grams(gpt2, TEXTS, documents, positions, 1)))


def test_one_plan_serves_models_that_share_a_tokenizer(gpt2):
    other = cached_model("llama", "bridge")
    plan = tle.label_plan(gpt2, TEXTS, labels=("bigram", "next_token"))
    for model in (gpt2, other):
        expected = tle.soft_information(model, TEXTS, labels=("bigram", "next_token"), **SMALL)
        assert_same(tle.soft_information(model, TEXTS, labels=plan, **SMALL), expected, 0)
    assert_same(tle.soft_information(gpt2, (text for text in TEXTS), labels=plan, batch_size=1, **SMALL), expected, 1, of=())


def test_inputs_that_change_between_readings_are_refused(gpt2):
    ids = torch.randint(1, VOCAB, (4, 9), generator=torch.Generator().manual_seed(0))
    for again in (ids.flip(0), ids[:3], torch.cat([ids, ids[:1]])):
        with pytest.raises(InputError, match=r"inputs changed between two readings: .*pass a list"):
            tle.soft_information(gpt2, Shuffled(ids, again), **SMALL)
        plan = tle.label_plan(gpt2, ids)
        with pytest.raises(InputError, match=r"inputs changed between two readings|in the same order|make the plan from"):
            tle.soft_information(gpt2, Shuffled(ids, again), labels=plan, center=True, **SMALL)
    assert_same(
        tle.soft_information(gpt2, Shuffled(ids, ids, ids), center=True, **SMALL),
        tle.soft_information(gpt2, ids, center=True, **SMALL), 0,
    )  # fmt: skip


def test_a_plan_holds_for_what_is_not_counted_too(gpt2):
    """The tokens counted are the same, but those before them, which their bigrams need, are not."""
    one, other = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.tensor([[6, 5, 7], [9, 8, 10]])
    plan = tle.label_plan(gpt2, one, positions=-1, labels="token")
    with pytest.raises(InputError, match=r"other tokens than those that are read, of document 0; .*in the same order"):
        tle.soft_information(gpt2, other, positions=-1, labels=plan, **QUIET)


def test_a_plan_of_texts_serves_their_tokens(gpt2):
    tokens = [torch.tensor([0, *gpt2.tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in TEXTS]
    rendered = ["<|endoftext|>" + text for text in TEXTS]
    plan = tle.label_plan(gpt2, TEXTS)
    expected = tle.soft_information(gpt2, TEXTS, labels=plan, **SMALL)
    for inputs in (tokens, rendered):
        assert_same(tle.soft_information(gpt2, inputs, labels=plan, **SMALL), expected, 0)
        assert_same(tle.soft_information(gpt2, inputs, **SMALL), expected, 0)


def test_a_plan_of_other_inputs_is_refused(gpt2):
    plan = tle.label_plan(gpt2, TEXTS)
    for inputs in (TEXTS[::-1], TEXTS[1:], [*TEXTS, TEXTS[0]], [text + " cat" for text in TEXTS]):
        with pytest.raises(InputError, match=r"make it from the same inputs|make the plan from the inputs"):
            tle.soft_information(gpt2, inputs, labels=plan, **QUIET)
    chosen = tle.soft_information(gpt2, TEXTS, labels=plan, positions=slice(0, 3), **QUIET)
    assert chosen.coverage.tolist() == [1.0, 1.0], "of the positions read, not of those in the plan"
    assert chosen.tokens.tolist() == [3 * len(TEXTS)] * 2


def test_centred_states(gpt2):
    result = tle.soft_information(gpt2, TEXTS, layers=[1], heads=True, center=True, **SMALL)
    documents, positions, states = gathered(gpt2, TEXTS, EMBED, POST, Z)
    label = grams(gpt2, TEXTS, documents, positions, 1)
    kept = grams(gpt2, TEXTS, documents, positions, 1, ahead=True) >= 0
    written = torch.einsum("rhd,hdm->rhm", states[Z], tle.Adapter(gpt2).head_weights(1))
    for place, z in ((0, states[EMBED]), (2, states[Z][:, 1]), (6, written[:, 1]), (9, states[POST])):
        expected = soft_mutual_information(z[kept], label[kept], center=True, n_bins=20)
        assert_is(result, place, 0, expected, 5e-6, chance=1e-5)
    assert result.provenance.settings["centered"] is True
    means = {site: rows[kept].mean(0) for site, rows in states.items()}
    given = tle.soft_information(gpt2, TEXTS, layers=[1], heads=True, center=means, **SMALL)
    assert_same(given, result, 5e-6)
    texts = tle.soft_information(gpt2, TEXTS, layers=[1], heads=True, center={str(s): m for s, m in means.items()}, **SMALL)
    assert_same(texts, given, 0)
    plain = tle.soft_information(gpt2, TEXTS, layers=[1], heads=True, **SMALL)
    assert plain.provenance.settings["centered"] is False
    assert float((plain.entropy - result.entropy).abs().max()) > 0.1


def test_centers_that_do_not_fit(gpt2):
    for center, error, message in (
        ({EMBED: torch.zeros(32)}, InputError, "it lacks resid_post.1"),
        ({EMBED: torch.zeros(32), POST: torch.zeros(1)}, InputError, r"mean of resid_post.1 must have shape \[32\]; got \[1\]"),
        (
            {"embed": torch.zeros(32), "blocks.0.hook_resid_post": torch.zeros(32)},
            InputError,
            r"it lacks resid_post.1: give it keys such as Site\(name='resid_post', layer=1\) or 'resid_post.1'; got 'embed', "
            "'blocks.0.hook_resid_post'$",
        ),
        ({}, InputError, "it lacks embed, resid_post.1: .* got none"),
        (torch.zeros(32), InputTypeError, "center must be True, False or a mapping from Site to tensor; got Tensor"),
        ({EMBED: [0.0]}, InputTypeError, "center must be True, False or a mapping from Site to tensor; got list for embed"),
    ):
        with pytest.raises(error, match=message):
            tle.soft_information(gpt2, TEXTS, layers=[1], center=center, **QUIET)


def test_interrupted_means_give_no_result(gpt2, monkeypatch):
    plain, calls = tle.Adapter.activations, []

    def impatient(self, tokens, mask, sites):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, tokens, mask, sites)

    monkeypatch.setattr(tle.Adapter, "activations", impatient)
    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        tle.soft_information(gpt2, TEXTS, center=True, batch_size=1, **QUIET)
    assert len(calls) == 3


def made_up(n_documents, length, *, seed=0, width=32, vocabulary=20, dtype=torch.float64):
    """A plan, windows, and states [document, pos, d] of random documents."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary, (n_documents, length), generator=draw)
    states = torch.randn(n_documents, length, width, generator=draw, dtype=torch.float64)
    states += 2 * torch.randn(vocabulary, width, generator=draw, dtype=torch.float64)[tokens]
    nothing = torch.tensor([-1])
    whole = [DocumentTokens(s := torch.cat([nothing, row]), s >= 0, s >= 0) for row in tokens]
    plan = LabelPlan.from_documents(whole, ("token", "next_token"), valid="own")
    every, position = torch.ones(length, dtype=torch.bool), torch.arange(length)
    windows = [Window(row, every, position, row.roll(-1), d, None, True, None, row) for d, row in enumerate(tokens)]
    return plan, windows, states.to(dtype)


def tensors(accumulator):
    """All that was seen."""
    return [accumulator._seen, *(one for sums in accumulator._sites.values() for one in [*sums.kept, *sums.mass])]


def feed(accumulator, windows, states, batch_size):
    for batch in batches(windows, batch_size=batch_size, max_tokens=1):
        accumulator.update(batch, {POST: states[batch.document]})


@pytest.mark.long
def test_a_thousand_batches_in_any_order_and_chunks_give_the_same(gpt2):
    plan, windows, states = made_up(1100, 4)  # more positions than the chance sample takes

    def measured(order, batch_size):
        accumulator = tle.SoftAccumulator(gpt2, plan, sites=[POST], n_bins=(12, 5), keep_labels=True)
        feed(accumulator, [windows[i] for i in order], states, batch_size)
        return accumulator.compute()

    expected = measured(range(1100), 1100)
    z, token = states.flatten(0, 1), torch.stack([w.tokens for w in windows]).flatten()
    by_hand = soft_mutual_information(z, token, documents=torch.arange(1100).repeat_interleave(4), n_bins=12)
    assert_is(expected, 0, 0, by_hand, 1e-10, chance=1e-10, folded=True)
    shuffled = np.random.default_rng(0).permutation(1100).tolist()
    for order, batch_size in ((shuffled, 1), (shuffled, 7), (range(1099, -1, -1), 333)):
        result = measured(order, batch_size)
        assert_same(result, expected, 1e-10)
        torch.testing.assert_close(result.label_information, expected.label_information, atol=1e-10, rtol=0)


def test_shards_merge_to_the_whole_in_any_order_with_empty_ones(gpt2):
    plan, windows, states = made_up(60, 6)
    settings = {"sites": [POST], "n_bins": 15, "seed": (0, 2), "keep_labels": True, "folds": 7}
    whole = tle.SoftAccumulator(gpt2, plan, **settings)
    feed(whole, windows, states, 9)
    expected = whole.compute()
    bounds = [0, 13, 13, 14, 41, 60]
    for order in ((0, 1, 2, 3, 4), (4, 2, 3, 1, 0)):
        joined = tle.SoftAccumulator(gpt2, plan, **settings)
        with pytest.raises(InputError, match="nothing to compute"):
            joined.compute()
        for i in order:
            low, high = bounds[i : i + 2]
            shard = tle.SoftAccumulator(gpt2, plan, **settings, first_document=low)
            own = [
                Window(w.tokens, w.counted, w.position, w.target, d, None, True, None, w.body)
                for d, w in enumerate(windows[low:high])
            ]
            feed(shard, own, states[low:high], 4)
            before = shard.compute() if own else None
            joined.merge(shard)
            if own:
                assert_same(shard.compute(), before, 0)  # what was merged is as it was
        result = joined.compute()
        assert_same(result, expected, 1e-10)
        torch.testing.assert_close(result.label_information, expected.label_information, atol=1e-10, rtol=0, equal_nan=True)


def test_shards_of_a_model_merge(gpt2):
    plan = tle.label_plan(gpt2, TEXTS)
    joined = tle.SoftAccumulator(gpt2, plan, layers=[1], heads=True, n_bins=20)
    for first in (6, 0, 3):
        shard = tle.SoftAccumulator(gpt2, plan, layers=[1], heads=True, first_document=first, n_bins=20)
        tle.stream(gpt2, TEXTS[first : first + 3], [shard], **QUIET)
        joined.merge(shard)
    assert_same(joined.compute(), tle.soft_information(gpt2, TEXTS, layers=[1], heads=True, **SMALL), 1e-6)
    again = tle.SoftAccumulator(gpt2, tle.label_plan(gpt2, TEXTS), layers=[1], heads=True, first_document=3, n_bins=20)
    tle.stream(gpt2, TEXTS[3:4], [again], **QUIET)
    with pytest.raises(InputError, match="both parts have seen the same positions"):
        joined.merge(again)
    with pytest.raises(InputError, match="these positions were counted before"):
        tle.stream(gpt2, TEXTS[3:4], [again], **QUIET)


def test_sums_that_do_not_merge(gpt2):
    plan = tle.label_plan(gpt2, TEXTS)
    base = {"sites": "resid_post", "layers": [1]}
    zero = {POST: torch.zeros(32)}
    for changed, message in (
        ({"seed": 1}, "draws"), ({"n_bins": (100, 50)}, "draws"), ({"sites": "embed"}, "measured"), ({"folds": 3}, "folds"),
        ({"invalid": "drop"}, "invalid"), ({"calibration": "leading_order"}, "calibration"), ({"centers": zero}, "centers"),
    ):  # fmt: skip
        one, other = tle.SoftAccumulator(gpt2, plan, **base), tle.SoftAccumulator(gpt2, plan, **{**base, **changed})
        with pytest.raises(InputError, match=f"cannot merge: {message}"):
            one.merge(other)
    for plans in (
        tle.label_plan(gpt2, TEXTS, labels=("token", "next_bigram")), tle.label_plan(gpt2, TEXTS[:4]),
        tle.label_plan(gpt2, TEXTS, labels={"a": "token", "b": "next_token"}), tle.label_plan(gpt2, TEXTS, positions=slice(3)),
    ):  # fmt: skip
        with pytest.raises(InputError, match="cannot merge: the label plans differ"):
            tle.SoftAccumulator(gpt2, plan, **base).merge(tle.SoftAccumulator(gpt2, plans, **base))
    first, second = (tle.SoftAccumulator(gpt2, plan, **base, centers={POST: torch.full((32,), x)}) for x in (0.0, 1.0))
    with pytest.raises(InputError, match="cannot merge: centers differ"):
        first.merge(second)


@pytest.fixture
def many_draws(monkeypatch):
    """Chance is measured on eight times as many rows, so that two orders of a sample say the same to two parts in a hundred."""
    monkeypatch.setattr(chance, "ROWS", 8192)


@pytest.fixture
def added_up(monkeypatch):
    """A sample of eight, and all other positions added up, few as they are."""
    monkeypatch.setattr(soft_seen, "SAMPLE", 8)
    plain = soft_sums.Layout.of
    monkeypatch.setattr(soft_sums.Layout, "of", lambda tables, sample, cost: plain(tables, sample, 1))


def fails_on_call(monkeypatch, owner, name, number):
    """``owner.name`` raises for lack of memory when it is called for the ``number``-th time."""
    plain, calls = getattr(owner, name), []

    def scarce(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, scarce)


SCARCE = [
    (soft_places.Place, "assign", 3), (soft_places.Place, "lengths", 2), (soft_sums.torch, "empty", 1),
    (soft_sums.torch, "stack", 2),
]  # fmt: skip


@pytest.mark.thinned
@pytest.mark.parametrize(("owner", "name", "number"), SCARCE)
def test_an_update_that_fails_changes_nothing(gpt2, added_up, monkeypatch, owner, name, number):
    plan = tle.label_plan(gpt2, TEXTS, labels=("bigram", "next_token"), valid="own")
    accumulator = tle.SoftAccumulator(gpt2, plan, layers=[1], heads="z", n_bins=20)
    tle.stream(gpt2, TEXTS[:4], [accumulator], **QUIET)
    before = accumulator.compute()
    sums = [tensor.clone() for tensor in tensors(accumulator)]
    rest = tle.SoftAccumulator(gpt2, plan, layers=[1], heads="z", first_document=4, n_bins=20)
    tle.stream(gpt2, TEXTS[4:], [rest], **QUIET)
    accumulator.first_document = 4
    with monkeypatch.context() as patch:
        fails_on_call(patch, owner, name, number)
        with pytest.raises(torch.OutOfMemoryError):
            tle.stream(gpt2, TEXTS[4:5], [accumulator], **QUIET)
    assert_same(accumulator.compute(), before, 0)
    assert all(map(torch.equal, sums, tensors(accumulator)))
    accumulator.merge(rest)
    assert_same(accumulator.compute(), tle.soft_information(gpt2, TEXTS, labels=plan, layers=[1], heads="z", **SMALL), 1e-6)


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("owner", "name", "number"), [*SCARCE, (soft_sums.torch, "zeros", 3), (soft_places, "calibrate_temperature", 2)]
)
def test_where_memory_runs_out_the_batch_is_halved_and_nothing_counted_twice(gpt2, added_up, monkeypatch, owner, name, number):
    plan = tle.label_plan(gpt2, TEXTS)
    expected = tle.soft_information(gpt2, TEXTS, labels=plan, layers=[1], heads="z", **SMALL)
    accumulator = tle.SoftAccumulator(gpt2, plan, layers=[1], heads="z", n_bins=20)
    adapter = accumulator.adapter
    assert adapter.sight.mask < 1, "proved before memory runs out"
    seen = []
    plain = tle.Adapter.activations
    with monkeypatch.context() as patch:
        patch.setattr(tle.Adapter, "activations", lambda s, t, m, sites: seen.append(len(t)) or plain(s, t, m, sites))
        fails_on_call(patch, owner, name, number)
        tle.stream(adapter, TEXTS, [accumulator], batch_size=9, **QUIET)
    assert seen[0] == 9
    assert sum(seen[1:]) == 9, seen
    assert_same(accumulator.compute(), expected, 1e-6)


def test_wrong_tokens_and_zero_states_change_nothing(gpt2):
    plan, windows, states = made_up(10, 5)
    accumulator = tle.SoftAccumulator(gpt2, plan, sites=[POST])
    feed(accumulator, windows[:6], states, 6)
    before = accumulator.compute()
    states[7, 2] = 0
    with pytest.raises(
        InputError, match=r"blocks.1.hook_resid_post is zero .* document 7, position 2 \(and 0 more of this batch\); .*'drop'"
    ):
        feed(accumulator, windows[6:], states, 4)
    [batch] = batches(windows[8:9], batch_size=1, max_tokens=1)
    batch.tokens = batch.tokens + 1
    with pytest.raises(InputError, match="other tokens"):
        accumulator.update(batch, {POST: states[8:9]})
    assert_same(accumulator.compute(), before, 0)


@pytest.mark.long
def test_counts_of_many_tiny_updates_are_exact(gpt2, added_up):
    n = 2000
    plan, windows, states = made_up(1, n, dtype=torch.bfloat16)
    accumulator = tle.SoftAccumulator(gpt2, plan, sites=[POST], n_bins=4, folds=1)
    [batch] = batches(windows, batch_size=1, max_tokens=1)
    window, column = batch._window, batch._column
    before = 0
    for i in range(n):
        batch._window, batch._column = window[i : i + 1], column[i : i + 1]
        accumulator.update(batch, {POST: states})
        if not i:  # As if 2^24 rows had come already: single precision would not notice one more.
            before = 2**24
            for sums in accumulator._sites[POST].mass:
                sums += before
    for sums in accumulator._sites[POST].mass:
        sums -= before
    result = accumulator.compute()
    assert result.tokens.tolist() == [n, n - 1]
    expected = soft_mutual_information(states[0], windows[0].tokens, n_bins=4)
    for name in ("entropy", "plug_in", "ceiling"):  # which need no sample
        assert getattr(result, name)[0, 0, 0, 0].item() == pytest.approx(float(getattr(expected, name)), abs=1e-6)


def spoiler(value):
    """A hook that writes ``value`` over positions 2 and 4 (BOS not counted) of the first row of a batch."""

    def spoil(activation, hook):
        activation = activation.clone()
        activation[0, [3, 5]] = value
        return activation

    return spoil


def test_dropped_positions_are_counted_and_left_out_everywhere(gpt2, many_draws):
    documents, positions, states = gathered(gpt2, TEXTS, EMBED, POST)
    label = grams(gpt2, TEXTS, documents, positions, 1)
    kept = grams(gpt2, TEXTS, documents, positions, 1, ahead=True) >= 0
    dropped = torch.tensor([d == 0 and p in (2, 4) for d, p in zip(documents, positions, strict=True)])
    for value in (0.0, torch.nan, torch.inf):
        with gpt2.hooks(fwd_hooks=[("blocks.2.hook_resid_post", spoiler(value))]):
            for batch_size in (9, 4):
                # Every batch's first row is spoilt.
                result = tle.soft_information(gpt2, TEXTS, invalid="drop", batch_size=batch_size, **SMALL)
                assert result.dropped == 2 * -(-len(TEXTS) // batch_size)
            result = tle.soft_information(gpt2, TEXTS, invalid="drop", batch_size=9, **SMALL)
        assert result.tokens.tolist() == [int(kept.sum()) - 2] * 2
        for place, site in ((0, EMBED), (2, POST)):
            expected = soft_mutual_information(states[site][kept & ~dropped], label[kept & ~dropped], n_bins=20)
            assert_is(result, place, 0, expected, chance=2e-2)
        assert "2 positions dropped" in repr(result)
    clean = tle.soft_information(gpt2, TEXTS, invalid="drop", **SMALL)
    assert clean.dropped == 0
    assert "dropped" not in repr(clean)


def test_centred_means_leave_out_what_is_not_finite(gpt2, many_draws):
    with gpt2.hooks(fwd_hooks=[("blocks.2.hook_resid_post", spoiler(torch.nan))]):
        result = tle.soft_information(gpt2, TEXTS, layers=[1, 2], center=True, invalid="drop", batch_size=9, **QUIET)
    documents, positions, states = gathered(gpt2, TEXTS, POST)
    kept = grams(gpt2, TEXTS, documents, positions, 1, ahead=True) >= 0
    kept &= ~torch.tensor([d == 0 and p in (2, 4) for d, p in zip(documents, positions, strict=True)])
    label = grams(gpt2, TEXTS, documents, positions, 1)
    expected = soft_mutual_information(states[POST][kept], label[kept], center=True)
    assert_is(result, 1, 0, expected, 5e-6, chance=2e-2)


def test_states_without_direction_are_named(gpt2):
    with (
        gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", spoiler(0.0))]),
        pytest.raises(
            InputError, match=r"blocks.1.hook_resid_post is zero .* document 0, position 2 \(and 1 more of this batch\)"
        ),
    ):
        tle.soft_information(gpt2, TEXTS, **QUIET)


def test_nan_names_hook_and_position_and_keeps_the_rest(gpt2):
    batches_seen = []

    def late(activation, hook):
        batches_seen.append(1)
        return spoiler(torch.nan)(activation, hook) if len(batches_seen) == 3 else activation

    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", late)]), pytest.raises(NonFiniteError) as caught:
        tle.soft_information(gpt2, TEXTS, batch_size=2, **QUIET)
    assert "blocks.1.hook_resid_post has a NaN or an infinity at document 4, position 2" in str(caught.value)
    partial = caught.value.partial
    assert partial.documents == 4
    plan = tle.label_plan(gpt2, TEXTS)
    expected = tle.soft_information(gpt2, TEXTS[:4], **QUIET)
    torch.testing.assert_close(partial.plug_in[0], expected.plug_in[0], atol=1e-6, rtol=0)
    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", spoiler(torch.nan))]), pytest.raises(NonFiniteError) as caught:
        tle.soft_information(gpt2, TEXTS, labels=plan, **QUIET)
    assert caught.value.partial is None


def test_errors_hold_documents_and_anchors(gpt2):
    plan = tle.label_plan(gpt2, TEXTS)
    result = tle.soft_information(gpt2, TEXTS, labels=plan, layers=[1], folds=3, n_bins=30, **QUIET)
    assert result.information.shape == (1 + 3 + 18, 2, 2, 1)
    for name in ("information", "share", *STORED):
        parts = [result.error(name, part=part) for part in ("documents", "anchors")]
        assert all(bool((part > 0).all()) for part in parts)
        torch.testing.assert_close(result.error(name), torch.hypot(*parts))
    step = result.values()[:, [1]] - result.values()[:, [0]]
    torch.testing.assert_close(result.error_of(step), (step[1:] - step[0]).norm(dim=0))
    for n_bins, seed in (((30, 12), 0), (30, (0, 5))):
        several = tle.soft_information(gpt2, TEXTS, labels=plan, layers=[1], folds=3, n_bins=n_bins, seed=seed, **QUIET)
        torch.testing.assert_close(several.information[..., 0], result.information[..., 0], atol=1e-6, rtol=0)
    padded = tle.soft_information(gpt2, TEXTS, labels=plan, layers=[1], folds=3, n_bins=(30, 12), **QUIET)
    alone = tle.soft_information(gpt2, TEXTS, labels=plan, layers=[1], folds=3, n_bins=12, **QUIET)
    torch.testing.assert_close(padded.error()[..., 1:], alone.error(), atol=1e-6, rtol=0)
    assert padded.select(n_bins=12).information.shape == alone.information.shape


def test_one_fold_has_no_errors_and_needs_less_memory(gpt2, added_up):
    plan = tle.label_plan(gpt2, TEXTS)
    expected = tle.soft_information(gpt2, TEXTS, labels=plan, **QUIET)
    one = tle.soft_information(gpt2, TEXTS, labels=plan, folds=1, **QUIET)
    for name in STORED:
        torch.testing.assert_close(getattr(one, name)[0], getattr(expected, name)[0], atol=1e-9, rtol=0)
    for name in ("information", "corrected_ceiling", "lower", "fold_jackknife"):
        assert bool(getattr(one, name).isnan().all())
    assert "nan (token, next_token): one fold of documents" in repr(one)
    assert bool(one.error().isnan().all())
    assert bool(one.error("entropy").isnan().all())
    assert bool(expected.error("entropy").isfinite().all())
    assert tle.SoftAccumulator(gpt2, plan, folds=1).memory() < tle.SoftAccumulator(gpt2, plan).memory()
    assert bool(tle.soft_information(gpt2, TEXTS[0], **QUIET).error("plug_in").isnan().all()), "of a single document, too"


@pytest.mark.parametrize("double", [False, True])
def test_memory_is_what_the_sums_hold(monkeypatch, double):
    model = double_model() if double else cached_model("gpt2", "bridge")
    plan = tle.label_plan(model, TEXTS, labels=("token", "next_bigram"))
    for options in ({}, {"heads": True, "n_bins": (30, 9), "seed": (0, 4)}, {"sites": "mlp_out", "folds": 2}):
        monkeypatch.setattr(soft_seen, "SAMPLE", 8 if options else 4096)
        accumulator = tle.SoftAccumulator(model, plan, **options)
        tle.stream(model, TEXTS[:1], [accumulator], **QUIET)
        held = sum(t.numel() * t.element_size() for sums in accumulator._sites.values() for t in [*sums.kept, *sums.mass])
        assert accumulator.memory() == held
        tle.stream(model, TEXTS[1:], [tle.SoftAccumulator(model, plan, **options, first_document=1)], **QUIET)
    monkeypatch.undo()
    # Of few positions all are in the sample, and of these 32 numbers of a state less than its 101 of assignments.
    assert tle.SoftAccumulator(model, plan).memory() == 4 * (8 * 101 + (8 if double else 4) * 32 * int(plan.used()[0]))


def test_memory_is_announced_where_it_is_much_and_refused_where_it_is_not_there(gpt2, monkeypatch, capsys):
    tle.soft_information(gpt2, TEXTS[:2])
    assert "sums take" not in capsys.readouterr().err
    monkeypatch.setattr(soft, "LARGE", 1000)
    tle.soft_information(gpt2, TEXTS[:2])
    assert "tl_entropy: sums take 0.0 GiB" in capsys.readouterr().err
    tle.soft_information(gpt2, TEXTS[:2], **QUIET)
    assert "sums take" not in capsys.readouterr().err
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    with pytest.raises(InputError, match=r"the sums would take 0.0 GiB, and this machine has 0.0: use fewer .* or folds=1"):
        tle.soft_information(gpt2, TEXTS[:2], **QUIET)

    def unknown(name):
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert tle.soft_information(gpt2, TEXTS[:2], **QUIET).documents == 2


def test_interruption_ends_with_what_was_read(gpt2, monkeypatch):
    class Impatient(tle.SoftAccumulator):
        def update(self, batch, activations):
            super().update(batch, activations)
            if 3 in batch.document:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(soft, "SoftAccumulator", Impatient)
    with pytest.warns(UserWarning, match="interrupted"):
        result = tle.soft_information(gpt2, TEXTS, batch_size=2, keep_labels=True, **QUIET)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is before
    expected = tle.soft_information(gpt2, TEXTS[:4], keep_labels=True, **QUIET)
    assert result.provenance.interrupted
    assert result.documents == 4
    assert "interrupted" in repr(result)
    for name in ("tokens", "classes", "singletons", "coverage"):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name))
    for name in ("entropy", "plug_in", "ceiling"):
        torch.testing.assert_close(getattr(result, name)[0], getattr(expected, name)[0], atol=1e-6, rtol=0)
    mine, theirs = (r.select(layers=1).label_table("token").set_index("text") for r in (result, expected))
    assert mine["count"].to_dict() == theirs["count"].to_dict()
    np.testing.assert_allclose(mine["plug_in"][theirs.index], theirs["plug_in"], atol=1e-6)


def test_the_model_is_left_as_it_was(gpt2):
    gpt2.train()
    try:
        flags = {name: module.training for name, module in gpt2.named_modules()}
        result = tle.soft_information(gpt2, TEXTS[:3], heads=True, center=True, keep_labels=True, **SMALL)
        assert {name: module.training for name, module in gpt2.named_modules()} == flags
    finally:
        gpt2.eval()
    assert torch.is_grad_enabled()
    assert not any(point.fwd_hooks for point in gpt2.hook_dict.values())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in gpt2.parameters())
    assert not any(getattr(result, name).requires_grad for name in (*VALUES, "label_information"))


def test_provenance_tells_what_decides_the_numbers(gpt2):
    origin = tle.soft_information(gpt2, TEXTS, n_bins=(20, 10), window=32, stride=8, **QUIET).provenance
    expected = {
        "n_bins": (20, 10), "seed": (0,), "calibration": "exact", "folds": 20, "invalid": "error", "valid": "common",
        "centered": False, "estimator": "cross_fitted", "window": 32, "stride": 8, "prepend_bos": True, "positions": "None",
        "sites": ("embed", "resid_post.0", "resid_post.1", "resid_post.2"),
    }  # fmt: skip
    assert {name: origin.settings[name] for name in expected} == expected
    assert origin.settings["chance_sample"] == tle.label_plan(gpt2, TEXTS).used()[0]
    assert origin.corpus["documents"] == len(TEXTS)
    assert origin.corpus["bytes"] == sum(len(text.encode()) for text in TEXTS)


def test_half_precision_models():
    half = tle.soft_information(make_model("gpt2", "bridge", dtype=torch.bfloat16), TEXTS, layers=[1], heads=True, **SMALL)
    full = tle.soft_information(cached_model("gpt2", "bridge"), TEXTS, layers=[1], heads=True, **SMALL)
    assert half.provenance.dtype == "bfloat16"
    assert_same(half, full, 0.1, of=("entropy", "plug_in"))


def test_bad_arguments(gpt2):
    plan = tle.label_plan(gpt2, TEXTS)
    for arguments, error, message in (
        ({"labels": "verb"}, InputError, "labels must be one of"),
        ({"labels": ("token", "token")}, InputError, "different names"),
        ({"labels": {"kind": [1, 2]}}, InputError, "must have"),
        ({"sites": "nowhere"}, InputError, "sites must be one of"),
        ({"sites": "pattern"}, InputError, "pattern holds no states"),
        ({"layers": [9]}, InputError, "layer 9 does not exist"),
        ({"layers": 0.5}, InputTypeError, r"layers must be ints, such as layers=\[0, -1\], or a slice; got 0.5"),
        ({"heads": "q"}, InputError, "heads must be one of"),
        ({"valid": "all"}, InputError, "valid must be one of"),
        ({"n_bins": 1}, InputError, "n_bins must be an int of at least 2"),
        ({"n_bins": ()}, InputError, "n_bins must be one or more different"),
        ({"n_bins": None}, InputTypeError, "n_bins must be"),
        ({"n_bins": 50.0}, InputTypeError, "n_bins must be"),
        ({"seed": (1, 1)}, InputError, "seed must be one or more different"),
        ({"seed": -1}, InputError, "seed must be an int of at least 0"),
        ({"calibration": "guess"}, InputError, "calibration must be one of"),
        ({"invalid": "keep"}, InputError, "invalid must be one of"),
        ({"folds": 0}, InputError, "folds must be an int of at least 1"),
        ({"batch_size": 0}, InputError, "batch_size must be"),
        ({"positions": 40}, InputError, "no document has positions 40"),
    ):
        with pytest.raises(error, match=message):
            tle.soft_information(gpt2, TEXTS, **arguments, **QUIET)
    for arguments, message in (
        ({"widow": 3}, r"'widow' is not an option \(did you mean 'window'\?\); choose from batch_size, .*, n_bins, .*window$"),
        ({"n_bin": 50}, r"'n_bin' is not an option \(did you mean 'n_bins'\?\)"),
        ({"max_new_tokens": 3}, "'max_new_tokens' is not an option; choose from"),
        ({"labels": plan, "temperature": 1.0}, "'temperature' is not an option; choose from"),
    ):
        with pytest.raises(InputTypeError, match=message):
            tle.soft_information(gpt2, TEXTS, **arguments, **QUIET)
    with pytest.raises(InputTypeError, match=r"'label' is not an option \(did you mean 'labels'\?\)"):
        tle.label_plan(gpt2, TEXTS, label="token")
    with pytest.raises(InputTypeError, match=r"'sed' is not an option \(did you mean 'seed'\?\); .*, temperature, "):
        tle.stream(gpt2, TEXTS, [Rows(POST)], sed=1, **QUIET)
    with pytest.raises(InputTypeError, match="plan must be a LabelPlan"):
        tle.SoftAccumulator(gpt2, ("token",))
    with pytest.raises(InputError, match="first_document must be"):
        tle.SoftAccumulator(gpt2, plan, first_document=-1)


def test_ints_of_numpy_are_ints(gpt2, tmp_path):
    plain = {"n_bins": (20, 10), "seed": 3, "folds": 4, "batch_size": 2, "window": 32, "stride": 8, "include_special": False}
    odd = {"n_bins": np.array([20, 10]), "include_special": np.False_}
    odd |= {name: np.int64(value) for name, value in plain.items() if type(value) is int}
    wanted, found = (tle.soft_information(gpt2, TEXTS, layers=[1], **given, **QUIET) for given in (plain, odd))
    assert_same(found, wanted, 0)
    again = tle.load(found.save(tmp_path / "found.safetensors"))
    assert again.provenance.settings == wanted.provenance.settings
    assert {type(again.provenance.settings[name]) for name in ("window", "folds")} == {int}


def test_labels_of_documents_are_told_apart_and_named(gpt2):
    labels = {"kind": ["a", "b", "a", "b"], "token": "token"}
    result = tle.soft_information(gpt2, TEXTS[:4], labels=labels, **QUIET)
    assert result.one_fold == ((), ())
    assert "not identifiable" not in repr(result)
    alone = tle.soft_information(gpt2, TEXTS[:4], labels={**labels, "kind": ["a", "b", "a", "c"]}, **QUIET)
    assert set(alone.one_fold[0]) == {"b", "c"}
    assert alone.one_fold[1] == ()
    assert "kind: not identifiable, since in one fold of documents only: " in repr(alone)


def test_several_bins_are_shown_apart_and_a_plan_keeps_its_validity(gpt2):
    result = tle.soft_information(
        gpt2, TEXTS, labels="token", layers=[0], sites="resid_post", n_bins=(10, 50), seed=(0, 1), **QUIET
    )
    shown = repr(result)
    assert "resid_post.0, 10 bins" in shown
    assert "resid_post.0, 50 bins" in shown
    assert f"{result.value('entropy')[0, 0, :2].mean():.3f}" in shown
    assert "and over 2 seeds of anchors, of which means are shown" in shown
    with pytest.raises(InputError, match="the plan was made with valid='common'"):
        tle.soft_information(gpt2, TEXTS, labels=tle.label_plan(gpt2, TEXTS), valid="own", **QUIET)


def test_threads_change_nothing_and_stay_as_they_were(gpt2):
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            soft = tle.SoftAccumulator(gpt2, tle.label_plan(gpt2, TEXTS), n_bins=20, heads=True)
            tle.stream(gpt2, TEXTS, [soft], batch_size=3, **QUIET)
            found.append(soft.compute())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_same(*found, 1e-6)
