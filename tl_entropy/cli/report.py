"""What a command leaves: a printed table, and result, table and figures in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import typer

from tl_entropy.errors import InputError

Figures = list[tuple[Callable[..., Any], str, dict[str, Any]]]
"""Plots to draw of a result: the function, the file's name, and its options."""


def reportable(found: Any) -> bool:
    """Whether it is a result that can be reported and holds something."""
    tokens: Any = getattr(found, "n_tokens", None) or getattr(found, "tokens", None) or getattr(found, "dynamics", None)
    return type(found).__name__ in (*KINDS, "ModelComparison") and bool(tokens)


def report(result: Any, out: Path) -> None:
    """Print the table; write result, table and figures into ``out``."""
    if type(result).__name__ == "ModelComparison":
        _report_comparison(result, out)
        return
    name, table, figures = KINDS[type(result).__name__](result)
    typer.echo(str(result))
    out.mkdir(parents=True, exist_ok=True)
    written = [result.save(out / f"{name}.safetensors"), out / f"{table}.csv"]
    (result.to_pandas() if table == name else result.mean_profile()).to_csv(written[-1], index=False)
    written += drawn(((partial(plot, result, **options), file) for plot, file, options in figures), out)
    typer.echo("wrote " + ", ".join(str(path) for path in written))


def _report_comparison(result: Any, out: Path) -> None:
    from tl_entropy.plots.models.comparison import comparison
    from tl_entropy.plots.profiles.distances import distances
    from tl_entropy.plots.profiles.dynamics import importance
    from tl_entropy.plots.states.similarity import similarity as layers
    from tl_entropy.results.models.comparison import INDEX, file_stems

    typer.echo(str(result))
    folder = result.save(out)
    written = [folder / name for name in (INDEX, *result.files, "dynamics.csv")]
    result.to_pandas().to_csv(written[-1], index=False)
    figures: list[tuple[Any, str]] = [(partial(comparison, result), "comparison")]
    figures.append((partial(importance, dict(result.dynamics)), "importance"))
    if result.distances is not None:
        written.append(folder / "distances.csv")
        result.distances.to_pandas().to_csv(written[-1], index=False)
        figures.append((partial(distances, result.distances), "distances"))
    stems = file_stems(result.names)
    figures += [(partial(layers, found), f"similarity_{stems[name]}") for name, found in result.similarity.items()]
    for (one, other), found in result.across.items():
        figures.append((partial(layers, found, labels=(one, other)), f"across_{stems[one]}_{stems[other]}"))
    written += drawn(figures, folder)
    typer.echo(f"wrote {', '.join(sorted(map(str, written)))}")


def drawn(figures: Iterable[tuple[Callable[[], Any], str]], out: Path) -> list[Path]:
    """Write into ``out`` what each function draws, under its file name; what cannot be drawn is told, and left out."""
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    written = []
    for draw, file in figures:
        try:
            axes = draw()
        except InputError as error:  # such as labels too rare for any value
            typer.echo(f"tl-entropy: no {file}.png: {error}", err=True)
            continue
        figure = (axes[0] if isinstance(axes, list) else axes).figure
        written.append(out / f"{file}.png")
        figure.savefig(written[-1], dpi=150, bbox_inches="tight")
        plt.close(figure)
    return written


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


KINDS: dict[str, Callable[[Any], tuple[str, str, Figures]]] = {
    "LensEntropy": _lens, "LensSummary": _lens, "LayerDivergence": _divergence, "DivergenceSummary": _divergence,
    "HeadEntropy": _heads, "HeadSummary": _heads, "Contrast": _contrast, "SoftInformation": _information,
    "TokenSurprisal": _tokens, "SurprisalSummary": _tokens,
}  # fmt: skip
"""What can be reported: names of the result's and the table's file, and the figures, by the kind of result."""
