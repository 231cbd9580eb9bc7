"""Every figure at every size: all text lies inside the figure, no two labels of an axis touch, no mark is cut."""

from __future__ import annotations

import inspect
import itertools
import re

import gallery
import matplotlib.pyplot as plt
import numpy as np
import pytest
from gallery import FIGURES
from matplotlib.text import Text

from tl_entropy import plots
from tl_entropy.plots import style
from tl_entropy.plots.profiles import dynamics
from tl_entropy.plots.style import sized as style_sized
from tl_entropy.plots.tokens import text as token_text

QUICK = [(2, 5, 1)]
SIZES = [(layers, tokens, results) for layers in (2, 30, 96) for tokens in (5, 500) for results in (1, 10)]
SLACK = 1.0  # pixels


def drawn(name, size):
    found = FIGURES[name](*size)
    figure = (found[0] if isinstance(found, list) else found).figure.figure
    figure.canvas.draw()
    return figure


def seen(text):
    return text.get_visible() and text.get_text().strip() != ""


def texts(figure):
    """Every text that is drawn: ticks outside of an axis's limits are not."""
    hidden = {
        label
        for axes in figure.findobj(match=lambda artist: hasattr(artist, "xaxis"))
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
    }
    shown = {
        label
        for axes in figure.findobj(match=lambda artist: hasattr(artist, "xaxis"))
        if axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis._update_ticks()
        for label in (tick.label1, tick.label2)
    }
    clipped = {text for text in figure.findobj(Text) if text.get_clip_on() and text.get_clip_box() is not None}
    return [text for text in figure.findobj(Text) if seen(text) and text not in (hidden - shown) | clipped]


def outside(figure):
    """Texts that stick out of the figure."""
    box = figure.bbox
    for text in texts(figure):
        extent = text.get_window_extent()
        if extent.x0 < box.x0 - SLACK or extent.y0 < box.y0 - SLACK or extent.x1 > box.x1 + SLACK or extent.y1 > box.y1 + SLACK:
            yield text.get_text(), np.round(extent.extents), np.round(box.extents)


def touching(figure):
    """Neighbouring labels of an axis that lie on each other."""
    for axes in figure.findobj(match=lambda artist: hasattr(artist, "xaxis")):
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            labels = [tick.label1 for tick in axis._update_ticks() if seen(tick.label1)]
            boxes = [label.get_window_extent().shrunk(0.98, 0.9) for label in labels]
            for (one, first), (other, second) in itertools.pairwise(zip(labels, boxes, strict=True)):
                if first.overlaps(second):
                    yield axes.get_title(), one.get_text(), other.get_text()


def cut(figure):
    """Marks of lines less than half of which lies inside of the axes that clip them."""
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_marker() in ("None", "", None) or not line.get_clip_on() or len(line.get_xdata()) < 2:
                continue
            points = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
            points = points[np.isfinite(points).all(1)]
            room = 0.35 * line.get_markersize() * figure.dpi / 72
            low, high = axes.bbox.min - SLACK, axes.bbox.max + SLACK
            inside = ((points >= low) & (points <= high)).all(1)
            whole = ((points - room >= low) & (points + room <= high)).all(1)
            if (inside & ~whole).any():
                yield axes.get_title(), line.get_label(), points[inside & ~whole][:2].round()


def check(name, size):
    figure = drawn(name, size)
    assert list(outside(figure)) == []
    assert list(touching(figure)) == []
    assert list(cut(figure)) == []


@pytest.mark.thinned
@pytest.mark.parametrize("size", QUICK, ids=str)
@pytest.mark.parametrize("name", FIGURES)
def test_texts_fit(name, size):
    check(name, size)


@pytest.fixture
def narrow(monkeypatch):
    """Figures are as wide as a column where nothing else is asked for."""
    for module in (style, dynamics, token_text):
        monkeypatch.setattr(module, "sized", lambda ax, size, width: style_sized(ax, size, width if width or ax else "column"))


@pytest.mark.thinned
@pytest.mark.parametrize("name", [name for name in FIGURES if name != "comparison"])
def test_texts_fit_the_column(name, narrow):
    check(name, (6, 12, 3))


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", FIGURES)
def test_texts_fit_at_all_sizes(name, size):
    check(name, size)


def test_every_plot_is_here():
    drawn_here = set(re.findall(r"plots\.(\w+)\(", inspect.getsource(gallery)))
    assert {name for name in plots.__all__ if name not in ("TokenPage", "tokens")} <= drawn_here


def test_this_test_can_fail():
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], marker="o", label="cut")
    axes.set(xlim=(0, 1), ylim=(-1, 2), xticks=[0.5, 0.51], xticklabels=["one", "other"])
    figure.text(0.98, 0.5, "outside of it")
    figure.canvas.draw()
    assert [text for text, *_ in outside(figure)] == ["outside of it"]
    assert [pair for _, *pair in touching(figure)] == [["one", "other"]]
    assert [label for _, label, _ in cut(figure)] == ["cut"]
