"""How a run is getting on, from its folder alone: nothing of it has to run, and nothing is changed.

Units are counted where work is under way; a job whose result is there needs none. What the processes at work last said of
themselves gives tokens a second and memory; the time left is that of the documents that are left in all jobs, at the speed at
which those at work have read since they began.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tl_entropy.errors import TLEntropyError
from tl_entropy.results.files import unplain
from tl_entropy.results.models.run import load_run, read_index, summary
from tl_entropy.runs import states
from tl_entropy.runs.folder import RunFolder, read_json
from tl_entropy.runs.models import Checkpoint, checkpoints
from tl_entropy.runs.sharing import claims
from tl_entropy.runs.work import Work
from tl_entropy.runs.workers import alive


@dataclass(frozen=True)
class Job:
    """One analysis of one model.

    Attributes:
        model: its name.
        analysis: its name.
        state: "done", "failed", "begun" or "open".
        units: how many units there are, are done, and are claimed by processes at work.
        documents: how many documents are held, in states or in the result.
        why: of one that failed, its error.
    """

    model: str
    analysis: str
    state: str
    units: tuple[int, int, int]
    documents: int
    why: str = ""


@dataclass(frozen=True)
class Status:
    """What ``tl-entropy status`` tells.

    Attributes:
        jobs: every analysis of every model.
        documents: documents of the inputs; 0 where nobody has counted them yet.
        workers: what those at work last said: worker, model, analysis, tokens, seconds, memory, ...
        seconds_left: None where nothing shows it.
    """

    jobs: tuple[Job, ...]
    documents: int
    workers: tuple[dict[str, Any], ...]
    seconds_left: float | None

    def count(self, state: str) -> int:
        """How many jobs are in a state."""
        return sum(job.state == state for job in self.jobs)


def status_of(path: str | Path) -> Status:
    """How the run in a folder is getting on.

    Raises:
        FileError: no run's folder, or one that is damaged or of a later version.
    """
    folder = RunFolder(path)
    ask = unplain(read_index(folder.path)["ask"])
    now = time.time()
    documents = int((read_json(folder.path / "inputs.json") or {}).get("documents", 0))
    jobs = [
        _job(folder, model, name, documents, ask["unit_documents"], now)
        for model in _models(folder, ask)
        for name in ask["analyses"]
    ]
    workers = tuple(_workers(folder, now))
    return Status(tuple(jobs), documents, workers, _left(jobs, documents, workers))


def estimates(
    path: str | Path, told: Callable[[str], None] = lambda line: None, *, most: float = math.inf
) -> dict[tuple[str, str], Any]:
    """(model, analysis) to the result of what has been read so far, of work that is under way; no model is loaded.

    Args:
        path: the run's folder.
        told: called with why something cannot be had.
        most: bytes of states of one analysis that are read; where there are more, that is told instead.
    """
    folder = RunFolder(path)
    ask = unplain(read_index(folder.path)["ask"])
    documents = int((read_json(folder.path / "inputs.json") or {}).get("documents", 0))
    found: dict[tuple[str, str], Any] = {}
    for model in _models(folder, ask):
        for name in ask["analyses"]:
            held = Work(folder, model.stem, name, documents, ask["unit_documents"]).held()
            if folder.result(model.stem, name).exists() or not held:
                continue
            size = sum(state.stat().st_size for state in held)
            if size > most:
                told(f"{name} of {model.label}: states of {size / 2**20:,.0f} MB are not read; --estimates reads them")
                continue
            try:
                found[model.label, name] = states.computed(list(held))
            except TLEntropyError as error:  # too little for a result, or a damaged file
                told(f"no {name} of {model.label} yet: {error}")
    return found


def table(results: dict[tuple[str, str], Any]) -> pd.DataFrame:
    """Results by (model, analysis) as one table of their summaries."""
    frames = []
    for (model, analysis), result in results.items():
        frame = summary(result)
        frame.insert(0, "model", model)
        frame.insert(1, "analysis", analysis)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["model", "analysis"])


def _models(folder: RunFolder, ask: Any) -> list[Checkpoint]:
    """The models that were asked for, or, where their folders are not on this machine, those that were begun."""
    try:
        return checkpoints(tuple(ask["models"]), network=False)
    except TLEntropyError:
        return [Checkpoint(label, None, {}) for label in load_run(folder.path).models]


def _job(folder: RunFolder, model: Checkpoint, name: str, documents: int, size: int, now: float) -> Job:
    total = math.ceil(documents / size)
    if folder.result(model.stem, name).exists():
        return Job(model.label, name, "done", (total, total, 0), documents)
    work = Work(folder, model.stem, name, documents, size)
    held = sum(stop - first for intervals in work.held().values() for first, stop in intervals)
    done = work.done()
    busy = sum(not done[i] for i, path in claims(work.place).items() if i < len(done) and _is_busy(folder, path, now))
    units = (total, sum(done), busy)
    failed = read_json(folder.failure(model.stem, name))
    if failed is not None:
        return Job(model.label, name, "failed", units, held, str(failed.get("error", "")))
    return Job(model.label, name, "begun" if held or busy else "open", units, held)


def _is_busy(folder: RunFolder, path: Path, now: float) -> bool:
    """Whether who claimed a unit is at work."""
    claimed = read_json(path) or {}
    holder = folder.workers / f"{claimed.get('worker')}.json"
    told = read_json(holder)
    return told is not None and told.get("owner") == claimed.get("owner") and alive(told, holder, now)


def _workers(folder: RunFolder, now: float) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.workers.glob("*.status.json")):
        holder = path.with_name(path.name.replace(".status", ""))
        told, said = read_json(holder), read_json(path)
        if told is not None and said is not None and alive(told, holder, now):
            found.append(said | {"host": told.get("host"), "process": told.get("process")})
    return found


def _left(jobs: list[Job], documents: int, workers: tuple[dict[str, Any], ...]) -> float | None:
    """Seconds until all is done, at the rate at which those at work have read documents since they began."""
    left = sum(documents - job.documents for job in jobs if job.state in ("begun", "open"))
    spent = [(one.get("documents", 0), one["time"] - one["began"]) for one in workers]
    rate = sum(done / seconds for done, seconds in spent if seconds > 0)
    return left / rate if rate else None if left else 0.0
