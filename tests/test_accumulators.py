"""Mergeable sums against plain arithmetic on the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.accumulators import DocumentMeans, Histogram
from tl_entropy.errors import InputError
from tl_entropy.functional.statistics import clustered_mean


def corpus(seed, documents=7):
    generator = torch.Generator().manual_seed(seed)
    n = torch.randint(1, 9, (documents,), generator=generator)
    document = torch.arange(documents).repeat_interleave(n)
    return torch.rand(len(document), 2, 3, generator=generator), document


def expected(values, document):
    n = torch.bincount(document).double()
    s = torch.stack([values[document == d].double().sum(0) for d in document.unique()])
    mean = s.sum(0) / n.sum()
    residual = s - n[:, None, None] * mean
    d = len(n)
    return mean, ((residual**2).sum(0) * d / (d - 1)).sqrt() / n.sum()


@given(st.integers(0, 1000), st.lists(st.integers(1, 40), max_size=6))
def test_any_split_gives_the_mean_and_error_of_the_whole(seed, cuts):
    values, document = corpus(seed)
    means = DocumentMeans((2, 3))
    edges = sorted({0, len(document), *(c for c in cuts if c < len(document))})
    for start, stop in pairwise(edges):
        ended = [d for d in document[start:stop].unique().tolist() if not (document[stop:] == d).any()]
        means.update(values[start:stop], document[start:stop], closed=ended)
    mean, error = clustered_mean(*means.sums(), documents=means.seen_documents)
    torch.testing.assert_close((mean, error), expected(values, document), rtol=1e-10, atol=1e-12)
    assert not means._open


@given(st.permutations(range(7)), st.integers(1, 6))
def test_shards_merge_in_any_order_empty_ones_too(order, cut):
    values, document = corpus(3)
    total = DocumentMeans((2, 3))
    for shard in (order[:cut], order[cut:], []):
        part = DocumentMeans((2, 3))
        for d in shard:
            part.update(values[document == d], document[document == d], closed=[d] if d % 2 else [])
        total.merge(part)
    mean, error = clustered_mean(*total.sums(), documents=total.seen_documents)
    torch.testing.assert_close((mean, error), expected(values, document), rtol=1e-10, atol=1e-12)


def test_many_small_updates_lose_nothing():
    histogram, means = Histogram((1,), high=1.0, bins=2), DocumentMeans((1,))
    row = torch.tensor([[0.7]], dtype=torch.bfloat16)
    for i in range(300):
        histogram.update(row)
        means.update(row, torch.tensor([i]), closed=[i])
    assert histogram.counts.tolist() == [[0, 300]]
    assert means.sums()[0].item() == 300
    assert means.sums()[1].item() == pytest.approx(300 * float(row), rel=1e-12)


def test_histogram_counts_like_numpy():
    values = torch.rand(500, 2, 3)
    histogram = Histogram((2, 3), high=1.0, bins=10)
    for part in values.split(77):
        histogram.update(part)
    for i in range(2):
        for j in range(3):
            own = torch.histc(values[:, i, j], bins=10, min=0, max=1).long()
            assert torch.equal(histogram.counts[i, j], own)
    histogram.update(torch.full((1, 2, 3), 1.0 + 1e-7))
    histogram.update(torch.full((1, 2, 3), -1e-9))
    assert int(histogram.counts.sum()) == 502 * 6
    with pytest.raises(InputError, match="same bins"):
        histogram.merge(Histogram((2, 3), high=2.0, bins=10))
    with pytest.raises(InputError, match="at least one bin"):
        Histogram((1,), high=1.0, bins=0)
