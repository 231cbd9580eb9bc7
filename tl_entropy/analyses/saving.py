"""States of accumulators: what they say of where they come from, and what is refused.

Refused: states of another kind or a later schema, of other settings, or of another model, each by naming it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.lenses.protocol import lens_name
from tl_entropy.state import encoded

SCHEMA = 1
"""Of a state: it counts on where what is gathered changes its meaning."""


def state_head(accumulator: Any) -> dict[str, Any]:
    """What a state says of itself, before what was seen."""
    report = accumulator.report
    corpus = None if report is None else {"documents": report.documents, "tokens": report.tokens, "digest": report.digest}
    return {
        "kind": type(accumulator).__name__, "schema": SCHEMA, "settings": settings_of(accumulator),
        "model": accumulator.adapter.fingerprint, "corpus": corpus,
        "documents": None if report is None else [list(interval) for interval in report.held],
    }  # fmt: skip


def settings_of(accumulator: Any) -> dict[str, Any]:
    """What must be equal in two that are merged, as plain values; a lens by its name and weights."""
    if "_told" in vars(accumulator):  # by the file that it came from
        told: dict[str, Any] = accumulator._told
        return told
    more: dict[str, Any] = accumulator._told_apart()
    return {**{name: _spelled(getattr(accumulator, name)) for name in accumulator.alike}, **more}


def _spelled(value: Any) -> Any:
    try:
        return encoded(value)
    except InputTypeError:  # somebody's own lens, of which no more is known
        weights = getattr(value, "weights", None)
        return lens_name(value) if weights is None else [lens_name(value), float(weights.double().square().sum())]


def check_state(accumulator: Any, state: Mapping[str, Any]) -> None:
    """Raise InputError unless an accumulator can go on from a state."""
    head = state_head(accumulator)
    missing = [name for name in (*head, "report", "gathered") if name not in state]
    if missing:
        raise InputError(f"state must be what state_dict() gave; it lacks {', '.join(missing)}")
    if state["schema"] > SCHEMA:
        raise InputError(f"state has schema {state['schema']}, this tl_entropy reads up to {SCHEMA}; upgrade tl_entropy")
    for name in ("kind", "model"):
        if state[name] != head[name]:
            raise InputError(f"state: its {name} is {state[name]!r}, and here it is {head[name]!r}")
    for name, value in head["settings"].items():
        if name not in state["settings"] or state["settings"][name] != value:
            raise InputError(f"state: its {name} is {state['settings'].get(name)!r}, and here it is {value!r}")
    if unknown := set(state["gathered"]) ^ {*accumulator.gathered, *accumulator.kept}:
        raise InputError(f"state: {', '.join(sorted(unknown))} is not in both; it is damaged, or of another version")
