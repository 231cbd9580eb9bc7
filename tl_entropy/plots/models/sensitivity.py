"""How much each edit at each site costs, as a map of sites by edits.

Refused: something that is no ``Sensitivity``, and one without a change above 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.cells import cell_size, row_step, write
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import NORMAL_95, Width, canvas, colour_bar, fit_label
from tl_entropy.results.models.sensitivity import Sensitivity
from tl_entropy.torch_state import steady

DECADES = 4.0
"""How far below the largest change the colours begin."""
_HATCH: dict[str, Any] = {"facecolor": "0.92", "edgecolor": "0.6", "hatch": "////"}
MOST_WRITTEN = 26  # rows of a map whose cells are written into


@steady
def sensitivity(result: Sensitivity, *, annotate: bool | None = None, width: Width = None, ax: Axes | None = None) -> Axes:
    r"""Changes of the mean loss as colours on a logarithmic scale, sites upward and edits to the right.

    Cells whose change is not above 0 by 1.96 standard errors are hatched; where there is a single document, those that are not
    above 0.

    Args:
        result: what ``tle.sensitivity`` returned.
        annotate: write the changes into the cells; None does up to 26 sites.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; those of the colour bar are the last of their figure.

    Raises:
        InputError: no change is above 0.
        InputTypeError: something else.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import torch
    >>> from tl_entropy.results import Provenance
    >>> origin = Provenance("tiny", "abc", "raw", "float32", "cpu")
    >>> changes = torch.tensor([[[2.0, 0.1]], [[4.0, 8.0]]]).double()
    >>> found = Sensitivity(changes, torch.ones(2).double(), torch.tensor([1, 3]), ("int8", "int4"), ("resid_post.0",), origin)
    >>> [text.get_text() for text in sensitivity(found).get_xticklabels()]
    ['int8', 'int4']
    """
    if not isinstance(result, Sensitivity):
        raise InputTypeError(f"result must be a Sensitivity; got {kind_of(result)}")
    values, errors = (part.T.numpy() for part in (result.value(), result.error()))
    if not (values > 0).any():
        raise InputError("result: no edit makes the loss larger, so a logarithmic scale has nothing to show")
    shown = np.where(values > NORMAL_95 * np.nan_to_num(errors), values, np.nan)
    top = float(np.nanmax(values))
    rows, columns = values.shape
    size = max(3.4, 1.8 + 0.7 * columns), max(2.6, 1.0 + min(0.26 * rows, 8))
    with canvas(ax, size, width=width) as axes:
        mesh = axes.pcolormesh(
            shown, cmap="viridis", norm=LogNorm(top / 10**DECADES, top, clip=True), edgecolors="white", lw=0.4
        )
        axes.patch.set(**_HATCH)  # shows where the mesh has no value
        bar = colour_bar(axes, mesh, f"Change of the loss ({result.unit} a token)")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(columns) + 0.5, result.edits, rotation=30, ha="right", parse_math=False)
        step = row_step(axes, rows)
        axes.set_yticks(np.arange(0, rows, step) + 0.5, result.sites[::step], parse_math=False)
        room = cell_size(axes, columns, rows)
        if fit_label(bar, room[1] * rows):
            room = cell_size(axes, columns, rows)
        if annotate or (annotate is None and rows <= MOST_WRITTEN):
            cells = [["" if np.isnan(value) else f"{value:+.2g}" for value in row] for row in values]
            colours = np.where(np.isnan(shown)[..., None], 0.92, mesh.to_rgba(shown))
            write(axes, cells, colours, room)
        if np.isnan(shown).any():
            none = Patch(**_HATCH, label="≤ 1.96 standard errors")
            add_legend(axes, own=ax is None, inside=False, handles=[none])
    return axes
