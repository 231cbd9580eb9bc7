"""Logit-lens entropy: how uncertain the model would be if it stopped at each site.

At every position and site the residual stream x is read through the model's own final norm and unembedding,
p = softmax(cap(scale · (ln_final(x) @ W_U + b_U))), and p's Shannon or Rényi entropies are taken (nostalgebraist 2020,
"interpreting GPT: the logit lens"; Rényi profiles: Entropy-Lens, arXiv 2502.16570). The norm is computed anew for each site,
so that the last block's ``resid_post`` gives the entropy of the model's own output; this is proved on a short pass before
anything is measured, and a model that fails is refused.

Deviation from common practice: nothing of shape [position, vocabulary] is stored; the vocabulary is read in tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from tl_entropy.accumulators import DocumentMeans, Histogram
from tl_entropy.analyses.lens.reading import Over, Precision, Reading
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.rows import Rows, closed
from tl_entropy.analyses.streaming import Keep, PositionMeasure, row_fields
from tl_entropy.batches import Batch
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import InputError, check_choice, check_int, check_orders
from tl_entropy.lenses.jacobian import as_lens, sites_read
from tl_entropy.lenses.protocol import Lens
from tl_entropy.results import LensEntropy, LensSummary
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady

BINS = 512
"""Bins of a summary's histograms, over 0 to log d_vocab."""


class LensAccumulator(PositionMeasure[LensEntropy | LensSummary]):
    """Gathers lens entropies, of every position (``keep="positions"``) or as sums over the corpus (``keep="summary"``).

    Arguments as for ``lens_entropy``. ``compute`` gives a ``LensEntropy`` or a ``LensSummary`` of what was seen so far.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> lens = tle.LensAccumulator(model, orders=(1, 2))
    >>> report = tle.stream(model, "import os", [lens], progress=False)
    >>> tuple(lens.compute().entropy.shape)  # position, site, order
    (2, 7, 2)
    """

    alike = ("sites", "orders", "keep", "surprisal", "top_k", "lens", "precision", "vocabulary")
    gathered = ("_means", "_squares", "_histogram", "_rows", "reading")

    def __init__(
        self,
        model: Any,
        *,
        orders: float | Sequence[float] = (1.0,),
        sites: str | Sequence[str | Site] | None = None,
        layers: Layers | None = None,
        lens: Lens | None = None,
        surprisal: bool = False,
        top_k: int = 0,
        keep: Keep = "positions",
        precision: Precision = "float32",
        compiled: bool | None = None,
        vocabulary: Over = "model",
    ) -> None:
        super().__init__(model)
        lens = as_lens(lens)
        self.orders = check_orders("orders", orders, different=True)
        check_choice("keep", keep, ("positions", "summary"))
        if keep == "summary" and (surprisal or top_k):
            raise InputError("surprisal and top_k belong to single positions; use keep='positions', or leave them out")
        self.sites = self.adapter.sites(sites_read(sites, lens, layers, n_layers=self.adapter.n_layers), layers)
        self.surprisal, self.top_k, self.keep, self.lens, self.precision = surprisal, top_k, keep, lens, precision
        self.vocabulary = vocabulary
        self.reading = Reading(
            self.adapter, self.sites, lens=lens, precision=precision, compiled=compiled, vocabulary=vocabulary
        )
        top_k = check_int("top_k", top_k, 0, self.reading.n_rows)
        shape = (len(self.sites), len(self.orders))
        self._ceiling = float(torch.tensor(self.reading.n_rows, dtype=torch.float64).log())
        self._means = DocumentMeans(shape)
        self._squares = torch.zeros(shape, dtype=torch.float64)
        self._histogram = Histogram(shape, high=self._ceiling, bins=BINS)
        self._rows = Rows(self._nothing())

    def _settings(self) -> dict[str, Any]:
        return {**self.reading.settings(), "orders": self.orders, "sites": tuple(map(str, self.sites))}

    def _result(self, provenance: Provenance) -> LensEntropy | LensSummary:
        if self.keep == "summary":
            return LensSummary(
                sites=self.sites, orders=self.orders, tokens=self._means.tokens, documents=self._means.seen_documents,
                sums=self._means.sums(), squares=self._squares, counts=self._histogram.counts.clone(), ceiling=self._ceiling,
                provenance=provenance,
            )  # fmt: skip
        return LensEntropy(sites=self.sites, orders=self.orders, provenance=provenance, **row_fields(self._rows, self.adapter))

    def _add(self, batch: Batch, found: dict[str, Tensor]) -> None:
        if self.keep == "positions":
            super()._add(batch, found)
            return
        entropy = found["entropy"]
        squares, counts = self._squares + (entropy**2).sum(0), Histogram(entropy.shape[1:], high=self._ceiling, bins=BINS)
        counts.update(entropy)
        self._means.update(entropy, batch.row_document, closed(batch))
        self._squares = squares
        self._histogram.merge(counts)

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """Statistics of all sites' rows: name to [row, site, ...], on the CPU."""
        targets = self.reading.columns(batch.row_target).to(self.reading.device) if self.surprisal else None
        found = self.reading.read(batch, activations, self.sites, targets, orders=self.orders, top_k=self.top_k)
        names = ("entropy", "surprisal", "rank", "top_tokens", "top_log_probs")
        return {name: found[name] for name in names if name in found}

    def _nothing(self) -> dict[str, Tensor]:
        sites = len(self.sites)
        part = {"entropy": torch.zeros(0, sites, len(self.orders))}
        if self.surprisal:
            part |= {"surprisal": torch.zeros(0, sites), "rank": torch.zeros(0, sites, dtype=torch.long)}
        if self.top_k:
            part["top_tokens"] = torch.zeros(0, sites, self.top_k, dtype=torch.long)
            part["top_log_probs"] = torch.zeros(0, sites, self.top_k)
        return part


@overload
def lens_entropy(
    model: Any, inputs: Any, *, orders: float | Sequence[float] = ..., sites: str | Sequence[str | Site] | None = ...,
    layers: Layers | None = ..., positions: int | slice | Sequence[int] | None = ..., lens: Lens | None = ...,
    surprisal: bool = ..., top_k: int = ..., keep: Literal["positions"] = ..., max_new_tokens: int = ...,
    batch_size: int | None = ..., precision: Precision = ..., compiled: bool | None = ...,
    vocabulary: Over = ..., progress: bool = ...,
    **options: Unpack[CorpusOptions],
) -> LensEntropy: ...  # fmt: skip


@overload
def lens_entropy(
    model: Any, inputs: Any, *, orders: float | Sequence[float] = ..., sites: str | Sequence[str | Site] | None = ...,
    layers: Layers | None = ..., positions: int | slice | Sequence[int] | None = ..., lens: Lens | None = ...,
    surprisal: bool = ..., top_k: int = ..., keep: Literal["summary"], max_new_tokens: int = ...,
    batch_size: int | None = ..., precision: Precision = ..., compiled: bool | None = ...,
    vocabulary: Over = ..., progress: bool = ...,
    **options: Unpack[CorpusOptions],
) -> LensSummary: ...  # fmt: skip


@steady
def lens_entropy(
    model: Any,
    inputs: Any,
    *,
    orders: float | Sequence[float] = (1.0,),
    sites: str | Sequence[str | Site] | None = None,
    layers: Layers | None = None,
    positions: int | slice | Sequence[int] | None = None,
    lens: Lens | None = None,
    surprisal: bool = False,
    top_k: int = 0,
    keep: Keep = "positions",
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    compiled: bool | None = None,
    vocabulary: Over = "model",
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> LensEntropy | LensSummary:
    r"""Entropy of the lens distribution at every site, of every order, at every real position.

    The number says how spread out the model's prediction of the next token would be if the residual stream at that site were
    its last: from 0 (certain) to log d_vocab (uniform). The entry for the last ``resid_post`` is the entropy of the model's
    own output.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        orders: Rényi orders from 0 to infinity, one or several; 1 is Shannon entropy.
        sites: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, of all layers, or single ones, such as resid_post.3.
            None is embed and every resid_post, or of a Jacobian lens the ends of the blocks that it has matrices for.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        positions: positions of each document to count; None is all. Padding, BOS and special tokens never count.
        lens: a function of a site and its rows [rows, d_model] that gives what the last residual stream would be, applied
            before the final norm; None is the logit lens, which changes nothing.
        surprisal: give the surprisal and rank of the document's next token at every site as well.
        top_k: give this many of the most probable tokens at every site as well.
        keep: "positions" for every position, or "summary" for sums in constant memory, for corpora of any size.
        max_new_tokens: generate this many tokens after each text, and measure both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        precision: "float32", or "bfloat16" for products in reduced precision (up to 0.05 nats off, much faster where the
            processor has bfloat16 units).
        compiled: compile the statistics; None does so for large jobs where a compiler is found. The provenance says.
        vocabulary: "model", all rows of the unembedding, as in the model's own softmax; or "tokenizer", without those that are
            no token of the tokenizer (vocabularies are often padded). The provenance says how many there are.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Returns:
        ``LensEntropy``, or ``LensSummary`` with ``keep="summary"``; in nats. Error against float64 at most 2e-5 nats.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured.
        ModelError: the model's own logits can't be reproduced from its residual stream, or a hook never fires.
        NonFiniteError: a NaN or infinity inside the model; its ``partial`` holds the result so far.

    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), "import os\n", progress=False)
    >>> [str(site) for site in result.sites[:2]], result.tokens()[:2]
    (['embed', 'resid_post.0'], ['import', ' os'])
    """
    check_options(lens_entropy, options, CorpusOptions)
    accumulator = LensAccumulator(
        model, orders=orders, sites=sites, layers=layers, lens=lens, surprisal=surprisal, top_k=top_k, keep=keep,
        precision=precision, compiled=compiled, vocabulary=vocabulary,
    )  # fmt: skip
    return measure(
        accumulator, inputs, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size,
        progress=progress, options=options,
    )  # fmt: skip
