"""Surprisal of single tokens against the model's own losses and dense logits in float64, however the input is cut up."""

from __future__ import annotations

import math

import pytest
import torch
from hand_made import without_rows
from tiny_models import CONTEXT, VOCAB, cached_model, indifferent_model, kinds

import tl_entropy as tle
from tl_entropy import functional
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError

pytestmark = pytest.mark.model

QUIET = {"progress": False}
ROWS = ("document", "position", "token", "span", "n_bytes", "n_characters", "rank", "top_tokens")
VALUES = ("surprisal", "entropy", "varentropy", "top_log_probs")
EMOJI = "naïve 🙂👨‍👩‍👧\r\n שלום\tمرحبا e\u0301"


def ids(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def laws(model, text, bos=True):
    """Log-probabilities [pos, vocab] of each token of a text after the first, or of all behind a begin token."""
    row = torch.tensor([[0] * bos + ids(model, text)])
    return model(row, return_type="logits")[0, :-1].double().log_softmax(-1), row[0, 1:]


def same(a, b, atol=1e-5):
    for name in ROWS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in VALUES:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert (a.texts, a.strings) == (b.texts, b.strings)


def test_every_number_is_that_of_the_models_own_output(any_model, texts):
    result = tle.token_surprisal(any_model, texts, top_k=3, prepend_bos=True, **QUIET)
    for document, text in enumerate(texts):
        log_p, realised = laws(any_model, text)
        mine = result.select(documents=document)
        assert torch.equal(mine.token, realised)
        assert mine.position.tolist() == list(range(len(realised)))
        expected = -log_p.gather(1, realised[:, None])[:, 0]
        torch.testing.assert_close(mine.surprisal, expected, atol=2e-5, rtol=1e-6)
        torch.testing.assert_close(mine.entropy, functional.shannon_entropy(log_p), atol=2e-5, rtol=1e-6)
        torch.testing.assert_close(mine.varentropy, functional.varentropy(log_p), atol=1e-4, rtol=1e-5)
        assert torch.equal(mine.rank, (log_p > -expected[:, None] + 1e-9).sum(1))
        torch.testing.assert_close(mine.top_log_probs.double(), log_p.topk(3).values, atol=2e-5, rtol=0)
    assert result.unit == "nats"


@pytest.mark.skipif("bridge" not in kinds(), reason="the indifferent model is a bridge")
@pytest.mark.parametrize("keep", ["positions", "summary"])
def test_a_model_that_holds_all_tokens_equally_probable_gets_nothing_right(keep, texts):
    result = tle.token_surprisal(indifferent_model(), texts, keep=keep, **QUIET)
    rates = result.rates().set_index("quantity")["value"]
    assert rates["perplexity"] == pytest.approx(VOCAB)
    assert rates["accuracy"] == 0.0
    if keep == "positions":
        assert bool((result.rank == VOCAB - 1).all())


def test_the_loss_is_transformer_lenss_own(any_model, texts):
    for text in texts[:2]:
        row = torch.tensor([[0, *ids(any_model, text)]])
        with torch.no_grad():
            own = any_model(row, return_type="loss")
        assert tle.token_surprisal(any_model, text, prepend_bos=True, **QUIET).loss() == pytest.approx(own.item(), abs=2e-5)


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_without_a_begin_token_the_first_token_is_not_predicted(gpt2, texts):
    result = tle.token_surprisal(gpt2, texts, prepend_bos=False, **QUIET)
    for document, text in enumerate(texts):
        mine = result.select(documents=document) if len(ids(gpt2, text)) > 1 else None
        if mine is None:
            assert document not in result.documents
            continue
        log_p, realised = laws(gpt2, text, bos=False)
        assert mine.position.tolist() == list(range(1, len(realised) + 1))
        torch.testing.assert_close(mine.surprisal, -log_p.gather(1, realised[:, None])[:, 0], atol=2e-5, rtol=0)
        first = mine.span[0, 0].item()
        assert mine.n_bytes.sum() == len(text.encode()) - len(text[:first].encode()), "nor does it cost bytes"
        assert mine.texts[document] == text


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_any_batch_size_gives_the_same(gpt2, texts, batch_size):
    texts = [*texts, EMOJI]
    same(
        tle.token_surprisal(gpt2, texts, batch_size=batch_size, **QUIET),
        tle.token_surprisal(gpt2, texts, batch_size=4, **QUIET),
    )


def test_long_texts_are_predicted_across_the_ends_of_windows(gpt2):
    text = "the cat sat on the mat and the dog " * 20
    body = ids(gpt2, text)
    assert len(body) > 2 * CONTEXT
    whole = tle.token_surprisal(gpt2, text, window=16, **QUIET)
    assert whole.position.tolist() == list(range(len(body)))
    assert whole.n_bytes.sum() == len(text.encode())
    room = 15
    for position in (0, 5, room, room + 1, 3 * room):  # the token at 15 is the first of the second window
        start = (position - 1) // room * room if position else 0
        with torch.no_grad():
            row = torch.tensor([[0, *body[start:position]]])
            expected = -gpt2(row, return_type="logits")[0, -1].double().log_softmax(-1)[body[position]]
        assert whole.surprisal[position].item() == pytest.approx(expected.item(), abs=2e-5)
    overlapping = tle.token_surprisal(gpt2, text, window=16, stride=4, **QUIET)
    assert overlapping.position.tolist() == list(range(len(body)))
    assert torch.equal(overlapping.token, whole.token)
    assert not torch.allclose(overlapping.surprisal, whole.surprisal)


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_positions_are_those_of_the_tokens_spoken_of(gpt2, texts):
    whole = tle.token_surprisal(gpt2, texts, **QUIET)
    some = tle.token_surprisal(gpt2, texts, positions=[0, -1], **QUIET)
    last = {d: int(whole.position[whole.document == d].max()) for d in whole.documents}
    places = list(zip(whole.document.tolist(), whole.position.tolist(), strict=True))
    chosen = [i for i, (document, position) in enumerate(places) if position in (0, last[document])]
    for name in ("document", "position", "token", "span", "n_bytes"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[chosen]), name
    torch.testing.assert_close(some.surprisal, whole.surprisal[chosen], atol=1e-5, rtol=0)
    same(
        tle.token_surprisal(gpt2, texts, positions=slice(1, 3), **QUIET),
        tle.token_surprisal(gpt2, texts, positions=[1, 2], **QUIET),
    )


def test_special_tokens_are_counted_only_where_asked_for(gpt2):
    row = torch.tensor([[0, 20, 21, 0, 22, 23]])
    result = tle.token_surprisal(gpt2, row, **QUIET)
    assert result.token.tolist() == [20, 21, 22, 23], "the token behind a special one is predicted"
    assert result.position.tolist() == [0, 1, 3, 4]
    assert tle.token_surprisal(gpt2, row, include_special=True, **QUIET).token.tolist() == [20, 21, 0, 22, 23]


def test_bytes_and_characters_add_up_to_the_text(gpt2):
    result = tle.token_surprisal(gpt2, [EMOJI, "plain"], **QUIET)
    documents = result.per_document()
    assert documents["bytes"].tolist() == pytest.approx([len(EMOJI.encode()), 5], rel=1e-12)
    assert documents["characters"].tolist() == pytest.approx([len(EMOJI), 5], rel=1e-12)
    expected = result.surprisal.sum().item() / math.log(2) / (len(EMOJI.encode()) + 5)
    assert result.bits_per_byte() == pytest.approx(expected, rel=1e-12)
    shared = result.span[result.document == 0].tolist()
    assert any(shared.count(span) > 1 for span in shared), "some characters are several tokens"


def test_ids_have_a_text_where_it_has_those_ids(gpt2):
    known, cut = ids(gpt2, "the cat sat 🙂 on"), ids(gpt2, "🙂")[1:] + ids(gpt2, "the")
    result = tle.token_surprisal(gpt2, [torch.tensor(known), torch.tensor(cut)], **QUIET)
    assert result.texts == {0: "the cat sat 🙂 on"}, "the second begins inside a character"
    assert (result.span[result.document == 1] == -1).all()
    assert result.n_bytes[result.document == 1].isnan().all()
    with pytest.raises(InputError, match="bits per byte need every document's text"):
        result.bits_per_byte()
    assert result.select(documents=0).bits_per_byte() > 0
    assert "bits per byte" not in result.rates()["quantity"].tolist()
    assert math.isfinite(result.loss())


def test_a_text_that_begins_with_the_begin_token_itself(gpt2):
    text = "<|endoftext|>the cat"
    result = tle.token_surprisal(gpt2, text, prepend_bos=False, **QUIET)
    assert result.token.tolist() == ids(gpt2, "the cat")
    assert result.texts == {0: "the cat"}, "the begin token is no part of it"
    assert ["the cat"[start:end] for start, end in result.span.tolist()] == result.tokens()
    assert result.n_bytes.sum() == len("the cat") == result.provenance.corpus["bytes"]
    for inputs, prepend_bos in (("the cat", True), (text, True), (torch.tensor([0, *ids(gpt2, "the cat")]), False)):
        same(tle.token_surprisal(gpt2, inputs, prepend_bos=prepend_bos, **QUIET), result)


def test_places_that_are_not_known_leave_the_text_unknown(gpt2, monkeypatch):
    expected = tle.token_surprisal(gpt2, "the cat", **QUIET)
    monkeypatch.setattr("tl_entropy.analyses.tokens.rows.placed", lambda *_: None)
    result = tle.token_surprisal(gpt2, "the cat", **QUIET)
    assert (result.span == -1).all()
    assert result.texts == {}
    assert torch.equal(result.surprisal, expected.surprisal)
    with pytest.raises(InputError, match="on a model with a fast tokenizer"):
        result.bits_per_byte()


@pytest.mark.parametrize("batch_size", [1, None])
def test_the_text_of_ids_is_known_whatever_part_of_it_is_counted(gpt2, batch_size):
    text = "the cat sat on the mat and the dog " * 20
    options = {"window": 16, "positions": slice(-5, None), "batch_size": batch_size}
    from_ids = tle.token_surprisal(gpt2, torch.tensor([0, *ids(gpt2, text)]), **options, **QUIET)
    same(from_ids, tle.token_surprisal(gpt2, text, **options, **QUIET))
    assert from_ids.lengths == {0: len(ids(gpt2, text))}


def test_a_result_of_fewer_bytes_than_were_read_says_so(gpt2):
    text = "the cat<|endoftext|> sat"
    assert f"of {len('the cat sat')} of the {len(text)} bytes read" in repr(tle.token_surprisal(gpt2, text, **QUIET))
    assert "bytes read" not in repr(tle.token_surprisal(gpt2, "the cat sat", **QUIET))


def test_words_of_which_a_token_is_missing_are_not_whole(gpt2):
    text = "日 a xx😀"
    whole = tle.token_surprisal(gpt2, text, **QUIET)
    parts = whole.words(r"\S+")
    emoji = parts[parts["word"] == "xx😀"]
    assert parts["parts"].max() == len(emoji) > 4, "several tokens share the last character"
    first = tle.token_surprisal(gpt2, text, prepend_bos=False, **QUIET).words(r"\S+")
    assert (first["word"] != "日").all(), "its first token is not predicted"
    for positions in (slice(0, -1), slice(0, -2)):
        for cut in (whole.select(positions=positions), tle.token_surprisal(gpt2, text, positions=positions, **QUIET)):
            assert (cut.words(r"\S+")["word"] != "xx😀").all()


def test_results_can_be_saved(gpt2, texts, tmp_path):
    result = tle.token_surprisal(gpt2, [*texts, torch.tensor([20, 21])], **QUIET)
    again = tle.load(result.save(tmp_path / "tokens.safetensors"))
    same(again, result, atol=0)
    assert again.rates().equals(result.rates())


def test_generated_text_is_measured_like_read_text(gpt2):
    result = tle.token_surprisal(gpt2, "the cat", max_new_tokens=8, **QUIET)
    prompt = len(ids(gpt2, "the cat"))
    assert result.generated.tolist() == [False] * prompt + [True] * (result.n_tokens - prompt)
    assert (result.rank[result.generated] == 0).all(), "greedy text is what the model thinks most probable"
    assert result.to_pandas()["generated"].tolist() == result.generated.tolist()


def test_interventions_hold(gpt2, texts):
    edit = tle.ablate("attn_out.1")
    result = tle.token_surprisal(gpt2, texts[0], interventions=edit, **QUIET)
    row = torch.tensor([[0, *ids(gpt2, texts[0])]])
    with torch.no_grad():
        own = gpt2.run_with_hooks(row, return_type="loss", fwd_hooks=list(edit.hooks))
    assert result.loss() == pytest.approx(own.item(), abs=2e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_summary_has_the_same_rates(gpt2, texts, batch_size):
    texts = [*texts, EMOJI, "the cat sat on the mat and the dog " * 20]
    kept = tle.token_surprisal(gpt2, texts, **QUIET).rates()
    summed = tle.token_surprisal(gpt2, texts, keep="summary", batch_size=batch_size, window=CONTEXT, **QUIET)
    assert kept["quantity"].tolist() == summed.rates()["quantity"].tolist()
    for column in ("value", "se", "tokens", "documents"):
        assert summed.rates()[column].tolist() == pytest.approx(kept[column].tolist(), rel=1e-5), column
    assert repr(summed).splitlines()[1:] == repr(tle.token_surprisal(gpt2, texts, **QUIET)).splitlines()[1:]


def test_a_summary_keeps_nothing_of_documents_that_have_ended(gpt2, texts):
    accumulator = tle.SurprisalAccumulator(gpt2, keep="summary")
    tle.stream(gpt2, texts * 3, [accumulator], count="predicted", batch_size=2, **QUIET)
    held = accumulator._rows
    assert sum(len(part["token"]) for part in held._parts) == 0
    assert len(held._parts) == 1
    assert not held._given
    assert not held._lengths


@pytest.mark.parametrize("keep", ["positions", "summary"])
def test_parts_merge_to_the_whole(gpt2, texts, keep):
    inputs = [*texts, EMOJI, torch.tensor(ids(gpt2, "the cat sat")), texts[0]]
    whole = tle.token_surprisal(gpt2, inputs, keep=keep, **QUIET)
    parts = []
    for shard in (inputs[:2], inputs[2:3], inputs[3:]):
        parts.append(tle.SurprisalAccumulator(gpt2, keep=keep))
        tle.stream(gpt2, shard, [parts[-1]], count="predicted", **QUIET)
    first, *others = parts
    for other in others:
        first.merge(other)
    merged = first.compute()
    if keep == "positions":
        same(merged, whole)
        assert merged.names == whole.names
    else:
        torch.testing.assert_close(merged.sums, whole.sums, rtol=1e-6, atol=0)
        torch.testing.assert_close(merged.products, whole.products, rtol=1e-6, atol=0)
    with pytest.raises(InputError, match="cannot merge: keep"):
        first.merge(tle.SurprisalAccumulator(gpt2, keep="summary" if keep == "positions" else "positions"))


def test_on_a_pass_that_counts_the_tokens_read(gpt2, texts):
    lens, surprisal = tle.LensAccumulator(gpt2, sites="resid_post.2"), tle.SurprisalAccumulator(gpt2)
    tle.stream(gpt2, texts, [lens, surprisal], **QUIET)
    read, predicted = lens.compute(), surprisal.compute()
    assert (predicted.position > 0).all(), "no begin token was counted"
    whole = tle.token_surprisal(gpt2, texts, **QUIET)
    torch.testing.assert_close(predicted.surprisal, whole.surprisal[whole.position > 0], atol=1e-5, rtol=0)
    behind = torch.cat([read.document[1:] == read.document[:-1], torch.tensor([False])])
    torch.testing.assert_close(predicted.entropy.float(), read.entropy[behind, 0, 0], atol=1e-5, rtol=0)


def test_nan_names_hook_and_position_and_keeps_the_rest(gpt2, texts):
    def poison(activation, hook):
        if activation.shape[1] > 8:
            activation[0, 4, 3] = torch.nan
        return activation

    ordered = sorted(texts, key=lambda text: len(ids(gpt2, text)))[:3]
    short, long = ordered[:1], ordered[-1:] if len(ids(gpt2, ordered[-1])) > 7 else [EMOJI]
    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", poison)]), pytest.raises(NonFiniteError) as caught:
        tle.token_surprisal(gpt2, short + long, batch_size=1, **QUIET)
    assert caught.value.partial.documents == (0,)


def test_half_precision_models(gpt2):
    from tiny_models import make_model

    model = make_model("gpt2", kinds()[0], dtype=torch.bfloat16)
    result = tle.token_surprisal(model, "the cat sat on the mat", **QUIET)
    reference = tle.token_surprisal(cached_model("gpt2", kinds()[0]), "the cat sat on the mat", **QUIET)
    torch.testing.assert_close(result.surprisal, reference.surprisal, atol=0.3, rtol=0)
    assert result.provenance.dtype == "bfloat16"


def test_bad_arguments(gpt2):
    for arguments, message in (
        ({"top_k": -1}, "top_k must be"),
        ({"top_k": VOCAB + 1}, "top_k must be"),
        ({"keep": "all"}, "keep must be one of"),
        ({"keep": "summary", "top_k": 2}, "top_k belongs to single tokens"),
        ({"precision": "int8"}, "precision must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            tle.token_surprisal(gpt2, "the cat", **arguments, **QUIET)
    with pytest.raises(InputTypeError, match="'orders' is not an option"):
        tle.token_surprisal(gpt2, "the cat", orders=2, **QUIET)


def test_a_text_of_nothing_predicted_prints(gpt2):
    result = without_rows(tle.token_surprisal(gpt2, torch.tensor([25, 26]), prepend_bos=False, **QUIET))
    assert result.n_tokens == 0
    assert "0 tokens of 0 documents" in repr(result)
    assert result.to_pandas().empty
    assert result.per_document().empty


def test_rates_of_a_text_with_words_left_out_are_warned_of(gpt2, texts, recwarn):
    for keep in ("positions", "summary"):
        whole = tle.token_surprisal(gpt2, texts, prepend_bos=True, keep=keep, **QUIET)
        whole.bits_per_byte(), whole.bits_per_character(), whole.rates()
        assert not [w for w in recwarn if "are left out" in str(w.message)]
        part = tle.token_surprisal(gpt2, ["the cat<|endoftext|> sat", "the"], prepend_bos=True, keep=keep, **QUIET)
        assert part.provenance.corpus["special"] == 1
        said = r"without 1 special token of the texts, .*, rates .* of 14 of the 27 bytes read"
        for ask in (part.bits_per_byte, part.bits_per_character, part.rates, getattr(part, "per_document", part.rates)):
            with pytest.warns(UserWarning, match=said) as seen:
                ask()
            assert seen[0].filename == __file__
        str(part)  # says it in its last line
    both = tle.token_surprisal(gpt2, "the cat<|endoftext|> sat", prepend_bos=True, include_special=True, **QUIET)
    assert "special" not in both.provenance.corpus


@pytest.mark.model
@pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")
def test_predictions_that_no_lens_gives_are_read_from_what_the_unembedding_is_given():
    model, tokens = cached_model("bert decoder", "bridge"), torch.tensor([[5, 6, 7, 8, 9, 10], [3, 4, 5, 6, 7, 8]])
    with pytest.raises(ModelError, match=r"can't be reproduced from its last residual stream"):
        tle.lens_entropy(model, tokens, progress=False)
    with torch.no_grad():
        log_p = model.original_model(tokens).logits.double().log_softmax(-1)
    expected = -log_p[:, :-1].gather(-1, tokens[:, 1:, None]).flatten()
    _, cache = model.run_with_cache(tokens)
    for inputs in (tokens, (cache, tokens)):
        found = tle.token_surprisal(model, inputs, progress=False)
        torch.testing.assert_close(found.surprisal, expected, rtol=0, atol=2e-6)
    summed = tle.conditional_entropy(model, tokens, progress=False)
    torch.testing.assert_close(summed.entropy, expected, rtol=0, atol=5e-6)
    edit = tle.ablate("mlp_out.0")
    reliance = tle.token_reliance(model, tokens, edit, metrics=("loss",), progress=False).values.flatten()
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda x, hook: x * 0)]):
        edited = tle.token_surprisal(model, tokens, progress=False)
    torch.testing.assert_close(reliance, edited.surprisal - expected, rtol=0, atol=5e-6)
