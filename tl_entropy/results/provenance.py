"""Where a result comes from: the model, the settings, what was read, and the versions of the libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a number depends on."""
    found = {}
    for name in ("tl-entropy", "torch", "transformer-lens", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    ``weights`` is a fingerprint of the parameters: equal for equal weights under the same processing and
    the same TransformerLens, whatever the model is called.
    ``settings`` are the arguments that decide the numbers; ``corpus`` counts what was read; ``interrupted`` says that the
    pass was stopped before the input's end.
    """

    model: str
    weights: str
    processing: str
    dtype: str
    device: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    corpus: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    versions: Mapping[str, str] = field(default_factory=library_versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
