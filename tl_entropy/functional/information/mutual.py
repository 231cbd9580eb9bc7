r"""Soft mutual information of states and labels, on tensors; what it is made of is in ``functional/information/estimates.py``.

Rows of one document are alike, so ``documents`` say which rows belong together: they go into folds, none of which predicts
itself. Without them every row is a fold of its own, as is right for rows drawn independently.

Refused: what soft entropy refuses; labels and documents that are no whole numbers; no labelled row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_int, counted
from tl_entropy.functional.information.anchors import Sample, SampledRows
from tl_entropy.functional.information.chance import SAMPLE, chance_curves
from tl_entropy.functional.information.cross_fitting import SoftSums
from tl_entropy.functional.information.estimates import (
    chance_adjusted,
    delete_one,
    error,
    estimates,
    label_estimates,
    reason_for_nan,
)
from tl_entropy.functional.information.soft import Invalid, directed_rows, kernel, soft_assignments
from tl_entropy.functional.information.temperature import Calibration
from tl_entropy.functional.probabilities import entropy, extensive
from tl_entropy.functional.statistics import balanced_folds
from tl_entropy.torch_state import steady


@dataclass(frozen=True, eq=False)
class SoftMutualInformation:
    """Information that states hold about labels, with all that is needed to judge it. Values in nats.

    Attributes:
        information: the headline: the cross-fitted estimate (a scalar tensor, differentiable); NaN where ``reason`` says why.
        se: standard error of ``information`` over folds of documents, or over rows without documents.
        anchors_se: its standard error over draws of anchors, from this one; NaN for two anchors.
        lower: a bound that the true information is not below, in expectation. Neither it nor ``fold_jackknife`` has an error
            of its own; over corpora of known truth they varied .6 to 1.3 times as much as ``information``.
        fold_jackknife: the information with the bias taken out by leaving out folds; its distance from ``information`` is what
            few rows a label cannot settle.
        in_two_folds: share of the rows whose label is in two folds or more; the others say nothing of their label's spread.
        plug_in: H(Z) - Σ_x P(x) H(Z|x) (a scalar tensor, differentiable like ``entropy``).
        null: its mean over all permutations of the labels.
        ceiling: the most that the plug-in value could be: H(Z) - mean H(p_i).
        corrected_ceiling: the most that ``information`` could be, without the bias of few rows.
        chance_adjusted: ceiling (plug_in - null) / (ceiling - null), the information of 0.5.0; NaN where the null reaches
            nearly the ceiling.
        entropy: H(Z) of the rows with a label.
        jackknife: plug-in information, bias-corrected by leaving out one row at a time; NaN for a single row.
        plug_in_se: standard error of ``plug_in`` over folds.
        label_information: [label] KL(p̄_x ‖ p̄), never negative; weighted by ``counts`` it averages to ``plug_in``.
        label_corrected: [label] the same without the bias of few rows: it may be below 0, and is NaN for labels in one fold.
        label_se: [label] standard error of ``label_corrected`` over the folds that hold the label.
        labels: [label] the values of the labels.
        counts: [label] number of rows of each.
        n_bins: number of anchors m.
        temperature: ε.
        rows: number of rows with a label.
        coverage: share of the rows that have a label.
        singletons: share of the labels that are seen once.
        dropped: number of rows that were left out for being zero or not finite.
        reason: why ``information`` is NaN; empty otherwise.

    >>> import torch
    >>> from tl_entropy.functional import soft_mutual_information
    >>> labels = torch.arange(100) % 4
    >>> found = soft_mutual_information(torch.eye(4, 16)[labels], labels, n_bins=10)
    >>> bool(found.null < found.plug_in <= found.ceiling + 1e-9)
    True
    """

    information: Tensor
    se: float
    anchors_se: float
    lower: float
    fold_jackknife: float
    in_two_folds: float
    plug_in: Tensor
    null: float
    ceiling: Tensor
    corrected_ceiling: Tensor
    chance_adjusted: Tensor
    entropy: Tensor
    jackknife: float
    plug_in_se: float
    label_information: Tensor = field(repr=False)
    label_corrected: Tensor = field(repr=False)
    label_se: Tensor = field(repr=False)
    labels: Tensor | tuple[Any, ...] = field(repr=False)
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
        """Information as a share of its ceiling, the corrected one."""
        return (self.information / self.corrected_ceiling).item()

    @property
    def regularity(self) -> float:
        """I(X;Z) / H(Z), of the plug-in information, as published."""
        return (self.plug_in / self.entropy).item()

    def __str__(self) -> str:
        errors = f" ± {self.se:.4f} (folds) ± {self.anchors_se:.4f} (anchors)"
        return (
            f"I(X;Z) = {self.information.item():.4f}{f' nats ({self.reason})' if self.reason else errors + ' nats'}\n"
            f"  lower {self.lower:.4f}, fold jackknife {self.fold_jackknife:.4f}, corrected ceiling "
            f"{self.corrected_ceiling.item():.4f}\n"
            f"  plug-in {self.plug_in.item():.4f}, null {self.null:.4f}, ceiling {self.ceiling.item():.4f}, "
            f"jackknife {self.jackknife:.4f}\n"
            f"  H(Z) = {self.entropy.item():.4f} nats, efficiency {self.efficiency:.4f}\n"
            f"  {counted(self.rows, 'row')} ({self.coverage:.1%} labelled, {self.dropped} dropped), "
            f"{counted(len(self.labels), 'label')} ({self.singletons:.1%} seen once, "
            f"{self.in_two_folds:.1%} of rows in two folds), {self.n_bins} bins, "
            f"temperature {self.temperature:.6g}"
        )


@steady
def soft_mutual_information(
    z: Tensor | np.ndarray,
    labels: Any,
    *,
    documents: Any = None,
    folds: int = 20,
    n_bins: int = 100,
    seed: int = 0,
    anchors: Tensor | np.ndarray | None = None,
    temperature: float | None = None,
    calibration: Calibration = "exact",
    center: bool | Tensor = False,
    invalid: Invalid = "error",
) -> SoftMutualInformation:
    """Mutual information I(X;Z) between states and labels, without the bias of few rows, with bounds, ceiling and errors.

    Args:
        z: [row, d] states, a tensor or an array.
        labels: [row] whole numbers; below 0 is no label, and the row is left out.
        documents: [row] whole numbers: which rows belong together. None takes every row for independent of the others; where
            neighbours are alike, as in text, that reads too much and its error is too small.
        folds: groups of documents, of about equal size, none of which predicts itself.
        n_bins: number of anchors m.
        seed: of the anchors.
        anchors: [bin, d] to use instead, of any length; ``n_bins`` and ``seed`` then say nothing.
        temperature: ε to use instead of the calibrated one.
        calibration: how ε follows from d and n_bins: "exact" or "leading_order".
        center: subtract the mean of all rows first, those without a label included, or a state given as [d].
        invalid: "error", or "drop" to leave out rows that are zero or not finite.

    Returns:
        A record, in nats. Its entropy, ceilings and plug-in information are differentiable where ``z`` asks for gradients, and
        so are its information, at fixed weights of the two spreads, and ``chance_adjusted``, at a fixed null / ceiling.

    Raises:
        InputError: no labelled row, a zero row, or arguments that don't fit each other.
        InputTypeError: labels or documents that are no whole numbers.
        NonFiniteError: a row with a NaN or an infinity.

    Source: Conklin (2025), arXiv 2505.23960; deviations: cross-fitting, bounds and ceiling
    (``functional/information/estimates.py``).

    >>> z = torch.cat([torch.eye(64)[:2]] * 50)
    >>> print(soft_mutual_information(z, [0, 1] * 50))
    I(X;Z) = 0.6802 ± 0.0000 (folds) ± 0.0167 (anchors) nats
      lower 0.6751, fold jackknife 0.6803, corrected ceiling 0.6803
      plug-in 0.6754, null 0.0050, ceiling 0.6754, jackknife 0.6803
      H(Z) = 2.4529 nats, efficiency 0.5326
      100 rows (100.0% labelled, 0 dropped), 2 labels (0.0% seen once, 100.0% of rows in two folds), 100 bins,
      temperature 0.0370495
    """
    folds = check_int("folds", folds, 2)
    rows, kept = directed_rows(z, center, invalid)
    known = _whole_numbers("labels", labels, len(z)).to(rows.device)[kept]
    groups = None if documents is None else _whole_numbers("documents", documents, len(z)).to(rows.device)[kept]
    labelled = known >= 0
    if not bool(labelled.any()):
        raise InputError("labels: no row has one; labels are whole numbers from 0, and negative ones mean none")
    used, epsilon = kernel(rows, n_bins, seed, anchors, temperature, calibration)
    p = soft_assignments(rows[labelled], used, epsilon)
    own = extensive(p.double())  # not entropy: so that labels seen once reach the ceiling to the last digit
    values, label, counts = known[labelled].unique(return_inverse=True, return_counts=True)
    fold, n_folds = _folds(None if groups is None else groups[labelled], label, folds)
    pair, group = (label * n_folds + fold).unique(return_inverse=True)
    zeros = torch.zeros(len(pair), dtype=torch.float64, device=rows.device)
    sums = SoftSums(
        mass=zeros.new_zeros(len(pair), 1, p.shape[1]).index_add(0, group, p.double()[:, None]),
        own=zeros[:, None].index_add(0, group, own[:, None]),
        count=zeros.index_add(0, group, torch.ones_like(own)),
        label=pair // n_folds, fold=pair % n_folds,
    )  # fmt: skip
    with torch.no_grad():
        order = torch.randperm(len(p), generator=torch.Generator().manual_seed(0), device="cpu")[:SAMPLE].to(p.device)
        sample = Sample(SampledRows(p.detach()[order][:, None]), label[order])
    return record(
        sums, sample, folds=n_folds, whole=len(p) <= SAMPLE, labels=values, counts=counts, n_bins=len(used),
        temperature=epsilon, coverage=len(label) / len(known), dropped=len(z) - len(rows),
        jackknife=float(delete_one(p.detach(), label)),
    )  # fmt: skip


def record(
    sums: SoftSums, sample: Sample, *, folds: int, whole: bool, counts: Tensor, **more: Any
) -> SoftMutualInformation:  # fmt: skip
    """The record of the sums of one unit; ``more`` are its fields that do not follow from them."""
    with torch.no_grad():
        curves = chance_curves(sample.drawn.rows, whole=whole, entropies=entropy(sample.drawn.rows).T)
    found = estimates(sums, curves, folds=folds, sample=sample)
    information, plug_in, null, ceiling = (v[:, 0] for v in (found.information, found.plug_in, found.null, found.ceiling))
    reason = reason_for_nan(ceiling[0].item(), found.rows_inside, int((found.fold_rows > 0).sum()))
    if reason:
        information = torch.full_like(information, torch.nan)
    headline: dict[str, Any] = {
        "information": information[0], "plug_in": plug_in[0], "ceiling": ceiling[0], "entropy": found.entropy[0, 0],
        "corrected_ceiling": found.corrected_ceiling[0], "chance_adjusted": chance_adjusted(plug_in[0], null[0], ceiling[0]),
    }  # fmt: skip
    with torch.no_grad():
        single = label_estimates(sums, curves, folds=folds)
        split = 1 + folds  # where what anchors add begins in a column
        return SoftMutualInformation(
            **headline, se=float(error(information[:split])),
            anchors_se=float(error(torch.cat([information[:1], information[split:]]))), lower=found.lower.item(),
            fold_jackknife=found.fold_jackknife.item(), in_two_folds=found.rows_inside / found.rows, null=null[0].item(),
            plug_in_se=float(error(plug_in[:split])), label_information=single.plug_in[:, 0],
            label_corrected=single.information[:, 0], label_se=single.se[:, 0], counts=counts, rows=round(found.rows),
            singletons=float((counts == 1).double().mean()), reason=reason, **more,
        )  # fmt: skip


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


def _folds(documents: Tensor | None, label: Tensor, folds: int) -> tuple[Tensor, int]:
    """The fold of every row, and how many there are: each row its own where nothing is known of documents."""
    if documents is None:
        return torch.arange(len(label), device=label.device), len(label)
    _, document, counts = documents.unique(return_inverse=True, return_counts=True)
    fold = balanced_folds(counts.cpu(), folds)
    return fold.to(document.device)[document], int(fold.max()) + 1
