"""Booleans are booleans, and numbers no booleans: every keyword of every public function and class, by its annotation."""

from __future__ import annotations

import inspect
import warnings

import hand_made
import numpy as np
import pytest
import torch
from public import OTHERS, READERS
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.capture.options import CorpusOptions, WindowOptions
from tl_entropy.errors import check_choice, check_flag

TEXT = ["the cat sat"]
FIRST = {
    "sensitivity": lambda model: (model, TEXT, ["int8"]),
    "compare_models": lambda model: ({"one": model}, TEXT),
    "token_reliance": lambda model: (model, TEXT, "tokens"),
    "gradient_reliance": lambda model: (model, TEXT, "embed"),
    "site_means": lambda model: (model, TEXT, "embed"),
    "stream": lambda model: (model, TEXT, [tle.LensAccumulator(model)]),
}
FLAGS, NUMBERS = (1, "no", np.int64(0), 2.0), (True, "x", np.bool_(True))


def keywords(function):
    """The keywords of a function with their annotations, those of its options among them."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            found[name] = parameter.annotation
        elif parameter.kind is parameter.VAR_KEYWORD:
            for options in (WindowOptions, CorpusOptions):
                if options.__name__ in str(parameter.annotation):
                    found |= {key: kind.__forward_arg__ for key, kind in options.__annotations__.items() if key not in found}
    return found


def wrong(annotation):
    parts = {part.strip() for part in annotation.split("|")}
    if parts <= {"bool", "None"}:
        return FLAGS
    return NUMBERS if parts <= {"int", "float", "None"} else ()


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("name", READERS)
def test_every_keyword_refuses_another_kind_by_its_name(name):
    function, model = getattr(tle, name), cached_model("gpt2", kinds()[0])
    arguments = FIRST.get(name, lambda model: (model, TEXT))(model)
    tried = 0
    for keyword, annotation in keywords(function).items():
        for value in wrong(annotation):
            tried += 1
            with pytest.raises(tle.TLEntropyError, match=keyword):
                function(*arguments, **{keyword: value})
    assert tried >= 4


def test_functions_of_results_and_tensors_do_too():
    tried = 0
    for name in sorted(OTHERS - {"plots", "functional"}):
        function = getattr(tle, name)
        if not hasattr(function, "__wrapped__"):
            continue
        for keyword, annotation in keywords(function).items():
            for value in FLAGS if wrong(annotation) == FLAGS else ():
                tried += 1
                given = [None for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
                with pytest.raises(tle.InputTypeError, match=keyword), warnings.catch_warnings():
                    function(*given, **{keyword: value})
    assert tried > 8


def test_truth_values_are_taken():
    for value, annotation in ((np.bool_(False), "bool"), (True, "bool"), (None, "bool | None")):
        check_flag("progress", value, annotation)
    with pytest.raises(tle.InputTypeError, match="progress must be True or False; got None"):
        check_flag("progress", None)
    with pytest.raises(tle.InputError, match="debiased must be one of True, False; got 1"):
        check_choice("debiased", 1, (True, False))
    check_choice("site", np.str_("embed"), ("embed",))


@pytest.mark.parametrize("one", [np.float32(1), np.array(1.0), torch.tensor(1.0), np.array([1]), 1, [1.0]], ids=repr)
def test_plots_take_the_same_kinds_of_numbers(one):
    result = hand_made.lens()
    expected = tle.plots.profile(result, orders=1.0).get_lines()[0].get_ydata()
    assert (tle.plots.profile(result, orders=one).get_lines()[0].get_ydata() == expected).all()
