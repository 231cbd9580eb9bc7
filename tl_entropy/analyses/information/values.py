"""What the sums behind ``soft_information`` say at one site: every value, for each head, label set and draw of anchors.

The estimates are those of ``functional/information/estimates.py``; here they get the axes of a ``SoftInformation``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_entropy.functional.information.anchors import Sample, SampledRows
from tl_entropy.functional.information.blocks import Blocks, Estimates
from tl_entropy.functional.information.chance import chance_curves
from tl_entropy.functional.information.cross_fitting import SoftSums, Whole
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
        sample_label: [sampled] label of each position in the sample; -1 seen once, -2 none.
        classes: number of different labels in the plan.
    """

    table: LabelTable
    count: Tensor
    sample_label: Tensor
    classes: int


def site_values(
    masses: Sequence[Iterable[Tensor]], samples: Sequence[Tensor], counted: Sequence[Counted], *, folds: int, whole: bool,
    keep_labels: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Every field of a ``SoftInformation`` that has a place axis, for one site or some of its heads, heads along that axis.

    Args:
        masses: [draw][label set] tensors [row, head, bin + 1].
        samples: [draw] tensors [sampled, head, bin].
        counted: [label set].
        folds: number of folds.
        whole: whether the sample has every position.
        keep_labels: give the values of single labels, too.
    """
    found = []
    for tables, sample in zip(masses, samples, strict=True):
        drawn, of_draw = SampledRows(sample), []
        curves = chance_curves(sample, whole=whole, p_log_p=drawn.p_log_p)
        for mass, one in zip(tables, counted, strict=True):
            sums = SoftSums(mass[..., :-1], mass[..., -1], one.count, one.table.row_class, one.table.row_fold)
            blocks = Blocks(Whole.of(sums, folds), curves, Sample(drawn, one.sample_label), keep_labels=keep_labels)
            blocks.add(sums, alone=True)
            of_draw.append(blocks)
        found.append(of_draw)
    return values_of(found, counted)


def values_of(
    found: Sequence[Sequence[Blocks]], counted: Sequence[Counted], classes: Sequence[Tensor | None] | None = None
) -> dict[str, Tensor]:
    """The same, from the estimates of [draw][label set] with all labels in, whose classes are these where they are not all."""
    classes = [None] * len(counted) if classes is None else classes
    most = max(of_draw[0].whole.by_fold.shape[-1] for of_draw in found)
    by_draw = []
    for of_draw in found:
        every = [blocks.estimates() for blocks in of_draw]
        values = {name: torch.stack([_column(e, name, most) for e in every], dim=2) for name in COLUMNS}
        values |= {name: torch.stack([getattr(e, name) for e in every], dim=1) for name in SINGLE}
        if of_draw[0].keep_labels:
            single = [(b.label_estimates(), one.classes, of) for b, one, of in zip(of_draw, counted, classes, strict=True)]
            for name, of in OF_LABELS.items():
                values[name] = torch.cat([_padded(getattr(e, of), e.counts, number, of_e) for e, number, of_e in single]).T
        by_draw.append(values)
    return {name: torch.stack([values[name] for values in by_draw], dim=-1) for name in by_draw[0]}


def _column(found: Estimates, name: str, bins: int) -> Tensor:
    """A column, NaN where the information can't be given, as long as that of the draw with most anchors."""
    column: Tensor = getattr(found, name)
    if name == "information":
        folds = int((found.fold_rows > 0).sum())
        unknown = [bool(reason_for_nan(ceiling, found.rows_inside, folds)) for ceiling in found.ceiling[0].tolist()]
        column = torch.where(torch.tensor(unknown), torch.nan, column)
    missing = 1 + len(found.fold_rows) + bins - len(column)
    return torch.cat([column, column[:1].expand(missing, -1)])  # anchors that are not there contribute nothing


def _padded(values: Tensor, counts: Tensor, number: int, classes: Tensor | None) -> Tensor:
    """Values of the labels of a set [class, head]; those seen once, and not yet, are NaN."""
    whole = torch.full((number, values.shape[1]), torch.nan, dtype=torch.float64)
    there = (counts > 0).nonzero()[:, 0]
    whole[there if classes is None else classes[there]] = values[there]
    return whole
