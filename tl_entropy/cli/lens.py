"""``tl-entropy demo`` and ``tl-entropy lens``: entropy of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app
from tl_entropy.cli.edits import Changes, TunedLens, lens_of, measured
from tl_entropy.cli.options import (
    Kind,
    Orders,
    Out,
    Precision,
    Sites,
    Source,
    Summary,
    Surprisal,
    Unit,
    Vocabulary,
    generation,
    known_kind,
    names,
    numbers,
    reads,
)
from tl_entropy.cli.report import report
from tl_entropy.errors import check_choice


@app.command()
def demo(
    out: Out = None,
    documents: Annotated[int, typer.Option(min=1, max=30, help="how many of the thirty held-out texts to read")] = 10,
    orders: Orders = "0.5,1,2",
    unit: Unit = "nats",
    kind: Kind = None,
) -> None:
    """Lens entropy of every layer of the bundled model on texts that it has never seen."""
    import tl_entropy as tle

    check_choice("--unit", unit, ("nats", "bits"))
    texts, model = tle.demo_texts(documents), tle.demo_model(kind=known_kind(kind))
    result = tle.lens_entropy(model, texts, orders=numbers(orders), surprisal=True, top_k=1)
    report(result.to(cast("Any", unit)), out or Path("tl-entropy-demo"))


@app.command()
@reads("tl-entropy-lens", generation, Changes.of)
def lens(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    orders: Orders = "1",
    sites: Sites = "embed,resid_post",
    surprisal: Surprisal = False,
    top_k: Annotated[int, typer.Option(min=0, help="most probable tokens to keep at every site")] = 0,
    summary: Summary = False,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
    tuned_lens: TunedLens = None,
) -> None:
    """Lens entropy of every layer of a model on texts, files or a data set."""
    import tl_entropy as tle

    check_choice("--precision", precision, ("float32", "bfloat16"))
    check_choice("--vocabulary", vocabulary, ("model", "tokenizer"))
    result = measured(
        tle.lens_entropy, source, changes, generated, orders=numbers(orders), sites=names(sites), surprisal=surprisal,
        top_k=top_k, lens=lens_of(tuned_lens), keep="summary" if summary else "positions", precision=precision,
        vocabulary=vocabulary,
    )  # fmt: skip
    report(result.to(source.unit), source.out)
