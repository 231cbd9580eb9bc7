"""The figure of a monitored training: what is drawn, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hand_made import origin, stream
from matplotlib.colors import to_rgba

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.models.monitor import MOST_NAMED, monitor
from tl_entropy.results.models.monitor import EntropyHistory
from tl_entropy.sites import Site


def history(n_layers=3, steps=(0, 1, 10, 100), sites=None):
    sites = sites or stream(n_layers)
    draw = torch.Generator().manual_seed(n_layers)
    entropy = 3 + torch.rand(len(steps), len(sites), generator=draw, dtype=torch.float64)
    loss = entropy[:, -1] + 0.5
    return EntropyHistory(
        steps=torch.tensor(steps), entropy=entropy, entropy_se=0.1 * entropy, loss=loss, loss_se=0.05 * loss, sites=sites,
        tokens=9, loss_tokens=8, documents=4, provenance=origin("tiny"),
    )  # fmt: skip


MIXED = (Site("embed", -1), *(Site(name, i) for i in range(2) for name in ("resid_mid", "resid_post")))


def names(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_each_line_is_a_site_and_the_last_two_output_and_loss():
    found = history()
    axes = monitor(found)
    assert names(axes) == ["embed", "resid_post.0", "resid_post.1", "output", "loss"]
    for line, value in zip(axes.lines, [*found.entropy.T, found.loss], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 10, 100])
        np.testing.assert_array_equal(line.get_ydata(), value.numpy())
    *layers, output, loss = axes.lines
    assert to_rgba(output.get_color()) == to_rgba(loss.get_color()) == (0, 0, 0, 1)
    assert (output.get_linestyle(), loss.get_linestyle()) == ("-", "--")
    assert output.get_linewidth() > max(line.get_linewidth() for line in [*layers, loss])
    lightness = [np.dot(to_rgba(line.get_color())[:3], (0.3, 0.59, 0.11)) for line in layers]
    assert lightness == sorted(lightness)
    assert lightness[0] < lightness[-1]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("Training step", "Entropy, loss (nats)", "linear")
    assert axes.get_ylim()[0] == 0


def test_bands_are_errors_and_missing_where_there_are_none():
    found = history()
    axes = monitor(found)
    assert len(axes.collections) == 5
    for band, value, se in zip(
        axes.collections, [*found.entropy.T, found.loss], [*found.entropy_se.T, found.loss_se], strict=True
    ):
        heights = band.get_paths()[0].vertices[:, 1]
        assert np.isclose(heights.max(), (value + 1.96 * se).max())
        assert np.isclose(heights.min(), (value - 1.96 * se).min())
    missing = {name: torch.full_like(getattr(found, name), math.nan) for name in ("entropy_se", "loss_se")}
    assert not monitor(dataclasses.replace(found, **missing)).collections


def test_the_band_of_the_loss_is_not_taken_for_that_of_the_output():
    *_, output, loss = monitor(history()).collections
    assert output.get_hatch() is None
    assert output.get_facecolor()[0, 3] == pytest.approx(0.2)
    assert loss.get_hatch()
    assert len(loss.get_facecolor()) == 0
    assert to_rgba(loss.get_edgecolor()[0])[3] == 1


def test_a_loss_that_no_step_has_is_not_there():
    found = history()
    none = {name: torch.full_like(getattr(found, name), math.nan) for name in ("loss", "loss_se")}
    axes = monitor(dataclasses.replace(found, **none))
    assert names(axes) == ["embed", "resid_post.0", "resid_post.1", "output"]
    assert axes.get_ylabel() == "Entropy (nats)"
    assert len(axes.lines) == len(axes.collections) == 4
    some = found.loss.clone()
    some[:2] = math.nan
    axes = monitor(dataclasses.replace(found, loss=some))
    assert names(axes)[-1] == "loss"
    assert axes.get_ylabel() == "Entropy, loss (nats)"


def test_no_band_takes_the_place_of_a_loss_without_errors():
    found = history()
    axes = monitor(dataclasses.replace(found, loss_se=torch.full_like(found.loss_se, math.nan)))
    assert [band.get_hatch() for band in axes.collections] == [None] * 4


def test_options():
    found = history().to("bits")
    axes = plt.figure().subplots()
    assert monitor(found, sites="embed", loss=False, log=True, ax=axes) is axes
    assert names(axes) == ["embed"]
    assert (axes.get_ylabel(), axes.get_xscale()) == ("Entropy (bits)", "symlog")
    assert names(monitor(found, sites="resid_post", loss=False)) == ["resid_post.0", "resid_post.1", "output"]


def test_kinds_of_sites_differ_in_their_dash():
    axes = monitor(history(sites=MIXED))
    assert names(axes) == ["embed", "resid_mid.0", "resid_post.0", "resid_mid.1", "output", "loss"]
    embed, mid, post, later, *_ = (line.get_linestyle() for line in axes.lines)
    assert embed == post != mid == later
    assert "--" not in (mid, post)


def test_two_trainings_in_one_figure():
    one, other = history(), history(steps=(0, 5, 50))
    axes = monitor({"first": one, "second": other})
    assert names(axes) == ["embed", "resid_post.0", "resid_post.1", "output", "loss", "first", "second"]
    assert len(axes.lines) == 10
    mine, theirs = axes.lines[:5], axes.lines[5:]
    for line, value in zip(theirs, [*other.entropy.T, other.loss], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [0, 5, 50])
        np.testing.assert_array_equal(line.get_ydata(), value.numpy())
    assert len({line.get_linestyle() for line in mine}) == len({line.get_linestyle() for line in theirs}) == 1
    assert mine[0].get_linestyle() != theirs[0].get_linestyle()
    for a, b in zip(mine, theirs, strict=True):
        assert to_rgba(a.get_color()) == to_rgba(b.get_color())
    assert names(monitor({"first": one, "second": other}, sites="embed", loss=False)) == ["embed", "first", "second"]


def test_of_many_layers_some_are_named():
    axes = monitor(history(n_layers=24))
    shown = names(axes)
    assert len(axes.lines) == 26
    assert len(shown) == MOST_NAMED + 2
    assert (shown[0], shown[-3:]) == ("embed", ["resid_post.22", "output", "loss"])
    marked = [line for line in axes.lines if line.get_marker() not in ("", "None")]
    assert [line.get_label() for line in marked] == shown[:-2]


@pytest.mark.parametrize("n_layers", [3, 24])
def test_the_legend_is_above_the_lines_and_inside_the_figure(n_layers):
    axes = monitor(history(n_layers))
    figure = axes.figure
    figure.canvas.draw()
    legend, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.y0 >= frame.y1 - 1
    assert legend.x0 >= figure.bbox.x0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("made", "options", "error", "message"),
    [
        (history(steps=(3,)), {}, InputError, "two steps or more; got 1"),
        (history(), {"sites": "attn_out"}, InputError, r"sites: .* not in this result; it has "),
        ([1], {}, InputTypeError, "history must be that of an EntropyMonitor; got list"),
        ({"a": 1}, {}, InputTypeError, r"history\['a'\] must be that of an EntropyMonitor; got int"),
        ({}, {}, InputError, "history is empty"),
        ({"a": history(), "b": history(4)}, {}, InputError, "several must have the same sites and unit"),
        ({"a": history(), "b": history().to("bits")}, {}, InputError, "several must have the same sites and unit"),
        (
            {"a": history(sites=MIXED), "b": history(sites=MIXED)},
            {},
            InputError,
            "a dash is a history here; choose one kind of",
        ),
    ],
)
def test_what_it_refuses(made, options, error, message):
    with pytest.raises(error, match=message):
        monitor(made, **options)
