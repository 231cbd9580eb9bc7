"""Mean states of documents, against plain means of run_with_cache, however the corpus is cut up."""

from __future__ import annotations

import pytest
import torch

import tl_entropy as tle
from tl_entropy.analyses.states.pooled import PooledDocuments
from tl_entropy.errors import InputError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

QUIET = {"progress": False}
ALL_SITES = ("embed", "resid_pre", "attn_out", "mlp_out", "resid_post")


def hook(site):
    return "blocks.0.hook_resid_pre" if site.name == "embed" else f"blocks.{site.layer}.hook_{site.name}"


@torch.no_grad()
def states(model, text):
    """[token, d_model] of a text by hook, its begin token left out."""
    tokens = torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    cache = model.run_with_cache(tokens)[1]
    return lambda site: cache[hook(site)][0, 1:].double()


def pooled(model, inputs, **options):
    accumulator = PooledDocuments(
        model, sites=options.pop("sites", ("embed", "resid_post")), layers=options.pop("layers", None)
    )
    tle.stream(model, inputs, [accumulator], **{**QUIET, "prepend_bos": True, **options})
    return accumulator


def close(mine, theirs, atol=1e-5):
    assert list(mine) == list(theirs)
    for site, value in mine.items():
        torch.testing.assert_close(value, theirs[site], atol=atol, rtol=1e-5)


def test_means_are_those_of_the_counted_tokens_of_each_document(any_model, texts):
    found, theirs = pooled(any_model, texts, sites=ALL_SITES), [states(any_model, text) for text in texts]
    assert found.documents == [0, 1, 2, 3]
    assert found.tokens == [len(of(Site("embed", -1))) for of in theirs]
    means = found.compute()
    assert tuple(means) == found.sites
    for site, value in means.items():
        assert value.dtype == torch.float64
        expected = torch.stack([of(site).mean(0) for of in theirs])
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 1, "window": 64}])
def test_any_batch_size_gives_the_same_means(gpt2, texts, options):
    close(pooled(gpt2, texts, **options).compute(), pooled(gpt2, texts).compute())


def test_a_document_in_several_windows_is_one_mean_of_all_its_tokens(gpt2):
    text, short = "the cat sat on the mat " * 8, "def f(x)"
    options = {"window": 9, "stride": 3, "sites": "resid_post"}
    together = pooled(gpt2, [text, short], **options)
    close(pooled(gpt2, [text, short], **options, batch_size=1).compute(), together.compute())
    assert together.documents == [0, 1]

    class Rows:
        """Every counted row, as it comes."""

        sites = together.sites

        def __init__(self):
            self.rows, self.document = {site: [] for site in self.sites}, []

        def update(self, batch, activations):
            self.document.append(batch.row_document)
            for site in self.sites:
                self.rows[site].append(batch.rows(activations[site]))

    rows = Rows()
    tle.stream(gpt2, [text, short], [rows], window=9, stride=3, prepend_bos=True, **QUIET)
    document = torch.cat(rows.document)
    assert together.tokens == torch.bincount(document).tolist()
    for site, value in together.compute().items():
        whole = torch.cat(rows.rows[site]).double()
        expected = torch.stack([whole[document == d].mean(0) for d in (0, 1)])
        torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_parts_number_on_and_documents_without_a_counted_token_are_left_out(gpt2, texts):
    whole = pooled(gpt2, texts, positions=slice(1, None))
    assert whole.documents == [0, 1, 3]  # the third is one token long
    first, second, third = (
        pooled(gpt2, texts[part], positions=slice(1, None)) for part in (slice(0, 1), slice(1, 3), slice(3, 4))
    )
    first.merge(second)
    first.merge(third)
    assert first.documents == whole.documents
    close(first.compute(), whole.compute())


def test_nothing_read_is_no_rows(gpt2):
    empty = PooledDocuments(gpt2)
    assert empty.documents == []
    assert {tuple(value.shape) for value in empty.compute().values()} == {(0, 32)}
    empty.merge(PooledDocuments(gpt2))
    assert empty.documents == []


def test_what_is_refused(gpt2):
    with pytest.raises(InputError, match=r"sites: z\.0 has a head axis"):
        PooledDocuments(gpt2, sites=("resid_post", "z"))
    with pytest.raises(InputError, match="cannot merge: sites"):
        PooledDocuments(gpt2).merge(PooledDocuments(gpt2, sites="embed"))


def test_so_many_documents_are_kept_the_same_ones_in_any_batches(gpt2):
    corpus = ["the cat " * (1 + i % 5) + "dog" * (i % 3) for i in range(40)]

    def sample(texts=corpus, seed=1, **options):
        one = PooledDocuments(gpt2, n_documents=6, seed=seed)
        tle.stream(gpt2, texts, [one], progress=False, **options)
        return one

    whole, kept = PooledDocuments(gpt2), sample()
    tle.stream(gpt2, corpus, [whole], progress=False)
    assert (len(kept.documents), kept.seen, whole.seen) == (6, 40, 40)
    assert kept.nbytes == whole.nbytes * 6 // 40
    for site, means in kept.compute().items():
        torch.testing.assert_close(means, whole.compute()[site][kept.documents])
    for options in ({"batch_size": 1}, {"batch_size": 7}, {"window": 6, "batch_size": 3}):
        assert sample(**options).documents == kept.documents
    assert sample(seed=2).documents != kept.documents
    first, second = sample(corpus[:25]), sample(corpus[25:])
    first.merge(second)
    assert (len(first.documents), first.seen, min(first.documents) >= 0, max(first.documents) < 40) == (6, 40, True, True)
    with pytest.raises(InputError, match="seed is 1 here and 2 there"):
        first.merge(sample(seed=2))


def test_the_sample_is_uniform(gpt2):
    found = [PooledDocuments(gpt2, n_documents=10, seed=seed) for seed in range(60)]
    tle.stream(gpt2, torch.arange(1, 41)[:, None].repeat(1, 2), found, progress=False)
    counts = torch.bincount(torch.tensor([document for one in found for document in one.documents]), minlength=40)
    assert counts.sum() == 600
    assert 4 <= int(counts.min()) <= 15 <= int(counts.max()) <= 28, "15 each are to be expected, ± 3.4"


def test_of_a_sample_of_documents(gpt2):
    corpus = ["the cat " * (1 + i % 5) + "dog " * (i % 3) for i in range(24)]
    few = {"n_documents": 8, "progress": False}
    found = tle.layer_geometry(gpt2, corpus, measures="dataset_entropy", **few)
    assert "dataset_entropy: of 8 of 24 documents, drawn at random" in found.notes
    assert (found.documents, found.provenance.settings["n_documents"]) == (24, 8)
    alike = tle.layer_similarity(gpt2, corpus, rows="documents", **few)
    assert (alike.documents, alike.count, alike.provenance.settings["n_documents"]) == (8, 8, 8)
    both = tle.layer_similarity(gpt2, corpus, rows="documents", other=gpt2, **few)
    torch.testing.assert_close(both.values, alike.values)
    with pytest.raises(InputError, match="n_documents belongs to rows='documents'"):
        tle.layer_similarity(gpt2, corpus, **few)
    with pytest.raises(InputError, match="n_documents belongs to dataset_entropy, lidar, info_nce"):
        tle.layer_geometry(gpt2, corpus, measures="curvature", **few)
