"""Accumulators out of their files: with their model to go on, or without it to merge and compute.

Refused: files of kinds that are not known, another model, and settings that a file cannot hold, such as a lens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_entropy.analyses.heads.entropy import HeadAccumulator
from tl_entropy.analyses.information.parts import AssignmentParts
from tl_entropy.analyses.information.plain import StateInformation
from tl_entropy.analyses.information.sums import SoftAccumulator
from tl_entropy.analyses.lens.divergence import DivergenceAccumulator
from tl_entropy.analyses.lens.entropy import LensAccumulator
from tl_entropy.analyses.means import StateMeans
from tl_entropy.analyses.saving import read
from tl_entropy.analyses.states.cka import CKAAccumulator
from tl_entropy.analyses.states.geometry import GeometryAccumulator
from tl_entropy.analyses.states.matrix_similarity import MatrixAccumulator
from tl_entropy.analyses.states.neighbours import NeighbourAccumulator
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.analyses.tokens.confidence import ConfidenceAccumulator
from tl_entropy.analyses.tokens.gradient_reliance import GradientRelianceAccumulator
from tl_entropy.analyses.tokens.reliance import RelianceAccumulator
from tl_entropy.analyses.tokens.surprisal import SurprisalAccumulator
from tl_entropy.analyses.tokens.unigram import UnigramAccumulator
from tl_entropy.errors import FileError, InputError
from tl_entropy.state import decoded
from tl_entropy.torch_state import steady

KINDS = (
    LensAccumulator, DivergenceAccumulator, HeadAccumulator, SurprisalAccumulator, RelianceAccumulator,
    GradientRelianceAccumulator, GeometryAccumulator, CKAAccumulator, MatrixAccumulator, NeighbourAccumulator, SoftAccumulator,
    AssignmentParts, ConfidenceAccumulator, UnigramAccumulator, StateMeans,
)  # fmt: skip
"""Those of the package, which are known once they are imported, as are a user's own."""


@steady
def load_accumulator(path: str | Path, model: Any = None) -> Any:
    """The accumulator that ``save(path)`` wrote.

    Args:
        path: the file.
        model: the model that it was fed by, to go on with; None gives an accumulator that merges and computes, and can see no
            more.

    Raises:
        FileError: no such file, not one of an accumulator, damaged, or written by a later version.
        InputError: the model has other weights, or the accumulator was made with what a file cannot hold (a lens,
            interventions, another model): make it with these, and hand it the state of the one that was loaded without a model.

    >>> import tl_entropy as tle
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> model, texts = tle.demo_model(), ["import os", "import sys", "x = 1"]
    >>> means = tle.LensAccumulator(model, keep="summary")
    >>> report = tle.stream(model, texts, [means], documents=range(0, 2), progress=False)
    >>> path = means.save(Path(mkdtemp()) / "means.safetensors")
    >>> again = tle.load_accumulator(path, model)
    >>> report = tle.stream(model, texts, [again], documents=range(2, 3), progress=False)
    >>> again.report.held, tle.load_accumulator(path).report.held
    (((0, 3),), ((0, 2),))
    """
    content = read(path)
    kinds: dict[str, type[Any]] = {kind.__name__: kind for kind in _below(StreamingMeasure)}
    kind = kinds.get(content["kind"])
    if content["kind"] == StateInformation.__name__:
        return StateInformation.of_state(content)
    if kind is None:
        raise FileError(
            f"path: {path} holds a {content['kind']!r}, which is none of {', '.join(sorted(kinds))}; import its own first"
        )
    if model is None:
        return kind.without_model(content)
    if content["arguments"] is None:
        raise InputError(
            f"model: this {content['kind']} was made with what a file cannot hold, such as a lens or interventions; make it "
            "anew with the same arguments, and call its load_state_dict(load_accumulator(path).state_dict())"
        )
    arguments, options = decoded(content["arguments"])
    found = kind(model, *arguments, **options)
    found.load_state_dict({name: content[name] for name in found.state_dict()})
    return found


def _below(kind: type[Any]) -> set[type[Any]]:
    below: list[type[Any]] = kind.__subclasses__()
    return {kind, *(found for one in below for found in _below(one))}
