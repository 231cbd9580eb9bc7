"""Where a result comes from: the model, the settings, what was read, and the versions of the libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tl_entropy.errors import InputError, InputTypeError, counted
from tl_entropy.state import Kept

_SHOWN = 3
"""Documents left out that are named."""

READS_AHEAD = "reads ahead as declared"
"""Part of a provenance's ``processing``: the model sees the tokens that it predicts, and its configuration says so."""

PREDICTS_OWN = "predicts its own tokens as declared"
"""Another: what it says at a position is about the token there."""


def skipped_note(skipped: Mapping[str, Any]) -> str:
    """What is to be said of documents that were left out, from ``corpus["skipped"]`` of a provenance.

    >>> skipped_note({"count": 7, "first": ((3, "inputs[3]", "inputs[3] must be a str; got int"),)})
    '7 documents were left out: inputs[3] must be a str; got int; ...'
    """
    first = [reason if where in reason else f"{where}: {reason}" for _, where, reason in skipped["first"][:_SHOWN]]
    first += ["..."] * (skipped["count"] > len(first))
    n = skipped["count"]
    return f"{counted(n, 'document')} {'was' if n == 1 else 'were'} left out: {'; '.join(first)}"


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a number depends on."""
    return {name: _version(name) for name in ("tl-entropy", "torch", "transformer-lens", "transformers")}


@cache  # metadata are read from files
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class Provenance(Kept):
    """Where a result comes from.

    ``weights`` is a fingerprint of the parameters: equal for equal weights under the same processing, with the same adapters on
    and under the same TransformerLens, whatever the model is called. ``state`` says what else there is to say of the model:
    weights that are quantised, offloaded, merged with an adapter or from a file of another kind; adapters that are not merged;
    hooks of others that ran; and how its logits compare with those of the Hugging Face model that it wraps.
    ``settings`` are the arguments that decide the numbers; ``corpus`` counts what was read, and lists under "skipped" the first
    of the documents that ``on_error="skip"`` left out (number, place, reason); ``interrupted`` says that the pass was stopped
    before the input's end.

    >>> import tl_entropy as tle
    >>> origin = tle.lens_entropy(tle.demo_model(), "import os", progress=False).provenance
    >>> origin.model, origin.settings["lens"]
    ('stdlib-gpt2-3m', 'logit lens')
    """

    model: str
    weights: str
    processing: str
    dtype: str
    device: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    corpus: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    state: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=library_versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def reads_ahead(origin: Provenance) -> bool:
    """Whether the model that a result comes from declares that it has seen the tokens that it predicts."""
    return READS_AHEAD in origin.processing


def check_paired(one: Any, other: Any, unit: str) -> None:
    """Raise unless two results are of one kind, unit and corpus, and know what folds of documents add to their errors."""
    if type(one) is not type(other):
        raise InputTypeError(f"other must be a {type(one).__name__}; got {type(other).__name__}")
    if other.unit != unit:
        raise InputError(f"other is in {other.unit}, and this result in {unit}; bring them to one with to({unit!r})")
    if one.scores is None or other.scores is None:
        raise InputError("scores: one of the results knows no contributions of folds of documents, so that nothing is paired")
    if one.provenance.corpus.get("digest") != other.provenance.corpus.get("digest"):
        raise InputError("other is of other documents; give both the same inputs")
