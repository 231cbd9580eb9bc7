"""``tl-entropy divergence``: how far every layer's prediction is from the model's output, and where that is decided."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tl_entropy.cli.app import app
from tl_entropy.cli.edits import Changes, TunedLens, lens_of, measured
from tl_entropy.cli.options import Precision, Sites, Source, Summary, Surprisal, Vocabulary, generation, names, reads
from tl_entropy.cli.report import report


@app.command()
@reads("tl-entropy-divergence", generation, Changes.of)
def divergence(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    metrics: Annotated[
        str, typer.Option(help="of kl, reverse_kl, jsd, fisher_rao and total_variation, separated by commas")
    ] = "kl,jsd,fisher_rao",
    against: Annotated[str, typer.Option(help="output, previous, or a site such as resid_post.3")] = "output",
    sites: Sites = "embed,resid_post",
    target: Annotated[
        list[str] | None, typer.Option(help="a token whose rank at every site is wanted; may be given several times")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="most probable tokens to keep at every site")] = 1,
    surprisal: Surprisal = False,
    summary: Summary = False,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
    tuned_lens: TunedLens = None,
) -> None:
    """Divergence of every layer's prediction from the model's output, and the share of tokens decided there."""
    import tl_entropy as tle

    result = measured(
        tle.layer_divergence, source, changes, generated, metrics=names(metrics), against=against, sites=names(sites),
        surprisal=surprisal, targets=target or (), top_k=top_k, lens=lens_of(tuned_lens),
        keep="summary" if summary else "positions", precision=precision, vocabulary=vocabulary,
    )  # fmt: skip
    report(result.to(source.unit), source.out)
