"""What memories cost and save: losses with and without the price, against the price.

Refused: something that is no ``MemorySweep``.
"""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from tl_entropy.errors import InputTypeError
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import NORMAL_95, Limits, Width, canvas
from tl_entropy.results import MemorySweep
from tl_entropy.torch_state import steady


@steady
def memory_sweep(result: MemorySweep, *, ylim: Limits = None, width: Width = None, ax: Axes | None = None) -> Axes:
    r"""Loss of every memory, alone and with its price, against its bits a token; the causal model's loss is a line.

    At the left, where nothing is told, are marks of what general compressors make of the same bytes, where these are known.

    Args:
        result: what ``tle.memory_sweep`` returned.
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
    >>> origin, one = Provenance("tiny", "abc", "raw", "float32", "cpu"), torch.ones(1).long()
    >>> found = MemorySweep(torch.tensor([[8.0], [1.0]]).double(), torch.tensor([0, 4]), torch.tensor([0, 2]), 16 * one, one,
    ...                     16.0 * one.double(), torch.tensor([9, 9]), torch.zeros(2).double(), origin)
    >>> axes = memory_sweep(found)
    >>> axes.get_xlabel(), [text.get_text() for text in axes.get_legend().get_texts()]
    ('Memory (bits a token)', ['causal', 'told the memory', 'and charged for it'])
    """
    if not isinstance(result, MemorySweep):
        raise InputTypeError(f"result must be a MemorySweep; got {kind_of(result)}")
    frame = result.to_pandas()
    frame["x"] = frame["price"] / math.log(2) / (1 if result.unit == "nats" else 1 / math.log(2))
    told, plain = frame[frame["numbers"] > 0].sort_values("x"), frame[frame["numbers"] == 0]
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for value in plain["loss"]:
            axes.axhline(value, color="0.4", linestyle="--", linewidth=1.2, label="causal")
        for column, label, style in (("loss", "told the memory", "o:"), ("charged", "and charged for it", "s-")):
            axes.errorbar(told["x"], told[column], NORMAL_95 * told["se"].fillna(0), fmt=style, markersize=4, label=label)
        for (name, size), marker in zip(_compressed(result).items(), "x+1", strict=False):
            axes.plot(0, size, linestyle="none", marker=marker, markersize=8, color="0.2", label=name)
        axes.set_xlabel("Memory (bits a token)")
        axes.set_ylabel(f"Loss ({result.unit} a token)")
        axes.spines[["top", "right"]].set_visible(False)
        add_legend(axes, own=ax is None)
    return axes


def _compressed(result: MemorySweep) -> dict[str, float]:
    """By compressor, what it makes of a token in the result's unit; nothing where the bytes are not known."""
    sizes = result.provenance.corpus.get("compressed") or {}
    per_token = 8 * (math.log(2) if result.unit == "nats" else 1) / float(result.tokens.sum())
    return {name: size * per_token for name, size in sizes.items()}
