"""Surprisal of every token, and how unsure the model was before it: what a text costs, token by token.

With p the model's distribution after the tokens before t_i, the surprisal -log p(t_i) is its loss on t_i, the entropy
-Σ p log p is what it expected to lose, and the varentropy the variance of that (Shannon 1948; Kontoyiannis and Verdú 2014). All
are of the model's own output: the last residual stream through its final norm and unembedding, read in tiles of the vocabulary.

Every token is predicted once: with ``stride`` at its default, a token behind a window's end is predicted from the window before
it, in full view of it. A document's first token is predicted from a BOS, and where there is none, it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from tl_entropy.analyses.lens.reading import Over, Precision, Reading
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.rows import closed
from tl_entropy.analyses.streaming import Keep, PositionMeasure, row_fields
from tl_entropy.analyses.tokens.rows import PredictedRows
from tl_entropy.batches import Batch
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import InputError, check_choice, check_int
from tl_entropy.lenses.jacobian import as_lens
from tl_entropy.lenses.protocol import Lens, lens_name
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.rates import N_TOTALS, moments
from tl_entropy.results.tokens.surprisal import SurprisalSummary, TokenSurprisal, document_totals
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady

TOP_K = 5
"""Most probable tokens that are kept for each token, where not asked otherwise."""


class SurprisalAccumulator(PositionMeasure[TokenSurprisal | SurprisalSummary]):
    """Gathers what every token cost (``keep="positions"``), or documents' totals as sums (``keep="summary"``).

    Arguments as for ``token_surprisal``. ``compute`` gives a ``TokenSurprisal`` or a ``SurprisalSummary`` of what was seen so
    far. For a document's first token to be among them, ``stream(..., count="predicted")`` has to hand on its BOS.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> surprisal = tle.SurprisalAccumulator(model)
    >>> report = tle.stream(model, "import os", [surprisal], count="predicted", progress=False)
    >>> surprisal.compute().n_tokens
    2
    """

    alike = ("keep", "top_k", "precision", "vocabulary", "words", "sites", "lens")
    gathered = ("_rows", "_sums", "_products", "reading", "deep")
    bound = ("_edges",)
    _rows: PredictedRows

    def __init__(
        self,
        model: Any,
        *,
        top_k: int | None = None,
        keep: Keep = "positions",
        precision: Precision = "float32",
        compiled: bool | None = None,
        vocabulary: Over = "model",
        words: bool = False,
        sites: str | Sequence[str | Site] = (),
        layers: Layers | None = None,
        lens: Lens | None = None,
    ) -> None:
        super().__init__(model)
        lens = as_lens(lens)
        check_choice("keep", keep, ("positions", "summary"))
        self.keep, self.precision = keep, precision
        for name, asked in (("top_k", top_k), ("words", words), ("sites", sites)):
            if keep == "summary" and asked:
                raise InputError(f"{name} belongs to single tokens; use keep='positions', or leave it out")
        if not sites and (layers is not None or lens is not None):
            raise InputError(
                "layers and lens say how sites are read; name sites, such as sites='resid_post', or leave them out"
            )
        if words and self.adapter.predicts == "own":
            raise InputError(
                "words=True asks where words begin after what was read, and this model speaks of tokens it has read"
            )
        output = self.adapter.output[0]
        self.words, self.vocabulary, self.lens = words, vocabulary, lens
        self._deep = self.adapter.sites(sites, layers) if sites else ()
        self.sites = tuple(dict.fromkeys((output, *self._deep)))
        self._edges = self.adapter.word_edges if words else None
        how: dict[str, Any] = {"precision": precision, "compiled": compiled, "vocabulary": vocabulary}
        self.reading = Reading(self.adapter, (output,), lens=None, **how)
        self.deep: Any = Reading(self.adapter, self._deep, lens=lens, **how) if sites else []
        default = 0 if keep == "summary" else min(TOP_K, self.reading.n_rows)
        self.top_k = default if top_k is None else check_int("top_k", top_k, 0, self.reading.n_rows)
        self._rows = PredictedRows(self.adapter, self._nothing())
        self._sums = torch.zeros(N_TOTALS, dtype=torch.float64)
        self._products = torch.zeros(N_TOTALS, N_TOTALS, dtype=torch.float64)

    def _settings(self) -> dict[str, Any]:
        more = {"words": self.words} if self.words else {}
        deep = {"sites": tuple(map(str, self._deep)), "lens": lens_name(self.lens)} if self._deep else {}
        return {**self.reading.settings(), "top_k": self.top_k, **more, **deep}

    def _result(self, provenance: Provenance) -> TokenSurprisal | SurprisalSummary:
        if self.keep == "summary":  # what is left here is of documents that the pass has not seen to their end
            sums, products = self._moments(self._rows.whole())
            return SurprisalSummary(sums=self._sums + sums, products=self._products + products, provenance=provenance)
        return TokenSurprisal(provenance=provenance, sites=self._deep, **row_fields(self._rows, self.adapter))

    def _add(self, batch: Batch, found: dict[str, Tensor]) -> None:
        super()._add(batch, found)
        if self.keep == "summary":
            sums, products = self._moments(self._rows.pop(closed(batch)))
            self._sums, self._products = self._sums + sums, self._products + products

    @staticmethod
    def _moments(whole: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        return moments(document_totals(whole)[0])

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """Statistics of each row's prediction, on the CPU."""
        output, target = self.sites[:1], batch.row_target
        found = self._at(self.reading, batch, activations, output, top_k=self.top_k, varentropy=True)
        values = {name: value[:, 0] for name, value in found.items() if name != "log_mass"}
        values["entropy"] = values["entropy"][:, 0]
        masses = [found["log_mass"]] if self.words else []
        if self._deep:
            deeper = self._at(self.deep, batch, activations, self._deep)
            values["site_surprisal"] = deeper["surprisal"]
            masses += [deeper["log_mass"]] if self.words else []
        if self._edges is not None:
            begins, over = self._edges
            # Behind a document's last token, where nothing is predicted, any word may begin.
            told = (begins[target.clamp(min=0)] | (target < 0)) & ~over[batch.row_token] & (batch.row_position >= 0)
            mass = -torch.cat(masses, 1)
            own = torch.cat([values["surprisal"][:, None], *([values["site_surprisal"]] if self._deep else [])], 1)
            # The token is one of those that begin a word: only rounding makes it more probable than all of them.
            values["word_begin"] = torch.fmin(mass, own).masked_fill(~told[:, None], 0.0)
        return values

    def _at(
        self, reading: Reading, batch: Batch, activations: Mapping[Site, Tensor], sites: Sequence[Site], **wanted: Any
    ) -> dict[str, Tensor]:
        targets = reading.columns(batch.row_target).to(reading.device)
        if self._edges is not None:
            wanted["subset"] = self._edges[0][reading.tokens(torch.arange(reading.n_rows))].to(reading.device)
        return reading.read(batch, activations, sites, targets, **wanted)

    def _nothing(self) -> dict[str, Tensor]:
        part = {name: torch.zeros(0, dtype=torch.float64) for name in ("surprisal", "entropy", "varentropy")}
        part["rank"] = torch.zeros(0, dtype=torch.long)
        if self.top_k:
            part["top_tokens"] = torch.zeros(0, self.top_k, dtype=torch.long)
            part["top_log_probs"] = torch.zeros(0, self.top_k, dtype=torch.float64)
        if self._deep:
            part["site_surprisal"] = torch.zeros(0, len(self._deep), dtype=torch.float64)
        if self.words:
            part["word_begin"] = torch.zeros(0, 1 + len(self._deep), dtype=torch.float64)
        return part


@overload
def token_surprisal(
    model: Any, inputs: Any, *, top_k: int | None = ..., positions: int | slice | Sequence[int] | None = ...,
    keep: Literal["positions"] = ..., words: bool = ..., sites: str | Sequence[str | Site] = ..., layers: Layers | None = ...,
    lens: Lens | None = ..., max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ...,
    compiled: bool | None = ..., vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> TokenSurprisal: ...  # fmt: skip


@overload
def token_surprisal(
    model: Any, inputs: Any, *, top_k: int | None = ..., positions: int | slice | Sequence[int] | None = ...,
    keep: Literal["summary"], words: bool = ..., sites: str | Sequence[str | Site] = ..., layers: Layers | None = ...,
    lens: Lens | None = ..., max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ...,
    compiled: bool | None = ..., vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> SurprisalSummary: ...  # fmt: skip


@steady
def token_surprisal(
    model: Any,
    inputs: Any,
    *,
    top_k: int | None = None,
    positions: int | slice | Sequence[int] | None = None,
    keep: Keep = "positions",
    words: bool = False,
    sites: str | Sequence[str | Site] = (),
    layers: Layers | None = None,
    lens: Lens | None = None,
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    compiled: bool | None = None,
    vocabulary: Over = "model",
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> TokenSurprisal | SurprisalSummary:
    r"""What every token of a text costs the model, how unsure it was before each, and what it expected instead.

    Everything is aligned to the token that it speaks of: the surprisal of a token is the model's loss on it, and the entropy in
    its row is that of the distribution from which it came.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        top_k: how many of the most probable tokens to keep for each token; None is 5, and 0 for a summary.
        positions: positions of each document, of the tokens predicted; None is all. Padding and special tokens never count.
        keep: "positions" for every token, or "summary" for rates over the corpus alone, in constant memory.
        words: keep how probable it was that a word begins, before and after every token, as ``result.word_surprisal`` needs it.
        sites: where to read the surprisal through a lens as well, as for ``lens_entropy``, such as "resid_post"; () is nowhere.
        layers: of these sites: numbers, from 0 or negative from the last, or a slice; None is all.
        lens: through which the sites are read; None is the logit lens.
        max_new_tokens: generate this many tokens after each text, and measure both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        precision: "float32", or "bfloat16" for products in reduced precision (up to 0.05 nats off).
        compiled: compile the statistics; None does so for large jobs where a compiler is found. The provenance says.
        vocabulary: "model" for all rows of the unembedding, "tokenizer" without those that are no token; see ``lens_entropy``.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Returns:
        ``TokenSurprisal``, or ``SurprisalSummary`` with ``keep="summary"``; in nats. Error against float64 at most 2e-5 nats.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured.
        ModelError: the model's own logits can't be reproduced from its residual stream.
        NonFiniteError: a NaN or infinity inside the model; its ``partial`` holds the result so far.

    >>> import tl_entropy as tle
    >>> result = tle.token_surprisal(tle.demo_model(), "import os\nimport sys\n", progress=False)
    >>> result.tokens()[:3], bool(result.surprisal[4] < result.surprisal[0])
    (['import', ' os', '\n'], True)
    """
    check_options(token_surprisal, options, CorpusOptions)
    accumulator = SurprisalAccumulator(
        model, top_k=top_k, keep=keep, precision=precision, compiled=compiled, vocabulary=vocabulary, words=words, sites=sites,
        layers=layers, lens=lens,
    )  # fmt: skip
    return measure(
        accumulator, inputs, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress,
        options=options, count="around" if words else "predicted",
    )  # fmt: skip
