"""Quantities of the prediction of every token at every site, gathered: what ``confidence`` and ``unigram_distance`` share.

A subclass says what it asks of the distributions (``_wanted``) and makes its quantities of what comes back (``_values``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor

from tl_entropy.accumulators import DocumentMeans
from tl_entropy.analyses.lens.reading import Over, Precision, Reading
from tl_entropy.analyses.rows import closed
from tl_entropy.analyses.streaming import Keep, PositionMeasure, row_fields
from tl_entropy.analyses.tokens.rows import PredictedRows
from tl_entropy.batches import Batch
from tl_entropy.errors import check_choice
from tl_entropy.lenses.protocol import Lens
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.site_values import Confidence, SiteMeans, UnigramDistance, units_of
from tl_entropy.sites import Layers, Site


class SiteOptions(TypedDict, total=False):
    """How an accumulator of such quantities reads a model, as for ``confidence``."""

    sites: str | Sequence[str | Site] | None
    layers: Layers | None
    lens: Lens | None
    keep: Keep
    precision: Precision
    compiled: bool | None
    vocabulary: Over


class SiteAccumulator(PositionMeasure[Confidence | UnigramDistance | SiteMeans]):
    """Gathers quantities of every token (``keep="positions"``), or sums of them (``keep="summary"``)."""

    kind: ClassVar[type[Confidence] | type[UnigramDistance]]
    measured: ClassVar[tuple[str, ...]]
    alike: ClassVar[tuple[str, ...]] = ("sites", "keep", "lens", "precision", "vocabulary")
    gathered = ("_means", "_rows", "reading")

    def __init__(
        self,
        model: Any,
        *,
        sites: str | Sequence[str | Site] | None = None,
        layers: Layers | None = None,
        lens: Lens | None = None,
        keep: Keep = "positions",
        precision: Precision = "float32",
        compiled: bool | None = None,
        vocabulary: Over = "model",
    ) -> None:
        super().__init__(model)
        check_choice("keep", keep, ("positions", "summary"))
        output = sites is None and layers is None and lens is None
        self.sites = (self.adapter.output[0],) if output else self.adapter.sites(sites or "resid_post", layers)
        self.keep, self.lens, self.precision, self.vocabulary = keep, lens, precision, vocabulary
        self.reading = Reading(
            self.adapter, self.sites, lens=lens, precision=precision, compiled=compiled, vocabulary=vocabulary
        )
        self._means = DocumentMeans((len(self.sites), len(self.measured)))
        self._rows = PredictedRows(self.adapter, self._nothing())

    @abstractmethod
    def _wanted(self) -> dict[str, Any]:
        """Options of ``vocabulary_statistics``."""

    @abstractmethod
    def _values(self, found: Mapping[str, Tensor]) -> list[Tensor]:
        """The quantities, [row, site] each, of what ``Reading.read`` gives."""

    def _settings(self) -> dict[str, Any]:
        return {**self.reading.settings(), "sites": tuple(map(str, self.sites))}

    def _result(self, provenance: Provenance) -> Confidence | UnigramDistance | SiteMeans:
        named: dict[str, Any] = {
            "sites": self.sites, "measured": self.measured, "units": units_of(self.measured), "provenance": provenance,
        }  # fmt: skip
        if self.keep == "positions":
            rows = row_fields(self._rows, self.adapter)
            return self.kind(
                **named, **{name: value for name, value in rows.items() if name not in ("n_bytes", "n_characters")}
            )
        means = self._means
        return SiteMeans(**named, tokens=means.tokens, documents=means.seen_documents, sums=means.sums())

    def _add(self, batch: Batch, found: dict[str, Tensor]) -> None:
        if self.keep == "positions":
            super()._add(batch, found)
            return
        predicted = batch.row_target >= 0
        self._means.update(found["values"][predicted], batch.row_document[predicted], closed(batch))

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        targets = self.reading.columns(batch.row_target).to(self.reading.device)
        found = self.reading.read(batch, activations, self.sites, targets, **self._wanted())
        return {"values": torch.stack(self._values(found), -1)}

    def _nothing(self) -> dict[str, Tensor]:
        return {"values": torch.zeros(0, len(self.sites), len(self.measured))}
