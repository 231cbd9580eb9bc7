import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from letters import BOS, SEP, Letters, corpus_of, ids, listed

from tl_entropy.errors import InputError, InputTypeError


def counted(windows):
    """(document, position, token, target) of every counted cell, in order."""
    return [
        (w.document, p, t, n)
        for w in windows
        for t, c, p, n in zip(w.tokens.tolist(), w.counted.tolist(), w.position.tolist(), w.target.tolist(), strict=True)
        if c
    ]


# --- one window a document


def test_a_text_with_and_without_bos():
    a, b, c = ids("abc")
    [window] = corpus_of("abc")
    assert listed([window]) == [([BOS, a, b, c], [False, True, True, True], [-1, 0, 1, 2], [a, b, c, -1], 0, True)]
    assert window.tokens.dtype == window.position.dtype == window.target.dtype == torch.long
    assert window.counted.dtype == torch.bool
    assert listed(corpus_of("abc", prepend_bos=False)) == [([a, b, c], [True] * 3, [0, 1, 2], [b, c, -1], 0, True)]


def test_tokens_get_no_bos_and_keep_the_one_they_have():
    a, b = ids("ab")
    assert listed(corpus_of(torch.tensor([a, b]))) == [([a, b], [True, True], [0, 1], [b, -1], 0, True)]
    assert listed(corpus_of(torch.tensor([BOS, a, b]))) == listed(corpus_of("ab"))


@given(st.text("abc|^", min_size=1, max_size=30), st.booleans(), st.integers(3, 8), st.integers(1, 2), st.booleans())
def test_a_text_and_its_tokens_are_the_same_windows(text, prepend_bos, window, stride, include_special):
    tokens = [BOS] * (prepend_bos and not text.startswith("^")) + ids(text)
    if tokens in ([BOS], []):
        return
    options = {"prepend_bos": prepend_bos, "window": window, "stride": stride, "include_special": include_special}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "two begin tokens")
        assert listed(corpus_of(text, **options)) == listed(corpus_of(torch.tensor(tokens), **options))


def test_a_text_that_begins_with_the_bos_gets_no_second_one():
    for prepend_bos in (True, False):
        corpus = corpus_of("^é|b", prepend_bos=prepend_bos)
        assert listed(corpus) == listed(corpus_of("é|b"))
        assert (corpus.report.bytes, corpus.report.characters) == (4, 3), "the BOS is no part of the text"


@pytest.mark.parametrize("inputs", ["^^ab", torch.tensor([BOS, BOS, *ids("ab")])])
def test_a_document_with_two_bos_is_warned_of_and_keeps_them(inputs):
    with pytest.warns(UserWarning, match="two begin tokens .id 0. begin 2 documents"):
        first, *_ = corpus_of([inputs, "c", inputs])
    assert first.tokens.tolist() == [BOS, BOS, *ids("ab")]
    assert first.counted.tolist() == [False, False, True, True]


def test_padding_on_any_side_is_the_same_windows():
    a, b, c = ids("abc")
    rows = torch.tensor([[BOS, a, b, c, BOS, BOS], [BOS, BOS, BOS, a, b, c], [BOS, a, BOS, b, BOS, c]])
    masks = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1]])
    assert counted(corpus_of((rows, masks))) == [(d, *cell[1:]) for d in range(3) for cell in counted(corpus_of("abc"))]


def test_special_ids_are_seen_but_not_counted_unless_asked_for():
    a, b = ids("ab")
    assert listed(corpus_of("a|b")) == [([BOS, a, SEP, b], [False, True, False, True], [-1, 0, 1, 2], [a, SEP, b, -1], 0, True)]
    [window] = corpus_of("a|b", include_special=True)
    assert window.counted.tolist() == [True] * 4
    assert [w.counted.tolist() for w in corpus_of("abcdefghij", include_special=True)] == [[True] * 8, [False] + [True] * 3]


def test_documents_keep_their_numbers_names_and_lengths(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_bytes("é\r\nü".encode())
    corpus = corpus_of(["ab", tmp_path, torch.tensor([5, 6])])
    windows = list(corpus)
    assert [w.document for w in windows] == [0, 1, 2, 3]
    assert [w.name for w in windows] == [None, "a.txt", "b.txt", None]
    assert [w.text for w in windows] == ["ab", "é\r\nü", "é\r\nü", None]
    assert [len(w.body) for w in windows] == [2, 4, 4, 2]
    assert (corpus.report.bytes, corpus.report.characters) == (None, None)
    assert windows[1].tokens.tolist() == [BOS, *map(ord, "é\r\nü")]


# --- long documents


def slow_windows(n, room, stride):
    """(start, stop, first newly counted) by walking along the text."""
    found, start, seen = [], 0, 0
    while True:
        stop = min(start + room, n)
        found.append((start, stop, seen))
        if stop == n:
            return found
        seen, start = stop, start + stride


@given(st.data(), st.integers(1, 60), st.booleans(), st.booleans())
def test_every_token_is_counted_once_and_targets_chain_up_to_the_text(data, n, prepend_bos, default_stride):
    window = data.draw(st.integers(2, 12))
    room = window - prepend_bos
    stride = None if default_stride else data.draw(st.integers(1, room))
    text = "".join(chr(200 + index) for index in range(n))
    windows = list(corpus_of(text, Letters(context=12), prepend_bos=prepend_bos, window=window, stride=stride))
    body = ids(text)
    assert counted(windows) == [(0, p, body[p], body[p + 1] if p + 1 < n else -1) for p in range(n)]
    assert len(windows) == len(slow_windows(n, room, stride or room))
    for seen, (start, stop, new) in zip(windows, slow_windows(n, room, stride or room), strict=True):
        assert len(seen) <= window
        assert seen.tokens.tolist() == [BOS] * prepend_bos + body[start:stop]
        assert seen.counted.tolist() == [False] * prepend_bos + [p >= new for p in range(start, stop)]
        assert seen.position.tolist() == [-1] * prepend_bos + list(range(start, stop))
        first = [body[0] if start == 0 else -1] * prepend_bos
        assert seen.target.tolist() == first + [[*body, -1][p + 1] for p in range(start, stop)]
        assert seen.last == (stop == n)
        assert (seen.text, seen.body.tolist()) == (text, body)


def test_the_default_window_is_the_context_and_windows_are_neighbours():
    windows = list(corpus_of("abcdefghijklmnop"))
    assert [len(w) for w in windows] == [8, 8, 3]
    assert all(w.counted.tolist() == [False] + [True] * (len(w) - 1) for w in windows)
    assert [w.target.tolist()[-1] for w in windows] == [ord("h"), ord("o"), -1]


# --- positions


def select(positions, inputs=("abcde", "ab"), **options):
    return [(d, p) for d, p, _, _ in counted(corpus_of(list(inputs), positions=positions, **options))]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (0, [(0, 0), (1, 0)]),
        (-1, [(0, 4), (1, 1)]),
        (3, [(0, 3)]),
        ([0, -1, 0], [(0, 0), (0, 4), (1, 0), (1, 1)]),
        (range(1, 3), [(0, 1), (0, 2), (1, 1)]),
        (np.array([1]), [(0, 1), (1, 1)]),
        (torch.tensor([1, -2]), [(0, 1), (0, 3), (1, 0), (1, 1)]),
        (np.int64(1), [(0, 1), (1, 1)]),
        (torch.tensor(1), [(0, 1), (1, 1)]),
        (slice(1, 3), [(0, 1), (0, 2), (1, 1)]),
        (slice(None, None, -2), [(0, 0), (0, 2), (0, 4), (1, 1)]),
        (slice(-2, None), [(0, 3), (0, 4), (1, 0), (1, 1)]),
    ],
)
@pytest.mark.filterwarnings("ignore:nothing counts of 1 document")
def test_positions_select_in_each_document(positions, expected):
    assert select(positions) == expected
    assert select(positions, window=3, stride=1) == expected
    assert select(positions, prepend_bos=False) == expected
    assert select(positions, include_special=True) == expected


def test_positions_leave_what_the_model_sees():
    assert [w.tokens.tolist() for w in corpus_of("abc", positions=0)] == [w.tokens.tolist() for w in corpus_of("abc")]
    corpus = corpus_of(["abc", "a"], positions=2)
    with pytest.warns(UserWarning, match=r"nothing counts of 1 document, number 1 \(from 0\)"):
        assert len(list(corpus)) == 2
    assert (corpus.report.documents, corpus.report.tokens) == (2, 1)


@pytest.mark.parametrize(
    ("positions", "error"),
    [
        ([], InputError),
        ("ab", InputTypeError),
        (1.5, InputTypeError),
        (True, InputTypeError),
        ([True, False], InputTypeError),
        (torch.tensor([True, False]), InputTypeError),
        (np.array([True]), InputTypeError),
        (slice(0, 5, 0), InputTypeError),
        (slice("a", None), InputTypeError),
    ],
)
def test_positions_that_make_no_sense(positions, error):
    with pytest.raises(error, match="positions must"):
        corpus_of("abc", positions=positions)


# --- windows and strides that make no sense, at construction


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"window": 9}, InputError, "window must be an int from 1 to 8; got 9"),
        ({"window": 0}, InputError, "window must be an int from 1 to 8; got 0"),
        ({"window": 1}, InputError, "window must be at least 2"),
        ({"window": 2.0}, InputTypeError, "window must be an int"),
        ({"window": True}, InputTypeError, "window must be an int"),
        ({"stride": 0}, InputError, "stride must be an int of at least 1; got 0"),
        ({"stride": 8}, InputError, "stride must be an int from 1 to 7, the tokens .* of 8 holds beside the BOS; got 8"),
        ({"stride": 6, "window": 6, "prepend_bos": True}, InputError, "stride must be an int from 1 to 5"),
        ({"stride": 7, "window": 6, "prepend_bos": False}, InputError, "stride must be an int from 1 to 6"),
    ],
)
def test_windows_and_strides_that_make_no_sense(options, error, match):
    with pytest.raises(error, match=match):
        corpus_of("abc", **options)


def test_a_row_with_its_own_bos_has_less_room():
    options = {"prepend_bos": False, "window": 4, "stride": 4}
    assert len(list(corpus_of(torch.arange(5, 12), **options))) == 2
    with pytest.raises(InputError, match="stride must be an int from 1 to 3, the tokens of inputs"):
        list(corpus_of(torch.tensor([BOS, 5, 6]), **options))


# --- what cannot be measured


def test_empty_documents_are_skipped_reported_and_keep_their_numbers():
    corpus = corpus_of(["", "ab", "   ", torch.tensor([BOS]), "c"])
    with pytest.warns(UserWarning, match="3 empty documents were skipped: numbers 0, 2, 3 \\(from 0\\)") as caught:
        windows = list(corpus)
    assert len(caught) == 1
    assert [w.document for w in windows] == [1, 4]
    assert (corpus.report.documents, corpus.report.n_empty, corpus.report.empty) == (2, 3, [0, 2, 3])


def test_only_some_empty_documents_are_listed():
    corpus = corpus_of(["a", *[""] * 30])
    with pytest.warns(UserWarning, match=r"30 empty documents were skipped: numbers 1, 2, 3, 4, 5, \.\.\."):
        list(corpus)
    assert (corpus.report.n_empty, corpus.report.empty) == (30, list(range(1, 21)))


@pytest.mark.parametrize(
    "inputs", [[], "", ["", " "], torch.tensor([BOS]), (c for c in ""), (torch.tensor([5]), torch.tensor([0]))]
)
def test_nothing_to_measure(inputs):
    with pytest.raises(InputError, match="inputs hold nothing to measure"):
        list(corpus_of(inputs))


def test_texts_need_a_tokenizer_and_tokens_do_not():
    bare = Letters(has_tokenizer=False, begin=None, special_ids=frozenset())
    with pytest.raises(InputError, match=r"inputs\[0\] is a text, but the model has no tokenizer; pass tokens"):
        list(corpus_of(["a"], bare))
    assert counted(corpus_of(torch.tensor([5, 0]), bare)) == [(0, 0, 5, 0), (0, 1, 0, -1)]


def test_a_bos_that_there_is_not_cannot_be_put_before_a_text():
    with pytest.raises(InputError, match="no BOS to put before inputs; pass prepend_bos=False"):
        list(corpus_of("a", Letters(begin=None)))
    assert counted(corpus_of("a", Letters(begin=None), prepend_bos=False)) == [(0, 0, 97, -1)]


def test_bad_files_and_characters(tmp_path):
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt is not a UTF-8"):
        list(corpus_of(tmp_path))
    with pytest.raises(InputError, match=r"inputs\[1\] is not a text that UTF-8 can hold"):
        list(corpus_of(["a", "\ud800"]))


def test_inputs_at_hand_are_checked_at_construction():
    for inputs, error in [(None, InputTypeError), (["a", 5], InputTypeError), (torch.tensor([-1]), InputError)]:
        with pytest.raises(error):
            corpus_of(inputs)


def test_what_comes_before_a_bad_item_of_a_generator_is_still_seen():
    corpus = corpus_of(item for item in ["ab", "c", None])
    windows = iter(corpus)
    assert [next(windows).document for _ in range(2)] == [0, 1]
    with pytest.raises(InputTypeError, match=r"inputs\[2\]"):
        next(windows)
    assert (corpus.report.documents, corpus.report.tokens) == (2, 3)


# --- the report, the count, and passes


def test_the_report_counts_what_has_gone_by():
    corpus = corpus_of(["abé", "abcdefghij", "a|b"], window=5, stride=2)
    assert corpus.report.documents == 0
    windows = iter(corpus)
    next(windows)
    assert (corpus.report.documents, corpus.report.tokens, corpus.report.bytes, corpus.report.characters) == (1, 3, 4, 3)
    next(windows)
    assert (corpus.report.documents, corpus.report.tokens, corpus.report.cut) == (1, 7, 0)
    list(windows)
    report = corpus.report
    assert (report.documents, report.tokens, report.bytes, report.characters) == (3, 15, 17, 16)
    assert (report.cut, report.window, report.stride, report.n_empty) == (1, 5, 2, 0)


def test_bytes_are_unknown_once_a_document_came_as_tokens():
    corpus = corpus_of(["ab", torch.tensor([5]), "c"])
    list(corpus)
    assert (corpus.report.bytes, corpus.report.characters, corpus.report.tokens) == (None, None, 4)


@pytest.mark.parametrize(
    ("inputs", "n"),
    [
        ("abc", 1),
        (["a", "b"], 2),
        (["a", ["b", "c"], torch.ones(3, 2, dtype=torch.long) * 5], 6),
        (torch.ones(4, 2, dtype=torch.long) * 5, 4),
        ((torch.ones(4, 2, dtype=torch.long), torch.ones(4, 2, dtype=torch.long)), 4),
        ({"input_ids": [[5], [6, 7]]}, 2),
        ({"text": ["a", "b"]}, 2),
        ((c for c in "ab"), None),
        (["a", (c for c in "ab")], None),
        ({"a"}, None),
    ],
)
def test_the_number_of_documents_is_known_where_it_can_be(inputs, n):
    assert corpus_of(inputs).n_documents == n


def test_the_number_of_files_and_of_a_data_sets_rows(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert corpus_of(tmp_path).n_documents == 2
    assert corpus_of(tmp_path / "a").n_documents == 1
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_dict({"code": ["a", "b", "c"]})
    assert corpus_of(found, text_column="code").n_documents == 3
    assert corpus_of(found["code"]).n_documents == 3
    assert corpus_of(found.to_iterable_dataset(), text_column="code").n_documents is None
    for source in (found, found.to_iterable_dataset()):
        assert [t for _, _, t, _ in counted(corpus_of(source, text_column="code"))] == [97, 98, 99]


def test_a_list_can_be_gone_through_again_and_a_generator_cannot():
    corpus = corpus_of(["ab", "c"])
    assert listed(corpus) == listed(corpus)
    assert corpus.report.documents == 2
    for used in (corpus_of(c for c in "ab"), corpus_of(["c", iter(["a"])])):
        list(used)
        with pytest.raises(InputError, match="an earlier pass has used up"):
            iter(used)


def test_a_text_is_only_tokenised_when_its_turn_comes():
    class Watched(Letters):
        def encode(self, text):
            seen.append(text)
            return super().encode(text)

    seen: list[str] = []
    windows = iter(corpus_of(["ab", "c", "d"], Watched()))
    assert not seen
    next(windows)
    assert seen == ["ab"]


def test_no_warning_without_empty_documents():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(corpus_of(["ab", "c"]))


# --- counting what is predicted


@given(st.data(), st.integers(1, 40), st.booleans())
def test_every_predicted_token_is_counted_once_at_the_cell_before_it(data, n, prepend_bos):
    window = data.draw(st.integers(2, 12))
    room = window - prepend_bos
    stride = data.draw(st.integers(1, room))
    text = "".join(chr(200 + index) for index in range(n))
    options = {"prepend_bos": prepend_bos, "window": window, "stride": stride, "count": "predicted"}
    corpus = corpus_of(text, Letters(context=12), **options)
    if n == 1 and not prepend_bos:
        with pytest.raises(InputError, match="nothing comes before all their tokens to predict them"):
            list(corpus)
        return
    windows = list(corpus)
    body = ids(text)
    found = [
        (int(p) + 1, int(t)) for w in windows for p, t, chosen in zip(w.position, w.target, w.counted, strict=True) if chosen
    ]
    assert sorted(found) == [(p, body[p]) for p in range(0 if prepend_bos else 1, n)]


def test_of_predicted_tokens_the_special_ones_are_left_out_and_positions_are_theirs():
    assert [w.counted.tolist() for w in corpus_of("a|b", count="predicted")] == [[True, False, True, False]]
    assert [w.counted.tolist() for w in corpus_of("a|b", count="predicted", include_special=True)] == [[True] * 3 + [False]]
    [window] = corpus_of("abcd", count="predicted", positions=[0, -1])
    assert window.counted.tolist() == [True, False, False, True, False]
    assert window.target[window.counted].tolist() == ids("ad")
    with pytest.raises(InputError, match="count must be one of 'read', 'predicted', 'around'; got 'seen'"):
        corpus_of("a", count="seen")


def test_a_text_that_is_a_path_is_measured_as_a_text_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("ab")
    for inputs in ("notes.txt", ["ab", "notes.txt"], str(tmp_path)):
        with pytest.warns(
            UserWarning, match=r"is measured as a text, and a file or folder of that name is there.*pathlib\.Path"
        ) as said:
            corpus_of(inputs, Letters())
        assert Path(said[0].filename).name == "letters.py", "the line is shown that asked for it, not one inside"
    for inputs in ("notes", "notes.txt\n", "a" * 5000, "a\0b", ["ab"], tmp_path / "notes.txt", torch.tensor([3, 4])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            corpus_of(inputs, Letters())


def test_around_tokens_there_is_the_cell_of_the_last_beside_those_that_predict():
    corpus = corpus_of("ab|c", count="around", prepend_bos=False)
    assert [w.counted.tolist() for w in corpus] == [[True, False, True, True]]
    assert corpus.report.tokens == 2  # b and c
    alone = corpus_of("a", count="around", prepend_bos=False)
    with pytest.raises(InputError, match="nothing comes before"):
        list(alone)
