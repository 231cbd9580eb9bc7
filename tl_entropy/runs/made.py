"""What a configuration names and no text can be: lenses and vectors by files, interventions by the functions that make them.

    lens_entropy: {lens: lenses/pythia}                                        # what load_tuned_lens reads
    head_entropy: {interventions: [{ablate: mlp_out.3}]}
    lens_entropy: {interventions: [{steer: {vector: refusal.safetensors, site: resid_post.12}}]}  # its one tensor
    token_reliance: {on: {head 3.1: {ablate_heads: [[3, 1]]}, MLP 3: {ablate: mlp_out.3}}}

An intervention is a mapping from the function's name to its first argument, or to a mapping of its arguments.

Files are held to what they were when the run began (``hashes``).

Refused: functions of one's own; files that hold no vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tl_entropy.capture.ablation import ablate_heads, ablate_neurons
from tl_entropy.capture.interventions import ablate, steer
from tl_entropy.capture.occlusion import mask_attention, occlude
from tl_entropy.errors import InputError, InputTypeError, TLEntropyError, check_choice
from tl_entropy.lenses.files import load_tuned_lens
from tl_entropy.results.files import opened, tensors_in


def _steer(vector: Any, **options: Any) -> Any:
    """``tle.steer`` with the vector in a safetensors file that has one tensor."""
    if not isinstance(vector, str):
        raise InputTypeError(f"vector must be a safetensors file that holds one tensor [d_model]; got {vector!r}")
    try:
        with opened(Path(vector).expanduser()) as file:
            tensors = list(tensors_in(file).items())
    except (SafetensorError, OSError) as error:
        raise InputError(f"vector: {vector} cannot be read ({error}); give a safetensors file") from error
    if len(tensors) != 1:
        raise InputError(f"vector: {vector} must hold one tensor; it has {', '.join(name for name, _ in tensors) or 'none'}")
    return steer(tensors[0][1], **options)


MAKERS: dict[str, Callable[..., Any]] = {
    **{made.__name__: made for made in (ablate, ablate_heads, ablate_neurons, occlude, mask_attention)},
    steer.__name__: _steer,
}
_FILES = ("lens", "vector")
"""Options that name a file or folder."""


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


def hashes(options: Any) -> dict[str, str]:
    """A hash of each file, or of all files of a folder, that the options of an analysis name."""
    return {place: _hash(Path(place).expanduser()) for place in _files(options)}


def _files(options: Any) -> Iterator[str]:
    if isinstance(options, list | tuple):
        for item in options:
            yield from _files(item)
    elif isinstance(options, Mapping):
        for name, item in options.items():
            if name in _FILES and isinstance(item, str):
                yield item
            else:
                yield from _files(item)


def _hash(place: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]:
        found.update(path.name.encode(errors="replace"))
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


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
