"""Tables by document: the mean of every result by position, against pandas on its long form, and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hand_made import lens, origin, surprisal, without_rows

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results import LensEntropy
from tl_entropy.results.base import Result
from tl_entropy.results.positions import Positions
from tl_entropy.sites import Site

SAVED = Path(__file__).parent / "saved_by_0_5_0"


def read(name):
    return tle.load(SAVED / f"{name}.safetensors")


def long(result):
    frame = result.to_pandas()
    if "site" in frame and "layer" in frame:
        frame["site"] = [str(Site(*place)) for place in zip(frame["site"], frame["layer"], strict=True)]
    return frame


@pytest.mark.parametrize(
    ("name", "levels", "values"),
    [
        ("LensEntropy", ["site", "order"], ["entropy"]),
        ("HeadEntropy", ["layer", "head", "order"], ["entropy"]),
        ("LayerDivergence", ["site"], ["kl", "agreement", "decided"]),
        ("Contrast", ["site"], ["entropy"]),
        ("AlignedValues", [], None),
        ("ConditionalEntropy", [], None),
        ("TokenCorrelation", [], ["x", "y"]),
    ],
)
def test_it_holds_the_means_of_the_long_form(name, levels, values):
    result = read(name)
    table, frame = result.per_document(), long(result)
    values = list(table.columns) if values is None else values
    means = frame.groupby(["document", *levels], observed=True)[values].mean()
    assert len(table) == len(result.documents)
    for where, row in means.iterrows():
        document, *place = where if isinstance(where, tuple) else (where,)
        for value in values:
            column = (*place, value) if "quantity" in table.columns.names else tuple(place)
            found = table.loc[document, column if len(column) > 1 else column[0]]
            assert found == pytest.approx(float(row[value]), rel=1e-6, nan_ok=True), (where, value)


def test_by_hand():
    result = LensEntropy(
        entropy=torch.tensor([[[1.0, 2.0]], [[3.0, math.nan]], [[7.0, math.nan]]]), document=torch.tensor([0, 0, 4]),
        position=torch.tensor([0, 1, 0]), token=torch.zeros(3, dtype=torch.long), sites=(Site("resid_post", 1),),
        orders=(1.0, math.inf), strings={0: "a"}, names={4: "b.py"}, provenance=origin("tiny"),
    )  # fmt: skip
    table = result.per_document()
    assert table.index.name == "document"
    assert list(table.index) == [0, 4]
    assert table.columns.names == ["site", "order"]
    assert table["resid_post.1", 1.0].tolist() == [2.0, 7.0]
    np.testing.assert_equal(table["resid_post.1", math.inf].to_numpy(), [2.0, math.nan])
    assert list(table.rename(index=result.names).index) == [0, "b.py"]
    assert (table.dtypes == "float64").all()


def test_every_result_by_position_has_one():
    kinds = {kind for kind in Result.kinds.values() if issubclass(kind, Positions)}
    assert {kind.__name__ for kind in kinds} >= {"LensEntropy", "LayerDivergence", "HeadEntropy", "Contrast", "TokenReliance"}
    for kind in kinds:
        assert not getattr(kind, "__abstractmethods__", None), kind
    assert isinstance(surprisal(["a", "b"]).per_document(), pd.DataFrame)
    assert read("TokenReliance").per_document().columns.name == "quantity"


def test_units_and_parts_are_those_of_the_result(tmp_path):
    whole = lens(n_layers=2)
    table = whole.to("bits").select(documents=[1, 3]).per_document()
    assert list(table.index) == [1, 3]
    expected = whole.entropy[whole.document == 3].double().mean(0)[:, 0] / math.log(2)
    np.testing.assert_allclose(table.loc[3], expected, rtol=1e-6)
    table.to_csv(tmp_path / "t.csv")
    again = pd.read_csv(tmp_path / "t.csv", header=[0, 1], index_col=0)
    np.testing.assert_allclose(again.to_numpy(), table.to_numpy())
    empty = without_rows(whole).per_document()
    assert empty.shape == (0, 3)


# --- parts by position ---------------------------------------------------------------------------------------------------


def of_rows(document, position):
    """A result of these rows, whose entropies are their numbers."""
    n = len(document)
    return LensEntropy(
        entropy=torch.arange(float(n)).reshape(n, 1, 1), document=torch.tensor(document), position=torch.tensor(position),
        token=torch.zeros(n, dtype=torch.long), sites=(Site("resid_post", 0),), orders=(1.0,), strings={0: "a"}, names={},
        provenance=origin("tiny"),
    )  # fmt: skip


ROWS = of_rows([0, 0, 0, 3, 3, 7], [0, 1, 2, 0, 4, 2])


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        (-1, [2, 4, 5]), (torch.tensor(-1), [2, 4, 5]), ([0, -1], [0, 2, 3, 4, 5]), ((-3, 4), [0, 4]),
        (-5, [3]), (2, [2, 5]), (slice(-2, None), [1, 2, 4, 5]), (None, [0, 1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_negative_positions_are_from_each_documents_end(asked, rows):
    assert ROWS.select(positions=asked).entropy.flatten().tolist() == rows


def test_positions_are_those_of_each_document_after_a_choice_of_documents():
    assert ROWS.select(documents=[0, 7], positions=-1).entropy.flatten().tolist() == [2, 5]
    assert surprisal("the cat", "sat").select(positions=-1).position.tolist() == [len("the cat") - 1, len("sat") - 1]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (-6, InputError, "positions: -6 not in this result; it has 0, 1, 2, 4, -1, -2, -3, -5"),
        ([0, 3], InputError, "positions: 3 not in this result"), ([], InputError, "positions must name at least one position"),
        (True, InputTypeError, "positions must be None, an int"), (slice(5, None), InputError, "leave nothing"),
    ],
)  # fmt: skip
def test_positions_that_are_not_there_are_told(asked, error, message):
    with pytest.raises(error, match=message):
        ROWS.select(positions=asked)
