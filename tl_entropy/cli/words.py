"""``tl-entropy words``: what each word of stimuli costs, one row a word, for mixed models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import layers_in, names, sites_in
from tl_entropy.cli.edits import TunedLens, lens_of
from tl_entropy.cli.options import OVER, PRECISIONS, Layers, Precision, Source, Vocabulary, reads
from tl_entropy.cli.page import write_page
from tl_entropy.cli.report import Leaves, drawn, note_end
from tl_entropy.errors import InputError, check_choice
from tl_entropy.results.files import check_folder, write_table
from tl_entropy.sites import INNER_SITES


@app.command(
    epilog=examples(
        "tl-entropy words --file items.csv --model gpt2 --out words.csv",
        "tl-entropy words --file sentences.txt --sites resid_post --unit bits",
        "tl-entropy words --file items.csv --item item,condition --context 'Read this.'",
    )
)
@reads(
    "tl-entropy-words", bundled=True,
    without=("lines", "dataset", "config", "split", "column", "limit", "documents", "on_error", "out", "figures", "page"),
)  # fmt: skip
def words(
    source: Source,
    out: Annotated[Path, typer.Option(help="CSV file with a row for each word")] = Path("words.csv"),
    by: Annotated[str, typer.Option(help="space or character: what a word is, of texts that are no table of words")] = "space",
    item: Annotated[str, typer.Option(help="columns of a table that say which words are one text; commas between")] = "item",
    word: Annotated[str, typer.Option(help="column of a table that holds the words")] = "word",
    between: Annotated[
        str, typer.Option(help="what stands between the words of a table; empty for scripts without spaces")
    ] = " ",
    context: Annotated[
        str | None, typer.Option(help="read before every text, and not counted; a table may have a column context instead")
    ] = None,
    sites: Annotated[
        str, typer.Option(help="where to read surprisals through the lens, too, such as resid_post; commas between")
    ] = "",
    layers: Layers = None,
    tuned_lens: TunedLens = None,
    final: Annotated[bool, typer.Option("--final", help="charge the last word of a text for its end, too")] = False,
    correct: Annotated[
        bool, typer.Option("--correct/--no-correct", help="white space counts for the word before it, or for the one behind it")
    ] = True,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
    page: Annotated[
        bool,
        typer.Option("--report", help="write a page beside the CSV, too: figure, table and settings, which needs nothing else"),
    ] = False,
) -> None:
    """What each word of sentences, or of a CSV with the columns word and item, costs a model: a row a word, at every layer."""
    import tl_entropy as tle

    check_choice("--by", by, ("space", "character"))
    check_choice("--precision", precision, PRECISIONS)
    check_choice("--vocabulary", vocabulary, OVER)
    if final and not correct:
        raise InputError("--final means nothing with --no-correct; leave one of them out")
    if out.is_dir():
        raise InputError(f"--out must be a file; {out} is a folder")
    check_folder("--out", out.resolve().parent)
    files = [path for path in source.inputs if isinstance(path, Path)]
    if len(files) > 1:
        raise InputError(f"--file: words are those of one file; got {len(files)}")
    stimuli = None
    if files and files[0].suffix.lower() in (".csv", ".tsv"):
        stimuli = tle.read_stimuli(files[0], word=word, item=names(item), between=between)
    elif files:
        stimuli = tle.read_stimuli(files[0])
    texts = list(source.inputs) if stimuli is None else list(stimuli.texts)
    front = "" if context is None else context + between
    if front and stimuli is not None:
        stimuli = stimuli.behind(front)
    result = tle.token_surprisal(
        source.model, [front + text for text in texts], top_k=0, words=correct,
        sites=sites_in(sites, refused=INNER_SITES) if sites else (), layers=layers_in(layers), lens=lens_of(tuned_lens),
        precision=cast("Any", precision), vocabulary=cast("Any", vocabulary), **source.windows,
    ).to(source.unit)  # fmt: skip
    spans: Any = stimuli if stimuli is not None and (stimuli.table is not None or by == "space") else by
    note_end(result)
    found = result.word_surprisal(by=spans, context=front, correct=correct, final=final)
    typer.echo(str(found))
    table = found.to_pandas() if stimuli is None else stimuli.beside(found)
    write_table(out, table)
    typer.echo(f"wrote {out}: {len(table)} words")
    if page:
        pictures: dict[str, bytes] = {}
        figures = drawn([(partial(tle.plots.words, found), out.stem)], Leaves(out.parent, "png", True), pictures)
        files, load = [out, *figures], f'import pandas as pd\n\ntable = pd.read_csv("{out}")'
        written = write_page(
            out.with_suffix(".html"), found, origins=found._origins(), figures=pictures, files=files, load=load
        )
        typer.echo(f"wrote {', '.join(map(str, [*figures, written]))}")
