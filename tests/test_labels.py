"""Label plans against tuples of tokens in plain Python."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, reject, strategies as st

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.labels import NAMES, DocumentTokens, LabelPlan, NGram, ngram, plan

BIG = 2**31 - 1


def raw(tokens, counted, usable):
    return DocumentTokens(torch.tensor(tokens), torch.tensor(counted).bool(), torch.tensor(usable).bool())


def document(body, *, bos=None, counted=None, usable=None):
    """A document; flags are for the body alone or for the BOS too, which by default is neither counted nor usable."""
    n = len(body)
    given = [[True] * n if flags is None else flags for flags in (counted, usable)]
    tokens = [-1 if bos is None else bos, *body]
    return raw(tokens, *(flags if len(flags) > n else [False, *flags] for flags in given))


@st.composite
def documents(draw):
    vocabulary = draw(st.sampled_from([(0, 1), (0, 1, 2), (7, BIG - 1, BIG), (3,)]))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        body = draw(st.lists(st.sampled_from(vocabulary), max_size=12))
        flags = st.lists(st.sampled_from([True, True, True, False]), min_size=len(body), max_size=len(body))
        bos = draw(st.sampled_from([None, *vocabulary]))
        first = [False, False] if bos is None else [draw(st.booleans()), draw(st.booleans())]
        found.append(document(body, bos=bos, counted=[first[0], *draw(flags)], usable=[first[1], *draw(flags)]))
    return found


def gram_of(one, slot, gram):
    """The n-gram of a slot as a tuple, or None: the definition, word for word."""
    places = range(slot - gram.n + 1, slot + 1) if gram.side == "input" else range(slot + 1, slot + 1 + gram.n)
    if any(place < 0 or place >= len(one.tokens) or not one.usable[place] for place in places):
        return None
    return tuple(one.tokens[place].item() for place in places)


def expected(found, grams, valid):
    """For each n-gram label set the tuple, or None, of each slot."""
    every = [[gram_of(one, slot, gram) for one in found for slot in range(len(one.tokens))] for gram in grams]
    counted = [flag.item() for one in found for flag in one.counted]
    kept = [[there and key is not None for there, key in zip(counted, keys, strict=True)] for keys in every]
    if valid == "common":
        kept = [[all(flags) for flags in zip(*kept, strict=True)]] * len(grams)
    return [[key if keep else None for key, keep in zip(keys, row, strict=True)] for keys, row in zip(every, kept, strict=True)]


def check_against(plan, wanted):
    for i, keys in enumerate(wanted):
        classes = sorted({key for key in keys if key is not None})
        numbers = {key: number for number, key in enumerate(classes)} | {None: -1}
        assert plan.ids[i].tolist() == [numbers[key] for key in keys]
        assert [tuple(key) for key in plan.keys[i].tolist()] == classes
        assert plan.sizes(i).tolist() == [Counter(keys)[key] for key in classes]


def ids(plan, label):
    return plan.ids[plan.names.index(label)].tolist()


GRAMS = st.lists(st.builds(ngram, st.integers(1, 7), st.sampled_from(["input", "output"])), min_size=1, max_size=4, unique=True)


@given(documents(), GRAMS, st.sampled_from(["common", "own"]))
def test_classes_are_those_of_tuples(found, grams, valid):
    wanted = expected(found, grams, valid)
    if not all(any(key is not None for key in keys) for keys in wanted):
        with pytest.raises(InputError):
            LabelPlan.from_documents(found, grams, valid=valid)
        return
    plan = LabelPlan.from_documents(found, grams, valid=valid)
    check_against(plan, wanted)
    assert plan.ids.dtype == plan.tokens.dtype == torch.int32
    assert plan.counted == sum(int(one.counted.sum()) for one in found)
    assert plan.tokens.tolist() == [token for one in found for token in one.tokens.tolist()]
    used = [sum(key is not None for key in keys) for keys in wanted]
    assert plan.used().tolist() == used
    assert plan.coverage().tolist() == [n / plan.counted for n in used]
    assert plan.coverage().dtype == torch.float64
    assert valid == "own" or len(set(used)) == 1


def test_names_are_those_of_n_grams():
    names = ("token", "bigram", "trigram", "next_token", "next_bigram", "next_trigram")
    assert (*names, "position") == NAMES
    assert [ngram(n, side).name for side in ("input", "output") for n in (1, 2, 3)] == list(names)
    assert [ngram(n, side).name for side in ("input", "output") for n in (4, 11)] == [
        "4-gram", "11-gram", "next_4-gram", "next_11-gram",
    ]  # fmt: skip
    found = [document([1, 2, 1, 2, 1, 3, 1, 2])]
    plan = LabelPlan.from_documents(found, NAMES)
    assert plan.names == NAMES
    assert plan.orders == (1, 2, 3, 1, 2, 3, 0)
    assert plan.sides == ("input",) * 3 + ("output",) * 3 + ("other",)
    grams = [ngram(n, side) for side in ("input", "output") for n in (1, 2, 3)]
    assert torch.equal(plan.ids[:6], LabelPlan.from_documents(found, grams).ids)
    renamed = LabelPlan.from_documents(found, {"mine": ngram(2, "output"), "b": "bigram"})
    assert (renamed.names, renamed.sides, renamed.orders) == (("mine", "b"), ("output", "input"), (2, 2))


@pytest.mark.parametrize(
    "labels", ["token", ngram(1), ["token"], (ngram(1),), {"token": "token"}, {"token": NGram(1, "input")}]
)
def test_one_label_set_may_come_alone(labels):
    plan = LabelPlan.from_documents([document([4, 2, 4])], labels)
    assert plan.names == ("token",)
    assert plan.ids.tolist() == [[-1, 1, 0, 1]]


def test_n_grams_of_big_ids_neither_collide_nor_overflow():
    # With codes in base 50257: (0, 50257) is (1, 0), and the fourth power of 2**31 is far beyond an int64.
    body = [0, 50257, 5, 1, 0, 5, BIG, BIG, BIG, BIG, 0, BIG, BIG, BIG, BIG - 1]
    grams = [ngram(n, side) for n in (2, 4) for side in ("input", "output")]
    plan = LabelPlan.from_documents([document(body)], grams, valid="own")
    check_against(plan, expected([document(body)], grams, "own"))
    generator = torch.Generator().manual_seed(0)
    found = [document((BIG - torch.randint(0, 2, (200,), generator=generator)).tolist()) for _ in range(2)]
    grams = [ngram(50), ngram(64, "output"), ngram(7)]
    check_against(LabelPlan.from_documents(found, grams), expected(found, grams, "common"))


def test_n_grams_stay_inside_documents():
    plan = LabelPlan.from_documents(
        [document([1, 2]), document([]), document([3]), document([1, 2])], ("bigram", "next_token"), valid="own"
    )
    assert ids(plan, "bigram") == [-1, -1, 0, -1, -1, -1, -1, -1, 0]
    assert ids(plan, "next_token") == [-1, 0, -1, -1, -1, -1, -1, 0, -1]
    assert plan.starts.tolist() == [0, 3, 4, 6, 9]
    assert plan.n_documents == 4


def test_special_tokens_break_n_grams_and_have_no_class():
    flags = [True, True, False, True, True]
    one = document([1, 2, 0, 1, 2], counted=flags, usable=flags)
    plan = LabelPlan.from_documents([one], ("token", "bigram", "next_token", "position"), valid="own")
    assert ids(plan, "token") == [-1, 0, 1, -1, 0, 1]
    assert ids(plan, "bigram") == [-1, -1, 0, -1, -1, 0]
    assert ids(plan, "next_token") == [-1, 0, -1, -1, 0, -1]
    assert ids(plan, "position") == [-1, 0, 1, -1, 2, 3]
    assert plan.keys[3].tolist() == [[0], [1], [3], [4]]


def test_tokens_that_are_not_counted_are_still_context():
    one = document([1, 2, 3], counted=[False, True, False])
    plan = LabelPlan.from_documents([one], ("bigram", "next_token"))
    assert plan.ids.tolist() == [[-1, -1, 0, -1]] * 2
    assert [keys.tolist() for keys in plan.keys] == [[[1, 2]], [[3]]]


def test_the_bos_is_a_token_only_where_it_is_usable():
    apart = document([1, 2], bos=9)
    assert ids(LabelPlan.from_documents([apart], "bigram"), "bigram") == [-1, -1, 0]
    part = document([1, 2], bos=9, counted=[True] * 3, usable=[True] * 3)
    plan = LabelPlan.from_documents([part, apart], ("bigram", "next_token", "position"), valid="own")
    assert plan.keys[0].tolist() == [[1, 2], [9, 1]]
    assert ids(plan, "bigram") == [-1, 1, 0, -1, -1, 0]
    assert ids(plan, "next_token") == [0, 1, -1, -1, 1, -1]
    assert ids(plan, "position") == [0, 1, 2, -1, 1, 2]
    assert plan.keys[2].tolist() == [[-1], [0], [1]]
    assert plan.texts("position", {}) == ["-1", "0", "1"]


def test_common_leaves_out_what_any_set_leaves_undefined_and_numbers_the_rest_anew():
    plan = LabelPlan.from_documents([document([5, 4, 3, 2])], {"token": "token", "mine": [None, "b", "a", None]})
    assert plan.ids.tolist() == [[-1, -1, 1, 0, -1], [-1, -1, 1, 0, -1]]
    assert plan.keys[0].tolist() == [[3], [4]]
    assert plan.keys[1] == ("a", "b")
    own = LabelPlan.from_documents([document([5, 4, 3, 2])], {"token": "token", "mine": [None, "b", "a", None]}, valid="own")
    assert own.ids.tolist() == [[-1, 3, 2, 1, 0], [-1, -1, 1, 0, -1]]
    assert own.coverage().tolist() == [1.0, 0.5]


def test_values_for_documents():
    found = [document([1, 2]), document([3], bos=0, counted=[True, True]), document([]), document([1, 1])]
    plan = LabelPlan.from_documents(found, {"language": ["en", None, "x", "de"]})
    assert ids(plan, "language") == [-1, 1, 1, -1, -1, -1, -1, 0, 0]
    assert plan.keys == (("de", "en"),)
    assert (plan.sides, plan.orders) == (("other",), (0,))
    numbered = LabelPlan.from_documents(found, {"language": [20, 30, 7, -1]})
    assert ids(numbered, "language") == [-1, 0, 0, 1, 1, -1, -1, -1, -1]
    assert numbered.keys[0].tolist() == [[20], [30]]
    assert numbered.texts("language", {}) == ["20", "30"]
    preferred = LabelPlan.from_documents(found, {"preferred": [True, False, None, True]})
    assert ids(preferred, "preferred") == [-1, 1, 1, 0, 0, -1, -1, 1, 1]
    assert preferred.texts(0, {}) == ["False", "True"]


@pytest.mark.parametrize(
    "make",
    [
        list, tuple, np.array, torch.tensor, pd.Series, lambda v: np.array(v, np.uint8), lambda v: np.array(v, object),
        lambda v: list(np.array(v)), lambda v: [v[:2], v[2:]], lambda v: [np.array(v[:2]), torch.tensor(v[2:])],
        lambda v: np.array(v).reshape(2, 2), lambda v: torch.tensor(v).reshape(2, 2),
    ],
)  # fmt: skip
def test_values_for_positions_come_in_any_container(make):
    found = [document([1, 1]), document([1, 1], bos=0, counted=[True, True, True])]
    plan = LabelPlan.from_documents(found, {"mine": make([4, 9, 9, 0])})
    assert ids(plan, "mine") == [-1, 1, 2, -1, 2, 0]
    assert plan.keys[0].tolist() == [[0], [4], [9]]


def test_values_for_positions_of_uneven_documents():
    found = [document([1]), document([]), document([1, 1, 1])]
    plan = LabelPlan.from_documents(
        found, {"tag": [["N"], [], ["V", None, "N"]], "flat": torch.tensor([7, 5, 5, -3])}, valid="own"
    )
    assert ids(plan, "tag") == [-1, 0, -1, -1, 1, -1, 0]
    assert ids(plan, "flat") == [-1, 1, -1, -1, 0, 0, -1]


def test_a_function_sees_each_body():
    seen = []

    def parity(tokens):
        seen.append(tokens.tolist())
        labels = tokens % 2
        tokens[:] = 0  # a function that spoils what it is given spoils no one else's
        return labels

    found = [document([1, 2], bos=9), document([]), document([4])]
    plan = LabelPlan.from_documents(found, {"parity": parity, "token": "token", "tag": lambda tokens: ["A"] * len(tokens)})
    assert seen == [[1, 2], [4]]
    assert plan.ids.tolist() == [[-1, 1, 0, -1, -1, 0], [-1, 0, 1, -1, -1, 2], [-1, 0, 0, -1, -1, 0]]
    assert plan.keys[1].tolist() == [[1], [2], [4]]
    partly = LabelPlan.from_documents(found, {"even": lambda tokens: torch.where(tokens % 2 == 0, 1, -1)})
    assert ids(partly, "even") == [-1, -1, 0, -1, -1, 0]


def test_values_that_fit_documents_and_positions_must_mean_the_same():
    same = LabelPlan.from_documents([document([5]), document([6])], {"mine": ["a", "b"]})
    assert ids(same, "mine") == [-1, 0, -1, 1]
    with pytest.raises(InputError, match=r"labels\['mine'\] .* 2 entries fit both; pass one sequence for each document"):
        LabelPlan.from_documents([document([5, 6]), document([])], {"mine": ["a", "b"]})
    nested = LabelPlan.from_documents([document([5, 6]), document([])], {"mine": [["a", "b"], []]})
    assert ids(nested, "mine") == [-1, 0, 1, -1]
    with pytest.raises(InputError, match="fit both"):
        LabelPlan.from_documents([document([5], bos=1, counted=[True, True])], {"mine": ["a"]})


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ((), InputError, "at least one label set; got none; choose from token, bigram"),
        ({}, InputError, "got none"),
        ("bigrams", InputError, "labels must be one of 'token', .*'position'; got 'bigrams'"),
        (["token", "x"], InputError, "labels must be one of .* got 'x'"),
        ({"mine": "bigrams"}, InputError, r"labels\['mine'\] must be one of .* got 'bigrams'"),
        (("token", ngram(1)), InputError, "different names; got 'token' more than once"),
        ([1, 2], InputTypeError, "got int; give it a name, as in labels={'language': values}"),
        (b"token", InputTypeError, "got int"),
        (torch.tensor([1, 2]), InputTypeError, "got Tensor; give it a name"),
        ({"token"}, InputTypeError, "got set"),
        ({1: "token"}, InputTypeError, "names that are str; got 1"),
        ({"mine": 3}, InputTypeError, r"labels\['mine'\] must be a function of tokens or a sequence of entries; got int"),
        ({"mine": torch.tensor(3)}, InputTypeError, "got Tensor"),
        ({"mine": {"a": 1}}, InputTypeError, "got dict"),
        ({"mine": pd.DataFrame({"a": [1], "b": [1]})}, InputTypeError, "got DataFrame"),
        ({"mine": [1.0, 2.0]}, InputTypeError, r"labels\['mine'\] must have entries that are all int.*; got float"),
        ({"mine": torch.tensor([1.0, 2.0])}, InputTypeError, "got float"),
        ({"mine": ["a", 1.0]}, InputTypeError, "got float and str"),
        ({"mine": ["a", float("nan")]}, InputError, r"labels\['mine'\] must not hold nan, as entry 1 \(from 0\) is; .* None"),
        ({"mine": np.array([1, np.nan])}, InputError, r"labels\['mine'\] must not hold nan, as entry 1 .* -1 among ints"),
        ({"mine": np.array([np.nan, np.nan], dtype=np.float32)}, InputError, "nan, as entry 0 "),
        ({"mine": torch.tensor([1.0, math.nan])}, InputError, "nan, as entry 1 "),
        ({"mine": pd.Series(["a", None, "b", np.nan], index=[7, 8, 9, 10], dtype=object)}, InputError, "nan, as entry 3 "),
        ({"mine": pd.Series([1, pd.NA], dtype="Int64")}, InputError, "must not hold <NA>, as entry 1 "),
        ({"mine": pd.Series(["a", None], dtype="category")}, InputError, "nan, as entry 1 "),
        ({"mine": pd.Series([pd.NaT, "a"], dtype=object)}, InputError, "must not hold NaT, as entry 0 "),
        ({"mine": [[1, 2, 3], [4, math.nan]]}, InputError, r"labels\['mine'\] of document 1 must not hold nan, as entry 1 "),
        ({"mine": lambda tokens: tokens / 0 * 0}, InputError, r"of document 0 must not hold nan, as entry 0 "),
        ({"mine": ["1", 1]}, InputTypeError, "got int and str"),
        ({"mine": [True, 1]}, InputTypeError, "got bool and int"),
        ({"mine": [b"a", b"b"]}, InputTypeError, "got bytes"),
        ({"mine": [2**63, 1]}, InputError, "ints of at most 64 bits; pass larger ones as str"),
        ({"mine": np.array([2**63, 1], dtype=np.uint64)}, InputError, "64 bits"),
        ({"mine": [1, 2, 3, 4]}, InputError, "2 entries, one for each document, or 5, one for each position .* got 4"),
        ({"mine": []}, InputError, "2 entries, .* or 5, .* got 0"),
        ({"mine": [[1, 2, 3]]}, InputError, "one sequence for each of 2 documents; got 1"),
        ({"mine": [[1, 2, 3], [1]]}, InputError, r"labels\['mine'\] of document 1 must have 2 entries, .* got 1"),
        ({"mine": [[1, 2, 3], 1]}, InputTypeError, "of document 1 must be .* got int"),
        ({"mine": [1, [1]]}, InputTypeError, "got int and list"),
        ({"mine": lambda tokens: tokens[1:]}, InputError, "of document 0 must have 3 entries, .* got 2"),
        ({"mine": lambda tokens: None}, InputTypeError, "of document 0 must be .* got NoneType"),
        ({"mine": lambda tokens: tokens / 2}, InputTypeError, "got float"),
        ({"mine": [None, -1]}, InputError, "'mine' has a class for no counted token: all its entries there are undefined"),
        (ngram(4), InputError, "'4-gram' has a class for no .*: none has 4 tokens up to and including it in its document"),
        (("token", ngram(10**9, "output")), InputError, "'next_1000000000-gram' .*: none has 1000000000 tokens after it"),
        (("trigram", "next_trigram"), InputError, "'next_trigram' has a class for no .*: none has 3 tokens after it"),
        (("trigram", "next_bigram"), InputError, "no token has a class in each of trigram, next_bigram; .* pass valid='own'"),
    ],
)  # fmt: skip
def test_labels_that_mean_nothing(labels, error, message):
    with pytest.raises(error, match=message):
        LabelPlan.from_documents([document([1, 2, 3]), document([4, 5])], labels)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ngram(0), InputError, "n must be an int of at least 1; got 0"),
        (lambda: ngram(2.0), InputTypeError, "n must be an int"),
        (lambda: ngram(np.float64(2)), InputTypeError, "n must be an int"),
        (lambda: ngram(np.True_), InputTypeError, "n must be an int"),
        (lambda: ngram(2, "left"), InputError, "side must be one of 'input', 'output'; got 'left'"),
        (lambda: NGram(-1, "input"), InputError, "n must be"),
    ],
)
def test_n_grams_that_mean_nothing(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "at least one document"),
        ([document([1], counted=[False])], "got 1 document with none"),
        ([document([1]), raw([-1, 1], [0], [0, 1])], r"of document 1 must all be \[slot\].*got \[2\], \[1\], \[2\]"),
        ([raw([], [], [])], r"slot 0 for the BOS; got \[0\]"),
        ([raw([[1]], [[1]], [[1]])], r"got \[1, 1\]"),
        ([document([1]), document([1, 2**31])], "of document 1 must be ids from 0 .* got 2147483648 in slot 2"),
        ([document([1, -1])], "got -1 in slot 2"),
        ([raw([-2, 1], [0, 1], [0, 1])], "got -2 in slot 0"),
        ([raw([-1, 1], [1, 1], [0, 1])], "got -1 in slot 0"),
        ([raw([-1, 1], [0, 1], [1, 1])], "got -1 in slot 0"),
    ],
)
def test_documents_that_are_not_as_described(found, message):
    with pytest.raises(InputError, match=message):
        LabelPlan.from_documents(found, "position")


def test_a_wrong_valid_is_refused():
    with pytest.raises(InputError, match="valid must be one of 'common', 'own'; got 'all'"):
        LabelPlan.from_documents([document([1])], "token", valid="all")


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30).filter(any), st.integers(1, 40))
def test_folds_are_balanced_and_none_is_empty(lengths, number):
    plan = LabelPlan.from_documents([document([1] * n) for n in lengths], "token")
    folds = plan.folds(number)
    n_folds = min(number, sum(n > 0 for n in lengths))
    loads = torch.zeros(n_folds, dtype=torch.long).index_add_(0, folds, torch.tensor(lengths))
    assert folds.shape == (len(lengths),)
    assert loads.min() > 0
    assert all(fold == 0 for fold, n in zip(folds.tolist(), lengths, strict=True) if n == 0)
    # The lightest fold always gets the next document, so no two folds differ by more than one of theirs.
    assert loads.max() - loads.min() <= max(lengths)
    assert torch.equal(folds, plan.folds(number))


def test_folds_put_the_longest_document_into_the_lightest_fold():
    plan = LabelPlan.from_documents([document([1] * n) for n in (2, 5, 4, 0, 3, 6)], "token")
    # In order of length: 6 to fold 0, 5 to 1, 4 to 1 (5 < 6), 3 to 0 (6 < 9), 2 to 0 (9 = 9, the first); the empty one to 0.
    assert plan.folds(2).tolist() == [0, 1, 1, 0, 0, 0]
    assert plan.folds(1).tolist() == [0] * 6
    assert sorted(plan.folds(9).tolist()) == [0, 0, 1, 2, 3, 4]


def test_folds_balance_tokens_that_have_a_class():
    # Of the long documents most tokens have no class, so they are the light ones.
    labels = {"mine": [[1, *[-1] * 8], [1, *[-1] * 8], [1, 1], [1, 1]]}
    plan = LabelPlan.from_documents([document([1] * n) for n in (9, 9, 2, 2)], labels)
    light, light_too, heavy, heavy_too = plan.folds(2).tolist()
    assert light != light_too
    assert heavy != heavy_too
    light, light_too, heavy, heavy_too = plan.folds(3).tolist()
    assert light == light_too
    assert {light, heavy, heavy_too} == {0, 1, 2}


@pytest.mark.parametrize(("number", "error"), [(0, InputError), (2.0, InputTypeError), (True, InputTypeError)])
def test_numbers_of_folds_that_mean_nothing(number, error):
    plan = LabelPlan.from_documents([document([1])], "token")
    with pytest.raises(error, match="number must be an int of at least 1"):
        plan.folds(number)
    with pytest.raises(error, match="number_of_folds must be an int of at least 1"):
        plan.tables(number)


@given(documents(), st.integers(1, 6), st.sampled_from(["common", "own"]))
def test_tables_have_a_row_for_each_class_and_fold_and_pool_what_is_seen_once(found, number, valid):
    try:
        plan = LabelPlan.from_documents(found, ("token", "next_bigram", "position"), valid=valid)
    except InputError:
        reject()
    folds = plan.folds(number)
    n_folds = int(folds.max()) + 1
    tables = plan.tables(number)
    assert len(tables) == 3
    of_slot = [folds[d].item() for d, one in enumerate(found) for _ in one.tokens]
    for i, table in enumerate(tables):
        classes, sizes = plan.ids[i].tolist(), plan.sizes(i).tolist()
        pairs = sorted({(c, f) for c, f in zip(classes, of_slot, strict=True) if c >= 0 and sizes[c] > 1})
        row = {pair: r for r, pair in enumerate(pairs)}
        wanted = [
            -1 if c < 0 else len(pairs) + f if sizes[c] == 1 else row[c, f] for c, f in zip(classes, of_slot, strict=True)
        ]
        assert table.rows.tolist() == wanted
        assert table.rows.dtype == torch.int32
        assert table.row_class.tolist() == [c for c, _ in pairs] + [-1] * n_folds
        assert table.row_fold.tolist() == [f for _, f in pairs] + list(range(n_folds))
        assert table.n_rows == len(pairs) + n_folds
        # Ones added up by row and then by class are the sizes.
        ones = torch.zeros(table.n_rows, dtype=torch.long)
        ones.index_add_(0, table.rows[table.rows >= 0].long(), torch.ones(int((table.rows >= 0).sum()), dtype=torch.long))
        by_class = torch.zeros(len(sizes) + 1, dtype=torch.long).index_add_(0, table.row_class % (len(sizes) + 1), ones)
        assert by_class[:-1].tolist() == [n if n > 1 else 0 for n in sizes]
        assert by_class[-1] == sizes.count(1)


def test_one_fold_has_one_pooled_row():
    [table] = LabelPlan.from_documents([document([1, 1, 2]), document([3, 1])], "token").tables(1)
    assert table.rows.tolist() == [-1, 0, 0, 1, -1, 1, 0]
    assert (table.row_class.tolist(), table.row_fold.tolist()) == ([0, -1], [0, 0])


def test_pooled_rows_are_there_even_if_empty():
    [table] = LabelPlan.from_documents([document([1, 1]), document([1, 2])], "token").tables(2)
    assert table.rows.tolist() == [-1, 0, 0, -1, 1, 3]
    assert (table.row_class.tolist(), table.row_fold.tolist()) == ([0, 0, -1, -1], [0, 1, 0, 1])


def test_numbers_of_numpy_are_plain_ints():
    gram = ngram(np.int64(4))
    assert (gram, gram.name, type(gram.n)) == (ngram(4), "4-gram", int)
    plan = LabelPlan.from_documents([document([1, 2]), document([2])], "token")
    assert torch.equal(plan.folds(np.uint8(2)), plan.folds(2))
    assert torch.equal(plan.sizes(np.int32(0)), plan.sizes(0))


def test_slots_are_found_by_document_and_position():
    plan = LabelPlan.from_documents([document([1, 2]), document([], bos=9), document([3], bos=9)], "token")
    assert plan.slots(torch.tensor([2, 0, 1, 2, 0]), torch.tensor([0, 1, -1, -1, 0])).tolist() == [5, 2, 3, 4, 1]
    assert plan.slots(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)).tolist() == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((3, 0), "has 3 documents; it has no position 0 in document 3; make the plan from the inputs"),
        ((-1, 0), "no position 0 in document -1"),
        ((-2, 0), "no position 0 in document -2"),
        ((0, 2), "no position 2 in document 0"),
        ((2, 1), "no position 1 in document 2"),
        ((2, -2), "no position -2 in document 2"),
        ((0, -1), "no position -1 in document 0"),
    ],
)
def test_slots_that_are_not_in_the_plan(row, message):
    plan = LabelPlan.from_documents([document([1, 2]), document([], bos=9), document([3], bos=9)], "token")
    with pytest.raises(InputError, match=message):
        plan.slots(torch.tensor([0, row[0]]), torch.tensor([0, row[1]]))


def test_slots_need_a_position_for_each_document():
    plan = LabelPlan.from_documents([document([1, 2])], "token")
    with pytest.raises(InputError, match=r"one shape; got \[2\] and \[1\]"):
        plan.slots(torch.tensor([0, 0]), torch.tensor([0]))


def test_texts():
    plan = LabelPlan.from_documents([document([1, 2, 1, 2])], {"next_bigram": "next_bigram", "where": "position", "x": ["en"]})
    assert plan.texts("next_bigram", {1: "in", 2: " side"}) == ["in side", " sidein"]
    assert plan.texts(0, {1: "a", 2: "b"}) == ["ab", "ba"]
    assert plan.texts("where", {}) == ["0", "1"]
    assert plan.texts("x", {}) == ["en"]
    with pytest.raises(InputError, match="strings must have the text of every token id; it lacks 2"):
        plan.texts("next_bigram", {1: "in"})


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        ("bigram", InputError, "label must be one of 'token', 'position'; got 'bigram'"),
        (2, InputError, "label must be an int from 0 to 1; got 2"),
        (-1, InputError, "label must be an int from 0 to 1"),
        (None, InputTypeError, "label must be an int"),
    ],
)
def test_label_sets_that_are_not_in_the_plan(label, error, message):
    plan = LabelPlan.from_documents([document([1, 2])], ("token", "position"))
    for ask in (plan.sizes, lambda label: plan.texts(label, {})):
        with pytest.raises(error, match=message):
            ask(label)


def test_repr_is_a_table():
    found = [document(list(range(1100))), document([1, 1])]
    plan = LabelPlan.from_documents(found, ("token", "next_trigram"), valid="own")
    assert repr(plan).splitlines() == [
        'LabelPlan: 1,102 tokens counted in 2 documents, valid="own"',
        "label         side    tokens  coverage  classes  seen once",
        "token         input    1,102    100.0%    1,100      1,099",
        "next_trigram  output   1,097     99.5%    1,097      1,097",
    ]


def test_a_plan_that_takes_much_memory_is_announced(monkeypatch):
    monkeypatch.setattr(plan, "LARGE", 100 * 130)
    LabelPlan.from_documents([document(range(98))], ("token", "next_token"))
    with pytest.warns(UserWarning, match=r"the plan of 2 label sets for 100 positions takes about 0\.0 GiB while it is made"):
        LabelPlan.from_documents([document(range(99))], ("token", "next_token"))
