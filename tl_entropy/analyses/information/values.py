"""What the sums behind ``soft_information`` say at one site: every value, for each head, label set and draw of anchors.

The estimates are those of ``functional/information/estimates.py``; here they get the axes of a ``SoftInformation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tl_entropy.functional.information.anchors import Sample, SampledLabels, SampledRows
from tl_entropy.functional.information.blocks import Blocks, Estimates
from tl_entropy.functional.information.chance import chance_curves
from tl_entropy.functional.information.cross_fitting import Groups, SumsAsAsked
from tl_entropy.functional.information.estimates import reason_for_nan
from tl_entropy.labels.plan import LabelTable

COLUMNS = ("information", "entropy", "plug_in", "null", "ceiling")
SINGLE = ("corrected_ceiling", "lower", "fold_jackknife")
OF_LABELS = {
    "label_information": "plug_in", "label_corrected": "information", "label_se": "se", "label_entropy": "entropy",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Counted:
    """What was counted of one label set, the same at every site.

    Attributes:
        table: which label and fold each row of the sums is of.
        count: [row] positions counted.
        repeated: [label] the classes that are seen twice or more in the plan, which are the labels of the sums, from 0.
        row_label: [row] label of each row of the table; -1 for pooled ones.
        sample_label: [sampled] label of each position in the sample; -1 seen once, -2 none.
        classes: number of classes in the plan.
    """

    table: LabelTable
    count: Tensor
    repeated: Tensor
    row_label: Tensor
    sample_label: Tensor
    classes: int

    @cached_property
    def order(self) -> Tensor:
        """[row] the rows in the order of ``groups``: pairs whose label is in two folds or more, other pairs, the rest."""
        pairs = Groups.of(self.count, self.row_label, self.table.row_fold).pairs
        others = torch.ones_like(self.count, dtype=torch.bool)
        others[pairs] = False
        return torch.cat([pairs, others.nonzero()[:, 0]])

    @cached_property
    def groups(self) -> Groups:
        """What the estimates take from the counts alone, of rows in order."""
        return Groups.of(self.count[self.order], self.row_label[self.order], self.table.row_fold[self.order])

    def sums(self, mass: Callable[[slice], Tensor], bins: int) -> SumsAsAsked:
        """The sums of these rows in order, of which ``mass`` gives those of some heads [row, head, bin + 1]."""
        order = self.order
        return SumsAsAsked(mass, len(order) * bins, self.count[order], self.row_label[order], self.table.row_fold[order])

    @cached_property
    def frequent(self) -> SampledLabels:
        """The labels in the sample that errors over anchors are measured on."""
        return SampledLabels(self.sample_label, self.groups.held >= 2)


def site_values(
    masses: Sequence[Iterable[Callable[[slice], Tensor]]], samples: Sequence[Tensor], counted: Sequence[Counted], *,
    folds: int, whole: bool, keep_labels: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Every field of a ``SoftInformation`` that has a place axis, for one site or some of its heads, heads along that axis.

    Args:
        masses: [draw][label set] for a slice of the heads [row, head, bin + 1], rows in the order of ``counted``.
        samples: [draw] tensors [sampled, head, bin + 1].
        counted: [label set].
        folds: number of folds.
        whole: whether the sample has every position.
        keep_labels: give the values of single labels, too.
    """
    found, largest = [], max(float(one.groups.sizes.max()) if len(one.groups.sizes) else 0.0 for one in counted)
    for tables, sample in zip(masses, samples, strict=True):
        drawn, of_draw = SampledRows(sample[..., :-1]), []
        curves = chance_curves(drawn.rows, whole=whole, entropies=sample[..., -1].T, largest=largest)
        for mass, one in zip(tables, counted, strict=True):
            blocks = Blocks(folds, curves, Sample(drawn, one.sample_label), keep_labels=keep_labels)
            blocks.add(one.sums(mass, sample.shape[-1] - 1), alone=True, groups=one.groups, frequent=one.frequent)
            of_draw.append(blocks)
        found.append(of_draw)
    return values_of(found, counted)


def values_of(found: Sequence[Sequence[Blocks]], counted: Sequence[Counted]) -> dict[str, Tensor]:
    """The same, from the estimates of [draw][label set] with all labels in."""
    by_draw = []
    for of_draw in found:
        every = [blocks.estimates() for blocks in of_draw]
        values = {name: torch.stack([_column(e, name) for e in every], dim=2) for name in COLUMNS}
        values |= {name: torch.stack([getattr(e, name) for e in every], dim=1) for name in SINGLE}
        if of_draw[0].keep_labels:
            single = [(blocks.label_estimates(), one) for blocks, one in zip(of_draw, counted, strict=True)]
            for name, of in OF_LABELS.items():
                values[name] = torch.cat([_padded(getattr(e, of), e.counts, one) for e, one in single]).T
        by_draw.append(values)
    return {name: torch.stack([values[name] for values in by_draw], dim=-1) for name in by_draw[0]}


def apart(values: dict[str, Tensor], heads: Sequence[int]) -> list[dict[str, Tensor]]:
    """What ``site_values`` found of several places as of one, by place; these have so many heads."""
    split = {name: of.split(list(heads), dim=place_axis(name)) for name, of in values.items()}
    return [dict(zip(split, of_place, strict=True)) for of_place in zip(*split.values(), strict=True)]


def place_axis(name: str) -> int:
    """Along which axis a field has places."""
    return 1 if name in COLUMNS else 0


def _column(found: Estimates, name: str) -> Tensor:
    """A column, NaN where the information can't be given."""
    column: Tensor = getattr(found, name)
    if name == "information":
        folds = int((found.fold_rows > 0).sum())
        unknown = [bool(reason_for_nan(ceiling, found.rows_inside, folds)) for ceiling in found.ceiling[0].tolist()]
        column = torch.where(torch.tensor(unknown), torch.nan, column)
    return column


def _padded(values: Tensor, counts: Tensor, counted: Counted) -> Tensor:
    """Values of the labels of a set [class, head]; those seen once, and not yet, are NaN."""
    whole = torch.full((counted.classes, values.shape[1]), torch.nan, dtype=torch.float64)
    there = (counts > 0).nonzero()[:, 0]
    whole[counted.repeated[there]] = values[there]
    return whole
