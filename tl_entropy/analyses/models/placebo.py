"""An intervention through the same measure as matched ones that mean nothing.

An effect is worth as much as its distance from what nothing in particular does. Matched are

| edit | placebo |
|---|---|
| ``steer`` | a random direction of the same length, at the same place, by the same scale |
| ``ablate_heads``, ``ablate_neurons`` | as many others of the same layers, drawn at random, to 0 or to their means alike |
| ``occlude``, ``mask_attention`` | as many other positions of each document, drawn at random |

and for any other what ``matched`` draws. Several edits at once are matched one by one. A placebo is taken once: one head of six
has five others, whatever ``n``, and is the largest of the six in one case of six by chance. What positions documents have is
seen in the pass of the real edit.

Refused: edits that nothing is matched to, layers without other heads, documents without other positions, inputs that can be
read only once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.interventions import Intervention, Interventions, as_interventions
from tl_entropy.capture.positions import AtOthers, AtPositions, Noting
from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, counted, warn
from tl_entropy.results.models.placebo import Placebo
from tl_entropy.torch_state import steady, yours

_TRIES = 50
"""Draws for each placebo until another one is found that was not there yet."""
_TOLD_APART = 1e12
"""Draws of positions are compared in so many documents that they are the same there by chance once in this number."""


@steady
def placebo(
    model: Any,
    inputs: Any,
    edit: Interventions,
    measure: Callable[..., Any],
    *,
    n: int = 20,
    seed: int = 0,
    matched: Callable[[torch.Generator], Interventions] | None = None,
    unit: str = "nats",
) -> Placebo:
    """The effect of an intervention beside those of ``n`` matched placebos: is it more than any edit of its kind does?

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets that can be read again and again.
        edit: ``steer(...)``, ``ablate_heads(...)``, ``ablate_neurons(...)``, ``occlude(...)``, ``mask_attention(...)``, several
            of them, or, with ``matched``, any intervention.
        measure: called as ``measure(model, inputs, interventions=...)`` without an edit, with the real one and with each
            placebo; gives a number, or a value for each document (a tensor, an array or a pandas Series), for errors.
        n: number of placebos; no p-value is below 1 / (1 + n). Where fewer different ones exist, as of single heads or of
            positions in short documents, each is taken once, with a warning.
        seed: of the draws.
        matched: a function of a ``torch.Generator`` that draws a placebo, where the edit is of another kind.
        unit: of what ``measure`` gives: "nats", "bits", or "" for neither.

    Returns:
        ``Placebo``: effects (measure with an edit less that without), the real one's rank, p-value and error.

    Raises:
        InputError: an edit that nothing is matched to, a layer with no other heads, no document with other positions, a measure
            that leaves the edit out, inputs that are an iterator, values that are not finite or not as many each time.
        InputTypeError: a measure that gives something else, or is no function.

    Source: the rank of a statistic among random draws: Phipson and Smyth 2010, Permutation p-values should never be zero.

    >>> import tl_entropy as tle
    >>> def loss(model, inputs, interventions):
    ...     tokens = tle.token_surprisal(model, inputs, interventions=interventions, progress=False)
    ...     return tokens.per_document()["loss"]
    >>> found = tle.placebo(tle.demo_model(), ["import os", "x = 1"], tle.ablate_heads([(0, 1)]), loss, n=2)
    >>> found.edits[0], tuple(found.effects.shape)
    ('ablate heads 0.1', (3, 2))
    """
    if not callable(measure):
        raise InputTypeError(f"measure must be a function(model, inputs, interventions=...); got {measure!r}")
    if isinstance(inputs, Iterator):
        raise InputError(
            "inputs: an iterator can be read once, and every edit reads it; give a list, or what can be read again"
        )
    check_choice("unit", unit, ("nats", "bits", ""))
    n = check_int("n", n, 1)
    generator = torch.Generator(device="cpu").manual_seed(check_int("seed", seed, 0))
    adapter = adapter_of(model)
    real = as_interventions(edit, adapter.n_layers)
    if not real:
        raise InputError("edit is empty; give an intervention, such as steer(...) or ablate_heads(...)")
    lengths: dict[int, int] = {}
    if matched is None:
        _drawn(real, adapter, torch.Generator(device="cpu"), None)  # refuses before a pass is made
        real = tuple(_noting(one, lengths) for one in real)
    plain = _values(measure, model, inputs, None)

    def effect(interventions: tuple[Intervention, ...]) -> Tensor:
        values = _values(measure, model, inputs, list(interventions))
        if values.shape != plain.shape:
            raise InputError(
                f"measure gave {len(plain)} values without an edit and {len(values)} with one; give as many each time"
            )
        return values - plain

    effects = [effect(real)]
    draws = _draws(real, adapter, generator, matched, n, lengths)
    effects += [effect(drawn) for drawn in draws]
    names = tuple(_named(interventions) for interventions in (real, *draws))
    called = str(getattr(measure, "__name__", type(measure).__name__))
    settings = {"measure": called, "n": len(draws), "seed": seed, "edit": names[0]}
    corpus = {"documents": len(plain)} if len(plain) > 1 else {}
    return Placebo(torch.stack(effects), names, seed, adapter.provenance(settings=settings, corpus=corpus), unit)


def _draws(
    real: tuple[Intervention, ...],
    adapter: Adapter,
    generator: torch.Generator,
    matched: Callable[[torch.Generator], Interventions] | None,
    n: int,
    lengths: Mapping[int, int],
) -> list[tuple[Intervention, ...]]:
    """At most n placebos: of those that are matched by kind no two are the same, or ranks among them would say too much."""
    if matched is not None:
        return [_drawn(real, adapter, generator, matched) for _ in range(n)]
    found: dict[Hashable, tuple[Intervention, ...]] = {}
    compared: dict[Any, list[int]] = {}  # by the positions meant
    for _ in range(_TRIES * n):
        drawn = _drawn(real, adapter, generator, None)
        found.setdefault(tuple(_what(one, lengths, compared) for one in drawn), drawn)
        if len(found) == n:
            break
    else:
        warn(
            f"n: {counted(len(found), 'different placebo')} of this edit found, and {n} asked for; each is taken once, and no "
            f"p-value is below 1 / {1 + len(found)}"
        )
    return list(found.values())


def _noting(intervention: Intervention, lengths: dict[int, int]) -> Intervention:
    """The same; where it is at positions, lengths of documents are noted as they pass."""
    noting = {at: Noting(at.positions, at.edit, lengths) for _, at in intervention.hooks if isinstance(at, AtPositions)}
    hooks = tuple((name, noting[edit] if isinstance(edit, AtPositions) else edit) for name, edit in intervention.hooks)
    return dataclasses.replace(intervention, hooks=hooks)


def _what(drawn: Intervention, lengths: Mapping[int, int], compared: dict[Any, list[int]]) -> Hashable:
    """What tells a placebo from others: its name, or positions in those documents that have most to draw from."""
    others = next((edit for _, edit in drawn.hooks if isinstance(edit, AtOthers)), None)
    if others is None:
        return drawn.name
    if not lengths:
        raise InputError("measure never made a pass with the edit; hand its interventions on to what measures")
    if str(others.positions) not in compared:
        possible = {document: others.possible(length) for document, length in lengths.items()}
        if not any(possible.values()):
            raise InputError("edit: no document has other positions to match it by; give matched= to placebo")
        together, documents = 1, compared.setdefault(str(others.positions), [])
        for document in sorted(possible, key=possible.__getitem__, reverse=True):
            if together >= _TOLD_APART or possible[document] < 2:
                break
            together *= possible[document]
            documents.append(document)
    return tuple(tuple(others.drawn(lengths[at], at).tolist()) for at in compared[str(others.positions)])


def _named(interventions: tuple[Intervention, ...]) -> str:
    return " + ".join(one.name for one in interventions)


def _drawn(
    real: tuple[Intervention, ...],
    adapter: Adapter,
    generator: torch.Generator,
    matched: Callable[[torch.Generator], Interventions] | None,
) -> tuple[Intervention, ...]:
    if matched is not None:
        with yours():
            drawn = matched(generator)
        return as_interventions(drawn, adapter.n_layers)
    lacking = [one.name for one in real if one.matched is None]
    if lacking:
        raise InputError(
            f"edit: nothing is matched to {lacking[0]!r}; give matched=, a function of a torch.Generator that draws a placebo"
        )
    return tuple(one.matched(adapter, generator) for one in real if one.matched is not None)


def _values(measure: Callable[..., Any], model: Any, inputs: Any, interventions: Any) -> Tensor:
    """[document] what the measure gives, float64; a number alone is one value."""
    with yours():
        given = measure(model, inputs, interventions=interventions)
    try:
        values = torch.as_tensor(given if isinstance(given, Tensor) else np.array(given, dtype=float)).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"measure must give a number, or one for each document; got {type(given).__name__}") from error
    values = values.reshape(-1) if values.ndim < 2 else values
    if values.ndim != 1 or not len(values) or not bool(values.isfinite().all()):
        raise InputError(f"measure must give finite numbers, one or one for each document; got shape {list(values.shape)}")
    return values
