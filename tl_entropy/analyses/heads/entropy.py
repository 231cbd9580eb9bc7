r"""Head entropy: how widely a head looks, and how sharp a prediction its output alone would make.

``of="pattern"``: a head's attention at a query is a distribution over the keys that the query sees; its Shannon or Rényi
entropy is 0 for a head that looks at one token, and log n for one that looks at all n alike. Keys that the query cannot see
(padding, later tokens, tokens beyond a layer's sliding window) are taken out before any logarithm, and what is left is
renormalised, since rows of half precision add up to 1 within 2e-3 only. Attention sinks that are no key (gpt-oss) are left out
likewise; their weight is told as ``sink_share``.

``of="readout"``: what head h writes into the residual stream, c_h = z_h @ W_O[h], is read through the unembedding. With
``norm="frozen"`` that is direct logit attribution (Elhage et al. 2021): c_h goes through the final norm with the scale that
the whole last residual stream has at the same position, s · c̄_h · w @ W_U, and no bias, so that over all heads, MLPs, their
biases and the embedding these logits add up to the model's own, less the readout's biases and before its soft cap. With
``norm="recomputed"`` c_h is read like a residual stream of its own, its size normalised away and all biases added. A soft cap,
where the model has one, is applied to the logits of the single head, as to any.

Deviation from common practice: a pattern's entropy is normalised by the log of the number of keys that its query sees, not by
that of the length of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from tl_entropy.accumulators import DocumentMeans
from tl_entropy.analyses.heads.values import frozen_entropies, pattern_values, recomputed_entropies
from tl_entropy.analyses.lens.reading import Over, Precision, Reading
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.rows import Rows, closed
from tl_entropy.analyses.streaming import Keep, PositionMeasure, row_fields
from tl_entropy.batches import Batch
from tl_entropy.capture.attention import attention_sight, visible_keys
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, check_choice, check_orders
from tl_entropy.results.heads.entropy import HeadEntropy, HeadSummary, Norm, Of, normalized, valued
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady


class HeadAccumulator(PositionMeasure[HeadEntropy | HeadSummary]):
    """Gathers head entropies, of every position (``keep="positions"``) or as sums over the corpus (``keep="summary"``).

    Arguments as for ``head_entropy``. ``compute`` gives a ``HeadEntropy`` or a ``HeadSummary`` of what was seen so far.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> heads = tle.HeadAccumulator(model)
    >>> report = tle.stream(model, "import os", [heads], progress=False)
    >>> tuple(heads.compute().entropy.shape)  # position, layer, head, order
    (2, 6, 6, 1)
    """

    alike = ("of", "norm", "layers", "orders", "keep", "precision", "vocabulary")
    gathered = ("_means", "_rows", "reading")
    bound = ("_weights",)

    def __init__(
        self,
        model: Any,
        *,
        of: Of = "pattern",
        orders: float | Sequence[float] = (1.0,),
        layers: Layers | None = None,
        norm: Norm = "frozen",
        keep: Keep = "positions",
        precision: Precision = "float32",
        compiled: bool | None = None,
        vocabulary: Over = "model",
        progress: bool = False,
    ) -> None:
        super().__init__(model)
        check_choice("of", of, ("pattern", "readout"))
        check_choice("norm", norm, ("frozen", "recomputed"))
        check_choice("keep", keep, ("positions", "summary"))
        self.orders = check_orders("orders", orders, different=True)
        if of == "pattern" and (norm, precision, compiled, vocabulary) != ("frozen", "float32", None, "model"):
            raise InputError(
                "norm, precision, compiled and vocabulary belong to of='readout'; leave them out, or read the heads out"
            )
        self.vocabulary = vocabulary
        self.of, self.keep, self.precision, self.progress = of, keep, precision, progress
        self.norm = norm if of == "readout" else None
        measured = self.adapter.sites("pattern" if of == "pattern" else "z", layers)
        self.layers = tuple(site.layer for site in measured)
        self._last = self.adapter.last_site
        self.sites = measured if self.norm != "frozen" else (*measured, self._last)
        self.reading = None
        if of == "readout":
            self.reading = Reading(
                self.adapter, (self._last,), lens=None, precision=precision, compiled=compiled, vocabulary=vocabulary
            )
            self._weights = {layer: self.adapter.head_weights(layer) for layer in self.layers}
        self.heads_of = {layer: self.adapter.heads_of(layer) for layer in self.layers}
        shape = (len(self.layers), max(self.heads_of.values()))
        quantities: dict[str, tuple[int, ...]] = {"entropy": (*shape, len(self.orders))}
        if of == "pattern":
            quantities |= {"normalized": quantities["entropy"], "bos_share": shape, "sink_share": shape}
        self._means = {name: DocumentMeans(size) for name, size in quantities.items()}
        self._rows = Rows(self._nothing())
        self._norm_error: float | None = None  # once it was asked for

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"of": self.of, "orders": self.orders, "layers": self.layers}
        if self.reading is not None:
            settings = {"norm": self.norm, **self.reading.settings(), **settings}
        if self.norm == "frozen":
            if self._norm_error is None:
                self._norm_error = self.adapter.frozen_norm.error
            settings["frozen_norm_error"] = self._norm_error
        return settings

    def _result(self, provenance: Provenance) -> HeadEntropy | HeadSummary:
        axes: dict[str, Any] = {
            "layers": self.layers, "heads": tuple(range(max(self.heads_of.values()))), "orders": self.orders, "of": self.of,
            "norm": self.norm, "provenance": provenance,
        }  # fmt: skip
        if self.keep == "summary":
            axes |= {f"{name}_sums": _six_sums(means) for name, means in self._means.items()}
            return HeadSummary(**axes)
        return HeadEntropy(**axes, **row_fields(self._rows, self.adapter))

    def _add(self, batch: Batch, found: dict[str, Tensor]) -> None:
        if self.keep == "positions":
            super()._add(batch, found)
            return
        if self.of == "pattern":
            found["normalized"] = normalized(found["entropy"], found["visible"])
        for name, means in self._means.items():
            known = valued(found[name])
            means.update(found[name][known], batch.row_document[known], closed(batch))

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        if self.reading is None:
            return self._patterns(batch, activations)
        return self._readouts(batch, activations, self.reading)

    def _patterns(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """Name to [row, layer, ...], on the CPU."""
        found = []
        for site in self.sites:
            pattern = activations[site]
            sight = attention_sight(self.adapter.model, site.layer, self.adapter.stack.of)
            visible = visible_keys(sight, batch.attention_mask, pattern, ahead=self.adapter.looks_ahead(site.layer))
            found.append(pattern_values(batch, pattern, visible, self.orders, hook_name(site)))
        return {name: self._stacked([part[name] for part in found]) for name in found[0]}

    def _readouts(self, batch: Batch, activations: Mapping[Site, Tensor], reading: Reading) -> dict[str, Tensor]:
        """The same, of what each head writes."""
        options = {"orders": self.orders, "compiled": reading.compiles(batch.n_rows * sum(self.heads_of.values()))}
        if self.norm == "frozen":
            scale = self.adapter.frozen_norm.scale(batch.rows(activations[self._last]).to(reading.device))
        found = []
        # A batch takes long: each row is read as often as there are heads.
        for layer in Bar(self.layers, desc="layers of this batch", delay=2, nested=True, show=self.progress):
            z = batch.rows(activations[Site("z", layer)]).to(reading.device)
            weights = self._weights[layer].to(reading.device)
            if self.norm == "frozen":
                parts = frozen_entropies(z, weights, scale, self.adapter.frozen_norm, reading, **options)
            else:
                parts = recomputed_entropies(z, weights, reading, **options)
            found.append(torch.cat(list(parts)))
        return {"entropy": self._stacked(found)}

    def _stacked(self, found: Sequence[Tensor]) -> Tensor:
        """Values [row, head, ...] of each layer as [row, layer, head, ...]; NaN at heads that a layer does not have."""
        if found[0].ndim == 1:  # of the layer's queries, not of its heads
            return torch.stack(list(found), 1)
        most = max(self.heads_of.values())
        missing = [value.new_full((len(value), most - value.shape[1], *value.shape[2:]), torch.nan) for value in found]
        return torch.stack([torch.cat(pair, 1) for pair in zip(found, missing, strict=True)], 1)

    def _nothing(self) -> dict[str, Tensor]:
        shape = (0, len(self.layers), max(self.heads_of.values()))
        part = {"entropy": torch.zeros(*shape, len(self.orders))}
        if self.of == "pattern":
            part |= {"visible": torch.zeros(shape[:2], dtype=torch.long)}
            part |= {"bos_share": torch.zeros(shape), "sink_share": torch.zeros(shape)}
        return part


@overload
def head_entropy(
    model: Any, inputs: Any, *, of: Of = ..., orders: float | Sequence[float] = ..., layers: Layers | None = ...,
    positions: int | slice | Sequence[int] | None = ..., norm: Norm = ..., keep: Literal["positions"] = ...,
    max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ..., compiled: bool | None = ...,
    vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> HeadEntropy: ...  # fmt: skip


@overload
def head_entropy(
    model: Any, inputs: Any, *, of: Of = ..., orders: float | Sequence[float] = ..., layers: Layers | None = ...,
    positions: int | slice | Sequence[int] | None = ..., norm: Norm = ..., keep: Literal["summary"],
    max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ..., compiled: bool | None = ...,
    vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> HeadSummary: ...  # fmt: skip


@steady
def head_entropy(
    model: Any,
    inputs: Any,
    *,
    of: Of = "pattern",
    orders: float | Sequence[float] = (1.0,),
    layers: Layers | None = None,
    positions: int | slice | Sequence[int] | None = None,
    norm: Norm = "frozen",
    keep: Keep = "positions",
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    compiled: bool | None = None,
    vocabulary: Over = "model",
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> HeadEntropy | HeadSummary:
    r"""Entropy of every head's attention, or of the prediction that its output alone would make, at every position.

    ``of="pattern"`` says how widely a head looks: from 0 (one key) to the log of the number of keys that the query sees.
    ``of="readout"`` says how sharply a head's own contribution to the residual stream points at tokens: from 0 to log d_vocab,
    which a head that writes nothing has. The choice of ``norm`` decides what that means: frozen, a small contribution gives
    almost equal logits and so almost the highest entropy; recomputed, only its direction counts.

    Args:
        model: a HookedTransformer or TransformerBridge. Patterns need attention_implementation "eager" on Hugging Face models.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        of: "pattern" for the attention over keys, "readout" for the head's contribution read through the unembedding.
        orders: Rényi orders from 0 to infinity, one or several; 1 is Shannon entropy. Order 0 of a pattern is the log of the
            number of keys whose weight has not underflowed.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        positions: positions of each document to count (of patterns: as queries); None is all. Padding, BOS and special tokens
            never count as queries; BOS and special tokens do as keys.
        norm: of readouts, "frozen" for the final norm with the scale of the whole last residual stream at the same position
            (direct logit attribution: no norm's bias, no b_U), "recomputed" for the full readout of the contribution alone.
        keep: "positions" for every position, or "summary" for sums in constant memory, for corpora of any size.
        max_new_tokens: generate this many tokens after each text, and measure both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens. Patterns of all layers are held for one batch:
            layers · heads · batch_size · window² numbers, so long windows need fewer at a time.
        precision: of readouts, "float32", or "bfloat16" for products in reduced precision (up to 0.05 nats off).
        compiled: of readouts, compile the statistics; None does so for large jobs where a compiler is found.
        vocabulary: of readouts, "model" for all rows of the unembedding, "tokenizer" without those that are no token; see
            ``lens_entropy``.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Returns:
        ``HeadEntropy``, or ``HeadSummary`` with ``keep="summary"``; in nats. Error against float64 at most 2e-5 nats; 3e-5 was
        seen where recomputed readouts have logits of 200. Of patterns it also holds the number of visible keys, the share of
        the attention on BOS and on sinks, and ``normalized``, the entropy as a share of its largest value. Where layers have
        different numbers of heads, heads that a layer does not have are NaN.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured.
        ModelError: a hook never fires; attention on keys that should not be visible; of readouts, a model whose heads are no
            contributions to the residual stream (a norm follows them: Gemma 2, OLMo 2), whose logits can't be reproduced, or
            whose final norm is not linear up to a scale.
        NonFiniteError: a NaN or infinity inside the model, or a head without any attention; its ``partial`` holds the result so
            far.

    >>> import tl_entropy as tle
    >>> result = head_entropy(tle.demo_model(), "import os\n", progress=False)
    >>> tuple(result.entropy.shape), result.visible[:, 0].tolist()  # token, layer, head, order; keys seen, BOS included
    ((3, 6, 6, 1), [2, 3, 4])
    """
    check_options(head_entropy, options, CorpusOptions)
    accumulator = HeadAccumulator(
        model,
        of=of,
        orders=orders,
        layers=layers,
        norm=norm,
        keep=keep,
        precision=precision,
        compiled=compiled,
        vocabulary=vocabulary,
        progress=progress,
    )
    return measure(
        accumulator, inputs, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size,
        progress=progress, options=options,
    )  # fmt: skip


def _six_sums(means: DocumentMeans) -> Tensor:
    """The number of documents, and the five sums: [6, ...]."""
    sums = means.sums()
    return torch.cat([torch.full_like(sums[:1], means.seen_documents), sums])
