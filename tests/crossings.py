"""Models × dtypes × forms of one input: what a measure says must not depend on the form, and how near it must come by dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

ATOL = {torch.float64: 1e-6, torch.float32: 2e-5, torch.float16: 0.02, torch.bfloat16: 0.15}
"""How far a number in nats may be from the same number reached by another way, by the dtype of the model's weights.

Results keep entropies in float32."""


def token_rows(model: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of each text behind a begin token, as the tiny models read them."""
    return [[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]


def padded(rows: list[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Tokens and their mask [row, pos], filled up on one side."""
    width = max(map(len, rows))
    tokens, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        cells = slice(width - len(row), width) if left else slice(len(row))
        tokens[i, cells], mask[i, cells] = torch.tensor(row), 1
    return tokens, mask


def forms(model: Any, texts: list[str], *, caches: bool = True) -> Iterator[tuple[str, Any]]:
    """Names and inputs that hold the same documents as ``texts``; ``caches`` among them where nothing has to run."""
    rows = token_rows(model, texts)
    yield "rows", [torch.tensor(row) for row in rows]
    for side in ("left", "right"):
        tokens, mask = padded(rows, left=side == "left")
        yield f"padded on the {side}", (tokens, mask) if side == "left" else {"input_ids": tokens, "attention_mask": mask}
        if caches:
            _, cache = model.run_with_cache(tokens, attention_mask=mask)
            yield f"cache padded on the {side}", (cache, tokens, mask)


def same(found: Any, expected: Any, atol: float, *, rtol: float = 0.0) -> None:
    """All numbers of two results of one kind: counts and ids equal, others within ``atol`` and ``rtol`` of their size."""
    for field in dataclasses.fields(expected):
        mine, right = getattr(found, field.name), getattr(expected, field.name)
        if not isinstance(right, Tensor):
            continue
        if right.is_floating_point():
            message = lambda text, name=field.name: f"{name}: {text}"  # noqa: E731
            torch.testing.assert_close(mine, right, atol=atol, rtol=rtol, equal_nan=True, msg=message)
        else:
            assert torch.equal(mine, right), field.name
