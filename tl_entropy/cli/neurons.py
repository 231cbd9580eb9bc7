"""``tl-entropy neurons``: which neurons set how sure the output is, by their weights and with each at its mean."""

from __future__ import annotations

from typing import Annotated

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import layers_in, neurons_in
from tl_entropy.cli.edits import Changes
from tl_entropy.cli.options import Layers, Source, reads
from tl_entropy.cli.report import report


@app.command(
    epilog=examples(
        "tl-entropy neurons --file notes.txt",
        "tl-entropy neurons --model gpt2 --file notes.txt --candidates 10 --placebos 50",
        "tl-entropy neurons --model gpt2 --file notes.txt --only 11.584,11.2378",
    )
)
@reads("tl-entropy-neurons", Changes.of, bundled=True)
def neurons(
    source: Source,
    changes: Changes,
    layers: Layers = None,
    only: Annotated[
        str | None, typer.Option(help="neurons to set to their means (11.584 is layer 11, neuron 584), in place of candidates")
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(min=1, help="neurons of each layer with the largest share in the null space, and as many by frequency"),
    ] = 5,
    placebos: Annotated[int, typer.Option(min=0, help="others of each layer, drawn at random")] = 10,
    null_directions: Annotated[
        int | None, typer.Option(min=1, help="smallest singular directions of the unembedding; d_model / 100, if not given")
    ] = None,
    smoothing: Annotated[float, typer.Option(min=0.0, help="what is added to the count of every token")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="of the draw of placebos")] = 0,
) -> None:
    """Entropy and frequency neurons of the last layer, or of others: what the output loses with each at its mean."""
    import tl_entropy as tle

    result = tle.neurons(
        source.model, source.inputs, layers=None if layers is None else layers_in(layers),
        only=None if only is None else neurons_in("--only", only), candidates=candidates, placebos=placebos,
        null_directions=null_directions, smoothing=smoothing, seed=seed, interventions=changes.interventions(source),
        **source.windows,
    ).to(source.unit)  # fmt: skip
    report(result, source)
