"""What all figures share: where axes begin, how wide figures are, where legends stand."""

from __future__ import annotations

import inspect
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from gallery import FIGURES, lens as lens_of, names, reliance, soft
from hand_made import lens

from tl_entropy import plots
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import NEW_FIGURE, PRINTED, WIDTHS, canvas, colour_limits, from_zero, only


def drawn(*values):
    axes = plt.figure().subplots()
    axes.plot(values)
    from_zero(axes)
    return axes.get_ylim()


def test_axes_begin_at_zero_unless_most_would_be_empty():
    assert drawn(3.0, 1.0)[0] == 0
    low, high = drawn(6.0, 7.3)
    assert 5.5 < low < 6
    assert 7.3 < high < 8
    assert drawn(-1.0, 2.0)[0] < -1
    assert -0.1 < drawn(0.0, 2.0)[0] < 0, "a mark at 0 is whole"
    assert drawn(0.0, 0.0)[0] == 0


def test_they_follow_what_is_drawn_later():
    axes = plots.profile(lens_of(3, 5))
    assert axes.get_ylim()[0] > 5
    plots.profile(lens_of(3, 5, high=False), ax=axes)
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 7


def test_limits_are_those_given():
    found = lens_of(3, 5)
    assert plots.profile(found, ylim=(0, 8)).get_ylim() == (0, 8)
    assert plots.profile(found, ylim=(None, 9)).get_ylim()[1] == 9
    assert plots.profile(found, ylim=[-1, None]).get_ylim()[0] == -1
    for wrong, error in (((3, 3), InputError), (3, InputTypeError), ("ab", InputTypeError), ((0, "a"), InputTypeError)):
        with pytest.raises(error, match="ylim"):
            plots.profile(found, ylim=wrong)
    with pytest.raises(InputError, match="ylim must be a finite number"):
        plots.profile(found, ylim=(0, math.nan))


def test_colours_begin_at_zero_unless_most_would_be_unused():
    def limits(axes):
        return axes.collections[0].get_clim()

    high, low = lens_of(3, 5), lens_of(3, 5, high=False)
    shown = high.entropy[high.document == 0]
    assert limits(plots.heatmap(high, document=0)) == (float(shown.min()), float(shown.max()))
    assert limits(plots.heatmap(low, document=0))[0] == 0
    assert limits(plots.heatmap(high, document=0, vmin=0, vmax=10)) == (0, 10)
    with pytest.raises(InputError, match="vmin must be less than vmax; the colours would go from 9 to 8"):
        plots.heatmap(high, document=0, vmin=9, vmax=8)
    assert colour_limits(2.0, 2.0, None, None) == (2.0, 2.0 + 1e-9)
    assert colour_limits(6.0, 7.0, None, 5.0) == (0.0, 5.0)


@pytest.mark.parametrize("width", ["column", "page", 5.5])
def test_widths_by_name_have_text_for_print(width):
    axes = plots.profile(lens_of(3, 5), width=width)
    inches = WIDTHS.get(width, width)
    assert axes.figure.get_figwidth() == inches
    assert axes.figure.get_figheight() == pytest.approx(3.4 * min(1, inches / 4.8))
    assert axes.xaxis.label.get_fontsize() == PRINTED["axes.labelsize"]
    assert plots.profile(lens_of(3, 5)).xaxis.label.get_fontsize() == NEW_FIGURE["axes.labelsize"]


def test_widths_that_are_refused():
    found = lens(n_layers=2)
    with pytest.raises(InputError, match="width is that of a new figure; leave it out for axes that are given"):
        plots.profile(found, width="column", ax=plt.figure().subplots())
    with pytest.raises(InputError, match="width must be one of 'column', 'page'; got 'wide'"):
        plots.profile(found, width="wide")
    with pytest.raises(InputError, match="must be a finite number from 1 to 100"):
        plots.profile(found, width=0.5)


def test_every_figure_has_a_width():
    figures = [getattr(plots, name) for name in plots.__all__ if inspect.isfunction(getattr(plots, name))]
    lacking = [f.__name__ for f in figures if not {"width", "figsize"} & set(inspect.signature(f).parameters)]
    assert lacking == ["tokens"], "which is a page"


def test_a_legend_that_is_small_stands_among_the_lines():
    with canvas(None, (4.8, 3.4)) as axes:
        for name in ("a", "b"):
            axes.plot([0, 1], label=name)
        legend = add_legend(axes, own=True)
    axes.figure.canvas.draw()
    inside, box = axes.get_window_extent(), legend.get_window_extent()
    assert inside.y0 < box.y0 < box.y1 < inside.y1
    assert axes.figure.get_figheight() == 3.4


@pytest.mark.parametrize("entries", [5, 12])
def test_a_large_one_stands_above_in_a_figure_that_grows(entries):
    before = plots.profile(lens_of(3, 5)).get_window_extent().height
    axes = plots.profile({name: lens_of(3, 5, i) for i, name in enumerate(names(entries))})
    axes.figure.canvas.draw()
    inside, box = axes.get_window_extent(), axes.get_legend().get_window_extent()
    assert box.y0 >= inside.y1
    assert box.y1 <= axes.figure.bbox.y1
    assert inside.height > 0.9 * before
    assert any("…" in text.get_text() for text in axes.get_legend().get_texts())


def test_of_given_axes_the_figure_stays():
    figure = plt.figure(figsize=(6, 4), layout="constrained")
    plots.profile({name: lens_of(3, 5, i) for i, name in enumerate(names(8))}, ax=figure.subplots())
    assert figure.get_size_inches().tolist() == [6, 4]


def test_the_band_may_be_the_standard_deviation():
    found = lens_of(3, 5)
    axes = plots.profile(found, band="sd")
    [band] = axes.collections
    corners = band.get_paths()[0].vertices
    mean, sd = found.entropy.double().mean(0)[:, 0], found.entropy.double().std(0, correction=0)[:, 0]
    for depth, low, high in zip((-1, 0, 1, 2), mean - sd, mean + sd, strict=True):
        heights = corners[corners[:, 0] == depth, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [low, high])
    assert torch.equal(found.deviation()[:, 0], sd)


def test_sub_layers_are_marked_on_the_axis():
    axes = plots.profile(lens_of(3, 5, site_names=("embed", "attn_out", "resid_mid", "mlp_out", "resid_post")))
    assert axes.get_xlabel() == "Layer (between: sub-layers)"
    assert axes.get_xticks(minor=True).tolist() == [layer + part for layer in (-1, 0, 1) for part in (0.25, 0.5, 0.75)]
    plain = plots.profile(lens_of(3, 5))
    assert (plain.get_xlabel(), plain.get_xticks(minor=True).tolist()) == ("Layer", [])


def test_steps_of_a_training_are_named_as_such():
    checkpoints = {step: soft(3, i) for i, step in enumerate((0, 1000, 2000))}
    axes = plots.information_plane(checkpoints, input="token", output="next_token", path="results")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["step 0", "step 1000", "step 2000"]


def test_cells_below_zero_carry_a_sign():
    axes = FIGURES["reliance_map"](2, 8, 1)
    mesh = axes.collections[0]
    values = np.ma.filled(mesh.get_array(), np.nan)
    largest = np.nanmax(np.abs(values))
    signs = np.array([text.get_text() for text in axes.texts]).reshape(values.shape)
    assert ((signs == "−") == (values <= -0.1 * largest)).all()
    assert {text.get_rotation() for text in axes.texts} == {0.0}
    narrow = plots.reliance(reliance(20, 1, "tokens"), metric="loss", width="column")
    assert {text.get_rotation() for text in narrow.texts} == {0.0}
    assert not FIGURES["reliance_map"](2, 150, 1).texts, "too small for signs"


def test_a_legend_hides_no_line():
    axes = FIGURES["course"](2, 5, 1)
    axes.figure.canvas.draw()
    place = axes.get_legend().get_window_extent()
    for line in axes.lines:
        assert not line.get_path().transformed(line.get_transform()).intersects_bbox(place, filled=False)


def test_a_legend_hides_no_bar():
    for axes in (FIGURES["features"](2, 5, 2), *(FIGURES["discrimination"](n, 5, 1) for n in (2, 30))):
        axes.figure.canvas.draw()
        place = axes.get_legend().get_window_extent()
        for bars in axes.collections:
            for path in bars.get_paths():
                assert not path.transformed(bars.get_transform()).intersects_bbox(place, filled=False)


def test_what_is_chosen_is_a_number_of_any_kind():
    for asked in (2, torch.tensor(2), np.float64(2), np.array(2)):
        assert only("order", asked, (1.0, 2.0)) == 2
    assert only("order", None, (1.0,)) == 1
    with pytest.raises(InputError, match="order: choose one of the 2"):
        only("order", None, (1.0, 2.0))
