"""A sample of tokens: uniform, and the same for every way of cutting up the corpus."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, strategies as st

from tl_entropy.analyses.states.sampling import TokenSample
from tl_entropy.errors import InputError


def corpus(lengths, first=0):
    """(documents, positions) of documents of these lengths."""
    documents = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) + first
    positions = torch.cat([torch.arange(length) for length in lengths])
    return documents, positions


def values(documents, positions):
    return {"code": 1000 * documents + positions, "state": torch.stack([documents, positions], 1).float()}


def sampled(size, documents, positions, *, seed=0, cuts=(), first_document=0):
    sample = TokenSample(size, seed, first_document=first_document)
    for part in torch.arange(len(documents)).tensor_split(list(cuts)):
        sample.update(documents[part], positions[part], values(documents[part], positions[part]))
    return sample


def same(one, two):
    assert one.seen == two.seen
    assert torch.equal(one.documents, two.documents)
    assert torch.equal(one.positions, two.positions)
    for (name, mine), (other, theirs) in zip(one.whole().items(), two.whole().items(), strict=True):
        assert name == other
        assert torch.equal(mine, theirs)


def test_the_tokens_with_the_lowest_priorities_come_with_their_values():
    documents, positions = corpus([30, 5, 40])
    sample = sampled(20, documents, positions)
    assert sample.seen == 75
    assert len(sample.documents) == 20
    whole = sample.whole()
    assert torch.equal(whole["code"], 1000 * sample.documents + sample.positions)
    assert torch.equal(whole["state"], torch.stack([sample.documents, sample.positions], 1).float())
    assert torch.equal(whole["code"], whole["code"].sort().values), "in the order of documents and positions"
    assert len(whole["code"].unique()) == 20
    smaller = sampled(7, documents, positions).whole()["code"]
    assert set(smaller.tolist()) < set(whole["code"].tolist()), "a smaller sample is part of a larger one"


def splitmix64(word):
    """The finaliser, in whole numbers of any length."""
    top = 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % top
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % top
    return word ^ (word >> 31)


def test_a_seed_chooses_the_same_tokens_for_ever():
    """Samples that are published can be drawn again."""
    salt, step, seed = int.from_bytes(b"sampling", "big"), 0x9E3779B97F4A7C15, 3
    documents, positions = corpus([30, 5, 40])

    def priority(token):
        document, position = token
        of_document = splitmix64((splitmix64(seed ^ salt) + document * step) % 2**64)
        word = splitmix64((of_document + position * step) % 2**64)
        return word - 2**64 if word >= 2**63 else word

    lowest = sorted(zip(documents.tolist(), positions.tolist(), strict=True), key=priority)[:20]
    sample = sampled(20, documents, positions, seed=seed)
    assert list(zip(sample.documents.tolist(), sample.positions.tolist(), strict=True)) == sorted(lowest)


def test_fewer_tokens_than_asked_for_are_all_there():
    documents, positions = corpus([3, 4])
    sample = sampled(100, documents, positions, cuts=(2, 5))
    assert torch.equal(sample.documents, documents)
    assert torch.equal(sample.positions, positions)
    assert sample.whole()["state"].shape == (7, 2)
    empty = TokenSample(5, 0)
    assert (empty.seen, empty.whole(), empty.documents.tolist()) == (0, {}, [])


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.integers(1, 30),
    st.lists(st.integers(0, 90), max_size=6),
    st.randoms(use_true_random=False),
    st.integers(0, 5),
)
def test_any_batches_in_any_order_and_any_merge_give_the_same(lengths, size, cuts, random, seed):
    documents, positions = corpus(lengths)
    whole = sampled(size, documents, positions, seed=seed)
    cuts = sorted(min(cut, len(documents)) for cut in cuts)
    same(sampled(size, documents, positions, seed=seed, cuts=cuts), whole)
    shuffle = list(range(len(documents)))
    random.shuffle(shuffle)
    same(sampled(size, documents[shuffle], positions[shuffle], seed=seed, cuts=cuts), whole)
    merged = TokenSample(size, seed)
    for part in torch.tensor(shuffle).tensor_split(cuts):
        merged.merge(sampled(size, documents[part], positions[part], seed=seed))
    same(merged, whole)


def test_parts_that_number_their_documents_from_0():
    lengths = [9, 14, 6, 20]
    whole = sampled(15, *corpus(lengths))
    merged = TokenSample(15, 0)
    for first, last in ((0, 1), (1, 3), (3, 4)):
        part = corpus(lengths[first:last])
        code = {"code": 1000 * (part[0] + first) + part[1], "state": torch.stack([part[0] + first, part[1]], 1).float()}
        sample = TokenSample(15, 0, first_document=first)
        sample.update(*part, code)
        merged.merge(sample)
    same(merged, whole)


def test_the_same_tokens_twice_are_refused_and_change_nothing():
    documents, positions = corpus([6, 6])
    sample, before = sampled(8, documents, positions), sampled(8, documents, positions)
    with pytest.raises(InputError, match="came twice; where a corpus is read in parts, give each its first_document"):
        sample.merge(sampled(8, documents, positions))
    with pytest.raises(InputError, match=r"position . of document . came twice"):
        sample.update(documents, positions, values(documents, positions))
    same(sample, before)
    sample.update(documents + 2, positions, values(documents + 2, positions))
    assert sample.seen == 24


def test_an_update_that_fails_changes_nothing():
    documents, positions = corpus([20])
    sample, before = sampled(8, documents, positions), sampled(8, documents, positions)

    class Broken(dict):
        def items(self):
            yield from super().items()
            raise MemoryError

    with pytest.raises(MemoryError):
        sample.update(documents + 1, positions, Broken(values(documents + 1, positions)))
    same(sample, before)


def test_what_stays_is_a_copy_in_its_own_dtype_and_no_more_than_size_rows():
    documents, positions = corpus([5000])
    states = torch.arange(10000, dtype=torch.bfloat16).reshape(5000, 2)
    sample = TokenSample(50, 0)
    sample.update(documents, positions, {"x": states})
    kept = sample.whole()["x"]
    assert kept.dtype == torch.bfloat16
    assert kept.shape == (50, 2)
    states.zero_()
    assert torch.equal(sample.whole()["x"], kept)
    assert sample._values["x"].untyped_storage().nbytes() == 50 * 2 * 2


def test_sizes_and_seeds_must_agree_to_merge():
    with pytest.raises(InputError, match="cannot merge: size is 5 here and 6 there"):
        TokenSample(5, 0).merge(TokenSample(6, 0))
    with pytest.raises(InputError, match="cannot merge: seed is 0 here and 1 there"):
        TokenSample(5, 0).merge(TokenSample(5, 1))
    for arguments, options in [((0, 0), {}), ((5, -1), {}), ((5, 0), {"first_document": -1})]:
        with pytest.raises(InputError, match="must be an int"):
            TokenSample(*arguments, **options)


# --- uniform


def test_every_token_is_as_likely_as_any_other():
    """Inclusion over 2,000 seeds: a chi-square over tokens, and one over pairs of a token and the next."""
    documents, positions = corpus([8] * 8)
    tokens, size, seeds = 64, 16, 2000
    included = np.zeros((seeds, tokens), dtype=bool)
    for seed in range(seeds):
        sample = TokenSample(size, seed)
        sample.update(documents, positions, {})
        included[seed, 8 * sample.documents.numpy() + sample.positions.numpy()] = True
    assert (included.sum(1) == size).all()
    share = size / tokens
    # Without replacement, counts of tokens are correlated by -1 / (tokens - 1), and this is a chi-square exactly.
    statistic = ((included.sum(0) - seeds * share) ** 2).sum() / (seeds * share * (1 - share)) * (tokens - 1) / tokens
    assert scipy.stats.chi2(tokens - 1).sf(statistic) > 1e-3
    both = share * (size - 1) / (tokens - 1)
    for distance in (1, 8):  # the next position, and the next document
        together = (included[:, :-distance] & included[:, distance:]).mean(0)
        error = np.sqrt(both * (1 - both) / seeds)
        assert abs(together - both).max() < 4.5 * error
        assert abs((together - both).mean()) < 4 * error / np.sqrt(len(together))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_one_sample_of_a_long_corpus_is_spread_evenly(seed):
    documents, positions = corpus([100] * 300)
    sample = TokenSample(3000, seed)
    sample.update(documents, positions, {})
    for found, bins in ((sample.documents, 300), (sample.positions, 100), (sample.positions % 2, 2), (sample.documents % 2, 2)):
        counts = torch.bincount(found, minlength=bins).numpy()
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
    gaps = np.diff(np.sort(100 * sample.documents.numpy() + sample.positions.numpy()))
    expected = scipy.stats.geom(0.1).pmf(np.arange(1, 30))
    counts = np.array([(gaps == gap).sum() for gap in range(1, 30)])
    statistic = ((counts - len(gaps) * expected) ** 2 / (len(gaps) * expected)).sum()
    assert scipy.stats.chi2(29).sf(statistic) > 1e-4, "neighbours know nothing of each other"


def test_seeds_and_documents_that_are_neighbours_choose_apart():
    documents, positions = corpus([2000])
    chosen = [set(sampled(1000, documents + d, positions, seed=seed).positions.tolist()) for d in (0, 1) for seed in (0, 1)]
    for i in range(4):
        for j in range(i):
            assert abs(len(chosen[i] & chosen[j]) - 500) < 5 * np.sqrt(2000 / 16)


def test_no_generator_is_used():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sampled(5, *corpus([20]))
    assert torch.equal(torch.get_rng_state(), before)


def test_values_of_other_names_are_refused_and_change_nothing():
    documents, positions = torch.arange(3), torch.zeros(3, dtype=torch.long)
    x = torch.arange(3.0)[:, None]
    sample, other = TokenSample(9, 0), TokenSample(9, 0, first_document=3)
    sample.update(documents, positions, {"x": x})
    other.update(documents, positions, {"x": x, "y": x})
    for mine, theirs in ((sample, other), (other, sample)):
        before = {name: value.clone() for name, value in mine.whole().items()}
        with pytest.raises(InputError, match="values must have the same names for every token"):
            mine.merge(theirs)
        assert mine.seen == 3
        assert all(torch.equal(value, mine.whole()[name]) for name, value in before.items())
    with pytest.raises(InputError, match=r"got \['y'\] after \['x'\]"):
        sample.update(documents + 9, positions, {"y": x})
    sample.merge(TokenSample(9, 0))  # which has seen nothing
    empty = TokenSample(9, 0)
    empty.merge(sample)
    assert torch.equal(empty.whole()["x"], x)
