"""What the experiments are trained and measured on: coins and copies, of known entropy, and modules of Python's library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from harness import Arm

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.estimation.sources import CoinsAndCopies, Source
from tl_entropy.estimation.windows import Windows, per_document

BITS = math.log(2)
COINS = CoinsAndCopies(8)
ON_COINS: dict[str, Any] = {
    "kind": "memory", "mixer": "heads", "n_heads": 8, "n_ctx": 17, "d_model": 24, "encoder_width": 32, "n_layers": 1,
    "d_vocab": 3, "bos_token_id": 2,
}  # fmt: skip
"""A small model of coins."""
PLAIN: dict[str, Any] = {"n_ctx": 33, "d_model": 32, "n_layers": 1}
"""A small decoder of 32 bytes."""
FLAT: dict[str, Any] = {"mixer": "conv"}
ATTENTION: dict[str, Any] = {"mixer": "attention", "n_heads": 4}


@dataclass(frozen=True)
class Ground:
    """What models are trained and measured on.

    Attributes:
        training: texts or windows.
        held_out: others.
        tokenizer: as for ``estimation_model``.
        options: of ``train_estimation``.
        entropy: of a window in nats a token, where it is known.
    """

    training: Any
    held_out: Any
    tokenizer: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    entropy: float = math.nan


@cache
def library(_: int) -> Ground:
    """Modules of Python's library as bytes; other modules to measure on."""
    texts = tle.demo_texts()
    reader = Adapter(tle.estimation_model(tle.EstimationConfig(**PLAIN), "bytes"))
    training = Windows.of(reader, texts[6:], "texts")  # read once, for all trainings
    return Ground(training, [text[:1500] for text in texts[:6]], "bytes", {"batch_size": 16, "short": 0.0})


def drawn(source: Source, seed: int, n: int = 16, *, windows: int = 1000) -> Ground:
    """Windows of a source, begun by a token of their own, 2."""
    training, held_out = (
        torch.cat([torch.full((some, 1), 2), source.sample(some, n, seed=of)], 1)
        for some, of in ((windows, seed), (300, 10_000 + seed))
    )
    return Ground(training, held_out, None, {"batch_size": 64, "short": 0.0}, source.rate(n))


def coins(seed: int) -> Ground:
    """Eight coins and their copies."""
    return drawn(COINS, seed)


def loss_of(model: Any, ground: Ground) -> dict[str, float]:
    """What held-out tokens cost, and with the memory on its grid charged for, in nats."""
    read = Windows.of(Adapter(model), ground.held_out, "held out")
    nats, tokens, windows = per_document(model, read, 64)
    loss = float(nats.sum() / tokens.sum())
    return {"loss": loss, "charged": loss + (model.cfg.memory_bits or 0) * BITS * float(windows.sum() / tokens.sum())}


def trained(
    config: tle.EstimationConfig,
    ground: Callable[[int], Ground],
    measure: Callable[[Any, Ground], dict[str, float]],
    *,
    steps: int,
    looks: Sequence[float] = (1.0,),
    **options: Any,
) -> Arm:
    """An arm that is one training, measured after these shares of its steps, without noise."""

    def arm(seed: int, share: float = 1.0) -> Iterator[tuple[int, dict[str, float]]]:
        given, n = ground(seed), max(2, round(steps * share))
        model = tle.estimation_model(config, given.tokenizer, seed=seed)
        at, seen = {max(1, round(look * n)) for look in looks}, list[tuple[int, dict[str, float]]]()

        def look(step: int) -> None:
            if step in at:
                model.eval()
                seen.append((step, measure(model, given)))
                model.train(step < n)

        tle.train_estimation(
            model, given.training, validation=given.held_out, steps=n, every=n, seed=seed, monitor=look, progress=False,
            **given.options | options,
        )  # fmt: skip
        yield from seen

    return arm


def heads(n: int) -> dict[str, Any]:
    """Mixers of so many heads."""
    return {"mixer": "heads", "n_heads": n}
