"""``tl-entropy heads``: entropy of every attention head."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app
from tl_entropy.cli.edits import Ablate, Steer, SteerAt, SteerScale, interventions
from tl_entropy.cli.options import NewTokens, Orders, Source, Summary, numbers, reads
from tl_entropy.cli.report import report


@app.command()
@reads("tl-entropy-heads")
def heads(
    source: Source,
    of: Annotated[
        str, typer.Option(help="pattern: of the attention; readout: of what each head adds to the prediction")
    ] = "pattern",
    orders: Orders = "1",
    norm: Annotated[str, typer.Option(help="frozen or recomputed final norm, where --of readout")] = "frozen",
    max_new_tokens: NewTokens = 0,
    summary: Summary = False,
    ablate: Ablate = None,
    steer: Steer = None,
    steer_at: SteerAt = None,
    steer_scale: SteerScale = 1.0,
) -> None:
    """Entropy of every attention head: of where it looks, or of what it adds to the prediction."""
    import tl_entropy as tle

    wanted = numbers(orders)
    run = partial(
        tle.head_entropy, source.model, source.inputs, of=cast("Any", of), orders=wanted, norm=cast("Any", norm),
        max_new_tokens=max_new_tokens, keep="summary" if summary else "positions",
        interventions=interventions(ablate, steer, steer_at, steer_scale), **source.windows,
    )  # fmt: skip
    report(run().to(source.unit), source.out)
