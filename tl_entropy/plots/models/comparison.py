"""A comparison of models in one figure: what their layers do against relative depth, and how far the models are apart.

Relative depth is 0 at the first site measured and 1 at the last, so that models of different depth share an axis; no value is
interpolated. The figure only reads what ``compare_models`` returned; each of its parts can be drawn alone, by ``velocity``,
``importance``, ``distances`` and ``similarity``.

Refused: anything else than a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tl_entropy.errors import InputError, InputTypeError, check_number, listed
from tl_entropy.plots.depth import draw_course
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import short_entry
from tl_entropy.plots.lens.predictions import divergence_name
from tl_entropy.plots.naming import short_name
from tl_entropy.plots.profiles.distances import distances
from tl_entropy.plots.profiles.dynamics import velocity
from tl_entropy.plots.states.similarity import similarity
from tl_entropy.plots.style import NEW_FIGURE, from_zero, line_styles, quantity, set_title
from tl_entropy.results.models.comparison import ModelComparison
from tl_entropy.results.profiles.distances import PairwiseDistances
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.torch_state import steady

ACROSS = 3  # panels
MOST_MATRICES = 4  # similarities of pairs of models
MOST_WITH_BARS = 2  # models whose points have error bars


@steady
def comparison(result: ModelComparison, *, figsize: tuple[float, float] | None = None) -> list[Axes]:
    r"""Everything of a comparison, in panels of one figure.

    The first three are against relative depth, a line for each model: entropy; the step from the site before, and the
    distance to the output, both by Fisher-Rao or else the first metric that was measured. Bands are ±1.96 standard errors over
    documents. Then come the distances between the models' profiles, the similarity of layers of the first four pairs of models
    (of a single model, of its own layers), and last entropy against velocity.

    Args:
        result: what ``compare_models`` returned.
        figsize: width and height in inches; None gives each panel 4.2 by 3.2.

    Returns:
        The axes of the panels; those of colour bars are behind them in their figure.

    Raises:
        InputTypeError: something else than a ``ModelComparison``, or a size that is no two numbers.
        InputError: a size that no figure can have.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.models.comparison import compare_models
    >>> from tl_entropy.plots.models.comparison import comparison
    >>> found = compare_models({"a": tle.demo_model()}, "import os\n", similarity=None, progress=False)
    >>> [axes.get_title() for axes in comparison(found)][1:]
    ['Fisher-Rao distance to previous (rad)', 'Fisher-Rao distance to output (rad)', 'Entropy against velocity']
    """
    if not isinstance(result, ModelComparison):
        raise InputTypeError(f"result must be what compare_models returned; got {kind_of(result)}")
    first = next(iter(result.dynamics.values()))
    step, family = first.main_velocity()
    metric = step.removesuffix("_velocity")
    order = 1.0 if first.order is None else first.order
    panels: list[Callable[..., Any]] = [
        partial(_course, result, "entropy", "curve", quantity([order], result.unit)),
        partial(_course, result, step, family, divergence_name(metric, result.unit, "previous")),
        partial(_course, result, f"{metric}_to_output", family, divergence_name(metric, result.unit, "output")),
    ]
    if result.distances is not None:
        panels.append(partial(_distances, result.distances))
    for pair, found in list(result.across.items())[:MOST_MATRICES]:
        panels.append(partial(_matrix, found, pair))
    if len(result.names) == 1:
        panels += [partial(_matrix, found, (name,)) for name, found in result.similarity.items()]
    # Last, since the names of its points are put where there is room, which is settled when all else is there.
    panels.append(partial(_plane, result))
    down = math.ceil(len(panels) / ACROSS)
    figure = plt.figure(figsize=_checked_size(figsize) or (4.2 * ACROSS, 3.2 * down), layout="constrained")
    with mpl.rc_context(NEW_FIGURE):
        grid = list(np.atleast_1d(figure.subplots(down, ACROSS)).flat)
        for unused in grid[len(panels) :]:
            unused.remove()
        if len(result.names) > 1:
            styles = [style for style, _ in line_styles([(name,) for name in result.names])]
            lines = [Line2D([], [], **style, markersize=4.5, linewidth=1.5) for style in styles]
            names = [short_entry(name) for name in result.names]
            across = max(1, int(12 * figure.get_figwidth() / (max(map(len, names)) + 8)))  # entries, at 12 letters an inch
            outside = {"loc": "outside upper center", "ncols": math.ceil(len(lines) / math.ceil(len(lines) / across))}
            for text in figure.legend(lines, names, frameon=False, handlelength=3, **outside).get_texts():
                text.set_parse_math(False)
        for draw, axes in zip(panels, grid, strict=False):
            draw(ax=axes)
    return grid[: len(panels)]


def _checked_size(figsize: Any) -> tuple[float, float] | None:
    if figsize is None:
        return None
    sides = [check_number("figsize", side, 1, 100) for side in listed("figsize", figsize, "numbers")]
    if len(sides) != 2:
        raise InputError(f"figsize must be a width and a height in inches; got {figsize!r}")
    return sides[0], sides[1]


def _course(result: ModelComparison, of: str, family: Any, name: str, *, ax: Axes) -> None:
    """One quantity of every model against relative depth."""
    for (model, dynamics), (style, _) in zip(
        result.dynamics.items(), line_styles([(model,) for model in result.names]), strict=True
    ):
        value, error = dynamics.value(of, family).numpy(), dynamics.error(of, family).numpy()
        depth = np.linspace(0, 1, len(value))
        draw_course(ax, depth, value, error, style=style, label=model)
    set_title(ax, name[0].upper() + name[1:])
    ax.set_xlabel("Relative depth")
    from_zero(ax)
    ax.spines[["top", "right"]].set_visible(False)


def _distances(found: PairwiseDistances, *, ax: Axes) -> None:
    """The distances, with names at one side, since the matrix is symmetric."""
    distances(found, ax=ax)
    ax.set_xticks([])


def _matrix(found: LayerSimilarity, models: tuple[str, ...], *, ax: Axes) -> None:
    """Similarity of layers of two models, or of one."""
    similarity(found, labels=[short_name(name) for name in models] if len(models) > 1 else None, annotate=False, ax=ax)
    set_title(ax, f"Similarity of layers over {found.over}")


def _plane(result: ModelComparison, *, ax: Axes) -> None:
    """Entropy against velocity, without a legend, which the figure has."""
    velocity(result.dynamics, errors=len(result.names) <= MOST_WITH_BARS, ax=ax)
    if legend := ax.get_legend():
        legend.remove()
    ax.set_title("Entropy against velocity")
    ax.set_xlabel(ax.get_xlabel().removeprefix("Velocity: "))  # which the title says, and a panel has no room for
