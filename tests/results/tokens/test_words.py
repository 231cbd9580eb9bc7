"""Words against brute force: probabilities of whole words in dense float64 laws, sums, cuts and stimuli."""

from __future__ import annotations

import math
from functools import cache

import pandas as pd
import pytest
import torch
from tiny_models import VOCAB, cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import FileError, InputError, InputTypeError

pytestmark = pytest.mark.model
QUIET = {"progress": False}
TEXTS = ["the cat sat on the mat,\n\nand the  dog", "def f(x):\n    return x + 1\n", "cat", "naïve 🙂 猫が好き e\u0301 x"]


@pytest.fixture(scope="module")
def gpt2():
    return cached_model("gpt2", kinds()[0])


@torch.no_grad()
def laws(model, text):
    """Log-probabilities [pos, vocab] in float64 behind a begin token and every token of a text, and the tokens."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([[0, *ids]]), return_type="logits")[0].double()
    return logits.log_softmax(-1), ids


@cache
def spelled_tokens(tokenizer):
    """What every id stands for, none for those that are no token; the begin token's is a space, since it ends a word."""
    known = set(tokenizer.get_vocab().values())
    return [" " if i == 0 else tokenizer.decode([i]) if i in known else "" for i in range(VOCAB)]


def by_hand(model, text, *, final=False, law=None):
    """Words between white space and what they cost, token by token: a loop without a mask, a tile or an offset."""
    log_p, ids = laws(model, text)
    log_p = log_p if law is None else law
    spelled = spelled_tokens(model.tokenizer)
    starts = [piece[:1].isspace() for piece in spelled]
    begin = log_p.exp()[:, torch.tensor(starts)].sum(1).log().tolist()
    costs, open_, seen = [], False, ""
    for i, token in enumerate(ids):
        new = spelled[token][:1].isspace() and not seen[-1:].isspace() and seen != ""
        if new:  # the word before ends here, whatever comes
            costs[-1] -= begin[i]
        if new or not costs or (seen[-1:].isspace() and seen.strip() and open_):
            costs.append(begin[i] if new else 0.0)
            open_ = False
        costs[-1] -= log_p[i, token].item()
        open_ |= bool(spelled[token].strip())
        seen += spelled[token]
    if not open_ and len(costs) > 1:  # white space at the end goes with the last word
        costs[-2:] = [costs[-2] + costs[-1]]
    if final and not seen[-1:].isspace():
        costs[-1] -= begin[len(ids)]
    return text.split(), costs


def test_words_of_any_model_are_those_of_brute_force(any_model):
    for text in TEXTS[:3]:
        result = tle.token_surprisal(any_model, text, words=True, prepend_bos=True, **QUIET)
        for final in (False, True):
            found = result.word_surprisal(final=final)
            words, costs = by_hand(any_model, text, final=final)
            assert list(found.words) == words
            torch.testing.assert_close(found.surprisal[:, 0], torch.tensor(costs).double(), atol=5e-5, rtol=1e-5)
            assert bool((found.surprisal > -1e-9).all())


def test_every_site_has_the_words_of_its_own_law(gpt2):
    text = TEXTS[0]
    result = tle.token_surprisal(gpt2, text, words=True, sites=("embed", "resid_post"), prepend_bos=True, **QUIET)
    found = result.word_surprisal(final=True)
    assert found.readings == ("output", "embed", "resid_post.0", "resid_post.1", "resid_post.2")
    torch.testing.assert_close(found.surprisal[:, 0], found.surprisal[:, -1], atol=2e-5, rtol=0)
    _, cache = gpt2.run_with_cache(torch.tensor([[0, *laws(gpt2, text)[1]]]))
    with torch.no_grad():
        for place, hook in ((1, "blocks.0.hook_resid_pre"), (3, "blocks.1.hook_resid_post")):
            law = gpt2.unembed(gpt2.ln_final(cache[hook]))[0].double().log_softmax(-1)
            expected = torch.tensor(by_hand(gpt2, text, final=True, law=law)[1]).double()
            torch.testing.assert_close(found.surprisal[:, place], expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("by", ["space", "character"])
@pytest.mark.parametrize("batch_size", [1, None])
def test_sums_over_words_are_those_of_the_text(gpt2, by, batch_size):
    result = tle.token_surprisal(
        gpt2, TEXTS, words=True, sites="resid_post", layers=[0, 1], window=16, batch_size=batch_size, **QUIET
    )
    found = result.word_surprisal(by)
    tokens = torch.cat([result.surprisal[:, None], result.site_surprisal], 1)
    for document in result.documents:
        mine, theirs = found.surprisal[found.document == document].sum(0), tokens[result.document == document].sum(0)
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
        text = TEXTS[document]
        expected = text.split() if by == "space" else [c for c in text if not c.isspace()]
        assert "".join(found.words[i] for i in range(len(found.words)) if found.document[i] == document).replace(
            " ", ""
        ) == "".join(expected)
    closed = result.word_surprisal(by, final=True)
    more = (closed.surprisal - found.surprisal).abs() > 1e-9
    assert int(more[:, 0].sum()) <= len(TEXTS), "only last words are charged more"
    assert torch.equal(found.pieces, result.word_surprisal(by, correct=False).surprisal)


def test_a_word_that_certainly_ends_costs_its_tokens_alone(gpt2):
    result = tle.token_surprisal(gpt2, "the\ncat sat", words=True, **QUIET)
    assert result.word_begin[0].item() == 0.0, "a text's beginning"
    assert bool((result.word_begin <= result.surprisal[:, None] + 1e-9).all())
    assert bool((result.word_begin >= 0).all())
    assert torch.equal(result.word_end[:-1], result.word_begin[1:])


def test_spans_and_contexts(gpt2):
    text = "the cat sat on the mat"
    result = tle.token_surprisal(gpt2, [text], words=True, **QUIET)
    whole = result.word_surprisal()
    behind = result.word_surprisal(context="the cat")
    assert behind.words == ("sat", "on", "the", "mat")
    assert behind.index.tolist() == [0, 1, 2, 3]
    assert torch.equal(behind.surprisal, whole.surprisal[2:])
    some = result.word_surprisal(by=[[(4, 7), (19, 22)]])
    assert torch.equal(some.surprisal, whole.surprisal[[1, 5]])
    assert some.words == ("cat", "mat")
    pairs = result.word_surprisal(by=lambda t: [(0, 7), (8, 14), (15, 22)])
    torch.testing.assert_close(pairs.surprisal, whole.surprisal.reshape(3, 2, 1).sum(1), atol=1e-9, rtol=0)
    inside = result.word_surprisal(by=[[(0, 2), (2, 3), (4, 7)]])  # one token may be all of "the"
    assert int(inside.n_words.sum()) == 3
    assert set(inside.n_words.tolist()) <= {1, 2}
    torch.testing.assert_close(inside.surprisal.sum(), whole.surprisal[:2].sum(), atol=1e-9, rtol=0)


def test_words_that_were_not_read_whole_have_no_value(gpt2):
    result = tle.token_surprisal(gpt2, "return return", words=True, prepend_bos=False, **QUIET)
    found = result.word_surprisal()
    assert found.surprisal[0].isnan().all()
    assert found.surprisal[1].isfinite().all()
    cut = tle.token_surprisal(gpt2, TEXTS[0], words=True, **QUIET).select(positions=slice(1, -1))
    values = cut.word_surprisal().surprisal
    assert values[1:-1].isfinite().all()


def test_frequency_length_and_a_table(gpt2):
    result = tle.token_surprisal(gpt2, ["The cat, the cat", "cat"], words=True, **QUIET)
    assert result.word_surprisal().frequency.tolist() == [2, 3, 2, 3, 3]
    given = result.word_surprisal(frequency={"cat": 4.5}).frequency
    assert given.isnan().tolist() == [True, False, True, False, False]
    assert result.word_surprisal(frequency=len).frequency.tolist() == [3] * 5
    table = result.to("bits").word_surprisal().to_pandas()
    assert table["length"].tolist() == [3, 4, 3, 3, 3]
    assert table["item"].tolist() == ["0"] * 4 + ["1"]
    assert table["surprisal"].sum() * math.log(2) == pytest.approx(result.surprisal.sum().item(), abs=1e-6)
    assert result.word_surprisal().to("bits").surprisal.sum() == pytest.approx(table["surprisal"].sum())
    profile = result.word_surprisal().mean_profile()
    assert profile["words"].tolist() == [5]
    assert profile["documents"].tolist() == [2]


def test_stimuli_of_words_and_of_sentences(gpt2, tmp_path):
    rows = [("a", "the", "", 1), ("a", "cat", "", 2), ("b", "sat", "the dog", 3), ("b", "on", "the dog", 4)]
    path = tmp_path / "items.csv"
    pd.DataFrame(rows, columns=["item", "word", "context", "rt"]).to_csv(path, index=False)
    stimuli = tle.read_stimuli(path)
    assert stimuli.texts == ("the cat", "the dog sat on")
    assert list(stimuli.table["rt"]) == ["1", "2", "3", "4"]
    found = tle.token_surprisal(gpt2, stimuli.texts, words=True, **QUIET).word_surprisal(by=stimuli)
    assert found.words == ("the", "cat", "sat", "on")
    assert found.to_pandas()["item"].tolist() == ["a", "a", "b", "b"]
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat\n\nthe dog sat on\n")
    sentences = tle.read_stimuli(lines)
    assert sentences.items == ("1", "3")
    assert sentences.texts == ("the cat", "the dog sat on")
    again = tle.token_surprisal(gpt2, sentences.texts, words=True, **QUIET).word_surprisal(by=sentences)
    torch.testing.assert_close(again.surprisal[[0, 1, 4, 5]], found.surprisal, atol=2e-6, rtol=0)
    assert tle.read_stimuli(path, between="").texts == ("thecat", "the dogsaton")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("item,wort\n1,a\n", {}, "no column word"),
        ("item,word\n", {}, "no word"),
        ("item,word\n1,\n", {}, "row 2 must have a word"),
        ("item,word\n1,a\n2,b\n1,c\n", {}, "'1' comes again"),
        ("item,word,context\n1,a,x\n1,b,y\n", {}, "one context; got 2"),
        ("item,word\n1,a\n", {"item": ("item", "condition")}, "no column condition"),
    ],
)
def test_stimuli_that_are_none(tmp_path, text, options, message):
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        tle.read_stimuli(path, **options)
    with pytest.raises(FileError, match="no file"):
        tle.read_stimuli(tmp_path / "none.csv")


def test_what_has_no_words(gpt2):
    result = tle.token_surprisal(gpt2, TEXTS[0], **QUIET)
    with pytest.raises(InputError, match="words=True"):
        result.word_surprisal()
    with pytest.raises(InputError, match="final"):
        result.word_surprisal(correct=False, final=True)
    kept = tle.token_surprisal(gpt2, TEXTS[:2], words=True, **QUIET)
    for by, error, message in (
        ("line", InputError, "'space', 'character'"),
        (3, InputTypeError, "by must be"),
        ([[]], InputError, "by must have an entry for each of 2"),
        ([[(0, 99)], []], InputError, "document 0, span 0 must have 0 <= start"),
        ([[(0, 3), (2, 5)], []], InputError, "span 1 must begin"),
        ([[(3, 4)], []], InputError, "white space alone"),
        ([[3], []], InputTypeError, "two ints"),
    ):
        with pytest.raises(error, match=message):
            kept.word_surprisal(by=by)
    for frequency in ({"the": "often"}, lambda word: None):
        with pytest.raises(InputTypeError, match="frequency must be a number for each word; got"):
            kept.word_surprisal(frequency=frequency)
    with pytest.raises(InputError, match="begins with"):
        kept.word_surprisal(context="a dog")
    with pytest.raises(InputError, match="keep='positions'"):
        tle.token_surprisal(gpt2, TEXTS, words=True, keep="summary", **QUIET)
    with pytest.raises(InputError, match="name sites"):
        tle.token_surprisal(gpt2, TEXTS, layers=[0], **QUIET)


def test_parts_of_a_corpus_merge_to_the_whole(gpt2, tmp_path):
    options = {"words": True, "sites": "resid_post"}
    parts = []
    for documents in (range(2), range(2, 4)):
        part = tle.SurprisalAccumulator(gpt2, **options)
        tle.stream(gpt2, TEXTS, [part], count="around", documents=documents, **QUIET)
        parts.append(tle.load_accumulator(part.save(tmp_path / f"{documents.start}.safetensors")))
    parts[0].merge(parts[1])
    merged, whole = parts[0].compute(), tle.token_surprisal(gpt2, TEXTS, **options, **QUIET)
    assert merged.n_tokens == whole.n_tokens == whole.provenance.corpus["tokens"]
    for name in ("surprisal", "site_surprisal", "word_begin", "word_end"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), atol=1e-5, rtol=0)
    path = whole.word_surprisal().save(tmp_path / "words.safetensors")
    again = tle.load(path)
    assert torch.equal(again.surprisal, whole.word_surprisal().surprisal)
    assert again.words == whole.word_surprisal().words
