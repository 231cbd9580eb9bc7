"""The command ``tl-entropy``: measurements from a shell, on the bundled model or on any other."""

from tl_entropy.cli import (
    compare,
    confidence,
    divergence,
    features,
    heads,
    information,
    lens,
    neurons,
    placebo,
    run,
    sensitivity,
    tokens,
    train,
    words,
)
from tl_entropy.cli.app import app, main

__all__ = [
    "app", "compare", "confidence", "divergence", "features", "heads", "information", "lens", "main", "neurons", "placebo",
    "run", "sensitivity", "tokens", "train", "words",
]  # fmt: skip
