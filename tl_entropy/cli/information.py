"""``tl-entropy information``: soft entropy of every layer, and its mutual information with tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import layers_in, names, sites_in, whole_numbers
from tl_entropy.cli.options import Layers, Sites, Source, reads
from tl_entropy.cli.report import report


@app.command(
    epilog=examples(
        "tl-entropy information --model gpt2 --dataset Salesforce/wikitext --config wikitext-2-raw-v1 --limit 2000",
        "tl-entropy information --model gpt2 --file sentences.txt --lines --labels token,4-gram,next_token --layers 0,-1",
    )
)
@reads("tl-entropy-information", bundled=True)
def information(
    source: Source,
    labels: Annotated[
        str,
        typer.Option(help="label sets, separated by commas: token, bigram, trigram, 4-gram, ..., next_token, ..., position"),
    ] = "token,next_token",
    sites: Sites = "embed,resid_post",
    layers: Layers = None,
    heads: Annotated[bool, typer.Option("--heads", help="measure every attention head (z), too")] = False,
    n_bins: Annotated[str, typer.Option(help="numbers of anchors, separated by commas")] = "100",
    seed: Annotated[str, typer.Option(help="seeds of the anchors, separated by commas")] = "0",
    center: Annotated[bool, typer.Option("--center", help="subtract the mean state of each site; takes a second pass")] = False,
    folds: Annotated[
        int, typer.Option(min=1, help="groups of documents, none of which predicts itself; 1 gives no information")
    ] = 20,
    assignments: Annotated[
        Path | None,
        typer.Option(
            help="folder to keep every position's soft assignment in, instead of sums: for rare n-grams, and for other "
            "labels later (load_assignments in Python)"
        ),
    ] = None,
) -> None:
    """Soft entropy of every layer, and its mutual information with tokens before and after each position."""
    import tl_entropy as tle
    from tl_entropy.analyses.information.store import check_empty

    bins, seeds = whole_numbers("--n-bins", n_bins, 2), whole_numbers("--seed", seed, 0)
    places, layers_asked, wanted = sites_in(sites, refused=["pattern"]), layers_in(layers), _labels(labels)
    if assignments is not None:
        check_empty(assignments)
    result = tle.soft_information(
        source.model, source.inputs, labels=wanted, sites=places, layers=layers_asked, heads="z" if heads else False,
        n_bins=bins, seed=seeds, center=center, folds=folds, keep="sums" if assignments is None else "assignments",
        folder=assignments, **source.windows,
    )  # fmt: skip
    report(result.to(source.unit), source)


def _labels(text: str) -> list[Any]:
    """Names of label sets; 4-gram, next_5-gram and so on are n-grams of any length."""
    from tl_entropy.labels import ngram
    from tl_entropy.labels.sets import named

    found: list[Any] = []
    for name in names(text):
        side, number = ("output", name.removeprefix("next_")) if name.startswith("next_") else ("input", name)
        n = number.removesuffix("-gram")
        found.append(ngram(int(n), cast("Any", side)) if number.endswith("-gram") and n.isdecimal() else name)
    return list(named(found).values())
