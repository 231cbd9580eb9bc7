"""Train the bundled model's tuned lens again: ``python -m tl_entropy.demo.train_lens --out FILE``.

It is trained on text that the model itself was trained on, and measured on the held-out modules, which neither of the two has
seen. Ctrl-C ends the training and writes what was trained until then.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import typer

from tl_entropy.analyses.lens.training import train_tuned_lens
from tl_entropy.demo import demo_model, demo_texts
from tl_entropy.demo.train import split_sources


def main(
    out: Annotated[Path, typer.Option(help="file for the lens")],
    steps: Annotated[int, typer.Option(help="optimiser steps")] = 250,
    tokens: Annotated[int, typer.Option(help="positions a step")] = 2**12,
    rate: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3,
    seed: Annotated[int, typer.Option(help="seed of the choice of modules and of their order")] = 0,
    device: Annotated[str, typer.Option(help="where to train")] = "cpu",
) -> None:
    """Train the bundled model's tuned lens on modules drawn at random from its own training text."""
    parts = split_sources()
    texts = [*parts["library"].values(), *parts["tests"].values()]
    random.Random(seed).shuffle(texts)
    lens = train_tuned_lens(
        demo_model(device=device), texts, steps=steps, tokens_per_step=tokens, learning_rate=rate, seed=seed,
        validation=demo_texts(),
    )  # fmt: skip
    typer.echo(f"{lens!r}\nwritten to {lens.save(out)}")


if __name__ == "__main__":
    typer.run(main)
