r"""How well a number tells two classes apart: area under the ROC curve, and the risk at every coverage.

With x of n₁ spans that are True and y of n₀ that are False, the area is A = P(x > y) + P(x = y) / 2 (Bamber 1975; Hanley and
McNeil 1982). Its standard error is DeLong's (1988), with spans of one group together (Obuchowski 1997): each span adds to A

    True:  (P(x > y) over all y, less A) / n₁      False:  (P(x > y) over all x, less A) / n₀

and se² = G/(G-1) · Σ over G groups of the squares of their sums. Risk at coverage c is the share of True among the c·n spans
with the lowest scores; its mean over all coverages is the area under the risk-coverage curve (Geifman and El-Yaniv 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.functional.statistics import group_sums


def ranks(values: Tensor) -> Tensor:
    """Ranks [row, ...] from 1 along the first axis, in float64; equal ones share their mean.

    >>> ranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    columns = values.double().flatten(1) if values.dim() > 1 else values.double()[:, None]
    found = torch.empty_like(columns)
    for i, column in enumerate(columns.unbind(1)):
        _, place, counts = column.unique(return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        found[:, i] = (last - (counts.double() - 1) / 2)[place]
    return found.reshape(values.shape)


def areas(ranked: Tensor, labels: Tensor) -> Tensor:
    """Areas [labelling, feature] under ROC curves, of ranks [row, feature] and labels [labelling, row] bool.

    >>> areas(torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64), torch.tensor([[False, True, True]])).tolist()
    [[1.0]]
    """
    high = labels.double()
    n = high.sum(1, keepdim=True)
    return (high @ ranked - n * (n + 1) / 2) / (n * (labels.shape[1] - n))


def area_errors(values: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Standard errors [feature] of the areas of ``values`` [row, feature] for labels [row] bool, over groups [row] from 0.

    NaN for fewer than two groups.
    """
    number = int(groups.max()) + 1
    if number < 2:
        return torch.full((values.shape[1],), torch.nan, dtype=torch.float64)
    high, low = int(labels.sum()), int((~labels).sum())
    whole, parts = ranks(values), torch.zeros(values.shape, dtype=torch.float64)
    above = (whole[labels] - ranks(values[labels])) / low  # of each that is True, the share of the others below it
    below = 1 - (whole[~labels] - ranks(values[~labels])) / high
    parts[labels], parts[~labels] = (above - above.mean(0)) / high, (below - below.mean(0)) / low
    sums = group_sums(parts, groups, number)
    return (sums.square().sum(0) * number / (number - 1)).sqrt()


def risks(scores: Tensor, labels: Tensor) -> Tensor:
    """Risk [row, feature] at the coverages 1/n, 2/n, ..., 1 of scores [row, feature]; equal scores share their mean risk.

    >>> risks(torch.tensor([[0.1], [0.2], [0.9]]), torch.tensor([False, False, True]))[:, 0].tolist()
    [0.0, 0.0, 0.3333333333333333]
    """
    found = torch.empty(scores.shape, dtype=torch.float64)
    for i, column in enumerate(scores.unbind(1)):
        order = column.argsort(stable=True)
        _, place = column[order].unique_consecutive(return_inverse=True)
        share = group_sums(labels[order].double(), place, int(place.max()) + 1) / torch.bincount(place)
        found[:, i] = share[place].cumsum(0)
    return found / torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]
