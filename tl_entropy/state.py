"""What was seen, as plain values: the one way in which sums, rows and samples are handed to another process or a file.

A state is nested dicts and lists of tensors and of what JSON has: None, bools, ints, floats and texts. What is neither is
written as ``{"$": kind, "of": ...}``, so that it comes back as what it was: sites, tuples, sets, ranges, slices, dicts whose
keys are no texts, and objects of this package that say so (``Kept``): their state is that of their attributes.

In place of a model there is a record of it (``as_record``), which gives way to the model where a state is taken back.

Refused: anything else, which belongs to a model or a process and not to what was seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputTypeError
from tl_entropy.sites import Site


class Kept:
    """An object whose state is that of its attributes.

    Attributes:
        bound: names of attributes that belong to a model or a process, and are no part of the state.

    >>> class Sums(Kept):
    ...     def __init__(self):
    ...         self.total, self.sites = torch.zeros(2), {Site("embed", -1): 3}
    >>> state = encoded(Sums())
    >>> state["kind"], state["of"]["sites"]
    ('Sums', {'$': 'map', 'of': [[{'$': 'site', 'of': 'embed'}, 3]]})
    >>> decoded(state).sites
    {Site(name='embed', layer=-1): 3}
    """

    __slots__ = ()

    bound: ClassVar[tuple[str, ...]] = ()
    _kinds: ClassVar[dict[str, type[Kept]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Kept._kinds[cls.__name__] = cls

    def state_dict(self) -> dict[str, Any]:
        """The state: tensors, which are not copied, and plain values."""
        names = [field.name for field in fields(self)] if is_dataclass(self) else list(vars(self))
        return {name: encoded(getattr(self, name)) for name in names if name not in self.bound}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state in place of what was seen here."""
        for name, value in state.items():
            object.__setattr__(self, name, restored(getattr(self, name, None), value))

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """A new one of a state, without what belongs to a model."""
        found = cls.__new__(cls)
        found.load_state_dict(state)
        return found


def encoded(value: Any) -> Any:
    """A value as a state.

    Raises:
        InputTypeError: nothing that a state can hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if hasattr(value, "as_record"):
        value = value.as_record()
    if isinstance(value, Kept):
        return {"$": "kept", "kind": type(value).__name__, "of": value.state_dict()}
    if isinstance(value, Site):
        return {"$": "site", "of": str(value)}
    if isinstance(value, range | slice):
        return {"$": type(value).__name__, "of": [value.start, value.stop, value.step]}
    if isinstance(value, torch.dtype):
        return {"$": "dtype", "of": str(value).removeprefix("torch.")}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, tuple | set | frozenset):
        return {"$": "tuple" if isinstance(value, tuple) else type(value).__name__, "of": [encoded(item) for item in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and "$" not in value and not isinstance(value, Counter):
            return {key: encoded(item) for key, item in value.items()}
        kind = "counter" if isinstance(value, Counter) else "map"
        return {"$": kind, "of": [[encoded(key), encoded(item)] for key, item in value.items()]}
    raise InputTypeError(f"a state cannot hold {type(value).__name__}: {value!r}")


def decoded(state: Any) -> Any:
    """The inverse of ``encoded``.

    Raises:
        InputTypeError: a kind that is not known here.
    """
    if isinstance(state, list):
        return [decoded(item) for item in state]
    if not isinstance(state, Mapping):
        return state
    if "$" not in state:
        return {key: decoded(item) for key, item in state.items()}
    kind, of = state["$"], state["of"]
    if kind == "kept" and state["kind"] in Kept._kinds:
        return Kept._kinds[state["kind"]].of_state(of)
    if kind in ("map", "counter"):
        found = {decoded(key): decoded(item) for key, item in of}
        return found if kind == "map" else Counter(found)
    if kind not in _READ:
        raise InputTypeError(f"a state holds {state.get('kind', kind)!r}, which this tl_entropy does not know")
    return _READ[kind](of)


_READ: dict[str, Any] = {
    "site": Site.parse,
    "range": lambda of: range(*of),
    "slice": lambda of: slice(*of),
    "dtype": lambda of: getattr(torch, of),
    "tuple": lambda of: tuple(decoded(item) for item in of),
    "set": lambda of: {decoded(item) for item in of},
    "frozenset": lambda of: frozenset(decoded(item) for item in of),
}


def restored(here: Any, state: Any) -> Any:
    """A state as it goes in place of what is here: objects that are here keep what belongs to their model.

    Tensors are copied, so that two that take one state do not share their sums.
    """
    if hasattr(here, "as_record"):
        return here
    if isinstance(here, Kept) and isinstance(state, Mapping) and state.get("kind") == type(here).__name__:
        here.load_state_dict(state["of"])
        return here
    if isinstance(here, dict) and isinstance(state, Mapping) and here.keys() == state.keys():
        return {name: restored(part, state[name]) for name, part in here.items()}
    if isinstance(here, list) and isinstance(state, list) and len(here) == len(state):
        return [restored(*pair) for pair in zip(here, state, strict=True)]
    if isinstance(state, Tensor):
        return state.clone() if not isinstance(here, Tensor) else state.to(here.device, copy=True)
    return copied(decoded(state))


def copied(value: Any) -> Any:
    """A value whose tensors are its own, in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Counter):
        return value
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return tuple(copied(item) for item in value) if type(value) is tuple else value
