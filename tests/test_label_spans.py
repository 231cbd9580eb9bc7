"""Labels of spans of characters as labels of tokens: the rule, texts and tokens, and errors that name the place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.labels.spans import Places, SpanLabels

TEXT = "Ada Lovelace met  Babbage."
#       0123456789012345678901234
TOKENS = ((0, 3), (3, 8), (8, 12), (12, 16), (16, 17), (17, 25), (25, 26))


def entries(spans, *, text=TEXT, tokens=TOKENS, outside=None):
    [found] = SpanLabels([spans], outside).entries("labels['x']", [Places(text, torch.tensor(tokens))])
    return found


def slow(spans, text, tokens):
    """The rule, as it is written."""
    found = []
    for start, end in tokens:
        characters = [i for i in range(start, end) if not text[i].isspace()]
        characters = list(range(characters[0], characters[-1] + 1)) if characters else list(range(start, end))
        best = None
        for first, last, label in spans:
            covered = sum(first <= i < last for i in characters)
            if 2 * covered >= len(characters) and (best is None or (covered, first - last) > best[0]):
                best = (covered, first - last), label
        found.append(None if best is None else best[1])
    return found


def test_tokens_of_a_span_have_its_label_whatever_spaces_are_in_them():
    assert entries([(0, 12, "person"), (18, 25, "person")]) == ["person"] * 3 + [None, None, "person", None]
    assert entries([(0, 12, "person")], outside="none") == ["person"] * 3 + ["none"] * 4
    assert entries([(16, 18, "gap")])[4] == "gap", "whitespace alone is what it is"


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(4, 6, "a")], "a"),  # half of it
        ([(4, 5, "a")], None),  # less
        ([(4, 7, "a"), (7, 8, "b")], "a"),  # most of it
        ([(0, 12, "whole"), (4, 8, "inner")], "inner"),
        ([(4, 8, "inner"), (0, 12, "whole")], "inner"),
        ([(4, 8, "first"), (4, 8, "second")], "first"),
        ([(0, 7, "left"), (4, 12, "right")], "right"),
    ],
)
def test_of_several_spans_one_rule_decides(spans, expected):
    assert entries(spans)[1] == expected


@given(
    st.lists(st.tuples(st.integers(0, 25), st.integers(1, 9), st.sampled_from("abc")), max_size=12),
    st.lists(st.integers(1, 4), min_size=1, max_size=9),
)
def test_it_is_the_rule_as_it_is_written(drawn, sizes):
    text = ("ab  c d" * 5)[: max(sum(sizes), 34)]
    tokens = [(start, start + size) for start, size in zip(np.cumsum([0, *sizes[:-1]]).tolist(), sizes, strict=True)]
    spans = [(start, min(start + size, len(text)), label) for start, size, label in drawn]
    assert entries(spans, text=text, tokens=tokens) == slow(spans, text, tokens)


def test_what_taggers_return():
    expected = entries([(0, 3, "person")])
    assert entries([{"start": 0, "end": 3, "label": "person"}]) == expected
    assert entries([{"start": 0, "end": 3, "entity_group": "person", "score": 0.9, "word": "Ada"}]) == expected
    assert entries([{"start": 0, "end": 3, "entity": "person"}]) == expected
    assert entries([SimpleNamespace(start_char=0, end_char=3, label_="person")]) == expected
    assert entries([[np.int64(0), np.int64(3), "person"]]) == expected


TEXTS = ["import os\nimport sys\n", "", "naïve café — 日本 import re\n"]


def modules(text):
    return [(i, i + len(name), "module") for name in ("os", "sys", "re") for i in [text.find(f" {name}\n") + 1] if i]


@pytest.mark.filterwarnings("ignore:1 empty document was skipped")
@pytest.mark.parametrize("given", [modules, [modules(text) for text in TEXTS]])
def test_a_plan_of_texts(given):
    model = tle.demo_model()
    plan = tle.label_plan(model, TEXTS, labels={"kind": tle.span_labels(given, outside="other")}, window=8)
    places = tle.token_surprisal(model, TEXTS, progress=False, window=8)
    kinds = plan.texts("kind", {})
    for document in (0, 2):
        here = places.document == document
        text, spans = TEXTS[document], places.span[here].tolist()
        expected = slow(modules(text), text, spans)
        ids = plan.ids[0, plan.starts[document] + 1 : plan.starts[document + 1]]
        found = [kinds[i] for i in ids.tolist()]
        assert found[-len(expected) :] == [label or "other" for label in expected]
        assert found.count("module") == len(modules(text))


def test_tokens_have_the_labels_of_the_text_that_they_are_of():
    model = tle.demo_model()
    tokens = tle.Adapter(model).encode(TEXTS[0])
    spans = tle.span_labels([modules(TEXTS[0])], outside="other")
    plans = [tle.label_plan(model, given, labels={"kind": spans}) for given in (TEXTS[:1], torch.tensor([tokens]))]
    assert torch.equal(plans[0].ids[plans[0].ids >= 0], plans[1].ids[plans[1].ids >= 0])
    with pytest.raises(InputError, match=r"labels\['kind'\], document 0: it is not known where in its text the tokens are"):
        tle.label_plan(model, torch.tensor([tokens[::-1]]), labels={"kind": spans})


def test_they_are_measured_beside_other_label_sets():
    texts = [text[:400] for text in tle.demo_texts(3)]
    labels = {"line": tle.span_labels(lambda text: [(0, len(text) // 2, "first"), (len(text) // 2, len(text), "second")])}
    result = tle.soft_information(
        tle.demo_model(), texts, labels={**labels, "token": "token"}, layers=[5], n_bins=20, progress=False, keep_labels=True
    )
    assert result.labels == ("line", "token")
    assert sorted(result.label_table("line")["text"].unique()) == ["first", "second"]


@pytest.mark.parametrize(
    ("spans", "error", "message"),
    [
        ([[], [(3, 99, "a")]], InputError, r"labels\['x'\], document 1, span 0 must have 0 <= start < end <= 9"),
        ([[(0, 2, "a"), (2, 2, "a")], []], InputError, r"document 0, span 1 must have .*; got 2 and 2"),
        ([[(-1, 2, "a")], []], InputError, r"document 0, span 0 must have"),
        ([[(0, 2)], []], InputTypeError, r"document 0, span 0 must be \(start, end, label\), with two ints and a label; got"),
        ([[(0.0, 2, "a")], []], InputTypeError, r"document 0, span 0 must be"),
        ([[(0, True, "a")], []], InputTypeError, r"document 0, span 0 must be"),
        ([["abc"], []], InputTypeError, r"document 0, span 0 must be"),
        ([[{"start": 0, "end": 2}], []], InputTypeError, r"document 0, span 0 must be"),
        ([[], {"start": 0}], InputTypeError, r"document 1 must be a list of spans; got dict"),
        ([[(0, 2, "a")]], InputError, r"labels\['x'\] must have the spans of each of 2 documents; got 1 lists"),
        ([[(0, 9, 1.5)], []], InputTypeError, r"document 0, span 0 must have a label that is a str, an int or a bool; got 1.5"),
        ([[(0, 9, 1)], [(0, 9, "a")]], InputTypeError, "entries that are all int, all str or all bool"),
    ],
)
def test_spans_that_are_refused(spans, error, message):
    with pytest.raises(error, match=message):
        tle.label_plan(tle.demo_model(), ["import os", "import re"], labels={"x": tle.span_labels(spans)})


def test_what_is_no_list_of_spans():
    for wrong in ("text", {"a": 1}, 3, None):
        with pytest.raises(InputTypeError, match="spans must be a list with the spans of each document, or a function"):
            tle.span_labels(wrong)
    with pytest.raises(InputTypeError, match=r"give it a name, as in labels="):
        tle.label_plan(tle.demo_model(), ["import os"], labels=tle.span_labels([[]]))
    with pytest.raises(InputError, match="'x' has a class for no counted token"):
        tle.label_plan(tle.demo_model(), ["import os"], labels={"x": tle.span_labels([[]])})


def test_an_error_of_the_tagger_is_raised_as_it_is():
    def broken(text):
        raise KeyError("tagger")

    with pytest.raises(KeyError, match="tagger"):
        tle.label_plan(tle.demo_model(), ["import os"], labels={"x": tle.span_labels(broken)})
