"""The mean output of every attention head over a corpus: what mean ablation puts in its place.

m_h = Σ z_h / N over the N positions counted, z_h what head h hands to W_O. Padding, begin and special tokens never count.
Sums are float64, so that batches and windows do not change them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.batches import Batch
from tl_entropy.capture.stream import CorpusOptions, check_options, stream
from tl_entropy.errors import InputError
from tl_entropy.sites import Site


class _HeadSums:
    """An accumulator of Σ z [head, d_head] by layer."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self._sums: dict[Site, Tensor] = {}
        self._tokens = 0

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch."""
        found = {site: batch.rows(activations[site]).cpu().sum(0, dtype=torch.float64) for site in self.sites}
        self._sums = {site: self._sums.get(site, 0) + value for site, value in found.items()}
        self._tokens += batch.n_rows

    def merge(self, other: _HeadSums) -> None:
        """Take in what another has seen."""
        for site, value in other._sums.items():
            self._sums[site] = self._sums.get(site, 0) + value
        self._tokens += other._tokens

    def compute(self) -> dict[int, Tensor]:
        """Layer to mean."""
        if not self._tokens:
            raise InputError("inputs: no position was counted, so there is no mean of a head")
        return {site.layer: value / self._tokens for site, value in self._sums.items()}


def head_means(
    model: Any,
    inputs: Any,
    *,
    layers: Sequence[int] | None = None,
    positions: int | slice | Sequence[int] | None = None,
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> dict[int, Tensor]:
    """Mean of z over all positions counted: layer to [head, d_head], float64 on the CPU.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets; see ``stream``.
        layers: blocks to take; None is all.
        positions: positions of each document to count; None is all.
        max_new_tokens: generate this many tokens after each text, and count both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show a progress bar.
        options: see ``CorpusOptions``.

    Raises:
        InputError: no position to take a mean over, or a layer that the model does not have.

    >>> import tl_entropy as tle
    >>> means = head_means(tle.demo_model(), "import os", progress=False)
    >>> tuple(means[0].shape) == (tle.Adapter(tle.demo_model()).n_heads, tle.demo_model().cfg.d_head)
    True
    """
    check_options(head_means, options, CorpusOptions)
    adapter = model if isinstance(model, Adapter) else Adapter(model)
    sums = _HeadSums(adapter.sites("z", layers))
    stream(
        adapter, inputs, [sums], positions=positions, batch_size=batch_size, max_new_tokens=max_new_tokens,
        progress=progress, **options,
    )  # fmt: skip
    return sums.compute()
