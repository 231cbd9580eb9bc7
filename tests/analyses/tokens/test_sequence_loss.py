"""Conditional entropy by differences: the causal identity, closed forms of losses that look ahead, padding, and refusals."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch
from hypothesis import given, strategies as st
from tiny_models import CONTEXT, VOCAB, cached_model, kinds, make_model

from tl_entropy.analyses.tokens import model_loss, sequence_loss
from tl_entropy.analyses.tokens.sequence_loss import ModelLoss, conditional_entropy
from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError
from tl_entropy.functional.lens.readout import vocabulary_statistics
from tl_entropy.results.loading import load

pytestmark = pytest.mark.model

QUIET = {"progress": False}
METHODS = ("truncation", "pad_shift")


def ids_of(text, *, bos):
    return [0] * bos + cached_model("gpt2", kinds()[0]).tokenizer(text, add_special_tokens=False)["input_ids"]


def own_losses(model, ids):
    """The model's loss on every token of a row but the first, in float64 from its own logits."""
    row = torch.tensor([ids])
    with torch.no_grad():
        log_probs = model(row, return_type="logits")[0, :-1].double().log_softmax(-1)
    return -log_probs.gather(1, row[0, 1:, None])[:, 0]


def slow(model, ids, *, bos, width):
    """The loss on each predicted token, given what the window that ends at it holds: one pass for each token."""
    front, body = ids[:bos], ids[bos:]
    found = []
    for position in range(0 if bos else 1, len(body)):
        start = max(0, position + 1 - (width - bos))
        found.append(own_losses(model, front + body[start : position + 1])[-1])
    return torch.stack(found)


def totals_of(loss, sequences):
    """Total losses of sequences, each by itself."""
    found = []
    for sequence in sequences:
        row = torch.tensor([sequence])
        found.append(loss(row, torch.ones_like(row, dtype=torch.bool)).double().sum())
    return torch.stack(found)


def leaky(tokens, mask):
    """A loss with a memory: every token costs its id times the mean id of the sequence, as far as it is real."""
    real = torch.where(mask, tokens, 0).double()
    return mask * real * real.sum(1, keepdim=True) / mask.sum(1, keepdim=True) / 1e4


# --- causal models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_on_a_causal_model_it_is_the_tokens_own_loss(any_model, texts, method, bos):
    result = conditional_entropy(any_model, texts, method=method, window=24, prepend_bos=bos, **QUIET)
    rows = [ids_of(text, bos=bos) for text in texts]
    assert max(map(len, rows)) < 24
    expected = torch.cat([own_losses(any_model, ids) for ids in rows if len(ids) > 1])
    torch.testing.assert_close(result.entropy, expected, atol=2e-5, rtol=0)
    assert result.entropy.dtype == torch.float64
    assert result.position.tolist() == [p for ids in rows for p in range(1 - bos, len(ids) - bos)]
    assert result.token.tolist() == [token for ids in rows for token in ids[1:]]


@pytest.mark.parametrize("method", METHODS)
def test_it_is_transformer_lenss_loss(gpt2, texts, method):
    result = conditional_entropy(gpt2, texts, method=method, window=20, **QUIET)
    for document, text in enumerate(texts):
        row = torch.tensor([ids_of(text, bos=True)])
        with torch.no_grad():
            loss = gpt2(row, return_type="loss", loss_per_token=True)
        mine = result.select(documents=document).entropy.float()
        torch.testing.assert_close(mine, loss.flatten(), atol=2e-5, rtol=0)


@pytest.mark.thinned
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("bos", "width"), [(True, 2), (True, 5), (False, 2), (False, 5), (True, 17), (False, 18)])
def test_longer_documents_slide_token_by_token(gpt2, method, bos, width):
    text = "the cat sat on the mat, and the dog sat"
    result = conditional_entropy(gpt2, [text, "the cat"], method=method, window=width, prepend_bos=bos, **QUIET)
    ids = ids_of(text, bos=bos)
    assert len(ids) > 5
    expected = slow(gpt2, ids, bos=bos, width=width)
    mine = result.select(documents=0)
    assert mine.position.tolist() == list(range(1 - bos, len(ids) - bos))
    torch.testing.assert_close(mine.entropy, expected, atol=2e-5, rtol=0)
    assert result.provenance.corpus["window"] == width
    assert result.provenance.corpus["cut"] == (2 if width == 2 and len(ids_of("the cat", bos=bos)) > 2 else len(ids) > width)


def test_documents_longer_than_the_context(gpt2):
    ids = torch.randint(1, VOCAB, (CONTEXT + 7,), generator=torch.Generator().manual_seed(0))
    result = conditional_entropy(gpt2, ids, **QUIET)
    torch.testing.assert_close(result.entropy, slow(gpt2, ids.tolist(), bos=False, width=CONTEXT), atol=5e-5, rtol=0)
    assert result.provenance.settings["window"] == CONTEXT


@pytest.mark.thinned
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_any_batch_size_gives_the_same(gpt2, texts, method, batch_size):
    whole = conditional_entropy(gpt2, texts, method=method, window=16, batch_size=batch_size, **QUIET)
    single = [conditional_entropy(gpt2, text, method=method, window=16, **QUIET) for text in texts]
    assert whole.document.tolist() == [i for i, part in enumerate(single) for _ in range(part.n_tokens)]
    torch.testing.assert_close(whole.entropy, torch.cat([part.entropy for part in single]), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_positions_are_those_of_the_token_spoken_of(gpt2, texts):
    whole = conditional_entropy(gpt2, texts, **QUIET)
    for positions in (0, [2, -1], slice(-3, None), slice(1, 3)):
        part = conditional_entropy(gpt2, texts, positions=positions, **QUIET)
        lengths = [len(ids_of(text, bos=False)) for text in texts]
        chosen = [positions] if isinstance(positions, int) else positions
        expected = []
        for document, length in enumerate(lengths):
            inside = (
                range(length)[chosen] if isinstance(chosen, slice) else [p % length for p in chosen if -length <= p < length]
            )
            expected += [(document, p) for p in sorted(set(inside))]
        assert list(zip(part.document.tolist(), part.position.tolist(), strict=True)) == expected
        places = zip(whole.document.tolist(), whole.position.tolist(), strict=True)
        values = dict(zip(places, whole.entropy.tolist(), strict=True))
        torch.testing.assert_close(part.entropy, torch.tensor([values[key] for key in expected]).double(), atol=1e-5, rtol=0)


def test_special_tokens_count_where_asked(gpt2):
    ids = torch.tensor([5, 9, 0, 12])
    assert conditional_entropy(gpt2, ids, **QUIET).token.tolist() == [9, 12]
    whole = conditional_entropy(gpt2, ids, include_special=True, **QUIET)
    assert whole.token.tolist() == [9, 0, 12]
    torch.testing.assert_close(whole.entropy, own_losses(gpt2, ids.tolist()), atol=2e-5, rtol=0)


def test_texts_and_spans(gpt2):
    text = "the cat sat"
    for given_ in (text, torch.tensor([ids_of(text, bos=True)])):
        result = conditional_entropy(gpt2, given_, **QUIET)
        assert result.texts == {0: text}
        assert "".join(text[start:end] for start, end in result.span.tolist()) == text
        assert "".join(result.tokens()) == text


def test_half_precision():
    model, text = make_model("gpt2", "bridge", dtype=torch.bfloat16), "the cat sat on the mat"
    for method in METHODS:
        result = conditional_entropy(model, text, method=method, window=24, **QUIET)
        full = conditional_entropy(cached_model("gpt2", "bridge"), text, **QUIET)
        torch.testing.assert_close(result.entropy, full.entropy, atol=0.3, rtol=0)


# --- losses that look ahead ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_of_the_whole_sequence_in_closed_form(method):
    """Every token costs c / n: the total is c whatever the length, so the difference is 0, unlike any single loss."""
    model = cached_model("gpt2", kinds()[0])

    def spread(tokens, mask):
        return mask * 3.0 / mask.sum(1, keepdim=True)

    result = conditional_entropy(model, torch.tensor([[5, 6, 7, 8, 9]]), method=method, loss=spread, window=9, **QUIET)
    torch.testing.assert_close(result.entropy, torch.zeros(4).double(), atol=1e-6, rtol=0)

    def square(tokens, mask):  # total n²: token n adds 2 n - 1
        return mask * mask.sum(1, keepdim=True).double()

    result = conditional_entropy(model, torch.tensor([[5, 6, 7, 8, 9]]), method=method, loss=square, window=9, **QUIET)
    assert result.entropy.tolist() == [3.0, 5.0, 7.0, 9.0]
    result = conditional_entropy(model, torch.tensor([[5, 6, 7, 8, 9]]), method=method, loss=square, window=3, **QUIET)
    assert result.entropy.tolist() == [3.0, 5.0, 5.0, 5.0]

    def memory(tokens, mask):  # a better guess the more it has seen: the total falls
        return mask * 6.0 / mask.sum(1, keepdim=True) ** 2

    result = conditional_entropy(model, torch.tensor([[5, 6, 7]]), method=method, loss=memory, window=9, **QUIET)
    assert result.entropy.tolist() == pytest.approx([-3.0, -1.0])
    assert "100.0%" in repr(result)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 4, None])
@pytest.mark.parametrize("bos", [True, False])
def test_a_leaking_loss_against_loops(method, batch_size, bos):
    model, width = cached_model("gpt2", kinds()[0]), 7
    rows = [[5, 90, 17, 33, 260, 7, 8, 120, 41, 2], [200, 3], [4, 4, 4, 5]]
    rows = [[0] * bos + row for row in rows]
    result = conditional_entropy(
        model, [torch.tensor(row) for row in rows], method=method, loss=leaky, window=width, batch_size=batch_size, **QUIET
    )
    expected = []
    for row in rows:
        front, body = row[:bos], row[bos:]
        for position in range(0 if bos else 1, len(body)):
            start = max(0, position + 1 - (width - bos))
            shorter, longer = front + body[start:position], front + body[start : position + 1]
            before, after = totals_of(leaky, [shorter, longer]).tolist()
            expected.append(after - before)
    torch.testing.assert_close(result.entropy, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)


@given(st.lists(st.lists(st.integers(1, VOCAB - 1), min_size=2, max_size=12), min_size=1, max_size=4), st.booleans())
def test_differences_telescope_to_the_loss_of_the_whole(rows, bos):
    rows = [[0] * bos + row for row in rows]
    result = conditional_entropy(
        cached_model("gpt2", kinds()[0]), [torch.tensor(row) for row in rows], loss=leaky, include_special=True, **QUIET
    )
    whole, first = totals_of(leaky, rows), totals_of(leaky, [row[:1] for row in rows])
    assert result.totals()["total"].tolist() == pytest.approx((whole - first).tolist(), abs=1e-9)


def test_a_causal_loss_from_outside_is_the_models_own(gpt2, texts):
    def outside(tokens, mask):
        losses = torch.zeros(tokens.shape)
        losses[:, 1:] = gpt2(tokens, attention_mask=mask.long(), return_type="loss", loss_per_token=True)
        return losses.masked_fill(~torch.nn.functional.pad(mask[:, :-1], (1, 0)), 0)

    for method in METHODS:
        expected = conditional_entropy(gpt2, texts, method=method, window=24, **QUIET)
        result = conditional_entropy(gpt2, texts, method=method, loss=outside, window=24, **QUIET)
        torch.testing.assert_close(result.entropy, expected.entropy, atol=2e-5, rtol=0)


def test_what_a_loss_is_given():
    """Right padding by truncation, and one fixed width with padding on the left by shift."""
    model, seen = cached_model("gpt2", kinds()[0]), []

    def look(tokens, mask):
        seen.extend(zip(tokens.tolist(), mask.int().tolist(), strict=True))
        assert not torch.is_grad_enabled()
        return mask.double()

    ids = torch.tensor([0, 5, 6, 7])
    conditional_entropy(model, ids, loss=look, window=3, method="pad_shift", **QUIET)
    assert seen == [
        ([0, 0, 0], [0, 0, 1]), ([0, 0, 5], [0, 1, 1]), ([0, 5, 6], [1, 1, 1]), ([0, 0, 6], [0, 1, 1]), ([0, 6, 7], [1, 1, 1]),
    ]  # fmt: skip
    seen.clear()
    conditional_entropy(model, ids, loss=look, window=3, batch_size=1, **QUIET)
    assert [tokens for tokens, _ in seen] == [[0], [0, 5], [0, 5, 6], [0, 6], [0, 6, 7]]
    seen.clear()
    conditional_entropy(model, ids, loss=look, **QUIET)
    assert seen[:4] == [
        ([0, 0, 0, 0], [1, 0, 0, 0]), ([0, 5, 0, 0], [1, 1, 0, 0]), ([0, 5, 6, 0], [1, 1, 1, 0]), ([0, 5, 6, 7], [1, 1, 1, 1]),
    ]  # fmt: skip
    assert seen[4:] == [([0, 5], [1, 1])]  # once more, alone
    seen.clear()
    conditional_entropy(model, [ids, ids, ids], loss=look, batch_size=3, **QUIET)
    assert len(seen) == 3 * 4 + 1  # and once only


def test_the_first_token_is_charged_in_both_sums(gpt2):
    """The original drops it from the sum of the shifted window: then all is wrong by exactly that token's loss."""
    ids = [0, 5, 17, 80, 120, 33]
    result = conditional_entropy(gpt2, torch.tensor(ids), method="pad_shift", window=6, **QUIET)
    losses = ModelLoss(Adapter(gpt2))
    row, mask = torch.tensor([ids, [0, *ids[:-1]]]), torch.ones(2, 6, dtype=torch.bool)
    mask[1, 0] = False  # the shifted window: one pad in front
    full, shifted = losses(row, mask)
    assert full[1] > 0.1
    assert full[0] == shifted[0] == shifted[1] == 0  # the BOS and the pad are predicted nowhere
    right = full.sum() - shifted.sum()
    forgetful = full.sum() - shifted[3:].sum()  # targets of the shifted window from its third cell on
    assert result.entropy[-1].item() == pytest.approx(right.item(), abs=2e-5)
    assert right.item() == pytest.approx(full[-1].item(), abs=2e-5)
    assert (forgetful - right).item() == pytest.approx(full[1].item(), abs=2e-5)


# --- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ("mean", InputTypeError, "loss must be a function"),
        (lambda tokens, mask: 1.0, InputTypeError, "floating-point tensor .* got float"),
        (lambda tokens, mask: tokens, InputTypeError, r"got torch\.int64"),
        (lambda tokens, mask: torch.zeros(len(tokens), tokens.shape[1] - 1), InputError, "put a 0 in front"),
        (lambda tokens, mask: torch.zeros(()), InputError, "do not reduce"),
    ],
)
def test_losses_that_are_none(loss, error, message):
    with pytest.raises(error, match=message):
        conditional_entropy(cached_model("gpt2", kinds()[0]), torch.tensor([5, 6, 7]), loss=loss, **QUIET)


def test_arguments_out_of_range(gpt2):
    with pytest.raises(InputError, match="method must be one of 'truncation', 'pad_shift'; got 'shift'"):
        conditional_entropy(gpt2, "the cat", method="shift", **QUIET)
    with pytest.raises(InputError, match="window must be at least 2, for a token and one that predicts it"):
        conditional_entropy(gpt2, "the cat", window=1, prepend_bos=False, **QUIET)
    with pytest.raises(InputError, match="window must be at least 2, for the BOS"):
        conditional_entropy(gpt2, "the cat", window=1, prepend_bos=True, **QUIET)
    with pytest.raises(InputError, match="batch_size"):
        conditional_entropy(gpt2, "the cat", batch_size=0, **QUIET)
    with pytest.raises(InputError, match="nothing to measure"):
        conditional_entropy(gpt2, "", **QUIET)
    with pytest.raises(InputError, match="tokens must be ids from 0 to 299"):
        conditional_entropy(gpt2, torch.tensor([5, VOCAB + 3]), **QUIET)
    with pytest.raises(InputTypeError, match="TransformerLens model"):
        conditional_entropy(object(), "the cat", **QUIET)


def test_nothing_predicted_is_no_row(gpt2):
    with pytest.raises(InputError, match="nothing comes before all their tokens to predict them"):
        conditional_entropy(gpt2, torch.tensor([5]), **QUIET)


@pytest.mark.parametrize(
    "loss",
    [
        lambda tokens, mask: torch.ones(tokens.shape) * mask.shape[1],
        lambda tokens, mask: torch.rand(tokens.shape),
        lambda tokens, mask: tokens / (1.0 + tokens.sum(1, keepdim=True)) + mask.double().mean(),
    ],
    ids=["counts padding", "random", "averages over padding"],
)
def test_a_loss_that_reads_padding_is_refused(loss):
    model, ids = cached_model("gpt2", kinds()[0]), torch.tensor([5, 6, 7, 8])
    with pytest.raises(ModelError, match=r"must not read what is masked, nor be random; or pass batch_size=1"):
        conditional_entropy(model, ids, loss=loss, **QUIET)
    assert conditional_entropy(model, ids, loss=loss, batch_size=1, **QUIET).n_tokens == 3


def test_a_model_that_does_not_follow_its_mask_is_refused(monkeypatch):
    model = cached_model("gpt2", kinds()[0])
    run = Adapter.activations
    monkeypatch.setattr(
        Adapter, "activations", lambda self, tokens, mask, sites: run(self, tokens, torch.ones_like(mask), sites)
    )
    with pytest.raises(ModelError, match=r"positions do not follow the mask; use method='truncation'"):
        conditional_entropy(model, "the cat", method="pad_shift", window=8, **QUIET)
    assert conditional_entropy(model, "the cat", **QUIET).n_tokens > 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_named(value):
    def broken(tokens, mask):
        return torch.where(tokens == 77, value, mask.double())

    model = cached_model("gpt2", kinds()[0])
    documents = [torch.tensor([5, 6, 7]), torch.tensor([0, 8, 9, 77, 5])]
    with pytest.raises(NonFiniteError, match=f"document 1, position 2 is {value}") as caught:
        conditional_entropy(model, documents, loss=broken, batch_size=1, **QUIET)
    assert caught.value.partial.entropy.tolist() == [1.0] * 4
    assert caught.value.partial.document.tolist() == [0, 0, 1, 1]

    def careless(tokens, mask):  # what it gives at padding is not read
        return torch.where(mask, 1.0, value)

    for method in METHODS:
        result = conditional_entropy(model, documents, loss=careless, method=method, window=6, **QUIET)
        assert result.entropy.tolist() == [1.0] * 6


def test_a_nan_inside_the_model_is_named(gpt2):
    def poison(activation, hook):
        activation = activation.clone()
        activation[:, 2:3] = torch.nan
        return activation

    with (
        gpt2.hooks(fwd_hooks=[("blocks.2.hook_resid_post", poison)]),
        pytest.raises(NonFiniteError, match="document 0, position 3"),
    ):
        conditional_entropy(gpt2, torch.tensor([5, 6, 7, 8]), batch_size=1, **QUIET)


# --- the pass ------------------------------------------------------------------------------------------------------------


def test_interruption_keeps_what_was_measured():
    calls = []

    def impatient(tokens, mask):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return mask.double()

    model = cached_model("gpt2", kinds()[0])
    documents = [torch.tensor([0, 5, 6]), torch.tensor([0, 7, 8, 9])]
    with pytest.warns(UserWarning, match="interrupted after 3 tokens"):
        result = conditional_entropy(model, documents, loss=impatient, batch_size=1, **QUIET)
    assert list(zip(result.document.tolist(), result.token.tolist(), strict=True)) == [(0, 5), (0, 6), (1, 7)]
    assert result.provenance.interrupted
    assert result.provenance.corpus["tokens"] == 3


def test_a_pass_for_each_token_and_document(monkeypatch):
    model, cells = cached_model("gpt2", kinds()[0]), []

    def count(tokens, mask):
        cells.append(len(tokens))
        return mask.double()

    conditional_entropy(model, [torch.tensor([5, 6, 7, 8]), torch.tensor([0, 5, 6])], loss=count, batch_size=1, **QUIET)
    assert sum(cells) == 4 + 3
    cells.clear()
    monkeypatch.setattr(sequence_loss, "MAX_TOKENS", 16)
    conditional_entropy(model, torch.arange(1, 9), loss=count, method="pad_shift", window=8, **QUIET)
    assert cells == [2, 2, 2, 2]


def test_the_models_own_loss_is_not_asked_twice(monkeypatch):
    seen, run = [], Adapter.activations

    def count(self, tokens, mask, sites):
        seen.append(tokens.shape)
        return run(self, tokens, mask, sites)

    monkeypatch.setattr(Adapter, "activations", count)
    conditional_entropy(cached_model("gpt2", kinds()[0]), torch.tensor([0, 5, 6, 7]), **QUIET)
    assert seen == [(4, 4)]


def test_a_loss_may_be_an_object_that_counts_as_false():
    class Empty(torch.nn.Module):
        def __len__(self):
            return 0

        def forward(self, tokens, mask):
            return mask * 2.0

    result = conditional_entropy(cached_model("gpt2", kinds()[0]), torch.tensor([5, 6, 7]), loss=Empty(), **QUIET)
    assert result.entropy.tolist() == [2.0, 2.0]
    assert result.provenance.settings["loss"] == "Empty"


def test_the_provenance_tells_of_compiled_sums(gpt2, monkeypatch):
    def compiled(*args, **kwargs):
        return dataclasses.replace(vocabulary_statistics(*args, **kwargs), compiled=True)

    monkeypatch.setattr(model_loss, "vocabulary_statistics", compiled)
    assert conditional_entropy(gpt2, "the cat", **QUIET).provenance.settings["compiled"] is True


def test_provenance(gpt2, texts):
    result = conditional_entropy(gpt2, texts, method="pad_shift", window=16, positions=slice(0, 3), **QUIET)
    assert result.method == "pad_shift"
    origin = result.provenance
    expected = {"method": "pad_shift", "window": 16, "positions": "slice(0, 3, None)", "loss": "own", "prepend_bos": True}
    assert expected.items() <= origin.settings.items()
    assert origin.settings["readout_error"] < 1e-4
    assert origin.corpus["documents"] == len(texts)
    assert origin.corpus["bytes"] == sum(len(text.encode()) for text in texts)
    other = conditional_entropy(gpt2, texts, loss=leaky, **QUIET).provenance
    assert other.model == f"leaky on tokens of {origin.model}"
    assert other.weights == other.dtype == "unknown"
    assert other.settings["loss"] == "leaky"
    assert "readout_error" not in other.settings


def test_a_loss_that_changes_its_arguments_changes_nothing():
    def rude(tokens, mask):
        losses = mask.double()
        tokens.fill_(1)
        mask.fill_(False)
        return losses

    result = conditional_entropy(cached_model("gpt2", kinds()[0]), torch.tensor([5, 6, 7]), loss=rude, **QUIET)
    assert result.entropy.tolist() == [1.0, 1.0]
    assert result.token.tolist() == [6, 7]


def test_the_model_is_left_as_it_was(gpt2):
    flags = [module.training for module in gpt2.modules()]
    conditional_entropy(gpt2, "the cat", **QUIET)
    assert [module.training for module in gpt2.modules()] == flags
    assert torch.is_grad_enabled()


def test_the_progress_bar_counts_tokens(gpt2, capsys):
    conditional_entropy(gpt2, torch.tensor([5, 6, 7, 8]), progress=True)
    assert "3/3" in capsys.readouterr().err


def test_generators_and_files(gpt2, texts, tmp_path):
    expected = conditional_entropy(gpt2, texts, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(conditional_entropy(gpt2, (text for text in texts), **QUIET).entropy, expected.entropy)
    (tmp_path / "a.txt").write_text(texts[0])
    result = conditional_entropy(gpt2, tmp_path, **QUIET)
    assert result.names == {0: "a.txt"}
    back = load(result.save(tmp_path / "result.safetensors"))
    assert torch.equal(back.entropy, result.entropy)
    assert back.method == "truncation"


def test_a_cache_is_refused(gpt2):
    tokens = torch.tensor([[0, 5, 6]])
    _, cache = gpt2.run_with_cache(tokens)
    with pytest.raises(InputError, match="nothing runs on a cache"):
        conditional_entropy(gpt2, (cache, tokens), progress=False)
    with pytest.raises(InputTypeError, match="needs its tokens"):
        conditional_entropy(gpt2, cache, progress=False)
