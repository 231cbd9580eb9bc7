"""Which functions a run can call, and whether the options that its configuration gives them are theirs.

A function of a run reads a model and inputs, and its result can be saved. Options are held to the function's own annotations
before anything is loaded, so that a slip of the pen is found in a second and not after an hour in a queue.

Lenses, vectors and interventions are named (``runs/made.py``).

Refused: options that are a run's own (``progress``, ``documents``), and those that no configuration can hold (another model,
lenses and interventions of one's own); estimators that depend on where a corpus is cut.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection as AnyCollection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from tl_entropy.analyses.heads.entropy import head_entropy
from tl_entropy.analyses.information.soft import soft_information
from tl_entropy.analyses.lens.divergence import layer_divergence
from tl_entropy.analyses.lens.entropy import lens_entropy
from tl_entropy.analyses.states.geometry import layer_geometry
from tl_entropy.analyses.states.similarity import layer_similarity
from tl_entropy.analyses.tokens.calibration import entropy_calibration
from tl_entropy.analyses.tokens.confidence import confidence
from tl_entropy.analyses.tokens.gradient_reliance import gradient_reliance
from tl_entropy.analyses.tokens.reliance import token_reliance
from tl_entropy.analyses.tokens.surprisal import token_surprisal
from tl_entropy.analyses.tokens.unigram import unigram_distance
from tl_entropy.capture.generate import AT_ONCE
from tl_entropy.capture.options import CorpusOptions, EditOptions, WindowOptions, check_options
from tl_entropy.errors import InputError, InputTypeError, TLEntropyError, check_choice, check_orders
from tl_entropy.labels.sets import NAMES, ngram
from tl_entropy.runs import made
from tl_entropy.sites import read_places

ANALYSES: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        lens_entropy, layer_divergence, head_entropy, soft_information, layer_similarity, layer_geometry, token_surprisal,
        token_reliance, gradient_reliance, confidence, unigram_distance, entropy_calibration,
    )
}  # fmt: skip
"""The functions that a run can call, by their names."""

PARTLY = ("entropy_calibration",)
"""Of these, those that read other tokens than the documents have, in several passes of their own."""

_OTHERS = {
    "conditional_entropy": "it takes sequences one by one, and keeps nothing that another process could go on with; several "
    "processes share it (torchrun)",
    "site_means": "it gives means and no result, which has a file; several processes share it (torchrun)",
    "head_means": "it gives means and no result, which has a file; several processes share it (torchrun)",
    "compare_models": "it needs a second model; measure each, and compare the results",
    "neurons": "its last pass needs the means of the one before to the last bit; several processes share it (torchrun)",
    "sensitivity": "it makes a pass for every edit and site; several processes share it (torchrun)",
    "placebo": "what it measures is a function of yours; call it yourself",
    "span_features": "it is made of a result that is there; keep positions of token_surprisal, and call it on that",
    "train_tuned_lens": "training is in the order of its steps; one process trains it",
    "label_plan": "soft_information makes its own, once for all processes",
}
"""Functions that read texts and are no analyses of a run, and why."""

_OWN = {
    "progress": "a run shows its own",
    "documents": "a run deals them out itself",
    "folder": "assignments are kept beside the result",
    "text_column": "the column of a data set is a key of inputs",
}
_MADE: dict[str, Callable[[str, Any], Any]] = {"lens": made.lens, "interventions": made.interventions, "on": made.changes}
_LISTS = (Sequence, AnyCollection, Iterable, list, tuple, set, frozenset)
_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_NGRAM = re.compile(r"(next_)?([1-9]\d*)-gram")


def check_analysis(key: str, name: object, options: object) -> None:
    """Raise InputError or InputTypeError unless ``name`` is a function of a run, and ``options`` are keyword options of it.

    >>> check_analysis("analyses[0]", "lens_entropy", {"orders": [0.5, 1], "keep": "summary"})
    >>> check_analysis("analyses[0]", "lens_entropy", {"keep": "sums"})
    Traceback (most recent call last):
    tl_entropy.errors.InputError: analyses[0].keep must be 'positions' or 'summary'; got 'sums'
    """
    if isinstance(name, str) and name in _OTHERS:
        raise InputError(f"{key}: {name} is no analysis of a run: {_OTHERS[name]}")
    check_choice(key, name, ANALYSES)
    if not isinstance(options, Mapping) or not all(isinstance(option, str) for option in options):
        raise InputTypeError(f"{key}: the options of {name} must be a mapping from their names to values; got {options!r}")
    function, hints = ANALYSES[str(name)], _hints(str(name))
    for option, why in _OWN.items():
        if option in options:
            raise InputError(f"{key}.{option} cannot be given in a run: {why}; leave it out")
    if options.get("other") is not None:
        raise InputError(f"{key}.other cannot be given in a run, whose configuration is a text; call the function itself")
    positional = _positional(function)
    if missing := [option for option, needed in positional.items() if needed and option not in options]:
        raise InputError(f"{key}: {name} needs {missing[0]}; give it as an option")
    try:
        check_options(function, {o: v for o, v in options.items() if o not in positional}, _unpacked(function))
    except TLEntropyError as error:
        raise type(error)(f"{key}: {error}") from error
    named = [option for option in _MADE if options.get(option) is not None]
    for option in named:
        _MADE[option](f"{key}.{option}", options[option])
    for option, value in options.items():
        if option not in named and not _fits(value, hints[option]):
            raise InputError(f"{key}.{option} must be {_told(hints[option])}; got {value!r}")
    if "sites" in options:
        read_places(options["sites"], f"{key}.sites")
    for option in ("order", "orders"):
        if option in options:
            check_orders(f"{key}.{option}", options[option])
    if options.get("estimator") == "minibatch":
        raise InputError(f"{key}.estimator must be 'exact' in a run: blocks of 'minibatch' would be cut anew where one goes on")
    labels = options.get("labels", ()) if name == "soft_information" else ()
    for label in [labels] if isinstance(labels, str) else labels:
        if not (isinstance(label, str) and (label in NAMES or _NGRAM.fullmatch(label))):
            raise InputError(f"{key}.labels must be of {', '.join(NAMES)}, or as 4-gram and next_4-gram; got {label!r}")


def sampled_together(name: str, options: Mapping[str, Any]) -> int:
    """How many documents an analysis samples text behind at once, on which the text depends; 1 where it samples none.

    >>> sampled_together("lens_entropy", {}), sampled_together("entropy_calibration", {"batch_size": 8})
    (1, 8)
    """
    temperature = options.get("temperature", 1.0 if name == "entropy_calibration" else 0.0)
    return int(options.get("batch_size") or AT_ONCE) if temperature else 1


def called(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a configuration as a function takes them: what they name is made, and n-grams are label sets.

    >>> called("soft_information", {"labels": ["token", "next_4-gram"]})["labels"][1].n
    4
    """
    given = {
        option: _MADE[option](option, value) if option in _MADE and value is not None else value
        for option, value in options.items()
    }
    if name == "soft_information" and "labels" in given:
        labels = [given["labels"]] if isinstance(given["labels"], str) else given["labels"]
        given["labels"] = [_label(label) for label in labels]
    return given


def _label(name: str) -> Any:
    gram = None if name in NAMES else _NGRAM.fullmatch(name)
    return name if gram is None else ngram(int(gram[2]), "output" if gram[1] else "input")


def _unpacked(function: Callable[..., Any]) -> type:
    """The options that a function takes beside its own: those of ``Unpack[...]``."""
    told = str(inspect.signature(function).parameters["options"].annotation)
    return next(kind for kind in (CorpusOptions, EditOptions, WindowOptions) if kind.__name__ in told)


def _positional(function: Callable[..., Any]) -> dict[str, bool]:
    """Arguments behind model and inputs that may be given by place, too, and whether they have to be given."""
    arguments = list(inspect.signature(function).parameters.values())[2:]
    return {p.name: p.default is p.empty for p in arguments if p.kind is p.POSITIONAL_OR_KEYWORD}


@cache
def _hints(name: str) -> dict[str, Any]:
    function = ANALYSES[name]
    return typing.get_type_hints(inspect.unwrap(function)) | typing.get_type_hints(_unpacked(function))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of a configuration is of a kind that an annotation allows; one that says nothing allows all."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if hint is None or hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if origin in _LISTS:
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping)
    return hint is Any


def _told(hint: Any) -> str:
    """An annotation in words, of what a configuration can hold of it."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_told, parts))))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in _LISTS:
        return f"a list, each {_told(parts[0])}"
    if origin in (Mapping, dict):
        return "a mapping"
    return "null" if hint is type(None) else _WORDS.get(hint, "")
