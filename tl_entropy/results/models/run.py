"""What a run in a folder has found: results of many models and analyses, as one table and as courses over training steps.

Nothing here needs the run's processes, its models or its inputs: a folder can be read while others are at work on it, or copied
and read elsewhere. A result is read from its file when it is asked for.

Refused: a folder whose ``run.json`` is damaged, of another kind, or of a later version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tl_entropy.errors import FileError, InputError, check_choice, counted
from tl_entropy.results.files import digest, parsed
from tl_entropy.results.loading import FOLDERS, load
from tl_entropy.results.printing import Printed

INDEX, KIND, SCHEMA = "run.json", "RunResults", 1


@dataclass(frozen=True)
class RunModel:
    """A model of a run.

    Attributes:
        label: what it is called: a name, with its revision, or a folder.
        step: the training step that its revision or folder is named after; None where none is.
        weights: a hash of all its weights; None where it could not be loaded.
        folder: where its results are.
        failed: analysis to why there is no result of it.
    """

    label: str
    step: int | None
    weights: str | None
    folder: Path
    failed: Mapping[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class RunResults(Printed):
    """What ``tle.run`` has found so far; ``tle.load(folder)`` gives it.

    Attributes:
        folder: the run's.
        analyses: names of what was asked of every model; a function that was asked for twice has a number.
        found: the models that were begun, by their names, in the order of their steps and names.

    >>> import tl_entropy as tle
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> bundled = str(Path(tle.__file__).parent / "demo" / "stdlib-gpt2-3m")
    >>> asked = {"models": bundled, "inputs": {"text": ["import os", "def f(x):"]}, "analyses": ["lens_entropy"]}
    >>> results = tle.run(Path(mkdtemp()) / "study", asked, progress=False)
    >>> results.models == (bundled,), results.analyses
    (True, ('lens_entropy',))
    >>> results.to_pandas()["documents"].unique().tolist()
    [2]
    """

    along = None

    folder: Path
    analyses: tuple[str, ...]
    found: Mapping[str, RunModel]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that were begun."""
        return tuple(self.found)

    @property
    def failed(self) -> dict[tuple[str, str], str]:
        """(model, analysis) to why there is no result."""
        return {(label, name): why for label, model in self.found.items() for name, why in model.failed.items()}

    @property
    def missing(self) -> tuple[tuple[str, str], ...]:
        """(model, analysis) of which there is no result yet, among the models that were begun."""
        return tuple((label, name) for label in self.found for name in self.analyses if not self._file(label, name).exists())

    @property
    def same_weights(self) -> tuple[tuple[str, ...], ...]:
        """Models whose weights are equal, bit for bit."""
        by_weights: dict[str, list[str]] = {}
        for label, model in self.found.items():
            if model.weights is not None:
                by_weights.setdefault(model.weights, []).append(label)
        return tuple(tuple(labels) for labels in by_weights.values() if len(labels) > 1)

    def result(self, model: str, analysis: str) -> Any:
        """The result of one analysis of one model.

        Raises:
            InputError: no such model or analysis, or no result of it yet.
        """
        check_choice("model", model, self.models)
        check_choice("analysis", analysis, self.analyses)
        path = self._file(model, analysis)
        if not path.exists():
            why = self.found[model].failed.get(analysis, "it is not done; the run's command goes on with it")
            raise InputError(f"analysis: there is no {analysis} of {model} in {self.folder}: {why}")
        return load(path)

    def trajectory(self, analysis: str, *, of: str | None = None) -> dict[int, Any]:
        """Training step to result, of all models that are named after one: what ``tle.plots.course`` draws.

        Args:
            analysis: its name.
            of: a part of the models' names, where there are several trainings.

        Raises:
            InputError: no result with a step, or two of one step.
        """
        check_choice("analysis", analysis, self.analyses)
        chosen: dict[int, str] = {}
        for label, model in self.found.items():
            if model.step is None or (of is not None and of not in label) or not self._file(label, analysis).exists():
                continue
            if model.step in chosen:
                raise InputError(
                    f"of: {chosen[model.step]} and {label} are both of step {model.step}; name one training by a part of its "
                    "name"
                )
            chosen[model.step] = label
        if not chosen:
            raise InputError(f"analysis: no {analysis} of a model that is named after a step, such as step1000")
        return {step: self.result(chosen[step], analysis) for step in sorted(chosen)}

    def to_pandas(self) -> pd.DataFrame:
        """Everything in one table: model, step, weights, analysis, and the columns of each result's summary.

        Of results that keep single positions these are means over them (``mean_profile``, ``rates``); what a kind of result has
        no column for is NaN.
        """
        frames = []
        for label, name in self._done():
            frame, model = summary(self.result(label, name)), self.found[label]
            about = {"model": label, "step": model.step, "weights": model.weights, "analysis": name}
            for i, (column, value) in enumerate(about.items()):
                frame.insert(i, column, pd.Series([value] * len(frame), dtype="Int64" if column == "step" else object))
            frames.append(frame)
        if not frames:
            return pd.DataFrame(columns=["model", "step", "weights", "analysis"])
        return pd.concat(frames, ignore_index=True)

    def _done(self) -> Iterator[tuple[str, str]]:
        return ((label, name) for label in self.found for name in self.analyses if self._file(label, name).exists())

    def _file(self, label: str, analysis: str) -> Path:
        return self.found[label].folder / f"{analysis.replace(' ', '-')}.safetensors"

    def _title(self) -> list[str]:
        done, asked = sum(1 for _ in self._done()), len(self.found) * len(self.analyses)
        return [f"RunResults: {done} of {counted(asked, 'result')} of {counted(len(self.found), 'model')} in {self.folder}"]

    def _table(self) -> pd.DataFrame | None:
        if not self.found:
            return None
        done = set(self._done())
        rows = [
            ["done" if (label, name) in done else "failed" if name in model.failed else "" for name in self.analyses]
            for label, model in self.found.items()
        ]
        return pd.DataFrame(rows, index=list(self.found), columns=list(self.analyses))

    def _notes(self) -> list[str]:
        equal = [f"equal weights: {', '.join(labels)}" for labels in self.same_weights]
        return [*equal, *(f"{name} of {label} failed: {why}" for (label, name), why in self.failed.items())]


def summary(result: Any) -> pd.DataFrame:
    """A result's table of means and errors: ``mean_profile`` or ``rates`` where single positions are kept."""
    for name in ("mean_profile", "rates"):
        if hasattr(result, name):
            return pd.DataFrame(getattr(result, name)())
    return pd.DataFrame(result.to_pandas())


def read_index(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says: of what kind and schema a folder is, and what was asked.

    Raises:
        FileError: it cannot be read, is of another kind, damaged, or of a later version.
    """
    path = folder / INDEX
    if not path.exists():
        raise FileError(f"path: {folder} holds no run, since it has no {INDEX}; give the folder of one")
    try:
        index = parsed(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileError(f"path: {path} cannot be read as the index of a run ({error}); it is damaged") from error
    if not isinstance(index, dict) or index.get("kind") != KIND:
        raise FileError(f"path: {path} is not the index of a run; give a folder that tl-entropy run wrote")
    schema, known = index.get("schema"), index.pop("digest", None)
    if type(schema) is int and schema > SCHEMA:
        raise FileError(f"path: {folder} has schema {schema}, this tl_entropy reads up to {SCHEMA}; upgrade tl_entropy")
    if known != digest(json.dumps(index, sort_keys=True), {}) or not isinstance(index.get("ask"), dict):
        raise FileError(f"path: {path} is damaged: its digest is not that of its contents")
    return index


def load_run(folder: Path) -> RunResults:
    """What a run's folder holds; what ``load`` does with it.

    Raises:
        FileError: its index cannot be read.
    """
    # ``plain`` has written the analyses as pairs of a name and what is asked.
    analyses = tuple(str(name) for name, _ in read_index(folder)["ask"]["analyses"]["$map"])
    models = [found for path in (folder / "models").glob("*/model.json") if (found := _model(path, analyses)) is not None]
    models.sort(key=lambda model: (model.step is None, model.step or 0, re.split(r"(\d+)", model.label)))
    return RunResults(folder, analyses, {model.label: model for model in models})


FOLDERS[INDEX] = load_run


def _model(path: Path, analyses: tuple[str, ...]) -> RunModel | None:
    try:
        told = parsed(path.read_text(encoding="utf-8"))
        label, step, weights = str(told["model"]), told["step"], told["weights"]
    except (ValueError, OSError, KeyError, TypeError):  # just being written, or damaged: the run writes it again
        return None
    failed = {}
    for name in analyses:
        place = path.parent / f"{name.replace(' ', '-')}.failed.json"
        if (path.parent / f"{name.replace(' ', '-')}.safetensors").exists():
            continue
        try:
            failed[name] = str(parsed(place.read_text(encoding="utf-8"))["error"])
        except (ValueError, OSError, KeyError, TypeError):
            continue
    return RunModel(
        label, step if isinstance(step, int) else None, weights if isinstance(weights, str) else None, path.parent, failed
    )
