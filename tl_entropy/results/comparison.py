"""Several models on the same inputs: profiles, what each layer does, and how far the models are from each other.

A comparison is a folder of results: one of each kind for every model, those of pairs of models, and what joins them. Its
files are safetensors files that can be read one by one; ``comparison.json`` says which is which. It is removed before the
first file is written and put in place after the last, so that a folder never holds parts of two comparisons as if of one.

Refused: a folder without that index, or with one that is damaged, of another kind, or of a later version.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd

from tl_entropy.errors import FileError
from tl_entropy.results.base import SCHEMA, Result, Unit, load
from tl_entropy.results.distances import PairwiseDistances
from tl_entropy.results.dynamics import LayerDynamics
from tl_entropy.results.lens import LensEntropy
from tl_entropy.results.printing import Printed, plus_minus
from tl_entropy.results.similarity import LayerSimilarity

INDEX = "comparison.json"


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Printed):
    """What ``compare_models`` measured. Everything equals what the separate functions give.

    Attributes:
        lenses: lens entropy of every model, by the model's name.
        dynamics: what each layer of every model does: velocities and distances to the output, from entropies and from the
            distributions over the vocabulary.
        distances: distances between the models' entropy profiles; None for one model.
        similarity: of every model, the similarity of its layers to each other; empty where it was not asked for.
        across: of every pair of models, the similarity of every layer of the first (rows) to every layer of the second
            (columns); ``over`` says whether over tokens or over documents. Empty where it was not asked for.
        notes: what could not be measured as it was asked for, and why.
    """

    lenses: Mapping[str, LensEntropy]
    dynamics: Mapping[str, LayerDynamics]
    distances: PairwiseDistances | None = None
    similarity: Mapping[str, LayerSimilarity] = field(default_factory=dict)
    across: Mapping[tuple[str, str], LayerSimilarity] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, in the order in which they were given."""
        return tuple(self.lenses)

    @property
    def unit(self) -> Unit:
        """That of all parts: "nats" or "bits"."""
        return next(iter(self.lenses.values())).unit

    def to(self, unit: Unit) -> Self:
        """The same comparison in ``"nats"`` or ``"bits"``."""
        return dataclasses.replace(
            self,
            lenses={name: result.to(unit) for name, result in self.lenses.items()},
            dynamics={name: result.to(unit) for name, result in self.dynamics.items()},
            distances=None if self.distances is None else self.distances.to(unit),
            similarity={name: result.to(unit) for name, result in self.similarity.items()},
            across={pair: result.to(unit) for pair, result in self.across.items()},
        )

    def to_pandas(self) -> pd.DataFrame:
        """The dynamics of all models in the long form: model, and the columns of ``LayerDynamics.to_pandas``."""
        frames = [result.to_pandas() for result in self.dynamics.values()]
        for name, frame in zip(self.dynamics, frames, strict=True):
            frame.insert(0, "model", name)
        return pd.concat(frames, ignore_index=True)

    def save(self, folder: str | Path) -> Path:
        """Write every part to a file of its own in ``folder``, which is made where needed, and return its path.

        Files that an earlier comparison left there and this one does not need stay; ``load`` does not read them.

        Raises:
            FileError: there is a file of that name.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise FileError(f"folder: {target} is a file; a comparison is saved as a folder")
        target.mkdir(parents=True, exist_ok=True)
        (target / INDEX).unlink(missing_ok=True)
        stems = file_stems(self.names)

        def written(result: Result, kind: str, *names: str) -> str:
            return result.save(target / f"{'_'.join([kind, *(stems[name] for name in names)])}.safetensors").name

        index = {
            "schema": SCHEMA,
            "kind": type(self).__name__,
            "lenses": [[name, written(result, "lens", name)] for name, result in self.lenses.items()],
            "dynamics": [[name, written(result, "dynamics", name)] for name, result in self.dynamics.items()],
            "distances": None if self.distances is None else written(self.distances, "distances"),
            "similarity": [[name, written(result, "similarity", name)] for name, result in self.similarity.items()],
            "across": [[list(pair), written(result, "across", *pair)] for pair, result in self.across.items()],
            "notes": list(self.notes),
        }
        waiting = target / f".{INDEX}.{os.getpid()}.tmp"
        try:
            waiting.write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")
            waiting.replace(target / INDEX)
        finally:
            waiting.unlink(missing_ok=True)
        return target

    def __repr__(self) -> str:
        return "\n\n".join([super().__repr__(), *([] if self.distances is None else [repr(self.distances)])])

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return super()._repr_html_() + ("" if self.distances is None else self.distances._repr_html_())

    def _title(self) -> list[str]:
        many = len(self.names) != 1
        return [f"ModelComparison: {len(self.names)} model{'s' * many}, {self.unit}"]

    def _table(self) -> pd.DataFrame:
        return pd.DataFrame([_line(result) for result in self.dynamics.values()], index=list(self.dynamics))

    def _notes(self) -> list[str]:
        velocity, family = next(iter(self.dynamics.values())).main_velocity()
        explained = (
            f"velocity: {velocity} ({family}), summed over sites; largest step: the site that adds most to it; largest "
            f"approach: that at which {_to_output(velocity)} ({family}) falls most"
        )
        return [explained, *self.notes]


def load_comparison(folder: Path) -> ModelComparison:
    """The comparison that ``ModelComparison.save(folder)`` wrote; what ``load`` does with a folder.

    Raises:
        FileError: no index in the folder, one that is damaged or of another kind, or a file of it that cannot be read.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileError(
            f"path: {folder} is a folder without {INDEX}: no comparison, or one whose saving was interrupted"
        ) from error
    except (ValueError, OSError) as error:
        raise FileError(
            f"path: {folder / INDEX} cannot be read as the index of a comparison ({error}); it is damaged"
        ) from error
    if not isinstance(index, dict) or index.get("kind") != ModelComparison.__name__:
        raise FileError(f"path: {folder / INDEX} is not the index of a comparison; give a folder that tl_entropy wrote")
    if index.get("schema", 0) > SCHEMA:
        raise FileError(
            f"path: {folder} has schema {index['schema']}, this tl_entropy reads up to {SCHEMA}; upgrade tl_entropy"
        )
    try:
        files = {kind: dict(index[kind]) for kind in ("lenses", "dynamics", "similarity")}
        across = {tuple(pair): file for pair, file in index["across"]}
        distances, notes = index["distances"], tuple(index["notes"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"path: {folder / INDEX} lacks parts of a comparison ({error!r}); it is damaged") from error
    return ModelComparison(
        **{kind: {name: load(folder / file) for name, file in named.items()} for kind, named in files.items()},
        distances=None if distances is None else load(folder / distances),
        across={pair: load(folder / file) for pair, file in across.items()},
        notes=notes,
    )


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """For each name a part of a file's name: its letters, digits, dots and hyphens, with a number that keeps it unique.

    >>> file_stems(["EleutherAI/pythia 70m", "EleutherAI_pythia_70m"])
    {'EleutherAI/pythia 70m': '0_EleutherAI_pythia_70m', 'EleutherAI_pythia_70m': '1_EleutherAI_pythia_70m'}
    """
    return {name: f"{i}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:60]}" for i, name in enumerate(names)}


def _line(dynamics: LayerDynamics) -> dict[str, Any]:
    """What the table says of one model."""
    of, family = dynamics.main_velocity()
    velocity, left = dynamics.value(of, family)[1:], dynamics.value(_to_output(of), family)
    after, unit = [str(site) for site in dynamics.sites[1:]], dynamics.unit_of(of, family)
    total, largest = float(velocity.sum()), int(velocity.argmax())
    share = f" ({float(velocity[largest]) / total:.0%})" if total > 0 else ""
    entropy, error = (part("entropy", "curve")[-1:].tolist() for part in (dynamics.value, dynamics.error))
    return {
        "sites": len(dynamics.sites),
        "tokens": dynamics.tokens,
        "documents": dynamics.documents,
        f"entropy at the last ({dynamics.unit})": plus_minus(entropy, error)[0],
        f"velocity ({unit})" if unit else "velocity": f"{total:.3f}",
        "largest step": after[largest] + share,
        "largest approach": after[int((left[:-1] - left[1:]).argmax())],
    }


def _to_output(velocity: str) -> str:
    """The distance to the output that goes with a velocity."""
    return velocity.removesuffix("_velocity") + "_to_output"
