"""What a configuration names and no text can be: tuned lenses by their files, interventions by the functions that make them.

    lens_entropy: {lens: lenses/pythia}                                        # what load_tuned_lens reads
    head_entropy: {interventions: [{ablate: mlp_out.3}]}
    token_reliance: {on: {head 3.1: {ablate_heads: [[3, 1]]}, MLP 3: {ablate: mlp_out.3}}}

An intervention is a mapping from the function's name to its first argument, or to a mapping of its arguments.

Refused: functions of one's own, and vectors to steer with, which are no text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tl_entropy.capture.ablation import ablate_heads, ablate_neurons
from tl_entropy.capture.interventions import ablate
from tl_entropy.capture.occlusion import mask_attention, occlude
from tl_entropy.errors import InputError, InputTypeError, TLEntropyError, check_choice
from tl_entropy.lenses.files import load_tuned_lens

MAKERS: dict[str, Callable[..., Any]] = {
    made.__name__: made for made in (ablate, ablate_heads, ablate_neurons, occlude, mask_attention)
}


def lens(key: str, given: Any) -> Any:
    """The tuned lens in a file or folder.

    Raises:
        InputError, FileError: there is none.
    """
    if not isinstance(given, str):
        raise InputTypeError(f"{key} must be the file or folder of a tuned lens; got {given!r}")
    try:
        return load_tuned_lens(given)
    except TLEntropyError as error:
        raise type(error)(f"{key}: {error}") from error


def interventions(key: str, given: Any) -> list[Any]:
    """One intervention or several."""
    return [_one(f"{key}[{i}]", item) for i, item in enumerate(given if isinstance(given, list | tuple) else [given])]


def changes(key: str, given: Any) -> Any:
    """One change, or several by their names.

    >>> changes("on", {"ablate": "mlp_out.0"})
    Intervention(name='ablate mlp_out.0')
    >>> list(changes("on", {"an MLP": {"ablate": "mlp_out.0"}, "a head": {"ablate_heads": [[0, 1]]}}))
    ['an MLP', 'a head']
    """
    if isinstance(given, Mapping) and given and not MAKERS.keys() & given.keys():
        return {str(name): _one(f"{key}.{name}", item) for name, item in given.items()}
    return _one(key, given)


def _one(key: str, given: Any) -> Any:
    if not isinstance(given, Mapping) or len(given) != 1:
        raise InputTypeError(
            f"{key} must be a mapping from one of {', '.join(MAKERS)} to what it is given, such as ablate: mlp_out.3; "
            f"got {given!r}"
        )
    [(name, value)] = given.items()
    check_choice(key, name, MAKERS)
    try:
        if isinstance(value, Mapping):
            return MAKERS[name](**{option: _paired(item) for option, item in value.items()})
        return MAKERS[name](_paired(value))
    except TLEntropyError as error:
        raise type(error)(f"{key}: {error}") from error
    except TypeError as error:  # arguments that the function does not have
        raise InputError(f"{key}: {name} cannot be given {value!r} ({error})") from error


def _paired(value: Any) -> Any:
    """Lists of two as the pairs that heads and neurons are."""
    several = isinstance(value, list | tuple) and value and all(isinstance(item, list | tuple) for item in value)
    return [tuple(item) for item in value] if several else value
