"""Language entropy by a sweep over memories: train, put the memory on grids, charge for it.

The bound that comes out (``results/models/memory_sweep.py``) is one only because the grid is on whenever losses are measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.options import check_options
from tl_entropy.errors import InputError, InputTypeError, check_flag, check_int, listed
from tl_entropy.estimation.config import EstimationConfig
from tl_entropy.estimation.models import EstimationModel, estimation_model
from tl_entropy.estimation.training import TrainingOptions, train_estimation
from tl_entropy.estimation.windows import Windows, per_document
from tl_entropy.results.models.memory_sweep import MemorySweep
from tl_entropy.results.tokens.yardsticks import COMPRESSORS
from tl_entropy.torch_state import steady

LIMIT = 1.0
"""Of the numbers, where the configuration has none: a grid needs one."""


@steady
def memory_sweep(
    texts: Any,
    *,
    validation: Any,
    numbers: Sequence[int] = (0, 4, 8, 16, 32),
    bits: Sequence[int] = (1, 2, 4, 8),
    base: EstimationConfig | None = None,
    tokenizer: Any = "bytes",
    steps: int = 400,
    per_bits: bool = False,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[TrainingOptions],
) -> MemorySweep:
    """Train a causal model and models with memories, and say what each costs with its memory on a grid.

    Args:
        texts: what they are trained on, as for ``train_estimation``.
        validation: what they are measured on; other documents.
        numbers: n of each memory; 0 is the causal model.
        bits: b of the grids of 2^b steps on which every memory is measured.
        base: of kind "memory", what the models are like; its numbers and bits are those of the sweep, and its limit is 1 where
            it has none. The causal model has its decoder. None is the standard one.
        tokenizer: as for ``estimation_model``.
        steps: of every training.
        per_bits: train one model for each b, with noise of half a step of its grid, or on the grid itself where base says
            straight_through; otherwise one for all, with base's noise.
        seed: of weights and batches.
        progress: show progress bars.
        options: further ones of ``train_estimation``: batch_size, learning_rate, warm_up, down, weight_decay, short,
            noise_up, precision.

    Returns:
        ``MemorySweep``, in nats a token.

    Raises:
        InputError, InputTypeError: an argument out of range, or of another kind.

    >>> import tl_entropy as tle
    >>> base = tle.EstimationConfig(kind="memory", mixer="heads", n_ctx=16, d_model=16, n_layers=1, numbers=1)
    >>> options = {"numbers": (0, 2), "bits": (1, 2), "base": base, "steps": 2, "progress": False}
    >>> found = memory_sweep(["abab" * 20], validation=["abab" * 4], **options)
    >>> found.numbers.tolist(), found.bits.tolist(), bool((found.charged > found.loss)[1:].all())
    ([0, 2, 2], [0, 1, 2], True)
    """
    base = EstimationConfig(kind="memory", numbers=8) if base is None else base
    if not isinstance(base, EstimationConfig):
        raise InputTypeError(f"base must be an EstimationConfig; got {type(base).__name__}")
    if base.kind != "memory" or base.memory_of != "same":
        raise InputError("base must be of kind='memory' and memory_of='same': a memory of the past has no price")
    check_options(memory_sweep, options, TrainingOptions)
    check_flag("per_bits", per_bits)
    if base.straight_through and not per_bits:
        raise InputError("base trains on one grid (straight_through); pass per_bits=True, for a training on each")
    sizes = [check_int("numbers", n, 0) for n in _several("numbers", numbers)]
    grids = [check_int("bits", b, 1, 16) for b in _several("bits", bits)]
    limit = base.limit or LIMIT
    cells: list[tuple[int, int, Tensor, int, float]] = []
    corpora = list[Windows]()  # read once, for all trainings
    for n in sizes:
        trained: Any = None
        for b in grids if n else [0]:
            if trained is None or per_bits:
                noise = limit / (2**b - 1) if n and per_bits and not base.straight_through else base.noise
                grid = b if base.straight_through else None
                config = dataclasses.replace(base, numbers=n, limit=limit, noise=noise, bits=grid) if n else _causal(base)
                trained = estimation_model(config, tokenizer, seed=seed)
                if not corpora:
                    adapter = Adapter(trained)
                    corpora = [Windows.of(adapter, texts, "texts"), Windows.of(adapter, validation, "validation")]
                history = train_estimation(
                    trained, corpora[0], validation=corpora[1], steps=steps, every=steps, seed=seed, progress=progress,
                    **options,
                )  # fmt: skip
            model: EstimationModel = trained.at_bits(b) if n else trained
            nats, tokens, windows = per_document(model, corpora[1], options.get("batch_size", 16))
            cells.append((n, b, nats, history.tokens[-1], history.seconds[-1]))
    read = corpora[1]
    given = _texts(trained, read, tokens)
    whole = [text for text in given if text is not None]
    known = len(whole) == len(given)
    counts: dict[str, Any] = {
        "documents": len(tokens), "tokens": int(tokens.sum()), "windows": int(windows.sum()),
        "bytes": sum(map(len, whole)) if known else None, "window": read.room + (read.begin is not None),
    }  # fmt: skip
    if known:  # what other codes make of them, each document by itself
        counts["compressed"] = {name: sum(len(press(text)) for text in whole) for name, press in COMPRESSORS.items()}
    settings = {
        "base": base.as_dict(), "steps": steps, "per_bits": per_bits, "seed": seed, "limit": limit,
        **{name: repr(value) for name, value in options.items()},
    }  # fmt: skip
    return MemorySweep(
        nats=torch.stack([cell[2] for cell in cells]), numbers=torch.tensor([cell[0] for cell in cells]),
        bits=torch.tensor([cell[1] for cell in cells]), tokens=tokens, windows=windows,
        n_bytes=torch.tensor([math.nan if text is None else len(text) for text in given], dtype=torch.float64),
        tokens_seen=torch.tensor([cell[3] for cell in cells]),
        seconds=torch.tensor([cell[4] for cell in cells], dtype=torch.float64),
        provenance=Adapter(trained).provenance(settings=settings, corpus=counts),
    )  # fmt: skip


def _several(argument: str, given: Any) -> list[Any]:
    found = [given] if isinstance(given, int) else listed(argument, given, "whole numbers")
    if not found or len(set(found)) < len(found):
        raise InputError(f"{argument} must hold at least one number, each once; got {given!r}")
    return found


def _causal(base: EstimationConfig) -> EstimationConfig:
    """The decoder of ``base`` without a memory."""
    names = ("mixer", "n_ctx", "d_model", "n_layers", "n_heads", "kernel", "d_vocab", "bos_token_id", "positions")
    return EstimationConfig(kind="causal", **{name: getattr(base, name) for name in names})


def _texts(model: EstimationModel, read: Windows, tokens: Tensor) -> list[bytes | None]:
    """The bytes of the tokens predicted of each document; None where not known, or where its first token is not predicted."""
    adapter, found = Adapter(model), list[bytes | None]()
    for document, n in zip(read.documents, tokens.tolist(), strict=True):
        pieces = adapter.pieces(document.tolist()) if adapter.has_tokenizer and n == len(document) else None
        found.append(None if pieces is None else b"".join(pieces))
    return found
