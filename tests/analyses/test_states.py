"""States of accumulators: every kind has one, and any split of a corpus over states, merged in any order, is the whole."""

from __future__ import annotations

import inspect
import json
import pickle
import random
from functools import cache

import pytest
import torch
from hypothesis import given, settings, strategies as st
from states import EVERY, TOKENS, differences, model, plan, streamed
from tiny_models import cached_model

import tl_entropy as tle
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.errors import FileError, InputError, InputTypeError

LENSES = ("tuned lens, sums", "own lens, sums")
QUICK = ("own lens, sums", "cka")
LONG = [pytest.param(name, marks=pytest.mark.long) if name not in QUICK else name for name in EVERY]


def subclasses(of):
    return {of, *(found for below in of.__subclasses__() for found in subclasses(below))}


def test_every_accumulator_of_the_package_is_here():
    for name in tle.__all__:
        getattr(tle, name)
    kinds = {kind for kind in subclasses(StreamingMeasure) if kind.__module__.startswith("tl_entropy.")}
    concrete = {kind for kind in kinds if not inspect.isabstract(kind)}
    made = [make(model()) for make in EVERY.values()]
    assert {type(one) for one in made} == concrete
    for one in made:
        state = one.state_dict()
        json.dumps(plain(state))
        one.load_state_dict(state)
        assert state["documents"] is None


@cache
def whole(name):
    return streamed(name).compute(corpus={})


def plain(state):
    """A state without its tensors, if all else in it is JSON's."""
    if isinstance(state, torch.Tensor):
        return f"tensor {state.dtype} {list(state.shape)}"
    if isinstance(state, dict):
        assert all(type(key) is str for key in state)
        return {key: plain(item) for key, item in state.items()}
    if isinstance(state, list):
        return [plain(item) for item in state]
    assert state is None or type(state) in (bool, int, float, str), type(state)
    return state


@pytest.mark.parametrize("name", LONG)
def test_parts_as_states_merge_to_the_whole_in_any_order(name):
    dice = random.Random(name)
    cuts = sorted(dice.sample(range(1, len(TOKENS)), 2))
    parts = [range(*pair) for pair in zip([0, *cuts], [*cuts, len(TOKENS)], strict=True)]
    states = [streamed(name, part).state_dict() for part in parts] + [EVERY[name](model()).state_dict()]
    dice.shuffle(states)
    json.dumps([plain(state) for state in states])
    merged = None
    for state in states:
        one = EVERY[name](model())
        one.load_state_dict(state)
        assert plain(one.state_dict()) == plain(state)
        if merged is None:
            merged = one
        else:
            merged.merge(one)
    assert differences(whole(name), merged.compute(corpus={})) == []
    assert merged.state_dict()["documents"] == [[0, len(TOKENS)]]
    assert merged.report.digest == streamed("lens").report.digest


@pytest.mark.parametrize("name", LONG)
def test_one_goes_on_where_its_state_was_taken(name):
    first = streamed(name, range(2, 5))
    state = first.state_dict()
    streamed(name, range(5, 6), into=first)  # which the state does not see
    second = EVERY[name](model())
    second.load_state_dict(state)
    for part in (range(5, 8), range(2)):
        streamed(name, part, into=second)
    assert differences(whole(name), second.compute(corpus={})) == []


@pytest.mark.parametrize("name", LONG)
def test_files_merge_and_compute_without_the_model_and_go_on_with_it(name, tmp_path):
    parts = [streamed(name, part) for part in (range(3), range(3, 8))]
    for i, part in enumerate(parts):
        assert part.save(tmp_path / f"{i}") == tmp_path / f"{i}"
    first, second = (tle.load_accumulator(tmp_path / f"{i}") for i in (0, 1))
    second.merge(first)
    assert differences(whole(name), second.compute(corpus={})) == []
    assert second.report.held == ((0, 8),)
    if name not in LENSES and name not in ("means", "reliance on parts"):
        again = tle.load_accumulator(tmp_path / "1", model())
        streamed(name, range(3), into=again)
        assert differences(whole(name), again.compute(corpus={})) == []
    third = EVERY[name](model())
    third.load_state_dict(tle.load_accumulator(tmp_path / "1").state_dict())
    streamed(name, range(3), into=third)
    assert differences(whole(name), third.compute(corpus={})) == []


def test_a_lens_has_to_be_given_again(tmp_path):
    streamed("own lens, sums", range(2)).save(tmp_path / "one")
    with pytest.raises(InputError, match="a lens or interventions; make it anew"):
        tle.load_accumulator(tmp_path / "one", model())
    other = tle.LensAccumulator(model(), lens=lambda site, rows: rows, keep="summary", vocabulary="tokenizer")
    with pytest.raises(InputError, match="its lens is 'half', and here it is '<lambda>'"):
        other.load_state_dict(tle.load_accumulator(tmp_path / "one").state_dict())


def test_damaged_and_other_files_are_refused(tmp_path):
    path = streamed("own lens, sums", range(2)).save(tmp_path / "deep" / "one")
    result = tle.lens_entropy(model(), TOKENS[:1], progress=False).save(tmp_path / "result")
    with pytest.raises(FileError, match="holds a result, which load reads"):
        tle.load_accumulator(result)
    with pytest.raises(FileError, match="load_accumulator reads"):
        tle.load(path)
    with pytest.raises(FileError, match="no file"):
        tle.load_accumulator(tmp_path / "none")
    whole_file = path.read_bytes()
    for wrong in (whole_file[:-8], whole_file[:40], b"", whole_file[:-8] + b"8 bytes."):
        path.write_bytes(wrong)
        with pytest.raises(FileError, match="damaged"):
            tle.load_accumulator(path)
    path.write_bytes(whole_file)
    streamed("patterns", range(1)).save(path)
    with pytest.raises(InputError, match="its model is"):
        tle.load_accumulator(path, cached_model("gpt2", "bridge"))


def test_a_later_schema_is_told(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr("tl_entropy.analyses.saving.SCHEMA", 2)
        path = streamed("own lens, sums", range(2)).save(tmp_path / "one")
    with pytest.raises(FileError, match="schema 2, this tl_entropy reads up to 1; upgrade"):
        tle.load_accumulator(path)


def test_pickling_says_what_to_do():
    with pytest.raises(InputTypeError, match=r"state_dict\(\) gives .* save\(path\)"):
        pickle.dumps(EVERY["patterns"](model()))


def test_state_information_has_a_file(tmp_path):
    states = tle.StateInformation(6, 4, folds=2)
    z = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    states.update(z, [("a", i % 2) for i in range(40)], documents=[i // 4 for i in range(40)])
    again = tle.load_accumulator(states.save(tmp_path / "states"))
    assert again.results() == pytest.approx(states.results(), nan_ok=True, abs=1e-12)
    again.update(z, ["b"] * 40, documents=list(range(50, 90)))
    assert again.rows == 80


@cache
def single(name):
    """The state of every document by itself, and that of none."""
    return [streamed(name, range(i, i + 1)).state_dict() for i in range(len(TOKENS))], EVERY[name](model()).state_dict()


@pytest.mark.parametrize("name", ["own lens, sums", pytest.param("cka", marks=pytest.mark.long)])
@settings(max_examples=30)
@given(order=st.permutations(range(len(TOKENS))), sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_any_split_over_any_number_of_states_is_the_whole(name, order, sizes):
    of_one, empty = single(name)
    parts, left = [], list(order)
    for size in [*sizes, len(TOKENS)]:
        one = EVERY[name](model()).of_same(empty)
        for document in left[:size]:
            one.merge(one.of_same(of_one[document]))
        parts, left = [*parts, one], left[size:]
    for one in parts[:-1]:
        parts[-1].merge(one)
    assert parts[-1].report.held == ((0, len(TOKENS)),)
    assert differences(whole(name), parts[-1].compute(corpus={})) == []


def test_what_differs_is_named():
    state = streamed("lens", range(2)).state_dict()
    with pytest.raises(InputError, match=r"its orders is .* and here it is"):
        tle.LensAccumulator(model(), surprisal=True, top_k=2).load_state_dict(state)
    with pytest.raises(InputError, match="its model is"):
        EVERY["lens"](cached_model("gpt2", "bridge")).load_state_dict(state)
    with pytest.raises(InputError, match="its kind is 'LensAccumulator', and here it is 'HeadAccumulator'"):
        tle.HeadAccumulator(model()).load_state_dict(state)
    with pytest.raises(InputError, match="schema 99, this tl_entropy reads up to"):
        EVERY["lens"](model()).load_state_dict({**state, "schema": 99})
    with pytest.raises(InputError, match=r"lacks kind, .*gathered"):
        EVERY["lens"](model()).load_state_dict({})


def test_documents_that_both_hold_are_named_and_nothing_changes():
    one, other = streamed("own lens, sums", range(4)), streamed("own lens, sums", range(3, 6))
    before = one.compute().sums.clone()
    with pytest.raises(InputError, match="both hold document 3"):
        one.merge(other)
    assert torch.equal(one.compute().sums, before)
    with pytest.raises(InputError, match="read all parts with documents=, or none"):
        one.merge(streamed("own lens, sums"))


def test_without_documents_parts_are_numbered_on():
    both = [tle.LensAccumulator(model()) for _ in range(2)]
    for one, texts in zip(both, (TOKENS[:3], TOKENS[3:]), strict=True):
        tle.stream(model(), texts, [one], progress=False)
    states = [one.state_dict() for one in both]
    one, other = (tle.LensAccumulator(model()) for _ in range(2))
    one.load_state_dict(states[0])
    other.load_state_dict(states[1])
    one.merge(other)
    assert one.compute().document.unique().tolist() == list(range(8))
    assert one.state_dict()["documents"] == [[0, 8]]


@pytest.mark.long
def test_a_soft_state_of_another_plan_is_refused():
    state = streamed("soft", range(4)).state_dict()
    other = tle.label_plan(model(), TOKENS[:-1], labels=("token", "next_token"), window=6)
    assert other.n_documents < plan().n_documents
    with pytest.raises(InputError, match="its plan is"):
        tle.SoftAccumulator(model(), other, heads=True, n_bins=(5, 8), keep_labels=True, folds=3).load_state_dict(state)
