"""``tl-entropy sensitivity``: how many bits each site needs, by what casts there do to the loss."""

from __future__ import annotations

from typing import Annotated

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import layers_in, names, sites_in
from tl_entropy.cli.edits import Changes
from tl_entropy.cli.options import Layers, Sites, Source, reads
from tl_entropy.cli.report import report
from tl_entropy.errors import InputError
from tl_entropy.functional.quantisation import rounding


@app.command(
    epilog=examples(
        "tl-entropy sensitivity --file notes.txt --layers 0,-1",
        "tl-entropy sensitivity --model gpt2 --file notes.txt --edits int8,int4,float8_e4m3fn --weights",
    )
)
@reads("tl-entropy-sensitivity", Changes.of, bundled=True)
def sensitivity(
    source: Source,
    changes: Changes,
    edits: Annotated[
        str, typer.Option(help="of bfloat16, float16, float8_e4m3fn, float8_e5m2, int8, int4, ..., separated by commas")
    ] = "bfloat16,int8,float8_e4m3fn,float8_e5m2",
    sites: Sites = "attn_out,mlp_out",
    layers: Layers = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="round the matrices that write to the sites, not what passes them")
    ] = False,
) -> None:
    """Change of the mean loss with what passes each site rounded to each type, one pass each."""
    import tl_entropy as tle

    asked = names(edits)
    for edit in asked:
        try:
            rounding(edit, None, None, None)
        except InputError as error:
            raise InputError(f"--edits: {error}") from error
    result = tle.sensitivity(
        source.model, source.inputs, asked, sites=sites_in(sites), layers=layers_in(layers), weights=weights,
        interventions=changes.interventions(source), **source.windows,
    )  # fmt: skip
    report(result.to(source.unit), source)
