"""Which positions of a label plan were seen, and how the values of all sites become one ``SoftInformation`` of them.

It is the same however assignments are kept: as sums (``analyses/information/sums.py``) or one by one on the disk
(``analyses/information/assignments.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_entropy.analyses.information.places import BY_HEAD
from tl_entropy.analyses.information.values import Counted, place_axis
from tl_entropy.functional.information.chance import SAMPLE
from tl_entropy.functional.statistics import group_sums
from tl_entropy.labels import LabelPlan, LabelTable
from tl_entropy.results import SoftInformation
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

NAMED = 20
"""Labels in one fold of documents that are named, at most."""


class Measured(NamedTuple):
    """A site, its number of heads (1 for a site without), and the temperature of each draw of anchors there."""

    site: Site
    heads: int
    temperatures: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of a plan, the same at every site.

    Attributes:
        plan: of the labels.
        tables: of the label sets of the plan.
        slots: [slot] bool, the positions that have a label and were seen.
        read: number of positions read.
        dropped: number of positions left out since a state there has no direction.
    """

    plan: LabelPlan
    tables: Sequence[LabelTable]
    slots: Tensor
    read: int
    dropped: int

    @cached_property
    def n_folds(self) -> int:
        """Number of folds of documents."""
        return int(max(table.row_fold.max() for table in self.tables)) + 1

    @cached_property
    def sample(self) -> Tensor:
        """[sampled] the slots of the sample that were seen."""
        drawn = sample_of(self.plan)
        return drawn[self.slots[drawn]]

    @property
    def whole(self) -> bool:
        """Whether the sample has every position."""
        return int((self.plan.ids >= 0).any(0).sum()) <= SAMPLE

    @cached_property
    def counted(self) -> list[Counted]:
        """For each label set what was counted of it, and the labels of the positions in the sample."""
        return [self._counted(label) for label in range(len(self.tables))]

    def _counted(self, label: int) -> Counted:
        table = self.tables[label]
        rows = table.rows[self.slots]
        count = torch.bincount(rows[rows >= 0].long(), minlength=table.n_rows).double()
        repeated = table.row_class[table.row_class >= 0].unique_consecutive()
        row_label = torch.where(table.row_class >= 0, torch.searchsorted(repeated, table.row_class), -1)
        rows = table.rows[self.sample].long()
        labels = torch.where(rows >= 0, row_label[rows.clamp_min(0)], -2)
        return Counted(table, count, repeated, row_label, labels, len(self.plan.sizes(label)))

    def result(
        self, by_site: Sequence[dict[str, Any]], places: Sequence[Measured], draws: Sequence[tuple[int, int]],
        provenance: Provenance, texts: tuple[tuple[str, ...], ...] | None,
    ) -> SoftInformation:  # fmt: skip
        """The result.

        Args:
            by_site: what ``site_values`` found, of some or all heads of a site each.
            places: every site, in that order.
            draws: number of bins and seed of each draw of anchors.
            provenance: of the result.
            texts: those of the labels of each set, where single labels are kept; else None.
        """
        values: dict[str, Any] = {name: torch.cat([v[name] for v in by_site], dim=place_axis(name)) for name in by_site[0]}
        heads = [(p, h if p.site.name in BY_HEAD else -1) for p in places for h in range(p.heads)]
        folds = torch.stack([group_sums(c.count, c.table.row_fold, self.n_folds) for c in self.counted], dim=1)
        held = [_held(c) for c in self.counted]
        sizes = [self._sizes(label, c) for label, c in enumerate(self.counted)]
        tokens = folds.sum(0)
        before = torch.nn.functional.pad(self.slots.cumsum(0), (1, 0))  # positions seen before each slot
        inside = [s[: len(h)][h >= 2].sum() for s, h in zip(sizes, held, strict=True)]
        alone = (self._one_fold(i, *of) for i, of in enumerate(zip(sizes, held, strict=True)))
        return SoftInformation(
            **values, sites=tuple(p.site for p, _ in heads), heads=tuple(h for _, h in heads), labels=self.plan.names,
            sides=self.plan.sides, n_bins=tuple(b for b, _ in draws), seeds=tuple(s for _, s in draws),
            temperatures=torch.tensor([p.temperatures for p, _ in heads], dtype=torch.float64), fold_tokens=folds,
            tokens=tokens.long(), coverage=tokens / self.read, classes=torch.stack([(s > 0).sum() for s in sizes]),
            singletons=torch.stack([(s == 1).sum() / (s > 0).sum() for s in sizes]).double(),
            in_two_folds=torch.stack(inside).double() / tokens, one_fold=tuple(alone) if self.n_folds > 1 else (),
            documents=int(before[self.plan.starts].diff().count_nonzero()), dropped=self.dropped, label_texts=texts or (),
            label_counts=None if texts is None else torch.cat(sizes), provenance=provenance,
        )  # fmt: skip

    def _one_fold(self, label: int, sizes: Tensor, held: Tensor) -> tuple[str, ...]:
        """Names of the labels that are in one fold alone, of a set that is not of n-grams."""
        if self.plan.orders[label]:
            return ()
        alone = ((held == 1) & (sizes[: len(held)] > 1)).nonzero()[:, 0]
        names = self.plan.texts(label, {})
        return tuple(names[i] for i in alone[sizes[alone].argsort(descending=True, stable=True)][:NAMED].tolist())

    def _sizes(self, label: int, counted: Counted) -> Tensor:
        """How often each class of a set was seen [class]; where reading was stopped, of those seen once any will do."""
        table, count, planned = counted.table, counted.count, self.plan.sizes(label)
        repeated = table.row_class >= 0
        sizes = group_sums(count[repeated], table.row_class[repeated], len(planned)).long()
        sizes[(planned == 1).nonzero()[: int(count[~repeated].sum()), 0]] = 1
        return sizes


def sample_of(plan: LabelPlan) -> Tensor:
    """The slots that chance is measured on, drawn from all with a label."""
    used = (plan.ids >= 0).any(0).nonzero()[:, 0]
    return used[torch.randperm(len(used), generator=torch.Generator().manual_seed(0))[:SAMPLE]]


def _held(counted: Counted) -> Tensor:
    """[class] in how many folds each label was seen, of those seen twice or more in the plan."""
    row_class = counted.table.row_class[(counted.table.row_class >= 0) & (counted.count > 0)]
    return torch.bincount(row_class, minlength=int(counted.table.row_class.max()) + 1)
