r"""The intrinsic dimension of a cloud of rows at several scales, from the distances to neighbours k and 2k.

It knows no scale or basis. All distances are Euclidean, in float64. The error is that of the likelihood, or over documents.

Refused: too few different rows, scales that they don't allow, NaN and infinities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_int, listed, warn
from tl_entropy.functional.states.geometry import different_places
from tl_entropy.functional.states.neighbours import others_distances
from tl_entropy.functional.states.rows import checked_rows, document_numbers
from tl_entropy.functional.statistics import sampled_error
from tl_entropy.torch_state import steady


@dataclass(frozen=True, eq=False)
class Gride:
    """An intrinsic dimension at several scales.

    Attributes:
        scales: [scale] k: of the neighbours k and 2k.
        dimension: [scale] float64.
        se: [scale] its standard error: of the likelihood, or over documents.
        distance: [scale] mean distance of the neighbours k and 2k, in the unit of the rows: how far the scale is.
        rows: number of different rows.

    >>> import torch
    >>> from tl_entropy.functional import gride
    >>> plane = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 8).triu()
    >>> found = gride(plane)
    >>> type(found).__name__, found.scales[:3], found.dimension[2].round().item()
    ('Gride', (1, 2, 4), 2.0)
    """

    scales: tuple[int, ...]
    dimension: Tensor
    se: Tensor
    distance: Tensor
    rows: int


@steady
def gride(x: Tensor, *, scales: Sequence[int] | None = None, documents: Any = None) -> Gride:
    r"""The intrinsic dimension of the cloud of rows at several scales, from the distances to neighbours k and 2k.

    With μ = r(2k) / r(k) and the density taken as constant out to 2k neighbours, d maximises the likelihood

        Π_i d (μ_i^d - 1)^(k-1) / (μ_i^((2k-1) d + 1) B(k, k)),

    which at k = 1 is TwoNN's, d = 1 / mean log μ. The error is that of the likelihood, 1 / √(its curvature), for independent
    rows; with ``documents`` scores are summed by document first.

    Args:
        x: [row, d_model]. Rows that repeat another are taken once, with a warning.
        scales: k of each; None takes 1, 2, 4, ... up to 32, as far as there are 2k neighbours.
        documents: [row] which rows belong together.

    Returns:
        ``Gride``.

    Raises:
        InputError: not [row, d_model], fewer than three different rows, scales that they do not allow, or neighbours that are
            all equally far.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity.

    Source: Denti, Doimo, Laio and Mira (2022), The generalized ratios intrinsic dimension estimator, equation 7.

    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> gride(square).dimension.round().tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    places = different_places(x)
    if len(places) < len(x):
        warn(f"{len(x) - len(places)} of {len(x)} rows repeat others and were left out of gride")
    if len(places) < 3:
        raise InputError(f"x must have at least three different rows [row, d_model]; got {len(places)}")
    most = (len(places) - 1) // 2
    usual = [k for k in (1, 2, 4, 8, 16, 32) if k <= most]
    chosen = usual if scales is None else [check_int("scales", k, 1, most) for k in listed("scales", scales, "ints")]
    if not chosen:
        raise InputError("scales must hold one number or more")
    group = torch.arange(len(places)) if documents is None else document_numbers(documents, len(x))[places.cpu()]
    distance = others_distances(checked_rows(x)[places]).topk(2 * max(chosen), largest=False).values.sqrt().cpu()
    found, errors = [], []
    for k in chosen:
        logs = (distance[:, 2 * k - 1] / distance[:, k - 1]).log()
        if not bool(logs.any()):
            raise InputError(f"x: neighbours {k} and {2 * k} of all rows are equally far, which leaves the dimension open")
        d = _likeliest(logs, k)
        score, curvature = _scores(logs, d, k)
        found.append(d)
        likelihood = (len(logs) * curvature) ** -0.5
        errors.append(likelihood if documents is None else float(sampled_error(score / curvature, group, len(logs))))
    at = torch.stack([distance[:, [k - 1, 2 * k - 1]].mean() for k in chosen])
    of = {"dimension": torch.tensor(found, dtype=torch.float64), "se": torch.tensor(errors, dtype=torch.float64)}
    return Gride(scales=tuple(chosen), distance=at, rows=len(places), **of)


def _scores(logs: Tensor, d: float, k: int) -> tuple[Tensor, float]:
    """The likelihood's derivative by d [row], and its mean curvature, -∂²/∂d²; rows of μ = 1 count as at the limit."""
    safe = logs.clamp_min(1e-300)
    shrunk = -torch.expm1(-d * safe)  # 1 - μ^-d
    score = 1 / d + (k - 1) * safe / shrunk - (2 * k - 1) * safe
    curvature = 1 / d**2 + (k - 1) * (safe / shrunk).square() * (-d * safe).exp()
    return score, float(curvature.mean())


def _likeliest(logs: Tensor, k: int) -> float:
    """The d at which the mean score is 0; the score falls with d, so that halving finds it."""
    low, high = 0.0, 1 / float(logs.mean())
    while float(_scores(logs, high, k)[0].mean()) > 0:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if float(_scores(logs, middle, k)[0].mean()) > 0 else (low, middle)
    return high
