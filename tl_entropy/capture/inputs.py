"""Whatever users hand in, as one lazy sequence of pieces: a text, a file, or a row of tokens; each one document.

=================================================  ==========================================================================
a str                                              one text, even where it looks like a path
a pathlib.Path                                     a UTF-8 text file; or a folder: every file below it, sorted, but for hidden
                                                   ones (nor are links to folders followed)
a tensor or array of ints, [pos] or [batch, pos]   tokens, one document a row
(tokens, mask)                                     the same without the cells where the mask is 0: left, right or inside
a mapping with "input_ids"                         what a Hugging Face tokenizer returns; "attention_mask" is the mask; rows may
                                                   be lists, and differ in length
a mapping with the text column                     a row of a data set, or a slice of one: a text or several
an array of texts                                  of NumPy (strings or objects), a pandas Series, a column of Arrow or Polars
an iterable of any of these                        lists, generators, `datasets` Datasets, streaming or not; also of lists
=================================================  ==========================================================================

A mapping that holds both "input_ids" and the text column is taken by its "input_ids". Libraries of tables are known by what
their columns can do, so that none has to be installed.

Where rows that cannot be used are to be left out (``skip``), each of them comes as a piece that holds its refusal, so that all
others keep their numbers. What is wrong with all of ``inputs``, or raised by the iterable itself, is raised.

Refused: anything else, by its index; rows without a text, which an empty text is not; tokens that are negative or not integers;
several rows of tokens that look padded but come without a mask, since a pad id is often also a BOS or an EOS and only the mask
tells them apart; a mapping of splits; a table, of which nothing says which column is meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, printable
from tl_entropy.torch_state import each

ACCEPTED = "a str, a pathlib.Path, a tensor of token ids, (tokens, mask), a mapping with input_ids, or an iterable of these"

_TEXT_KINDS = "OUT"
"""Kinds of NumPy's dtypes that may hold texts: objects, and strings of one length or of any."""

_LEAVE_OUT = (
    "it is a row without a text: leave such rows out, as with series.dropna(), dataset.filter(lambda row: row['text'] is not "
    "None) or [text for text in texts if text is not None]; or give ''"
)


class Piece(NamedTuple):
    """One document as it was handed in: a text, a file to be read, the ids of a row's real tokens, [pos], or its refusal."""

    value: str | Path | Tensor | InputError | InputTypeError
    where: str
    name: str | None = None

    def digest(self, number: int) -> int:
        """A hash of a document as it was given, and of its number, below 2**64; of a file, of its name and size."""
        if isinstance(self.value, Tensor):
            value = self.value.numpy().tobytes()
        elif isinstance(self.value, Path):
            value = f"{self.name} {self.value.stat().st_size if self.value.exists() else None}".encode(errors="replace")
        else:
            value = str(self.value).encode(errors="replace")
        return int.from_bytes(hashlib.blake2b(b"%d " % number + value, digest_size=8).digest(), "little")


class _LooksPadded(InputError):
    """For which no single row is to blame."""


def pieces(
    inputs: object, *, text_column: str, special_ids: frozenset[int], where: str = "inputs", depth: int = 0, skip: bool = False
) -> Iterator[Piece]:
    """Yield the documents in ``inputs`` one by one, in order, taking no more of it than was asked for.

    Args:
        inputs: Any of the kinds in the module's table.
        text_column: The key under which a mapping holds its text.
        special_ids: Ids that betray padding where two or more of them begin or end a row that has no mask.
        where: What to call ``inputs`` in errors.
        depth: How many iterables ``inputs`` itself is inside of; a third one is refused.
        skip: Whether a row or item that is refused comes as a piece, too; else its refusal is raised.

    Raises:
        InputError: A path that is missing, a folder without files, tokens that are negative, look padded, or do not fit
            their mask, a mapping without the text column.
        InputTypeError: Something that is none of the known kinds; tokens or masks that are not integers.

    >>> found = pieces(["ab", torch.tensor([[7, 8], [9, 9]])], text_column="text", special_ids=frozenset())
    >>> [(piece.where, piece.value if isinstance(piece.value, str) else piece.value.tolist()) for piece in found]
    [('inputs[0]', 'ab'), ('inputs[1][0]', [7, 8]), ('inputs[1][1]', [9, 9])]
    """
    inputs = _plain(inputs)
    if depth < 2 and _holds_items(inputs):
        for index, item in enumerate(each(cast("Iterable[Any]", inputs))):
            place = f"{where}[{index}]"
            yield from pieces(item, text_column=text_column, special_ids=special_ids, where=place, depth=depth + 1, skip=skip)
        return
    try:
        for piece in _own_pieces(inputs, text_column, special_ids, where):
            if not skip and isinstance(piece.value, Exception):
                raise piece.value
            yield piece
    except (InputError, InputTypeError) as error:
        if not skip or not depth or isinstance(error, _LooksPadded):
            raise
        yield Piece(error, where)


def is_cache(value: object) -> bool:
    """Whether it is an ActivationCache of TransformerLens, or the dict of activations that stands for one."""
    return hasattr(value, "cache_dict") or (
        isinstance(value, dict) and any(isinstance(key, str) and "hook_" in key for key in value)
    )


def _holds_items(inputs: object) -> bool:
    """Whether it is an iterable of inputs, and none itself."""
    is_tokens = _is_numeric(inputs) or (isinstance(inputs, tuple) and len(inputs) == 2 and _is_numeric(inputs[0]))
    is_known = isinstance(inputs, (str, bytes, bytearray, Path, Mapping)) or hasattr(inputs, "columns") or is_cache(inputs)
    return isinstance(inputs, Iterable) and not is_tokens and not is_known


def _own_pieces(inputs: Any, text_column: str, special_ids: frozenset[int], where: str) -> Iterator[Piece]:
    """The documents in what is no iterable of inputs."""
    if isinstance(inputs, str):
        yield Piece(str(inputs), where)
    elif is_cache(inputs):
        raise InputTypeError(f"{where} is an ActivationCache; a cache goes in alone, with its tokens: (cache, tokens)")
    elif isinstance(inputs, Path):
        yield from _files(inputs, where)
    elif _is_numeric(inputs):
        yield from _token_pieces(inputs, None, where, special_ids)
    elif isinstance(inputs, tuple) and len(inputs) == 2 and _is_numeric(inputs[0]):
        yield from _token_pieces(inputs[0], inputs[1], where, special_ids)
    elif isinstance(inputs, Mapping):
        if "input_ids" in inputs:
            yield from _token_pieces(inputs["input_ids"], inputs.get("attention_mask"), where, special_ids)
        else:
            yield from _column_pieces(inputs, text_column, where)
    elif hasattr(inputs, "columns"):
        raise InputTypeError(
            f"{where} is a table ({_type(inputs)}), not texts; pass its column of texts, such as table['text']"
        )
    elif _holds_items(inputs):
        raise InputTypeError(
            f"{where} is nested too deeply: a {_type(inputs)} inside an iterable inside an iterable; flatten it"
        )
    else:
        raise InputTypeError(f"{where} must be {ACCEPTED}; got {_type(inputs)}{_hint(inputs)}")


def _row(make: Callable[[], str | Tensor], where: str) -> Piece:
    """The piece of one row, or that of its refusal."""
    try:
        return Piece(make(), where)
    except (InputError, InputTypeError) as error:
        return Piece(error, where)


def at_hand(inputs: object) -> bool:
    """Whether going through ``inputs`` ahead of time costs little and uses nothing up: no generator, no data set."""
    inputs = _plain(inputs)
    if isinstance(inputs, (str, bytes, Path, Mapping)) or _is_numeric(inputs) or not isinstance(inputs, Iterable):
        return True
    several = isinstance(inputs, (list, tuple, np.ndarray)) or _is_column(inputs)
    return several and all(map(at_hand, map(_plain, inputs)))


def repeatable(inputs: object) -> bool:
    """Whether ``inputs`` can be gone through again: it neither is nor holds an iterator, nor an object that gives one away.

    >>> repeatable(["ab"]), repeatable([iter("ab")])
    (True, False)
    """
    if isinstance(inputs, (list, tuple)):
        return all(map(repeatable, inputs))
    if isinstance(inputs, Iterator):
        return False
    # What knows its length is a collection, and is not asked: a data loader would start its workers for each iterator.
    return isinstance(inputs, Sized) or not isinstance(inputs, Iterable) or iter(inputs) is not iter(inputs)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, to the byte: line ends stay as they are.

    Raises:
        InputError: The file is not UTF-8, or cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}; make it readable or leave it out") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a UTF-8 text file: {error}; convert it or leave it out") from error


def _type(value: object) -> str:
    return type(value).__name__


def _hint(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "; pass token ids as torch.tensor([...])"
    if isinstance(value, (bytes, bytearray)):
        return "; decode it, as with value.decode('utf-8')"
    return f"; {_LEAVE_OUT}" if _is_missing(value) else ""


def _is_missing(value: object) -> bool:
    """Whether it stands for nothing: None, NaN, or the NA and NaT of pandas, which cannot be compared with anything."""
    return (
        value is None or (isinstance(value, (float, np.floating)) and value != value) or _type(value) in ("NAType", "NaTType")
    )


def _is_numeric(value: object) -> bool:
    """Whether it is a tensor, or an array of NumPy that cannot hold texts."""
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind not in _TEXT_KINDS + "S")


def _is_column(value: object) -> bool:
    """Whether it is a column of a table of pandas, Arrow or Polars, or one by itself."""
    return isinstance(value, Iterable) and hasattr(value, "to_numpy") and not hasattr(value, "columns")


def _plain(value: Any) -> Any:
    """What a scalar of Arrow, or an array of NumPy without an axis, holds (a masked one: None); anything else as it is."""
    if value is np.ma.masked:
        return None
    if hasattr(value, "as_py"):
        return value.as_py()
    return value.item() if isinstance(value, np.ndarray) and not value.ndim and not _is_numeric(value) else value


def _files(path: Path, where: str) -> Iterator[Piece]:
    if path.is_file():
        yield Piece(path, where, printable(path.name))
    elif path.is_dir():
        empty = True
        for file in _below(path):
            empty = False
            yield Piece(file, printable(str(file)), printable(file.relative_to(path).as_posix()))
        if empty:
            raise InputError(f"{where} is a folder that holds no files (hidden ones are left out): {path}")
    elif path.exists():
        raise InputError(f"{where} must be a file or a folder; {path} is neither")
    else:
        raise InputError(f"{where} is a path at which there is nothing: {path}; a text goes in as a str")


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _below(path)


def _column_pieces(mapping: Mapping[Any, Any], text_column: str, where: str) -> Iterator[Piece]:
    splits = [name for name, value in mapping.items() if hasattr(value, "column_names")]
    if splits:
        raise InputTypeError(
            f"{where} is a mapping of splits, not a data set; pass one of them: {where}[{splits[0]!r}] of {splits}"
        )
    if text_column not in mapping:
        raise InputError(f"{where} has no column {text_column!r}, only {list(mapping)}; name the texts' with text_column=")
    value, where = _plain(mapping[text_column]), f"{where}[{text_column!r}]"
    several = not isinstance(value, (str, bytes)) and (isinstance(value, (Sequence, np.ndarray)) or _is_column(value))
    for index, item in enumerate(value if several else [value]):
        place = f"{where}[{index}]" if several else where
        yield _row(partial(_text, _plain(item), place), place)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputTypeError(f"{where} must be a str; got {_type(value)}{_hint(value)}")
    return str(value)


def _token_pieces(tokens: object, mask: object, where: str, special_ids: frozenset[int]) -> Iterator[Piece]:
    rows = _rows(tokens, where)
    masks = None if mask is None else _rows(mask, f"the mask of {where}")
    if masks is None:
        _check_unpadded(rows, where, special_ids)
    elif len(masks) != len(rows):
        raise InputError(f"the mask of {where} must have one row for each of the {len(rows)} rows of tokens; got {len(masks)}")
    for index in range(len(rows)):
        place = where if len(rows) == 1 else f"{where}[{index}]"
        yield _row(partial(_ids, rows[index], None if masks is None else masks[index], place), place)


def _ids(row: Any, mask: Any, where: str) -> Tensor:
    """The ids of a row's real tokens; ``mask`` is None where all are."""
    ids = _integers(row, where)
    if mask is not None:
        ids = ids[_real(mask, ids, where)]
    if (ids < 0).any():
        raise InputError(f"{where} must hold token ids of at least 0; got {int(ids.min())}; pass a mask to leave cells out")
    return ids


def _rows(value: object, what: str) -> Sequence[Any]:
    """The rows of ``[pos]`` or ``[batch, pos]``, still to be converted: a big array on disk stays there."""
    if _is_numeric(value):
        array = cast("np.ndarray", value)
        if isinstance(value, Tensor) and value.layout not in (torch.strided, torch.jagged):
            raise InputTypeError(f"{what} must be a dense tensor; got one of the layout {value.layout}: pass its .to_dense()")
        if isinstance(value, np.ma.MaskedArray):
            raise InputTypeError(f"{what} must be a plain array; got a masked one: pass (array.filled(0), ~array.mask)")
        if array.ndim not in (1, 2):
            raise InputError(f"{what} must have the shape [pos] or [batch, pos]; got {list(array.shape)}")
        return cast("Sequence[Any]", array if array.ndim == 2 else array[None])
    if isinstance(value, np.ndarray) or _is_column(value):
        value = list(map(_plain, cast("Iterable[Any]", value)))
    if isinstance(value, (list, tuple)):
        return value if value and isinstance(value[0], (list, tuple, Tensor, np.ndarray)) else [value]
    raise InputTypeError(f"{what} must be a tensor, an array or lists of integers; got {_type(value)}")


def _integers(row: Any, what: str, *, boolean: bool = False) -> Tensor:
    """One row as a long tensor ``[pos]`` on the CPU."""
    try:
        # A copy of an array: torch warns about sharing one that is read-only, as arrays on disk are.
        ids = torch.tensor(row) if isinstance(row, np.ndarray) else torch.as_tensor(row).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{what} must hold integers; got {_type(row)}: {error}") from error
    if ids.ndim != 1:
        raise InputError(f"{what} must be one row of integers, [pos]; got the shape {list(ids.shape)}")
    if len(ids) and (ids.is_floating_point() or ids.is_complex() or (ids.dtype == torch.bool and not boolean)):
        raise InputTypeError(f"{what} must hold integers; got {ids.dtype}")
    return ids.long()


def _real(mask: Any, ids: Tensor, where: str) -> Tensor:
    cells = _integers(mask, f"the mask of {where}", boolean=True)
    if cells.shape != ids.shape:
        raise InputError(f"the mask of {where} must have the shape of its tokens, {list(ids.shape)}; got {list(cells.shape)}")
    if ((cells != 0) & (cells != 1)).any():
        raise InputError(f"the mask of {where} must hold only 0 and 1; two tensors of tokens go into a list, not a tuple")
    return cells == 1


def _check_unpadded(rows: Sequence[Any], where: str, special_ids: frozenset[int]) -> None:
    """Refuse rows of one length of which one begins or ends with two special ids: that is how padding looks."""
    lengths, suspect = set(), None
    for index in range(len(rows)):
        ids = torch.empty(0)
        with suppress(InputError, InputTypeError):  # which is raised when the row's turn comes
            ids = _integers(rows[index], where)
        lengths.add(len(ids))
        edges = (ids[:2].tolist(), ids[-2:].tolist()) if len(ids) > 1 else ()
        if suspect is None and any(map(special_ids.issuperset, edges)):
            suspect = index
    if suspect is not None and len(rows) > 1 and len(lengths) == 1:
        raise _LooksPadded(
            f"{where}[{suspect}] begins or ends with several special ids, which may be padding; "
            "pass (tokens, mask), where the mask has the same shape and is 0 at padding"
        )
