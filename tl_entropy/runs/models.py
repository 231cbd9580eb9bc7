"""The models of a run: names with revisions, folders and patterns in a configuration, and how one is loaded and let go.

A pattern of folders (``checkpoints/step_*``) or of revisions (``step*``) stands for what there is when a process starts, so
that checkpoints that come later join the run. The training step is read off a revision's or a folder's name.

Refused: patterns that nothing fits, folders in which no model lies, two models of one name.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tl_entropy.capture.loading import available_kinds, load_model
from tl_entropy.capture.loading.source import Source
from tl_entropy.errors import InputError, InputTypeError, ModelError, check_choice, check_flag

DTYPES = ("float32", "float64", "bfloat16", "float16")
_KEYS = ("name", "revision", "revisions", "kind", "device", "dtype", "trust_remote_code")
_STEP = re.compile(r"(?:step|checkpoint|ckpt|iter)[-_]?(\d+)", re.IGNORECASE)
_PATTERN = re.compile(r"[*?\[]")
_LOCAL = (".", "/", "~")
_NOT_FETCHED = ("*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.tflite", "*.ot", "onnx/*", "original/*", "optimizer*", "*.md")


@dataclass(frozen=True)
class Checkpoint:
    """One model of a run.

    Attributes:
        name: a name on the hub, a folder or a file.
        revision: of a name on the hub; None for its main one.
        options: kind, device, dtype and trust_remote_code, as ``load_model`` takes them, but for the dtype's name.
    """

    name: str
    revision: str | None
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What the model is called in results."""
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def step(self) -> int | None:
        """The training step that the revision or the folder is named after; None where none is.

        >>> Checkpoint("EleutherAI/pythia-70m", "step1000", {}).step, Checkpoint("runs/checkpoint-20", None, {}).step
        (1000, 20)
        """
        found = _STEP.findall(self.revision or Path(self.name).name)
        return int(found[-1]) if found else None

    @property
    def stem(self) -> str:
        """The name of the model's folder in a run's.

        >>> Checkpoint("EleutherAI/pythia-70m", "step1000", {}).stem
        'EleutherAI_pythia-70m@step1000'
        """
        return re.sub(r"[^A-Za-z0-9.@+-]+", "_", self.label).strip("._") or "model"

    def load(self) -> Any:
        """The model, on the device that is this process's; what is not on the disk is downloaded.

        Raises:
            InputError, ModelError: as ``load_model``, or a revision that cannot be had.
        """
        options = {name: value for name, value in self.options.items() if name != "dtype"}
        options.setdefault("device", own_device())
        place = self.name if self.revision is None else _snapshot(self.name, self.revision)
        model = load_model(place, dtype=getattr(torch, self.options.get("dtype", "float32")), **options)
        model.cfg.model_name = self.label
        return model

    def evict(self) -> int:
        """Remove the model's download from Hugging Face's cache, and say how many bytes that freed; folders stay."""
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        if Path(self.name).expanduser().exists():
            return 0
        try:
            cache = scan_cache_dir()
        except CacheNotFound:
            return 0
        commits = [
            revision.commit_hash
            for repo in cache.repos
            if repo.repo_id == self.name and repo.repo_type == "model"
            for revision in repo.revisions
            if (self.revision or "main") in (*revision.refs, revision.commit_hash)
        ]
        if not commits:
            return 0
        strategy = cache.delete_revisions(*commits)
        strategy.execute()
        return int(strategy.expected_freed_size)


def check_model(key: str, given: Any) -> None:
    """Raise InputError or InputTypeError unless this names one model, or several, as far as that shows without loading them.

    >>> check_model("models[0]", {"name": "gpt2", "dtype": "int8"})
    Traceback (most recent call last):
    tl_entropy.errors.InputError: models[0].dtype must be one of 'float32', 'float64', 'bfloat16', 'float16'; got 'int8'
    """
    if not isinstance(given, str | Mapping):
        raise InputTypeError(f"{key} must be a model's name or folder, or a mapping with a name; got {given!r}")
    item = {"name": given} if isinstance(given, str) else given
    for name in item:
        if name not in _KEYS:
            raise InputError(f"{key}.{name} is no key of a model; choose from {', '.join(_KEYS)}")
    if not isinstance(item.get("name"), str) or not item["name"]:
        raise InputTypeError(f"{key}.name must be a model's name or folder; got {item.get('name')!r}")
    revisions = _revisions(item)
    if not all(isinstance(revision, str) and revision for revision in revisions if revision is not None) or not revisions:
        raise InputTypeError(
            f"{key}.revisions must be a text or a list of texts; got {item.get('revisions', item.get('revision'))!r}"
        )
    if "kind" in item:
        check_choice(f"{key}.kind", item["kind"], available_kinds())
    if "dtype" in item:
        check_choice(f"{key}.dtype", item["dtype"], DTYPES)
    if "trust_remote_code" in item:
        check_flag(f"{key}.trust_remote_code", item["trust_remote_code"])
    local = item["name"].startswith(_LOCAL) or Path(item["name"]).exists()
    if local and revisions != [None]:
        raise InputError(f"{key}.revisions belong to names on the hub, and {item['name']} is a folder; leave them out")
    if _PATTERN.search(item["name"]):
        if not _fitting(item["name"]):
            raise InputError(f"{key}: no folder fits the pattern {item['name']!r}; give one that does, or names")
    elif local:
        try:
            Source.of(item["name"], device=torch.device("cpu"), dtype=torch.float32, trust_remote_code=False, check=False)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error


def checkpoints(models: tuple[Any, ...], *, network: bool = True) -> list[Checkpoint]:
    """The models that a checked configuration stands for now.

    Args:
        models: as they were given.
        network: whether the hub may be asked which revisions fit a pattern.

    Raises:
        InputError: two of one name, or a pattern of revisions that nothing fits, or that cannot be looked up.
    """
    found = [one for given in models for one in _meant({"name": given} if isinstance(given, str) else given, network)]
    seen: dict[str, str] = {}
    for one in found:
        if one.stem in seen:
            raise InputError(f"models: {one.label!r} and {seen[one.stem]!r} have one name in the folder; name each model once")
        seen[one.stem] = one.label
    return found


def _meant(item: Mapping[str, Any], network: bool) -> Iterator[Checkpoint]:
    options = {name: item[name] for name in ("kind", "device", "dtype", "trust_remote_code") if name in item}
    names = _fitting(item["name"]) if _PATTERN.search(item["name"]) else [item["name"]]
    for name in names:
        for revision in _revisions(item):
            fitting = _named_like(name, revision, network) if revision is not None and _PATTERN.search(revision) else [revision]
            yield from (Checkpoint(name, one, options) for one in fitting)


def _revisions(item: Mapping[str, Any]) -> list[Any]:
    given = item.get("revisions", item.get("revision"))
    return list(given) if isinstance(given, list | tuple) else [given]


def _fitting(pattern: str) -> list[str]:
    """The folders and GGUF files that a pattern fits, in the order of the numbers in their names."""
    import glob

    found = glob.glob(os.path.expanduser(pattern))
    return sorted((p for p in found if Path(p).is_dir() or p.lower().endswith(".gguf")), key=_numbered)


def _named_like(name: str, pattern: str, network: bool) -> list[str]:
    """The revisions on the hub that a pattern fits, in the order of the numbers in their names."""
    from huggingface_hub import list_repo_refs

    try:
        refs = list_repo_refs(name) if network else None
    except Exception as error:  # of the hub, or of the network below it
        raise InputError(f"models: the revisions of {name} cannot be looked up ({error}); name them one by one") from error
    if refs is None:
        raise InputError(f"models: the revisions of {name} that fit {pattern!r} are told by the hub alone")
    found = {ref.name for ref in (*refs.branches, *refs.tags) if fnmatch.fnmatch(ref.name, pattern)}
    if not found:
        raise InputError(f"models: {name} has no revision that fits {pattern!r}; give one that does, or their names")
    return sorted(found, key=_numbered)


def _numbered(name: str) -> list[Any]:
    """A key by which names follow each other as their numbers do."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _snapshot(name: str, revision: str) -> Path:
    """The folder in Hugging Face's cache in which a revision lies, downloaded where it is not there."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(name, revision=revision)
        doubled = ["*.bin", "*.pt", "*.pth"] if any(file.endswith(".safetensors") for file in files) else []
        return Path(snapshot_download(name, revision=revision, ignore_patterns=[*_NOT_FETCHED, *doubled]))
    except Exception as error:  # of the hub, or of the network below it: what was downloaded before will do
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True))
        except OSError:
            raise ModelError(
                f"model: {name} cannot be had at revision {revision!r} ({error}); look at its name and revisions"
            ) from error


def own_device() -> str | None:
    """The device of this process among several of one machine (LOCAL_RANK); None where it is alone, or there is no GPU."""
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    if not rank.isdecimal() or not torch.cuda.is_available():
        return None
    return f"cuda:{int(rank) % torch.cuda.device_count()}"
