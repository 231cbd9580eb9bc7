"""Distances between entropy profiles: the matrix in the order of its clusters, and profiles as points of the plane.

A figure only reads a result of ``pairwise_distances`` or ``profile_embedding``; what is computed here is the order of the
profiles, from the clusters that the result gives.

Refused: groups that are not one for each profile.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tl_entropy.errors import InputError, InputTypeError, is_iterable
from tl_entropy.plots.cells import cell_size, write
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.naming import name_points, short_name
from tl_entropy.plots.style import Width, canvas, colour_limits, line_styles
from tl_entropy.results.profiles.distances import FEATURES, Linkage, PairwiseDistances
from tl_entropy.results.profiles.embedding import ProfileEmbedding
from tl_entropy.torch_state import steady

MOST_WRITTEN = 8  # profiles of a matrix whose cells are written into
MOST_NAMED = 40  # profiles whose names stand at the axes
MOST_LABELLED = 12  # points with their names beside them
TREE = 0.2  # height of the dendrogram, in heights of the matrix

TITLES = {
    "jsd": "JSD of token entropies", "wasserstein": "Wasserstein distance", "fisher_rao": "Fisher-Rao distance",
    "srvf": "SRVF distance", "elastic_srvf": "Elastic SRVF distance", "euclidean": "Euclidean distance",
}  # fmt: skip


@steady
def distances(
    result: PairwiseDistances,
    *,
    method: Linkage = "average",
    dendrogram: bool = True,
    annotate: bool | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    """All distances between profiles as colours, with profiles that are near each other side by side.

    The order is that of the leaves of a hierarchical clustering, whose tree stands above the matrix: two clusters are joined at
    the height of their distance.

    Args:
        result: what ``pairwise_distances`` returned.
        method: how clusters are compared: "average", "complete", "single", "weighted" or "ward"; see
            ``PairwiseDistances.linkage``.
        dendrogram: draw the tree.
        annotate: write the distances into the cells; None does up to 8 profiles.
        vmin: the value at the low end of the colours; None is 0.
        vmax: the value at the high end; None is the largest distance. Give the same for matrices that are compared.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; those of the colour bar are the last of their figure, those of the tree are in ``child_axes``.

    Raises:
        InputError: an unknown method, or "ward" where there is no Euclidean space.
        InputTypeError: something that is no result of ``pairwise_distances``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.profiles.distances import pairwise_distances
    >>> result = tle.lens_entropy(tle.demo_model(), ["import os", "def f(x):", "import re"], progress=False)
    >>> axes = distances(pairwise_distances(result, metric="euclidean"))
    >>> print(axes.figure.axes[-1].get_ylabel())
    Euclidean distance
    of mean curves (nats)
    """
    from scipy.cluster import hierarchy

    if not isinstance(result, PairwiseDistances):
        raise InputTypeError(f"result must be what pairwise_distances returned; got {kind_of(result)}")
    tree = hierarchy.dendrogram(result.linkage(method), no_plot=True)
    order, n = tree["leaves"], len(result.names)
    values = result.distances.numpy()[np.ix_(order, order)]
    first, last = colour_limits(0.0, float(values.max()), vmin, vmax)
    names = [short_name(result.names[i]) for i in order] if n <= MOST_NAMED else []
    margin = 0.075 * max(map(len, names), default=3)  # of the names, inches
    side = max(2.6, min(0.3 * n, 4.2))
    with canvas(ax, (side + margin + 1.1, side * (1 + TREE * dendrogram) + margin + 0.3), width=width) as axes:
        mesh = axes.pcolormesh(values, cmap="viridis", vmin=first, vmax=last)
        axes.invert_yaxis()
        axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=25).outline.set_visible(False)
        axes.figure.axes[-1].set_ylabel(_label(result), parse_math=False)
        places = np.arange(len(names)) + 0.5
        axes.set_xticks(places, names, rotation=90, parse_math=False)
        axes.set_yticks(places, names, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if not names:
            axes.set_xlabel(f"{n} profiles, near ones side by side")
        if dendrogram:
            _tree(axes, tree, n)
        size = cell_size(axes, n, n)
        for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
            tick.set_fontsize(min(tick.get_fontsize(), 0.9 * min(size)))
        if annotate or (annotate is None and n <= MOST_WRITTEN):
            largest = float(values.max())
            digits = int(np.clip(1 - np.floor(np.log10(largest)), 0, 4)) if largest else 0
            write(axes, [[f"{value:.{digits}f}" for value in row] for row in values], mesh.to_rgba(values), size)
    return axes


@steady
def clusters(
    embedding: ProfileEmbedding,
    *,
    by: str | Sequence[object] = "group",
    label_points: bool | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    """Entropy profiles as points of the plane, with a colour and a marker for each group.

    Both axes have one scale. Those of t-SNE and UMAP have no ticks, since there only neighbourhoods mean something.

    Args:
        embedding: what ``profile_embedding`` returned.
        by: "group", or a label for each profile, such as those of ``pairwise.clusters(3)``.
        label_points: write the profiles' names beside their points, where there is room; None does for up to 12.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: labels that are not one for each profile.
        InputTypeError: something that is no result of ``profile_embedding``, or labels that are no list.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.profiles.embedding import profile_embedding
    >>> from tl_entropy.analyses.profiles.distances import pairwise_distances
    >>> result = tle.lens_entropy(tle.demo_model(), ["import os", "def f(x):"], progress=False)
    >>> clusters(profile_embedding(pairwise_distances(result, metric="euclidean"))).get_xlabel()
    'PC 1 (100 %)'
    """
    if not isinstance(embedding, ProfileEmbedding):
        raise InputTypeError(f"embedding must be what profile_embedding returned; got {kind_of(embedding)}")
    n = len(embedding.names)
    if isinstance(by, str):
        if by != "group":
            raise InputError(f"by must be 'group' or a label for each of the {n} profiles; got {by!r}")
        by = embedding.groups
    if not is_iterable(by):
        raise InputTypeError(f"by must be 'group' or a label for each of the {n} profiles; got {by!r}")
    groups = [str(label) for label in by]
    if len(groups) != n:
        raise InputError(f"by must be 'group' or a label for each of the {n} profiles; got {len(groups)} labels")
    there = list(dict.fromkeys(groups))
    points = embedding.coordinates.numpy()
    with canvas(ax, (4.8, 3.8), width=width) as axes:
        for group, (style, label) in zip(there, line_styles([(group,) for group in there]), strict=True):
            rows = [i for i, other in enumerate(groups) if other == group]
            look = {"color": style["color"], "marker": style["marker"], "edgecolors": "white", "linewidths": 0.5}
            axes.scatter(points[rows, 0], points[rows, 1], s=36, label=short_name(label), zorder=3, **look)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.12)
        first, second = embedding.axis_names
        axes.set_xlabel(first)
        axes.set_ylabel(second)
        if embedding.explained is None:
            axes.set_xticks([])
            axes.set_yticks([])
        axes.spines[["top", "right"]].set_visible(False)
        legend = [add_legend(axes, own=ax is None, handlelength=1, handletextpad=0.2)] if len(there) > 1 else []
        if label_points or (label_points is None and n <= MOST_LABELLED):
            every = label_points is True
            names = [(x, y, short_name(name), every) for (x, y), name in zip(points.tolist(), embedding.names, strict=True)]
            name_points(axes, names, points[:, None], legend)
    return axes


def _tree(axes: Axes, tree: dict[str, list[list[float]]], n: int) -> None:
    """The dendrogram above the matrix; scipy puts leaf i at 10·i + 5."""
    above = axes.inset_axes((0, 1.01, 1, TREE))
    for x, y in zip(tree["icoord"], tree["dcoord"], strict=True):
        above.plot(np.array(x) / 10, y, color="0.3", linewidth=1, solid_capstyle="butt")
    above.set_xlim(0, n)
    above.set_ylim(bottom=0)
    above.set_xticks([])
    above.yaxis.set_major_locator(MaxNLocator(2))
    above.tick_params(axis="y", labelsize=mpl.rcParams["legend.fontsize"])
    above.spines[["top", "right", "bottom"]].set_visible(False)


def _label(result: PairwiseDistances) -> str:
    over = f"{result.aggregate} over layers" if result.aggregate else f"of {FEATURES[result.features]}"
    over += " and orders" if isinstance(result.order, tuple) else ""
    return f"{TITLES[result.metric]}\n{over} ({result.value_unit})"
