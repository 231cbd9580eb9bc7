"""Distance of every site's prediction from the unigram law: how far it is from guessing by word frequencies alone.

Early layers promote frequent tokens, whatever the text, and later ones refine (A. Gupta et al., How do LLMs use their depth?,
arXiv 2510.18871). With p the prediction at a site and f the frequencies of tokens, smoothed as f_v ∝ n_v + s,

    KL(p ‖ f) = Σ p·(-log f) - H(p)

is one more sum over the tiles of the vocabulary. The rank of the most probable token among the frequencies says the same of the
answer alone.

Deviation: their figures count frequency classes of the top token; the divergence takes the whole prediction.

Refused: inputs that can be read only once, where their tokens have to be counted first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, Unpack, cast, overload

import torch
from torch import Tensor

from tl_entropy.analyses.lens.reading import Over, Precision
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.sharing import once
from tl_entropy.analyses.streaming import Keep
from tl_entropy.analyses.tokens.site_values import SiteAccumulator, SiteOptions
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.inputs import repeatable
from tl_entropy.capture.options import CorpusOptions, WindowOptions, check_options
from tl_entropy.errors import InputError, InputTypeError, check_number
from tl_entropy.lenses.jacobian import sites_read
from tl_entropy.lenses.protocol import Lens
from tl_entropy.results.tokens.site_values import UNIGRAM, SiteMeans, UnigramDistance
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady

SMOOTHING = 0.5
"""What is added to every token's count, where not asked otherwise (H. Jeffreys's prior)."""


class UnigramAccumulator(SiteAccumulator):
    """Gathers how far every prediction is from the frequencies of tokens, of every token or as sums.

    Args:
        model: a HookedTransformer, TransformerBridge or ``Adapter``.
        frequencies: [d_vocab], how often each token occurs.
        smoothing: as for ``unigram_distance``.
        options: sites, layers, lens, keep, precision, compiled, vocabulary, as for ``unigram_distance``.

    ``compute`` gives a ``UnigramDistance`` or a ``SiteMeans`` of what was seen so far.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> found = tle.UnigramAccumulator(model, torch.ones(4096), sites="resid_post")
    >>> report = tle.stream(model, "import os", [found], progress=False, count="predicted")
    >>> tuple(found.compute().values.shape)  # token, site, quantity
    (2, 6, 2)
    """

    kind = UnigramDistance
    measured = tuple(UNIGRAM)
    alike = (*SiteAccumulator.alike, "smoothing", "counts")
    bound = ("_weights", "_rank")

    def __init__(self, model: Any, frequencies: Any, *, smoothing: float = SMOOTHING, **options: Unpack[SiteOptions]) -> None:
        adapter = adapter_of(model)
        asked, lens, layers = (options.get(name) for name in ("sites", "lens", "layers"))
        options["sites"] = sites_read(asked, lens, layers, n_layers=adapter.n_layers)
        super().__init__(adapter, **options)
        self.smoothing = check_number("smoothing", smoothing, 0)
        counts = checked_frequencies(frequencies, self.adapter.d_vocab)
        self.counts = sha256(counts.numpy().tobytes()).hexdigest()[:16]
        counts = counts[self.reading.tokens(torch.arange(self.reading.n_rows)).cpu()]
        smoothed = counts + self.smoothing
        if not bool((smoothed > 0).all()):
            raise InputError("smoothing must be above 0 where tokens have a frequency of 0: the divergence would be infinite")
        cost = -(smoothed / smoothed.sum()).log()
        self._most = cost.max().item()
        self._weights = cost / self._most if self._most else torch.zeros_like(cost)
        ordered = counts.sort().values
        self._rank = (len(counts) - torch.searchsorted(ordered, counts) - 1).double()

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "smoothing": self.smoothing, "frequencies": self.counts}

    def _wanted(self) -> dict[str, Any]:
        return {"top_k": 1, "subset": self._weights}

    def _values(self, found: Mapping[str, Tensor]) -> list[Tensor]:
        cost = found["log_mass"].exp() * self._most
        top = self.reading.columns(found["top_tokens"][..., 0])
        return [(cost - found["entropy"][..., 0]).clamp(min=0.0), self._rank[top]]


@overload
def unigram_distance(
    model: Any, inputs: Any, *, frequencies: Any = ..., smoothing: float = ..., sites: str | Sequence[str | Site] | None = ...,
    layers: Layers | None = ..., lens: Lens | None = ..., positions: int | slice | Sequence[int] | None = ...,
    keep: Literal["positions"] = ..., max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ...,
    compiled: bool | None = ..., vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> UnigramDistance: ...  # fmt: skip


@overload
def unigram_distance(
    model: Any, inputs: Any, *, frequencies: Any = ..., smoothing: float = ..., sites: str | Sequence[str | Site] | None = ...,
    layers: Layers | None = ..., lens: Lens | None = ..., positions: int | slice | Sequence[int] | None = ...,
    keep: Literal["summary"], max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ...,
    compiled: bool | None = ..., vocabulary: Over = ..., progress: bool = ..., **options: Unpack[CorpusOptions],
) -> SiteMeans: ...  # fmt: skip


@steady
def unigram_distance(
    model: Any,
    inputs: Any,
    *,
    frequencies: Any = None,
    smoothing: float = SMOOTHING,
    sites: str | Sequence[str | Site] | None = None,
    layers: Layers | None = None,
    lens: Lens | None = None,
    positions: int | slice | Sequence[int] | None = None,
    keep: Keep = "positions",
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    compiled: bool | None = None,
    vocabulary: Over = "model",
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> UnigramDistance | SiteMeans:
    r"""How far the prediction at every site is from the frequencies of tokens: from guessing without looking at the text.

    Everything is aligned to the token that it speaks of: values in its row are of the distribution from which it came. The
    quantities are those of a ``UnigramDistance``: unigram_kl, KL(p ‖ f), and frequency_rank of the most probable token.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        frequencies: [d_vocab], how often each token occurs (a tensor, array or sequence of counts); None counts the tokens of
            the inputs, special ones left out, which are read once more before.
        smoothing: what is added to every count.
        sites: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, of all layers, or single ones, such as resid_post.3.
            None is embed and every resid_post, or of a Jacobian lens the ends of the blocks that it has matrices for.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        lens: what turns the residual stream at a site into what the last one would be; None is the logit lens.
        positions: positions of each document, of the tokens predicted; None is all. All tokens are counted, whatever these are.
        keep: "positions" for every token, or "summary" for means over the corpus alone, in constant memory.
        max_new_tokens: generate this many tokens after each text, and measure both; they are not counted.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        precision: "float32", or "bfloat16" for products in reduced precision (up to 0.05 nats off).
        compiled: compile the statistics; None does so for large jobs where a compiler is found. The provenance says.
        vocabulary: "model" for all rows of the unembedding, "tokenizer" without those that are no token; see ``lens_entropy``.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed. Tokens are counted in all documents.

    Returns:
        ``UnigramDistance``, or ``SiteMeans`` with ``keep="summary"``; in nats. Error against float64 at most 1e-4 nats.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured, inputs that can be read only
            once, without frequencies.
        ModelError: the model's own logits can't be reproduced from its residual stream.
        NonFiniteError: a NaN or infinity inside the model; its ``partial`` holds the result so far.

    >>> import tl_entropy as tle
    >>> texts = [text[:300] for text in tle.demo_texts(2)]
    >>> found = tle.unigram_distance(tle.demo_model(), texts, progress=False).mean_profile("unigram_kl")
    >>> bool(found["mean"].idxmax() == 0)  # the embedding answers with the token read, the blocks with likely ones
    True
    """
    check_options(unigram_distance, options, CorpusOptions)
    adapter = adapter_of(model)
    if frequencies is None:
        frequencies = counted_tokens(adapter, inputs, options)
    accumulator = UnigramAccumulator(
        adapter, frequencies, smoothing=smoothing, sites=sites, layers=layers, lens=lens, keep=keep, precision=precision,
        compiled=compiled, vocabulary=vocabulary,
    )  # fmt: skip
    return measure(  # type: ignore[return-value]
        accumulator, inputs, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress,
        options=options, count="predicted",
    )  # fmt: skip


def counted_tokens(adapter: Adapter, inputs: Any, options: CorpusOptions) -> Tensor:
    """How often each token occurs in all documents of the inputs; several processes count once."""
    if split_cache(inputs)[0] is not None:  # which every process has as a whole
        return _counted(adapter, inputs, options)
    counts: Tensor = once("frequencies of tokens", lambda: _counted(adapter, inputs, options))
    return counts


def _counted(adapter: Adapter, inputs: Any, options: CorpusOptions) -> Tensor:
    """The same, of this process."""
    _, rest = split_cache(inputs)
    if not repeatable(rest):
        raise InputError(
            "inputs are read once to count their tokens, and once to be measured; a generator can be read once: pass a list of "
            "its texts, or frequencies="
        )
    reads = {name: value for name, value in options.items() if name in WindowOptions.__annotations__ and name != "documents"}
    counts = torch.zeros(adapter.d_vocab, dtype=torch.float64)
    for window in read_corpus(adapter, rest, quiet=True, **cast("WindowOptions", reads)):
        counts += torch.bincount(window.tokens[window.counted], minlength=adapter.d_vocab)
    return counts


def checked_frequencies(frequencies: Any, d_vocab: int) -> Tensor:
    """Frequencies [d_vocab] in float64."""
    try:
        counts = torch.as_tensor(frequencies).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"frequencies must be numbers, one for each token; got {type(frequencies).__name__}") from error
    if counts.shape != (d_vocab,):
        raise InputError(f"frequencies must be [{d_vocab}], one for each token; got the shape {list(counts.shape)}")
    if not bool((counts.isfinite() & (counts >= 0)).all()) or not bool(counts.any()):
        raise InputError("frequencies must be finite and from 0, and some above it; they are not")
    return counts
