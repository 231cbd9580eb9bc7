"""What each layer would have predicted: its distance from the output, where the output is decided, single target tokens.

A figure only reads a result of ``layer_divergence``; several results, such as a logit lens and a tuned lens, share one figure.

Refused: two units in one figure; quantities that a result does not hold; leaving open which document of several is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int
from tl_entropy.plots.cells import visible
from tl_entropy.plots.depth import BEFORE_END, depth_axis, depth_lines, draw_course
from tl_entropy.plots.kinds import kind_of
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import (
    NORMAL_95,
    Limits,
    Width,
    canvas,
    from_zero,
    line_styles,
    named,
    only,
    set_title,
)
from tl_entropy.results import DivergenceSummary, LayerDivergence
from tl_entropy.results.base import PER_NAT
from tl_entropy.results.lens.divergence import unit_of
from tl_entropy.results.lens.settling import STREAM_SITES
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady

Divergence = LayerDivergence | DivergenceSummary

SHARES = ("agreement", "decided")  # of tokens: from 0 to 1
LONGEST_TITLE = 40  # characters


@dataclass(frozen=True)
class Line:
    """One curve."""

    key: tuple[str, ...]
    depth: np.ndarray
    mean: np.ndarray
    half: np.ndarray | None
    """Half of the band's height."""


@steady
def divergences(
    results: Divergence | Sequence[Divergence] | Mapping[str, Divergence],
    *,
    metric: str | None = None,
    sites: Places | None = None,
    band: Literal["se", "sd"] | None = "se",
    labels: Sequence[str] | None = None,
    log: bool = False,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Mean divergence against depth, one line for each result and site name.

    Tick l of the x axis is the residual stream after block l; sites inside that block stand between l - 1 and l. The line of
    the residual stream begins at ``embed``. The y axis begins at 0 unless it is logarithmic, or most of it would be empty.

    Args:
        results: one result of ``layer_divergence``, several, or a mapping from names to results, such as
            ``{"logit lens": a, "tuned lens": b}``.
        metric: what to draw; None is the first metric of the (first) result. Anything that ``mean_profile`` knows will do:
            agreement, decided, surprisal, "rank of ' Paris'" (counted from 1 here, as in all figures).
        sites: short names to draw, or single places, as in ``select``; None is all.
        band: "se" shades ±1.96 standard errors over documents (nothing for a single document), "sd" ±1 standard deviation over
            tokens; None shades nothing.
        labels: names of several results in the legend; None takes the names of their models.
        log: a logarithmic y axis, from which values of 0 (the last site, compared with the output) are left out.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: results in different units or without tokens, a metric or site that is not there, names that are missing
            or equal, a logarithmic axis without a value above 0, deviations of a summary whose file is from
            before there were any.
        InputTypeError: something that is no result of ``layer_divergence``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.layer_divergence(tle.demo_model(), "import os\n", progress=False)
    >>> tle.plots.divergences(result).get_ylabel()
    'KL(output ‖ layer) (nats)'
    """
    check_choice("band", band, ("se", "sd", None))
    by_name = named(results, (LayerDivergence, DivergenceSummary), "layer_divergence", labels)
    metric = next(iter(by_name.values())).metrics[0] if metric is None else metric
    if not isinstance(metric, str):
        raise InputTypeError(f"metric must be the name of one, or None; got {metric!r}")
    if len({unit_of(metric, result.unit) for result in by_name.values()}) > 1:
        raise InputError("results are in nats and in bits; bring them to one unit with result.to('bits')")
    lines = [line for name, result in by_name.items() for line in _lines(name, result, metric, sites, band)]
    if log and not any((line.mean > 0).any() for line in lines):
        raise InputError(f"log: there is no {metric} above 0 to draw on a logarithmic axis; leave log out")
    references = {result.against for result in by_name.values()}
    name = divergence_name(metric, next(iter(by_name.values())).unit, references.pop() if len(references) == 1 else None)
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        draw(axes, lines, log=log)
        axes.set_ylabel(name[0].upper() + name[1:], parse_math=False)
        finish(axes, share=metric in SHARES, log=log, legend=len(lines) > 1, own=ax is None)
    return axes


@steady
def decisions(
    results: Divergence | Sequence[Divergence] | Mapping[str, Divergence],
    *,
    band: Literal["se"] | None = "se",
    labels: Sequence[str] | None = None,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Share of tokens that are decided by each layer, and beside it the share whose top token agrees with the output's.

    A token is decided at the first site of the residual stream from which the most probable token is, there and at all later
    ones, that of the model's own output. Agreement may come and go again, so its line is never below that of "decided"; the
    gap is agreement that does not last. Both are judged by the sites of the residual stream in the result.

    Args:
        results: one result of ``layer_divergence``, several, or a mapping from names to results.
        band: "se" shades ±1.96 standard errors over documents (nothing for a single document); None shades nothing.
        labels: names of several results in the legend; None takes the names of their models.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: a result without tokens or without a site of the residual stream, names that are missing or equal.
        InputTypeError: something that is no result of ``layer_divergence``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.layer_divergence(tle.demo_model(), "import os\n", progress=False)
    >>> [text.get_text() for text in tle.plots.decisions(result).get_legend().get_texts()]
    ['decided', 'agrees with the output']
    """
    check_choice("band", band, ("se", None))
    by_name = named(results, (LayerDivergence, DivergenceSummary), "layer_divergence", labels)
    lines = [line for name, result in by_name.items() for line in _decision_lines(name, result, band)]
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        draw(axes, lines, log=False)
        axes.set_ylabel("Share of tokens")
        finish(axes, share=True, log=False, legend=True, own=ax is None)
    return axes


@steady
def targets(
    result: LayerDivergence,
    *,
    document: int | None = None,
    position: int | None = None,
    of: Literal["rank", "probability", "surprisal"] = "rank",
    sites: Places | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Rank, probability or surprisal of the target tokens at every site, for the prediction made at one position.

    Ranks are counted from 1 here, on a logarithmic axis with the most probable token at its top. The title ends with the
    token read at the position: what is drawn are predictions of the token after it.

    Args:
        result: what ``layer_divergence(..., targets=...)`` returned.
        document: number of the text; None takes the only one.
        position: index of the token read in its document, negative from the last that the result holds of it; None takes
            the only one in the result.
        of: "rank", "probability" or "surprisal".
        sites: short names to draw, or single places, as in ``select``; None is all.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: a result without targets, several documents or positions and none chosen, or one or a site that is not
            there.
        InputTypeError: a summary, which holds no single token, or something that is no result of ``layer_divergence``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> result = tle.layer_divergence(tle.demo_model(), "import os\n", targets=(" os", "\n"), progress=False)
    >>> axes = tle.plots.targets(result, position=0)
    >>> axes.get_title(), [text.get_text() for text in axes.get_legend().get_texts()]
    ('After “import”', ['␣os', '↵'])
    """
    if not isinstance(result, LayerDivergence):
        raise InputTypeError(f"result must be a LayerDivergence, which holds every position; got {kind_of(result)}")
    check_choice("of", of, ("rank", "probability", "surprisal"))
    if result.target_rank is None or result.target_surprisal is None:
        raise InputError("result holds no targets; ask for them with layer_divergence(..., targets=(' Paris', ' London'))")
    whole = result.select(documents=only("document", document, result.documents))
    position = check_int("position", only("position", position, whole.position.tolist()), -len(whole.position))
    row = int(whole.rows(positions=position).nonzero())
    ranks, surprisals = (getattr(whole, name)[row].double() for name in ("target_rank", "target_surprisal"))
    values = {
        "rank": ranks + 1,
        "probability": (-surprisals / PER_NAT[whole.unit]).exp(),
        "surprisal": surprisals,
    }[of].numpy()  # [site, target]
    lines = [
        Line((name, site), depth, values[columns, i], None)
        for site, (columns, depth) in depth_lines(enumerate(whole.sites), sites).items()
        for i, name in enumerate(_target_labels(whole))
    ]
    name = {"rank": "Rank (1 is the most probable)", "probability": "Probability", "surprisal": f"Surprisal ({whole.unit})"}
    with canvas(ax, (4.8, 3.4), width=width) as axes:
        draw(axes, lines, log=of == "rank")
        axes.set_ylabel(name[of])
        set_title(axes, f"After “{_text_before(whole, row)}”")
        finish(axes, share=False, log=of == "rank", legend=True, own=ax is None)
        if of == "rank":
            axes.set_ylim(max(10.0, 1.3 * axes.dataLim.y1), 0.8)
    return axes


def divergence_name(quantity: str, unit: str, against: str | None) -> str:
    """What an axis says of a quantity of ``layer_divergence``; ``against`` None leaves open what is compared with.

    >>> divergence_name("kl", "bits", "previous"), divergence_name("jsd", "nats", "output")
    ('KL(previous ‖ layer) (bits)', 'JSD to output (nats)')
    """
    other, to = against or "reference", f" to {against}" if against else ""
    name = {
        "kl": f"KL({other} ‖ layer)",
        "reverse_kl": f"KL(layer ‖ {other})",
        "jsd": f"JSD{to}",
        "fisher_rao": f"Fisher-Rao distance{to}",
        "total_variation": f"total variation{to}",
        "agreement": "top token as in the output (share)",
        "decided": "decided (share of tokens)",
        "surprisal": "surprisal of the next token",
        "rank": "rank of the next token",
    }.get(quantity, quantity)
    name += " (1 is first)" if is_rank(quantity) else ""
    unit = unit_of(quantity, unit)  # type: ignore[arg-type]
    return f"{name} ({unit})" if unit else name


def is_rank(quantity: str) -> bool:
    """Whether a quantity of ``layer_divergence`` is a rank, which figures count from 1 since their axes are logarithmic."""
    return quantity == "rank" or quantity.startswith("rank of ")


def _lines(name: str, result: Divergence, metric: str, sites: Any, band: str | None) -> Iterator[Line]:
    """The curves of one result, one for each site name."""
    frame = result.mean_profile(metric).set_index(["site", "layer"])
    there = [(i, site) for i, site in enumerate(result.sites) if tuple(site) in frame.index]
    for site, (columns, depth) in depth_lines(there, sites).items():
        line = frame.loc[[tuple(result.sites[column]) for column in columns]]
        mean = line["mean"].to_numpy() + is_rank(metric)
        half = None if band is None else NORMAL_95 * line["se"].to_numpy()
        if band == "sd":
            half = result.deviation(metric)[columns].numpy()
        yield Line((name, site, f"against {result.against}"), depth, mean, half)


def _decision_lines(name: str, result: Divergence, band: str | None) -> Iterator[Line]:
    """The two curves of one result, through all states of the residual stream."""
    stream = [site for site in result.sites if site.name in STREAM_SITES]
    if not stream:
        raise InputError(f"results: {name} holds no state of the residual stream ({', '.join(sorted(STREAM_SITES))})")
    stream.sort(key=lambda site: site.layer - BEFORE_END[site.name])
    depth = np.array([site.layer - BEFORE_END[site.name] for site in stream])
    for quantity, shown in (("decided", "decided"), ("agreement", "agrees with the output")):
        frame = result.mean_profile(quantity).set_index(["site", "layer"])
        line = frame.loc[[tuple(site) for site in stream]]
        half = None if band is None else NORMAL_95 * line["se"].to_numpy()
        yield Line((name, shown), depth, line["mean"].to_numpy(), half)


def draw(axes: Axes, lines: Sequence[Line], *, log: bool) -> None:
    """The curves with their bands, and the axis of depth."""
    if log:
        axes.set_yscale("log", nonpositive="clip")
    for line, (style, label) in zip(lines, line_styles([line.key for line in lines]), strict=True):
        mean = np.where(line.mean > 0, line.mean, np.nan) if log else line.mean
        draw_course(axes, line.depth, mean, line.half, style=style, label=label, errors=1.0)
    depth_axis(axes, [line.depth for line in lines])


def finish(axes: Axes, *, share: bool, log: bool, legend: bool, own: bool) -> None:
    """Ticks, limits that still follow what is drawn on these axes later, and a legend."""
    axes.autoscale_view()
    if log:
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif share:
        axes.set_ylim(-0.03, 1.05)  # with room for marks at 0
    else:
        from_zero(axes)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        add_legend(axes, own=own)


def _target_labels(result: LayerDivergence) -> list[str]:
    """The targets as one visible line each, with their ids where two would be alike."""
    shown = [visible(result.strings[token], 16) for token in result.targets]
    return [f"{text} ({token})" if shown.count(text) > 1 else text for text, token in zip(shown, result.targets, strict=True)]


def _text_before(result: LayerDivergence, row: int) -> str:
    """The end of the text up to a row, as far as the result holds it without a gap."""
    first = row
    while first and int(result.position[first - 1]) == int(result.position[first]) - 1:
        first -= 1
    text = "".join(result.tokens()[first : row + 1])
    shown = visible(text, len(text) * 8 + 1)
    return shown if len(shown) <= LONGEST_TITLE else "…" + shown[1 - LONGEST_TITLE :]
