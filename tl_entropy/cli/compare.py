"""``tl-entropy compare``: several models on the same texts."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import choices_in, layers_in, sites_in
from tl_entropy.cli.options import OVER, Layers, Sites, Source, Vocabulary, generation, reads
from tl_entropy.cli.report import report
from tl_entropy.errors import check_choice
from tl_entropy.sites import SITE_NAMES


@app.command(
    epilog=examples(
        "tl-entropy compare --model gpt2 --model distilgpt2 --file notes.txt",
        "tl-entropy compare --model before --model after --file texts --similarity none --layers :6 --format pdf",
    )
)
@reads("tl-entropy-compare", generation, several=True, readouts=True)
def compare(
    source: Source,
    generated: dict[str, Any],
    order: Annotated[float, typer.Option(help="Rényi order of the entropies; 1 is Shannon, inf is allowed")] = 1.0,
    metrics: Annotated[
        str, typer.Option(help="of kl, reverse_kl, jsd, fisher_rao and total_variation, separated by commas")
    ] = "jsd,fisher_rao",
    distance: Annotated[
        str, typer.Option(help="between entropy profiles: jsd, wasserstein, fisher_rao, srvf, elastic_srvf or euclidean")
    ] = "jsd",
    similarity: Annotated[str, typer.Option(help="of layers: cka, or none")] = "cka",
    estimator: Annotated[str, typer.Option(help="of the CKA: exact or minibatch")] = "exact",
    massive: Annotated[str, typer.Option(help="massive states in the CKA: keep, drop or normalise")] = "keep",
    sites: Sites = "embed,resid_post",
    layers: Layers = None,
    vocabulary: Vocabulary = "model",
) -> None:
    """Several models (--model A --model B): entropies, layer dynamics, similarities of layers, distances between the models."""
    from tl_entropy.analyses.models.comparison import check_measures, compare_models
    from tl_entropy.functional.lens.comparison import METRICS
    from tl_entropy.results.lens.settling import STREAM_SITES

    check_choice("--similarity", similarity, ("cka", "none"))
    check_choice("--vocabulary", vocabulary, OVER)
    places = sites_in(sites, refused=set(SITE_NAMES) - STREAM_SITES)
    measures: dict[str, Any] = {
        "order": order, "metrics": choices_in("--metrics", metrics, METRICS), "distance": distance,
        "estimator": estimator, "massive": massive,
        "similarity": None if similarity == "none" else similarity,
    }  # fmt: skip
    wanted = layers_in(layers)
    check_measures(**measures)  # before the models are loaded
    result = compare_models(
        source.models(),
        source.inputs,
        sites=places,
        layers=wanted,
        vocabulary=cast("Any", vocabulary),
        **measures,
        **generated,
        **source.windows,
    )
    report(result.to(source.unit), source)
