"""The folder of a run: which file is where, and how what was asked is held against what is asked now.

    run.json                                  what was asked, with kind and schema; written once
    inputs.json, inputs.hashes                how many documents there are, a hash over them, and one of each (8 bytes)
    workers/N.json, N.status.json             who is at work: a heartbeat, and how far it is
    models/MODEL/model.json                   name, step, weights, and hashes of some documents' tokens
    models/MODEL/tokens.txt                   for each unit, a hash of the tokens of all its documents
    models/MODEL/ANALYSIS.safetensors         a result
    models/MODEL/ANALYSIS.assignments/        soft assignments, where it keeps them
    models/MODEL/ANALYSIS.failed.json         why there is none
    work/MODEL/ANALYSIS/                      what is made once for all (a label plan), until the result is there
    work/MODEL/ANALYSIS/pass-P/               claims of units and states of workers, likewise
    damaged/                                  files that could not be read

Every file is written under another name and renamed, so a reader finds it whole or not at all.

Refused: a folder with files of others; one of another ask, by what differs; one of a later version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tl_entropy.errors import FileError, InputError, SaveError, warn
from tl_entropy.results.files import check_folder, digest, parsed, to_read, write_text
from tl_entropy.results.models.run import INDEX, KIND, SCHEMA, read_index
from tl_entropy.results.provenance import library_versions
from tl_entropy.runs.ask import Ask, differences

FOLDERS = ("workers", "models", "work", "damaged")


class RunFolder:
    """A run's folder, by what is in it.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = to_read("folder", path)

    def open(self, ask: Ask) -> None:
        """Write down what is asked, or hold it against what was asked before.

        Raises:
            InputError: something else was asked in this folder.
            FileError: files of others, a damaged ``run.json``, or one of a later version.
            SaveError: the folder cannot be written to.
        """
        check_folder("folder", self.path)
        asked = ask.written()
        index = self.path / INDEX
        if not index.exists():
            self._check_own()
            content = {"kind": KIND, "schema": SCHEMA, "ask": asked, "versions": library_versions()}
            content["digest"] = digest(json.dumps(content, sort_keys=True), {})
            write_json(index, content)
            for name in FOLDERS:
                (self.path / name).mkdir(exist_ok=True)
        there = read_index(self.path)
        self._check_versions(there.get("versions", {}))
        if found := differences(asked, there["ask"]):
            raise InputError(
                f"folder: {self.path} holds a run that was asked for something else: {'; '.join(found)}; give the same "
                "configuration, or another folder"
            )

    def _check_versions(self, before: Mapping[str, str]) -> None:
        """Warn where a run goes on with other versions of what its numbers depend on, since it mixes those of both."""
        now = library_versions()
        if changed := [f"{name} {before[name]}, now {now.get(name)}" for name in before if before[name] != now.get(name)]:
            warn(
                f"the run in {self.path} began with {'; '.join(changed)}: numbers of both are added up; for those of one, give "
                "all processes the same, or another folder"
            )

    def _check_own(self) -> None:
        """Raise FileError where there are files that no run wrote; what a run that was killed at once left is none."""
        own = re.compile(rf"\.{re.escape(INDEX)}\..*\.tmp|{'|'.join(FOLDERS)}")
        foreign = [] if not self.path.exists() else sorted(p.name for p in self.path.iterdir() if not own.fullmatch(p.name))
        if foreign and not (self.path / INDEX).exists():  # which another process may have written by now
            shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            raise FileError(
                f"folder: {self.path} holds files that are not a run's ({shown}), and no {INDEX}; give an empty or a new folder"
            )

    @property
    def workers(self) -> Path:
        """The folder of those at work."""
        return self.path / "workers"

    def model(self, stem: str) -> Path:
        """The folder of a model's results."""
        return self.path / "models" / stem

    def result(self, stem: str, analysis: str) -> Path:
        """The file of a result."""
        return self.model(stem) / f"{file_name(analysis)}.safetensors"

    def assignments(self, stem: str, analysis: str) -> Path:
        """The folder of the soft assignments that an analysis keeps."""
        return self.model(stem) / f"{file_name(analysis)}.assignments"

    def failure(self, stem: str, analysis: str) -> Path:
        """The file that says why there is no result."""
        return self.model(stem) / f"{file_name(analysis)}.failed.json"

    def work(self, stem: str, analysis: str) -> Path:
        """The folder of what is not done yet."""
        return self.path / "work" / stem / file_name(analysis)

    def clear(self, stem: str, analysis: str) -> None:
        """Remove the work behind a result that is there."""
        shutil.rmtree(self.work(stem, analysis), ignore_errors=True)
        with suppress(OSError):
            self.work(stem, analysis).parent.rmdir()
        self.failure(stem, analysis).unlink(missing_ok=True)

    def put_aside(self, path: Path) -> Path:
        """Move a damaged file to where it disturbs nobody, and say where it is now."""
        parts = path.relative_to(self.path).parts
        (self.path / "damaged").mkdir(exist_ok=True)
        for i in range(1000):
            target = self.path / "damaged" / ("+".join(parts) + (f".{i}" if i else ""))
            if not target.exists():
                with suppress(FileNotFoundError):  # somebody else was first
                    path.replace(target)
                return target
        raise FileError(f"folder: {self.path / 'damaged'} holds a thousand files of one name; the disk needs looking at")

    def kept(self, path: Path) -> dict[str, Any] | None:
        """What a small file holds that is written once; None where there is none, or it is damaged: then it is put aside."""
        found = read_json(path)
        if found is None and path.exists() and (found := read_json(path)) is None:
            warn(f"{path} cannot be read and is now {self.put_aside(path)}")
        return found


def file_name(analysis: str) -> str:
    """The name of an analysis as a part of a file's."""
    return analysis.replace(" ", "-")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small file, whole or not at all.

    Raises:
        SaveError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def read_json(path: Path) -> dict[str, Any] | None:
    """What a small file holds; None where it is not there, or not whole."""
    try:
        found = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def create(path: Path, content: Mapping[str, Any]) -> bool:
    """Write a small file that is not there yet; False where somebody else was first.

    Raises:
        SaveError: it cannot be written.
    """
    if path.exists():
        return False
    waiting = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting.write_text(json.dumps(content), encoding="utf-8")
        try:
            os.link(waiting, path)  # whole at once, and refused where there is one
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(content))
    except FileExistsError:
        return False
    except OSError as error:
        raise SaveError(f"folder: {path} cannot be written ({error})") from error
    finally:
        with suppress(OSError):
            waiting.unlink(missing_ok=True)
    return True
