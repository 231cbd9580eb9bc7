"""The effect of an intervention among those of its placebos.

Refused: something that is no ``Placebo``.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tl_entropy.errors import InputTypeError
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import NORMAL_95, Limits, Width, canvas
from tl_entropy.results import Placebo
from tl_entropy.torch_state import steady


@steady
def placebo(result: Placebo, *, ylim: Limits = None, width: Width = None, ax: Axes | None = None) -> Axes:
    r"""Effects of all placebos in rising order, and the real one as a line with ±1.96 standard errors over documents.

    Args:
        result: what ``tle.placebo`` returned.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputTypeError: something else.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import torch
    >>> from tl_entropy.results import Provenance
    >>> origin = Provenance("tiny", "abc", "raw", "float32", "cpu")
    >>> axes = placebo(Placebo(torch.tensor([[3.0], [1.0]]).double(), ("real", "a"), 0, origin))
    >>> axes.get_ylabel(), [text.get_text() for text in axes.get_legend().get_texts()]
    ('Effect (nats)', ['placebos', 'real (p = 0.5)'])
    """
    if not isinstance(result, Placebo):
        raise InputTypeError(f"result must be a Placebo; got {kind_of(result)}")
    ordered = np.sort(result.placebos.numpy())
    half = np.nan_to_num(NORMAL_95 * result.se)
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        axes.axhline(0.0, color="0.6", linewidth=0.8)
        axes.plot(np.arange(1, len(ordered) + 1), ordered, "o", color="0.4", markersize=4, label="placebos")
        axes.axhline(result.effect, color="C0", linewidth=1.6, label=f"real (p = {result.p_value:.2g})")
        if half > 0:
            low, high = result.effect - half, result.effect + half
            axes.axhspan(low, high, color="C0", alpha=0.2, linewidth=0, label="± 1.96 standard errors")
        axes.set_xlabel("Placebos, in order")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(f"Effect ({result.unit})" if result.unit else "Effect")
        axes.spines[["top", "right"]].set_visible(False)
        add_legend(axes, own=ax is None)
    return axes
