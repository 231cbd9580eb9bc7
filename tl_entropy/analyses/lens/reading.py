"""How vectors of the residual stream are read as predictions: through a lens, the final norm and the unembedding.

Shared by everything that looks at vocabulary distributions, so that all of it reads the same way.

Many unembeddings have more rows than the tokenizer has tokens, since vocabularies are padded to a multiple of 64 or 128. The
model's own softmax gives these rows probability, and its loss pays for it, so they count (``vocabulary="model"``); over tokens
alone, the distribution is that of the model given that a token comes (``"tokenizer"``). Ids stay those of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.interventions import SUBLAYERS
from tl_entropy.capture.origin import norm_is_folded
from tl_entropy.errors import InputError, NonFiniteError, check_choice
from tl_entropy.functional.lens.compiling import Compiled, worth_trying
from tl_entropy.functional.lens.readout import vocabulary_statistics
from tl_entropy.functional.lens.reduced import check_reduced
from tl_entropy.lenses.jacobian import as_lens
from tl_entropy.lenses.protocol import Lens, check_lens, lens_name
from tl_entropy.sites import HEAD_SITES, INNER_SITES, UNEMBED, Site
from tl_entropy.state import Kept, encoded
from tl_entropy.torch_state import yours

Precision = Literal["float32", "bfloat16"]
Over = Literal["model", "tokenizer"]
"""What a distribution is over: all rows of the unembedding, or those that are tokens of the tokenizer."""


# Rows that go through the unembedding at once, at least: with few, reading the matrix takes longer than multiplying with it.
ROWS_AT_ONCE = 1440
FEW = 6
"""With fewer rows than that, products in bfloat16 take longer than those of float32, in which they are then made."""


class Reading(Kept):
    """A model's readout through one lens, in one precision.

    Args:
        adapter: of the model.
        sites: what will be read; each must be a vector of the residual stream, or of what is added to it.
        lens: None is the logit lens.
        precision: of the product with the unembedding.
        compiled: whether statistics run as compiled code; None is where it is faster, once the work is large.
        vocabulary: what distributions are over.
        final_norm: whether the model's final norm stands before the unembedding; its own output is always read through it.

    Attributes:
        readout: the model's, of the rows that distributions are over.
        ran_compiled: whether any have.
    """

    def __init__(
        self,
        adapter: Adapter,
        sites: tuple[Site, ...],
        *,
        lens: Lens | None,
        precision: Precision,
        compiled: Compiled,
        vocabulary: Over = "model",
        final_norm: bool = True,
    ) -> None:
        check_choice("precision", precision, ("float32", "bfloat16"))
        check_choice("vocabulary", vocabulary, ("model", "tokenizer"))
        if vocabulary == "tokenizer" and not adapter.has_tokenizer:
            raise InputError("vocabulary='tokenizer' needs to know which rows are tokens, and the model has no tokenizer")
        inner = next((site for site in sites if site.name in INNER_SITES), None)
        if inner is not None:
            holds, instead = ("has a head axis", "head_entropy reads heads") if inner.name in HEAD_SITES else (
                "holds activations of neurons", "neurons and read_direction read what these write"
            )  # fmt: skip
            raise InputError(
                f"sites: {inner} {holds} and no lens of its own; the lens reads residual-stream sites, and {instead}"
            )
        for site in sites:
            if site.name in SUBLAYERS:
                adapter.contributions.factor(site)  # refuses what is no part of the stream that a lens reads
        lens = as_lens(lens)
        check_lens(lens, adapter, sites)
        if not final_norm:
            _check_bare(lens, adapter)
        self.final_norm = final_norm
        self.adapter, self.lens, self.precision, self.compiled = adapter, lens, precision, compiled
        self.vocabulary = vocabulary
        readout = adapter.output[1] if len(sites) == 1 and sites[0].name == UNEMBED else adapter.readout
        self.readout = readout if vocabulary == "model" else adapter.of_tokens(readout)
        self._ids = None if self.n_rows == adapter.d_vocab else adapter.token_ids
        self.device = self.readout.unembedding.device
        if precision == "bfloat16":
            check_reduced(self.readout.unembedding, rounded=True)
        self.ran_compiled = False
        self._work = 0
        self._said: dict[str, Any] = {}

    def normed(self, site: Site, rows: Tensor) -> Tensor:
        """Rows [row, d_model] of a site as the unembedding takes them."""
        rows = rows.to(self.device)
        if not self.final_norm:
            return rows.to(self.readout.unembedding.dtype)
        return self.readout.norm(self.translated(site, rows))

    def translated(self, site: Site, rows: Tensor) -> Tensor:
        """Rows of a site as the final norm takes them: as they are, or through the lens."""
        return rows if self.lens is None else self._translated(self.lens, site, rows)

    @property
    def n_rows(self) -> int:
        """Number of rows of the unembedding that distributions are over."""
        return self.readout.unembedding.shape[1]

    def columns(self, ids: Tensor) -> Tensor:
        """Where in a distribution the tokens of these ids are; -1 stays, as of no token.

        Raises:
            InputError: an id that is no token of the tokenizer, where distributions are over these alone.
        """
        if self._ids is None:
            return ids
        known = self._ids.to(ids.device)
        place = torch.searchsorted(known, ids.contiguous().clamp(min=0)).clamp(max=len(known) - 1)
        missing = (known[place] != ids) & (ids >= 0)
        if bool(missing.any()):
            raise InputError(
                f"vocabulary='tokenizer' leaves out the id {int(ids[missing][0])}, which is asked for and is no token of the "
                "tokenizer; use vocabulary='model'"
            )
        return torch.where(ids < 0, ids, place)

    def tokens(self, columns: Tensor) -> Tensor:
        """The ids of what is at these places of a distribution."""
        return columns if self._ids is None else self._ids.to(columns.device)[columns]

    def compiles(self, rows: int) -> Compiled:
        """How the statistics of that many more rows are to run."""
        self._work += rows * self.n_rows
        if self.compiled is not None:
            return self.compiled
        return "faster" if worth_trying(self._work, self.device) else False

    def options(self, rows: int) -> dict[str, Any]:
        """What ``vocabulary_statistics`` needs beside that many rows, all sites together."""
        readout, reduced = self.readout, self.precision == "bfloat16" and rows >= FEW
        return {
            "unembedding": readout.rounded if reduced else readout.unembedding, "bias": readout.bias, "scale": readout.scale,
            "softcap": readout.softcap, "precision": "bfloat16" if reduced else "float32",
        }  # fmt: skip

    def read(
        self,
        batch: Batch,
        activations: Mapping[Site, Tensor],
        sites: Sequence[Site],
        targets: Tensor | None = None,
        **wanted: Any,
    ) -> dict[str, Tensor]:
        """What ``vocabulary_statistics`` finds at the batch's rows at all these sites: name to [row, site, ...], on the CPU.

        Args:
            batch: that has a row.
            activations: of every site.
            sites: to be read.
            targets: [row] columns of the tokens whose surprisal and rank are wanted.
            wanted: further options of ``vocabulary_statistics``.
        """
        compiled = self.compiles(batch.n_rows * len(sites))
        groups = []
        together = max(1, ROWS_AT_ONCE // batch.n_rows)
        for first in range(0, len(sites), together):
            group = sites[first : first + together]
            found = vocabulary_statistics(
                torch.cat([self.normed(site, batch.rows(activations[site])) for site in group]),
                targets=None if targets is None else targets.repeat(len(group)), compiled=compiled, **wanted,
                **self.options(batch.n_rows * len(group)),
            )  # fmt: skip
            self.ran_compiled |= found.compiled
            top = None if found.top_tokens is None else self.tokens(found.top_tokens)
            named = {
                "entropy": found.entropies, "surprisal": found.surprisal, "rank": found.rank, "varentropy": found.varentropy,
                "top_tokens": top, "top_log_probs": found.top_log_probs, "log_mass": found.log_mass,
                "self_certainty": found.self_certainty, "kurtosis": found.kurtosis,
            }  # fmt: skip
            groups.append(
                {
                    name: rearrange(value.cpu(), "(site row) ... -> row site ...", site=len(group))
                    for name, value in named.items()
                    if value is not None
                }
            )
        return {name: torch.cat([group[name] for group in groups], dim=1) for name in groups[0]}

    def settings(self) -> dict[str, Any]:
        """The same, for a result's provenance; of the vocabulary, where the unembedding has rows without a token."""
        if not self._said:
            ids = self.adapter.token_ids
            unnamed = 0 if ids is None else self.adapter.d_vocab - len(ids)
            self._said = {
                **({"vocabulary": self.vocabulary, "rows_without_token": unnamed} if unnamed else {}),
                "lens": lens_name(self.lens),
                **({} if self.final_norm else {"final_norm": False}),
                **({"memory_bits": self.adapter.memory_bits} if self.adapter.reads_ahead else {}),
                "precision": self.precision,
                "compiled": False,
                "readout_scale": self.readout.scale,
                "readout_softcap": self.readout.softcap,
                "readout_error": self.readout.error,
            }
        return {**self._said, "compiled": self.ran_compiled}

    def state_dict(self) -> dict[str, Any]:
        """Whether compiled code ran, and what a provenance says."""
        return {"ran_compiled": self.ran_compiled, "_said": encoded(self.settings())}

    def merge(self, other: Reading) -> None:
        """Remember what another has done."""
        self.ran_compiled |= other.ran_compiled

    @staticmethod
    def _translated(lens: Lens, site: Site, rows: Tensor) -> Tensor:
        with torch.no_grad(), yours():
            translated = lens(site, rows)
        if not isinstance(translated, Tensor) or translated.shape != rows.shape:
            came = f"shape {list(translated.shape)}" if isinstance(translated, Tensor) else type(translated).__name__
            raise InputError(f"lens must return a tensor of shape {list(rows.shape)} for {site}; got {came}")
        if not bool(translated.isfinite().all()):
            raise NonFiniteError(f"lens {lens_name(lens)!r} gives a NaN or an infinity at {site}")
        return translated


def _check_bare(lens: Lens | None, adapter: Adapter) -> None:
    """Refuse reading without the final norm where that means something else than W_U h of the model as it was trained."""
    if lens is not None:
        raise InputError(
            "final_norm=False reads the stream as it is, and a lens gives what the final norm takes; leave one of them out"
        )
    if norm_is_folded(adapter.model):
        raise InputError(
            "final_norm=False: TransformerLens has folded the final norm's gain into this model's W_U, so W_U h is not the "
            "model's; use a TransformerBridge without enable_compatibility_mode(), or "
            "HookedTransformer.from_pretrained_no_processing"
        )
