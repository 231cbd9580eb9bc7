r"""Soft entropy and mutual information of states: an estimator that needs no density and no bins of its own.

A state is put on the unit sphere and softly assigned to m random anchors w there (Conklin 2025, arXiv 2505.23960):

    p_i = softmax(w · z_i / (ε ‖z_i‖)),   p̄ = mean_i p_i,   H(Z) = -Σ_j p̄_j log p̄_j,

with the temperature ε such that one state's kernel holds log m nats (``functional/information/temperature.py``). Information
about labels, its ceiling, its chance level and its errors follow from sums of p (``functional/information/estimates.py``).

Anchors are drawn on the CPU in float64 from a generator of their own, salted so that no seed of torch or NumPy gives the
same numbers, and rounded to float32: equal on every device and for every dtype. Those for fewer bins are the first of those for
more. A shift of all states is not removed unless ``center`` says so: H(Z) depends on it much, I(X;Z) / ceiling little.

Refused: states that are zero or not finite (they have no direction), unless ``invalid="drop"`` counts and leaves them out;
batched states, since it would not be clear what a row is; labels that are no whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice, check_int, check_positive
from tl_entropy.functional.information.estimates import (
    MIN_CEILING,
    SAMPLE,
    SoftSums,
    chance_adjusted,
    chance_curve,
    delete_one,
    estimates,
    label_information,
)
from tl_entropy.functional.information.temperature import Calibration, calibrate_temperature
from tl_entropy.functional.probabilities import entropy, extensive
from tl_entropy.functional.statistics import balanced_folds, jackknife_error
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
    check_int("d", d, 1)
    check_int("n_bins", n_bins, 1)
    check_int("seed", seed, 0)
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([_SALT, seed]))).standard_normal((n_bins, d))
    return torch.from_numpy((draw / np.linalg.norm(draw, axis=1, keepdims=True)).astype(np.float32))


@steady
def soft_assignments(z: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """softmax(anchors · z / (temperature ‖z‖)): [..., d] to [..., bin], float64 for float64 states, float32 for all others.

    ``anchors`` [bin, d] are taken as they are, of length 1. A state without a direction gives NaN.
    """
    rows = z if z.dtype == torch.float64 else z.float()
    largest = _largest(rows.detach())[..., None]
    if bool(((largest < 1e-15) | (largest > 1e15)).any()):
        rows = rows / largest  # squares of such numbers are beyond float32
    scale = rows.norm(dim=-1, keepdim=True) * temperature
    return torch.softmax(rows @ anchors.to(rows).mT / scale, dim=-1)


@steady
def soft_entropy(
    z: Tensor,
    *,
    n_bins: int = 100,
    seed: int = 0,
    anchors: Tensor | None = None,
    temperature: float | None = None,
    calibration: Calibration = "exact",
    center: bool | Tensor = False,
    invalid: Invalid = "error",
    normalize: bool = False,
) -> Tensor:
    """Soft entropy H(Z) of states: how evenly they fill the sphere of directions.

    Args:
        z: [row, d] states; differentiable where it asks for gradients.
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
    rows, _ = _directed(z, center, invalid)
    used, epsilon = _kernel(rows, n_bins, seed, anchors, temperature, calibration)
    h = entropy(soft_assignments(rows, used, epsilon).double().mean(0))
    return h / math.log(len(used)) if normalize else h


@dataclass(frozen=True, eq=False)
class SoftMutualInformation:
    """Information that states hold about labels, with all that is needed to judge it. Values in nats.

    Attributes:
        information: the headline: plug-in information, corrected for chance (a scalar tensor); NaN where ``reason`` says why.
        plug_in: H(Z) - Σ_x P(x) H(Z|x) (a scalar tensor, differentiable like ``entropy``).
        null: its mean over all permutations of the labels.
        ceiling: the most that labels could say: H(Z) - mean H(p_i).
        entropy: H(Z) of the rows with a label.
        jackknife: plug-in information, bias-corrected by leaving out one row at a time; the best estimate where every label is
            seen some 20 times or more; NaN for a single row.
        se: standard error of ``information`` over documents; NaN without documents, with one, or where ``information`` is NaN
            without some of them.
        plug_in_se: the same, of ``plug_in``.
        label_information: [label] KL(p̄_x ‖ p̄), never negative; weighted by ``counts`` it averages to ``plug_in``.
        labels: [label] the values of the labels.
        counts: [label] number of rows of each.
        n_bins: number of anchors m.
        temperature: ε.
        rows: number of rows with a label.
        coverage: share of the rows that have a label.
        singletons: share of the labels that are seen once.
        dropped: number of rows that were left out for being zero or not finite.
        reason: why ``information`` is NaN; empty otherwise.
    """

    information: Tensor
    plug_in: Tensor
    null: float
    ceiling: Tensor
    entropy: Tensor
    jackknife: float
    se: float
    plug_in_se: float
    label_information: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    n_bins: int
    temperature: float
    rows: int
    coverage: float
    singletons: float
    dropped: int
    reason: str

    @property
    def efficiency(self) -> float:
        """H(Z) / log n_bins, from 0 to 1."""
        return self.entropy.item() / math.log(self.n_bins)

    @property
    def share(self) -> float:
        """Information as a share of its ceiling."""
        return (self.information / self.ceiling).item()

    @property
    def regularity(self) -> float:
        """I(X;Z) / H(Z), of the plug-in information, as published."""
        return (self.plug_in / self.entropy).item()

    def __str__(self) -> str:
        error = "" if math.isnan(self.se) else f" ± {self.se:.4f}"
        return (
            f"I(X;Z) = {self.information.item():.4f}{error} nats{f' ({self.reason})' if self.reason else ''}\n"
            f"  plug-in {self.plug_in.item():.4f}, null {self.null:.4f}, ceiling {self.ceiling.item():.4f}, "
            f"jackknife {self.jackknife:.4f}\n"
            f"  H(Z) = {self.entropy.item():.4f} nats, efficiency {self.efficiency:.4f}\n"
            f"  {self.rows} rows ({self.coverage:.1%} labelled, {self.dropped} dropped), {len(self.labels)} labels "
            f"({self.singletons:.1%} seen once), {self.n_bins} bins, temperature {self.temperature:.6g}"
        )


@steady
def soft_mutual_information(
    z: Tensor,
    labels: Any,
    *,
    documents: Any = None,
    folds: int = 20,
    n_bins: int = 100,
    seed: int = 0,
    anchors: Tensor | None = None,
    temperature: float | None = None,
    calibration: Calibration = "exact",
    center: bool | Tensor = False,
    invalid: Invalid = "error",
) -> SoftMutualInformation:
    """Mutual information I(X;Z) between states and labels, corrected for chance, with its null, ceiling and error.

    Args:
        z: [row, d] states.
        labels: [row] whole numbers; below 0 is no label, and the row is left out.
        documents: [row] whole numbers: which rows belong together; gives the standard errors.
        folds: groups of documents that are left out in turn for the standard errors.
        n_bins: number of anchors m.
        seed: of the anchors.
        anchors: [bin, d] to use instead, of any length; ``n_bins`` and ``seed`` then say nothing.
        temperature: ε to use instead of the calibrated one.
        calibration: how ε follows from d and n_bins: "exact" or "leading_order".
        center: subtract the mean of all rows first, those without a label included, or a state given as [d].
        invalid: "error", or "drop" to leave out rows that are zero or not finite.

    Returns:
        A record, in nats. Its entropy, ceiling and plug-in information are differentiable where ``z`` asks for gradients, and
        so is its information, at a fixed null / ceiling.

    Raises:
        InputError: no labelled row, a zero row, or arguments that don't fit each other.
        InputTypeError: labels or documents that are no whole numbers.
        NonFiniteError: a row with a NaN or an infinity.

    Source: Conklin (2025), arXiv 2505.23960; deviations: the correction for chance and the ceiling
    (``functional/information/estimates.py``).

    >>> z = torch.cat([torch.eye(64)[:2]] * 50)
    >>> print(soft_mutual_information(z, [0, 1] * 50))
    I(X;Z) = 0.6754 nats
      plug-in 0.6754, null 0.0050, ceiling 0.6754, jackknife 0.6803
      H(Z) = 2.4529 nats, efficiency 0.5326
      100 rows (100.0% labelled, 0 dropped), 2 labels (0.0% seen once), 100 bins, temperature 0.0370495
    """
    check_int("folds", folds, 2)
    rows, kept = _directed(z, center, invalid)
    known = _whole_numbers("labels", labels, len(z)).to(z.device)[kept]
    groups = None if documents is None else _whole_numbers("documents", documents, len(z)).to(z.device)[kept]
    labelled = known >= 0
    if not bool(labelled.any()):
        raise InputError("labels: no row has one; labels are whole numbers from 0, and negative ones mean none")
    used, epsilon = _kernel(rows, n_bins, seed, anchors, temperature, calibration)
    p = soft_assignments(rows[labelled], used, epsilon)
    own = extensive(p.double())  # not entropy: so that labels seen once reach the ceiling to the last digit
    values, label, counts = known[labelled].unique(return_inverse=True, return_counts=True)
    fold, n_folds = _folds(None if groups is None else groups[labelled], folds)
    pair, group = (label * n_folds + fold).unique(return_inverse=True)
    zeros = torch.zeros(len(pair), dtype=torch.float64, device=z.device)
    sums = SoftSums(
        mass=zeros.new_zeros(len(pair), 1, p.shape[1]).index_add(0, group, p.double()[:, None]),
        own=zeros[:, None].index_add(0, group, own[:, None]),
        count=zeros.index_add(0, group, torch.ones_like(own)),
        label=pair // n_folds, fold=pair % n_folds,
    )  # fmt: skip
    with torch.no_grad():
        order = torch.randperm(len(p), generator=torch.Generator().manual_seed(0), device="cpu")[:SAMPLE]
        curve = chance_curve(p.detach()[order.to(p.device)], whole=len(p) <= SAMPLE)
    found = estimates(sums, [curve], folds=n_folds)
    adjusted = chance_adjusted(found.plug_in, found.null, found.ceiling)[:, 0]
    information, plug_in, ceiling, h = adjusted[0], found.plug_in[0, 0], found.ceiling[0, 0], found.entropy[0, 0]
    with torch.no_grad():
        return SoftMutualInformation(
            information=information, plug_in=plug_in, null=found.null[0, 0].item(), ceiling=ceiling, entropy=h,
            jackknife=float(delete_one(p, label)), se=float(jackknife_error(adjusted, found.fold_rows)),
            plug_in_se=float(jackknife_error(found.plug_in[:, 0], found.fold_rows)),
            label_information=label_information(sums)[0][:, 0], labels=values, counts=counts, n_bins=len(used),
            temperature=epsilon, rows=len(label), coverage=len(label) / len(known),
            singletons=float((counts == 1).double().mean()), dropped=len(z) - len(rows),
            reason=unresolved(information.item(), ceiling.item()),
        )  # fmt: skip


def unresolved(information: float, ceiling: float) -> str:
    """Why an adjusted information is NaN; empty where it is a number."""
    if not math.isnan(information):
        return ""
    if ceiling <= MIN_CEILING:
        return "the ceiling is 0: all states are assigned alike"
    return "labels too rare: chance alone reaches nearly the ceiling"


def _directed(z: Tensor, center: bool | Tensor, invalid: Invalid) -> tuple[Tensor, Tensor]:
    """The rows that have a direction, centred where asked for, and which of ``z`` they are [row] bool."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise InputTypeError(f"z must be a tensor of floats [row, d]; got {_described(z)}")
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
    if not bool(directed.any()):
        raise InputError(f"z holds no row with a direction; got {len(z)} rows")
    return rows if bool(directed.all()) else rows[directed], directed


def _largest(rows: Tensor) -> Tensor:
    """The largest absolute value over the last axis; NaN where there is one."""
    return torch.maximum(rows.amax(-1), -rows.amin(-1))


def _named(bad: Tensor) -> str:
    """Rows by number, the first five."""
    rows = bad.nonzero()[:, 0].tolist()
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:5]))}" + (
        f" and {len(rows) - 5} more" if rows[5:] else ""
    )


def _kernel(
    rows: Tensor, n_bins: int, seed: int, anchors: Tensor | None, temperature: float | None, calibration: Calibration
) -> tuple[Tensor, float]:
    """Anchors of length 1 and their temperature."""
    d = rows.shape[1]
    if anchors is None:
        check_int("n_bins", n_bins, 2)
        anchors = soft_anchors(d, n_bins, seed=seed)
    elif not isinstance(anchors, Tensor) or anchors.ndim != 2 or anchors.shape[1] != d or len(anchors) < 2:
        raise InputError(f"anchors must be a tensor [bin, {d}] with two bins or more; got {_described(anchors)}")
    else:
        length = anchors.double().norm(dim=1, keepdim=True)
        if not bool((length > 0).all() and length.isfinite().all()):
            raise InputError("anchors must be finite and not zero, since they are directions")
        anchors = anchors.double() / length
    if temperature is None:
        temperature = calibrate_temperature(d, len(anchors), method=calibration)
    return anchors.to(rows.device), check_positive("temperature", temperature)


def _whole_numbers(argument: str, values: Any, rows: int) -> Tensor:
    try:
        numbers = values if isinstance(values, Tensor) else np.array(values, order="C")
    except ValueError as error:
        raise InputTypeError(f"{argument} must be one whole number for each row of z; got lists of unequal length") from error
    if tuple(numbers.shape) != (rows,):
        raise InputError(
            f"{argument} must be one whole number for each of the {rows} rows of z; got shape {list(numbers.shape)}"
        )
    if isinstance(numbers, np.ndarray):
        if numbers.dtype.kind not in "biu":
            raise InputTypeError(f"{argument} must be whole numbers; got {numbers.dtype}; number them by np.unique first")
        numbers = torch.from_numpy(numbers)
    elif numbers.is_floating_point() or numbers.is_complex():
        raise InputTypeError(f"{argument} must be whole numbers; got {numbers.dtype}")
    signed = numbers.long()
    if numbers.dtype == torch.uint64 and bool((signed < 0).any()):
        raise InputError(f"{argument} must be below 2**63; got larger ones; number them by np.unique first")
    return signed


def _folds(documents: Tensor | None, folds: int) -> tuple[Tensor | int, int]:
    """The fold of every row, and how many there are: one where nothing is known of documents."""
    if documents is None:
        return 0, 1
    _, document, counts = documents.unique(return_inverse=True, return_counts=True)
    fold = balanced_folds(counts.cpu(), folds)
    return fold.to(document.device)[document], int(fold.max()) + 1


def _described(value: object) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
