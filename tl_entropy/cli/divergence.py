"""``tl-entropy divergence``: how far every layer's prediction is from the model's output, and where that is decided."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import check_summary, choices_in, layers_in, sites_in
from tl_entropy.cli.edits import Changes, TunedLens, lens_of, measured
from tl_entropy.cli.options import (
    OVER,
    PRECISIONS,
    Layers,
    Precision,
    Sites,
    Source,
    Summary,
    Surprisal,
    Vocabulary,
    generation,
    reads,
)
from tl_entropy.cli.report import report
from tl_entropy.errors import InputError, check_choice
from tl_entropy.sites import HEAD_SITES, Site


@app.command(
    epilog=examples(
        "tl-entropy divergence --model gpt2 --file notes.txt --metrics kl,jsd",
        "tl-entropy divergence --model gpt2 --text 'The capital of France is' --target ' Paris' --target ' London'",
        "tl-entropy divergence --model gpt2 --file notes.txt --ablate 3.1,mlp_out.-1",
    )
)
@reads("tl-entropy-divergence", generation, Changes.of, readouts=True)
def divergence(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    metrics: Annotated[
        str, typer.Option(help="of kl, reverse_kl, jsd, fisher_rao and total_variation, separated by commas")
    ] = "kl,jsd,fisher_rao",
    against: Annotated[str, typer.Option(help="output, previous, or a site such as resid_post.3")] = "output",
    sites: Sites = "embed,resid_post",
    layers: Layers = None,
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
    from tl_entropy.functional.lens.comparison import METRICS

    check_choice("--precision", precision, PRECISIONS)
    check_choice("--vocabulary", vocabulary, OVER)
    check_summary(summary, surprisal=surprisal, target=target, top_k=top_k > 1)
    if against not in ("output", "previous"):
        try:
            Site.parse(against, "--against")
        except InputError as error:
            raise InputError(
                f"--against must be 'output', 'previous' or one site, such as resid_post.3; got {against!r}"
            ) from error
    result = measured(
        tle.layer_divergence, source, changes, generated, metrics=choices_in("--metrics", metrics, METRICS), against=against,
        sites=sites_in(sites, refused=HEAD_SITES), layers=layers_in(layers), surprisal=surprisal, targets=target or (),
        top_k=top_k, lens=lens_of(tuned_lens),
        keep="summary" if summary else "positions", precision=precision, vocabulary=vocabulary,
    )  # fmt: skip
    report(result.to(source.unit), source)
