"""What can be found wrong on the command line before a model is loaded: texts of options.

Each function takes an option's text and gives what it means, or refuses it by the option's name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, overload

from tl_entropy.capture.parts import Part
from tl_entropy.errors import InputError, check_choice, check_int, check_orders
from tl_entropy.sites import Site, read_places


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


def orders_in(text: str) -> tuple[float, ...]:
    """Rényi orders separated by commas.

    >>> orders_in("0.5,1,inf")
    (0.5, 1.0, inf)
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--orders must be numbers separated by commas, such as 0.5,1,2; got {text!r}") from error
    return check_orders("--orders", found, different=True)


def whole_numbers(option: str, text: str, low: int) -> tuple[int, ...]:
    """Different whole numbers of at least ``low``, separated by commas."""
    try:
        found = tuple(check_int(option, int(part), low) for part in text.split(","))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{option} must be whole numbers separated by commas, such as 0,1,2; got {text!r}") from error
    if len(set(found)) < len(found):
        raise InputError(f"{option} must be one or more different whole numbers; got {text!r}")
    return found


def layers_in(text: str | None) -> Any:
    """Layers: numbers separated by commas, negative ones from the last, or one slice.

    >>> layers_in("0,5,-1"), layers_in("::2")
    ([0, 5, -1], slice(None, None, 2))
    """
    if text is None:
        return None
    if re.fullmatch(r"\s*(-?\d+)?:(-?\d+)?(:([1-9]\d*)?)?\s*", text):
        return slice(*(int(part) if part.strip() else None for part in text.split(":")))
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--layers must be numbers, such as 0,5,-1, or a slice, such as 3:8 or ::2; got {text!r}") from error


def neurons_in(option: str, text: str) -> list[tuple[int, int]]:
    """Neurons by layer and number, separated by commas.

    >>> neurons_in("--only", "11.584,-1.3")
    [(11, 584), (-1, 3)]
    """
    if not all(re.fullmatch(r"-?\d+\.\d+", part) for part in names(text)):
        raise InputError(f"{option} must be neurons, such as 11.584 (layer 11, neuron 584), separated by commas; got {text!r}")
    return [(int(layer), int(neuron)) for layer, _, neuron in (part.partition(".") for part in names(text))]


def documents_in(text: str | None) -> list[range] | None:
    """Numbers of documents: slices without negative numbers, or single numbers, separated by commas.

    >>> documents_in("0:100,250")
    [range(0, 100), range(250, 251)]
    """
    if text is None:
        return None
    found = []
    for part in names(text):
        if not re.fullmatch(r"\d+|\d*:\d*(:[1-9]\d*)?", part):
            raise InputError(f"--documents must be numbers from 0, or slices, such as 0:100 or 100:200,300:; got {text!r}")
        first, *rest = (int(number) if number else None for number in part.split(":"))
        stop, step = (rest[0] if rest else (first or 0) + 1), rest[1] if len(rest) > 1 else 1
        found.append(range(first or 0, sys.maxsize if stop is None else stop, step or 1))
    Part(found)  # refuses what overlaps
    return found


@overload
def sites_in(text: str, *, refused: Iterable[str] = ()) -> list[str | Site]: ...


@overload
def sites_in(text: None, *, refused: Iterable[str] = ()) -> None: ...


def sites_in(text: str | None, *, refused: Iterable[str] = ()) -> list[str | Site] | None:
    """Places separated by commas, none of them at a site ``refused``; None stays, where nothing was asked for."""
    if text is None:
        return None
    found = read_places(names(text), "--sites")
    for place in found:
        name = place if isinstance(place, str) else place.name
        if name in refused:
            raise InputError(f"--sites: {name} holds no states of the residual stream; leave it out")
    return found


def choices_in(option: str, text: str, choices: Iterable[str]) -> list[str]:
    """Different names among ``choices``, separated by commas."""
    found, there = names(text), list(choices)
    for name in found:
        check_choice(option, name, there)
    if len(set(found)) < len(found):
        raise InputError(f"{option} names one twice: {text!r}")
    return found


def check_summary(summary: bool, **others: Any) -> None:
    """Refuse what belongs to single positions where only sums are kept."""
    wrong = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    if summary and wrong:
        raise InputError(f"{' and '.join(wrong)}: a summary keeps no single positions; leave it or --summary out")


def threshold_in(option: str, text: str) -> tuple[float, Any]:
    """A number and its unit, nats or bits.

    >>> threshold_in("--settled", "0.5bits"), threshold_in("--settled", ".3 nats")
    ((0.5, 'bits'), (0.3, 'nats'))
    """
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(nats|bits)\s*", text)
    if found is None:
        raise InputError(f"{option} must be a number and its unit, such as 0.5bits or 0.3nats; got {text!r}")
    return float(found[1]), found[2]
