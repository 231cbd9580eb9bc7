"""Parts of results: the axes that fields name, and what stands at places of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

import tl_entropy as tle
from tl_entropy.errors import InputError
from tl_entropy.results.base import _axes, fields_at, places_of


@dataclasses.dataclass
class Table:
    values: Float[Tensor, "row site order"]
    rank: Int[Tensor, "row site"] | None
    row: Int[Tensor, "row"]
    sums: Float[Tensor, "5 site"]
    missing: Float[Tensor, "row"] | None
    sites: tuple[str, ...] = ("a", "b", "c")


def table():
    values = torch.arange(24.0).view(4, 3, 2)
    return Table(values, values[:, :, 0].long(), torch.arange(4), torch.arange(15.0).view(5, 3), None)


def test_each_axis_is_taken_where_a_field_has_it():
    whole = table()
    found = fields_at(whole, row=torch.tensor([True, False, False, True]), site=[2, 0])
    assert list(found) == ["values", "rank", "row", "sums", "missing"]
    assert torch.equal(found["values"], whole.values[[0, 3]][:, [2, 0]])
    assert torch.equal(found["rank"], whole.rank[[0, 3]][:, [2, 0]])
    assert found["row"].tolist() == [0, 3]
    assert torch.equal(found["sums"], whole.sums[:, [2, 0]])
    assert found["missing"] is None


def test_no_places_and_other_axes():
    assert fields_at(table(), row=[])["values"].shape == (0, 3, 2)
    assert torch.equal(fields_at(table(), head=[0])["values"], table().values)


@pytest.mark.parametrize("kind", [tle.LensEntropy, tle.LayerDivergence, tle.HeadEntropy, tle.Contrast, tle.TokenSurprisal])
def test_all_tensors_of_a_result_of_rows_can_be_selected(kind):
    tensors = {field.name for field in dataclasses.fields(kind) if "Tensor" in str(field.type)}
    assert {*_axes(kind)} == tensors
    assert {axes[0] for axes in _axes(kind).values()} == {"row"}


def test_places_are_in_the_order_of_what_is_there():
    assert places_of("orders", None, (1.0, 2.0)) == [0, 1]
    assert places_of("orders", [2, 1], (1.0, 2.0)) == [0, 1]
    with pytest.raises(InputError, match=r"orders: 3 not in this result; it has 1\.0, 2\.0"):
        places_of("orders", 3, (1.0, 2.0))
