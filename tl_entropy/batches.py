"""Windows of tokens, and the padded batches that a model is run on.

A ``Window`` is what a model sees of one document at once; a ``Batch`` is some consecutive windows, padded on the right. Both
say cell by cell what may enter a statistic (``counted``) and where it comes from (document, position, the token after it),
so that nothing behind them needs to know about padding, BOS, special tokens or overlap. The counted cells of a batch in
row-major order are its *rows*: the one order in which activations, tokens and labels meet.

Nothing is reordered, so any batch size gives the same sequence of rows.

Refused: batch sizes below 1, activations of another shape than the batch, splitting a batch of one window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tl_entropy.errors import InputError, check_int

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What the model sees of one document at once, and which of it is measured here.

    Attributes:
        tokens: ``[pos]`` long, with the BOS in front where the document has one.
        counted: ``[pos]`` bool; the cells that enter statistics. Each cell of a document is counted in one window at most.
        position: ``[pos]`` long; the index of the token in its document, from 0, the BOS not counted. The BOS has -1.
        target: ``[pos]`` long; the token that follows in the document, also across the window's end. It is -1 behind the
            document's last token, and at a BOS that was repeated before a later window.
        document: The running number of the document in the whole input, from 0.
        name: The file's name where the document is a file.
        last: Whether this is the document's last window.
        text: The document's whole text, where it came as text.
        body: ``[length]`` long; the tokens of the whole document without the BOS, of which ``position`` counts.
    """

    tokens: Tensor
    counted: Tensor
    position: Tensor
    target: Tensor
    document: int
    name: str | None
    last: bool
    text: str | None
    body: Tensor

    def __len__(self) -> int:
        """The tokens the model sees, BOS included."""
        return self.tokens.shape[0]


@dataclass(slots=True, eq=False)
class Batch:
    """Consecutive windows, padded on the right to the longest.

    Attributes:
        tokens: ``[batch, pos]`` long; padding cells hold the pad id.
        attention_mask: ``[batch, pos]`` bool; False at padding.
        counted: ``[batch, pos]`` bool; the cells that enter statistics: never padding.
        position: ``[batch, pos]`` long, as in ``Window``; -1 at padding.
        target: ``[batch, pos]`` long, as in ``Window``; -1 at padding.
        document: ``[batch]`` long; the number of each window's document.
        last: ``[batch]`` bool; whether the window is its document's last.
        names: File names, one or None for each window.
        texts: The whole texts of the windows' documents, where they came as texts.
        bodies: The tokens of the windows' whole documents, without the BOS.
    """

    tokens: Tensor
    attention_mask: Tensor
    counted: Tensor
    position: Tensor
    target: Tensor
    document: Tensor
    last: Tensor
    names: tuple[str | None, ...]
    texts: tuple[str | None, ...]
    bodies: tuple[Tensor, ...]
    # Where the rows are. Found once: every search for True cells on an accelerator makes the host wait for it.
    _window: Tensor = field(init=False, repr=False)
    _column: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._window, self._column = self.counted.nonzero(as_tuple=True)

    def __len__(self) -> int:
        """The number of windows."""
        return self.tokens.shape[0]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each window's document, the BOS not counted."""
        return tuple(len(body) for body in self.bodies)

    @property
    def n_rows(self) -> int:
        """The number of counted cells."""
        return self._window.shape[0]

    @property
    def row_document(self) -> Tensor:
        """The document's number of each row, ``[n_rows]``."""
        return self.document[self._window]

    @property
    def row_position(self) -> Tensor:
        """The position in its document of each row's token, ``[n_rows]``."""
        return self.position[self._window, self._column]

    @property
    def row_token(self) -> Tensor:
        """The token of each row, ``[n_rows]``."""
        return self.tokens[self._window, self._column]

    @property
    def row_target(self) -> Tensor:
        """The token that follows each row's in the document, ``[n_rows]``; -1 where there is none."""
        return self.target[self._window, self._column]

    def rows(self, activation: Tensor) -> Tensor:
        """Pick the counted cells of ``activation``, ``[batch, pos, ...]`` to ``[n_rows, ...]``, on its own device.

        Raises:
            InputError: ``activation`` does not begin with this batch's ``[batch, pos]``.
        """
        if activation.shape[:2] != self.tokens.shape:
            raise InputError(
                f"activation must have a shape that begins with [batch, pos] = {list(self.tokens.shape)}; "
                f"got {list(activation.shape)}"
            )
        return activation.flatten(0, 1).index_select(0, self.cells.to(activation.device))  # a fifth of the time of two indices

    @property
    def cells(self) -> Tensor:
        """``[n_rows]`` number of each row's cell among all of ``[batch, pos]``."""
        return self._window * self.tokens.shape[1] + self._column

    def split(self) -> tuple[Batch, Batch]:
        """Cut into two halves of consecutive windows, each no wider than it needs, to try again with less memory.

        Raises:
            InputError: There is only one window.
        """
        if len(self) == 1:
            raise InputError(
                f"a batch of one window of {self.tokens.shape[1]} tokens cannot be split; a smaller window needs less memory"
            )
        middle = (len(self) + 1) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            attention_mask=self.attention_mask.to(device),
            counted=self.counted.to(device),
            position=self.position.to(device),
            target=self.target.to(device),
            document=self.document.to(device),
            last=self.last.to(device),
        )

    def _part(self, windows: slice) -> Batch:
        cells = (windows, slice(int(self.attention_mask[windows].sum(1).max())))
        return Batch(
            tokens=self.tokens[cells],
            attention_mask=self.attention_mask[cells],
            counted=self.counted[cells],
            position=self.position[cells],
            target=self.target[cells],
            document=self.document[windows],
            last=self.last[windows],
            names=self.names[windows],
            texts=self.texts[windows],
            bodies=self.bodies[windows],
        )


def batches(
    windows: Iterable[Window], *, batch_size: int | None, max_tokens: int, pad_id: int = 0, pads_to: float = math.inf
) -> Iterator[Batch]:
    """Gather consecutive windows into padded batches, in order, taking no more of them than the next batch needs.

    Batches in which nothing is counted and no document ends are left out: the model need not see them.

    Args:
        windows: A ``Corpus``, or any windows.
        batch_size: Windows in a batch; None takes as many as keep windows times longest within ``max_tokens``, and at least
            one.
        max_tokens: Cells in a batch at most, padding included, where ``batch_size`` is None.
        pad_id: What padding cells hold: any id the model knows, as nothing reads them.
        pads_to: How long windows may be to share a batch with others of another length.

    Returns:
        A lazy iterator of ``Batch``.

    Raises:
        InputError: ``batch_size`` or ``max_tokens`` is below 1.
        InputTypeError: One of them is not an int.

    >>> def window(*tokens):
    ...     ids = torch.tensor(tokens)
    ...     return Window(ids, ids > 0, torch.arange(len(ids)), ids, 0, None, True, None, ids)
    >>> [batch] = batches([window(5, 6, 7), window(8)], batch_size=None, max_tokens=6)
    >>> batch.tokens.tolist(), batch.row_token.tolist()
    ([[5, 6, 7], [8, 0, 0]], [5, 6, 7, 8])
    """
    if batch_size is not None:
        batch_size = check_int("batch_size", batch_size, 1)
    max_tokens = check_int("max_tokens", max_tokens, 1)

    longest = 0  # of the group

    def joins(group: list[Window], window: Window | None) -> bool:
        nonlocal longest
        if window is None:  # the group's last has just come
            longest = max(longest if len(group) > 1 else 0, len(group[-1]))
        elif len(window) != longest and max(longest, len(window)) > pads_to:
            return False
        longer = longest if window is None else max(longest, len(window))
        return (len(group) + 1) * longer <= max_tokens if batch_size is None else len(group) < batch_size

    groups = gathered(windows, joins)
    return (_collate(group, pad_id) for group in groups if any(window.last or window.counted.any() for window in group))


def gathered(items: Iterable[T], joins: Callable[[list[T], T | None], bool]) -> Iterator[list[T]]:
    """Cut a sequence into groups; one that can take no further item goes out before another is asked for.

    What came before an error in the source, or Ctrl-C, goes out, too, before the error.

    Args:
        items: Any.
        joins: Whether a group takes the next item. Asked of None behind every item: whether the group could take any.

    >>> list(gathered([1, 1, 2, 3, 3, 3], lambda group, item: len(group) < 2 and item in (None, group[0])))
    [[1, 1], [2], [3, 3], [3]]
    """
    source = UpToAnError(items)
    group: list[T] = []
    for item in source:
        if group and not joins(group, item):
            yield group
            group = []
        group.append(item)
        if not joins(group, None):
            yield group
            group = []
    if group:
        yield group
    if source.error is not None:
        raise source.error


class UpToAnError(Iterator[T]):
    """Items up to the first error of their source, Ctrl-C included, which is kept as ``error``."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self.error: BaseException | None = None

    def __next__(self) -> T:
        try:
            return next(self._items)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
        raise StopIteration


def _collate(windows: list[Window], pad_id: int) -> Batch:
    def padded(rows: list[Tensor], value: float) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value)

    return Batch(
        tokens=padded([window.tokens for window in windows], pad_id),
        attention_mask=padded([torch.ones_like(window.counted) for window in windows], False),
        counted=padded([window.counted for window in windows], False),
        position=padded([window.position for window in windows], -1),
        target=padded([window.target for window in windows], -1),
        document=torch.tensor([window.document for window in windows]),
        last=torch.tensor([window.last for window in windows]),
        names=tuple(window.name for window in windows),
        texts=tuple(window.text for window in windows),
        bodies=tuple(window.body for window in windows),
    )
