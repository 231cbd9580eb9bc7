import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tl_entropy.batches import Batch, Window, batches
from tl_entropy.capture.corpus import Corpus
from tl_entropy.errors import InputError, InputTypeError, check_int

PAD = 7


@dataclass(frozen=True)
class Letters:
    begin: int | None = 0
    special_ids: frozenset[int] = frozenset({0})
    pad_id: int = PAD
    context: int = 6
    n_ids: int = 0x110000
    has_tokenizer: bool = True

    def encode(self, text):
        return [ord(c) for c in text]


def corpus_of(inputs, **options):
    return Corpus(inputs, Letters(), prepend_bos=True, **options)


def batched(inputs, *, batch_size=None, max_tokens=16, **options):
    return list(batches(corpus_of(inputs, **options), batch_size=batch_size, max_tokens=max_tokens, pad_id=PAD))


def rows(found):
    """(document, position, token, target) of every row, in order."""
    return [
        cell
        for b in found
        for cell in zip(*(x.tolist() for x in (b.row_document, b.row_position, b.row_token, b.row_target)), strict=True)
    ]


def widths(found):
    return [tuple(batch.tokens.shape) for batch in found]


def test_a_batch_is_padded_on_the_right():
    [batch] = batched(["abc", "d"], batch_size=5)
    a, b, c, d = map(ord, "abcd")
    assert batch.tokens.tolist() == [[0, a, b, c], [0, d, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.counted.tolist() == [[False, True, True, True], [False, True, False, False]]
    assert batch.position.tolist() == [[-1, 0, 1, 2], [-1, 0, -1, -1]]
    assert batch.target.tolist() == [[a, b, c, -1], [d, -1, -1, -1]]
    assert batch.document.tolist() == [0, 1]
    assert batch.last.tolist() == [True, True]
    assert (batch.names, batch.texts, batch.lengths) == ((None, None), ("abc", "d"), (3, 1))
    assert [body.tolist() for body in batch.bodies] == [[a, b, c], [d]]
    assert {x.dtype for x in (batch.tokens, batch.position, batch.target, batch.document)} == {torch.long}
    assert {x.dtype for x in (batch.attention_mask, batch.counted, batch.last)} == {torch.bool}
    assert (len(batch), batch.n_rows) == (2, 4)
    assert rows([batch]) == [(0, 0, a, b), (0, 1, b, c), (0, 2, c, -1), (1, 0, d, -1)]


@given(
    st.lists(st.text("abcdef", min_size=1, max_size=20), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 40),
    st.integers(2, 6),
    st.one_of(st.none(), st.sampled_from([0, -1, slice(2, 9, 3), [1, 7]])),
)
def test_any_batch_size_gives_the_same_rows(texts, batch_size, max_tokens, window, positions):
    options = {"batch_size": batch_size, "max_tokens": max_tokens, "window": window, "stride": 1, "positions": positions}
    counted = [len(select(positions, len(text))) for text in texts]
    if not any(counted):
        with pytest.raises(InputError, match="nothing to measure"):
            batched(texts, **options)
        return
    with warnings.catch_warnings(record=True, action="always") as told:
        found = batched(texts, **options)
    assert any("nothing counts of" in str(one.message) for one in told) is not all(counted)
    whole = [(d, p, ord(t[p]), ord(t[p + 1]) if p + 1 < len(t) else -1) for d, t in enumerate(texts) for p in range(len(t))]
    kept = {(d, p) for d, t in enumerate(texts) for p in select(positions, len(t))}
    assert rows(found) == [cell for cell in whole if cell[:2] in kept]
    assert sum(int(batch.last.sum()) for batch in found) == len(texts)
    for batch in found:
        assert batch.attention_mask.any(0).all()
        assert len(batch) == 1 or batch_size is not None or batch.tokens.numel() <= max_tokens
        assert batch_size is None or len(batch) <= batch_size


def select(positions, n):
    if positions is None:
        return range(n)
    if isinstance(positions, slice):
        return range(n)[positions]
    return [range(n)[p] for p in ([positions] if isinstance(positions, int) else positions) if -n <= p < n]


def test_a_batch_size_is_kept():
    assert widths(batched(["ab"] * 5, batch_size=2, max_tokens=1)) == [(2, 3), (2, 3), (1, 3)]


def test_without_one_as_many_windows_as_fit_go_together():
    assert widths(batched(["ab"] * 5, max_tokens=6)) == [(2, 3), (2, 3), (1, 3)]
    assert widths(batched(["ab"] * 5, max_tokens=8)) == [(2, 3), (2, 3), (1, 3)]
    assert widths(batched(["a", "a", "abcd", "a"], max_tokens=10)) == [(2, 2), (2, 5)]
    assert widths(batched(["abcd", "a"], max_tokens=1)) == [(1, 5), (1, 2)]


@pytest.mark.parametrize(
    ("batch_size", "max_tokens", "taken"), [(3, 1, 3), (1, 1, 1), (None, 6, 3), (None, 7, 3), (None, 1, 1)]
)
def test_no_more_is_taken_than_one_batch_needs(batch_size, max_tokens, taken):
    asked = []

    def texts():
        for index in range(10_000):
            asked.append(index)
            yield "a"

    found = batches(corpus_of(texts()), batch_size=batch_size, max_tokens=max_tokens)
    assert asked == []
    assert len(next(found)) == len(asked) == taken


@pytest.mark.long
def test_ten_thousand_texts_pass_through():
    found = batches(corpus_of("ab" for _ in range(10_000)), batch_size=500, max_tokens=1)
    assert sum(batch.n_rows for batch in found) == 20_000


def test_a_window_that_does_not_fit_begins_the_next_batch():
    assert widths(batched(["a", "abcd", "a", "a"], max_tokens=5)) == [(1, 2), (1, 5), (2, 2)]


def test_batches_without_rows_are_left_out_unless_a_document_ends_in_them():
    # Windows of 2 tokens of one text of 6: positions 0-1, 2-3, 4-5.
    found = batched("abcdef", batch_size=1, window=3, positions=0)
    assert [(batch.n_rows, batch.last.tolist()) for batch in found] == [(1, [False]), (0, [True])]
    assert (found[1].texts, found[1].lengths) == (("abcdef",), (6,))
    assert rows(found) == [(0, 0, ord("a"), ord("b"))]


def test_rows_picks_the_counted_cells_in_order():
    [batch] = batched(["abc", "d"], batch_size=2)
    activation = torch.arange(2 * 4 * 3 * 5).view(2, 4, 3, 5)
    assert torch.equal(batch.rows(activation), activation[batch.counted])
    assert batch.rows(activation).shape == (4, 3, 5)
    assert torch.equal(batch.rows(batch.tokens), batch.row_token)
    strided = activation.permute(2, 3, 0, 1).permute(2, 3, 0, 1)
    assert torch.equal(batch.rows(strided), activation[batch.counted])
    with pytest.raises(InputError, match=r"\[batch, pos\] = \[2, 4\]; got \[4, 2\]"):
        batch.rows(torch.ones(4, 2))


@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=2, max_size=7))
def test_halves_hold_the_same_rows_and_no_more_padding_than_they_need(texts):
    [batch] = batched(texts, batch_size=10)
    halves = batch.split()
    assert rows(halves) == rows([batch])
    assert sum(map(len, halves)) == len(batch)
    assert min(map(len, halves)) >= 1
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    for name in ("names", "texts", "lengths"):
        assert getattr(halves[0], name) + getattr(halves[1], name) == getattr(batch, name)
    for name in ("document", "last"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(batch, name))
    for half in halves:
        assert half.attention_mask.any(0).all()
        assert half.tokens.shape == half.target.shape == half.position.shape == half.counted.shape


def test_one_window_cannot_be_split():
    [batch] = batched("abc")
    with pytest.raises(InputError, match="one window of 4 tokens cannot be split"):
        batch.split()


def test_a_batch_can_be_moved():
    [batch] = batched(["ab", "c"])
    moved = batch.to("cpu")
    assert isinstance(moved, Batch)
    assert rows([moved]) == rows([batch])
    assert moved.texts == batch.texts


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"batch_size": 0, "max_tokens": 1}, InputError, "batch_size must be an int of at least 1; got 0"),
        ({"batch_size": 1.5, "max_tokens": 1}, InputTypeError, "batch_size"),
        ({"batch_size": None, "max_tokens": 0}, InputError, "max_tokens must be an int of at least 1; got 0"),
        ({"batch_size": None, "max_tokens": None}, InputTypeError, "max_tokens"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_at_once(options, error, match):
    with pytest.raises(error, match=match):
        batches([], **options)


def test_no_windows_are_no_batches():
    assert list(batches([], batch_size=None, max_tokens=5)) == []


def test_windows_are_frozen():
    [window] = corpus_of("ab")
    assert isinstance(window, Window)
    with pytest.raises(AttributeError):
        window.document = 3


def test_check_int():
    for three in (3, np.int64(3), np.uint8(3)):
        assert (check_int("n", three, 1, 3), type(check_int("n", three, 1, 3))) == (3, int)
    for wrong in (True, np.True_, 2.0, np.float32(2), np.array(2), torch.tensor(2), torch.tensor(True), "2", None):
        with pytest.raises(InputTypeError, match="n must be an int from 1 to 3; got "):
            check_int("n", wrong, 1, 3)
    with pytest.raises(InputError, match="n must be an int from 1 to 3; got 4"):
        check_int("n", np.int64(4), 1, 3)
