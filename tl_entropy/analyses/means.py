"""The mean of what passes a site over a corpus, such as every attention head's output: what mean ablation puts in its place.

m = Σ x / N over the N positions counted, x what passes the site. Padding, begin and special tokens never count. Sums are
float64, so that batches and windows do not change them.

Refused: attention patterns, which are of pairs of positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor

from tl_entropy.analyses.sharing import Pass, read
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.batches import Batch
from tl_entropy.capture.given import adapter_of, of_stack
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import InputError, keeping, partial_of
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady


class StateMeans(StreamingMeasure[dict[Site, Tensor]]):
    """Σ x by site, and the number of positions."""

    alike = ("sites",)
    gathered = ("tokens",)
    kept = ("_sums",)

    def __init__(self, model: Any, sites: Sequence[Site]) -> None:
        super().__init__(model)
        self.sites = tuple(sites)
        self._sums: dict[Site, Tensor] = {}
        self.tokens = 0

    @torch.no_grad()
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch."""
        if batch.n_rows:
            self._add({site: batch.rows(activations[site]).cpu() for site in self.sites})

    def _add(self, states: Mapping[Site, Tensor]) -> None:
        """Add what passes each site, [row, ...]."""
        for site, rows in states.items():
            self._sums[site] = self._sums.get(site, 0) + rows.sum(0, dtype=torch.float64)
        self.tokens += len(next(iter(states.values())))

    def _merge(self, other: Self, *, placed: bool) -> None:
        for site, total in other._sums.items():
            self._sums[site] = self._sums.get(site, 0) + total

    def _result(self, provenance: Provenance) -> dict[Site, Tensor]:
        return {site: total / self.tokens for site, total in self._sums.items()}


@steady
def site_means(
    model: Any,
    inputs: Any,
    sites: str | Site | Iterable[str | Site],
    *,
    layers: Layers | None = None,
    positions: int | slice | Sequence[int] | None = None,
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> dict[Site, Tensor]:
    """Mean of what passes each site over all positions counted: site to [d_model], float64 on the CPU.

    For ``z`` it is [head, d_head], and for ``result`` [head, d_model].

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets; see ``stream``.
        sites: short names, such as "resid_post" (every layer), "resid_post.3" or "embed".
        layers: blocks to take of names without a layer; None is all.
        positions: positions of each document to count; None is all.
        max_new_tokens: generate this many tokens after each text, and count both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Raises:
        InputError: no position to take a mean over, a site that the model does not have, or attention patterns.
        KeyboardInterrupt: Ctrl-C; the means of what was read until then are its ``partial``.

    >>> import tl_entropy as tle
    >>> means = site_means(tle.demo_model(), "import os", ("embed", "resid_post.0"), progress=False)
    >>> [(str(site), list(mean.shape) == [tle.demo_model().cfg.d_model]) for site, mean in means.items()]
    [('embed', True), ('resid_post.0', True)]
    """
    check_options(site_means, options, CorpusOptions)
    model, sites = of_stack(model, sites)
    adapter = adapter_of(model)
    chosen = adapter.sites(sites, layers)
    if any(site.name == "pattern" for site in chosen):
        raise InputError("sites: pattern is of pairs of positions, and has no mean that could stand at one of them")
    means = StateMeans(adapter, chosen)
    one_pass = Pass(
        adapter, inputs, positions=positions, batch_size=batch_size, max_new_tokens=max_new_tokens, progress=progress,
        options=options,
    )  # fmt: skip
    with keeping(lambda _: means.compute() if means.tokens else None):
        if read([means], one_pass).interrupted:
            raise KeyboardInterrupt  # the means of a part are other means, and do not say so
    return means.compute()


@steady
def head_means(
    model: Any,
    inputs: Any,
    *,
    layers: Layers | None = None,
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
        layers: blocks to take: numbers, from 0 or negative from the last, or a slice; None is all.
        positions: positions of each document to count; None is all.
        max_new_tokens: generate this many tokens after each text, and count both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Raises:
        InputError: no position to take a mean over, or a layer that the model does not have.
        KeyboardInterrupt: as ``site_means``.

    >>> import tl_entropy as tle
    >>> means = head_means(tle.demo_model(), "import os", progress=False)
    >>> tuple(means[0].shape) == (tle.Adapter(tle.demo_model()).heads_of(0), tle.demo_model().cfg.d_head)
    True
    """
    check_options(head_means, options, CorpusOptions)

    def by_layer(means: dict[Site, Tensor]) -> dict[int, Tensor]:
        return {site.layer: mean for site, mean in means.items()}

    with keeping(lambda error: by_layer(found) if (found := partial_of(error)) else None):
        means = site_means(
            model, inputs, "z", layers=layers, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size,
            progress=progress, **options,
        )  # fmt: skip
    return by_layer(means)
