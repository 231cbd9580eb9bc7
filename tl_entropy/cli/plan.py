"""What a command is about to do, told before work that takes a while: the model, how much it reads, and about how long.

Tokens are estimated from bytes, by the first texts, and the time from a forward pass of the first tokens; for commands that
read every layer through the unembedding it grows by the size of that product beside the model's own. It is told where it comes
to more than a few seconds, and is right to a factor of about two: the progress bar knows better once it moves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from tl_entropy.errors import counted

LONG = 5.0
"""Seconds from which on work is announced."""

_SAMPLE = 20_000  # bytes of texts that are tokenized for the estimate
_TIMED = (64, 64, 128, 256, 512)  # tokens of the passes that are timed, as long as they are quick
_QUICK = 0.25  # seconds


@dataclass(frozen=True)
class Amount:
    """How much there is to read: texts (None where nobody knows), bytes in all, and the beginning of the first ones."""

    texts: int | None
    n_bytes: int
    sample: str


def announce(model: Any, inputs: Iterable[Any], *, new_tokens: int = 0, readouts: bool = True) -> None:
    """Say on stderr what is about to be done, where it is long or nobody knows how long.

    Args:
        model: a TransformerLens model.
        inputs: texts, files and folders, or something else, whose length is not known.
        new_tokens: how many are generated for each text.
        readouts: whether every layer goes through the unembedding.
    """
    name = getattr(model.cfg, "model_name", None) or "the model"
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    shape = f"{Path(str(name)).name} ({counted(model.cfg.n_layers, 'layer')}, {dtype}, {model.cfg.device})"
    amount = measured(inputs)
    if amount is None:
        typer.echo(
            f"{shape} reads texts of a length that is not known beforehand; Ctrl-C ends, and keeps what was measured", err=True
        )
        return
    if not amount.sample or model.tokenizer is None:
        return
    ids = model.tokenizer.encode(amount.sample)
    tokens = round(len(ids) * amount.n_bytes / len(amount.sample.encode())) + new_tokens * (amount.texts or 0)
    seconds = tokens * seconds_a_token(model, ids, readouts=readouts)
    if seconds < LONG:
        return
    texts = f" in {amount.texts:,} text{'s' * (amount.texts != 1)}" if amount.texts is not None else ""
    typer.echo(f"{shape} reads about {rounded(tokens)} tokens{texts}: about {lasting(seconds)}", err=True)


def measured(inputs: Iterable[Any]) -> Amount | None:
    r"""How much there is in texts, files and folders; None where something else is among them.

    >>> measured(["import os", "ä"])
    Amount(texts=2, n_bytes=11, sample='import os\nä')
    """
    from tl_entropy.capture.inputs import pieces
    from tl_entropy.capture.named import Lines

    lines = isinstance(inputs, Lines)
    given: Sequence[Any] = inputs.paths if isinstance(inputs, Lines) else inputs if isinstance(inputs, list) else ()
    if not given or not all(isinstance(item, str | Path) for item in given):
        return None
    texts, n_bytes, sample = 0, 0, []
    room = _SAMPLE
    for piece in pieces(given, text_column="text", special_ids=frozenset(), where="--file"):
        value = piece.value
        size = os.path.getsize(value) if isinstance(value, Path) else len(str(value).encode())
        texts, n_bytes = texts + 1, n_bytes + size
        if room > 0:
            if isinstance(value, Path):
                with value.open("rb") as file:
                    text = file.read(room).decode("utf-8", errors="ignore")
            else:
                text = str(value)[:room]
            sample.append(text)
            room -= len(text)
    return Amount(None if lines else texts, n_bytes, "\n".join(sample))


def seconds_a_token(model: Any, ids: Sequence[int], *, readouts: bool) -> float:
    """What a token takes, from passes over the first of these ids: longer ones while they are quick, since what a pass takes
    however short it is would count too much.
    """
    import torch

    given = torch.tensor([list(ids)[: model.cfg.n_ctx]], device=model.cfg.device)
    whole = float("inf")
    with torch.inference_mode():
        for number, length in enumerate(_TIMED):
            tokens = given[:, :length]
            start = time.perf_counter()
            float(model(tokens)[0, -1, 0])  # so that an accelerator has ended
            spent = time.perf_counter() - start
            whole = min(whole, spent / tokens.shape[1])
            if number and (spent > _QUICK or length >= given.shape[1]):  # the first is slower than those that follow
                break
    if not readouts:
        return whole
    product = model.cfg.d_model * model.cfg.d_vocab
    weights = sum(weight.numel() for weight in model.parameters() if weight.ndim > 1)
    return float(whole * (1 + (model.cfg.n_layers + 1) * product / max(weights, product)))


def rounded(count: int) -> str:
    """A number with two digits that count.

    >>> rounded(12_345), rounded(87)
    ('12,000', '87')
    """
    step = 10 ** max(len(str(count)) - 2, 0)
    return f"{round(count / step) * step:,}"


def lasting(seconds: float) -> str:
    """A duration, as one says it.

    >>> lasting(12), lasting(130), lasting(9000), lasting(300_000)
    ('12 seconds', '2 minutes', '2.5 hours', '3.5 days')
    """
    for size, name in ((86_400, "days"), (3600, "hours")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{round(seconds / 60)} minutes" if seconds >= 90 else counted(round(seconds), "second")
