"""``tl-entropy heads``: entropy of every attention head."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import layers_in, orders_in
from tl_entropy.cli.edits import Changes
from tl_entropy.cli.options import OVER, Layers, Orders, Source, Summary, generation, reads, refuse_without
from tl_entropy.cli.report import report
from tl_entropy.errors import check_choice


@app.command(
    epilog=examples(
        "tl-entropy heads --model gpt2 --file notes.txt",
        "tl-entropy heads --model gpt2 --file notes.txt --of readout --norm recomputed --layers 8:",
    )
)
@reads("tl-entropy-heads", generation, Changes.of, bundled=True)
def heads(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    of: Annotated[
        str, typer.Option(help="pattern: of the attention; readout: of what each head adds to the prediction")
    ] = "pattern",
    orders: Orders = "1",
    layers: Layers = None,
    norm: Annotated[
        str | None, typer.Option(help="of --of readout: frozen (if not given) or recomputed, for the final norm")
    ] = None,
    summary: Summary = False,
    vocabulary: Annotated[
        str | None,
        typer.Option(help="of --of readout: model (if not given), all rows of the unembedding, or tokenizer, its tokens alone"),
    ] = None,
) -> None:
    """Entropy of every attention head: of where it looks, or of what it adds to the prediction; of a changed model, too."""
    import tl_entropy as tle

    check_choice("--of", of, ("pattern", "readout"))
    given = {"--norm": norm, "--vocabulary": vocabulary}
    refuse_without("--of readout", of == "readout", {name: value for name, value in given.items() if value is not None})
    check_choice("--norm", norm or "frozen", ("frozen", "recomputed"))
    check_choice("--vocabulary", vocabulary or "model", OVER)
    orders_asked, layers_asked = orders_in(orders), layers_in(layers)
    result = tle.head_entropy(
        source.model, source.inputs, of=cast("Any", of), orders=orders_asked, layers=layers_asked,
        norm=cast("Any", norm or "frozen"), vocabulary=cast("Any", vocabulary or "model"),
        keep="summary" if summary else "positions", interventions=changes.interventions(source), **generated,
        **source.windows,
    )  # fmt: skip
    report(result.to(source.unit), source)
