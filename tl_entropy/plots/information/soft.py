"""Soft entropy and mutual information against depth; ``head_maps`` draws those of single heads.

A figure only reads a result (``SoftInformation``): values, standard errors, label sets and units are the result's, and where a
result holds several draws of anchors, what is drawn is the mean over them. ``result.select(n_bins=..., seeds=...)`` narrows it.

Refused: two units in one figure; a chance level or ceiling beside a quantity that it does not belong to; places and label sets
that are not there, or of which there is no value at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from tl_entropy.errors import InputError, check_choice
from tl_entropy.plots.depth import depth_axis, depth_lines, draw_course
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.soft_values import axis_name, bound, means, no_finding, reason, results_by_name, same_for_all
from tl_entropy.plots.style import Limits, Width, canvas, from_zero, line_styles, subset
from tl_entropy.results import SoftInformation
from tl_entropy.results.information.soft import QUANTITIES, Quantity
from tl_entropy.results.information.tables import UNSURE
from tl_entropy.sites import Places
from tl_entropy.torch_state import steady

BOUNDED = ("information", "share", "plug_in", "null", "lower", "fold_jackknife", "chance_adjusted")


@dataclass(frozen=True)
class _Line:
    """One curve; ``ceiling`` and ``null`` are those of its label set along it."""

    source: str
    site: str
    label: str
    depth: np.ndarray
    value: np.ndarray
    se: np.ndarray
    ceiling: np.ndarray
    null: np.ndarray
    unsure: np.ndarray


@steady
def information(
    results: SoftInformation | Sequence[SoftInformation] | Mapping[str, SoftInformation],
    *,
    of: Quantity = "information",
    labels: str | Iterable[str] | None = None,
    sites: Places | None = None,
    band: Literal["se"] | None = "se",
    ceiling: bool = False,
    null: bool = False,
    ylim: Limits = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    r"""A quantity of soft information against depth, one line for each result, site name and label set.

    Tick l of the x axis is the residual stream after block l; sites inside that block stand between l - 1 and l. The line of
    the residual stream begins at ``embed``. Heads are not drawn: see ``heads``. Several draws of anchors (seeds, n_bins) give
    their mean, unless the result was narrowed with ``select``. Where a value is NaN the line has a gap; a line without any
    value says why in the legend. H(Z) and the ceiling are one line for all label sets that share their positions. Information
    and shares have a ring where the printed table says *unsure*.

    Args:
        results: one result, several, or a mapping from names to results.
        of: what to draw: information, share, entropy, efficiency, plug_in, null, ceiling, regularity, corrected_ceiling, lower,
            fold_jackknife, chance_adjusted.
        labels: label sets to draw; None is all.
        sites: short names to draw, or single places, as in ``select``; None is all that are not heads.
        band: "se" shades ±1.96 standard errors over documents and anchors (nothing for a single document); None shades nothing.
        ceiling: a dashed line at the most that any labels could say, layer by layer (at 1 where ``of`` is "share").
            That of plug_in, null and chance_adjusted is the plug-in ceiling, that of the others the corrected one.
        null: a dotted line at the value that shuffled labels have; only of "plug_in", since the others are made without it.
        ylim: low and high end of the y axis, either of which may be None; None follows what is drawn.
        width: of a new figure: "column" (3.4 inches), "page" (7) or inches, with text for print at that size.
        ax: axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        InputError: a quantity, label set or site that is not there, results in different units, of different estimators or of
            equal names, no value at all, nothing but heads, or a ceiling or chance level of a quantity that has none.
        InputTypeError: something that is no result of ``soft_information``.

    >>> import matplotlib; matplotlib.use("agg")
    >>> import tl_entropy as tle
    >>> texts = [text[:600] for text in tle.demo_texts(4)]
    >>> result = tle.soft_information(tle.demo_model(), texts, layers=[0, 5], progress=False)
    >>> axes = tle.plots.information(result)
    >>> axes.get_ylabel(), [text.get_text() for text in axes.get_legend().get_texts()]
    ('I(X;Z) (nats)', ['token', 'next_token'])
    """
    check_choice("of", of, QUANTITIES)
    check_choice("band", band, ("se", None))
    if ceiling and of not in BOUNDED:
        raise InputError(f"ceiling: bounds {', '.join(BOUNDED)}, not {of}; leave it out, or draw of='ceiling'")
    if null and of != "plug_in":
        raise InputError(f"null: the chance level of the plug-in value says nothing of {of}; draw it with of='plug_in'")
    by_name = results_by_name(results, of)
    alike = all(same_for_all(result, of, subset("labels", labels, result.labels)) for result in by_name.values())
    lines = [line for name, result in by_name.items() for line in _lines(name, result, of, labels, sites, alike)]
    reasons = {id(line): reason(by_name[line.source].select(labels=line.label)) for line in lines if np.isnan(line.value).all()}
    if len(reasons) == len(lines):
        raise InputError(f"of={of!r}: no value to draw; {'; '.join(dict.fromkeys(reasons.values()))}")
    styles = line_styles([(line.source, line.site, "" if alike else line.label) for line in lines])
    label_sets = set() if alike else {line.label for line in lines}
    name = axis_name(of, next(iter(by_name.values())).unit, label_sets.pop() if len(label_sets) == 1 else None)
    with canvas(ax, (4.8, 3.4), width=width, ylim=ylim) as axes:
        for line, (style, label) in zip(lines, styles, strict=True):
            label = name.partition(" (")[0] if len(lines) == 1 else label
            label += f" (nan: {reasons[id(line)].partition(':')[0]})" if id(line) in reasons else ""
            draw_course(axes, line.depth, line.value, line.se if band else None, style=style, label=label)
        ringed = _rings(axes, lines, styles)
        if ceiling:
            _references(axes, lines, styles, "ceiling", "ceiling", (0, (6, 4)))
        if null:
            _references(axes, lines, styles, "null", "chance level", (0, (1, 1.5)))
        depth_axis(axes, [line.depth for line in lines])
        axes.set_ylabel(name, parse_math=False)
        from_zero(axes)
        if axes.dataLim.y0 < 0:
            axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1 or ceiling or null or ringed:
            add_legend(axes, own=ax is None)
    return axes


def _lines(
    name: str, result: SoftInformation, of: Quantity, labels: str | Iterable[str] | None, sites: Any, alike: bool
) -> Iterator[_Line]:
    """The curves of one result, by site and label set; only the first label set's where they are alike."""
    places = [(i, site) for i, (site, head) in enumerate(zip(result.sites, result.heads, strict=True)) if head < 0]
    if not places:
        raise InputError(f"results: {name} holds nothing but heads; draw them with plots.heads(result)")
    (values, errors), ceilings, nulls = means(result, of), means(result, bound(result, of))[0], means(result, "null")[0]
    flags = no_finding(result, of)
    if of == "share":
        ceilings = np.ones_like(ceilings)
    for site, (rows, depth) in depth_lines(places, sites).items():
        for label in subset("labels", labels, result.labels)[: 1 if alike else None]:
            of_it = (rows, result.labels.index(label))
            yield _Line(name, site, label, depth, values[of_it], errors[of_it], ceilings[of_it], nulls[of_it], flags[of_it])


def _rings(axes: Axes, lines: Sequence[_Line], styles: Sequence[Any]) -> bool:
    """A ring around each value that is no finding, in its line's colour; whether there is any."""
    some = [(line, style) for line, (style, _) in zip(lines, styles, strict=True) if line.unsure.any()]
    for i, (line, style) in enumerate(some):
        ring: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 9, "markerfacecolor": "none"}
        shown, at = UNSURE if i == 0 else None, line.unsure
        axes.plot(line.depth[at], line.value[at], color=style["color"], markeredgewidth=0.8, label=shown, **ring)
    return bool(some)


def _references(axes: Axes, lines: Sequence[_Line], styles: Sequence[Any], what: str, label: str, dash: Any) -> None:
    """The ceiling or chance level along each line, one where several lines share it: grey if it is the only one."""
    kept: list[tuple[_Line, Any]] = []
    for line, (style, _) in zip(lines, styles, strict=True):
        same = [k for k, _ in kept if (k.source, k.site) == (line.source, line.site)]
        if not any(np.allclose(getattr(k, what), getattr(line, what), rtol=1e-9) for k in same):
            kept.append((line, style["color"]))
    for i, (line, colour) in enumerate(kept):
        colour = "0.4" if len(kept) == 1 else colour
        shown = label if i == 0 else None
        axes.plot(line.depth, getattr(line, what), color=colour, linestyle=dash, linewidth=1, zorder=1.5, label=shown)
