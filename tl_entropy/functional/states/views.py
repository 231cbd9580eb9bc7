r"""How well states tell texts apart from their own variants, such as augmentations or pieces: LiDAR and InfoNCE.

The rows are states of whole texts (means over tokens, mostly), and rows with the same label are views of one text. Both
measures are used by "Layer by Layer" (Skean et al. 2025, arXiv 2502.02013), whose public code (OFSkean/information_flow)
departs from its formulas in places; each function says where numbers here differ from it. All is float64, in nats.

Refused: labels with a single row, fewer than two labels, NaN and infinities.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_positive
from tl_entropy.functional.probabilities import entropy
from tl_entropy.functional.states.geometry import ROUNDING, unit_rows
from tl_entropy.functional.states.rows import checked_rows, spread_floor
from tl_entropy.functional.statistics import group_sums
from tl_entropy.torch_state import steady

_COLDEST = 1e-300


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
    return lidar_scores(x, labels, delta=delta)[0]


def lidar_scores(x: Tensor, labels: Tensor | Sequence[Any], *, delta: float = 1e-4) -> tuple[Tensor, Tensor]:
    """``lidar``, and what each label adds to it, to first order [label]: their mean is 0.

    With u_k the directions of uᵀ Σ_w u = 1 that belong to λ_k and W_c the covariance within label c, λ_k changes with the
    weight of c by (u_k · (μ_c - μ))² - λ_k - λ_k u_kᵀ (W_c - mean W) u_k.
    """
    states, label, count = _views(x, labels)
    added = check_positive("delta", delta)
    means = group_sums(states, label, len(count)) / count[:, None]
    between = (means - means.mean(0)) / math.sqrt(len(count))
    if not between.norm() > max(ROUNDING, spread_floor(x.dtype)) * states.norm() / math.sqrt(len(states)):
        raise InputError(f"x: the means of all {len(count)} labels are equal, so that nothing tells them apart")
    within = (states - means[label]) / (count[label, None] * len(count)).sqrt()
    # With within = R S Vᵀ, Σ_w^{-1/2} is (s² + delta)^{-1/2} along V and delta^{-1/2} beside it. From the factors it is exact
    # where delta is too small to show in the sum of Σ_w.
    r, s, v = torch.linalg.svd(within, full_matrices=False)
    s = s.where(s > max(within.shape) * torch.finfo(torch.float64).eps * s[0], 0.0)  # roundings of 0, beside a tiny delta
    along = between @ v.mT
    beside = between - along @ v
    beside = beside - (beside @ v.mT) @ v  # what rounding left along V would be blown up by a small delta
    root = torch.tensor(added, dtype=torch.float64, device=s.device).sqrt()
    whitened = torch.cat([along / torch.hypot(s, root), beside / root], 1)  # both parts are at right angles
    p, root_of_value, q = torch.linalg.svd(whitened / whitened.abs().max(), full_matrices=False)
    values = root_of_value.square() / root_of_value.square().sum()
    h = entropy(values)
    by_value = -h.exp() * (values.clamp_min(torch.finfo(torch.float64).tiny).log() + h) * values
    # of each value's own size: that of c's mean, and of its rows about it
    of_means = len(count) * p.square()
    of_rows = len(count) * group_sums((r * (s / torch.hypot(s, root)) @ q[:, : len(s)].mT).square(), label, len(count))
    return h.exp(), (of_means - 1 - (of_rows - of_rows.mean(0))) @ by_value


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
