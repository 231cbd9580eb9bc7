"""A row of the sweep's table: how a tiny model is made, where its parts stand, and what is expected of every measure.

Measures that a row does not name are expected to be right: within the tolerance of ``measures.TOLERANCE`` of the truth. The
others have one of

- ``refused(pattern)``: the package raises an error of its own, whose message holds the true reason;
- ``outside(pattern)``: it does not come to the package, since Hugging Face's or TransformerLens's own code fails before;
- ``absent(reason)``: not measured, since there is nothing to compare with, or nothing to measure;
- ``wrong(pattern, right=...)``: what is seen today and should not be. It is strict: as soon as something else is seen, the row
  fails and has to be brought up to date.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MEASURES = (
    "last", "sites", "batch", "cache", "pattern", "readout", "kl", "soft", "cka", "loss", "mid", "attn", "mlp", "ablate",
    "mask", "bf16",
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What is expected of a cell.

    Attributes:
        kind: see above.
        text: what the outcome's text is searched for.
        right: of what is wrong, what would be right.
    """

    kind: Literal["ok", "refused", "outside", "absent", "wrong"]
    text: str = ""
    right: str = ""


OK = Expected("ok")


def refused(pattern: str) -> Expected:
    return Expected("refused", pattern)


def outside(pattern: str) -> Expected:
    return Expected("outside", pattern)


def absent(reason: str) -> Expected:
    return Expected("absent", reason)


def wrong(pattern: str, *, right: str) -> Expected:
    return Expected("wrong", pattern, right)


PARALLEL = refused("its attention and MLP run in parallel")


@dataclass(frozen=True)
class Row:
    """One tiny model.

    Attributes:
        name: what the table calls it.
        architecture: its class in transformers.
        config: arguments of the class's configuration.
        cells: what is expected of measures, several of them in one key ("mid attn"), where that is not "ok"; "all" stands for
            those not named. "boot" is wrapping the model, without which nothing is measured.
        parts: where the parts stand in the Hugging Face model, where ``truth.PARTS`` does not find them; a tuple has one place
            for each block.
        layers: those that have attention heads; None is all.
        written: factor on what attention writes into the stream.
        parallel: attention and MLP both read what enters the block, so that no state is between them.
        registered: the class's name in TransformerLens, where that is another (as in the configurations of checkpoints).
        blind: made without the tower that sees, which would need a library of its own.
        quick: whether the row is part of the usual tests.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    cells: Mapping[str, Expected] = field(default_factory=dict)
    parts: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None
    written: float = 1.0
    parallel: bool = False
    registered: str | None = None
    blind: bool = False
    quick: bool = False

    def __post_init__(self) -> None:
        unknown = {name for key in self.cells for name in key.split()} - {*MEASURES, "boot", "all"}
        if unknown:
            raise ValueError(f"{self.name}: no measures {unknown}")

    def expected(self, measure: str) -> Expected:
        """What is expected of a measure, or of "boot"."""
        found = [expected for key, expected in self.cells.items() if measure in key.split()]
        if len(found) > 1:
            raise ValueError(f"{self.name}: {measure} stands there twice")
        if not found and self.parallel and measure == "mid":
            found.append(PARALLEL)
        if not found and "all" in self.cells and measure != "boot":
            found.append(self.cells["all"])
        return found[0] if found else OK
