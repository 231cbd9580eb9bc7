"""Figures of the similarity of layers: what is drawn is what the result holds."""

from __future__ import annotations

import dataclasses
import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawn import flat, ticks
from hand_made import lens, origin, similarities
from matplotlib.collections import QuadMesh

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.cells import ink
from tl_entropy.plots.states.similarity import similarity
from tl_entropy.sites import Site


def mesh_of(axes):
    [mesh] = [artist for artist in axes.get_children() if isinstance(artist, QuadMesh)]
    return mesh


def renyi(n_rows=2, against="output", unit="bits", **changes):
    """Two quantities with a unit."""
    base = similarities(n_rows, n_rows, against=against)
    values = torch.cat([base.values * 3 - 0.5, base.values + 4])
    return dataclasses.replace(
        base, method="matrix_renyi", quantities=("dime", "mutual_information"), units=(unit, unit), values=values, unit=unit,
        **changes,
    )  # fmt: skip


def test_a_matrix_has_deep_layers_up_and_to_the_right():
    result = similarities(3, 2, other="EleutherAI/pythia-$1$")
    axes = similarity(result)
    assert np.array_equal(mesh_of(axes).get_array(), result.value().numpy())
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["embed", "0", "1"], ["embed", "0", "1", "2"])
    assert axes.get_ylim()[0] < axes.get_ylim()[1], "upward"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer of EleutherAI/pythia-$1$", "Layer of tiny")
    bar = axes.figure.axes[-1]
    assert bar.get_ylabel() == "CKA (debiased)"
    axes.figure.draw_without_rendering()


def test_one_model_has_layers_on_both_axes_unless_named():
    axes = similarity(similarities())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer", "Layer")
    axes = similarity(similarities(other="b"), labels=("rows", "columns"))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer of columns", "Layer of rows")


def test_the_limits_of_cka_are_0_and_1_and_what_lies_outside_is_told():
    for values, extend in (
        (torch.tensor([[0.2, 0.9], [0.1, 0.3]]), "neither"),
        (torch.tensor([[-0.2, 0.9], [0.1, 0.3]]), "min"),
        (torch.tensor([[0.2, 1.1], [0.1, 0.3]]), "max"),
        (torch.tensor([[-0.2, 1.1], [0.1, math.nan]]), "both"),
    ):
        axes = similarity(similarities(1, 1, values=values))
        assert mesh_of(axes).get_clim() == (0, 1)
        assert mesh_of(axes).colorbar.extend == extend
        written = {text.get_text() for text in axes.texts}
        assert written == {"" if math.isnan(value) else f"{value:.2f}" for value in values.flatten().tolist()}


@pytest.mark.long
def test_values_stand_in_few_cells_in_legible_ink():
    result = similarities(3, 3)
    axes = similarity(result)
    assert [text.get_text() for text in axes.texts] == [f"{value:.2f}" for value in result.value().flatten().tolist()]
    colours = mesh_of(axes).to_rgba(result.value().numpy()).reshape(-1, 4)
    assert [text.get_color() for text in axes.texts] == [ink(colour) for colour in colours]
    assert not similarity(similarities(8, 3)).texts
    assert similarity(similarities(8, 3), annotate=True).texts
    assert not similarity(similarities(7, 7), annotate=False).texts


def test_cells_without_a_value_are_left_open():
    values = torch.tensor([[0.2, math.nan], [0.1, 0.3]])
    axes = similarity(similarities(1, 1, values=values))
    assert np.ma.getmaskarray(np.ma.masked_invalid(mesh_of(axes).get_array())).sum() == 1
    assert axes.patch.get_hatch()


@pytest.mark.thinned
@pytest.mark.parametrize(("n_rows", "n_columns"), [(47, 47), (31, 5), (5, 31), (95, 79)])
def test_labels_of_deep_models_stay_apart(n_rows, n_columns):
    axes = similarity(similarities(n_rows, n_columns))
    axes.figure.draw_without_rendering()
    for axis, along in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        ends = [(box.x0, box.x1) if along == "x" else (box.y0, box.y1) for box in boxes]
        assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))
        names = ticks(axis)
        assert names[0] == "embed"
        steps = {int(b) - int(a) for a, b in itertools.pairwise(names[1:])}
        assert len(steps) == 1
        assert all(int(name) % min(steps) == 0 for name in names[1:])


def test_sites_of_several_names_are_spelled_out():
    rows = (Site("resid_mid", 0), Site("resid_post", 0))
    values = torch.rand(1, 2, 2, dtype=torch.float64)
    result = dataclasses.replace(similarities(), rows=rows, columns=rows, values=values)
    assert ticks(similarity(result).yaxis) == ["resid_mid.0", "resid_post.0"]


def test_a_single_column_is_a_course_over_depth():
    result = similarities(3, 3, against="output")
    axes = similarity(result)
    [line] = axes.lines
    assert line.get_xdata().tolist() == [-1, 0, 1, 2]
    assert line.get_ydata().tolist() == result.value()[:, 0].tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Layer", "CKA with output (debiased)")
    assert axes.get_ylim()[0] == 0
    assert axes.get_legend() is None


def test_courses_of_several_models_share_a_figure():
    results = {"deep_$": similarities(5, 5, against="output"), "flat": similarities(2, 2, against="output")}
    axes = similarity(results)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["deep_$", "flat"]
    assert {(line.get_linestyle(), line.get_marker()) for line in axes.lines} == {("-", "o"), ("--", "s")}
    assert axes.get_ylabel() == "CKA with output (debiased)"
    by_label = similarity(list(results.values()), labels=["a", "b"])
    assert [text.get_text() for text in by_label.get_legend().get_texts()] == ["a", "b"]
    axes.figure.draw_without_rendering()


def test_estimates_that_differ_are_told_apart():
    biased = dataclasses.replace(similarities(2, 2, against="output"), provenance=origin("tiny", debiased=False))
    axes = similarity({"a": biased, "b": similarities(2, 2, against="output")})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "a, CKA with output (biased)", "b, CKA with output (debiased)",
    ]  # fmt: skip
    assert axes.get_ylabel() == "Similarity"


def test_negative_values_are_drawn_below_a_line_at_0():
    axes = similarity(similarities(1, 1, against="output", values=torch.tensor([[-0.3], [1.0]])))
    assert axes.get_ylim()[0] < -0.3
    assert [line.get_ydata() for line in axes.lines if list(line.get_ydata()) == [0, 0]]


def test_another_quantity_has_its_own_name_unit_and_limits():
    axes = similarity(renyi())
    assert axes.get_ylabel() == "DiME with output (bits)"
    result = renyi(against="all")
    axes = similarity(result, quantity="mutual_information")
    assert axes.figure.axes[-1].get_ylabel() == "Mutual information (bits)"
    assert np.array_equal(mesh_of(axes).get_array(), result.value("mutual_information").numpy())
    assert mesh_of(axes).get_clim() == (0, float(result.value("mutual_information").max()))
    against = dataclasses.replace(renyi(), against="resid_post.1")
    assert similarity(against).get_ylabel() == "DiME with resid_post.1 (bits)"


def test_the_order_is_part_of_the_name():
    second = renyi(provenance=origin("tiny", order=2.0))
    assert similarity(second).get_ylabel() == "DiME of order 2 with output (bits)"
    matrix = renyi(against="all", provenance=origin("tiny", order=math.inf))
    bar = similarity(matrix, quantity="mutual_information").figure.axes[-1]
    assert flat(bar.get_ylabel()) == "Mutual information of order ∞ (bits)"
    assert similarity({"a": second, "b": dataclasses.replace(second)}).get_ylabel() == "DiME of order 2 with output (bits)"


def test_given_axes_are_drawn_on():
    figure, (left, right) = plt.subplots(1, 2)
    assert similarity(similarities(), ax=left) is left
    assert similarity(similarities(against="output"), ax=right) is right
    assert figure.axes[:2] == [left, right]


NAN = torch.full((3, 3), math.nan)


@pytest.mark.parametrize(
    ("results", "options", "match"),
    [
        ([], {}, "results is empty"),
        ({"a": similarities(), "b": similarities()}, {}, "shows one matrix"),
        ({"a": similarities(), "b": similarities(against="output")}, {}, "shows one matrix"),
        ([similarities(against="output"), similarities(against="output")], {}, "2 different names"),
        (similarities(), {"quantity": "hsic"}, "quantity: hsic not in this result; it has cka"),
        (similarities(), {"labels": ["a"]}, "2 names, of its rows and of its columns"),
        (similarities(), {"labels": "ab"}, "2 names, of its rows and of its columns"),
        (similarities(against="output"), {"labels": ["a", "b"]}, "1 different name"),
        (similarities(), {"ylim": (0, 1)}, "ylim is of lines along depth"),
        (similarities(against="output"), {"vmax": 1.0}, "vmin and vmax are of a matrix"),
        (similarities(against="output"), {"annotate": True}, "annotate writes into the cells of a matrix"),
        (similarities(2, 2, values=NAN), {}, "has no value to draw"),
        ({"a": renyi(), "b": renyi(unit="nats")}, {}, "different units"),
        ({"a": renyi(), "b": renyi(count=15)}, {}, r"samples of different sizes \(14, 15\)"),
        ({f"{a}": renyi(provenance=origin("tiny", order=a)) for a in (1.01, 2.0)}, {}, "different orders"),
    ],
)
def test_refusals(results, options, match):
    with pytest.raises(InputError, match=match):
        similarity(results, **options)


def test_another_kind_of_result_is_refused():
    with pytest.raises(InputTypeError, match="results of layer_similarity; got LensEntropy"):
        similarity(lens())


def test_errors_are_a_band_that_can_be_left_out():
    errors = torch.full((1, 4, 1), 0.1, dtype=torch.float64)
    result = similarities(3, 3, against="output", errors=errors)
    band = similarity(result).collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(result.value().max().item() + 1.96 * 0.1, abs=1e-3)
    assert not similarity(result, band=False).collections
