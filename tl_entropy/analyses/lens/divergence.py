"""Layer divergence: how far the prediction at each site is from the model's output, and where the output is decided.

At every position the lens distribution of each site (``analyses/lens/entropy.py``) is compared with that of the model's own
output, of the site before, or of any other site. Divergences to the output over depth are the usual figure of the quality of a
lens (Belrose et al. 2023, arXiv 2303.08112); those between neighbouring sites say where the distribution moves.

Nothing of shape [site, position, vocabulary] is stored: all sites' logits of some rows pass through one tile of the vocabulary
at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from tl_entropy.accumulators import DocumentMeans
from tl_entropy.analyses.lens.asked import reference as reference_of, target_ids, threshold
from tl_entropy.analyses.lens.reading import Over, Precision, Reading
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.rows import Rows, closed
from tl_entropy.analyses.streaming import Keep, PositionMeasure, row_fields
from tl_entropy.batches import Batch
from tl_entropy.capture.options import CorpusOptions, check_options
from tl_entropy.errors import InputError, InputTypeError, check_choice, check_int, is_iterable
from tl_entropy.functional.lens.comparison import METRICS, Metric, vocabulary_divergences
from tl_entropy.functional.lens.compiling import Compiled
from tl_entropy.lenses.jacobian import as_lens, sites_read
from tl_entropy.lenses.protocol import Lens
from tl_entropy.results.base import Unit
from tl_entropy.results.lens.divergence import DivergenceSummary, LayerDivergence
from tl_entropy.results.lens.settling import STREAM_SITES, first_to_stay, near, stream_columns
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import steady

# Rows that are normed at once, of all sites: few enough to be small beside the activations, enough for large products.
ROWS_AT_ONCE = 1024


class DivergenceAccumulator(PositionMeasure[LayerDivergence | DivergenceSummary]):
    """Gathers divergences, of every position (``keep="positions"``) or as sums over the corpus (``keep="summary"``).

    Arguments as for ``layer_divergence``. ``compute`` gives a ``LayerDivergence`` or a ``DivergenceSummary``.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> divergence = tle.DivergenceAccumulator(model, keep="summary")
    >>> report = tle.stream(model, "import os", [divergence], progress=False)
    >>> divergence.compute().tokens
    2
    """

    alike = (
        "asked_sites", "metrics", "against", "lens", "surprisal", "targets", "top_k", "keep", "precision", "vocabulary",
        "final_norm", "settled",
    )  # fmt: skip
    gathered = ("_means", "_squares", "_rows", "reading")

    def __init__(
        self,
        model: Any,
        *,
        metrics: Metric | Sequence[Metric] = ("kl", "jsd", "fisher_rao"),
        against: str | Site = "output",
        sites: str | Sequence[str | Site] | None = None,
        layers: Layers | None = None,
        lens: Lens | None = None,
        surprisal: bool = False,
        targets: str | int | Sequence[str | int] = (),
        top_k: int = 1,
        keep: Keep = "positions",
        precision: Precision = "float32",
        compiled: bool | None = None,
        vocabulary: Over = "model",
        final_norm: bool = True,
        settled: tuple[float, Unit] | None = None,
    ) -> None:
        super().__init__(model)
        lens = as_lens(lens)
        if not is_iterable(metrics):
            raise InputTypeError(f"metrics must be one or several of {', '.join(METRICS)}; got {metrics!r}")
        self.metrics: tuple[Metric, ...] = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        for metric in self.metrics:
            check_choice("metrics", metric, METRICS)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise InputError(f"metrics must hold at least one of {', '.join(METRICS)}, each once; got {metrics!r}")
        check_choice("keep", keep, ("positions", "summary"))
        self.top_k = check_int("top_k", top_k, 1, self.adapter.d_vocab)
        self.vocabulary = vocabulary
        self.targets = target_ids(self.adapter, targets)
        if keep == "summary" and (surprisal or self.targets or self.top_k > 1):
            raise InputError("surprisal, targets and top_k belong to single positions; use keep='positions', or leave them out")
        self.final_norm, self.settled = final_norm, threshold(settled, keep, self.metrics, against)
        measured = self.adapter.sites(sites_read(sites, lens, layers, n_layers=self.adapter.n_layers), layers)
        self.lens, self.surprisal, self.keep, self.precision = lens, surprisal, keep, precision
        self.against, reference = reference_of(self.adapter, against)
        self._output = self.adapter.last_site
        # What is read through the lens; after it comes the model's own output, which without a lens is the last site's.
        through = measured if reference is None or reference in measured else (*measured, reference)
        self._through = tuple(site for site in through if lens is not None or site != self._output)
        place = {site: i for i, site in enumerate(self._through)}
        self._compared_with: Any = len(place) if reference is None else place.get(reference, len(place))
        self.asked_sites = self.measured = measured
        if self.against == "previous":
            parts = [site for site in measured if site.name not in STREAM_SITES]
            if parts:
                raise InputError(
                    f"against: {parts[0]} is no state of the residual stream, and has none before it; with 'previous' give "
                    f"sites among {', '.join(sorted(STREAM_SITES))}"
                )
            if len(measured) < 2:
                raise InputError(f"against: there is no site before {measured[0]}; ask for more sites than one")
            self._compared_with, self.measured = "previous", measured[1:]
        self._at = torch.tensor([place.get(site, len(place)) for site in self.measured])
        self.sites = tuple(sorted({*self._through, self._output}, key=lambda site: site.depth))
        self.reading = Reading(
            self.adapter, self._through, lens=lens, precision=precision, compiled=compiled, vocabulary=vocabulary,
            final_norm=final_norm,
        )  # fmt: skip
        top_k = check_int("top_k", top_k, 1, self.reading.n_rows)
        self.reading.columns(torch.tensor(self.targets, dtype=torch.long))  # refuses what is left out
        self._stream = stream_columns(self.measured, required=False)
        if settled is not None and not self._stream:
            raise InputError(
                f"settled: none of the sites is a state of the residual stream ({', '.join(sorted(STREAM_SITES))})"
            )
        settles = () if settled is None else ("settled",)
        self._columns = (*self.metrics, "agreement", *(("decided", *settles) if self._stream else ()))
        shape = (len(self.measured), len(self._columns))
        self._means, self._squares = DocumentMeans(shape), torch.zeros(shape, dtype=torch.float64)
        self._rows = Rows(self._nothing())

    def _settings(self) -> dict[str, Any]:
        own = {"metrics": self.metrics, "against": self.against, "sites": tuple(map(str, self.asked_sites))}
        settled = {} if self.settled is None else {"settled": self.settled}
        return {**self.reading.settings(), **own, **settled}

    def _result(self, provenance: Provenance) -> LayerDivergence | DivergenceSummary:
        if self.keep == "summary":
            return DivergenceSummary(
                sites=self.measured, columns=self._columns, against=self.against, tokens=self._means.tokens,
                documents=self._means.seen_documents, sums=self._means.sums(), squares=self._squares, provenance=provenance,
            )  # fmt: skip
        return LayerDivergence(
            sites=self.measured, metrics=self.metrics, against=self.against, targets=self.targets, provenance=provenance,
            **row_fields(self._rows, self.adapter, *self.targets),
        )  # fmt: skip

    def _add(self, batch: Batch, found: dict[str, Tensor]) -> None:
        if self.keep == "positions":
            super()._add(batch, found)
        else:
            values = self._sums(found)
            squares = self._squares + values.square().sum(0)
            self._means.update(values, batch.row_document, closed(batch))
            self._squares = squares

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        rows = {site: batch.rows(activations[site]) for site in self.sites}
        compiled = self.reading.compiles(batch.n_rows * (len(self._through) + 1))
        targets = self._targets(batch)
        parts = []
        for first in range(0, batch.n_rows, ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            parts.append(self._compared({site: x[part] for site, x in rows.items()}, targets[part], compiled))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _compared(self, rows: Mapping[Site, Tensor], targets: Tensor, compiled: Compiled) -> dict[str, Tensor]:
        """What is found at some rows: name to [row, site, ...], on the CPU."""
        reading = self.reading
        normed = [reading.normed(site, rows[site]) for site in self._through]
        normed.append(reading.readout.norm(rows[self._output].to(reading.device)))
        found = vocabulary_divergences(
            torch.stack(normed), reference=self._compared_with, metrics=self.metrics,
            targets=reading.columns(targets).to(reading.device) if targets.shape[1] else None, top_k=self.top_k,
            compiled=compiled, **reading.options(len(normed) * len(normed[0])),
        )  # fmt: skip
        reading.ran_compiled |= found.compiled
        statistics, at = found.statistics, self._at
        single = ~statistics.tied.cpu()  # type: ignore[union-attr]
        # Compared with the site before, the first of the divergences is the second site's.
        divergences = found.divergences.cpu()[at - int(self._compared_with == "previous")]
        top_tokens = reading.tokens(statistics.top_tokens.cpu())  # type: ignore[union-attr]
        output_token = top_tokens[-1, :, 0]
        named = {
            "divergence": divergences,
            "top_tokens": top_tokens[at],
            "top_log_probs": statistics.top_log_probs.cpu()[at],  # type: ignore[union-attr]
            "agreement": (top_tokens[at, :, 0] == output_token) & single[at] & single[-1],
        }
        if targets.shape[1]:
            surprisal, rank = statistics.surprisal.cpu()[at], statistics.rank.cpu()[at]  # type: ignore[union-attr]
            if self.surprisal:
                named |= {"surprisal": surprisal[..., 0], "rank": rank[..., 0]}
            if self.targets:
                given = slice(-len(self.targets), None)
                named |= {"target_surprisal": surprisal[..., given], "target_rank": rank[..., given]}
        return {"output_token": output_token} | {name: value.transpose(0, 1) for name, value in named.items()}

    def _targets(self, batch: Batch) -> Tensor:
        """[row, target]: the next token where asked for, then the tokens given."""
        given = torch.tensor(self.targets, dtype=torch.long).expand(batch.n_rows, -1)
        return torch.cat([batch.row_target[:, None], given], 1) if self.surprisal else given

    def _sums(self, found: Mapping[str, Tensor]) -> Tensor:
        """What a summary is over: [row, site, column]."""
        agreement = found["agreement"]
        columns = [*found["divergence"].unbind(2), agreement]
        if self._stream:
            begins = [agreement[:, self._stream]]
            if self.settled is not None:
                jsd = found["divergence"][:, self._stream, self.metrics.index("jsd")]
                begins.append(near(jsd, *self.settled).long().cummax(1).values)
            stream = torch.tensor([*self._stream, len(self.measured)])
            columns += [torch.arange(len(self.measured)) >= stream[first_to_stay(holds)][:, None] for holds in begins]
        return torch.stack([column.double() for column in columns], 2)

    def _nothing(self) -> dict[str, Tensor]:
        sites = len(self.measured)
        part = {
            "divergence": torch.zeros(0, sites, len(self.metrics)),
            "agreement": torch.zeros(0, sites, dtype=torch.bool),
            "output_token": torch.zeros(0, dtype=torch.long),
            "top_tokens": torch.zeros(0, sites, self.top_k, dtype=torch.long),
            "top_log_probs": torch.zeros(0, sites, self.top_k),
        }
        if self.surprisal:
            part |= {"surprisal": torch.zeros(0, sites), "rank": torch.zeros(0, sites, dtype=torch.long)}
        if self.targets:
            shape = (0, sites, len(self.targets))
            part |= {"target_surprisal": torch.zeros(shape), "target_rank": torch.zeros(shape, dtype=torch.long)}
        return part


@overload
def layer_divergence(
    model: Any, inputs: Any, *, metrics: Metric | Sequence[Metric] = ..., against: str | Site = ...,
    sites: str | Sequence[str | Site] | None = ..., layers: Layers | None = ...,
    positions: int | slice | Sequence[int] | None = ..., lens: Lens | None = ..., surprisal: bool = ...,
    targets: str | int | Sequence[str | int] = ..., top_k: int = ..., keep: Literal["positions"] = ...,
    max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ..., compiled: bool | None = ...,
    vocabulary: Over = ..., final_norm: bool = ..., settled: tuple[float, Unit] | None = ..., progress: bool = ...,
    **options: Unpack[CorpusOptions],
) -> LayerDivergence: ...  # fmt: skip


@overload
def layer_divergence(
    model: Any, inputs: Any, *, metrics: Metric | Sequence[Metric] = ..., against: str | Site = ...,
    sites: str | Sequence[str | Site] | None = ..., layers: Layers | None = ...,
    positions: int | slice | Sequence[int] | None = ..., lens: Lens | None = ..., surprisal: bool = ...,
    targets: str | int | Sequence[str | int] = ..., top_k: int = ..., keep: Literal["summary"],
    max_new_tokens: int = ..., batch_size: int | None = ..., precision: Precision = ..., compiled: bool | None = ...,
    vocabulary: Over = ..., final_norm: bool = ..., settled: tuple[float, Unit] | None = ..., progress: bool = ...,
    **options: Unpack[CorpusOptions],
) -> DivergenceSummary: ...  # fmt: skip


@steady
def layer_divergence(
    model: Any,
    inputs: Any,
    *,
    metrics: Metric | Sequence[Metric] = ("kl", "jsd", "fisher_rao"),
    against: str | Site = "output",
    sites: str | Sequence[str | Site] | None = None,
    layers: Layers | None = None,
    positions: int | slice | Sequence[int] | None = None,
    lens: Lens | None = None,
    surprisal: bool = False,
    targets: str | int | Sequence[str | int] = (),
    top_k: int = 1,
    keep: Keep = "positions",
    max_new_tokens: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    compiled: bool | None = None,
    vocabulary: Over = "model",
    final_norm: bool = True,
    settled: tuple[float, Unit] | None = None,
    progress: bool = True,
    **options: Unpack[CorpusOptions],
) -> LayerDivergence | DivergenceSummary:
    r"""Divergence of the lens distribution at every site from the model's output, or from another site's, at every position.

    The number says how far the model's prediction of the next token, were the residual stream at that site its last, is from
    what it puts out in the end. The result says, too, at which site the output is decided: from where on the most probable
    token stays.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files, data sets, or an ActivationCache with its tokens; see ``stream``.
        metrics: any of kl, reverse_kl, jsd, fisher_rao, total_variation; with r the distribution compared with and p that of
            the site, kl is KL(r ‖ p) and reverse_kl KL(p ‖ r). jsd and total_variation take a second pass over the vocabulary.
        against: "output" (the model's own), "previous" (of each state of the residual stream the one before it among ``sites``;
            the first has none and is left out), or a site, such as "resid_post.3".
        sites: embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, of all layers, or single ones, such as resid_post.3.
            None is embed and every resid_post, or of a Jacobian lens the ends of the blocks that it has matrices for.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        positions: positions of each document to count; None is all. Padding, BOS and special tokens never count.
        lens: what turns the residual stream at a site into what the last one would be: None (the logit lens), a ``TunedLens``,
            or any function of a site and its rows [row, d_model]. The model's own output is never read through it.
        surprisal: give the surprisal and rank of the document's next token at every site as well.
        targets: tokens, as ids or as texts of one token each, whose surprisal and rank at every site are wanted as well.
        top_k: give this many of the most probable tokens at every site.
        keep: "positions" for every position, or "summary" for sums in constant memory, for corpora of any size.
        max_new_tokens: generate this many tokens after each text, and measure both.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        precision: "float32", or "bfloat16" for products in reduced precision.
        compiled: compile the statistics; None does so for large jobs where a compiler is found. The provenance says.
        vocabulary: "model" for all rows of the unembedding, "tokenizer" without those that are no token; see ``lens_entropy``.
        final_norm: False reads every site but the output by the unembedding alone, W_U h without the final norm, as Chen et al.
            2026 (arXiv 2602.13517) write it. It is refused with a lens, and where TransformerLens has folded the norm's gain
            into W_U.
        settled: a threshold and its unit, such as ``(0.5, "bits")``: a summary then holds the share of tokens that have
            settled by each site, too (``LayerDivergence.settled``); results with every position take any threshold later.
        progress: show a progress bar.
        options: those of ``tle.CorpusOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions, temperature, seed.

    Returns:
        ``LayerDivergence``, or ``DivergenceSummary`` with ``keep="summary"``; in nats and radians. Errors against
        float64: 2e-5 nats and 2e-6 of the value, 5e-5 rad.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured.
        ModelError: the model's own logits can't be reproduced from its residual stream, or a hook never fires.
        NonFiniteError: a NaN or infinity inside the model; its ``partial`` holds the result so far.

    >>> import tl_entropy as tle
    >>> result = tle.layer_divergence(tle.demo_model(), "import os\n", metrics="kl", progress=False)
    >>> result.metric("kl")[:, -1].tolist()  # the last residual stream is the output
    [0.0, 0.0, 0.0]
    """
    check_options(layer_divergence, options, CorpusOptions)
    accumulator = DivergenceAccumulator(
        model, metrics=metrics, against=against, sites=sites, layers=layers, lens=lens, surprisal=surprisal, targets=targets,
        top_k=top_k, keep=keep, precision=precision, compiled=compiled, vocabulary=vocabulary,
        final_norm=final_norm, settled=settled,
    )  # fmt: skip
    return measure(
        accumulator, inputs, positions=positions, max_new_tokens=max_new_tokens, batch_size=batch_size,
        progress=progress, options=options,
    )  # fmt: skip
