"""``tl-entropy heads``: entropy of every attention head."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app
from tl_entropy.cli.edits import Changes
from tl_entropy.cli.options import Orders, Source, Summary, Vocabulary, generation, numbers, reads
from tl_entropy.cli.report import report


@app.command()
@reads("tl-entropy-heads", generation, Changes.of)
def heads(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    of: Annotated[
        str, typer.Option(help="pattern: of the attention; readout: of what each head adds to the prediction")
    ] = "pattern",
    orders: Orders = "1",
    norm: Annotated[str, typer.Option(help="frozen or recomputed final norm, where --of readout")] = "frozen",
    summary: Summary = False,
    vocabulary: Vocabulary = "model",
) -> None:
    """Entropy of every attention head: of where it looks, or of what it adds to the prediction; of a changed model, too."""
    import tl_entropy as tle

    wanted = numbers(orders)
    result = tle.head_entropy(
        source.model, source.inputs, of=cast("Any", of), orders=wanted, norm=cast("Any", norm),
        vocabulary=cast("Any", vocabulary),
        keep="summary" if summary else "positions", interventions=changes.interventions(source), **generated,
        **source.windows,
    )  # fmt: skip
    report(result.to(source.unit), source.out)
