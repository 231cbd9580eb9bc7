"""The figure of a whole comparison: every panel is of the comparison's own parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hand_made import compared, lens
from matplotlib.collections import PolyCollection, QuadMesh

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.models.comparison import comparison

DEEP = (("EleutherAI/pythia-1.4b-deduped", 24), ("gpt2-medium", 12), ("gpt2", 6))


@pytest.fixture(scope="module")
def result():
    return compared()


@pytest.fixture(scope="module")
def panels(result):
    return comparison(result)


def meshes(axes):
    return [artist for artist in axes.get_children() if isinstance(artist, QuadMesh)]


@pytest.mark.long
def test_panels_of_two_models(result, panels):
    assert [axes.get_title() for axes in panels] == [
        "Entropy (nats)", "Fisher-Rao distance to previous (rad)", "Fisher-Rao distance to output (rad)", "",
        "Similarity of layers over tokens", "Entropy against velocity",
    ]  # fmt: skip
    assert comparison(result.to("bits"))[0].get_title() == "Entropy (bits)"
    assert len({axes.figure for axes in panels}) == 1


def test_courses_are_the_dynamics_against_relative_depth(result, panels):
    for axes, quantity in zip(panels, ("entropy", "fisher_rao_velocity", "fisher_rao_to_output"), strict=False):
        assert axes.get_xlabel() == "Relative depth"
        assert len(axes.lines) == 2
        bands = [band for band in axes.collections if isinstance(band, PolyCollection)]
        for line, band, dynamics in zip(axes.lines, bands, result.dynamics.values(), strict=True):
            value, error = dynamics.value(quantity).numpy(), dynamics.error(quantity).numpy()
            assert np.array_equal(line.get_ydata(), value, equal_nan=True)
            assert line.get_xdata().tolist() == np.linspace(0, 1, len(value)).tolist()
            lower, upper = ((value + sign * 1.96 * error)[np.isfinite(value)] for sign in (-1, 1))
            corners = band.get_paths()[0].vertices[:, 1]
            assert (corners.min(), corners.max()) == pytest.approx((lower.min(), upper.max()))
        assert -0.05 * axes.get_ylim()[1] < axes.get_ylim()[0] <= 0


def test_the_measure_drawn_is_the_first_where_fisher_rao_is_not_there(result):
    def without(dynamics):
        keep = [i for i, name in enumerate(dynamics.quantities) if not name.startswith("fisher_rao")]
        tensors = {name: getattr(dynamics, name)[keep] for name in ("values", "errors", "chance")}
        names = {name: tuple(getattr(dynamics, name)[i] for i in keep) for name in ("quantities", "families", "units")}
        return dataclasses.replace(dynamics, **tensors, **names)

    narrowed = dataclasses.replace(result, dynamics={name: without(part) for name, part in result.dynamics.items()})
    titles = [axes.get_title() for axes in comparison(narrowed)]
    assert titles[1:3] == ["JSD to previous (nats)", "JSD to output (nats)"]


def test_models_have_one_style_everywhere_and_one_legend(result, panels):
    figure = panels[0].figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(result.names)
    assert not any(axes.get_legend() for axes in panels)
    for i in range(2):
        styles = {(axes.lines[i].get_linestyle(), axes.lines[i].get_marker()) for axes in panels[:3]}
        [handle] = figure.legends[0].get_lines()[i : i + 1]
        assert styles == {(handle.get_linestyle(), handle.get_marker())}


def test_matrices_are_those_of_the_result(result, panels):
    *_, distances, across, _ = panels
    assert sorted(meshes(distances)[0].get_array().flatten()) == pytest.approx(
        sorted(result.distances.distances.flatten().tolist())
    )
    assert sorted(label.get_text() for label in distances.get_yticklabels()) == ["EleutherAI/pythia 70m", "tiny"]
    assert not distances.get_xticklabels(), "the same names as along the other axis"
    found = result.across["tiny", "EleutherAI/pythia 70m"]
    assert np.array_equal(meshes(across)[0].get_array(), found.value().numpy())
    assert (across.get_xlabel(), across.get_ylabel()) == ("Layer of EleutherAI/pythia 70m", "Layer of tiny")


@pytest.mark.long
def test_one_model_shows_its_own_layers_and_no_distances():
    panels = comparison(compared((("only", 4),), notes=()))
    assert [axes.get_title() for axes in panels[3:]] == ["Similarity of layers over tokens", "Entropy against velocity"]
    assert not panels[0].figure.legends
    assert len(comparison(compared((("only", 4),), similarity=False))) == 4


@pytest.mark.long
def test_the_first_pairs_of_several_models_are_shown():
    panels = comparison(compared((("a", 2), ("b", 2), ("c", 2), ("d", 2))))
    shown = [(axes.get_ylabel(), axes.get_xlabel()) for axes in panels if axes.get_title().startswith("Similarity")]
    names = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c")]
    assert shown == [(f"Layer of {one}", f"Layer of {other}") for one, other in names]
    assert len(panels) == 9


@pytest.mark.long
def test_nothing_is_cut_off_nor_written_over_its_neighbour():
    panels = comparison(compared(DEEP))
    figure = panels[0].figure
    figure.draw_without_rendering()
    whole = figure.get_window_extent()
    boxes = [axes.get_tightbbox() for axes in panels]
    for box in boxes:
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1
        assert whole.y0 <= box.y0
        assert box.y1 <= whole.y1
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    labels = [axes.get_ylabel() for axes in panels if axes.get_title().startswith("Similarity")]
    assert labels[0] == "Layer of pythia-1.4b-deduped"


@pytest.mark.long
def test_the_size_can_be_given_and_names_are_plain_text():
    found = compared((("a$x$", 2), ("b_{2}" + "y" * 40, 3)))
    for odd, error in (("x", InputTypeError), (True, InputTypeError), ((3,), InputError), ((0, 3), InputError)):
        with pytest.raises(error, match="figsize"):
            comparison(found, figsize=odd)
    panels = comparison(found, figsize=(10, 5))
    figure = panels[0].figure
    assert figure.get_size_inches().tolist() == [10, 5]
    figure.draw_without_rendering()
    assert figure.legends[0].get_texts()[0].get_text() == "a$x$"
    assert panels[4].get_xlabel() == "Layer of b_{2}yyyyyy…" + "y" * 11


def test_anything_else_is_refused():
    with pytest.raises(InputTypeError, match="what compare_models returned; got LensEntropy"):
        comparison(lens())
