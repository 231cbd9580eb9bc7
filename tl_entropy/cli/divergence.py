"""``tl-entropy divergence``: how far every layer's prediction is from the model's output, and where that is decided."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import check_summary, choices_in, layers_in, sites_in, threshold_in
from tl_entropy.cli.edits import Changes, TunedLens, lens_of, measured
from tl_entropy.cli.options import (
    OVER,
    PRECISIONS,
    Layers,
    Precision,
    SitesOrLens,
    Source,
    Summary,
    Surprisal,
    Vocabulary,
    generation,
    reads,
)
from tl_entropy.cli.report import report, report_settling
from tl_entropy.errors import InputError, check_choice
from tl_entropy.sites import INNER_SITES, Site


@app.command(
    epilog=examples(
        "tl-entropy divergence --model gpt2 --file notes.txt --metrics kl,jsd",
        "tl-entropy divergence --model gpt2 --text 'The capital of France is' --target ' Paris' --target ' London'",
        "tl-entropy divergence --model gpt2 --file notes.txt --ablate 3.1,mlp_out.-1",
        "tl-entropy divergence --model gpt2 --file notes.txt --metrics jsd --settled 0.5bits --rho 0.85",
    )
)
@reads("tl-entropy-divergence", generation, Changes.of, bundled=True, readouts=True)
def divergence(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    metrics: Annotated[
        str, typer.Option(help="of kl, reverse_kl, jsd, fisher_rao and total_variation, separated by commas")
    ] = "kl,jsd,fisher_rao",
    against: Annotated[str, typer.Option(help="output, previous, or a site such as resid_post.3")] = "output",
    sites: SitesOrLens = None,
    layers: Layers = None,
    target: Annotated[
        list[str] | None, typer.Option(help="a token whose rank at every site is wanted; may be given several times")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="most probable tokens to keep at every site")] = 1,
    surprisal: Surprisal = False,
    summary: Summary = False,
    settled: Annotated[
        str | None, typer.Option(help="share of tokens that have settled by each layer, at this threshold, such as 0.5bits")
    ] = None,
    rho: Annotated[float, typer.Option(help="share of the depth from which on a token that settles is deep")] = 0.85,
    final_norm: Annotated[
        bool, typer.Option(help="read the layers through the final norm, or by the unembedding alone")
    ] = True,
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
    at = None if settled is None else threshold_in("--settled", settled)
    if at and "jsd" not in choices_in("--metrics", metrics, METRICS):
        raise InputError("--settled needs jsd among --metrics")
    if against not in ("output", "previous"):
        try:
            Site.parse(against, "--against")
        except InputError as error:
            raise InputError(
                f"--against must be 'output', 'previous' or one site, such as resid_post.3; got {against!r}"
            ) from error
    result = measured(
        tle.layer_divergence, source, changes, generated, metrics=choices_in("--metrics", metrics, METRICS), against=against,
        sites=sites_in(sites, refused=INNER_SITES), layers=layers_in(layers), surprisal=surprisal, targets=target or (),
        top_k=top_k, lens=lens_of(tuned_lens),
        keep="summary" if summary else "positions", precision=precision, vocabulary=vocabulary, final_norm=final_norm,
        **({"settled": at} if at and summary else {}),
    )  # fmt: skip
    report(result.to(source.unit), source)
    if at and hasattr(result, "deep_thinking_ratio"):  # not in a contrast
        report_settling(result, at, rho, source)
