r"""Soft entropy of states: an estimator that needs no density and no bins of its own.

A state is put on the unit sphere and softly assigned to m random anchors w there (Conklin 2025, arXiv 2505.23960):

    p_i = softmax(w · z_i / (ε ‖z_i‖)),   p̄ = mean_i p_i,   H(Z) = -Σ_j p̄_j log p̄_j,

with the temperature ε such that one state's kernel holds log m nats (``functional/information/temperature.py``). Information
about labels follows from sums of p (``functional/information/mutual.py``).

Anchors are drawn on the CPU in float64 from a generator of their own, salted so that no seed of torch or NumPy gives the
same numbers, and rounded to float32: equal on every device and for every dtype. Those for fewer bins are the first of those for
more. A shift of all states is not removed unless ``center`` says so: H(Z) depends on it much, I(X;Z) / ceiling little.

Refused: states that are zero or not finite (they have no direction), unless ``invalid="drop"`` counts and leaves them out;
batched states, since it would not be clear what a row is.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice, check_int, check_positive, counted
from tl_entropy.functional.information.temperature import Calibration, calibrate_temperature
from tl_entropy.functional.probabilities import entropy
from tl_entropy.torch_state import steady

Invalid = Literal["error", "drop"]

# A number that nobody picks for a seed.
_SALT = int.from_bytes(b"tl_entropy anchors", "big")


@steady
def soft_anchors(d: int, n_bins: int, *, seed: int = 0) -> Tensor:
    """Random directions, uniform on the unit sphere: [n_bins, d] float32 on the CPU, the same numbers everywhere.

    >>> soft_anchors(3, 2).equal(soft_anchors(3, 5)[:2])
    True
    """
    d = check_int("d", d, 1)
    n_bins = check_int("n_bins", n_bins, 1)
    seed = check_int("seed", seed, 0)
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([_SALT, seed]))).standard_normal((n_bins, d))
    return torch.from_numpy((draw / np.linalg.norm(draw, axis=1, keepdims=True)).astype(np.float32))


@steady
def soft_assignments(z: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """softmax(anchors · z / (temperature ‖z‖)): [..., d] to [..., bin], float64 for float64 states, float32 for all others.

    ``anchors`` [bin, d] are taken as they are, of length 1. A state without a direction gives NaN.

    >>> import torch
    >>> from tl_entropy.functional import soft_anchors, soft_assignments
    >>> p = soft_assignments(torch.ones(2, 16), soft_anchors(16, 10), temperature=0.2)
    >>> tuple(p.shape), bool((p.sum(-1) - 1).abs().max() < 1e-6)
    ((2, 10), True)
    """
    for name, given in (("z", z), ("anchors", anchors)):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise InputTypeError(f"{name} must be a tensor of floats; got {_described(given)}")
    if anchors.ndim != 2 or not len(anchors) or not z.ndim or not z.shape[-1] or z.shape[-1] != anchors.shape[1]:
        shapes = f"{list(z.shape)} and {list(anchors.shape)}"
        raise InputError(f"z must be [..., d] and anchors [bin, d], of one d and one bin at least; got {shapes}")
    temperature = check_positive("temperature", temperature)
    rows = z if z.dtype == torch.float64 else z.float()
    largest = _largest(rows.detach())[..., None]
    if bool(((largest < 1e-15) | (largest > 1e15)).any()):
        rows = rows / largest  # squares of such numbers are beyond float32
    scale = rows.norm(dim=-1, keepdim=True) * temperature
    return torch.softmax(rows @ anchors.to(rows).mT / scale, dim=-1)


@steady
def soft_entropy(
    z: Tensor | np.ndarray,
    *,
    n_bins: int = 100,
    seed: int = 0,
    anchors: Tensor | np.ndarray | None = None,
    temperature: float | None = None,
    calibration: Calibration = "exact",
    center: bool | Tensor = False,
    invalid: Invalid = "error",
    normalize: bool = False,
) -> Tensor:
    """Soft entropy H(Z) of states: how evenly they fill the sphere of directions.

    Args:
        z: [row, d] states, a tensor or an array; differentiable where it asks for gradients.
        n_bins: number of anchors m.
        seed: of the anchors.
        anchors: [bin, d] to use instead, of any length; ``n_bins`` and ``seed`` then say nothing.
        temperature: ε to use instead of the calibrated one.
        calibration: how ε follows from d and n_bins: "exact" or "leading_order".
        center: subtract the mean state first, or a state given as [d].
        invalid: "error", or "drop" to leave out rows that are zero or not finite.
        normalize: divide by log n_bins: the efficiency, from 0 to 1.

    Returns:
        A scalar in float64: nats from 0 to log n_bins, or the efficiency.

    Raises:
        InputError: no row, a zero row, or an argument that doesn't fit.
        NonFiniteError: a row with a NaN or an infinity.

    Source: Conklin (2025), arXiv 2505.23960, section 3.

    >>> z = torch.eye(64)
    >>> round(soft_entropy(z[:1].expand(5, 64)).item(), 3), round(soft_entropy(z).item(), 3), round(math.log(100), 3)
    (1.565, 4.461, 4.605)
    """
    rows, _ = directed_rows(z, center, invalid)
    used, epsilon = kernel(rows, n_bins, seed, anchors, temperature, calibration)
    h = entropy(soft_assignments(rows, used, epsilon).double().mean(0))
    return h / math.log(len(used)) if normalize else h


def directed_rows(
    z: Tensor | np.ndarray, center: bool | Tensor, invalid: Invalid, *, none: bool = False
) -> tuple[Tensor, Tensor]:
    """The rows that have a direction, centred where asked for, and which of ``z`` they are [row] bool; ``none``: or no row."""
    z = _as_tensor(z)
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise InputTypeError(f"z must be a tensor or an array of floats [row, d]; got {_described(z)}")
    if z.ndim != 2 or z.shape[1] < 2:
        raise InputError(f"z must be [row, d] with d of at least 2; got {list(z.shape)}; flatten batches with z.flatten(0, -2)")
    check_choice("invalid", invalid, ("error", "drop"))
    rows = z if z.dtype == torch.float64 else z.float()
    finite = _largest(rows.detach()).isfinite()
    if invalid == "error" and not bool(finite.all()):
        raise NonFiniteError(f"z has a NaN or an infinity in {_named(~finite)}; repair it, or pass invalid='drop'")
    if isinstance(center, Tensor):
        if center.shape != z.shape[1:]:
            raise InputError(f"center must be a tensor of shape {list(z.shape[1:])}, True or False; got {list(center.shape)}")
        rows = rows - center.to(rows)
    elif not isinstance(center, bool):
        raise InputTypeError(f"center must be a tensor of shape {list(z.shape[1:])}, True or False; got {_described(center)}")
    elif center:
        rows = rows - rows[finite].mean(0)
    largest = _largest(rows.detach())
    directed = finite & (largest > 0) & largest.isfinite()
    if invalid == "error" and not bool(directed.all()):
        what = "zero" if center is False else "zero, or not finite, once centred"
        raise InputError(f"z has no direction in {_named(~directed)}: {what}; leave it out, or pass invalid='drop'")
    if not none and not bool(directed.any()):
        raise InputError(f"z holds no row with a direction; got {counted(len(z), 'row')}")
    return rows if bool(directed.all()) else rows[directed], directed


def _as_tensor(given: Any) -> Any:
    """An array of floats as a tensor; all else as it is."""
    floats = isinstance(given, np.ndarray) and given.dtype in (np.float16, np.float32, np.float64)
    return torch.from_numpy(np.ascontiguousarray(given)) if floats else given


def _largest(rows: Tensor) -> Tensor:
    """The largest absolute value over the last axis; NaN where there is one."""
    return torch.maximum(rows.amax(-1), -rows.amin(-1))


def _named(bad: Tensor) -> str:
    """Rows by number, the first five."""
    rows = bad.nonzero()[:, 0].tolist()
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:5]))}" + (
        f" and {len(rows) - 5} more" if rows[5:] else ""
    )


def kernel(
    rows: Tensor,
    n_bins: int,
    seed: int,
    anchors: Tensor | np.ndarray | None,
    temperature: float | None,
    calibration: Calibration,
) -> tuple[Tensor, float]:
    """Anchors of length 1 and their temperature."""
    d = rows.shape[1]
    given = _as_tensor(anchors)
    if given is None:
        n_bins = check_int("n_bins", n_bins, 2)
        used = soft_anchors(d, n_bins, seed=seed)
    elif not isinstance(given, Tensor) or given.ndim != 2 or given.shape[1] != d or len(given) < 2:
        raise InputError(f"anchors must be a tensor or an array [bin, {d}] with two bins or more; got {_described(given)}")
    else:
        length = given.double().norm(dim=1, keepdim=True)
        if not bool((length > 0).all() and length.isfinite().all()):
            raise InputError("anchors must be finite and not zero, since they are directions")
        used = given.double() / length
    if temperature is None:
        temperature = calibrate_temperature(d, len(used), method=calibration)
    return used.to(rows.device), check_positive("temperature", temperature)


def _described(value: object) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
