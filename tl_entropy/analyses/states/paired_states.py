"""Which states a similarity of layers compares, and their rows: of one model, or of two that read the same tokens.

*Rows* are the sites that are asked about, *columns* those they are compared with. Both hold one state for each position read,
in the same order, so that any similarity of representations can be computed between them.

A few tokens (often the first of a text, or a delimiter) have single components thousands of times larger than their others.
They are the same tokens at most layers, and outweigh everything else in sums of products, so that layers come out alike
whatever the other tokens do. Such states are always counted, and left out or normalised where asked.

Source: Sun, Chen, Kolter and Liu (2024), Massive Activations in Large Language Models, arXiv 2402.17762.

Refused: sites with a head axis; two models with different tokens, or of a context shorter than the window.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.analyses.merging import check_alike
from tl_entropy.analyses.states.pooled import vector_sites
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.given import adapter_of, of_stack
from tl_entropy.capture.hooks import hook_name
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice
from tl_entropy.functional.states.rows import spread_floor
from tl_entropy.functional.statistics import FOLDS
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Layers, Site
from tl_entropy.state import Kept

Massive = Literal["keep", "drop", "normalise"]
Against = str | Site | Sequence[str | Site]

# Sun et al. (2024): a massive activation surpasses 100 and is at least about 1000 times the median magnitude of its state.
MASSIVE_MAGNITUDE = 100.0
MASSIVE_RATIO = 1000.0

# Token ids, spread over the vocabulary, whose texts two models must agree on before either runs.
SAMPLED_IDS = 64


class PairedStates(Kept):
    """Reads the states that are compared off each batch.

    Args:
        adapter: of the model whose sites are asked about.
        other: the model, or its adapter, whose sites they are compared with; None is the same model.
        sites: short names or sites, as everywhere.
        layers: blocks: numbers, from 0 or negative from the last, or a slice; None is all. They hold for
            ``against="all"``, too.
        against: "output" (the last residual stream), "all" (the same choice of sites, of the other model where there is one),
            or sites: one or several, as for ``sites``.
        massive: "keep"; "drop" (leave out a token where any compared state of it is massive); or "normalise" (divide every
            state by its norm, so that none outweighs others). A state is massive where its largest component exceeds 100 and
            1000 times the median of its components, all in magnitude (Sun et al. 2024).

    Attributes:
        rows: sites asked about.
        columns: sites they are compared with; of ``other``, where there is one.
        sites: what a pass must capture of the model itself.
        against: "output", "all", or the names of the columns.
        floor: ``spread_floor`` of the least precise states read so far, before they were normalised.
        massive_here: tokens of the batch last read of which a compared state is massive. An accumulator adds them up once it
            has taken in the batch.

    Raises:
        InputError: a site that the model does not have or that has a head axis, or two models that do not share their tokens.
        InputTypeError: arguments of another kind.
    """

    bound = ("_agreed",)

    def __init__(
        self,
        adapter: Adapter,
        *,
        other: Any = None,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        against: Against = "output",
        massive: Massive = "keep",
    ) -> None:
        check_choice("massive", massive, ("keep", "drop", "normalise"))
        self.adapter, self.massive = adapter, massive
        self.other = None if other is None else adapter_of(other)
        self.rows = vector_sites(adapter, sites, layers)
        self.columns, self.against = compared_with(self.other or adapter, against, sites, layers)
        own = self.rows if self.other else {*self.rows, *self.columns}
        self.sites = tuple(sorted(own, key=lambda site: site.depth))
        self.massive_here, self.floor = 0, 0.0
        self._agreed: set[int] = set()
        if self.other:
            check_shared_tokens(adapter, self.other)

    def merge(self, other: PairedStates) -> None:
        """Take in how precise the states were that another has read; InputError where it compares others."""
        mine, theirs = (
            {
                "model": part.adapter.fingerprint, "other": part.other.fingerprint if part.other else None, "rows": part.rows,
                "columns": part.columns, "against": part.against, "massive": part.massive,
            } for part in (self, other)
        )  # fmt: skip
        check_alike(mine, theirs)
        self.floor = max(self.floor, other.floor)

    def read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> tuple[dict[Site, Tensor], dict[Site, Tensor], Tensor]:
        """The states at the batch's rows, in the dtype and on the device of the activations.

        Returns:
            States [kept row, d_model] of the model by site; those of the other model (the same dict without one); and which
            rows were kept [row], bool on the CPU.

        Raises:
            InputError: a token that is another text to the other model, a window longer than its context, or a state of zero
                that cannot be normalised.
            NonFiniteError: a NaN or an infinity in the other model.
        """
        own = {site: batch.rows(activations[site]) for site in self.sites}
        theirs = own if self.other is None else self._of_other(self.other, batch)
        both = [*own.values(), *(theirs.values() if self.other else ())]
        self.floor = max(self.floor, *(spread_floor(x.dtype) for x in both))
        massive = torch.stack([massive_rows(x).cpu() for x in both]).any(0)
        self.massive_here = int(massive.sum())
        kept = ~massive if self.massive == "drop" else torch.ones_like(massive)
        changed = self._treated(own, batch, kept)
        return changed, self._treated(theirs, batch, kept) if self.other else changed, kept

    def _treated(self, states: dict[Site, Tensor], batch: Batch, kept: Tensor) -> dict[Site, Tensor]:
        """The states with their massive ones dealt with as asked."""
        if self.massive == "normalise":
            return {site: _normalised(site, x, batch) for site, x in states.items()}
        return states if bool(kept.all()) else {site: x[kept.to(x.device)] for site, x in states.items()}

    def _of_other(self, other: Adapter, batch: Batch) -> dict[Site, Tensor]:
        """The other model's states at the batch's rows."""
        width = batch.tokens.shape[1]
        if width > other.context:
            raise InputError(
                f"window: windows of {width} tokens do not fit the other model, whose context is {other.context}; give "
                f"window={other.context}"
            )
        ids = set(batch.tokens[batch.attention_mask].unique().tolist()) - self._agreed
        check_shared_tokens(self.adapter, other, ids)
        self._agreed |= ids
        seen = _activations(other, batch, self.columns)
        states = {site: batch.rows(x) for site, x in seen.items()}
        for site, x in states.items():
            bad = (~x.isfinite()).any(1).nonzero()
            if len(bad):
                raise NonFiniteError(
                    f"{hook_name(site)} of the other model has a NaN or an infinity at {_place(batch, int(bad[0]))} (and "
                    f"{len(bad) - 1} more of this batch); check the weights and the dtype"
                )
        return states


def _activations(other: Adapter, batch: Batch, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """States of another model [batch, pos, d_model]; of each row alone (0 at padding) where padding or rows change that one."""
    if not other.alone and (batch.tokens.shape[1] <= other.pads_to or bool(batch.attention_mask.all())):
        return other.activations(batch.tokens, batch.attention_mask, sites)
    found: dict[Site, Tensor] = {}
    for i, mask in enumerate(batch.attention_mask):
        alone = other.activations(batch.tokens[i : i + 1, mask], mask[mask][None], sites)
        for site, x in alone.items():
            whole = found.setdefault(site, x.new_zeros(*batch.tokens.shape, x.shape[-1]))
            whole[i, mask.to(x.device)] = x[0]
    return found


class PairedMeasure(StreamingMeasure[LayerSimilarity]):
    """A similarity of ``PairedStates`` over tokens.

    Args:
        model: a HookedTransformer, TransformerBridge or ``Adapter``.
        compared: the arguments of ``PairedStates``.

    Attributes:
        paired: the states compared.
    """

    def __init__(self, model: Any, **compared: Any) -> None:
        if "sites" in compared:
            model, compared["sites"] = of_stack(model, compared["sites"])
        super().__init__(model)
        self.paired = PairedStates(self.adapter, **compared)
        self.sites = self.paired.sites
        self._massive_tokens = 0

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""
        if not batch.n_rows:
            return
        own, theirs, kept = self.paired.read(batch, activations)
        states = {(0, site): own[site] for site in self.sites}
        if self.paired.other:
            states |= {(1, site): theirs[site] for site in self.paired.columns}
        self._add(batch.row_document[kept], batch.row_position[kept], states)
        self._massive_tokens += self.paired.massive_here

    @abstractmethod
    def _add(self, documents: Tensor, positions: Tensor, states: Mapping[Any, Tensor]) -> None:
        """Take in the ``states`` [row, d_model] by (0, site), or (1, site) of the other model, of rows of these documents."""

    def _settings(self) -> dict[str, Any]:
        paired = self.paired
        return {"sites": tuple(map(str, paired.rows)), "against": paired.against, "massive": paired.massive, "rows": "tokens"}

    def _similarity(self, provenance: Provenance, **values: Any) -> LayerSimilarity:
        """The result, with what all similarities have in common; its errors follow from ``covariance``."""
        paired = self.paired
        return LayerSimilarity(
            errors=own_errors(values["covariance"]),
            rows=paired.rows, columns=paired.columns, against=paired.against, over="tokens", massive=paired.massive,
            massive_tokens=self._massive_tokens, provenance=provenance,
            other=paired.other.provenance() if paired.other else None, **values,
        )  # fmt: skip


def nothing(quantities: int, rows: int, columns: int) -> dict[str, Tensor]:
    """Values, their covariance and what folds add, all NaN: of too few tokens."""
    shapes = {
        "values": (quantities, rows, columns), "covariance": (quantities, rows, rows, columns),
        "scores": (quantities, FOLDS, rows, columns),
    }  # fmt: skip
    return {name: torch.full(shape, torch.nan, dtype=torch.float64) for name, shape in shapes.items()}


def own_errors(covariance: Tensor) -> Tensor:
    """Standard errors [quantity, row, column], from the covariance [quantity, row, row, column]."""
    return covariance.diagonal(dim1=1, dim2=2).movedim(-1, 1).clamp_min(0).sqrt()


def massive_rows(x: Tensor) -> Tensor:
    """Which states of ``x`` [row, d_model] are massive: [row], bool.

    >>> massive_rows(torch.tensor([[0.1, 0.1, 150.0], [0.2, 0.2, 150.0], [0.01, 0.01, 90.0]])).tolist()
    [True, False, False]
    """
    found = x.abs().amax(1) > MASSIVE_MAGNITUDE
    if bool(found.any()):  # a median takes long, and few states come this far
        magnitude = x[found].abs().float()
        found[found.clone()] = magnitude.amax(1) > MASSIVE_RATIO * magnitude.median(1).values
    return found


def check_shared_tokens(adapter: Adapter, other: Adapter, ids: Collection[int] | None = None) -> None:
    """Raise InputError unless token ids mean the same to both models.

    Args:
        adapter: one model.
        other: the other.
        ids: those that must; None takes some, spread over the vocabulary. Models without tokenizers must have vocabularies of
            one size, which is all that can be seen.
    """
    hint = "models with different tokens can be compared over documents: rows='documents'"
    if not (adapter.has_tokenizer and other.has_tokenizer):
        if adapter.d_vocab != other.d_vocab:
            raise InputError(
                f"other: the models predict {adapter.d_vocab} and {other.d_vocab} tokens, not the same ones; {hint}"
            )
        return
    if ids is None:
        ids = torch.linspace(0, min(adapter.d_vocab, other.d_vocab) - 1, SAMPLED_IDS).long().unique().tolist()
    mine, theirs = adapter.strings(sorted(ids)), other.strings(sorted(ids))
    for i, text in mine.items():
        if text != theirs[i]:
            raise InputError(f"other: token {i} is {text!r} to one model and {theirs[i]!r} to the other; {hint}")


def compared_with(
    adapter: Adapter, against: Against, sites: str | Sequence[str | Site], layers: Layers | None
) -> tuple[tuple[Site, ...], str]:
    """The sites that are compared with, and what they are called."""
    if isinstance(against, str) and against == "output":
        return (adapter.last_site,), "output"
    try:
        if isinstance(against, str) and against == "all":
            return vector_sites(adapter, sites, layers), "all"
        columns = vector_sites(adapter, against, None)
    except (InputError, InputTypeError) as error:
        raise type(error)(
            f"against must be 'output', 'all', or sites of the model compared with, such as 'resid_post.3'; got {against!r} "
            f"({error})"
        ) from error
    return columns, ", ".join(map(str, columns))


def _normalised(site: Site, x: Tensor, batch: Batch) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    zero = (norm[:, 0] == 0).nonzero()
    if len(zero):
        raise InputError(
            f"massive: the state at {site}, {_place(batch, int(zero[0]))}, is zero and has no direction; use massive='keep' or "
            "'drop', or leave out that site"
        )
    return x / norm


def _place(batch: Batch, row: int) -> str:
    return f"document {int(batch.row_document[row])}, position {int(batch.row_position[row])}"
