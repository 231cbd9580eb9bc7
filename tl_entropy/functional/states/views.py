r"""How well states tell texts apart from their own variants, such as augmentations or pieces: LiDAR and InfoNCE.

The rows are states of whole texts (means over tokens, mostly), and rows with the same label are views of one text. Both
measures are used by "Layer by Layer" (Skean et al. 2025, arXiv 2502.02013), whose public code (OFSkean/information_flow)
departs from its formulas in places; each function says where numbers here differ from it. All is float64, in nats.

Refused: labels with a single row, fewer than two labels, NaN and infinities.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_positive
from tl_entropy.functional.probabilities import entropy
from tl_entropy.functional.states.geometry import ROUNDING, unit_rows
from tl_entropy.functional.states.rows import checked_rows, spread_floor
from tl_entropy.functional.statistics import group_sums
from tl_entropy.torch_state import steady

_COLDEST = 1e-300
_DRAWS = 24  # of weights, from which what is of second order is known to three tenths
_LEAST = 0.25  # of the variance, which is left of it
_EQUAL = 1e-6  # of the largest: eigenvalues that are no further apart are taken as equal


@steady
def lidar(x: Tensor, labels: Tensor | Sequence[Any], *, delta: float = 1e-4) -> Tensor:
    r"""How many directions tell texts apart from their own variants: the effective rank of a linear discriminant analysis.

    With μ_c the mean of the rows of label c, and means over labels, Σ_b = mean_c (μ_c - μ)(μ_c - μ)ᵀ,
    Σ_w = mean_c mean_{i in c} (x_i - μ_c)(x_i - μ_c)ᵀ + delta·I, and λ the eigenvalues of Σ_w^{-1/2} Σ_b Σ_w^{-1/2}:
    exp(-Σ p_i log p_i) with p_i = λ_i / Σ_j λ_j.

    Args:
        x: [row, d_model] states of texts, such as means over tokens.
        labels: one for each row; rows of one label are views (augmentations, pieces) of one text. Every label counts the same.
        delta: finite and above 0; added to the diagonal of Σ_w, in the square of the unit of ``x``: so the number depends on
            the scale of ``x``.

    Returns:
        [] float64, from 1 to min(label - 1, d_model).

    Raises:
        InputError: not [row, d_model], fewer than two labels, a label with a single row, a number of labels that is
            not that of rows, a delta that is not finite and above 0, or labels that all have the same mean.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity; ``labels`` are no sequence.

    Source: Thilak et al. (2024), LiDAR: sensing linear probing performance in joint embedding SSL architectures, arXiv
    2312.04000, equations 1 to 4, without the small number added to p_i there. The code of Skean et al. 2025 reports an
    entropy of that matrix, divided by min(log label, log d_model).

    >>> x = torch.tensor([[0.0, 1.0], [0.0, -1.0], [5.0, 1.0], [5.0, -1.0]])
    >>> round(lidar(x, ["a", "a", "b", "b"]).item(), 6)
    1.0
    """
    return Discriminant.of(x, labels, delta).rank


def lidar_scores(x: Tensor, labels: Tensor | Sequence[Any], *, delta: float = 1e-4) -> tuple[Tensor, Tensor]:
    r"""``lidar``, and what each label adds to it [label], in the mean 0: its variance is Σ_c scores_c² / (C (C - 1)).

    The value is taken as a function of the labels' weights, and its slopes are what labels add. But what is of second order in
    the labels, q_ab of any two of them, is in slopes twice: their squares have 4 Σ_ab q_ab² where the variance of the value has
    2 Σ_ab q_ab². Second derivatives along weights of ±1 drawn at random have a variance of 8 Σ_ab q_ab², a quarter of which is
    taken off, but no more than three quarters of what there is.
    """
    found = Discriminant.of(x, labels, delta)
    scores = found.scores()
    n = len(scores)
    linear = scores.square().sum() / (n * max(n - 1, 1))
    draw = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(2, (_DRAWS, n), generator=draw, device="cpu").to(scores) - 1
    twice = torch.stack([found.bend(sign) for sign in signs]).var() / 4
    return found.rank, scores * torch.where(linear > 0, 1 - twice / linear, 1.0).clamp(_LEAST, 1).sqrt()


@dataclass(frozen=True, eq=False)
class Discriminant:
    """The eigenvalues λ_k of Σ_w^{-1/2} Σ_b Σ_w^{-1/2}, in a unit of their own, and how they change with weights of labels.

    Attributes:
        label: [row] number of each row's label.
        values: [direction] λ_k that are above 0.
        means: [label, direction] u_k · (μ_c - μ) / √C with u_k the directions of uᵀ Σ_w u = 1: its squares add up to λ_k.
        rows: [row, axis] what varies within labels, Σ_w^{-1/2} (x_i - μ_c) / √(C n_c), along its own axes.
        turned: [axis, direction] the directions there; what they have beside these axes varies by delta alone.
        rank: [] the value.
    """

    label: Tensor
    values: Tensor
    means: Tensor
    rows: Tensor
    turned: Tensor
    rank: Tensor

    @classmethod
    def of(cls, x: Tensor, labels: Tensor | Sequence[Any], delta: float) -> Self:
        """That of the arguments of ``lidar``."""
        states, label, count = _views(x, labels)
        added = check_positive("delta", delta)
        means = group_sums(states, label, len(count)) / count[:, None]
        between = (means - means.mean(0)) / math.sqrt(len(count))
        if not between.norm() > max(ROUNDING, spread_floor(x.dtype)) * states.norm() / math.sqrt(len(states)):
            raise InputError(f"x: the means of all {len(count)} labels are equal, so that nothing tells them apart")
        within = (states - means[label]) / (count[label, None] * len(count)).sqrt()
        # With within = R S Vᵀ, Σ_w^{-1/2} is (s² + delta)^{-1/2} along V and delta^{-1/2} beside it. From the factors it is
        # exact where delta is too small to show in the sum of Σ_w.
        r, s, v = torch.linalg.svd(within, full_matrices=False)
        digit = max(within.shape) * torch.finfo(torch.float64).eps
        s = s.where(s > digit * s[0], 0.0)  # roundings of 0, beside a tiny delta
        along = between @ v.mT
        beside = between - along @ v
        beside = beside - (beside @ v.mT) @ v  # what rounding left along V would be blown up by a small delta
        root = torch.tensor(added, dtype=torch.float64, device=s.device).sqrt()
        whitened = torch.cat([along / torch.hypot(s, root), beside / root], 1)  # both parts are at right angles
        p, root_of_value, q = torch.linalg.svd(whitened / whitened.abs().max(), full_matrices=False)
        there = root_of_value > digit * root_of_value[0]
        values = root_of_value[there].square()
        rank = entropy(values / values.sum()).exp()
        of_means = (p * root_of_value)[:, there]
        return cls(label, values, of_means, r * (s / torch.hypot(s, root)), q[there, : len(s)].mT, rank)

    @cached_property
    def along(self) -> Tensor:
        """[row, direction] the rows along the directions."""
        return self.rows @ self.turned

    @cached_property
    def by_value(self) -> Tensor:
        """[direction] ∂ log rank / ∂λ_k."""
        share = self.values / self.values.sum()
        return -(share.log() + self.rank.log()) / self.values.sum()

    def scores(self) -> Tensor:
        """[label] what each adds to the rank, to first order: their mean is 0.

        With W_c the covariance within c, λ_k changes with its weight by (u_k · (μ_c - μ))² - λ_k - λ_k u_kᵀ (W_c - mean W) u_k.
        """
        n = len(self.means)
        of_rows = n * group_sums(self.along.square(), self.label, n)
        moves = n * self.means.square() - self.values - self.values * (of_rows - of_rows.mean(0))
        return self.rank * (moves @ self.by_value)

    def bend(self, direction: Tensor) -> Tensor:
        """The second derivative of the rank as the weights of labels [label] move so, about their mean.

        With N_lk = u_lᵀ (dΣ_b - λ_k dΣ_w) u_k, and dμ how the mean of all labels moves,

            λ_k'  = N_kk
            λ_k'' = -2 (u_k · dμ)² + 2 Σ_{l ≠ k} N_lk² / (λ_k - λ_l) - 2 λ_k' u_kᵀ dΣ_w u_k

        of which pairs of equal values, and the directions of value 0, are taken to their limits.
        """
        moved = direction - direction.mean()
        values, slope, total = self.values, self.by_value, self.values.sum()
        weighed = moved[self.label, None] * self.along
        within = self.along.mT @ weighed
        apart = self.means.mT @ (moved[:, None] * self.means) - values * within
        first, own = apart.diagonal(), within.diagonal()
        beyond = torch.zeros_like(values)
        if len(values) < len(self.turned):  # there are l of value 0: of these N_lk² / λ_k adds up to λ_k times this
            beyond = ((self.rows.mT @ weighed).square().sum(0) - within.square().sum(0)).clamp_min(0)
        steps = -2 * (moved @ self.means).square() / len(moved) + 2 * values * beyond - 2 * first * own
        gaps = values - values[:, None]
        weighed_pairs = slope * apart.square()
        equal = gaps.abs() < _EQUAL * values[0]
        pairs = torch.where(
            equal, -apart.square() / (values * total) - 2 * slope * apart * within, (weighed_pairs - weighed_pairs.mT) / gaps
        ).fill_diagonal_(0)
        of_all, of_log = first.sum() / total, slope @ first
        curved = -(first.square() / values).sum() / total + of_all.square() - 2 * of_log * of_all
        return self.rank * (of_log.square() + curved + slope @ steps + pairs.sum())


@steady
def info_nce(x: Tensor, labels: Tensor | Sequence[Any], *, temperature: float = 0.1) -> Tensor:
    r"""A lower bound of the mutual information between two views of a text: how surely a view finds its own text among others.

    With s the cosine, C labels, and i and p two rows of one label,

        loss(i, p) = -log( e^{s_ip / T} / (e^{s_ip / T} + Σ_{c other than i's} mean_{n in c} e^{s_in / T}) )

    and the bound is log C - loss: the mean over all such pairs of each label, then over labels. Other rows of i's own label are
    no negatives, and those of another label share one place: every label is one candidate, however many views it has.

    Args:
        x: [row, d_model] states of texts, such as means over tokens.
        labels: one for each row; rows of one label are views (augmentations, pieces) of one text.
        temperature: T, from 1e-300. The bound is one at any; how close it comes depends on it.

    Returns:
        [] float64, nats, at most log C. Below 0 it says nothing: the cosines are then worse than a guess.

    Raises:
        InputError: not [row, d_model], fewer than two labels, a label with a single row, a number of labels that is
            not that of rows, a temperature that is not finite and above 1e-300, or a row of length 0, which has no cosine.
        InputTypeError, NonFiniteError: ``x`` is no tensor of floats, or holds a NaN or an infinity; ``labels`` are no sequence.

    Source: van den Oord, Li and Vinyals (2018), equations 4 and 5. Deviation from the code of Skean et al. 2025: that takes two
    views only, the first for i and the second for p and the negatives, of normed states, and reports loss and 1 - loss / log C.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    >>> round(info_nce(x, [0, 0, 1, 1]).item() / math.log(2), 6)
    1.0
    """
    return info_nce_scores(x, labels, temperature=temperature)[0]


def info_nce_scores(x: Tensor, labels: Tensor | Sequence[Any], *, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """``info_nce``, and what each label adds to it, to first order [label]: their mean is 0.

    That is its own part, less the probability with which the views of others take it for theirs.
    """
    states, label, count = _views(x, labels)
    if (temperature := check_positive("temperature", temperature)) < _COLDEST:
        raise InputError(f"temperature must be at least {_COLDEST:g}, for 1 / temperature to be a number; got {temperature!r}")
    directions = unit_rows(states)
    logits = directions @ directions.mT / temperature
    same = label[:, None] == label
    others = (logits - count.log()[label]).masked_fill(same, -math.inf)
    negatives = torch.logsumexp(others, 1, keepdim=True)
    pairs = (count * (count - 1))[label]
    weight = same.double().fill_diagonal_(0) / pairs[:, None]
    loss = group_sums((weight * torch.nn.functional.softplus(negatives - logits)).sum(1), label, len(count))
    mistaken = (weight * torch.sigmoid(negatives - logits)).sum(1)
    taken = group_sums((others - negatives).exp().mT @ mistaken, label, len(count))
    scores = -loss - taken
    return math.log(len(count)) - loss.mean(), scores - scores.mean()


def label_list(labels: Any) -> list[Any]:
    """``labels`` as a list.

    Raises:
        InputTypeError: no sequence of labels, or labels that cannot be told apart by ``==`` and ``hash``, such as lists.
    """
    given = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(label, Hashable) for label in given):
        raise InputTypeError(f"labels must be a sequence of names or numbers, one each; got {type(labels).__name__}")
    return list(given)


def _views(x: Tensor, labels: Tensor | Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in float64, their labels as numbers from 0 [row], and how many rows each label has [label]."""
    states, given = checked_rows(x), label_list(labels)
    if len(given) != len(states):
        raise InputError(f"labels must be one for each of the {len(states)} rows of x; got {len(given)}")
    number = {label: i for i, label in enumerate(dict.fromkeys(given))}
    label = torch.tensor([number[one] for one in given], device=states.device)
    count = torch.bincount(label).double()
    if len(count) < 2:
        raise InputError("labels must hold at least two different ones, to be told apart; got one")
    if bool((count < 2).any()):
        alone = list(number)[int((count < 2).nonzero()[0])]
        raise InputError(f"labels: {alone!r} has a single row; every label needs two views or more of its text")
    return states, label, count
