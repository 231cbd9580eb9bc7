"""``tl-entropy compare``: several models on the same texts."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, cast

import typer

from tl_entropy.cli.app import app
from tl_entropy.cli.options import Sites, Source, Vocabulary, generation, names, reads
from tl_entropy.cli.report import drawn
from tl_entropy.errors import check_choice


@app.command()
@reads("tl-entropy-compare", generation, several=True)
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
    vocabulary: Vocabulary = "model",
) -> None:
    """Several models (--model A --model B): entropies, layer dynamics, similarities of layers, distances between the models."""
    from tl_entropy.analyses.models.comparison import check_measures, compare_models
    from tl_entropy.plots.models.comparison import comparison
    from tl_entropy.plots.profiles.distances import distances
    from tl_entropy.plots.profiles.dynamics import importance
    from tl_entropy.plots.states.similarity import similarity as layers
    from tl_entropy.results.models.comparison import INDEX, file_stems

    check_choice("--similarity", similarity, ("cka", "none"))
    measures: dict[str, Any] = {
        "order": order, "metrics": names(metrics), "distance": distance, "estimator": estimator, "massive": massive,
        "similarity": None if similarity == "none" else similarity,
    }  # fmt: skip
    check_measures(**measures)  # before the models are loaded
    result = compare_models(
        source.models(),
        source.inputs,
        sites=names(sites),
        vocabulary=cast("Any", vocabulary),
        **measures,
        **generated,
        **source.windows,
    )
    result = result.to(source.unit)
    typer.echo(str(result))
    folder = result.save(source.out)
    written = [folder / name for name in (INDEX, *result.files, "dynamics.csv")]
    result.to_pandas().to_csv(written[-1], index=False)
    figures: list[tuple[Any, str]] = [(partial(comparison, result), "comparison")]
    figures.append((partial(importance, dict(result.dynamics)), "importance"))
    if result.distances is not None:
        written.append(folder / "distances.csv")
        result.distances.to_pandas().to_csv(written[-1], index=False)
        figures.append((partial(distances, result.distances), "distances"))
    stems = file_stems(result.names)
    figures += [(partial(layers, found), f"similarity_{stems[name]}") for name, found in result.similarity.items()]
    for (one, other), found in result.across.items():
        figures.append((partial(layers, found, labels=(one, other)), f"across_{stems[one]}_{stems[other]}"))
    written += drawn(figures, folder)
    typer.echo(f"wrote {', '.join(sorted(map(str, written)))}")
