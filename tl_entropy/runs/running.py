"""A run: every analysis of every model on the same documents, by any number of processes, each of which may end at any time.

A process goes through what is not done, first where fewest are at work, and leaves to others what they have claimed. When
nothing is left to begin it waits for what others hold, and takes over what nobody does any more. A model or an analysis that
fails is written down with its error, and the others go on; the same command tries it again.

Refused: a folder of another run; inputs that are not what they were; weights that are not those that the folder has under a
model's name, or a tokenizer that makes other tokens than the model had when the run began.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
import traceback
from array import array
from collections.abc import Iterator, Mapping, Sequence
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

import torch

from tl_entropy.analyses.sharing import alone, shared
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.digests import whole_digest
from tl_entropy.capture.origin import fingerprint
from tl_entropy.capture.report import StreamReport
from tl_entropy.errors import Elsewhere, InputError, ModelError, SaveError, check_flag, warn
from tl_entropy.results.files import replacing
from tl_entropy.results.models.run import RunResults, load_run, summary
from tl_entropy.runs.analyses import ANALYSES, PARTLY, called
from tl_entropy.runs.ask import Ask
from tl_entropy.runs.ends import Ends, Stopped, signals
from tl_entropy.runs.folder import RunFolder, read_json, write_json
from tl_entropy.runs.inputs import Documents, check_outside
from tl_entropy.runs.models import Checkpoint, checkpoints
from tl_entropy.runs.sharing import FolderSharing
from tl_entropy.runs.work import Work
from tl_entropy.runs.workers import Worker, alive, memory
from tl_entropy.torch_state import steady

POLL = 2.0
"""Seconds between two looks at what others hold."""
TELL = 5.0
"""Seconds between two lines in a worker's status file, at least."""


@steady
def run(folder: str | Path, config: Mapping[str, Any] | str | Path, *, progress: bool = True) -> RunResults:
    """Every analysis of every model that a configuration names, in a folder; begun, or gone on with.

    The same call goes on where an earlier one ended, whatever ended it: there is nothing to say about resuming. Any number of
    processes may be given the same folder, at once or one after the other (``torchrun``, an array of Slurm jobs, several
    shells); none has to know of another. The numbers are those of one process that was left alone: counts are equal, and values
    to 1e-10.

    Args:
        folder: where everything is kept; made where it is not there.
        config: a YAML file, or the same as a dict. ``models``: names on the hub (``{name: ..., revisions: [...]}``), folders,
            or patterns of either. ``inputs``: ``text``, ``file`` (with ``lines: true`` a document a line) or ``dataset`` (with
            config, split, column, limit). ``analyses``: names of functions, each alone or with its options. ``unit_documents``:
            documents that a process takes at a time (500). ``save_every``: seconds from save to save within a unit (300).
            ``stop_when``: analysis to a standard error, in nats where it has that unit, below which it ends. ``evict``: remove
            each model's download when it is measured.
        progress: show a progress bar.

    Returns:
        What is there: ``to_pandas()`` is one table, ``trajectory(analysis)`` a course over training steps, ``failed`` what
        failed and why.

    Raises:
        InputError, InputTypeError: a key of the configuration that cannot be done; another run in the folder, by what differs;
            inputs that have changed.
        FileError: files of others in the folder, or one that is damaged or of a later version.
        SaveError: the disk has no room, or the folder cannot be written to. What was saved before stays.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after what was read has been saved.

    >>> import tl_entropy as tle
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> bundled = str(Path(tle.__file__).parent / "demo" / "stdlib-gpt2-3m")
    >>> analyses = [{"lens_entropy": {"layers": 0}}]
    >>> asked = {"models": bundled, "inputs": {"text": ["import os", "def f(x):"]}, "analyses": analyses}
    >>> folder = Path(mkdtemp()) / "study"
    >>> tle.run(folder, asked, progress=False).result(bundled, "lens_entropy").n_tokens
    7
    >>> tle.run(folder, {**asked, "unit_documents": 7}, progress=False)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tl_entropy.errors.InputError: folder: ... was asked for something else: unit_documents: 500 in the folder, now 7; give ...
    """
    check_flag("progress", progress)
    ask = Ask.of(config)
    there = RunFolder(folder)
    check_outside(ask.inputs, there.path)
    there.open(ask)
    models = checkpoints(ask.models)
    documents = _the_same(there, Documents.of(ask.inputs))
    ends = Ends()
    try:
        # Alone, since those that torchrun has started together need not wait for each other.
        with Worker(there.workers) as worker, signals(ends), alone():
            _Process(there, ask, models, documents, worker, ends, progress=progress and _shows()).work()
    except Stopped as stopped:
        raise KeyboardInterrupt(str(stopped)) from None
    return load_run(there.path)


def _the_same(folder: RunFolder, documents: Documents) -> Documents:
    """The documents, which are those with which the run began.

    Raises:
        InputError: they are not.
    """
    path, hashes = folder.path / "inputs.json", folder.path / "inputs.hashes"
    now = {"documents": documents.count, "digest": documents.digest}
    before = array("Q", hashes.read_bytes()) if hashes.exists() else array("Q")
    there = folder.kept(path)
    if there is None and (not before or before == documents.hashes):
        with replacing(hashes, 8 * documents.count) as waiting:
            waiting.write_bytes(documents.hashes.tobytes())
        write_json(path, now)
    elif there != now:
        changed = next((i for i, pair in enumerate(zip(before, documents.hashes, strict=False)) if pair[0] != pair[1]), None)
        count = len(before) if there is None else there.get("documents")
        how = f"{count} documents, now {documents.count}" if count != documents.count else "texts"
        which = "" if changed is None else f"; document {changed} is the first that differs"
        raise InputError(f"inputs are not those with which this run began ({how}{which}); restore them, or give another folder")
    return documents


class _Process:
    """What one process does of a run."""

    def __init__(
        self, folder: RunFolder, ask: Ask, models: Sequence[Checkpoint], documents: Documents, worker: Worker, ends: Ends, *,
        progress: bool,
    ) -> None:  # fmt: skip
        self.folder, self.ask, self.models, self.documents, self.worker = folder, ask, models, documents, worker
        self.ends, self.progress = ends, progress
        self.began, self.told_at = time.time(), 0.0
        self.since = worker.now()  # as others tell the time, whatever the clock here says
        self.read, self.unit = (0, 0), (0, 0)  # tokens and documents: in all, and in the unit under way
        self.failed: set[Path] = set()  # what failed here
        self.loaded = False  # whether a model was loaded before

    def work(self) -> None:
        """Go through everything; then wait for what others hold, and take over what nobody does."""
        for model in self._in_turn():
            self._measure(model)
        while waiting := [model for model in self.models if self._open(model)]:
            free = [model for model in waiting if self._free(model)]
            if free:
                self._measure(free[0])
            if not free or self._open(free[0]):
                time.sleep(POLL)
        for model in self.models:  # what was still being written as somebody cleared it away
            for name in self.ask.analyses:
                if self.folder.result(model.stem, name).exists():
                    self.folder.clear(model.stem, name)

    def _in_turn(self) -> Iterator[Checkpoint]:
        """Models that are not done, each once: first those at which the fewest are at work."""
        left = list(self.models)
        while left := [model for model in left if self._open(model)]:
            busy = [read_json(path) or {} for path in self.folder.workers.glob("*.status.json") if self._is_alive(path)]
            at = [told.get("model") for told in busy]
            chosen = min(left, key=lambda model: at.count(model.label))
            left.remove(chosen)
            yield chosen

    def _is_alive(self, status: Path) -> bool:
        path = status.with_name(status.name.replace(".status", ""))
        told = read_json(path)
        return told is not None and told.get("owner") != self.worker.owner and alive(told, path, self.worker.now())

    def _open(self, model: Checkpoint) -> list[str]:
        """Analyses of a model that have neither a result nor failed since this process began."""
        return [
            name
            for name in self.ask.analyses
            if not self.folder.result(model.stem, name).exists() and not self._has_failed(self.folder.failure(model.stem, name))
        ]

    def _has_failed(self, path: Path) -> bool:
        """Whether an analysis failed since this process began; what failed before is tried once more."""
        return path in self.failed or (read_json(path) or {}).get("time", 0.0) >= self.since

    def _free(self, model: Checkpoint) -> list[str]:
        """Of these, the analyses that have something to do which nobody does."""
        size = self.ask.unit_documents
        return [
            name
            for name in self._open(model)
            if Work(self.folder, model.stem, name, self.documents.count, size).is_free(self.worker)
        ]

    def _measure(self, checkpoint: Checkpoint) -> None:
        """All analyses of a model that are open."""
        names = self._free(checkpoint)
        if not names:
            return
        self._tell(checkpoint, "", force=True)
        try:
            model = self._load(checkpoint)
        except Exception as error:  # whatever a library raises of a model that cannot be loaded: the others go on
            if _is_full(error):
                raise
            for name in names:
                self._failed(checkpoint, name, error)
            return
        for name in names:
            try:
                self._analyse(checkpoint, model, name)
            except Stopped:
                raise
            except Elsewhere:
                continue
            except Exception as error:  # what one model cannot do is no reason to stop the others
                if _is_full(error):
                    raise
                self._failed(checkpoint, name, error)
        del model
        if self.ask.evict and not self._open(checkpoint):
            checkpoint.evict()

    def _load(self, checkpoint: Checkpoint) -> Any:
        """The model, whose weights are those that the folder has under its name."""
        if self.loaded:
            gc.collect()  # hooks and modules of the model before hold each other, and this one needs the room
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.loaded = True
        path = self.folder.model(checkpoint.stem) / "model.json"
        about = {"model": checkpoint.label, "step": checkpoint.step, "weights": None}
        there = self.folder.kept(path)
        if there is None:
            write_json(path, about)
        model = checkpoint.load()
        weights = fingerprint(model, whole_digest).hash
        known = (there or {}).get("weights")
        if known not in (None, weights):
            raise ModelError(
                f"model: {checkpoint.label} has other weights ({weights}) than this folder has under its name ({known}); "
                "restore them, or give another folder"
            )
        adapter = Adapter(model)  # one for all analyses, which proves once how the model is read
        tokens = self.documents.tokens(adapter.encode)
        before = (there or {}).get("tokens") or tokens
        if changed := [number for number in before if before[number] != tokens.get(number)]:
            raise ModelError(
                f"model: {checkpoint.label} makes other tokens of document {changed[0]} than when this run began; restore its "
                "tokenizer, or give another folder"
            )
        if known is None:
            write_json(path, about | {"weights": weights, "tokens": tokens})
        return adapter

    def _analyse(self, checkpoint: Checkpoint, model: Any, name: str) -> None:
        """One analysis of one model, as far as others leave it to this process; its result is written."""
        function, options = self.ask.analyses[name]
        target = self.folder.result(checkpoint.stem, name)
        tokens = self.folder.model(checkpoint.stem) / "tokens.txt"
        bound = self.ask.stop_when.get(name)
        sharing = FolderSharing(
            folder=self.folder,
            place=self.folder.work(checkpoint.stem, name),
            result=target,
            worker=self.worker,
            unit_documents=self.ask.unit_documents,
            save_every=self.ask.save_every,
            ends=self.ends,
            told=lambda report: self._tell(checkpoint, name, report),
            unchanged=self.documents.check_unchanged,
            same_tokens=lambda unit, digest: None if function in PARTLY else same_tokens(tokens, unit, digest),
            is_enough=None if bound is None else lambda accumulators: standard_error(accumulators[0].compute()) < bound,
        )
        given = called(function, options)
        with shared(sharing):
            if given.get("keep") in ("assignments", "auto"):
                folder = given["folder"] = self.folder.assignments(checkpoint.stem, name)
                sharing.once("room for assignments", lambda: shutil.rmtree(folder, ignore_errors=True))  # of a lost result
            result = ANALYSES[function](model, self.documents.inputs, progress=self.progress, **given)
        result.save(target)
        self.folder.clear(checkpoint.stem, name)

    def _failed(self, checkpoint: Checkpoint, name: str, error: Exception) -> None:
        if self.folder.result(checkpoint.stem, name).exists():  # another process has it, and cleared away what it was made of
            return
        path = self.folder.failure(checkpoint.stem, name)
        self.failed.add(path)
        self.worker.release(self.folder.work(checkpoint.stem, name))
        told = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        write_json(path, {"error": told, "traceback": trace, "worker": self.worker.number, "time": self.worker.now()})
        warn(f"{name} of {checkpoint.label} failed, and the run goes on without it: {told}")

    def _tell(self, checkpoint: Checkpoint, name: str, report: StreamReport | None = None, *, force: bool = False) -> None:
        """Say in the worker's status file how far it is, now and then."""
        now = time.time()
        speed = 0.0
        if report is not None:
            here = (report.tokens, sum(stop - first for first, stop in report.held))
            before = self.unit if here[1] >= self.unit[1] else (0, 0)
            self.read = (self.read[0] + here[0] - before[0], self.read[1] + here[1] - before[1])
            self.unit, speed = here, report.tokens / max(report.seconds, 1e-9)
        if not force and now - self.told_at < TELL:
            return
        self.told_at = now
        self.worker.tell(
            {
                "model": checkpoint.label, "analysis": name, "began": self.began, "time": now, "memory": memory(),
                "tokens": self.read[0], "documents": self.read[1], "tokens_a_second": speed,
            }
        )  # fmt: skip


def same_tokens(path: Path, unit: range, digest: int) -> None:
    """Hold a hash of the tokens of a unit's documents against what was read of them before; write it down where nothing was.

    A line each is added to the file, so that processes need not wait for each other; one that was cut off says nothing.

    Raises:
        ModelError: they were others.
    """
    told = f"{unit.start} {unit.stop}"
    before = [line.rpartition(" ") for line in (path.read_text().splitlines() if path.exists() else [])]
    known = [found for of, _, found in before if of == told and len(found) == len(f"{0:016x}")]
    if any(found != f"{digest:016x}" for found in known):
        raise ModelError(
            f"model: its tokenizer makes other tokens of the documents {unit.start} to {unit.stop - 1} than when another "
            "analysis or process read them; give all processes the same tokenizer, or another folder"
        )
    if not known:
        try:
            with path.open("a") as file:
                file.write(f"{told} {digest:016x}\n")
        except OSError as error:
            raise SaveError(f"folder: {path} cannot be written ({error})") from error


def standard_error(result: Any) -> float:
    """The largest standard error in a result's summary; infinite where it has none yet.

    >>> import tl_entropy as tle
    >>> result = tle.lens_entropy(tle.demo_model(), ["import os", "def f(x):"], layers=0, progress=False)
    >>> standard_error(result) == float(result.mean_profile()["se"].max())
    True
    """
    frame = summary(result)
    columns = [name for name in frame.columns if name == "se"] or [name for name in frame.columns if name.endswith("_se")]
    found = frame[columns].to_numpy().max() if columns and len(frame) else float("inf")
    return float(found) if found == found else float("inf")


def _is_full(error: Exception) -> bool:
    """Whether it says that the disk has no room, which is no fault of a model."""
    return isinstance(error, SaveError) or (isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EFBIG))


def _shows() -> bool:
    """Whether this process shows a bar a unit: the first of those that were started together, and not in a log."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return seen and os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
