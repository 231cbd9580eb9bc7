"""What every measure that is gathered in a stream does alike: a new one adds its sums and its result.

A subclass says what it wants to see (``sites``), which of its attributes hold what it has seen (``gathered``), takes in a batch
(``update``), and makes a result of it all (``_result``).

Any split of a corpus then merges to the whole; models of other weights, or other settings, are refused (``alike``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NoReturn, Self, TypeVar

import torch
from torch import Tensor

from tl_entropy.analyses.merging import check_alike, check_same, merged
from tl_entropy.analyses.rows import Rows
from tl_entropy.analyses.saving import check_state, contents, settings_of, state_head, write
from tl_entropy.batches import Batch
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.parts import Part
from tl_entropy.capture.record import ModelRecord
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site
from tl_entropy.state import copied, decoded, encoded, restored
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
        kept: names of further attributes that hold what was seen, which ``_merge`` adds up.
        bound: names of attributes that belong to the model or follow from others, and are not saved.
        gathered: names of the attributes that hold what was seen, each with a ``merge`` of its own, a number or tensor that is
            added, or a mapping or list of these. What may refuse another comes first.
    """

    alike: ClassVar[tuple[str, ...]] = ()
    gathered: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[tuple[str, ...]] = ()
    bound: ClassVar[tuple[str, ...]] = ()
    sites: tuple[Site, ...]
    report: StreamReport | None = None
    _given: list[Any]
    _told: dict[str, Any]

    def __init__(self, model: Any) -> None:
        self.adapter = adapter_of(model)

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Remembers what it was made with beside the model, for its file."""
        found = super().__new__(cls)
        found._given = [list(arguments[1:]), options]
        return found

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

        Where parts of one corpus were read with ``documents=``, they have its numbers. Otherwise the other's documents are
        numbered on from this one's, since every such pass numbers its own from 0.

        Raises:
            InputError: the settings or the models differ, or both have read a document of one corpus.
        """
        self._check_alike(other)
        mine, theirs = self.report, other.report
        both = mine.together(theirs) if mine is not None and theirs is not None else mine or theirs
        placed = both is not None and both.placed
        for name in self.gathered:
            setattr(self, name, merged(getattr(self, name), getattr(other, name), placed=placed))
        self._merge(other, placed=placed)
        self.report = both
        record: Any = self.adapter
        if isinstance(record, ModelRecord):
            self.adapter = record.together(ModelRecord.of(other.adapter, other._ids().tolist()))  # type: ignore[assignment]

    def _merge(self, other: Self, *, placed: bool) -> None:
        """Take in what ``gathered`` does not name; ``placed`` is whether both use the numbers of one corpus."""

    def state_dict(self) -> dict[str, Any]:
        """What was seen, as nested dicts and lists of tensors and plain values; none of it is shared with this accumulator.

        Returns:
            "kind" and "schema"; "settings", "model" (its fingerprint), "documents" (those held: [first, one after the last]
            each), "corpus" (how many documents and tokens, and their digest), "report", and "gathered", what was seen itself.

        Raises:
            InputTypeError: an attribute that holds what was seen is of a kind that a state cannot hold.

        >>> import tl_entropy as tle
        >>> model, texts = tle.demo_model(), ["import os", "import sys"]
        >>> first, second = tle.LensAccumulator(model), tle.LensAccumulator(model)
        >>> report = tle.stream(model, texts, [first], documents=range(0, 1), progress=False)
        >>> second.load_state_dict(first.state_dict())
        >>> report = tle.stream(model, texts, [second], documents=range(1, 2), progress=False)
        >>> second.state_dict()["documents"]
        [[0, 2]]
        """
        copy: dict[str, Any] = copied(self._state())
        return copy

    def _state(self) -> dict[str, Any]:
        """The state, whose tensors are those of this accumulator."""
        return {
            **state_head(self),
            "report": encoded(self.report),
            "gathered": {name: encoded(getattr(self, name)) for name in (*self.gathered, *self.kept)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of an accumulator of the same settings and model, in place of what was seen here.

        Raises:
            InputError: it is of another kind, schema, model or setting; the message says which.
        """
        check_state(self, state)
        self._take(state)

    def save(self, path: str | Path) -> Path:
        """Write what was seen to one file, which ``load_accumulator`` reads; folders on the way are made.

        Raises:
            SaveError: the folder cannot be written to, or the disk has no room; a file that was there stays as it was.

        >>> import tl_entropy as tle
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> means = tle.LensAccumulator(tle.demo_model(), keep="summary")
        >>> report = tle.stream(tle.demo_model(), "import os", [means], progress=False)
        >>> path = means.save(Path(mkdtemp()) / "means.safetensors")
        >>> tle.load_accumulator(path).compute().tokens
        2
        """
        return write(path, contents(self))

    def __reduce__(self) -> NoReturn:
        raise InputTypeError(
            f"a {type(self).__name__} holds a model, and cannot be pickled or copied: state_dict() gives what it has seen, and "
            "save(path) writes that to a file, which load_accumulator reads"
        )

    @classmethod
    def without_model(cls, content: Mapping[str, Any]) -> Self:
        """From a file's content: one that merges and computes, and can see no more."""
        found = super().__new__(cls)
        for name, value in content["made"].items():
            setattr(found, name, decoded(value))
        found.adapter = decoded(content["record"])
        found._told = content["settings"]
        found._take(content)
        return found

    def of_same(self, state: Mapping[str, Any]) -> Self:
        """Another of the same settings, that has seen what a state says, and can see no more: to be merged.

        Raises:
            InputError: as ``load_state_dict``.
        """
        check_state(self, state)
        found: Self = object.__new__(type(self))
        seen = {*self.gathered, *self.kept}
        vars(found).update({name: value for name, value in vars(self).items() if name not in seen})
        found._take(state)
        return found

    def _take(self, state: Mapping[str, Any]) -> None:
        self.report = decoded(state["report"])
        for name, value in state["gathered"].items():
            setattr(self, name, restored(getattr(self, name, None), value))
        self._came()

    def _came(self) -> None:
        """What follows from a state that was taken."""

    def _told_apart(self) -> dict[str, Any]:
        """What else tells settings apart, as plain values."""
        return {}

    def _ids(self) -> Tensor:
        """Ids of the tokens whose texts a result gives."""
        rows = getattr(self, "_rows", None)
        return rows.ids() if isinstance(rows, Rows) else torch.zeros(0, dtype=torch.long)

    def growth(self) -> tuple[int, str]:
        """Bytes of what is kept and grows with the corpus, and what to do where they are too many."""
        return 0, ""

    @property
    def in_order(self) -> str:
        """Why it has to see the whole corpus in its order, at once; empty where any split merges to the whole."""
        return ""

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
        adapters: tuple[Any, Any] = (self.adapter, other.adapter)
        if any(isinstance(one, ModelRecord) for one in adapters):
            check_alike(settings_of(self), settings_of(other))
        else:
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
    ids = [whole[name].flatten() for name in rows.of_tokens]
    every = torch.cat([*ids, torch.tensor(more_ids, dtype=torch.long)]).unique().tolist()
    return {**whole, "names": dict(rows.names), "strings": adapter.strings(every)}
