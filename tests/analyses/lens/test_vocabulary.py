"""Rows of the unembedding without a token: counted as the model's softmax does, or left out of every readout."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import VOCAB, hf_model, kinds, tiny_tokenizer

import tl_entropy as tle
from tl_entropy import functional
from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputError

pytestmark = pytest.mark.model
QUIET = {"progress": False}
TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1"]
EXTRA = 20
ORDERS = (0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def padded():
    """A model whose unembedding has more rows than its tokenizer has tokens."""
    from transformer_lens.model_bridge import TransformerBridge

    source = hf_model("gpt2")
    source.resize_token_embeddings(VOCAB + EXTRA, mean_resizing=False)
    model = TransformerBridge.boot_transformers("tiny/padded", hf_model=source, tokenizer=tiny_tokenizer(), device="cpu")
    assert len(Adapter(model).token_ids) < VOCAB + EXTRA, kinds()
    return model


def chosen(model):
    return Adapter(model).token_ids


@torch.no_grad()
def logits_of(model, text):
    row = torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    return model(row, return_type="logits")[0].double(), row[0]


def test_all_rows_count_by_default_and_the_result_says_how_many(padded):
    adapter = Adapter(padded)
    found = tle.lens_entropy(padded, TEXTS, orders=ORDERS, sites="resid_post.2", top_k=3, **QUIET)
    unnamed = adapter.d_vocab - len(adapter.token_ids)
    assert found.provenance.settings["rows_without_token"] == unnamed
    assert f"{unnamed} rows of the unembedding without a token included" in repr(found)
    assert f"{unnamed} rows of the unembedding without a token included" in found._repr_html_()
    logits, _ = logits_of(padded, TEXTS[0])
    expected = functional.renyi_entropy(logits[1:], ORDERS)
    torch.testing.assert_close(found.select(documents=0).entropy[:, 0].double(), expected, atol=2e-5, rtol=0)


def test_over_tokens_alone_it_is_the_distribution_of_these(padded):
    ids = chosen(padded)
    options = {"vocabulary": "tokenizer", **QUIET}
    lens = tle.lens_entropy(padded, TEXTS, orders=ORDERS, sites="resid_post.2", top_k=3, surprisal=True, **options)
    cost = tle.token_surprisal(padded, TEXTS, **options)
    for document, text in enumerate(TEXTS):
        logits, row = logits_of(padded, text)
        log_p = logits[:, ids].log_softmax(-1)
        one = lens.select(documents=document)
        torch.testing.assert_close(one.entropy[:, 0].double(), functional.renyi_entropy(log_p[1:], ORDERS), atol=2e-5, rtol=0)
        assert torch.equal(one.top_tokens[:, 0], ids[log_p[1:].topk(3).indices]), "ids are the tokenizer's"
        place = torch.searchsorted(ids, row[1:])
        expected = -log_p[:-1].gather(1, place[:, None])[:, 0]
        torch.testing.assert_close(cost.select(documents=document).surprisal, expected, atol=2e-5, rtol=0)
        assert torch.equal(cost.select(documents=document).top_tokens, ids[log_p[:-1].topk(5).indices])
    assert "rows of the unembedding that no token has" in repr(lens)
    assert lens.provenance.settings["vocabulary"] == "tokenizer"


def test_ids_need_not_be_the_first_rows(padded, monkeypatch):
    ids = torch.tensor([i for i in range(VOCAB + EXTRA) if i % 7 != 3])
    monkeypatch.setattr(Adapter, "token_ids", ids)
    found = tle.lens_entropy(padded, torch.tensor([5, 6, 7]), sites="resid_post.2", top_k=4, vocabulary="tokenizer", **QUIET)
    with torch.no_grad():
        log_p = padded(torch.tensor([[5, 6, 7]]), return_type="logits")[0].double()[:, ids].log_softmax(-1)
    torch.testing.assert_close(found.entropy[:, 0, 0].double(), functional.shannon_entropy(log_p), atol=2e-5, rtol=0)
    assert torch.equal(found.top_tokens[:, 0], ids[log_p.topk(4).indices])
    with pytest.raises(InputError, match="leaves out the id 10, which is asked for and is no token"):
        tle.token_surprisal(padded, torch.tensor([5, 10, 7]), vocabulary="tokenizer", **QUIET)


def test_what_is_left_out_has_no_effect(padded):
    """The rows without a token may hold anything: what is over tokens alone does not change."""
    calls = {
        "lens": lambda: tle.lens_entropy(padded, TEXTS, vocabulary="tokenizer", **QUIET).entropy,
        "divergence": lambda: (
            tle.layer_divergence(padded, TEXTS, metrics=("kl", "jsd"), targets=[5], vocabulary="tokenizer", **QUIET).divergence
        ),
        "frozen heads": lambda: tle.head_entropy(padded, TEXTS, of="readout", vocabulary="tokenizer", **QUIET).entropy,
        "recomputed heads": lambda: (
            tle.head_entropy(padded, TEXTS, of="readout", norm="recomputed", vocabulary="tokenizer", **QUIET).entropy
        ),
        "surprisal": lambda: tle.token_surprisal(padded, TEXTS, vocabulary="tokenizer", **QUIET).surprisal,
        "comparison": lambda: (
            tle.compare_models({"a": padded}, TEXTS, similarity=None, vocabulary="tokenizer", **QUIET).lenses["a"].entropy
        ),
        "monitor": lambda: tle.EntropyMonitor(padded, TEXTS, vocabulary="tokenizer")(0).entropy,
        "reliance": lambda: tle.token_reliance(padded, TEXTS, tle.ablate("attn_out.1"), vocabulary="tokenizer", **QUIET).values,
    }
    before = {name: call() for name, call in calls.items()}
    weight = padded.original_model.lm_head.weight
    kept = weight.data[VOCAB:].clone()
    try:
        weight.data[VOCAB:] = kept.flip(1) * 3
        for name, call in calls.items():
            torch.testing.assert_close(call(), before[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    finally:
        weight.data[VOCAB:] = kept


def test_what_it_refuses(padded):
    for call in (
        lambda: tle.layer_divergence(padded, TEXTS, targets=[VOCAB + EXTRA - 1], vocabulary="tokenizer", **QUIET),
        lambda: tle.token_surprisal(padded, torch.tensor([5, VOCAB + EXTRA - 1]), vocabulary="tokenizer", **QUIET),
    ):
        with pytest.raises(InputError, match=f"leaves out the id {VOCAB + EXTRA - 1}"):
            call()
    with pytest.raises(InputError, match="vocabulary must be one of 'model', 'tokenizer'; got 'all'"):
        tle.lens_entropy(padded, TEXTS, vocabulary="all", **QUIET)
    with pytest.raises(InputError, match="vocabulary belong to of='readout'"):
        tle.head_entropy(padded, TEXTS, vocabulary="tokenizer", **QUIET)
    with pytest.raises(InputError, match="top_k must be"):
        tle.lens_entropy(padded, TEXTS, top_k=VOCAB + EXTRA, vocabulary="tokenizer", **QUIET)
    one, other = (tle.LensAccumulator(padded, vocabulary=over) for over in ("model", "tokenizer"))
    with pytest.raises(InputError, match="cannot merge: vocabulary"):
        one.merge(other)


def test_where_every_row_is_a_token_nothing_is_said(gpt2, monkeypatch):
    monkeypatch.setattr(Adapter, "token_ids", torch.arange(VOCAB))
    plain, over = (tle.lens_entropy(gpt2, TEXTS, vocabulary=over, **QUIET) for over in ("model", "tokenizer"))
    assert torch.equal(plain.entropy, over.entropy)
    for result in (plain, over):
        assert "rows of the unembedding" not in repr(result)
        assert "rows_without_token" not in result.provenance.settings


def test_a_model_without_a_tokenizer(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", None)
    with pytest.raises(InputError, match="vocabulary='tokenizer' needs to know which rows are tokens"):
        tle.lens_entropy(gpt2, torch.tensor([5, 6]), vocabulary="tokenizer", **QUIET)
    assert (
        dataclasses.asdict(tle.lens_entropy(gpt2, torch.tensor([5, 6]), **QUIET).provenance)["settings"]["lens"] == "logit lens"
    )
