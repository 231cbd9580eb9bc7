"""What every measure that is gathered in a stream does alike: a new one adds its sums and its result.

A subclass says what it wants to see (``sites``), which of its attributes hold what it has seen (``gathered``), takes in a batch
(``update``), and makes a result of it all (``_result``).

Any split of a corpus then merges to the whole; models of other weights, or other settings, are refused (``alike``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import torch
from torch import Tensor

from tl_entropy.analyses.merging import check_alike, check_same, merged
from tl_entropy.analyses.rows import Rows
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.parts import Part
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import InputError
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site
from tl_entropy.torch_state import Steady

Found = TypeVar("Found")
Keep = Literal["positions", "summary"]


class StreamingMeasure(Steady, ABC, Generic[Found]):
    """An ``Accumulator`` of one model, whose result is a ``Found``.

    Args:
        model: a HookedTransformer, TransformerBridge or ``Adapter``.

    Attributes:
        adapter: of the model.
        sites: what it wants to see; a subclass sets it.
        report: what it has read, as the pass over it said; None before the first.
        alike: names of the attributes that must be equal in two that are merged, beside the models' weights.
        gathered: names of the attributes that hold what was seen, each with a ``merge`` of its own, a number or tensor that is
            added, or a mapping or list of these. What may refuse another comes first.
    """

    alike: ClassVar[tuple[str, ...]] = ()
    gathered: ClassVar[tuple[str, ...]] = ()
    sites: tuple[Site, ...]
    report: StreamReport | None = None

    def __init__(self, model: Any) -> None:
        self.adapter = model if isinstance(model, Adapter) else Adapter(model)

    def begins(self, part: Part) -> Callable[[StreamReport], None]:
        """Called as a pass over ``part`` of a corpus begins; what comes back takes the pass's report, whenever there is one.

        Raises:
            InputError: some of these documents were read before, or what was read has other numbers.
        """
        before = self.report
        if before is not None and before.placed == part.all:
            raise InputError(
                "documents: this accumulator has read a part of a corpus by the numbers of the whole, and a pass without "
                "documents= numbers its own from 0, or the other way round; make another accumulator"
            )
        if before is not None and before.placed:
            part.check_new(before.held)

        def note(report: StreamReport) -> None:
            self.report = report if before is None else before.together(report)

        return note

    @abstractmethod
    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""

    def merge(self, other: Self) -> None:
        """Take in what another accumulator of the same settings has seen of other documents.

        Its documents are numbered on from this one's, since every pass numbers its own from 0.

        Raises:
            InputError: the settings or the models differ.
        """
        self._check_alike(other)
        for name in self.gathered:
            setattr(self, name, merged(getattr(self, name), getattr(other, name)))

    def growth(self) -> tuple[int, str]:
        """Bytes of what is kept and grows with the corpus, and what to do where they are too many."""
        return 0, ""

    def compute(self, **origin: Any) -> Found:
        """The result of what was seen so far; ``origin`` goes into its provenance."""
        return self._result(self._provenance(origin))

    @abstractmethod
    def _result(self, provenance: Provenance) -> Found:
        """The result of what was seen so far; the accumulator can go on."""

    def _settings(self) -> dict[str, Any]:
        """What a result's provenance says of how it was measured."""
        return {}

    def _provenance(self, origin: dict[str, Any]) -> Provenance:
        settings = {**self._settings(), **origin.pop("settings", {})}
        return self.adapter.provenance(settings=settings, **origin)

    def _check_alike(self, other: Self) -> None:
        """Raise InputError where the two cannot be merged, and neither has changed."""
        check_alike({"model": self.adapter.fingerprint}, {"model": other.adapter.fingerprint})
        check_same(self, other, self.alike)


class PositionMeasure(StreamingMeasure[Found]):
    """A measure of every position, whose values go into rows; where there is a summary, too, ``_add`` makes it instead."""

    _rows: Rows

    def growth(self) -> tuple[int, str]:
        """Bytes of the rows kept, one for each position, and what to do where they are too many."""
        summary = "keep='summary' keeps sums alone, or " if hasattr(self, "keep") else ""
        return self._rows.nbytes, f"every position is kept: {summary}fewer positions=, sites= or layers= take less"

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""
        self._add(batch, self._read(batch, activations) if batch.n_rows else self._nothing())

    @abstractmethod
    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """What is found at the rows of a batch that has any: name to [row, ...] on the CPU; this changes no sum yet."""

    @abstractmethod
    def _nothing(self) -> dict[str, Tensor]:
        """The same of no rows."""

    def _add(self, batch: Batch, found: dict[str, Tensor]) -> None:
        """Take in what was found; documents may end in a batch without a row."""
        self._rows.update(batch, found)


def row_fields(rows: Rows, adapter: Adapter, *more_ids: int) -> dict[str, Any]:
    """Rows as fields of a result: their columns, the documents' names, and the texts of all token ids that occur."""
    whole = rows.whole()
    ids = [whole[name].flatten() for name in ("token", "output_token", "top_tokens") if name in whole]
    every = torch.cat([*ids, torch.tensor(more_ids, dtype=torch.long)]).unique().tolist()
    return {**whole, "names": dict(rows.names), "strings": adapter.strings(every)}
