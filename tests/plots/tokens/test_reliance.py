"""Figures of reliance: what is drawn is what the result holds."""

from __future__ import annotations

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hand_made import without_rows
from matplotlib.colors import to_rgba

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.tokens.reliance import reliance
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.reliance import TokenReliance

ORIGIN = Provenance("m", "0", "LN", "float32", "cpu")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def result(over="parts", tokens=5, sources=2, first=0, **changed):
    """Two documents of the same tokens; values differ in every cell."""
    names = tuple(map(str, range(sources))) if over == "tokens" else tuple(f"part {i}" for i in range(sources))
    values = torch.arange(2.0 * tokens * sources * 2, dtype=torch.float64).view(2 * tokens, sources, 2) - 3
    position = torch.arange(first, first + tokens).repeat(2)
    if over == "tokens":
        values[torch.arange(sources) >= position[:, None]] = math.nan
    given = {
        "values": values, "sources": names, "metrics": ("kl", "loss"), "units": ("nats", "nats"), "over": over,
        "document": torch.arange(2).repeat_interleave(tokens), "position": position,
        "token": torch.arange(tokens).repeat(2), "span": torch.full((2 * tokens, 2), -1),
        "strings": {i: f" t{i}" for i in range(tokens)}, "provenance": ORIGIN, "names": {1: "$a$.py"},
    }  # fmt: skip
    return TokenReliance(**{**given, **changed})


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_one_source_is_bars():
    one = result(sources=1)
    axes = reliance(one, metric="loss", document=1)
    assert [bar.get_height() for bar in axes.patches] == one.value("loss")[one.document == 1, 0].tolist()
    assert labels(axes.xaxis) == ["␣t0", "␣t1", "␣t2", "␣t3", "␣t4"]
    assert axes.get_ylabel() == "Change of the loss (nats)"
    assert axes.get_title() == "$a$.py without: part 0"
    assert axes.get_xlabel() == "Token predicted"
    assert axes.get_legend() is None
    reliance(one.to("bits"), document=0, ax=axes.figure.subplots())
    assert axes.figure.axes[-1].get_ylabel() == "KL divergence (bits)"


def test_several_sources_are_lines_that_differ():
    several = result(sources=3)
    axes = reliance(several, document=0)
    drawn = [line for line in axes.get_lines() if len(line.get_ydata()) == 5]
    assert len(drawn) == 3
    for i, line in enumerate(drawn):
        np.testing.assert_array_equal(line.get_ydata(), several.value("kl")[:5, i])
    assert len({(to_rgba(line.get_color()), line.get_linestyle()) for line in drawn}) == 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["part 0", "part 1", "part 2"]
    assert axes.get_legend().get_title().get_text() == "Without"
    assert reliance(several, document=1).get_legend().get_title().get_text() == "$a$.py, without"
    with pytest.raises(InputError, match=r"9 sources, and 8 lines can be told apart; choose some with result\.select"):
        reliance(result(sources=9), document=0)


def test_tokens_are_a_map_read_from_the_top():
    over = result("tokens", sources=4)
    axes = reliance(over, metric="kl", document=0)
    mesh, table = axes.collections[0], over.matrix("kl", 0).to_numpy()
    drawn = mesh.get_array().reshape(table.shape)
    np.testing.assert_array_equal(drawn.mask, np.isnan(table))
    np.testing.assert_array_equal(drawn.compressed(), table[~np.isnan(table)])
    assert axes.yaxis_inverted()
    assert labels(axes.yaxis) == ["␣t0", "␣t1", "␣t2", "␣t3"]
    assert labels(axes.xaxis) == ["␣t0", "␣t1", "␣t2", "␣t3", "␣t4"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("Source", "Token predicted")
    assert axes.figure.axes[-1].get_ylabel() == "KL divergence (nats)"
    assert mesh.get_clim()[0] == 0


@pytest.mark.parametrize(("metric", "nearest"), [("kl", 0), ("loss", 0)])
def test_far_from_0_is_dark_and_what_is_blank_is_grey(metric, nearest):
    mesh = reliance(result("tokens", sources=4), metric=metric, document=0).collections[0]
    high = mesh.get_clim()[1]

    def lightness(colour):
        return float(np.asarray(colour[:3]) @ [0.2126, 0.7152, 0.0722])

    low_, middle, high_ = (lightness(mesh.cmap(mesh.norm(value))) for value in (nearest, high / 2, high))
    assert low_ > middle > high_
    mesh.figure.draw_without_rendering()
    drawn = mesh.to_rgba(mesh.get_array()).reshape(-1, 4)
    blank = mesh.get_array().mask.ravel()
    assert 0 < blank.sum() < len(blank)
    np.testing.assert_array_equal(np.unique(drawn[blank], axis=0), [to_rgba("0.88")])
    assert not (drawn[~blank] == to_rgba("0.88")).all(1).any()


def test_a_metric_with_a_sign_has_colours_on_either_side_of_0():
    mesh = reliance(result("tokens", sources=4), metric="loss", document=1).collections[0]
    low, high = mesh.get_clim()
    assert low == -high
    assert mesh.get_cmap().name == "PuOr_r"


def test_where_sources_are_not_among_the_rows_all_have_their_positions():
    axes = reliance(result("tokens", sources=6, first=2), document=0)
    assert labels(axes.yaxis) == ["0", "1", "2", "3", "4", "5"]
    assert axes.get_ylabel() == "Source: position"
    assert labels(axes.xaxis) == ["␣t0", "␣t1", "␣t2", "␣t3", "␣t4"]
    assert axes.get_xlabel() == "Token predicted"
    long = reliance(result("tokens", tokens=90, sources=90, first=2), document=0)
    assert long.get_ylabel() == "Source: position"
    assert labels(long.yaxis) != list(map(str, range(90)))


def test_a_first_token_that_was_not_predicted_is_known_from_the_text():
    span = torch.tensor([[2, 4], [4, 6], [6, 8], [8, 10], [10, 12]]).repeat(2, 1)
    without = result("tokens", sources=4, first=1, span=span, texts={0: "ab t0 t1 t2 t3 t4", 1: "cd t0 t1 t2 t3 t4"})
    axes = reliance(without, document=1)
    assert labels(axes.yaxis) == ["cd", "␣t0", "␣t1", "␣t2"]
    assert axes.get_ylabel() == "Source"
    unknown = reliance(result("tokens", sources=4, first=1), document=1)
    assert labels(unknown.yaxis) == ["0", "1", "2", "3"]


@pytest.mark.thinned
@pytest.mark.parametrize("over", ["parts", "tokens"])
def test_where_tokens_do_not_fit_positions_are_written(over):
    long = result(over, tokens=150, sources=2 if over == "parts" else 149)
    axes = reliance(long, document=0)
    assert axes.get_xlabel() == "Token predicted: position"
    written = [int(label) for label in labels(axes.xaxis)]
    assert written == list(range(0, 150, written[1]))
    middle = 0.5 if over == "tokens" else 0
    np.testing.assert_allclose(axes.get_xticks(), np.array(written) + middle)


@pytest.mark.thinned
@pytest.mark.parametrize(("over", "tokens"), [("parts", 40), ("tokens", 30), ("tokens", 200)])
def test_labels_do_not_overlap_and_can_be_read(over, tokens):
    axes = reliance(result(over, tokens=tokens, sources=2 if over == "parts" else tokens - 1), document=0)
    axes.figure.draw_without_rendering()
    for axis, side in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        found = [label for label in axis.get_ticklabels() if label.get_text()]
        assert all(label.get_fontsize() >= 5.5 for label in found)
        boxes = sorted((label.get_window_extent() for label in found), key=lambda box: getattr(box, f"{side}0"))
        for one, other in itertools.pairwise(boxes):
            assert getattr(one, f"{side}1") <= getattr(other, f"{side}0") + 1


def test_refusals():
    with pytest.raises(InputTypeError, match="result must be what token_reliance or gradient_reliance returned; got dict"):
        reliance({})
    with pytest.raises(InputError, match="document: choose one of the 2 in this result"):
        reliance(result())
    with pytest.raises(InputError, match="document must be one of 0, 1; got 4"):
        reliance(result(), document=4)
    with pytest.raises(InputError, match="metric must be one of 'kl', 'loss'; got 'l1'"):
        reliance(result(), document=0, metric="l1")
    with pytest.raises(InputError, match="holds no token to draw"):
        reliance(without_rows(result()))
    with pytest.raises(InputError, match="no source can change a token predicted here"):
        reliance(result("tokens", tokens=1, sources=1), document=0)
    with pytest.raises(InputError, match="kl has no value in this document"):
        reliance(result(values=torch.full((10, 2, 2), math.nan, dtype=torch.float64)), document=0)


def test_nothing_but_zeros():
    zeros = result("tokens", sources=4)
    zeros = reliance(result("tokens", sources=4, values=zeros.values * 0), document=0)
    assert zeros.collections[0].get_clim() == (0, 1)
    flat = reliance(result(values=torch.zeros(10, 2, 2, dtype=torch.float64)), document=0)
    assert flat.get_ylim()[0] == 0
