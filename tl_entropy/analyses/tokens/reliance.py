"""How much each token's prediction relies on a part of the model, or on another token: run with it and without, and compare.

For every token the model's prediction of it is taken twice, as the model is and with an intervention: a head ablated, a layer's
output at 0, a token masked from attention. How far the two are apart, by the logits or by the distributions, is the token's
reliance on what was taken out (occlusion: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2). It is not entropy, nor an
estimate of it: a prediction may be certain because of a part, or uncertain whatever it relies on.

Both runs are of the same padded batch, and both are read in tiles of the vocabulary (``functional/tokens/logit_changes.py``):
logits are never stored. A token whose last residual stream is the same in both to the last bit is at exactly 0.

Refused: interventions that cannot have an effect, caches (nothing runs on them), documents longer than a window where their
tokens are the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from tl_entropy.analyses.lens.reading import Over, Precision, Reading
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.streaming import PositionMeasure, row_fields
from tl_entropy.analyses.tokens.rows import PredictedRows
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.edits import Edits
from tl_entropy.capture.feeding import row_place
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.interventions import Intervention, Interventions, as_interventions, intervention_names
from tl_entropy.capture.occlusion import mask_attention
from tl_entropy.capture.options import CorpusOptions, EditOptions, check_options
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.tokens.logit_changes import CHANGE_UNITS, Change, check_changes, vocabulary_changes
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.reliance import TokenReliance
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady

On = Interventions | Mapping[str, Interventions] | Literal["tokens"]


class RelianceAccumulator(PositionMeasure[TokenReliance]):
    """Gathers reliances; arguments as for ``token_reliance``. ``compute`` gives a ``TokenReliance`` of what was seen so far.

    While ``stream`` hands it a batch, it runs the model again, once for each source; interventions of the pass itself hold for
    these runs, too. For a document's first token to be among the rows, ``stream(..., count="predicted")`` has to hand on its
    BOS.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> reliance = tle.RelianceAccumulator(model, {"head 0.3": tle.ablate_heads([(0, 3)])}, metrics=("kl",))
    >>> report = tle.stream(model, "import os", [reliance], count="predicted", progress=False)
    >>> reliance.compute().metrics
    ('kl',)
    """

    runs_model = True
    alike = ("sources", "metrics", "precision", "vocabulary")
    gathered = ("_rows", "reading")
    _rows: SourceRows
    _edits: Mapping[str, Edits] = {}  # of one without its model

    def __init__(
        self,
        model: Any,
        on: On,
        *,
        metrics: Sequence[Change] = ("l1", "cosine", "kl", "loss"),
        precision: Precision = "float32",
        vocabulary: Over = "model",
        progress: bool = False,
    ) -> None:
        super().__init__(model)
        check_changes(metrics)
        self.metrics, self.precision = tuple(metrics), precision
        self.sites = (self.adapter.output[0],)
        self.parts = None if isinstance(on, str) and on == "tokens" else _parts(on)
        given = {"tokens": mask_attention(0)} if self.parts is None else self.parts
        self._edits = {name: Edits(self.adapter, one, self.sites) for name, one in given.items()}  # refuses before a pass does
        self.sources = "tokens" if self.parts is None else {name: intervention_names(one) for name, one in self.parts.items()}
        self.vocabulary = vocabulary
        self.reading = Reading(self.adapter, self.sites, lens=None, precision=precision, compiled=None, vocabulary=vocabulary)
        self._progress = progress
        self._rows = SourceRows(self.adapter, self._nothing())

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """From one run of the model for every source."""
        before = batch.rows(activations[self.sites[0]])
        changes = [self._change(batch, before, source, edits) for source, edits in self._sources(batch)]
        values = torch.stack(changes, 1) if changes else self._nothing(batch.n_rows)["values"]
        return {"values": values if self.parts is not None else only_before(values, batch, own=False)}

    def _settings(self) -> dict[str, Any]:
        return {**self.reading.settings(), "on": self.sources, "metrics": self.metrics}

    def _result(self, provenance: Provenance) -> TokenReliance:
        parts = None if self.sources == "tokens" else tuple(self.sources)
        units = {metric: CHANGE_UNITS[metric] for metric in self.metrics}
        result = self._rows.result(parts, units, self.adapter, provenance)
        for i, edits in enumerate(self._edits.values() if parts is not None else ()):
            if not bool(result.values[:, i].any()):  # of several that were merged, another may have had the positions
                edits.warn_of_unmeant()
        return result

    def _sources(self, batch: Batch) -> Iterator[tuple[str, Edits]]:
        if self.parts is not None:
            yield from self._edits.items()
            return
        check_one_window(batch)
        positions = range(int(batch.row_position.max()))  # the last only reads itself
        for position in Bar(positions, unit="token", desc="masked", nested=True, show=self._progress):
            masked = replace(mask_attention(position), check=None)  # the model has been checked at the start
            yield f"token {position} masked", Edits(self.adapter, masked, self.sites)

    def _change(self, batch: Batch, before: Tensor, source: str, edits: Edits) -> Tensor:
        """How each row's prediction changes without the source: [row, metric] in float64, on the CPU."""
        [site] = self.sites
        edits.begin(batch)
        with self.adapter.edited(edits.hooks):
            after = batch.rows(self.adapter.activations(batch.tokens, batch.attention_mask, (site,))[site])
        edits.check_fired()
        bad = (~after.isfinite()).any(1).nonzero()
        if len(bad):
            raise NonFiniteError(
                f"{hook_name(site)} has a NaN or an infinity at {row_place(batch, int(bad[0, 0]))} when the model is run with "
                f"{source!r}"
            )
        changes = torch.zeros(batch.n_rows, len(self.metrics), dtype=torch.float64)
        moved = (after != before).any(1)
        if not bool(moved.any()):
            return changes
        rows = 2 * int(moved.sum())
        found = vocabulary_changes(
            self.reading.normed(site, before[moved]), self.reading.normed(site, after[moved]), metrics=self.metrics,
            targets=self.reading.columns(batch.row_target).to(self.reading.device)[moved.to(self.reading.device)],
            compiled=self.reading.compiles(rows), **self.reading.options(rows),
        )  # fmt: skip
        self.reading.ran_compiled |= found.compiled
        changes[moved.cpu()] = found.changes.cpu()
        return changes

    def _nothing(self, rows: int = 0) -> dict[str, Tensor]:
        sources = 0 if self.parts is None else len(self.parts)
        return {"values": torch.zeros(rows, sources, len(self.metrics), dtype=torch.float64)}


class SourceRows(PredictedRows):
    """Rows whose ``values`` are [row, source, metric]; of a batch with fewer sources than others the rest is NaN."""

    def state_dict(self) -> dict[str, Any]:
        """The rows, all with as many sources."""
        self._widen()
        return super().state_dict()

    def whole(self) -> dict[str, Any]:
        """All rows, by document and position."""
        self._widen()
        return super().whole()

    def _widen(self) -> None:
        most = max(part["values"].shape[1] for part in self._parts)
        for part in self._parts:
            values = part["values"]
            part["values"] = pad(values, (0, 0, 0, most - values.shape[1]), value=torch.nan)

    def result(
        self, parts: tuple[str, ...] | None, metrics: Mapping[Any, str], adapter: Adapter, provenance: Provenance
    ) -> TokenReliance:
        """The result, of sources with these names, or of tokens (None), and of ``metrics`` with their units."""
        fields = row_fields(self, adapter)
        del fields["n_bytes"], fields["n_characters"]
        if not fields["values"].shape[1] and len(fields["token"]):
            raise InputError("inputs hold nothing to measure: no token that counts has one before it that could be its source")
        return TokenReliance(
            sources=tuple(map(str, range(fields["values"].shape[1]))) if parts is None else parts,
            over="tokens" if parts is None else "parts", metrics=tuple(metrics), units=tuple(metrics.values()),
            provenance=provenance, **fields,
        )  # fmt: skip


def only_before(values: Tensor, batch: Batch, *, own: bool) -> Tensor:
    """``values`` [row, source, metric] of tokens as sources; NaN where a source does not come before the token of the row.

    The token right before it is the row's own, at whose position the prediction is made: without ``own`` it is NaN, too.
    """
    source, position = torch.arange(values.shape[1]), batch.row_position[:, None]
    return values.masked_fill((source > position if own else source >= position)[..., None], torch.nan)


def check_one_window(batch: Batch) -> None:
    """Raise InputError for a document that is longer than a window."""
    longer = (batch.position >= 0).sum(1) < torch.tensor(batch.lengths)
    if bool(longer.any()):
        first = int(longer.nonzero()[0, 0])
        raise InputError(
            f"inputs: document {int(batch.document[first])} has {batch.lengths[first]} tokens, more than a window; where "
            "tokens are the sources, each document has to fit into one: pass shorter texts, or a larger window"
        )


def _parts(on: Any) -> dict[str, Interventions]:
    """The sources by name: each an intervention, or several that make one."""
    if isinstance(on, Mapping):
        parts = {str(name): one for name, one in on.items()}
        if len(parts) < len(on):
            raise InputError(f"on: two sources have the same name; got {', '.join(map(repr, on))}")
    elif isinstance(on, list) or (isinstance(on, tuple) and not _is_single(on)):
        parts = {}
        for one in on:
            [name] = intervention_names(one) if _is_single(one) else _refused(one)
            if name in parts:
                raise InputError(f"on: two sources are called {name!r}; name them, as in {{'first': ..., 'second': ...}}")
            parts[name] = one
    elif _is_single(on):
        parts = {intervention_names(on)[0]: on}
    else:
        _refused(on)
    empty = [name for name, one in parts.items() if not as_interventions(one)]
    if not parts or empty:
        raise InputError(f"on must name at least one intervention; got none{f' for {empty[0]!r}' if empty else ''}")
    return parts


def _is_single(one: Any) -> bool:
    return isinstance(one, Intervention) or (
        isinstance(one, tuple) and len(one) == 2 and (isinstance(one[0], str) or callable(one[0]))
    )


def _refused(on: Any) -> Any:
    raise InputTypeError(
        "on must be an intervention, such as ablate_heads(...), ablate(...) or occlude(...), or a pair of a hook's name and a "
        f"function; a mapping of names to these, a list of them, or 'tokens'; got {on!r}"
    )


@steady
def token_reliance(
    model: Any,
    inputs: Any,
    on: On,
    *,
    metrics: Sequence[Change] = ("l1", "cosine", "kl", "loss"),
    positions: int | slice | Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    precision: Precision = "float32",
    vocabulary: Over = "model",
    **options: Unpack[EditOptions],
) -> TokenReliance:
    r"""How much the prediction of every token changes when a part of the model, or another token, is taken out.

    Everything is aligned to the token predicted: its row says how the prediction of that token changed. Reliance is not
    entropy, and no estimate of it: a predictable token may rely on a part, and an unpredictable one on none.

    | metric | definition, with logits l and prediction p as the model is, l' and p' without the source | unit, range |
    |---|---|---|
    | "l1" | Σ abs(l' - l) over the vocabulary | 0 to infinity |
    | "l2" | √Σ (l' - l)² over the vocabulary | 0 to infinity |
    | "maximum" | the largest abs(l' - l) | 0 to infinity |
    | "cosine" | 1 - cosine of the angle between l and l' | 0 to 2 |
    | "kl", "reverse_kl" | KL(p ‖ p'), KL(p' ‖ p) | nats, 0 to infinity |
    | "jsd" | Jensen-Shannon divergence of p and p' | nats, 0 to log 2 |
    | "fisher_rao" | 2·arccos Σ √(p·p') | radians, 0 to π |
    | "total_variation" | ½·Σ abs(p - p') | 0 to 1 |
    | "loss" | surprisal of the token without the source, less that with it | nats, signed |
    | "entropy" | entropy of p' less that of p | nats, signed |

    The first four compare logits, as attribution by occlusion does: a number added to all logits, which changes no
    prediction, counts in them, so that they depend on whether TransformerLens has centred the unembedding. The other metrics
    don't.

    The model is run once as it is, and once for each source. With ``on="tokens"`` each token of the document in turn is masked
    from attention at every layer (``mask_attention``), so a document of n tokens takes some n runs and n² numbers for each
    metric. A token still sees itself, and the token right after it is predicted at its own position, which masking does not
    change: there the value is NaN. To take out what a token reads altogether, give
    ``{position: occlude("embed", position), ...}``.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets; see ``stream``.
        on: what is taken out: an intervention (``ablate_heads``, ``ablate``, ``occlude``, ``mask_attention``, ``steer``, or a
            pair of a hook's name and a function); a mapping of names to interventions, each a source of its own; a list of
            them; or "tokens".
        metrics: how the two predictions are compared, each once.
        positions: positions of each document, of the tokens predicted; None is all. Padding and special tokens never count.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        progress: show a progress bar.
        precision: "float32", or "bfloat16" for products in reduced precision (up to 0.05 nats off, and "l1" by more).
        vocabulary: "model" for all rows of the unembedding, "tokenizer" without those that are no token; see ``lens_entropy``.
        options: those of ``tle.EditOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions; the latter hold for both runs.

    Returns:
        ``TokenReliance`` with [row, source, metric] in nats. In float32 within 5e-5 nats of float64; an "l1" below some 1e-6
        of Σ abs(l) is rounding.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured, an intervention that can have no
            effect, a document longer than a window with ``on="tokens"``.
        ModelError: the model's own logits can't be reproduced from its residual stream, or a hook never fires.
        NonFiniteError: a NaN or infinity inside the model, as it is or without a source; its ``partial`` holds the result so
            far.

    Source: Zeiler and Fergus 2014 (arXiv 1311.2901), section 4.2, for occlusion; the metrics' are in ``functional``.

    >>> import tl_entropy as tle
    >>> result = token_reliance(tle.demo_model(), "import os\nimport sys\n", tle.ablate("attn_out.0"), progress=False)
    >>> result.tokens()[3:5], result.metrics
    (['import', ' sys'], ('l1', 'cosine', 'kl', 'loss'))
    >>> [round(value, 2) for value in result.value("kl", "ablate attn_out.0")[3:5].tolist()]
    [0.19, 0.41]
    """
    check_options(token_reliance, options, EditOptions)
    accumulator = RelianceAccumulator(model, on, metrics=metrics, precision=precision, vocabulary=vocabulary, progress=progress)
    return measure(
        accumulator, inputs, positions=positions, max_new_tokens=0, batch_size=batch_size, progress=progress,
        options=cast("CorpusOptions", options),
        count="predicted",
    )  # fmt: skip
