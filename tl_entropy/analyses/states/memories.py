"""Memories of a model that makes some of a text: one vector of numbers for each window, with where in its text the window is.

They are states like others, one row a window: for ``functional.soft_mutual_information`` with labels of windows,
``functional.linear_cka`` between the memories of two models, ``functional.effective_rank``. Numbers are as the decoder is given
them: within their limit, and on their grid where the model has one.

Refused: models without a memory; caches, and texts in which nothing counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.places import OF_WINDOWS
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, ModelError, NonFiniteError, check_choice, check_int
from tl_entropy.results.provenance import Provenance
from tl_entropy.torch_state import steady


@dataclass(frozen=True)
class Memories:
    """Memories of windows.

    Attributes:
        numbers: [window, n], as the decoder is given them; of the state, [window, d_encoder].
        document: [window], the number of each window's document, from 0.
        span: [window, 2], the positions in its document [first, one after the last) that the memory was made of.
        names: of documents that are files.
        provenance: of the model.

    >>> Memories(torch.zeros(2, 3), torch.tensor([0, 0]), torch.tensor([[0, 4], [4, 6]]), {}, None).numbers.shape
    torch.Size([2, 3])
    """

    numbers: Tensor
    document: Tensor
    span: Tensor
    names: Mapping[int, str]
    provenance: Provenance | None


@steady
def memories(
    model: Any,
    inputs: Any,
    *,
    of: Literal["memory", "state"] = "memory",
    window: int | None = None,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Memories:
    """The memory that a model makes of every window of a text, in the order of documents and windows.

    Args:
        model: with a memory, such as ``estimation_model`` makes.
        inputs: texts, tokens, files or data sets; see ``stream``.
        of: "memory", or the "state" that it is made of.
        window: tokens of a window; None is the model's context.
        prepend_bos: begin texts with the tokenizer's begin token; None is as the model has it. Rows of tokens are taken as they
            are, and have one where they begin with its id.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show a progress bar.

    Returns:
        ``Memories``, float32 at least, on the CPU.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured.
        ModelError: the model has no memory.
        NonFiniteError: a memory with a NaN or an infinity.

    >>> import tl_entropy as tle
    >>> config = tle.EstimationConfig(kind="memory", n_ctx=16, d_model=16, n_layers=1, numbers=3)
    >>> found = memories(tle.estimation_model(config, "bytes"), ["import os", "import sys, re and more"], progress=False)
    >>> found.numbers.shape, found.document.tolist(), found.span.tolist()
    (torch.Size([3, 3]), [0, 1, 1], [[0, 9], [0, 15], [15, 23]])
    """
    check_choice("of", of, tuple(OF_WINDOWS))
    if batch_size is not None:
        batch_size = check_int("batch_size", batch_size, 1)
    adapter = adapter_of(model)
    if OF_WINDOWS[of] not in adapter.points:
        raise ModelError(f"model: this {type(adapter.model).__name__} has no {OF_WINDOWS[of]}, so it has no {of} to look at")
    if split_cache(inputs)[0] is not None:
        raise InputError("inputs: memories are of windows, which a cache does not say; pass the texts or tokens themselves")
    corpus = read_corpus(adapter, inputs, window=window, prepend_bos=prepend_bos)
    numbers, document, span, names = [], [], [], dict[int, str]()
    work = adapter.batches(corpus, batch_size)
    for batch in Bar(work, unit="batch", desc="memories", show=progress):
        found = _seen(adapter, batch, OF_WINDOWS[of])
        for row, vectors in enumerate(found):
            for vector, where in zip(vectors, _spans(batch, row, len(vectors), adapter), strict=False):
                numbers.append(vector)
                document.append(int(batch.document[row]))
                span.append(where)
        names |= {int(d): name for d, name in zip(batch.document, batch.names, strict=True) if name is not None}
    return Memories(torch.stack(numbers), torch.tensor(document), torch.tensor(span), names, adapter.provenance())


def _seen(adapter: Adapter, batch: Batch, name: str) -> Tensor:
    """[window, chunk, n] of a batch."""
    seen: list[Tensor] = []
    with adapter.edited([(name, lambda activation, hook: seen.append(activation.detach()))]):
        adapter.logits(batch.tokens, batch.attention_mask)
    if not seen:
        raise ModelError(f"model: the hook {name} exists but never fired in a forward pass")
    found = seen[0].to("cpu", torch.promote_types(seen[0].dtype, torch.float32))
    if not bool(found.isfinite().all()):
        raise NonFiniteError(f"{name} has a NaN or an infinity in a window of document {int(batch.document[0])} or behind it")
    return found if found.ndim == 3 else found[:, None]


def _spans(batch: Batch, row: int, chunks: int, adapter: Adapter) -> list[tuple[int, int]]:
    """Positions of the chunks of a window that hold a token."""
    position = batch.position[row]
    each = len(position) if chunks == 1 else int(adapter.model.cfg.chunk)
    parts = [part[part >= 0] for part in position.split(each)]
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]
