"""Odd calls of every public function that reads inputs: a result, or an error of this package's own."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import odd_plots
import odd_results
import odd_tensors
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from public import READERS, VARIANTS
from tiny_models import LONG, cached_model, kinds

import tl_entropy as tle

pytestmark = pytest.mark.model
MODEL = cached_model("gpt2", kinds()[0])

ODD_TEXTS = [
    "", " ", "a", "\x00", "\ufeff", "\u202eabc", "a" * 500, "naïve 🙂 שלום e\u0301", "<|endoftext|>", "<|endoftext|>" * 3,
    "lone \ud800 surrogate", "\n" * 70, "the cat", "the cat sat on the mat",
]  # fmt: skip
ODD_NUMBERS = [
    0, 1, -1, 2, 3, 64, 65, 2**31, -(2**63), 2**70, 0.0, -0.0, 0.5, 1.5, math.inf, -math.inf, math.nan, np.int8(3),
    np.float16(0.5), True, "3", None, [], [1, 2], (0.5,), torch.tensor(2), torch.tensor([1.0, 2.0]), np.array([3]), 1j,
    object(), slice(0, 2),
    slice(None, None, -1), slice("a"), {1, 2}, b"1",
]  # fmt: skip
ODD_INPUTS = [
    None, 5, 1.5, b"bytes", [], (), {}, [None], [[]], torch.tensor([]), torch.tensor([[0, 5, 6]]), torch.tensor([5.5]),
    torch.tensor([[299, 300]]), torch.zeros(2, 0, dtype=torch.long), torch.tensor(3), np.array(["the cat", ""]), 
    [torch.tensor([7])],
    (torch.tensor([[5, 6]]), torch.tensor([[0, 0]])), (torch.tensor([[5, 6]]), torch.tensor([[0, 1]])), {"text": "the cat"},
    {"text": ["the cat", None]}, {"input_ids": [[5, 6], [7]]}, {"input_ids": None}, Path("/nowhere"), Path("/dev/null"),
    object(), [["the cat", ["dog"]]], iter(()), torch.ones(2, 3, dtype=torch.bool), torch.tensor([-1, 4]),
    np.zeros((1, 1, 1), dtype=int),
]  # fmt: skip

texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=30))
inputs = st.one_of(st.lists(texts, max_size=4), texts, st.sampled_from(ODD_INPUTS))
OF_THEIR_OWN = {
    "prepend_bos": [True, False, None, 1],
    "include_special": [True, False],
    "on_error": ["raise", "skip", "no"],
    "text_column": ["text", "code"],
    "sites": ["embed", "resid_post", "", "z", "pattern", [], "resid_post.9", None, 3],
    "keep": ["positions", "summary", "all"],
    "metrics": ["kl", ("kl", "jsd"), [], "x", 3],
    "against": ["output", "previous", "all", "embed", "x", None],
    "labels": [("token",), "token", "x", [], {"a": [1]}, None, 3],
    "max_new_tokens": [0, 1, -1, 1.5, True, 100],
    "steps": [0, 1, 2, True, "x"],
    "permutations": [1, 2, 3, True, "x"],
    "precision": ["float32", "x"],
    "method": ["cka", "matrix_renyi", "truncation", "pad_shift", "x"],
    "estimator": ["exact", "minibatch", "x"],
    "measures": [None, "curvature", "lidar", [], "x"],
    "heads": [True, 1, "z", [0], [9], -1],
    "of": ["pattern", "readout", "loss", "x"],
    "vocabulary": ["model", "tokenizer", "x"],
    "interventions": [None, [], "x", ("blocks.0.hook_mlp_out", 3), ("no.hook", print)],
    "lens": [None, 3, lambda site, rows: rows, lambda site, rows: rows[:1]],
}
NUMBERS = ("positions", "window", "stride", "batch_size", "special_ids", "orders", "order", "layers", "top_k", "n_bins", "seed")
NUMBERS += ("folds", "temperature", "n_samples", "nonsense")
OPTIONS = {**OF_THEIR_OWN, **dict.fromkeys(NUMBERS, ODD_NUMBERS)}


@settings(max_examples=2000 if LONG else 40, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(READERS | VARIANTS)),
    given_inputs=inputs,
    chosen=st.lists(st.sampled_from(sorted(OPTIONS)), max_size=3, unique=True),
    data=st.data(),
)
def test_a_result_or_an_error_of_ours(name, given_inputs, chosen, data):
    options = {option: data.draw(st.sampled_from(OPTIONS[option]), label=option) for option in chosen}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            (READERS | VARIANTS)[name](MODEL, given_inputs, **options)
        except tle.TLEntropyError:
            return
        except TypeError as error:  # Python's own, of a keyword that this function does not have or that is given twice
            if "keyword argument" in str(error) or "multiple values for argument" in str(error):
                return
            raise


def test_what_it_has_found():
    found = tle.soft_information(MODEL, ["the cat"], n_bins=5, layers=[1], progress=False)
    assert found.information.isnan().all(), "of one position"
    with pytest.raises(tle.InputTypeError, match="special_ids must be a collection of ids"):
        tle.lens_entropy(MODEL, ["the cat"], special_ids=0, progress=False)


@settings(max_examples=3000 if LONG else 60, suppress_health_check=list(HealthCheck), deadline=None)
@given(name=st.sampled_from(sorted(odd_tensors.GOOD)), data=st.data())
def test_functions_of_tensors(name, data):
    """One to three arguments of a right call are odd; what comes back holds nothing that is no number where it is none."""
    given = dict(odd_tensors.GOOD[name])
    chosen = data.draw(st.lists(st.sampled_from(sorted(given)), min_size=1, max_size=3, unique=True), label="arguments")
    for argument in chosen:
        given[argument] = data.draw(st.sampled_from(odd_tensors.ODD), label=argument)
    if type(many := given.get("permutations")) is int and many >= 2**40:  # as many as asked for would take years
        return
    with warnings.catch_warnings(), contextlib.suppress(tle.TLEntropyError, MemoryError):
        warnings.simplefilter("ignore")
        try:
            getattr(tle.functional, name)(**given)
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # torch's own MemoryError
                raise


@pytest.mark.parametrize("name", sorted(odd_tensors.GOOD))
def test_right_calls_of_tensors(name):
    getattr(tle.functional, name)(**odd_tensors.GOOD[name])


def test_every_function_of_tensors_is_here():
    functions = {name for name in tle.functional.__all__ if name[0].islower()}
    assert functions == odd_tensors.GOOD.keys() | odd_tensors.SLOW


@settings(max_examples=600 if LONG else 8, suppress_health_check=list(HealthCheck), deadline=None)
@given(name=st.sampled_from(sorted(odd_plots.PLOTS)), data=st.data())
def test_plots(name, data):
    """An argument of a right call, or two, are odd."""
    plot, (given, options) = getattr(tle.plots, name), odd_plots.PLOTS[name]()
    given, options = list(given), dict(options)
    keywords = [p.name for p in inspect.signature(plot).parameters.values() if p.kind is p.KEYWORD_ONLY]
    places = st.sampled_from([*range(len(given)), *keywords])
    for place in data.draw(st.lists(places, min_size=1, max_size=2, unique=True), label="arguments"):
        odd = odd_plots.ODD + (odd_plots.OTHERS if isinstance(place, int) else [])
        value = data.draw(st.sampled_from(odd), label=str(place))
        if isinstance(place, int):
            given[place] = value
        else:
            options[place] = value
    with warnings.catch_warnings(), contextlib.suppress(tle.TLEntropyError):
        warnings.simplefilter("ignore")
        plot(*given, **options)
    plt.close("all")


def test_every_plot_is_here():
    assert odd_plots.PLOTS.keys() == {name for name in tle.plots.__all__ if name[0].islower()}


@pytest.mark.long
def test_every_method_of_every_result():
    """In a process of its own, where no types are checked but by the methods themselves."""
    environment = {**os.environ, "PYTHONPATH": str(Path(tle.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", odd_results.__file__, "40" if LONG else "2"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "refused" in run.stdout
    assert "raw:" not in run.stdout, run.stdout


def test_every_kind_of_result_is_here():
    found = {type(odd_results.result(name)).__name__ for name in odd_results.FILES}
    own = {name for name, kind in tle.results.base.Result.kinds.items() if kind.__module__.startswith("tl_entropy.")}
    assert found == own - {"TunedLens"}  # pages of the docs, which are tests, too, make kinds of their own


@pytest.mark.parametrize(
    ("name", "method", "asked", "error"),
    [
        ("EntropyHistory", "joined", {"parts": 3}, "parts must be several histories"),
        ("SoftInformation", "error_of", {"values": 3}, "values must be floats"),
        ("SoftInformation", "reason", {"place": 0.5, "label": 0, "draw": 0}, "place must be an int"),
        ("TokenSurprisal_words", "word_surprisal", {"context": slice(None)}, "context must be several texts"),
        ("TokenSurprisal_words", "word_surprisal", {"context": ["", None]}, "context must be a text, or one for each document"),
        ("TokenSurprisal_words", "word_surprisal", {"frequency": 0.5}, "frequency must be a mapping from words to numbers"),
    ],
)
def test_what_results_refuse_by_name(name, method, asked, error):
    with pytest.raises(tle.InputTypeError, match=error):
        getattr(odd_results.result(name), method)(**asked)


@pytest.mark.parametrize(
    ("keywords", "error"), [({"ax": 3}, "ax must be matplotlib's axes"), ({"labels": 3}, "labels must be")]
)
def test_what_plots_refuse_by_name(keywords, error):
    [result], _ = odd_plots.PLOTS["profile"]()
    with pytest.raises(tle.InputTypeError, match=error):
        tle.plots.profile(result, **keywords)
