"""What words cost: at every depth on average, or word by word of one text.

A figure only reads a result of ``word_surprisal``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes

from tl_entropy.errors import InputTypeError
from tl_entropy.plots.cells import visible
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import NORMAL_95, Limits, Width, canvas
from tl_entropy.results.base import chosen_from
from tl_entropy.results.tokens.words import OUTPUT, WordSurprisal
from tl_entropy.torch_state import steady

_COLOUR, _LONGEST = "#31688e", 16
_APART = 80  # words whose bars stand apart


@steady
def words(
    result: WordSurprisal,
    *,
    document: int | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    """Mean cost of a word at every site that was read, with 95 % intervals over texts; or what each word of one text cost.

    Of one text, bars are the output's surprisals and marks the sums of tokens alone; words stand below. Sites are from left to
    right, the output last.

    Args:
        result: of ``word_surprisal``.
        document: number of the text whose words are drawn; None draws means where there are sites, and else the first text.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: a text that is not in the result, or no word that has a value.
        InputTypeError: something that is no result of ``word_surprisal``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> found = tle.token_surprisal(tle.demo_model(), "import os, sys", words=True, progress=False)
    >>> axes = words(found.word_surprisal())
    >>> [label.get_text() for label in axes.get_xticklabels()]
    ['import', 'os,', 'sys']
    """
    if not isinstance(result, WordSurprisal):
        raise InputTypeError(f"result must be one of word_surprisal; got {kind_of(result)}")
    profile = result.mean_profile()  # refuses a result without a value
    if document is not None:
        [document] = chosen_from("document", document, result.documents)
    elif len(result.readings) == 1:
        document = result.documents[0]
    with canvas(ax, (5.4, 3.4), width=width, ylim=ylim) as axes:
        if document is None:
            order = np.argsort(profile["reading"] == OUTPUT, kind="stable")
            names, means = profile["reading"][order].tolist(), profile["mean"].to_numpy()[order]
            errors = NORMAL_95 * np.nan_to_num(profile["se"].to_numpy()[order])
            axes.errorbar(range(len(names)), means, errors, color=_COLOUR, marker="o", markersize=4, capsize=2)
            _named(axes, names)
            axes.set_ylabel(f"Surprisal of a word ({result.unit})")
        else:
            rows = torch.nonzero(result.document == document)[:, 0].tolist()
            wide = 0.8 if len(rows) <= _APART else 1.0  # of more, the gaps would be thinner than a dot of the screen
            axes.bar(range(len(rows)), result.surprisal[rows, 0].numpy(), wide, color=_COLOUR, label="surprisal")
            if result.corrected:
                ends = np.arange(len(rows))[:, None] + [-wide / 2, wide / 2]
                axes.hlines(result.pieces[rows, 0].numpy(), *ends.T, color="black", linewidth=1.2, label="sum of tokens")
                add_legend(axes, own=ax is None, inside=False)
            _named(axes, [result.words[i] for i in rows])
            axes.set_ylabel(f"Surprisal ({result.unit})")
        axes.spines[["top", "right"]].set_visible(False)
    return axes


def _named(axes: Axes, names: Sequence[str]) -> None:
    """Names below the axis, upright; of more than have room, some."""
    size = float(axes.xaxis.get_major_ticks(1)[0].label1.get_fontsize())
    room = axes.get_window_extent().width * 72 / axes.figure.dpi / size
    step = math.ceil(len(names) / max(2, min(40, int(room / 1.6))))
    shown = range((len(names) - 1) % step, len(names), step)  # the last, the output of sites, among them
    axes.set_xticks(shown, [visible(names[i], _LONGEST) for i in shown], rotation=90, parse_math=False)
