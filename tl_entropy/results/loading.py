"""Results out of their files. Every kind makes itself known when its module is imported, so this file knows none of them.

Refused: a file or folder that tl_entropy did not write, one that is damaged, one of a later version.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tl_entropy.errors import FileError
from tl_entropy.results.base import Result
from tl_entropy.results.files import LAYOUT, SCHEMA, digest, opened, tensors_in, to_read, unplain
from tl_entropy.torch_state import steady

_DAMAGED = (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading a file that is not what it should be may raise."""

FOLDERS: dict[str, Callable[[Path], Any]] = {}
"""What reads a folder of results, by the name of the file in it that says which is which; kinds enter themselves here."""


@steady
def load(path: str | Path) -> Any:
    """The result that ``result.save(path)`` wrote: of a file, or the comparison of models in a folder.

    Raises:
        FileError: no such file, not a file of tl_entropy, damaged, or written by a later version.

    >>> import tl_entropy as tle
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> result = tle.lens_entropy(tle.demo_model(), "import os", progress=False)
    >>> path = Path(mkdtemp()) / "lens.safetensors"
    >>> place = result.save(path)
    >>> tle.load(path).entropy.equal(result.entropy)
    True
    """
    source = to_read("path", path)
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise FileError(f"path: there is no file {source}")
    try:
        with opened(source) as file:
            metadata = file.metadata() or {}
            if "tl_entropy_state" in metadata:
                raise FileError(f"path: {source} holds an accumulator, not a result; load_accumulator reads it")
            if "tl_entropy" not in metadata:
                raise FileError(f"path: {source} is a safetensors file, but not one that tl_entropy wrote")
            text = metadata["tl_entropy"]
            kind, layout, values = _parts(source, text)
            tensors = tensors_in(file)
        if unknown := set(metadata) - {"tl_entropy", "digest", "format"}:
            raise ValueError(f"it has the unknown entries {', '.join(sorted(unknown))}")
        if (layout > 1 or "digest" in metadata) and metadata.get("digest") != digest(text, tensors):
            raise ValueError("its digest is not that of its contents")
        restored = kind._restore(tensors, values)
    except FileError:
        raise
    except _DAMAGED as error:
        raise FileError(
            f"path: {source} cannot be read as a result ({type(error).__name__}: {error}); it is damaged or of another kind"
        ) from error
    return restored


def _parts(source: Path, text: str) -> tuple[type[Result], int, dict[str, Any]]:
    """The kind of result, the file's layout, and the result's plain values, from a file's header."""
    whole = json.loads(text)
    if not isinstance(whole, dict) or not {"schema", "kind", "fields"} <= set(whole) <= {"layout", "schema", "kind", "fields"}:
        raise ValueError("its header is not that of a result")
    kind = Result.kinds.get(str(whole["kind"]))
    for name, newest in (("layout", LAYOUT), ("schema", SCHEMA if kind is None else kind.schema)):
        number = whole.get(name, 1)
        if type(number) is not int:
            raise ValueError(f"its {name} is {number!r}, no whole number")
        if number > newest:
            raise FileError(f"path: {source} has {name} {number}, this tl_entropy reads up to {newest}; upgrade tl_entropy")
    if kind is None:
        known = ", ".join(sorted(Result.kinds))
        raise FileError(f"path: {source} holds a {whole['kind']!r}; load reads {known}, and load_tuned_lens reads lenses")
    values = unplain(whole["fields"])
    if not isinstance(values, dict):
        raise ValueError("its fields are not named")
    return kind, whole.get("layout", 1), values


def _read_folder(folder: Path) -> Any:
    """What a folder holds, by the index that is in it."""
    for index, read in FOLDERS.items():
        if (folder / index).exists():
            return read(folder)
    raise FileError(
        f"path: {folder} is a folder without {' or '.join(FOLDERS)}: no comparison, or one whose saving was interrupted"
    )
