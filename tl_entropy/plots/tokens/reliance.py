"""How much the tokens of one document rely on parts of the model, along the text, or on each other, as a map.

Rows of a map are the sources, from the top down as the text is read, and its columns the tokens predicted; a token can rely on
earlier ones alone, so what is not above the diagonal stays blank, in grey; so does the token right before it where tokens are
masked from attention, since it still sees itself.

Refused: what is no ``TokenReliance``, a metric or document that is not there or was left open, more sources than lines can be
told apart, a document without a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_positive
from tl_entropy.plots.cells import LINE, LONGEST_LABEL, MARKED_FROM, SIGNED, cell_size, visible, write
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.naming import wrapped
from tl_entropy.plots.style import Width, canvas, colour_bar, fit_label, from_zero, line_styles, only, set_title
from tl_entropy.results.tokens.reliance import TokenReliance
from tl_entropy.torch_state import steady

_NAMES = {
    "l1": "L1 distance of logits",
    "l2": "L2 distance of logits",
    "maximum": "Largest change of a logit",
    "cosine": "1 - cosine of logits",
    "kl": "KL divergence",
    "reverse_kl": "Reverse KL divergence",
    "jsd": "Jensen-Shannon divergence",
    "fisher_rao": "Fisher-Rao distance",
    "total_variation": "Total variation",
    "loss": "Change of the loss",
    "entropy": "Change of the entropy",
    "gradient": "Gradient times activation",
}
_SIGNED = ("loss", "entropy", "gradient")
_BLANK = "0.88"
_MOST_LINES = 8
_MOST_MARKED = 60  # tokens of a line with a marker at each
_SMALLEST = 5.5  # points of a token's label; where there is no room for that, positions are written instead


@steady
def reliance(
    result: TokenReliance,
    *,
    metric: str | None = None,
    document: int | None = None,
    vmax: float | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Reliance along one document: a bar for each token where there is one source, a line for each of several, or a map.

    Results over tokens (``token_reliance(..., "tokens")``, ``gradient_reliance``) are drawn as a map of sources (rows, from the
    top down) and tokens predicted (columns). Metrics with a sign have colours of their own on either side of 0,
    and a minus in cells below 0, for prints in grey, unless these are too small.

    Args:
        result: what ``token_reliance`` or ``gradient_reliance`` returned.
        metric: its name; None is the first.
        document: its number; None takes the only one.
        vmax: of a map, the value at the end of the colours, both ways for metrics with a sign; None is the largest one.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; of a map, those of the colour bar are the last of their figure.

    Raises:
        InputError: a metric or document that is not there or was left open, more than 8 parts, or no value at all.
        InputTypeError: something that is no such result.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> from tl_entropy.analyses.tokens.reliance import token_reliance
    >>> result = token_reliance(tle.demo_model(), "import os\nimport sys\n", tle.ablate("attn_out.0"), progress=False)
    >>> axes = reliance(result, metric="kl")
    >>> axes.get_ylabel(), len(axes.patches)
    ('KL divergence (nats)', 6)
    """
    if not isinstance(result, TokenReliance):
        raise InputTypeError(f"result must be what token_reliance or gradient_reliance returned; got {kind_of(result)}")
    if not result.n_tokens:
        raise InputError("result holds no token to draw")
    chosen = only("document", document, result.documents)
    check_choice("document", chosen, result.documents)
    name = result.metrics[0] if metric is None else metric
    check_choice("metric", name, result.metrics)
    unit = result.units[result.metrics.index(name)]
    part = result.select(documents=chosen)
    label = f"{_NAMES[name]} ({unit})" if unit else _NAMES[name]
    title = part.names.get(chosen, "")
    if result.over == "tokens":
        return _map(part, name, label, title, vmax, width, ax)
    if vmax is not None:
        raise InputError("vmax is of a map, and this result is over parts: leave it out")
    return _along(part, name, label, title, width, ax)


def _map(part: TokenReliance, metric: str, label: str, title: str, vmax: float | None, width: Width, ax: Axes | None) -> Axes:
    table = part.matrix(metric)
    values = table.to_numpy()
    if not np.isfinite(values).any():
        raise InputError("result: no source can change a token predicted here, so there is no value to draw")
    highest = (float(np.nanmax(np.abs(values))) or 1.0) if vmax is None else check_positive("vmax", vmax)
    colours: dict[str, Any] = {"vmin": 0.0, "vmax": highest}
    if metric in _SIGNED:
        colours["vmin"] = -highest
    # Dark is far from 0, as on a page: a value near 0 is not to be taken for a blank.
    colours["cmap"] = plt.get_cmap("PuOr_r" if metric in _SIGNED else "viridis_r").with_extremes(bad=_BLANK)
    texts = dict(zip(part.position.tolist(), part.tokens(), strict=True))
    if 0 not in texts and 1 in texts and part.texts:  # without a BOS the first token is not predicted: it is what comes before
        [text] = part.texts.values()
        texts[0] = text[: int(part.span[part.position == 1, 0])]
    known = all(i in texts for i in table.index)
    sources = [visible(texts[i], LONGEST_LABEL) if known else str(i) for i in table.index]
    columns = [visible(texts[i], LONGEST_LABEL) for i in table.columns]
    wide, high = (float(np.clip(0.17 * n, 2.6, 8.0)) for n in (len(columns), len(sources)))
    size = (wide + 1.0 + 0.08 * max(map(len, sources)) + 1.0, high + 0.9 + 0.08 * max(map(len, columns)))
    with canvas(ax, size, width=width, rc={"xtick.labelsize": 8.0, "ytick.labelsize": 8.0}) as axes:
        mesh = axes.pcolormesh(np.ma.masked_invalid(values), **colours)
        bar = colour_bar(axes, mesh, label, aspect=25)
        axes.invert_yaxis()
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90, parse_math=False)
        axes.set_yticks(np.arange(len(sources)) + 0.5, sources, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("Token predicted")
        axes.set_ylabel("Source" if known else "Source: position")
        set_title(axes, title)
        wide, high = cell_size(axes, len(columns), len(sources))
        if fit_label(bar, high * len(sources)):
            wide, high = cell_size(axes, len(columns), len(sources))
        _fit(axes.xaxis, wide, list(table.columns))
        _fit(axes.yaxis, high, list(table.index))
        if metric in _SIGNED and min(wide, high) >= SIGNED:
            signs = [["−" if value <= -MARKED_FROM * highest else "" for value in row] for row in values]
            write(axes, signs, mesh.to_rgba(np.ma.masked_invalid(values)), (wide, high))
    return axes


def _along(part: TokenReliance, metric: str, label: str, title: str, width: Width, ax: Axes | None) -> Axes:
    if len(part.sources) > _MOST_LINES:
        raise InputError(
            f"result has {len(part.sources)} sources, and {_MOST_LINES} lines can be told apart; choose some with "
            "result.select(sources=...)"
        )
    values, tokens = part.value(metric).numpy(), [visible(token, LONGEST_LABEL) for token in part.tokens()]
    if not np.isfinite(values).any():
        raise InputError(f"result: {metric} has no value in this document")
    x = np.arange(part.n_tokens)
    with canvas(ax, (float(np.clip(0.17 * len(x) + 1.2, 4.8, 12.0)), 3.2), width=width, rc={"xtick.labelsize": 8.0}) as axes:
        if len(part.sources) == 1:
            axes.bar(x, values[:, 0], width=0.8, color="#3b528b")
            title = " ".join(filter(None, (title, f"without: {part.sources[0]}")))
        else:
            for column, (style, name) in zip(values.T, line_styles([(source,) for source in part.sources]), strict=True):
                marked = style if len(x) <= _MOST_MARKED else {**style, "marker": ""}
                axes.plot(x, column, label=name, markersize=3, linewidth=1, **marked)
            # In the place of a title.
            room = axes.get_window_extent().width * 72 / axes.figure.dpi
            title = wrapped(f"{title}, without" if title else "Without", room, 10)
            add_legend(axes, own=ax is None, inside=False, title=title)
            title = ""
        if metric in _SIGNED:
            axes.axhline(0, color="0.5", linewidth=0.8, zorder=0)
        else:
            from_zero(axes)
        axes.set_xlim(-0.7, len(x) - 0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(x, tokens, rotation=90, parse_math=False)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("Token predicted")
        axes.set_ylabel(label, parse_math=False)
        set_title(axes, title)
        _fit(axes.xaxis, cell_size(axes, len(x), 1)[0], part.position.tolist())
    return axes


def _fit(axis: Axis, room: float, positions: Sequence[int]) -> None:
    """Make the labels of an axis, of one token each, fit into ``room`` points; write some positions where they can't."""
    labels = axis.get_ticklabels()
    if room / LINE >= _SMALLEST:
        for label in labels:
            label.set_fontsize(min(label.get_fontsize(), room / LINE))
        return
    step = next(n for n in (5, 10, 20, 50, 100, 200, 500, 10**6) if n * room > 30)
    chosen = [i for i, position in enumerate(positions) if position % step == 0]
    axis.set_ticks(axis.get_ticklocs()[chosen], [str(positions[i]) for i in chosen], rotation=0)
    axis.set_label_text(f"{axis.get_label_text().removesuffix(': position')}: position")
