"""Standard errors of what is computed from soft information: over folds of documents, and over anchors.

Values have the axes [left, place, label, draw]. At left = 0 they are of everything; then come those less what each fold of
documents contributes to the error, then those less what each anchor does. The variance over either is the sum of the squares of
its distances from left = 0; between draws of several seeds, anchors vary by components of variance. Files of 0.5.0 have
values with each fold left out, hence the jackknife's errors, over documents alone.

Refused: values without the axes that a result's own have.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice
from tl_entropy.functional.information.estimates import error
from tl_entropy.functional.statistics import jackknife_error

Part = Literal["both", "documents", "anchors"]


def error_of(result: Any, values: Any, part: Part) -> Tensor:
    """Standard error [place, label, draw] of values of a ``SoftInformation``, as its ``error_of`` has it."""
    check_choice("part", part, ("both", "documents", "anchors"))
    values = checked(result, values)
    if result.information is None:
        return jackknifed(result, values, part, [min(i, len(result.labels) - 1) for i in range(values.shape[2])])
    over = {"documents": _over_documents, "anchors": _over_anchors}
    if part != "both":
        return over[part](result, values)
    return torch.hypot(*(find(result, values) for find in over.values()))


def mean_of(result: Any, values: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over draws, and its standard errors over documents and anchors, each [place, label], as ``mean`` has it."""
    values = checked(result, values)
    seeds = list(dict.fromkeys(result.seeds)) if values.shape[-1] == len(result.seeds) else [0]
    if len(seeds) == 1:
        mean = values.mean(-1, keepdim=True)
        documents, anchors = (error_of(result, mean, part)[..., 0] for part in ("documents", "anchors"))
        return mean[0, ..., 0], documents, anchors
    by_seed = torch.stack([values[..., [k for k, s in enumerate(result.seeds) if s == seed]].mean(-1) for seed in seeds], -1)
    mean = by_seed.mean(-1, keepdim=True)
    documents = error_of(result, mean, "documents")[..., 0]
    if result.information is None:
        return mean[0, ..., 0], documents, torch.full_like(documents, torch.nan)
    return mean[0, ..., 0], documents, _between(result, by_seed) / math.sqrt(len(seeds))


def checked(result: Any, values: Any) -> Tensor:
    """Values [left, place, label, draw] with as many entries on the first axis as the result's own, and a draw or more.

    Raises:
        InputError, InputTypeError: they are something else.
    """
    left = len(result.ceiling)
    wanted = f"values must be floats [left, place, label, draw], as values() gives, {left} of them on the first axis"
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise InputTypeError(f"{wanted}; got {values.dtype if isinstance(values, Tensor) else type(values).__name__}")
    if values.ndim != 4 or len(values) != left or not values.shape[3]:
        raise InputError(f"{wanted}; got the shape {list(values.shape)}")
    return values


def jackknifed(result: Any, values: Tensor, part: Part, labels: list[int]) -> Tensor:
    """Errors of files of 0.5.0, whose values come with each fold left out; ``labels`` says of which label sets they are."""
    if part == "anchors":
        return torch.full_like(values[0], torch.nan)
    found = [jackknife_error(values[:, :, i], result.fold_tokens[:, j]) for i, j in enumerate(labels)]
    return torch.stack(found, dim=1) if found else values[0]


def _over_documents(result: Any, values: Tensor) -> Tensor:
    return error(values[: 1 + len(result.fold_tokens)])


def _over_anchors(result: Any, values: Tensor) -> Tensor:
    found = error(torch.cat([values[:1], values[1 + len(result.fold_tokens) :]]))
    if values.shape[-1] == len(result.seeds):
        for bins in dict.fromkeys(result.n_bins):
            draws = [k for k, b in enumerate(result.n_bins) if b == bins]
            if len(draws) > 1:
                found[..., draws] = _between(result, values[..., draws])[..., None]
    return found


def _between(result: Any, values: Tensor) -> Tensor:
    """σ_A of one draw, by components of variance between independent draws [left, place, label, draw]."""
    several = values.shape[-1]
    of_each = _over_documents(result, values).square().mean(-1)
    of_mean = _over_documents(result, values.mean(-1, keepdim=True))[..., 0].square()
    noise = ((of_each - of_mean) * several / (several - 1)).nan_to_num(0)
    return (values[0].var(-1) - noise).clamp_min(0).sqrt()
