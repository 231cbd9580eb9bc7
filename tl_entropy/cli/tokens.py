"""``tl-entropy tokens``: what every token of a text costs, on a page to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.edits import Changes
from tl_entropy.cli.options import OVER, PRECISIONS, Precision, Source, Summary, Vocabulary, generation, reads
from tl_entropy.cli.report import report
from tl_entropy.errors import InputError, check_choice
from tl_entropy.results.files import check_folder, write_table


@app.command(
    epilog=examples(
        "tl-entropy tokens --text 'for i in range(10):'",
        "tl-entropy tokens --model gpt2 --file notes.txt --html notes.html --of excess",
    )
)
@reads("tl-entropy-tokens", generation, Changes.of, bundled=True)
def tokens(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    html: Annotated[Path | None, typer.Option(help="file for the page; tokens.html in the folder, if not given")] = None,
    of: Annotated[
        str, typer.Option(help="what the page shows first: surprisal, entropy, excess, varentropy or rank")
    ] = "surprisal",
    top_k: Annotated[
        int | None, typer.Option(min=0, help="most probable tokens to keep for each token; 5, if not given")
    ] = None,
    summary: Summary = False,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
) -> None:
    """Surprisal, entropy and rank of every token of a text, bits per byte, and a page that shows them token by token."""
    import tl_entropy as tle
    from tl_entropy.results.tokens.surprisal import COLUMNS

    check_choice("--of", of, COLUMNS)
    check_choice("--precision", precision, PRECISIONS)
    check_choice("--vocabulary", vocabulary, OVER)
    if summary and (html is not None or top_k):
        raise InputError(f"--{'top-k' if html is None else 'html'}: a summary keeps no single tokens; leave out one of the two")
    if html is not None and html.is_dir():
        raise InputError(f"--html must be a file; {html} is a folder")
    if html is not None:
        check_folder("--html", html.parent)
    result = tle.token_surprisal(
        source.model, source.inputs, top_k=top_k, keep=cast("Any", "summary" if summary else "positions"),
        precision=cast("Any", precision), vocabulary=cast("Any", vocabulary),
        interventions=changes.interventions(source), **generated, **source.windows,
    ).to(source.unit)  # fmt: skip
    report(result, source)
    if not summary:
        rates = write_table(source.out / "rates.csv", result.rates())
        documents = write_table(source.out / "documents.csv", result.per_document())
        page = tle.plots.tokens(result, of=of).save(html or source.out / "tokens.html")
        typer.echo(f"wrote {rates}, {documents}, {page}")
