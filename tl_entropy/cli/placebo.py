"""``tl-entropy placebo``: the effect of an ablation or of steering beside those of matched edits that mean nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.edits import Changes
from tl_entropy.cli.options import Source, reads
from tl_entropy.cli.report import report
from tl_entropy.errors import InputError, check_choice

MEASURES = ("loss", "entropy")


@app.command(
    epilog=examples(
        "tl-entropy placebo --file notes.txt --ablate 3.1",
        "tl-entropy placebo --model gpt2 --file notes.txt --ablate post.11.584 --to-means --of entropy --placebos 50",
        "tl-entropy placebo --model gpt2 --file notes.txt --steer vector.npy --steer-at resid_post.6",
    )
)
@reads("tl-entropy-placebo", Changes.of, bundled=True)
def placebo(
    source: Source,
    changes: Changes,
    of: Annotated[
        str, typer.Option(help="what the edit changes: loss or entropy of the output, mean of each document")
    ] = "loss",
    placebos: Annotated[int, typer.Option(min=1, help="matched edits, each of which takes a pass")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="of the draw of placebos")] = 0,
) -> None:
    """An ablation of heads or neurons, or steering, beside random ones of the same layers or length, by rank and p-value."""
    import tl_entropy as tle

    check_choice("--of", of, MEASURES)
    if not changes:
        raise InputError("placebo needs an edit: --ablate 3.1, --ablate post.3.17, or --steer with --steer-at")

    def measure(model: Any, inputs: Any, interventions: Any) -> Any:
        if of == "loss":
            tokens = tle.token_surprisal(model, inputs, interventions=interventions, **source.windows)
            return tokens.per_document()["loss"]
        last = tle.lens_entropy(model, inputs, sites="resid_post", layers=-1, interventions=interventions, **source.windows)
        return last.per_document().iloc[:, 0]

    measure.__name__ = of
    edits = list(changes.interventions(source))
    report(tle.placebo(source.model, source.inputs, edits, measure, n=placebos, seed=seed).to(source.unit), source)
