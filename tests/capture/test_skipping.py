"""Rows that cannot be used: raised, or left out, counted and listed, in every function that reads inputs."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from crossings import same
from letters import Letters, corpus_of
from public import OTHERS, QUIET, READERS, VARIANTS, Again

import tl_entropy as tle
from tl_entropy.capture.documents import Rereadable
from tl_entropy.errors import InputError, InputTypeError

GOOD = ["the cat sat on the mat", "def f(x):\n    return x + 1", "dog and cat and dog"]


def bad_rows():
    return [None, float("nan"), "", 3, b"bytes", "lone \ud800 surrogate", torch.tensor([0.5, float("nan")]), {"no": "text"}]


def skipping(inputs, encoder=None, **options):
    """Numbers of the documents that are measured, and what the report lists."""
    corpus = corpus_of(inputs, encoder, on_error="skip", **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        numbers = [window.document for window in corpus]
    skipped = corpus.report.skipped
    left_out = "1 document was left out" if skipped.count == 1 else f"{skipped.count} documents were left out"
    assert [str(warning.message).split(":")[0] for warning in told] == [left_out]
    return numbers, [where for _, where, _ in skipped.first]


def test_rows_of_every_kind_are_left_out_and_the_others_keep_their_numbers(tmp_path):
    numbers, places = skipping(["a", *bad_rows(), "b"])
    assert numbers == [0, 9]
    assert places == [*(f"inputs[{i}]" for i in range(1, 8)), "inputs[8]"]
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    for inputs, found in (
        (tmp_path, ([0], ["b.txt"])),
        ([tmp_path / "a.txt", tmp_path / "missing"], ([0], ["inputs[1]"])),
        ({"text": ["a", None, "b"]}, ([0, 2], ["inputs['text'][1]"])),
        (np.array(["a", None], dtype=object), ([0], ["inputs[1]"])),
        ({"input_ids": [[5, 6], [None], [7], [-3]]}, ([0, 2], ["inputs[1]", "inputs[3]"])),
        ((torch.tensor([[5, 6], [7, 8]]), torch.tensor([[1, 1], [2, 0]])), ([0], ["inputs[1]"])),
        ([["a", 5], ["b"]], ([0, 2], ["inputs[0][1]"])),
    ):
        assert skipping(inputs) == found


def test_a_tokenizer_that_raises_is_one_row_or_names_it():
    class Hates(Letters):
        def encode(self, text):
            if "b" in text:
                raise RuntimeError("what is this")
            return super().encode(text)

    assert skipping(["a", "b", "c"], Hates()) == ([0, 2], ["inputs[1]"])
    with pytest.raises(InputError, match=r"inputs\[1\]: the tokenizer cannot split this text \(RuntimeError: what is this\)"):
        list(corpus_of(["a", "b"], Hates()))
    greedy = SimpleNamespace(**{name: getattr(Letters(), name) for name in ("begin", "special_ids", "context", "n_ids")})
    greedy.has_tokenizer, greedy.strings = True, Letters().strings
    greedy.encode = lambda text: (_ for _ in ()).throw(MemoryError)
    with pytest.raises(MemoryError):
        list(corpus_of(["a"], greedy, on_error="skip"))


def test_what_no_row_is_to_blame_for_is_raised():
    class Broken(Exception):
        pass

    def breaking(error):
        yield "a"
        raise error

    for error in (Broken(), InputError("of the user's own"), KeyError("x")):
        for inputs in (breaking(error), ["b", breaking(error)]):
            with pytest.raises(type(error)) as caught:
                list(corpus_of(inputs, on_error="skip"))
            assert caught.value is error
    padded = torch.tensor([[5, 0, 0], [5, 6, 7]])
    for inputs, kind, match in (
        ("a", InputError, "no tokenizer"),
        (None, InputTypeError, "inputs must be"),
        ({"code": ["a"]}, InputError, "no column"),
        (padded, InputError, "may be padding"),
        ([padded], InputError, "may be padding"),
    ):
        with pytest.raises(kind, match=match):
            list(corpus_of(inputs, Letters(has_tokenizer=inputs != "a"), on_error="skip"))
    with pytest.raises(InputError, match=r"nothing to measure: 2 documents were left out: inputs.0. must be"):
        list(corpus_of([None, 3], on_error="skip"))
    with pytest.raises(InputError, match="on_error must be one of 'raise', 'skip'; got 'ignore'"):
        corpus_of("a", on_error="ignore")


def test_a_second_reading_leaves_out_the_same_rows():
    inputs = Rereadable(Again(lambda: ["a", None, "bcd"]))
    assert skipping(inputs)[0] == [0, 2]
    assert skipping(inputs, Letters(context=3))[0] == [0, 2, 2]
    with pytest.raises(InputError, match=r"document 2 was read before, and cannot be used now.*tokens must be ids"):
        list(corpus_of(inputs, Letters(n_ids=ord("b")), on_error="skip", prepend_bos=False))
    first = Rereadable(["ab", "a", "b"])
    assert skipping(first, Letters(n_ids=ord("b")))[0] == [1]
    assert skipping(first)[0] == [1], "which this tokenizer could have read"


def test_long_lists_and_reasons_are_cut():
    corpus = corpus_of(["a", *[3] * 40, {"x" * 500: 1}], on_error="skip")
    with pytest.warns(UserWarning, match=r"^41 documents were left out: inputs\[1\] must be.*; \.\.\.$"):
        list(corpus)
    told = corpus.report.skipped.told()
    assert (told["count"], len(told["first"])) == (41, 20)
    assert max(len(reason) for *_, reason in told["first"]) <= 200


def test_every_public_name_is_in_the_table():
    callables = {name for name in tle.__all__ if not isinstance(getattr(tle, name), type)}
    assert callables == (READERS.keys() | OTHERS) - {"EntropyMonitor"}
    classes = {name for name in tle.__all__ if isinstance(getattr(tle, name), type)}
    assert "EntropyMonitor" in classes


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.filterwarnings("ignore:8 documents were left out")
@pytest.mark.parametrize("name", READERS | VARIANTS)
def test_every_function_skips(gpt2, name):
    function = (READERS | VARIANTS)[name]
    texts = GOOD if "layer_similarity" not in name else [*GOOD, *GOOD]
    bad = bad_rows()
    in_plan = name.startswith(("label_plan", "soft_information"))  # where documents without a token count on
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "8 empty documents")
        expected = function(gpt2, [*texts, *[""] * len(bad)] if in_plan else texts)
    found = function(gpt2, [*texts, *bad], on_error="skip")
    if hasattr(found, "lenses"):
        assert found.lenses["other"].provenance.corpus["skipped"]["count"] == 8
        found, expected = found.lenses["one"], expected.lenses["one"]
    if isinstance(found, dict):
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
    elif name == "label_plan":
        assert str(found) == str(expected)
    else:
        same(found, expected, 2e-5)
    if name == "train_tuned_lens":
        assert found.provenance.corpus.get("skipped") is None, "since it did not read as far"
    elif hasattr(found, "provenance") and name != "stream":
        assert found.provenance.corpus["skipped"]["count"] == 8
        assert "8 documents were left out: inputs[" in str(found)


@pytest.mark.model
@pytest.mark.filterwarnings("ignore:2 documents were left out")
def test_what_was_skipped_is_saved_and_prompts_are_skipped_once(gpt2, tmp_path):
    inputs = [GOOD[0], None, "", GOOD[1]]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = tle.lens_entropy(gpt2, inputs, on_error="skip", max_new_tokens=2, **QUIET)
    assert [str(warning.message)[:11] for warning in told] == ["2 documents"]
    assert result.documents == (0, 3)
    skipped = result.provenance.corpus["skipped"]
    assert [number for number, *_ in skipped["first"]] == [1, 2]
    assert tle.load(result.save(tmp_path / "r.safetensors")).provenance.corpus["skipped"] == skipped
    found = tle.layer_geometry(gpt2, inputs, measures="lidar", labels=["a", "b", "b", "a"], on_error="skip", **QUIET)
    assert found.provenance.corpus["skipped"]["count"] == 2
    plan = tle.label_plan(gpt2, inputs, labels={"document": ["a", "b", "b", "a"]}, on_error="skip")
    assert plan.n_documents == 4
    lens = tle.train_tuned_lens(gpt2, inputs, steps=1, tokens_per_step=20, on_error="skip", **QUIET)
    assert lens.provenance.corpus["skipped"]["count"] == 2
