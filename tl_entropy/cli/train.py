"""``tl-entropy train-lens``: a tuned lens for any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tl_entropy.capture.named import check_files
from tl_entropy.cli.app import app, examples
from tl_entropy.cli.options import Source, reads
from tl_entropy.errors import check_positive, counted


@app.command(
    "train-lens",
    epilog=examples(
        "tl-entropy train-lens --model gpt2 --dataset Salesforce/wikitext --config wikitext-2-raw-v1 --steps 250",
        "tl-entropy train-lens --model gpt2 --file texts --validation held_out.txt --out lens",
    ),
)
@reads("tl-entropy-tuned-lens", without=("unit", "figures", "page"))
def train_lens(
    source: Source,
    steps: Annotated[int, typer.Option(min=1, help="steps of the training")] = 250,
    tokens_per_step: Annotated[int, typer.Option(min=1, help="tokens that a step takes the mean over")] = 4096,
    learning_rate: Annotated[float, typer.Option(help="highest rate of the optimiser")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0, help="of the order of texts")] = 0,
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="a text file, or a folder of them, to measure the lens on; may be given several times"),
    ] = None,
) -> None:
    """Train a tuned lens on texts, files or a data set, and write it for --tuned-lens."""
    import tl_entropy as tle

    check_positive("--learning-rate", learning_rate)
    check_files("--validation", validation or ())
    typer.echo(f"trains {counted(steps, 'step')} of {counted(tokens_per_step, 'token')} each", err=True)
    lens = tle.train_tuned_lens(
        source.model, source.inputs, steps=steps, tokens_per_step=tokens_per_step, learning_rate=learning_rate, seed=seed,
        validation=validation or None, **source.windows,
    )  # fmt: skip
    typer.echo(str(lens))
    typer.echo(f"wrote {lens.save(source.out / 'lens.safetensors')}")
