"""Prompts and what the model writes after them: generate first, then measure prompt and continuation in one pass.

Residual streams gathered during generation differ between versions of TransformerLens, and the last token never gets one; a
single forward pass over the whole text gives every position, on every kind of model. Edits of an intervention are in place in
both: a hook sees the prompt [batch, prompt, ...] and then each new token [batch, 1, ...] while text is generated, and the whole
text when it is measured.

Sampling: prompts of one length among ``batch_size`` documents, from one whose number is a multiple of it on, are a group, and
every group has random numbers of its own. Refused: a temperature below 0 or not finite, and prompts without room for the new
tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from tl_entropy.batches import Window, gathered
from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputError, check_int, check_number
from tl_entropy.torch_state import each, plain

AT_ONCE = 16
"""Prompts to generate for at once, where no batch size is given."""


class Continuations:
    """Token rows (prompt and continuation, the begin token included) of ``prompts``, one for each document, in order.

    Args:
        prompts: windows, one a document; a document without tokens has none and gives an empty row.
        adapter: the model.
        max_new_tokens: tokens to add at most; fewer where the model ends the text.
        temperature: 0 is greedy.
        seed: of the sampling; see ``group_seed``.
        batch_size: prompts to generate for at once.

    Attributes:
        prompt_lengths: document to the number of its prompt's tokens, without the begin token; filled as rows are drawn.
        uncached: how many of them were written without the model's cache (``capture/proofs/generation.py``).

    Raises:
        InputError: a prompt that leaves no room for the new tokens in the model's context.
    """

    def __init__(
        self,
        prompts: Iterable[Window],
        adapter: Adapter,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self._prompts, self._adapter, self._new = prompts, adapter, max_new_tokens
        self._temperature, self._seed, self._at_once = temperature, seed, 1 if adapter.alone else batch_size or AT_ONCE
        self.prompt_lengths: dict[int, int] = {}
        self.uncached = 0

    def __iter__(self) -> Iterator[Tensor]:
        return each(self._rows(), plain)  # whoever reads them as inputs

    def _rows(self) -> Iterator[Tensor]:
        expected = 0
        for chunk in gathered(map(self._checked, self._prompts), self._joins):
            rows: dict[int, Tensor] = {}
            for _, group in groupby(sorted(chunk, key=len), key=len):
                rows |= self._continue(list(group))
            for number in sorted(rows):
                yield from (torch.empty(0, dtype=torch.long) for _ in range(expected, number))
                expected = number + 1
                yield rows[number]

    def _joins(self, chunk: list[Window], window: Window | None) -> bool:
        """Whether a chunk takes the next prompt: chunks begin at multiples of their size, whatever part of a corpus is read."""
        if window is None:
            return (chunk[-1].document + 1) % self._at_once > 0
        return window.document // self._at_once == chunk[0].document // self._at_once

    def _checked(self, window: Window) -> Window:
        context = self._adapter.context
        if not window.last or int(window.position[0]) > 0 or len(window) + self._new > context:
            raise InputError(
                f"max_new_tokens: document {window.document} leaves no room for {self._new} new tokens in the model's "
                f"context of {context}; pass a shorter prompt or fewer tokens"
            )
        return window

    def _continue(self, prompts: list[Window]) -> dict[int, Tensor]:
        tokens = torch.stack([window.tokens for window in prompts])
        seed = group_seed(self._seed, prompts[0].document)
        whole, cached = self._adapter.generate(tokens, self._new, temperature=self._temperature, seed=seed)
        self.uncached += 0 if cached else len(prompts)
        rows = {}
        for window, row in zip(prompts, whole, strict=True):
            self.prompt_lengths[window.document] = int((window.position >= 0).sum())
            rows[window.document] = torch.cat([row[: len(window)], self._adapter.until_end(row[len(window) :])])
        return rows


def check_sampling(temperature: Any = 0.0, seed: Any = 0) -> tuple[float, int]:
    """A temperature and a seed to sample with, as a float and an int.

    Raises:
        InputError: a temperature that is negative or not finite, or a negative seed.
        InputTypeError: a temperature that is no number, or a seed that is no int.

    >>> check_sampling(1, 7)
    (1.0, 7)
    """
    return check_number("temperature", temperature, 0), check_int("seed", seed, 0)


def group_seed(seed: int, document: int) -> int:
    """The seed of a group of prompts: ``seed`` mixed with the number of its first document.

    On a CPU, torch takes the lower 32 bits of a seed alone. For one ``seed`` the mixing is one to one on 32 bits (an exclusive
    or with one key, and a product with an odd one), so that no two groups among 2^32 documents share their random numbers.

    >>> group_seed(0, 0), group_seed(0, 16), group_seed(1, 0)
    (2541855670, 2483590982, 3848801043)
    """
    digest = hashlib.sha256(str(seed).encode()).digest()
    mask, factor = int.from_bytes(digest[:4]), int.from_bytes(digest[4:8]) | 1
    return (document ^ mask) * factor % 2**32
