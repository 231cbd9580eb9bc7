"""``tl-entropy divergence``: how far every layer's prediction is from the model's output, and where that is decided."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app
from tl_entropy.cli.edits import Ablate, Steer, SteerAt, SteerScale, TunedLens, interventions, measured, tuned_lens
from tl_entropy.cli.options import NewTokens, Precision, Sites, Source, Summary, names, reads
from tl_entropy.cli.report import report


@app.command()
@reads("tl-entropy-divergence")
def divergence(
    source: Source,
    metrics: Annotated[
        str, typer.Option(help="of kl, reverse_kl, jsd, fisher_rao and total_variation, separated by commas")
    ] = "kl,jsd,fisher_rao",
    against: Annotated[str, typer.Option(help="output, previous, or a site such as resid_post.3")] = "output",
    sites: Sites = "embed,resid_post",
    target: Annotated[
        list[str] | None, typer.Option(help="a token whose rank at every site is wanted; may be given several times")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="most probable tokens to keep at every site")] = 1,
    max_new_tokens: NewTokens = 0,
    summary: Summary = False,
    precision: Precision = "float32",
    tuned_lens_path: TunedLens = None,
    ablate: Ablate = None,
    steer: Steer = None,
    steer_at: SteerAt = None,
    steer_scale: SteerScale = 1.0,
) -> None:
    """Divergence of every layer's prediction from the model's output, and the share of tokens decided there."""
    import tl_entropy as tle

    changes, lens = interventions(ablate, steer, steer_at, steer_scale), tuned_lens(tuned_lens_path)
    run = partial(
        tle.layer_divergence, source.model, source.inputs, metrics=cast("Any", names(metrics)), against=against,
        sites=names(sites), targets=target or (), top_k=top_k, max_new_tokens=max_new_tokens, lens=lens,
        keep="summary" if summary else "positions", precision=cast("Any", precision), **source.windows,
    )  # fmt: skip
    report(measured(run, changes, summary=summary, max_new_tokens=max_new_tokens).to(source.unit), source.out)
