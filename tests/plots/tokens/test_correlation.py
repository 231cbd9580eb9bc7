"""The figure of two quantities against each other: what is drawn, what it says, and what is refused."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawn import legend
from matplotlib.collections import PathCollection, PolyCollection

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.tokens.correlation import MOST_POINTS, token_correlation
from tl_entropy.results import Provenance
from tl_entropy.results.tokens.correlation import TokenCorrelation


def made(n=50, **changes):
    draw = torch.Generator().manual_seed(n)
    x = 4 * torch.rand(n, generator=draw, dtype=torch.float64)
    rows = torch.arange(n)
    parts = {
        "x": x, "y": 1 + 0.5 * x + torch.rand(n, generator=draw, dtype=torch.float64),
        "quantities": ("surprisal", "surprisal"), "units": ("nats", "nats"), "slope": 0.51234, "intercept": 1.2345,
        "pearson": 0.9, "spearman": 0.8, "slope_error": 0.0123, "intercept_error": 0.234,
        "pearson_error": 0.05, "left_out": 0, "on": "y", "how": None, "document": rows % 4,
        "position": rows, "token": 0 * rows, "strings": {0: "a"},
        "provenance": Provenance("some_maker/a$b$", "w", "p", "float32", "cpu"),
        "x_provenance": Provenance("a-maker-of-models/model-70m-deduped", "w", "p", "float32", "cpu"),
    }  # fmt: skip
    return TokenCorrelation(**{**parts, **changes})


def test_points_line_and_identity():
    result = made()
    axes = token_correlation(result)
    [points] = [each for each in axes.collections if isinstance(each, PathCollection)]
    np.testing.assert_allclose(points.get_offsets(), np.stack([result.x, result.y], 1))
    line, identity = axes.lines
    np.testing.assert_allclose(line.get_xdata(), [result.x.min(), result.x.max()])
    np.testing.assert_allclose(line.get_ydata(), 1.2345 + 0.51234 * np.array(line.get_xdata()))
    assert (identity.get_slope(), identity.get_xy1()) == (1, (0, 0))
    assert legend(axes) == ["slope 0.512 ± 0.012, R² 0.81\nintercept 1.23 ± 0.23 nats", "y = x"]
    axes.figure.canvas.draw()
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1  # hides no token
    assert len(axes.figure.axes) == 1


def test_different_quantities_have_no_line_of_equal_values():
    axes = token_correlation(made(quantities=("entropy", "surprisal")))
    assert len(axes.lines) == 1
    assert "y = x" not in legend(axes)


def test_labels_name_quantity_model_and_unit():
    axes = token_correlation(made(quantities=("surprisal", "head_entropy")))
    assert axes.get_xlabel() == "Surprisal of model-70m-deduped (nats)"
    assert axes.get_ylabel() == "Head entropy of some_maker/a$b$ (nats)"
    assert not axes.xaxis.label.get_parse_math()
    bits = token_correlation(made().to("bits"))
    assert bits.get_ylabel().endswith("(bits)")
    one = made(quantities=("rank", "surprisal"), units=("", "nats"))
    axes = token_correlation(TokenCorrelation(**{**vars(one), "x_provenance": one.provenance}))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Rank", "Surprisal (nats)")
    several = token_correlation(made(quantities=("kl, head 3.1", "reverse_kl")))
    assert several.get_xlabel().startswith("KL, head 3.1 of")
    assert several.get_ylabel().startswith("Reverse KL of")
    assert legend(axes) == ["slope 0.512 ± 0.012 nats, R² 0.81\nintercept 1.23 ± 0.23 nats"]  # and no y = x


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.00147, 0.00029, "slope 0.00147 ± 0.00029,"),
        (1234.5, 120.0, "slope 1234 ± 120,"),
        (0.51234, float("nan"), "slope 0.512,"),
        (1.0, 0.0, "slope 1,"),
        (1.0, 1e-15, "slope 1,"),
    ],
)
def test_numbers_have_the_digits_that_their_errors_leave(value, error, text):
    [first, *_] = legend(token_correlation(made(slope=value, slope_error=error)))
    assert first.startswith(text)


def test_many_tokens_are_hexagons():
    assert not _hexagons(token_correlation(made(MOST_POINTS)))
    result = made(MOST_POINTS + 1)
    axes = token_correlation(result)
    [cells] = _hexagons(axes)
    assert cells.get_array().sum() == MOST_POINTS + 1
    assert cells.get_array().min() >= 1
    [bar] = [other for other in axes.figure.axes if other is not axes]
    assert bar.get_ylabel() == "Tokens"
    assert not _hexagons(token_correlation(result, kind="scatter"))
    few = token_correlation(made(3), kind="hexbin")  # one token in each
    assert _hexagons(few)[0].get_array().tolist() == [1, 1, 1]
    few.figure.canvas.draw()


def _hexagons(axes):
    return [each for each in axes.collections if isinstance(each, PolyCollection)]


def test_it_draws_on_axes_given():
    axes = plt.figure().subplots()
    assert token_correlation(made(), ax=axes) is axes


def test_what_it_refuses():
    with pytest.raises(InputTypeError, match="result must be one of token_correlation; got dict"):
        token_correlation({})
    with pytest.raises(InputError, match="kind must be one of 'auto', 'scatter', 'hexbin'; got 'kde'"):
        token_correlation(made(), kind="kde")
