"""What is asked of a divergence before anything is measured: its reference, its targets, a threshold of settling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputError, InputTypeError, check_int
from tl_entropy.results.base import Unit
from tl_entropy.results.lens.settling import near
from tl_entropy.sites import Site


def threshold(settled: Any, keep: str, metrics: Sequence[str], against: Any) -> tuple[float, Unit] | None:
    """A threshold of settling and its unit, where given, once they are known to fit what is measured."""
    if settled is None:
        return None
    if isinstance(settled, str) or not isinstance(settled, Sequence) or len(settled) != 2:
        raise InputTypeError(f"settled must be a threshold and its unit, such as (0.5, 'bits'); got {settled!r}")
    near(torch.zeros(1), *settled)  # refuses numbers and units
    if keep != "summary":
        raise InputError(
            "settled belongs to keep='summary'; a result of every position is asked later: result.settled(0.5, unit='bits')"
        )
    if "jsd" not in metrics or against != "output":
        raise InputError("settled needs metrics with 'jsd', against the output")
    return float(settled[0]), settled[1]


def reference(adapter: Adapter, against: str | Site) -> tuple[str, Site | None]:
    """The name of what is compared with, and its site where it is one."""
    if isinstance(against, str) and against in ("output", "previous"):
        return against, None
    try:
        place = Site.parse(against, "against")
    except (InputError, InputTypeError) as error:
        raise type(error)(
            f"against must be 'output', 'previous' or one site, such as 'resid_post.3'; got {against!r}"
        ) from error
    [site] = adapter.sites(place)
    return str(site), site


def target_ids(adapter: Adapter, targets: str | int | Sequence[str | int]) -> tuple[int, ...]:
    """Token ids of the targets; a text must be one token."""
    found = []
    given: Any = targets.tolist() if hasattr(targets, "tolist") else targets
    if given is not None and not isinstance(given, str | int | Iterable):
        raise InputTypeError(f"targets must be texts of one token or ids, one or several; got {targets!r}")
    for target in [given] if isinstance(given, str | int) else given or ():
        if isinstance(target, str):
            if not adapter.has_tokenizer:
                raise InputError("targets: this model has no tokenizer; give token ids")
            ids = adapter.encode(target)
            if len(ids) != 1:
                parts = [adapter.strings([i])[i] for i in ids]
                raise InputError(f"targets: {target!r} is {len(ids)} tokens ({parts}), not one; a leading space often decides")
            found.append(ids[0])
        else:
            found.append(check_int("targets", target, 0, adapter.d_vocab - 1))
    if len(set(found)) < len(found):
        raise InputError(f"targets holds the same token twice: {targets!r}")
    return tuple(found)
