"""What is known of a model's tokens, with a tokenizer and without."""

from __future__ import annotations

from types import SimpleNamespace as Holder

import pytest
import torch
from spans import made
from tiny_models import VOCAB, cached_model, hf_model, kinds, make_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.vocabulary import Vocabulary
from tl_entropy.errors import InputError

BRIDGE = kinds()[0]


def unnamed(name="gpt2", **ids):
    """A model without a tokenizer, whose Hugging Face configuration names these ids."""
    model = make_model(name, BRIDGE)
    model.tokenizer = None
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for config in (model.cfg, model.original_model.config, model.original_model.generation_config):
            setattr(config, key, None)
        setattr(model.original_model.config, key, ids.get(key))
    return model


def speaker(n_ids=100, tokenizer=None, source=None, **cfg):
    adapter = Vocabulary()
    adapter.model = Holder(
        tokenizer=tokenizer, cfg=Holder(d_vocab=n_ids, **cfg), W_U=torch.zeros(1, n_ids), original_model=source
    )
    return adapter


def test_special_ids_are_the_tokenizers_where_there_is_one():
    tokenizer = Holder(bos_token_id=5, eos_token_id=6, pad_token_id=None, all_special_ids=[5, 6, 7])
    adapter = speaker(tokenizer=tokenizer, bos_token_id=1, eos_token_id=2)
    assert (adapter.begin, adapter.special_ids, adapter.pad_id) == (5, {5, 6, 7}, 0)
    assert adapter.ends == (2,), "TransformerLens stops where its configuration says"
    chat = Holder(generation_config=Holder(eos_token_id=[2, 3]))
    assert speaker(tokenizer=tokenizer, eos_token_id=2, source=chat).ends == (2, 3), "or where its settings for generation do"
    assert speaker(tokenizer=tokenizer).ends == (6,)
    assert speaker(tokenizer=Holder(bos_token_id=None, eos_token_id=None)).ends == ()


@pytest.mark.parametrize(
    ("adapter", "begin", "special", "ends", "pad"),
    [
        (speaker(), None, set(), (), 0),
        (speaker(bos_token_id=1, eos_token_id=[2, 3]), 1, {1, 2, 3}, (2, 3), 0),
        (speaker(source=Holder(config=Holder(bos_token_id=1, pad_token_id=4))), 1, {1, 4}, (), 4),
        (speaker(source=Holder(config=Holder(bos_token_id=None, text_config=Holder(bos_token_id=9)))), 9, {9}, (), 0),
        (speaker(source=Holder(generation_config=Holder(eos_token_id=(7, 8)))), None, {7, 8}, (7, 8), 0),
        (
            speaker(bos_token_id=50256, eos_token_id=-1),
            None,
            set(),
            (),
            0,
        ),  # what a small model inherits from a big one's class
    ],
)
def test_without_a_tokenizer_they_are_the_configurations(adapter, begin, special, ends, pad):
    assert (adapter.begin, adapter.special_ids, adapter.ends, adapter.pad_id) == (begin, special, ends, pad)


def test_what_was_written_ends_with_the_first_token_that_ends_a_text():
    new = torch.tensor([5, 9, 2, 3, 2])
    for ends, kept in (((2,), 3), ((3, 2), 3), ((3,), 4), ((), 5), ((7,), 5), ((5,), 1)):
        assert speaker(eos_token_id=ends).until_end(new).tolist() == new[:kept].tolist()
    assert speaker(eos_token_id=2).until_end(new[:0]).tolist() == []


@pytest.mark.model
def test_a_model_without_a_tokenizer_counts_what_one_with_it_does():
    ids = torch.randint(5, VOCAB, (2, 10), generator=torch.Generator().manual_seed(0))
    begin = torch.zeros(2, 1, dtype=torch.long)
    rows = torch.cat([begin, ids], 1)
    padded = torch.cat([rows, begin, begin], 1)
    with_it, without = cached_model("gpt2", BRIDGE), unnamed(bos_token_id=0, eos_token_id=[0, 3])
    expected = tle.lens_entropy(with_it, rows, progress=False)
    found = tle.lens_entropy(without, rows, progress=False)
    assert torch.equal(found.entropy, expected.entropy)
    assert found.position.tolist() == list(range(10)) * 2
    assert found.provenance.settings["special_ids"] == (0, 3), "which is no matter of course"
    assert "special_ids" not in expected.provenance.settings
    for model in (with_it, without):
        with pytest.raises(InputError, match="may be padding"):
            tle.lens_entropy(model, padded, progress=False)
        shares = tle.head_entropy(model, rows, progress=False).mean_profile("bos_share")
        assert (shares["mean"] > 0).all()


@pytest.mark.model
def test_special_ids_by_hand():
    ids = torch.tensor([[7, 5, 6, 9, 8]])
    model = unnamed()
    assert tle.lens_entropy(model, ids, progress=False).n_tokens == 5
    found = tle.lens_entropy(model, ids, special_ids={9, 7}, progress=False)
    assert found.token.tolist() == [5, 6, 8]
    assert found.provenance.settings["special_ids"] == (7, 9)
    begins = unnamed(bos_token_id=7)
    assert tle.lens_entropy(begins, ids, progress=False).position.tolist() == [0, 1, 2, 3]
    assert tle.lens_entropy(begins, ids, special_ids=(), progress=False).token.tolist() == ids[0].tolist(), (
        "7 is a token as any"
    )
    plan = tle.label_plan(model, ids, labels="bigram", special_ids=[9])
    assert plan.texts("bigram", {i: f"<{i}>" for i in range(10)}) == ["<5><6>", "<7><5>"], "no n-gram goes over a special token"


@pytest.mark.model
def test_text_is_generated_without_a_tokenizer_until_an_end():
    model = unnamed(eos_token_id=[2, 3])
    whole = tle.lens_entropy(model, torch.tensor([[5, 6]]), max_new_tokens=4, include_special=True, progress=False)
    first = int(whole.token[2])
    model = unnamed(eos_token_id=[first, 3])
    ended = tle.lens_entropy(model, torch.tensor([[5, 6]]), max_new_tokens=4, include_special=True, progress=False)
    assert ended.token.tolist() == [5, 6, first]


def test_rows_of_the_unembedding_without_a_token():
    named = Holder(get_vocab=lambda: {"a": 0, "b": 2, "c": 200}, decode=lambda ids, **_: {0: "a", 2: "b"}[ids[0]])
    adapter = speaker(n_ids=5, tokenizer=named)
    assert adapter.token_ids.tolist() == [0, 2], "one beyond the unembedding is not predicted"
    assert adapter.strings([0, 1, 2, 4]) == {0: "a", 1: "<1>", 2: "b", 4: "<4>"}
    assert speaker().token_ids is None
    assert speaker().strings([3]) == {3: "<3>"}


@pytest.mark.model
def test_ids_that_the_model_reads():
    model = cached_model("gpt2", BRIDGE)
    assert tle.Adapter(model).n_ids == VOCAB
    assert hf_model("gpt2").config.vocab_size == VOCAB


def test_parts_of_characters_are_written_as_their_bytes():
    adapter = tle.Adapter(tle.demo_model())
    ids = adapter.encode("naïve 日本")
    strings = [adapter.strings(ids)[i] for i in ids]
    assert not any("\ufffd" in text for text in strings)
    parts = "".join(text for text in strings if text.startswith("<0x"))
    assert parts.startswith("<0xC3><0xAF>")
    assert parts.endswith("".join(f"<0x{byte:02X}>" for byte in "本".encode()))
    result = tle.lens_entropy(tle.demo_model(), "日", top_k=1, progress=False)
    assert result.tokens()[0].startswith("<0x")
    whole = adapter.encode("\ufffd")
    assert "".join(adapter.strings(whole)[i] for i in whole) in ("\ufffd", "<0xEF><0xBF><0xBD>")


def test_without_known_bytes_they_are_what_the_tokenizer_decodes_them_to():
    tokenizer = Holder(decode=lambda ids, **_: "\ufffd", get_vocab=lambda: {"x": 3})
    assert speaker(tokenizer=tokenizer).strings([3]) == {3: "\ufffd"}


def fast(name):
    unknown = "[UNK]" if name == "word piece" else "<unk>"
    return PreTrainedTokenizerFast(tokenizer_object=made(name), unk_token=unknown, bos_token=unknown)


@pytest.mark.parametrize("name", ["unigram", "bytes to fall back to"])
def test_sentence_pieces_say_where_words_begin(name):
    tokenizer = fast(name)
    begins, ended = speaker(n_ids=len(tokenizer), tokenizer=tokenizer).word_edges
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    white = {f"<0x{byte:02X}>" for byte in b"\t\n\v\f\r\x1c\x1d\x1e\x1f "} | {"<unk>"}  # what is special ends words, too
    assert begins.tolist() == [piece.startswith("▁") or piece in white for piece in pieces]
    assert ended.tolist() == [piece.endswith("▁") or piece in white for piece in pieces]
    assert 3 < int(begins.sum()) < len(pieces)


def test_word_pieces_do_not_and_are_refused():
    tokenizer = fast("word piece")
    with pytest.raises(
        InputError, match="words=True needs to know which tokens begin a word, and this tokenizer's tokens do not"
    ):
        speaker(n_ids=len(tokenizer), tokenizer=tokenizer).word_edges  # noqa: B018 (asked, and refused)


def test_bytes_without_the_spaces_of_a_text_do_not_and_are_refused():
    """As CLIP's, whose pieces say where a word ends, and those of a text that was cut at its spaces before."""
    for suffix in ("</w>", ""):
        pieces = Tokenizer(models.BPE(end_of_word_suffix=suffix))
        cuts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        pieces.pre_tokenizer = pre_tokenizers.Sequence(cuts)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        pieces.train_from_iterator(["the cat"], trainers.BpeTrainer(initial_alphabet=alphabet, end_of_word_suffix=suffix))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces)
        with pytest.raises(InputError, match=r"words=True needs to know .* or leave out its spaces"):
            speaker(n_ids=len(tokenizer), tokenizer=tokenizer).word_edges  # noqa: B018 (asked, and refused)


def test_a_tokenizer_without_letters_says_where_its_numbers_begin():
    """A space is kept, whatever becomes of letters: they are dropped, or raise."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.train_from_iterator(["1 22 31"], trainers.BpeTrainer())
    raising = Tokenizer(models.Unigram([("▁", -1.0), ("▁1", -1.0), ("1", -1.0)]))
    raising.pre_tokenizer = pre_tokenizers.Metaspace()
    for one in (pieces, raising):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=one)
        begins, _ = speaker(n_ids=len(tokenizer), tokenizer=tokenizer).word_edges
        assert begins.tolist() == [piece[0] in "Ġ▁" for piece in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]


@pytest.mark.model
def test_special_tokens_that_have_no_name_are_special_and_no_padding(tmp_path):
    """As the tokens of Llama 3's chats, which its tokenizer has as special ones and does not call by a name."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made("byte-level").from_str(made("byte-level").to_str()))
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<user>", special=True)])
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path)
    model = make_model("gpt2", BRIDGE)
    model.tokenizer = tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "<s><user>the cat<tool><user> sat"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    user, tool = tokenizer.convert_tokens_to_ids(["<user>", "<tool>"])
    assert ids.count(user) == 2
    assert user not in tokenizer.all_special_ids
    found = tle.token_surprisal(model, text, progress=False)
    assert found.token.tolist() == [i for i in ids[1:] if i != user]
    assert tool in found.token.tolist()
    assert found.n_bytes.sum() == len("the cat<tool> sat")
    rows = torch.tensor([ids, ids])  # begin with two special tokens each
    assert tle.token_surprisal(model, rows, progress=False).token.tolist() == found.token.tolist() * 2
    padded = torch.tensor([[*ids, tokenizer.eos_token_id, tokenizer.eos_token_id], [*ids, *ids[-2:]]])
    with pytest.raises(InputError, match="may be padding"):
        tle.token_surprisal(model, padded, progress=False)


@pytest.mark.model
def test_words_of_sentence_pieces_without_bytes_are_those_of_brute_force(tmp_path):
    model = make_model("llama" if BRIDGE == "bridge" else "gpt2", BRIDGE)
    fast("unigram").save_pretrained(tmp_path)
    model.tokenizer = tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)  # from a place, as TransformerLens needs it
    text = "the cat and the hat"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    firsts = [i for i, piece in enumerate(pieces) if piece.startswith("▁") or i == tokenizer.unk_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.bos_token_id, *ids]]), return_type="logits")[0]
    log_p = logits.double().log_softmax(-1)
    mass = log_p[:, firsts].exp().sum(-1).log()
    costs = []
    for i, token in enumerate(ids):
        if pieces[token].startswith("▁"):  # the word before ends here, whatever comes
            costs = [*costs[:-1], *(cost - float(mass[i]) for cost in costs[-1:]), float(mass[i]) if costs else 0.0]
        costs[-1] -= float(log_p[i, token])
    found = tle.token_surprisal(model, text, words=True, prepend_bos=True, progress=False).word_surprisal()
    assert list(found.words) == text.split()
    assert found.surprisal[:, 0].tolist() == pytest.approx(costs, abs=5e-5)


@pytest.mark.skipif(BRIDGE != "bridge", reason="of a TransformerBridge")
@pytest.mark.parametrize(("special", "begins"), [({}, False), ({"eos_token": "<end>"}, True), ({"cls_token": "<end>"}, False)])
def test_a_begin_token_that_transformer_lens_made_up_is_not_put_before_texts(special, begins, tmp_path):
    """Its row would be one of those that no token has, on a vocabulary padded to more rows."""
    from transformer_lens.model_bridge import TransformerBridge

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(["the cat sat"], trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=pieces, **special).save_pretrained(tmp_path)
    tokenizer, own = (PreTrainedTokenizerFast.from_pretrained(tmp_path) for _ in range(2))
    model = TransformerBridge.boot_transformers("tiny/x", hf_model=hf_model("llama"), tokenizer=tokenizer, device="cpu")
    found = [tle.token_surprisal(model, "the cat sat", prepend_bos=asked, progress=False) for asked in (None, True, False)]
    default, with_it, without = (one.n_tokens for one in found)
    assert (default, with_it) == (without + begins, without + 1), "nothing predicts the first of all"
    assert found[0].provenance.settings["prepend_bos"] is begins
    assert tle.Adapter(model).token_ids.tolist() == list(range(len(own))), "a token that was made up has no row of its own"


@pytest.mark.skipif("hooked" not in kinds(), reason="of a HookedTransformer")
@pytest.mark.parametrize("d_vocab_out", [2, 29, 50])
def test_a_model_may_predict_more_or_fewer_tokens_than_it_reads(d_vocab_out):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=1, d_model=16, n_heads=2, d_head=8, d_mlp=32, d_vocab=30, d_vocab_out=d_vocab_out, n_ctx=16, act_fn="relu",
        normalization_type="LN", device="cpu", seed=0,
    )  # fmt: skip
    model, tokens = HookedTransformer(config).eval(), torch.tensor([[3, 28, 7, 28, 1]])
    with torch.no_grad():
        model.W_U.mul_(9)
        log_p = model(tokens)[0].double().log_softmax(-1)
    options = {"interventions": tle.mask_attention(2), "layers": [-1], "progress": False}
    found = tle.lens_entropy(model, tokens, sites="resid_post", layers=[-1], progress=False)
    torch.testing.assert_close(found.entropy[:, 0, 0].double(), -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=0)
    assert tle.lens_entropy(model, tokens, sites="resid_post", **options).entropy.isfinite().all()
    assert Adapter(model).short_row().shape[1] > 8
    if d_vocab_out == 2:
        for ask in (tle.token_surprisal, lambda *given, **more: tle.gradient_reliance(*given, "embed", **more)):
            with pytest.raises(InputError, match="targets must be below the vocabulary's 2 tokens; got 28"):
                ask(model, tokens, progress=False)
