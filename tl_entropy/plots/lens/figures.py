"""Entropy against depth: mean profiles of corpora, and a map of one text, token by layer, of entropy or of divergence.

A figure only reads a result: what it shows, its unit and its labels are the result's. Every function draws on ``ax``, or on a
new figure, and returns the axes; nothing is shown, saved or set globally.

Refused: single tokens of a summary, which holds none; two units in one figure; leaving open which document or order of several
a map shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patheffects import Normal, Stroke

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int
from tl_entropy.plots.cells import map_title, shown_part, token_map, visible
from tl_entropy.plots.depth import depth_axis, depth_lines, draw_course
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.lens.predictions import SHARES, divergence_name, is_rank
from tl_entropy.plots.style import (
    NORMAL_95,
    Limits,
    Width,
    canvas,
    colour_limits,
    from_zero,
    line_styles,
    named,
    number,
    only,
    quantity,
    subset,
)  # fmt: skip
from tl_entropy.results import LayerDivergence, LensEntropy, LensSummary
from tl_entropy.results.base import PER_NAT, chosen_from
from tl_entropy.results.lens.settling import stream_columns
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady

LONGEST_IN_CELL = 9  # characters

Lens = LensEntropy | LensSummary


@dataclass(frozen=True)
class _Line:
    """One curve of a profile; ``columns`` are its sites' places in the result."""

    source: str
    site: str
    order: float
    depth: np.ndarray
    mean: np.ndarray
    se: np.ndarray
    sd: np.ndarray
    columns: list[int]


@steady
def profile(
    results: Lens | Sequence[Lens] | Mapping[str, Lens],
    *,
    orders: float | Iterable[float] | None = None,
    sites: Places | None = None,
    band: Literal["se", "sd"] | None = "se",
    traces: int = 0,
    document: int | None = None,
    ceiling: bool = False,
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean entropy against depth, one line for each result, site name and order.

    Tick l of the x axis is the residual stream after block l; sites inside that block stand between l - 1 and l. The line of
    the residual stream begins at ``embed``. The y axis begins at 0, unless what is drawn would then take up less than a third.

    Args:
        results: one result, several, or a mapping from names to results; all in one unit.
        orders: Rényi orders to draw; None is all that a result has.
        sites: short names to draw, or single places, as in ``select``; None is all.
        band: "se" shades ±1.96 standard errors over documents (nothing for a single document), "sd" ±1 standard deviation over
            tokens; None shades nothing.
        traces: draw this many single tokens as thin lines, evenly chosen.
        document: draw only this document's tokens as traces.
        ceiling: a dashed line at log d_vocab, which a ``LensSummary`` knows.
        labels: names of several results in the legend; None takes the names of their models.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: results in different units or without tokens, an order or site that is not there, names that are missing
            or equal, traces or a ceiling that a result cannot give.
        InputTypeError: something that is no result of ``lens_entropy``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), "import os\n", progress=False).to("bits")
    >>> tle.plots.profile(result).get_ylabel()
    'Entropy (bits)'
    """
    check_choice("band", band, ("se", "sd", None))
    traces = check_int("traces", traces, 0)
    if document is not None and not traces:
        raise InputError("document chooses whose tokens are traced; say how many with traces=...")
    by_name = named(results, (LensEntropy, LensSummary), "lens_entropy", labels)
    units = {result.unit for result in by_name.values()}
    if len(units) > 1:
        raise InputError("results are in nats and in bits; bring them to one unit with result.to('bits')")
    lines = [line for name, result in by_name.items() for line in _lines(name, result, orders, sites)]
    styles = line_styles([(line.source, line.site, f"order {number(line.order)}") for line in lines])
    bundles = [_traces(by_name[line.source], line, traces, document) for line in lines] if traces else [None] * len(lines)
    heights = sorted({_ceiling(result) for result in by_name.values()}) if ceiling else []
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for line, (style, label), segments in zip(lines, styles, bundles, strict=True):
            if segments is not None:
                axes.add_collection(LineCollection(list(segments), color=style["color"], linewidth=0.4, alpha=0.35, zorder=1))
            half = {"se": NORMAL_95 * line.se, "sd": line.sd, None: None}[band]
            draw_course(axes, line.depth, line.mean, half, style=style, label=label, errors=1.0)
        for height in heights:
            axes.axhline(height, color="0.4", linestyle=(0, (6, 4)), linewidth=1, label="log d_vocab")
        depth_axis(axes, [line.depth for line in lines])
        axes.set_ylabel(quantity({line.order for line in lines}, units.pop()))
        from_zero(axes)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1 or ceiling:
            add_legend(axes, own=ax is None)
    return axes


@steady
def heatmap(
    result: LensEntropy | LayerDivergence,
    *,
    of: str | None = None,
    document: int | None = None,
    order: float | None = None,
    sites: Places | None = None,
    top_tokens: bool = False,
    decided: bool | None = None,
    start: int = 0,
    max_tokens: int = 40,
    vmin: float | None = None,
    vmax: float | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Entropy or divergence of one text, token by token (to the right) and layer by layer (upward).

    With the top tokens written into the cells this is the classic table of the logit lens. A divergence's map has a stepped
    line as well: above it the position is decided, which means that at all sites of the residual stream shown there the most
    probable token is that of the model's own output.

    Whitespace is made visible: ␣ is a space, ↵ a line break, → a tab, ␣×8 a run of eight. Where a text does not fit, the
    title says which part is shown. For scripts that matplotlib's font lacks, set ``rcParams["font.family"]`` to several fonts.

    Args:
        result: what ``lens_entropy`` or ``layer_divergence`` returned.
        of: what the colours are. None is the entropy, or the first metric of a ``LayerDivergence``; of that, anything in its
            ``quantities()`` will do, such as "jsd", "surprisal", "rank of ' Paris'". Ranks are counted from 1 here, and their
            colours are logarithmic. Cells without a value are grey.
        document: number of the text; None takes the only one.
        order: Rényi order; None takes the only one.
        sites: short names to show, or single places, as in ``select``; None is all.
        top_tokens: write the most probable next token into each cell; the result needs ``top_k`` of at least 1.
        decided: draw that line; None draws it wherever a ``LayerDivergence`` has a site of the residual stream.
        start: position of the first token shown.
        max_tokens: show at most this many tokens.
        vmin: the value at the low end of the colours; None is 0, or the lowest one where those shown would otherwise take up
            less than a third of the colours. Ranks have a scale of their own.
        vmax: the value at the high end; None is the highest one, of shares 1.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; those of the colour bar are the last of their figure.

    Raises:
        InputError: several documents or orders and none chosen, one that is not there, no token from ``start`` on, no top
            tokens in the result, or something asked of an entropy that only a divergence has, and the other way round.
        InputTypeError: a summary, which holds no single token, or something that is no result of these analyses.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), "import os\n", progress=False)
    >>> [label.get_text() for label in tle.plots.heatmap(result).get_xticklabels()]
    ['import', '␣os', '↵']
    """
    if not isinstance(result, LensEntropy | LayerDivergence):
        raise InputTypeError(
            f"result must be a LensEntropy or LayerDivergence, which hold every position; got {kind_of(result)}"
        )
    if top_tokens and result.top_tokens is None:
        raise InputError("top_tokens: this result holds none; ask for them with lens_entropy(..., top_k=1)")
    whole: LensEntropy | LayerDivergence
    if isinstance(result, LensEntropy):
        check_choice("of", of, (None, "entropy"))
        if decided:
            raise InputError("decided: entropies do not say where a token is decided; measure layer_divergence")
        document = only("document", document, result.documents)
        whole = result.select(documents=document, orders=only("order", order, result.orders), sites=sites)
        part = shown_part(whole, start, max_tokens)
        values = part.entropy[:, :, 0].T.numpy()  # [site, token]
        label = quantity(part.orders, part.unit)
        scale = Normalize(*colour_limits(float(values.min()), float(values.max()), vmin, vmax))
    else:
        if order is not None:
            raise InputError("order: divergences have none; leave it out, or measure lens_entropy")
        whole = result.select(documents=only("document", document, result.documents), sites=sites)
        part = shown_part(whole, start, max_tokens)
        decided = bool(stream_columns(part.sites, required=bool(decided))) and decided is not False
        values, label, scale = _divergence_map(part, part.metrics[0] if of is None else of, vmin, vmax)
    notes = ["in each cell: most probable next token"] * top_tokens + ["above the line: decided"] * bool(decided)
    axes = token_map(
        ax, part, values, width=width, title=map_title(whole, part), label=label,
        cells=_cell_texts(part) if top_tokens else None,
        xlabel="\n".join(["Token read", *(f"({note})" for note in notes)]), norm=scale,
        cmap=mpl.colormaps["viridis"].with_extremes(bad="0.85"),
    )  # fmt: skip
    if decided:
        _step(axes, part.decided().numpy())
    return axes


def _lines(name: str, result: Lens, orders: Any, sites: Any) -> Iterator[_Line]:
    """The curves of one result, in the order of its sites and orders."""
    chosen = subset("orders", orders, result.orders)
    frame, deviation = result.mean_profile().set_index(["order", "site", "layer"]), result.deviation().numpy()
    for site, (columns, depth) in depth_lines(enumerate(result.sites), sites).items():
        for order in (order for order in result.orders if order in chosen):
            line = frame.loc[[(order, *result.sites[column]) for column in columns]]
            sd = deviation[columns, result.orders.index(order)]
            yield _Line(name, site, order, depth, line["mean"].to_numpy(), line["se"].to_numpy(), sd, columns)


def _traces(result: Lens, line: _Line, count: int, document: int | None) -> np.ndarray:
    """Segments [token, site, (depth, entropy)] of ``count`` tokens, evenly chosen."""
    if not isinstance(result, LensEntropy):
        raise InputError("traces: a summary holds no single tokens; measure with keep='positions'")
    part = result if document is None else result.select(documents=document)
    rows = np.unique(np.linspace(0, part.n_tokens - 1, min(count, part.n_tokens)).round().astype(int))
    heights = part.entropy[:, line.columns, part.orders.index(line.order)].numpy()[rows]
    return np.stack([np.broadcast_to(line.depth, heights.shape), heights], axis=-1)


def _ceiling(result: Lens) -> float:
    if not isinstance(result, LensSummary):
        raise InputError("ceiling: only a LensSummary knows log d_vocab; measure with keep='summary', or leave it out")
    return result.ceiling * PER_NAT[result.unit]


def _divergence_map(
    part: LayerDivergence, of: str, vmin: float | None, vmax: float | None
) -> tuple[np.ndarray, str, Normalize]:
    """Values [site, token] of a quantity, without those that are NaN, what they are called, and their scale of colours."""
    there = part.quantities()
    values = np.ma.masked_invalid(there[chosen_from("of", of, there)[0]].T.numpy())
    if not values.count():
        raise InputError(f"of={of!r}: none of the tokens shown has a value (the last of a document has no next token)")
    label = divergence_name(of, part.unit, part.against)
    label = label[0].upper() + label[1:]
    if is_rank(of):
        low, high = (1.0 if vmin is None else vmin), (max(values.max() + 1, 10) if vmax is None else vmax)
        return values + 1, label, LogNorm(*colour_limits(1, 10, low, high))
    low, high = (0.0, 1.0) if of in SHARES else (float(values.min()), float(values.max()) or 1.0)
    return values, label, Normalize(*colour_limits(low, high, vmin, vmax))


def _step(axes: Axes, first: np.ndarray) -> None:
    """A line below the row ``first`` [column] from which on a column is decided; above them all where it never is."""
    corners = np.stack([np.arange(len(first)), np.arange(len(first)) + 1], 1).flatten()
    line = LineCollection([np.column_stack([corners, first.repeat(2)])], colors="black", linewidth=1.4, zorder=2.5)
    line.set_path_effects([Stroke(linewidth=3, foreground="white"), Normal()])  # stands out on dark and on light cells
    line.set_clip_on(False)
    axes.add_collection(line, autolim=False)


def _cell_texts(part: LensEntropy | LayerDivergence) -> list[list[str]]:
    """The most probable token of each cell [site, token]."""
    if part.top_tokens is None:
        return []
    return [[visible(part.strings[i], LONGEST_IN_CELL) for i in row] for row in part.top_tokens[:, :, 0].T.tolist()]
