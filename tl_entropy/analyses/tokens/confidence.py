"""Confidence of every token's prediction, at the output or at any site: six measures of how sure a distribution is.

Self-certainty is how far the prediction is from knowing nothing, and rewards certainty by its unlikely tokens (Z. Kang et al.,
arXiv 2502.18581); the mean log-probability of the top k looks at the likely ones alone (Y. Fu et al., arXiv 2508.15260, "deep
think with confidence", who take its lowest window over an answer, too); z compares what the token cost with what it had to cost
(J. Zhang et al., Min-K%++, arXiv 2404.02936). The kurtosis of the logits says whether few tokens stand out from the others,
whatever the scale. All come from one pass over the tiles of the vocabulary.

Deviations: over a vocabulary that masks tokens, U is uniform on the others, as KL(U ‖ p) is infinite otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from tl_entropy.analyses.lens.reading import Over, Precision
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.streaming import Keep
from tl_entropy.analyses.tokens.site_values import SiteAccumulator, SiteOptions
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import check_int
from tl_entropy.lenses.protocol import Lens
from tl_entropy.results.tokens.site_values import CONFIDENCE, Confidence, SiteMeans
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady

TOP_K = 20
"""Most probable tokens that two of the measures look at, where not asked otherwise; of smaller vocabularies all."""


class ConfidenceAccumulator(SiteAccumulator):
    """Gathers the confidence of every token (``keep="positions"``), or sums of it (``keep="summary"``).

    Args:
        model: a HookedTransformer, TransformerBridge or ``Adapter``.
        top_k: as for ``confidence``.
        options: sites, layers, lens, keep, precision, compiled, vocabulary, as for ``confidence``.

    ``compute`` gives a ``Confidence`` or a ``SiteMeans`` of what was seen so far.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> found = tle.ConfidenceAccumulator(model, sites="resid_post")
    >>> report = tle.stream(model, "import os", [found], progress=False, count="predicted")
    >>> tuple(found.compute().values.shape)  # token, site, quantity
    (2, 6, 6)
    """

    kind = Confidence
    measured = tuple(CONFIDENCE)
    alike = (*SiteAccumulator.alike, "top_k")

    def __init__(self, model: Any, *, top_k: int | None = None, **options: Unpack[SiteOptions]) -> None:
        super().__init__(model, **options)
        n_rows = self.reading.n_rows
        self.top_k = min(TOP_K, n_rows) if top_k is None else check_int("top_k", top_k, min(2, n_rows), n_rows)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "top_k": self.top_k}

    def _wanted(self) -> dict[str, Any]:
        return {"top_k": self.top_k, "varentropy": True, "self_certainty": True, "kurtosis": True}

    def _values(self, found: Mapping[str, Tensor]) -> list[Tensor]:
        top, excess = found["top_log_probs"], found["surprisal"] - found["entropy"][..., 0]
        p, deviation = top.exp(), found["varentropy"].sqrt()
        second = p[..., 1] if self.top_k > 1 else torch.zeros_like(p[..., 0])
        # Without a deviation every possible token costs what was expected: what is left is rounding.
        z = torch.where((deviation > 0) | excess.isinf(), -excess / deviation, 0.0)
        return [found["self_certainty"], p[..., 0] - second, -top.mean(-1), p.sum(-1).clamp(max=1.0), z, found["kurtosis"]]


@overload
def confidence(
    model: Any, inputs: Any, *, sites: str | Sequence[str | Site] | None = ..., layers: Layers | None = ...,
    lens: Lens | None = ..., top_k: int | None = ..., positions: int | slice | Sequence[int] | None = ...,
    keep: Literal["positions"] = ..., max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ...,
    compiled: bool | None = ..., vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> Confidence: ...  # fmt: skip


@overload
def confidence(
    model: Any, inputs: Any, *, sites: str | Sequence[str | Site] | None = ..., layers: Layers | None = ...,
    lens: Lens | None = ..., top_k: int | None = ..., positions: int | slice | Sequence[int] | None = ...,
    keep: Literal["summary"], max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ...,
    compiled: bool | None = ..., vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> SiteMeans: ...  # fmt: skip


@steady
def confidence(
    model: Any,
    inputs: Any,
    *,
    sites: str | Sequence[str | Site] | None = None,
    layers: Layers | None = None,
    lens: Lens | None = None,
    top_k: int | None = None,
    positions: int | slice | Sequence[int] | None = None,
    keep: Keep = "positions",
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    compiled: bool | None = None,
    vocabulary: Over = "model",
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> Confidence | SiteMeans:
    r"""How confident the model is of every token, by six measures, at its output or at any site.

    Everything is aligned to the token that it speaks of: values in its row are of the distribution from which it came. The
    measures are those of a ``Confidence``: self_certainty, margin, top_k_confidence, top_k_mass, z and kurtosis.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        sites: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, of all layers, or single ones, such as resid_post.3;
            None is the model's output alone (with ``layers`` or a ``lens``, resid_post).
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        lens: what turns the residual stream at a site into what the last one would be; None is the logit lens.
        top_k: how many of the most probable tokens top_k_confidence and top_k_mass look at; None is 20.
        positions: positions of each document, of the tokens predicted; None is all. Padding and special tokens never count.
        keep: "positions" for every token, or "summary" for means over the corpus alone, in constant memory.
        max_new_tokens: generate this many tokens after each text, and measure both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        precision: "float32", or "bfloat16" for products in reduced precision (up to 0.05 nats off).
        compiled: compile the statistics; None does so for large jobs where a compiler is found. The provenance says.
        vocabulary: "model" for all rows of the unembedding, "tokenizer" without those that are no token; see ``lens_entropy``.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Returns:
        ``Confidence``, or ``SiteMeans`` with ``keep="summary"``; in nats. Error against float64 at most 1e-4 nats.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured.
        ModelError: the model's own logits can't be reproduced from its residual stream.
        NonFiniteError: a NaN or infinity inside the model; its ``partial`` holds the result so far.

    >>> import tl_entropy as tle
    >>> result = tle.confidence(tle.demo_model(), "import os\nimport sys\n", progress=False)
    >>> answers = result.of_spans(r"\w+")  # means over words; over whole documents without a pattern
    >>> answers["text"].tolist(), answers["margin"].between(0, 1).all().item()
    (['import', 'os', 'import', 'sys'], True)
    """
    check_options(confidence, options, CorpusOptions)
    accumulator = ConfidenceAccumulator(
        model, sites=sites, layers=layers, lens=lens, top_k=top_k, keep=keep, precision=precision, compiled=compiled,
        vocabulary=vocabulary,
    )  # fmt: skip
    return measure(  # type: ignore[return-value]
        accumulator, inputs, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress,
        options=options, count="predicted",
    )  # fmt: skip
