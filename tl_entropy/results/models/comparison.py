"""Several models on the same inputs: profiles, what each layer does, and how far the models are from each other.

A comparison is a folder of results: one of each kind for every model, those of pairs of models, and what joins them. Its
files are safetensors files that can be read one by one; ``comparison.json`` says which is which.

A save writes all parts into a folder inside, then the index, which names that folder, and then moves the parts to where they
belong. Until the index is in place the folder holds the comparison that it held, and from then on the new one, whatever ends
the save. Of several savers of one folder each waits until the one before has ended, and whoever reads meanwhile gets one of
their comparisons, whole. The index has the digests of the parts, so that those of two are never read as if of one.

Refused: a folder without that index, or with one that is damaged, of another kind, or of a later version; parts of other
comparisons.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd

from tl_entropy.errors import FileError, SaveError
from tl_entropy.results.base import Result, Unit
from tl_entropy.results.files import (
    LAYOUT,
    SCHEMA,
    abandoned,
    as_path,
    digest,
    opened,
    parsed,
    waiting_for,
    write_text,
    written_once,
)  # fmt: skip
from tl_entropy.results.holding import held
from tl_entropy.results.lens.entropy import LensEntropy
from tl_entropy.results.loading import FOLDERS, load
from tl_entropy.results.printing import Printed, plus_minus
from tl_entropy.results.profiles.distances import PairwiseDistances
from tl_entropy.results.profiles.dynamics import LayerDynamics
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.similarity import LayerSimilarity

INDEX = "comparison.json"
PARTS = "parts"
"""What the folder is of that new parts wait in."""
_OF_MODELS: dict[str, type[Result]] = {
    "lenses": LensEntropy, "dynamics": LayerDynamics, "similarity": LayerSimilarity, "across": LayerSimilarity,
}  # fmt: skip
"""Parts that there are several of: those of each model, and of pairs of models."""


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Printed):
    """What ``compare_models`` measured. Everything equals what the separate functions give.

    Attributes:
        lenses: lens entropy of every model, by the model's name.
        dynamics: what each layer of every model does: velocities and distances to the output, from entropies and from the
            distributions over the vocabulary.
        distances: distances between the models' entropy profiles; None for one model, or where a note says why.
        similarity: of every model, the similarity of its layers to each other; empty where it was not asked for.
        across: of every pair of models, the similarity of every layer of the first (rows) to every layer of the second
            (columns); ``over`` says whether over tokens or over documents. Empty where it was not asked for.
        notes: what could not be measured as it was asked for, and why.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> both = tle.compare_models({"one": model, "same": model}, ["import os, sys"] * 4, similarity=None, progress=False)
    >>> sorted(both.dynamics)
    ['one', 'same']
    """

    along = None  # models in any order

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

    @property
    def files(self) -> dict[str, Result]:
        """Every part by the name of the file that ``save`` writes it to."""
        return {file: part for _, _, file, part in self._parts()}

    def to_pandas(self) -> pd.DataFrame:
        """The dynamics of all models in the long form: model, and the columns of ``LayerDynamics.to_pandas``."""
        frames = [result.to_pandas() for result in self.dynamics.values()]
        for name, frame in zip(self.dynamics, frames, strict=True):
            frame.insert(0, "model", name)
        return pd.concat(frames, ignore_index=True)

    def save(self, folder: str | Path) -> Path:
        """Write every part to a file of its own in ``folder``, which is made where needed, and return its path.

        Whatever ends it, the folder holds the comparison that it held, or this one. Files that an earlier comparison left there
        and this one does not need stay; ``load`` does not read them. Of several processes that share a measurement the first
        writes, and the others wait until it has.

        Raises:
            FileError: there is a file of that name.
            SaveError: the folder cannot be written to, or the disk has no room.
        """
        target = as_path("folder", folder)
        if os.path.exists(target) and not os.path.isdir(target):  # which do not mind names that are too long
            raise FileError(f"folder: {target} is a file; a comparison is saved as a folder")
        with written_once(target / INDEX) as mine:
            if mine:
                with held("folder", target / INDEX, wait=True):
                    self._write(target)
        return target

    def _write(self, target: Path) -> None:
        index: dict[str, Any] = {"schema": SCHEMA, "kind": type(self).__name__, "distances": None, "notes": list(self.notes)}
        index |= {"layout": LAYOUT, "parts": {}} | {kind: [] for kind in _OF_MODELS}
        with waiting_for(target / PARTS) as waiting:
            try:
                for kind, of, file, part in self._parts():
                    index["parts"][file] = _digest(part.save(waiting / file))
                    if kind == "distances":
                        index[kind] = file
                    else:
                        index[kind].append([of, file])
            except BaseException:
                shutil.rmtree(waiting, ignore_errors=True)
                raise
            index["waiting"] = waiting.name
            index["digest"] = digest(json.dumps(index, sort_keys=True), {})
            try:
                write_text(target / INDEX, json.dumps(index, indent=1))
            except SaveError:  # after any other end, the index may be in place and need the parts
                shutil.rmtree(waiting, ignore_errors=True)
                raise
            try:
                for file in index["parts"]:
                    os.replace(waiting / file, os.path.realpath(target / file))
            except OSError as error:
                raise SaveError(
                    f"folder: parts of {target} are left in {waiting.name}, where load finds them ({error})"
                ) from error
        for path in abandoned(target / PARTS):
            shutil.rmtree(path, ignore_errors=True)

    def _parts(self) -> Iterator[tuple[str, Any, str, Result]]:
        """Every part: what it is, of which model or pair of models, its file, and itself."""
        stems = file_stems(self.names)
        for kind in _OF_MODELS:
            for of, part in getattr(self, kind).items():
                named = "_".join(stems[name] for name in ([of] if isinstance(of, str) else of))
                yield kind, of, f"{'lens' if kind == 'lenses' else kind}_{named}.safetensors", part
        if self.distances is not None:
            yield "distances", None, "distances.safetensors", self.distances

    def __repr__(self) -> str:
        return "\n\n".join([super().__repr__(), *([] if self.distances is None else [repr(self.distances)])])

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return super()._repr_html_() + ("" if self.distances is None else self.distances._repr_html_())

    def _origins(self) -> list[Provenance]:
        return [lens.provenance for lens in self.lenses.values()]

    def _title(self) -> list[str]:
        many = len(self.names) != 1
        return [f"ModelComparison: {len(self.names)} model{'s' * many}, {self.unit}"]

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "entropy, site by site", {name: lens.mean_profile()["mean"].tolist() for name, lens in self.lenses.items()}

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
    while True:
        text = _index(folder)
        try:
            return _of_index(folder, text)
        except FileError:
            if _index(folder) == text:
                raise
            # Another comparison was saved meanwhile: read that.


def _index(folder: Path) -> str:
    try:
        return (folder / INDEX).read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> FileError:
    return FileError(f"path: {folder / INDEX} cannot be read as the index of a comparison ({error}); it is damaged")


def _of_index(folder: Path, text: str) -> ModelComparison:
    """What an index, as text, is of."""
    try:
        index = parsed(text)
    except ValueError as error:
        raise _unreadable(folder, error) from error
    if not isinstance(index, dict) or index.get("kind") != ModelComparison.__name__:
        raise FileError(f"path: {folder / INDEX} is not the index of a comparison; give a folder that tl_entropy wrote")
    schema, known = index.get("schema"), index.pop("digest", None)
    if type(schema) is int and schema > SCHEMA:
        raise FileError(f"path: {folder} has schema {schema}, this tl_entropy reads up to {SCHEMA}; upgrade tl_entropy")
    if (known is not None or "layout" in index) and known != digest(json.dumps(index, sort_keys=True), {}):
        raise FileError(f"path: {folder / INDEX} is damaged: its digest is not that of its contents")
    try:
        waiting, digests = index.get("waiting", PARTS), index.get("parts", {})
        files = {kind: {tuple(of) if kind == "across" else of: file for of, file in index[kind]} for kind in _OF_MODELS}
        distances, notes = index["distances"], index["notes"]
        _check_index(schema, files, distances, notes)
        _check_place(waiting, digests)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"path: {folder / INDEX} is not what a comparison's should be ({error}); it is damaged") from error

    def part(file: str, kind: type[Result]) -> Any:
        return _part(folder / waiting, folder, file, kind, digests.get(file))

    parts: dict[str, Any] = {
        kind: {of: part(file, _OF_MODELS[kind]) for of, file in named.items()} for kind, named in files.items()
    }
    parts["distances"] = None if distances is None else part(distances, PairwiseDistances)
    return ModelComparison(**parts, notes=tuple(notes))


FOLDERS[INDEX] = load_comparison


def _check_index(schema: object, files: Mapping[str, Mapping[Any, Any]], distances: object, notes: object) -> None:
    """Raise ValueError unless these are what ``ModelComparison.save`` writes of a comparison."""
    if type(schema) is not int:
        raise ValueError(f"its schema is {schema!r}, no whole number")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError("its notes are no list of texts")
    names = list(files["lenses"])
    if not names or not all(isinstance(name, str) for name in names) or files["dynamics"].keys() != files["lenses"].keys():
        raise ValueError("it has no lenses, or not the same models' dynamics")
    known = {"similarity": names, "across": list(itertools.permutations(names, 2))}
    for kind, keys in known.items():
        if unknown := [key for key in files[kind] if key not in keys]:
            raise ValueError(f"its {kind} is of {unknown[0]!r}, of which it has no lens")
    every = [file for named in files.values() for file in named.values()] + ([] if distances is None else [distances])
    for file in every:
        # A name alone, so that a part is a file of this folder.
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{file!r} is no name of a file of results")


def _check_place(waiting: object, digests: object) -> None:
    """Raise ValueError unless these say where parts wait that were not moved yet, and what they are."""
    if not isinstance(waiting, str) or Path(waiting).name != waiting:
        raise ValueError(f"{waiting!r} is no name of a folder")
    if not isinstance(digests, dict) or not all(isinstance(value, str) for value in digests.values()):
        raise ValueError("its parts have no digests")


def _part(waiting: Path, folder: Path, file: str, kind: type[Result], known: str | None) -> Any:
    """The result in a file of a comparison, or FileError where it is none of this kind, or another comparison's."""
    path = waiting / file if (waiting / file).exists() else folder / file
    try:
        found, digest_there = load(path), _digest(path)
    except (FileError, OSError):
        if path.exists():
            raise
        path = folder / file  # it was moved there meanwhile
        found, digest_there = load(path), _digest(path)
    if not isinstance(found, kind):
        raise FileError(
            f"path: {path} holds a {type(found).__name__} where the comparison has a {kind.__name__}; it is damaged"
        )
    if known is not None and digest_there != known:
        raise FileError(
            f"path: {path} is not this comparison's: two were saved into the folder at once, or the file was replaced; "
            "load reads the files one by one"
        )
    return found


def _digest(path: Path) -> str | None:
    """What the file of a result says of itself."""
    with opened(path) as file:
        return (file.metadata() or {}).get("digest")


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
