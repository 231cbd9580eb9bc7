"""What is known of a model where only what was measured in it is at hand: enough to merge and to make results, not to run.

Refused: everything that needs the model itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from tl_entropy.errors import InputError
from tl_entropy.results.provenance import Provenance
from tl_entropy.state import Kept


class _NoModelError(InputError, AttributeError):
    """Something that only a model has; an AttributeError, too, for whoever asks whether it is there."""


@dataclass(frozen=True)
class ModelRecord(Kept):
    """In place of an ``Adapter``.

    Attributes:
        fingerprint: of the weights.
        origin: the model's part of a provenance, by field.
        texts: token id to its text, of those that occur.
    """

    fingerprint: str
    origin: Mapping[str, Any]
    texts: Mapping[int, str]

    @classmethod
    def of(cls, adapter: Any, ids: Iterable[int] = ()) -> ModelRecord:
        """What is to be known of an adapter, with the texts of these tokens; of a record, itself."""
        if isinstance(adapter, ModelRecord):
            return adapter
        made = adapter.provenance()
        names = ("model", "weights", "processing", "dtype", "device", "state")
        return cls(adapter.fingerprint, {name: getattr(made, name) for name in names}, dict(adapter.strings(sorted(set(ids)))))

    def together(self, other: ModelRecord) -> ModelRecord:
        """With the texts of another's tokens."""
        return replace(self, texts={**self.texts, **other.texts})

    def provenance(self, **parts: Any) -> Provenance:
        """As that of an ``Adapter``."""
        return Provenance(**self.origin, **parts)

    def strings(self, ids: Iterable[int]) -> Mapping[int, str]:
        """The text of each id."""
        return {i: self.texts[i] for i in ids}

    def __getattr__(self, name: str) -> NoReturn:
        raise _NoModelError(
            "what was loaded without its model can be merged and computed, and nothing more: give the model, "
            "load_accumulator(path, model), to go on"
        )
