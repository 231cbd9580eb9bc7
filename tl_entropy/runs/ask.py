"""What a run is asked for: models, inputs, analyses, and how the work is cut; read from YAML or a dict, and checked whole.

    models:
      - checkpoints/step_*                 # every folder of that pattern
      - name: EleutherAI/pythia-70m
        revisions: [step1000, step143000]
    inputs:
      file: [texts]                        # as on the command line: text, file (and lines) or dataset
    analyses:
      - lens_entropy: {orders: [0.5, 1, 2], keep: summary}
      - soft_information
    unit_documents: 500
    save_every: 300

A mistake in any part is told before anything is loaded: the key, what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tl_entropy.errors import InputError, InputTypeError, check_int, check_positive
from tl_entropy.results.files import plain, to_read, unplain
from tl_entropy.runs.analyses import PARTLY, check_analysis, sampled_together
from tl_entropy.runs.inputs import check_inputs
from tl_entropy.runs.made import hashes
from tl_entropy.runs.models import check_model

NEEDED = ("models", "inputs", "analyses")
KEYS = {
    "models": "names on the hub, folders, patterns of folders, or mappings with a name",
    "inputs": "a mapping with text, file or dataset",
    "analyses": "names of functions, each with its options",
    "unit_documents": "documents that one process takes at a time",
    "save_every": "seconds from one save within a unit to the next",
    "stop_when": "analyses, and the standard error below which each ends",
    "evict": "whether a model's download is removed when it is measured",
}
UNIT_DOCUMENTS, SAVE_EVERY = 500, 300.0


@dataclass(frozen=True)
class Ask:
    """A configuration that was found right.

    Attributes:
        models: as they were given: names, folders, patterns, or mappings (``runs/models.py``).
        inputs: a mapping with text, file or dataset (``runs/inputs.py``).
        analyses: name of each result to the function's name and its options; a function that is asked for twice has a number.
        unit_documents: documents of a unit of work.
        save_every: seconds from one save within a unit to the next.
        stop_when: name of an analysis to the standard error below which it ends.
        evict: whether a model's download is removed when it is measured.
    """

    models: tuple[Any, ...]
    inputs: Mapping[str, Any]
    analyses: Mapping[str, tuple[str, Mapping[str, Any]]]
    unit_documents: int = UNIT_DOCUMENTS
    save_every: float = SAVE_EVERY
    stop_when: Mapping[str, float] = field(default_factory=dict)
    evict: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any] | str | Path) -> Ask:
        """What a configuration asks for.

        Raises:
            InputError, InputTypeError: a part of it that cannot be done, by its key.

        >>> ask = Ask.of({"models": "gpt2", "inputs": {"text": ["a b c"]}, "analyses": ["lens_entropy", "lens_entropy"]})
        >>> list(ask.analyses), ask.unit_documents
        (['lens_entropy', 'lens_entropy 2'], 500)
        """
        given = read_config(config) if isinstance(config, str | Path) else config
        if not isinstance(given, Mapping):
            raise InputTypeError(f"config must be a mapping with the keys {', '.join(KEYS)}, or a YAML file; got {given!r}")
        _check_keys(given)
        models = given["models"] if isinstance(given["models"], list | tuple) else [given["models"]]
        if not models:
            raise InputError("models must name one model at least; got an empty list")
        for i, model in enumerate(models):
            check_model(f"models[{i}]", model)
        check_inputs("inputs", given["inputs"])
        analyses = _analyses(given["analyses"])
        evict = given.get("evict", False)
        if not isinstance(evict, bool):
            raise InputTypeError(f"evict must be true or false; got {evict!r}")
        unit_documents = check_int("unit_documents", given.get("unit_documents", UNIT_DOCUMENTS), 1)
        for name, (function, options) in analyses.items():
            if unit_documents % (at_once := sampled_together(function, options)):
                raise InputError(
                    f"unit_documents must be a multiple of the {at_once} documents behind which {name} samples text at once "
                    f"(its batch_size), such as {-(-unit_documents // at_once) * at_once}; got {unit_documents}"
                )
        return cls(
            models=tuple(map(_in_order, models)),
            inputs=_in_order(given["inputs"]),
            analyses=analyses,
            unit_documents=unit_documents,
            save_every=check_positive("save_every", given.get("save_every", SAVE_EVERY)),
            stop_when=_stop_when(given.get("stop_when", {}), analyses),
            evict=evict,
        )

    def written(self) -> dict[str, Any]:
        """The ask as JSON: what a folder's ``run.json`` holds of it, with hashes of the files that analyses name."""
        plain_values = {name: plain(getattr(self, name)) for name in KEYS}
        if files := hashes([options for _, options in self.analyses.values()]):
            plain_values["files"] = files
        return dict(json.loads(json.dumps(plain_values)))


def read_config(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        InputError: no such file, one that is no YAML, or a key that stands there twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Of YAML as people write it: 1e-3 is a number, and a key that stands there twice a slip of the pen."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if doubled := next((key for i, key in enumerate(keys) if key in keys[:i]), None):
                raise yaml.constructor.ConstructorError(None, None, f"the key {doubled!r} stands there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
    place = to_read("config", path)
    try:
        return yaml.load(place.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config: {place} cannot be read ({error}); give a YAML file, or the same as a dict") from error
    except yaml.YAMLError as error:
        raise InputError(f"config: {place} is not YAML: {' '.join(str(error).split())}; correct that place") from error


def differences(asked: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Where two written asks differ, a line for each key.

    >>> differences({"unit_documents": 5}, {"unit_documents": 500})
    ['unit_documents: 500 in the folder, now 5']
    """
    return [
        f"{key}: {_shown(there.get(key))} in the folder, now {_shown(asked.get(key))}"
        for key in dict.fromkeys([*there, *asked])
        if there.get(key) != asked.get(key)
    ]


def _shown(value: Any) -> str:
    text = json.dumps(unplain(value), ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check_keys(given: Mapping[Any, Any]) -> None:
    for key in given:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"config: {key!r} is no key of a run{hint}; choose from {', '.join(KEYS)}")
    for key in NEEDED:
        if given.get(key) is None:
            raise InputError(f"config: {key} is missing; give {KEYS[key]}")


def _analyses(given: Any) -> dict[str, tuple[str, Mapping[str, Any]]]:
    listed = given if isinstance(given, list | tuple) else [given]
    if not listed:
        raise InputError("analyses must name one function at least; got an empty list")
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for i, item in enumerate(listed):
        key = f"analyses[{i}]"
        if isinstance(item, Mapping) and len(item) != 1:
            raise InputError(
                f"{key} must be one function's name, or a mapping from it to its options, such as lens_entropy: "
                f"{{keep: summary}}; got {len(item)} keys: {', '.join(map(str, item))}"
            )
        name, options = next(iter(item.items())) if isinstance(item, Mapping) else (item, {})
        options = {} if options is None else options
        check_analysis(key, name, options)
        numbers = (str(name), *(f"{name} {n}" for n in range(2, len(listed) + 1)))
        found[next(free for free in numbers if free not in found)] = (str(name), _in_order(options))
    return found


def _stop_when(given: Any, analyses: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise InputTypeError(
            f"stop_when must be a mapping from analyses to standard errors, such as lens_entropy: 0.01; got {given!r}"
        )
    for name in given:
        if name not in analyses:
            raise InputError(f"stop_when: {name!r} is none of the analyses of this run; it has {', '.join(analyses)}")
        if analyses[name][0] in PARTLY:
            raise InputError(f"stop_when: {name} is made of several passes, whose errors say nothing of its own; leave it out")
    return {str(name): check_positive(f"stop_when.{name}", bound) for name, bound in given.items()}


def _in_order(value: Any) -> Any:
    """The same with the keys of mappings in order, so that two ways to write one ask are one."""
    if isinstance(value, Mapping):
        return {key: _in_order(value[key]) for key in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list | tuple) else value
