"""Calls have the types of what they return: mypy reads the lines on it here, pytest compares overloads and functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack, assert_type, get_args, get_overloads, get_type_hints

import pytest

import tl_entropy as tle
from tl_entropy.analyses.streaming import Keep

KEEPING = [
    tle.lens_entropy, tle.layer_divergence, tle.head_entropy, tle.token_surprisal, tle.confidence, tle.unigram_distance,
]  # fmt: skip

if TYPE_CHECKING:
    model: Any = None
    keep: Keep = "positions"
    assert_type(tle.lens_entropy(model, "a"), tle.LensEntropy)
    assert_type(tle.lens_entropy(model, "a", surprisal=True, keep="positions", window=8), tle.LensEntropy)
    assert_type(tle.lens_entropy(model, "a", keep="summary"), tle.LensSummary)
    assert_type(tle.lens_entropy(model, "a", keep=keep), tle.LensEntropy | tle.LensSummary)
    assert_type(tle.lens_entropy(model, "a").select(layers=0).mean_profile(), Any)
    assert_type(tle.layer_divergence(model, "a"), tle.LayerDivergence)
    assert_type(tle.layer_divergence(model, "a", keep="summary"), tle.DivergenceSummary)
    assert_type(tle.head_entropy(model, "a", of="readout"), tle.HeadEntropy)
    assert_type(tle.head_entropy(model, "a", keep="summary"), tle.HeadSummary)
    assert_type(tle.token_surprisal(model, "a"), tle.TokenSurprisal)
    assert_type(tle.token_surprisal(model, "a", keep="summary"), tle.SurprisalSummary)
    assert_type(tle.confidence(model, "a"), tle.Confidence)
    assert_type(tle.confidence(model, "a", keep="summary"), tle.SiteMeans)
    assert_type(tle.unigram_distance(model, "a"), tle.UnigramDistance)
    assert_type(tle.unigram_distance(model, "a", keep="summary"), tle.SiteMeans)
    assert_type(tle.layer_similarity(model, "a"), tle.LayerSimilarity)
    assert_type(tle.layer_geometry(model, "a"), tle.LayerGeometry)
    assert_type(tle.soft_information(model, "a"), tle.SoftInformation)
    assert_type(tle.token_reliance(model, "a", "tokens"), tle.TokenReliance)
    assert_type(tle.gradient_reliance(model, "a", "embed"), tle.TokenReliance)
    assert_type(tle.conditional_entropy(model, "a"), tle.ConditionalEntropy)
    assert_type(tle.LensAccumulator(model).compute(), tle.LensEntropy | tle.LensSummary)
    assert_type(tle.CKAAccumulator(model).compute(), tle.LayerSimilarity)
    tle.lens_entropy(model, "a", keep="sums")  # type: ignore[call-overload]
    tle.lens_entropy(model, "a", widow=8)  # type: ignore[call-overload]


@pytest.mark.parametrize("function", KEEPING, ids=lambda function: function.__name__)
def test_overloads_take_what_their_function_takes(function: Callable[..., Any]) -> None:
    own = inspect.signature(function)
    overloads = list(map(inspect.signature, get_overloads(function)))
    assert [found.parameters["keep"].annotation for found in overloads] == [f"Literal[{keep!r}]" for keep in get_args(Keep)]
    assert " | ".join(found.return_annotation for found in overloads) == own.return_annotation
    for found in overloads:
        assert list(found.parameters) == list(own.parameters)
        for name, parameter in found.parameters.items():
            whole = own.parameters[name]
            assert name == "keep" or (parameter.annotation, parameter.kind) == (whole.annotation, whole.kind)
            optional = whole.default is not whole.empty and parameter.annotation != "Literal['summary']"
            assert (parameter.default is ...) == optional, name


@pytest.mark.model
@pytest.mark.parametrize("function", KEEPING, ids=lambda function: function.__name__)
def test_what_an_overload_promises_comes(gpt2: Any, function: Callable[..., Any]) -> None:
    for keep, overload in zip(get_args(Keep), get_overloads(function), strict=True):
        found = function(gpt2, "the cat sat", keep=keep, progress=False)
        assert type(found).__name__ == inspect.signature(overload).return_annotation


def test_no_public_function_returns_just_anything() -> None:
    stays = {"load", "load_accumulator", "load_model", "demo_model"}
    for name in dir(tle):
        if inspect.isfunction(found := getattr(tle, name)) and name not in stays:
            assert inspect.signature(found).return_annotation not in ("Any", inspect.Signature.empty), name


def undocumented(asked: Any) -> list[str]:
    """Options that a function takes as ``**options`` and its docstring, or its class's, does not name."""
    function = asked.__init__ if inspect.isclass(asked) else asked
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            told = (inspect.getdoc(asked) or "").partition(f"{name}: ")[2].partition("\n\n")[0]
            hint = get_type_hints(function, include_extras=True)[name]
            [options] = get_args(hint)  # of Unpack
            return [option for option in options.__annotations__ if not re.search(rf"\b{option}\b", told)]
    return []


def takes_any(asked: Any) -> bool:
    """Whether it is a function or class of ours with ``**options``; errors and named tuples have Python's own signatures."""
    ours = inspect.isfunction(asked) or (inspect.isclass(asked) and "__init__" in vars(asked))
    return ours and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(asked).parameters.values())


OPEN = [
    pytest.param(getattr(part, name), id=name)
    for part in (tle, tle.plots, tle.functional) for name in part.__all__ if takes_any(getattr(part, name))
]  # fmt: skip


@pytest.mark.parametrize("asked", OPEN)
def test_docstrings_list_what_options_takes(asked: Any) -> None:
    assert undocumented(asked) in ([], ["interventions"] if asked is tle.compare_models else [])


def test_that_test_sees_what_is_missing() -> None:
    def forgetful(**options: Unpack[tle.EditOptions]) -> None:
        """Args:
        options: window, stride, prepend_bos, include_special, special_ids, on_error.
        """

    assert undocumented(forgetful) == ["text_column", "documents", "interventions"]
    assert len(OPEN) > 14
