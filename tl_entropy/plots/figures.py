"""Entropy against depth: mean profiles of corpora, and a map of one text, token by layer.

A figure only reads a result: what it shows, its unit and its labels are the result's. Every function draws on ``ax``, or on a
new figure, and returns the axes; nothing is shown, saved or set globally.

Refused: single tokens of a summary, which holds none; two units in one figure; leaving open which document or order of several
a map shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int
from tl_entropy.plots.cells import LINE, cell_size, map_size, row_step, visible, write
from tl_entropy.plots.depth import depth_lines, depth_ticks
from tl_entropy.plots.style import NORMAL_95, canvas, line_styles, named, number, only, quantity, subset
from tl_entropy.results import LensEntropy, LensSummary
from tl_entropy.results.base import PER_NAT
from tl_entropy.sites import Site

LONGEST_LABEL, LONGEST_IN_CELL = 16, 9  # characters

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
    columns: list[int]


def profile(
    results: Lens | Sequence[Lens] | Mapping[str, Lens],
    *,
    orders: float | Iterable[float] | None = None,
    sites: str | Iterable[str] | None = None,
    band: Literal["se"] | None = "se",
    traces: int = 0,
    document: int | None = None,
    ceiling: bool = False,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean entropy against depth, one line for each result, site name and order.

    Tick l of the x axis is the residual stream after block l; sites inside that block stand between l - 1 and l. The line of
    the residual stream begins at ``embed``. The y axis begins at 0.

    Args:
        results: one result, several, or a mapping from names to results; all in one unit.
        orders: Rényi orders to draw; None is all that a result has.
        sites: short names to draw; None is all.
        band: "se" shades ±1.96 standard errors over documents (nothing for a single document); None shades nothing.
        traces: draw this many single tokens as thin lines, evenly chosen.
        document: draw only this document's tokens as traces.
        ceiling: a dashed line at log d_vocab, which a ``LensSummary`` knows.
        labels: names of several results in the legend; None takes the names of their models.
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
    check_choice("band", band, ("se", None))
    check_int("traces", traces, 0)
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
    with canvas(ax, (4.8, 3.4)) as axes:
        for line, (style, label), segments in zip(lines, styles, bundles, strict=True):
            if segments is not None:
                axes.add_collection(LineCollection(list(segments), color=style["color"], linewidth=0.4, alpha=0.35, zorder=1))
            if band and np.isfinite(line.se).all():
                half = NORMAL_95 * line.se
                axes.fill_between(line.depth, line.mean - half, line.mean + half, color=style["color"], alpha=0.2, linewidth=0)
            every = max(1, len(line.depth) // 16)
            axes.plot(line.depth, line.mean, **style, label=label, markersize=4.5, linewidth=1.5, markevery=every)
        for height in heights:
            axes.axhline(height, color="0.4", linestyle=(0, (6, 4)), linewidth=1, label="log d_vocab")
        axes.set_xticks(*depth_ticks([line.depth for line in lines]))
        axes.set_xlabel("Layer")
        axes.set_ylabel(quantity({line.order for line in lines}, units.pop()))
        axes.autoscale_view()
        axes.set_ylim(bottom=0, auto=None)  # without switching off the scaling to what is drawn on these axes later
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1 or ceiling:
            axes.legend(frameon=False, handlelength=3)
    return axes


def heatmap(
    result: LensEntropy,
    *,
    document: int | None = None,
    order: float | None = None,
    sites: str | Iterable[str] | None = None,
    top_tokens: bool = False,
    start: int = 0,
    max_tokens: int = 40,
    ax: Axes | None = None,
) -> Axes:
    r"""Entropy of one text, token by token (to the right) and layer by layer (upward).

    Whitespace is made visible: ␣ is a space, ↵ a line break, → a tab, ␣×8 a run of eight. Where a text does not fit, the
    title says which part is shown. For scripts that matplotlib's font lacks, set ``rcParams["font.family"]`` to several fonts.

    Args:
        result: what ``lens_entropy`` returned.
        document: number of the text; None takes the only one.
        order: Rényi order; None takes the only one.
        sites: short names to show; None is all.
        top_tokens: write the most probable next token into each cell; the result needs ``top_k`` of at least 1.
        start: position of the first token shown.
        max_tokens: show at most this many tokens.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes; those of the colour bar are the last of their figure.

    Raises:
        InputError: several documents or orders and none chosen, one that is not there, no token from ``start`` on, or no top
            tokens in the result.
        InputTypeError: a summary, which holds no single token, or something that is no result of ``lens_entropy``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), "import os\n", progress=False)
    >>> [label.get_text() for label in tle.plots.heatmap(result).get_xticklabels()]
    ['import', '␣os', '↵']
    """
    if not isinstance(result, LensEntropy):
        raise InputTypeError(f"result must be a LensEntropy, which holds every position; got {type(result).__name__}")
    if top_tokens and result.top_tokens is None:
        raise InputError("top_tokens: this result holds none; ask for them with lens_entropy(..., top_k=1)")
    check_int("start", start, 0)
    check_int("max_tokens", max_tokens, 1)
    whole = result.select(
        documents=only("document", document, result.documents), orders=only("order", order, result.orders), sites=sites
    )
    positions = whole.position[whole.position >= start][:max_tokens].tolist()
    if not positions:
        raise InputError(f"start={start} lies behind the last position counted in this document, {int(whole.position[-1])}")
    part = whole.select(positions=positions)
    values = part.entropy[:, :, 0].T.numpy()  # [site, token]
    read = [visible(token, LONGEST_LABEL) for token in part.tokens()]
    cells = _cell_texts(part) if top_tokens else None
    with canvas(ax, map_size(len(part.sites), read, cells), **{"xtick.labelsize": 8}) as axes:
        mesh = axes.pcolormesh(values, cmap="viridis", vmin=0, vmax=max(values.max(), 1e-9), edgecolors="white", linewidth=0.4)
        bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=20)
        bar.set_label(quantity(part.orders, part.unit))
        bar.outline.set_visible(False)
        axes.set_xticks(np.arange(len(read)) + 0.5, read, rotation=90, parse_math=False)
        rows = range(0, len(part.sites), row_step(axes, len(part.sites)))
        axes.set_yticks([row + 0.5 for row in rows], [_row_label(part.sites, row) for row in rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("Token read" + (" (in each cell: most probable next token)" if top_tokens else ""))
        axes.set_ylabel("Layer")
        axes.set_title(_map_title(whole, part), parse_math=False)
        size = cell_size(axes, len(read), len(part.sites))
        for label in axes.get_xticklabels():
            label.set_fontsize(min(label.get_fontsize(), size[0] / LINE))
        if cells is not None:
            write(axes, cells, mesh.to_rgba(values), size)
    return axes


def _lines(name: str, result: Lens, orders: Any, sites: Any) -> Iterator[_Line]:
    """The curves of one result, in the order of its sites and orders."""
    chosen = subset("orders", orders, result.orders)
    frame = result.mean_profile().set_index(["order", "site", "layer"])
    for site, (columns, depth) in depth_lines(enumerate(result.sites), sites).items():
        for order in (order for order in result.orders if order in chosen):
            line = frame.loc[[(order, *result.sites[column]) for column in columns]]
            yield _Line(name, site, order, depth, line["mean"].to_numpy(), line["se"].to_numpy(), columns)


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


def _row_label(sites: Sequence[Site], row: int) -> str:
    names = {site.name for site in sites} - {"embed"}
    return str(sites[row]) if len(names) > 1 or sites[row].name == "embed" else str(sites[row].layer)


def _map_title(whole: LensEntropy, part: LensEntropy) -> str:
    """The document's name where it has one, and which part of it is shown where that is not all."""
    name = whole.names.get(int(part.document[0]), "")
    if part.n_tokens == whole.n_tokens:
        return name
    first, last = part.position[[0, -1]].tolist()
    return f"{name or 'Text'}: {part.n_tokens} of {whole.n_tokens} tokens, positions {first} to {last}"


def _cell_texts(part: LensEntropy) -> list[list[str]]:
    """The most probable token of each cell [site, token]."""
    if part.top_tokens is None:
        return []
    return [[visible(part.strings[i], LONGEST_IN_CELL) for i in row] for row in part.top_tokens[:, :, 0].T.tolist()]
