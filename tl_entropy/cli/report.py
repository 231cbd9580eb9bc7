"""What a command leaves: a printed table, and result, table and figures in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import typer

from tl_entropy.errors import InputError, counted
from tl_entropy.results.files import replacing, write_table, write_text
from tl_entropy.sites import Site

FORMATS = ("png", "pdf", "svg")
MOST_TOLD = 10  # documents

ENDED = [False]
"""Whether what a command has reported covers a part of its inputs only, since Ctrl-C or SIGTERM came."""

Figures = list[tuple[Callable[..., Any], str, dict[str, Any]]]
"""Plots to draw of a result: the function, the file's name, and its options."""


def reportable(found: Any) -> bool:
    """Whether it is a result that can be reported and holds something."""
    tokens: Any = getattr(found, "n_tokens", None) or getattr(found, "tokens", None) or getattr(found, "dynamics", None)
    return type(found).__name__ in (*KINDS, "ModelComparison") and bool(tokens)


@dataclass(frozen=True)
class Leaves:
    """Where a command leaves its results, in what format its figures, and whether there is to be a page of them."""

    out: Path
    format: str
    page: bool


def report(
    result: Any,
    to: Leaves,
    *,
    beside: Iterable[Path] = (),
    more: Iterable[tuple[Callable[[], Any], str]] = (),
    rows: Any = None,
) -> None:
    """Print the table, and what was generated; write result, tables and figures where they go.

    Args:
        result: what was measured.
        to: where to.
        beside: files that are written already, to be told of.
        more: further figures, as for ``drawn``.
        rows: the table to write, where it is to be another than the result's own.
    """
    note_end(result)
    read = [n for name in ("n_tokens", "tokens") if isinstance(n := getattr(result, name, None), int)]
    if ENDED[0] and read and not any(read):
        raise typer.Abort  # before anything was read
    if type(result).__name__ == "ModelComparison":
        _report_comparison(result, to)
        return
    name, table, figures = KINDS[type(result).__name__](result)
    typer.echo(str(result))
    written = [*beside, result.save(to.out / f"{name}.safetensors")]
    rows = rows if rows is not None else result.to_pandas() if table == name else result.mean_profile()
    written.append(write_table(to.out / f"{table}.csv", rows))
    for told in (_told_of_targets, _told_of_generated, _told_of_screening):
        written += told(result, to.out)
    pictures: dict[str, bytes] = {}
    draws = [(partial(plot, result, **options), file) for plot, file, options in figures]
    written += drawn([*draws, *more], to, pictures)
    if to.page:
        written.append(_page(result, written, pictures, to, f'tle.load("{to.out / name}.safetensors")'))
    typer.echo("wrote " + ", ".join(str(path) for path in written))


def note_end(result: Any) -> None:
    """Remember that a result was interrupted, for the command's exit status."""
    ENDED[0] |= any(origin.interrupted for origin in result._origins())


def report_settling(result: Any, at: tuple[float, Any], rho: float, to: Leaves) -> None:
    """Print the deep-thinking ratio at a threshold and its unit; draw by which layer tokens have settled."""
    from tl_entropy import plots

    threshold, unit = at
    single = hasattr(result, "settled")  # not in a summary, which knows its threshold
    ratio = result.deep_thinking_ratio(rho, threshold=threshold, unit=unit) if single else result.deep_thinking_ratio(rho)
    typer.echo(f"deep-thinking ratio, JSD of at most {threshold:g} {unit}, from {rho:g} of the depth on")
    typer.echo(ratio.to_string(index=False))
    written = [write_table(to.out / "deep_thinking.csv", ratio.assign(threshold=threshold, unit=unit, rho=rho))]
    draw = partial(plots.settling, result, threshold=threshold, unit=unit, rho=rho)
    written += drawn([(draw, "settling")], to, {})
    typer.echo("wrote " + ", ".join(map(str, written)))


def _report_comparison(result: Any, to: Leaves) -> None:
    from tl_entropy.plots.models.comparison import comparison
    from tl_entropy.plots.profiles.distances import distances
    from tl_entropy.plots.profiles.dynamics import importance
    from tl_entropy.plots.states.similarity import similarity as layers
    from tl_entropy.results.models.comparison import INDEX, file_stems

    typer.echo(str(result))
    folder = result.save(to.out)
    written = [folder / name for name in (INDEX, *result.files)]
    written.append(write_table(folder / "dynamics.csv", result.to_pandas()))
    figures: list[tuple[Any, str]] = [(partial(comparison, result), "comparison")]
    figures.append((partial(importance, dict(result.dynamics)), "importance"))
    if result.distances is not None:
        written.append(write_table(folder / "distances.csv", result.distances.to_pandas()))
        figures.append((partial(distances, result.distances), "distances"))
    stems = file_stems(result.names)
    figures += [(partial(layers, found), f"similarity_{stems[name]}") for name, found in result.similarity.items()]
    for (one, other), found in result.across.items():
        figures.append((partial(layers, found, labels=(one, other)), f"across_{stems[one]}_{stems[other]}"))
    pictures: dict[str, bytes] = {}
    written += drawn(figures, to, pictures)
    if to.page:
        written.append(_page(result, written, pictures, to, f'tle.load("{folder}")'))
    typer.echo(f"wrote {', '.join(sorted(map(str, written)))}")


def _page(result: Any, written: list[Path], pictures: dict[str, bytes], to: Leaves, load: str) -> Path:
    from tl_entropy.cli.page import write_page

    lines = f"import tl_entropy as tle\n\nresult = {load}\nresult.to_pandas()"
    return write_page(to.out / "report.html", result, origins=result._origins(), figures=pictures, files=written, load=lines)


def drawn(figures: Iterable[tuple[Callable[[], Any], str]], to: Leaves, pictures: dict[str, bytes]) -> list[Path]:
    """Write what each function draws, under its file name; what cannot be drawn is told, and left out.

    Where there is to be a page, what is drawn is put into ``pictures``, too, as PNG.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    written = []
    for draw, name in figures:
        file = f"{name}.{to.format}"
        try:
            axes = draw()
        except InputError as error:  # such as labels too rare for any value
            typer.echo(f"tl-entropy: no {file}: {error}", err=True)
            continue
        figure = (axes[0] if isinstance(axes, list) else axes).figure
        written.append(to.out / file)
        with plt.rc_context({"pdf.fonttype": 42}):  # letters stay letters, and not shapes, which some journals refuse
            with replacing(written[-1]) as waiting:
                figure.savefig(waiting, format=to.format, dpi=150, bbox_inches="tight")
            if to.page:
                figure.savefig(picture := BytesIO(), format="png", dpi=150, bbox_inches="tight")
                pictures[name] = picture.getvalue()
        plt.close(figure)
    return written


def _told_of_targets(result: Any, out: Path) -> list[Path]:
    """Where targets were asked for: their ranks for the prediction after each document, printed, and all in a table."""
    if not getattr(result, "targets", ()):
        return []
    wanted = [f"{what} of {name}" for name in result.target_names for what in ("rank", "surprisal")]
    frame = result.to_pandas()[["document", "position", "token", "site", "layer", *wanted]]
    place = [str(Site(name, layer)) for name, layer in zip(frame["site"], frame["layer"], strict=True)]
    ends = frame["position"] == frame.groupby("document")["position"].transform("max")
    ranks = frame.assign(place=place)[ends].set_index("place")
    for document in result.documents[:MOST_TOLD]:
        here = ranks[ranks["document"] == document]
        typer.echo(f"after document {document}, {here['token'].iloc[0]!r}: how many tokens are at least as probable")
        typer.echo(here[[name for name in wanted if name.startswith("rank")]].astype(int).rename_axis(None).to_string())
    _more(len(result.documents), "in targets.csv")
    return [write_table(out / "targets.csv", frame)]


def _told_of_generated(result: Any, out: Path) -> list[Path]:
    """Where text was generated: that, printed, and in a file."""
    generated = getattr(result, "generated", None)
    if generated is None:
        return []
    written = {}
    for document in result.documents:
        here = (result.document == document) & generated
        written[document] = "".join(result.strings[token] for token in result.token[here].tolist())
    for document, text in list(written.items())[:MOST_TOLD]:
        typer.echo(f"document {document} goes on: {text!r}")
    _more(len(written), "in generated.json")
    return [write_text(out / "generated.json", json.dumps(written, indent=1, ensure_ascii=False))]


def _told_of_screening(result: Any, out: Path) -> list[Path]:
    """Where neurons were chosen among all of their layers: what the weights of each say, in a table."""
    if not hasattr(result, "screening"):
        return []
    return [write_table(out / "screening.csv", result.screening())]


def _more(documents: int, where: str) -> None:
    if documents > MOST_TOLD:
        typer.echo(f"and {counted(documents - MOST_TOLD, 'document')} more, {where}")


def _lens(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    figures: Figures = [(plots.profile, "profile", {})]
    if hasattr(result, "top_tokens"):  # not in a summary
        order = result.orders[0] if 1.0 not in result.orders else 1.0
        shown = {"document": result.documents[0], "order": order, "top_tokens": result.top_tokens is not None}
        figures.append((plots.heatmap, "heatmap", shown))
    return "lens", "profile", figures


def _divergence(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    figures: Figures = [(plots.divergences, metric, {"metric": metric}) for metric in result.metrics]
    figures.append((plots.decisions, "decisions", {}))
    if hasattr(result, "top_tokens"):
        document = result.documents[0]
        figures.append((plots.heatmap, "heatmap", {"document": document, "top_tokens": True}))
        if result.targets:
            last = int(result.position[result.document == document][-1])
            figures.append((plots.targets, "targets", {"document": document, "position": last}))
    return "divergence", "profile", figures


def _heads(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    figures: Figures = [(plots.heads, f"heads_order_{order:g}", {"order": order}) for order in result.orders]
    if result.of == "pattern":
        figures.append((plots.heads, "heads_bos_share", {"of": "bos_share"}))
    return "heads", "profile", figures


def _contrast(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    figures: Figures = []
    taken: set[str] = set()
    for i, quantity in enumerate(result.quantities):
        file = "".join(c if c.isalnum() else "_" for c in quantity)
        file = f"{file}_{i}" if file in taken else file  # two targets may differ in other characters alone
        taken.add(file)
        figures.append((plots.contrast, f"contrast_{file}", {"quantity": quantity}))
    shown = {"quantity": result.quantities[0], "document": result.documents[0]}
    return "contrast", "profile", [*figures, (plots.contrast_map, "contrast_map", shown)]


def _information(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    figures: Figures = [(plots.information, "information", {}), (plots.information, "entropy", {"of": "entropy"})]
    if all(result.sides.count(side) == 1 for side in ("input", "output")):
        figures.append((plots.information_plane, "information_plane", {}))
    for site in sorted({s.name for s, head in zip(result.sites, result.heads, strict=True) if head >= 0}):
        figures += [(plots.heads, f"heads_{site}_{label}", {"label": label, "site": site}) for label in result.labels]
    return "information", "information", figures


def _tokens(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    figures: Figures = []
    if hasattr(result, "token") and result.n_tokens:  # not in a summary
        figures.append((plots.token_text, "tokens", {"document": result.documents[0]}))
    return "tokens", "tokens", figures


def _site_values(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    name = "unigram" if "unigram_kl" in result.measured else "confidence"
    return name, name, [(plots.by_layer, quantity, {"quantity": quantity}) for quantity in result.measured]


def _calibration(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    figures: Figures = [(plots.calibration, "calibration", {}), (plots.calibration, "difference", {"difference": True})]
    return "calibration", "calibration", figures


def _sensitivity(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    return "sensitivity", "sensitivity", [(plots.sensitivity, "sensitivity", {})]


def _placebo(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    return "placebo", "placebo", [(plots.placebo, "placebo", {})]


def _neurons(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    return "neurons", "neurons", [(plots.neurons, of, {"of": of}) for of in ("entropy", "loss")]


def _features(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    return "features", "features", [(plots.features, "features", {})]


def _discrimination(result: Any) -> tuple[str, str, Figures]:
    from tl_entropy import plots

    return "discrimination", "discrimination", [(plots.discrimination, of, {"of": of}) for of in ("auroc", "risk")]


KINDS: dict[str, Callable[[Any], tuple[str, str, Figures]]] = {
    "LensEntropy": _lens, "LensSummary": _lens, "LayerDivergence": _divergence, "DivergenceSummary": _divergence,
    "HeadEntropy": _heads, "HeadSummary": _heads, "Contrast": _contrast, "SoftInformation": _information,
    "TokenSurprisal": _tokens, "SurprisalSummary": _tokens,
    "Confidence": _site_values, "UnigramDistance": _site_values, "SiteMeans": _site_values,
    "EntropyCalibration": _calibration, "NeuronEffects": _neurons, "Placebo": _placebo, "Sensitivity": _sensitivity,
    "SpanFeatures": _features, "Discrimination": _discrimination,
}  # fmt: skip
"""What can be reported: names of the result's and the table's file, and the figures, by the kind of result."""
