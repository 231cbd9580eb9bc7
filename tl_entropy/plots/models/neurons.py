"""What single neurons at their means change, whole and straight to the logits, beside neurons drawn at random.

Refused: something that is no ``NeuronEffects``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputTypeError, check_choice
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import NORMAL_95, Limits, Width, canvas
from tl_entropy.results.models.neurons import NeuronEffects
from tl_entropy.torch_state import steady

_NAMES = 20  # that a column of print has room for
_COLOURS = {"entropy": "#31688e", "frequency": "#d1603d", "given": "#31688e"}


@steady
def neurons(
    result: NeuronEffects,
    *,
    of: Literal["entropy", "loss"] = "entropy",
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""The whole effect of every neuron (filled) and the direct one (open), with 95 % intervals over documents.

    Neurons stand in the order of the result, candidates before the placebos of their layer, which are grey. Where the whole
    effect is far from 0 and the direct one is not, the neuron acts through the scale of the final norm.

    Args:
        result: of ``tle.neurons``.
        of: change of the output's "entropy", or of the "loss".
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputTypeError: something else.
        InputError: another quantity.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> found = tle.neurons(tle.demo_model(), ["import os", "x = 1"], candidates=1, placebos=1, progress=False)
    >>> neurons(found).get_ylabel()
    'Change of entropy (nats)'
    """
    if not isinstance(result, NeuronEffects):
        raise InputTypeError(f"result must be one of neurons; got {kind_of(result)}")
    check_choice("of", of, ("entropy", "loss"))
    places, names = np.arange(len(result.roles)), result.names
    with canvas(ax, (5.4, 3.4), width=width, ylim=ylim) as axes:
        axes.axhline(0.0, color="0.6", linewidth=0.8)
        for part, shift, filled in ((of, -0.15, True), (f"direct_{of}", 0.15, False)):
            mean, se = (x.numpy() for x in result.effect(part))
            for role in dict.fromkeys(result.roles):
                own = np.array([one == role for one in result.roles])
                colour = _COLOURS.get(role, "0.5")
                axes.errorbar(
                    places[own] + shift, mean[own], NORMAL_95 * np.nan_to_num(se[own]), fmt="o", color=colour, linewidth=1,
                    markersize=4, markerfacecolor=colour if filled else "white",
                )  # fmt: skip
        shown: list[int] = []
        for i in [i for i, role in enumerate(result.roles) if role != "placebo"] or range(len(places)):
            if not shown or i - shown[-1] >= len(places) / _NAMES:
                shown.append(i)
        axes.set_xticks(shown, [names[i] for i in shown], rotation=90)
        axes.set_xlabel("Neuron (layer.number)")
        axes.set_ylabel(f"Change of {of} ({result.unit})")
        axes.spines[["top", "right"]].set_visible(False)
        roles = dict.fromkeys(result.roles)
        for role in roles:
            axes.plot([], [], "o", color=_COLOURS.get(role, "0.5"), markersize=4, label=role)
        axes.plot([], [], "o", color="0.2", markersize=4, label="whole")
        axes.plot([], [], "o", color="0.2", markersize=4, markerfacecolor="white", label="direct")
        add_legend(axes, own=ax is None)
    return axes
