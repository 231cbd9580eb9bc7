"""Results out of their files. Every kind makes itself known when its module is imported, so this file knows none of them.

Refused: a file or folder that tl_entropy did not write, one that is damaged, one of a later version.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tl_entropy.errors import FileError
from tl_entropy.results.base import Result
from tl_entropy.results.files import SCHEMA, unplain
from tl_entropy.torch_state import steady

FOLDERS: dict[str, Callable[[Path], Any]] = {}
"""What reads a folder of results, by the name of the file in it that says which is which; kinds enter themselves here."""


@steady
def load(path: str | Path) -> Any:
    """The result that ``result.save(path)`` wrote: of a file, or the comparison of models in a folder.

    Raises:
        FileError: no such file, not a file of tl_entropy, damaged, or written by a later version.
    """
    source = Path(path)
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise FileError(f"path: there is no file {source}")
    try:
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
            if "tl_entropy" not in metadata:
                raise FileError(f"path: {source} is a safetensors file, but not one that tl_entropy wrote")
            whole = json.loads(metadata["tl_entropy"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise FileError(f"path: {source} cannot be read as a result ({error}); it is damaged or of another kind") from error
    kind = Result.kinds.get(whole["kind"])
    newest = SCHEMA if kind is None else kind.schema
    if whole["schema"] > newest:
        raise FileError(
            f"path: {source} has schema {whole['schema']}, this tl_entropy reads up to {newest}; upgrade tl_entropy"
        )
    if kind is None:
        known = ", ".join(sorted(Result.kinds))
        raise FileError(f"path: {source} holds a {whole['kind']!r}; load reads {known}, and load_tuned_lens reads lenses")
    return kind._restore(tensors, unplain(whole["fields"]))


def _read_folder(folder: Path) -> Any:
    """What a folder holds, by the index that is in it."""
    for index, read in FOLDERS.items():
        if (folder / index).exists():
            return read(folder)
    raise FileError(
        f"path: {folder} is a folder without {' or '.join(FOLDERS)}: no comparison, or one whose saving was interrupted"
    )
